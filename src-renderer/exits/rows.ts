import { EXIT_REASONS, EXIT_REASON_KEYS } from '../../src-core/accounting/exits.ts';
import type { ExitHistoryPoint, Statistics } from '../../src-core/protocol/vm.ts';
import { portName } from './ports.ts';

export interface ExitDetail {
  key: string;
  /** What the key stands for, where that is known. */
  name: string | null;
  count: number;
}

/** One reason as a row of the table, counted since the baseline. */
export interface ExitRow {
  key: string;
  label: string;
  count: number;
  /** Exits per second over the last interval. */
  rate: number;
  /** Share of all exits since the baseline, 0..1. */
  share: number;
  /** Mean ns of the timed exits; null when none was timed. */
  meanNs: number | null;
  /** Estimated ns of all of them: the mean times the count; null when none was timed. */
  totalNs: number | null;
  /** Rates of the recent past, oldest first. */
  history: number[];
  /** Timed exits by duration: bucket i holds those of [2^i, 2^(i+1)) ns. */
  histogram: number[];
  details: ExitDetail[];
}

export type Baseline = Statistics['exits'] | null;

const LABELS: Record<string, string> = EXIT_REASONS;

/**
 * The reasons of the taxonomy, and after them any that only the host knows, as rows.
 * @param baseline counters to subtract; null counts from power-on
 */
export function exitRows(
  statistics: Statistics | null,
  baseline: Baseline,
  history: readonly ExitHistoryPoint[],
): ExitRow[] {
  const reasons = statistics?.exits.reasons ?? {};
  const keys = new Set<string>([...EXIT_REASON_KEYS, ...Object.keys(reasons)]);
  const rows: ExitRow[] = [];
  let total = 0;
  for (const key of keys) {
    const now = reasons[key] ?? { count: 0, timed: 0, ns: 0, histogram: [], modelled: undefined };
    const then = baseline?.reasons[key];
    const count = now.count - (then?.count ?? 0);
    const timed = now.timed - (then?.timed ?? 0);
    const ns = now.ns - (then?.ns ?? 0);
    const meanNs = timed > 0 ? ns / timed : null;
    // Exits of the model are not timed, and take what nobody knows.
    const modelled = (now.modelled?.count ?? 0) - (then?.modelled?.count ?? 0);
    total += count;
    rows.push({
      key,
      label: LABELS[key] ?? key,
      count,
      rate: statistics?.rates[key] ?? 0,
      share: 0,
      meanNs,
      totalNs: meanNs === null ? null : meanNs * (count - modelled),
      history: history.map(({ rates }) => rates[key] ?? 0),
      histogram: now.histogram.map((value, bucket) => value - (then?.histogram[bucket] ?? 0)),
      details: detailsOf(statistics?.exits.details[key] ?? {}, baseline?.details[key] ?? {}),
    });
  }
  for (const row of rows) row.share = total > 0 ? row.count / total : 0;
  return rows;
}

function detailsOf(now: Record<string, number>, then: Record<string, number>): ExitDetail[] {
  return Object.entries(now)
    .map(([key, count]) => ({ key, name: portName(key), count: count - (then[key] ?? 0) }))
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count);
}

/** The counters ran backwards: the guest was reset or put back, and the baseline means nothing any more. */
export function baselineOutdated(statistics: Statistics, baseline: Baseline): boolean {
  return (
    baseline !== null &&
    Object.entries(baseline.reasons).some(
      ([key, { count }]) => (statistics.exits.reasons[key]?.count ?? 0) < count,
    )
  );
}

export type SortKey = 'label' | 'rate' | 'count' | 'share' | 'meanNs' | 'totalNs';
export interface Sort {
  key: SortKey;
  descending: boolean;
}

export function sortRows(rows: ExitRow[], { key, descending }: Sort): ExitRow[] {
  const sign = descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    if (key === 'label') return sign * a.label.localeCompare(b.label);
    return sign * ((a[key] ?? -1) - (b[key] ?? -1)) || a.label.localeCompare(b.label);
  });
}

/** Whether the words of the filter stand in the row: in its label, its key or one of its details. */
export function matchesFilter(row: ExitRow, filter: string): boolean {
  const words = filter.trim().toLowerCase();
  if (words === '') return true;
  const texts = [row.label, row.key, ...row.details.flatMap(({ key, name }) => [key, name ?? ''])];
  return texts.some((text) => text.toLowerCase().includes(words));
}
