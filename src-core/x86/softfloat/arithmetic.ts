import {
  bitLength,
  DEFAULT_NAN,
  type Format,
  infinity,
  isNan,
  KIND,
  quiet,
  type Unpacked,
  zero,
} from './number.ts';
import { FLAG, type FloatContext, round, ROUNDING } from './round.ts';

/** Bits kept beyond the widest precision where a quotient or root goes on for ever. */
const GUARD = 68;

export function invalid(context: FloatContext): Unpacked {
  context.flags |= FLAG.invalid;
  return DEFAULT_NAN;
}

/** An operand as the operation sees it: denormals are zeros under MXCSR.DAZ. */
export function operand(context: FloatContext, x: Unpacked): Unpacked {
  return context.denormalsAreZero && x.denormal ? zero(x.negative) : x;
}

/**
 * The NaN that comes of two operands one of which is a NaN (Intel SDM volume 1, table 4-7): with SSE the first
 * operand's, with x87 the quiet one or else the larger significand.
 */
export function propagateNan(context: FloatContext, a: Unpacked, b: Unpacked): Unpacked {
  if (a.kind === KIND.signallingNan || b.kind === KIND.signallingNan) context.flags |= FLAG.invalid;
  if (!isNan(b)) return quiet(a);
  if (!isNan(a)) return quiet(b);
  if (!context.x87) return quiet(a);
  if (a.kind !== b.kind) return a.kind === KIND.quietNan ? a : b;
  if (a.significand !== b.significand) return quiet(a.significand > b.significand ? a : b);
  return quiet(a.negative ? b : a);
}

/** What every two-operand operation checks first; undefined when it is to be computed. */
export function specialOperands(context: FloatContext, a: Unpacked, b: Unpacked): Unpacked | undefined {
  if (a.kind === KIND.unsupported || b.kind === KIND.unsupported) return invalid(context);
  if (isNan(a) || isNan(b)) return propagateNan(context, a, b);
  return undefined;
}

export function specialOperand(context: FloatContext, a: Unpacked): Unpacked | undefined {
  if (a.kind === KIND.unsupported) return invalid(context);
  if (!isNan(a)) return undefined;
  if (a.kind === KIND.signallingNan) context.flags |= FLAG.invalid;
  return quiet(a);
}

export function noteDenormals(context: FloatContext, a: Unpacked, b: Unpacked): void {
  if (a.denormal || b.denormal) context.flags |= FLAG.denormal;
}

/** The sum of two finite numbers, rounded once. */
function sum(context: FloatContext, format: Format, a: Unpacked, b: Unpacked): Unpacked {
  const [high, low] = a.exponent >= b.exponent ? [a, b] : [b, a];
  let lowSignificand = low.significand;
  let lowExponent = low.exponent;
  const reach = bitLength(low.significand);
  // The lower term lies wholly below what can matter: it becomes a sticky bit of its sign.
  if (high.exponent - low.exponent > reach + GUARD) {
    lowSignificand = 1n;
    lowExponent = high.exponent - GUARD;
  }
  const aligned = high.significand << BigInt(high.exponent - lowExponent);
  const total = (high.negative ? -aligned : aligned) + (low.negative ? -lowSignificand : lowSignificand);
  if (total === 0n) {
    context.roundedUp = false;
    return zero(context.rounding === ROUNDING.down);
  }
  return total < 0n
    ? round(context, format, true, -total, lowExponent)
    : round(context, format, false, total, lowExponent);
}

function negated(x: Unpacked): Unpacked {
  return { ...x, negative: !x.negative };
}

function addSigned(
  context: FloatContext,
  format: Format,
  first: Unpacked,
  second: Unpacked,
  subtract: boolean,
): Unpacked {
  const a = operand(context, first);
  let b = operand(context, second);
  context.roundedUp = false;
  const special = specialOperands(context, a, b);
  if (special) return special;
  if (subtract) b = negated(b);
  if (a.kind === KIND.infinity && b.kind === KIND.infinity && a.negative !== b.negative) {
    return invalid(context);
  }
  noteDenormals(context, a, b);
  if (a.kind === KIND.infinity) return a;
  if (b.kind === KIND.infinity) return b;
  if (a.kind === KIND.zero && b.kind === KIND.zero) {
    return zero(a.negative === b.negative ? a.negative : context.rounding === ROUNDING.down);
  }
  if (a.kind === KIND.zero) return round(context, format, b.negative, b.significand, b.exponent);
  if (b.kind === KIND.zero) return round(context, format, a.negative, a.significand, a.exponent);
  return sum(context, format, a, b);
}

export function add(context: FloatContext, format: Format, a: Unpacked, b: Unpacked): Unpacked {
  return addSigned(context, format, a, b, false);
}

/** a - b */
export function sub(context: FloatContext, format: Format, a: Unpacked, b: Unpacked): Unpacked {
  return addSigned(context, format, a, b, true);
}

export function mul(context: FloatContext, format: Format, first: Unpacked, second: Unpacked): Unpacked {
  const a = operand(context, first);
  const b = operand(context, second);
  context.roundedUp = false;
  const special = specialOperands(context, a, b);
  if (special) return special;
  const negative = a.negative !== b.negative;
  const infinite = a.kind === KIND.infinity || b.kind === KIND.infinity;
  const nought = a.kind === KIND.zero || b.kind === KIND.zero;
  if (infinite && nought) return invalid(context);
  noteDenormals(context, a, b);
  if (infinite) return infinity(negative);
  if (nought) return zero(negative);
  return round(context, format, negative, a.significand * b.significand, a.exponent + b.exponent);
}

/** a / b */
export function div(context: FloatContext, format: Format, first: Unpacked, second: Unpacked): Unpacked {
  const a = operand(context, first);
  const b = operand(context, second);
  context.roundedUp = false;
  const special = specialOperands(context, a, b);
  if (special) return special;
  const negative = a.negative !== b.negative;
  if (a.kind === b.kind && a.kind !== KIND.finite) return invalid(context);
  if (b.kind === KIND.zero && a.kind === KIND.finite) {
    context.flags |= FLAG.divideByZero;
    return infinity(negative);
  }
  noteDenormals(context, a, b);
  if (a.kind === KIND.infinity || b.kind === KIND.zero) return infinity(negative);
  if (a.kind === KIND.zero || b.kind === KIND.infinity) return zero(negative);
  const shift = Math.max(0, bitLength(b.significand) - bitLength(a.significand) + GUARD);
  const dividend = a.significand << BigInt(shift);
  const quotient = dividend / b.significand;
  const sticky = quotient * b.significand === dividend ? 0n : 1n;
  return round(context, format, negative, (quotient << 1n) | sticky, a.exponent - b.exponent - shift - 1);
}

/** The integer square root, rounded down. */
export function integerSqrt(value: bigint): bigint {
  if (value < 2n) return value;
  let x = 1n << BigInt((bitLength(value) + 1) >> 1);
  for (;;) {
    const next = (x + value / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}

export function sqrt(context: FloatContext, format: Format, source: Unpacked): Unpacked {
  const a = operand(context, source);
  context.roundedUp = false;
  const special = specialOperand(context, a);
  if (special) return special;
  if (a.kind === KIND.zero) return a;
  if (a.negative) return invalid(context);
  noteDenormals(context, a, a);
  if (a.kind === KIND.infinity) return a;
  let shift = Math.max(0, 2 * GUARD - bitLength(a.significand));
  if (((a.exponent - shift) & 1) !== 0) shift++;
  const radicand = a.significand << BigInt(shift);
  const root = integerSqrt(radicand);
  const sticky = root * root === radicand ? 0n : 1n;
  return round(context, format, false, (root << 1n) | sticky, (a.exponent - shift) / 2 - 1);
}

/** How two numbers compare. */
export const ORDER = { less: -1, equal: 0, greater: 1, unordered: 2 } as const;
export type Order = (typeof ORDER)[keyof typeof ORDER];

/** Order of two numbers none of which is a NaN. */
function orderOf(a: Unpacked, b: Unpacked): Order {
  const signOf = (x: Unpacked): number => (x.kind === KIND.zero ? 0 : x.negative ? -1 : 1);
  const signA = signOf(a);
  const signB = signOf(b);
  if (signA !== signB) return signA < signB ? ORDER.less : ORDER.greater;
  if (signA === 0) return ORDER.equal;
  let magnitude: number;
  if (a.kind === KIND.infinity || b.kind === KIND.infinity) {
    magnitude = (a.kind === KIND.infinity ? 1 : 0) - (b.kind === KIND.infinity ? 1 : 0);
  } else {
    magnitude = a.exponent + bitLength(a.significand) - (b.exponent + bitLength(b.significand));
    if (magnitude === 0) {
      const shift = a.exponent - b.exponent;
      const left = shift > 0 ? a.significand << BigInt(shift) : a.significand;
      const right = shift < 0 ? b.significand << BigInt(-shift) : b.significand;
      magnitude = left < right ? -1 : left > right ? 1 : 0;
    }
  }
  if (magnitude === 0) return ORDER.equal;
  return magnitude < 0 === signA > 0 ? ORDER.less : ORDER.greater;
}

/** Compares; a signalling comparison raises invalid for quiet NaNs too. */
export function compare(
  context: FloatContext,
  first: Unpacked,
  second: Unpacked,
  signalling: boolean,
): Order {
  const a = operand(context, first);
  const b = operand(context, second);
  if (a.kind === KIND.unsupported || b.kind === KIND.unsupported) {
    context.flags |= FLAG.invalid;
    return ORDER.unordered;
  }
  if (isNan(a) || isNan(b)) {
    if (signalling || a.kind === KIND.signallingNan || b.kind === KIND.signallingNan) {
      context.flags |= FLAG.invalid;
    }
    return ORDER.unordered;
  }
  noteDenormals(context, a, b);
  return orderOf(a, b);
}
