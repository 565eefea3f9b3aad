import type { ExitSnapshot } from '../../src-core/accounting/exits.ts';
import type { VmProcessMessage } from '../../src-core/protocol/vm-process.ts';
import type { ExitHistoryPoint, Statistics } from '../../src-core/protocol/vm.ts';

type Report = Extract<VmProcessMessage, { type: 'statistics' }>;

/** How often a point goes into the kept time series, ms. */
export const HISTORY_INTERVAL_MS = 5000;

/** Exits per second by reason between two counts; reasons that stood still are left out. A counter that fell was reset. */
function ratesBetween(
  before: ExitSnapshot | undefined,
  after: ExitSnapshot,
  seconds: number,
): Record<string, number> {
  const rates: Record<string, number> = {};
  for (const [reason, { count }] of Object.entries(after.reasons)) {
    const earlier = before?.reasons[reason]?.count ?? 0;
    const grown = count >= earlier ? count - earlier : count;
    if (grown > 0 && seconds > 0) rates[reason] = grown / seconds;
  }
  return rates;
}

function instructionRate(before: ExitSnapshot | undefined, after: ExitSnapshot, seconds: number): number {
  const earlier = before?.instructions ?? 0;
  const grown = after.instructions >= earlier ? after.instructions - earlier : after.instructions;
  return seconds > 0 ? grown / seconds : 0;
}

/** Turns what a VM's process counts into rates, for one run. */
export class StatisticsTracker {
  readonly #vmId: string;
  #last: { report: Report; at: number } | undefined;
  #lastPoint: { report: Report; at: number } | undefined;

  constructor(vmId: string) {
    this.#vmId = vmId;
  }

  /** @param at host ms since 1970. */
  tick(report: Report, at: number): { statistics: Statistics; point: ExitHistoryPoint | undefined } {
    const last = this.#last;
    const intervalMs = last ? at - last.at : 0;
    const seconds = intervalMs / 1000;
    this.#last = { report, at };
    const statistics: Statistics = {
      vmId: this.#vmId,
      at,
      engine: report.engine,
      counters: report.counters,
      intervalMs,
      guestNs: report.guestNs,
      exits: report.exits,
      rates: ratesBetween(last?.report.exits, report.exits, seconds),
      instructionsPerSecond: instructionRate(last?.report.exits, report.exits, seconds),
      hostCpu: last && intervalMs > 0 ? Math.max(0, report.cpuMs - last.report.cpuMs) / intervalMs : null,
      residentBytes: report.residentBytes,
    };
    return { statistics, point: this.#point(report, at) };
  }

  #point(report: Report, at: number): ExitHistoryPoint | undefined {
    const last = (this.#lastPoint ??= { report, at });
    if (at - last.at < HISTORY_INTERVAL_MS) return undefined;
    const seconds = (at - last.at) / 1000;
    this.#lastPoint = { report, at };
    return {
      at,
      engine: report.engine,
      rates: ratesBetween(last.report.exits, report.exits, seconds),
      instructionsPerSecond: instructionRate(last.report.exits, report.exits, seconds),
    };
  }
}
