import { beforeEach, describe, expect, it } from 'vitest';
import { AcpiPm } from '../../src-core/devices/acpi-pm.ts';
import { Apm, HostBridge, IsaBridge, PowerManagementFunction } from '../../src-core/devices/chipset.ts';
import { DebugConsole } from '../../src-core/devices/debug-console.ts';
import { DebugExit } from '../../src-core/devices/debug-exit.ts';
import { I8042 } from '../../src-core/devices/i8042.ts';
import { PciBus } from '../../src-core/devices/pci.ts';
import { A20Gate, Port92 } from '../../src-core/devices/port92.ts';
import { PostCode } from '../../src-core/devices/post-code.ts';
import type { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { makeBus, ManualClock, ProbeLine, throughJson } from './harness.ts';

describe('PCI and ACPI', () => {
  let ports: PortBus;
  let memory: MemoryBus;
  let clock: ManualClock;
  let pci: PciBus;
  let acpi: AcpiPm;
  let sci: ProbeLine;
  let events: string[];

  beforeEach(() => {
    ({ ports, memory } = makeBus());
    clock = new ManualClock();
    sci = new ProbeLine();
    events = [];
    acpi = new AcpiPm({ clock, ports, sci, onPowerOff: () => events.push('off') });
    pci = new PciBus(() => events.push('reset'));
    pci.add(0, 0, new HostBridge(memory));
    pci.add(1, 0, new IsaBridge());
    pci.add(1, 3, new PowerManagementFunction(acpi));
    pci.attach(ports);
    new Apm(acpi).attach(ports);
  });

  function select(device: number, fn: number, register: number): void {
    ports.write(0xcf8, 4, (0x80000000 | (device << 11) | (fn << 8) | (register & 0xfc)) >>> 0);
  }
  function config(device: number, fn: number, register: number, size: number): number {
    select(device, fn, register);
    return ports.read(0xcfc + (register & 3), size);
  }
  function setConfig(device: number, fn: number, register: number, size: number, value: number): void {
    select(device, fn, register);
    ports.write(0xcfc + (register & 3), size, value);
  }

  it('answers configuration mechanism 1', () => {
    ports.write(0xcf8, 4, 0x80000000);
    expect(ports.read(0xcf8, 4)).toBe(0x80000000);
    expect(config(0, 0, 0, 4)).toBe(0x12378086);
    expect(config(0, 0, 0x0a, 2)).toBe(0x0600);
    expect(config(1, 0, 2, 2)).toBe(0x7000);
    expect(config(1, 0, 0x0e, 1)).toBe(0x80);
    expect(config(1, 3, 0, 4)).toBe(0x71138086);
    expect(config(2, 0, 0, 4)).toBe(0xffffffff);
    ports.write(0xcf8, 4, 0);
    expect(ports.read(0xcfc, 4)).toBe(0xffffffff);
  });

  it('keeps read-only bits', () => {
    setConfig(0, 0, 0, 4, 0);
    expect(config(0, 0, 0, 4)).toBe(0x12378086);
    setConfig(0, 0, 0x10, 4, 0xffffffff);
    expect(config(0, 0, 0x10, 4)).toBe(0);
  });

  it('switches the legacy area with the PAM registers', () => {
    memory.installRom(new Uint8Array(0x20000).fill(0xaa));
    expect(memory.read(0xf0000, 1)).toBe(0xaa);
    setConfig(0, 0, 0x59, 1, 0x20);
    memory.write(0xf0000, 1, 0x55);
    expect(memory.read(0xf0000, 1)).toBe(0xaa);
    setConfig(0, 0, 0x59, 1, 0x10);
    expect(memory.read(0xf0000, 1)).toBe(0x55);
    memory.write(0xf0000, 1, 0x66);
    expect(memory.read(0xf0000, 1)).toBe(0x55);
    setConfig(0, 0, 0x59, 1, 0x30);
    memory.write(0xf0000, 1, 0x66);
    expect(memory.read(0xf0000, 1)).toBe(0x66);
    setConfig(0, 0, 0x5f, 1, 0x30);
    memory.write(0xec000, 1, 0x77);
    expect(memory.read(0xec000, 1)).toBe(0x77);
  });

  it('resets through CF9h', () => {
    ports.write(0xcf9, 1, 0x02);
    expect(events).toEqual([]);
    ports.write(0xcf9, 1, 0x06);
    expect(events).toEqual(['reset']);
    expect(ports.read(0xcf9, 1)).toBe(0x06);
  });

  function mapPm(base = 0x600): void {
    setConfig(1, 3, 0x40, 4, base | 1);
    setConfig(1, 3, 0x80, 1, 1);
  }

  it('maps the ACPI block where configuration says, never over others', () => {
    expect(ports.deviceAt(0x600)).toBeUndefined();
    mapPm();
    expect(ports.deviceAt(0x600)).toBe('acpi');
    mapPm(0xb000);
    expect(ports.deviceAt(0x600)).toBeUndefined();
    expect(ports.deviceAt(0xb000)).toBe('acpi');
    mapPm(0xcc0);
    expect(ports.deviceAt(0xcf8)).toBe('pci');
    expect(ports.deviceAt(0xcc0)).toBeUndefined();
  });

  it('counts PM timer ticks', () => {
    mapPm();
    clock.advance(1e9);
    expect(ports.read(0x608, 4)).toBe(3579545);
    clock.advance(4e9);
    expect(ports.read(0x608, 4)).toBe(17897727 % 0x1000000);
  });

  it('raises SCI for the power button once enabled', () => {
    mapPm();
    acpi.powerButton();
    expect(sci.level).toBe(false);
    ports.write(0x602, 2, 0x0100);
    expect(sci.level).toBe(false);
    ports.write(0xb2, 1, 0xf1);
    expect(ports.read(0x604, 2) & 1).toBe(1);
    expect(sci.level).toBe(true);
    expect(ports.read(0x600, 2) & 0x100).toBe(0x100);
    ports.write(0x600, 2, 0x0100);
    expect(sci.level).toBe(false);
  });

  it('raises SCI when the timer carries', () => {
    mapPm();
    acpi.setAcpiMode(true);
    ports.write(0x602, 2, 1);
    clock.advance(2.5e9);
    expect(sci.level).toBe(true);
    ports.write(0x600, 2, 1);
    expect(sci.level).toBe(false);
    clock.advance(2.5e9);
    expect(sci.level).toBe(true);
  });

  it('powers off in S5', () => {
    mapPm();
    ports.write(0x604, 2, 0x0001);
    expect(events).toEqual([]);
    ports.write(0x604, 2, 0x2001);
    expect(events).toEqual(['off']);
  });

  it('survives save and restore', () => {
    mapPm();
    acpi.setAcpiMode(true);
    const saved = throughJson([pci.save(), acpi.save()]) as [unknown, unknown];
    pci.reset();
    acpi.reset();
    expect(ports.deviceAt(0x600)).toBeUndefined();
    acpi.restore(saved[1]);
    pci.restore(saved[0]);
    expect(throughJson([pci.save(), acpi.save()])).toEqual(saved);
    expect(ports.deviceAt(0x600)).toBe('acpi');
    expect(() => pci.restore({})).toThrow();
    expect(() => acpi.restore({})).toThrow();
  });
});

describe('keyboard controller, port 92h and debug ports', () => {
  let ports: PortBus;
  let irq: ProbeLine;
  let a20: boolean[];
  let resets: number;
  let i8042: I8042;
  let port92: Port92;

  beforeEach(() => {
    ({ ports } = makeBus());
    irq = new ProbeLine();
    a20 = [];
    resets = 0;
    const gate = new A20Gate((enabled) => a20.push(enabled));
    i8042 = new I8042(irq, gate, () => resets++);
    port92 = new Port92(gate, () => resets++);
    i8042.attach(ports);
    port92.attach(ports);
  });

  const command = (value: number): void => ports.write(0x64, 1, value);
  const data = (): number => ports.read(0x60, 1);

  it('passes its self-tests', () => {
    command(0xaa);
    expect(ports.read(0x64, 1) & 1).toBe(1);
    expect(data()).toBe(0x55);
    command(0xab);
    expect(data()).toBe(0);
    expect(ports.read(0x64, 1) & 1).toBe(0);
  });

  it('has a keyboard that answers with interrupts', () => {
    command(0x60);
    ports.write(0x60, 1, 0x45);
    command(0x20);
    expect(data()).toBe(0x45);
    irq.edges = 0;
    ports.write(0x60, 1, 0xff);
    expect(irq.level).toBe(true);
    expect(data()).toBe(0xfa);
    expect(data()).toBe(0xaa);
    expect(irq.edges).toBe(2);
    expect(irq.level).toBe(false);
    ports.write(0x60, 1, 0xed);
    ports.write(0x60, 1, 0x02);
    expect([data(), data()]).toEqual([0xfa, 0xfa]);
  });

  it('gates A20 from both sides', () => {
    command(0xd1);
    ports.write(0x60, 1, 0xdd);
    expect(ports.read(0x92, 1)).toBe(0);
    ports.write(0x92, 1, 2);
    command(0xd0);
    expect(data() & 2).toBe(2);
    expect(a20).toEqual([false, true]);
  });

  it('resets from both sides', () => {
    command(0xfe);
    ports.write(0x92, 1, 3);
    ports.write(0x92, 1, 3);
    expect(resets).toBe(2);
  });

  it('never grows without bound', () => {
    for (let i = 0; i < 1000; i++) ports.write(0x60, 1, 0xf4);
    expect((i8042.save() as { output: number[] }).output.length).toBeLessThanOrEqual(64);
  });

  it('survives save and restore', () => {
    command(0xaa);
    ports.write(0x92, 1, 0);
    const saved = throughJson([i8042.save(), port92.save()]) as [unknown, unknown];
    i8042.reset();
    port92.reset();
    i8042.restore(saved[0]);
    port92.restore(saved[1]);
    expect(throughJson([i8042.save(), port92.save()])).toEqual(saved);
    expect(() => i8042.restore({})).toThrow();
    expect(() => port92.restore({})).toThrow();
  });

  it('writes debug output, POST codes and exit values', () => {
    let text = '';
    let exit = -1;
    new DebugConsole(0xe9, (byte) => (text += String.fromCharCode(byte))).attach(ports);
    new DebugExit((value) => (exit = value)).attach(ports);
    const post = new PostCode();
    post.attach(ports);
    ports.write(0xe9, 1, 0x48);
    ports.write(0xe9, 1, 0x69);
    expect(text).toBe('Hi');
    expect(ports.read(0xe9, 1)).toBe(0xe9);
    ports.write(0xf4, 4, 16);
    expect(exit).toBe(16);
    ports.write(0x80, 1, 0x99);
    expect(post.code).toBe(0x99);
    const state = throughJson(post.save());
    post.reset();
    expect(post.code).toBe(0);
    post.restore(state);
    expect(post.code).toBe(0x99);
  });
});
