import { Code, Mnemonic, Register } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { FLAG_ZF, TYPE_CODE, TYPE_WRITABLE } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { gp } from '../faults.ts';
import { SEG, SEG_FIELD, SEG_SIZE } from '../layout.ts';
import {
  accessRights,
  adjustRpl,
  loadLdtr,
  loadSegmentCallout,
  loadTable,
  loadTr,
  segmentLimit,
  SEGMENT,
  storeSystemSelector,
  storeTable,
  verifySegment,
} from '../segmentation.ts';
import { ACCESS_INFO } from '../../ir/ops/memory.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { claimSegmentPushPop } from './control.ts';
import { loadFarPointer } from './far.ts';
import { claimSpecialMove } from './integer.ts';
import { lift } from './table.ts';

/** dst = selector (64 bits), imm = segment register number. */
const storeSystemCallout = defineCallout('segment.storeSystem', 'descriptor', (cpu, dst, _a, _b, imm) =>
  setResult(cpu, dst, storeSystemSelector(cpu, imm), 64),
);
/** a = selector (16 bits). */
const lldt = defineCallout('lldt', 'descriptor', (cpu, _dst, a) => loadLdtr(cpu, cpu.u16[a >> 1]!));
const ltr = defineCallout('ltr', 'descriptor', (cpu, _dst, a) => loadTr(cpu, cpu.u16[a >> 1]!));

// Operands: a = linear address (64 bits), imm = operand size in bits, c = 1 for an address in SS.
const lgdt = defineCallout('lgdt', 'descriptor', (cpu, _dst, a, _b, imm, c) =>
  loadTable(cpu, 'gdt', cpu.mmu.linearAt(a, c !== 0), imm),
);
const lidt = defineCallout('lidt', 'descriptor', (cpu, _dst, a, _b, imm, c) =>
  loadTable(cpu, 'idt', cpu.mmu.linearAt(a, c !== 0), imm),
);
const sgdt = defineCallout('sgdt', 'descriptor', (cpu, _dst, a, _b, _imm, c) =>
  storeTable(cpu, 'gdt', cpu.mmu.linearAt(a, c !== 0)),
);
const sidt = defineCallout('sidt', 'descriptor', (cpu, _dst, a, _b, _imm, c) =>
  storeTable(cpu, 'idt', cpu.mmu.linearAt(a, c !== 0)),
);

// Operands: a = selector (16 bits); LAR and LSL write dst, of imm bits, where they set ZF.
const lar = defineCallout('lar', 'descriptor', (cpu, dst, a, _b, imm) =>
  setInspected(cpu, dst, accessRights(cpu, cpu.u16[a >> 1]!), imm),
);
const lsl = defineCallout('lsl', 'descriptor', (cpu, dst, a, _b, imm) =>
  setInspected(cpu, dst, segmentLimit(cpu, cpu.u16[a >> 1]!), imm),
);
const verr = defineCallout('verr', 'descriptor', (cpu, _dst, a) =>
  setZero(cpu, verifySegment(cpu, cpu.u16[a >> 1]!, false)),
);
const verw = defineCallout('verw', 'descriptor', (cpu, _dst, a) =>
  setZero(cpu, verifySegment(cpu, cpu.u16[a >> 1]!, true)),
);
/** dst = selector a with its RPL raised to that of selector b (all 16 bits). */
const arpl = defineCallout('arpl', 'descriptor', (cpu, dst, a, b) => {
  const adjusted = adjustRpl(cpu, cpu.u16[a >> 1]!, cpu.u16[b >> 1]!);
  setZero(cpu, adjusted !== undefined);
  cpu.u16[dst >> 1] = adjusted ?? cpu.u16[a >> 1]!;
});

/** The same for a destination at linear address a (64 bits) in segment number imm; it is written only when it changes. */
const arplMemory = defineCallout('arpl.memory', 'descriptor', (cpu, _dst, a, b, imm, c) => {
  const address = cpu.mmu.linearAt(a, c !== 0);
  const adjusted = adjustRpl(cpu, cpu.mmu.read16(address), cpu.u16[b >> 1]!);
  if (adjusted !== undefined) {
    const { attributes } = cpu.segment(imm);
    if ((attributes & TYPE_CODE) !== 0 || (attributes & TYPE_WRITABLE) === 0) throw gp();
    cpu.mmu.write16(address, adjusted);
  }
  setZero(cpu, adjusted !== undefined);
});

function setZero(cpu: Cpu, zero: boolean): void {
  const flags = cpu.rflags;
  cpu.rflags = zero ? flags | FLAG_ZF : flags & ~FLAG_ZF;
}

function setInspected(cpu: Cpu, dst: Loc, value: number | undefined, bits: number): void {
  if (value !== undefined) setResult(cpu, dst, value, bits);
  setZero(cpu, value !== undefined);
}

function setResult(cpu: Cpu, dst: Loc, value: number, bits: number): void {
  if (bits === 16) {
    cpu.u16[dst >> 1] = value;
    return;
  }
  cpu.set32(dst, value);
  cpu.set32(dst + 4, 0);
}

/** Number of a segment register ES..GS; -1 for any other register. */
function segmentNumber(register: Register): number {
  return register >= Register.ES && register <= Register.GS ? register - Register.ES : -1;
}

function selectorPlace(segment: number): Loc {
  return SEG + segment * SEG_SIZE + SEG_FIELD.selector;
}

/** Loads a segment register; `shadow`: a load of SS holds off interrupts. */
function load(cx: LiftContext, segment: number, selector: Loc, shadow: boolean): void {
  const quick = cx.protectedMode && !cx.v86 && segment !== SEGMENT.ss;
  if (quick) cx.b.op('segment.load', { a: selector, imm: segment });
  else cx.b.callout(loadSegmentCallout, { a: selector, imm: segment, c: shadow ? 1 : 0 });
}

/** The end of an instruction that loaded a segment register: what of the mode the block was made for may have changed. */
function endAfterLoad(cx: LiftContext, segment: number, shadow: boolean): void {
  if (segment === SEGMENT.ss && shadow) cx.endBlock();
  else if (!cx.code64 && segment !== SEGMENT.fs && segment !== SEGMENT.gs) {
    cx.b.op(`jmp.${cx.codeBits}`, { imm: cx.next });
  }
}

// MOV to and from segment registers.
claimSpecialMove((cx) => {
  const { insn } = cx;
  const target = cx.isRegister(0) ? segmentNumber(insn.opRegister(0)) : -1;
  if (target >= 0) {
    if (target === SEGMENT.cs) throw new UndefinedInstruction();
    load(cx, target, cx.read(1, 16), true);
    endAfterLoad(cx, target, true);
    return true;
  }
  const source = cx.isRegister(1) ? segmentNumber(insn.opRegister(1)) : -1;
  if (source < 0) return false;
  storeSelector(cx, selectorPlace(source));
  return true;
});

/** Writes a selector to operand 0: 16 bits to memory, zero-extended to a register of any size. */
function storeSelector(cx: LiftContext, selector: Loc): void {
  if (cx.isMemory(0)) {
    cx.store(16, cx.address(16, true), selector);
    return;
  }
  const bits = cx.bits(0) === 16 ? 16 : 32;
  cx.b.op(`mov.${bits}`, { dst: cx.register(0), a: selector });
}

/** Bits a PUSH or POP moves. */
function stackBits(cx: LiftContext): Bits {
  return (Math.abs(cx.insn.stackPointerIncrement) * 8) as Bits;
}

// PUSH and POP of segment registers.
claimSegmentPushPop((cx) => {
  const segment = cx.isRegister(0) ? segmentNumber(cx.insn.opRegister(0)) : -1;
  if (segment < 0) return false;
  const { b } = cx;
  if (cx.insn.mnemonic === Mnemonic.Push) {
    cx.push(b.op('mov.32', { dst: b.temp(), a: selectorPlace(segment) }), stackBits(cx));
    return true;
  }
  if (segment === SEGMENT.cs) throw new UndefinedInstruction();
  const { value, pointer } = cx.peek(stackBits(cx));
  load(cx, segment, value, true);
  cx.setStackPointer(pointer);
  endAfterLoad(cx, segment, true);
  return true;
});

/** LDS..LSS: a far pointer from memory. */
function loadPointer(segment: number) {
  return (cx: LiftContext): void => {
    if (!cx.isMemory(1)) throw new UndefinedInstruction();
    const bits = cx.bits(0);
    if (bits === 8) throw new UndefinedInstruction();
    const { offset, selector } = loadFarPointer(cx, bits);
    load(cx, segment, selector, false);
    cx.b.op(`mov.${bits}`, { dst: cx.register(0), a: offset });
    endAfterLoad(cx, segment, false);
  };
}
lift(Mnemonic.Les, loadPointer(SEGMENT.es));
lift(Mnemonic.Lss, loadPointer(SEGMENT.ss));
lift(Mnemonic.Lds, loadPointer(SEGMENT.ds));
lift(Mnemonic.Lfs, loadPointer(SEGMENT.fs));
lift(Mnemonic.Lgs, loadPointer(SEGMENT.gs));

function requireProtected(cx: LiftContext): void {
  if (!cx.protectedMode) throw new UndefinedInstruction();
}

lift([Mnemonic.Sldt, Mnemonic.Str], (cx) => {
  requireProtected(cx);
  const selector = cx.b.temp();
  cx.b.callout(storeSystemCallout, {
    dst: selector,
    imm: cx.insn.mnemonic === Mnemonic.Sldt ? SEGMENT.ldtr : SEGMENT.tr,
  });
  storeSelector(cx, selector);
});

lift([Mnemonic.Lldt, Mnemonic.Ltr], (cx) => {
  requireProtected(cx);
  if (!cx.requireCpl0()) return;
  cx.b.callout(cx.insn.mnemonic === Mnemonic.Lldt ? lldt : ltr, { a: cx.read(0, 16) });
});

lift([Mnemonic.Lgdt, Mnemonic.Lidt], (cx) => {
  if (!cx.isMemory(0)) throw new UndefinedInstruction();
  if (!cx.requireCpl0()) return;
  const address = cx.address(cx.code64 ? 80 : 48);
  cx.b.callout(cx.insn.mnemonic === Mnemonic.Lgdt ? lgdt : lidt, {
    a: cx.linear(address),
    imm: operandBits(cx),
    c: address.info & ACCESS_INFO.stack ? 1 : 0,
  });
});

lift([Mnemonic.Sgdt, Mnemonic.Sidt], (cx) => {
  if (!cx.isMemory(0)) throw new UndefinedInstruction();
  const address = cx.address(cx.code64 ? 80 : 48, true);
  cx.b.callout(cx.insn.mnemonic === Mnemonic.Sgdt ? sgdt : sidt, {
    a: cx.linear(address),
    c: address.info & ACCESS_INFO.stack ? 1 : 0,
  });
});

/** Operand size of LGDT and LIDT: only 16 matters, outside 64-bit mode. */
function operandBits(cx: LiftContext): number {
  const code16 = cx.insn.code === Code.Lgdt_m1632_16 || cx.insn.code === Code.Lidt_m1632_16;
  return cx.code64 ? 64 : code16 ? 16 : 32;
}

lift([Mnemonic.Lar, Mnemonic.Lsl], (cx) => {
  requireProtected(cx);
  cx.b.callout(cx.insn.mnemonic === Mnemonic.Lar ? lar : lsl, {
    dst: cx.register(0),
    a: cx.read(1, 16),
    imm: cx.bits(0),
  });
});

lift([Mnemonic.Verr, Mnemonic.Verw], (cx) => {
  requireProtected(cx);
  cx.b.callout(cx.insn.mnemonic === Mnemonic.Verr ? verr : verw, { a: cx.read(0, 16) });
});

lift(Mnemonic.Arpl, (cx) => {
  requireProtected(cx);
  const { b } = cx;
  const source = cx.register(1);
  if (cx.isRegister(0)) {
    b.callout(arpl, { dst: cx.register(0), a: cx.register(0), b: source });
    return;
  }
  const address = cx.address(16);
  b.callout(arplMemory, {
    a: cx.linear(address),
    b: source,
    imm: segmentNumber(cx.memorySegment()),
    c: address.info & ACCESS_INFO.stack ? 1 : 0,
  });
});
