import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import type { GuestClock, Timer } from '../machine/clock.ts';
import { deadline, u16, u8 } from './state.ts';

/**
 * PIT ticks and guest time. The input clock is 14.31818 MHz / 12 = 105/88 MHz, so that 105 ticks take exactly
 * 88 us and no error adds up.
 */
const TICKS = 105;
const NS = 88_000;

/** Whole ticks that have passed at a guest time in ns. */
export function pitTicksAt(ns: number): number {
  const rest = ns % NS;
  return ((ns - rest) / NS) * TICKS + Math.floor((rest * TICKS) / NS);
}

/** The first guest ns at which `pitTicksAt` gives `ticks`. */
export function pitTimeOf(ticks: number): number {
  const rest = ticks % TICKS;
  return ((ticks - rest) / TICKS) * NS + Math.ceil((rest * NS) / TICKS);
}

const channelSchema = z.strictObject({
  /** Counting mode 0..5. */
  mode: z.int().min(0).max(5),
  bcd: z.boolean(),
  /** Read/write mode of the control word: 1 low byte, 2 high byte, 3 low then high. */
  access: z.int().min(1).max(3),
  /** The count in use, 1..65536 (10000 in BCD). 0 while none was loaded since the control word. */
  count: z.int().min(0).max(0x10000),
  /** A count that takes over at the end of the period (modes 2, 3) or at the next trigger (modes 1, 5). */
  nextCount: z.int().min(0).max(0x10000),
  /** Tick at which the count in use was loaded. */
  start: z.number(),
  /** Tick at which counting stopped because of the gate, or null. */
  stoppedAt: z.number().nullable(),
  /** Modes 1 and 5: the gate has triggered. */
  triggered: z.boolean(),
  gate: z.boolean(),
  writeLow: u8.nullable(),
  readHigh: z.boolean(),
  latch: u16.nullable(),
  statusLatch: u8.nullable(),
});
type ChannelState = z.infer<typeof channelSchema>;
const stateSchema = z.strictObject({
  channels: z.tuple([channelSchema, channelSchema, channelSchema]),
  speakerData: z.boolean(),
  refresh: z.boolean(),
  deadline,
});

function powerOnState(gate: boolean): ChannelState {
  return {
    mode: 3,
    bcd: false,
    access: 3,
    count: 0,
    nextCount: 0,
    start: 0,
    stoppedAt: null,
    triggered: false,
    gate,
    writeLow: null,
    readHigh: false,
    latch: null,
    statusLatch: null,
  };
}

function toBcd(value: number): number {
  return (
    (value % 10) |
    ((Math.floor(value / 10) % 10) << 4) |
    ((Math.floor(value / 100) % 10) << 8) |
    ((Math.floor(value / 1000) % 10) << 12)
  );
}

function fromBcd(value: number): number {
  return (value & 15) + ((value >> 4) & 15) * 10 + ((value >> 8) & 15) * 100 + ((value >> 12) & 15) * 1000;
}

/** One counter of the 8254 (Intel 8254 data sheet), computed from the tick number instead of being clocked. */
class PitChannel {
  state: ChannelState;

  constructor(gate: boolean) {
    this.state = powerOnState(gate);
  }

  #isPeriodic(): boolean {
    return this.state.mode === 2 || this.state.mode === 3;
  }

  #isTriggered(): boolean {
    return this.state.mode === 1 || this.state.mode === 5;
  }

  /** Ticks counted since the load. */
  #elapsed(now: number): number {
    return (this.state.stoppedAt ?? now) - this.state.start;
  }

  /** Takes a pending count over when the period it waits for has ended. */
  advance(now: number): void {
    const { state } = this;
    if (!this.#isPeriodic() || state.nextCount === 0 || state.count === 0) return;
    if (this.#elapsed(now) >= state.count) {
      state.start += state.count;
      state.count = state.nextCount;
      state.nextCount = 0;
    }
  }

  /** The OUT pin. */
  output(now: number): boolean {
    this.advance(now);
    const { state } = this;
    if (state.count === 0) return state.mode !== 0;
    const elapsed = this.#elapsed(now);
    switch (state.mode) {
      case 0:
        return elapsed >= state.count;
      case 1:
        return !state.triggered || elapsed >= state.count;
      case 2:
        return !state.gate || elapsed % state.count !== state.count - 1;
      case 3:
        return !state.gate || elapsed % state.count < Math.ceil(state.count / 2);
      case 4:
        return elapsed !== state.count;
      default:
        return !state.triggered || elapsed !== state.count;
    }
  }

  /** The first tick after `now` at which OUT rises, or Infinity. */
  nextRise(now: number): number {
    this.advance(now);
    const { state } = this;
    if (state.count === 0 || state.stoppedAt !== null) return Infinity;
    const elapsed = this.#elapsed(now);
    switch (state.mode) {
      case 0:
        return elapsed < state.count ? state.start + state.count : Infinity;
      case 1:
        return state.triggered && elapsed < state.count ? state.start + state.count : Infinity;
      case 2:
      case 3: {
        if (!state.gate) return Infinity;
        return state.start + (Math.floor(elapsed / state.count) + 1) * state.count;
      }
      default:
        if (state.mode === 5 && !state.triggered) return Infinity;
        return elapsed <= state.count ? state.start + state.count + 1 : Infinity;
    }
  }

  /** The counting element as the guest reads it. */
  #counter(now: number): number {
    this.advance(now);
    const { state } = this;
    const wrap = state.bcd ? 10000 : 0x10000;
    let value: number;
    if (state.count === 0) value = 0;
    else if (this.#isTriggered() && !state.triggered) value = state.count;
    else {
      const elapsed = this.#elapsed(now);
      if (state.mode === 2) value = state.count - (elapsed % state.count);
      else if (state.mode === 3) {
        const phase = elapsed % state.count;
        const half = Math.ceil(state.count / 2);
        value = (state.count & ~1) - 2 * (phase < half ? phase : phase - half);
      } else value = (((state.count - elapsed) % wrap) + wrap) % wrap;
    }
    value %= wrap;
    return state.bcd ? toBcd(value) : value;
  }

  control(value: number): void {
    const { state } = this;
    const access = (value >> 4) & 3;
    const mode = (value >> 1) & 7;
    this.state = {
      ...powerOnState(state.gate),
      mode: mode > 5 ? mode - 4 : mode,
      bcd: (value & 1) !== 0,
      access,
    };
  }

  latchCount(now: number): void {
    this.state.latch ??= this.#counter(now);
  }

  latchStatus(now: number): void {
    const { state } = this;
    const out = this.output(now) ? 0x80 : 0;
    const nullCount = state.count === 0 || state.nextCount !== 0 ? 0x40 : 0;
    state.statusLatch ??= out | nullCount | (state.access << 4) | (state.mode << 1) | (state.bcd ? 1 : 0);
  }

  read(now: number): number {
    const { state } = this;
    if (state.statusLatch !== null) {
      const status = state.statusLatch;
      state.statusLatch = null;
      return status;
    }
    const value = state.latch ?? this.#counter(now);
    if (state.access === 1) {
      state.latch = null;
      return value & 0xff;
    }
    if (state.access === 2) {
      state.latch = null;
      return value >> 8;
    }
    state.readHigh = !state.readHigh;
    if (state.readHigh) return value & 0xff;
    state.latch = null;
    return value >> 8;
  }

  write(value: number, now: number): void {
    const { state } = this;
    if (state.access === 1) this.#load(value, now);
    else if (state.access === 2) this.#load(value << 8, now);
    else if (state.writeLow === null) {
      state.writeLow = value;
      // Mode 0 stops and drives OUT low as soon as the first byte is written.
      if (state.mode === 0) state.count = 0;
    } else {
      const low = state.writeLow;
      state.writeLow = null;
      this.#load((value << 8) | low, now);
    }
  }

  #load(raw: number, now: number): void {
    const { state } = this;
    const value = state.bcd ? fromBcd(raw) : raw;
    const count = value === 0 ? (state.bcd ? 10000 : 0x10000) : value;
    this.advance(now);
    if (state.count === 0 || state.mode === 0 || state.mode === 4) {
      state.count = count;
      state.nextCount = 0;
      state.start = now;
      state.stoppedAt = state.gate || this.#isTriggered() ? null : now;
    } else {
      state.nextCount = count;
    }
  }

  setGate(gate: boolean, now: number): void {
    const { state } = this;
    if (gate === state.gate) return;
    this.advance(now);
    state.gate = gate;
    if (!gate) {
      if (!this.#isTriggered()) state.stoppedAt = now;
      return;
    }
    if (state.mode === 0 || state.mode === 4) {
      // Counting goes on from where it stopped.
      if (state.stoppedAt !== null) state.start += now - state.stoppedAt;
    } else {
      // A rising gate loads the count and starts over.
      if (state.nextCount !== 0) state.count = state.nextCount;
      state.nextCount = 0;
      state.start = now;
      state.triggered = true;
    }
    state.stoppedAt = null;
  }
}

/**
 * 8254 interval timer at ports 40h-43h and the speaker and NMI status port 61h. Counter 0 drives IRQ0,
 * counter 1 was the DRAM refresh and counter 2 the speaker, gated by port 61h bit 0.
 */
export class Pit implements Device {
  readonly name = 'pit';
  readonly #channels = [new PitChannel(true), new PitChannel(true), new PitChannel(false)] as const;
  readonly #clock: GuestClock;
  readonly #irq: IrqLine;
  readonly #timer: Timer;
  #speakerData = false;
  #refresh = false;

  /** @param irq IRQ0. */
  constructor(clock: GuestClock, irq: IrqLine) {
    this.#clock = clock;
    this.#irq = irq;
    this.#timer = clock.timer('pit', () => this.#fire());
  }

  attach(ports: PortBus): void {
    ports.register(0x40, 0x43, this.name, {
      byteOnly: true,
      readPort: (port) => this.#read(port & 3),
      writePort: (port, _size, value) => this.#write(port & 3, value),
    });
    ports.register(0x61, 0x61, this.name, {
      byteOnly: true,
      readPort: () => this.#readControl(),
      writePort: (_port, _size, value) => {
        this.#speakerData = (value & 2) !== 0;
        this.#channels[2].setGate((value & 1) !== 0, this.#now());
      },
    });
  }

  #now(): number {
    return pitTicksAt(this.#clock.now());
  }

  #channel(index: number): PitChannel {
    return this.#channels[index as 0 | 1 | 2];
  }

  #read(register: number): number {
    return register === 3 ? 0xff : this.#channel(register).read(this.#now());
  }

  #write(register: number, value: number): void {
    const now = this.#now();
    if (register < 3) this.#channel(register).write(value, now);
    else if (value >= 0xc0) {
      for (let index = 0; index < 3; index++) {
        if ((value & (2 << index)) === 0) continue;
        if ((value & 0x20) === 0) this.#channel(index).latchCount(now);
        if ((value & 0x10) === 0) this.#channel(index).latchStatus(now);
      }
      return;
    } else {
      const channel = this.#channel(value >> 6);
      if ((value & 0x30) === 0) {
        channel.latchCount(now);
        return;
      }
      channel.control(value);
    }
    this.#schedule();
  }

  /** Port 61h: bits 0 and 1 as written, bit 4 toggles with refresh, bit 5 is OUT of counter 2. */
  #readControl(): number {
    const channel = this.#channels[2];
    this.#refresh = !this.#refresh;
    return (
      (channel.state.gate ? 1 : 0) |
      (this.#speakerData ? 2 : 0) |
      (this.#refresh ? 0x10 : 0) |
      (channel.output(this.#now()) ? 0x20 : 0)
    );
  }

  /** Sets IRQ0 to OUT of counter 0 and waits for the next time it rises. */
  #schedule(): void {
    const now = this.#now();
    const channel = this.#channels[0];
    this.#irq.set(channel.output(now));
    const rise = channel.nextRise(now);
    if (rise === Infinity) this.#timer.disarm();
    else this.#timer.arm(pitTimeOf(rise));
  }

  #fire(): void {
    // OUT may have been low for a tick only, or for many periods if the host was late: one edge in any case.
    this.#irq.set(false);
    this.#irq.set(true);
    this.#schedule();
  }

  reset(): void {
    this.#channels[0].state = powerOnState(true);
    this.#channels[1].state = powerOnState(true);
    this.#channels[2].state = powerOnState(false);
    this.#speakerData = false;
    this.#refresh = false;
    this.#timer.disarm();
    // OUT idles high, so that programming a periodic mode makes no edge of its own.
    this.#irq.set(true);
  }

  save(): unknown {
    return {
      channels: this.#channels.map(({ state }) => ({ ...state })),
      speakerData: this.#speakerData,
      refresh: this.#refresh,
      deadline: this.#timer.deadlineNs ?? null,
    };
  }

  restore(state: unknown): void {
    const { channels, speakerData, refresh, deadline: due } = stateSchema.parse(state);
    channels.forEach((saved, index) => {
      this.#channel(index).state = saved;
    });
    this.#speakerData = speakerData;
    this.#refresh = refresh;
    this.#schedule();
    // An edge may be due at this very instant, or overdue: the saved deadline knows.
    if (due !== null) this.#timer.arm(due);
  }
}
