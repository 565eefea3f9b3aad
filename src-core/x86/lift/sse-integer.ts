/** MMX and SSE integer arithmetic, comparison, packing, shifts and logic, most of it straight wasm SIMD. */
import { Mnemonic } from '../iced.ts';
import type { Loc } from '../../ir/op.ts';
import { compareStrings, crc32, STRINGS } from '../fpu/sse-strings.ts';
import { RAX, RDX } from '../layout.ts';
import { lift } from './table.ts';
import { checkMmx, checkSse, enterMmx, isMmx, mmx, source128, sourceLow, xmm } from './vector.ts';

/**
 * How a 64-bit MMX form comes from the 128-bit operation: lane by lane (the low half); of both operands side by side
 * (instructions that narrow or add neighbours); or the high half of the result (PUNPCKH).
 */
type MmxForm = 'lanes' | 'paired' | 'high';

function packed(mnemonic: Mnemonic, name: string, form: MmxForm = 'lanes', mmxName = name): void {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    if (!isMmx(cx, 0)) {
      checkSse(cx);
      const dst = xmm(cx, 0);
      b.op(name, { dst, a: dst, b: source128(cx, 1) });
      return;
    }
    checkMmx(cx);
    const source = sourceLow(cx, 1, cx.isMemory(1) && cx.memoryBits() === 32 ? 32 : 64);
    enterMmx(cx);
    const dst = mmx(cx, 0);
    const t = b.temp();
    if (form === 'paired') {
      const both = b.op('pair.64', { dst: b.temp(), a: dst, b: source });
      b.op(mmxName, { dst: t, a: both, b: both });
    } else {
      b.op(mmxName, { dst: t, a: dst, b: source });
    }
    b.op('mmxset', { dst, a: form === 'high' ? t + 8 : t });
  });
}

const LANEWISE: readonly (readonly [Mnemonic, string])[] = [
  [Mnemonic.Paddb, 'padd.8'],
  [Mnemonic.Paddw, 'padd.16'],
  [Mnemonic.Paddd, 'padd.32'],
  [Mnemonic.Paddq, 'padd.64'],
  [Mnemonic.Psubb, 'psub.8'],
  [Mnemonic.Psubw, 'psub.16'],
  [Mnemonic.Psubd, 'psub.32'],
  [Mnemonic.Psubq, 'psub.64'],
  [Mnemonic.Paddsb, 'padds.8'],
  [Mnemonic.Paddsw, 'padds.16'],
  [Mnemonic.Paddusb, 'paddus.8'],
  [Mnemonic.Paddusw, 'paddus.16'],
  [Mnemonic.Psubsb, 'psubs.8'],
  [Mnemonic.Psubsw, 'psubs.16'],
  [Mnemonic.Psubusb, 'psubus.8'],
  [Mnemonic.Psubusw, 'psubus.16'],
  [Mnemonic.Pavgb, 'pavg.8'],
  [Mnemonic.Pavgw, 'pavg.16'],
  [Mnemonic.Pminub, 'pminu.8'],
  [Mnemonic.Pminuw, 'pminu.16'],
  [Mnemonic.Pminud, 'pminu.32'],
  [Mnemonic.Pminsb, 'pmins.8'],
  [Mnemonic.Pminsw, 'pmins.16'],
  [Mnemonic.Pminsd, 'pmins.32'],
  [Mnemonic.Pmaxub, 'pmaxu.8'],
  [Mnemonic.Pmaxuw, 'pmaxu.16'],
  [Mnemonic.Pmaxud, 'pmaxu.32'],
  [Mnemonic.Pmaxsb, 'pmaxs.8'],
  [Mnemonic.Pmaxsw, 'pmaxs.16'],
  [Mnemonic.Pmaxsd, 'pmaxs.32'],
  [Mnemonic.Pcmpeqb, 'pcmpeq.8'],
  [Mnemonic.Pcmpeqw, 'pcmpeq.16'],
  [Mnemonic.Pcmpeqd, 'pcmpeq.32'],
  [Mnemonic.Pcmpeqq, 'pcmpeq.64'],
  [Mnemonic.Pcmpgtb, 'pcmpgt.8'],
  [Mnemonic.Pcmpgtw, 'pcmpgt.16'],
  [Mnemonic.Pcmpgtd, 'pcmpgt.32'],
  [Mnemonic.Pcmpgtq, 'pcmpgt.64'],
  [Mnemonic.Pmullw, 'pmull.16'],
  [Mnemonic.Pmulld, 'pmull.32'],
  [Mnemonic.Pmulhw, 'pmulhs'],
  [Mnemonic.Pmulhuw, 'pmulhu'],
  [Mnemonic.Pmulhrsw, 'pmulhrs'],
  [Mnemonic.Pmuludq, 'pmulu.32'],
  [Mnemonic.Pmuldq, 'pmuls.32'],
  [Mnemonic.Pmaddwd, 'pmaddwd'],
  [Mnemonic.Pmaddubsw, 'pmaddubs'],
  [Mnemonic.Psadbw, 'psadbw'],
  [Mnemonic.Psignb, 'psign.8'],
  [Mnemonic.Psignw, 'psign.16'],
  [Mnemonic.Psignd, 'psign.32'],
  [Mnemonic.Pand, 'pand'],
  [Mnemonic.Andps, 'pand'],
  [Mnemonic.Andpd, 'pand'],
  [Mnemonic.Pandn, 'pandn'],
  [Mnemonic.Andnps, 'pandn'],
  [Mnemonic.Andnpd, 'pandn'],
  [Mnemonic.Por, 'por'],
  [Mnemonic.Orps, 'por'],
  [Mnemonic.Orpd, 'por'],
  [Mnemonic.Pxor, 'pxor'],
  [Mnemonic.Xorps, 'pxor'],
  [Mnemonic.Xorpd, 'pxor'],
  [Mnemonic.Punpcklbw, 'punpckl.8'],
  [Mnemonic.Punpcklwd, 'punpckl.16'],
  [Mnemonic.Punpckldq, 'punpckl.32'],
  [Mnemonic.Punpcklqdq, 'punpckl.64'],
  [Mnemonic.Unpcklps, 'punpckl.32'],
  [Mnemonic.Unpcklpd, 'punpckl.64'],
  [Mnemonic.Punpckhqdq, 'punpckh.64'],
  [Mnemonic.Unpckhps, 'punpckh.32'],
  [Mnemonic.Unpckhpd, 'punpckh.64'],
];
for (const [mnemonic, name] of LANEWISE) packed(mnemonic, name);
packed(Mnemonic.Pshufb, 'pshufb', 'lanes', 'pshufb.mmx');
for (const [mnemonic, bits] of [
  [Mnemonic.Punpckhbw, 8],
  [Mnemonic.Punpckhwd, 16],
  [Mnemonic.Punpckhdq, 32],
] as const) {
  // The high half of 64 bits is the second half of the low interleave of 128.
  packed(mnemonic, `punpckh.${bits}`, 'high', `punpckl.${bits}`);
}
for (const [mnemonic, name] of [
  [Mnemonic.Packsswb, 'packss.16'],
  [Mnemonic.Packuswb, 'packus.16'],
  [Mnemonic.Packssdw, 'packss.32'],
  [Mnemonic.Packusdw, 'packus.32'],
  [Mnemonic.Phaddw, 'phadd.16'],
  [Mnemonic.Phaddd, 'phadd.32'],
  [Mnemonic.Phaddsw, 'phadds.16'],
  [Mnemonic.Phsubw, 'phsub.16'],
  [Mnemonic.Phsubd, 'phsub.32'],
  [Mnemonic.Phsubsw, 'phsubs.16'],
] as const) {
  packed(mnemonic, name, 'paired');
}

/** dst = OP source */
function unary(mnemonic: Mnemonic, name: string): void {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    if (!isMmx(cx, 0)) {
      checkSse(cx);
      b.op(name, { dst: xmm(cx, 0), a: source128(cx, 1) });
      return;
    }
    checkMmx(cx);
    const source = sourceLow(cx, 1, 64);
    enterMmx(cx);
    b.op('mmxset', { dst: mmx(cx, 0), a: b.op(name, { dst: b.temp(), a: source }) });
  });
}
unary(Mnemonic.Pabsb, 'pabs.8');
unary(Mnemonic.Pabsw, 'pabs.16');
unary(Mnemonic.Pabsd, 'pabs.32');
unary(Mnemonic.Phminposuw, 'phminposuw');

/** Shifts by a register, memory or an immediate. */
function shift(mnemonic: Mnemonic, kind: 'psll' | 'psrl' | 'psra', bits: number): void {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    const withMmx = isMmx(cx, 0);
    if (withMmx) checkMmx(cx);
    else checkSse(cx);
    const dst = withMmx ? mmx(cx, 0) : xmm(cx, 0);
    const result = withMmx ? b.temp() : dst;
    if (cx.isImmediate(1)) {
      if (withMmx) enterMmx(cx);
      const count = cx.immediate(1) & 0xff;
      if (count < bits) b.op(`${kind}.${bits}i`, { dst: result, a: dst, imm: count });
      else if (kind === 'psra') b.op(`${kind}.${bits}i`, { dst: result, a: dst, imm: bits - 1 });
      else b.op('zero.128', { dst: result });
    } else {
      const count = withMmx ? sourceLow(cx, 1, 64) : source128(cx, 1);
      if (withMmx) enterMmx(cx);
      b.op(`${kind}.${bits}`, { dst: result, a: dst, b: count });
    }
    if (withMmx) b.op('mmxset', { dst, a: result });
  });
}
shift(Mnemonic.Psllw, 'psll', 16);
shift(Mnemonic.Pslld, 'psll', 32);
shift(Mnemonic.Psllq, 'psll', 64);
shift(Mnemonic.Psrlw, 'psrl', 16);
shift(Mnemonic.Psrld, 'psrl', 32);
shift(Mnemonic.Psrlq, 'psrl', 64);
shift(Mnemonic.Psraw, 'psra', 16);
shift(Mnemonic.Psrad, 'psra', 32);

const ALL_OUT = 32;

lift(Mnemonic.Pslldq, (cx) => {
  const { b } = cx;
  checkSse(cx);
  const dst = xmm(cx, 0);
  const count = Math.min(cx.immediate(1) & 0xff, 16);
  const nought = b.op('zero.128', { dst: b.temp() });
  b.op('palignr', { dst, a: dst, b: nought, imm: 16 - count });
});
lift(Mnemonic.Psrldq, (cx) => {
  const { b } = cx;
  checkSse(cx);
  const dst = xmm(cx, 0);
  const nought = b.op('zero.128', { dst: b.temp() });
  b.op('palignr', { dst, a: nought, b: dst, imm: Math.min(cx.immediate(1) & 0xff, 16) });
});
lift(Mnemonic.Palignr, (cx) => {
  const { b } = cx;
  const count = Math.min(cx.immediate(2) & 0xff, ALL_OUT);
  if (!isMmx(cx, 0)) {
    checkSse(cx);
    const dst = xmm(cx, 0);
    b.op('palignr', { dst, a: dst, b: source128(cx, 1), imm: count });
    return;
  }
  checkMmx(cx);
  const source = sourceLow(cx, 1, 64);
  enterMmx(cx);
  const dst = mmx(cx, 0);
  const both = b.op('pair.64', { dst: b.temp(), a: source, b: dst });
  const nought = b.op('zero.128', { dst: b.temp() });
  b.op('palignr', { dst: both, a: nought, b: both, imm: count });
  b.op('mmxset', { dst, a: both });
});

/** PMOVSX and PMOVZX: the low elements widened step by step. */
for (const [mnemonic, from, to, signed] of [
  [Mnemonic.Pmovsxbw, 8, 16, true],
  [Mnemonic.Pmovsxbd, 8, 32, true],
  [Mnemonic.Pmovsxbq, 8, 64, true],
  [Mnemonic.Pmovsxwd, 16, 32, true],
  [Mnemonic.Pmovsxwq, 16, 64, true],
  [Mnemonic.Pmovsxdq, 32, 64, true],
  [Mnemonic.Pmovzxbw, 8, 16, false],
  [Mnemonic.Pmovzxbd, 8, 32, false],
  [Mnemonic.Pmovzxbq, 8, 64, false],
  [Mnemonic.Pmovzxwd, 16, 32, false],
  [Mnemonic.Pmovzxwq, 16, 64, false],
  [Mnemonic.Pmovzxdq, 32, 64, false],
] as const) {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const dst = xmm(cx, 0);
    let value: Loc = cx.isMemory(1) ? cx.load(cx.memoryBits(), cx.address(cx.memoryBits())) : xmm(cx, 1);
    for (let bits: number = from; bits < to; bits *= 2) {
      value = b.op(`${signed ? 'pmovsx' : 'pmovzx'}.${bits}.${bits * 2}`, { dst, a: value });
    }
  });
}

lift(Mnemonic.Ptest, (cx) => {
  checkSse(cx);
  cx.b.op('ptestf', { a: xmm(cx, 0), b: source128(cx, 1) });
});
lift(Mnemonic.Mpsadbw, (cx) => {
  checkSse(cx);
  const dst = xmm(cx, 0);
  cx.b.op('mpsadbw', { dst, a: dst, b: source128(cx, 1), c: cx.immediate(2) & 7 });
});

/** CRC32 is no FPU instruction. */
lift(Mnemonic.Crc32, (cx) => {
  const bits = cx.bits(1);
  const source = cx.read(1, bits);
  const dst = cx.register(0);
  cx.b.callout(crc32, { dst, a: dst, b: source, c: bits });
});

/** PCMPxSTRx: lengths explicit in (R)AX and (R)DX or implicit; an index into ECX or a mask into XMM0. */
for (const [mnemonics, explicit, index] of [
  [[Mnemonic.Pcmpestri, Mnemonic.Pcmpestri64], true, true],
  [[Mnemonic.Pcmpestrm, Mnemonic.Pcmpestrm64], true, false],
  [[Mnemonic.Pcmpistri], false, true],
  [[Mnemonic.Pcmpistrm], false, false],
] as const) {
  for (const mnemonic of mnemonics) {
    const wide = mnemonic === Mnemonic.Pcmpestri64 || mnemonic === Mnemonic.Pcmpestrm64;
    lift(mnemonic, (cx) => {
      const { b } = cx;
      checkSse(cx);
      // The memory operand need not be aligned.
      const source = source128(cx, 1, false);
      const lengths = b.temp();
      if (explicit) {
        b.op(wide ? 'mov.64' : 'sext.32.64', { dst: lengths, a: RAX });
        b.op(wide ? 'mov.64' : 'sext.32.64', { dst: lengths + 8, a: RDX });
      }
      b.calloutUnless('strings.compare', compareStrings, {
        dst: lengths,
        a: xmm(cx, 0),
        b: source,
        imm: cx.immediate(2) & 0xff,
        c: (explicit ? STRINGS.explicit : 0) | (index ? STRINGS.index : 0),
      });
    });
  }
}
