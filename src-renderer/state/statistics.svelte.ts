import type { ExitHistoryPoint, Statistics } from '../../src-core/protocol/vm.ts';

/** Points kept of each VM's recent past: a minute at two a second. */
export const HISTORY_POINTS = 120;
/** Ticks further apart than this do not belong to one curve: the VM was paused or stopped between them. */
const GAP_MS = 5000;

/** Host ns by category and the interval they were spent in. */
export interface TimeSplit {
  time: Record<string, number>;
  totalNs: number;
}

export function totalRate(rates: Record<string, number>): number {
  let total = 0;
  for (const value of Object.values(rates)) total += value;
  return total;
}

/** The live statistics of one VM: the latest tick and the recent past. */
export class VmStatistics {
  /** The latest tick; raw, since it is replaced as a whole twice a second. */
  latest = $state.raw<Statistics | null>(null);
  history = $state.raw<readonly ExitHistoryPoint[]>([]);
  /** Where the time of the latest interval went; null before the second tick. */
  interval = $state.raw<TimeSplit | null>(null);

  readonly exitsPerSecond = $derived(this.latest ? totalRate(this.latest.rates) : 0);

  add(statistics: Statistics): void {
    const previous = this.latest;
    this.latest = statistics;
    if (statistics.intervalMs === 0) {
      this.history = [];
      this.interval = null;
      return;
    }
    const { at, engine, rates, instructionsPerSecond } = statistics;
    const last = this.history.at(-1);
    const base = last && at - last.at > GAP_MS ? [] : this.history;
    this.history = [...base, { at, engine, rates, instructionsPerSecond }].slice(-HISTORY_POINTS);
    this.interval = previous ? difference(previous.exits.time, statistics.exits.time) : null;
  }

  /** Puts what the host kept before this window was there in front of what came since. */
  prepend(points: readonly ExitHistoryPoint[]): void {
    const first = this.history[0]?.at ?? Infinity;
    this.history = [...points.filter(({ at }) => at < first), ...this.history].slice(-HISTORY_POINTS);
  }

  /** The VM no longer runs: the counters stay readable, the rates are over. */
  stop(): void {
    if (!this.latest) return;
    this.latest = { ...this.latest, rates: {}, instructionsPerSecond: 0, hostCpu: null };
    this.interval = null;
  }
}

function difference(before: Record<string, number>, after: Record<string, number>): TimeSplit | null {
  const time: Record<string, number> = {};
  let totalNs = 0;
  for (const [key, value] of Object.entries(after)) {
    const spent = value - (before[key] ?? 0);
    // The counters began anew (reset, return to a snapshot): there is no interval to speak of.
    if (spent < 0) return null;
    time[key] = spent;
    totalNs += spent;
  }
  return totalNs > 0 ? { time, totalNs } : null;
}
