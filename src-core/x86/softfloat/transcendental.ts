/**
 * The x87's transcendental instructions (Intel SDM volume 1, section 8.3.7), computed in fixed point to far more
 * bits than the result has and rounded once. Arguments of trigonometric functions are reduced with pi to 66 bits,
 * as the processors do.
 */
import {
  bitLength,
  DEFAULT_NAN,
  finite,
  FLOAT80,
  infinity,
  KIND,
  PLUS_ONE,
  type Unpacked,
  zero,
} from './number.ts';
import { FLAG, type FloatContext, round } from './round.ts';
import { invalid, noteDenormals, specialOperand, specialOperands } from './arithmetic.ts';

/** Fraction bits of the fixed-point numbers here. */
const FRACTION = 320;
const F = BigInt(FRACTION);
const ONE = 1n << F;
/** Below 2^-TINY the first term of a series decides, and the second only which side of it the result is on. */
const TINY = 70;

/** pi as the argument reduction has it: 66 significant bits, in units of 2^-66. */
const PI_66 = 0xc90fdaa22168c234cn;
const PI_66_EXPONENT = -66;

/** arctan(1/n) by its series. */
function arctanInverse(n: bigint): bigint {
  const square = n * n;
  let term = ONE / n;
  let total = term;
  for (let k = 3n; term !== 0n; k += 2n) {
    term = -term / square;
    total += term / k;
  }
  return total;
}

/** 2 artanh(x) = ln((1 + x) / (1 - x)) for a fixed-point x. */
function twiceArtanh(x: bigint): bigint {
  const square = (x * x) >> F;
  let term = x;
  let total = x;
  for (let k = 3n; term !== 0n; k += 2n) {
    term = (term * square) / ONE;
    total += term / k;
  }
  return total << 1n;
}

/** pi (Machin's formula) and ln 2, exact to a few units of 2^-FRACTION. */
const PI = 16n * arctanInverse(5n) - 4n * arctanInverse(239n);
const LN2 = twiceArtanh(ONE / 3n);

/** Exponent of a finite number's leading bit. */
function leadingExponent(x: Unpacked): number {
  return x.exponent + bitLength(x.significand) - 1;
}

function fixed(x: Unpacked): bigint {
  const shift = x.exponent + FRACTION;
  const magnitude = shift >= 0 ? x.significand << BigInt(shift) : x.significand >> BigInt(-shift);
  return x.negative ? -magnitude : magnitude;
}

/** Rounds significand * 2^exponent, which is only approximate: never exactly what it says. */
function roundApproximate(
  context: FloatContext,
  negative: boolean,
  significand: bigint,
  exponent: number,
): Unpacked {
  return round(context, FLOAT80, negative, (significand << 1n) | 1n, exponent - 1);
}

function roundFixed(context: FloatContext, value: bigint): Unpacked {
  return value < 0n
    ? roundApproximate(context, true, -value, -FRACTION)
    : roundApproximate(context, false, value, -FRACTION);
}

/** x (finite), moved by less than any rounding can tell towards zero or away from it. */
function roundBeside(context: FloatContext, x: Unpacked, away: boolean): Unpacked {
  const wide = x.significand << 130n;
  return round(context, FLOAT80, x.negative, away ? wide + 1n : wide - 1n, x.exponent - 130);
}

/** sin and cos of r, |r| < 1, by their series. */
function sinCosSeries(r: bigint): { sin: bigint; cos: bigint } {
  let sin = 0n;
  let cos = 0n;
  let term = ONE;
  for (let k = 0n; term !== 0n; k++) {
    if ((k & 1n) === 0n) cos += (k & 2n) === 0n ? term : -term;
    else sin += (k & 2n) === 0n ? term : -term;
    term = (term * r) / ONE / (k + 1n);
  }
  return { sin, cos };
}

/** An argument in [-pi/4, pi/4] and the quadrant it came from; the argument is exact. */
interface Reduced {
  readonly value: Unpacked;
  readonly quadrant: number;
}

function reduce(x: Unpacked): Reduced {
  if (leadingExponent(x) < -1) return { value: x, quadrant: 0 };
  // In units of 2^lowest, pi/2 is PI_66 scaled.
  const lowest = Math.min(x.exponent, PI_66_EXPONENT - 1);
  const magnitude = x.significand << BigInt(x.exponent - lowest);
  const halfPi = PI_66 << BigInt(PI_66_EXPONENT - 1 - lowest);
  const quotient = ((magnitude << 1n) + halfPi) / (halfPi << 1n);
  const rest = magnitude - quotient * halfPi;
  const quadrant = Number(quotient & 3n);
  const negative = x.negative !== rest < 0n;
  const value = rest === 0n ? zero(x.negative) : finite(negative, rest < 0n ? -rest : rest, lowest);
  return { value, quadrant: x.negative ? (4 - quadrant) & 3 : quadrant };
}

/** True for arguments the trigonometric instructions refuse (C2 set, nothing changed). */
export function outOfTrigonometricRange(x: Unpacked): boolean {
  return x.kind === KIND.finite && leadingExponent(x) >= 63;
}

/** What NaN, infinity and zero give in FSIN, FCOS, FPTAN; undefined for finite arguments. */
function specialAngle(context: FloatContext, x: Unpacked, ofZero: Unpacked): Unpacked | undefined {
  context.roundedUp = false;
  const special = specialOperand(context, x);
  if (special) return special;
  if (x.kind === KIND.infinity) return invalid(context);
  if (x.kind === KIND.zero) return ofZero;
  noteDenormals(context, x, x);
  return undefined;
}

function sinOfReduced(context: FloatContext, { value, quadrant }: Reduced, cosine: boolean): Unpacked {
  const turned = (quadrant + (cosine ? 1 : 0)) & 3;
  const flip = (turned & 2) !== 0;
  const asCosine = (turned & 1) !== 0;
  if (value.kind === KIND.zero || leadingExponent(value) < -TINY) {
    if (asCosine) return roundBeside(context, { ...PLUS_ONE, negative: flip }, false);
    return roundBeside(context, { ...value, negative: value.negative !== flip }, false);
  }
  const { sin, cos } = sinCosSeries(fixed(value));
  const result = asCosine ? cos : sin;
  return roundFixed(context, flip ? -result : result);
}

export function sin(context: FloatContext, x: Unpacked): Unpacked {
  return specialAngle(context, x, x) ?? sinOfReduced(context, reduce(x), false);
}

export function cos(context: FloatContext, x: Unpacked): Unpacked {
  return specialAngle(context, x, PLUS_ONE) ?? sinOfReduced(context, reduce(x), true);
}

export function tan(context: FloatContext, x: Unpacked): Unpacked {
  const special = specialAngle(context, x, x);
  if (special) return special;
  const { value, quadrant } = reduce(x);
  const turned = (quadrant & 1) !== 0;
  if (leadingExponent(value) < -TINY) {
    if (!turned) return roundBeside(context, value, true);
    // -1 / tiny, a little less than that.
    const shift = 2 * FRACTION;
    return roundApproximate(
      context,
      !value.negative,
      (1n << BigInt(shift)) / value.significand,
      -shift - value.exponent,
    );
  }
  const { sin: s, cos: c } = sinCosSeries(fixed(value));
  return roundFixed(context, turned ? (-c << F) / s : (s << F) / c);
}

/** F2XM1: 2^x - 1 for -1 <= x <= 1; what lies outside (undefined) stays as it is. */
export function exponentialMinusOne(context: FloatContext, x: Unpacked): Unpacked {
  context.roundedUp = false;
  const special = specialOperand(context, x);
  if (special) return special;
  if (x.kind === KIND.zero) return x;
  if (x.kind === KIND.infinity) return x.negative ? { ...PLUS_ONE, negative: true } : x;
  noteDenormals(context, x, x);
  const leading = leadingExponent(x);
  if (leading >= 0) {
    const unit = leading === 0 && x.significand === 1n << BigInt(bitLength(x.significand) - 1);
    if (unit && x.negative) return finite(true, 1n, -1);
    if (!unit) context.flags |= FLAG.inexact;
    return x;
  }
  if (leading < -TINY) {
    // x ln 2 (1 + x ln 2 / 2): the second term is far below the last bit kept.
    const product = x.significand * LN2;
    return roundApproximate(context, x.negative, x.negative ? product - 1n : product, x.exponent - FRACTION);
  }
  const power = (fixed(x) * LN2) / ONE;
  let term = power;
  let total = power;
  for (let k = 2n; term !== 0n; k++) {
    term = (term * power) / ONE / k;
    total += term;
  }
  return roundFixed(context, total);
}

/** log2 of a positive finite number as a fixed-point number; exact for powers of two. */
function log2(x: Unpacked): bigint {
  const length = bitLength(x.significand);
  let exponent = x.exponent + length - 1;
  // The mantissa in [2/3, 4/3), so that numbers near 1 on either side lose nothing.
  let mantissa = x.significand << BigInt(FRACTION - length + 1);
  if (mantissa * 3n >= ONE * 4n) {
    mantissa >>= 1n;
    exponent++;
  }
  const ln = mantissa === ONE ? 0n : twiceArtanh(((mantissa - ONE) << F) / (mantissa + ONE));
  return (BigInt(exponent) << F) + (ln << F) / LN2;
}

/** The product of y and a fixed-point logarithm. */
function scaleLogarithm(context: FloatContext, y: Unpacked, log: bigint, exact: boolean): Unpacked {
  const negative = y.negative !== log < 0n;
  const significand = y.significand * (log < 0n ? -log : log);
  if (exact) return round(context, FLOAT80, negative, significand, y.exponent - FRACTION);
  return roundApproximate(context, negative, significand, y.exponent - FRACTION);
}

/** FYL2X: y log2(x). */
export function yLog2(context: FloatContext, x: Unpacked, y: Unpacked): Unpacked {
  context.roundedUp = false;
  const special = specialOperands(context, x, y);
  if (special) return special;
  if (x.negative && x.kind !== KIND.zero) return invalid(context);
  if (x.kind === KIND.zero) {
    if (y.kind === KIND.zero) return invalid(context);
    if (y.kind === KIND.infinity) return infinity(!y.negative);
    context.flags |= FLAG.divideByZero;
    return infinity(!y.negative);
  }
  if (x.kind === KIND.infinity) {
    if (y.kind === KIND.zero) return invalid(context);
    noteDenormals(context, x, y);
    return infinity(y.negative);
  }
  const log = log2(x);
  if (y.kind === KIND.infinity) {
    if (log === 0n) return invalid(context);
    noteDenormals(context, x, y);
    return infinity(y.negative !== log < 0n);
  }
  noteDenormals(context, x, y);
  if (y.kind === KIND.zero || log === 0n) return zero(y.negative !== log < 0n);
  const powerOfTwo = (x.significand & (x.significand - 1n)) === 0n;
  return scaleLogarithm(context, y, log, powerOfTwo);
}

/** FYL2XP1: y log2(x + 1), for |x| <= 1 - sqrt(1/2); beyond that (undefined) as far as x > -1. */
export function yLog2PlusOne(context: FloatContext, x: Unpacked, y: Unpacked): Unpacked {
  context.roundedUp = false;
  const special = specialOperands(context, x, y);
  if (special) return special;
  if (x.kind === KIND.infinity) {
    if (x.negative || y.kind === KIND.zero) return invalid(context);
    noteDenormals(context, x, y);
    return infinity(y.negative);
  }
  if (y.kind === KIND.infinity) {
    if (x.kind === KIND.zero) return invalid(context);
    noteDenormals(context, x, y);
    return infinity(y.negative !== x.negative);
  }
  noteDenormals(context, x, y);
  if (x.kind === KIND.zero || y.kind === KIND.zero) return zero(x.negative !== y.negative);
  if (leadingExponent(x) < -TINY) {
    // ln(1 + x) = x (1 - x/2 + ...).
    const product = ((x.significand * y.significand) << (2n * F)) / LN2;
    const moved = x.negative ? product + 1n : product - 1n;
    return roundApproximate(context, x.negative !== y.negative, moved, x.exponent + y.exponent - FRACTION);
  }
  if (leadingExponent(x) >= 64) {
    return scaleLogarithm(context, y, log2(x), false);
  }
  const sum = ONE + fixed(x);
  if (sum <= 0n) return x.negative ? invalid(context) : DEFAULT_NAN;
  const total = finite(false, sum, -FRACTION);
  const powerOfTwo = (sum & (sum - 1n)) === 0n;
  return scaleLogarithm(context, y, log2(total), powerOfTwo);
}

/** arctan of a ratio 0 <= t <= 1 in fixed point. */
function arctan(t: bigint): bigint {
  // Halve the angle three times: t / (1 + sqrt(1 + t^2)).
  let x = t;
  for (let halving = 0; halving < 3; halving++) {
    x = (x << F) / (ONE + fixedSqrt(ONE + ((x * x) >> F)));
  }
  const square = (x * x) >> F;
  let term = x;
  let total = x;
  for (let k = 3n; term !== 0n; k += 2n) {
    term = (-term * square) / ONE;
    total += term / k;
  }
  return total << 3n;
}

function fixedSqrt(value: bigint): bigint {
  const radicand = value << F;
  let x = 1n << BigInt((bitLength(radicand) + 1) >> 1);
  for (;;) {
    const next = (x + radicand / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}

/** FPATAN: the angle of the point (x, y), in (-pi, pi] with the sign of y. */
export function arctanOfRatio(context: FloatContext, y: Unpacked, x: Unpacked): Unpacked {
  context.roundedUp = false;
  const special = specialOperands(context, x, y);
  if (special) return special;
  noteDenormals(context, x, y);
  const signed = (magnitude: bigint): Unpacked => roundFixed(context, y.negative ? -magnitude : magnitude);
  if (y.kind === KIND.infinity) {
    if (x.kind !== KIND.infinity) return signed(PI >> 1n);
    return signed(x.negative ? (PI * 3n) >> 2n : PI >> 2n);
  }
  if (y.kind === KIND.zero) return x.negative ? signed(PI) : zero(y.negative);
  if (x.kind === KIND.zero) return signed(PI >> 1n);
  if (x.kind === KIND.infinity) return x.negative ? signed(PI) : zero(y.negative);
  const apart = leadingExponent(y) - leadingExponent(x);
  if (apart > TINY + 2) return signed(x.negative ? (PI >> 1n) + 1n : (PI >> 1n) - 1n);
  if (apart < -TINY - 2) {
    if (x.negative) return signed(PI - 1n);
    const shift = BigInt(FRACTION) + BigInt(bitLength(x.significand));
    const quotient = (y.significand << shift) / x.significand;
    const exponent = y.exponent - x.exponent - Number(shift);
    const exact = quotient * x.significand === y.significand << shift;
    return roundApproximate(context, y.negative, exact ? quotient - 1n : quotient, exponent);
  }
  const lowest = Math.min(x.exponent, y.exponent);
  const rise = y.significand << BigInt(y.exponent - lowest);
  const run = x.significand << BigInt(x.exponent - lowest);
  let angle = rise <= run ? arctan((rise << F) / run) : (PI >> 1n) - arctan((run << F) / rise);
  if (x.negative) angle = PI - angle;
  return signed(angle);
}
