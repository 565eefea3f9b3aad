import { beforeEach, describe, expect, it } from 'vitest';
import { Pit, pitTicksAt, pitTimeOf } from '../../src-core/devices/pit.ts';
import { PortBus } from '../../src-core/machine/bus.ts';
import { ManualClock, ProbeLine, throughJson } from './harness.ts';

describe('8254', () => {
  let ports: PortBus;
  let clock: ManualClock;
  let irq: ProbeLine;
  let pit: Pit;

  beforeEach(() => {
    ports = new PortBus();
    clock = new ManualClock();
    irq = new ProbeLine();
    pit = new Pit(clock, irq);
    pit.attach(ports);
  });

  function program(channel: number, mode: number, count: number): void {
    ports.write(0x43, 1, (channel << 6) | 0x30 | (mode << 1));
    ports.write(0x40 + channel, 1, count & 0xff);
    ports.write(0x40 + channel, 1, count >> 8);
  }

  function counter(channel: number): number {
    ports.write(0x43, 1, channel << 6);
    return ports.read(0x40 + channel, 1) | (ports.read(0x40 + channel, 1) << 8);
  }

  function ticks(count: number): void {
    clock.advance(pitTimeOf(pitTicksAt(clock.now()) + count) - clock.now());
  }

  it('converts time without drift', () => {
    expect(pitTicksAt(1e9)).toBe(1193181);
    for (const tick of [0, 1, 2, 104, 105, 106, 1193182, 1e12]) {
      expect(pitTicksAt(pitTimeOf(tick))).toBe(tick);
      if (tick > 0) expect(pitTicksAt(pitTimeOf(tick) - 1)).toBe(tick - 1);
    }
  });

  it('mode 2 interrupts once a period', () => {
    program(0, 2, 1193);
    const before = irq.edges;
    clock.advance(1e9);
    expect(irq.edges - before).toBe(1000);
  });

  it('mode 2 counts down to 1 and reloads', () => {
    program(0, 2, 100);
    expect(counter(0)).toBe(100);
    ticks(99);
    expect(counter(0)).toBe(1);
    ticks(1);
    expect(counter(0)).toBe(100);
  });

  it('a new count in mode 2 takes over at the end of the period', () => {
    program(0, 2, 1000);
    ticks(10);
    ports.write(0x40, 1, 100);
    ports.write(0x40, 1, 0);
    expect(counter(0)).toBe(990);
    ticks(990);
    expect(counter(0)).toBe(100);
  });

  it('mode 0 raises the output at terminal count and stays there', () => {
    program(0, 0, 50);
    expect(irq.level).toBe(false);
    ticks(49);
    expect(irq.level).toBe(false);
    ticks(1);
    expect(irq.level).toBe(true);
    ticks(2);
    expect(irq.level).toBe(true);
    expect(counter(0)).toBe(0xfffe);
    ticks(100_000);
    expect(irq.edges).toBe(1);
  });

  it('mode 4 strobes once', () => {
    program(0, 4, 50);
    const before = irq.edges;
    ticks(52);
    expect(irq.edges - before).toBe(1);
    ticks(100_000);
    expect(irq.edges - before).toBe(1);
  });

  it('mode 3 is a square wave', () => {
    program(2, 3, 10);
    ports.write(0x61, 1, 1);
    const shape: number[] = [];
    for (let i = 0; i < 20; i++) {
      shape.push((ports.read(0x61, 1) >> 5) & 1);
      ticks(1);
    }
    expect(shape.join('')).toBe('11111000001111100000');
  });

  it('channel 2 is gated by port 61h', () => {
    ports.write(0x61, 1, 0);
    program(2, 0, 100);
    ticks(500);
    expect(ports.read(0x61, 1) & 0x20).toBe(0);
    expect(counter(2)).toBe(100);
    ports.write(0x61, 1, 1);
    ticks(40);
    expect(counter(2)).toBe(60);
    ports.write(0x61, 1, 0);
    ticks(40);
    ports.write(0x61, 1, 1);
    ticks(59);
    expect(ports.read(0x61, 1) & 0x20).toBe(0);
    ticks(1);
    expect(ports.read(0x61, 1) & 0x23).toBe(0x21);
  });

  it('mode 1 is triggered by the gate', () => {
    program(2, 1, 20);
    ticks(100);
    expect(ports.read(0x61, 1) & 0x20).toBe(0x20);
    ports.write(0x61, 1, 1);
    expect(ports.read(0x61, 1) & 0x20).toBe(0);
    ticks(20);
    expect(ports.read(0x61, 1) & 0x20).toBe(0x20);
  });

  it('reads back status and count together, status first', () => {
    program(0, 2, 0);
    ticks(1);
    ports.write(0x43, 1, 0xc2);
    expect(ports.read(0x40, 1)).toBe(0xb4);
    expect(ports.read(0x40, 1) | (ports.read(0x40, 1) << 8)).toBe(0xffff);
  });

  it('keeps a latched count until it is read', () => {
    program(0, 2, 1000);
    ports.write(0x43, 1, 0x00);
    ticks(10);
    ports.write(0x43, 1, 0x00);
    expect(ports.read(0x40, 1) | (ports.read(0x40, 1) << 8)).toBe(1000);
    expect(counter(0)).toBe(990);
  });

  it('counts in BCD', () => {
    ports.write(0x43, 1, 0x35);
    ports.write(0x40, 1, 0x00);
    ports.write(0x40, 1, 0x10);
    ticks(1);
    expect(counter(0)).toBe(0x0999);
  });

  it('keeps an edge that is due when it is saved', () => {
    program(0, 2, 1193);
    const late = new ManualClock();
    late.setNow(pitTimeOf(1193));
    clock.setNow(late.now());
    const line = new ProbeLine();
    const restored = new Pit(late, line);
    restored.restore(throughJson(pit.save()));
    line.edges = 0;
    late.runDue();
    expect(line.edges).toBe(1);
  });

  it('goes on after a restore', () => {
    program(0, 2, 11932);
    clock.advance(5e6);
    const other = new ProbeLine();
    const otherClock = new ManualClock();
    otherClock.advance(5e6);
    const restored = new Pit(otherClock, other);
    restored.restore(throughJson(pit.save()));
    other.edges = 0;
    otherClock.advance(6e6);
    expect(other.edges).toBe(1);
    expect(() => restored.restore({ channels: [] })).toThrow();
  });
});
