import { I32, I64, i32, i64 } from '../../wasm/opcodes.ts';
import { VECTOR } from '../../x86/faults.ts';
import { defineCallout } from '../../x86/callout.ts';
import { GuestFault } from '../../x86/faults.ts';
import { CTL } from '../../x86/layout.ts';
import { type Bits, defineOp, type FlagArithmetic, type OpGen } from '../op.ts';
import {
  captureCarry,
  pushCarry,
  setFlagsFromCarries,
  setFlagsKeepingCarry,
  setFlagsLogic,
  setFlagsResultCarryOverflow,
} from './flags.ts';

export const SIZES = [8, 16, 32, 64] as const satisfies readonly Bits[];

/** The i32 or i64 form of an opcode. */
export function sized(bits: Bits): typeof i32 | typeof i64 {
  return bits === 64 ? i64 : i32;
}

export function typeOf(bits: Bits): typeof I32 | typeof I64 {
  return bits === 64 ? I64 : I32;
}

export function constant(g: OpGen, bits: Bits, value: number): void {
  if (bits === 64) g.w.i64Const(BigInt(value));
  else g.w.i32Const(value);
}

/** Both operands into scratch locals 0 and 1; b may be the immediate. */
function operands(g: OpGen, bits: Bits, immediate: boolean): { x: number; y: number; r: number } {
  const type = typeOf(bits);
  const x = g.scratch(type, 0);
  const y = g.scratch(type, 1);
  const r = g.scratch(type, 2);
  g.a(bits);
  g.w.set(x);
  if (!immediate) g.b(bits);
  else if (bits === 64) g.imm64();
  else {
    g.imm32();
    if (bits < 32) g.w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
  }
  g.w.set(y);
  return { x, y, r };
}

/** Pushes the carry-out vector of x + y (+ carry) = r. */
function pushAddCarries(g: OpGen, bits: Bits, x: number, y: number, r: number): void {
  const t = sized(bits);
  g.w.get(x).get(y).op(t.and).get(x).get(y).op(t.or).get(r);
  constant(g, bits, -1);
  g.w.op(t.xor).op(t.and).op(t.or);
}

/** Pushes the borrow-out vector of x - y (- borrow) = r. */
export function pushSubBorrows(g: OpGen, bits: Bits, x: number, y: number, r: number): void {
  const t = sized(bits);
  const { w } = g;
  w.get(x);
  constant(g, bits, -1);
  w.op(t.xor).get(y).op(t.and).get(x);
  constant(g, bits, -1);
  w.op(t.xor).get(y).op(t.or).get(r).op(t.and).op(t.or);
}

type Binary = 'add' | 'adc' | 'sub' | 'sbb' | 'and' | 'or' | 'xor';
const BINARY: readonly Binary[] = ['add', 'adc', 'sub', 'sbb', 'and', 'or', 'xor'];

function pushBinary(g: OpGen, bits: Bits, kind: Binary, x: number, y: number): void {
  const t = sized(bits);
  const base = kind === 'adc' ? 'add' : kind === 'sbb' ? 'sub' : kind;
  g.w.get(x).get(y).op(t[base]);
  if (kind === 'adc' || kind === 'sbb') {
    pushCarry(g);
    if (bits === 64) g.w.op(i64.extend_i32_u);
    g.w.op(t[base]);
  }
}

for (const bits of SIZES) {
  for (const immediate of [false, true]) {
    const suffix = `.${bits}${immediate ? 'i' : ''}`;
    const reads = immediate ? 'a' : 'ab';
    for (const kind of BINARY) {
      const carryIn = kind === 'adc' || kind === 'sbb';
      if (!carryIn) {
        // Without flags: address arithmetic and the translator's dead-flag form.
        defineOp(`${kind}${suffix}`, bits, { reads }, (g) => {
          const { x, y } = operands(g, bits, immediate);
          g.set(bits, () => pushBinary(g, bits, kind, x, y));
        });
      }
      defineOp(`${kind}f${suffix}`, bits, { reads, flags: carryIn ? 'readwrite' : 'write' }, (g) => {
        const { x, y, r } = operands(g, bits, immediate);
        pushBinary(g, bits, kind, x, y);
        g.w.set(r);
        g.set(bits, () => g.w.get(r));
        emitBinaryFlags(g, bits, kind, x, y, r);
      });
    }
    defineOp(`cmpf${suffix}`, bits, { reads, writes: false, flags: 'write' }, (g) => {
      const { x, y, r } = operands(g, bits, immediate);
      pushBinary(g, bits, 'sub', x, y);
      g.w.set(r);
      emitBinaryFlags(g, bits, 'sub', x, y, r);
    });
    defineOp(`testf${suffix}`, bits, { reads, writes: false, flags: 'write' }, (g) => {
      const { x, y, r } = operands(g, bits, immediate);
      pushBinary(g, bits, 'and', x, y);
      g.w.set(r);
      emitBinaryFlags(g, bits, 'and', x, y, r);
    });
  }

  for (const kind of ['inc', 'dec'] as const) {
    defineOp(`${kind}f.${bits}`, bits, { reads: 'a', flags: 'readwrite' }, (g) => {
      const { w } = g;
      const x = g.scratch(typeOf(bits), 0);
      const y = g.scratch(typeOf(bits), 1);
      const r = g.scratch(typeOf(bits), 2);
      const carry = captureCarry(g, 3);
      g.a(bits);
      w.set(x);
      constant(g, bits, 1);
      w.set(y);
      pushBinary(g, bits, kind === 'inc' ? 'add' : 'sub', x, y);
      w.set(r);
      g.set(bits, () => w.get(r));
      setFlagsKeepingCarry(g, bits, r, carry, () => {
        if (kind === 'inc') pushAddCarries(g, bits, x, y, r);
        else pushSubBorrows(g, bits, x, y, r);
      });
    });
  }

  defineOp(`negf.${bits}`, bits, { reads: 'a', flags: 'write' }, (g) => {
    const { w } = g;
    const x = g.scratch(typeOf(bits), 0);
    const y = g.scratch(typeOf(bits), 1);
    const r = g.scratch(typeOf(bits), 2);
    constant(g, bits, 0);
    w.set(x);
    g.a(bits);
    w.set(y);
    pushBinary(g, bits, 'sub', x, y);
    w.set(r);
    g.set(bits, () => w.get(r));
    emitBinaryFlags(g, bits, 'sub', x, y, r);
  });

  defineOp(`not.${bits}`, bits, { reads: 'a' }, (g) => {
    g.set(bits, () => {
      g.a(bits);
      constant(g, bits, -1);
      g.w.op(sized(bits).xor);
    });
  });

  defineOp(`mov.${bits}`, bits, { reads: 'a' }, (g) => g.set(bits, () => g.a(bits)));
  defineOp(`const.${bits}`, bits, { reads: '' }, (g) => {
    g.set(bits, () => (bits === 64 ? g.imm64() : g.imm32()));
  });

  // Multiplication: the low half is the same for both signs; the high half is its own operation.
  defineOp(`mul.${bits}`, bits, {}, (g) => {
    g.set(bits, () => {
      g.a(bits);
      g.b(bits);
      g.w.op(sized(bits).mul);
    });
  });
  for (const signed of [false, true]) {
    defineOp(`${signed ? 'mulhs' : 'mulhu'}.${bits}`, bits, {}, (g) => {
      g.set(bits, () => pushHighProduct(g, bits, signed));
    });
    // CF = OF = the high half (b) says more than the sign (or zero) extension of the low half (a).
    defineOp(`${signed ? 'mulsf' : 'muluf'}.${bits}`, bits, { writes: false, flags: 'write' }, (g) => {
      const { w } = g;
      const t = sized(bits);
      const low = g.scratch(typeOf(bits), 0);
      const over = g.scratch(I32, 1);
      g.a(bits);
      w.set(low);
      g.b(bits);
      if (signed) {
        w.get(low);
        if (bits < 32) w.op(bits === 8 ? i32.extend8_s : i32.extend16_s);
        constant(g, bits, bits === 64 ? 63 : 31);
        w.op(t.shr_s);
        if (bits < 32) w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
      } else {
        constant(g, bits, 0);
      }
      w.op(t.ne).set(over);
      setFlagsResultCarryOverflow(g, bits, low, over, over);
    });
  }

  defineOp(`popcntf.${bits}`, bits, { reads: 'a', flags: 'write' }, (g) => {
    const x = g.scratch(typeOf(bits), 0);
    const r = g.scratch(typeOf(bits), 2);
    g.a(bits);
    g.w.tee(x).op(sized(bits).popcnt).set(r);
    g.set(bits, () => g.w.get(r));
    // Only ZF can be set: the result word is 1 with an odd parity when the source is not zero.
    g.setFlags({
      result: () => g.w.get(x).op(sized(bits).eqz).op(i32.eqz).op(i64.extend_i32_u),
      aux: () => g.w.get(x).op(sized(bits).eqz).i32Const(8).op(i32.shl),
    });
  });
}

function emitBinaryFlags(g: OpGen, bits: Bits, kind: Binary, x: number, y: number, r: number): void {
  switch (kind) {
    case 'and':
    case 'or':
    case 'xor':
      setFlagsLogic(g, bits, r);
      break;
    case 'add':
    case 'sub':
      setFlagsFromCarries(g, bits, r, () => pushCarries(g, bits, kind, x, y, r), { kind, bits, x, y, r });
      break;
    case 'adc':
    case 'sbb':
      setFlagsFromCarries(g, bits, r, () => pushCarries(g, bits, kind === 'adc' ? 'add' : 'sub', x, y, r));
  }
}

function pushCarries(g: OpGen, bits: Bits, kind: 'add' | 'sub', x: number, y: number, r: number): void {
  if (kind === 'add') pushAddCarries(g, bits, x, y, r);
  else pushSubBorrows(g, bits, x, y, r);
}

/** How `emitDeferredFlags` names an arithmetic: 0 says that the flags' words hold. */
export function flagsKindOf({ kind, bits }: { kind: FlagArithmetic['kind']; bits: Bits }): number {
  return 1 + ['add', 'sub', 'logic'].indexOf(kind) * SIZES.length + SIZES.indexOf(bits);
}

/**
 * Makes the flags' words from what translated code left in CTL.flagsKind, flagsX and flagsY: the emitter of a function
 * without parameters. The words hold afterwards.
 */
export function emitDeferredFlags(g: OpGen): void {
  const { w } = g;
  w.block();
  const kinds = (['add', 'sub', 'logic'] as const).flatMap((kind) => SIZES.map((bits) => ({ kind, bits })));
  for (let n = 0; n < kinds.length; n++) w.block();
  g.state32(CTL.flagsKind);
  // Kind 0 goes to the end.
  w.brTable([kinds.length, ...kinds.keys()], kinds.length);
  kinds.forEach(({ kind, bits }, index) => {
    w.end();
    const [x, y, r] = [0, 1, 2].map((n) => g.scratch(typeOf(bits), n)) as [number, number, number];
    for (const [local, offset] of [
      [x, CTL.flagsX],
      [y, CTL.flagsY],
    ] as const) {
      if (bits === 64) g.state64(offset);
      else g.state32(offset);
      w.set(local);
    }
    if (kind === 'logic') w.get(x);
    else pushBinary(g, bits, kind, x, y);
    w.set(r);
    emitBinaryFlags(g, bits, kind === 'logic' ? 'and' : kind, x, y, r);
    w.br(kinds.length - 1 - index);
  });
  w.end();
  g.setState32(CTL.flagsKind, () => w.i32Const(0));
}

/** Pushes operand a or b extended to i64. */
function pushExtended(g: OpGen, bits: 8 | 16 | 32, which: 'a' | 'b', signed: boolean): void {
  g[which](bits);
  g.w.op(i64.extend_i32_u);
  if (signed) g.w.op(bits === 8 ? i64.extend8_s : bits === 16 ? i64.extend16_s : i64.extend32_s);
}

/** Pushes the upper half of a * b. */
function pushHighProduct(g: OpGen, bits: Bits, signed: boolean): void {
  const { w } = g;
  if (bits !== 64) {
    pushExtended(g, bits, 'a', signed);
    pushExtended(g, bits, 'b', signed);
    w.op(i64.mul).i64Const(BigInt(bits)).op(i64.shr_u).op(i32.wrap_i64);
    if (bits < 32) w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
    return;
  }
  // Schoolbook on 32-bit halves; the signed product subtracts each operand where the other is negative.
  const [x, y, low, mid, mid2] = [0, 1, 2, 3, 4].map((n) => g.scratch(I64, n)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  const lo = (v: number): void => void w.get(v).i64Const(0xffffffffn).op(i64.and);
  const hi = (v: number): void => void w.get(v).i64Const(32n).op(i64.shr_u);
  g.a(64);
  w.set(x);
  g.b(64);
  w.set(y);
  lo(x);
  lo(y);
  w.op(i64.mul).i64Const(32n).op(i64.shr_u).set(low);
  hi(x);
  lo(y);
  w.op(i64.mul).get(low).op(i64.add).set(mid);
  lo(x);
  hi(y);
  w.op(i64.mul);
  lo(mid);
  w.op(i64.add).set(mid2);
  hi(x);
  hi(y);
  w.op(i64.mul);
  hi(mid);
  w.op(i64.add);
  hi(mid2);
  w.op(i64.add);
  if (signed) {
    w.get(x).i64Const(63n).op(i64.shr_s).get(y).op(i64.and).op(i64.sub);
    w.get(y).i64Const(63n).op(i64.shr_s).get(x).op(i64.and).op(i64.sub);
  }
}

/** 128 by 64 bits: dst holds the high half and gets the quotient; a is the low half, b the divisor. */
function divideWide(signed: boolean) {
  return defineCallout(signed ? 'idiv.64' : 'div.64', 'otherCallout', (cpu, dst, a, b) => {
    const extend = (bits: number, value: bigint): bigint =>
      signed ? BigInt.asIntN(bits, value) : BigInt.asUintN(bits, value);
    const divisor = extend(64, cpu.get64(b));
    if (divisor === 0n) throw new GuestFault(VECTOR.DE);
    const quotient = extend(128, (cpu.get64(dst) << 64n) | cpu.get64(a)) / divisor;
    if (extend(64, quotient) !== quotient) throw new GuestFault(VECTOR.DE);
    cpu.set64(dst, BigInt.asUintN(64, quotient));
  });
}

const divideUnsigned64 = divideWide(false);
const divideSigned64 = divideWide(true);

// Division of (dst : a) by b; the quotient replaces dst. The remainder is a - quotient * b in the operand size.
for (const bits of [8, 16, 32] as const) {
  for (const signed of [false, true]) {
    defineOp(`${signed ? 'idiv' : 'div'}.${bits}`, bits, { reads: 'abd', leaves: true }, (g) => {
      const { w } = g;
      const dividend = g.scratch(I64, 0);
      const divisor = g.scratch(I64, 1);
      const quotient = g.scratch(I64, 2);
      g.dst(bits);
      w.op(i64.extend_i32_u).i64Const(BigInt(bits)).op(i64.shl);
      g.a(bits);
      w.op(i64.extend_i32_u).op(i64.or);
      if (signed && bits < 32) w.op(bits === 8 ? i64.extend16_s : i64.extend32_s);
      w.set(dividend);
      pushExtended(g, bits, 'b', signed);
      w.tee(divisor).op(i64.eqz).if();
      g.fault(VECTOR.DE, 0);
      w.end();
      if (signed) {
        // The one case wasm's own division traps on is out of range for us too.
        w.get(dividend)
          .i64Const(-(1n << 63n))
          .op(i64.eq)
          .get(divisor)
          .i64Const(-1n)
          .op(i64.eq)
          .op(i32.and)
          .if();
        g.fault(VECTOR.DE, 0);
        w.end();
      }
      w.get(dividend)
        .get(divisor)
        .op(signed ? i64.div_s : i64.div_u)
        .tee(quotient);
      w.get(quotient);
      if (signed) w.op(bits === 8 ? i64.extend8_s : bits === 16 ? i64.extend16_s : i64.extend32_s);
      else w.i64Const((1n << BigInt(bits)) - 1n).op(i64.and);
      w.op(i64.ne).if();
      g.fault(VECTOR.DE, 0);
      w.end();
      g.set(bits, () => w.get(quotient).op(i32.wrap_i64));
    });
  }
}
for (const signed of [false, true]) {
  defineOp(`${signed ? 'idiv' : 'div'}.64`, 64, { reads: 'abd', leaves: true }, (g) => {
    const { w } = g;
    const low = g.scratch(I64, 0);
    const divisor = g.scratch(I64, 1);
    g.a(64);
    w.set(low);
    g.b(64);
    w.set(divisor);
    // Fast when the dividend fits 64 bits; -1 is left to the callout, where overflow is.
    g.dst(64);
    if (signed) w.get(low).i64Const(63n).op(i64.shr_s);
    else w.i64Const(0n);
    w.op(i64.eq).get(divisor).op(i64.eqz).op(i32.eqz).op(i32.and);
    if (signed) w.get(divisor).i64Const(-1n).op(i64.ne).op(i32.and);
    w.if();
    g.set(64, () =>
      w
        .get(low)
        .get(divisor)
        .op(signed ? i64.div_s : i64.div_u),
    );
    w.else();
    g.callout(signed ? divideSigned64 : divideUnsigned64);
    w.end();
  });
}

defineOp('const64', 64, { reads: '' }, (g) => g.set(64, () => g.wide()));

// Extensions: 'zext.8.32' reads 8 bits and writes 32.
for (const from of [8, 16, 32] as const) {
  for (const to of [16, 32, 64] as const) {
    if (to <= from) continue;
    defineOp(`zext.${from}.${to}`, to, { reads: 'a' }, (g) => {
      g.set(to, () => {
        g.a(from);
        if (to === 64) g.w.op(i64.extend_i32_u);
      });
    });
    defineOp(`sext.${from}.${to}`, to, { reads: 'a' }, (g) => {
      g.set(to, () => {
        g.a(from);
        if (to === 64) {
          g.w
            .op(i64.extend_i32_u)
            .op(from === 8 ? i64.extend8_s : from === 16 ? i64.extend16_s : i64.extend32_s);
        } else {
          g.w.op(from === 8 ? i32.extend8_s : i32.extend16_s);
        }
      });
    });
  }
}
// The sign of a in every bit of dst (CWD, CDQ, CQO).
for (const bits of [16, 32, 64] as const) {
  defineOp(`sign.${bits}`, bits, { reads: 'a' }, (g) => {
    g.set(bits, () => {
      g.a(bits);
      if (bits === 16) g.w.op(i32.extend16_s);
      constant(g, bits, bits === 64 ? 63 : 31);
      g.w.op(sized(bits).shr_s);
    });
  });
}

// Effective addresses: 'lea1' = a + imm, 'lea2' = a + (b << c) + imm, 'lea0' = (b << c) + imm; zero-extended to 64 bits.
for (const bits of [16, 32, 64] as const) {
  for (const kind of ['lea0', 'lea1', 'lea2'] as const) {
    defineOp(`${kind}.${bits}`, 64, { reads: kind === 'lea1' ? 'a' : kind === 'lea0' ? 'b' : 'ab' }, (g) => {
      const { w } = g;
      const t = sized(bits);
      g.set(64, () => {
        if (bits === 64) g.imm64();
        else g.imm32();
        if (kind !== 'lea0') {
          g.a(bits);
          w.op(t.add);
        }
        if (kind !== 'lea1') {
          g.b(bits);
          g.c();
          if (bits === 64) w.op(i64.extend_i32_u);
          w.op(t.shl).op(t.add);
        }
        if (bits === 16) w.i32Const(0xffff).op(i32.and);
        if (bits !== 64) w.op(i64.extend_i32_u);
      });
    });
  }
}
