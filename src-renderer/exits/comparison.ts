import { EXIT_REASON_KEYS, EXIT_REASONS } from '../../src-core/accounting/exits.ts';
import type { EngineUse } from '../../src-core/protocol/engine-comparison.ts';

/** What one reason did on one engine; null where it did not happen. */
export interface ComparedCell {
  count: number;
  /** Exits per second of guest time on that engine. */
  rate: number;
  /** Time these exits took, ns; null where none was timed. */
  ns: number | null;
  /** Its rate in relation to the highest of the row, 0..1. */
  share: number;
}

export interface ComparedRow {
  key: string;
  label: string;
  /** In the order of the engines. */
  cells: (ComparedCell | null)[];
}

const LABELS: Record<string, string> = EXIT_REASONS;

/** Engines side by side, the reasons that happen most often first. */
export function comparedRows(uses: readonly EngineUse[]): ComparedRow[] {
  const keys = new Set([...EXIT_REASON_KEYS, ...uses.flatMap(({ reasons }) => Object.keys(reasons))]);
  const rows = [...keys].map((key): ComparedRow & { top: number } => {
    const rates = uses.map(({ reasons, ms }) => ((reasons[key]?.count ?? 0) * 1000) / Math.max(ms, 1));
    const top = Math.max(...rates, 0);
    const cells = uses.map(({ reasons }, index) => {
      const use = reasons[key];
      const rate = rates[index] ?? 0;
      return use ? { ...use, rate, share: top > 0 ? rate / top : 0 } : null;
    });
    return { key, label: LABELS[key] ?? key, cells, top };
  });
  return rows.filter(({ top }) => top > 0).sort((a, b) => b.top - a.top || a.label.localeCompare(b.label));
}

/** All exits of an engine. */
export function totalCount({ reasons }: EngineUse): number {
  return Object.values(reasons).reduce((sum, { count }) => sum + count, 0);
}
