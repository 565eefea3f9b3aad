import { bitLength, finite, FLOAT80, infinity, KIND, type Unpacked, zero } from './number.ts';
import { FLAG, type FloatContext, round } from './round.ts';
import { invalid, noteDenormals, specialOperand, specialOperands } from './arithmetic.ts';
import { fromInteger } from './convert.ts';

export interface Remainder {
  readonly value: Unpacked;
  /** Low three bits of the quotient's magnitude, when complete; undefined where NaNs and invalid operands leave none. */
  readonly quotient: number | undefined;
  /** The reduction is only partial: FPREM sets C2. */
  readonly partial: boolean;
}

/**
 * FPREM and FPREM1 (Intel SDM volume 2): the exact remainder of a / b with the quotient truncated, or rounded to
 * nearest even. Exponents 64 and more apart are reduced by 32 + (difference mod 32) bits at a time, as AMD's and
 * Intel's processors do.
 */
export function remainder(context: FloatContext, a: Unpacked, b: Unpacked, nearest: boolean): Remainder {
  const done = (value: Unpacked): Remainder => ({ value, quotient: 0, partial: false });
  const without = (value: Unpacked): Remainder => ({ value, quotient: undefined, partial: false });
  context.roundedUp = false;
  const special = specialOperands(context, a, b);
  if (special) return without(special);
  if (a.kind === KIND.infinity || b.kind === KIND.zero) return without(invalid(context));
  noteDenormals(context, a, b);
  if (a.kind === KIND.zero || b.kind === KIND.infinity) return done(a);
  const difference = a.exponent + bitLength(a.significand) - (b.exponent + bitLength(b.significand));
  if (difference < -1) return done(round(context, FLOAT80, a.negative, a.significand, a.exponent));
  const lowest = Math.min(a.exponent, b.exponent);
  const dividend = a.significand << BigInt(a.exponent - lowest);
  const divisor = b.significand << BigInt(b.exponent - lowest);
  if (difference >= 64) {
    const scaled = divisor << BigInt(difference - (32 | (difference & 31)));
    const rest = dividend % scaled;
    return { value: exact(context, a.negative, rest, lowest), quotient: 0, partial: true };
  }
  let quotient = dividend / divisor;
  let rest = dividend - quotient * divisor;
  let { negative } = a;
  if (nearest) {
    const twice = rest << 1n;
    if (twice > divisor || (twice === divisor && (quotient & 1n) !== 0n)) {
      quotient += 1n;
      rest = divisor - rest;
      negative = !negative;
    }
  }
  const value = rest === 0n ? zero(a.negative) : exact(context, negative, rest, lowest);
  return { value, quotient: Number(quotient & 7n), partial: false };
}

function exact(context: FloatContext, negative: boolean, significand: bigint, exponent: number): Unpacked {
  return round(context, FLOAT80, negative, significand, exponent);
}

/** Exponents beyond this overflow or underflow whatever they scale, adjusted bias included. */
const SCALE_LIMIT = 0x10000;

/** FSCALE: a * 2^trunc(b). */
export function scale(context: FloatContext, a: Unpacked, b: Unpacked): Unpacked {
  context.roundedUp = false;
  const special = specialOperands(context, a, b);
  if (special) return special;
  if (b.kind === KIND.infinity) {
    if (b.negative ? a.kind === KIND.infinity : a.kind === KIND.zero) return invalid(context);
    noteDenormals(context, a, b);
    return b.negative ? zero(a.negative) : infinity(a.negative);
  }
  noteDenormals(context, a, b);
  if (a.kind !== KIND.finite) return a;
  return round(context, FLOAT80, a.negative, a.significand, a.exponent + scaleFactor(b));
}

function scaleFactor(b: Unpacked): number {
  if (b.kind === KIND.zero) return 0;
  const length = b.exponent + bitLength(b.significand);
  const magnitude =
    length > 17
      ? SCALE_LIMIT
      : length <= 0
        ? 0
        : Number(
            b.exponent >= 0 ? b.significand << BigInt(b.exponent) : b.significand >> BigInt(-b.exponent),
          );
  return b.negative ? -Math.min(magnitude, SCALE_LIMIT) : Math.min(magnitude, SCALE_LIMIT);
}

/** FXTRACT: exponent and significand (in [1, 2)) of a number. */
export function extract(context: FloatContext, a: Unpacked): { exponent: Unpacked; significand: Unpacked } {
  context.roundedUp = false;
  const special = specialOperand(context, a);
  if (special) return { exponent: special, significand: special };
  if (a.kind === KIND.infinity) return { exponent: infinity(false), significand: a };
  if (a.kind === KIND.zero) {
    context.flags |= FLAG.divideByZero;
    return { exponent: infinity(true), significand: a };
  }
  noteDenormals(context, a, a);
  const length = bitLength(a.significand);
  return {
    exponent: fromInteger(BigInt(a.exponent + length - 1)),
    significand: finite(a.negative, a.significand, 1 - length),
  };
}
