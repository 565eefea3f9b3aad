import { z } from 'zod';
import type { Device, PortBus } from '../machine/bus.ts';
import { u32, u8 } from './state.ts';

const CONFIG_ADDRESS = 0xcf8;
const RESET_CONTROL = 0xcf9;
const CONFIG_DATA = 0xcfc;
const ADDRESS_ENABLE = 0x80000000;
const CONFIG_SIZE = 256;
/** RCR bit 2: the processor is reset when it goes to 1 (82371SB data sheet, "RC"). */
const RESET_CPU = 0x04;

const stateSchema = z.strictObject({
  address: u32,
  resetControl: u8,
  functions: z.record(z.string(), z.array(u8).length(CONFIG_SIZE)),
});

/** Identity of a PCI function, as its configuration header shows it (PCI Local Bus Specification 3.0, 6.2.1). */
export interface PciIdentity {
  vendor: number;
  device: number;
  revision: number;
  /** Class, subclass and programming interface: 0xCCSSPP. */
  classCode: number;
  multifunction?: boolean;
}

/** One function's 256 bytes of configuration space: what they hold after reset and which bits can be written. */
export class PciFunction {
  readonly config = new Uint8Array(CONFIG_SIZE);
  readonly #initial = new Uint8Array(CONFIG_SIZE);
  readonly #writable = new Uint8Array(CONFIG_SIZE);

  constructor({ vendor, device, revision, classCode, multifunction }: PciIdentity) {
    this.define16(0x00, vendor, 0);
    this.define16(0x02, device, 0);
    // Command: I/O, memory, bus master, parity and SERR enables.
    this.define16(0x04, 0, 0x0147);
    this.define(0x08, revision, 0);
    this.define(0x09, classCode & 0xff, 0);
    this.define(0x0a, (classCode >> 8) & 0xff, 0);
    this.define(0x0b, classCode >> 16, 0);
    this.define(0x0c, 0, 0xff);
    this.define(0x0d, 0, 0xff);
    this.define(0x0e, multifunction === true ? 0x80 : 0, 0);
    this.define(0x3c, 0, 0xff);
  }

  /** Sets a byte's reset value and its writable bits. */
  define(offset: number, initial: number, writable: number): void {
    this.#initial[offset] = initial;
    this.#writable[offset] = writable;
    this.config[offset] = initial;
  }

  define16(offset: number, initial: number, writable: number): void {
    this.define(offset, initial & 0xff, writable & 0xff);
    this.define(offset + 1, initial >> 8, writable >> 8);
  }

  read(offset: number): number {
    return this.config[offset] ?? 0xff;
  }

  write(offset: number, value: number): void {
    const mask = this.#writable[offset] ?? 0;
    this.config[offset] = ((this.config[offset] ?? 0) & ~mask) | (value & mask);
  }

  reset(): void {
    this.config.set(this.#initial);
  }

  /** Configuration changed by a write, a reset or a restored state: put it into effect. */
  apply(): void {
    // A function without side effects has nothing to do.
  }
}

/** PCI bus 0 behind configuration mechanism 1 (ports CF8h and CFCh), and the reset control register CF9h. */
export class PciBus implements Device {
  readonly name = 'pci';
  /** By device << 3 | function. */
  readonly #functions = new Map<number, PciFunction>();
  readonly #onReset: () => void;
  #address = 0;
  #resetControl = 0;

  constructor(onReset: () => void) {
    this.#onReset = onReset;
  }

  add(device: number, functionNumber: number, pciFunction: PciFunction): void {
    this.#functions.set((device << 3) | functionNumber, pciFunction);
  }

  attach(ports: PortBus): void {
    ports.register(CONFIG_ADDRESS, CONFIG_DATA + 3, this.name, {
      readPort: (port, size) => this.#read(port, size),
      writePort: (port, size, value) => this.#write(port, size, value),
    });
  }

  /** The function that CONFIG_ADDRESS selects. Only bus 0 exists. */
  #selected(): PciFunction | undefined {
    if ((this.#address & ADDRESS_ENABLE) === 0 || ((this.#address >> 16) & 0xff) !== 0) return undefined;
    return this.#functions.get((this.#address >> 8) & 0xff);
  }

  #read(port: number, size: number): number {
    if (port < CONFIG_DATA) {
      if (port === CONFIG_ADDRESS && size === 4) return this.#address;
      return port === RESET_CONTROL && size === 1 ? this.#resetControl : 0xffffffff >>> (32 - 8 * size);
    }
    const target = this.#selected();
    let value = 0;
    for (let i = size - 1; i >= 0; i--) {
      value = (value << 8) | (target?.read((this.#address & 0xfc) + (port & 3) + i) ?? 0xff);
    }
    return value >>> 0;
  }

  #write(port: number, size: number, value: number): void {
    if (port === CONFIG_ADDRESS && size === 4) {
      this.#address = value >>> 0;
    } else if (port === RESET_CONTROL && size === 1) {
      const rising = (value & ~this.#resetControl & RESET_CPU) !== 0;
      this.#resetControl = value & 0x0e;
      if (rising) this.#onReset();
    } else if (port >= CONFIG_DATA) {
      const target = this.#selected();
      if (!target) return;
      for (let i = 0; i < size; i++) {
        target.write((this.#address & 0xfc) + (port & 3) + i, (value >>> (8 * i)) & 0xff);
      }
      target.apply();
    }
  }

  reset(): void {
    this.#address = 0;
    this.#resetControl = 0;
    for (const pciFunction of this.#functions.values()) {
      pciFunction.reset();
      pciFunction.apply();
    }
  }

  save(): unknown {
    const functions: Record<string, number[]> = {};
    for (const [key, { config }] of this.#functions) functions[key.toString()] = [...config];
    return { address: this.#address, resetControl: this.#resetControl, functions };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#address = saved.address;
    this.#resetControl = saved.resetControl;
    for (const [key, pciFunction] of this.#functions) {
      const config = saved.functions[key.toString()];
      if (!config) throw new Error(`saved state has no PCI function ${key >> 3}.${key & 7}`);
      pciFunction.config.set(config);
      pciFunction.apply();
    }
  }
}
