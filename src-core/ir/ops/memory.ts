import { I32, I64, V128, i32, i64 } from '../../wasm/opcodes.ts';
import { segmentAccess } from '../../x86/segment-access.ts';
import { ATTR_P, ATTR_S, ATTR_UNUSABLE, TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_WRITABLE } from '../../x86/bits.ts';
import { VECTOR } from '../../x86/faults.ts';
import { SEG_FIELD } from '../../x86/layout.ts';
import { defineOp, type OpGen } from '../op.ts';
import { SIZES } from './arithmetic.ts';

/** Bits of field c of loads and stores, passed on to the slow path (Mmu.slowLoad) beside the size in bytes. */
export const ACCESS_INFO = {
  /** Through SS: a non-canonical address raises #SS(0), not #GP(0). */
  stack: 1 << 8,
  /** Load of a read-modify-write: permission to write is checked too. */
  forWrite: 1 << 9,
  /** 16 bytes that must be aligned (#GP(0)). */
  aligned: 1 << 10,
} as const;

/** Puts linear address a + imm into a scratch local: i32 or i64 by its width. */
function address(g: OpGen, bits: 32 | 64): number {
  const { w } = g;
  const local = g.scratch(bits === 64 ? I64 : I32, 7);
  if (bits === 64) {
    g.a(64);
    g.imm64();
    w.op(i64.add);
  } else {
    g.a(32);
    g.imm32();
    w.op(i32.add);
  }
  w.set(local);
  return local;
}

for (const width of [32, 64] as const) {
  for (const bits of SIZES) {
    const bytes = (bits / 8) as 1 | 2 | 4 | 8;
    // 'ld.8.a32': dst = memory at the 32-bit address a + imm. 'ldw' is the load of a read-modify-write.
    for (const forWrite of [false, true]) {
      defineOp(`${forWrite ? 'ldw' : 'ld'}.${bits}.a${width}`, bits, { reads: 'a', leaves: true }, (g) => {
        const value = g.scratch(bits === 64 ? I64 : I32, 6);
        g.load(() => address(g, width), width, bytes, forWrite);
        g.w.set(value);
        g.set(bits, () => g.w.get(value));
      });
    }
    // 'st.8.a32': memory at a + imm = b.
    defineOp(`st.${bits}.a${width}`, bits, { writes: false, leaves: true }, (g) => {
      g.store(
        () => address(g, width),
        width,
        bytes,
        () => g.b(bits),
      );
    });
  }
  // Loads that extend: 'ldzx.8' fills all 64 bits; 'ldsx.8.32' fills 32 by sign and clears the rest.
  for (const from of [8, 16, 32] as const) {
    const bytes = (from / 8) as 1 | 2 | 4;
    defineOp(`ldzx.${from}.a${width}`, 64, { reads: 'a', leaves: true }, (g) => {
      const value = g.scratch(I32, 6);
      g.load(() => address(g, width), width, bytes, false);
      g.w.set(value);
      g.set(64, () => g.w.get(value).op(i64.extend_i32_u));
    });
    for (const to of [16, 32, 64] as const) {
      if (to <= from) continue;
      defineOp(`ldsx.${from}.${to}.a${width}`, to, { reads: 'a', leaves: true }, (g) => {
        const value = g.scratch(I32, 6);
        g.load(() => address(g, width), width, bytes, false);
        if (from < 32) g.w.op(from === 8 ? i32.extend8_s : i32.extend16_s);
        g.w.set(value);
        g.set(to, () => {
          g.w.get(value);
          if (to === 64) g.w.op(i64.extend_i32_s);
        });
      });
    }
  }
  for (const forWrite of [false, true]) {
    defineOp(`${forWrite ? 'ldw' : 'ld'}.128.a${width}`, 128, { reads: 'a', leaves: true }, (g) => {
      const value = g.scratch(V128, 6);
      g.load(() => address(g, width), width, 16, forWrite);
      g.w.set(value);
      g.set128(() => g.w.get(value));
    });
  }
  defineOp(`st.128.a${width}`, 128, { writes: false, leaves: true }, (g) => {
    g.store(
      () => address(g, width),
      width,
      16,
      () => g.b128(),
    );
  });
}

for (const width of [32, 64] as const) {
  // #AC(0) unless a + imm is a multiple of c + 1.
  defineOp(`align.a${width}`, 64, { reads: 'a', writes: false, leaves: true }, (g) => {
    const { w } = g;
    const linear = address(g, width);
    w.get(linear);
    if (width === 64) w.op(i32.wrap_i64);
    g.c();
    w.op(i32.and);
    if (width === 64) {
      // A non-canonical address is the access's own fault, and comes first.
      w.i32Const(0).op(i32.ne);
      w.get(linear).i64Const(16n).op(i64.shl).i64Const(16n).op(i64.shr_s).get(linear).op(i64.eq);
      w.op(i32.and);
    }
    w.if();
    g.fault(VECTOR.AC, 0);
    w.end();
  });
}

defineOp('mov.128', 128, { reads: 'a' }, (g) => g.set128(() => g.a128()));

/** Bits of imm of `seglin`: size of the access in bytes minus 1, and whether it writes. */
export const SEGLIN_WRITE = 1 << 8;
/** The access is one of 16 aligned bytes: misalignment is found before what the segment forbids. */
export const SEGLIN_ALIGNED = 1 << 9;

/**
 * dst = linear address of offset a (zero-extended) in the segment whose register stands at location b, of an access
 * of (imm & 0xff) + 1 bytes. Present, expand-up data segments with room are decided here; the rest by the callout.
 */
defineOp('seglin', 64, { leaves: true }, (g) => {
  const { w } = g;
  const offset = g.scratch(I32, 0);
  const attributes = g.scratch(I32, 1);
  const limit = g.scratch(I32, 2);
  const last = g.scratch(I32, 3);
  g.a(32);
  w.set(offset);
  // The fields stand in the two 8-byte halves after the selector: {selector, attributes}, {limit, -}, {base}.
  g.bHalf(0);
  w.i64Const(32n).op(i64.shr_u).op(i32.wrap_i64).set(attributes);
  g.bHalf(SEG_FIELD.limit);
  w.op(i32.wrap_i64).set(limit);
  if (g.immediate === undefined) {
    g.imm32();
    w.i32Const(0xff).op(i32.and);
  } else {
    w.i32Const(g.immediate & 0xff);
  }
  w.set(last);
  const must = ATTR_P | ATTR_S;
  w.get(attributes)
    .i32Const(ATTR_UNUSABLE | ATTR_P | ATTR_S | TYPE_CODE | TYPE_EXPAND_DOWN)
    .op(i32.and)
    .i32Const(must)
    .op(i32.eq);
  // Writable, or not a write.
  if (g.immediate === undefined) {
    w.get(attributes).i32Const(TYPE_WRITABLE).op(i32.and).op(i32.eqz);
    g.imm32();
    w.i32Const(SEGLIN_WRITE).op(i32.and).i32Const(0).op(i32.ne).op(i32.and).op(i32.eqz).op(i32.and);
  } else if ((g.immediate & SEGLIN_WRITE) !== 0) {
    w.get(attributes).i32Const(TYPE_WRITABLE).op(i32.and).i32Const(0).op(i32.ne).op(i32.and);
  }
  w.get(limit).get(last).op(i32.ge_u).op(i32.and);
  w.get(offset).get(limit).get(last).op(i32.sub).op(i32.le_u).op(i32.and);
  w.if();
  g.set(64, () => {
    g.bHalf(SEG_FIELD.base);
    w.op(i32.wrap_i64).get(offset).op(i32.add).op(i64.extend_i32_u);
  });
  w.else();
  g.rareCallout(segmentAccess);
  w.end();
});
