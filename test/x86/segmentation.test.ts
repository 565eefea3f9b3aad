import { beforeEach, describe, expect, it } from 'vitest';
import { ATTR_UNUSABLE } from '../../src-core/x86/bits.ts';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { checkIoPermission } from '../../src-core/x86/io-permission.ts';
import { CTL, GDTR } from '../../src-core/x86/layout.ts';
import {
  accessRights,
  adjustRpl,
  loadLdtr,
  loadSegmentRegister,
  loadTable,
  loadTr,
  segmentLimit,
  SEGMENT,
  storeSystemSelector,
  storeTable,
  verifySegment,
} from '../../src-core/x86/segmentation.ts';
import {
  clearInterruptFlag,
  flagsToPush,
  popFlags,
  setInterruptFlag,
} from '../../src-core/x86/system-flags.ts';
import { AT, descriptor, SEL, World } from './tables.ts';
import { faultOf } from './vcpu.ts';

let world: World;
beforeEach(() => {
  world = new World();
});
const load = (index: number, selector: number): void => loadSegmentRegister(world.cpu, index, selector, true);

describe('loading data segment registers', () => {
  it('takes base, limit and attributes from the descriptor and marks it accessed', () => {
    world.setDescriptor(SEL.small, descriptor(0x12345678, 0xabcde, 0x92, 0xc));
    load(SEGMENT.ds, SEL.small);
    expect(world.cpu.segment(SEGMENT.ds)).toEqual({
      selector: SEL.small,
      attributes: 0xc093,
      limit: 0xabcdefff,
      base: 0x12345678n,
    });
    expect(world.ram.getUint8(AT.gdt + SEL.small + 5)).toBe(0x93);
  });

  it.each([
    ['beyond the limit', 0xf0, VECTOR.GP, 0xf0],
    ['a system descriptor', SEL.tss, VECTOR.GP, SEL.tss],
    ['execute-only code', SEL.executeOnly, VECTOR.GP, SEL.executeOnly],
    ['RPL above the DPL', SEL.data0 | 3, VECTOR.GP, SEL.data0],
    ['not present', SEL.absentData, VECTOR.NP, SEL.absentData],
    ['LDT without one', SEL.data0 | 4, VECTOR.GP, SEL.data0 | 4],
  ])('refuses %s', (_name, selector, vector, code) => {
    loadLdtr(world.cpu, 0);
    world.expectFault(vector, code, () => load(SEGMENT.es, selector));
  });

  it('refuses data of an inner level, but not conforming code', () => {
    world.enter(3);
    world.expectFault(VECTOR.GP, SEL.data0, () => load(SEGMENT.ds, SEL.data0));
    load(SEGMENT.ds, SEL.conforming0 | 3);
    expect(world.cpu.segment(SEGMENT.ds).selector).toBe(SEL.conforming0 | 3);
  });

  it('makes a register unusable with a null selector of any RPL', () => {
    load(SEGMENT.gs, 3);
    expect(world.cpu.segment(SEGMENT.gs)).toEqual({
      selector: 3,
      attributes: ATTR_UNUSABLE,
      limit: 0,
      base: 0n,
    });
  });

  it('reads the LDT', () => {
    world.write32(AT.ldt + 8, ...descriptor(0x5000, 0xff, 0x92, 4));
    loadLdtr(world.cpu, SEL.ldt);
    load(SEGMENT.ds, 0xc);
    expect(world.cpu.segment(SEGMENT.ds)).toMatchObject({ selector: 0xc, base: 0x5000n, limit: 0xff });
    world.expectFault(VECTOR.GP, 0x24, () => load(SEGMENT.ds, 0x24));
  });
});

describe('loading SS', () => {
  it.each([
    ['null', 0, VECTOR.GP, 0],
    ['RPL not CPL', SEL.data0 | 1, VECTOR.GP, SEL.data0],
    ['DPL not CPL', SEL.data3, VECTOR.GP, SEL.data3],
    ['read-only', SEL.readOnly, VECTOR.GP, SEL.readOnly],
    ['code', SEL.code0, VECTOR.GP, SEL.code0],
    ['not present', SEL.absentData, VECTOR.SS, SEL.absentData],
  ])('refuses %s', (_name, selector, vector, code) => {
    world.expectFault(vector, code, () => load(SEGMENT.ss, selector));
  });

  it('holds off interrupts and debug exceptions', () => {
    load(SEGMENT.ss, SEL.data0);
    expect(world.cpu.get32(CTL.interruptShadow)).toBe(3);
  });

  it('takes a null selector of its own level in 64-bit mode below level 3', () => {
    world.enterLong(0);
    load(SEGMENT.ss, 0);
    expect(world.cpu.segment(SEGMENT.ss).attributes & ATTR_UNUSABLE).not.toBe(0);
    world.expectFault(VECTOR.GP, 0, () => load(SEGMENT.ss, 1));
    world.enterLong(3);
    world.expectFault(VECTOR.GP, 0, () => load(SEGMENT.ss, 3));
  });
});

describe('real-address and virtual-8086 mode', () => {
  it('keeps the limit in real mode', () => {
    world.enterReal();
    world.cpu.setSegment(SEGMENT.ds, { selector: 8, attributes: 0xc093, limit: 0xffffffff, base: 0n });
    load(SEGMENT.ds, 0xb800);
    expect(world.cpu.segment(SEGMENT.ds)).toMatchObject({ base: 0xb8000n, limit: 0xffffffff });
  });

  it('loads a whole segment in virtual-8086 mode', () => {
    world.enterV86();
    load(SEGMENT.fs, 0x1234);
    expect(world.cpu.segment(SEGMENT.fs)).toEqual({
      selector: 0x1234,
      attributes: 0xf3,
      limit: 0xffff,
      base: 0x12340n,
    });
  });
});

describe('LLDT and LTR', () => {
  it.each([
    ['another type', SEL.data0, VECTOR.GP, SEL.data0],
    ['a selector of the LDT', SEL.ldt | 4, VECTOR.GP, SEL.ldt | 4],
    ['beyond the limit', 0x100, VECTOR.GP, 0x100],
  ])('refuse %s', (_name, selector, vector, code) => {
    world.expectFault(vector, code, () => loadLdtr(world.cpu, selector));
    world.expectFault(vector, code, () => loadTr(world.cpu, selector));
  });

  it('LTR marks the TSS busy, and refuses a busy one, null and one not present', () => {
    expect(world.ram.getUint8(AT.gdt + SEL.tss + 5)).toBe(0x8b);
    expect(world.cpu.segment(SEGMENT.tr).attributes).toBe(0x8b);
    world.expectFault(VECTOR.GP, SEL.tss, () => loadTr(world.cpu, SEL.tss));
    world.expectFault(VECTOR.GP, 0, () => loadTr(world.cpu, 0));
    world.expectFault(VECTOR.NP, SEL.absentTss, () => loadTr(world.cpu, SEL.absentTss));
  });

  it('read 16 bytes in long mode', () => {
    world.enterLong(0);
    world.setDescriptor(SEL.gate, descriptor(0x81000000, 0x67, 0x89, 0), 0xffffffff);
    loadTr(world.cpu, SEL.gate);
    expect(world.cpu.segment(SEGMENT.tr).base).toBe(0xffffffff81000000n);
    world.setDescriptor(SEL.gate, descriptor(0, 0x67, 0x89, 0), 0x8000);
    world.expectFault(VECTOR.GP, SEL.gate, () => loadTr(world.cpu, SEL.gate));
    world.expectFault(VECTOR.GP, 0xe8, () => loadLdtr(world.cpu, 0xe8));
    world.expectFault(VECTOR.GP, SEL.tss16, () => loadTr(world.cpu, SEL.tss16));
  });

  it('are for level 0, in protected mode', () => {
    world.enter(3);
    world.expectFault(VECTOR.GP, 0, () => loadLdtr(world.cpu, SEL.ldt));
    world.enterV86();
    world.expectFault(VECTOR.UD, 0, () => loadLdtr(world.cpu, SEL.ldt));
    world.expectFault(VECTOR.UD, 0, () => storeSystemSelector(world.cpu, SEGMENT.tr));
  });
});

describe('LGDT and SGDT', () => {
  it('take 24 bits of base with a 16-bit operand size', () => {
    world.write32(0x6000, 0x5678_0123, 0x9abc_1234);
    loadTable(world.cpu, 'gdt', 0x6000, 16);
    expect([world.cpu.get32(GDTR + 8), world.cpu.get64(GDTR)]).toEqual([0x123, 0x345678n]);
    loadTable(world.cpu, 'gdt', 0x6000, 32);
    expect(world.cpu.get64(GDTR)).toBe(0x12345678n);
    storeTable(world.cpu, 'gdt', 0x7000);
    expect(world.read16(0x7000, 4)).toEqual([0x123, 0x5678, 0x1234, 0]);
  });

  it('take 64 bits in 64-bit mode, canonical ones', () => {
    world.enterLong(0);
    world.write32(0x6000, 0x1000_00ff, 0x0000_8100, 0xffff_ffff);
    world.ram.setUint32(0x6006, 0xffffffff, true);
    loadTable(world.cpu, 'idt', 0x6000, 64);
    storeTable(world.cpu, 'idt', 0x7000);
    expect(world.read32(0x7000, 2)).toEqual([0x1000_00ff, 0xffff_8100]);
    world.ram.setUint32(0x6006, 0x8000, true);
    world.expectFault(VECTOR.GP, 0, () => loadTable(world.cpu, 'gdt', 0x6000, 64));
  });
});

describe('LAR, LSL, VERR, VERW, ARPL', () => {
  it('tell what the level may know', () => {
    const { cpu } = world;
    expect(accessRights(cpu, SEL.data0)).toBe(0x00c09300);
    expect(segmentLimit(cpu, SEL.data0)).toBe(0xffffffff);
    expect(segmentLimit(cpu, SEL.tss)).toBe(0x67);
    expect(accessRights(cpu, 0)).toBeUndefined();
    expect(accessRights(cpu, 0x100)).toBeUndefined();
    expect(accessRights(cpu, SEL.data0 | 3)).toBeUndefined();
    world.setDescriptor(SEL.gate, [SEL.code0 << 16, 0xec00]);
    expect(accessRights(cpu, SEL.gate)).toBe(0xec00);
    expect(segmentLimit(cpu, SEL.gate)).toBeUndefined();
    expect(verifySegment(cpu, SEL.readOnly, false)).toBe(true);
    expect(verifySegment(cpu, SEL.readOnly, true)).toBe(false);
    expect(verifySegment(cpu, SEL.executeOnly, false)).toBe(false);
    expect(verifySegment(cpu, SEL.code0, true)).toBe(false);
    expect(verifySegment(cpu, SEL.tss, false)).toBe(false);
    expect(adjustRpl(cpu, SEL.data0, 3)).toBe(SEL.data0 | 3);
    expect(adjustRpl(cpu, SEL.data0 | 3, 1)).toBeUndefined();
    world.enter(3);
    expect(accessRights(cpu, SEL.data0)).toBeUndefined();
    expect(accessRights(cpu, SEL.conforming0)).toBe(0x00c09f00);
    expect(verifySegment(cpu, SEL.data3, true)).toBe(true);
  });

  it('do not know 16-bit system descriptors in long mode', () => {
    expect(segmentLimit(world.cpu, SEL.tss16)).toBe(0x2b);
    world.enterLong(0);
    expect(segmentLimit(world.cpu, SEL.tss16)).toBeUndefined();
    expect(accessRights(world.cpu, SEL.tss)).toBe(0x8b00);
  });
});

describe('I/O permission', () => {
  const allowed = (port: number, size: number): boolean =>
    faultOf(() => checkIoPermission(world.cpu, port, size)) === undefined;

  it('follows IOPL and the bitmap', () => {
    expect(allowed(0x60, 1)).toBe(true);
    world.enter(3);
    expect(allowed(0x60, 1)).toBe(false);
    world.cpu.rflags = 0x3002;
    expect(allowed(0x60, 1)).toBe(true);
    world.cpu.rflags = 2;
    world.cpu.setSegment(SEGMENT.tr, {
      selector: SEL.tss,
      attributes: 0x8b,
      limit: 0x77,
      base: BigInt(AT.tss),
    });
    world.ram.setUint16(AT.tss + 0x66, 0x68, true);
    // Ports 0..0x77 have a bit, the last byte is only there to be read.
    world.ram.setUint8(AT.tss + 0x68 + 0x0c, 0b0000_0001);
    world.ram.setUint8(AT.tss + 0x68 + 0x0e, 0b1000_0000);
    expect(allowed(0x60, 1)).toBe(false);
    expect(allowed(0x61, 4)).toBe(true);
    expect(allowed(0x76, 1)).toBe(true);
    expect(allowed(0x76, 2)).toBe(false);
    expect(allowed(0x5f, 2)).toBe(false);
    expect(allowed(0x78, 1)).toBe(false);
    world.cpu.rflags = 0x23002;
    world.cpu.updateMode();
    expect(allowed(0x60, 1)).toBe(false);
    expect(allowed(0x61, 1)).toBe(true);
  });
});

describe('system flags', () => {
  it('POPF loads what CPL and IOPL allow', () => {
    const { cpu } = world;
    popFlags(cpu, 0xffffffff, 32);
    // All but RF, VM, VIF, VIP and reserved bits.
    expect(cpu.rflags).toBe(0x247fd7);
    popFlags(cpu, 0, 16);
    expect(cpu.rflags).toBe(0x240002);
    world.enter(3);
    popFlags(cpu, 0xffffffff, 32);
    expect(cpu.rflags).toBe(0x244dd7);
    world.enter(3);
    cpu.rflags = 0x3002;
    popFlags(cpu, 0x200, 32);
    expect(cpu.rflags).toBe(0x3202);
  });

  it('belong to the monitor in virtual-8086 mode below IOPL 3', () => {
    world.enterV86(0);
    for (const body of [flagsToPush, clearInterruptFlag, setInterruptFlag]) {
      world.expectFault(VECTOR.GP, 0, () => body(world.cpu));
    }
    world.expectFault(VECTOR.GP, 0, () => popFlags(world.cpu, 0, 16));
    world.enterV86(3);
    expect(flagsToPush(world.cpu)).toBe(0x3002);
    setInterruptFlag(world.cpu);
    expect(world.cpu.rflags).toBe(0x23202);
  });

  it('STI holds off interrupts only when they were off', () => {
    const { cpu } = world;
    setInterruptFlag(cpu);
    expect(cpu.get32(CTL.interruptShadow)).toBe(1);
    cpu.set32(CTL.interruptShadow, 0);
    setInterruptFlag(cpu);
    expect(cpu.get32(CTL.interruptShadow)).toBe(0);
    world.enter(3);
    world.expectFault(VECTOR.GP, 0, () => clearInterruptFlag(cpu));
  });
});
