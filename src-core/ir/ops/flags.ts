import { I32, I64, i32, i64 } from '../../wasm/opcodes.ts';
import type { CodeWriter } from '../../wasm/writer.ts';
import type { Bits, FlagArithmetic, FlagSource, OpGen } from '../op.ts';
import { pushArithmeticCondition } from './flags-arithmetic.ts';

/**
 * The arithmetic flags' two words (x86/layout.ts, FLAGS_RESULT and FLAGS_AUX) are made and read here only. A
 * carry-out vector holds in each bit the carry (or borrow) out of that bit of an addition (or subtraction).
 */

/** Pushes operand local `r` (i32 or i64 by size) sign-extended to i64. */
export function pushSigned(g: OpGen, bits: Bits, r: number): void {
  g.w.get(r);
  if (bits === 64) return;
  g.w.op(i64.extend_i32_u);
  g.w.op(bits === 8 ? i64.extend8_s : bits === 16 ? i64.extend16_s : i64.extend32_s);
}

/** The flags of a result whose carry-out vector `vector` pushes (i32, or i64 for 64 bits). */
export function setFlagsFromCarries(
  g: OpGen,
  bits: Bits,
  result: number,
  vector: () => void,
  arithmetic?: FlagArithmetic,
): void {
  g.setFlags({
    result: () => pushSigned(g, bits, result),
    aux: () => pushCarriesAux(g, bits, vector),
    ...(arithmetic && { arithmetic }),
  });
}

/** Pushes the aux word of a carry-out vector. */
function pushCarriesAux(g: OpGen, bits: Bits, vector: () => void): void {
  const { w } = g;
  if (bits === 32) {
    vector();
    w.i32Const(0xc0000008 | 0).op(i32.and);
  } else if (bits === 64) {
    const v = g.scratch(I64, 9);
    vector();
    w.tee(v)
      .i64Const(32n)
      .op(i64.shr_u)
      .op(i32.wrap_i64)
      .i32Const(0xc0000000 | 0)
      .op(i32.and);
    w.get(v).op(i32.wrap_i64).i32Const(8).op(i32.and).op(i32.or);
  } else {
    const v = g.scratch(I32, 9);
    vector();
    w.tee(v)
      .i32Const(32 - bits)
      .op(i32.shl)
      .i32Const(0xc0000000 | 0)
      .op(i32.and);
    w.get(v).i32Const(8).op(i32.and).op(i32.or);
  }
}

/** INC and DEC: as setFlagsFromCarries, but CF is what `carry` pushes (i32, 0 or 1). */
export function setFlagsKeepingCarry(
  g: OpGen,
  bits: Bits,
  result: number,
  carry: () => void,
  vector: () => void,
): void {
  const { w } = g;
  g.setFlags({
    result: () => pushSigned(g, bits, result),
    aux: () => {
      // Where the carry differs from the vector's, bit 30 (CF ^ OF) flips with it so that OF stays.
      const aux = g.scratch(I32, 8);
      const change = g.scratch(I32, 7);
      pushCarriesAux(g, bits, vector);
      w.tee(aux).i32Const(31).op(i32.shr_u);
      carry();
      w.op(i32.xor).set(change);
      w.get(aux).get(change).i32Const(31).op(i32.shl).op(i32.xor);
      w.get(change).i32Const(30).op(i32.shl).op(i32.xor);
    },
  });
}

/** The flags of a logical result: CF, OF and AF clear. */
export function setFlagsLogic(g: OpGen, bits: Bits, result: number): void {
  g.setFlags({
    result: () => pushSigned(g, bits, result),
    aux: () => g.w.i32Const(0),
    arithmetic: { kind: 'logic', bits, x: result, y: result, r: result },
  });
}

/** Flags of a shift or multiply: result's SZP, AF clear, CF and OF as i32 0/1 from locals. */
export function setFlagsResultCarryOverflow(
  g: OpGen,
  bits: Bits,
  result: number,
  carry: number,
  overflow: number,
): void {
  g.setFlags(flagsResultCarryOverflow(g, bits, result, carry, overflow));
}

/** The same, for a source to be chosen from. */
export function flagsResultCarryOverflow(
  g: OpGen,
  bits: Bits,
  result: number,
  carry: number,
  overflow: number,
): FlagSource {
  return {
    result: () => pushSigned(g, bits, result),
    aux: () => pushCarryOverflowAux(g, carry, overflow),
  };
}

/** Pushes an aux word with only CF and OF, from two i32 locals holding 0 or 1. */
export function pushCarryOverflowAux(g: OpGen, carry: number, overflow: number): void {
  const { w } = g;
  w.get(carry).i32Const(31).op(i32.shl);
  w.get(carry).get(overflow).op(i32.xor).i32Const(30).op(i32.shl).op(i32.or);
}

/** Replaces CF and OF (i32 locals, 0 or 1), keeping SF, ZF, AF, PF. */
export function replaceCarryOverflow(g: OpGen, carry: number, overflow: number): void {
  g.setFlags(withCarryOverflow(g, g.captureFlags(), carry, overflow));
}

/** Flags `before` with another CF and OF (i32 locals, 0 or 1). */
export function withCarryOverflow(
  g: OpGen,
  { result, aux }: FlagSource,
  carry: number,
  overflow: number,
): FlagSource {
  return {
    result,
    aux: () => {
      aux();
      g.w.i32Const(0x3fffffff).op(i32.and);
      pushCarryOverflowAux(g, carry, overflow);
      g.w.op(i32.or);
    },
  };
}

/** Replaces CF by bit 31 of what `value` pushes (i32; it may push the aux word before), keeping the rest, OF too. */
export function replaceCarry(g: OpGen, value: (aux: () => void) => void): void {
  const { w } = g;
  const before = g.captureFlags();
  g.setFlags({
    result: before.result,
    aux: () => {
      const old = g.scratch(I32, 5);
      const change = g.scratch(I32, 6);
      before.aux();
      w.set(old);
      value(() => w.get(old));
      // The bit that must flip in CF, and with it in CF ^ OF.
      w.get(old)
        .op(i32.xor)
        .i32Const(0x80000000 | 0)
        .op(i32.and)
        .set(change);
      w.get(old).get(change).op(i32.xor).get(change).i32Const(1).op(i32.shr_u).op(i32.xor);
    },
  });
}

/** What pushes CF as it is now (i32, 0 or 1), in a flag source that is made from it; instead of `captureFlags`. */
export function captureCarry(g: OpGen, n: number): () => void {
  if (g.flagArithmetic()) {
    const carry = g.scratch(I32, n);
    pushCarry(g);
    g.w.set(carry);
    return () => g.w.get(carry);
  }
  const { aux } = g.captureFlags();
  return () => {
    aux();
    g.w.i32Const(31).op(i32.shr_u);
  };
}

/** Pushes CF as i32 0 or 1. */
export function pushCarry(g: OpGen): void {
  const arithmetic = g.flagArithmetic();
  if (arithmetic && pushArithmeticCondition(g, arithmetic, 2)) return;
  g.flagsAux();
  g.w.i32Const(31).op(i32.shr_u);
}

function pushOverflow(g: OpGen): void {
  const aux = g.scratch(I32, 8);
  g.flagsAux();
  g.w.tee(aux).i32Const(31).op(i32.shr_u);
  g.w.get(aux).i32Const(30).op(i32.shr_u).i32Const(1).op(i32.and).op(i32.xor);
}

function pushZero(g: OpGen): void {
  g.flagsResult();
  g.w.op(i64.eqz);
}

function pushSign(g: OpGen): void {
  g.flagsResult();
  g.w.i64Const(63n).op(i64.shr_u).op(i32.wrap_i64);
  g.flagsAux();
  g.w.i32Const(1).op(i32.and).op(i32.xor);
}

function pushParity(g: OpGen): void {
  g.flagsResult();
  g.w.op(i32.wrap_i64);
  g.flagsAux();
  g.w.i32Const(8).op(i32.shr_u).op(i32.xor).i32Const(0xff).op(i32.and).op(i32.popcnt);
  g.w.i32Const(1).op(i32.and).op(i32.eqz);
}

/** Condition codes in encoding order (Intel SDM volume 1, appendix B). */
export const CONDITIONS = [
  'o',
  'no',
  'b',
  'ae',
  'e',
  'ne',
  'be',
  'a',
  's',
  'ns',
  'p',
  'np',
  'l',
  'ge',
  'le',
  'g',
] as const;

/** Pushes condition `code` (0..15) as i32 0 or 1. */
export function pushCondition(g: OpGen, code: number): void {
  const { w } = g;
  const arithmetic = g.flagArithmetic();
  if (arithmetic && pushArithmeticCondition(g, arithmetic, code)) return;
  switch (code >> 1) {
    case 0:
      pushOverflow(g);
      break;
    case 1:
      pushCarry(g);
      break;
    case 2:
      pushZero(g);
      break;
    case 3:
      pushCarry(g);
      pushZero(g);
      w.op(i32.or);
      break;
    case 4:
      pushSign(g);
      break;
    case 5:
      pushParity(g);
      break;
    case 6:
      pushSign(g);
      pushOverflow(g);
      w.op(i32.xor);
      break;
    default:
      pushZero(g);
      pushSign(g);
      pushOverflow(g);
      w.op(i32.xor).op(i32.or);
  }
  if ((code & 1) !== 0) w.op(i32.eqz);
}

/** Pushes the flags' images as RFLAGS bits (OSZAPC only), i32. */
export function pushArithmeticFlags(g: OpGen): void {
  const { w } = g;
  pushCarry(g);
  pushParity(g);
  w.i32Const(2).op(i32.shl).op(i32.or);
  g.flagsAux();
  w.i32Const(8).op(i32.and).i32Const(1).op(i32.shl).op(i32.or);
  pushZero(g);
  w.i32Const(6).op(i32.shl).op(i32.or);
  pushSign(g);
  w.i32Const(7).op(i32.shl).op(i32.or);
  pushOverflow(g);
  w.i32Const(11).op(i32.shl).op(i32.or);
}

/** Sets OSZAPC from RFLAGS bits in i32 local `value`. */
export function setArithmeticFlags(g: OpGen, value: number): void {
  g.setFlags(flagWords(g.w, value));
}

/** What pushes FLAGS_RESULT and FLAGS_AUX for the arithmetic flags in a local. */
export function flagWords(w: CodeWriter, value: number): { result: () => void; aux: () => void } {
  const bit = (shift: number): void => {
    w.get(value).i32Const(shift).op(i32.shr_u).i32Const(1).op(i32.and);
  };
  // Result 0 where ZF is wanted, else 1; the deltas correct SF and PF (see Cpu.rflags).
  return {
    result: () => {
      bit(6);
      w.op(i32.eqz).op(i64.extend_i32_u);
    },
    aux: () => {
      bit(0);
      w.i32Const(31).op(i32.shl);
      bit(0);
      bit(11);
      w.op(i32.xor).i32Const(30).op(i32.shl).op(i32.or);
      bit(4);
      w.i32Const(3).op(i32.shl).op(i32.or);
      bit(2);
      bit(6);
      w.op(i32.xor).i32Const(8).op(i32.shl).op(i32.or);
      bit(7);
      w.op(i32.or);
    },
  };
}
