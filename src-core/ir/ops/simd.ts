/**
 * 128-bit integer and bitwise operations: SSE, SSE2, SSSE3 and SSE4 in terms of wasm SIMD. MMX uses them too: it looks
 * at the low 64 bits of a result, so what stands above them in an operand does not matter lane by lane.
 */
import { I32, I64, V128, i16x8, i32, i32x4, i64, i64x2, i8x16, v128 } from '../../wasm/opcodes.ts';
import { type Bits, defineOp, type OpGen } from '../op.ts';

const LANES_8 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/** A v128 constant of little-endian 16-bit lanes. */
function words(values: readonly number[]): Uint8Array {
  return new Uint8Array(new Uint16Array(values).buffer);
}
function dwords(values: readonly number[]): Uint8Array {
  return new Uint8Array(new Uint32Array(values).buffer);
}
const BYTE_NUMBERS = Uint8Array.from(LANES_8);
const ZERO = new Uint8Array(16);

/** dst = a OPCODE b */
function direct(name: string, opcode: number): void {
  defineOp(name, 128, {}, (g) => {
    g.set128(() => {
      g.a128();
      g.b128();
      g.w.op(opcode);
    });
  });
}
/** dst = OPCODE a */
function directUnary(name: string, opcode: number): void {
  defineOp(name, 128, { reads: 'a' }, (g) => {
    g.set128(() => {
      g.a128();
      g.w.op(opcode);
    });
  });
}

direct('pand', v128.and);
direct('por', v128.or);
direct('pxor', v128.xor);
// The complement is of the first operand in PANDN, of the second in wasm.
defineOp('pandn', 128, {}, (g) => {
  g.set128(() => {
    g.b128();
    g.a128();
    g.w.op(v128.andnot);
  });
});
defineOp('zero.128', 128, { reads: '' }, (g) => g.set128(() => g.w.v128Const(ZERO)));

direct('padd.8', i8x16.add);
direct('padd.16', i16x8.add);
direct('padd.32', i32x4.add);
direct('padd.64', i64x2.add);
direct('psub.8', i8x16.sub);
direct('psub.16', i16x8.sub);
direct('psub.32', i32x4.sub);
direct('psub.64', i64x2.sub);
direct('padds.8', i8x16.add_sat_s);
direct('padds.16', i16x8.add_sat_s);
direct('paddus.8', i8x16.add_sat_u);
direct('paddus.16', i16x8.add_sat_u);
direct('psubs.8', i8x16.sub_sat_s);
direct('psubs.16', i16x8.sub_sat_s);
direct('psubus.8', i8x16.sub_sat_u);
direct('psubus.16', i16x8.sub_sat_u);
direct('pavg.8', i8x16.avgr_u);
direct('pavg.16', i16x8.avgr_u);
direct('pminu.8', i8x16.min_u);
direct('pminu.16', i16x8.min_u);
direct('pminu.32', i32x4.min_u);
direct('pmins.8', i8x16.min_s);
direct('pmins.16', i16x8.min_s);
direct('pmins.32', i32x4.min_s);
direct('pmaxu.8', i8x16.max_u);
direct('pmaxu.16', i16x8.max_u);
direct('pmaxu.32', i32x4.max_u);
direct('pmaxs.8', i8x16.max_s);
direct('pmaxs.16', i16x8.max_s);
direct('pmaxs.32', i32x4.max_s);
direct('pcmpeq.8', i8x16.eq);
direct('pcmpeq.16', i16x8.eq);
direct('pcmpeq.32', i32x4.eq);
direct('pcmpeq.64', i64x2.eq);
direct('pcmpgt.8', i8x16.gt_s);
direct('pcmpgt.16', i16x8.gt_s);
direct('pcmpgt.32', i32x4.gt_s);
direct('pcmpgt.64', i64x2.gt_s);
direct('packss.16', i8x16.narrow_i16x8_s);
direct('packus.16', i8x16.narrow_i16x8_u);
direct('packss.32', i16x8.narrow_i32x4_s);
direct('packus.32', i16x8.narrow_i32x4_u);
direct('pmull.16', i16x8.mul);
direct('pmull.32', i32x4.mul);
direct('pmaddwd', i32x4.dot_i16x8_s);
directUnary('pabs.8', i8x16.abs);
directUnary('pabs.16', i16x8.abs);
directUnary('pabs.32', i32x4.abs);
directUnary('pmovsx.8.16', i16x8.extend_low_i8x16_s);
directUnary('pmovzx.8.16', i16x8.extend_low_i8x16_u);
directUnary('pmovsx.16.32', i32x4.extend_low_i16x8_s);
directUnary('pmovzx.16.32', i32x4.extend_low_i16x8_u);
directUnary('pmovsx.32.64', i64x2.extend_low_i32x4_s);
directUnary('pmovzx.32.64', i64x2.extend_low_i32x4_u);

/** dst = lanes picked from a (0..15) and b (16..31). */
function shuffled(name: string, lanes: readonly number[]): void {
  defineOp(name, 128, {}, (g) => {
    g.set128(() => {
      g.a128();
      g.b128();
      g.w.shuffle(lanes);
    });
  });
}

/** Lane numbers of PUNPCKL (half 0) and PUNPCKH (half 1) for elements of so many bytes. */
function interleaved(bytes: number, half: number): number[] {
  const lanes: number[] = [];
  for (let at = half * 8; at < half * 8 + 8; at += bytes) {
    for (const source of [0, 16]) for (let i = 0; i < bytes; i++) lanes.push(source + at + i);
  }
  return lanes;
}
for (const bytes of [1, 2, 4, 8]) {
  shuffled(`punpckl.${bytes * 8}`, interleaved(bytes, 0));
  shuffled(`punpckh.${bytes * 8}`, interleaved(bytes, 1));
}

/** Pushes the high 16 bits of the eight 32-bit products in locals low and high. */
function highWords(g: OpGen, low: number, high: number): void {
  g.w.get(low).get(high).shuffle([2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31]);
}
for (const signed of [true, false]) {
  defineOp(signed ? 'pmulhs' : 'pmulhu', 128, {}, (g) => {
    const low = g.scratch(V128, 0);
    const high = g.scratch(V128, 1);
    g.a128();
    g.b128();
    g.w.op(signed ? i32x4.extmul_low_i16x8_s : i32x4.extmul_low_i16x8_u).set(low);
    g.a128();
    g.b128();
    g.w.op(signed ? i32x4.extmul_high_i16x8_s : i32x4.extmul_high_i16x8_u).set(high);
    g.set128(() => highWords(g, low, high));
  });
  // 64-bit products of the even 32-bit lanes.
  defineOp(signed ? 'pmuls.32' : 'pmulu.32', 128, {}, (g) => {
    const even = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
    const x = g.scratch(V128, 0);
    g.set128(() => {
      g.a128();
      g.w.tee(x).get(x).shuffle(even);
      g.b128();
      g.w.tee(x).get(x).shuffle(even);
      g.w.op(signed ? i64x2.extmul_low_i32x4_s : i64x2.extmul_low_i32x4_u);
    });
  });
}

// PMULHRSW: (a * b + 0x4000) >> 15. wasm's form saturates the one product that does not fit; SSSE3 wraps it.
defineOp('pmulhrs', 128, {}, (g) => {
  const x = g.scratch(V128, 0);
  const least = words(Array<number>(8).fill(0x8000));
  g.set128(() => {
    g.a128();
    g.b128();
    g.w.op(i16x8.q15mulr_sat_s);
    // All ones where both are -32768: 0x7fff becomes 0x8000.
    g.a128();
    g.b128();
    g.w.op(v128.and).set(x);
    g.a128();
    g.b128();
    g.w.op(v128.or).get(x).op(v128.and).v128Const(least).op(i16x8.eq);
    g.a128();
    g.b128();
    g.w.op(i16x8.eq).op(v128.and).op(v128.xor);
  });
});

// PMADDUBSW: unsigned bytes of a times signed bytes of b, neighbours added with saturation.
defineOp('pmaddubs', 128, {}, (g) => {
  const { w } = g;
  const product = (odd: boolean): void => {
    g.a128();
    if (odd) w.i32Const(8).op(i16x8.shr_u);
    else w.v128Const(words(Array<number>(8).fill(0xff))).op(v128.and);
    g.b128();
    if (!odd) w.i32Const(8).op(i16x8.shl);
    w.i32Const(8).op(i16x8.shr_s).op(i16x8.mul);
  };
  g.set128(() => {
    product(false);
    product(true);
    w.op(i16x8.add_sat_s);
  });
});

// PSADBW: sums of the absolute differences of eight unsigned bytes.
defineOp('psadbw', 128, {}, (g) => {
  const { w } = g;
  const x = g.scratch(V128, 0);
  g.a128();
  g.b128();
  w.op(i8x16.max_u);
  g.a128();
  g.b128();
  w.op(i8x16.min_u).op(i8x16.sub).op(i16x8.extadd_pairwise_i8x16_u).op(i32x4.extadd_pairwise_i16x8_u).set(x);
  g.set128(() => {
    w.get(x)
      .v128Const(dwords([0xffffffff, 0, 0xffffffff, 0]))
      .op(v128.and);
    w.get(x).i32Const(32).op(i64x2.shr_u).op(i64x2.add);
  });
});

// PSIGN: a negated, zeroed or kept as b is negative, zero or positive.
for (const [bits, lanes] of [
  [8, i8x16],
  [16, i16x8],
  [32, i32x4],
] as const) {
  defineOp(`psign.${bits}`, 128, {}, (g) => {
    const { w } = g;
    const sign = g.scratch(V128, 0);
    g.b128();
    w.i32Const(bits - 1)
      .op(lanes.shr_s)
      .set(sign);
    g.set128(() => {
      g.a128();
      w.get(sign).op(v128.xor).get(sign).op(lanes.sub);
      g.b128();
      w.v128Const(ZERO).op(lanes.ne).op(v128.and);
    });
  });
}

// PHADD and PHSUB: sums of neighbours, a's in the low half.
const EVEN = {
  16: [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29],
  32: [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27],
} as const;
function horizontal(name: string, bits: 16 | 32, opcode: number): void {
  defineOp(name, 128, {}, (g) => {
    const odd = EVEN[bits].map((lane) => lane + bits / 8);
    g.set128(() => {
      g.a128();
      g.b128();
      g.w.shuffle(EVEN[bits]);
      g.a128();
      g.b128();
      g.w.shuffle(odd).op(opcode);
    });
  });
}
horizontal('phadd.16', 16, i16x8.add);
horizontal('phadd.32', 32, i32x4.add);
horizontal('phadds.16', 16, i16x8.add_sat_s);
horizontal('phsub.16', 16, i16x8.sub);
horizontal('phsub.32', 32, i32x4.sub);
horizontal('phsubs.16', 16, i16x8.sub_sat_s);

/** Shifts of every lane by the low 64 bits of b, or by the immediate: counts past the lane's size fill it. */
for (const [bits, lanes] of [
  [16, i16x8],
  [32, i32x4],
  [64, i64x2],
] as const) {
  for (const kind of ['shl', 'shr_u', 'shr_s'] as const) {
    if (kind === 'shr_s' && bits === 64) continue;
    const name = kind === 'shl' ? 'psll' : kind === 'shr_u' ? 'psrl' : 'psra';
    defineOp(`${name}.${bits}`, 128, {}, (g) => {
      const { w } = g;
      const count = g.scratch(I64, 0);
      const last = BigInt(bits - 1);
      g.b(64);
      w.set(count);
      g.set128(() => {
        g.a128();
        if (kind === 'shr_s') {
          w.get(count).i64Const(last).get(count).i64Const(last).op(i64.le_u).select();
          w.op(i32.wrap_i64).op(lanes.shr_s);
        } else {
          w.get(count).op(i32.wrap_i64).op(lanes[kind]);
          w.get(count).i64Const(last).op(i64.le_u).op(i64.extend_i32_u);
          w.i64Const(-1n).op(i64.mul).op(i64x2.splat).op(v128.and);
        }
      });
    });
    // The lifter gives no count beyond the lane's last bit here.
    defineOp(`${name}.${bits}i`, 128, { reads: 'a' }, (g) => {
      g.set128(() => {
        g.a128();
        g.imm32();
        g.w.op(lanes[kind]);
      });
    });
  }
}

// dst = the low 16 bytes of a : b moved right by imm (0..32) bytes: PALIGNR, PSLLDQ, PSRLDQ.
defineOp('palignr', 128, {}, (g) => {
  const { w } = g;
  g.set128(() => {
    // Lane numbers out of 0..15 give zero.
    g.b128();
    w.v128Const(BYTE_NUMBERS);
    g.imm32();
    w.op(i8x16.splat).op(i8x16.add).op(v128.swizzle);
    g.a128();
    w.v128Const(BYTE_NUMBERS);
    g.imm32();
    w.i32Const(16).op(i32.sub).op(i8x16.splat).op(i8x16.add).op(v128.swizzle).op(v128.or);
  });
});

// dst byte i = a's byte b[i], zero where b[i] is not 0..15.
direct('swizzle', v128.swizzle);
// PSHUFB; with 64-bit operands lane numbers are taken modulo 8.
for (const [name, mask] of [
  ['pshufb', 0x8f],
  ['pshufb.mmx', 0x87],
] as const) {
  defineOp(name, 128, {}, (g) => {
    g.set128(() => {
      g.a128();
      g.b128();
      g.w.v128Const(new Uint8Array(16).fill(mask)).op(v128.and).op(v128.swizzle);
    });
  });
}

// dst = b where the sign bit of the control lane (dst's old value) is set, else a: PBLENDVB, BLENDVPS, BLENDVPD.
for (const [bits, lanes] of [
  [8, i8x16],
  [32, i32x4],
  [64, i64x2],
] as const) {
  defineOp(`blendv.${bits}`, 128, { reads: 'abd' }, (g) => {
    g.set128(() => {
      g.b128();
      g.a128();
      g.dst128();
      g.w
        .i32Const(bits - 1)
        .op(lanes.shr_s)
        .op(v128.bitselect);
    });
  });
}
// dst = b's bits where dst's old value has ones, else a's.
defineOp('bitselect', 128, { reads: 'abd' }, (g) => {
  g.set128(() => {
    g.b128();
    g.a128();
    g.dst128();
    g.w.op(v128.bitselect);
  });
});

/** PMOVMSKB and MOVMSK: the lanes' sign bits in a general register. */
for (const [name, opcode] of [
  ['bitmask.8', i8x16.bitmask],
  ['bitmask.32', i32x4.bitmask],
  ['bitmask.64', i64x2.bitmask],
] as const) {
  defineOp(name, 32, { reads: 'a' }, (g) => {
    g.set(32, () => {
      g.a128();
      g.w.op(opcode);
    });
  });
}

/** Lane indices as a v128 of lanes of so many bits. */
function laneNumbers(bits: Bits): Uint8Array {
  if (bits === 8) return BYTE_NUMBERS;
  if (bits === 16) return words([0, 1, 2, 3, 4, 5, 6, 7]);
  return bits === 32 ? dwords([0, 1, 2, 3]) : dwords([0, 0, 1, 0]);
}
for (const [bits, lanes] of [
  [8, i8x16],
  [16, i16x8],
  [32, i32x4],
  [64, i64x2],
] as const) {
  // dst = a with lane c replaced by b: PINSR, MOVSS, MOVLPS, MOVHPS...
  defineOp(`insert.${bits}`, 128, {}, (g) => {
    const { w } = g;
    g.set128(() => {
      g.b(bits);
      w.op(lanes.splat);
      g.a128();
      w.v128Const(laneNumbers(bits));
      g.c();
      if (bits === 64) w.op(i64.extend_i32_u);
      w.op(lanes.splat).op(lanes.eq).op(v128.bitselect);
    });
  });
  // dst = lane c of a, zero-extended to 64 bits: PEXTR.
  defineOp(`extract.${bits}`, 64, { reads: 'a' }, (g) => {
    const { w } = g;
    g.set(64, () => {
      g.a128();
      w.v128Const(BYTE_NUMBERS);
      g.c();
      w.i32Const(Math.log2(bits / 8))
        .op(i32.shl)
        .op(i8x16.splat)
        .op(i8x16.add)
        .op(v128.swizzle);
      w.lane(i64x2.extract_lane, 0);
      if (bits < 64) w.i64Const((1n << BigInt(bits)) - 1n).op(i64.and);
    });
  });
}
// dst = a, zero-extended to 128 bits: MOVD, MOVQ, loads of MOVSS and MOVSD.
for (const bits of [32, 64] as const) {
  defineOp(`zext.${bits}.128`, 128, { reads: 'a' }, (g) => {
    const { w } = g;
    const x = g.scratch(I64, 0);
    g.a(bits);
    if (bits === 32) w.op(i64.extend_i32_u);
    w.set(x);
    g.set128(() => w.v128Const(ZERO).get(x).lane(i64x2.replace_lane, 0));
  });
}
// dst = both halves: a's low, b's low.
defineOp('pair.64', 128, {}, (g) => {
  g.set128(() => {
    g.a(64);
    g.w.op(i64x2.splat);
    g.b(64);
    g.w.lane(i64x2.replace_lane, 1);
  });
});

// PTEST: ZF = (a & b) == 0, CF = (~a & b) == 0; the others cleared.
defineOp('ptestf', 128, { writes: false, flags: 'write' }, (g) => {
  const { w } = g;
  const carry = g.scratch(I32, 0);
  const some = g.scratch(I32, 1);
  g.b128();
  g.a128();
  w.op(v128.andnot).op(v128.any_true).op(i32.eqz).set(carry);
  g.a128();
  g.b128();
  w.op(v128.and).op(v128.any_true).set(some);
  // Result 0, or 1 with its parity made odd again: only ZF may be set.
  g.setFlags({
    result: () => w.get(some).op(i64.extend_i32_u),
    aux: () => {
      w.get(carry).i32Const(31).op(i32.shl).get(carry).i32Const(30).op(i32.shl).op(i32.or);
      w.get(some).op(i32.eqz).i32Const(8).op(i32.shl).op(i32.or);
    },
  });
});

// PHMINPOSUW: the least unsigned word and where it stands first.
defineOp('phminposuw', 128, { reads: 'a' }, (g) => {
  const { w } = g;
  const least = g.scratch(I32, 0);
  const x = g.scratch(V128, 0);
  const y = g.scratch(V128, 1);
  g.a128();
  w.tee(x).set(y);
  for (const by of [8, 4, 2]) {
    const rotated = LANES_8.map((lane) => (lane + by) & 15);
    w.get(y).get(y).get(y).shuffle(rotated).op(i16x8.min_u).set(y);
  }
  w.get(y).lane(i16x8.extract_lane_u, 0).set(least);
  g.set128(() => {
    w.v128Const(ZERO).get(least);
    w.get(x).get(y).op(i16x8.eq).op(i16x8.bitmask).op(i32.ctz).i32Const(16).op(i32.shl).op(i32.or);
    w.op(i64.extend_i32_u).lane(i64x2.replace_lane, 0);
  });
});

// MPSADBW: eight sums of four absolute differences: a's bytes from c's bit 2, b's block by its bits 0 and 1.
defineOp('mpsadbw', 128, {}, (g) => {
  const { w } = g;
  const x = g.scratch(V128, 0);
  const y = g.scratch(V128, 1);
  const at = (base: number): void => {
    // Bytes base.. of x as eight 16-bit lanes.
    w.get(x)
      .v128Const(Uint8Array.from(LANES_8.map((lane) => lane + base)))
      .op(v128.swizzle);
    w.op(i16x8.extend_low_i8x16_u);
  };
  g.a128();
  w.v128Const(BYTE_NUMBERS);
  g.c();
  w.i32Const(4).op(i32.and).op(i8x16.splat).op(i8x16.add).op(v128.swizzle).set(x);
  g.b128();
  w.v128Const(BYTE_NUMBERS);
  g.c();
  w.i32Const(3).op(i32.and).i32Const(2).op(i32.shl).op(i8x16.splat).op(i8x16.add).op(v128.swizzle);
  w.op(i16x8.extend_low_i8x16_u).set(y);
  g.set128(() => {
    for (let i = 0; i < 4; i++) {
      at(i);
      w.get(y).lane(i16x8.extract_lane_u, i).op(i16x8.splat).op(i16x8.sub).op(i16x8.abs);
      if (i > 0) w.op(i16x8.add);
    }
  });
});

// The duplicating moves of SSE3.
for (const [name, lanes] of [
  ['movsldup', [0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11]],
  ['movshdup', [4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15, 12, 13, 14, 15]],
] as const) {
  defineOp(name, 128, { reads: 'a' }, (g) => {
    const x = g.scratch(V128, 0);
    g.a128();
    g.w.set(x);
    g.set128(() => g.w.get(x).get(x).shuffle(lanes));
  });
}
