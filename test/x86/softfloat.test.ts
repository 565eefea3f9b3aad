import { describe, expect, it } from 'vitest';
import { add, compare, div, mul, ORDER, sqrt, sub } from '../../src-core/x86/softfloat/arithmetic.ts';
import {
  convert,
  fromBcd,
  fromInteger,
  roundToIntegral,
  toBcd,
  toSigned,
} from '../../src-core/x86/softfloat/convert.ts';
import {
  type Bits80,
  bitLength,
  FLOAT32,
  FLOAT64,
  FLOAT80,
  type Format,
  KIND,
  pack32,
  pack64,
  pack80,
  type Unpacked,
  unpack32,
  unpack64,
  unpack80,
} from '../../src-core/x86/softfloat/number.ts';
import { extract, remainder, scale } from '../../src-core/x86/softfloat/remainder.ts';
import { FLAG, type FloatContext, ROUNDING } from '../../src-core/x86/softfloat/round.ts';
import {
  arctanOfRatio,
  cos,
  exponentialMinusOne,
  sin,
  tan,
  yLog2,
} from '../../src-core/x86/softfloat/transcendental.ts';
import { Random } from '../fuzz/random.ts';

function context(format: Format, changes: Partial<FloatContext> = {}): FloatContext {
  return {
    rounding: ROUNDING.nearest,
    precision: format.precision,
    masks: 0x3f,
    flags: 0,
    roundedUp: false,
    x87: format === FLOAT80,
    flushToZero: false,
    denormalsAreZero: false,
    ...changes,
  };
}

const buffer = new DataView(new ArrayBuffer(8));
function double(value: number): Unpacked {
  buffer.setFloat64(0, value);
  return unpack64(buffer.getBigUint64(0));
}
function single(value: number): Unpacked {
  buffer.setFloat32(0, value);
  return unpack32(buffer.getUint32(0));
}
function toDouble(x: Unpacked): number {
  buffer.setBigUint64(0, pack64(x));
  return buffer.getFloat64(0);
}
function toSingle(x: Unpacked): number {
  buffer.setUint32(0, pack32(x));
  return buffer.getFloat32(0);
}
function extended(signExponent: number, significand: bigint): Unpacked {
  return unpack80({ signExponent, significand });
}
function hex({ signExponent, significand }: Bits80): string {
  return `${signExponent.toString(16).padStart(4, '0')}:${significand.toString(16).padStart(16, '0')}`;
}

/** Doubles over the whole range, with few and many bits, now and then special ones. */
function randomDouble(random: Random): number {
  const kind = random.below(8);
  const high = random.u32();
  buffer.setUint32(4, kind < 3 ? 0 : random.u32());
  if (kind < 5) buffer.setUint32(0, ((high & 0x800fffff) | ((1023 - 30 + random.below(60)) << 20)) >>> 0);
  else if (kind === 5) buffer.setUint32(0, (high & 0x801fffff) >>> 0);
  else buffer.setUint32(0, high);
  return buffer.getFloat64(0);
}

const CASES = 20_000;

describe('softfloat against the host’s doubles', () => {
  const operations = [
    ['add', add, (a: number, b: number) => a + b],
    ['sub', sub, (a: number, b: number) => a - b],
    ['mul', mul, (a: number, b: number) => a * b],
    ['div', div, (a: number, b: number) => a / b],
  ] as const;
  for (const [name, ours, host] of operations) {
    it(`${name}: double precision`, () => {
      const random = new Random(1);
      for (let i = 0; i < CASES; i++) {
        const a = randomDouble(random);
        const b = randomDouble(random);
        expect(toDouble(ours(context(FLOAT64), FLOAT64, double(a), double(b)))).toBe(host(a, b));
      }
    });
    it(`${name}: single precision`, () => {
      const random = new Random(2);
      for (let i = 0; i < CASES; i++) {
        const a = Math.fround(randomDouble(random) * 2 ** (random.below(80) - 40));
        const b = Math.fround(randomDouble(random));
        // A double holds more than twice a single's bits: rounding it once more is exact for these operations.
        expect(toSingle(ours(context(FLOAT32), FLOAT32, single(a), single(b)))).toBe(Math.fround(host(a, b)));
      }
    });
  }
  it('square roots', () => {
    const random = new Random(3);
    for (let i = 0; i < CASES; i++) {
      const a = randomDouble(random);
      expect(toDouble(sqrt(context(FLOAT64), FLOAT64, double(a)))).toBe(Math.sqrt(a));
    }
  });
  it('comparison', () => {
    const random = new Random(4);
    for (let i = 0; i < CASES; i++) {
      const a = randomDouble(random);
      const b = random.chance(0.2) ? a : randomDouble(random);
      const order = compare(context(FLOAT64), double(a), double(b), false);
      const expected = a < b ? ORDER.less : a > b ? ORDER.greater : a === b ? ORDER.equal : ORDER.unordered;
      expect(order).toBe(expected);
    }
  });
  it('conversion to single and to integers', () => {
    const random = new Random(5);
    for (let i = 0; i < CASES; i++) {
      const a = randomDouble(random);
      expect(toSingle(convert(context(FLOAT32), FLOAT32, double(a), true))).toBe(Math.fround(a));
      const whole = toSigned(context(FLOAT64), double(a), 32, ROUNDING.zero);
      const inRange = Math.trunc(a) >= -(2 ** 31) && Math.trunc(a) < 2 ** 31;
      expect(whole).toBe(inRange ? BigInt(Math.trunc(a)) : undefined);
      for (const [rounding, host] of [
        [ROUNDING.down, Math.floor],
        [ROUNDING.up, Math.ceil],
        [ROUNDING.zero, Math.trunc],
      ] as const) {
        expect(toDouble(roundToIntegral(context(FLOAT64), double(a), rounding))).toBe(host(a));
      }
    }
  });
});

describe('exception flags and rounding', () => {
  it('detects tininess after rounding', () => {
    // 2^-126 * (1 - 2^-25) rounds up to the smallest normal number even with an unlimited exponent.
    const a = double(2 ** -126 - 2 ** -151);
    const ours = context(FLOAT32);
    expect(toSingle(convert(ours, FLOAT32, a, true))).toBe(2 ** -126);
    expect(ours.flags).toBe(FLAG.inexact);
    // With 2^-24 it stays below: tiny, although the denormal rounding gives the smallest normal number again.
    const tiny = context(FLOAT32);
    expect(toSingle(convert(tiny, FLOAT32, double(2 ** -126 - 2 ** -150), true))).toBe(2 ** -126);
    expect(tiny.flags).toBe(FLAG.inexact | FLAG.underflow);
  });
  it('an exact denormal result raises nothing while underflow is masked, and underflow when it is not', () => {
    const masked = context(FLOAT64);
    mul(masked, FLOAT64, double(2 ** -1000), double(2 ** -70));
    expect(masked.flags).toBe(0);
    const unmasked = context(FLOAT64, { masks: 0x3f & ~FLAG.underflow });
    mul(unmasked, FLOAT64, double(2 ** -1000), double(2 ** -70));
    expect(unmasked.flags).toBe(FLAG.underflow);
  });
  it('overflows to infinity or the largest number by rounding', () => {
    const results = [ROUNDING.nearest, ROUNDING.down, ROUNDING.up, ROUNDING.zero].map((rounding) => {
      const ours = context(FLOAT64, { rounding });
      const value = toDouble(mul(ours, FLOAT64, double(1e300), double(1e300)));
      expect(ours.flags).toBe(FLAG.overflow | FLAG.inexact);
      return value;
    });
    expect(results).toEqual([Infinity, Number.MAX_VALUE, Infinity, Number.MAX_VALUE]);
  });
  it('flushes to zero and takes denormals for zeros', () => {
    const flush = context(FLOAT32, { flushToZero: true });
    expect(toSingle(mul(flush, FLOAT32, single(-(2 ** -100)), single(2 ** -40)))).toBe(-0);
    expect(flush.flags).toBe(FLAG.underflow | FLAG.inexact);
    const zeros = context(FLOAT32, { denormalsAreZero: true });
    expect(toSingle(add(zeros, FLOAT32, single(2 ** -140), single(1)))).toBe(1);
    expect(zeros.flags).toBe(0);
  });
  it('divides by zero, and finds invalid operations before denormal operands', () => {
    const byZero = context(FLOAT64);
    expect(toDouble(div(byZero, FLOAT64, double(-1), double(0)))).toBe(-Infinity);
    expect(byZero.flags).toBe(FLAG.divideByZero);
    const invalid = context(FLOAT64);
    expect(pack64(sub(invalid, FLOAT64, double(Infinity), double(Infinity)))).toBe(0xfff8000000000000n);
    expect(invalid.flags).toBe(FLAG.invalid);
  });
});

describe('NaN', () => {
  const first = unpack64(0x7ff0000000000123n);
  const second = unpack64(0xfff8000000000456n);
  it('SSE takes the first operand, quiet', () => {
    const ours = context(FLOAT64);
    expect(pack64(add(ours, FLOAT64, first, second))).toBe(0x7ff8000000000123n);
    expect(ours.flags).toBe(FLAG.invalid);
    expect(pack64(add(context(FLOAT64), FLOAT64, second, first))).toBe(0xfff8000000000456n);
  });
  it('x87 takes the quiet one, then the larger significand, then the positive one', () => {
    const nan = (signExponent: number, significand: bigint): Unpacked => extended(signExponent, significand);
    const signalling = nan(0x7fff, 0xbfffffffffffffffn);
    const quiet = nan(0xffff, 0xc000000000000001n);
    const larger = nan(0x7fff, 0xc000000000000002n);
    const sum = (a: Unpacked, b: Unpacked): string => hex(pack80(add(context(FLOAT80), FLOAT80, a, b)));
    expect(sum(signalling, quiet)).toBe('ffff:c000000000000001');
    expect(sum(quiet, larger)).toBe('7fff:c000000000000002');
    expect(sum(quiet, nan(0x7fff, 0xc000000000000001n))).toBe('7fff:c000000000000001');
  });
  it('refuses the 80-bit encodings of the 8087', () => {
    for (const [signExponent, significand] of [
      [0x3fff, 0x4000000000000000n],
      [0x7fff, 0x0000000000000000n],
      [0x7fff, 0x4000000000000000n],
    ] as const) {
      expect(extended(signExponent, significand).kind).toBe(KIND.unsupported);
      const ours = context(FLOAT80);
      const result = add(ours, FLOAT80, extended(signExponent, significand), extended(0x3fff, 1n << 63n));
      expect(hex(pack80(result))).toBe('ffff:c000000000000000');
      expect(ours.flags).toBe(FLAG.invalid);
    }
    // A pseudo-denormal is a number.
    expect(hex(pack80(extended(0, 1n << 63n)))).toBe('0001:8000000000000000');
  });
});

describe('double extended precision', () => {
  const ONE = extended(0x3fff, 1n << 63n);
  const THREE = extended(0x4000, 0xc000000000000000n);
  it('1 / 3 with each precision control', () => {
    const third = (precision: number): string =>
      hex(pack80(div(context(FLOAT80, { precision }), FLOAT80, ONE, THREE)));
    expect(third(64)).toBe('3ffd:aaaaaaaaaaaaaaab');
    expect(third(53)).toBe('3ffd:aaaaaaaaaaaaa800');
    expect(third(24)).toBe('3ffd:aaaaab0000000000');
  });
  it('says whether it rounded up', () => {
    const ours = context(FLOAT80);
    div(ours, FLOAT80, ONE, THREE);
    expect(ours.roundedUp).toBe(true);
    const down = context(FLOAT80, { rounding: ROUNDING.zero });
    expect(hex(pack80(div(down, FLOAT80, ONE, THREE)))).toBe('3ffd:aaaaaaaaaaaaaaaa');
    expect(down.roundedUp).toBe(false);
  });
  it('adjusts the exponent where overflow is unmasked', () => {
    const ours = context(FLOAT80, { masks: 0x3f & ~FLAG.overflow });
    const huge = extended(0x7ffe, 1n << 63n);
    // 2^16383 squared is 2^32766; less 24576 is 2^8190.
    expect(hex(pack80(mul(ours, FLOAT80, huge, huge)))).toBe('5ffd:8000000000000000');
    expect(ours.flags).toBe(FLAG.overflow);
  });
  it('FPREM: exact, and partial for far exponents', () => {
    const ten = fromInteger(10n);
    const done = remainder(context(FLOAT80), fromInteger(-37n), ten, false);
    expect([done.quotient, done.partial, hex(pack80(done.value))]).toEqual([
      3,
      false,
      hex(pack80(fromInteger(-7n))),
    ]);
    const nearest = remainder(context(FLOAT80), fromInteger(37n), ten, true);
    expect([nearest.quotient, hex(pack80(nearest.value))]).toEqual([4, hex(pack80(fromInteger(-3n)))]);
    let value = extended(0x3fff + 1000, 0xfedcba9876543211n);
    const exact = (0xfedcba9876543211n << 937n) % 10n;
    let steps = 0;
    for (; ; steps++) {
      const step = remainder(context(FLOAT80), value, ten, false);
      ({ value } = step);
      if (!step.partial) break;
    }
    expect(steps).toBeGreaterThan(10);
    expect(hex(pack80(value))).toBe(hex(pack80(fromInteger(exact))));
  });
  it('FSCALE and FXTRACT', () => {
    expect(hex(pack80(scale(context(FLOAT80), THREE, fromInteger(-3n))))).toBe('3ffd:c000000000000000');
    const { exponent, significand } = extract(context(FLOAT80), extended(0x0000, 1n));
    expect(hex(pack80(exponent))).toBe(hex(pack80(fromInteger(-16445n))));
    expect(hex(pack80(significand))).toBe('3fff:8000000000000000');
  });
  it('packed BCD', () => {
    const bytes = toBcd(context(FLOAT80), fromInteger(-123456789012345678n));
    expect(Buffer.from(bytes).toString('hex')).toBe('78563412907856341280');
    expect(hex(pack80(fromBcd(bytes)))).toBe(hex(pack80(fromInteger(-123456789012345678n))));
    const ours = context(FLOAT80);
    expect(Buffer.from(toBcd(ours, fromInteger(10n ** 18n))).toString('hex')).toBe(
      '000000000000 00c0ffff'.replace(' ', ''),
    );
    expect(ours.flags).toBe(FLAG.invalid);
  });
  it('bit lengths of long numbers', () => {
    for (const length of [1, 31, 32, 33, 63, 64, 65, 1024, 1025, 5000, 32767]) {
      expect(bitLength(1n << BigInt(length - 1))).toBe(length);
      expect(bitLength((1n << BigInt(length)) - 1n)).toBe(length);
    }
  });
});

describe('transcendental functions', () => {
  /** An 80-bit number as the nearest double. */
  const value = (x: Unpacked): number => toDouble(convert(context(FLOAT64), FLOAT64, x, false));
  const close = (ours: number, host: number): void => {
    expect(Math.abs(ours - host)).toBeLessThanOrEqual(Math.abs(host) * 2 ** -51);
  };
  it('agree with the host’s library to its last bits', () => {
    const random = new Random(6);
    for (let i = 0; i < 300; i++) {
      const x = (random.u32() / 2 ** 32 - 0.5) * 2 ** (random.below(12) - 6);
      const y = (random.u32() / 2 ** 32 + 0.1) * 2 ** (random.below(40) - 20);
      const ours = context(FLOAT80);
      close(value(sin(ours, double(x))), Math.sin(x));
      close(value(cos(ours, double(x))), Math.cos(x));
      close(value(tan(ours, double(x))), Math.tan(x));
      close(value(arctanOfRatio(ours, double(x), double(y))), Math.atan2(x, y));
      close(value(arctanOfRatio(ours, double(x), double(-y))), Math.atan2(x, -y));
      const power = x / 64;
      close(value(exponentialMinusOne(ours, double(power))), Math.expm1(power * Math.LN2));
      close(value(yLog2(ours, double(y), double(3))), 3 * Math.log2(y));
      expect(ours.flags).toBe(FLAG.inexact);
    }
  });
  it('are exact where the result is', () => {
    const ours = context(FLOAT80);
    expect(value(yLog2(ours, double(0.125), double(7)))).toBe(-21);
    expect(value(exponentialMinusOne(ours, double(-1)))).toBe(-0.5);
    expect(value(cos(ours, double(0)))).toBe(1);
    expect(ours.flags).toBe(0);
  });
  it('reduce arguments with 66 bits of pi', () => {
    // Seen on AMD and Intel processors: sin of the closest number to pi is -2^-64, not -2^-64.1.
    const pi = extended(0x4000, 0xc90fdaa22168c235n);
    expect(hex(pack80(sin(context(FLOAT80), pi)))).toBe('bfbf:8000000000000000');
  });
});
