import { MemorySize, Mnemonic, Register } from '../iced.ts';
import type { Loc } from '../../ir/op.ts';
import { X87_FIELD } from '../../ir/ops/float-x87-emitter.ts';
import type { Callout } from '../callout.ts';
import { CHECK } from '../fpu/check.ts';
import {
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

/** Opcode and offset of the instruction, for `imm`. */
function immediateOf(cx: LiftContext): number {
  return (fop(cx) << X87_IMM.fopShift) | cx.offset;
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

/** Operation that widens a memory operand to 80 bits. */
function widening(cx: LiftContext): string {
  switch (cx.insn.memorySize) {
    case MemorySize.Float32:
      return 'x87.widen.f32';
    case MemorySize.Float64:
      return 'x87.widen.f64';
    default:
      return `x87.widen.i${cx.memoryBits()}`;
  }
}

/** Forms that read memory. */
function loadForm(cx: LiftContext): void {
  const { b, insn } = cx;
  const address = settled(cx, operandAddress(cx, false));
  const fields = { b: address.loc, imm: immediateOf(cx) | segmentBits(cx) };
  const reg = (fop(cx) >> 3) & 7;
  if (insn.memorySize === MemorySize.Float80 || insn.memorySize === MemorySize.Bcd) {
    const value = b.temp();
    b.op('ld.64.a64', { dst: value, a: address.loc, imm: 0, c: address.info });
    b.op('ld.16.a64', { dst: value + 8, a: address.loc, imm: 8, c: address.info });
    if (insn.memorySize === MemorySize.Bcd) b.callout(x87Load, { ...fields, dst: value });
    else b.op('x87.push', { ...fields, dst: value, a: value });
    return;
  }
  const value = cx.load(cx.memoryBits(), address);
  const wide = b.op(widening(cx), { dst: b.temp(), a: value });
  if (insn.mnemonic === Mnemonic.Fld || insn.mnemonic === Mnemonic.Fild) {
    b.op('x87.push', { ...fields, dst: value, a: wide });
    return;
  }
  // FCOM and FCOMP have ModRM.reg 2 and 3.
  const c = reg | ((reg === 3 ? 1 : 0) << X87_FIELD.pops);
  b.op('x87.mem', { ...fields, dst: value, a: wide, c });
}

/** Forms that write memory. */
function storeForm(cx: LiftContext): void {
  const { b, insn } = cx;
  const address = settled(cx, operandAddress(cx, true));
  const fields = { b: address.loc, imm: immediateOf(cx) | segmentBits(cx), c: address.info };
  if (insn.memorySize === MemorySize.Float80 || insn.memorySize === MemorySize.Bcd) {
    b.callout(x87Store, fields);
    return;
  }
  const integer = insn.mnemonic !== Mnemonic.Fst && insn.mnemonic !== Mnemonic.Fstp;
  b.op(`x87.store.${integer ? 'i' : 'f'}${cx.memoryBits()}`, fields);
}

/** Forms between registers, those with a fast path first. */
function registerForm(cx: LiftContext): void {
  const { b } = cx;
  const opcode = fop(cx);
  const imm = immediateOf(cx);
  const e = opcode >> 8;
  const reg = (opcode >> 3) & 7;
  const i = opcode & 7;
  const c = (kind: number, target: number, pops: number): number =>
    kind | (i << X87_FIELD.source) | (target << X87_FIELD.target) | (pops << X87_FIELD.pops);
  const compare = (pops: number): void => void b.op('x87.reg', { imm, c: c(2, 0, pops) });
  switch ((e << 3) | reg) {
    case 0o02:
    case 0o42:
    case 0o54:
      compare(0);
      return;
    case 0o03:
    case 0o43:
    case 0o62:
    case 0o55:
      compare(1);
      return;
    case 0o63:
    case 0o25:
      compare(2);
      return;
    case 0o35:
    case 0o36:
      b.op('x87.comi', { imm, c: c(0, 0, 0) });
      return;
    case 0o75:
    case 0o76:
      b.op('x87.comi', { imm, c: c(0, 0, 1) });
      return;
    case 0o10:
      b.op('x87.dup', { imm, c: c(0, 0, 0) });
      return;
    case 0o11:
    case 0o51:
    case 0o71:
      b.op('x87.xch', { imm, c: c(0, 0, 0) });
      return;
    case 0o52:
      b.op('x87.move', { imm, c: c(0, i, 0) });
      return;
    case 0o53:
    case 0o72:
    case 0o73:
      b.op('x87.move', { imm, c: c(0, i, 1) });
      return;
    case 0o14:
      if (i < 2) {
        b.op('x87.sign', { imm, c: i === 0 ? 0x8000 : 0 });
        return;
      }
      break;
    case 0o15:
      if (i === 0 || i === 6) {
        b.op('x87.const', { imm, c: i === 0 ? 1 : 0 });
        return;
      }
      break;
    default:
      if (e === 0 || e === 4 || e === 6) {
        b.op('x87.reg', { imm, c: c(reg, e === 0 ? 0 : i, e === 6 ? 1 : 0) });
        return;
      }
  }
  b.callout(x87Register, { imm });
}

function x87(mnemonics: readonly Mnemonic[], stores: boolean): void {
  lift(mnemonics, (cx) => {
    fpuCheck(cx, CHECK.x87);
    for (let operand = 0; operand < cx.insn.opCount; operand++) {
      if (!cx.isMemory(operand)) continue;
      if (stores) storeForm(cx);
      else loadForm(cx);
      return;
    }
    registerForm(cx);
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
  cx.b.op('x87.ldcw', { a: cx.load(16, cx.address(16)) });
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
