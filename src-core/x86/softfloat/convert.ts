import { bitLength, finite, type Format, KIND, type Unpacked, zero } from './number.ts';
import { FLAG, type FloatContext, round, roundShift } from './round.ts';
import { operand, specialOperand } from './arithmetic.ts';

/** A number of one format in another; a signalling NaN becomes quiet and raises invalid. */
export function convert(
  context: FloatContext,
  format: Format,
  source: Unpacked,
  noteDenormal: boolean,
): Unpacked {
  const x = operand(context, source);
  context.roundedUp = false;
  const special = specialOperand(context, x);
  if (special) return special;
  if (noteDenormal && x.denormal) context.flags |= FLAG.denormal;
  if (x.kind !== KIND.finite) return x;
  return round(context, format, x.negative, x.significand, x.exponent);
}

/** A signed integer, exactly. */
export function fromInteger(value: bigint): Unpacked {
  if (value === 0n) return zero(false);
  return value < 0n ? finite(true, -value, 0) : finite(false, value, 0);
}

/** Shifts that would make integers of thousands of digits are cut here: far beyond every integer format. */
const LARGE = 128;

/**
 * A finite number, or zero, as an integer in the given rounding; raises inexact. Undefined when its magnitude is
 * 2^127 or more, or it is not finite.
 */
export function toInteger(context: FloatContext, x: Unpacked, rounding: number): bigint | undefined {
  context.roundedUp = false;
  if (x.kind === KIND.zero) return 0n;
  if (x.kind !== KIND.finite || x.exponent + bitLength(x.significand) > LARGE) return undefined;
  const shift = Math.min(-x.exponent, bitLength(x.significand) + 2);
  const rounded = roundShift(x.significand, shift, rounding, x.negative);
  if (rounded.inexact) context.flags |= FLAG.inexact;
  context.roundedUp = rounded.up;
  return x.negative ? -rounded.significand : rounded.significand;
}

/** To a signed integer of so many bits; out of range and NaN raise invalid (alone) and give undefined. */
export function toSigned(
  context: FloatContext,
  source: Unpacked,
  bits: number,
  rounding: number,
): bigint | undefined {
  const before = context.flags;
  const value = toInteger(context, operand(context, source), rounding);
  if (value !== undefined && BigInt.asIntN(bits, value) === value) return value;
  context.flags = before | FLAG.invalid;
  context.roundedUp = false;
  return undefined;
}

/** Rounds to an integral value of the same format. */
export function roundToIntegral(context: FloatContext, source: Unpacked, rounding: number): Unpacked {
  const x = operand(context, source);
  context.roundedUp = false;
  const special = specialOperand(context, x);
  if (special) return special;
  if (x.denormal && context.x87) context.flags |= FLAG.denormal;
  if (x.kind !== KIND.finite || x.exponent >= 0) return x;
  const value = toInteger(context, x, rounding);
  if (value === undefined) return x;
  if (value === 0n) return zero(x.negative);
  return finite(x.negative, value < 0n ? -value : value, 0);
}

/** Ten bytes of packed BCD (SDM volume 1, section 4.7) as an integer and its sign. Digits above 9 count as they stand. */
export function fromBcd(bytes: Uint8Array): Unpacked {
  let value = 0n;
  for (let index = 8; index >= 0; index--) {
    const byte = bytes[index] ?? 0;
    value = value * 100n + BigInt((byte >> 4) * 10 + (byte & 15));
  }
  const negative = ((bytes[9] ?? 0) & 0x80) !== 0;
  return value === 0n ? zero(negative) : finite(negative, value, 0);
}

/** Packed BCD indefinite. */
export const BCD_INDEFINITE = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff);

/** To packed BCD; what has more than 18 digits, and NaN, raises invalid and gives the indefinite. */
export function toBcd(context: FloatContext, x: Unpacked): Uint8Array {
  const before = context.flags;
  const value = toInteger(context, x, context.rounding);
  const magnitude = value === undefined ? undefined : value < 0n ? -value : value;
  if (magnitude === undefined || magnitude >= 10n ** 18n) {
    context.flags = before | FLAG.invalid;
    context.roundedUp = false;
    return BCD_INDEFINITE;
  }
  const bytes = new Uint8Array(10);
  let rest = magnitude;
  for (let index = 0; index < 9; index++) {
    const pair = Number(rest % 100n);
    rest /= 100n;
    bytes[index] = (Math.floor(pair / 10) << 4) | (pair % 10);
  }
  bytes[9] = x.negative ? 0x80 : 0;
  return bytes;
}
