import { beforeEach, describe, expect, it } from 'vitest';
import { ATTR_UNUSABLE, CR0_PE, CR0_PG } from '../../src-core/x86/bits.ts';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { deliverException, deliverInterrupt, type EventType } from '../../src-core/x86/interrupts.ts';
import { interruptReturn } from '../../src-core/x86/iret.ts';
import { CR2, CTL, DR7 } from '../../src-core/x86/layout.ts';
import { SEGMENT } from '../../src-core/x86/segmentation.ts';
import { VmmUnsupported } from '../../src-core/x86/task.ts';
import { AT, descriptor, gate, SEL, World } from './tables.ts';

let world: World;
beforeEach(() => {
  world = new World();
});
const deliver = (vector: number, type: EventType, returnRip?: number): unknown =>
  deliverInterrupt(world.cpu, vector, { type, returnRip });

describe('real-address mode', () => {
  beforeEach(() => {
    world.enterReal();
    world.write32(0x21 * 4, 0xf000_1234);
  });

  it('pushes FLAGS, CS and IP and goes to the vector', () => {
    world.cpu.rflags = 0x40346;
    deliver(0x21, 'software', 0x102);
    expect(world.read16(0x10000 + 0x7fa, 3)).toEqual([0x102, 0x1000, 0x346]);
    expect(world.where()).toMatchObject({ cs: 0xf000, rip: 0x1234, rsp: 0x7fa });
    // TF, IF and AC off.
    expect(world.cpu.rflags).toBe(0x46);
    expect(world.cpu.segment(SEGMENT.cs).base).toBe(0xf0000n);
    interruptReturn(world.cpu, 16);
    expect(world.where()).toMatchObject({ cs: 0x1000, rip: 0x102, rsp: 0x800 });
    expect(world.cpu.rflags).toBe(0x346);
  });

  it('wraps SP and refuses a stack segment that ends in the middle', () => {
    world.cpu.setGpr(4, 2n);
    deliver(0x21, 'external');
    expect(world.cpu.gpr(4)).toBe(0xfffcn);
    world.enterReal();
    world.cpu.setGpr(4, 3n);
    world.expectFault(VECTOR.SS, 0, () => deliver(0x21, 'software'));
  });

  it('faults beyond the table, and shuts down when there is no double fault vector', () => {
    world.cpu.setTable('idt', 0n, 0x83);
    world.expectFault(VECTOR.GP, 0x21 * 8 + 2, () => deliver(0x21, 'software'));
    world.cpu.setTable('idt', 0n, 3);
    expect(deliver(0x21, 'external')).toBe('shutdown');
  });

  it('pushes no error code, and RF not at all', () => {
    world.write32(13 * 4, 0x2000_0010);
    expect(deliverException(world.cpu, VECTOR.GP, 0x18)).toBe('delivered');
    expect(world.read16(0x10000 + 0x7fa, 3)).toEqual([0x100, 0x1000, 2]);
  });

  it('IRETD keeps VIF and VIP and loads RF, AC and ID', () => {
    world.cpu.setGpr(4, 0x700n);
    world.write32(0x10700, 0x300, 0x3000, 0xffffffff);
    interruptReturn(world.cpu, 32);
    expect(world.cpu.rflags).toBe(0x247fd7);
    world.cpu.setGpr(4, 0x700n);
    world.write32(0x10700, 0x12345, 0x3000, 2);
    world.expectFault(VECTOR.GP, 0, () => interruptReturn(world.cpu, 32));
  });
});

describe('protected mode', () => {
  it('delivers on the same stack at the same level, through interrupt and trap gates', () => {
    world.setGate(0x30, gate(SEL.code0, 0x12345678, 14));
    world.setGate(0x31, gate(SEL.code0, 0x12345678, 15));
    world.cpu.rflags = 0x14747;
    const top = AT.stack0 - 0x100;
    expect(deliver(0x30, 'external')).toBe('delivered');
    expect(world.where()).toEqual({ cs: SEL.code0, ss: SEL.data0, cpl: 0, rip: 0x12345678, rsp: top - 12 });
    expect(world.read32(top - 12, 3)).toEqual([0x8000, SEL.code0, 0x14747]);
    // NT, RF, TF and IF off.
    expect(world.cpu.rflags).toBe(0x447);
    world.cpu.rflags = 0x4747;
    deliver(0x31, 'external');
    expect(world.cpu.rflags).toBe(0x647);
  });

  it('switches to the stack of the TSS and back', () => {
    world.setGate(0x80, gate(SEL.code0, 0x9000, 15, 3));
    world.enter(3);
    world.cpu.rflags = 0x246;
    deliver(0x80, 'software', 0x8002);
    expect(world.where()).toEqual({ cs: SEL.code0, ss: SEL.data0, cpl: 0, rip: 0x9000, rsp: AT.stack0 - 20 });
    expect(world.read32(AT.stack0 - 20, 5)).toEqual([0x8002, SEL.code3 | 3, 0x246, AT.stack3, SEL.data3 | 3]);
    world.cpu.setSegment(SEGMENT.ds, {
      selector: SEL.data0,
      attributes: 0xc093,
      limit: 0xffffffff,
      base: 0n,
    });
    interruptReturn(world.cpu, 32);
    expect(world.where()).toEqual({
      cs: SEL.code3 | 3,
      ss: SEL.data3 | 3,
      cpl: 3,
      rip: 0x8002,
      rsp: AT.stack3,
    });
    expect(world.cpu.rflags).toBe(0x246);
    // Level 0's data segment is gone, level 3's stays.
    expect(world.cpu.segment(SEGMENT.ds)).toMatchObject({ selector: 0, attributes: ATTR_UNUSABLE });
    expect(world.cpu.segment(SEGMENT.es).selector).toBe(SEL.data3 | 3);
  });

  it('pushes error codes, and RF for faults', () => {
    world.setGate(14, gate(SEL.code0, 0x9000, 14));
    world.enter(3);
    expect(deliverException(world.cpu, VECTOR.PF, 7)).toBe('delivered');
    expect(world.read32(AT.stack0 - 24, 3)).toEqual([7, 0x8000, SEL.code3 | 3]);
    expect(world.read32(AT.stack0 - 12, 1)).toEqual([0x10002]);
    expect(world.vcpu.accounting.snapshot().reasons['truePageFault']?.count).toBe(1);
  });

  it('pushes 16-bit frames through 16-bit gates', () => {
    world.setGate(0x80, gate(SEL.code0, 0x5678, 6, 3));
    world.enter(3);
    deliver(0x80, 'software', 0x12348002);
    expect(world.read16(AT.stack0 - 10, 5)).toEqual([
      0x8002,
      SEL.code3 | 3,
      2,
      AT.stack3 & 0xffff,
      SEL.data3 | 3,
    ]);
    expect(world.where()).toMatchObject({ rip: 0x5678, rsp: AT.stack0 - 10 });
  });

  it('enters conforming handlers at the level it is at', () => {
    world.setGate(0x40, gate(SEL.conforming0, 0x9000, 14));
    world.enter(3);
    deliver(0x40, 'external');
    expect(world.where()).toMatchObject({ cs: SEL.conforming0 | 3, cpl: 3, rsp: AT.stack3 - 12 });
  });

  const bad = (selector: number, type = 14, dpl = 3): [number, number] => gate(selector, 0x9000, type, dpl);
  it.each([
    ['a gate of another type', bad(SEL.code0, 12), VECTOR.GP, 0x40 * 8 + 2],
    ['a gate whose DPL is too low', bad(SEL.code0, 14, 0), VECTOR.GP, 0x40 * 8 + 2],
    ['an absent gate', [bad(SEL.code0)[0], bad(SEL.code0)[1] & ~0x8000], VECTOR.NP, 0x40 * 8 + 2],
    ['a null code segment', bad(3), VECTOR.GP, 0],
    ['a code segment beyond the limit', bad(0x200), VECTOR.GP, 0x200],
    ['a data segment', bad(SEL.data0), VECTOR.GP, SEL.data0],
    ['an absent code segment', bad(SEL.absentCode), VECTOR.NP, SEL.absentCode],
    ['an offset beyond the limit', bad(SEL.smallCode), VECTOR.GP, 0],
  ] as [string, [number, number], number, number][])('refuses %s', (_name, words, vector, code) => {
    world.setGate(0x40, words);
    world.enter(3);
    world.expectFault(vector, code, () => deliver(0x40, 'software'));
  });

  it('refuses code of an outer level, and vectors beyond the limit', () => {
    world.setGate(0x40, gate(SEL.code3, 0x9000, 14));
    world.expectFault(VECTOR.GP, SEL.code3, () => deliver(0x40, 'software'));
    world.cpu.setTable('idt', BigInt(AT.idt), 0x40 * 8 + 6);
    world.expectFault(VECTOR.GP, 0x40 * 8 + 2, () => deliver(0x40, 'software'));
  });

  it.each([
    ['null', 0, VECTOR.TS, 0],
    ['of another level', SEL.data3, VECTOR.TS, SEL.data3],
    ['with another RPL', SEL.data0 | 1, VECTOR.TS, SEL.data0],
    ['read-only', SEL.readOnly, VECTOR.TS, SEL.readOnly],
    ['beyond the limit', 0x300, VECTOR.TS, 0x300],
    ['not present', SEL.absentData, VECTOR.SS, SEL.absentData],
    ['too small', SEL.small, VECTOR.SS, SEL.small],
  ])('refuses an inner stack that is %s', (_name, selector, vector, code) => {
    world.write32(AT.tss + 8, selector);
    world.setGate(0x40, gate(SEL.code0, 0x9000, 14, 3));
    world.enter(3);
    world.expectFault(vector, code, () => deliver(0x40, 'software'));
  });

  it('refuses a TSS too short for the stack', () => {
    world.setGate(0x40, gate(SEL.code0, 0x9000, 14, 3));
    world.enter(3);
    const tr = world.cpu.segment(SEGMENT.tr);
    world.cpu.setSegment(SEGMENT.tr, { ...tr, limit: 8 });
    world.expectFault(VECTOR.TS, SEL.tss, () => deliver(0x40, 'software'));
  });

  it('reads 16-bit TSSs', () => {
    world.write32(AT.tss, 0x4000 << 16, SEL.data0);
    world.cpu.setSegment(SEGMENT.tr, {
      selector: SEL.tss16,
      attributes: 0x83,
      limit: 0x2b,
      base: BigInt(AT.tss),
    });
    world.setGate(0x40, gate(SEL.code0, 0x9000, 14, 3));
    world.enter(3);
    deliver(0x40, 'software');
    expect(world.where()).toMatchObject({ ss: SEL.data0, rsp: 0x4000 - 20 });
  });

  it('pushes with a 16-bit stack pointer and keeps the rest of ESP', () => {
    world.setGate(0x40, gate(SEL.code0, 0x9000, 14));
    world.cpu.setSegment(SEGMENT.ss, { selector: SEL.data16, attributes: 0x93, limit: 0xffff, base: 0n });
    world.cpu.setGpr(4, 0x12340004n);
    world.cpu.updateMode();
    deliver(0x40, 'external');
    expect(world.cpu.gpr(4)).toBe(0x1234fff8n);
    expect(world.read32(0xfff8, 2)).toEqual([0x8000, SEL.code0]);
    expect(world.read32(0, 1)).toEqual([2]);
  });

  it('works with expand-down stacks', () => {
    world.setGate(0x40, gate(SEL.code0, 0x9000, 14));
    world.cpu.setSegment(SEGMENT.ss, {
      selector: SEL.expandDown,
      attributes: 0x4097,
      limit: 0xfff,
      base: 0n,
    });
    world.cpu.setGpr(4, 0x100bn);
    world.expectFault(VECTOR.SS, 0, () => deliver(0x40, 'software'));
    world.cpu.setGpr(4, 0x100cn);
    expect(deliver(0x40, 'software')).toBe('delivered');
  });

  it('sets EXT for what is external to the program', () => {
    world.setGate(0x40, gate(SEL.absentCode, 0x9000, 14));
    world.setGate(11, gate(SEL.code0, 0x9100, 14));
    deliver(0x40, 'external');
    expect(world.where().rip).toBe(0x9100);
    expect(world.read32(AT.stack0 - 0x110, 2)).toEqual([SEL.absentCode | 1, 0x8000]);
    world.enter(0);
    world.setGate(1, gate(SEL.absentCode, 0x9000, 14));
    world.expectFault(VECTOR.NP, SEL.absentCode | 1, () => deliver(1, 'icebp'));
  });

  it('turns general detection off in the debug handler', () => {
    world.setGate(1, gate(SEL.code0, 0x9000, 14));
    world.cpu.set32(DR7, 0x2400);
    deliverException(world.cpu, VECTOR.DB, 0);
    expect(world.cpu.get32(DR7)).toBe(0x400);
    expect(world.read32(AT.stack0 - 0x104, 1)).toEqual([2]);
  });

  it('blocks NMIs until IRET, and ends HLT', () => {
    world.setGate(2, gate(SEL.code0, 0x9000, 14));
    world.cpu.set32(CTL.halted, 1);
    deliver(2, 'nmi');
    expect([world.cpu.get32(CTL.nmiBlocked), world.cpu.get32(CTL.halted)]).toEqual([1, 0]);
    interruptReturn(world.cpu, 32);
    expect(world.cpu.get32(CTL.nmiBlocked)).toBe(0);
  });
});

describe('faults in delivery', () => {
  const handlers = (...vectors: number[]): void => {
    for (const vector of vectors) world.setGate(vector, gate(SEL.code0, 0x9000 + vector, 14));
  };

  it('two contributory exceptions are a double fault', () => {
    handlers(8);
    expect(deliverException(world.cpu, VECTOR.NP, 0x50)).toBe('delivered');
    expect(world.where().rip).toBe(0x9008);
    expect(world.read32(AT.stack0 - 0x110, 4)).toEqual([0, 0x8000, SEL.code0, 2]);
  });

  it('a benign one before a contributory one is forgotten', () => {
    handlers(11, 13);
    deliverException(world.cpu, VECTOR.UD, 0);
    expect(world.where().rip).toBe(0x900d);
    expect(world.read32(AT.stack0 - 0x110, 1)).toEqual([VECTOR.UD * 8 + 3]);
  });

  it('shuts down when the double fault cannot be delivered', () => {
    handlers(13);
    const before = world.where();
    expect(deliverException(world.cpu, VECTOR.GP, 0)).toBe('delivered');
    world.setGate(13, [0, 0]);
    world.enter(0);
    expect(deliverException(world.cpu, VECTOR.GP, 0)).toBe('shutdown');
    expect(world.where()).toEqual(before);
  });

  it('a page fault after a contributory one is delivered, after another page fault it is a double fault', () => {
    // Identity-mapped first 4 MiB but for the page the stack pointer points into.
    world.write32(0x30000, 0x31003);
    for (let page = 0; page < 1024; page++) world.write32(0x31000 + page * 4, (page << 12) | 3);
    world.write32(0x31000 + 0x50 * 4, 0);
    world.write32(AT.tss + 4, AT.stack0);
    handlers(14, 8);
    world.setGate(13, gate(SEL.conforming0, 0x900d, 14));
    world.setDescriptor(SEL.conforming0, descriptor(0, 0xfffff, 0x9f, 0xc));
    world.enter(3);
    world.cpu.setCr3(0x30000n);
    world.cpu.setCr0(CR0_PE | CR0_PG | 0x10);
    world.cpu.setGpr(4, 0x50800n);
    // #GP's handler runs at level 3 on the absent stack: #PF, through level 0.
    expect(deliverException(world.cpu, VECTOR.GP, 0)).toBe('delivered');
    expect(world.where().rip).toBe(0x900e);
    expect(world.cpu.get64(CR2)).toBe(0x507f0n);
    world.enter(3);
    world.cpu.setGpr(4, 0x50800n);
    world.setGate(14, gate(SEL.conforming0, 0x900e, 14));
    expect(deliverException(world.cpu, VECTOR.PF, 4)).toBe('delivered');
    expect(world.where().rip).toBe(0x9008);
  });
});

describe('virtual-8086 mode', () => {
  beforeEach(() => {
    world.setGate(0x21, gate(SEL.code0, 0x9000, 14, 3));
  });

  it('leaves with all segment registers on the stack and comes back', () => {
    world.enterV86(3);
    const before = world.cpu.u8.slice(0x100, 0x300);
    deliver(0x21, 'software', 0x100);
    expect(world.where()).toMatchObject({
      cs: SEL.code0,
      ss: SEL.data0,
      cpl: 0,
      rip: 0x9000,
      rsp: AT.stack0 - 36,
    });
    expect(world.read32(AT.stack0 - 36, 9)).toEqual([
      0x100, 0x2000, 0x23002, 0x800, 0x1200, 0x1000, 0x1300, 0x1400, 0x1500,
    ]);
    expect(world.cpu.v86).toBe(false);
    expect(world.cpu.segment(SEGMENT.ds)).toMatchObject({ selector: 0, attributes: ATTR_UNUSABLE });
    interruptReturn(world.cpu, 32);
    expect(world.cpu.u8.slice(0x100, 0x300)).toEqual(before);
  });

  it('INT n needs IOPL 3, INT3 and interrupts do not', () => {
    world.enterV86(0);
    world.expectFault(VECTOR.GP, 0, () => deliver(0x21, 'software'));
    deliver(0x21, 'external');
    world.enterV86(0);
    world.setGate(3, gate(SEL.code0, 0x9003, 14, 3));
    deliver(3, 'softwareException', 0x101);
    expect(world.where().rip).toBe(0x9003);
    world.enterV86(0);
    world.expectFault(VECTOR.GP, 0, () => interruptReturn(world.cpu, 16));
  });

  it('goes to level 0 only', () => {
    world.enterV86(3);
    world.setGate(0x21, gate(SEL.code1, 0x9000, 14, 3));
    world.expectFault(VECTOR.GP, SEL.code1, () => deliver(0x21, 'software'));
    world.setGate(0x21, gate(SEL.conforming0, 0x9000, 14, 3));
    world.expectFault(VECTOR.GP, SEL.conforming0, () => deliver(0x21, 'software'));
  });

  it('IRET at IOPL 3 stays in the mode and keeps IOPL', () => {
    world.enterV86(3);
    world.write32(0x12000 + 0x800, 0x3000_0200, 0x0000_4001);
    interruptReturn(world.cpu, 16);
    expect(world.where()).toMatchObject({ cs: 0x3000, rip: 0x200, rsp: 0x806, cpl: 3 });
    expect(world.cpu.rflags).toBe(0x27003);
  });
});

describe('task gates', () => {
  it('are refused as the SDM says, and valid switches reported', () => {
    world.setGate(0x40, gate(SEL.data0, 0, 5, 3));
    world.expectFault(VECTOR.GP, SEL.data0, () => deliver(0x40, 'software'));
    world.setGate(0x40, gate(SEL.tss, 0, 5, 3));
    world.expectFault(VECTOR.GP, SEL.tss, () => deliver(0x40, 'software'));
    world.setGate(0x40, gate(SEL.absentTss, 0, 5, 3));
    world.expectFault(VECTOR.NP, SEL.absentTss, () => deliver(0x40, 'software'));
    world.setGate(0x40, gate(SEL.tss16, 0, 5, 3));
    expect(() => deliver(0x40, 'software')).toThrow(VmmUnsupported);
  });

  it('IRET with NT set faults on a bad back link', () => {
    world.write32(AT.tss, SEL.data0);
    world.cpu.rflags = 0x4002;
    world.expectFault(VECTOR.TS, SEL.data0, () => interruptReturn(world.cpu, 32));
    world.write32(AT.tss, SEL.tss);
    expect(() => interruptReturn(world.cpu, 32)).toThrow(VmmUnsupported);
  });
});

describe('IRET in protected mode', () => {
  const frame = (...words: number[]): void => {
    world.cpu.setGpr(4, 0x7000n);
    world.write32(0x7000, ...words);
  };
  it.each([
    ['a null CS', [0x100, 3, 2], VECTOR.GP, 0],
    ['a CS beyond the limit', [0x100, 0x200, 2], VECTOR.GP, 0x200],
    ['data as CS', [0x100, SEL.data0, 2], VECTOR.GP, SEL.data0],
    ['a DPL that is not the RPL', [0x100, SEL.code0 | 3, 2], VECTOR.GP, SEL.code0],
    ['an absent CS', [0x100, SEL.absentCode, 2], VECTOR.NP, SEL.absentCode],
    ['an EIP beyond the limit', [0x100, SEL.smallCode, 2], VECTOR.GP, 0],
    ['an outer null SS', [0x100, SEL.code3 | 3, 2, 0x100, 0], VECTOR.GP, 0],
    ['an outer SS of another RPL', [0x100, SEL.code3 | 3, 2, 0x100, SEL.data3], VECTOR.GP, SEL.data3],
    [
      'an outer SS not writable',
      [0x100, SEL.code3 | 3, 2, 0, SEL.data3ReadOnly | 3],
      VECTOR.GP,
      SEL.data3ReadOnly,
    ],
  ])('refuses %s', (_name, words, vector, code) => {
    frame(...words);
    world.expectFault(vector, code, () => interruptReturn(world.cpu, 32));
  });

  it('refuses an inner level', () => {
    world.enter(3);
    frame(0x100, SEL.code0, 2);
    world.expectFault(VECTOR.GP, SEL.code0, () => interruptReturn(world.cpu, 32));
  });

  it('loads the flags the level may change', () => {
    frame(0x100, SEL.code0, 0xfffdffff);
    interruptReturn(world.cpu, 32);
    expect(world.cpu.rflags).toBe(0x3c7fd7);
    world.enter(3);
    frame(0x100, SEL.code3 | 3, 0xffffffff);
    interruptReturn(world.cpu, 32);
    expect(world.cpu.rflags).toBe(0x244dd7);
    world.enter(3);
    frame(0x100 | ((SEL.code3 | 3) << 16), 0xffff);
    interruptReturn(world.cpu, 16);
    expect(world.cpu.rflags).toBe(0x4dd7);
  });

  it('#SS(0) when the frame leaves the stack segment', () => {
    world.cpu.setSegment(SEGMENT.ss, { selector: SEL.small, attributes: 0x4093, limit: 0xfff, base: 0n });
    world.cpu.setGpr(4, 0xff8n);
    world.expectFault(VECTOR.SS, 0, () => interruptReturn(world.cpu, 32));
  });

  it('loads only SP of an outer 16-bit stack', () => {
    world.setDescriptor(SEL.gate, descriptor(0, 0xffff, 0xf3, 0));
    frame(0x100, SEL.code3 | 3, 2, 0xabcd1234, SEL.gate | 3);
    world.cpu.setGpr(4, 0x7000n);
    interruptReturn(world.cpu, 32);
    expect(world.cpu.gpr(4)).toBe(0x1234n);
  });
});

describe('long mode', () => {
  const HANDLER = 0xffffffff81000000n;
  beforeEach(() => {
    world.enterLong(0);
    world.setLongGate(0x40, gate(SEL.code64, 0x81000000, 14, 3), { upper: 0xffffffff });
  });

  it('aligns the stack and pushes SS:RSP at the same level too', () => {
    world.cpu.setGpr(4, 0xff0bn);
    deliver(0x40, 'external');
    expect(world.cpu.rip).toBe(HANDLER);
    expect(world.read64(0xff00 - 40, 5)).toEqual([
      0x8000n,
      BigInt(SEL.code64),
      2n,
      0xff0bn,
      BigInt(SEL.data0),
    ]);
    expect(world.where()).toMatchObject({ ss: SEL.data0, rsp: 0xff00 - 40 });
    interruptReturn(world.cpu, 64);
    expect(world.where()).toMatchObject({ cs: SEL.code64, ss: SEL.data0, rip: 0x8000, rsp: 0xff0b, cpl: 0 });
  });

  it('switches to RSP0 with a null SS, and back to level 3', () => {
    world.enterLong(3);
    world.cpu.setGpr(4, 0x8123456789abcdefn);
    deliver(0x40, 'external');
    expect(world.read64(AT.stack0 - 40, 5)).toEqual([
      0x8000n,
      BigInt(SEL.code64User | 3),
      2n,
      0x8123456789abcdefn,
      BigInt(SEL.data3 | 3),
    ]);
    expect(world.where()).toMatchObject({ cs: SEL.code64, ss: 0, cpl: 0, rsp: AT.stack0 - 40 });
    expect(world.cpu.segment(SEGMENT.ss).attributes & ATTR_UNUSABLE).not.toBe(0);
    interruptReturn(world.cpu, 64);
    expect(world.where()).toMatchObject({ cs: SEL.code64User | 3, ss: SEL.data3 | 3, cpl: 3, rip: 0x8000 });
    expect(world.cpu.gpr(4)).toBe(0x8123456789abcdefn);
  });

  it('uses the interrupt stack table', () => {
    world.setLongGate(8, gate(SEL.code64, 0x9000, 14), { ist: 1 });
    deliverException(world.cpu, VECTOR.DF, 0);
    expect(world.where()).toMatchObject({ rip: 0x9000, ss: SEL.data0, rsp: AT.ist1 - 48 });
    expect(world.read64(AT.ist1 - 48, 2)).toEqual([0n, 0x8000n]);
  });

  it.each([
    ['a 32-bit code segment', gate(SEL.code0, 0, 14, 3), 0, VECTOR.GP, SEL.code0],
    ['a segment with L and D', gate(SEL.codeBoth, 0, 14, 3), 0, VECTOR.GP, SEL.codeBoth],
    ['a 16-bit gate', gate(SEL.code64, 0, 6, 3), 0, VECTOR.GP, 0x40 * 8 + 2],
    ['a task gate', gate(SEL.tss, 0, 5, 3), 0, VECTOR.GP, 0x40 * 8 + 2],
    ['a non-canonical handler', gate(SEL.code64, 0, 14, 3), 0x8000, VECTOR.GP, 0],
  ] as [string, [number, number], number, number, number][])(
    'refuses %s',
    (_name, words, upper, vector, code) => {
      world.setLongGate(0x40, words, { upper });
      world.expectFault(vector, code, () => deliver(0x40, 'software'));
    },
  );

  it('refuses non-canonical stacks', () => {
    world.cpu.setGpr(4, 0x800000000010n);
    world.expectFault(VECTOR.SS, 0, () => deliver(0x40, 'software'));
    world.write32(AT.tss + 8, 0x8000);
    world.enterLong(3);
    world.write32(AT.tss + 8, 0x8000);
    world.expectFault(VECTOR.SS, 0, () => deliver(0x40, 'software'));
    const tr = world.cpu.segment(SEGMENT.tr);
    world.cpu.setSegment(SEGMENT.tr, { ...tr, limit: 10 });
    world.expectFault(VECTOR.TS, SEL.tss, () => deliver(0x40, 'software'));
  });

  it('IRETQ refuses NT, non-canonical RIP, null SS at level 3', () => {
    const frame = (...words: bigint[]): void => {
      world.cpu.setGpr(4, 0x7000n);
      words.forEach((word, i) => world.ram.setBigUint64(0x7000 + i * 8, word, true));
    };
    frame(0x100n, BigInt(SEL.code64), 2n, 0n, 0n);
    world.cpu.rflags = 0x4002;
    world.expectFault(VECTOR.GP, 0, () => interruptReturn(world.cpu, 64));
    world.cpu.rflags = 2;
    frame(0x800000000000n, BigInt(SEL.code64), 2n, 0n, 0n);
    world.expectFault(VECTOR.GP, 0, () => interruptReturn(world.cpu, 64));
    frame(0x100n, BigInt(SEL.code64User | 3), 2n, 0n, 0n);
    world.expectFault(VECTOR.GP, 0, () => interruptReturn(world.cpu, 64));
    frame(0x100n, BigInt(SEL.codeBoth), 2n, 0n, 0n);
    world.expectFault(VECTOR.GP, SEL.codeBoth, () => interruptReturn(world.cpu, 64));
    frame(0x100n, BigInt(SEL.code64), 0x10202n, 0xffffffff80000000n, 0n);
    interruptReturn(world.cpu, 64);
    expect(world.cpu.gpr(4)).toBe(0xffffffff80000000n);
    expect(world.cpu.rflags).toBe(0x202);
    world.cpu.set32(DR7, 0x401);
    frame(0x100n, BigInt(SEL.code64), 0x10202n, 0xffffffff80000000n, 0n);
    interruptReturn(world.cpu, 64);
    expect(world.cpu.rflags).toBe(0x10202);
  });

  it('returns to compatibility mode and takes interrupts from it', () => {
    world.cpu.setGpr(4, 0x7000n);
    [0x1234n, BigInt(SEL.code3 | 3), 0x202n, 0xffff_ffff_0002_0000n, BigInt(SEL.data3 | 3)].forEach(
      (word, i) => world.ram.setBigUint64(0x7000 + i * 8, word, true),
    );
    interruptReturn(world.cpu, 64);
    expect(world.where()).toEqual({
      cs: SEL.code3 | 3,
      ss: SEL.data3 | 3,
      cpl: 3,
      rip: 0x1234,
      rsp: 0x20000,
    });
    deliver(0x40, 'software', 0x1236);
    expect(world.cpu.rip).toBe(HANDLER);
    expect(world.read64(AT.stack0 - 40, 2)).toEqual([0x1236n, BigInt(SEL.code3 | 3)]);
  });
});
