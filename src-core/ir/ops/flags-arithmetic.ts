import { i32, i64 } from '../../wasm/opcodes.ts';
import type { Bits, FlagArithmetic, OpGen } from '../op.ts';

/**
 * Conditions straight from the operands of the arithmetic that set the flags: a compare and the branch after it become
 * one comparison. Each rule is Intel SDM volume 1, appendix B applied to x - y, x + y or a logical result.
 */

/** Condition codes without their lowest bit, which negates. */
const CARRY = 1;
const ZERO = 2;
const CARRY_OR_ZERO = 3;
const SIGN = 4;
const LESS = 6;
const LESS_OR_EQUAL = 7;

/** Pushes local `v` as its sign-extended value (i32 up to 32 bits, else i64). */
function signed(g: OpGen, bits: Bits, v: number): void {
  g.w.get(v);
  if (bits === 8) g.w.op(i32.extend8_s);
  else if (bits === 16) g.w.op(i32.extend16_s);
}

function zero(g: OpGen, bits: Bits): void {
  if (bits === 64) g.w.i64Const(0n);
  else g.w.i32Const(0);
}

/** Pushes whether the result, as a signed number, compares with zero as `opcode` says. */
function resultAgainstZero(
  g: OpGen,
  { bits, r }: FlagArithmetic,
  opcode: 'eq' | 'ne' | 'lt_s' | 'ge_s' | 'le_s' | 'gt_s',
): void {
  signed(g, bits, r);
  zero(g, bits);
  g.w.op((bits === 64 ? i64 : i32)[opcode]);
}

function constantResult(g: OpGen, value: boolean): true {
  g.w.i32Const(value ? 1 : 0);
  return true;
}

/**
 * Pushes condition `code` (0..15, encoding order) as i32 0 or 1. False, with nothing pushed, where the general way
 * through the flags' words is as good.
 */
export function pushArithmeticCondition(g: OpGen, flags: FlagArithmetic, code: number): boolean {
  const negate = (code & 1) !== 0;
  const condition = code >> 1;
  const { kind, bits, x, y, r } = flags;
  const t = bits === 64 ? i64 : i32;
  if (condition === SIGN) {
    resultAgainstZero(g, flags, negate ? 'ge_s' : 'lt_s');
    return true;
  }
  if (condition === ZERO && kind !== 'sub') {
    resultAgainstZero(g, flags, negate ? 'ne' : 'eq');
    return true;
  }
  if (kind === 'sub') {
    switch (condition) {
      case CARRY:
        g.w
          .get(x)
          .get(y)
          .op(negate ? t.ge_u : t.lt_u);
        return true;
      case ZERO:
        g.w
          .get(x)
          .get(y)
          .op(negate ? t.ne : t.eq);
        return true;
      case CARRY_OR_ZERO:
        g.w
          .get(x)
          .get(y)
          .op(negate ? t.gt_u : t.le_u);
        return true;
      case LESS:
        signed(g, bits, x);
        signed(g, bits, y);
        g.w.op(negate ? t.ge_s : t.lt_s);
        return true;
      case LESS_OR_EQUAL:
        signed(g, bits, x);
        signed(g, bits, y);
        g.w.op(negate ? t.gt_s : t.le_s);
        return true;
      default:
        return false;
    }
  }
  if (kind === 'logic') {
    switch (condition) {
      case 0:
      case CARRY:
        return constantResult(g, negate);
      case CARRY_OR_ZERO:
        resultAgainstZero(g, flags, negate ? 'ne' : 'eq');
        return true;
      case LESS:
        resultAgainstZero(g, flags, negate ? 'ge_s' : 'lt_s');
        return true;
      case LESS_OR_EQUAL:
        resultAgainstZero(g, flags, negate ? 'gt_s' : 'le_s');
        return true;
      default:
        return false;
    }
  }
  if (condition === CARRY) {
    // An addition carries when its result is less than an operand.
    if (bits >= 32)
      g.w
        .get(r)
        .get(x)
        .op(negate ? t.ge_u : t.lt_u);
    else {
      g.w.get(x).get(y).op(i32.add).i32Const(bits).op(i32.shr_u);
      if (negate) g.w.op(i32.eqz);
    }
    return true;
  }
  return false;
}
