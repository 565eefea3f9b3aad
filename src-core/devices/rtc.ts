import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import type { GuestClock, Timer } from '../machine/clock.ts';
import { u8 } from './state.ts';

/** Registers of the MC146818 (Motorola MC146818A data sheet) and of the PC's CMOS memory behind it. */
const REG = {
  seconds: 0x00,
  secondsAlarm: 0x01,
  minutes: 0x02,
  minutesAlarm: 0x03,
  hours: 0x04,
  hoursAlarm: 0x05,
  weekday: 0x06,
  day: 0x07,
  month: 0x08,
  year: 0x09,
  a: 0x0a,
  b: 0x0b,
  c: 0x0c,
  d: 0x0d,
  century: 0x32,
} as const;

/** Registers that hold the time, and stand still while B.SET is on. */
const TIME_REGISTERS: readonly number[] = [
  REG.seconds,
  REG.minutes,
  REG.hours,
  REG.weekday,
  REG.day,
  REG.month,
  REG.year,
  REG.century,
];

const A_UIP = 0x80;
const B_SET = 0x80;
const B_PIE = 0x40;
const B_AIE = 0x20;
const B_UIE = 0x10;
const B_BINARY = 0x04;
const B_24H = 0x02;
const C_IRQF = 0x80;
const C_PF = 0x40;
const C_AF = 0x20;
const C_UF = 0x10;
const D_VALID = 0x80;

/** RTC time is counted in us since 1970: a double holds those exactly, and does not hold ns. */
const SECOND = 1e6;
/** An update is announced by UIP this long before it happens (data sheet: t_BUC 244 us). */
const UIP_US = 244;
const DAY_SECONDS = 86_400;

const stateSchema = z.strictObject({
  index: z.int().min(0).max(0x7f),
  cmos: z.array(u8).length(128),
  offsetUs: z.number(),
  frozen: z.boolean(),
  checkedUs: z.number(),
  pendingFlags: u8,
});

export interface RtcOptions {
  clock: GuestClock;
  /** IRQ8. */
  irq: IrqLine;
  /** Guest memory in bytes, for the CMOS fields firmware reads it from. */
  memoryBytes: number;
  /**
   * What the wall clock showed at guest time 0, ms since 1970-01-01 UTC. Asked at power-on, at a restore and by
   * `synchronize`; in between, time follows the guest's clock. A constant makes runs repeatable.
   */
  epochMs: () => number;
}

/** MC146818 real-time clock with 128 bytes of CMOS memory at ports 70h-71h. The clock runs in UTC. */
export class Rtc implements Device {
  readonly name = 'rtc';
  readonly #options: RtcOptions;
  readonly #timer: Timer;
  #index = 0;
  #cmos = new Uint8Array(128);
  /** Wall clock at guest time 0, us. */
  #baseUs = 0;
  /** What the guest set the clock off by. */
  #offsetUs = 0;
  /** B.SET is on: the time registers are what was last written. */
  #frozen = false;
  /** RTC time up to which the flags of register C were brought forward. */
  #checkedUs = 0;
  #pendingFlags = 0;

  constructor(options: RtcOptions) {
    this.#options = options;
    this.#timer = options.clock.timer('rtc', () => this.#update());
    this.reset();
  }

  attach(ports: PortBus): void {
    ports.register(0x70, 0x71, this.name, {
      byteOnly: true,
      // Port 70h can't be read on a PC; bit 7 would have masked NMI, which nothing here raises through it.
      readPort: (port) => (port === 0x70 ? 0xff : this.#read(this.#index)),
      writePort: (port, _size, value) => {
        if (port === 0x70) this.#index = value & 0x7f;
        else this.#write(this.#index, value);
      },
    });
  }

  /** Sets a CMOS byte beyond the clock's own registers (boot configuration); 0x0e..0x7f. */
  setCmos(index: number, value: number): void {
    if (index < 0x0e || index > 0x7f) throw new RangeError(`CMOS byte 0x${index.toString(16)} out of range`);
    this.#cmos[index] = value;
  }

  /** Takes the wall clock anew, after guest time stood still. What the guest set the clock off by stays. */
  synchronize(): void {
    this.#baseUs = Math.round(this.#options.epochMs() * 1000);
    this.#checkedUs = Math.min(this.#checkedUs, this.#now());
    this.#update();
  }

  #guestUs(): number {
    return Math.floor(this.#options.clock.now() / 1000);
  }

  #now(): number {
    return this.#baseUs + this.#offsetUs + this.#guestUs();
  }

  #reg(index: number): number {
    return this.#cmos[index] ?? 0;
  }

  #encode(value: number): number {
    return (this.#reg(REG.b) & B_BINARY) !== 0 ? value : (Math.floor(value / 10) << 4) | (value % 10);
  }

  #decode(value: number): number {
    return (this.#reg(REG.b) & B_BINARY) !== 0 ? value : (value >> 4) * 10 + (value & 15);
  }

  #encodeHour(hour: number): number {
    if ((this.#reg(REG.b) & B_24H) !== 0) return this.#encode(hour);
    return this.#encode(hour % 12 === 0 ? 12 : hour % 12) | (hour >= 12 ? 0x80 : 0);
  }

  #decodeHour(value: number): number {
    if ((this.#reg(REG.b) & B_24H) !== 0) return this.#decode(value);
    return (this.#decode(value & 0x7f) % 12) + ((value & 0x80) !== 0 ? 12 : 0);
  }

  /** Writes the running time into the time registers. */
  #latchTime(): void {
    const date = new Date(Math.floor(this.#now() / SECOND) * 1000);
    const year = date.getUTCFullYear();
    this.#cmos[REG.seconds] = this.#encode(date.getUTCSeconds());
    this.#cmos[REG.minutes] = this.#encode(date.getUTCMinutes());
    this.#cmos[REG.hours] = this.#encodeHour(date.getUTCHours());
    this.#cmos[REG.weekday] = this.#encode(date.getUTCDay() + 1);
    this.#cmos[REG.day] = this.#encode(date.getUTCDate());
    this.#cmos[REG.month] = this.#encode(date.getUTCMonth() + 1);
    this.#cmos[REG.year] = this.#encode(year % 100);
    this.#cmos[REG.century] = this.#encode(Math.floor(year / 100));
  }

  /** Lets time go on from what the time registers say. */
  #applyTime(): void {
    const year = this.#decode(this.#reg(REG.century)) * 100 + this.#decode(this.#reg(REG.year));
    const seconds =
      Date.UTC(
        year,
        this.#decode(this.#reg(REG.month)) - 1,
        this.#decode(this.#reg(REG.day)),
        this.#decodeHour(this.#reg(REG.hours)),
        this.#decode(this.#reg(REG.minutes)),
        this.#decode(this.#reg(REG.seconds)),
      ) / 1000;
    const now = this.#now();
    const fraction = now - Math.floor(now / SECOND) * SECOND;
    this.#offsetUs += seconds * SECOND + fraction - now;
    this.#checkedUs = this.#now();
    this.#update();
  }

  #read(index: number): number {
    if (!this.#frozen && TIME_REGISTERS.includes(index)) this.#latchTime();
    switch (index) {
      case REG.a: {
        const now = this.#now();
        const untilUpdate = SECOND - (now - Math.floor(now / SECOND) * SECOND);
        return this.#reg(REG.a) | (!this.#frozen && this.#running() && untilUpdate <= UIP_US ? A_UIP : 0);
      }
      case REG.c: {
        this.#collectFlags();
        const flags = this.#pendingFlags;
        const asserted = (flags & this.#reg(REG.b) & (C_PF | C_AF | C_UF)) !== 0;
        this.#pendingFlags = 0;
        this.#update();
        return flags | (asserted ? C_IRQF : 0);
      }
      case REG.d:
        return D_VALID;
      default:
        return this.#reg(index);
    }
  }

  #write(index: number, value: number): void {
    if (TIME_REGISTERS.includes(index)) {
      if (!this.#frozen) this.#latchTime();
      this.#cmos[index] = value;
      if (!this.#frozen) this.#applyTime();
      return;
    }
    switch (index) {
      case REG.a:
        this.#collectFlags();
        this.#cmos[REG.a] = value & 0x7f;
        break;
      case REG.b: {
        this.#collectFlags();
        const freeze = (value & B_SET) !== 0;
        // SET also turns the update interrupt off (data sheet, "UIE").
        const next = freeze ? value & ~B_UIE : value;
        if (freeze && !this.#frozen) this.#latchTime();
        this.#cmos[REG.b] = next;
        if (!freeze && this.#frozen) {
          this.#frozen = false;
          this.#applyTime();
        }
        this.#frozen = freeze;
        break;
      }
      case REG.c:
      case REG.d:
        return;
      default:
        this.#cmos[index] = value;
    }
    this.#update();
  }

  /** The divider chain runs: any of the three time bases is selected (A.DV = 000, 001, 010). */
  #running(): boolean {
    return (this.#reg(REG.a) & 0x70) <= 0x20;
  }

  /** Periodic events a second, a power of two, 0 when off (A.RS; data sheet table 5, 32.768 kHz time base). */
  #periodicRate(): number {
    const rate = this.#reg(REG.a) & 15;
    if (rate === 0) return 0;
    return 32768 >> (rate <= 2 ? rate + 6 : rate - 1);
  }

  /** The number of the last periodic event, counted from 1970. */
  #periodicIndex(us: number): number {
    const second = Math.floor(us / SECOND);
    const rate = this.#periodicRate();
    return second * rate + Math.floor(((us - second * SECOND) * rate) / SECOND);
  }

  /** The us in which the next periodic event falls. */
  #nextPeriodic(us: number): number {
    const rate = this.#periodicRate();
    const index = this.#periodicIndex(us) + 1;
    const second = Math.floor(index / rate);
    return second * SECOND + Math.ceil(((index - second * rate) * SECOND) / rate);
  }

  /** The first second, after `second`, that matches the alarm; Infinity if none does. */
  #nextAlarm(second: number): number {
    // A byte with both top bits on matches anything.
    const any = (value: number): boolean => (value & 0xc0) === 0xc0;
    const rawSeconds = this.#reg(REG.secondsAlarm);
    const rawMinutes = this.#reg(REG.minutesAlarm);
    const rawHours = this.#reg(REG.hoursAlarm);
    const seconds = this.#decode(rawSeconds);
    const minutes = this.#decode(rawMinutes);
    const hours = this.#decodeHour(rawHours);
    const day = Math.floor(second / DAY_SECONDS) * DAY_SECONDS;
    for (let candidate = second + 1; candidate <= day + 2 * DAY_SECONDS;) {
      const ofDay = ((candidate % DAY_SECONDS) + DAY_SECONDS) % DAY_SECONDS;
      if (!any(rawHours) && Math.floor(ofDay / 3600) !== hours) {
        candidate += 3600 - (ofDay % 3600);
      } else if (!any(rawMinutes) && Math.floor(ofDay / 60) % 60 !== minutes) {
        candidate += 60 - (ofDay % 60);
      } else if (!any(rawSeconds) && ofDay % 60 !== seconds) {
        candidate += 1;
      } else {
        return candidate;
      }
    }
    return Infinity;
  }

  /** Sets the flags of everything that happened since the last look. */
  #collectFlags(): void {
    const now = this.#now();
    const before = this.#checkedUs;
    if (now <= before) return;
    this.#checkedUs = now;
    if (!this.#running()) return;
    if (this.#periodicIndex(now) !== this.#periodicIndex(before)) this.#pendingFlags |= C_PF;
    if (this.#frozen) return;
    const secondBefore = Math.floor(before / SECOND);
    if (Math.floor(now / SECOND) === secondBefore) return;
    this.#pendingFlags |= C_UF;
    if (this.#nextAlarm(secondBefore) * SECOND <= now) this.#pendingFlags |= C_AF;
  }

  /** Drives IRQ8 and waits for the next event that an enabled interrupt is about. */
  #update(): void {
    this.#collectFlags();
    const b = this.#reg(REG.b);
    this.#options.irq.set((this.#pendingFlags & b & (C_PF | C_AF | C_UF)) !== 0);
    let next = Infinity;
    const now = this.#checkedUs;
    if (this.#running()) {
      if ((b & B_PIE) !== 0 && this.#periodicRate() > 0) next = this.#nextPeriodic(now);
      if (!this.#frozen) {
        const second = Math.floor(now / SECOND);
        if ((b & B_UIE) !== 0) next = Math.min(next, (second + 1) * SECOND);
        if ((b & B_AIE) !== 0) next = Math.min(next, this.#nextAlarm(second) * SECOND);
      }
    }
    if (next === Infinity) this.#timer.disarm();
    else this.#timer.arm((next - this.#baseUs - this.#offsetUs) * 1000);
  }

  /** Power-on: the clock shows the wall clock's time, CMOS holds the machine's configuration. */
  reset(): void {
    const cmos = (this.#cmos = new Uint8Array(128));
    cmos[REG.a] = 0x26;
    cmos[REG.b] = B_24H;
    const set16 = (index: number, value: number): void => {
      cmos[index] = value & 0xff;
      cmos[index + 1] = value >> 8;
    };
    const { memoryBytes } = this.#options;
    const extendedKib = Math.max(0, memoryBytes / 1024 - 1024);
    // Equipment: an FPU, and a display that is neither CGA nor monochrome.
    cmos[0x14] = 0x02;
    set16(0x15, 640);
    set16(0x17, Math.min(extendedKib, 0xffff));
    set16(0x30, Math.min(extendedKib, 0xffff));
    set16(0x34, Math.max(0, Math.min((memoryBytes - 16 * 1024 * 1024) / 65536, 0xffff)));
    // Checksum of bytes 10h..2Dh, high byte first.
    let sum = 0;
    for (let index = 0x10; index <= 0x2d; index++) sum += cmos[index] ?? 0;
    cmos[0x2e] = (sum >> 8) & 0xff;
    cmos[0x2f] = sum & 0xff;
    this.#index = 0;
    this.#offsetUs = 0;
    this.#frozen = false;
    this.#pendingFlags = 0;
    this.#baseUs = Math.round(this.#options.epochMs() * 1000);
    this.#checkedUs = this.#now();
    this.#latchTime();
    this.#update();
  }

  save(): unknown {
    this.#collectFlags();
    return {
      index: this.#index,
      cmos: [...this.#cmos],
      offsetUs: this.#offsetUs,
      frozen: this.#frozen,
      checkedUs: this.#checkedUs,
      pendingFlags: this.#pendingFlags,
    };
  }

  /** Time is not part of the state: the clock shows what the wall clock says now, as a real one would. */
  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#index = saved.index;
    this.#cmos = Uint8Array.from(saved.cmos);
    this.#offsetUs = saved.offsetUs;
    this.#frozen = saved.frozen;
    this.#pendingFlags = saved.pendingFlags;
    this.#baseUs = Math.round(this.#options.epochMs() * 1000);
    this.#checkedUs = Math.min(saved.checkedUs, this.#now());
    this.#update();
  }
}
