/** x87 loads, stores, register moves and FLDCW in wasm. */
import { I32, I64, i32, i64 } from '../../wasm/opcodes.ts';
import { FSW } from '../../x86/fpu/state.ts';
import { x87Control, x87Load, x87Register, x87Store } from '../../x86/fpu/x87.ts';
import { FPU, ST } from '../../x86/layout.ts';
import { defineOp, type OpGen } from '../op.ts';
import {
  defineX87,
  type Emitter,
  EXPONENT,
  INTEGER_BIT,
  MASKS,
  type Parts,
  PLAIN_STORE,
  SIGN,
  UNFIT,
  X87_FIELD,
} from './float-x87-emitter.ts';

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
      g.store(
        () => {
          g.b(64);
          w.set(address);
          return address;
        },
        64,
        bytes,
        () => w.get(stored.value),
      );
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
