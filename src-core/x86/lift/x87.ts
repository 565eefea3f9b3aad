import { MemorySize, Mnemonic, Register } from 'iced-x86';
import type { Loc } from '../../ir/op.ts';
import type { Callout } from '../callout.ts';
import { CHECK } from '../fpu/check.ts';
import {
  fldcw,
  fldenv,
  fnclex,
  fninit,
  fnsave,
  fnstenv,
  frstor,
  LAYOUT,
  X87_IMM,
  x87Load,
  x87Register,
  x87Store,
} from '../fpu/x87.ts';
import { FPU, RAX, SEG, SEG_SIZE } from '../layout.ts';
import { MODE } from '../mode.ts';
import type { Address, LiftContext } from './context.ts';
import { segmentRegister } from './registers.ts';
import { lift } from './table.ts';

/** Checks that the FPU may be used by this class of instruction (fpu/check.ts). */
export function fpuCheck(cx: LiftContext, c: number): void {
  cx.b.op('fpucheck', { c });
}

/** The opcode as FOP has it: the low three bits of the first byte (D8 to DF), then ModRM. */
function fop({ bytes, offset }: LiftContext): number {
  let at = offset;
  while ((bytes[at]! & 0xf8) !== 0xd8) at++;
  return ((bytes[at]! & 7) << 8) | bytes[at + 1]!;
}

/** Segment number and stack flag for a callout's `imm`. */
function segmentBits(cx: LiftContext): number {
  const segment = cx.memorySegment();
  const number = (segmentRegister(segment) - SEG) / SEG_SIZE;
  return (number << X87_IMM.segmentShift) | (segment === Register.SS ? X87_IMM.stack : 0);
}

/** Operands of 10 bytes are aligned to 8 where #AC is live (Intel SDM volume 3, table 6-7). */
function checkWideAlignment(cx: LiftContext, { loc, disp, width }: Address): void {
  if ((cx.modeKey & MODE.alignmentCheck) !== 0) cx.b.op(`align.a${width}`, { a: loc, imm: disp, c: 7 });
}

/** The memory operand's address as one location, checked for an access of its size. */
function operandAddress(cx: LiftContext, write: boolean): Address {
  const { memorySize } = cx.insn;
  if (memorySize === MemorySize.Float80 || memorySize === MemorySize.Bcd) {
    const address = cx.address(80, write);
    checkWideAlignment(cx, address);
    return address;
  }
  return cx.address(cx.memoryBits(), write);
}

/** The same address with nothing left to add. */
function settled(cx: LiftContext, address: Address): Address {
  return { ...address, loc: cx.linear(address), disp: 0, width: 64 };
}

function memoryForm(cx: LiftContext, stores: boolean): void {
  const { b, insn } = cx;
  const address = settled(cx, operandAddress(cx, stores));
  const fields = { b: address.loc, c: fop(cx), imm: cx.offset | segmentBits(cx) };
  if (stores) {
    b.callout(x87Store, fields);
    return;
  }
  let value: Loc;
  if (insn.memorySize === MemorySize.Float80 || insn.memorySize === MemorySize.Bcd) {
    value = b.temp();
    b.op('ld.64.a64', { dst: value, a: address.loc, imm: 0, c: address.info });
    b.op('ld.16.a64', { dst: value + 8, a: address.loc, imm: 8, c: address.info });
  } else {
    value = cx.load(cx.memoryBits(), address);
  }
  b.callout(x87Load, { ...fields, a: value });
}

function x87(mnemonics: readonly Mnemonic[], stores: boolean): void {
  lift(mnemonics, (cx) => {
    fpuCheck(cx, CHECK.x87);
    for (let operand = 0; operand < cx.insn.opCount; operand++) {
      if (cx.isMemory(operand)) {
        memoryForm(cx, stores);
        return;
      }
    }
    cx.b.callout(x87Register, { c: fop(cx), imm: cx.offset });
  });
}

x87(
  [
    Mnemonic.Fadd,
    Mnemonic.Faddp,
    Mnemonic.Fiadd,
    Mnemonic.Fsub,
    Mnemonic.Fsubp,
    Mnemonic.Fisub,
    Mnemonic.Fsubr,
    Mnemonic.Fsubrp,
    Mnemonic.Fisubr,
    Mnemonic.Fmul,
    Mnemonic.Fmulp,
    Mnemonic.Fimul,
    Mnemonic.Fdiv,
    Mnemonic.Fdivp,
    Mnemonic.Fidiv,
    Mnemonic.Fdivr,
    Mnemonic.Fdivrp,
    Mnemonic.Fidivr,
    Mnemonic.Fcom,
    Mnemonic.Fcomp,
    Mnemonic.Fcompp,
    Mnemonic.Ficom,
    Mnemonic.Ficomp,
    Mnemonic.Fucom,
    Mnemonic.Fucomp,
    Mnemonic.Fucompp,
    Mnemonic.Fcomi,
    Mnemonic.Fcomip,
    Mnemonic.Fucomi,
    Mnemonic.Fucomip,
    Mnemonic.Fld,
    Mnemonic.Fild,
    Mnemonic.Fbld,
    Mnemonic.Fxch,
    Mnemonic.Ffree,
    Mnemonic.Ffreep,
    Mnemonic.Fcmovb,
    Mnemonic.Fcmove,
    Mnemonic.Fcmovbe,
    Mnemonic.Fcmovu,
    Mnemonic.Fcmovnb,
    Mnemonic.Fcmovne,
    Mnemonic.Fcmovnbe,
    Mnemonic.Fcmovnu,
    Mnemonic.Fnop,
    Mnemonic.Fchs,
    Mnemonic.Fabs,
    Mnemonic.Ftst,
    Mnemonic.Fxam,
    Mnemonic.Fld1,
    Mnemonic.Fldl2t,
    Mnemonic.Fldl2e,
    Mnemonic.Fldpi,
    Mnemonic.Fldlg2,
    Mnemonic.Fldln2,
    Mnemonic.Fldz,
    Mnemonic.F2xm1,
    Mnemonic.Fyl2x,
    Mnemonic.Fptan,
    Mnemonic.Fpatan,
    Mnemonic.Fxtract,
    Mnemonic.Fprem1,
    Mnemonic.Fdecstp,
    Mnemonic.Fincstp,
    Mnemonic.Fprem,
    Mnemonic.Fyl2xp1,
    Mnemonic.Fsqrt,
    Mnemonic.Fsincos,
    Mnemonic.Frndint,
    Mnemonic.Fscale,
    Mnemonic.Fsin,
    Mnemonic.Fcos,
  ],
  false,
);
x87(
  [
    Mnemonic.Fst,
    Mnemonic.Fstp,
    Mnemonic.Fstpnce,
    Mnemonic.Fist,
    Mnemonic.Fistp,
    Mnemonic.Fisttp,
    Mnemonic.Fbstp,
  ],
  true,
);

lift(Mnemonic.Wait, (cx) => fpuCheck(cx, CHECK.wait));

lift(Mnemonic.Fninit, (cx) => {
  fpuCheck(cx, CHECK.x87NoWait);
  cx.b.callout(fninit);
});
lift(Mnemonic.Fnclex, (cx) => {
  fpuCheck(cx, CHECK.x87NoWait);
  cx.b.callout(fnclex);
});
/** The 8087's and 80287's interrupt and mode controls do nothing. */
lift([Mnemonic.Fneni, Mnemonic.Fndisi, Mnemonic.Fnsetpm], (cx) => fpuCheck(cx, CHECK.x87NoWait));

lift(Mnemonic.Fldcw, (cx) => {
  fpuCheck(cx, CHECK.x87);
  cx.b.callout(fldcw, { a: cx.load(16, cx.address(16)) });
});
lift(Mnemonic.Fnstcw, (cx) => {
  fpuCheck(cx, CHECK.x87NoWait);
  cx.store(16, cx.address(16, true), FPU.fcw);
});
lift(Mnemonic.Fnstsw, (cx) => {
  const { b } = cx;
  fpuCheck(cx, CHECK.x87NoWait);
  if (cx.isRegister(0)) b.op('fsw', { dst: RAX });
  else cx.store(16, cx.address(16, true), b.op('fsw', { dst: b.temp() }));
});

/**
 * The linear address of an operand of many bytes: first and last are checked against the segment's limit.
 * @param word Alignment in bits where #AC is live.
 * @param touches The first word is accessed before the last byte is checked, as processors do but for FXSAVE.
 */
export function blockAddress(
  cx: LiftContext,
  size: number,
  write: boolean,
  word: 16 | 32,
  touches: boolean,
): Loc {
  const { b } = cx;
  const offset = cx.effectiveAddress();
  const address = cx.segmented(cx.memorySegment(), offset, word, write);
  const last = b.op(`lea1.${cx.addressBits()}`, { dst: b.temp(), a: offset, imm: size - 1 });
  if (!cx.code64) {
    if (touches && write) cx.loadForWrite(word, address);
    else if (touches) cx.load(word, address);
    cx.segmented(cx.memorySegment(), last, 8, write);
  }
  return cx.linear(address);
}

/** Field c of the state-moving callouts, but for the operand size. */
export function layoutBits(cx: LiftContext): number {
  return (
    (cx.protectedMode ? LAYOUT.protectedMode : 0) |
    (cx.code64 ? LAYOUT.code64 : 0) |
    (cx.memorySegment() === Register.SS ? LAYOUT.stack : 0)
  );
}

function moveState(mnemonic: Mnemonic, callout: Callout, stores: boolean, check: number): void {
  lift(mnemonic, (cx) => {
    const { memorySize } = cx.insn;
    const wide = memorySize === MemorySize.FpuEnv28 || memorySize === MemorySize.FpuState108;
    const environment = memorySize === MemorySize.FpuEnv14 || memorySize === MemorySize.FpuEnv28;
    const size = (wide ? 28 : 14) + (environment ? 0 : 80);
    fpuCheck(cx, check);
    const loc = blockAddress(cx, size, stores, wide ? 32 : 16, true);
    cx.b.callout(callout, { b: loc, c: layoutBits(cx) | (wide ? LAYOUT.operand32 : 0) });
  });
}
moveState(Mnemonic.Fnstenv, fnstenv, true, CHECK.x87NoWait);
moveState(Mnemonic.Fldenv, fldenv, false, CHECK.x87);
moveState(Mnemonic.Fnsave, fnsave, true, CHECK.x87NoWait);
moveState(Mnemonic.Frstor, frstor, false, CHECK.x87);
