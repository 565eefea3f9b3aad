import type { ExitAccounting } from '../accounting/exits.ts';
import type { Engine } from '../engines/engine.ts';
import { HostClock, IcountClock, type TimerClock } from './clock.ts';

/** Host time the vCPU runs before Node's event loop gets a turn, ms. */
const SLICE_MS = 2;
/**
 * Bounds of the instructions given to an engine at once: the first near a timer's deadline, the others otherwise. Code that
 * is a tenth as fast as what came before it still ends soon.
 */
const BUDGET_MIN_TIMER = 200;
const BUDGET_MIN = 5000;
const BUDGET_MAX = 1_000_000;
/** Shortest run of an engine that goes by time, ns. */
const RUN_NS_MIN = 20_000;
/** Instructions a slice starts with before the engine's speed is known. */
const BUDGET_FIRST = 20_000;
/** The engine's speed is the best of this many runs: a host with other work to do makes single ones look slow. */
const SPEED_SAMPLES = 4;
/** A run of this many ms has overshot so far that the speed is halved whatever the reason. */
const OVERSHOOT_MS = 5;
/** An idle wait longer than this goes through Node's timers, whose resolution is 1 ms; the rest is waited for in place. */
const PRECISE_WAIT_MS = 2.5;
/** The same while guest and host are quiet: waiting in place costs less than half of what a timer does. */
const PRECISE_WAIT_QUIET_MS = 5;
/**
 * A guest that has been awake for this long has work to do, ms: less is what a kernel does at a tick, also where some of
 * that is being translated.
 */
const ACTIVE_AFTER_MS = 10;
/** Guest and host count as quiet when neither has done anything for this long, ms. */
const QUIET_AFTER_MS = 100;
/**
 * A wake-up of an idle guest may come late by this part of the time for which guest and host have been quiet: a
 * sleep in the guest lasts at most so much longer.
 */
const SLACK_SHARE = 1 / 8;

export interface RunLoopHost {
  engine(): Engine;
  /** Between two runs of the engine: acts on what devices asked for. False ends the slice. */
  afterRun(): boolean;
  /** Triple fault. False ends the slice. */
  onShutdown(): boolean;
  /** The slice is over: hand output to the host. */
  afterSlice(): void;
  /** Something threw that should not have. */
  onPanic(error: unknown): void;
}

/**
 * Runs the vCPU in bounded slices between turns of Node's event loop, fires timers at their guest time, and sleeps
 * while the guest is idle.
 */
export class RunLoop {
  readonly #clock: TimerClock;
  readonly #accounting: ExitAccounting;
  readonly #host: RunLoopHost;
  /** Instructions the engine executes in a host ms, measured. */
  #speed = BUDGET_FIRST / SLICE_MS;
  readonly #speeds: number[] = [];
  #running = false;
  #immediate: NodeJS.Immediate | undefined;
  #timeout: NodeJS.Timeout | undefined;
  /** The vCPU waits in HLT. */
  #idle = false;
  #idleSince = 0;
  /** The engine or the timers run: what wakes the guest now comes from inside. */
  #inSlice = false;
  /** When the guest last had work to do or the host had something for it (input, a request), host ms. */
  #activeAt = 0;
  /** Since when the guest is not idle, host ms. */
  #awakeSince = 0;
  /** Guest time up to which the present run of the engine goes; a deadline before it ends the run. */
  #runUntil = -Infinity;
  readonly #sleeper = new Int32Array(new SharedArrayBuffer(4));

  constructor(clock: TimerClock, accounting: ExitAccounting, host: RunLoopHost) {
    this.#clock = clock;
    this.#accounting = accounting;
    this.#host = host;
    clock.onDeadlineChange = () => this.#deadlineChanged();
  }

  /** Whether `start` is in force; a call, because callbacks change it behind the compiler's back. */
  #isRunning(): boolean {
    return this.#running;
  }

  /** The engine is on the stack. */
  get inEngine(): boolean {
    return this.#runUntil !== -Infinity;
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#activeAt = performance.now();
    this.#awakeSince = this.#activeAt;
    if (this.#clock instanceof HostClock) this.#clock.resume();
    this.#soon();
  }

  /** Ends at the next instruction boundary; guest time stands still from then on. */
  stop(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#cancelWait();
    if (this.#clock instanceof HostClock) this.#clock.pause();
    if (this.#runUntil !== -Infinity) this.#host.engine().requestExit();
  }

  /** Something happened that an idle guest may wait for. */
  wake(): void {
    if (!this.#inSlice) this.#activeAt = performance.now();
    if (!this.#running || !this.#idle || this.#immediate !== undefined) return;
    this.#cancelWait();
    this.#soon();
  }

  #soon(): void {
    this.#immediate ??= setImmediate(() => {
      this.#immediate = undefined;
      this.#turn();
    });
  }

  #cancelWait(): void {
    clearImmediate(this.#immediate);
    clearTimeout(this.#timeout);
    this.#immediate = undefined;
    this.#timeout = undefined;
    this.#endIdle();
  }

  #endIdle(): void {
    if (!this.#idle) return;
    this.#idle = false;
    this.#awakeSince = performance.now();
    this.#accounting.spend('idle', (this.#awakeSince - this.#idleSince) * 1e6);
  }

  #deadlineChanged(): void {
    // Also called from within the engine, by a device the guest just programmed.
    if (this.#clock.nextDeadline < this.#runUntil) this.#host.engine().requestExit();
    else this.wake();
  }

  #turn(): void {
    if (!this.#running) return;
    this.#endIdle();
    this.#inSlice = true;
    try {
      this.#slice();
      this.#host.afterSlice();
    } catch (error) {
      this.#running = false;
      this.#host.onPanic(error);
      return;
    } finally {
      this.#inSlice = false;
    }
    if (!this.#isRunning()) return;
    if (this.#idle) {
      this.#waitForDeadline();
      return;
    }
    const now = performance.now();
    if (now - this.#awakeSince >= ACTIVE_AFTER_MS) this.#activeAt = now;
    this.#soon();
  }

  #slice(): void {
    const started = performance.now();
    let now = started;
    do {
      this.#runTimers(now);
      if (!this.#isRunning()) return;
      const before = performance.now();
      const executedBefore = this.#accounting.instructions;
      const end = this.#runEngine(SLICE_MS - (before - started));
      now = performance.now();
      this.#measure(this.#accounting.instructions - executedBefore, now - before);
      if (!this.#host.afterRun()) return;
      if (end === 'shutdown' && !this.#host.onShutdown()) return;
      if (end === 'halt' && !this.#skipIdle()) {
        this.#idle = true;
        this.#idleSince = performance.now();
        return;
      }
    } while (this.#isRunning() && now - started < SLICE_MS);
  }

  #runTimers(now: number): void {
    if (this.#clock.nextDeadline > this.#clock.now()) return;
    this.#clock.runDue();
    this.#accounting.spend('devices', (performance.now() - now) * 1e6);
  }

  #runEngine(leftMs: number): ReturnType<Engine['run']> {
    const untilDeadline = this.#clock.nextDeadline - this.#clock.now();
    const maxNs = Math.max(RUN_NS_MIN, Math.min(untilDeadline, leftMs * 1e6));
    let budget = Math.max(BUDGET_MIN, Math.min(BUDGET_MAX, this.#speed * Math.max(0, leftMs)));
    if (this.#clock instanceof IcountClock) {
      // Exactly to the deadline, so that the run can be repeated whatever the host's speed.
      budget = Math.min(budget, Math.ceil(untilDeadline / IcountClock.NS_PER_INSTRUCTION));
      this.#runUntil = this.#clock.now() + budget * IcountClock.NS_PER_INSTRUCTION;
    } else {
      budget = Math.max(BUDGET_MIN_TIMER, Math.min(budget, (this.#speed * untilDeadline) / 1e6));
      this.#runUntil = this.#clock.now() + Math.min(untilDeadline, leftMs * 1e6);
    }
    try {
      const exact = this.#clock instanceof IcountClock;
      return this.#host.engine().run(Math.max(1, Math.floor(budget)), exact, maxNs);
    } finally {
      this.#runUntil = -Infinity;
    }
  }

  #measure(instructions: number, ms: number): void {
    // Short runs say more about the cost of starting one.
    if (instructions < BUDGET_MIN || ms < 0.05) return;
    if (ms > OVERSHOOT_MS) this.#speeds.splice(0, SPEED_SAMPLES, this.#speed / 2);
    this.#speeds.push(instructions / ms);
    if (this.#speeds.length > SPEED_SAMPLES) this.#speeds.shift();
    this.#speed = Math.max(...this.#speeds);
  }

  /** Under the instruction clock an idle guest jumps to its next deadline. */
  #skipIdle(): boolean {
    return this.#clock instanceof IcountClock && this.#clock.skipToNextDeadline();
  }

  #waitForDeadline(): void {
    const now = this.#clock.now();
    const waitMs = (this.#clock.nextDeadline - now) / 1e6;
    if (waitMs === Infinity) return;
    if (waitMs <= 0) {
      this.#soon();
      return;
    }
    const quietMs = performance.now() - this.#activeAt;
    const latestMs = (this.#clock.latestWake(quietMs * SLACK_SHARE * 1e6) - now) / 1e6;
    if (latestMs - waitMs >= 1) {
      // Any time between the two will do.
      this.#waitAbout(latestMs);
      return;
    }
    if (waitMs > (quietMs > QUIET_AFTER_MS ? PRECISE_WAIT_QUIET_MS : PRECISE_WAIT_MS)) {
      // Node rounds to whole ms and counts from the loop's own clock: one less, and the rest in place.
      this.#waitAbout(waitMs - 1);
      return;
    }
    Atomics.wait(this.#sleeper, 0, 0, waitMs);
    this.#soon();
  }

  #waitAbout(ms: number): void {
    this.#timeout = setTimeout(
      () => {
        this.#timeout = undefined;
        if (this.#clock.nextDeadline <= this.#clock.now()) this.#turn();
        else this.#waitForDeadline();
      },
      Math.min(Math.floor(ms), 0x7fffffff),
    );
  }
}
