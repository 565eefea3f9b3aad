import { CallBuffer } from './buffer.ts';
import { checked, type Libc } from './libc.ts';

/** struct sigevent (asm-generic/siginfo.h): i32 signal, i32 notification, i32 thread. */
const SIGEVENT = { signal: 8, notify: 12, thread: 16, threadId: 4 } as const;
/** struct itimerspec: interval and value, each u64 seconds and u64 nanoseconds. */
const ITIMERSPEC = { seconds: 16, nanoseconds: 24 } as const;
const SECOND_NS = 1_000_000_000;
/** Where things stand in the buffer. */
const EVENT = 0;
const TIME = 64;
const ID = 96;
const SET = 104;
/** Of the real-time signals the first few are the C library's and the debuggers' favourites. */
const SIGNAL_OFFSET = 7;

/**
 * Ends KVM_RUN after a while: a timer sends the calling thread a real-time signal that is blocked everywhere but in
 * KVM_RUN (KVM_SET_SIGNAL_MASK), which then returns EINTR. One thread's engine uses it.
 */
export class SliceTimer {
  readonly signal: number;
  readonly #calls: Libc;
  readonly #buffer: CallBuffer;
  readonly #timer: number;
  #closed = false;

  /** @throws SystemCallError */
  constructor(calls: Libc) {
    this.#calls = calls;
    const buffer = (this.#buffer = new CallBuffer(calls, 4096));
    this.signal = calls.firstRealTimeSignal() + SIGNAL_OFFSET;
    buffer.u64[SET >> 3] = 1n << BigInt(this.signal - 1);
    checked(calls, 'rt_sigprocmask', calls.blockSignals(buffer.address + SET));
    buffer.u32[(EVENT + SIGEVENT.signal) >> 2] = this.signal;
    buffer.u32[(EVENT + SIGEVENT.notify) >> 2] = SIGEVENT.threadId;
    buffer.u32[(EVENT + SIGEVENT.thread) >> 2] = calls.threadId();
    checked(calls, 'timer_create', calls.createTimer(buffer.address + EVENT, buffer.address + ID));
    this.#timer = buffer.u32[ID >> 2]!;
  }

  /** The signals blocked within KVM_RUN: all but this timer's. */
  get runMask(): bigint {
    return BigInt.asUintN(64, ~(1n << BigInt(this.signal - 1)));
  }

  /** Fires once after `ns` (at least 1). */
  arm(ns: number): void {
    const { u64, address } = this.#buffer;
    const whole = Math.max(1, Math.floor(ns));
    u64[(TIME + ITIMERSPEC.seconds) >> 3] = BigInt(Math.floor(whole / SECOND_NS));
    u64[(TIME + ITIMERSPEC.nanoseconds) >> 3] = BigInt(whole % SECOND_NS);
    checked(this.#calls, 'timer_settime', this.#calls.setTimer(this.#timer, address + TIME));
  }

  /** Takes the signal of a timer that has fired, so that it ends no further KVM_RUN. */
  drain(): void {
    while (this.#calls.takeSignal(this.#buffer.address + SET) >= 0);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#calls.deleteTimer(this.#timer);
    this.drain();
  }
}
