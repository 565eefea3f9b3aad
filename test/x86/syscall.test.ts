import { beforeEach, describe, expect, it } from 'vitest';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { MSR } from '../../src-core/x86/layout.ts';
import { SEGMENT } from '../../src-core/x86/segmentation.ts';
import { syscall, sysenter, sysexit, sysret } from '../../src-core/x86/syscall.ts';
import { SEL, World } from './tables.ts';

const RCX = 1;
const RDX = 2;
const R11 = 11;

let world: World;
beforeEach(() => {
  world = new World();
  const { cpu } = world;
  cpu.set64(MSR.star, 0x0023_0010_0000_0000n);
  cpu.set64(MSR.lstar, 0xffffffff81001000n);
  cpu.set64(MSR.sfmask, 0x47700n);
  cpu.set64(MSR.sysenterCs, 0x60n);
  cpu.set64(MSR.sysenterEip, 0xffffffff81002000n);
  cpu.set64(MSR.sysenterEsp, 0xffffffff90000000n);
});

describe('SYSCALL and SYSRET', () => {
  it('go to the kernel and back', () => {
    const { cpu } = world;
    world.enterLong(3);
    cpu.rflags = 0x40747;
    const user = world.where();
    syscall(cpu, 0x7fff12345678);
    expect(cpu.rip).toBe(0xffffffff81001000n);
    expect(cpu.gpr(RCX)).toBe(0x7fff12345678n);
    expect(cpu.gpr(R11)).toBe(0x40747n);
    expect(cpu.rflags).toBe(0x47);
    expect(cpu.segment(SEGMENT.cs)).toEqual({
      selector: 0x10,
      attributes: 0xa09b,
      limit: 0xffffffff,
      base: 0n,
    });
    expect(cpu.segment(SEGMENT.ss)).toEqual({
      selector: 0x18,
      attributes: 0xc093,
      limit: 0xffffffff,
      base: 0n,
    });
    expect(cpu.cpl).toBe(0);
    sysret(cpu, 64);
    expect(world.where()).toEqual({ ...user, cs: 0x33, ss: 0x2b, rip: 0x7fff12345678 });
    expect(cpu.segment(SEGMENT.cs).attributes).toBe(0xa0fb);
    expect(cpu.rflags).toBe(0x40747);
  });

  it('SYSRET to compatibility mode takes ECX, and clears RF', () => {
    const { cpu } = world;
    world.enterLong(0);
    cpu.setGpr(RCX, 0x8000_0000_1234_5678n);
    cpu.setGpr(R11, 0xffffffffn);
    sysret(cpu, 32);
    expect(world.where()).toMatchObject({ cs: 0x23, ss: 0x2b, cpl: 3, rip: 0x12345678 });
    expect(cpu.segment(SEGMENT.cs).attributes).toBe(0xc0fb);
    expect(cpu.rflags).toBe(0x3c7fd7);
  });

  it('refuse what they must', () => {
    const { cpu } = world;
    world.expectFault(VECTOR.UD, 0, () => syscall(cpu, 0));
    world.enterLong(3);
    world.expectFault(VECTOR.GP, 0, () => sysret(cpu, 64));
    cpu.efer = cpu.efer & ~1;
    world.expectFault(VECTOR.UD, 0, () => syscall(cpu, 0));
    world.enterLong(0);
    cpu.setGpr(RCX, 0x800000000000n);
    world.expectFault(VECTOR.GP, 0, () => sysret(cpu, 64));
  });
});

describe('SYSENTER and SYSEXIT', () => {
  it('go to the kernel and back in 32-bit mode', () => {
    const { cpu } = world;
    world.enter(3);
    cpu.rflags = 0x3746;
    sysenter(cpu);
    expect(world.where()).toEqual({ cs: 0x60, ss: 0x68, cpl: 0, rip: 0x81002000, rsp: 0x90000000 });
    expect(cpu.rflags).toBe(0x3546);
    expect(cpu.segment(SEGMENT.cs).attributes).toBe(0xc09b);
    cpu.setGpr(RCX, 0x20000n);
    cpu.setGpr(RDX, 0x8010n);
    sysexit(cpu, 32);
    expect(world.where()).toEqual({ cs: 0x73, ss: 0x7b, cpl: 3, rip: 0x8010, rsp: 0x20000 });
    expect(cpu.segment(SEGMENT.cs).attributes).toBe(0xc0fb);
  });

  it('use 64 bits in long mode', () => {
    const { cpu } = world;
    world.enterLong(3);
    sysenter(cpu);
    expect([cpu.rip, cpu.gpr(4)]).toEqual([0xffffffff81002000n, 0xffffffff90000000n]);
    expect(cpu.code64).toBe(true);
    cpu.setGpr(RCX, 0x7fff00000000n);
    cpu.setGpr(RDX, 0x800000000000n);
    world.expectFault(VECTOR.GP, 0, () => sysexit(cpu, 64));
    cpu.setGpr(RDX, 0x7ffe00000000n);
    sysexit(cpu, 64);
    expect(world.where()).toEqual({
      cs: 0x83,
      ss: 0x8b,
      cpl: 3,
      rip: 0x7ffe00000000,
      rsp: 0x7fff00000000,
    });
    expect(cpu.segment(SEGMENT.cs).attributes).toBe(0xa0fb);
  });

  it('refuse a null SYSENTER_CS, user code and real mode', () => {
    const { cpu } = world;
    world.enter(3);
    world.expectFault(VECTOR.GP, 0, () => sysexit(cpu, 32));
    cpu.set64(MSR.sysenterCs, 3n);
    world.expectFault(VECTOR.GP, 0, () => sysenter(cpu));
    cpu.set64(MSR.sysenterCs, BigInt(SEL.code0));
    world.enterReal();
    world.expectFault(VECTOR.GP, 0, () => sysenter(cpu));
  });
});
