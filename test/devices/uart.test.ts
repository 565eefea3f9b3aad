import { beforeEach, describe, expect, it } from 'vitest';
import { Uart } from '../../src-core/devices/uart.ts';
import { PortBus } from '../../src-core/machine/bus.ts';
import { ManualClock, ProbeLine, throughJson } from './harness.ts';

const BASE = 0x3f8;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('16550A', () => {
  let ports: PortBus;
  let clock: ManualClock;
  let irq: ProbeLine;
  let uart: Uart;
  let sent: string;

  function make(): Uart {
    return new Uart({
      name: 'uart0',
      base: BASE,
      clock,
      irq,
      transmit: (byte) => {
        sent += String.fromCharCode(byte);
      },
    });
  }

  beforeEach(() => {
    ports = new PortBus();
    clock = new ManualClock();
    irq = new ProbeLine();
    sent = '';
    uart = make();
    uart.attach(ports);
  });

  const read = (register: number): number => ports.read(BASE + register, 1);
  const write = (register: number, value: number): void => ports.write(BASE + register, 1, value);

  it('sends at once and is ready again', () => {
    expect(read(5)).toBe(0x60);
    write(0, 0x41);
    write(0, 0x42);
    expect(sent).toBe('AB');
    expect(read(5)).toBe(0x60);
  });

  it('passes the probes of an 8250 driver', () => {
    write(1, 0);
    expect(read(1)).toBe(0);
    write(1, 0x0f);
    expect(read(1)).toBe(0x0f);
    write(1, 0xff);
    expect(read(1)).toBe(0x0f);
    write(1, 0);
    write(4, 0x1a);
    expect(read(6) & 0xf0).toBe(0x90);
    write(4, 0);
    write(2, 0x01);
    expect(read(2) >> 6).toBe(3);
    write(3, 0x80);
    write(0, 0x34);
    write(1, 0x12);
    expect(read(0) | (read(1) << 8)).toBe(0x1234);
    write(3, 0x03);
    write(7, 0xa5);
    expect(read(7)).toBe(0xa5);
  });

  it('raises THRE when it is enabled, clears it when IIR is read, and raises it again after a byte', () => {
    write(4, 0x08);
    write(1, 0x02);
    expect(irq.level).toBe(true);
    expect(read(2)).toBe(0x02);
    expect(irq.level).toBe(false);
    expect(read(2)).toBe(0x01);
    write(0, 0x41);
    expect(irq.level).toBe(true);
    write(1, 0x00);
    expect(irq.level).toBe(false);
    write(1, 0x02);
    expect(irq.level).toBe(true);
  });

  it('keeps the interrupt to itself without OUT2', () => {
    write(1, 0x02);
    expect(irq.level).toBe(false);
    write(4, 0x08);
    expect(irq.level).toBe(true);
  });

  it('receives at line speed, one by one without FIFO', () => {
    write(4, 0x08);
    write(1, 0x01);
    uart.receive(bytes('xy'));
    expect(irq.level).toBe(false);
    clock.advance(1e6);
    expect(read(5) & 1).toBe(1);
    expect(read(2)).toBe(0x04);
    expect(String.fromCharCode(read(0))).toBe('x');
    expect(irq.level).toBe(false);
    clock.advance(1e6);
    expect(String.fromCharCode(read(0))).toBe('y');
    expect(read(5) & 1).toBe(0);
    expect(uart.receiveBacklog).toBe(0);
  });

  it('fills the FIFO to the trigger level, then times out on the rest', () => {
    write(2, 0x81);
    write(4, 0x08);
    write(1, 0x01);
    uart.receive(bytes('0123456789'));
    clock.advance(8 * 86_806 + 1000);
    expect(read(2)).toBe(0xc4);
    for (let i = 0; i < 8; i++) read(0);
    clock.advance(10 * 86_806);
    expect(irq.level).toBe(true);
    expect(read(2)).toBe(0xcc);
    expect(String.fromCharCode(read(0), read(0))).toBe('89');
    expect(irq.level).toBe(false);
  });

  it('loses nothing when the guest is slow', () => {
    write(2, 0x01);
    const text = 'a'.repeat(100) + 'b';
    uart.receive(bytes(text));
    let got = '';
    for (let i = 0; i < 200; i++) {
      clock.advance(30 * 86_806);
      while ((read(5) & 1) !== 0) got += String.fromCharCode(read(0));
    }
    expect(got).toBe(text);
  });

  it('loops back, with overrun', () => {
    write(4, 0x10);
    write(0, 0x55);
    write(0, 0x66);
    expect(sent).toBe('');
    expect(read(5)).toBe(0x63);
    expect(read(5)).toBe(0x61);
    expect(read(0)).toBe(0x55);
  });

  it('reports modem changes in loopback', () => {
    write(4, 0x10);
    read(6);
    write(4, 0x1f);
    expect(read(6)).toBe(0xfb);
    write(4, 0x1b);
    expect(read(6)).toBe(0xb4);
  });

  it('holds bytes while the host takes none', () => {
    write(2, 0x01);
    write(4, 0x08);
    write(1, 0x02);
    read(2);
    uart.setTransmitReady(false);
    for (let i = 0; i < 5; i++) write(0, 0x30 + i);
    expect(read(5) & 0x60).toBe(0);
    expect(irq.level).toBe(false);
    expect(sent).toBe('');
    uart.setTransmitReady(true);
    expect(sent).toBe('01234');
    expect(irq.level).toBe(true);
    expect(read(5)).toBe(0x60);
  });

  it('survives save and restore, input included', () => {
    write(2, 0x01);
    write(1, 0x01);
    write(4, 0x08);
    uart.receive(bytes('hello'));
    clock.advance(200_000);
    const other = make();
    other.restore(throughJson(uart.save()));
    expect(other.save()).toEqual(uart.save());
    expect(() => other.restore({ ier: 700 })).toThrow();
  });
});
