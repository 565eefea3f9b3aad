import {
  ATTR_DB,
  ATTR_G,
  ATTR_P,
  ATTR_S,
  ATTR_UNUSABLE,
  TYPE_CODE,
  TYPE_EXPAND_DOWN,
  TYPE_WRITABLE,
} from './bits.ts';
import type { Cpu } from './cpu.ts';
import { GuestFault, VECTOR } from './faults.ts';
import { GDTR, LDTR, SEG, SEG_FIELD, SEG_SIZE, TABLE_LIMIT } from './layout.ts';
import { getSigned } from './words.ts';

/** Types of system descriptors (Intel SDM volume 3, table 3-2). In long mode the 32-bit ones mean 64-bit ones. */
export const SYSTEM_TYPE = {
  tss16Available: 1,
  ldt: 2,
  tss16Busy: 3,
  callGate16: 4,
  taskGate: 5,
  interruptGate16: 6,
  trapGate16: 7,
  tss32Available: 9,
  tss32Busy: 11,
  callGate32: 12,
  interruptGate32: 14,
  trapGate32: 15,
} as const;

/** Bit 1 of a TSS descriptor's type: the task is running or nested. */
export const TSS_BUSY = 2;
/** Bit 3 of a TSS or gate type: 32 bits wide (64 in long mode). */
export const SYSTEM_WIDE = 8;

/** A descriptor as it stands in its table. */
export interface Descriptor {
  /** Linear address of its first byte. */
  readonly address: number;
  /** Bytes 0..3 and 4..7. */
  readonly low: number;
  readonly high: number;
}

/** Attributes in the form of SEG_FIELD.attributes. */
export function attributesOf(descriptor: Descriptor): number {
  return (descriptor.high >>> 8) & 0xf0ff;
}

/** Limit in bytes, scaled by G. */
export function limitOf({ low, high }: Descriptor): number {
  const raw = (low & 0xffff) | (high & 0xf0000);
  return ((high >>> 8) & ATTR_G) !== 0 ? ((raw << 12) | 0xfff) >>> 0 : raw;
}

/** Base, 32 bits (the low half of a 16-byte descriptor's base). */
export function baseOf({ low, high }: Descriptor): number {
  return ((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0;
}

export function dplOf(attributes: number): number {
  return (attributes >>> 5) & 3;
}

export function isCode(attributes: number): boolean {
  return (attributes & (ATTR_S | TYPE_CODE)) === (ATTR_S | TYPE_CODE);
}

/** Conforming, of a code segment's attributes. */
export function isConforming(attributes: number): boolean {
  return (attributes & TYPE_EXPAND_DOWN) !== 0;
}

export function isWritableData(attributes: number): boolean {
  return (attributes & (ATTR_S | TYPE_CODE | TYPE_WRITABLE)) === (ATTR_S | TYPE_WRITABLE);
}

/** A null selector: index 0 of the GDT, whatever its RPL. */
export function isNull(selector: number): boolean {
  return (selector & 0xfffc) === 0;
}

/** Error code that names a selector (Intel SDM volume 3, section 6.13). `ext` is 1 for events external to the program. */
export function selectorCode(selector: number, ext: number): number {
  return (selector & 0xfffc) | ext;
}

/** Error code that names an IDT gate. */
export function gateCode(vector: number, ext: number): number {
  return (vector << 3) | 2 | ext;
}

/** Adds to a linear address with the wrap-around of the mode: 32 bits outside long mode. */
export function linear(cpu: Cpu, base: number, offset: number): number {
  return cpu.longMode ? base + offset : (base + offset) >>> 0;
}

/**
 * Linear address of the `bytes` (8 or 16) of a selector's descriptor, or undefined when they are not within the
 * limit of the GDT or LDT. The null selector is descriptor 0 here: refuse it before.
 */
export function locateDescriptor(cpu: Cpu, selector: number, bytes = 8): number | undefined {
  const index = selector & 0xfff8;
  if ((selector & 4) === 0) {
    if (index + bytes - 1 > cpu.get32(GDTR + TABLE_LIMIT)) return undefined;
    return linear(cpu, getSigned(cpu, GDTR), index);
  }
  if ((cpu.get32(LDTR + SEG_FIELD.attributes) & ATTR_UNUSABLE) !== 0) return undefined;
  if (index + bytes - 1 > cpu.get32(LDTR + SEG_FIELD.limit)) return undefined;
  return linear(cpu, getSigned(cpu, LDTR + SEG_FIELD.base), index);
}

export function readDescriptorAt(cpu: Cpu, address: number): Descriptor {
  const { mmu } = cpu;
  return { address, low: mmu.read32(address, true), high: mmu.read32(linear(cpu, address, 4), true) };
}

/** Reads a selector's descriptor, or undefined beyond its table's limit. May throw #PF. */
export function findDescriptor(cpu: Cpu, selector: number): Descriptor | undefined {
  const address = locateDescriptor(cpu, selector);
  return address === undefined ? undefined : readDescriptorAt(cpu, address);
}

/** Reads a selector's descriptor; beyond its table's limit throws `vector` with the selector as error code. */
export function requireDescriptor(cpu: Cpu, selector: number, vector: number, ext: number): Descriptor {
  const descriptor = findDescriptor(cpu, selector);
  if (!descriptor) throw new GuestFault(vector, selectorCode(selector, ext));
  return descriptor;
}

/**
 * The checks of a stack segment for privilege level `level`: `vector` (#GP or #TS) with the selector when it is
 * not a writable data segment of that level, #SS with the selector when it is not present. The caller has refused
 * null selectors.
 */
export function requireStackSegment(
  cpu: Cpu,
  selector: number,
  level: number,
  vector: number,
  ext: number,
): Descriptor {
  const descriptor = requireDescriptor(cpu, selector, vector, ext);
  const attributes = attributesOf(descriptor);
  if ((selector & 3) !== level || !isWritableData(attributes) || dplOf(attributes) !== level) {
    throw new GuestFault(vector, selectorCode(selector, ext));
  }
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.SS, selectorCode(selector, ext));
  return descriptor;
}

/** The accessed bit in the upper half of a code or data descriptor. */
export const DESCRIPTOR_ACCESSED = 0x100;

/** Sets the accessed bit of a code or data descriptor in its table, where it isn't set yet. May throw #PF. */
export function markAccessed(cpu: Cpu, descriptor: Descriptor): void {
  if ((descriptor.high & DESCRIPTOR_ACCESSED) !== 0) return;
  cpu.mmu.write8(linear(cpu, descriptor.address, 5), ((descriptor.high >>> 8) | 1) & 0xff, true);
}

/** Loads a segment register (0..5), hidden part included, from a code or data descriptor. No checks. */
export function loadSegment(cpu: Cpu, index: number, selector: number, descriptor: Descriptor): void {
  const word = (SEG + index * SEG_SIZE) >> 2;
  cpu.u32[word] = selector & 0xffff;
  cpu.u32[word + (SEG_FIELD.attributes >> 2)] = attributesOf(descriptor) | 1;
  cpu.u32[word + (SEG_FIELD.limit >> 2)] = limitOf(descriptor);
  cpu.u32[word + (SEG_FIELD.base >> 2)] = baseOf(descriptor);
  cpu.u32[word + (SEG_FIELD.base >> 2) + 1] = 0;
}

/** Writes a segment register (0..7) with a base below 4 GiB. */
export function writeSegment(
  cpu: Cpu,
  index: number,
  selector: number,
  attributes: number,
  limit: number,
  base: number,
): void {
  const word = (SEG + index * SEG_SIZE) >> 2;
  cpu.u32[word] = selector & 0xffff;
  cpu.u32[word + (SEG_FIELD.attributes >> 2)] = attributes;
  cpu.u32[word + (SEG_FIELD.limit >> 2)] = limit;
  cpu.u32[word + (SEG_FIELD.base >> 2)] = base;
  cpu.u32[word + (SEG_FIELD.base >> 2) + 1] = 0;
}

/** Loads a null selector: the register becomes unusable. SS gets the privilege level as its DPL. */
export function loadNull(cpu: Cpu, index: number, selector: number, level = 0): void {
  writeSegment(cpu, index, selector, ATTR_UNUSABLE | (level << 5), 0, 0);
}

/** Loads a segment register as virtual-8086 mode does. */
export function loadV86Segment(cpu: Cpu, index: number, selector: number): void {
  writeSegment(cpu, index, selector, 0xf3, 0xffff, (selector & 0xffff) << 4);
}

/**
 * Loads a segment register as real-address mode does: a writable data segment of the base the selector gives, whose
 * limit and size stay as protected mode left them ("unreal mode"), unless a null selector had made it unusable.
 */
export function loadRealSegment(cpu: Cpu, index: number, selector: number): void {
  const offset = SEG + index * SEG_SIZE;
  const attributes = cpu.get32(offset + SEG_FIELD.attributes);
  const usable = (attributes & ATTR_UNUSABLE) === 0;
  const limit = usable ? cpu.get32(offset + SEG_FIELD.limit) : 0xffff;
  const size = usable ? attributes & (ATTR_DB | ATTR_G) : 0;
  writeSegment(cpu, index, selector, 0x93 | size, limit, (selector & 0xffff) << 4);
}
