import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import type { GuestClock, Timer } from '../machine/clock.ts';
import { deadline, u16, u8 } from './state.ts';

const FIFO_SIZE = 16;
/** Input clock of the PC's UARTs, Hz; divided by 16 and the divisor it is the bit rate. */
const CLOCK_HZ = 1_843_200;
/** A character takes start, 8 data and stop bits. */
const BITS_PER_CHARACTER = 10;
/** Received characters never come slower than at 115,200 bit/s, whatever the guest set: nobody waits for 300 baud. */
const SLOWEST_CHARACTER_NS = (BITS_PER_CHARACTER * 1e9) / 115_200;

const IER_MASK = 0x0f;
const IER_RX = 0x01;
const IER_THRE = 0x02;
const IER_LINE = 0x04;
const IER_MODEM = 0x08;
const IIR_NONE = 0x01;
const IIR_MODEM = 0x00;
const IIR_THRE = 0x02;
const IIR_RX = 0x04;
const IIR_LINE = 0x06;
const IIR_TIMEOUT = 0x0c;
const IIR_FIFOS = 0xc0;
const FCR_ENABLE = 0x01;
const FCR_CLEAR_RX = 0x02;
const FCR_CLEAR_TX = 0x04;
const LCR_DLAB = 0x80;
const MCR_DTR = 0x01;
const MCR_RTS = 0x02;
const MCR_OUT1 = 0x04;
const MCR_OUT2 = 0x08;
const MCR_LOOP = 0x10;
const LSR_DATA = 0x01;
const LSR_OVERRUN = 0x02;
const LSR_ERRORS = 0x1e;
const LSR_THRE = 0x20;
const LSR_EMPTY = 0x40;
const MSR_CTS = 0x10;
const MSR_DSR = 0x20;
const MSR_RI = 0x40;
const MSR_DCD = 0x80;
const MSR_TERI = 0x04;
/** What a connected terminal shows: clear to send, data set ready, carrier. */
const MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD;

const stateSchema = z.strictObject({
  ier: u8,
  fcr: u8,
  lcr: u8,
  mcr: u8,
  lineErrors: u8,
  modemDeltas: u8,
  modemLines: u8,
  scratch: u8,
  divisor: u16,
  receiveFifo: z.array(u8).max(FIFO_SIZE),
  transmitFifo: z.array(u8).max(FIFO_SIZE),
  transmitInterrupt: z.boolean(),
  receiveTimeout: z.boolean(),
  incoming: z.array(u8),
  receiveDeadline: deadline,
  timeoutDeadline: deadline,
});

export interface UartOptions {
  /** Names the device: "uart0" for COM1. */
  name: string;
  /** First of its eight ports. */
  base: number;
  clock: GuestClock;
  irq: IrqLine;
  /** Takes a transmitted byte. Called while the guest executes: it must only store it. */
  transmit: (byte: number) => void;
}

/**
 * 16550A UART (National PC16550D data sheet). Transmission takes no time as long as the host takes the bytes
 * (`setTransmitReady`); when it doesn't, they wait in the FIFO and THRE stays off, so that the guest waits too.
 * Received bytes come at the line's speed, at least 115,200 bit/s.
 */
export class Uart implements Device {
  readonly name: string;
  readonly #options: UartOptions;
  readonly #receiveTimer: Timer;
  readonly #timeoutTimer: Timer;
  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #lineErrors = 0;
  #modemDeltas = 0;
  #modemLines = MSR_CONNECTED;
  #scratch = 0;
  #divisor = 12;
  #receiveFifo: number[] = [];
  #transmitFifo: number[] = [];
  /** THRE became true since IIR was read or THR written. */
  #transmitInterrupt = false;
  /** Bytes lie below the trigger level and nothing moved for four character times. */
  #receiveTimeout = false;
  #incoming: number[] = [];
  #transmitReady = true;

  constructor(options: UartOptions) {
    this.#options = options;
    this.name = options.name;
    this.#receiveTimer = options.clock.timer(`${options.name} receive`, () => this.#receiveNext());
    this.#timeoutTimer = options.clock.timer(`${options.name} timeout`, () => {
      this.#receiveTimeout = this.#receiveFifo.length > 0;
      this.#update();
    });
  }

  attach(ports: PortBus): void {
    const { base } = this.#options;
    ports.register(base, base + 7, this.name, {
      byteOnly: true,
      readPort: (port) => this.#read(port - base),
      writePort: (port, _size, value) => this.#write(port - base, value),
    });
  }

  /** Queues bytes from the host for the guest. */
  receive(bytes: Uint8Array): void {
    for (const byte of bytes) this.#incoming.push(byte);
    this.#scheduleReceive();
  }

  /** Bytes the guest has not taken yet: a caller that pastes much waits for this to shrink. */
  get receiveBacklog(): number {
    return this.#incoming.length + this.#receiveFifo.length;
  }

  /** Says whether the host takes transmitted bytes. */
  setTransmitReady(ready: boolean): void {
    this.#transmitReady = ready;
    if (!ready || this.#transmitFifo.length === 0) return;
    for (const byte of this.#transmitFifo.splice(0)) this.#options.transmit(byte);
    this.#transmitInterrupt = true;
    this.#update();
  }

  get #fifosEnabled(): boolean {
    return (this.#fcr & FCR_ENABLE) !== 0;
  }

  get #loopback(): boolean {
    return (this.#mcr & MCR_LOOP) !== 0;
  }

  get #characterNs(): number {
    const ns = (BITS_PER_CHARACTER * 16 * Math.max(1, this.#divisor) * 1e9) / CLOCK_HZ;
    return Math.min(ns, SLOWEST_CHARACTER_NS);
  }

  /** Characters in the FIFO that raise the receive interrupt. */
  get #triggerLevel(): number {
    if (!this.#fifosEnabled) return 1;
    return [1, 4, 8, 14][this.#fcr >> 6] ?? 1;
  }

  #scheduleReceive(): void {
    if (this.#incoming.length === 0 || this.#receiveTimer.deadlineNs !== undefined || this.#loopback) return;
    this.#receiveTimer.arm(this.#options.clock.now() + this.#characterNs);
  }

  #receiveNext(): void {
    const room = (this.#fifosEnabled ? FIFO_SIZE : 1) - this.#receiveFifo.length;
    // A full FIFO holds the sender back instead of losing characters, as RTS would; the read that makes room goes on.
    if (room <= 0 || this.#loopback) return;
    const byte = this.#incoming.shift();
    if (byte === undefined) return;
    this.#pushReceived(byte);
    this.#scheduleReceive();
  }

  #pushReceived(byte: number): void {
    if (this.#receiveFifo.length >= (this.#fifosEnabled ? FIFO_SIZE : 1)) {
      this.#lineErrors |= LSR_OVERRUN;
    } else {
      this.#receiveFifo.push(byte);
    }
    this.#restartTimeout();
    this.#update();
  }

  #restartTimeout(): void {
    this.#receiveTimeout = false;
    if (this.#fifosEnabled && this.#receiveFifo.length > 0) {
      this.#timeoutTimer.arm(this.#options.clock.now() + 4 * this.#characterNs);
    } else {
      this.#timeoutTimer.disarm();
    }
  }

  #read(register: number): number {
    switch (register) {
      case 0: {
        if ((this.#lcr & LCR_DLAB) !== 0) return this.#divisor & 0xff;
        const byte = this.#receiveFifo.shift() ?? 0;
        this.#restartTimeout();
        this.#scheduleReceive();
        this.#update();
        return byte;
      }
      case 1:
        return (this.#lcr & LCR_DLAB) !== 0 ? this.#divisor >> 8 : this.#ier;
      case 2: {
        const cause = this.#cause();
        if (cause === IIR_THRE) {
          this.#transmitInterrupt = false;
          this.#update();
        }
        return cause | (this.#fifosEnabled ? IIR_FIFOS : 0);
      }
      case 3:
        return this.#lcr;
      case 4:
        return this.#mcr;
      case 5: {
        const status = this.#lineStatus();
        this.#lineErrors = 0;
        this.#update();
        return status;
      }
      case 6: {
        const status = this.#modemStatus() | this.#modemDeltas;
        this.#modemDeltas = 0;
        this.#update();
        return status;
      }
      default:
        return this.#scratch;
    }
  }

  #write(register: number, value: number): void {
    switch (register) {
      case 0:
        if ((this.#lcr & LCR_DLAB) !== 0) this.#divisor = (this.#divisor & 0xff00) | value;
        else this.#transmit(value);
        break;
      case 1:
        if ((this.#lcr & LCR_DLAB) !== 0) {
          this.#divisor = (this.#divisor & 0xff) | (value << 8);
        } else {
          const was = this.#ier;
          this.#ier = value & IER_MASK;
          // Enabling the interrupt while the holding register is empty raises it at once (data sheet, 8.6.5).
          if ((this.#ier & IER_THRE) === 0) this.#transmitInterrupt = false;
          else if ((was & IER_THRE) === 0 && this.#holdingEmpty()) this.#transmitInterrupt = true;
        }
        break;
      case 2:
        this.#writeFifoControl(value);
        break;
      case 3:
        this.#lcr = value;
        break;
      case 4:
        this.#writeModemControl(value & 0x1f);
        break;
      case 7:
        this.#scratch = value;
        break;
      default:
        // LSR and MSR writes are for factory tests only.
        break;
    }
    this.#update();
  }

  #writeFifoControl(value: number): void {
    const switched = ((value ^ this.#fcr) & FCR_ENABLE) !== 0;
    if (switched || (value & FCR_CLEAR_RX) !== 0) {
      this.#receiveFifo = [];
      this.#restartTimeout();
      this.#scheduleReceive();
    }
    if (switched || (value & FCR_CLEAR_TX) !== 0) {
      this.#transmitFifo = [];
      if ((this.#ier & IER_THRE) !== 0) this.#transmitInterrupt = true;
    }
    this.#fcr = (value & FCR_ENABLE) !== 0 ? value & 0xc9 : 0;
  }

  #writeModemControl(value: number): void {
    const before = this.#modemStatus();
    this.#mcr = value;
    const after = this.#modemStatus();
    this.#modemDeltas |= ((before ^ after) >> 4) & ~MSR_TERI;
    // Ring indicator reports its trailing edge only.
    if ((before & MSR_RI) !== 0 && (after & MSR_RI) === 0) this.#modemDeltas |= MSR_TERI;
    this.#scheduleReceive();
  }

  #transmit(value: number): void {
    this.#transmitInterrupt = false;
    if (this.#loopback) {
      this.#pushReceived(value);
    } else if (this.#transmitReady) {
      this.#options.transmit(value);
    } else {
      // What is written while THRE is off overruns the FIFO and is lost, as on the chip.
      if (this.#transmitFifo.length < (this.#fifosEnabled ? FIFO_SIZE : 1)) this.#transmitFifo.push(value);
      return;
    }
    this.#transmitInterrupt = true;
  }

  #holdingEmpty(): boolean {
    return this.#transmitFifo.length === 0;
  }

  #lineStatus(): number {
    return (
      (this.#receiveFifo.length > 0 ? LSR_DATA : 0) |
      this.#lineErrors |
      (this.#holdingEmpty() ? LSR_THRE | LSR_EMPTY : 0)
    );
  }

  #modemStatus(): number {
    if (!this.#loopback) return this.#modemLines;
    // Loopback ties RTS to CTS, DTR to DSR, OUT1 to RI and OUT2 to DCD.
    return (
      ((this.#mcr & MCR_RTS) !== 0 ? MSR_CTS : 0) |
      ((this.#mcr & MCR_DTR) !== 0 ? MSR_DSR : 0) |
      ((this.#mcr & MCR_OUT1) !== 0 ? MSR_RI : 0) |
      ((this.#mcr & MCR_OUT2) !== 0 ? MSR_DCD : 0)
    );
  }

  /** The interrupt identification of the highest pending cause. */
  #cause(): number {
    if ((this.#ier & IER_LINE) !== 0 && (this.#lineErrors & LSR_ERRORS) !== 0) return IIR_LINE;
    if ((this.#ier & IER_RX) !== 0) {
      if (this.#receiveFifo.length >= this.#triggerLevel) return IIR_RX;
      if (this.#receiveTimeout) return IIR_TIMEOUT;
    }
    if ((this.#ier & IER_THRE) !== 0 && this.#transmitInterrupt) return IIR_THRE;
    if ((this.#ier & IER_MODEM) !== 0 && this.#modemDeltas !== 0) return IIR_MODEM;
    return IIR_NONE;
  }

  #update(): void {
    // On a PC, OUT2 gates the interrupt; in loopback the modem outputs are inactive.
    const gated = (this.#mcr & MCR_OUT2) !== 0 && !this.#loopback;
    this.#options.irq.set(gated && this.#cause() !== IIR_NONE);
  }

  reset(): void {
    this.#ier = 0;
    this.#fcr = 0;
    this.#lcr = 0;
    this.#mcr = 0;
    this.#lineErrors = 0;
    this.#modemDeltas = 0;
    this.#modemLines = MSR_CONNECTED;
    this.#scratch = 0;
    this.#divisor = 12;
    this.#receiveFifo = [];
    this.#transmitFifo = [];
    this.#transmitInterrupt = false;
    this.#receiveTimeout = false;
    this.#incoming = [];
    this.#receiveTimer.disarm();
    this.#timeoutTimer.disarm();
    this.#update();
  }

  save(): unknown {
    return {
      ier: this.#ier,
      fcr: this.#fcr,
      lcr: this.#lcr,
      mcr: this.#mcr,
      lineErrors: this.#lineErrors,
      modemDeltas: this.#modemDeltas,
      modemLines: this.#modemLines,
      scratch: this.#scratch,
      divisor: this.#divisor,
      receiveFifo: [...this.#receiveFifo],
      transmitFifo: [...this.#transmitFifo],
      transmitInterrupt: this.#transmitInterrupt,
      receiveTimeout: this.#receiveTimeout,
      incoming: [...this.#incoming],
      receiveDeadline: this.#receiveTimer.deadlineNs ?? null,
      timeoutDeadline: this.#timeoutTimer.deadlineNs ?? null,
    };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#ier = saved.ier;
    this.#fcr = saved.fcr;
    this.#lcr = saved.lcr;
    this.#mcr = saved.mcr;
    this.#lineErrors = saved.lineErrors;
    this.#modemDeltas = saved.modemDeltas;
    this.#modemLines = saved.modemLines;
    this.#scratch = saved.scratch;
    this.#divisor = saved.divisor;
    this.#receiveFifo = saved.receiveFifo;
    this.#transmitFifo = saved.transmitFifo;
    this.#transmitInterrupt = saved.transmitInterrupt;
    this.#receiveTimeout = saved.receiveTimeout;
    this.#incoming = saved.incoming;
    const timers = [
      [this.#receiveTimer, saved.receiveDeadline],
      [this.#timeoutTimer, saved.timeoutDeadline],
    ] as const;
    for (const [timer, at] of timers) {
      if (at === null) timer.disarm();
      else timer.arm(at);
    }
    this.setTransmitReady(this.#transmitReady);
    this.#update();
  }
}
