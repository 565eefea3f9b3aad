import { beforeEach, describe, expect, it } from 'vitest';
import { IoApic } from '../../src-core/devices/io-apic.ts';
import { LocalApic } from '../../src-core/devices/local-apic.ts';
import { ManualClock, throughJson } from './harness.ts';

describe('local APIC and I/O APIC', () => {
  let clock: ManualClock;
  let apic: LocalApic;
  let io: IoApic;
  let picVector: number;
  let deadlinesDone: number;
  let nmis: number;

  function make(): LocalApic {
    return new LocalApic({
      clock,
      acknowledgePic: () => picVector,
      onInterrupt: () => undefined,
      onNmi: () => nmis++,
      onEoi: (vector) => io.endOfInterrupt(vector),
      tscToNs: (tsc) => Number(tsc),
      onTscDeadlineDone: () => deadlinesDone++,
    });
  }

  beforeEach(() => {
    clock = new ManualClock();
    picVector = 0x30;
    deadlinesDone = 0;
    nmis = 0;
    apic = make();
    io = new IoApic((message) => apic.deliver(message));
  });

  const read = (register: number): number => apic.readMmio(register, 4);
  const write = (register: number, value: number): void => apic.writeMmio(register, 4, value);
  function redirect(pin: number, low: number, high = 0): void {
    io.writeMmio(0, 4, 0x11 + 2 * pin);
    io.writeMmio(0x10, 4, high);
    io.writeMmio(0, 4, 0x10 + 2 * pin);
    io.writeMmio(0x10, 4, low);
  }
  function redirection(pin: number): number {
    io.writeMmio(0, 4, 0x10 + 2 * pin);
    return io.readMmio(0x10);
  }
  const eoi = (): void => write(0xb0, 0);

  it('passes the PIC through LINT0 as firmware leaves it', () => {
    expect(apic.hasInterrupt()).toBe(false);
    apic.setLint0(true);
    expect(apic.hasInterrupt()).toBe(true);
    expect(apic.acknowledge()).toBe(0x30);
    write(0x350, 0x10700);
    expect(apic.hasInterrupt()).toBe(false);
    apic.setEnabled(false);
    expect(apic.hasInterrupt()).toBe(true);
  });

  it('shows its identity', () => {
    expect(read(0x20)).toBe(0);
    expect(read(0x30) & 0xff).toBe(0x14);
    expect((read(0x30) >> 16) & 0xff).toBe(5);
    expect(read(0xf0)).toBe(0xff);
  });

  it('nests by priority class and honours TPR', () => {
    write(0xf0, 0x1ff);
    redirect(4, 0x51);
    redirect(5, 0x61);
    io.line(4).set(true);
    expect(apic.acknowledge()).toBe(0x51);
    expect(read(0xa0)).toBe(0x50);
    io.line(5).set(true);
    expect(apic.hasInterrupt()).toBe(true);
    write(0x80, 0x60);
    expect(apic.hasInterrupt()).toBe(false);
    apic.taskPriority = 5;
    expect(read(0x80)).toBe(0x50);
    expect(apic.acknowledge()).toBe(0x61);
    expect(read(0x120)).toBe(1 << 17);
    expect(read(0x130)).toBe(1 << 1);
    eoi();
    eoi();
    expect(read(0xa0)).toBe(0x50);
  });

  it('level interrupts set remote IRR until EOI and come again while the line is high', () => {
    write(0xf0, 0x1ff);
    redirect(9, 0x8000 | 0x41);
    const line = io.line(9);
    line.set(true);
    expect(redirection(9) & 0x4000).toBe(0x4000);
    expect(apic.acknowledge()).toBe(0x41);
    expect(read(0x1a0)).toBe(2);
    eoi();
    expect(apic.acknowledge()).toBe(0x41);
    line.set(false);
    eoi();
    expect(redirection(9) & 0x4000).toBe(0);
    expect(apic.hasInterrupt()).toBe(false);
  });

  it('a masked pin loses edges and keeps levels', () => {
    write(0xf0, 0x1ff);
    redirect(4, 0x10051);
    io.line(4).set(true);
    redirect(4, 0x51);
    expect(apic.hasInterrupt()).toBe(false);
    redirect(9, 0x18041);
    io.line(9).set(true);
    redirect(9, 0x8041);
    expect(apic.hasInterrupt()).toBe(true);
  });

  it('has an EOI register in the I/O APIC', () => {
    io.writeMmio(0, 4, 1);
    expect(io.readMmio(0x10)).toBe(0x170020);
    write(0xf0, 0x1ff);
    redirect(9, 0x8000 | 0x41);
    io.line(9).set(true);
    io.line(9).set(false);
    io.writeMmio(0x40, 4, 0x41);
    expect(redirection(9) & 0x4000).toBe(0);
  });

  it('matches logical destinations', () => {
    write(0xf0, 0x1ff);
    write(0xd0, 0x02000000);
    redirect(4, 0x851, 0x01000000);
    io.line(4).set(true);
    expect(apic.hasInterrupt()).toBe(false);
    io.line(4).set(false);
    redirect(4, 0x851, 0x03000000);
    io.line(4).set(true);
    expect(apic.hasInterrupt()).toBe(true);
  });

  it('counts down once', () => {
    write(0xf0, 0x1ff);
    write(0x3e0, 0x3);
    write(0x320, 0x40);
    write(0x380, 1000);
    clock.advance(8000);
    expect(read(0x390)).toBe(500);
    clock.advance(8000);
    expect(read(0x390)).toBe(0);
    expect(apic.acknowledge()).toBe(0x40);
    eoi();
    clock.advance(1e6);
    expect(apic.hasInterrupt()).toBe(false);
  });

  it('loses no interrupt when time passes while it is set up', () => {
    // Guest time is the host's: between two readings a whole count may go by.
    let step = 0;
    const now = clock.now.bind(clock);
    clock.now = () => {
      clock.setNow(now() + step);
      return now();
    };
    apic = make();
    write(0xf0, 0x1ff);
    write(0x3e0, 0xb);
    write(0x320, 0x40);
    step = 1000;
    write(0x380, 100);
    expect(clock.nextDeadline).toBeLessThan(clock.now());
    // Another divider before the timer was looked at.
    write(0x3e0, 0xb);
    step = 0;
    clock.runDue();
    expect(apic.hasInterrupt()).toBe(true);
    expect(clock.nextDeadline).toBe(Infinity);
  });

  it('counts periodically and stops at zero', () => {
    write(0xf0, 0x1ff);
    write(0x3e0, 0xb);
    write(0x320, 0x20040);
    write(0x380, 1000);
    let count = 0;
    for (let i = 0; i < 100; i++) {
      clock.advance(500);
      if (!apic.hasInterrupt()) continue;
      apic.acknowledge();
      eoi();
      count++;
    }
    expect(count).toBe(50);
    write(0x380, 0);
    clock.advance(5000);
    expect(apic.hasInterrupt()).toBe(false);
  });

  it('interrupts at the TSC deadline', () => {
    write(0xf0, 0x1ff);
    write(0x320, 0x40040);
    apic.setTscDeadline(5000n);
    clock.advance(4999);
    expect(apic.hasInterrupt()).toBe(false);
    const before = deadlinesDone;
    clock.advance(1);
    expect(apic.acknowledge()).toBe(0x40);
    expect(deadlinesDone).toBe(before + 1);
    eoi();
    apic.setTscDeadline(9000n);
    apic.setTscDeadline(0n);
    clock.advance(10000);
    expect(apic.hasInterrupt()).toBe(false);
  });

  it('sends itself IPIs and ignores those for others', () => {
    write(0xf0, 0x1ff);
    write(0x300, 0x40000 | 0x55);
    expect(apic.acknowledge()).toBe(0x55);
    eoi();
    write(0x310, 0);
    write(0x300, 0x56);
    expect(apic.acknowledge()).toBe(0x56);
    eoi();
    write(0x310, 0x01000000);
    write(0x300, 0x57);
    write(0x300, 0xc4500);
    expect(apic.hasInterrupt()).toBe(false);
    write(0x310, 0);
    write(0x300, 0x400);
    expect(nmis).toBe(1);
  });

  it('masks everything when software disables it', () => {
    write(0x350, 0x700);
    write(0xf0, 0x0ff);
    expect(read(0x350)).toBe(0x10700);
    write(0x320, 0x40);
    expect(read(0x320)).toBe(0x10040);
  });

  it('reports illegal vectors', () => {
    write(0xf0, 0x1ff);
    write(0x300, 0x40005);
    write(0x280, 0);
    expect(read(0x280)).toBe(0x20);
    write(0x280, 0);
    expect(read(0x280)).toBe(0);
  });

  it('survives save and restore', () => {
    write(0xf0, 0x1ff);
    write(0x3e0, 0xb);
    write(0x320, 0x40);
    write(0x380, 1000);
    redirect(9, 0x8041);
    io.line(9).set(true);
    const other = make();
    other.restore(throughJson(apic.save()));
    expect(other.save()).toEqual(apic.save());
    expect(other.acknowledge()).toBe(0x41);
    const otherIo = new IoApic(() => true);
    otherIo.restore(throughJson(io.save()));
    expect(otherIo.save()).toEqual(io.save());
    expect(() => other.restore({})).toThrow();
    expect(() => otherIo.restore({})).toThrow();
  });
});
