import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import type { GuestClock, Timer } from '../machine/clock.ts';
import { u16 } from './state.ts';

/** Offsets in the PM block (82371AB data sheet, 7.2; ACPI specification 4.8.3). */
const STATUS = 0;
const ENABLE = 2;
const CONTROL = 4;
const TIMER = 8;
/** Bytes of I/O space the block takes. */
const SIZE = 64;

const TIMER_CARRY = 0x0001;
const GLOBAL = 0x0020;
const POWER_BUTTON = 0x0100;
const RTC_ALARM = 0x0400;
const STATUS_BITS = TIMER_CARRY | GLOBAL | POWER_BUTTON | 0x0200 | RTC_ALARM | 0x8000;
const ENABLE_BITS = TIMER_CARRY | GLOBAL | POWER_BUTTON | 0x0200 | RTC_ALARM;
const SCI_ENABLE = 0x0001;
const SLEEP_ENABLE = 0x2000;

/** SLP_TYP that powers off, as the DSDT's \_S5 says. */
export const SLEEP_TYPE_S5 = 0;
/** Where the firmware places the block. */
export const PM_BASE = 0x600;

/** 3.579545 MHz = 315/88 MHz exactly: 315 ticks take 88 us. */
const TICKS = 315;
const NS = 88_000;
/** The timer is 24 bits wide; its carry status comes when bit 23 changes. */
const CARRY_TICKS = 0x800000;

function ticksAt(ns: number): number {
  const rest = ns % NS;
  return ((ns - rest) / NS) * TICKS + Math.floor((rest * TICKS) / NS);
}

function timeOf(ticks: number): number {
  const rest = ticks % TICKS;
  return ((ticks - rest) / TICKS) * NS + Math.ceil((rest * NS) / TICKS);
}

const stateSchema = z.strictObject({
  status: u16,
  enable: u16,
  control: u16,
  base: u16,
  carryTicks: z.number(),
});

export interface AcpiPmOptions {
  clock: GuestClock;
  ports: PortBus;
  /** The system control interrupt, IRQ9, level-triggered. */
  sci: IrqLine;
  /** The guest entered S5. */
  onPowerOff: () => void;
}

/** ACPI power management of the PIIX4: PM1 event and control registers with the power button, and the PM timer. */
export class AcpiPm implements Device {
  readonly name = 'acpi';
  readonly #options: AcpiPmOptions;
  readonly #timer: Timer;
  #status = 0;
  #enable = 0;
  #control = 0;
  /** I/O address of the block, 0 when it is not mapped. */
  #base = 0;
  /** PM timer ticks up to which carries have been noted. */
  #carryTicks = 0;

  constructor(options: AcpiPmOptions) {
    this.#options = options;
    this.#timer = options.clock.timer('acpi', () => this.#update());
  }

  /**
   * Maps the block at an I/O address (PMBASE with PMREGMISC.PMIOSE), 0 for nowhere. Where it would cover another
   * device's ports it stays unmapped: a guest may ask for anything.
   */
  map(base: number): void {
    if (base === this.#base) return;
    const { ports } = this.#options;
    if (this.#base !== 0) ports.unregister(this.#base, this.#base + SIZE - 1);
    this.#base = 0;
    if (base === 0) return;
    for (let port = base; port < base + SIZE; port++) if (ports.deviceAt(port) !== undefined) return;
    this.#base = base;
    ports.register(base, base + SIZE - 1, this.name, {
      readPort: (port, size) => this.#read(port - base, size),
      writePort: (port, size, value) => this.#write(port - base, size, value),
    });
  }

  /** What writing F1h (on) or F0h (off) to the APM control port makes firmware do: SCI instead of SMI. */
  setAcpiMode(on: boolean): void {
    this.#control = on ? this.#control | SCI_ENABLE : this.#control & ~SCI_ENABLE;
    this.#update();
  }

  /** Someone pressed the power button. */
  powerButton(): void {
    this.#status |= POWER_BUTTON;
    this.#update();
  }

  #word(offset: number): number {
    this.#collectCarry();
    if (offset === STATUS) return this.#status;
    if (offset === ENABLE) return this.#enable;
    return offset === CONTROL ? this.#control : 0;
  }

  #read(offset: number, size: number): number {
    if (offset >= TIMER && offset < TIMER + 4) {
      const ticks = ticksAt(this.#options.clock.now()) % 0x1000000;
      return ticks >>> (8 * (offset - TIMER));
    }
    let value = 0;
    for (let at = offset; at < offset + size; at++) {
      value |= ((this.#word(at & ~1) >> (8 * (at & 1))) & 0xff) << (8 * (at - offset));
    }
    return value >>> 0;
  }

  #write(offset: number, size: number, value: number): void {
    if (size === 4) {
      this.#write(offset, 2, value & 0xffff);
      this.#write(offset + 2, 2, value >>> 16);
      return;
    }
    const register = offset & ~1;
    const shift = 8 * (offset & 1);
    const mask = (size === 1 ? 0xff : 0xffff) << shift;
    const bits = (value << shift) & mask;
    switch (register) {
      case STATUS:
        this.#collectCarry();
        this.#status &= ~(bits & STATUS_BITS);
        break;
      case ENABLE:
        this.#collectCarry();
        this.#enable = ((this.#enable & ~mask) | bits) & ENABLE_BITS;
        break;
      case CONTROL:
        this.#control = (this.#control & ~mask) | (bits & ~SLEEP_ENABLE);
        if ((bits & SLEEP_ENABLE) !== 0 && ((this.#control >> 10) & 7) === SLEEP_TYPE_S5) {
          this.#options.onPowerOff();
        }
        break;
      default:
        return;
    }
    this.#update();
  }

  /** Notes the carries of the PM timer since the last look. */
  #collectCarry(): void {
    const ticks = ticksAt(this.#options.clock.now());
    if (Math.floor(ticks / CARRY_TICKS) !== Math.floor(this.#carryTicks / CARRY_TICKS)) {
      this.#status |= TIMER_CARRY;
    }
    this.#carryTicks = ticks;
  }

  #update(): void {
    this.#collectCarry();
    const asserted = (this.#control & SCI_ENABLE) !== 0 && (this.#status & this.#enable) !== 0;
    this.#options.sci.set(asserted);
    if ((this.#enable & TIMER_CARRY) === 0) this.#timer.disarm();
    else this.#timer.arm(timeOf((Math.floor(this.#carryTicks / CARRY_TICKS) + 1) * CARRY_TICKS));
  }

  /** Power-on: unmapped until configuration space says where, and not in ACPI mode yet. */
  reset(): void {
    this.map(0);
    this.#status = 0;
    this.#enable = 0;
    this.#control = 0;
    this.#carryTicks = ticksAt(this.#options.clock.now());
    this.#update();
  }

  save(): unknown {
    this.#collectCarry();
    return {
      status: this.#status,
      enable: this.#enable,
      control: this.#control,
      base: this.#base,
      carryTicks: this.#carryTicks,
    };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#status = saved.status;
    this.#enable = saved.enable;
    this.#control = saved.control;
    this.#carryTicks = saved.carryTicks;
    this.map(saved.base);
    this.#update();
  }
}
