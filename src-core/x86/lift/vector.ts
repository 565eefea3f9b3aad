/** What the lifters of MMX and SSE instructions share. */
import { Register } from '../iced.ts';
import type { Loc } from '../../ir/op.ts';
import { ACCESS_INFO } from '../../ir/ops/memory.ts';
import { CHECK } from '../fpu/check.ts';
import { ST } from '../layout.ts';
import { MODE } from '../mode.ts';
import type { Address, LiftContext } from './context.ts';
import { xmmRegister } from './registers.ts';
import { fpuCheck } from './x87.ts';

export function isMmx(cx: LiftContext, operand: number): boolean {
  const register = cx.insn.opRegister(operand);
  return cx.isRegister(operand) && register >= Register.MM0 && register <= Register.MM7;
}

export function isXmm(cx: LiftContext, operand: number): boolean {
  const register = cx.insn.opRegister(operand);
  return cx.isRegister(operand) && register >= Register.XMM0 && register <= Register.XMM15;
}

/** Location of an MMX register operand. MM0..MM7 are the x87's physical registers. */
export function mmx(cx: LiftContext, operand: number): Loc {
  return ST + (cx.insn.opRegister(operand) - Register.MM0) * 16;
}

export function xmm(cx: LiftContext, operand: number): Loc {
  return xmmRegister(cx.insn.opRegister(operand));
}

export function checkSse(cx: LiftContext): void {
  fpuCheck(cx, CHECK.sse);
}

/** Checks that MMX may be used; `enterMmx` follows once nothing can fault any more. */
export function checkMmx(cx: LiftContext): void {
  fpuCheck(cx, CHECK.mmx);
}

export function enterMmx(cx: LiftContext): void {
  cx.b.op('mmxenter', {});
}

/** #AC(0) where it is live and the address is no multiple of `bytes`. */
export function checkAlignment(cx: LiftContext, { loc, disp, width }: Address, bytes: number): void {
  if ((cx.modeKey & MODE.alignmentCheck) === 0) return;
  cx.b.op(`align.a${width}`, { a: loc, imm: disp, c: bytes - 1 });
}

/** The address of an operand of 16 bytes: misaligned it raises #GP(0), or, where it may be, #AC. */
export function address128(cx: LiftContext, write: boolean, aligned: boolean): Address {
  const address = cx.address(128, write, aligned ? ACCESS_INFO.aligned : 0);
  if (!aligned) checkAlignment(cx, address, 16);
  return address;
}

/** A source of 16 bytes: the register, or memory, which has to be aligned unless said otherwise. */
export function source128(cx: LiftContext, operand: number, aligned = true): Loc {
  if (cx.isRegister(operand)) return xmm(cx, operand);
  return cx.load128(address128(cx, false, aligned));
}

/** A source of 32 or 64 bits: the register's low part, or memory. */
export function sourceLow(cx: LiftContext, operand: number, bits: 32 | 64): Loc {
  if (cx.isMemory(operand)) return cx.load(bits, cx.address(bits));
  return isMmx(cx, operand) ? mmx(cx, operand) : xmm(cx, operand);
}

/** A 128-bit constant in a temporary. */
export function constant128(cx: LiftContext, low: bigint, high: bigint): Loc {
  const t = cx.b.temp();
  cx.b.const64(t, low);
  cx.b.const64(t + 8, high);
  return t;
}

/** Sixteen byte-sized lane numbers (or 0xff for zero) as a constant for `swizzle`. */
export function laneConstant(cx: LiftContext, lanes: readonly number[]): Loc {
  const half = (from: number): bigint => {
    let value = 0n;
    for (let i = 7; i >= 0; i--) value = (value << 8n) | BigInt(lanes[from + i] ?? 0xff);
    return value;
  };
  return constant128(cx, half(0), half(8));
}
