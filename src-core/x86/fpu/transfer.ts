/** x87 loads, stores, constants and register moves (Intel SDM volume 1, section 8.3.2 to 8.3.4). */
import type { Cpu } from '../cpu.ts';
import { FPU } from '../layout.ts';
import { ACCESS } from '../paging.ts';
import { BCD_INDEFINITE, convert, fromBcd, fromInteger, toBcd, toSigned } from '../softfloat/convert.ts';
import {
  type Bits80,
  DEFAULT_NAN,
  FLOAT32,
  FLOAT64,
  FLOAT80,
  pack32,
  pack64,
  pack80,
  type Unpacked,
  unpack32,
  unpack64,
} from '../softfloat/number.ts';
import { FLAG, type FloatContext, PRECOMPUTATION, ROUNDING } from '../softfloat/round.ts';
import {
  begin,
  clearC1,
  DEFAULT_NAN_BITS,
  finish,
  isEmpty,
  physical,
  pop,
  pushBits,
  pushOverflows,
  readBits,
  read,
  setTop,
  stackOverflow,
  stackUnderflow,
  writeBits,
} from './state.ts';

/** Pushes bits that raise nothing but stack overflow: FLD m80, FILD, FBLD. */
export function loadBits(cpu: Cpu, bits: Bits80): void {
  if (pushOverflows(cpu)) {
    if (stackOverflow(cpu)) pushBits(cpu, DEFAULT_NAN_BITS);
    return;
  }
  clearC1(cpu);
  pushBits(cpu, bits);
}

/** FLD m32 and FLD m64: signalling NaNs and denormals are noticed. */
function loadShort(cpu: Cpu, source: Unpacked): void {
  if (pushOverflows(cpu)) {
    if (stackOverflow(cpu)) pushBits(cpu, DEFAULT_NAN_BITS);
    return;
  }
  const context = begin(cpu);
  const value = convert(context, FLOAT80, source, true);
  // An unmasked denormal exception does not keep the value from being pushed.
  if (finish(cpu, context) || (context.flags & FLAG.invalid) === 0) pushBits(cpu, pack80(value));
}

export function loadFloat32(cpu: Cpu, loc: number): void {
  loadShort(cpu, unpack32(cpu.get32(loc)));
}
export function loadFloat64(cpu: Cpu, loc: number): void {
  loadShort(cpu, unpack64(cpu.get64(loc)));
}
export function loadFloat80(cpu: Cpu, loc: number): void {
  loadBits(cpu, { significand: cpu.get64(loc), signExponent: cpu.u16[(loc + 8) >> 1]! });
}

/** A signed integer of so many bits at a location. */
export function integerAt(cpu: Cpu, loc: number, bits: 16 | 32 | 64): Unpacked {
  if (bits === 64) return fromInteger(cpu.i64[loc >> 3]!);
  const word = cpu.i32[loc >> 2]!;
  return fromInteger(BigInt(bits === 16 ? (word << 16) >> 16 : word));
}
export function loadInteger(cpu: Cpu, loc: number, bits: 16 | 32 | 64): void {
  loadBits(cpu, pack80(integerAt(cpu, loc, bits)));
}
export function loadBcd(cpu: Cpu, loc: number): void {
  loadBits(cpu, pack80(fromBcd(cpu.u8.subarray(loc, loc + 10))));
}

/** FLD ST(i) */
export function loadRegister(cpu: Cpu, i: number): void {
  if (isEmpty(cpu, i)) {
    if (!stackUnderflow(cpu)) return;
    pushBits(cpu, DEFAULT_NAN_BITS);
    return;
  }
  loadBits(cpu, readBits(cpu, i));
}

/** FST(P) ST(i) */
export function storeRegister(cpu: Cpu, i: number, popping: boolean): void {
  if (isEmpty(cpu, 0)) {
    if (!stackUnderflow(cpu)) return;
    writeBits(cpu, i, DEFAULT_NAN_BITS);
  } else {
    clearC1(cpu);
    writeBits(cpu, i, readBits(cpu, 0));
  }
  if (popping) pop(cpu);
}

/** FSTPNCE ST(i), an FSTP that does not notice an empty ST(0): it only pops it. */
export function storeUnchecked(cpu: Cpu, i: number): void {
  clearC1(cpu);
  if (!isEmpty(cpu, 0)) writeBits(cpu, i, readBits(cpu, 0));
  pop(cpu);
}

/** FXCH */
export function exchange(cpu: Cpu, i: number): void {
  for (const register of [0, i]) {
    if (!isEmpty(cpu, register)) continue;
    if (!stackUnderflow(cpu)) return;
    if (isEmpty(cpu, 0)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    if (isEmpty(cpu, i)) writeBits(cpu, i, DEFAULT_NAN_BITS);
    swap(cpu, i);
    return;
  }
  clearC1(cpu);
  swap(cpu, i);
}

function swap(cpu: Cpu, i: number): void {
  const first = readBits(cpu, 0);
  writeBits(cpu, 0, readBits(cpu, i));
  writeBits(cpu, i, first);
}

/** FCMOVcc, its condition being true or not; an empty register counts either way. C1 stays. */
export function moveIf(cpu: Cpu, i: number, condition: boolean): void {
  if (isEmpty(cpu, 0) || isEmpty(cpu, i)) {
    if (stackUnderflow(cpu)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return;
  }
  if (condition) writeBits(cpu, 0, readBits(cpu, i));
}

/** FCHS and FABS: the sign bit of ST(0), whatever it holds. */
export function changeSign(cpu: Cpu, absolute: boolean): void {
  if (isEmpty(cpu, 0)) {
    if (stackUnderflow(cpu)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return;
  }
  clearC1(cpu);
  const { significand, signExponent } = readBits(cpu, 0);
  writeBits(cpu, 0, {
    significand,
    signExponent: absolute ? signExponent & 0x7fff : signExponent ^ 0x8000,
  });
}

/** Constants as 64-bit significands with 2 to 4 more bits, exponent of the leading bit (SDM volume 2, "FLD1..."). */
interface Constant {
  readonly significand: bigint;
  readonly signExponent: number;
  /** What was cut off is more than half a unit: rounding to nearest takes the next one. */
  readonly nearestUp: boolean;
  readonly exact: boolean;
}

function constant(significand: bigint, exponent: number, nearestUp: boolean, exact = false): Constant {
  return { significand, signExponent: 0x3fff + exponent, nearestUp, exact };
}

/** FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ in encoding order, truncated to 64 bits. */
const CONSTANTS: readonly Constant[] = [
  constant(0x8000000000000000n, 0, false, true),
  constant(0xd49a784bcd1b8afen, 1, false),
  constant(0xb8aa3b295c17f0bbn, 0, true),
  constant(0xc90fdaa22168c234n, 1, true),
  constant(0x9a209a84fbcff798n, -2, true),
  constant(0xb17217f7d1cf79abn, -1, true),
  constant(0n, -0x3fff, false, true),
];

export function loadConstant(cpu: Cpu, index: number): void {
  const { significand, signExponent, nearestUp, exact } = CONSTANTS[index]!;
  const { rounding } = begin(cpu);
  const up = !exact && (rounding === ROUNDING.up || (rounding === ROUNDING.nearest && nearestUp));
  loadBits(cpu, { significand: up ? significand + 1n : significand, signExponent });
}

/** Whether the exceptions raised keep a store from happening: overflow and underflow too, where unmasked. */
const STORE_FORBIDDEN = PRECOMPUTATION | FLAG.overflow | FLAG.underflow;

/**
 * Stores what `convertTop` makes of ST(0), of so many bytes. The memory access (`put`) comes before any change of
 * state, because it may throw a GuestFault; so does the check that it may be made where an exception forbids it.
 */
function store<T>(
  cpu: Cpu,
  lin: number,
  bytes: number,
  popping: boolean,
  indefinite: T,
  convertTop: (context: FloatContext, x: Unpacked) => T,
  put: (value: T) => void,
): void {
  const context = begin(cpu);
  if (isEmpty(cpu, 0)) {
    if ((context.masks & FLAG.invalid) !== 0) put(indefinite);
    else cpu.mmu.probe(lin, bytes, ACCESS.write);
    if (!stackUnderflow(cpu)) return;
  } else {
    const value = convertTop(context, read(cpu, 0));
    const unmasked = context.flags & ~context.masks;
    const forbidden = (unmasked & STORE_FORBIDDEN) !== 0;
    if (forbidden) cpu.mmu.probe(lin, bytes, ACCESS.write);
    else put(value);
    if ((unmasked & (FLAG.overflow | FLAG.underflow)) !== 0) {
      // Nothing was rounded, then.
      context.flags &= ~FLAG.inexact;
      context.roundedUp = false;
    }
    finish(cpu, context);
    if (forbidden) return;
  }
  if (popping) pop(cpu);
}

/** FST(P) m32; `lin` is the linear address. */
export function storeFloat32(cpu: Cpu, lin: number, popping: boolean): void {
  const toFormat = (context: FloatContext, x: Unpacked): Unpacked => {
    context.precision = FLOAT32.precision;
    return convert(context, FLOAT32, x, false);
  };
  store(cpu, lin, 4, popping, DEFAULT_NAN, toFormat, (value) => cpu.mmu.write32(lin, pack32(value)));
}

/** FST(P) m64 */
export function storeFloat64(cpu: Cpu, lin: number, popping: boolean): void {
  const toFormat = (context: FloatContext, x: Unpacked): Unpacked => {
    context.precision = FLOAT64.precision;
    return convert(context, FLOAT64, x, false);
  };
  store(cpu, lin, 8, popping, DEFAULT_NAN, toFormat, (value) => cpu.mmu.write64(lin, pack64(value)));
}

/** The ten bytes of a register in memory. */
export function bytesOf({ significand, signExponent }: Bits80): Uint8Array {
  const bytes = new Uint8Array(10);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, significand, true);
  view.setUint16(8, signExponent, true);
  return bytes;
}

/** FSTP m80: the bits as they are. */
export function storeFloat80(cpu: Cpu, lin: number): void {
  if (isEmpty(cpu, 0)) {
    if ((cpu.get32(FPU.fcw) & FLAG.invalid) !== 0) cpu.mmu.writeBytes(lin, bytesOf(DEFAULT_NAN_BITS));
    else cpu.mmu.probe(lin, 10, ACCESS.write);
    if (!stackUnderflow(cpu)) return;
  } else {
    cpu.mmu.writeBytes(lin, bytesOf(readBits(cpu, 0)));
    clearC1(cpu);
  }
  pop(cpu);
}

/** FIST(P), and FISTTP (`truncate`), of so many bits. */
export function storeInteger(
  cpu: Cpu,
  lin: number,
  bits: 16 | 32 | 64,
  popping: boolean,
  truncate = false,
): void {
  const indefinite = -1n << BigInt(bits - 1);
  const toInteger = (context: FloatContext, x: Unpacked): bigint =>
    toSigned(context, x, bits, truncate ? ROUNDING.zero : context.rounding) ?? indefinite;
  store(cpu, lin, bits / 8, popping, indefinite, toInteger, (value) => {
    if (bits === 64) cpu.mmu.write64(lin, value);
    else if (bits === 32) cpu.mmu.write32(lin, Number(value));
    else cpu.mmu.write16(lin, Number(value));
  });
}

/** FBSTP */
export function storeBcd(cpu: Cpu, lin: number): void {
  store(cpu, lin, 10, true, BCD_INDEFINITE, toBcd, (bytes) => cpu.mmu.writeBytes(lin, bytes));
}

/** FFREE, and FFREEP with `popping`. */
export function free(cpu: Cpu, i: number, popping: boolean): void {
  cpu.set32(FPU.empty, cpu.get32(FPU.empty) | (1 << physical(cpu, i)));
  if (!popping) return;
  clearC1(cpu);
  pop(cpu);
}

/** FDECSTP (-1) and FINCSTP (1): tags stay. */
export function rotate(cpu: Cpu, by: number): void {
  clearC1(cpu);
  setTop(cpu, cpu.get32(FPU.top) + by);
}
