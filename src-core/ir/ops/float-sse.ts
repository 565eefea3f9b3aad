/**
 * SSE floating-point arithmetic in wasm where it gives exactly what the processor does: with MXCSR rounding to nearest,
 * all exceptions masked, FTZ and DAZ clear, operands that are normal numbers or zeros, and a result that raises nothing
 * (or an inexact exception whose flag is already set). Everything else is done by the exact callouts of
 * x86/fpu/sse-float.ts. NaNs are never left to wasm, which does not define their bits.
 */
import {
  F32,
  F64,
  I32,
  I64,
  V128,
  f32,
  f32x4,
  f64,
  f64x2,
  i32,
  i32x4,
  i64,
  i64x2,
  v128,
} from '../../wasm/opcodes.ts';
import type { CodeWriter } from '../../wasm/writer.ts';
import type { Callout } from '../../x86/callout.ts';
import {
  comisd,
  comiss,
  MXCSR,
  type Shape,
  SHAPES,
  sseAdd,
  sseCompare,
  sseConvert,
  sseDiv,
  sseMax,
  sseMin,
  sseMul,
  sseSqrt,
  sseSub,
} from '../../x86/fpu/sse-float.ts';
import { FPU } from '../../x86/layout.ts';
import { defineOp, type OpGen } from '../op.ts';

/** What the lanes of a shape are made of. */
interface LaneType {
  readonly single: boolean;
  readonly scalar: boolean;
  readonly ops: typeof f32x4 | typeof f64x2;
  /** Lane-wise integer comparison's all_true. */
  readonly allTrue: number;
  /** v128 constants: smallest normal number, infinity, zero, low bits that must be clear for an exact product. */
  readonly least: Uint8Array;
  readonly infinite: Uint8Array;
  readonly productMask: Uint8Array;
}

function repeated(single: boolean, bits: bigint): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < 16; at += single ? 4 : 8) {
    if (single) view.setUint32(at, Number(bits), true);
    else view.setBigUint64(at, bits, true);
  }
  return bytes;
}
const ZERO = new Uint8Array(16);

function laneType(shape: Shape): LaneType {
  const single = shape.endsWith('s');
  return {
    single,
    scalar: shape.startsWith('s'),
    ops: single ? f32x4 : f64x2,
    allTrue: single ? i32x4.all_true : i64x2.all_true,
    least: repeated(single, single ? 0x00800000n : 0x0010000000000000n),
    infinite: repeated(single, single ? 0x7f800000n : 0x7ff0000000000000n),
    // Factors of at most half the precision have an exact product.
    productMask: repeated(single, single ? 0xfffn : 0x7ffffffn),
  };
}

/** Pushes an operand as lanes: a scalar in all of them, so that what stands above it does not count. */
function pushOperand(g: OpGen, type: LaneType, which: 'a' | 'b'): void {
  if (!type.scalar) {
    if (which === 'a') g.a128();
    else g.b128();
  } else if (type.single) {
    g[which](32);
    g.w.op(i32x4.splat);
  } else {
    g[which](64);
    g.w.op(i64x2.splat);
  }
}

/** Sets dst to the lanes in local r; of a scalar only the lowest, above it operand a's. */
function setResult(g: OpGen, type: LaneType, r: number): void {
  g.set128(() => {
    if (!type.scalar) {
      g.w.get(r);
      return;
    }
    g.a128();
    g.w.get(r);
    if (type.single) g.w.lane(i32x4.extract_lane, 0).lane(i32x4.replace_lane, 0);
    else g.w.lane(i64x2.extract_lane, 0).lane(i64x2.replace_lane, 0);
  });
}

/** Bits of MXCSR that decide whether the fast path's rounding and masks are in force, and their value then. */
const MODE_MASK = 0xffff & ~MXCSR.flags;
const MODE_DEFAULT = 0x1f80;
const INEXACT = 0x20;

/** Pushes whether MXCSR has its default modes. */
function pushDefaultMode(g: OpGen): void {
  g.state32(FPU.mxcsr);
  g.w.i32Const(MODE_MASK).op(i32.and).i32Const(MODE_DEFAULT).op(i32.eq);
}
/** Pushes whether the inexact flag is set already. */
function pushStickyInexact(g: OpGen): void {
  g.state32(FPU.mxcsr);
  g.w.i32Const(INEXACT).op(i32.and);
}

/** Pushes, by lane, whether a local holds a number that is normal, zero or infinite. */
function pushOrdinary(w: CodeWriter, { ops, least }: LaneType, x: number): void {
  w.get(x).op(ops.abs).v128Const(least).op(ops.ge);
  w.get(x).v128Const(ZERO).op(ops.eq).op(v128.or);
}
function pushFinite(w: CodeWriter, { ops, infinite }: LaneType, x: number): void {
  w.get(x).op(ops.abs).v128Const(infinite).op(ops.lt);
}
/** Pushes, by lane, whether a result is so far above the smallest normal number that it cannot have been tiny. */
function pushNotTiny(w: CodeWriter, { ops, least }: LaneType, r: number): void {
  w.get(r).op(ops.abs).v128Const(least).op(ops.gt);
}
function pushIsZero(w: CodeWriter, { ops }: LaneType, x: number): void {
  w.get(x).v128Const(ZERO).op(ops.eq);
}
/** Pushes, by lane, whether the product of two locals is exact because of their few bits. */
function pushShort(w: CodeWriter, { ops, productMask }: LaneType, x: number, y: number): void {
  w.get(x).get(y).op(v128.or).v128Const(productMask).op(v128.and);
  // All-zero bits compare equal to zero, any others (denormals) do not.
  w.v128Const(ZERO).op(ops.eq);
}

type Kind = 'add' | 'sub' | 'mul' | 'div' | 'sqrt';

/** Pushes, by lane, whether r = x KIND y raises nothing but, perhaps, inexact. */
function pushUneventful(w: CodeWriter, type: LaneType, kind: Kind, x: number, y: number, r: number): void {
  const { ops, least } = type;
  if (kind === 'sqrt') {
    // Positive normal numbers and zeros.
    w.get(y).v128Const(least).op(ops.ge);
    pushIsZero(w, type, y);
    w.op(v128.or);
    pushFinite(w, type, y);
    w.op(v128.and);
    return;
  }
  pushOrdinary(w, type, x);
  if (kind === 'div') w.get(y).op(ops.abs).v128Const(least).op(ops.ge);
  else pushOrdinary(w, type, y);
  w.op(v128.and);
  pushFinite(w, type, r);
  w.op(v128.and);
  // Sums of normal numbers that are denormal are exact.
  if (kind === 'add' || kind === 'sub') return;
  pushNotTiny(w, type, r);
  pushIsZero(w, type, x);
  w.op(v128.or);
  if (kind === 'mul') {
    pushIsZero(w, type, y);
    w.op(v128.or);
  }
  w.op(v128.and);
}

/** Pushes, by lane, whether r = x KIND y is certainly exact. */
function pushExact(g: OpGen, type: LaneType, kind: Kind, x: number, y: number, r: number): void {
  const { w } = g;
  const { ops } = type;
  switch (kind) {
    case 'add':
    case 'sub': {
      // The rounding error as Knuth's TwoSum has it, with y negated for a difference: zero when there is none.
      const t = g.scratch(V128, 3);
      w.get(r).get(x).op(ops.sub).set(t);
      w.get(x).get(r).get(t).op(ops.sub).op(ops.sub);
      w.get(y)
        .get(t)
        .op(kind === 'add' ? ops.sub : ops.add);
      w.op(kind === 'add' ? ops.add : ops.sub);
      w.v128Const(ZERO).op(ops.eq);
      return;
    }
    case 'mul':
      pushShort(w, type, x, y);
      return;
    case 'div':
      pushShort(w, type, r, y);
      w.get(r).get(y).op(ops.mul).get(x).op(ops.eq).op(v128.and);
      return;
    default:
      pushShort(w, type, r, r);
      w.get(r).get(r).op(ops.mul).get(y).op(ops.eq).op(v128.and);
  }
}

function arithmetic(kind: Kind, shape: Shape, exact: Callout): void {
  const type = laneType(shape);
  const { ops, allTrue } = type;
  defineOp(`${kind}.${shape}`, 128, { leaves: true }, (g) => {
    const { w } = g;
    const x = g.scratch(V128, 0);
    const y = g.scratch(V128, 1);
    const r = g.scratch(V128, 2);
    pushOperand(g, type, 'b');
    w.set(y);
    if (kind === 'sqrt') {
      w.get(y).op(ops.sqrt).set(r);
    } else {
      pushOperand(g, type, 'a');
      w.tee(x).get(y).op(ops[kind]).set(r);
    }
    pushDefaultMode(g);
    pushUneventful(w, type, kind, x, y, r);
    w.op(allTrue).op(i32.and);
    w.if(I32);
    pushStickyInexact(g);
    w.if(I32).i32Const(1).else();
    pushExact(g, type, kind, x, y, r);
    w.op(allTrue).end();
    w.else().i32Const(0).end();
    w.if();
    setResult(g, type, r);
    w.else();
    g.callout(exact);
    w.end();
  });
}
for (const shape of SHAPES) {
  arithmetic('add', shape, sseAdd[shape]);
  arithmetic('sub', shape, sseSub[shape]);
  arithmetic('mul', shape, sseMul[shape]);
  arithmetic('div', shape, sseDiv[shape]);
  arithmetic('sqrt', shape, sseSqrt[shape]);
}

/** MIN, MAX and comparisons raise nothing for ordinary operands, whatever MXCSR says. */
function choosing(
  name: string,
  shape: Shape,
  exact: Callout,
  push: (w: CodeWriter, x: number, y: number) => void,
): void {
  const type = laneType(shape);
  defineOp(`${name}.${shape}`, 128, { leaves: true }, (g) => {
    const { w } = g;
    const x = g.scratch(V128, 0);
    const y = g.scratch(V128, 1);
    const r = g.scratch(V128, 2);
    pushOperand(g, type, 'a');
    w.set(x);
    pushOperand(g, type, 'b');
    w.set(y);
    pushOrdinary(w, type, x);
    pushOrdinary(w, type, y);
    w.op(v128.and).op(type.allTrue).if();
    push(w, x, y);
    w.set(r);
    setResult(g, type, r);
    w.else();
    g.callout(exact);
    w.end();
  });
}
for (const shape of SHAPES) {
  const { ops } = laneType(shape);
  // wasm's pseudo-minimum takes its operands the other way round.
  choosing('min', shape, sseMin[shape], (w, x, y) => w.get(y).get(x).op(ops.pmin));
  choosing('max', shape, sseMax[shape], (w, x, y) => w.get(y).get(x).op(ops.pmax));
  // CMP by predicate 0..7: EQ LT LE UNORD NEQ NLT NLE ORD.
  for (let predicate = 0; predicate < 8; predicate++) {
    choosing(`cmp${predicate}`, shape, sseCompare[shape], (w, x, y) => {
      const negate = predicate >= 4;
      if ((predicate & 3) === 3) {
        w.v128Const(ZERO);
      } else {
        const compared = (predicate & 3) === 0 ? ops.eq : (predicate & 3) === 1 ? ops.lt : ops.le;
        w.get(x).get(y).op(compared);
      }
      if (negate) w.op(v128.not);
    });
  }
}

/** Pushes whether scalar local x is normal, zero or infinite. */
function pushOrdinaryScalar(w: CodeWriter, single: boolean, x: number): void {
  const op = single ? f32 : f64;
  const constant = (value: number): CodeWriter => (single ? w.f32Const(value) : w.f64Const(value));
  w.get(x).op(op.abs);
  constant(single ? 2 ** -126 : 2 ** -1022);
  w.op(op.ge).get(x);
  constant(0);
  w.op(op.eq).op(i32.or);
}

/** Pushes a scalar operand as a float. */
function pushScalar(g: OpGen, single: boolean, which: 'a' | 'b'): void {
  g[which](single ? 32 : 64);
  g.w.op(single ? f32.reinterpret_i32 : f64.reinterpret_i64);
}

// COMISS, COMISD, UCOMISS, UCOMISD: RFLAGS by the order of a and b; field c as for the callout.
for (const [name, single, exact] of [
  ['comi.ss', true, comiss],
  ['comi.sd', false, comisd],
] as const) {
  defineOp(name, 128, { writes: false, flags: 'readwrite', flagsInState: true, leaves: true }, (g) => {
    const { w } = g;
    const op = single ? f32 : f64;
    const x = g.scratch(single ? F32 : F64, 0);
    const y = g.scratch(single ? F32 : F64, 1);
    const equal = g.scratch(I32, 0);
    pushScalar(g, single, 'a');
    w.set(x);
    pushScalar(g, single, 'b');
    w.set(y);
    pushOrdinaryScalar(w, single, x);
    pushOrdinaryScalar(w, single, y);
    w.op(i32.and).if();
    w.get(x).get(y).op(op.eq).set(equal);
    // Result 0 with an odd parity delta, or 1: of ZF, SF and PF only ZF can be set.
    g.setFlags({
      result: () => w.get(equal).op(i32.eqz).op(i64.extend_i32_u),
      aux: () => {
        w.i32Const(0xc0000000 | 0)
          .i32Const(0)
          .get(x)
          .get(y)
          .op(op.lt)
          .select();
        w.get(equal).i32Const(8).op(i32.shl).op(i32.or);
      },
    });
    w.else();
    g.callout(exact);
    w.end();
  });
}

/** Writes the scalar in local `value` (float) to dst's low lane, above it operand a. */
function setScalar(g: OpGen, single: boolean, value: number): void {
  g.set128(() => {
    g.a128();
    g.w.get(value).lane(single ? f32x4.replace_lane : f64x2.replace_lane, 0);
  });
}

// CVTSI2SD from 32 bits is exact, as is CVTDQ2PD.
defineOp('cvt.i32.f64', 128, {}, (g) => {
  const value = g.scratch(F64, 0);
  g.b(32);
  g.w.op(f64.convert_i32_s).set(value);
  setScalar(g, false, value);
});
defineOp('cvt.i32x2.f64x2', 128, { reads: 'b' }, (g) => {
  g.set128(() => {
    g.b(64);
    g.w.op(i64x2.splat).op(f64x2.convert_low_i32x4_s);
  });
});

/** Pushes whether an inexact result may be delivered here: default modes, the flag set already. */
function pushMayRound(g: OpGen): void {
  pushDefaultMode(g);
  pushStickyInexact(g);
  g.w.i32Const(0).op(i32.ne).op(i32.and);
}

// Other integers: exact when the conversion back gives the same, else rounded to nearest.
for (const [name, wide, single] of [
  ['cvt.i64.f64', true, false],
  ['cvt.i32.f32', false, true],
  ['cvt.i64.f32', true, true],
] as const) {
  defineOp(name, 128, { leaves: true }, (g) => {
    const { w } = g;
    const value = g.scratch(single ? F32 : F64, 0);
    const source = g.scratch(wide ? I64 : I32, 1);
    g.b(wide ? 64 : 32);
    w.tee(source);
    if (single) w.op(wide ? f32.convert_i64_s : f32.convert_i32_s);
    else w.op(f64.convert_i64_s);
    w.tee(value);
    if (wide)
      w.op(single ? i64.trunc_sat_f32_s : i64.trunc_sat_f64_s)
        .get(source)
        .op(i64.eq);
    else w.op(i32.trunc_sat_f32_s).get(source).op(i32.eq);
    // The largest integer rounds up to a power of two, and back comes itself by saturation.
    w.get(source);
    if (wide) w.i64Const(0x7fffffffffffffffn).op(i64.ne);
    else w.i32Const(0x7fffffff).op(i32.ne);
    w.op(i32.and);
    pushMayRound(g);
    w.op(i32.or).if();
    setScalar(g, single, value);
    w.else();
    g.callout(sseConvert);
    w.end();
  });
}
defineOp('cvt.i32x4.f32x4', 128, { reads: 'b', leaves: true }, (g) => {
  const { w } = g;
  const source = g.scratch(V128, 0);
  const value = g.scratch(V128, 1);
  g.b128();
  w.tee(source).op(f32x4.convert_i32x4_s).tee(value);
  w.op(i32x4.trunc_sat_f32x4_s).get(source).op(i32x4.eq);
  w.get(source).v128Const(repeated(true, 0x7fffffffn)).op(i32x4.ne).op(v128.and).op(i32x4.all_true);
  pushMayRound(g);
  w.op(i32.or).if();
  g.set128(() => w.get(value));
  w.else();
  g.callout(sseConvert);
  w.end();
});

// To integers, truncated ('cvtt') or rounded to nearest. What is out of range is left to the callout.
for (const single of [false, true]) {
  for (const wide of [false, true]) {
    for (const truncate of [false, true]) {
      const bits = wide ? 64 : 32;
      const op = single ? f32 : f64;
      defineOp(
        `${truncate ? 'cvtt' : 'cvt'}.${single ? 'f32' : 'f64'}.i${bits}`,
        bits,
        { reads: 'b', leaves: true },
        (g) => {
          const { w } = g;
          const x = g.scratch(single ? F32 : F64, 0);
          const whole = g.scratch(single ? F32 : F64, 1);
          const constant = (value: number): CodeWriter => (single ? w.f32Const(value) : w.f64Const(value));
          pushScalar(g, single, 'b');
          w.tee(x)
            .op(truncate ? op.trunc : op.nearest)
            .set(whole);
          w.get(whole).get(x).op(op.eq);
          pushMayRound(g);
          w.op(i32.or);
          w.get(whole);
          constant(-(2 ** (bits - 1)));
          w.op(op.ge).op(i32.and).get(whole);
          constant(2 ** (bits - 1));
          w.op(op.lt).op(i32.and).if();
          g.set(bits, () => {
            w.get(whole);
            if (wide) w.op(single ? i64.trunc_sat_f32_s : i64.trunc_sat_f64_s);
            else w.op(single ? i32.trunc_sat_f32_s : i32.trunc_sat_f64_s);
          });
          w.else();
          g.callout(sseConvert);
          w.end();
        },
      );
    }
  }
}

// Between the formats. Widening ordinary numbers is exact.
defineOp('cvt.f32.f64', 128, { leaves: true }, (g) => {
  const { w } = g;
  const x = g.scratch(F32, 0);
  const value = g.scratch(F64, 1);
  pushScalar(g, true, 'b');
  w.set(x);
  pushOrdinaryScalar(w, true, x);
  w.if();
  w.get(x).op(f64.promote_f32).set(value);
  setScalar(g, false, value);
  w.else();
  g.callout(sseConvert);
  w.end();
});
defineOp('cvt.f64.f32', 128, { leaves: true }, (g) => {
  const { w } = g;
  const x = g.scratch(F64, 0);
  const value = g.scratch(F32, 1);
  pushScalar(g, false, 'b');
  w.tee(x).op(f32.demote_f64).set(value);
  // Finite and not tiny (so the operand was a normal number), or a zero of a zero.
  w.get(value).op(f32.abs).f32Const(Infinity).op(f32.lt);
  w.get(value)
    .op(f32.abs)
    .f32Const(2 ** -126)
    .op(f32.gt);
  w.get(x).f64Const(0).op(f64.eq).op(i32.or).op(i32.and);
  w.get(value).op(f64.promote_f32).get(x).op(f64.eq);
  pushMayRound(g);
  w.op(i32.or).op(i32.and).if();
  setScalar(g, true, value);
  w.else();
  g.callout(sseConvert);
  w.end();
});
