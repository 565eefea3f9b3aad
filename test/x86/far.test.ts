import { beforeEach, describe, expect, it } from 'vitest';
import { ATTR_UNUSABLE } from '../../src-core/x86/bits.ts';
import { callFar, jumpFar, returnFar } from '../../src-core/x86/far.ts';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { loadSegmentRegister, SEGMENT } from '../../src-core/x86/segmentation.ts';
import { VmmUnsupported } from '../../src-core/x86/task.ts';
import { AT, descriptor, gate, SEL, World } from './tables.ts';

let world: World;
beforeEach(() => {
  world = new World();
});
const NEXT = 0x8007;
const jump = (selector: number, offset: number, size: 16 | 32 | 64 = 32): void =>
  jumpFar(world.cpu, selector, offset, size);
const call = (selector: number, offset: number, size: 16 | 32 | 64 = 32): void =>
  callFar(world.cpu, selector, offset, size, NEXT);
const setCallGate = (selector: number, offset: number, dpl = 3, count = 0, type = 12): void =>
  world.setDescriptor(SEL.gate, gate(selector, offset, type, dpl, count));

describe('real-address and virtual-8086 mode', () => {
  it('JMP, CALL and RET load CS = selector * 16', () => {
    world.enterReal();
    jump(0xf000, 0x12fff0, 16);
    expect(world.where()).toMatchObject({ cs: 0xf000, rip: 0xfff0 });
    callFar(world.cpu, 0x2000, 0x10, 16, 0xfff5);
    expect(world.read16(0x10000 + 0x7fc, 2)).toEqual([0xfff5, 0xf000]);
    expect(world.cpu.segment(SEGMENT.cs).base).toBe(0x20000n);
    world.expectFault(VECTOR.GP, 0, () => jump(0x2000, 0x10000));
    world.expectFault(VECTOR.GP, 0, () => call(0x2000, 0x10000));
    returnFar(world.cpu, 16, 4);
    expect(world.where()).toMatchObject({ cs: 0xf000, rip: 0xfff5, rsp: 0x804 });
    world.enterV86();
    call(0x3000, 0x20);
    expect(world.cpu.segment(SEGMENT.cs)).toEqual({
      selector: 0x3000,
      attributes: 0xf3,
      limit: 0xffff,
      base: 0x30000n,
    });
    returnFar(world.cpu, 32, 0);
    expect(world.where()).toMatchObject({ cs: 0x2000, rip: NEXT, rsp: 0x800 });
  });
});

const BAD_CODE: [string, number, number, number][] = [
  ['null', 3, VECTOR.GP, 0],
  ['beyond the limit', 0x200, VECTOR.GP, 0x200],
  ['data', SEL.data0, VECTOR.GP, SEL.data0],
  ['an LDT', SEL.ldt, VECTOR.GP, SEL.ldt],
  ['code of an outer level', SEL.code3, VECTOR.GP, SEL.code3],
  ['an RPL above CPL', SEL.code0 | 1, VECTOR.GP, SEL.code0],
  ['absent code', SEL.absentCode, VECTOR.NP, SEL.absentCode],
  ['an offset beyond the limit', SEL.smallCode, VECTOR.GP, 0],
  ['a busy TSS', SEL.tss, VECTOR.GP, SEL.tss],
  ['an absent TSS', SEL.absentTss, VECTOR.NP, SEL.absentTss],
];

describe('JMP and CALL to code segments', () => {
  it.each(BAD_CODE)('refuse %s', (_name, selector, vector, code) => {
    world.expectFault(vector, code, () => jump(selector, 0x100));
    world.expectFault(vector, code, () => call(selector, 0x100));
  });

  it('go to code of the same level, RPL = CPL', () => {
    world.setDescriptor(SEL.smallCode, descriptor(0x5000, 0xff, 0x9a, 4));
    jump(SEL.smallCode, 0xff);
    expect(world.where()).toMatchObject({ cs: SEL.smallCode, rip: 0xff });
    expect(world.ram.getUint8(AT.gdt + SEL.smallCode + 5)).toBe(0x9b);
    world.enter(3);
    jump(SEL.code3, 0x12345678);
    expect(world.where()).toMatchObject({ cs: SEL.code3 | 3, rip: 0x12345678, cpl: 3 });
    jump(SEL.code3, 0x12345678, 16);
    expect(world.where()).toMatchObject({ rip: 0x5678 });
    world.expectFault(VECTOR.GP, SEL.code0, () => jump(SEL.code0, 0));
    jump(SEL.conforming0 | 3, 0x10);
    expect(world.where()).toMatchObject({ cs: SEL.conforming0 | 3, cpl: 3 });
  });

  it('CALL pushes CS and EIP of the operand size, RET takes them', () => {
    const top = AT.stack0 - 0x100;
    call(SEL.code0, 0x100);
    expect(world.read32(top - 8, 2)).toEqual([NEXT, SEL.code0]);
    returnFar(world.cpu, 32, 8);
    expect(world.where()).toMatchObject({ cs: SEL.code0, rip: NEXT, rsp: top + 8 });
    call(SEL.conforming0, 0x100, 16);
    expect(world.read16(top + 4, 2)).toEqual([NEXT, SEL.code0]);
    world.cpu.setSegment(SEGMENT.ss, { selector: SEL.small, attributes: 0x4093, limit: 0xfff, base: 0n });
    world.expectFault(VECTOR.SS, 0, () => call(SEL.code0, 0x100));
  });

  it('report task switches', () => {
    expect(() => jump(SEL.tss16, 0)).toThrow(VmmUnsupported);
    world.setDescriptor(SEL.gate, gate(SEL.tss16, 0, 5));
    expect(() => call(SEL.gate, 0)).toThrow(VmmUnsupported);
    world.expectFault(VECTOR.GP, SEL.gate, () => call(SEL.gate | 1, 0));
    world.setDescriptor(SEL.gate, gate(SEL.data0, 0, 5));
    world.expectFault(VECTOR.GP, SEL.data0, () => jump(SEL.gate, 0));
  });
});

describe('call gates', () => {
  it.each([
    ['a DPL below CPL', SEL.code0, 2, VECTOR.GP, SEL.gate],
    ['a null code segment', 0, 3, VECTOR.GP, 0],
    ['data as code segment', SEL.data0, 3, VECTOR.GP, SEL.data0],
    ['absent code', SEL.absentCode, 3, VECTOR.NP, SEL.absentCode],
    ['code beyond the limit', 0x300, 3, VECTOR.GP, 0x300],
    ['an offset beyond the limit', SEL.smallCode, 3, VECTOR.GP, 0],
  ])('refuse %s', (_name, selector, dpl, vector, code) => {
    world.enter(3);
    setCallGate(selector, 0x9000, dpl);
    world.expectFault(vector, code, () => call(SEL.gate, 0));
  });

  it('refuse one that is not present, and JMP to an inner level', () => {
    world.enter(3);
    const [low, high] = gate(SEL.code0, 0x9000, 12, 3);
    world.setDescriptor(SEL.gate, [low, high & ~0x8000]);
    world.expectFault(VECTOR.NP, SEL.gate, () => jump(SEL.gate, 0));
    setCallGate(SEL.code0, 0x9000);
    world.expectFault(VECTOR.GP, SEL.code0, () => jump(SEL.gate, 0));
  });

  it('lead to an inner level, with parameters, and RET back', () => {
    world.enter(3);
    setCallGate(SEL.code0, 0x12345678, 3, 3);
    world.write32(AT.stack3, 111, 222, 333);
    call(SEL.gate, 0xdead);
    const top = AT.stack0 - 7 * 4;
    expect(world.where()).toEqual({ cs: SEL.code0, ss: SEL.data0, cpl: 0, rip: 0x12345678, rsp: top });
    expect(world.read32(top, 7)).toEqual([NEXT, SEL.code3 | 3, 111, 222, 333, AT.stack3, SEL.data3 | 3]);
    loadSegmentRegister(world.cpu, SEGMENT.ds, SEL.data0, false);
    returnFar(world.cpu, 32, 12);
    expect(world.where()).toEqual({
      cs: SEL.code3 | 3,
      ss: SEL.data3 | 3,
      cpl: 3,
      rip: NEXT,
      rsp: AT.stack3 + 12,
    });
    expect(world.cpu.segment(SEGMENT.ds)).toMatchObject({ selector: 0, attributes: ATTR_UNUSABLE });
    expect(world.cpu.segment(SEGMENT.es).selector).toBe(SEL.data3 | 3);
  });

  it('16-bit ones push words', () => {
    world.enter(3);
    setCallGate(SEL.code1, 0x12345678, 3, 1, 4);
    world.write32(AT.stack3, 0x7777);
    call(SEL.gate, 0);
    expect(world.where()).toMatchObject({
      cs: SEL.code1 | 1,
      ss: SEL.data1 | 1,
      cpl: 1,
      rip: 0x5678,
      rsp: AT.stack1 - 10,
    });
    expect(world.read16(AT.stack1 - 10, 5)).toEqual([
      NEXT,
      SEL.code3 | 3,
      0x7777,
      AT.stack3 & 0xffff,
      SEL.data3 | 3,
    ]);
  });

  it('stay at the level with conforming code, and serve JMP', () => {
    world.enter(3);
    setCallGate(SEL.conforming0, 0x9000);
    call(SEL.gate, 0);
    expect(world.where()).toMatchObject({ cs: SEL.conforming0 | 3, cpl: 3, rsp: AT.stack3 - 8 });
    world.enter(3);
    jump(SEL.gate, 0);
    expect(world.where()).toMatchObject({ cs: SEL.conforming0 | 3, cpl: 3, rsp: AT.stack3, rip: 0x9000 });
  });

  it('fault on the inner stack', () => {
    world.enter(3);
    setCallGate(SEL.code0, 0x9000);
    world.write32(AT.tss + 8, SEL.small);
    world.expectFault(VECTOR.SS, SEL.small, () => call(SEL.gate, 0));
    world.write32(AT.tss + 8, SEL.data3);
    world.expectFault(VECTOR.TS, SEL.data3, () => call(SEL.gate, 0));
  });
});

describe('RET', () => {
  const frame = (...words: number[]): void => {
    world.cpu.setGpr(4, 0x7000n);
    world.write32(0x7000, ...words);
  };
  it.each([
    ['null', [0x100, 3], VECTOR.GP, 0],
    ['beyond the limit', [0x100, 0x200], VECTOR.GP, 0x200],
    ['data', [0x100, SEL.data0], VECTOR.GP, SEL.data0],
    ['a DPL that is not the RPL', [0x100, SEL.code0 | 3], VECTOR.GP, SEL.code0],
    ['conforming code above the RPL', [0x100, SEL.codeBoth | 3], VECTOR.GP, SEL.codeBoth],
    ['absent code', [0x100, SEL.absentCode], VECTOR.NP, SEL.absentCode],
    ['an EIP beyond the limit', [0x100, SEL.smallCode], VECTOR.GP, 0],
    ['an outer null SS', [0x100, SEL.code3 | 3, 0x100, 0], VECTOR.GP, 0],
    ['an outer SS of another level', [0x100, SEL.code3 | 3, 0x100, SEL.data0 | 3], VECTOR.GP, SEL.data0],
  ] as [string, number[], number, number][])('refuses %s', (_name, words, vector, code) => {
    frame(...words);
    world.expectFault(vector, code, () => returnFar(world.cpu, 32, 0));
  });

  it('refuses an inner level', () => {
    world.enter(3);
    frame(0x100, SEL.code0);
    world.expectFault(VECTOR.GP, SEL.code0, () => returnFar(world.cpu, 32, 0));
  });
});

describe('long mode', () => {
  beforeEach(() => world.enterLong(0));

  it('jumps between 64-bit and compatibility mode', () => {
    jump(SEL.code0, 0x9000);
    expect(world.cpu.code64).toBe(false);
    jump(SEL.code64, 0x9000);
    expect(world.cpu.code64).toBe(true);
    jump(SEL.code64, -0x80000000, 64);
    expect(world.cpu.rip).toBe(0xffffffff80000000n);
    world.expectFault(VECTOR.GP, SEL.codeBoth, () => jump(SEL.codeBoth, 0));
    world.expectFault(VECTOR.GP, 0, () => jump(SEL.code64, 2 ** 47, 64));
    world.expectFault(VECTOR.GP, 0, () => jump(SEL.code0, 2 ** 32, 64));
  });

  it('has no 16-bit gates, task gates or task switches', () => {
    world.expectFault(VECTOR.GP, SEL.tss16, () => jump(SEL.tss16, 0));
    setCallGate(SEL.code64, 0x9000, 3, 0, 4);
    world.expectFault(VECTOR.GP, SEL.gate, () => jump(SEL.gate, 0));
    world.setDescriptor(SEL.gate, gate(SEL.tss, 0, 5));
    world.expectFault(VECTOR.GP, SEL.gate, () => call(SEL.gate, 0));
  });

  it('calls through 16-byte gates to RSP0 and returns', () => {
    world.enterLong(3);
    world.setDescriptor(SEL.gate, gate(SEL.code64, 0x81000000, 12, 3), 0xffffffff);
    world.cpu.setGpr(4, 0x8123456789abcdefn);
    call(SEL.gate, 0);
    expect(world.cpu.rip).toBe(0xffffffff81000000n);
    expect(world.where()).toMatchObject({ cs: SEL.code64, ss: 0, cpl: 0, rsp: AT.stack0 - 32 });
    expect(world.read64(AT.stack0 - 32, 4)).toEqual([
      BigInt(NEXT),
      BigInt(SEL.code64User | 3),
      0x8123456789abcdefn,
      BigInt(SEL.data3 | 3),
    ]);
    returnFar(world.cpu, 64, 0);
    expect(world.where()).toMatchObject({ cs: SEL.code64User | 3, ss: SEL.data3 | 3, cpl: 3, rip: NEXT });
    expect(world.cpu.gpr(4)).toBe(0x8123456789abcdefn);
  });

  it('refuses gates to 32-bit code and with a type in the upper half', () => {
    world.setDescriptor(SEL.gate, gate(SEL.code0, 0x9000, 12, 3));
    world.write32(AT.gdt + SEL.gate2, 0, 0);
    world.expectFault(VECTOR.GP, SEL.code0, () => call(SEL.gate, 0));
    world.setDescriptor(SEL.gate, gate(SEL.code64, 0x9000, 12, 3));
    world.write32(AT.gdt + SEL.gate2, 0, 0x100);
    world.expectFault(VECTOR.GP, SEL.gate, () => call(SEL.gate, 0));
    world.setDescriptor(0xe8, gate(SEL.code64, 0x9000, 12, 3));
    world.expectFault(VECTOR.GP, 0xe8, () => call(0xe8, 0));
  });
});
