import { Mnemonic, Register } from '../iced.ts';
import type { Callout } from '../callout.ts';
import {
  cacheFlush,
  clts,
  hlt,
  invlpg,
  lmsw,
  plainControlSlot,
  readControl,
  readSegmentBase,
  setAc,
  writeControl,
  writeSegmentBase,
} from '../control.ts';
import { cpuidCallout } from '../cpuid.ts';
import { readDebug, writeDebug } from '../debug.ts';
import { CR0, GS, MSR, SEG_FIELD } from '../layout.ts';
import { rdmsr, rdpmc, rdtsc, rdtscp, wrmsr } from '../msr.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { claimSpecialMove } from './integer.ts';
import { lift } from './table.ts';

/** An instruction that is a callout without operands. */
const plain =
  (callout: Callout) =>
  (cx: LiftContext): void =>
    cx.b.callout(callout);

/** The same, for one after which mode, interrupts or mappings may be others. */
const ending =
  (callout: Callout) =>
  (cx: LiftContext): void => {
    cx.b.callout(callout);
    cx.endBlock();
  };

lift(Mnemonic.Cpuid, plain(cpuidCallout));
lift(Mnemonic.Rdmsr, plain(rdmsr));
lift(Mnemonic.Wrmsr, ending(wrmsr));
lift(Mnemonic.Rdtsc, plain(rdtsc));
lift(Mnemonic.Rdtscp, plain(rdtscp));
lift(Mnemonic.Rdpmc, plain(rdpmc));
lift(Mnemonic.Clts, plain(clts));
lift([Mnemonic.Invd, Mnemonic.Wbinvd], plain(cacheFlush));
lift(Mnemonic.Hlt, ending(hlt));

lift(Mnemonic.Invlpg, (cx) => {
  cx.b.callout(invlpg, { a: cx.linear(cx.address(8)) });
  cx.endBlock();
});

lift(Mnemonic.Smsw, (cx) => cx.write(0, CR0));
lift(Mnemonic.Lmsw, (cx) => {
  // Before the operand is read.
  if (!cx.requireCpl0()) return;
  cx.b.callout(lmsw, { a: cx.read(0, 16) });
  cx.endBlock();
});

lift(Mnemonic.Clac, (cx) => (cx.cpl === 0 ? cx.b.op('clac', {}) : cx.b.callout(setAc, { imm: 0 })));
lift(Mnemonic.Stac, (cx) => (cx.cpl === 0 ? cx.b.op('stac', {}) : cx.b.callout(setAc, { imm: 1 })));

// Emulated in the block: nothing to check but CPL, which is part of the mode.
lift(Mnemonic.Swapgs, (cx) => {
  if (!cx.requireCpl0()) return;
  const { b } = cx;
  const base = GS + SEG_FIELD.base;
  const old = b.op('mov.64', { dst: b.temp(), a: base });
  b.op('mov.64', { dst: base, a: MSR.kernelGsBase });
  b.op('mov.64', { dst: MSR.kernelGsBase, a: old });
});

/** Segment register number (encoding order) of the FS or GS instruction of a pair. */
const fsOrGs = (isFs: boolean): number => (isFs ? 4 : 5);

lift([Mnemonic.Rdfsbase, Mnemonic.Rdgsbase], (cx) => {
  const value = cx.b.temp();
  cx.b.callout(readSegmentBase, { dst: value, imm: fsOrGs(cx.insn.mnemonic === Mnemonic.Rdfsbase) });
  cx.write(0, value);
});
lift([Mnemonic.Wrfsbase, Mnemonic.Wrgsbase], (cx) => {
  const register = cx.register(0);
  const value = cx.bits(0) === 64 ? register : cx.b.op('zext.32.64', { dst: cx.b.temp(), a: register });
  cx.b.callout(writeSegmentBase, {
    a: value,
    imm: fsOrGs(cx.insn.mnemonic === Mnemonic.Wrfsbase),
  });
});

/** Number of a control register, or of a debug register; -1 for any other register. */
function numberIn(first: Register, register: Register): number {
  const number: number = register - first;
  return number >= 0 && number < 16 ? number : -1;
}

// MOV to and from control and debug registers.
claimSpecialMove((cx) => {
  const { insn, b } = cx;
  if (!cx.isRegister(0) || !cx.isRegister(1)) return false;
  const bits = cx.code64 ? 64 : 32;
  for (const [first, read, write] of [
    [Register.CR0, readControl, writeControl],
    [Register.DR0, readDebug, writeDebug],
  ] as const) {
    const target = numberIn(first, insn.opRegister(0));
    if (target >= 0) {
      b.callout(write, { a: cx.register(1), imm: target });
      cx.endBlock();
      return true;
    }
    const source = numberIn(first, insn.opRegister(1));
    if (source >= 0) {
      const value = b.temp();
      if (read === readControl) {
        b.calloutUnless('control.read', read, { dst: value, a: plainControlSlot(source), imm: source });
      } else {
        b.callout(read, { dst: value, imm: source });
      }
      b.op(`mov.${bits}`, { dst: cx.register(0), a: value });
      return true;
    }
  }
  return false;
});

// Hints: their memory operand is not accessed.
lift(
  [
    Mnemonic.Prefetch,
    Mnemonic.Prefetchw,
    Mnemonic.Prefetchnta,
    Mnemonic.Prefetcht0,
    Mnemonic.Prefetcht1,
    Mnemonic.Prefetcht2,
  ],
  () => undefined,
);
// The host keeps caches coherent; what is left of CLFLUSH is that it faults like a load of a byte.
lift(Mnemonic.Clflush, (cx) => {
  cx.load(8, cx.address(8));
});

// Not offered by CPUID.
lift(
  [
    Mnemonic.Xgetbv,
    Mnemonic.Xsetbv,
    Mnemonic.Monitor,
    Mnemonic.Mwait,
    Mnemonic.Rsm,
    Mnemonic.Invpcid,
    Mnemonic.Rdpid,
    Mnemonic.Vmcall,
    Mnemonic.Vmlaunch,
    Mnemonic.Vmresume,
    Mnemonic.Vmxoff,
    Mnemonic.Vmxon,
    Mnemonic.Vmptrld,
    Mnemonic.Vmptrst,
    Mnemonic.Vmclear,
    Mnemonic.Vmread,
    Mnemonic.Vmwrite,
    Mnemonic.Invept,
    Mnemonic.Invvpid,
    Mnemonic.Vmfunc,
    Mnemonic.Vmmcall,
    Mnemonic.Getsec,
  ],
  () => {
    throw new UndefinedInstruction();
  },
);
