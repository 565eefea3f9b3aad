/**
 * The one taxonomy of exits, for all engines (docs: ARCHITECTURE.md). An exit is any transfer of control from
 * guest code to VMM code. Labels are for people; keys are stable (they stand in exports and databases).
 */
export const EXIT_REASONS = {
  portIo: 'Port I/O',
  mmio: 'Memory-mapped I/O',
  controlRegister: 'Control register',
  msr: 'Model-specific register',
  cpuid: 'CPUID',
  hlt: 'HLT',
  invlpg: 'INVLPG',
  truePageFault: 'True page fault',
  hiddenPageFault: 'Hidden page fault',
  trace: 'Trace (write-protected page)',
  exception: 'Exception delivered',
  interrupt: 'Interrupt delivered',
  interruptWindow: 'Interrupt window',
  systemCall: 'System call',
  farTransfer: 'Far transfer, IRET, software interrupt',
  descriptor: 'Descriptor and segment register',
  rdtsc: 'Time-stamp counter',
  floatingPoint: 'Floating-point helper',
  stringOperation: 'String operation',
  otherCallout: 'Other callout',
  selfModifyingCode: 'Self-modifying code',
  tlbFill: 'TLB fill',
  translation: 'Translation',
  retranslation: 'Retranslation',
  adaptation: 'Adaptation',
  chainMiss: 'Chain miss',
  softwareFallback: 'Executed by the software engine',
  slice: 'Time slice ended',
} as const;

export type ExitReason = keyof typeof EXIT_REASONS;
export const EXIT_REASON_KEYS = Object.keys(EXIT_REASONS) as ExitReason[];

/** Where host time goes. */
export const TIME_CATEGORIES = {
  guest: 'Guest code',
  translation: 'Translation',
  exits: 'Exits',
  devices: 'Devices',
  idle: 'Idle',
} as const;
export type TimeCategory = keyof typeof TIME_CATEGORIES;

/** Histogram buckets: bucket i counts exits that took [2^i, 2^(i+1)) ns; the last takes all longer ones. */
export const HISTOGRAM_BUCKETS = 24;

interface ReasonCounters {
  count: number;
  timedCount: number;
  ns: number;
  histogram: number[];
  modelled: ModelledExits;
}

export interface ModelledExits {
  count: number;
  ns: number;
}

/** A copy of the counters, plain data for messages and files. */
export interface ExitSnapshot {
  /**
   * `count` is exact; `ns` is the sum over the `timed` exits that were measured (all, or a sample). `modelled`: those of
   * them that the model of hardware virtualization took, and what its cost profile says they take, which nobody measured.
   */
  reasons: Record<
    string,
    { count: number; timed: number; ns: number; histogram: number[]; modelled?: ModelledExits | undefined }
  >;
  /** Details under a reason: port I/O by port ("0x3f8"), MMIO by device. */
  details: Record<string, Record<string, number>>;
  /** Host ns by category since power-on. */
  time: Record<string, number>;
  instructions: number;
}

/** Counts exits by reason, always on. One in `sampleEvery` exits of a reason is timed. */
export class ExitAccounting {
  readonly #reasons = new Map<ExitReason, ReasonCounters>();
  readonly #details = new Map<ExitReason, Map<string, number>>();
  readonly #time = new Map<TimeCategory, number>();
  instructions = 0;
  #other: ExitAccounting | undefined;

  constructor() {
    for (const key of EXIT_REASON_KEYS) {
      this.#reasons.set(key, {
        count: 0,
        timedCount: 0,
        ns: 0,
        histogram: new Array<number>(HISTOGRAM_BUCKETS).fill(0),
        modelled: { count: 0, ns: 0 },
      });
    }
  }

  #of(reason: ExitReason): ReasonCounters {
    const counters = this.#reasons.get(reason);
    if (!counters) throw new Error(`unknown exit reason ${reason}`);
    return counters;
  }

  /**
   * Has exits counted and timed there instead, until that is ended with undefined: an engine that another one uses to
   * execute its guest does not take exits of its own. Time by category and instructions are not diverted.
   */
  divert(to: ExitAccounting | undefined): void {
    this.#other = to;
  }

  count(reason: ExitReason, times = 1): void {
    if (this.#other) this.#other.count(reason, times);
    else this.#of(reason).count += times;
  }

  /** How often an exit was counted here, diverted ones left out. */
  countOf(reason: ExitReason): number {
    return this.#of(reason).count;
  }

  /** Adds the measured duration of one exit (which `count` counts separately). */
  addTime(reason: ExitReason, ns: number): void {
    if (this.#other) {
      this.#other.addTime(reason, ns);
      return;
    }
    const counters = this.#of(reason);
    counters.timedCount++;
    counters.ns += ns;
    const bucket = Math.min(HISTOGRAM_BUCKETS - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, ns)))));
    counters.histogram[bucket] = (counters.histogram[bucket] ?? 0) + 1;
  }

  /** Counts exits of a model, and what it says that they take. */
  countModelled(reason: ExitReason, times: number, ns: number): void {
    const counters = this.#of(reason);
    counters.count += times;
    counters.modelled.count += times;
    counters.modelled.ns += ns;
  }

  detail(reason: ExitReason, key: string, times = 1): void {
    if (this.#other) {
      this.#other.detail(reason, key, times);
      return;
    }
    let details = this.#details.get(reason);
    if (!details) this.#details.set(reason, (details = new Map<string, number>()));
    details.set(key, (details.get(key) ?? 0) + times);
  }

  /** Counts an adaptation of translated code, and of what kind it is. */
  adapted(kind: string): void {
    this.count('adaptation');
    this.detail('adaptation', kind);
  }

  spend(category: TimeCategory, ns: number): void {
    this.#time.set(category, (this.#time.get(category) ?? 0) + ns);
  }

  snapshot(): ExitSnapshot {
    const reasons: ExitSnapshot['reasons'] = {};
    for (const [key, { count, timedCount, ns, histogram, modelled }] of this.#reasons) {
      const some = modelled.count > 0 && { modelled: { ...modelled } };
      reasons[key] = { count, timed: timedCount, ns, histogram: [...histogram], ...some };
    }
    const details: ExitSnapshot['details'] = {};
    for (const [key, map] of this.#details) details[key] = Object.fromEntries(map);
    return { reasons, details, time: Object.fromEntries(this.#time), instructions: this.instructions };
  }
}
