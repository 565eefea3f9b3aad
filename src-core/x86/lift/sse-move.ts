/** MMX and SSE moves: whole registers, parts of them, lanes (Intel SDM volume 2, MOVAPS and so on). */
import { Mnemonic, OpKind } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { CHECK } from '../fpu/check.ts';
import { ldmxcsr, maskedStore } from '../fpu/sse-control.ts';
import { FX_ALIGNED, fxrstorCallout, fxsaveCallout, LAYOUT } from '../fpu/x87.ts';
import { FPU, RDI, XMM } from '../layout.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { claimScalarDouble } from './string.ts';
import { lift } from './table.ts';
import {
  address128,
  checkAlignment,
  checkMmx,
  checkSse,
  constant128,
  enterMmx,
  isMmx,
  isXmm,
  laneConstant,
  mmx,
  source128,
  sourceLow,
  xmm,
} from './vector.ts';
import { blockAddress, fpuCheck, layoutBits } from './x87.ts';

/** Whole registers of 16 bytes. */
function move128(aligned: boolean) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    checkSse(cx);
    if (cx.isMemory(0)) cx.store128(address128(cx, true, aligned), xmm(cx, 1));
    else if (cx.isMemory(1)) cx.load128(address128(cx, false, aligned), xmm(cx, 0));
    else b.op('mov.128', { dst: xmm(cx, 0), a: xmm(cx, 1) });
  };
}
lift(
  [
    Mnemonic.Movaps,
    Mnemonic.Movapd,
    Mnemonic.Movdqa,
    Mnemonic.Movntps,
    Mnemonic.Movntpd,
    Mnemonic.Movntdq,
    Mnemonic.Movntdqa,
  ],
  move128(true),
);
lift([Mnemonic.Movups, Mnemonic.Movupd, Mnemonic.Movdqu, Mnemonic.Lddqu], move128(false));

/** MOVSS and MOVSD: loads clear the rest of the register, moves between registers leave it. */
function moveScalar(bits: 32 | 64) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    checkSse(cx);
    if (cx.isMemory(0)) cx.store(bits, cx.address(bits, true), xmm(cx, 1));
    else if (cx.isMemory(1)) {
      b.op(`zext.${bits}.128`, { dst: xmm(cx, 0), a: cx.load(bits, cx.address(bits)) });
    } else {
      const dst = xmm(cx, 0);
      b.op(`insert.${bits}`, { dst, a: dst, b: xmm(cx, 1), c: 0 });
    }
  };
}
lift(Mnemonic.Movss, moveScalar(32));
claimScalarDouble(Mnemonic.Movsd, moveScalar(64));

/** MOVLPS, MOVLPD, MOVHPS, MOVHPD: one half of a register and memory. */
function moveHalf(lane: 0 | 1) {
  return (cx: LiftContext): void => {
    checkSse(cx);
    if (cx.isMemory(0)) {
      cx.store(64, cx.address(64, true), xmm(cx, 1) + lane * 8);
      return;
    }
    const dst = xmm(cx, 0);
    cx.b.op('insert.64', { dst, a: dst, b: cx.load(64, cx.address(64)), c: lane });
  };
}
lift([Mnemonic.Movlps, Mnemonic.Movlpd], moveHalf(0));
lift([Mnemonic.Movhps, Mnemonic.Movhpd], moveHalf(1));
lift(Mnemonic.Movlhps, (cx) => {
  checkSse(cx);
  const dst = xmm(cx, 0);
  cx.b.op('insert.64', { dst, a: dst, b: xmm(cx, 1), c: 1 });
});
lift(Mnemonic.Movhlps, (cx) => {
  checkSse(cx);
  const dst = xmm(cx, 0);
  cx.b.op('insert.64', { dst, a: dst, b: xmm(cx, 1) + 8, c: 0 });
});

/** MOVD and MOVQ. */
function moveLow(cx: LiftContext): void {
  const { b } = cx;
  const withMmx = isMmx(cx, 0) || isMmx(cx, 1);
  if (withMmx) checkMmx(cx);
  else checkSse(cx);
  // The size is the general or memory operand's; 64 between two vector registers.
  const vector = (operand: number): boolean => isMmx(cx, operand) || isXmm(cx, operand);
  const other = vector(0) ? 1 : 0;
  const bits = vector(other) ? 64 : cx.bits(other);
  if (bits !== 32 && bits !== 64) throw new UndefinedInstruction();
  if (other === 0) {
    const value = withMmx ? mmx(cx, 1) : xmm(cx, 1);
    cx.write(0, value, bits);
    if (withMmx) enterMmx(cx);
    return;
  }
  const value = vector(1) ? sourceLow(cx, 1, 64) : cx.read(1, bits);
  if (!withMmx) {
    b.op(`zext.${bits}.128`, { dst: xmm(cx, 0), a: value });
    return;
  }
  enterMmx(cx);
  const wide = bits === 64 ? value : b.op('zext.32.64', { dst: b.temp(), a: value });
  b.op('mmxset', { dst: mmx(cx, 0), a: wide });
}
lift(Mnemonic.Movd, moveLow);

/** MOVQ has forms of its own between XMM registers. */
lift(Mnemonic.Movq, (cx) => {
  if (isXmm(cx, 0) && isXmm(cx, 1)) {
    checkSse(cx);
    cx.b.op('zext.64.128', { dst: xmm(cx, 0), a: xmm(cx, 1) });
  } else moveLow(cx);
});

lift(Mnemonic.Movntq, (cx) => {
  checkMmx(cx);
  cx.store(64, cx.address(64, true), mmx(cx, 1));
  enterMmx(cx);
});
/** MOVNTI is no FPU instruction. */
lift(Mnemonic.Movnti, (cx) => {
  const bits = cx.bits(0);
  cx.store(bits, cx.address(bits, true), cx.register(1));
});
lift(Mnemonic.Movq2dq, (cx) => {
  fpuCheck(cx, CHECK.sseMmx);
  enterMmx(cx);
  cx.b.op('zext.64.128', { dst: xmm(cx, 0), a: mmx(cx, 1) });
});
lift(Mnemonic.Movdq2q, (cx) => {
  fpuCheck(cx, CHECK.sseMmx);
  enterMmx(cx);
  cx.b.op('mmxset', { dst: mmx(cx, 0), a: xmm(cx, 1) });
});

lift(Mnemonic.Maskmovdqu, (cx) => {
  checkSse(cx);
  maskMove(cx, xmm(cx, 1), xmm(cx, 2), 16);
});
lift(Mnemonic.Maskmovq, (cx) => {
  checkMmx(cx);
  // The switch to MMX is not taken back when the store faults.
  enterMmx(cx);
  maskMove(cx, mmx(cx, 1), mmx(cx, 2), 8);
});
/** Bytes of `value` whose mask bytes have bit 7 set, to [rDI] (the segment can be overridden). */
function maskMove(cx: LiftContext, value: Loc, mask: Loc, size: 8 | 16): void {
  const { b } = cx;
  const kind = cx.insn.opKind(0);
  const width = kind === OpKind.MemorySegDI ? 16 : kind === OpKind.MemorySegEDI ? 32 : 64;
  const offset = b.op(`lea1.${width}`, { dst: b.temp(), a: RDI, imm: 0 });
  const address = cx.segmented(cx.memorySegment(), offset, 8, true);
  b.op('lea1.64', { dst: offset, a: address.loc, imm: 0 });
  checkAlignment(cx, { ...address, loc: offset }, 8);
  b.callout(maskedStore, { dst: offset, a: value, b: mask, c: size });
}

/** MOVMSKPS, MOVMSKPD, PMOVMSKB: 32 bits of a general register, zero-extended. */
function signMask(lanes: 8 | 32 | 64) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    if (!isMmx(cx, 1)) {
      checkSse(cx);
      b.op(`bitmask.${lanes}`, { dst: cx.register(0), a: xmm(cx, 1) });
      return;
    }
    checkMmx(cx);
    enterMmx(cx);
    const value = b.op('zext.64.128', { dst: b.temp(), a: mmx(cx, 1) });
    b.op('bitmask.8', { dst: cx.register(0), a: value });
  };
}
lift(Mnemonic.Pmovmskb, signMask(8));
lift(Mnemonic.Movmskps, signMask(32));
lift(Mnemonic.Movmskpd, signMask(64));

/** PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS: a lane to a general register (zero-extended) or memory. */
function extract(bits: Bits) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const lanes = (isMmx(cx, 1) ? 64 : 128) / bits;
    const lane = cx.immediate(2) & (lanes - 1);
    if (isMmx(cx, 1)) {
      checkMmx(cx);
      enterMmx(cx);
      b.op('extract.16', { dst: cx.register(0), a: mmx(cx, 1), c: lane });
      return;
    }
    checkSse(cx);
    if (cx.isRegister(0)) {
      b.op(`extract.${bits}`, { dst: cx.register(0), a: xmm(cx, 1), c: lane });
      return;
    }
    const value = b.op(`extract.${bits}`, { dst: b.temp(), a: xmm(cx, 1), c: lane });
    cx.store(bits, cx.address(bits, true), value);
  };
}
lift(Mnemonic.Pextrb, extract(8));
lift(Mnemonic.Pextrw, extract(16));
lift([Mnemonic.Pextrd, Mnemonic.Extractps], extract(32));
lift(Mnemonic.Pextrq, extract(64));

/** PINSRB, PINSRW, PINSRD, PINSRQ: a lane from a general register or memory. */
function insert(bits: Bits) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const withMmx = isMmx(cx, 0);
    if (withMmx) checkMmx(cx);
    else checkSse(cx);
    const value = cx.isMemory(1) ? cx.load(bits, cx.address(bits)) : cx.register(1);
    if (!withMmx) {
      const dst = xmm(cx, 0);
      b.op(`insert.${bits}`, { dst, a: dst, b: value, c: cx.immediate(2) & (128 / bits - 1) });
      return;
    }
    enterMmx(cx);
    const t = b.temp();
    b.op('insert.16', { dst: t, a: mmx(cx, 0), b: value, c: cx.immediate(2) & 3 });
    b.op('mmxset', { dst: mmx(cx, 0), a: t });
  };
}
lift(Mnemonic.Pinsrb, insert(8));
lift(Mnemonic.Pinsrw, insert(16));
lift(Mnemonic.Pinsrd, insert(32));
lift(Mnemonic.Pinsrq, insert(64));

/** INSERTPS: bits 7..6 choose the source lane (0 for memory), 5..4 the destination's, 3..0 zero lanes. */
lift(Mnemonic.Insertps, (cx) => {
  const { b } = cx;
  checkSse(cx);
  const control = cx.immediate(2);
  const dst = xmm(cx, 0);
  let value: Loc;
  if (cx.isMemory(1)) value = cx.load(32, cx.address(32));
  else value = b.op('extract.32', { dst: b.temp(), a: xmm(cx, 1), c: (control >> 6) & 3 });
  b.op('insert.32', { dst, a: dst, b: value, c: (control >> 4) & 3 });
  if ((control & 15) === 0) return;
  const lanes = Array.from({ length: 16 }, (_, byte) => (((control >> (byte >> 2)) & 1) !== 0 ? 0xff : byte));
  b.op('swizzle', { dst, a: dst, b: laneConstant(cx, lanes) });
});

/** Bytes chosen by a control immediate: element j of the result is element (control >> width * j) of the source. */
function chosen(control: number, bytes: number, first: number, count: number, width: number): number[] {
  const lanes: number[] = [];
  for (let j = 0; j < count; j++) {
    const element = (control >> (width * j)) & ((1 << width) - 1);
    for (let i = 0; i < bytes; i++) lanes.push(first + element * bytes + i);
  }
  return lanes;
}
const LOW_HALF = [0, 1, 2, 3, 4, 5, 6, 7];
const HIGH_HALF = [8, 9, 10, 11, 12, 13, 14, 15];
const NOTHING = new Array<number>(8).fill(0xff);

function shuffleOne(lanesOf: (control: number) => number[]) {
  return (cx: LiftContext): void => {
    checkSse(cx);
    const source = source128(cx, 1);
    cx.b.op('swizzle', { dst: xmm(cx, 0), a: source, b: laneConstant(cx, lanesOf(cx.immediate(2))) });
  };
}
lift(
  Mnemonic.Pshufd,
  shuffleOne((control) => chosen(control, 4, 0, 4, 2)),
);
lift(
  Mnemonic.Pshuflw,
  shuffleOne((control) => [...chosen(control, 2, 0, 4, 2), ...HIGH_HALF]),
);
lift(
  Mnemonic.Pshufhw,
  shuffleOne((control) => [...LOW_HALF, ...chosen(control, 2, 8, 4, 2)]),
);
lift(Mnemonic.Pshufw, (cx) => {
  const { b } = cx;
  checkMmx(cx);
  const source = sourceLow(cx, 1, 64);
  enterMmx(cx);
  const lanes = laneConstant(cx, [...chosen(cx.immediate(2), 2, 0, 4, 2), ...NOTHING]);
  b.op('mmxset', { dst: mmx(cx, 0), a: b.op('swizzle', { dst: b.temp(), a: source, b: lanes }) });
});

/** SHUFPS and SHUFPD: the low half from the destination, the high half from the source. */
function shuffleTwo(lanesOf: (control: number) => { low: number[]; high: number[] }) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    checkSse(cx);
    const dst = xmm(cx, 0);
    const source = source128(cx, 1);
    const { low, high } = lanesOf(cx.immediate(2));
    const x = b.op('swizzle', { dst: b.temp(), a: dst, b: laneConstant(cx, [...low, ...NOTHING]) });
    const y = b.op('swizzle', { dst: b.temp(), a: source, b: laneConstant(cx, [...NOTHING, ...high]) });
    b.op('por', { dst, a: x, b: y });
  };
}
lift(
  Mnemonic.Shufps,
  shuffleTwo((control) => ({ low: chosen(control, 4, 0, 2, 2), high: chosen(control >> 4, 4, 0, 2, 2) })),
);
lift(
  Mnemonic.Shufpd,
  shuffleTwo((control) => ({ low: chosen(control, 8, 0, 1, 1), high: chosen(control >> 1, 8, 0, 1, 1) })),
);

for (const [mnemonic, name] of [
  [Mnemonic.Movsldup, 'movsldup'],
  [Mnemonic.Movshdup, 'movshdup'],
] as const) {
  lift(mnemonic, (cx) => {
    checkSse(cx);
    cx.b.op(name, { dst: xmm(cx, 0), a: source128(cx, 1) });
  });
}
lift(Mnemonic.Movddup, (cx) => {
  checkSse(cx);
  const source = sourceLow(cx, 1, 64);
  cx.b.op('pair.64', { dst: xmm(cx, 0), a: source, b: source });
});

/** A mask with ones in the lanes whose bit of `control` is set. */
function laneMask(cx: LiftContext, control: number, bits: number): Loc {
  let mask = 0n;
  for (let lane = 0; lane < 128 / bits; lane++) {
    if (((control >> lane) & 1) !== 0) mask |= ((1n << BigInt(bits)) - 1n) << BigInt(lane * bits);
  }
  return constant128(cx, BigInt.asUintN(64, mask), mask >> 64n);
}
for (const [mnemonic, bits] of [
  [Mnemonic.Pblendw, 16],
  [Mnemonic.Blendps, 32],
  [Mnemonic.Blendpd, 64],
] as const) {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const dst = xmm(cx, 0);
    const source = source128(cx, 1);
    const t = laneMask(cx, cx.immediate(2), bits);
    b.op('bitselect', { dst: t, a: dst, b: source });
    b.op('mov.128', { dst, a: t });
  });
}
for (const [mnemonic, bits] of [
  [Mnemonic.Pblendvb, 8],
  [Mnemonic.Blendvps, 32],
  [Mnemonic.Blendvpd, 64],
] as const) {
  lift(mnemonic, (cx) => {
    const { b } = cx;
    checkSse(cx);
    const dst = xmm(cx, 0);
    const source = source128(cx, 1);
    const t = b.op('mov.128', { dst: b.temp(), a: XMM });
    b.op(`blendv.${bits}`, { dst: t, a: dst, b: source });
    b.op('mov.128', { dst, a: t });
  });
}

lift(Mnemonic.Ldmxcsr, (cx) => {
  checkSse(cx);
  cx.b.callout(ldmxcsr, { a: cx.load(32, cx.address(32)) });
});
lift(Mnemonic.Stmxcsr, (cx) => {
  checkSse(cx);
  cx.store(32, cx.address(32, true), FPU.mxcsr);
});
lift(Mnemonic.Emms, (cx) => {
  checkMmx(cx);
  cx.b.op('emms', {});
});

for (const [mnemonics, callout, stores] of [
  [[Mnemonic.Fxsave, Mnemonic.Fxsave64], fxsaveCallout, true],
  [[Mnemonic.Fxrstor, Mnemonic.Fxrstor64], fxrstorCallout, false],
] as const) {
  for (const mnemonic of mnemonics) {
    const wide = mnemonic === Mnemonic.Fxsave64 || mnemonic === Mnemonic.Fxrstor64;
    lift(mnemonic, (cx) => {
      fpuCheck(cx, CHECK.x87NoWait);
      const b = blockAddress(cx, FX_ALIGNED.size, stores, 32, false);
      cx.b.callout(callout, { b, c: layoutBits(cx) | (wide ? LAYOUT.wide : 0) });
    });
  }
}
