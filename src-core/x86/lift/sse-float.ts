/** SSE floating-point instructions: the exact callouts of fpu/sse-float.ts. */
import { Mnemonic } from '../iced.ts';
import type { Loc } from '../../ir/op.ts';
import { CHECK } from '../fpu/check.ts';
import {
  type ByShape,
  CONVERT,
  type Shape,
  sseAddSub,
  sseConvert,
  sseDotProduct,
  sseHadd,
  sseHsub,
  sseReciprocal,
  sseReciprocalSqrt,
  sseRound,
} from '../fpu/sse-float.ts';
import type { LiftContext } from './context.ts';
import { claimScalarDouble } from './string.ts';
import { lift } from './table.ts';
import { checkSse, enterMmx, isMmx, mmx, source128, sourceLow, xmm } from './vector.ts';
import { fpuCheck } from './x87.ts';

type Mnemonics = Readonly<Partial<Record<Shape, Mnemonic>>>;

/** The source operand of an instruction of this shape. */
function source(cx: LiftContext, operand: number, shape: Shape): Loc {
  if (shape === 'ps' || shape === 'pd') return source128(cx, operand);
  return sourceLow(cx, operand, shape === 'ss' ? 32 : 64);
}

/** dst = dst OP source by the operation of this name, which has a fast path and calls out otherwise. */
function fast(mnemonics: Mnemonics, name: string): void {
  for (const [shape, mnemonic] of Object.entries(mnemonics) as [Shape, Mnemonic][]) {
    lift(mnemonic, (cx) => {
      checkSse(cx);
      const b = source(cx, 1, shape);
      const dst = xmm(cx, 0);
      cx.b.op(`${name}.${shape}`, { dst, a: dst, b });
    });
  }
}

/** dst = dst OP source by callout, with an immediate where there is one. */
function arithmetic(callouts: ByShape, shape: Shape) {
  return (cx: LiftContext): void => {
    checkSse(cx);
    const b = source(cx, 1, shape);
    const dst = xmm(cx, 0);
    const imm = cx.insn.opCount > 2 ? cx.immediate(2) & 0xff : 0;
    cx.b.callout(callouts[shape], { dst, a: dst, b, imm });
  };
}

function family(callouts: ByShape, mnemonics: Mnemonics): void {
  for (const [shape, mnemonic] of Object.entries(mnemonics) as [Shape, Mnemonic][]) {
    lift(mnemonic, arithmetic(callouts, shape));
  }
}
fast({ ss: Mnemonic.Addss, sd: Mnemonic.Addsd, ps: Mnemonic.Addps, pd: Mnemonic.Addpd }, 'add');
fast({ ss: Mnemonic.Subss, sd: Mnemonic.Subsd, ps: Mnemonic.Subps, pd: Mnemonic.Subpd }, 'sub');
fast({ ss: Mnemonic.Mulss, sd: Mnemonic.Mulsd, ps: Mnemonic.Mulps, pd: Mnemonic.Mulpd }, 'mul');
fast({ ss: Mnemonic.Divss, sd: Mnemonic.Divsd, ps: Mnemonic.Divps, pd: Mnemonic.Divpd }, 'div');
fast({ ss: Mnemonic.Minss, sd: Mnemonic.Minsd, ps: Mnemonic.Minps, pd: Mnemonic.Minpd }, 'min');
fast({ ss: Mnemonic.Maxss, sd: Mnemonic.Maxsd, ps: Mnemonic.Maxps, pd: Mnemonic.Maxpd }, 'max');
fast({ ss: Mnemonic.Sqrtss, sd: Mnemonic.Sqrtsd, ps: Mnemonic.Sqrtps, pd: Mnemonic.Sqrtpd }, 'sqrt');

/** CMPccSS and so on: the predicate is the immediate's low three bits. */
function comparison(shape: Shape) {
  return (cx: LiftContext): void => {
    checkSse(cx);
    const b = source(cx, 1, shape);
    const dst = xmm(cx, 0);
    const imm = cx.immediate(2) & 7;
    cx.b.op(`cmp${imm}.${shape}`, { dst, a: dst, b, imm });
  };
}
lift(Mnemonic.Cmpss, comparison('ss'));
lift(Mnemonic.Cmpps, comparison('ps'));
lift(Mnemonic.Cmppd, comparison('pd'));
claimScalarDouble(Mnemonic.Cmpsd, comparison('sd'));
family(sseAddSub, { ps: Mnemonic.Addsubps, pd: Mnemonic.Addsubpd });
family(sseHadd, { ps: Mnemonic.Haddps, pd: Mnemonic.Haddpd });
family(sseHsub, { ps: Mnemonic.Hsubps, pd: Mnemonic.Hsubpd });
family(sseRound, { ss: Mnemonic.Roundss, sd: Mnemonic.Roundsd, ps: Mnemonic.Roundps, pd: Mnemonic.Roundpd });
family(sseDotProduct, { ps: Mnemonic.Dpps, pd: Mnemonic.Dppd });
family(sseReciprocal, { ss: Mnemonic.Rcpss, ps: Mnemonic.Rcpps });
family(sseReciprocalSqrt, { ss: Mnemonic.Rsqrtss, ps: Mnemonic.Rsqrtps });

for (const [mnemonic, bits, name, signalling] of [
  [Mnemonic.Comiss, 32, 'comi.ss', 1],
  [Mnemonic.Ucomiss, 32, 'comi.ss', 0],
  [Mnemonic.Comisd, 64, 'comi.sd', 1],
  [Mnemonic.Ucomisd, 64, 'comi.sd', 0],
] as const) {
  lift(mnemonic, (cx) => {
    checkSse(cx);
    const b = sourceLow(cx, 1, bits);
    cx.b.op(name, { a: xmm(cx, 0), b, c: signalling });
  });
}

function conversion(from: number, to: number, count: number, truncate = false): number {
  return from | (to << CONVERT.toShift) | (count << CONVERT.countShift) | (truncate ? CONVERT.truncate : 0);
}

/**
 * Between XMM registers; `clears` zeroes the upper half of the destination. `name` is the operation with a fast path,
 * where there is one.
 */
function convertXmm(
  mnemonic: Mnemonic,
  c: number,
  operandBits: 32 | 64 | 128,
  clears: boolean,
  name?: string,
): void {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const from = operandBits === 128 ? source128(cx, 1) : sourceLow(cx, 1, operandBits);
    const dst = xmm(cx, 0);
    if (name !== undefined) {
      b.op(name, { dst, a: dst, b: from, c });
      return;
    }
    if (!clears) {
      b.callout(sseConvert, { dst, b: from, c });
      return;
    }
    const t = b.temp();
    b.callout(sseConvert, { dst: t, b: from, c });
    b.op('zext.64.128', { dst, a: t });
  });
}
const { i32, i64, f32, f64 } = CONVERT;
convertXmm(Mnemonic.Cvtdq2ps, conversion(i32, f32, 4), 128, false, 'cvt.i32x4.f32x4');
convertXmm(Mnemonic.Cvtps2dq, conversion(f32, i32, 4), 128, false);
convertXmm(Mnemonic.Cvttps2dq, conversion(f32, i32, 4, true), 128, false);
convertXmm(Mnemonic.Cvtdq2pd, conversion(i32, f64, 2), 64, false, 'cvt.i32x2.f64x2');
convertXmm(Mnemonic.Cvtpd2dq, conversion(f64, i32, 2), 128, true);
convertXmm(Mnemonic.Cvttpd2dq, conversion(f64, i32, 2, true), 128, true);
convertXmm(Mnemonic.Cvtps2pd, conversion(f32, f64, 2), 64, false);
convertXmm(Mnemonic.Cvtpd2ps, conversion(f64, f32, 2), 128, true);
convertXmm(Mnemonic.Cvtss2sd, conversion(f32, f64, 1), 32, false, 'cvt.f32.f64');
convertXmm(Mnemonic.Cvtsd2ss, conversion(f64, f32, 1), 64, false, 'cvt.f64.f32');

/** From a general register or memory. */
for (const [mnemonic, to] of [
  [Mnemonic.Cvtsi2ss, f32],
  [Mnemonic.Cvtsi2sd, f64],
] as const) {
  lift(mnemonic, (cx) => {
    checkSse(cx);
    const bits = cx.bits(1);
    const wide = bits === 64;
    const from = cx.read(1, bits);
    const dst = xmm(cx, 0);
    const name = `cvt.${wide ? 'i64' : 'i32'}.${to === f32 ? 'f32' : 'f64'}`;
    cx.b.op(name, { dst, a: dst, b: from, c: conversion(wide ? i64 : i32, to, 1) });
  });
}
/** To a general register. */
for (const [mnemonic, from, truncate] of [
  [Mnemonic.Cvtss2si, f32, false],
  [Mnemonic.Cvttss2si, f32, true],
  [Mnemonic.Cvtsd2si, f64, false],
  [Mnemonic.Cvttsd2si, f64, true],
] as const) {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const value = sourceLow(cx, 1, from === f32 ? 32 : 64);
    const bits = cx.bits(0);
    const t = b.temp();
    const name = `${truncate ? 'cvtt' : 'cvt'}.${from === f32 ? 'f32' : 'f64'}.i${bits}`;
    b.op(name, { dst: t, b: value, c: conversion(from, bits === 64 ? i64 : i32, 1, truncate) });
    b.op(`mov.${bits}`, { dst: cx.register(0), a: t });
  });
}
/** From two 32-bit integers in an MMX register or memory. */
for (const [mnemonic, to] of [
  [Mnemonic.Cvtpi2ps, f32],
  [Mnemonic.Cvtpi2pd, f64],
] as const) {
  lift(mnemonic, (cx) => {
    // From memory it has nothing to do with MMX.
    const withMmx = isMmx(cx, 1);
    fpuCheck(cx, withMmx ? CHECK.sseMmx : CHECK.sse);
    const from = sourceLow(cx, 1, 64);
    if (withMmx) enterMmx(cx);
    cx.b.callout(sseConvert, { dst: xmm(cx, 0), b: from, c: conversion(i32, to, 2) });
  });
}
/** To two 32-bit integers in an MMX register. */
for (const [mnemonic, from, truncate] of [
  [Mnemonic.Cvtps2pi, f32, false],
  [Mnemonic.Cvttps2pi, f32, true],
  [Mnemonic.Cvtpd2pi, f64, false],
  [Mnemonic.Cvttpd2pi, f64, true],
] as const) {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    fpuCheck(cx, CHECK.sseMmx);
    const value = from === f32 ? sourceLow(cx, 1, 64) : source128(cx, 1);
    const t = b.temp();
    // The switch to MMX is not taken back when the conversion faults.
    enterMmx(cx);
    b.callout(sseConvert, { dst: t, b: value, c: conversion(from, i32, 2, truncate) });
    b.op('mmxset', { dst: mmx(cx, 0), a: t });
  });
}
