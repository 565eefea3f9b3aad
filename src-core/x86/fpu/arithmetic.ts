/** x87 arithmetic and comparison (Intel SDM volume 1, section 8.3; volume 2, FADD to FYL2XP1). */
import type { Cpu } from '../cpu.ts';
import { FLAG_CF, FLAG_PF, FLAG_ZF, FLAGS_ARITHMETIC } from '../bits.ts';
import { FPU } from '../layout.ts';
import { add, compare, div, mul, ORDER, type Order, sqrt, sub } from '../softfloat/arithmetic.ts';
import { roundToIntegral } from '../softfloat/convert.ts';
import { FLOAT80, KIND, pack80, PLUS_ONE, type Unpacked, zero } from '../softfloat/number.ts';
import { extract, remainder, scale } from '../softfloat/remainder.ts';
import type { FloatContext } from '../softfloat/round.ts';
import {
  arctanOfRatio,
  cos,
  exponentialMinusOne,
  outOfTrigonometricRange,
  sin,
  tan,
  yLog2,
  yLog2PlusOne,
} from '../softfloat/transcendental.ts';
import {
  begin,
  beginWithPrecision,
  clearC1,
  DEFAULT_NAN_BITS,
  finish,
  FSW,
  hasC1,
  isEmpty,
  pop,
  pushBits,
  pushOverflows,
  read,
  setConditions,
  stackOverflow,
  stackUnderflow,
  write,
  writeBits,
} from './state.ts';

/** Arithmetic by ModRM.reg: operand a is ST(0), b the other one. */
function compute(context: FloatContext, reg: number, a: Unpacked, b: Unpacked): Unpacked {
  switch (reg) {
    case 0:
      return add(context, FLOAT80, a, b);
    case 1:
      return mul(context, FLOAT80, a, b);
    case 4:
      return sub(context, FLOAT80, a, b);
    case 5:
      return sub(context, FLOAT80, b, a);
    case 6:
      return div(context, FLOAT80, a, b);
    default:
      return div(context, FLOAT80, b, a);
  }
}

/** FADD, FMUL, FSUB(R), FDIV(R) between ST(0) and ST(i), into ST(target), popping or not. */
export function arithmetic(cpu: Cpu, reg: number, i: number, target: number, popping: boolean): void {
  if (isEmpty(cpu, 0) || isEmpty(cpu, i)) {
    if (!stackUnderflow(cpu)) return;
    writeBits(cpu, target, DEFAULT_NAN_BITS);
  } else {
    const context = beginWithPrecision(cpu);
    const result = compute(context, reg, read(cpu, 0), read(cpu, i));
    if (!finish(cpu, context)) return;
    write(cpu, target, result);
  }
  if (popping) pop(cpu);
}

/** The same between ST(0) and a memory operand, into ST(0). */
export function arithmeticMemory(cpu: Cpu, reg: number, source: Unpacked): void {
  if (isEmpty(cpu, 0)) {
    if (stackUnderflow(cpu)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return;
  }
  const context = beginWithPrecision(cpu);
  const result = compute(context, reg, read(cpu, 0), source);
  if (finish(cpu, context)) write(cpu, 0, result);
}

/** C3, C2, C0 by order. */
function conditionsOf(order: Order): number {
  switch (order) {
    case ORDER.greater:
      return 0;
    case ORDER.less:
      return FSW.c0;
    case ORDER.equal:
      return FSW.c3;
    default:
      return FSW.c0 | FSW.c2 | FSW.c3;
  }
}

/**
 * FCOM and FUCOM (quiet) with a value; undefined stands for an empty register. The condition codes are set even when
 * an unmasked exception keeps the stack from being popped.
 * @returns whether to pop.
 */
export function compareWith(cpu: Cpu, source: Unpacked | undefined, quiet: boolean): boolean {
  if (source === undefined || isEmpty(cpu, 0)) {
    setConditions(cpu, conditionsOf(ORDER.unordered));
    return stackUnderflow(cpu);
  }
  const context = begin(cpu);
  setConditions(cpu, conditionsOf(compare(context, read(cpu, 0), source, !quiet)));
  return finish(cpu, context);
}

/** FCOM(P)(P), FUCOM(P)(P) with ST(i). */
export function compareRegister(cpu: Cpu, i: number, quiet: boolean, pops: number): void {
  if (!compareWith(cpu, isEmpty(cpu, i) ? undefined : read(cpu, i), quiet)) return;
  for (let count = 0; count < pops; count++) pop(cpu);
}

/** FTST */
export function test(cpu: Cpu): void {
  compareWith(cpu, zero(false), false);
}

/** FCOMI(P), FUCOMI(P): ZF, PF and CF by order; OF, SF and AF cleared. C1 stays but for a stack fault. */
export function compareFlags(cpu: Cpu, i: number, quiet: boolean, popping: boolean): void {
  let order: Order = ORDER.unordered;
  let delivered: boolean;
  if (isEmpty(cpu, 0) || isEmpty(cpu, i)) {
    delivered = stackUnderflow(cpu);
  } else {
    const context = begin(cpu);
    order = compare(context, read(cpu, 0), read(cpu, i), !quiet);
    context.roundedUp = hasC1(cpu);
    delivered = finish(cpu, context);
  }
  setOrderFlags(cpu, order);
  if (popping && delivered) pop(cpu);
}

/** ZF, PF and CF as FCOMI and (U)COMISS set them. */
export function setOrderFlags(cpu: Cpu, order: Order): void {
  const flags =
    order === ORDER.unordered
      ? FLAG_ZF | FLAG_PF | FLAG_CF
      : order === ORDER.less
        ? FLAG_CF
        : order === ORDER.equal
          ? FLAG_ZF
          : 0;
  cpu.rflags = (cpu.rflags & ~FLAGS_ARITHMETIC) | flags;
}

/** FXAM */
export function examine(cpu: Cpu): void {
  const value = read(cpu, 0);
  let conditions: number;
  if (isEmpty(cpu, 0)) conditions = FSW.c3 | FSW.c0;
  else {
    switch (value.kind) {
      case KIND.unsupported:
        conditions = 0;
        break;
      case KIND.quietNan:
      case KIND.signallingNan:
        conditions = FSW.c0;
        break;
      case KIND.infinity:
        conditions = FSW.c2 | FSW.c0;
        break;
      case KIND.zero:
        conditions = FSW.c3;
        break;
      default:
        conditions = value.denormal ? FSW.c3 | FSW.c2 : FSW.c2;
    }
  }
  clearC1(cpu);
  setConditions(cpu, conditions);
  if (value.negative) cpu.set32(FPU.fsw, cpu.get32(FPU.fsw) | FSW.c1);
}

/** An operation on ST(0) alone. */
function unary(
  cpu: Cpu,
  operation: (context: FloatContext, x: Unpacked) => Unpacked,
  precisionControlled = false,
): boolean {
  if (isEmpty(cpu, 0)) {
    if (!stackUnderflow(cpu)) return false;
    writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return true;
  }
  const context = precisionControlled ? beginWithPrecision(cpu) : begin(cpu);
  const result = operation(context, read(cpu, 0));
  if (!finish(cpu, context)) return false;
  write(cpu, 0, result);
  return true;
}

export function squareRoot(cpu: Cpu): void {
  unary(cpu, (context, x) => sqrt(context, FLOAT80, x), true);
}

export function roundToInteger(cpu: Cpu): void {
  unary(cpu, (context, x) => roundToIntegral(context, x, context.rounding));
}

/** F2XM1 */
export function exponential(cpu: Cpu): void {
  unary(cpu, exponentialMinusOne);
}

/** An operation on ST(0) and ST(1) whose result stays in ST(0): FPREM, FPREM1, FSCALE. */
function withSecond(
  cpu: Cpu,
  operation: (context: FloatContext, a: Unpacked, b: Unpacked) => Unpacked,
): void {
  if (isEmpty(cpu, 0) || isEmpty(cpu, 1)) {
    if (stackUnderflow(cpu)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return;
  }
  const context = begin(cpu);
  const result = operation(context, read(cpu, 0), read(cpu, 1));
  if (finish(cpu, context)) write(cpu, 0, result);
}

export function scaleBySecond(cpu: Cpu): void {
  withSecond(cpu, scale);
}

function clearC2(cpu: Cpu): void {
  cpu.set32(FPU.fsw, cpu.get32(FPU.fsw) & ~FSW.c2);
}

/**
 * FPREM and FPREM1 (`nearest`): the quotient's low bits go to C0, C3, C1. Where there is none, C0 and C3 stay as they
 * are.
 */
export function partialRemainder(cpu: Cpu, nearest: boolean): void {
  clearC2(cpu);
  if (isEmpty(cpu, 0) || isEmpty(cpu, 1)) {
    if (stackUnderflow(cpu)) writeBits(cpu, 0, DEFAULT_NAN_BITS);
    return;
  }
  const context = begin(cpu);
  const { value, quotient, partial } = remainder(context, read(cpu, 0), read(cpu, 1), nearest);
  if (!finish(cpu, context)) return;
  write(cpu, 0, value);
  clearC1(cpu);
  if (quotient === undefined) return;
  setConditions(
    cpu,
    ((quotient & 4) !== 0 ? FSW.c0 : 0) | ((quotient & 2) !== 0 ? FSW.c3 : 0) | (partial ? FSW.c2 : 0),
  );
  if ((quotient & 1) !== 0) cpu.set32(FPU.fsw, cpu.get32(FPU.fsw) | FSW.c1);
}

/** An operation on ST(0) and ST(1) into ST(1), then a pop: FYL2X, FYL2XP1, FPATAN. */
function intoSecond(
  cpu: Cpu,
  operation: (context: FloatContext, x: Unpacked, y: Unpacked) => Unpacked,
): void {
  if (isEmpty(cpu, 0) || isEmpty(cpu, 1)) {
    if (!stackUnderflow(cpu)) return;
    writeBits(cpu, 1, DEFAULT_NAN_BITS);
  } else {
    const context = begin(cpu);
    const result = operation(context, read(cpu, 0), read(cpu, 1));
    if (!finish(cpu, context)) return;
    write(cpu, 1, result);
  }
  pop(cpu);
}

export function logarithm(cpu: Cpu): void {
  intoSecond(cpu, yLog2);
}
export function logarithmPlusOne(cpu: Cpu): void {
  intoSecond(cpu, yLog2PlusOne);
}
export function arctangent(cpu: Cpu): void {
  intoSecond(cpu, (context, x, y) => arctanOfRatio(context, y, x));
}

/** C2 says that the argument was out of range, and nothing happened. Stack faults come first, here too. */
function refusesArgument(cpu: Cpu, pushes: boolean): boolean {
  if (isEmpty(cpu, 0) || (pushes && pushOverflows(cpu))) {
    clearC2(cpu);
    return false;
  }
  const refused = outOfTrigonometricRange(read(cpu, 0));
  const fsw = cpu.get32(FPU.fsw);
  cpu.set32(FPU.fsw, refused ? (fsw & ~FSW.c1) | FSW.c2 : fsw & ~FSW.c2);
  return refused;
}

export function sine(cpu: Cpu): void {
  if (!refusesArgument(cpu, false)) unary(cpu, sin);
}
export function cosine(cpu: Cpu): void {
  if (!refusesArgument(cpu, false)) unary(cpu, cos);
}

/**
 * An operation that replaces ST(0) and pushes a second result: FPTAN, FSINCOS, FXTRACT. It returns the new ST(1)
 * and the new ST(0).
 */
function twoResults(cpu: Cpu, operation: (context: FloatContext, x: Unpacked) => [Unpacked, Unpacked]): void {
  if (isEmpty(cpu, 0)) {
    if (!stackUnderflow(cpu)) return;
    writeBits(cpu, 0, DEFAULT_NAN_BITS);
    pushBits(cpu, DEFAULT_NAN_BITS);
    return;
  }
  if (pushOverflows(cpu)) {
    if (!stackOverflow(cpu)) return;
    writeBits(cpu, 0, DEFAULT_NAN_BITS);
    pushBits(cpu, DEFAULT_NAN_BITS);
    return;
  }
  const context = begin(cpu);
  const [below, top] = operation(context, read(cpu, 0));
  if (!finish(cpu, context)) return;
  write(cpu, 0, below);
  pushBits(cpu, pack80(top));
}

export function tangent(cpu: Cpu): void {
  if (refusesArgument(cpu, true)) return;
  twoResults(cpu, (context, x) => {
    const result = tan(context, x);
    const ordinary = result.kind === KIND.finite || result.kind === KIND.zero;
    return [result, ordinary ? PLUS_ONE : result];
  });
}

export function sineAndCosine(cpu: Cpu): void {
  if (refusesArgument(cpu, true)) return;
  twoResults(cpu, (context, x) => [sin(context, x), cos(context, x)]);
}

export function extractParts(cpu: Cpu): void {
  twoResults(cpu, (context, x) => {
    const { exponent, significand } = extract(context, x);
    return [exponent, significand];
  });
}
