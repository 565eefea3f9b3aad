import { z } from 'zod';
import type { Device, InterruptSource, MmioHandler } from '../machine/bus.ts';
import type { GuestClock, Timer } from '../machine/clock.ts';
import { u32, u8 } from './state.ts';
import { TickPattern } from './tick-pattern.ts';

/** Register offsets (Intel SDM volume 3, table 11-1). */
const REG = {
  id: 0x020,
  version: 0x030,
  tpr: 0x080,
  apr: 0x090,
  ppr: 0x0a0,
  eoi: 0x0b0,
  ldr: 0x0d0,
  dfr: 0x0e0,
  spurious: 0x0f0,
  isr: 0x100,
  tmr: 0x180,
  irr: 0x200,
  errorStatus: 0x280,
  icrLow: 0x300,
  icrHigh: 0x310,
  lvtTimer: 0x320,
  lvtThermal: 0x330,
  lvtPerformance: 0x340,
  lvtLint0: 0x350,
  lvtLint1: 0x360,
  lvtError: 0x370,
  initialCount: 0x380,
  currentCount: 0x390,
  divide: 0x3e0,
} as const;

/** Writable bits of the LVT entries, from `lvtTimer` on. */
const LVT_WRITABLE = [0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff] as const;
const LVT_MASKED = 0x10000;
const LVT_TIMER = 0;
const LVT_LINT0 = 3;
const LVT_LINT1 = 4;
const LVT_ERROR = 5;
/** Integrated xAPIC with six LVT entries. */
const VERSION = 0x14 | ((LVT_WRITABLE.length - 1) << 16);

/** Delivery modes (SDM volume 3, 11.5.1). */
export const DELIVERY = {
  fixed: 0,
  lowestPriority: 1,
  smi: 2,
  nmi: 4,
  init: 5,
  startUp: 6,
  extInt: 7,
} as const;

const TIMER_ONE_SHOT = 0;
const TIMER_PERIODIC = 1;
const TIMER_TSC_DEADLINE = 2;

const ERROR_SEND_ILLEGAL = 0x20;
const ERROR_RECEIVE_ILLEGAL = 0x40;
const ERROR_REGISTER = 0x80;

const SPURIOUS_ENABLE = 0x100;

/** Guest ns a tick of the timer's input (the "bus clock") takes before it is divided. */
const BUS_CLOCK_NS = 1;

const words = z.array(u32).length(8);
const stateSchema = z.strictObject({
  enabled: z.boolean(),
  id: u8,
  tpr: u8,
  ldr: u8,
  dfr: u32,
  spurious: u32,
  isr: words,
  tmr: words,
  irr: words,
  errorStatus: u8,
  errorPending: u8,
  icrLow: u32,
  icrHigh: u32,
  lvt: z.array(u32).length(LVT_WRITABLE.length),
  initialCount: u32,
  divide: u8,
  startNs: z.number(),
  tscDeadline: z.string().regex(/^\d{1,20}$/),
  deadline: z.number().nullable(),
  lint0: z.boolean(),
});

/** An interrupt message on its way to the local APIC (from the I/O APIC or an IPI). */
export interface ApicMessage {
  destination: number;
  logical: boolean;
  /** One of DELIVERY. */
  delivery: number;
  vector: number;
  level: boolean;
}

export interface LocalApicOptions {
  clock: GuestClock;
  /** The INTA cycle of the 8259A behind LINT0. */
  acknowledgePic: () => number;
  /** `hasInterrupt` became true, or is still. */
  onInterrupt: () => void;
  onNmi: () => void;
  /** EOI of a level-triggered vector, broadcast to the I/O APIC. */
  onEoi: (vector: number) => void;
  /** Guest ns at which the TSC reaches a value. */
  tscToNs: (tsc: bigint) => number;
  /** The TSC deadline has passed or was disarmed: IA32_TSC_DEADLINE reads 0 again. */
  onTscDeadlineDone: () => void;
}

/** Highest vector in a 256-bit register, or -1. */
function highest(bits: Uint32Array): number {
  for (let index = 7; index >= 0; index--) {
    const word = bits[index] ?? 0;
    if (word !== 0) return index * 32 + 31 - Math.clz32(word);
  }
  return -1;
}

function setBit(bits: Uint32Array, vector: number): void {
  bits[vector >> 5] = (bits[vector >> 5] ?? 0) | (1 << (vector & 31));
}

function clearBit(bits: Uint32Array, vector: number): void {
  bits[vector >> 5] = (bits[vector >> 5] ?? 0) & ~(1 << (vector & 31));
}

function testBit(bits: Uint32Array, vector: number): boolean {
  return ((bits[vector >> 5] ?? 0) & (1 << (vector & 31))) !== 0;
}

/**
 * The vCPU's local APIC in xAPIC mode (Intel SDM volume 3, chapter 11), its ID 0. The 8259A pair hangs on LINT0,
 * which comes up as the firmware of a PC leaves it: ExtINT, unmasked ("virtual wire mode", MultiProcessor
 * Specification 1.4, 3.6.2.2).
 */
export class LocalApic implements Device, MmioHandler, InterruptSource {
  readonly name = 'lapic';
  readonly #options: LocalApicOptions;
  readonly #timer: Timer;
  /** IA32_APIC_BASE bit 11. */
  #enabled = true;
  #id = 0;
  #tpr = 0;
  #ldr = 0;
  #dfr = 0xffffffff;
  #spurious = 0xff;
  readonly #isr = new Uint32Array(8);
  readonly #tmr = new Uint32Array(8);
  readonly #irr = new Uint32Array(8);
  #errorStatus = 0;
  /** Errors since the last write of the error status register. */
  #errorPending = 0;
  #icrLow = 0;
  #icrHigh = 0;
  #lvt: number[] = [];
  #initialCount = 0;
  #divide = 0;
  /** When the count was loaded, guest ns. */
  #startNs = 0;
  #tscDeadline = 0n;
  readonly #tick = new TickPattern();
  #lint0 = false;
  /** Highest requested and in-service vectors, cached: hasInterrupt is asked often. */
  #topRequest = -1;
  #topService = -1;

  constructor(options: LocalApicOptions) {
    this.#options = options;
    this.#timer = options.clock.timer('lapic', (deadlineNs) => this.#fire(deadlineNs));
    this.reset();
  }

  /** IA32_APIC_BASE bit 11. Off, the 8259A is wired straight to the processor. */
  setEnabled(enabled: boolean): void {
    if (enabled === this.#enabled) return;
    const { id, lint0 } = { id: this.#id, lint0: this.#lint0 };
    this.reset();
    this.#id = id;
    this.#lint0 = lint0;
    this.#enabled = enabled;
    this.#notify();
  }

  /** The INT output of the 8259A pair. */
  setLint0(asserted: boolean): void {
    this.#lint0 = asserted;
    if (!asserted) return;
    const entry = this.#lvt[LVT_LINT0] ?? 0;
    if (this.#enabled && (entry & LVT_MASKED) === 0) this.#local(entry);
    this.#notify();
  }

  /** Task priority 0..15, as CR8 shows it. */
  get taskPriority(): number {
    return this.#tpr >> 4;
  }

  set taskPriority(priority: number) {
    this.#tpr = (priority & 15) << 4;
    this.#notify();
  }

  /** Ends a run in progress when there is something to deliver. */
  #notify(): void {
    if (this.hasInterrupt()) this.#options.onInterrupt();
  }

  hasInterrupt(): boolean {
    return this.#acceptsPic() || this.#deliverable();
  }

  #acceptsPic(): boolean {
    if (!this.#lint0) return false;
    if (!this.#enabled) return true;
    const entry = this.#lvt[LVT_LINT0] ?? 0;
    return (entry & LVT_MASKED) === 0 && ((entry >> 8) & 7) === DELIVERY.extInt;
  }

  #deliverable(): boolean {
    return this.#topRequest >= 0 && this.#topRequest >> 4 > this.#processorPriority() >> 4;
  }

  acknowledge(): number {
    if (this.#acceptsPic()) return this.#options.acknowledgePic();
    if (!this.#deliverable()) {
      // The request was dispensed with between INTR and INTA (SDM volume 3, 11.9).
      return this.#enabled && this.#softwareEnabled ? this.#spurious & 0xff : -1;
    }
    const vector = this.#topRequest;
    clearBit(this.#irr, vector);
    setBit(this.#isr, vector);
    this.#topRequest = highest(this.#irr);
    this.#topService = vector;
    return vector;
  }

  get #softwareEnabled(): boolean {
    return (this.#spurious & SPURIOUS_ENABLE) !== 0;
  }

  #processorPriority(): number {
    const service = this.#topService < 0 ? 0 : this.#topService & 0xf0;
    return (this.#tpr & 0xf0) >= service ? this.#tpr : service;
  }

  /** True when a message is for this APIC. */
  #isTarget(destination: number, logical: boolean): boolean {
    if (!logical) return destination === this.#id || destination === 0xff;
    if (destination === 0xff) return true;
    if (this.#dfr >>> 28 === 0xf) return (destination & this.#ldr) !== 0;
    return destination >> 4 === this.#ldr >> 4 && (destination & this.#ldr & 15) !== 0;
  }

  /** Takes a message if it is for this APIC. False when it was not or can't be accepted. */
  deliver(message: ApicMessage): boolean {
    if (!this.#enabled || !this.#isTarget(message.destination, message.logical)) return false;
    switch (message.delivery) {
      case DELIVERY.fixed:
      case DELIVERY.lowestPriority:
        return this.#request(message.vector, message.level);
      case DELIVERY.nmi:
        this.#options.onNmi();
        return true;
      default:
        // SMI has no handler here, INIT and start-up are for other processors, ExtINT comes through LINT0.
        return false;
    }
  }

  #request(vector: number, level: boolean): boolean {
    if (!this.#softwareEnabled) return false;
    if (vector < 16) {
      this.#error(ERROR_RECEIVE_ILLEGAL);
      return false;
    }
    setBit(this.#irr, vector);
    if (level) setBit(this.#tmr, vector);
    else clearBit(this.#tmr, vector);
    if (vector > this.#topRequest) this.#topRequest = vector;
    this.#notify();
    return true;
  }

  /** An LVT entry's interrupt. */
  #local(entry: number): void {
    if ((entry & LVT_MASKED) !== 0) return;
    const delivery = (entry >> 8) & 7;
    if (delivery === DELIVERY.fixed) this.#request(entry & 0xff, (entry & 0x8000) !== 0);
    else if (delivery === DELIVERY.nmi) this.#options.onNmi();
  }

  #error(bits: number): void {
    const fresh = (this.#errorPending & bits) === 0;
    this.#errorPending |= bits;
    const entry = this.#lvt[LVT_ERROR] ?? LVT_MASKED;
    // An illegal vector in the error entry itself must not raise the next error.
    if (fresh && (entry & LVT_MASKED) === 0 && (entry & 0xff) >= 16) this.#request(entry & 0xff, false);
  }

  readMmio(offset: number, size: number): number {
    // Registers are 32 bits wide on 16-byte boundaries; narrower reads get the bytes they name.
    const register = offset & 0xff0;
    const within = offset & 15;
    if (within + size > 4) return 0;
    const value = this.#read(register) >>> (8 * within);
    return size === 4 ? value : value & ((1 << (8 * size)) - 1);
  }

  writeMmio(offset: number, size: number, value: number): void {
    // Anything but an aligned 32-bit write is undefined (SDM volume 3, 11.4.1): ignored.
    if (size === 4 && (offset & 15) === 0) this.#write(offset & 0xff0, value >>> 0);
  }

  #read(register: number): number {
    if (register >= REG.isr && register < REG.isr + 0x80) return this.#isr[(register - REG.isr) >> 4] ?? 0;
    if (register >= REG.tmr && register < REG.tmr + 0x80) return this.#tmr[(register - REG.tmr) >> 4] ?? 0;
    if (register >= REG.irr && register < REG.irr + 0x80) return this.#irr[(register - REG.irr) >> 4] ?? 0;
    if (register >= REG.lvtTimer && register <= REG.lvtError)
      return this.#lvt[(register - REG.lvtTimer) >> 4] ?? 0;
    switch (register) {
      case REG.id:
        return (this.#id << 24) >>> 0;
      case REG.version:
        return VERSION;
      case REG.tpr:
        return this.#tpr;
      case REG.apr:
      case REG.ppr:
        return this.#processorPriority();
      case REG.ldr:
        return (this.#ldr << 24) >>> 0;
      case REG.dfr:
        return this.#dfr;
      case REG.spurious:
        return this.#spurious;
      case REG.errorStatus:
        return this.#errorStatus;
      case REG.icrLow:
        return this.#icrLow;
      case REG.icrHigh:
        return this.#icrHigh;
      case REG.initialCount:
        return this.#timerMode === TIMER_TSC_DEADLINE ? 0 : this.#initialCount;
      case REG.currentCount:
        return this.#currentCount();
      case REG.divide:
        return this.#divide;
      case REG.eoi:
        return 0;
      default:
        this.#error(ERROR_REGISTER);
        return 0;
    }
  }

  #write(register: number, value: number): void {
    if (register >= REG.lvtTimer && register <= REG.lvtError) {
      this.#writeLvt((register - REG.lvtTimer) >> 4, value);
      return;
    }
    switch (register) {
      case REG.id:
        this.#id = value >>> 24;
        break;
      case REG.tpr:
        this.#tpr = value & 0xff;
        this.#notify();
        break;
      case REG.eoi:
        this.#endOfInterrupt();
        break;
      case REG.ldr:
        this.#ldr = value >>> 24;
        break;
      case REG.dfr:
        this.#dfr = (value | 0x0fffffff) >>> 0;
        break;
      case REG.spurious:
        this.#spurious = value & 0x3ff;
        // Software disable masks every LVT entry, and they stay so (SDM volume 3, 11.4.7.2).
        if (!this.#softwareEnabled) this.#lvt = this.#lvt.map((entry) => entry | LVT_MASKED);
        this.#notify();
        break;
      case REG.errorStatus:
        this.#errorStatus = this.#errorPending;
        this.#errorPending = 0;
        break;
      case REG.icrLow:
        this.#icrLow = value & 0xccfff;
        this.#sendIpi();
        break;
      case REG.icrHigh:
        this.#icrHigh = (value & 0xff000000) >>> 0;
        break;
      case REG.initialCount:
        if (this.#timerMode === TIMER_TSC_DEADLINE) break;
        this.#initialCount = value;
        this.#startNs = this.#options.clock.now();
        this.#schedule(this.#startNs);
        break;
      case REG.divide: {
        // The count goes on from where it is, at the new speed.
        const left = this.#currentCount();
        this.#divide = value & 0xb;
        if (this.#initialCount !== 0) {
          this.#startNs = this.#options.clock.now() - (this.#initialCount - left) * this.#tickNs;
        }
        this.#schedule();
        break;
      }
      case REG.version:
      case REG.apr:
      case REG.ppr:
      case REG.currentCount:
        break;
      default:
        if (register < REG.isr || register >= REG.irr + 0x80) this.#error(ERROR_REGISTER);
    }
  }

  #writeLvt(index: number, value: number): void {
    const before = this.#timerMode;
    let entry = value & (LVT_WRITABLE[index] ?? 0);
    if (!this.#softwareEnabled) entry |= LVT_MASKED;
    this.#lvt[index] = entry;
    if (index === LVT_TIMER && this.#timerMode !== before) {
      // Going into or out of TSC-deadline mode disarms the timer (SDM volume 3, 11.5.4.1).
      if (before === TIMER_TSC_DEADLINE || this.#timerMode === TIMER_TSC_DEADLINE) {
        this.#initialCount = 0;
        this.#tscDeadline = 0n;
        this.#options.onTscDeadlineDone();
      }
      this.#schedule();
    }
    if (index === LVT_LINT0) this.#notify();
  }

  #endOfInterrupt(): void {
    const vector = this.#topService;
    if (vector < 0) return;
    clearBit(this.#isr, vector);
    this.#topService = highest(this.#isr);
    if (testBit(this.#tmr, vector)) this.#options.onEoi(vector);
    this.#notify();
  }

  #sendIpi(): void {
    const vector = this.#icrLow & 0xff;
    const delivery = (this.#icrLow >> 8) & 7;
    const shorthand = (this.#icrLow >> 18) & 3;
    if ((delivery === DELIVERY.fixed || delivery === DELIVERY.lowestPriority) && vector < 16) {
      this.#error(ERROR_SEND_ILLEGAL);
      return;
    }
    const all = 0xff;
    if (shorthand === 3) return;
    this.deliver({
      destination: shorthand === 0 ? this.#icrHigh >>> 24 : shorthand === 1 ? this.#id : all,
      logical: shorthand === 0 && (this.#icrLow & 0x800) !== 0,
      delivery,
      vector,
      level: false,
    });
  }

  get #timerMode(): number {
    return ((this.#lvt[LVT_TIMER] ?? 0) >> 17) & 3;
  }

  /** Guest ns a count takes (SDM volume 3, figure 11-10). */
  get #tickNs(): number {
    const code = (this.#divide & 3) | ((this.#divide >> 1) & 4);
    return BUS_CLOCK_NS * (code === 7 ? 1 : 2 << code);
  }

  #currentCount(): number {
    if (this.#initialCount === 0 || this.#timerMode === TIMER_TSC_DEADLINE) return 0;
    const elapsed = Math.floor((this.#options.clock.now() - this.#startNs) / this.#tickNs);
    if (this.#timerMode === TIMER_PERIODIC) return this.#initialCount - (elapsed % this.#initialCount);
    return Math.max(0, this.#initialCount - elapsed);
  }

  /** Arms or disarms the timer for the registers as they are at guest time `now`. */
  #schedule(now = this.#options.clock.now()): void {
    if (this.#timerMode === TIMER_TSC_DEADLINE) {
      if (this.#tscDeadline === 0n) this.#timer.disarm();
      else {
        const deadline = this.#options.tscToNs(this.#tscDeadline);
        this.#timer.arm(deadline, this.#tick.slackOf(deadline));
      }
      return;
    }
    const period = this.#initialCount * this.#tickNs;
    if (period === 0) {
      this.#timer.disarm();
      return;
    }
    const elapsed = now - this.#startNs;
    if (this.#timerMode === TIMER_PERIODIC) {
      this.#timer.arm(this.#startNs + (Math.floor(elapsed / period) + 1) * period);
    } else if (
      this.#timerMode === TIMER_ONE_SHOT &&
      // A deadline that is past and still armed has not fired yet: it must, once.
      (elapsed < period || this.#timer.deadlineNs !== undefined)
    ) {
      this.#timer.arm(this.#startNs + period);
    } else {
      this.#timer.disarm();
    }
  }

  #fire(deadlineNs: number): void {
    if (this.#timerMode === TIMER_TSC_DEADLINE) {
      this.#tick.passed(deadlineNs);
      this.#tscDeadline = 0n;
      this.#options.onTscDeadlineDone();
    }
    this.#local((this.#lvt[LVT_TIMER] ?? LVT_MASKED) & ~0x700);
    this.#schedule();
  }

  /** IA32_TSC_DEADLINE was written. Outside of TSC-deadline mode that has no effect. */
  setTscDeadline(tsc: bigint): void {
    if (this.#timerMode !== TIMER_TSC_DEADLINE) {
      this.#options.onTscDeadlineDone();
      return;
    }
    this.#tscDeadline = tsc;
    this.#schedule();
  }

  /** The TSC was written: a pending deadline lies elsewhere in time now. */
  tscChanged(): void {
    if (this.#timerMode === TIMER_TSC_DEADLINE) this.#schedule();
  }

  reset(): void {
    this.#enabled = true;
    this.#id = 0;
    this.#tpr = 0;
    this.#ldr = 0;
    this.#dfr = 0xffffffff;
    this.#spurious = 0xff;
    this.#isr.fill(0);
    this.#tmr.fill(0);
    this.#irr.fill(0);
    this.#errorStatus = 0;
    this.#errorPending = 0;
    this.#icrLow = 0;
    this.#icrHigh = 0;
    this.#lvt = LVT_WRITABLE.map(() => LVT_MASKED);
    this.#lvt[LVT_LINT0] = DELIVERY.extInt << 8;
    this.#lvt[LVT_LINT1] = LVT_MASKED | (DELIVERY.nmi << 8);
    this.#initialCount = 0;
    this.#divide = 0;
    this.#startNs = 0;
    this.#tscDeadline = 0n;
    this.#tick.reset();
    this.#timer.disarm();
    this.#topRequest = -1;
    this.#topService = -1;
  }

  save(): unknown {
    return {
      enabled: this.#enabled,
      id: this.#id,
      tpr: this.#tpr,
      ldr: this.#ldr,
      dfr: this.#dfr,
      spurious: this.#spurious,
      isr: [...this.#isr],
      tmr: [...this.#tmr],
      irr: [...this.#irr],
      errorStatus: this.#errorStatus,
      errorPending: this.#errorPending,
      icrLow: this.#icrLow,
      icrHigh: this.#icrHigh,
      lvt: [...this.#lvt],
      initialCount: this.#initialCount,
      divide: this.#divide,
      startNs: this.#startNs,
      tscDeadline: this.#tscDeadline.toString(),
      deadline: this.#timer.deadlineNs ?? null,
      lint0: this.#lint0,
    };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#enabled = saved.enabled;
    this.#id = saved.id;
    this.#tpr = saved.tpr;
    this.#ldr = saved.ldr;
    this.#dfr = saved.dfr;
    this.#spurious = saved.spurious;
    this.#isr.set(saved.isr);
    this.#tmr.set(saved.tmr);
    this.#irr.set(saved.irr);
    this.#errorStatus = saved.errorStatus;
    this.#errorPending = saved.errorPending;
    this.#icrLow = saved.icrLow;
    this.#icrHigh = saved.icrHigh;
    this.#lvt = saved.lvt;
    this.#initialCount = saved.initialCount;
    this.#divide = saved.divide;
    this.#startNs = saved.startNs;
    this.#tscDeadline = BigInt(saved.tscDeadline);
    this.#lint0 = saved.lint0;
    this.#topRequest = highest(this.#irr);
    this.#topService = highest(this.#isr);
    if (saved.deadline === null) this.#timer.disarm();
    else this.#timer.arm(saved.deadline);
    this.#notify();
  }
}
