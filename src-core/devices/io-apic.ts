import { z } from 'zod';
import type { Device, IrqLine, MmioHandler } from '../machine/bus.ts';
import { DELIVERY, type ApicMessage } from './local-apic.ts';
import { u32, u8 } from './state.ts';

export const IO_APIC_BASE = 0xfec00000;
export const IO_APIC_ID = 1;
export const IO_APIC_PINS = 24;

const WINDOW_SELECT = 0x00;
const WINDOW_DATA = 0x10;
const WINDOW_EOI = 0x40;
/** Version 20h has the EOI register; 23 is the highest entry. */
const VERSION = 0x20 | ((IO_APIC_PINS - 1) << 16);

const ENTRY_LEVEL = 0x8000;
const ENTRY_REMOTE_IRR = 0x4000;
const ENTRY_DELIVERY_STATUS = 0x1000;
const ENTRY_MASKED = 0x10000;
const ENTRY_READ_ONLY = ENTRY_REMOTE_IRR | ENTRY_DELIVERY_STATUS;

const stateSchema = z.strictObject({
  select: u8,
  id: u8,
  lines: u32,
  irr: u32,
  low: z.array(u32).length(IO_APIC_PINS),
  high: z.array(u32).length(IO_APIC_PINS),
});

/**
 * I/O APIC (Intel 82093AA data sheet, with the EOI register of later ones): 24 pins with a redirection entry
 * each. Lines are "asserted or not"; the polarity bit is kept but changes nothing.
 */
export class IoApic implements Device, MmioHandler {
  readonly name = 'ioapic';
  readonly #send: (message: ApicMessage) => boolean;
  #select = 0;
  #id = IO_APIC_ID;
  /** Levels of the pins. */
  #lines = 0;
  /** Requests not delivered yet. */
  #irr = 0;
  #low: number[] = [];
  #high: number[] = [];

  /** @param send hands a message to the local APIC; false when nobody accepted it. */
  constructor(send: (message: ApicMessage) => boolean) {
    this.#send = send;
    this.reset();
  }

  /** Input pin (global system interrupt) 0..23. */
  line(pin: number): IrqLine {
    const mask = 1 << pin;
    return {
      set: (level) => {
        if (((this.#lines & mask) !== 0) === level) return;
        if (level) {
          this.#lines |= mask;
          // An edge on a masked pin is lost (82093AA data sheet, 3.4.2, "interrupt mask").
          if (!this.#isLevel(pin) && ((this.#low[pin] ?? 0) & ENTRY_MASKED) !== 0) return;
          this.#irr |= mask;
          this.#service(pin);
        } else {
          this.#lines &= ~mask;
          if (this.#isLevel(pin)) this.#irr &= ~mask;
        }
      },
    };
  }

  #isLevel(pin: number): boolean {
    return ((this.#low[pin] ?? 0) & ENTRY_LEVEL) !== 0;
  }

  #service(pin: number): void {
    const mask = 1 << pin;
    const entry = this.#low[pin] ?? ENTRY_MASKED;
    if ((this.#irr & mask) === 0 || (entry & ENTRY_MASKED) !== 0) return;
    const level = (entry & ENTRY_LEVEL) !== 0;
    if (level && (entry & ENTRY_REMOTE_IRR) !== 0) return;
    const delivery = (entry >> 8) & 7;
    const sent = this.#send({
      destination: (this.#high[pin] ?? 0) >>> 24,
      logical: (entry & 0x800) !== 0,
      delivery,
      vector: entry & 0xff,
      level,
    });
    if (!level) this.#irr &= ~mask;
    else if (sent && delivery <= DELIVERY.lowestPriority) this.#low[pin] = entry | ENTRY_REMOTE_IRR;
  }

  /** EOI of a vector: level-triggered pins that wait for it may ask again. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IO_APIC_PINS; pin++) {
      const entry = this.#low[pin] ?? 0;
      if ((entry & 0xff) !== vector || (entry & ENTRY_REMOTE_IRR) === 0) continue;
      this.#low[pin] = entry & ~ENTRY_REMOTE_IRR;
      this.#service(pin);
    }
  }

  readMmio(offset: number): number {
    if (offset === WINDOW_SELECT) return this.#select;
    return offset === WINDOW_DATA ? this.#readRegister() : 0;
  }

  #readRegister(): number {
    const select = this.#select;
    if (select === 0 || select === 2) return (this.#id & 15) << 24;
    if (select === 1) return VERSION;
    const pin = (select - 0x10) >> 1;
    return ((select & 1) === 0 ? this.#low[pin] : this.#high[pin]) ?? 0;
  }

  writeMmio(offset: number, _size: number, value: number): void {
    if (offset === WINDOW_SELECT) this.#select = value & 0xff;
    else if (offset === WINDOW_DATA) this.#writeRegister(value >>> 0);
    else if (offset === WINDOW_EOI) this.endOfInterrupt(value & 0xff);
  }

  #writeRegister(value: number): void {
    const select = this.#select;
    if (select === 0) {
      this.#id = (value >>> 24) & 15;
      return;
    }
    const pin = (select - 0x10) >> 1;
    if (pin < 0 || pin >= IO_APIC_PINS) return;
    if ((select & 1) !== 0) {
      this.#high[pin] = value;
      return;
    }
    const wasLevel = this.#isLevel(pin);
    let entry = (value & 0x1afff) | ((this.#low[pin] ?? 0) & ENTRY_READ_ONLY);
    // An edge-triggered entry has no remote IRR: switching to edge and back is how software clears a stuck one.
    if ((entry & ENTRY_LEVEL) === 0) entry &= ~ENTRY_REMOTE_IRR;
    this.#low[pin] = entry;
    const mask = 1 << pin;
    if (this.#isLevel(pin)) this.#irr = (this.#irr & ~mask) | (this.#lines & mask);
    else if (wasLevel) this.#irr &= ~mask;
    this.#service(pin);
  }

  reset(): void {
    this.#select = 0;
    this.#id = IO_APIC_ID;
    this.#irr = 0;
    this.#low = new Array<number>(IO_APIC_PINS).fill(ENTRY_MASKED);
    this.#high = new Array<number>(IO_APIC_PINS).fill(0);
  }

  save(): unknown {
    return {
      select: this.#select,
      id: this.#id,
      lines: this.#lines >>> 0,
      irr: this.#irr >>> 0,
      low: [...this.#low],
      high: [...this.#high],
    };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#select = saved.select;
    this.#id = saved.id;
    this.#lines = saved.lines;
    this.#irr = saved.irr;
    this.#low = saved.low;
    this.#high = saved.high;
  }
}
