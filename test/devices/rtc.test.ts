import { beforeEach, describe, expect, it } from 'vitest';
import { Rtc } from '../../src-core/devices/rtc.ts';
import { PortBus } from '../../src-core/machine/bus.ts';
import { ManualClock, ProbeLine, throughJson } from './harness.ts';

const START = Date.UTC(2024, 1, 28, 23, 59, 57);

describe('MC146818', () => {
  let ports: PortBus;
  let clock: ManualClock;
  let irq: ProbeLine;
  let rtc: Rtc;

  function make(): Rtc {
    return new Rtc({ clock, irq, memoryBytes: 256 * 1024 * 1024, epochMs: () => START });
  }

  beforeEach(() => {
    ports = new PortBus();
    clock = new ManualClock();
    irq = new ProbeLine();
    rtc = make();
    rtc.attach(ports);
  });

  function read(index: number): number {
    ports.write(0x70, 1, index);
    return ports.read(0x71, 1);
  }
  function write(index: number, value: number): void {
    ports.write(0x70, 1, index);
    ports.write(0x71, 1, value);
  }
  function time(): string {
    return [0x32, 9, 8, 7, 4, 2, 0].map((index) => read(index).toString(16).padStart(2, '0')).join(' ');
  }

  it('shows the time in BCD and goes over into a leap day', () => {
    expect(time()).toBe('20 24 02 28 23 59 57');
    expect(read(6)).toBe(4);
    clock.advance(3e9);
    expect(time()).toBe('20 24 02 29 00 00 00');
  });

  it('shows binary and 12 hours', () => {
    write(0x0b, 0x04);
    expect(read(0)).toBe(57);
    expect(read(4)).toBe(11 | 0x80);
  });

  it('can be set', () => {
    write(0x0b, 0x82);
    for (const [index, value] of [
      [0, 0x30],
      [2, 0x15],
      [4, 0x08],
      [7, 0x01],
      [8, 0x12],
      [9, 0x30],
    ] as const)
      write(index, value);
    clock.advance(10e9);
    expect(read(0)).toBe(0x30);
    write(0x0b, 0x02);
    clock.advance(2e9);
    expect(time()).toBe('20 30 12 01 08 15 32');
  });

  it('announces updates with UIP', () => {
    expect(read(0x0a)).toBe(0x26);
    clock.advance(1e9 - 200_000);
    expect(read(0x0a)).toBe(0xa6);
    clock.advance(300_000);
    expect(read(0x0a)).toBe(0x26);
  });

  it('interrupts on updates until C is read', () => {
    write(0x0b, 0x12);
    clock.advance(1.01e9);
    expect(irq.level).toBe(true);
    // PF is on as well: the periodic rate is selected, only its interrupt is not enabled.
    expect(read(0x0c)).toBe(0xd0);
    expect(irq.level).toBe(false);
    expect(read(0x0c)).toBe(0);
    clock.advance(1e9);
    expect(irq.level).toBe(true);
  });

  it('interrupts periodically', () => {
    write(0x0a, 0x26);
    write(0x0b, 0x42);
    let seen = 0;
    for (let i = 0; i < 2000; i++) {
      clock.advance(0.5e6);
      if (irq.level) {
        seen++;
        expect(read(0x0c) & 0xc0).toBe(0xc0);
      }
    }
    expect(seen).toBeGreaterThanOrEqual(1000);
    expect(seen).toBeLessThanOrEqual(1024);
  });

  it('interrupts on the alarm, over midnight', () => {
    write(1, 0x00);
    write(3, 0x01);
    write(5, 0x00);
    write(0x0b, 0x22);
    clock.advance(62e9);
    expect(irq.level).toBe(false);
    clock.advance(1.01e9);
    expect(irq.level).toBe(true);
    expect(read(0x0c) & 0xa0).toBe(0xa0);
  });

  it('an alarm of don’t-cares comes every second', () => {
    for (const index of [1, 3, 5]) write(index, 0xff);
    write(0x0b, 0x22);
    clock.advance(1.01e9);
    expect(read(0x0c) & 0x20).toBe(0x20);
    clock.advance(1e9);
    expect(read(0x0c) & 0x20).toBe(0x20);
  });

  it('says how much memory there is', () => {
    expect(read(0x15) | (read(0x16) << 8)).toBe(640);
    expect(read(0x34) | (read(0x35) << 8)).toBe((240 * 1024 * 1024) / 65536);
    expect(read(0x0d)).toBe(0x80);
  });

  it('survives save and restore', () => {
    write(0x50, 0xab);
    write(0x0b, 0x12);
    const other = make();
    other.restore(throughJson(rtc.save()));
    expect(other.save()).toEqual(rtc.save());
    expect(() => other.restore({ cmos: [1] })).toThrow();
  });
});
