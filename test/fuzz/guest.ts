/**
 * The smallest guest in which one instruction can run as it does in a process on the host: the same linear
 * addresses, selectors and descriptors, page tables, and an IDT whose every gate leads to a HLT in ring 0, so that
 * a fault (or the INT3 behind the instruction) ends the run with its frame on the ring 0 stack.
 *
 * Two environments share the pages: IA-32e (64-bit code, and compatibility mode as on the host), and protected
 * mode with PAE paging (the same 16- and 32-bit code as a 32-bit guest runs it).
 */
import { CODE_BASE, DATA_BASE, LDT } from '../oracle/layout.ts';
import type { LdtEntry } from '../oracle/layout.ts';

/** Guest-physical addresses; one page each unless noted. */
export const PHYSICAL = {
  code: 0x1000,
  /** Two pages. */
  data: 0x2000,
  pml4: 0x4000,
  pdpt: 0x5000,
  directory1: 0x6000,
  directory2: 0x7000,
  tableData0: 0x8000,
  tableData1: 0x9000,
  tableCode: 0xa000,
  kernelPdpt: 0xb000,
  kernelDirectory: 0xc000,
  kernelTable: 0xd000,
  paePdpt: 0xe000,
  paeDirectory3: 0xf000,
  paeTable: 0x10000,
  idtLong: 0x11000,
  idtLegacy: 0x12000,
  gdtLong: 0x13000,
  gdtLegacy: 0x14000,
  handlers: 0x15000,
  stack: 0x16000,
} as const;

/** Linear address of the supervisor pages: PHYSICAL.idtLong to PHYSICAL.stack, in order. */
export const KERNEL_LONG = 0xffff_8000_0000_0000n;
export const KERNEL_LEGACY = 0xd123_4000n;
const KERNEL_PAGES = 6;

/** Offsets in a GDT page: GDT (Linux's indices), LDT, TSS. */
const LDT_OFFSET = 0x400;
const TSS_OFFSET = 0x800;
/** Linux: 16 entries, TSS at index 8, LDT at index 10. */
export const GDT_LIMIT = 16 * 8 - 1;
export const SELECTOR_TSS = 0x40;
export const SELECTOR_LDT = 0x50;
const KERNEL_CODE32 = 0x08;
const KERNEL_CODE64 = 0x10;

const P = 1;
const RW = 2;
const US = 4;
const ACCESSED_DIRTY = 0x60;
const NX_HIGH = 0x8000_0000;

/** Segment register contents as the vCPU keeps them: attributes as in SEG_FIELD. */
export interface SegmentValue {
  readonly attributes: number;
  readonly limit: number;
  readonly base: bigint;
}

const UNUSABLE: SegmentValue = { attributes: 0x1_0000, limit: 0, base: 0n };

function ldtAttributes(entry: LdtEntry): number {
  // Type as Linux makes it: accessed, writable or readable unless restricted.
  const type = 1 | (entry.restricted ? 0 : 2) | (entry.contents << 2);
  return (
    type | 0x10 | 0x60 | (entry.present ? 0x80 : 0) | (entry.big ? 0x4000 : 0) | (entry.pages ? 0x8000 : 0)
  );
}

/** A segment register loaded with one of the oracle's selectors. */
export function segmentOf(selector: number): SegmentValue {
  if ((selector & ~3) === 0) return UNUSABLE;
  if ((selector & 4) !== 0) {
    const entry = LDT[selector >> 3];
    if (entry === undefined)
      throw new Error(`selector 0x${selector.toString(16)} is not in the oracle's LDT`);
    return {
      attributes: ldtAttributes(entry),
      limit: entry.pages ? entry.limit * 0x1000 + 0xfff : entry.limit,
      base: BigInt(entry.base),
    };
  }
  const attributes = new Map([
    [0x23, 0xc0fb],
    [0x2b, 0xc0f3],
    [0x33, 0xa0fb],
  ]).get(selector);
  if (attributes === undefined)
    throw new Error(`selector 0x${selector.toString(16)} is not in the oracle's GDT`);
  return { attributes, limit: 0xffff_ffff, base: 0n };
}

function writeDescriptor(view: DataView, at: number, base: number, limit: number, attributes: number): void {
  // Intel SDM vol. 3, figure 3-8.
  view.setUint32(at, ((base & 0xffff) << 16) | (limit & 0xffff), true);
  const high =
    (base & 0xff00_0000) |
    ((attributes & 0xf000) << 8) |
    (limit & 0xf_0000) |
    ((attributes & 0xff) << 8) |
    ((base >>> 16) & 0xff);
  view.setUint32(at + 4, high, true);
}

function entry(
  view: DataView,
  table: number,
  index: number,
  physical: number,
  flags: number,
  noExecute = false,
): void {
  view.setUint32(table + index * 8, physical | flags, true);
  view.setUint32(table + index * 8 + 4, noExecute ? NX_HIGH : 0, true);
}

function writePaging(view: DataView): void {
  const user = P | RW | US | ACCESSED_DIRTY;
  const kernel = P | RW | ACCESSED_DIRTY;
  const index = (address: number, shift: number): number => (address / 2 ** shift) & 0x1ff;
  entry(view, PHYSICAL.pml4, 0, PHYSICAL.pdpt, user);
  entry(view, PHYSICAL.pdpt, index(DATA_BASE, 30), PHYSICAL.directory1, user);
  entry(view, PHYSICAL.pdpt, index(DATA_BASE + 0x1000, 30), PHYSICAL.directory2, user);
  entry(view, PHYSICAL.directory1, index(DATA_BASE, 21), PHYSICAL.tableData0, user);
  entry(view, PHYSICAL.directory2, index(DATA_BASE + 0x1000, 21), PHYSICAL.tableData1, user);
  entry(view, PHYSICAL.directory2, index(CODE_BASE, 21), PHYSICAL.tableCode, user);
  entry(view, PHYSICAL.tableData0, index(DATA_BASE, 12), PHYSICAL.data, user, true);
  entry(view, PHYSICAL.tableData1, index(DATA_BASE + 0x1000, 12), PHYSICAL.data + 0x1000, user, true);
  entry(view, PHYSICAL.tableCode, index(CODE_BASE, 12), PHYSICAL.code, user);
  // PAE: the same directories behind a four-entry table of their own.
  entry(view, PHYSICAL.paePdpt, 1, PHYSICAL.directory1, P);
  entry(view, PHYSICAL.paePdpt, 2, PHYSICAL.directory2, P);
  entry(view, PHYSICAL.paePdpt, 3, PHYSICAL.paeDirectory3, P);
  const legacy = Number(KERNEL_LEGACY);
  entry(view, PHYSICAL.paeDirectory3, index(legacy, 21), PHYSICAL.paeTable, kernel);
  entry(view, PHYSICAL.pml4, 256, PHYSICAL.kernelPdpt, kernel);
  entry(view, PHYSICAL.kernelPdpt, 0, PHYSICAL.kernelDirectory, kernel);
  entry(view, PHYSICAL.kernelDirectory, 0, PHYSICAL.kernelTable, kernel);
  for (let page = 0; page < KERNEL_PAGES; page++) {
    entry(view, PHYSICAL.kernelTable, page, PHYSICAL.idtLong + page * 0x1000, kernel);
    entry(view, PHYSICAL.paeTable, index(legacy, 12) + page, PHYSICAL.idtLong + page * 0x1000, kernel);
  }
}

/** Linear address of a supervisor page in one of the environments. */
export function kernelLinear(long: boolean, physical: number): bigint {
  return (long ? KERNEL_LONG : KERNEL_LEGACY) + BigInt(physical - PHYSICAL.idtLong);
}

/** Top of the ring 0 stack, as an offset in its page. */
export const STACK_TOP = 0x800;

function writeTables(view: DataView, long: boolean): void {
  const gdt = long ? PHYSICAL.gdtLong : PHYSICAL.gdtLegacy;
  const linear = kernelLinear(long, gdt);
  writeDescriptor(view, gdt + 0x08, 0, 0xfffff, 0xc09b);
  writeDescriptor(view, gdt + 0x10, 0, 0xfffff, 0xa09b);
  writeDescriptor(view, gdt + 0x18, 0, 0xfffff, 0xc093);
  writeDescriptor(view, gdt + 0x20, 0, 0xfffff, 0xc0fb);
  writeDescriptor(view, gdt + 0x28, 0, 0xfffff, 0xc0f3);
  writeDescriptor(view, gdt + 0x30, 0, 0xfffff, 0xa0fb);
  // Linux keeps the number of the processor in a limit that LSL reads.
  writeDescriptor(view, gdt + 0x78, 0, 0, 0x00f5);
  const tss = linear + BigInt(TSS_OFFSET);
  const ldt = linear + BigInt(LDT_OFFSET);
  for (const [selector, address, limit, type] of [
    [SELECTOR_TSS, tss, 0x67, 0x8b],
    [SELECTOR_LDT, ldt, LDT.length * 8 - 1, 0x82],
  ] as const) {
    writeDescriptor(view, gdt + selector, Number(address & 0xffff_ffffn), limit, type);
    if (long) view.setUint32(gdt + selector + 8, Number(address >> 32n), true);
  }
  LDT.forEach((ldtEntry, index) =>
    writeDescriptor(
      view,
      gdt + LDT_OFFSET + index * 8,
      ldtEntry.base,
      ldtEntry.limit,
      ldtAttributes(ldtEntry),
    ),
  );
  const stack = kernelLinear(long, PHYSICAL.stack) + BigInt(STACK_TOP);
  if (long) view.setBigUint64(gdt + TSS_OFFSET + 4, stack, true);
  else {
    view.setUint32(gdt + TSS_OFFSET + 4, Number(stack), true);
    view.setUint16(gdt + TSS_OFFSET + 8, 0x18, true);
  }
  // No I/O permission map.
  view.setUint16(gdt + TSS_OFFSET + 0x66, 0x68, true);

  const idt = long ? PHYSICAL.idtLong : PHYSICAL.idtLegacy;
  for (let vector = 0; vector < 256; vector++) {
    const handler = kernelLinear(long, PHYSICAL.handlers) + BigInt(vector);
    const low = Number(handler & 0xffff_ffffn);
    // As on the host, processes may use the gates of INT3 and INTO alone (and of INT 80h, which is not tested).
    const dpl = vector === 3 || vector === 4 ? 3 : 0;
    const at = idt + vector * (long ? 16 : 8);
    view.setUint32(at, ((long ? KERNEL_CODE64 : KERNEL_CODE32) << 16) | (low & 0xffff), true);
    view.setUint32(at + 4, (low & 0xffff_0000) | 0x8e00 | (dpl << 13), true);
    if (long) view.setUint32(at + 8, Number(handler >> 32n), true);
  }
}

/** Fills guest RAM (from physical address 0) with everything but code and data. */
export function writeGuest(ram: Uint8Array): void {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  writePaging(view);
  writeTables(view, true);
  writeTables(view, false);
  // One HLT a vector: where it stopped says which.
  ram.fill(0xf4, PHYSICAL.handlers, PHYSICAL.handlers + 0x100);
}

/** Where TSS and LDT are. */
export function systemSegments(long: boolean): {
  tss: bigint;
  ldt: bigint;
  gdt: bigint;
  idt: bigint;
  idtLimit: number;
} {
  const gdt = kernelLinear(long, long ? PHYSICAL.gdtLong : PHYSICAL.gdtLegacy);
  return {
    gdt,
    tss: gdt + BigInt(TSS_OFFSET),
    ldt: gdt + BigInt(LDT_OFFSET),
    idt: kernelLinear(long, long ? PHYSICAL.idtLong : PHYSICAL.idtLegacy),
    idtLimit: long ? 256 * 16 - 1 : 256 * 8 - 1,
  };
}
