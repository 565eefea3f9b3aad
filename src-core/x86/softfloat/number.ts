/**
 * Floating-point numbers taken apart, and the three formats of the architecture (Intel SDM volume 1, section 4.8,
 * and 8.2 for the x87's unsupported encodings).
 */

export const KIND = {
  zero: 0,
  /** Normal and denormal numbers. */
  finite: 1,
  infinity: 2,
  quietNan: 3,
  signallingNan: 4,
  /** An 80-bit encoding that the 387 and later refuse: unnormal, pseudo-NaN, pseudo-infinity. */
  unsupported: 5,
} as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/**
 * A number. Finite: (-1)^negative * significand * 2^exponent, the significand being a positive integer of any
 * length. NaN: the significand is the 80-bit format's (64 bits, integer bit set, bit 62 the quiet bit), to which
 * the shorter formats' fractions are left-aligned.
 */
export interface Unpacked {
  readonly kind: Kind;
  readonly negative: boolean;
  /** Exponent of the significand's bit 0. */
  readonly exponent: number;
  readonly significand: bigint;
  /** The operand was a denormal (or pseudo-denormal) of its format. */
  readonly denormal: boolean;
}

/** A format's range and precision, as of IEEE 754: precision counts the integer bit. */
export interface Format {
  readonly precision: number;
  /** Exponent of the leading bit of the smallest and the largest normal number. */
  readonly minExponent: number;
  readonly maxExponent: number;
}

export const FLOAT32: Format = { precision: 24, minExponent: -126, maxExponent: 127 };
export const FLOAT64: Format = { precision: 53, minExponent: -1022, maxExponent: 1023 };
export const FLOAT80: Format = { precision: 64, minExponent: -16382, maxExponent: 16383 };

/** Bits of an x87 register: the significand (u64) and, above it, sign and biased exponent (u16). */
export interface Bits80 {
  readonly significand: bigint;
  readonly signExponent: number;
}

const INTEGER_BIT = 1n << 63n;
const QUIET_BIT = 1n << 62n;
const MASK_64 = (1n << 64n) - 1n;

export function zero(negative: boolean): Unpacked {
  return { kind: KIND.zero, negative, exponent: 0, significand: 0n, denormal: false };
}

export function infinity(negative: boolean): Unpacked {
  return { kind: KIND.infinity, negative, exponent: 0, significand: 0n, denormal: false };
}

export function finite(negative: boolean, significand: bigint, exponent: number): Unpacked {
  return { kind: KIND.finite, negative, exponent, significand, denormal: false };
}

export const PLUS_ONE = finite(false, 1n, 0);

/** The quiet NaN that masked invalid operations give ("real indefinite", SDM volume 1, section 4.8.3.7). */
export const DEFAULT_NAN: Unpacked = {
  kind: KIND.quietNan,
  negative: true,
  exponent: 0,
  significand: INTEGER_BIT | QUIET_BIT,
  denormal: false,
};

export function isNan(x: Unpacked): boolean {
  return x.kind === KIND.quietNan || x.kind === KIND.signallingNan;
}

/** The same NaN, quiet. */
export function quiet(x: Unpacked): Unpacked {
  return x.kind === KIND.quietNan ? x : { ...x, kind: KIND.quietNan, significand: x.significand | QUIET_BIT };
}

function nan(negative: boolean, significand: bigint): Unpacked {
  return {
    kind: (significand & QUIET_BIT) !== 0n ? KIND.quietNan : KIND.signallingNan,
    negative,
    exponent: 0,
    significand: significand | INTEGER_BIT,
    denormal: false,
  };
}

/** Bits of a non-negative integer without leading zeros; 0 for 0. */
export function bitLength(value: bigint): number {
  let length = 0;
  let rest = value;
  if (rest >> 1024n !== 0n) {
    // Long numbers occur only as products of transcendental functions and remainders: halve the way.
    length = (rest.toString(16).length - 1) * 4;
    rest >>= BigInt(length);
  }
  while (rest > MASK_64) {
    rest >>= 64n;
    length += 64;
  }
  const high = Number(rest >> 32n);
  return high !== 0 ? length + 64 - Math.clz32(high) : length + 32 - Math.clz32(Number(rest));
}

/** @param bits u32 */
export function unpack32(bits: number): Unpacked {
  const negative = bits >>> 31 !== 0;
  const biased = (bits >>> 23) & 0xff;
  const fraction = bits & 0x7fffff;
  if (biased === 0) {
    if (fraction === 0) return zero(negative);
    return { kind: KIND.finite, negative, exponent: -149, significand: BigInt(fraction), denormal: true };
  }
  if (biased === 0xff) {
    return fraction === 0 ? infinity(negative) : nan(negative, BigInt(fraction) << 40n);
  }
  return finite(negative, BigInt(fraction | 0x800000), biased - 150);
}

/** @param bits u64 */
export function unpack64(bits: bigint): Unpacked {
  const negative = bits >> 63n !== 0n;
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  if (biased === 0) {
    if (fraction === 0n) return zero(negative);
    return { kind: KIND.finite, negative, exponent: -1074, significand: fraction, denormal: true };
  }
  if (biased === 0x7ff) return fraction === 0n ? infinity(negative) : nan(negative, fraction << 11n);
  return finite(negative, fraction | (1n << 52n), biased - 1075);
}

export function unpack80({ significand, signExponent }: Bits80): Unpacked {
  const negative = (signExponent & 0x8000) !== 0;
  const biased = signExponent & 0x7fff;
  if (biased === 0) {
    if (significand === 0n) return zero(negative);
    return { kind: KIND.finite, negative, exponent: -16445, significand, denormal: true };
  }
  if ((significand & INTEGER_BIT) === 0n) {
    return { kind: KIND.unsupported, negative, exponent: 0, significand, denormal: false };
  }
  if (biased === 0x7fff) {
    return significand === INTEGER_BIT ? infinity(negative) : nan(negative, significand);
  }
  return finite(negative, significand, biased - 16446);
}

/** Biased exponent and significand (with integer bit) of a finite number that the format can hold exactly. */
function place(x: Unpacked, { precision, minExponent }: Format): { biased: number; significand: bigint } {
  const length = bitLength(x.significand);
  const leading = x.exponent + length - 1;
  const denormal = leading < minExponent;
  const lowest = denormal ? minExponent - precision + 1 : leading - precision + 1;
  const shift = x.exponent - lowest;
  return {
    biased: denormal ? 0 : leading - minExponent + 1,
    significand: shift >= 0 ? x.significand << BigInt(shift) : x.significand >> BigInt(-shift),
  };
}

/** Bits (u32) of a number rounded to single precision. */
export function pack32(x: Unpacked): number {
  const sign = x.negative ? 0x80000000 : 0;
  switch (x.kind) {
    case KIND.zero:
      return sign;
    case KIND.infinity:
      return (sign | 0x7f800000) >>> 0;
    case KIND.finite: {
      const { biased, significand } = place(x, FLOAT32);
      return (sign | (biased << 23) | Number(significand & 0x7fffffn)) >>> 0;
    }
    default:
      return (sign | 0x7f800000 | Number((x.significand >> 40n) & 0x7fffffn)) >>> 0;
  }
}

/** Bits (u64) of a number rounded to double precision. */
export function pack64(x: Unpacked): bigint {
  const sign = x.negative ? INTEGER_BIT : 0n;
  switch (x.kind) {
    case KIND.zero:
      return sign;
    case KIND.infinity:
      return sign | (0x7ffn << 52n);
    case KIND.finite: {
      const { biased, significand } = place(x, FLOAT64);
      return sign | (BigInt(biased) << 52n) | (significand & 0xfffffffffffffn);
    }
    default:
      return sign | (0x7ffn << 52n) | ((x.significand >> 11n) & 0xfffffffffffffn);
  }
}

/** Bits of a number rounded to double extended precision. */
export function pack80(x: Unpacked): Bits80 {
  const sign = x.negative ? 0x8000 : 0;
  switch (x.kind) {
    case KIND.zero:
      return { significand: 0n, signExponent: sign };
    case KIND.infinity:
      return { significand: INTEGER_BIT, signExponent: sign | 0x7fff };
    case KIND.finite: {
      const { biased, significand } = place(x, FLOAT80);
      return { significand, signExponent: sign | biased };
    }
    default:
      return { significand: x.significand, signExponent: sign | 0x7fff };
  }
}
