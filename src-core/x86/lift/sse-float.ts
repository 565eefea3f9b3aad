/** SSE floating-point instructions: the exact callouts of fpu/sse-float.ts. */
import { Mnemonic } from 'iced-x86';
import type { Loc } from '../../ir/op.ts';
import { CHECK } from '../fpu/check.ts';
import {
  type ByShape,
  comisd,
  comiss,
  CONVERT,
  type Shape,
  sseAdd,
  sseAddSub,
  sseCompare,
  sseConvert,
  sseDiv,
  sseDotProduct,
  sseHadd,
  sseHsub,
  sseMax,
  sseMin,
  sseMul,
  sseReciprocal,
  sseReciprocalSqrt,
  sseRound,
  sseSqrt,
  sseSub,
} from '../fpu/sse-float.ts';
import type { LiftContext } from './context.ts';
import { claimScalarDouble } from './string.ts';
import { lift } from './table.ts';
import { checkSse, enterMmx, isMmx, mmx, source128, sourceLow, xmm } from './vector.ts';
import { fpuCheck } from './x87.ts';

/** The source operand of an instruction of this shape. */
function source(cx: LiftContext, operand: number, shape: Shape): Loc {
  if (shape === 'ps' || shape === 'pd') return source128(cx, operand);
  return sourceLow(cx, operand, shape === 'ss' ? 32 : 64);
}

/** dst = dst OP source, with an immediate where there is one. */
function arithmetic(callouts: ByShape, shape: Shape) {
  return (cx: LiftContext): void => {
    checkSse(cx);
    const b = source(cx, 1, shape);
    const dst = xmm(cx, 0);
    const imm = cx.insn.opCount > 2 ? cx.immediate(2) & 0xff : 0;
    cx.b.callout(callouts[shape], { dst, a: dst, b, imm });
  };
}

type Mnemonics = Readonly<Partial<Record<Shape, Mnemonic>>>;
function family(callouts: ByShape, mnemonics: Mnemonics): void {
  for (const [shape, mnemonic] of Object.entries(mnemonics) as [Shape, Mnemonic][]) {
    lift(mnemonic, arithmetic(callouts, shape));
  }
}
family(sseAdd, { ss: Mnemonic.Addss, sd: Mnemonic.Addsd, ps: Mnemonic.Addps, pd: Mnemonic.Addpd });
family(sseSub, { ss: Mnemonic.Subss, sd: Mnemonic.Subsd, ps: Mnemonic.Subps, pd: Mnemonic.Subpd });
family(sseMul, { ss: Mnemonic.Mulss, sd: Mnemonic.Mulsd, ps: Mnemonic.Mulps, pd: Mnemonic.Mulpd });
family(sseDiv, { ss: Mnemonic.Divss, sd: Mnemonic.Divsd, ps: Mnemonic.Divps, pd: Mnemonic.Divpd });
family(sseMin, { ss: Mnemonic.Minss, sd: Mnemonic.Minsd, ps: Mnemonic.Minps, pd: Mnemonic.Minpd });
family(sseMax, { ss: Mnemonic.Maxss, sd: Mnemonic.Maxsd, ps: Mnemonic.Maxps, pd: Mnemonic.Maxpd });
family(sseSqrt, { ss: Mnemonic.Sqrtss, sd: Mnemonic.Sqrtsd, ps: Mnemonic.Sqrtps, pd: Mnemonic.Sqrtpd });
family(sseCompare, { ss: Mnemonic.Cmpss, ps: Mnemonic.Cmpps, pd: Mnemonic.Cmppd });
claimScalarDouble(Mnemonic.Cmpsd, arithmetic(sseCompare, 'sd'));
family(sseAddSub, { ps: Mnemonic.Addsubps, pd: Mnemonic.Addsubpd });
family(sseHadd, { ps: Mnemonic.Haddps, pd: Mnemonic.Haddpd });
family(sseHsub, { ps: Mnemonic.Hsubps, pd: Mnemonic.Hsubpd });
family(sseRound, { ss: Mnemonic.Roundss, sd: Mnemonic.Roundsd, ps: Mnemonic.Roundps, pd: Mnemonic.Roundpd });
family(sseDotProduct, { ps: Mnemonic.Dpps, pd: Mnemonic.Dppd });
family(sseReciprocal, { ss: Mnemonic.Rcpss, ps: Mnemonic.Rcpps });
family(sseReciprocalSqrt, { ss: Mnemonic.Rsqrtss, ps: Mnemonic.Rsqrtps });

for (const [mnemonic, bits, callout, signalling] of [
  [Mnemonic.Comiss, 32, comiss, 1],
  [Mnemonic.Ucomiss, 32, comiss, 0],
  [Mnemonic.Comisd, 64, comisd, 1],
  [Mnemonic.Ucomisd, 64, comisd, 0],
] as const) {
  lift(mnemonic, (cx) => {
    checkSse(cx);
    const b = sourceLow(cx, 1, bits);
    cx.b.callout(callout, { a: xmm(cx, 0), b, c: signalling });
  });
}

function conversion(from: number, to: number, count: number, truncate = false): number {
  return from | (to << CONVERT.toShift) | (count << CONVERT.countShift) | (truncate ? CONVERT.truncate : 0);
}

/** Between XMM registers; `clears` zeroes the upper half of the destination. */
function convertXmm(mnemonic: Mnemonic, c: number, operandBits: 32 | 64 | 128, clears: boolean): void {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const from = operandBits === 128 ? source128(cx, 1) : sourceLow(cx, 1, operandBits);
    const dst = xmm(cx, 0);
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
convertXmm(Mnemonic.Cvtdq2ps, conversion(i32, f32, 4), 128, false);
convertXmm(Mnemonic.Cvtps2dq, conversion(f32, i32, 4), 128, false);
convertXmm(Mnemonic.Cvttps2dq, conversion(f32, i32, 4, true), 128, false);
convertXmm(Mnemonic.Cvtdq2pd, conversion(i32, f64, 2), 64, false);
convertXmm(Mnemonic.Cvtpd2dq, conversion(f64, i32, 2), 128, true);
convertXmm(Mnemonic.Cvttpd2dq, conversion(f64, i32, 2, true), 128, true);
convertXmm(Mnemonic.Cvtps2pd, conversion(f32, f64, 2), 64, false);
convertXmm(Mnemonic.Cvtpd2ps, conversion(f64, f32, 2), 128, true);
convertXmm(Mnemonic.Cvtss2sd, conversion(f32, f64, 1), 32, false);
convertXmm(Mnemonic.Cvtsd2ss, conversion(f64, f32, 1), 64, false);

/** From a general register or memory. */
for (const [mnemonic, to] of [
  [Mnemonic.Cvtsi2ss, f32],
  [Mnemonic.Cvtsi2sd, f64],
] as const) {
  lift(mnemonic, (cx) => {
    checkSse(cx);
    const bits = cx.bits(1);
    const from = cx.read(1, bits);
    cx.b.callout(sseConvert, { dst: xmm(cx, 0), b: from, c: conversion(bits === 64 ? i64 : i32, to, 1) });
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
    b.callout(sseConvert, { dst: t, b: value, c: conversion(from, bits === 64 ? i64 : i32, 1, truncate) });
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
