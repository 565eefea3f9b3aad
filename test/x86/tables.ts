import { expect } from 'vitest';
import { CR0_PE, EFER_LMA, EFER_LME, FLAGS_FIXED } from '../../src-core/x86/bits.ts';
import type { Cpu } from '../../src-core/x86/cpu.ts';
import { CR0, EFER, GPR, STATE_END } from '../../src-core/x86/layout.ts';
import { SEGMENT, loadSegmentRegister, loadTr } from '../../src-core/x86/segmentation.ts';
import { makeVcpu, faultOf } from './vcpu.ts';

/** Where the tables stand in the tests' memory (no paging: linear = physical). */
export const AT = {
  gdt: 0x1000,
  ldt: 0x1800,
  idt: 0x2000,
  tss: 0x4000,
  stack0: 0x10000,
  stack1: 0x14000,
  ist1: 0x18000,
  stack3: 0x20000,
} as const;

/** Selectors of the tests' GDT, RPL 0. */
export const SEL = {
  code0: 0x08,
  data0: 0x10,
  code3: 0x18,
  data3: 0x20,
  tss: 0x28,
  ldt: 0x38,
  conforming0: 0x48,
  absentData: 0x50,
  readOnly: 0x58,
  code64: 0x60,
  code64User: 0x68,
  code1: 0x70,
  data1: 0x78,
  executeOnly: 0x80,
  code16: 0x88,
  data16: 0x90,
  absentCode: 0x98,
  tss16: 0xa0,
  small: 0xa8,
  smallCode: 0xb0,
  expandDown: 0xb8,
  data3ReadOnly: 0xc0,
  absentTss: 0xc8,
  codeBoth: 0xd0,
  /** Two free slots for a gate. */
  gate: 0xd8,
  gate2: 0xe0,
} as const;
export const GDT_LIMIT = 0xef;

/** Bytes 0..7 of a descriptor as a number pair. */
export function descriptor(base: number, limit: number, access: number, flags: number): [number, number] {
  return [
    ((limit & 0xffff) | (base << 16)) >>> 0,
    (((base >>> 16) & 0xff) | (access << 8) | (limit & 0xf0000) | (flags << 20) | (base & 0xff000000)) >>> 0,
  ];
}

/** Bytes 0..7 of a gate. `type` is 5, 6, 7, 12, 14 or 15 (4 for a 16-bit call gate). */
export function gate(selector: number, offset: number, type: number, dpl = 0, count = 0): [number, number] {
  return [
    ((offset & 0xffff) | (selector << 16)) >>> 0,
    ((offset & 0xffff0000) | 0x8000 | (dpl << 13) | (type << 8) | count) >>> 0,
  ];
}

/** A vCPU with a GDT, IDT, LDT and TSS in memory, in protected mode at CPL 0, or as the methods put it. */
export class World {
  readonly vcpu = makeVcpu();
  readonly cpu: Cpu = this.vcpu.cpu;
  readonly ram: DataView;

  constructor() {
    const { ram } = this.cpu.arena;
    this.ram = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
    const flat = 0xfffff;
    this.setDescriptor(SEL.code0, descriptor(0, flat, 0x9b, 0xc));
    this.setDescriptor(SEL.data0, descriptor(0, flat, 0x93, 0xc));
    this.setDescriptor(SEL.code3, descriptor(0, flat, 0xfb, 0xc));
    this.setDescriptor(SEL.data3, descriptor(0, flat, 0xf3, 0xc));
    this.setDescriptor(SEL.tss, descriptor(AT.tss, 0x67, 0x89, 0));
    this.setDescriptor(SEL.ldt, descriptor(AT.ldt, 0x1f, 0x82, 0));
    this.setDescriptor(SEL.conforming0, descriptor(0, flat, 0x9f, 0xc));
    this.setDescriptor(SEL.absentData, descriptor(0, flat, 0x13, 0xc));
    this.setDescriptor(SEL.readOnly, descriptor(0, flat, 0x91, 0xc));
    this.setDescriptor(SEL.code64, descriptor(0, flat, 0x9b, 0xa));
    this.setDescriptor(SEL.code64User, descriptor(0, flat, 0xfb, 0xa));
    this.setDescriptor(SEL.code1, descriptor(0, flat, 0xbb, 0xc));
    this.setDescriptor(SEL.data1, descriptor(0, flat, 0xb3, 0xc));
    this.setDescriptor(SEL.executeOnly, descriptor(0, flat, 0xf9, 0xc));
    this.setDescriptor(SEL.code16, descriptor(0, 0xffff, 0x9b, 0));
    this.setDescriptor(SEL.data16, descriptor(0, 0xffff, 0x93, 0));
    this.setDescriptor(SEL.absentCode, descriptor(0, flat, 0x1b, 0xc));
    this.setDescriptor(SEL.tss16, descriptor(AT.tss, 0x2b, 0x81, 0));
    this.setDescriptor(SEL.small, descriptor(0, 0xfff, 0x92, 4));
    this.setDescriptor(SEL.smallCode, descriptor(0, 0xff, 0x9a, 4));
    this.setDescriptor(SEL.expandDown, descriptor(0, 0xfff, 0x96, 4));
    this.setDescriptor(SEL.data3ReadOnly, descriptor(0, flat, 0xf1, 0xc));
    this.setDescriptor(SEL.absentTss, descriptor(AT.tss, 0x67, 0x09, 0));
    this.setDescriptor(SEL.codeBoth, descriptor(0, flat, 0x9b, 0xe));
    this.cpu.setTable('gdt', BigInt(AT.gdt), GDT_LIMIT);
    this.cpu.setTable('idt', BigInt(AT.idt), 0x7ff);
    // TSS: levels 0 and 1.
    this.write32(AT.tss + 4, AT.stack0, SEL.data0, AT.stack1, SEL.data1 | 1);
    // No I/O permission bitmap.
    this.ram.setUint16(AT.tss + 0x66, 0x68, true);
    this.cpu.set64(CR0, BigInt(CR0_PE | 0x10));
    this.enter(0);
    loadTr(this.cpu, SEL.tss);
  }

  setDescriptor(selector: number, [low, high]: [number, number], upper = 0): void {
    this.write32(AT.gdt + (selector & 0xfff8), low, high);
    if (upper !== 0) this.write32(AT.gdt + (selector & 0xfff8) + 8, upper, 0);
  }
  setGate(vector: number, [low, high]: [number, number]): void {
    this.write32(AT.idt + vector * 8, low, high);
  }
  /** A 16-byte gate, with an entry of the interrupt stack table or 0. */
  setLongGate(vector: number, [low, high]: [number, number], { ist = 0, upper = 0 } = {}): void {
    this.write32(AT.idt + vector * 16, low, high | ist, upper, 0);
  }
  write32(address: number, ...words: number[]): void {
    words.forEach((word, i) => this.ram.setUint32(address + i * 4, word, true));
  }
  read32(address: number, count: number): number[] {
    return Array.from({ length: count }, (_, i) => this.ram.getUint32(address + i * 4, true));
  }
  read16(address: number, count: number): number[] {
    return Array.from({ length: count }, (_, i) => this.ram.getUint16(address + i * 2, true));
  }
  read64(address: number, count: number): bigint[] {
    return Array.from({ length: count }, (_, i) => this.ram.getBigUint64(address + i * 8, true));
  }

  /** 32-bit protected mode at level 0 or 3 with flat segments. */
  enter(level: 0 | 3): void {
    const { cpu } = this;
    const code = { selector: 0, attributes: 0xc09b | (level << 5), limit: 0xffffffff, base: 0n };
    const data = { ...code, attributes: 0xc093 | (level << 5) };
    cpu.rflags = FLAGS_FIXED;
    cpu.setCpl(level);
    cpu.setSegment(SEGMENT.cs, { ...code, selector: level === 0 ? SEL.code0 : SEL.code3 | 3 });
    for (const index of [SEGMENT.ss, SEGMENT.ds, SEGMENT.es, SEGMENT.fs, SEGMENT.gs]) {
      cpu.setSegment(index, { ...data, selector: level === 0 ? SEL.data0 : SEL.data3 | 3 });
    }
    cpu.setGpr(4, BigInt(level === 0 ? AT.stack0 - 0x100 : AT.stack3));
    cpu.rip = 0x8000n;
    cpu.updateMode();
  }

  /** 64-bit mode at level 0 or 3 (without paging, which no processor can, but these tests need none). */
  enterLong(level: 0 | 3): void {
    const { cpu } = this;
    cpu.efer = EFER_LMA | EFER_LME | 1;
    this.enter(level);
    cpu.setSegment(SEGMENT.cs, {
      selector: level === 0 ? SEL.code64 : SEL.code64User | 3,
      attributes: 0xa09b | (level << 5),
      limit: 0xffffffff,
      base: 0n,
    });
    cpu.updateMode();
    // 64-bit TSS: RSP0, RSP1, then the interrupt stack table.
    this.write32(AT.tss + 4, AT.stack0, 0, AT.stack1, 0);
    this.write32(AT.tss + 0x24, AT.ist1, 0);
    cpu.setTable('idt', BigInt(AT.idt), 0xfff);
  }

  /** Virtual-8086 mode. */
  enterV86(iopl = 3): void {
    const { cpu } = this;
    this.enter(0);
    cpu.rflags = FLAGS_FIXED | (1 << 17) | (iopl << 12);
    cpu.setCpl(3);
    for (let index = 0; index < 6; index++) loadSegmentRegister(cpu, index, 0x1000 + index * 0x100, false);
    cpu.setSegment(SEGMENT.cs, { selector: 0x2000, attributes: 0xf3, limit: 0xffff, base: 0x20000n });
    cpu.setGpr(4, 0x800n);
    cpu.rip = 0x100n;
    cpu.updateMode();
  }

  enterReal(): void {
    const { cpu } = this;
    cpu.set64(CR0, 0x10n);
    cpu.set64(EFER, 0n);
    cpu.setCpl(0);
    cpu.rflags = FLAGS_FIXED;
    for (let index = 0; index < 6; index++) {
      cpu.setSegment(index, { selector: 0x1000, attributes: 0x93, limit: 0xffff, base: 0x10000n });
    }
    cpu.setTable('idt', 0n, 0x3ff);
    cpu.setGpr(4, 0x800n);
    cpu.rip = 0x100n;
    cpu.updateMode();
  }

  /** CS and SS selectors, CPL, RIP and RSP. */
  where(): { cs: number; ss: number; cpl: number; rip: number; rsp: number } {
    const { cpu } = this;
    return {
      cs: cpu.segment(SEGMENT.cs).selector,
      ss: cpu.segment(SEGMENT.ss).selector,
      cpl: cpu.cpl,
      rip: Number(cpu.rip),
      rsp: Number(cpu.gpr(4)),
    };
  }

  /** Expects a fault of `body` that leaves every register as it was. */
  expectFault(vector: number, errorCode: number, body: () => unknown): void {
    const before = this.cpu.u8.slice(GPR, STATE_END);
    expect(faultOf(body)).toEqual([vector, errorCode]);
    expect(this.cpu.u8.slice(GPR, STATE_END)).toEqual(before);
  }
}
