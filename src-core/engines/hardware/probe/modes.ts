import {
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  EFER_SCE,
} from '../../../x86/bits.ts';
import { MSR } from '../../../x86/layout.ts';
import type { Cpu } from '../../../x86/cpu.ts';

/** A vCPU and its memory from physical address 0 on. */
export interface GuestPlace {
  readonly cpu: Cpu;
  readonly view: DataView;
}

/** Where things stand in a small guest's memory. */
export const PLACE = {
  gdt: 0x1000,
  idt: 0x2000,
  tss: 0x3000,
  userStackTop: 0x6000,
  stackTop: 0x7000,
  code: 0x8000,
  /** Page tables, top level first, a page each. */
  tables: 0x10000,
  /** A frame that is mapped at `mapped` where there is paging. */
  frame: 0x200000,
  mapped: 0x800000,
  /** Mapped nowhere. */
  unmapped: 0xc00000,
} as const;

/** Selectors of the GDT, RPL 0. Their order is the one SYSCALL and SYSRET ask for. */
export const SELECTOR = {
  code32: 0x08,
  data: 0x10,
  code64: 0x18,
  /** SS after SYSCALL. */
  data64: 0x20,
  userCode32: 0x28,
  userData: 0x30,
  userCode64: 0x38,
  tss: 0x40,
} as const;

/** Access bytes and flags of descriptors (SDM volume 3, 3.4.5), as segment attributes. */
const ATTRIBUTES = {
  code32: 0xc09b,
  data: 0xc093,
  code64: 0xa09b,
  userCode32: 0xc0fb,
  userData: 0xc0f3,
  userCode64: 0xa0fb,
  tss: 0x8b,
} as const;
const TSS_LIMIT = 0x67;

const SEGMENT_CS = 1;
const SEGMENT_TR = 7;

const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;
const LARGE = 0x80;
const ALL = PRESENT | WRITABLE | USER;

const PAGE = 4096;
const TWO_MIB = 0x200000;

/** Gates in the IDT by vector: linear addresses of their handlers. */
export type Gates = Readonly<Record<number, number>>;

/** 16-bit code at PLACE.code, segments based at 0. */
export function realMode(vm: GuestPlace): void {
  const { cpu } = vm;
  cpu.reset();
  for (let i = 0; i < 6; i++) {
    cpu.setSegment(i, { selector: 0, attributes: i === SEGMENT_CS ? 0x9b : 0x93, limit: 0xffff, base: 0n });
  }
  cpu.setTable('idt', 0n, 0x3ff);
  cpu.setCr0(CR0_ET);
  start(vm);
}

function start({ cpu }: GuestPlace): void {
  cpu.setGpr(4, BigInt(PLACE.stackTop));
  cpu.rip = BigInt(PLACE.code);
  cpu.stateReplaced();
}

/** 32-bit code of ring 0 with flat segments, an IDT of 8-byte gates and a TSS. */
export function protectedMode(vm: GuestPlace, gates: Gates = {}): void {
  const { cpu, view } = vm;
  cpu.reset();
  writeGdt(vm);
  for (const [vector, handler] of Object.entries(gates)) {
    const at = PLACE.idt + Number(vector) * 8;
    view.setUint32(at, (SELECTOR.code32 << 16) | (handler & 0xffff), true);
    view.setUint32(at + 4, (handler & 0xffff0000) | 0xee00, true);
  }
  view.setUint32(PLACE.tss + 4, PLACE.stackTop, true);
  view.setUint32(PLACE.tss + 8, SELECTOR.data, true);
  loadSegments(vm, SELECTOR.code32, ATTRIBUTES.code32, 255 * 8 + 7);
  cpu.setCr0(CR0_PE | CR0_ET | CR0_NE | CR0_MP);
  start(vm);
}

/** The first 4 MiB one to one, all for ring 3 too, and PLACE.mapped. */
export function paging32(vm: GuestPlace, gates: Gates = {}): void {
  protectedMode(vm, gates);
  const { cpu, view } = vm;
  const [directory, identity, test] = tables();
  for (let i = 0; i < 1024; i++) view.setUint32(identity + i * 4, (i * PAGE) | ALL, true);
  view.setUint32(directory, identity | ALL, true);
  view.setUint32(directory + (PLACE.mapped >>> 22) * 4, test | ALL, true);
  view.setUint32(test, PLACE.frame | ALL, true);
  cpu.setCr3(BigInt(directory));
  cpu.setCr0(cpu.cr0 | CR0_PG | CR0_WP);
}

/** The same with PAE paging, in pages of 2 MiB where they do. */
export function pagingPae(vm: GuestPlace): void {
  protectedMode(vm);
  const { cpu, view } = vm;
  const [pointers, directory, test] = tables();
  view.setUint32(pointers, directory | PRESENT, true);
  writeDirectory(view, directory, test);
  cpu.setCr3(BigInt(pointers));
  cpu.setCr4(CR4_PAE);
  cpu.setCr0(cpu.cr0 | CR0_PG | CR0_WP);
}

function writeDirectory(view: DataView, directory: number, test: number): void {
  for (let i = 0; i < 2; i++) view.setUint32(directory + i * 8, (i * TWO_MIB) | ALL | LARGE, true);
  view.setUint32(directory + (PLACE.mapped / TWO_MIB) * 8, test | ALL, true);
  view.setUint32(test, PLACE.frame | ALL, true);
}

/** 64-bit code of ring 0, the same memory, SSE enabled, SYSCALL going to `syscallEntry`. */
export function longMode(vm: GuestPlace, gates: Gates = {}, syscallEntry = 0): void {
  const { cpu, view } = vm;
  cpu.reset();
  writeGdt(vm);
  for (const [vector, handler] of Object.entries(gates)) {
    const at = PLACE.idt + Number(vector) * 16;
    view.setUint32(at, (SELECTOR.code64 << 16) | (handler & 0xffff), true);
    view.setUint32(at + 4, (handler & 0xffff0000) | 0xee00, true);
  }
  view.setUint32(PLACE.tss + 4, PLACE.stackTop, true);
  const [top, pointers, directory, test] = tables();
  view.setUint32(top, pointers | ALL, true);
  view.setUint32(pointers, directory | ALL, true);
  writeDirectory(view, directory, test);
  loadSegments(vm, SELECTOR.code64, ATTRIBUTES.code64, 255 * 16 + 15);
  cpu.setCr3(BigInt(top));
  cpu.setCr4(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT);
  cpu.efer = EFER_LME | EFER_LMA | EFER_SCE;
  cpu.setCr0((CR0_PE | CR0_ET | CR0_NE | CR0_MP | CR0_PG | CR0_WP) >>> 0);
  cpu.set64(MSR.star, (BigInt(SELECTOR.userCode32 | 3) << 48n) | (BigInt(SELECTOR.code64) << 32n));
  cpu.set64(MSR.lstar, BigInt(syscallEntry));
  start(vm);
}

function tables(): [number, number, number, number] {
  const at = (index: number): number => PLACE.tables + index * PAGE;
  return [at(0), at(1), at(2), at(3)];
}

function writeGdt({ view }: GuestPlace): void {
  for (const [name, attributes] of Object.entries(ATTRIBUTES)) {
    if (name === 'tss') continue;
    const at = PLACE.gdt + SELECTOR[name as keyof typeof SELECTOR];
    view.setUint32(at, 0xffff, true);
    view.setUint32(at + 4, (attributes << 8) | 0xf0000, true);
  }
  view.setUint32(PLACE.gdt + SELECTOR.data64, 0xffff, true);
  view.setUint32(PLACE.gdt + SELECTOR.data64 + 4, (ATTRIBUTES.data << 8) | 0xf0000, true);
  view.setUint32(PLACE.gdt + SELECTOR.tss, ((PLACE.tss & 0xffff) << 16) | TSS_LIMIT, true);
  view.setUint32(PLACE.gdt + SELECTOR.tss + 4, ATTRIBUTES.tss << 8, true);
}

function loadSegments({ cpu }: GuestPlace, code: number, attributes: number, idtLimit: number): void {
  for (let i = 0; i < 6; i++) {
    cpu.setSegment(i, {
      selector: i === SEGMENT_CS ? code : SELECTOR.data,
      attributes: i === SEGMENT_CS ? attributes : ATTRIBUTES.data,
      limit: 0xffffffff,
      base: 0n,
    });
  }
  cpu.setSegment(SEGMENT_TR, {
    selector: SELECTOR.tss,
    attributes: ATTRIBUTES.tss,
    limit: TSS_LIMIT,
    base: BigInt(PLACE.tss),
  });
  cpu.setTable('gdt', BigInt(PLACE.gdt), SELECTOR.tss + 15);
  cpu.setTable('idt', BigInt(PLACE.idt), idtLimit);
}
