import { bitLength, finite, type Format, infinity, type Unpacked, zero } from './number.ts';

/** Exception flags: the same bits in MXCSR and the x87 status word (Intel SDM volume 1, figures 8-4 and 10-3). */
export const FLAG = {
  invalid: 1,
  denormal: 2,
  divideByZero: 4,
  overflow: 8,
  underflow: 16,
  inexact: 32,
} as const;
/** Exceptions found before the result is computed: unmasked, they keep everything as it was. */
export const PRECOMPUTATION = FLAG.invalid | FLAG.denormal | FLAG.divideByZero;

/** Rounding control, as encoded in the x87 control word and MXCSR. */
export const ROUNDING = { nearest: 0, down: 1, up: 2, zero: 3 } as const;

/** The bias adjustment of an unmasked x87 overflow or underflow (SDM volume 1, section 8.5.4). */
const BIAS_ADJUSTMENT = 24576;

/** The environment of one operation, and what it raised. */
export interface FloatContext {
  /** See ROUNDING. */
  rounding: number;
  /** Significant bits results are rounded to: the format's, or less by the x87's precision control. */
  precision: number;
  /** Exceptions masked (bits of FLAG). */
  masks: number;
  /** Exceptions raised so far (bits of FLAG). */
  flags: number;
  /** The last rounding increased the magnitude (the x87's C1). */
  roundedUp: boolean;
  /** x87 rules: NaN choice by significand, bias adjustment on unmasked overflow and underflow. */
  x87: boolean;
  /** MXCSR.FTZ and MXCSR.DAZ. */
  flushToZero: boolean;
  denormalsAreZero: boolean;
}

/** Whether a magnitude is to be rounded up, `half` being how its cut-off part compares with half a unit (-1, 0, 1). */
function increments(rounding: number, negative: boolean, odd: boolean, half: number): boolean {
  switch (rounding) {
    case ROUNDING.nearest:
      return half > 0 || (half === 0 && odd);
    case ROUNDING.down:
      return negative;
    case ROUNDING.up:
      return !negative;
    default:
      return false;
  }
}

export interface Rounded {
  readonly significand: bigint;
  readonly inexact: boolean;
  readonly up: boolean;
}

/** value / 2^shift as an integer; a shift below zero is exact. */
export function roundShift(value: bigint, shift: number, rounding: number, negative: boolean): Rounded {
  if (shift <= 0) return { significand: value << BigInt(-shift), inexact: false, up: false };
  const by = BigInt(shift);
  const kept = value >> by;
  const cut = value - (kept << by);
  if (cut === 0n) return { significand: kept, inexact: false, up: false };
  const halfUnit = 1n << (by - 1n);
  const half = cut > halfUnit ? 1 : cut === halfUnit ? 0 : -1;
  const up = increments(rounding, negative, (kept & 1n) !== 0n, half);
  return { significand: up ? kept + 1n : kept, inexact: true, up };
}

/**
 * Rounds (-1)^negative * significand * 2^exponent to the format, with the context's precision and rounding, and
 * raises overflow, underflow and inexact as masked or unmasked (SDM volume 1, sections 4.9.1.4 to 4.9.1.6;
 * tininess is detected after rounding). A value known only approximately is passed with its bit 0 set as a sticky
 * bit, at least two bits below the precision.
 */
export function round(
  context: FloatContext,
  format: Format,
  negative: boolean,
  significand: bigint,
  exponent: number,
): Unpacked {
  context.roundedUp = false;
  if (significand === 0n) return zero(negative);
  const { precision, rounding } = context;
  const shift = bitLength(significand) - precision;
  const rounded = roundShift(significand, shift, rounding, negative);
  let leading = exponent + shift + precision - 1;
  if (rounded.significand >> BigInt(precision) !== 0n) leading++;
  if (leading < format.minExponent) {
    return underflow(context, format, negative, significand, exponent, rounded, shift);
  }
  if (leading > format.maxExponent) {
    return overflow(context, format, negative, exponent + shift, rounded);
  }
  if (rounded.inexact) context.flags |= FLAG.inexact;
  context.roundedUp = rounded.up;
  return finite(negative, rounded.significand, exponent + shift);
}

/** A result that is tiny when rounded as if the exponent had no limits (`rounded`). */
function underflow(
  context: FloatContext,
  { minExponent }: Format,
  negative: boolean,
  significand: bigint,
  exponent: number,
  rounded: Rounded,
  shift: number,
): Unpacked {
  if ((context.masks & FLAG.underflow) === 0) {
    context.flags |= rounded.inexact ? FLAG.underflow | FLAG.inexact : FLAG.underflow;
    context.roundedUp = rounded.up;
    const adjustment = context.x87 ? BIAS_ADJUSTMENT : 0;
    const lowest = exponent + shift + adjustment;
    // Too small even for the adjusted exponent (FSCALE only). Without one the result is not delivered anyway.
    if (context.x87 && lowest + context.precision - 1 < minExponent) {
      context.flags |= FLAG.inexact;
      context.roundedUp = false;
      return zero(negative);
    }
    return finite(negative, rounded.significand, lowest);
  }
  if (context.flushToZero) {
    context.flags |= FLAG.underflow | FLAG.inexact;
    return zero(negative);
  }
  const toLowest = minExponent - context.precision + 1 - exponent;
  const denormal = roundShift(significand, toLowest, context.rounding, negative);
  if (denormal.inexact) context.flags |= FLAG.underflow | FLAG.inexact;
  context.roundedUp = denormal.up;
  if (denormal.significand === 0n) return zero(negative);
  return finite(negative, denormal.significand, exponent + toLowest);
}

/** A rounded magnitude above the format's largest. `lowest`: exponent of its bit 0. */
function overflow(
  context: FloatContext,
  { maxExponent }: Format,
  negative: boolean,
  lowest: number,
  rounded: Rounded,
): Unpacked {
  const { precision, rounding } = context;
  context.flags |= FLAG.overflow;
  if ((context.masks & FLAG.overflow) === 0) {
    if (rounded.inexact) context.flags |= FLAG.inexact;
    context.roundedUp = rounded.up;
    // SSE delivers no result then.
    if (!context.x87) return infinity(negative);
    const adjusted = lowest - BIAS_ADJUSTMENT;
    // Too large even for the adjusted exponent (FSCALE only).
    if (adjusted + bitLength(rounded.significand) - 1 > maxExponent) {
      context.flags |= FLAG.inexact;
      context.roundedUp = true;
      return infinity(negative);
    }
    return finite(negative, rounded.significand, adjusted);
  }
  context.flags |= FLAG.inexact;
  const toInfinity = rounding === ROUNDING.nearest || rounding === (negative ? ROUNDING.down : ROUNDING.up);
  context.roundedUp = toInfinity;
  if (toInfinity) return infinity(negative);
  return finite(negative, (1n << BigInt(precision)) - 1n, maxExponent - precision + 1);
}
