import { ATTR_P, ATTR_S, ATTR_UNUSABLE, CR4_UMIP, TYPE_WRITABLE } from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import {
  attributesOf,
  baseOf,
  DESCRIPTOR_ACCESSED,
  dplOf,
  findDescriptor,
  isCode,
  isConforming,
  isNull,
  limitOf,
  linear,
  loadNull,
  loadRealSegment,
  loadSegment,
  loadV86Segment,
  locateDescriptor,
  markAccessed,
  readDescriptorAt,
  requireStackSegment,
  selectorCode,
  SYSTEM_TYPE,
  TSS_BUSY,
  writeSegment,
  type Descriptor,
} from './descriptors.ts';
import { GuestFault, gp, ud, VECTOR } from './faults.ts';
import {
  CTL,
  GDTR,
  IDTR,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  SEGMENT_MEMO,
  SEGMENT_MEMO_VALID,
  TABLE_LIMIT,
} from './layout.ts';
import { ACCESS } from './paging.ts';
import { isCanonical, joinSigned, setSigned } from './words.ts';

/** Segment register numbers, in encoding order. */
export const SEGMENT = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5, ldtr: 6, tr: 7 } as const;

/**
 * MOV and POP to ES, SS, DS, FS, GS, and LDS..LSS (Intel SDM volume 2, MOV): every check, then the load. A load of
 * SS holds off interrupts and debug exceptions until the next instruction has ended when `shadow` is set (MOV and
 * POP, not LSS).
 */
export function loadSegmentRegister(cpu: Cpu, index: number, selector: number, shadow: boolean): void {
  selector &= 0xffff;
  if (!cpu.protectedMode) loadRealSegment(cpu, index, selector);
  else if (cpu.v86) loadV86Segment(cpu, index, selector);
  else if (index === SEGMENT.ss) loadStackSegment(cpu, selector);
  else loadDataSegment(cpu, index, selector);
  if (shadow && index === SEGMENT.ss) cpu.set32(CTL.interruptShadow, 3);
  // The mode knows nothing of FS and GS.
  if (index < SEGMENT.fs) cpu.updateMode();
}

/** a = selector (16 bits), imm = segment register number, c = 1 where a load of SS holds off interrupts. */
export const loadSegmentCallout = defineCallout('segment.load', 'descriptor', (cpu, _dst, a, _b, imm, c) =>
  loadSegmentRegister(cpu, imm, cpu.u16[a >> 1]!, c !== 0),
);

function loadStackSegment(cpu: Cpu, selector: number): void {
  const cpl = cpu.cpl;
  if (isNull(selector)) {
    if (!cpu.code64 || cpl === 3 || (selector & 3) !== cpl) throw gp();
    loadNull(cpu, SEGMENT.ss, selector, cpl);
    return;
  }
  const descriptor = requireStackSegment(cpu, selector, cpl, VECTOR.GP, 0);
  markAccessed(cpu, descriptor);
  loadSegment(cpu, SEGMENT.ss, selector, descriptor);
}

function loadDataSegment(cpu: Cpu, index: number, selector: number): void {
  if (isNull(selector)) {
    loadNull(cpu, index, selector);
    return;
  }
  const descriptor = findDescriptor(cpu, selector);
  if (!descriptor) throw gp(selectorCode(selector, 0));
  const attributes = attributesOf(descriptor);
  if (!isReadable(attributes) || !isVisible(cpu, selector, attributes)) throw gp(selectorCode(selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  markAccessed(cpu, descriptor);
  loadSegment(cpu, index, selector, descriptor);
  if ((selector & 4) === 0) remember(cpu, index, selector, descriptor);
}

/** Notes what a load of a data segment register from the GDT came to. */
function remember(cpu: Cpu, index: number, selector: number, { low, high }: Descriptor): void {
  const { base, entries, entrySize } = SEGMENT_MEMO;
  const memo = base + (index * entries + ((selector >> 3) & (entries - 1))) * entrySize;
  const segment = SEG + index * SEG_SIZE;
  cpu.set32(memo + SEGMENT_MEMO.key, selector | (cpu.cpl << 16) | SEGMENT_MEMO_VALID);
  cpu.set32(memo + SEGMENT_MEMO.low, low);
  cpu.set32(memo + SEGMENT_MEMO.high, high | DESCRIPTOR_ACCESSED);
  cpu.set32(memo + SEGMENT_MEMO.attributes, cpu.get32(segment + SEG_FIELD.attributes));
  cpu.set32(memo + SEGMENT_MEMO.limit, cpu.get32(segment + SEG_FIELD.limit));
  cpu.set32(memo + SEGMENT_MEMO.segmentBase, cpu.get32(segment + SEG_FIELD.base));
  cpu.set32(memo + SEGMENT_MEMO.flat, cpu.isFlat(segment) ? 1 : 0);
}

/** Data, or readable code. */
function isReadable(attributes: number): boolean {
  return (attributes & ATTR_S) !== 0 && (!isCode(attributes) || (attributes & TYPE_WRITABLE) !== 0);
}

/** CPL and RPL reach the segment: at most its DPL, unless it is conforming code. */
function isVisible(cpu: Cpu, selector: number, attributes: number): boolean {
  if (isCode(attributes) && isConforming(attributes)) return true;
  const dpl = dplOf(attributes);
  return cpu.cpl <= dpl && (selector & 3) <= dpl;
}

/** Selector of a segment register 0..7 (MOV from segment, PUSH; SLDT and STR check first: see storeSystemSelector). */
export function selectorOf(cpu: Cpu, index: number): number {
  return cpu.get32(SEG + index * SEG_SIZE + SEG_FIELD.selector);
}

// ---- LDTR and TR ----

/** #UD in real-address and virtual-8086 mode, where an instruction is not recognized. */
function requireProtected(cpu: Cpu): void {
  if (!cpu.protectedMode || cpu.v86) throw ud();
}

function requireSupervisor(cpu: Cpu): void {
  if (cpu.cpl !== 0) throw gp();
}

/** #GP(0) when CR4.UMIP keeps user code from an instruction. */
function requireUmip(cpu: Cpu): void {
  if ((cpu.cr4 & CR4_UMIP) !== 0 && cpu.cpl !== 0) throw gp();
}

/** SLDT and STR: the selector of LDTR or TR. */
export function storeSystemSelector(cpu: Cpu, index: number): number {
  requireProtected(cpu);
  requireUmip(cpu);
  return selectorOf(cpu, index);
}

/** A descriptor of the GDT, 16 bytes in long mode; #GP(selector) beyond its limit. */
function requireSystemDescriptor(cpu: Cpu, selector: number): Descriptor & { readonly upper: number } {
  const long = cpu.longMode;
  const address = (selector & 4) === 0 ? locateDescriptor(cpu, selector, long ? 16 : 8) : undefined;
  if (address === undefined) throw gp(selectorCode(selector, 0));
  const { low, high } = readDescriptorAt(cpu, address);
  return { address, low, high, upper: long ? cpu.mmu.read32(linear(cpu, address, 8), true) : 0 };
}

function writeSystemSegment(
  cpu: Cpu,
  index: number,
  selector: number,
  attributes: number,
  descriptor: Descriptor & { readonly upper: number },
): void {
  writeSegment(cpu, index, selector, attributes, limitOf(descriptor), 0);
  setSigned(cpu, SEG + index * SEG_SIZE + SEG_FIELD.base, joinSigned(baseOf(descriptor), descriptor.upper));
}

/** LLDT (Intel SDM volume 2). */
export function loadLdtr(cpu: Cpu, selector: number): void {
  requireProtected(cpu);
  requireSupervisor(cpu);
  selector &= 0xffff;
  if (isNull(selector)) {
    writeSegment(cpu, SEGMENT.ldtr, selector, ATTR_UNUSABLE | SYSTEM_TYPE.ldt, 0, 0);
    return;
  }
  const descriptor = requireSystemDescriptor(cpu, selector);
  const attributes = attributesOf(descriptor);
  if ((attributes & 0x1f) !== SYSTEM_TYPE.ldt) throw gp(selectorCode(selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  if (!isCanonical(joinSigned(baseOf(descriptor), descriptor.upper))) throw gp(selectorCode(selector, 0));
  writeSystemSegment(cpu, SEGMENT.ldtr, selector, attributes, descriptor);
}

/** LTR (Intel SDM volume 2): also marks the TSS busy in its table. */
export function loadTr(cpu: Cpu, selector: number): void {
  requireProtected(cpu);
  requireSupervisor(cpu);
  selector &= 0xffff;
  if (isNull(selector)) throw gp();
  const descriptor = requireSystemDescriptor(cpu, selector);
  const attributes = attributesOf(descriptor);
  const type = attributes & 0x1f;
  const available =
    type === SYSTEM_TYPE.tss32Available || (type === SYSTEM_TYPE.tss16Available && !cpu.longMode);
  if (!available) throw gp(selectorCode(selector, 0));
  if (cpu.longMode && (cpu.mmu.read32(linear(cpu, descriptor.address, 12), true) & 0x1f00) !== 0) {
    throw gp(selectorCode(selector, 0));
  }
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  if (!isCanonical(joinSigned(baseOf(descriptor), descriptor.upper))) throw gp(selectorCode(selector, 0));
  cpu.mmu.write8(linear(cpu, descriptor.address, 5), ((descriptor.high >>> 8) & 0xff) | TSS_BUSY, true);
  writeSystemSegment(cpu, SEGMENT.tr, selector, attributes | TSS_BUSY, descriptor);
}

// ---- GDTR and IDTR ----

/**
 * LGDT and LIDT from memory at `address` (already checked against its segment): 16 bits of limit, then the base, of
 * which a 16-bit operand size outside 64-bit mode takes 24 bits.
 */
export function loadTable(cpu: Cpu, table: 'gdt' | 'idt', address: number, operandSize: number): void {
  requireSupervisor(cpu);
  const long = cpu.code64;
  cpu.mmu.probe(address, long ? 10 : 6, ACCESS.read);
  const limit = cpu.mmu.read16(address);
  const low = cpu.mmu.read32(linear(cpu, address, 2));
  const base = long
    ? joinSigned(low, cpu.mmu.read32(address + 6))
    : operandSize === 16
      ? low & 0xffffff
      : low;
  if (long && !isCanonical(base)) throw gp();
  const offset = table === 'gdt' ? GDTR : IDTR;
  setSigned(cpu, offset, base);
  cpu.set32(offset + TABLE_LIMIT, limit);
}

/** SGDT and SIDT to memory at `address`: 6 bytes, 10 in 64-bit mode, whatever the operand size. */
export function storeTable(cpu: Cpu, table: 'gdt' | 'idt', address: number): void {
  requireUmip(cpu);
  const offset = table === 'gdt' ? GDTR : IDTR;
  const long = cpu.code64;
  cpu.mmu.probe(address, long ? 10 : 6, ACCESS.write);
  cpu.mmu.write16(address, cpu.get32(offset + TABLE_LIMIT) & 0xffff);
  cpu.mmu.write32(linear(cpu, address, 2), cpu.get32(offset));
  if (long) cpu.mmu.write32(address + 6, cpu.get32(offset + 4));
}

// ---- LAR, LSL, VERR, VERW, ARPL ----

const SYSTEM_TYPES_LIMIT = new Set<number>([
  SYSTEM_TYPE.tss16Available,
  SYSTEM_TYPE.ldt,
  SYSTEM_TYPE.tss16Busy,
  SYSTEM_TYPE.tss32Available,
  SYSTEM_TYPE.tss32Busy,
]);
const SYSTEM_TYPES_RIGHTS = new Set<number>([
  ...SYSTEM_TYPES_LIMIT,
  SYSTEM_TYPE.callGate16,
  SYSTEM_TYPE.taskGate,
  SYSTEM_TYPE.callGate32,
]);
/** Those of them that exist in long mode. */
const SYSTEM_TYPES_LONG = new Set<number>([
  SYSTEM_TYPE.ldt,
  SYSTEM_TYPE.tss32Available,
  SYSTEM_TYPE.tss32Busy,
  SYSTEM_TYPE.callGate32,
]);

/** The descriptor LAR or LSL may tell about, undefined where they clear ZF. */
function inspect(cpu: Cpu, selector: number, systemTypes: Set<number>): Descriptor | undefined {
  requireProtected(cpu);
  if (isNull(selector)) return undefined;
  const descriptor = findDescriptor(cpu, selector);
  if (!descriptor) return undefined;
  const attributes = attributesOf(descriptor);
  const type = attributes & 0xf;
  if ((attributes & ATTR_S) === 0) {
    if (!systemTypes.has(type) || (cpu.longMode && !SYSTEM_TYPES_LONG.has(type))) return undefined;
  }
  return isVisible(cpu, selector, attributes) ? descriptor : undefined;
}

/** LAR: the access rights (32 bits), or undefined when ZF is to be cleared. #UD outside protected mode. */
export function accessRights(cpu: Cpu, selector: number): number | undefined {
  const descriptor = inspect(cpu, selector, SYSTEM_TYPES_RIGHTS);
  return descriptor && descriptor.high & 0x00f0ff00;
}

/** LSL: the limit in bytes, or undefined when ZF is to be cleared. #UD outside protected mode. */
export function segmentLimit(cpu: Cpu, selector: number): number | undefined {
  const descriptor = inspect(cpu, selector, SYSTEM_TYPES_LIMIT);
  return descriptor && limitOf(descriptor);
}

/** VERR and VERW: whether the segment can be read or written from here. #UD outside protected mode. */
export function verifySegment(cpu: Cpu, selector: number, write: boolean): boolean {
  requireProtected(cpu);
  if (isNull(selector)) return false;
  const descriptor = findDescriptor(cpu, selector);
  if (!descriptor) return false;
  const attributes = attributesOf(descriptor);
  if (!isReadable(attributes) || !isVisible(cpu, selector, attributes)) return false;
  return !write || (!isCode(attributes) && (attributes & TYPE_WRITABLE) !== 0);
}

/** ARPL: the destination selector with its RPL raised to the source's, or undefined (ZF = 0) where it need not be. */
export function adjustRpl(cpu: Cpu, destination: number, source: number): number | undefined {
  requireProtected(cpu);
  return (destination & 3) < (source & 3) ? (destination & 0xfffc) | (source & 3) : undefined;
}
