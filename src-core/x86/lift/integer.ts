import { Mnemonic } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { RAX, RCX, RDX } from '../layout.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { lift } from './table.ts';

/** dst = dst OP src for the two-operand group, in registers or memory; CMP and TEST write nothing. */
function binary(kind: string, writes: boolean) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const apply = (dst: Loc, a: Loc): void => {
      if (cx.isImmediate(1)) b.op(`${kind}f.${bits}i`, { dst, a, imm: cx.immediate(1) });
      else b.op(`${kind}f.${bits}`, { dst, a, b: cx.read(1, bits) });
    };
    if (cx.isRegister(0)) {
      const reg = cx.register(0);
      apply(reg, reg);
    } else if (!writes) {
      apply(0, cx.load(bits, cx.address(bits)));
    } else {
      const address = cx.address(bits, true);
      const t = cx.loadForWrite(bits, address);
      const result = b.temp();
      apply(result, t);
      cx.store(bits, address, result);
    }
  };
}

lift(Mnemonic.Add, binary('add', true));
lift(Mnemonic.Adc, binary('adc', true));
lift(Mnemonic.Sub, binary('sub', true));
lift(Mnemonic.Sbb, binary('sbb', true));
lift(Mnemonic.And, binary('and', true));
lift(Mnemonic.Or, binary('or', true));
lift(Mnemonic.Xor, binary('xor', true));
lift(Mnemonic.Cmp, binary('cmp', false));
lift(Mnemonic.Test, binary('test', false));

/** dst = OP dst. */
function unary(name: (bits: Bits) => string) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    if (cx.isRegister(0)) {
      const reg = cx.register(0);
      b.op(name(bits), { dst: reg, a: reg });
      return;
    }
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    cx.store(bits, address, b.op(name(bits), { dst: b.temp(), a: t }));
  };
}

lift(
  Mnemonic.Inc,
  unary((bits) => `incf.${bits}`),
);
lift(
  Mnemonic.Dec,
  unary((bits) => `decf.${bits}`),
);
lift(
  Mnemonic.Neg,
  unary((bits) => `negf.${bits}`),
);
lift(
  Mnemonic.Not,
  unary((bits) => `not.${bits}`),
);

/** Shifts and rotates by 1, an immediate or CL. */
function shift(kind: string) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const apply = (dst: Loc, a: Loc): void => {
      if (cx.isImmediate(1)) b.op(`${kind}f.${bits}i`, { dst, a, imm: cx.immediate(1) & 0xff });
      else b.op(`${kind}f.${bits}`, { dst, a, b: cx.register(1) });
    };
    if (cx.isRegister(0)) {
      const reg = cx.register(0);
      apply(reg, reg);
      return;
    }
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    const result = b.op(`mov.${bits}`, { dst: b.temp(), a: t });
    apply(result, t);
    cx.store(bits, address, result);
  };
}

lift([Mnemonic.Shl, Mnemonic.Sal], shift('shl'));
lift(Mnemonic.Shr, shift('shr'));
lift(Mnemonic.Sar, shift('sar'));
lift(Mnemonic.Rol, shift('rol'));
lift(Mnemonic.Ror, shift('ror'));
lift(Mnemonic.Rcl, shift('rcl'));
lift(Mnemonic.Rcr, shift('rcr'));

function doubleShift(kind: 'shld' | 'shrd') {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const fill = cx.register(1);
    const count = cx.read(2, 8);
    if (cx.isRegister(0)) {
      b.op(`${kind}f.${bits}`, { dst: cx.register(0), a: fill, b: count });
      return;
    }
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    b.op(`${kind}f.${bits}`, { dst: t, a: fill, b: count });
    cx.store(bits, address, t);
  };
}
lift(Mnemonic.Shld, doubleShift('shld'));
lift(Mnemonic.Shrd, doubleShift('shrd'));

lift(Mnemonic.Mov, (cx) => {
  const { b, insn } = cx;
  if (moveSpecial?.(cx)) return;
  const bits = cx.bits(0);
  if (cx.isRegister(0)) {
    const dst = cx.register(0);
    if (cx.isMemory(1)) {
      const { loc, disp, width, info } = cx.address(bits);
      b.op(`ld.${bits}.a${width}`, { dst, a: loc, imm: disp, c: info });
    } else if (cx.isImmediate(1)) {
      if (bits === 64) b.const64(dst, insn.immediate(1));
      else b.op(`const.${bits}`, { dst, imm: cx.immediate(1) });
    } else {
      b.op(`mov.${bits}`, { dst, a: cx.register(1) });
    }
    return;
  }
  const value = cx.read(1, bits);
  cx.store(bits, cx.address(bits, true), value);
});

/** MOV with segment, control and debug registers belongs to other files: they claim it here. */
let moveSpecial: ((cx: LiftContext) => boolean) | undefined;
export function claimSpecialMove(claim: (cx: LiftContext) => boolean): void {
  const before = moveSpecial;
  moveSpecial = (cx) => (before?.(cx) ?? false) || claim(cx);
}

/** MOVZX, MOVSX, MOVSXD. */
function extend(signed: boolean) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const to = cx.bits(0);
    const from = cx.bits(1);
    const dst = cx.register(0);
    if (from === 64 || from >= to) {
      // MOVSXD without REX.W moves.
      b.op(`mov.${to}`, { dst, a: cx.read(1, to) });
      return;
    }
    if (cx.isMemory(1)) {
      const { loc, disp, width, info } = cx.address(from);
      if (signed) b.op(`ldsx.${from}.${to}.a${width}`, { dst, a: loc, imm: disp, c: info });
      else if (to === 16) {
        const t = b.op(`ldzx.${from}.a${width}`, { dst: b.temp(), a: loc, imm: disp, c: info });
        b.op('mov.16', { dst, a: t });
      } else b.op(`ldzx.${from}.a${width}`, { dst, a: loc, imm: disp, c: info });
      return;
    }
    b.op(`${signed ? 'sext' : 'zext'}.${from}.${to}`, { dst, a: cx.register(1) });
  };
}
lift(Mnemonic.Movzx, extend(false));
lift([Mnemonic.Movsx, Mnemonic.Movsxd], extend(true));

lift(Mnemonic.Lea, (cx) => {
  if (!cx.isMemory(1)) throw new UndefinedInstruction();
  const bits = cx.bits(0);
  cx.b.op(`mov.${bits}`, { dst: cx.register(0), a: cx.effectiveAddress() });
});

lift(Mnemonic.Xchg, (cx) => {
  const { b } = cx;
  const bits = cx.bits(0);
  const memory = cx.isMemory(0) ? 0 : cx.isMemory(1) ? 1 : -1;
  if (memory >= 0) {
    const reg = cx.register(1 - memory);
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    cx.store(bits, address, reg);
    b.op(`mov.${bits}`, { dst: reg, a: t });
    return;
  }
  const x = cx.register(0);
  const y = cx.register(1);
  const t = b.op(`mov.${bits}`, { dst: b.temp(), a: x });
  b.op(`mov.${bits}`, { dst: x, a: y });
  b.op(`mov.${bits}`, { dst: y, a: t });
});

lift(Mnemonic.Xadd, (cx) => {
  const { b } = cx;
  const bits = cx.bits(0);
  const reg = cx.register(1);
  const sum = b.temp();
  if (cx.isMemory(0)) {
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    b.op(`addf.${bits}`, { dst: sum, a: t, b: reg });
    cx.store(bits, address, sum);
    b.op(`mov.${bits}`, { dst: reg, a: t });
    return;
  }
  const dst = cx.register(0);
  const t = b.op(`mov.${bits}`, { dst: b.temp(), a: dst });
  b.op(`addf.${bits}`, { dst: sum, a: t, b: reg });
  b.op(`mov.${bits}`, { dst: reg, a: t });
  b.op(`mov.${bits}`, { dst, a: sum });
});

lift(Mnemonic.Cmpxchg, (cx) => {
  const { b } = cx;
  const bits = cx.bits(0);
  const source = cx.register(1);
  const equal = b.temp();
  const result = b.temp();
  if (cx.isMemory(0)) {
    const address = cx.address(bits, true);
    const t = cx.loadForWrite(bits, address);
    b.op(`cmpf.${bits}`, { a: RAX, b: t });
    b.op('set.e', { dst: equal });
    b.op(`mov.${bits}`, { dst: result, a: t });
    b.op(`movif.${bits}`, { dst: result, a: source, b: equal });
    cx.store(bits, address, result);
    b.op('set.ne', { dst: equal });
    b.op(`movif.${bits}`, { dst: RAX, a: t, b: equal });
    return;
  }
  const dst = cx.register(0);
  const t = b.op(`mov.${bits}`, { dst: b.temp(), a: dst });
  b.op(`cmpf.${bits}`, { a: RAX, b: t });
  b.op('set.e', { dst: equal });
  b.op(`mov.${bits}`, { dst: result, a: t });
  b.op(`movif.${bits}`, { dst: result, a: source, b: equal });
  b.op('set.ne', { dst: equal });
  b.op(`mov.${bits}`, { dst, a: result });
  b.op(`movif.${bits}`, { dst: RAX, a: t, b: equal });
});

lift([Mnemonic.Cmpxchg8b, Mnemonic.Cmpxchg16b], (cx) => {
  const { b, insn } = cx;
  const bits = insn.mnemonic === Mnemonic.Cmpxchg16b ? 64 : 32;
  const bytes = bits / 8;
  if (bits === 64) {
    // One access of 16 bytes that must be aligned.
    const address = cx.address(128, true, 1 << 10);
    const old = cx.loadForWrite(128, address);
    const [equal, result] = emitCompareWide(cx, bits, old, old + 8);
    b.op('mov.64', { dst: result + 8, a: result + 16 });
    cx.store128(address, result);
    loadAccumulators(cx, bits, equal, old, old + 8);
    return;
  }
  const address = cx.address(64, true);
  const old = cx.loadForWrite(64, address);
  const [equal, result] = emitCompareWide(cx, bits, old, old + bytes);
  cx.store(64, address, b.op('pair.32', { dst: b.temp(), a: result, b: result + 16 }));
  loadAccumulators(cx, bits, equal, old, old + bytes);
});

/** Compares EDX:EAX (RDX:RAX) with old; ZF. Returns the 8-bit truth and where the new low (+0) and high (+16) stand. */
function emitCompareWide(cx: LiftContext, bits: 32 | 64, low: Loc, high: Loc): [Loc, Loc] {
  const { b } = cx;
  const equal = b.temp();
  const other = b.temp();
  const result = b.temp();
  b.temp();
  const x = b.op(`xor.${bits}`, { dst: b.temp(), a: RAX, b: low });
  const y = b.op(`xor.${bits}`, { dst: b.temp(), a: RDX, b: high });
  b.op(`or.${bits}`, { dst: x, a: x, b: y });
  b.op(`nonzero.${bits}`, { dst: other, a: x });
  b.op('zff.8', { a: other });
  b.op('set.e', { dst: equal });
  b.op(`mov.${bits}`, { dst: result, a: low });
  b.op(`movif.${bits}`, { dst: result, a: RBX_LOC, b: equal });
  b.op(`mov.${bits}`, { dst: result + 16, a: high });
  b.op(`movif.${bits}`, { dst: result + 16, a: RCX, b: equal });
  return [other, result];
}

const RBX_LOC = RDX + 8;

function loadAccumulators(cx: LiftContext, bits: 32 | 64, different: Loc, low: Loc, high: Loc): void {
  cx.b.op(`movif.${bits}`, { dst: RAX, a: low, b: different });
  cx.b.op(`movif.${bits}`, { dst: RDX, a: high, b: different });
}

/** MUL, IMUL and DIV, IDIV work on AX or on rDX : rAX. */
function multiplyAccumulator(signed: boolean) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const source = cx.read(0, bits);
    const low = b.op(`mul.${bits}`, { dst: b.temp(), a: RAX, b: source });
    const high = b.op(`${signed ? 'mulhs' : 'mulhu'}.${bits}`, { dst: b.temp(), a: RAX, b: source });
    b.op(`${signed ? 'mulsf' : 'muluf'}.${bits}`, { a: low, b: high });
    b.op(`mov.${bits}`, { dst: RAX, a: low });
    b.op(`mov.${bits}`, { dst: bits === 8 ? RAX + 1 : RDX, a: high });
  };
}
lift(Mnemonic.Mul, multiplyAccumulator(false));
lift(Mnemonic.Imul, (cx) => {
  if (cx.insn.opCount === 1) return multiplyAccumulator(true)(cx);
  const { b } = cx;
  const bits = cx.bits(0);
  const three = cx.insn.opCount === 3;
  const x = three ? cx.read(1, bits) : cx.register(0);
  const y = cx.read(three ? 2 : 1, bits);
  const low = b.op(`mul.${bits}`, { dst: b.temp(), a: x, b: y });
  const high = b.op(`mulhs.${bits}`, { dst: b.temp(), a: x, b: y });
  b.op(`mulsf.${bits}`, { a: low, b: high });
  b.op(`mov.${bits}`, { dst: cx.register(0), a: low });
});

function divide(signed: boolean) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const source = cx.read(0, bits);
    const highPlace = bits === 8 ? RAX + 1 : RDX;
    const quotient = b.op(`mov.${bits}`, { dst: b.temp(), a: highPlace });
    b.op(`${signed ? 'idiv' : 'div'}.${bits}`, { dst: quotient, a: RAX, b: source });
    const product = b.op(`mul.${bits}`, { dst: b.temp(), a: quotient, b: source });
    const remainder = b.op(`sub.${bits}`, { dst: b.temp(), a: RAX, b: product });
    b.op(`mov.${bits}`, { dst: RAX, a: quotient });
    b.op(`mov.${bits}`, { dst: highPlace, a: remainder });
  };
}
lift(Mnemonic.Div, divide(false));
lift(Mnemonic.Idiv, divide(true));

lift(Mnemonic.Cbw, (cx) => void cx.b.op('sext.8.16', { dst: RAX, a: RAX }));
lift(Mnemonic.Cwde, (cx) => void cx.b.op('sext.16.32', { dst: RAX, a: RAX }));
lift(Mnemonic.Cdqe, (cx) => void cx.b.op('sext.32.64', { dst: RAX, a: RAX }));
lift(Mnemonic.Cwd, (cx) => void cx.b.op('sign.16', { dst: RDX, a: RAX }));
lift(Mnemonic.Cdq, (cx) => void cx.b.op('sign.32', { dst: RDX, a: RAX }));
lift(Mnemonic.Cqo, (cx) => void cx.b.op('sign.64', { dst: RDX, a: RAX }));

/** BT, BTS, BTR, BTC: a register bit offset reaches beyond the operand in memory (Intel SDM volume 2, "BT"). */
function bitTest(kind: 'bts' | 'btr' | 'btc' | undefined) {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const index = cx.read(1, cx.isImmediate(1) ? 8 : bits);
    if (cx.isImmediate(1)) b.op(`zext.8.${bits === 8 ? 16 : bits}`, { dst: index, a: index });
    if (cx.isRegister(0)) {
      const reg = cx.register(0);
      const old = b.op(`mov.${bits}`, { dst: b.temp(), a: reg });
      b.op(`btf.${bits}`, { a: old, b: index });
      if (kind) b.op(`${kind}.${bits}`, { dst: reg, a: old, b: index });
      return;
    }
    let offset = cx.effectiveAddress();
    if (!cx.isImmediate(1)) {
      const step = b.temp();
      if (bits === 64) b.op('mov.64', { dst: step, a: index });
      else b.op(`sext.${bits}.64`, { dst: step, a: index });
      b.op('bit.cell', { dst: step, a: step, imm: Math.log2(bits) });
      const width = cx.addressBits();
      offset = b.op(`lea2.${width}`, { dst: b.temp(), a: offset, b: step, imm: 0, c: 0 });
    }
    const address = cx.segmented(cx.memorySegment(), offset, bits, kind !== undefined);
    const old = kind ? cx.loadForWrite(bits, address) : cx.load(bits, address);
    if (kind) {
      // The flag changes only once the store cannot fault any more.
      const result = b.op(`${kind}.${bits}`, { dst: b.temp(), a: old, b: index });
      cx.store(bits, address, result);
    }
    b.op(`btf.${bits}`, { a: old, b: index });
  };
}
lift(Mnemonic.Bt, bitTest(undefined));
lift(Mnemonic.Bts, bitTest('bts'));
lift(Mnemonic.Btr, bitTest('btr'));
lift(Mnemonic.Btc, bitTest('btc'));

/** BSF, BSR: the destination keeps its value when the source is zero, as processors have always done. */
function bitScan(kind: 'bsf' | 'bsr') {
  return (cx: LiftContext): void => {
    const { b } = cx;
    const bits = cx.bits(0);
    const source = cx.read(1, bits);
    const result = b.op(`${kind}.${bits}`, { dst: b.temp(), a: source });
    const some = b.op(`nonzero.${bits}`, { dst: b.temp(), a: source });
    b.op(`zerof.${bits}`, { a: source });
    b.op(`movif.${bits}`, { dst: cx.register(0), a: result, b: some });
  };
}
lift(Mnemonic.Bsf, bitScan('bsf'));
lift(Mnemonic.Bsr, bitScan('bsr'));

lift(Mnemonic.Popcnt, (cx) => {
  const bits = cx.bits(0);
  cx.b.op(`popcntf.${bits}`, { dst: cx.register(0), a: cx.read(1, bits) });
});

lift(Mnemonic.Bswap, (cx) => {
  const bits = cx.bits(0);
  const reg = cx.register(0);
  if (bits === 64) cx.b.op('bswap.64', { dst: reg, a: reg });
  else if (bits === 32) cx.b.op('bswap.32', { dst: reg, a: reg });
  // Undefined for 16 bits (Intel SDM volume 2, "BSWAP"); processors clear the register.
  else cx.b.op('const.16', { dst: reg, imm: 0 });
});

lift(Mnemonic.Movbe, (cx) => {
  const { b } = cx;
  const bits = cx.bits(0);
  const value = b.op(`mov.${bits}`, { dst: b.temp(), a: cx.read(1, bits) });
  if (bits === 16) b.op('bswap.16', { dst: value, a: value });
  else b.op(`bswap.${bits === 64 ? 64 : 32}`, { dst: value, a: value });
  cx.write(0, value, bits);
});

lift(Mnemonic.Xlatb, (cx) => {
  const { b } = cx;
  const width = cx.addressBits();
  const offset = b.op('zext.8.64', { dst: b.temp(), a: RAX });
  b.op(`lea2.${width}`, { dst: offset, a: offset, b: RBX_LOC, imm: 0, c: 0 });
  const t = cx.load(8, cx.segmented(cx.memorySegment(), offset, 8, false));
  b.op('mov.8', { dst: RAX, a: t });
});

lift(Mnemonic.Lahf, (cx) => void cx.b.op('lahf', { dst: RAX + 1 }));
lift(Mnemonic.Sahf, (cx) => void cx.b.op('sahf', { a: RAX + 1 }));
lift(Mnemonic.Clc, (cx) => void cx.b.op('clc', {}));
lift(Mnemonic.Stc, (cx) => void cx.b.op('stc', {}));
lift(Mnemonic.Cmc, (cx) => void cx.b.op('cmc', {}));
lift(Mnemonic.Cld, (cx) => void cx.b.op('cld', {}));
lift(Mnemonic.Std, (cx) => void cx.b.op('std', {}));
lift(Mnemonic.Salc, (cx) => {
  const t = cx.b.op('set.b', { dst: cx.b.temp() });
  cx.b.op('neg.8', { dst: RAX, a: t });
});

lift(
  [
    Mnemonic.Nop,
    Mnemonic.Pause,
    Mnemonic.Lfence,
    Mnemonic.Mfence,
    Mnemonic.Sfence,
    Mnemonic.Reservednop,
    Mnemonic.Endbr32,
    Mnemonic.Endbr64,
  ],
  () => undefined,
);
