import { beforeEach, describe, expect, it } from 'vitest';
import { Pic } from '../../src-core/devices/pic.ts';
import { PortBus } from '../../src-core/machine/bus.ts';
import { throughJson } from './harness.ts';

describe('8259A pair', () => {
  let ports: PortBus;
  let pic: Pic;
  let output: boolean[];

  beforeEach(() => {
    ports = new PortBus();
    output = [];
    pic = new Pic((level) => output.push(level));
    pic.attach(ports);
  });

  function initialize(icw4 = 0x01): void {
    for (const [base, vector, wiring] of [
      [0x20, 0x20, 4],
      [0xa0, 0x28, 2],
    ] as const) {
      ports.write(base, 1, 0x11);
      ports.write(base + 1, 1, vector);
      ports.write(base + 1, 1, wiring);
      ports.write(base + 1, 1, icw4);
      ports.write(base + 1, 1, 0);
    }
  }

  it('delivers an edge once and blocks lower priorities until EOI', () => {
    initialize();
    pic.line(3).set(true);
    expect(pic.output).toBe(true);
    expect(pic.acknowledge()).toBe(0x23);
    expect(pic.output).toBe(false);
    pic.line(4).set(true);
    expect(pic.output).toBe(false);
    pic.line(1).set(true);
    expect(pic.acknowledge()).toBe(0x21);
    ports.write(0x20, 1, 0x20);
    expect(pic.output).toBe(false);
    ports.write(0x20, 1, 0x20);
    expect(pic.acknowledge()).toBe(0x24);
    // IRQ3 is still high, but its edge is used up.
    ports.write(0x20, 1, 0x64);
    expect(pic.output).toBe(false);
  });

  it('cascades the slave and needs both EOIs', () => {
    initialize();
    pic.line(12).set(true);
    expect(pic.acknowledge()).toBe(0x2c);
    ports.write(0x20, 1, 0x0b);
    expect(ports.read(0x20, 1)).toBe(0x04);
    ports.write(0xa0, 1, 0x0b);
    expect(ports.read(0xa0, 1)).toBe(0x10);
    pic.line(12).set(false);
    pic.line(12).set(true);
    expect(pic.output).toBe(false);
    ports.write(0xa0, 1, 0x20);
    expect(pic.output).toBe(false);
    ports.write(0x20, 1, 0x20);
    expect(pic.output).toBe(true);
  });

  it('masks, and shows requests in IRR', () => {
    initialize();
    ports.write(0x21, 1, 0x08);
    pic.line(3).set(true);
    expect(pic.output).toBe(false);
    ports.write(0x20, 1, 0x0a);
    expect(ports.read(0x20, 1)).toBe(0x08);
    ports.write(0x21, 1, 0x00);
    expect(pic.output).toBe(true);
  });

  it('answers a vanished level request with the spurious IRQ7, not in service', () => {
    initialize();
    ports.write(0x4d0, 1, 0x20);
    pic.line(5).set(true);
    pic.line(5).set(false);
    expect(pic.acknowledge()).toBe(0x27);
    ports.write(0x20, 1, 0x0b);
    expect(ports.read(0x20, 1)).toBe(0);
  });

  it('repeats level-triggered requests while the line is high (ELCR)', () => {
    initialize();
    ports.write(0x4d1, 1, 0x02);
    expect(ports.read(0x4d1, 1)).toBe(0x02);
    pic.line(9).set(true);
    expect(pic.acknowledge()).toBe(0x29);
    ports.write(0xa0, 1, 0x20);
    ports.write(0x20, 1, 0x20);
    expect(pic.output).toBe(true);
    pic.line(9).set(false);
    expect(pic.output).toBe(false);
  });

  it('ignores ELCR bits of the system interrupts', () => {
    ports.write(0x4d0, 1, 0xff);
    ports.write(0x4d1, 1, 0xff);
    expect(ports.read(0x4d0, 2)).toBe(0xdef8);
  });

  it('ends interrupts by itself in AEOI mode', () => {
    initialize(0x03);
    pic.line(3).set(true);
    expect(pic.acknowledge()).toBe(0x23);
    pic.line(4).set(true);
    expect(pic.acknowledge()).toBe(0x24);
  });

  it('lets lower priorities through in special mask mode', () => {
    initialize();
    pic.line(1).set(true);
    pic.acknowledge();
    ports.write(0x21, 1, 0x02);
    ports.write(0x20, 1, 0x68);
    pic.line(4).set(true);
    expect(pic.acknowledge()).toBe(0x24);
  });

  it('answers a poll', () => {
    initialize();
    ports.write(0x20, 1, 0x0c);
    expect(ports.read(0x20, 1) & 0x80).toBe(0);
    pic.line(6).set(true);
    ports.write(0x20, 1, 0x0c);
    expect(ports.read(0x20, 1)).toBe(0x86);
    expect(pic.output).toBe(false);
  });

  it('rotates priorities', () => {
    initialize();
    ports.write(0x20, 1, 0xc0 | 3);
    pic.line(3).set(true);
    pic.line(4).set(true);
    expect(pic.acknowledge()).toBe(0x24);
    ports.write(0x20, 1, 0xa0);
    expect(pic.acknowledge()).toBe(0x23);
  });

  it('survives save and restore', () => {
    initialize();
    ports.write(0x4d1, 1, 0x02);
    pic.line(9).set(true);
    pic.line(1).set(true);
    pic.acknowledge();
    const other = new Pic(() => undefined);
    other.restore(throughJson(pic.save()));
    expect(other.save()).toEqual(pic.save());
    expect(() => other.restore({ master: {} })).toThrow();
  });
});
