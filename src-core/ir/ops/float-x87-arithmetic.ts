/** x87 arithmetic and comparison in wasm: exact 64-bit significand arithmetic, rounded once. */
import { I32, I64, i32, i64 } from '../../wasm/opcodes.ts';
import { FSW } from '../../x86/fpu/state.ts';
import { x87Load, x87Register } from '../../x86/fpu/x87.ts';
import { FPU } from '../../x86/layout.ts';
import {
  defineX87,
  type Emitter,
  INTEGER_BIT,
  type Parts,
  PLAIN_ARITHMETIC,
  X87_FIELD,
} from './float-x87-emitter.ts';

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
    g.setFlags({
      result: () => w.get(equal).op(i32.eqz).op(i64.extend_i32_u),
      aux: () => {
        w.i32Const(0xc0000000 | 0)
          .i32Const(0)
          .get(less)
          .select();
        w.get(equal).i32Const(8).op(i32.shl).op(i32.or);
      },
    });
    e.noteInstruction();
    e.pop(() => e.field(X87_FIELD.pops, 3));
  });
});
