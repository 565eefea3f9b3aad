/**
 * SSE floating-point arithmetic, exactly, with MXCSR's rounding, masks, FTZ and DAZ (Intel SDM volume 1, chapter 10 and
 * section 11.5). Callouts: a and b are 128-bit operands (of scalars the low lanes count), dst receives the result.
 */
import { CR4_OSXMMEXCPT } from '../bits.ts';
import { type Callout, defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { GuestFault, ud, VECTOR } from '../faults.ts';
import { FPU } from '../layout.ts';
import { add, compare, div, mul, ORDER, type Order, sqrt, sub } from '../softfloat/arithmetic.ts';
import { convert, fromInteger, roundToIntegral, toSigned } from '../softfloat/convert.ts';
import {
  FLOAT32,
  FLOAT64,
  type Format,
  isNan,
  pack32,
  pack64,
  type Unpacked,
  unpack32,
  unpack64,
  zero,
} from '../softfloat/number.ts';
import { FLAG, type FloatContext, PRECOMPUTATION, ROUNDING } from '../softfloat/round.ts';
import { setOrderFlags } from './arithmetic.ts';

/** Bits of MXCSR (Intel SDM volume 1, figure 10-3). */
export const MXCSR = { flags: 0x3f, daz: 0x40, maskShift: 7, roundingShift: 13, ftz: 0x8000 } as const;

/** Environment of the SSE operation being executed. */
const sseContext: FloatContext = {
  rounding: 0,
  precision: 24,
  masks: 0x3f,
  flags: 0,
  roundedUp: false,
  x87: false,
  flushToZero: false,
  denormalsAreZero: false,
};

function begin(cpu: Cpu): FloatContext {
  const mxcsr = cpu.get32(FPU.mxcsr);
  sseContext.rounding = (mxcsr >> MXCSR.roundingShift) & 3;
  sseContext.masks = (mxcsr >> MXCSR.maskShift) & MXCSR.flags;
  sseContext.flags = 0;
  sseContext.flushToZero = (mxcsr & MXCSR.ftz) !== 0;
  sseContext.denormalsAreZero = (mxcsr & MXCSR.daz) !== 0;
  return sseContext;
}

/**
 * Enters what was raised into MXCSR. All lanes' exceptions are found before any is reported; with one unmasked that is
 * found before the computation, those found after it are not (SDM volume 1, section 11.5.3).
 * @throws GuestFault #XM (#UD without CR4.OSXMMEXCPT) when one is unmasked: the destination keeps its value.
 */
function finish(cpu: Cpu, context: FloatContext): void {
  let { flags } = context;
  if (flags === 0) return;
  const unmasked = flags & ~context.masks;
  if ((unmasked & PRECOMPUTATION) !== 0) flags &= PRECOMPUTATION;
  cpu.set32(FPU.mxcsr, cpu.get32(FPU.mxcsr) | flags);
  if (unmasked === 0) return;
  if ((cpu.cr4 & CR4_OSXMMEXCPT) === 0) throw ud();
  throw new GuestFault(VECTOR.XM);
}

/** Access to the lanes of one format. */
interface Lanes {
  readonly format: Format;
  readonly bytes: 4 | 8;
  readonly read: (cpu: Cpu, loc: number) => Unpacked;
  readonly pack: (x: Unpacked) => bigint;
  readonly unpack: (bits: bigint) => Unpacked;
  readonly bits: (cpu: Cpu, loc: number) => bigint;
  readonly write: (cpu: Cpu, loc: number, bits: bigint) => void;
}
const SINGLE: Lanes = {
  format: FLOAT32,
  bytes: 4,
  read: (cpu, loc) => unpack32(cpu.get32(loc)),
  pack: (x) => BigInt(pack32(x)),
  unpack: (bits) => unpack32(Number(bits)),
  bits: (cpu, loc) => BigInt(cpu.get32(loc)),
  write: (cpu, loc, bits) => cpu.set32(loc, Number(bits)),
};
const DOUBLE: Lanes = {
  format: FLOAT64,
  bytes: 8,
  read: (cpu, loc) => unpack64(cpu.get64(loc)),
  pack: pack64,
  unpack: unpack64,
  bits: (cpu, loc) => cpu.get64(loc),
  write: (cpu, loc, bits) => cpu.set64(loc, bits),
};

/** Suffixes of instruction names: how many lanes of which format. */
export type Shape = 'ss' | 'sd' | 'ps' | 'pd';
export const SHAPES: readonly Shape[] = ['ss', 'sd', 'ps', 'pd'];
function lanesOf(shape: Shape): { lanes: Lanes; count: number } {
  const lanes = shape.endsWith('s') ? SINGLE : DOUBLE;
  return { lanes, count: shape.startsWith('s') ? 1 : 16 / lanes.bytes };
}

/** Computes `count` lanes and writes them to dst together; the rest of dst stays. */
function eachLane(
  cpu: Cpu,
  { bytes, write }: Lanes,
  count: number,
  dst: number,
  compute: (context: FloatContext, at: number, lane: number) => bigint,
): void {
  const context = begin(cpu);
  const results: bigint[] = [];
  for (let lane = 0; lane < count; lane++) results.push(compute(context, lane * bytes, lane));
  finish(cpu, context);
  results.forEach((bits, lane) => write(cpu, dst + lane * bytes, bits));
}

type Operation = (context: FloatContext, format: Format, a: Unpacked, b: Unpacked) => Unpacked;

/** The callouts of one operation, by shape. */
export type ByShape = Readonly<Record<Shape, Callout>>;

function forShapes(
  name: string,
  run: (cpu: Cpu, lanes: Lanes, count: number, dst: number, a: number, b: number, imm: number) => void,
): ByShape {
  const define = (shape: Shape): Callout => {
    const { lanes, count } = lanesOf(shape);
    return defineCallout(`${name}${shape}`, 'floatingPoint', (cpu, dst, a, b, imm) => {
      run(cpu, lanes, count, dst, a, b, imm);
    });
  };
  return { ss: define('ss'), sd: define('sd'), ps: define('ps'), pd: define('pd') };
}

/** dst lane = a OP b */
function binary(name: string, operation: Operation): ByShape {
  return forShapes(name, (cpu, lanes, count, dst, a, b) => {
    eachLane(cpu, lanes, count, dst, (context, at) => {
      context.precision = lanes.format.precision;
      return lanes.pack(operation(context, lanes.format, lanes.read(cpu, a + at), lanes.read(cpu, b + at)));
    });
  });
}

export const sseAdd = binary('add', add);
export const sseSub = binary('sub', sub);
export const sseMul = binary('mul', mul);
export const sseDiv = binary('div', div);

/** SQRT: of operand b. */
export const sseSqrt = forShapes('sqrt', (cpu, lanes, count, dst, _a, b) => {
  eachLane(cpu, lanes, count, dst, (context, at) => {
    context.precision = lanes.format.precision;
    return lanes.pack(sqrt(context, lanes.format, lanes.read(cpu, b + at)));
  });
});

/** MIN and MAX: the second operand, bit for bit, when either is a NaN or both are zeros. */
function extremum(name: string, wanted: Order): ByShape {
  return forShapes(name, (cpu, lanes, count, dst, a, b) => {
    eachLane(cpu, lanes, count, dst, (context, at) => {
      const first = lanes.read(cpu, a + at);
      const second = lanes.read(cpu, b + at);
      const order = compare(context, first, second, true);
      const chosen = order === wanted ? first : second;
      const loc = order === wanted ? a + at : b + at;
      return context.denormalsAreZero && chosen.denormal
        ? lanes.pack(zero(chosen.negative))
        : lanes.bits(cpu, loc);
    });
  });
}
export const sseMin = extremum('min', ORDER.less);
export const sseMax = extremum('max', ORDER.greater);

/** Whether predicate 0..7 (EQ LT LE UNORD NEQ NLT NLE ORD) holds for an order. */
function holds(predicate: number, order: Order): boolean {
  let result: boolean;
  switch (predicate & 3) {
    case 0:
      result = order === ORDER.equal;
      break;
    case 1:
      result = order === ORDER.less;
      break;
    case 2:
      result = order === ORDER.less || order === ORDER.equal;
      break;
    default:
      result = order === ORDER.unordered;
  }
  return (predicate & 4) !== 0 ? !result : result;
}

/** CMPccPS and so on, the predicate in `imm`: all ones or zeros. */
export const sseCompare = forShapes('cmp', (cpu, lanes, count, dst, a, b, imm) => {
  const signalling = (imm & 3) === 1 || (imm & 3) === 2;
  const ones = (1n << BigInt(lanes.bytes * 8)) - 1n;
  eachLane(cpu, lanes, count, dst, (context, at) => {
    const order = compare(context, lanes.read(cpu, a + at), lanes.read(cpu, b + at), signalling);
    return holds(imm, order) ? ones : 0n;
  });
});

/** COMISS, COMISD (`c` = 1: signalling) and UCOMISS, UCOMISD: RFLAGS by the order of a and b. */
function compareFlags(name: string, lanes: Lanes): Callout {
  return defineCallout(name, 'floatingPoint', (cpu, _dst, a, b, _imm, c) => {
    const context = begin(cpu);
    const order = compare(context, lanes.read(cpu, a), lanes.read(cpu, b), c === 1);
    finish(cpu, context);
    setOrderFlags(cpu, order);
  });
}
export const comiss = compareFlags('comiss', SINGLE);
export const comisd = compareFlags('comisd', DOUBLE);

/** ADDSUBPS, ADDSUBPD: even lanes subtract, odd lanes add. */
export const sseAddSub = forShapes('addsub', (cpu, lanes, count, dst, a, b) => {
  eachLane(cpu, lanes, count, dst, (context, at, lane) => {
    context.precision = lanes.format.precision;
    const operation = (lane & 1) === 0 ? sub : add;
    return lanes.pack(operation(context, lanes.format, lanes.read(cpu, a + at), lanes.read(cpu, b + at)));
  });
});

/** HADD, HSUB: neighbours of a, then of b. */
function horizontal(name: string, operation: Operation): ByShape {
  return forShapes(name, (cpu, lanes, count, dst, a, b) => {
    eachLane(cpu, lanes, count, dst, (context, _at, lane) => {
      context.precision = lanes.format.precision;
      const half = count / 2;
      const from = (lane < half ? a : b) + (lane % half) * 2 * lanes.bytes;
      const first = lanes.read(cpu, from);
      const second = lanes.read(cpu, from + lanes.bytes);
      return lanes.pack(operation(context, lanes.format, first, second));
    });
  });
}
export const sseHadd = horizontal('hadd', add);
export const sseHsub = horizontal('hsub', sub);

/** ROUND of operand b: `imm` bits 1..0 rounding, bit 2 MXCSR's instead, bit 3 no inexact exception. */
export const sseRound = forShapes('round', (cpu, lanes, count, dst, _a, b, imm) => {
  eachLane(cpu, lanes, count, dst, (context, at) => {
    const before = context.flags;
    const rounding = (imm & 4) !== 0 ? context.rounding : imm & 3;
    const result = roundToIntegral(context, lanes.read(cpu, b + at), rounding);
    if ((imm & 8) !== 0) context.flags = before | (context.flags & ~FLAG.inexact);
    return lanes.pack(result);
  });
});

/**
 * DPPS, DPPD: products chosen by the high half of `imm`, summed, to the lanes chosen by the low half. Each step rounds
 * and raises by itself, and takes the results of the one before as operands like any others (denormals, DAZ).
 */
export const sseDotProduct = forShapes('dp', (cpu, lanes, count, dst, a, b, imm) => {
  const { format, bytes } = lanes;
  const context = begin(cpu);
  context.precision = format.precision;
  const step = (operation: Operation, x: Unpacked, y: Unpacked): Unpacked =>
    lanes.unpack(lanes.pack(operation(context, format, x, y)));
  const products: Unpacked[] = [];
  for (let lane = 0; lane < count; lane++) {
    const at = lane * bytes;
    const chosen = ((imm >> (4 + lane)) & 1) !== 0;
    products.push(chosen ? step(mul, lanes.read(cpu, a + at), lanes.read(cpu, b + at)) : zero(false));
  }
  finish(cpu, context);
  let total = step(add, products[0]!, products[1]!);
  if (count === 4) {
    const upper = step(add, products[2]!, products[3]!);
    finish(cpu, context);
    total = step(add, total, upper);
  }
  finish(cpu, context);
  const bits = lanes.pack(total);
  for (let lane = 0; lane < count; lane++) {
    lanes.write(cpu, dst + lane * bytes, ((imm >> lane) & 1) !== 0 ? bits : 0n);
  }
});

/** Types of conversions: field c of `sseConvert` is from | to << 2 | count << 4 | CONVERT.truncate. */
export const CONVERT = {
  i32: 0,
  i64: 1,
  f32: 2,
  f64: 3,
  toShift: 2,
  countShift: 4,
  truncate: 0x100,
} as const;

/** Converts `count` elements of b to dst; the rest of dst stays. */
export const sseConvert = defineCallout('sseConvert', 'floatingPoint', (cpu, dst, _a, b, _imm, c) => {
  const from = c & 3;
  const to = (c >> CONVERT.toShift) & 3;
  const count = (c >> CONVERT.countShift) & 7;
  const size = (type: number): 4 | 8 => (type === CONVERT.i64 || type === CONVERT.f64 ? 8 : 4);
  const context = begin(cpu);
  const results: bigint[] = [];
  for (let element = 0; element < count; element++) {
    const loc = b + element * size(from);
    const source =
      from === CONVERT.f32
        ? SINGLE.read(cpu, loc)
        : from === CONVERT.f64
          ? DOUBLE.read(cpu, loc)
          : fromInteger(from === CONVERT.i64 ? cpu.i64[loc >> 3]! : BigInt(cpu.i32[loc >> 2]!));
    if (to === CONVERT.i32 || to === CONVERT.i64) {
      const bits = size(to) * 8;
      const rounding = (c & CONVERT.truncate) !== 0 ? ROUNDING.zero : context.rounding;
      results.push(toSigned(context, source, bits, rounding) ?? -1n << BigInt(bits - 1));
    } else {
      const lanes = to === CONVERT.f32 ? SINGLE : DOUBLE;
      context.precision = lanes.format.precision;
      results.push(lanes.pack(convert(context, lanes.format, source, true)));
    }
  }
  finish(cpu, context);
  results.forEach((bits, element) => {
    if (size(to) === 8) cpu.set64(dst + element * 8, BigInt.asUintN(64, bits));
    else cpu.set32(dst + element * 4, Number(BigInt.asUintN(32, bits)));
  });
});

/**
 * RCPSS, RCPPS, RSQRTSS, RSQRTPS of operand b: approximations with a relative error below 1.5 * 2^-12, whose bits
 * differ between processors. They raise nothing and take denormals for zeros.
 */
function approximation(name: string, exact: (value: number) => number): ByShape {
  return forShapes(name, (cpu, _lanes, count, dst, _a, b) => {
    for (let lane = 0; lane < count; lane++) {
      const at = lane * 4;
      cpu.set32(dst + at, approximate(unpack32(cpu.get32(b + at)), exact));
    }
  });
}

const scratch = new DataView(new ArrayBuffer(4));
/** Fraction bits an approximation keeps. */
const APPROXIMATE_BITS = 12;

function approximate(source: Unpacked, exact: (value: number) => number): number {
  if (isNan(source)) return pack32(source) | 0x400000;
  const x = source.denormal ? zero(source.negative) : source;
  scratch.setUint32(0, pack32(x));
  scratch.setFloat32(0, exact(scratch.getFloat32(0)));
  const bits = scratch.getUint32(0);
  const biased = (bits >>> 23) & 0xff;
  if (Number.isNaN(scratch.getFloat32(0))) return 0xffc00000;
  if (biased === 0) return bits & 0x80000000;
  if (biased === 0xff) return bits;
  const cut = 23 - APPROXIMATE_BITS;
  return (((bits >>> cut) + ((bits >>> (cut - 1)) & 1)) << cut) >>> 0;
}
export const sseReciprocal = approximation('rcp', (value) => 1 / value);
export const sseReciprocalSqrt = approximation('rsqrt', (value) => 1 / Math.sqrt(value));
