import type { ExitHistoryPoint, Statistics } from '../../src-core/protocol/vm.ts';
import type { TimeSplit } from '../state/statistics.svelte.ts';
import type { Baseline, Sort } from './rows.ts';

/** What is on show while it is held. */
export interface HeldStatistics {
  latest: Statistics | null;
  history: readonly ExitHistoryPoint[];
  interval: TimeSplit | null;
}

/** How one VM's exits are looked at. Outlives the panel, which comes and goes with its tab. */
export class ExitsView {
  held = $state.raw<HeldStatistics | null>(null);
  baseline = $state.raw<Baseline>(null);
  /** When the baseline was set, ms since 1970. */
  baselineAt = $state(0);
  sort = $state.raw<Sort>({ key: 'count', descending: true });
  filter = $state('');
  showZeros = $state(false);
  /** What the machine did on each of its engines, instead of what it does now. */
  compared = $state(false);
  /** Where time goes since power-on, not over the last interval. */
  sinceStart = $state(false);
  /** Rows that are open, by reason. */
  readonly open = $state<Record<string, boolean>>({});
}

const views = new Map<string, ExitsView>();

export function exitsView(vmId: string): ExitsView {
  let view = views.get(vmId);
  if (!view) views.set(vmId, (view = new ExitsView()));
  return view;
}
