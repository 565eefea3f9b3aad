/**
 * x87 instructions in wasm where they are plain: all exceptions masked, rounding to nearest in 64 bits, operands that
 * are normal numbers or zeros, no stack fault, and nothing raised but inexact. Results are exact 64-bit significand
 * arithmetic, rounded once. Everything else is done by the callouts of x86/fpu/x87.ts, with the same operands.
 *
 * The registers are addressed through TOP, so they are always in memory, at ST.
 */
import { I32, I64, type ValueType, i32, i64 } from '../../wasm/opcodes.ts';
import type { CodeWriter } from '../../wasm/writer.ts';
import type { Callout } from '../../x86/callout.ts';
import { FSW } from '../../x86/fpu/state.ts';
import { X87_IMM, x87Control, x87Load, x87Register, x87Store } from '../../x86/fpu/x87.ts';
import { CS, CTL, FPU, RIP, SEG, SEG_FIELD, SEG_SIZE, ST } from '../../x86/layout.ts';
import { MODE } from '../../x86/mode.ts';
import { defineOp, type OpGen } from '../op.ts';

/** Field c of arithmetic: ModRM.reg of D8 (what to do), and where: ST(source), ST(target), how many pops. */
export const X87_FIELD = { source: 3, target: 6, pops: 9 } as const;

const INTEGER_BIT = -0x8000000000000000n;
const SIGN = 0x8000;
const EXPONENT = 0x7fff;
/** Bits of the control word: exception masks, precision and rounding control; all masked, 64 bits, to nearest. */
const MASKS = 0x3f;
const PLAIN_ARITHMETIC = { mask: 0xf3f, value: 0x33f } as const;
const PLAIN_STORE = { mask: 0xc3f, value: 0x3f } as const;
const INEXACT = 0x20;
/** Exponent of the widened form of a number that is not plain: no register holds a zero significand with it. */
const UNFIT = 0x7fff;

/** A number taken apart: locals for the significand, the biased exponent and the sign (0 or SIGN). */
interface Parts {
  readonly significand: number;
  readonly exponent: number;
  readonly sign: number;
}

/** Emits one x87 operation: a fast path that can be left for the callout at any point before it changes state. */
class Emitter {
  readonly g: OpGen;
  readonly w: CodeWriter;
  #slowDepth = 0;
  #doneDepth = 0;

  constructor(g: OpGen) {
    this.g = g;
    this.w = g.w;
  }

  local(type: ValueType, n: number): number {
    return this.g.scratch(type, n);
  }
  parts(n: number): Parts {
    return {
      significand: this.local(I64, n),
      exponent: this.local(I32, n),
      sign: this.local(I32, n + 3),
    };
  }

  /** The fast path, and the callout it gives way to. */
  with(callout: Callout, fast: () => void): void {
    const { w, g } = this;
    w.block();
    this.#doneDepth = w.depth;
    w.block();
    this.#slowDepth = w.depth;
    fast();
    this.done();
    w.end();
    g.callout(callout);
    w.end();
  }
  /** Leaves for the callout if the condition on the stack holds. */
  slowIf(): void {
    this.w.brIf(this.w.depth - this.#slowDepth);
  }
  slowUnless(): void {
    this.w.op(i32.eqz);
    this.slowIf();
  }
  done(): void {
    this.w.br(this.w.depth - this.#doneDepth);
  }

  /** Leaves unless the control word has these modes. */
  requireControl({ mask, value }: { mask: number; value: number }): void {
    this.g.state32(FPU.fcw);
    this.w.i32Const(mask).op(i32.and).i32Const(value).op(i32.ne);
    this.slowIf();
  }

  /** Sets local `at` to the offset of ST(i) from ST; `i` pushes the index. */
  register(at: number, i: () => void): void {
    this.g.state32(FPU.top);
    i();
    this.w.op(i32.add).i32Const(7).op(i32.and).i32Const(4).op(i32.shl).set(at);
  }
  /** Pushes the tag bit (1 = empty) of the register at an offset. */
  pushEmpty(at: number): void {
    this.g.state32(FPU.empty);
    this.w.get(at).i32Const(4).op(i32.shr_u).op(i32.shr_u).i32Const(1).op(i32.and);
  }
  requireValid(at: number): void {
    this.pushEmpty(at);
    this.slowIf();
  }

  /** Takes the register at an offset apart. */
  unpackRegister(at: number, { significand, exponent, sign }: Parts): void {
    const { w } = this;
    w.get(at).mem(i64.load, ST).set(significand);
    w.get(at)
      .mem(i32.load16_u, ST + 8)
      .tee(exponent)
      .i32Const(SIGN)
      .op(i32.and)
      .set(sign);
    w.get(exponent).i32Const(EXPONENT).op(i32.and).set(exponent);
  }
  /** Takes a widened operand apart. */
  unpackOperand({ significand, exponent, sign }: Parts): void {
    const { w, g } = this;
    g.aHalf(0);
    w.set(significand);
    g.aHalf(8);
    w.op(i32.wrap_i64).tee(exponent).i32Const(SIGN).op(i32.and).set(sign);
    w.get(exponent).i32Const(EXPONENT).op(i32.and).set(exponent);
  }
  /** Leaves unless it is a normal number or a zero. */
  requirePlain({ significand, exponent }: Parts): void {
    const { w } = this;
    w.get(significand).i64Const(0n).op(i64.lt_s);
    w.get(exponent).i32Const(1).op(i32.sub).i32Const(0x7ffe).op(i32.lt_u).op(i32.and);
    w.get(significand).op(i64.eqz).get(exponent).op(i32.eqz).op(i32.and).op(i32.or);
    this.slowUnless();
  }

  /** Writes the register at an offset: it becomes valid. */
  writeRegister(at: number, significand: () => void, signExponent: () => void): void {
    const { w, g } = this;
    w.get(at);
    significand();
    w.mem(i64.store, ST);
    w.get(at);
    signExponent();
    w.mem(i32.store16, ST + 8);
    g.setState32(FPU.empty, () => {
      g.state32(FPU.empty);
      w.i32Const(1).get(at).i32Const(4).op(i32.shr_u).op(i32.shl).i32Const(-1).op(i32.xor).op(i32.and);
    });
  }

  /** Pops as often (0..2) as `count` pushes. */
  pop(count: () => void): void {
    const { w, g } = this;
    const n = this.local(I32, 8);
    count();
    w.tee(n).if();
    g.setState32(FPU.empty, () => {
      // The bits of the popped registers, rotated within eight.
      const bits = this.local(I32, 9);
      w.i32Const(1).get(n).op(i32.shl).i32Const(1).op(i32.sub);
      g.state32(FPU.top);
      w.op(i32.shl).set(bits);
      g.state32(FPU.empty);
      w.get(bits).get(bits).i32Const(8).op(i32.shr_u).op(i32.or).i32Const(0xff).op(i32.and).op(i32.or);
    });
    g.setState32(FPU.top, () => {
      g.state32(FPU.top);
      w.get(n).op(i32.add).i32Const(7).op(i32.and);
    });
    w.end();
  }

  /** Sets C1 (and PE, when inexact) from locals holding 0 or 1. */
  setInexact(inexact: number, up: number): void {
    const { w, g } = this;
    g.setState32(FPU.fsw, () => {
      g.state32(FPU.fsw);
      w.i32Const(~FSW.c1).op(i32.and);
      w.get(inexact).i32Const(Math.log2(INEXACT)).op(i32.shl).op(i32.or);
      w.get(up).i32Const(Math.log2(FSW.c1)).op(i32.shl).op(i32.or);
    });
  }
  clearC1(): void {
    this.g.setState32(FPU.fsw, () => {
      this.g.state32(FPU.fsw);
      this.w.i32Const(~FSW.c1).op(i32.and);
    });
  }

  /** Remembers opcode and address of the instruction (callouts do the same). */
  noteInstruction(): void {
    const { w, g } = this;
    g.setState32(FPU.fop, () => {
      g.imm32();
      w.i32Const(X87_IMM.fopShift).op(i32.shr_u);
    });
    g.setState64(FPU.fip, () => {
      g.state64(RIP);
      g.imm32();
      w.i32Const(0xffff).op(i32.and).op(i64.extend_i32_u).op(i64.add);
    });
    g.setState32(FPU.fcs, () => g.state32(CS + SEG_FIELD.selector));
  }
  /** And of its memory operand, whose linear address operand b is. */
  noteOperand(): void {
    const { w, g } = this;
    const segment = this.local(I32, 9);
    g.imm32();
    w.i32Const(X87_IMM.segmentShift).op(i32.shr_u).i32Const(7).op(i32.and);
    w.i32Const(Math.log2(SEG_SIZE)).op(i32.shl).set(segment);
    g.setState64(FPU.fdp, () => {
      g.b(64);
      w.get(segment)
        .mem(i64.load, SEG + SEG_FIELD.base)
        .op(i64.sub);
      w.i64Const(-1n).i64Const(0xffffffffn);
      g.state32(CTL.modeKey);
      w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.eq).select().op(i64.and);
    });
    g.setState32(FPU.fds, () => w.get(segment).mem(i32.load, SEG + SEG_FIELD.selector));
  }

  /** Pushes a part of field c. */
  field(shift: number, mask: number): void {
    this.g.c();
    if (shift > 0) this.w.i32Const(shift).op(i32.shr_u);
    this.w.i32Const(mask).op(i32.and);
  }
  /** Pushes FOP's ModRM.reg. */
  modrmReg(): void {
    this.g.imm32();
    this.w
      .i32Const(X87_IMM.fopShift + 3)
      .op(i32.shr_u)
      .i32Const(7)
      .op(i32.and);
  }
}

function defineX87(name: string, emit: (e: Emitter) => void): void {
  defineOp(name, 128, { reads: 'abd', writes: false, flags: 'readwrite', leaves: true }, (g) =>
    emit(new Emitter(g)),
  );
}

// ---- operands from memory, widened to 80 bits --------------------------------------------------------------------

/** dst = a number of the x87's format: significand, then sign and exponent; UNFIT where it is not plain. */
function widen(name: string, emit: (g: OpGen, significand: number, signExponent: number) => void): void {
  defineOp(name, 128, { reads: 'a' }, (g) => {
    const significand = g.scratch(I64, 0);
    const signExponent = g.scratch(I32, 0);
    emit(g, significand, signExponent);
    g.setHalf(0, () => g.w.get(significand));
    g.setHalf(8, () => g.w.get(signExponent).op(i64.extend_i32_u));
  });
}

widen('x87.widen.f64', (g, significand, signExponent) => {
  const { w } = g;
  const bits = g.scratch(I64, 1);
  const exponent = g.scratch(I32, 1);
  g.a(64);
  w.tee(bits).i64Const(52n).op(i64.shr_u).op(i32.wrap_i64).i32Const(0x7ff).op(i32.and).set(exponent);
  w.get(bits).i64Const(48n).op(i64.shr_u).op(i32.wrap_i64).i32Const(SIGN).op(i32.and).set(signExponent);
  w.get(exponent).i32Const(1).op(i32.sub).i32Const(0x7fe).op(i32.lt_u).if();
  w.get(bits).i64Const(11n).op(i64.shl).i64Const(INTEGER_BIT).op(i64.or).set(significand);
  w.get(signExponent)
    .get(exponent)
    .op(i32.or)
    .i32Const(0x3fff - 1023)
    .op(i32.add)
    .set(signExponent);
  w.else();
  w.i64Const(0n).set(significand);
  w.get(bits).i64Const(1n).op(i64.shl).op(i64.eqz).op(i32.eqz).if();
  w.i32Const(UNFIT).set(signExponent);
  w.end();
  w.end();
});
widen('x87.widen.f32', (g, significand, signExponent) => {
  const { w } = g;
  const bits = g.scratch(I32, 1);
  const exponent = g.scratch(I32, 2);
  g.a(32);
  w.tee(bits).i32Const(23).op(i32.shr_u).i32Const(0xff).op(i32.and).set(exponent);
  w.get(bits).i32Const(16).op(i32.shr_u).i32Const(SIGN).op(i32.and).set(signExponent);
  w.get(exponent).i32Const(1).op(i32.sub).i32Const(0xfe).op(i32.lt_u).if();
  w.get(bits)
    .op(i64.extend_i32_u)
    .i64Const(40n)
    .op(i64.shl)
    .i64Const(INTEGER_BIT)
    .op(i64.or)
    .set(significand);
  w.get(signExponent)
    .get(exponent)
    .op(i32.or)
    .i32Const(0x3fff - 127)
    .op(i32.add)
    .set(signExponent);
  w.else();
  w.i64Const(0n).set(significand);
  w.get(bits).i32Const(1).op(i32.shl).if();
  w.i32Const(UNFIT).set(signExponent);
  w.end();
  w.end();
});
for (const bits of [16, 32, 64] as const) {
  widen(`x87.widen.i${bits}`, (g, significand, signExponent) => {
    const { w } = g;
    const value = g.scratch(I64, 1);
    const zeros = g.scratch(I64, 2);
    g.a(bits);
    if (bits !== 64) w.op(i64.extend_i32_u).op(bits === 16 ? i64.extend16_s : i64.extend32_s);
    w.tee(value).op(i64.eqz).if();
    w.i64Const(0n).set(significand).i32Const(0).set(signExponent);
    w.else();
    w.get(value).i64Const(48n).op(i64.shr_u).op(i32.wrap_i64).i32Const(SIGN).op(i32.and).set(signExponent);
    w.i64Const(0n).get(value).op(i64.sub).get(value).get(value).i64Const(0n).op(i64.lt_s).select();
    w.tee(value).op(i64.clz).set(zeros);
    w.get(value).get(zeros).op(i64.shl).set(significand);
    w.get(signExponent)
      .i32Const(0x3fff + 63)
      .op(i32.or)
      .get(zeros)
      .op(i32.wrap_i64)
      .op(i32.sub)
      .set(signExponent);
    w.end();
  });
}

// ---- arithmetic --------------------------------------------------------------------------------------------------

/** Locals arithmetic works with beside the operands. */
interface Work {
  /** 128 bits of result: the upper half with its leading bit at 63, and what lies below (any set bit is sticky). */
  readonly high: number;
  readonly low: number;
  readonly exponent: number;
  readonly sign: number;
  readonly inexact: number;
  readonly up: number;
}

/** a + b of normal numbers or zeros, into `work`; `exact` leaves with a result that needs no rounding. */
function emitAdd(e: Emitter, a: Parts, b: Parts, work: Work, exact: () => void): void {
  const { w } = e;
  const t = e.local(I64, 4);
  const n = e.local(I64, 5);
  const copy = (from: Parts): void => {
    w.get(from.significand)
      .set(work.high)
      .get(from.exponent)
      .set(work.exponent)
      .get(from.sign)
      .set(work.sign);
  };
  w.get(b.significand).op(i64.eqz).if();
  copy(a);
  // Of two zeros of different signs comes +0.
  w.get(a.significand).op(i64.eqz).get(a.sign).get(b.sign).op(i32.ne).op(i32.and).if();
  w.i32Const(0).set(work.sign);
  w.end();
  exact();
  w.end();
  w.get(a.significand).op(i64.eqz).if();
  copy(b);
  exact();
  w.end();
  // The larger magnitude first.
  w.get(a.exponent).get(b.exponent).op(i32.lt_u);
  w.get(a.exponent).get(b.exponent).op(i32.eq).get(a.significand).get(b.significand).op(i64.lt_u).op(i32.and);
  w.op(i32.or).if();
  emitSwap(e, a, b);
  w.end();
  w.get(a.exponent).set(work.exponent).get(a.sign).set(work.sign);
  // b moved right by the difference n into t (upper) and low.
  w.get(a.exponent).get(b.exponent).op(i32.sub).op(i64.extend_i32_u).tee(n).op(i64.eqz).if();
  w.get(b.significand).set(t).i64Const(0n).set(work.low);
  w.else();
  w.get(n).i64Const(64n).op(i64.lt_u).if();
  w.get(b.significand).get(n).op(i64.shr_u).set(t);
  w.get(b.significand).i64Const(64n).get(n).op(i64.sub).op(i64.shl).set(work.low);
  w.else();
  // Only its place below the last bit counts: half of it, less, or more.
  w.i64Const(0n).set(t);
  w.get(b.significand).i64Const(1n).get(n).i64Const(64n).op(i64.eq).select().set(work.low);
  w.get(n).i64Const(65n).op(i64.eq).if();
  w.get(b.significand).i64Const(1n).op(i64.shr_u).get(b.significand).i64Const(1n).op(i64.and).op(i64.or);
  w.set(work.low);
  w.end();
  w.end();
  w.end();
  w.get(a.sign).get(b.sign).op(i32.eq).if();
  w.get(a.significand).get(t).op(i64.add).tee(work.high).get(t).op(i64.lt_u).if();
  w.get(work.low).i64Const(1n).op(i64.shr_u).get(work.low).i64Const(1n).op(i64.and).op(i64.or);
  w.get(work.high).i64Const(63n).op(i64.shl).op(i64.or).set(work.low);
  w.get(work.high).i64Const(1n).op(i64.shr_u).i64Const(INTEGER_BIT).op(i64.or).set(work.high);
  w.get(work.exponent).i32Const(1).op(i32.add).set(work.exponent);
  w.end();
  w.else();
  w.get(a.significand).get(t).op(i64.sub).get(work.low).i64Const(0n).op(i64.ne).op(i64.extend_i32_u);
  w.op(i64.sub).set(work.high);
  w.i64Const(0n).get(work.low).op(i64.sub).set(work.low);
  w.get(work.high).op(i64.eqz).if();
  w.get(work.low).op(i64.eqz).if();
  w.i32Const(0).set(work.exponent).i32Const(0).set(work.sign);
  exact();
  w.end();
  w.get(work.low).set(work.high).i64Const(0n).set(work.low);
  w.get(work.exponent).i32Const(64).op(i32.sub).set(work.exponent);
  w.end();
  w.get(work.high).op(i64.clz).tee(n).op(i64.eqz).op(i32.eqz).if();
  w.get(work.high).get(n).op(i64.shl).get(work.low).i64Const(64n).get(n).op(i64.sub).op(i64.shr_u);
  w.op(i64.or).set(work.high);
  w.get(work.low).get(n).op(i64.shl).set(work.low);
  w.get(work.exponent).get(n).op(i32.wrap_i64).op(i32.sub).set(work.exponent);
  w.end();
  w.end();
}

function emitSwap(e: Emitter, a: Parts, b: Parts): void {
  const { w } = e;
  const t = e.local(I64, 4);
  const n = e.local(I32, 8);
  w.get(a.significand).set(t).get(b.significand).set(a.significand).get(t).set(b.significand);
  w.get(a.exponent).set(n).get(b.exponent).set(a.exponent).get(n).set(b.exponent);
  w.get(a.sign).set(n).get(b.sign).set(a.sign).get(n).set(b.sign);
}

/** The result is a zero with the product's sign; nothing to round. */
function setZero(e: Emitter, work: Work): void {
  e.w.i64Const(0n).set(work.high).i32Const(0).set(work.exponent);
}

function emitMul(e: Emitter, a: Parts, b: Parts, work: Work, exact: () => void): void {
  const { w } = e;
  const cross = e.local(I64, 4);
  const carry = e.local(I64, 5);
  const lower = (x: number): void => void w.get(x).i64Const(0xffffffffn).op(i64.and);
  const upper = (x: number): void => void w.get(x).i64Const(32n).op(i64.shr_u);
  w.get(a.sign).get(b.sign).op(i32.xor).set(work.sign);
  w.get(a.significand).op(i64.eqz).get(b.significand).op(i64.eqz).op(i32.or).if();
  setZero(e, work);
  exact();
  w.end();
  lower(a.significand);
  lower(b.significand);
  w.op(i64.mul).set(work.low);
  upper(a.significand);
  lower(b.significand);
  w.op(i64.mul);
  upper(work.low);
  w.op(i64.add).set(cross);
  lower(a.significand);
  upper(b.significand);
  w.op(i64.mul);
  lower(cross);
  w.op(i64.add).set(carry);
  upper(a.significand);
  upper(b.significand);
  w.op(i64.mul);
  upper(cross);
  w.op(i64.add);
  upper(carry);
  w.op(i64.add).set(work.high);
  w.get(carry).i64Const(32n).op(i64.shl);
  lower(work.low);
  w.op(i64.or).set(work.low);
  w.get(a.exponent).get(b.exponent).op(i32.add).i32Const(0x3ffe).op(i32.sub).set(work.exponent);
  w.get(work.high).i64Const(0n).op(i64.ge_s).if();
  w.get(work.high)
    .i64Const(1n)
    .op(i64.shl)
    .get(work.low)
    .i64Const(63n)
    .op(i64.shr_u)
    .op(i64.or)
    .set(work.high);
  w.get(work.low).i64Const(1n).op(i64.shl).set(work.low);
  w.get(work.exponent).i32Const(1).op(i32.sub).set(work.exponent);
  w.end();
}

/** a / b: schoolbook division of 128 by 64 bits in two digits of 32 (Knuth, volume 2, algorithm D). */
function emitDiv(e: Emitter, a: Parts, b: Parts, work: Work, exact: () => void): void {
  const { w } = e;
  const divisorHigh = e.local(I64, 4);
  const remainder = e.local(I64, 5);
  const digit = e.local(I64, 6);
  const subtrahend = e.local(I64, 8);
  w.get(a.sign).get(b.sign).op(i32.xor).set(work.sign);
  w.get(b.significand).op(i64.eqz);
  e.slowIf();
  w.get(a.significand).op(i64.eqz).if();
  setZero(e, work);
  exact();
  w.end();
  // The dividend as remainder : low, so that the quotient has 64 bits with the first one set.
  w.get(a.exponent).get(b.exponent).op(i32.sub).i32Const(0x3fff).op(i32.add).set(work.exponent);
  w.get(a.significand).get(b.significand).op(i64.ge_u).if();
  w.get(a.significand).i64Const(1n).op(i64.shr_u).set(remainder);
  w.get(a.significand).i64Const(63n).op(i64.shl).set(work.low);
  w.else();
  w.get(a.significand).set(remainder).i64Const(0n).set(work.low);
  w.get(work.exponent).i32Const(1).op(i32.sub).set(work.exponent);
  w.end();
  w.get(b.significand).i64Const(32n).op(i64.shr_u).set(divisorHigh);
  w.i64Const(0n).set(work.high);
  for (const step of [0, 1]) {
    // An estimate that is at most two too large.
    w.get(remainder).get(divisorHigh).op(i64.div_u).set(digit);
    w.get(digit).get(b.significand).i64Const(0xffffffffn).op(i64.and).op(i64.mul).set(subtrahend);
    w.get(remainder).get(digit).get(divisorHigh).op(i64.mul).op(i64.sub).i64Const(32n).op(i64.shl);
    w.get(work.low);
    if (step === 0) w.i64Const(32n).op(i64.shr_u);
    else w.i64Const(0xffffffffn).op(i64.and);
    w.op(i64.or).set(remainder);
    w.get(remainder).get(subtrahend).op(i64.lt_u).if();
    w.get(digit).i64Const(1n).op(i64.sub).set(digit);
    w.get(remainder).get(b.significand).op(i64.add).tee(remainder).get(b.significand).op(i64.ge_u);
    w.get(remainder).get(subtrahend).op(i64.lt_u).op(i32.and).if();
    w.get(digit).i64Const(1n).op(i64.sub).set(digit);
    w.get(remainder).get(b.significand).op(i64.add).set(remainder);
    w.end();
    w.end();
    w.get(remainder).get(subtrahend).op(i64.sub).set(remainder);
    w.get(work.high).i64Const(32n).op(i64.shl).get(digit).op(i64.or).set(work.high);
  }
  // What is left, against half the divisor; the two are never equal.
  w.i64Const(INTEGER_BIT | 1n).i64Const(1n);
  w.get(remainder).get(b.significand).get(remainder).op(i64.sub).op(i64.gt_u).select();
  w.i64Const(0n).get(remainder).op(i64.eqz).op(i32.eqz).op(i64.extend_i32_u).op(i64.sub).op(i64.and);
  w.set(work.low);
}

/** Rounds high : low to nearest even; leaves for the callout where the exponent runs out. */
function emitRound(e: Emitter, work: Work): void {
  const { w } = e;
  w.get(work.low).i64Const(0n).op(i64.ne).set(work.inexact);
  w.get(work.low).i64Const(INTEGER_BIT).op(i64.gt_u);
  w.get(work.low).i64Const(INTEGER_BIT).op(i64.eq).get(work.high).op(i32.wrap_i64).op(i32.and);
  w.i32Const(1).op(i32.and).op(i32.or).tee(work.up).if();
  w.get(work.high).i64Const(1n).op(i64.add).tee(work.high).op(i64.eqz).if();
  w.i64Const(INTEGER_BIT).set(work.high);
  w.get(work.exponent).i32Const(1).op(i32.add).set(work.exponent);
  w.end();
  w.end();
  w.get(work.exponent).i32Const(1).op(i32.sub).i32Const(0x7ffe).op(i32.ge_u);
  e.slowIf();
}

/** Sets C3, C2 and C0 by the order of a and b, and clears C1. */
function emitCompare(e: Emitter, a: Parts, b: Parts): void {
  const { w, g } = e;
  const less = e.local(I32, 8);
  const equal = e.local(I32, 9);
  emitOrder(e, a, b, less, equal);
  g.setState32(FPU.fsw, () => {
    g.state32(FPU.fsw);
    w.i32Const(~FSW.conditions).op(i32.and);
    w.get(less).i32Const(Math.log2(FSW.c0)).op(i32.shl).op(i32.or);
    w.get(equal).i32Const(Math.log2(FSW.c3)).op(i32.shl).op(i32.or);
  });
}

/** Sets locals to whether a < b and a = b. */
function emitOrder(e: Emitter, a: Parts, b: Parts, less: number, equal: number): void {
  const { w } = e;
  w.get(a.significand).get(b.significand).op(i64.eq).get(a.exponent).get(b.exponent).op(i32.eq).op(i32.and);
  w.get(a.sign).get(b.sign).op(i32.eq).get(a.significand).op(i64.eqz).op(i32.or).op(i32.and).set(equal);
  w.get(a.sign).get(b.sign).op(i32.ne).if();
  // Of different signs the negative one is less, zeros apart.
  w.get(a.sign).i32Const(0).op(i32.ne).get(equal).op(i32.eqz).op(i32.and).set(less);
  w.else();
  w.get(a.exponent).get(b.exponent).op(i32.lt_u);
  w.get(a.exponent).get(b.exponent).op(i32.eq).get(a.significand).get(b.significand).op(i64.lt_u).op(i32.and);
  w.op(i32.or);
  w.get(a.sign).i32Const(0).op(i32.ne).op(i32.xor).get(equal).op(i32.eqz).op(i32.and).set(less);
  w.end();
}

/**
 * Arithmetic or comparison of a (ST(0)) and b by field c, and what becomes of the result: `target` is a local with
 * the offset of the register it goes to.
 */
function emitArithmetic(e: Emitter, a: Parts, b: Parts, target: number, note: () => void): void {
  const { w } = e;
  const work: Work = {
    high: e.local(I64, 2),
    low: e.local(I64, 3),
    exponent: e.local(I32, 2),
    sign: e.local(I32, 5),
    inexact: e.local(I32, 6),
    up: e.local(I32, 7),
  };
  const kind = e.local(I32, 8);
  const pops = (): void => e.field(X87_FIELD.pops, 3);
  // Reversed subtraction and division.
  e.field(0, 7);
  w.tee(kind).i32Const(5).op(i32.and).i32Const(5).op(i32.eq).if();
  emitSwap(e, a, b);
  w.end();
  e.field(0, 7);
  w.set(kind);
  w.i32Const(0).set(work.inexact).i32Const(0).set(work.up);
  w.block();
  const exactDepth = w.depth;
  const exact = (): void => void w.br(w.depth - exactDepth);
  w.block();
  const roundDepth = w.depth;
  w.block().block().block().block();
  w.get(kind).brTable([2, 1, 0, 0, 2, 2, 3, 3], 3);
  w.end();
  emitCompare(e, a, b);
  note();
  e.pop(pops);
  e.done();
  w.end();
  emitMul(e, a, b, work, exact);
  w.br(w.depth - roundDepth);
  w.end();
  // Subtraction: the subtrahend with its sign changed.
  w.get(b.sign).get(kind).i32Const(0).op(i32.ne).i32Const(15).op(i32.shl).op(i32.xor).set(b.sign);
  emitAdd(e, a, b, work, exact);
  w.br(w.depth - roundDepth);
  w.end();
  emitDiv(e, a, b, work, exact);
  w.end();
  emitRound(e, work);
  w.end();
  e.writeRegister(
    target,
    () => w.get(work.high),
    () => w.get(work.exponent).get(work.sign).op(i32.or),
  );
  e.setInexact(work.inexact, work.up);
  note();
  e.pop(pops);
}

// ST(0) with a memory operand: a is the widened operand, dst the operand as it was loaded, b its linear address.
defineX87('x87.mem', (e) => {
  const a = e.parts(0);
  const b = e.parts(1);
  const target = e.local(I32, 11);
  e.with(x87Load, () => {
    e.requireControl(PLAIN_ARITHMETIC);
    e.register(target, () => e.w.i32Const(0));
    e.requireValid(target);
    e.unpackRegister(target, a);
    e.requirePlain(a);
    e.unpackOperand(b);
    e.requirePlain(b);
    emitArithmetic(e, a, b, target, () => {
      e.noteInstruction();
      e.noteOperand();
    });
  });
});

// ST(0) with ST(i).
defineX87('x87.reg', (e) => {
  const a = e.parts(0);
  const b = e.parts(1);
  const first = e.local(I32, 11);
  const second = e.local(I32, 12);
  e.with(x87Register, () => {
    e.requireControl(PLAIN_ARITHMETIC);
    e.register(first, () => e.w.i32Const(0));
    e.requireValid(first);
    e.unpackRegister(first, a);
    e.requirePlain(a);
    e.register(second, () => e.field(X87_FIELD.source, 7));
    e.requireValid(second);
    e.unpackRegister(second, b);
    e.requirePlain(b);
    e.register(first, () => e.field(X87_FIELD.target, 7));
    emitArithmetic(e, a, b, first, () => e.noteInstruction());
  });
});

// FCOMI, FCOMIP, FUCOMI, FUCOMIP.
defineX87('x87.comi', (e) => {
  const { w, g } = e;
  const a = e.parts(0);
  const b = e.parts(1);
  const at = e.local(I32, 11);
  const less = e.local(I32, 8);
  const equal = e.local(I32, 9);
  e.with(x87Register, () => {
    e.register(at, () => w.i32Const(0));
    e.requireValid(at);
    e.unpackRegister(at, a);
    e.requirePlain(a);
    e.register(at, () => e.field(X87_FIELD.source, 7));
    e.requireValid(at);
    e.unpackRegister(at, b);
    e.requirePlain(b);
    emitOrder(e, a, b, less, equal);
    // Result 0 with an odd parity delta, or 1: of ZF, SF and PF only ZF can be set.
    g.setFlagsResult(() => w.get(equal).op(i32.eqz).op(i64.extend_i32_u));
    g.setFlagsAux(() => {
      w.i32Const(0xc0000000 | 0)
        .i32Const(0)
        .get(less)
        .select();
      w.get(equal).i32Const(8).op(i32.shl).op(i32.or);
    });
    e.noteInstruction();
    e.pop(() => e.field(X87_FIELD.pops, 3));
  });
});

// ---- loads, stores and moves -------------------------------------------------------------------------------------

/** Decrements TOP, and sets local `at` to the offset of the new ST(0); leaves where that is not empty. */
function emitPush(e: Emitter, at: number): void {
  const { w } = e;
  e.register(at, () => w.i32Const(7));
  e.pushEmpty(at);
  e.slowUnless();
}
function commitPush(e: Emitter, at: number, significand: () => void, signExponent: () => void): void {
  const { w, g } = e;
  e.writeRegister(at, significand, signExponent);
  g.setState32(FPU.top, () => {
    g.state32(FPU.top);
    w.i32Const(7).op(i32.add).i32Const(7).op(i32.and);
  });
  e.clearC1();
  e.noteInstruction();
}

// FLD and FILD from memory; operands as for 'x87.mem'.
defineX87('x87.push', (e) => {
  const { w, g } = e;
  const at = e.local(I32, 11);
  e.with(x87Load, () => {
    g.aHalf(8);
    w.op(i32.wrap_i64).i32Const(EXPONENT).op(i32.and).i32Const(UNFIT).op(i32.eq);
    e.slowIf();
    emitPush(e, at);
    commitPush(
      e,
      at,
      () => g.aHalf(0),
      () => {
        g.aHalf(8);
        w.op(i32.wrap_i64);
      },
    );
    e.noteOperand();
  });
});

// FLD ST(i)
defineX87('x87.dup', (e) => {
  const { w } = e;
  const at = e.local(I32, 11);
  const from = e.local(I32, 12);
  e.with(x87Register, () => {
    e.register(from, () => e.field(X87_FIELD.source, 7));
    e.requireValid(from);
    emitPush(e, at);
    commitPush(
      e,
      at,
      () => w.get(from).mem(i64.load, ST),
      () => w.get(from).mem(i32.load16_u, ST + 8),
    );
  });
});

// FLD1 (field c 1) and FLDZ (0).
defineX87('x87.const', (e) => {
  const { w, g } = e;
  const at = e.local(I32, 11);
  e.with(x87Register, () => {
    emitPush(e, at);
    commitPush(
      e,
      at,
      () => {
        g.c();
        w.op(i64.extend_i32_u).i64Const(63n).op(i64.shl);
      },
      () => {
        g.c();
        w.i32Const(0x3fff).op(i32.mul);
      },
    );
  });
});

// FXCH
defineX87('x87.xch', (e) => {
  const { w } = e;
  const first = e.local(I32, 11);
  const second = e.local(I32, 12);
  const significand = e.local(I64, 0);
  const signExponent = e.local(I32, 0);
  e.with(x87Register, () => {
    e.register(first, () => w.i32Const(0));
    e.requireValid(first);
    e.register(second, () => e.field(X87_FIELD.source, 7));
    e.requireValid(second);
    w.get(first).mem(i64.load, ST).set(significand);
    w.get(first)
      .mem(i32.load16_u, ST + 8)
      .set(signExponent);
    w.get(first).get(second).mem(i64.load, ST).mem(i64.store, ST);
    w.get(first)
      .get(second)
      .mem(i32.load16_u, ST + 8)
      .mem(i32.store16, ST + 8);
    w.get(second).get(significand).mem(i64.store, ST);
    w.get(second)
      .get(signExponent)
      .mem(i32.store16, ST + 8);
    e.clearC1();
    e.noteInstruction();
  });
});

// FST ST(i) and FSTP ST(i).
defineX87('x87.move', (e) => {
  const { w } = e;
  const from = e.local(I32, 11);
  const to = e.local(I32, 12);
  e.with(x87Register, () => {
    e.register(from, () => w.i32Const(0));
    e.requireValid(from);
    e.register(to, () => e.field(X87_FIELD.target, 7));
    e.writeRegister(
      to,
      () => w.get(from).mem(i64.load, ST),
      () => w.get(from).mem(i32.load16_u, ST + 8),
    );
    e.clearC1();
    e.noteInstruction();
    e.pop(() => e.field(X87_FIELD.pops, 3));
  });
});

// FCHS (field c SIGN: the bit to change) and FABS (field c 0: it is cleared).
defineX87('x87.sign', (e) => {
  const { w, g } = e;
  const at = e.local(I32, 11);
  e.with(x87Register, () => {
    e.register(at, () => w.i32Const(0));
    e.requireValid(at);
    w.get(at);
    w.get(at).mem(i32.load16_u, ST + 8);
    g.c();
    w.op(i32.xor).i32Const(EXPONENT);
    g.c();
    w.op(i32.or)
      .op(i32.and)
      .mem(i32.store16, ST + 8);
    e.clearC1();
    e.noteInstruction();
  });
});

/** What a store has computed: a local with the value, and whether it is inexact and was rounded up. */
interface Stored {
  readonly value: number;
  readonly inexact: number;
  readonly up: number;
}

/** A store of ST(0) to the linear address in operand b. FST and FIST have even ModRM.reg, those that pop odd. */
function defineStore(
  name: string,
  bytes: 2 | 4 | 8,
  convert: (e: Emitter, x: Parts, stored: Stored) => void,
): void {
  defineX87(name, (e) => {
    const { w, g } = e;
    const x = e.parts(0);
    const at = e.local(I32, 11);
    const stored: Stored = {
      value: e.local(bytes === 8 ? I64 : I32, 6),
      inexact: e.local(I32, 4),
      up: e.local(I32, 5),
    };
    const address = e.local(I64, 7);
    e.with(x87Store, () => {
      e.register(at, () => w.i32Const(0));
      e.requireValid(at);
      e.unpackRegister(at, x);
      e.requirePlain(x);
      w.i32Const(0).set(stored.inexact).i32Const(0).set(stored.up);
      convert(e, x, stored);
      g.b(64);
      w.set(address);
      g.store(address, bytes, stored.value);
      e.setInexact(stored.inexact, stored.up);
      e.noteInstruction();
      e.noteOperand();
      e.pop(() => {
        e.modrmReg();
        w.i32Const(1).op(i32.and);
      });
    });
  });
}

/** Sets inexact and up for a significand x cut after so many bits (a constant), and `kept` to what is left, rounded. */
function emitCut(e: Emitter, x: Parts, cut: bigint, kept: number, { inexact, up }: Stored): void {
  const { w } = e;
  const rest = e.local(I64, 4);
  const half = 1n << (cut - 1n);
  w.get(x.significand).i64Const(cut).op(i64.shr_u).set(kept);
  w.get(x.significand)
    .i64Const((1n << cut) - 1n)
    .op(i64.and)
    .tee(rest)
    .i64Const(0n)
    .op(i64.ne)
    .set(inexact);
  w.get(rest).i64Const(half).op(i64.gt_u);
  w.get(rest).i64Const(half).op(i64.eq).get(kept).op(i32.wrap_i64).op(i32.and).i32Const(1).op(i32.and);
  w.op(i32.or).set(up);
  w.get(kept).get(up).op(i64.extend_i32_u).op(i64.add).set(kept);
}

defineStore('x87.store.f64', 8, (e, x, stored) => {
  const { w } = e;
  const kept = e.local(I64, 3);
  e.requireControl(PLAIN_STORE);
  w.get(x.significand).op(i64.eqz).if();
  w.i64Const(0n).set(stored.value);
  w.else();
  // Room for a carry out of the significand at either end.
  w.get(x.exponent)
    .i32Const(0x3fff - 1023 + 1)
    .op(i32.sub)
    .tee(x.exponent)
    .i32Const(0x7fd)
    .op(i32.ge_u);
  e.slowIf();
  emitCut(e, x, 11n, kept, stored);
  // The significand's integer bit adds one to the exponent.
  w.get(x.exponent).op(i64.extend_i32_u).i64Const(52n).op(i64.shl).get(kept).op(i64.add).set(stored.value);
  w.end();
  w.get(stored.value).get(x.sign).op(i64.extend_i32_u).i64Const(48n).op(i64.shl).op(i64.or).set(stored.value);
});
defineStore('x87.store.f32', 4, (e, x, stored) => {
  const { w } = e;
  const kept = e.local(I64, 3);
  e.requireControl(PLAIN_STORE);
  w.get(x.significand).op(i64.eqz).if();
  w.i32Const(0).set(stored.value);
  w.else();
  w.get(x.exponent)
    .i32Const(0x3fff - 127 + 1)
    .op(i32.sub)
    .tee(x.exponent)
    .i32Const(0xfd)
    .op(i32.ge_u);
  e.slowIf();
  emitCut(e, x, 40n, kept, stored);
  w.get(x.exponent).i32Const(23).op(i32.shl).get(kept).op(i32.wrap_i64).op(i32.add).set(stored.value);
  w.end();
  w.get(stored.value).get(x.sign).i32Const(16).op(i32.shl).op(i32.or).set(stored.value);
});

/** FIST, FISTP, FISTTP: rounded to nearest or, with rounding control 3 and by FISTTP (ModRM.reg 1), truncated. */
for (const bytes of [2, 4, 8] as const) {
  defineStore(`x87.store.i${bytes * 8}`, bytes, (e, x, stored) => {
    const { w, g } = e;
    const shift = e.local(I32, 8);
    const whole = e.local(I64, 3);
    const rest = e.local(I64, 4);
    const rounding = e.local(I32, 9);
    e.requireControl({ mask: MASKS, value: MASKS });
    g.state32(FPU.fcw);
    w.i32Const(10).op(i32.shr_u).i32Const(3).op(i32.and).i32Const(3);
    e.modrmReg();
    w.i32Const(1).op(i32.ne).select().set(rounding);
    w.get(rounding).i32Const(1).op(i32.sub).i32Const(2).op(i32.lt_u);
    e.slowIf();
    w.get(x.significand).op(i64.eqz).if();
    w.i64Const(0n).set(whole);
    w.else();
    // The number is the significand / 2^shift; from 2^63 on it is too large.
    w.i32Const(0x3fff + 63)
      .get(x.exponent)
      .op(i32.sub)
      .tee(shift)
      .i32Const(0)
      .op(i32.le_s);
    e.slowIf();
    w.get(shift).i32Const(64).op(i32.lt_s).if();
    w.get(x.significand).get(shift).op(i64.extend_i32_u).op(i64.shr_u).set(whole);
    w.get(x.significand).i32Const(64).get(shift).op(i32.sub).op(i64.extend_i32_u).op(i64.shl).set(rest);
    w.else();
    w.i64Const(0n).set(whole);
    w.get(x.significand).i64Const(1n).get(shift).i32Const(64).op(i32.eq).select().set(rest);
    w.end();
    w.get(rest).i64Const(0n).op(i64.ne).set(stored.inexact);
    w.get(rest).i64Const(INTEGER_BIT).op(i64.gt_u);
    w.get(rest)
      .i64Const(INTEGER_BIT)
      .op(i64.eq)
      .get(whole)
      .op(i32.wrap_i64)
      .op(i32.and)
      .i32Const(1)
      .op(i32.and);
    w.op(i32.or).get(rounding).op(i32.eqz).op(i32.and).set(stored.up);
    w.get(whole).get(stored.up).op(i64.extend_i32_u).op(i64.add).tee(whole);
    w.i64Const((1n << BigInt(bytes * 8 - 1)) - 1n).op(i64.gt_u);
    e.slowIf();
    w.end();
    w.i64Const(0n).get(whole).op(i64.sub).get(whole).get(x.sign).select();
    if (bytes !== 8) w.op(i32.wrap_i64);
    w.set(stored.value);
  });
}

// FLDCW with the word in a: nothing but the word changes unless it unmasks, or hides, an error that is there.
defineX87('x87.ldcw', (e) => {
  const { w, g } = e;
  const value = e.local(I32, 0);
  e.with(x87Control, () => {
    g.a(16);
    w.set(value);
    g.state32(FPU.fsw);
    w.get(value).i32Const(-1).op(i32.xor).i32Const(MASKS).op(i32.and).i32Const(FSW.es).op(i32.or).op(i32.and);
    e.slowIf();
    g.setState32(FPU.fcw, () => w.get(value).i32Const(0x1f3f).op(i32.and).i32Const(0x40).op(i32.or));
  });
});
