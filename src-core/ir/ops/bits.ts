import { I32, I64, i32, i64 } from '../../wasm/opcodes.ts';
import { type Bits, defineOp, type OpGen } from '../op.ts';
import { constant, SIZES, sized, typeOf } from './arithmetic.ts';
import {
  CONDITIONS,
  flagsResultCarryOverflow,
  pushArithmeticFlags,
  pushCarry,
  pushCondition,
  replaceCarry,
  replaceCarryOverflow,
  setArithmeticFlags,
  setFlagsLogic,
  setFlagsResultCarryOverflow,
  withCarryOverflow,
} from './flags.ts';

/** Pushes bit `index` (a constant) of a local as i32 0 or 1. */
function pushBit(g: OpGen, bits: Bits, local: number, index: number): void {
  g.w.get(local);
  if (index > 0) {
    constant(g, bits, index);
    g.w.op(sized(bits).shr_u);
  }
  if (bits === 64) g.w.op(i32.wrap_i64);
  g.w.i32Const(1).op(i32.and);
}

type Shift = 'shl' | 'shr' | 'sar' | 'rol' | 'ror' | 'rcl' | 'rcr';
const SHIFTS: readonly Shift[] = ['shl', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr'];

/**
 * Shifts and rotates of a by b (or the immediate). The count is masked to 5 bits (6 for 64-bit operands); a count of
 * zero leaves the flags alone (Intel SDM volume 2, "SAL/SAR/SHL/SHR" and "RCL/RCR/ROL/ROR").
 */
for (const bits of SIZES) {
  for (const kind of SHIFTS) {
    for (const immediate of [false, true]) {
      defineOp(
        `${kind}f.${bits}${immediate ? 'i' : ''}`,
        bits,
        {
          reads: immediate ? 'a' : 'ab',
          flags: 'readwrite',
          flagsInState: !immediate && (kind === 'rcl' || kind === 'rcr'),
        },
        (g) => emitShift(g, bits, kind, immediate),
      );
    }
  }
  for (const kind of ['shld', 'shrd'] as const) {
    // dst is shifted, a fills, the count comes in c's place: operand b (low 8 bits).
    defineOp(`${kind}f.${bits}`, bits, { reads: 'abd', flags: 'readwrite', flagsInState: true }, (g) =>
      emitDoubleShift(g, bits, kind),
    );
  }
}

function emitShift(g: OpGen, bits: Bits, kind: Shift, immediate: boolean): void {
  const { w } = g;
  const t = sized(bits);
  const type = typeOf(bits);
  const x = g.scratch(type, 0);
  const n = g.scratch(type, 1);
  const r = g.scratch(type, 2);
  const carry = g.scratch(I32, 3);
  const overflow = g.scratch(I32, 4);
  g.a(bits);
  if (kind === 'sar' && bits < 32) w.op(bits === 8 ? i32.extend8_s : i32.extend16_s);
  w.set(x);
  if (immediate) g.imm32();
  else g.b(8);
  w.i32Const(bits === 64 ? 63 : 31).op(i32.and);
  if (bits === 64) w.op(i64.extend_i32_u);
  w.set(n);
  const count = immediate && g.immediate !== undefined ? g.immediate & (bits === 64 ? 63 : 31) : undefined;
  if (count === 0) {
    if (bits === 32) g.set(32, () => w.get(x));
    return;
  }
  const throughCarry = kind === 'rcl' || kind === 'rcr';
  if (count === undefined && throughCarry) {
    w.get(n).op(t.eqz).if();
    // 32-bit destinations are zero-extended even by a count of zero.
    if (bits === 32) g.set(32, () => w.get(x));
    w.else();
  }
  switch (kind) {
    case 'shl':
      if (bits === 64) {
        w.get(x).get(n).op(i64.shl).set(r);
        w.get(x)
          .i64Const(64n)
          .get(n)
          .op(i64.sub)
          .op(i64.shr_u)
          .op(i32.wrap_i64)
          .i32Const(1)
          .op(i32.and)
          .set(carry);
      } else {
        const wide = g.scratch(I64, 5);
        w.get(x)
          .op(i64.extend_i32_u)
          .get(n)
          .op(i64.extend_i32_u)
          .op(i64.shl)
          .tee(wide)
          .op(i32.wrap_i64)
          .set(r);
        w.get(wide).i64Const(BigInt(bits)).op(i64.shr_u).op(i32.wrap_i64).i32Const(1).op(i32.and).set(carry);
      }
      pushBit(g, bits, r, bits - 1);
      w.get(carry).op(i32.xor).set(overflow);
      break;
    case 'shr':
    case 'sar': {
      const shift = kind === 'shr' ? t.shr_u : t.shr_s;
      w.get(x).get(n).op(shift).set(r);
      w.get(x).get(n);
      constant(g, bits, 1);
      w.op(t.sub).op(shift);
      if (bits === 64) w.op(i32.wrap_i64);
      w.i32Const(1).op(i32.and).set(carry);
      if (kind === 'sar') w.i32Const(0).set(overflow);
      else {
        pushBit(g, bits, x, bits - 1);
        w.set(overflow);
      }
      break;
    }
    case 'rol':
    case 'ror':
      if (bits >= 32)
        w.get(x)
          .get(n)
          .op(kind === 'rol' ? t.rotl : t.rotr)
          .set(r);
      else {
        // The value repeated fills 32 bits, so a 32-bit rotate does the smaller one.
        w.get(x).get(x).i32Const(bits).op(i32.shl).op(i32.or).set(x);
        if (bits === 8) w.get(x).get(x).i32Const(16).op(i32.shl).op(i32.or).set(x);
        w.get(x)
          .get(n)
          .op(kind === 'rol' ? i32.rotl : i32.rotr)
          .set(r);
      }
      pushBit(g, bits, r, kind === 'rol' ? 0 : bits - 1);
      w.set(carry);
      pushBit(g, bits, r, bits - 1);
      if (kind === 'rol') w.get(carry);
      else pushBit(g, bits, r, bits - 2);
      w.op(i32.xor).set(overflow);
      break;
    case 'rcl':
    case 'rcr':
      if (bits === 64) emitRotateCarry64(g, kind, x, n, r, carry);
      else emitRotateCarry(g, bits, kind, x, n, r, carry);
      pushBit(g, bits, r, bits - 1);
      if (kind === 'rcl') w.get(carry);
      else pushBit(g, bits, r, bits - 2);
      w.op(i32.xor).set(overflow);
      break;
  }
  g.set(bits, () => w.get(r));
  if (count === undefined && throughCarry) {
    replaceCarryOverflow(g, carry, overflow);
    w.end();
    return;
  }
  const rotates = kind !== 'shl' && kind !== 'shr' && kind !== 'sar';
  if (count !== undefined) {
    if (rotates) replaceCarryOverflow(g, carry, overflow);
    else setFlagsResultCarryOverflow(g, bits, r, carry, overflow);
    return;
  }
  const before = g.captureFlags();
  const after = rotates
    ? withCarryOverflow(g, before, carry, overflow)
    : flagsResultCarryOverflow(g, bits, r, carry, overflow);
  const either = (old: () => void, changed: () => void): void => {
    old();
    changed();
    w.get(n).op(t.eqz).select();
  };
  g.setFlags({
    result: () => either(before.result, after.result),
    aux: () => either(before.aux, after.aux),
  });
}

/** RCL and RCR of 8, 16 and 32 bits: a rotate of the (bits + 1)-bit value CF : x, whose count is taken modulo bits + 1. */
function emitRotateCarry(
  g: OpGen,
  bits: 8 | 16 | 32,
  kind: 'rcl' | 'rcr',
  x: number,
  n: number,
  r: number,
  carry: number,
): void {
  const { w } = g;
  const width = BigInt(bits + 1);
  const whole = g.scratch(I64, 5);
  const left = g.scratch(I64, 6);
  pushCarry(g);
  w.op(i64.extend_i32_u).i64Const(BigInt(bits)).op(i64.shl).get(x).op(i64.extend_i32_u).op(i64.or).set(whole);
  w.get(n).op(i64.extend_i32_u).i64Const(width).op(i64.rem_u).set(left);
  if (kind === 'rcr') w.i64Const(width).get(left).op(i64.sub).set(left);
  w.get(whole)
    .get(left)
    .op(i64.shl)
    .get(whole)
    .i64Const(width)
    .get(left)
    .op(i64.sub)
    .op(i64.shr_u)
    .op(i64.or)
    .set(whole);
  w.get(whole).op(i32.wrap_i64).set(r);
  w.get(whole).i64Const(BigInt(bits)).op(i64.shr_u).op(i32.wrap_i64).i32Const(1).op(i32.and).set(carry);
}

function emitRotateCarry64(
  g: OpGen,
  kind: 'rcl' | 'rcr',
  x: number,
  n: number,
  r: number,
  carry: number,
): void {
  const { w } = g;
  const [near, far] = kind === 'rcl' ? [i64.shl, i64.shr_u] : [i64.shr_u, i64.shl];
  // x moved by n, the carry at its place, and what fell out on the other side moved by 65 - n (1, then 64 - n).
  w.get(x).get(n).op(near);
  pushCarry(g);
  w.op(i64.extend_i32_u);
  if (kind === 'rcl') w.get(n).i64Const(1n).op(i64.sub).op(i64.shl);
  else w.i64Const(64n).get(n).op(i64.sub).op(i64.shl);
  w.op(i64.or);
  w.get(x).i64Const(1n).op(far).i64Const(64n).get(n).op(i64.sub).op(far).op(i64.or).set(r);
  if (kind === 'rcl') w.get(x).i64Const(64n).get(n).op(i64.sub).op(i64.shr_u);
  else w.get(x).get(n).i64Const(1n).op(i64.sub).op(i64.shr_u);
  w.op(i32.wrap_i64).i32Const(1).op(i32.and).set(carry);
}

function emitDoubleShift(g: OpGen, bits: Bits, kind: 'shld' | 'shrd'): void {
  const { w } = g;
  const type = typeOf(bits);
  const t = sized(bits);
  const x = g.scratch(type, 0);
  const fill = g.scratch(type, 1);
  const r = g.scratch(type, 2);
  const carry = g.scratch(I32, 3);
  const overflow = g.scratch(I32, 4);
  const n = g.scratch(type, 5);
  g.dst(bits);
  w.set(x);
  g.a(bits);
  w.set(fill);
  g.b(8);
  w.i32Const(bits === 64 ? 63 : 31).op(i32.and);
  if (bits === 64) w.op(i64.extend_i32_u);
  w.tee(n).op(t.eqz).if();
  if (bits === 32) g.set(32, () => w.get(x));
  w.else();
  if (bits === 64) {
    const [near, far] = kind === 'shld' ? [i64.shl, i64.shr_u] : [i64.shr_u, i64.shl];
    w.get(x).get(n).op(near).get(fill).i64Const(64n).get(n).op(i64.sub).op(far).op(i64.or).set(r);
    if (kind === 'shld') w.get(x).i64Const(64n).get(n).op(i64.sub).op(i64.shr_u);
    else w.get(x).get(n).i64Const(1n).op(i64.sub).op(i64.shr_u);
    w.op(i32.wrap_i64).i32Const(1).op(i32.and).set(carry);
  } else {
    // dst : fill (SHLD) or fill : dst (SHRD) in one word; 16-bit counts above 16 go round through dst again.
    const wide = g.scratch(I64, 6);
    const part = (local: number, shift: number): void => {
      w.get(local).op(i64.extend_i32_u);
      if (shift > 0) w.i64Const(BigInt(shift)).op(i64.shl);
    };
    if (kind === 'shld') {
      part(x, 32);
      part(fill, 32 - bits);
      w.op(i64.or);
      if (bits === 16) {
        part(x, 0);
        w.op(i64.or);
      }
      w.get(n).op(i64.extend_i32_u).op(i64.shl).tee(wide).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64).set(r);
      // The bit shifted out last stands just above the destination.
      w.get(x).op(i64.extend_i32_u).i64Const(32n).op(i64.shl);
      if (bits === 16) {
        part(fill, 16);
        w.op(i64.or);
      }
      w.get(n).op(i64.extend_i32_u).i64Const(1n).op(i64.sub).op(i64.shl);
      w.i64Const(BigInt(32 + bits - 1))
        .op(i64.shr_u)
        .op(i32.wrap_i64)
        .i32Const(1)
        .op(i32.and)
        .set(carry);
    } else {
      part(x, 0);
      part(fill, bits);
      w.op(i64.or);
      if (bits === 16) {
        part(x, 32);
        w.op(i64.or);
      }
      w.tee(wide).get(n).op(i64.extend_i32_u).op(i64.shr_u).op(i32.wrap_i64).set(r);
      w.get(wide).get(n).op(i64.extend_i32_u).i64Const(1n).op(i64.sub).op(i64.shr_u);
      w.op(i32.wrap_i64).i32Const(1).op(i32.and).set(carry);
    }
  }
  pushBit(g, bits, r, bits - 1);
  pushBit(g, bits, x, bits - 1);
  w.op(i32.xor).set(overflow);
  g.set(bits, () => w.get(r));
  setFlagsResultCarryOverflow(g, bits, r, carry, overflow);
  w.end();
}

for (const bits of SIZES) {
  // Bit test: CF = bit b (modulo the size) of a; the other flags stay.
  defineOp(`btf.${bits}`, bits, { writes: false, flags: 'readwrite' }, (g) => {
    const { w } = g;
    const t = sized(bits);
    const carry = g.scratch(I32, 0);
    g.a(bits);
    g.b(bits);
    constant(g, bits, bits - 1);
    w.op(t.and).op(t.shr_u);
    if (bits === 64) w.op(i32.wrap_i64);
    w.i32Const(31).op(i32.shl).set(carry);
    replaceCarry(g, () => w.get(carry));
  });
  for (const kind of ['bts', 'btr', 'btc'] as const) {
    defineOp(`${kind}.${bits}`, bits, {}, (g) => {
      const { w } = g;
      const t = sized(bits);
      g.set(bits, () => {
        g.a(bits);
        constant(g, bits, 1);
        g.b(bits);
        constant(g, bits, bits - 1);
        w.op(t.and).op(t.shl);
        if (kind === 'btr') {
          constant(g, bits, -1);
          w.op(t.xor).op(t.and);
        } else {
          w.op(kind === 'bts' ? t.or : t.xor);
        }
      });
    });
  }
  // Bit scans: ZF = (a == 0), the result only when it is not (the lifter keeps dst otherwise).
  defineOp(`bsf.${bits}`, bits, { reads: 'a' }, (g) => {
    g.set(bits, () => {
      g.a(bits);
      g.w.op(sized(bits).ctz);
    });
  });
  defineOp(`bsr.${bits}`, bits, { reads: 'a' }, (g) => {
    g.set(bits, () => {
      constant(g, bits, bits === 64 ? 63 : 31);
      g.a(bits);
      g.w.op(sized(bits).clz).op(sized(bits).sub);
    });
  });
  defineOp(`zerof.${bits}`, bits, { reads: 'a', writes: false, flags: 'write' }, (g) => {
    const x = g.scratch(typeOf(bits), 0);
    g.a(bits);
    g.w.set(x);
    setFlagsLogic(g, bits, x);
  });
  // dst = a where b (8 bits) is not zero; dst stays, all 64 bits of it, otherwise.
  defineOp(`movif.${bits}`, bits, { reads: 'abd' }, (g) => {
    g.b(8);
    g.w.if();
    g.set(bits, () => g.a(bits));
    g.w.end();
  });
  // 8-bit truth of a.
  defineOp(`nonzero.${bits}`, 8, { reads: 'a' }, (g) => {
    g.set(8, () => {
      g.a(bits);
      constant(g, bits, 0);
      g.w.op(sized(bits).ne);
    });
  });
}

// dst = b : a, each 32 bits.
defineOp('pair.32', 64, {}, (g) => {
  g.set(64, () => {
    g.a(32);
    g.w.op(i64.extend_i32_u);
    g.b(32);
    g.w.op(i64.extend_i32_u).i64Const(32n).op(i64.shl).op(i64.or);
  });
});
// Byte offset of the cell that holds bit a (signed) in a bit string of cells of 2^imm bits.
defineOp('bit.cell', 64, { reads: 'a' }, (g) => {
  g.set(64, () => {
    g.a(64);
    g.imm64();
    g.w.op(i64.shr_s);
    g.imm64();
    g.w.i64Const(3n).op(i64.sub).op(i64.shl);
  });
});
// ZF = (a == 0); the other flags stay.
defineOp('zff.8', 8, { reads: 'a', writes: false, flags: 'readwrite' }, (g) => {
  const value = g.scratch(I32, 0);
  pushArithmeticFlags(g);
  g.w.i32Const(~0x40).op(i32.and);
  g.a(8);
  g.w.op(i32.eqz).i32Const(6).op(i32.shl).op(i32.or).set(value);
  setArithmeticFlags(g, value);
});
defineOp('neg.8', 8, { reads: 'a' }, (g) => {
  g.set(8, () => {
    g.w.i32Const(0);
    g.a(8);
    g.w.op(i32.sub);
  });
});
defineOp('bswap.16', 16, { reads: 'a' }, (g) => {
  const x = g.scratch(I32, 0);
  g.a(16);
  g.w.set(x);
  g.set(16, () => g.w.get(x).i32Const(8).op(i32.shl).get(x).i32Const(8).op(i32.shr_u).op(i32.or));
});
for (const bits of [32, 64] as const) {
  defineOp(`bswap.${bits}`, bits, { reads: 'a' }, (g) => {
    const { w } = g;
    const t = sized(bits);
    const x = g.scratch(typeOf(bits), 0);
    g.a(bits);
    w.set(x);
    g.set(bits, () => {
      if (bits === 32) {
        w.get(x).i32Const(8).op(i32.rotl).i32Const(0x00ff00ff).op(i32.and);
        w.get(x)
          .i32Const(8)
          .op(i32.rotr)
          .i32Const(0xff00ff00 | 0)
          .op(i32.and)
          .op(i32.or);
        return;
      }
      w.get(x).i64Const(8n).op(t.shl).i64Const(-0x00ff00ff00ff0100n).op(t.and);
      w.get(x).i64Const(8n).op(t.shr_u).i64Const(0x00ff00ff00ff00ffn).op(t.and).op(t.or).set(x);
      w.get(x).i64Const(16n).op(t.shl).i64Const(-0x0000ffff00010000n).op(t.and);
      w.get(x).i64Const(16n).op(t.shr_u).i64Const(0x0000ffff0000ffffn).op(t.and).op(t.or);
      w.i64Const(32n).op(t.rotl);
    });
  });
}

CONDITIONS.forEach((name, code) => {
  defineOp(`set.${name}`, 8, { reads: '', flags: 'read' }, (g) => g.set(8, () => pushCondition(g, code)));
});

/** SAHF and LAHF, and the carry instructions. */
defineOp('lahf', 8, { reads: '', flags: 'read' }, (g) => {
  g.set(8, () => {
    pushArithmeticFlags(g);
    g.w.i32Const(2).op(i32.or).i32Const(0xff).op(i32.and);
  });
});
defineOp('sahf', 8, { reads: 'a', writes: false, flags: 'readwrite' }, (g) => {
  const value = g.scratch(I32, 0);
  pushArithmeticFlags(g);
  g.w.i32Const(0x800).op(i32.and);
  g.a(8);
  g.w.i32Const(0xd5).op(i32.and).op(i32.or).set(value);
  setArithmeticFlags(g, value);
});
for (const kind of ['clc', 'stc', 'cmc'] as const) {
  defineOp(kind, 8, { reads: '', writes: false, flags: 'readwrite' }, (g) => {
    const { w } = g;
    replaceCarry(g, (aux) => {
      if (kind === 'cmc') {
        aux();
        w.i32Const(-1).op(i32.xor);
      } else {
        w.i32Const(kind === 'stc' ? 0x80000000 | 0 : 0);
      }
    });
  });
}
