/** A device's timer on the guest's clock. */
export interface Timer {
  /**
   * Fires once at guest time `deadlineNs` (at once when that is past). Re-arming moves the deadline.
   * @param slackNs how much later it may fire while the guest is idle and nothing else wakes it.
   */
  arm(deadlineNs: number, slackNs?: number): void;
  disarm(): void;
  /** Deadline in guest ns, or undefined when disarmed. */
  readonly deadlineNs: number | undefined;
}

/** Guest time in nanoseconds since power-on, and the timers that wait on it. Exact to 1 ns for 104 days. */
export interface GuestClock {
  /** Guest ns since power-on, a whole number. Never goes back. */
  now(): number;
  /** Makes a disarmed timer. `fire` gets the deadline it was armed for. */
  timer(name: string, fire: (deadlineNs: number) => void): Timer;
}

/** Frequency of the guest's TSC, Hz: one tick a nanosecond. */
export const TSC_HZ = 1_000_000_000;

interface Entry extends Timer {
  readonly name: string;
}

interface TimerRecord {
  entry: Entry;
  deadline: number | undefined;
  slack: number;
  fire: (deadlineNs: number) => void;
}

/** What the run loop needs beyond what devices see. Subclasses say where time comes from. */
export abstract class TimerClock implements GuestClock {
  readonly #timers: TimerRecord[] = [];
  #next = Infinity;

  abstract now(): number;

  /** Sets guest time (restoring a snapshot). Timers keep their deadlines. */
  abstract setNow(ns: number): void;

  timer(name: string, fire: (deadlineNs: number) => void): Timer {
    const touch = (): void => this.#recompute();
    const record: TimerRecord = {
      deadline: undefined,
      slack: 0,
      fire,
      entry: {
        name,
        arm(deadlineNs: number, slackNs = 0): void {
          record.slack = slackNs;
          // Guest time is whole ns: an instruction clock that jumps to a deadline must not leave that grid.
          record.deadline = Math.ceil(deadlineNs);
          touch();
        },
        disarm(): void {
          record.deadline = undefined;
          touch();
        },
        get deadlineNs(): number | undefined {
          return record.deadline;
        },
      },
    };
    this.#timers.push(record);
    return record.entry;
  }

  /** Earliest deadline in guest ns; Infinity when no timer is armed. */
  get nextDeadline(): number {
    return this.#next;
  }

  /** Guest ns up to which an idle guest may sleep when no timer uses more than `slackNs` of its slack. */
  latestWake(slackNs: number): number {
    let latest = Infinity;
    for (const { deadline, slack } of this.#timers) {
      if (deadline !== undefined) latest = Math.min(latest, deadline + Math.min(slack, slackNs));
    }
    return latest;
  }

  /** Called when the earliest deadline moved: a run in progress may have to end sooner. */
  onDeadlineChange: () => void = () => undefined;

  #recompute(): void {
    let next = Infinity;
    for (const { deadline } of this.#timers) if (deadline !== undefined && deadline < next) next = deadline;
    if (next === this.#next) return;
    this.#next = next;
    this.onDeadlineChange();
  }

  /** Fires every timer whose deadline has come, earliest first. A timer that re-arms in the past fires again, at most `limit` times in all. */
  runDue(limit = 1000): void {
    const now = this.now();
    for (let fired = 0; fired < limit && this.#next <= now; fired++) {
      const due = this.#timers
        .filter(({ deadline }) => deadline !== undefined && deadline <= now)
        .sort((x, y) => (x.deadline ?? 0) - (y.deadline ?? 0))[0];
      if (!due || due.deadline === undefined) return;
      const { deadline } = due;
      due.deadline = undefined;
      this.#recompute();
      due.fire(deadline);
    }
  }
}

/** Guest time follows the host's monotonic clock, minus the time the VM was paused. */
export class HostClock extends TimerClock {
  readonly #base = HostClock.host();
  #offset = 0;
  #pausedAt: number | undefined = this.#base;

  static host(): number {
    return Math.round(performance.now() * 1e6);
  }

  override now(): number {
    return (this.#pausedAt ?? HostClock.host()) - this.#offset - this.#base;
  }

  /** Stops guest time. Idempotent. */
  pause(): void {
    this.#pausedAt ??= HostClock.host();
  }

  /** Lets guest time go on from where it stopped. */
  resume(): void {
    if (this.#pausedAt === undefined) return;
    this.#offset += HostClock.host() - this.#pausedAt;
    this.#pausedAt = undefined;
  }

  override setNow(ns: number): void {
    this.#offset += this.now() - ns;
  }
}

/** Guest time counts instructions, so that a run can be repeated exactly. An idle guest jumps to its next deadline. */
export class IcountClock extends TimerClock {
  /** Guest ns an instruction takes. */
  static readonly NS_PER_INSTRUCTION = 1;
  readonly #instructions: () => number;
  #skippedNs = 0;

  /** @param instructions the exact count of instructions retired so far. */
  constructor(instructions: () => number) {
    super();
    this.#instructions = instructions;
  }

  override now(): number {
    return this.#instructions() * IcountClock.NS_PER_INSTRUCTION + this.#skippedNs;
  }

  /** The guest is idle: time jumps to the next deadline. False when there is none to jump to. */
  skipToNextDeadline(): boolean {
    const next = this.nextDeadline;
    if (next === Infinity) return false;
    this.#skippedNs += Math.max(0, next - this.now());
    return true;
  }

  override setNow(ns: number): void {
    this.#skippedNs += ns - this.now();
  }
}
