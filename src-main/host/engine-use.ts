import type { ExitSnapshot } from '../../src-core/accounting/exits.ts';
import type { EngineName } from '../../src-core/protocol/engine.ts';
import {
  addUses,
  type EngineSample,
  type EngineUse,
  type ReasonUse,
} from '../../src-core/protocol/engine-comparison.ts';

/** Counters of a machine at a moment. */
export interface Counters {
  exits: ExitSnapshot;
  guestNs: number;
}

/** Splits what a machine counts, which knows nothing of engines, by the engine that ran it. For one run. */
export class EngineUseTracker {
  #engine: EngineName;
  #last: Counters;
  #pending: EngineUse[] = [];

  /** @param start counters when the run began */
  constructor(engine: EngineName, start: Counters) {
    this.#engine = nameOnly(engine);
    this.#last = start;
  }

  /** All that was counted since the last call is the present engine's. From now on it is `next`. */
  count(counters: Counters, next: EngineName = this.#engine): void {
    const use = difference(this.#engine, this.#last, counters);
    if (use.ms > 0 || Object.keys(use.reasons).length > 0) this.#pending = addUses([...this.#pending, use]);
    this.#last = counters;
    this.#engine = nameOnly(next);
  }

  /** What was counted since `take`, by engine. */
  get pending(): readonly EngineUse[] {
    return this.#pending;
  }

  /** Hands that over, to be kept. @param at host ms since 1970 */
  take(at: number): EngineSample[] {
    const samples = this.#pending.map((use) => ({ ...use, at }));
    this.#pending = [];
    return samples;
  }
}

/** A status tells more than the name. */
function nameOnly({ kind, accelerator }: EngineName): EngineName {
  return { kind, accelerator };
}

/** A counter that fell was reset meanwhile. */
function grown(before: number | undefined, after: number): number {
  return before === undefined || after < before ? after : after - before;
}

function difference(engine: EngineName, before: Counters, after: Counters): EngineUse {
  const reasons: Record<string, ReasonUse> = {};
  for (const [reason, now] of Object.entries(after.exits.reasons)) {
    const then = before.exits.reasons[reason];
    const count = grown(then?.count, now.count);
    if (count === 0) continue;
    if (engine.accelerator === 'model') {
      const ns = grown(then?.modelled?.ns, now.modelled?.ns ?? 0);
      reasons[reason] = { count, ns: ns > 0 ? ns : null };
      continue;
    }
    const timed = grown(then?.timed, now.timed);
    const ns = grown(then?.ns, now.ns);
    reasons[reason] = { count, ns: timed > 0 ? (ns / timed) * count : null };
  }
  return {
    engine,
    ms: grown(before.guestNs, after.guestNs) / 1e6,
    instructions: grown(before.exits.instructions, after.exits.instructions),
    reasons,
  };
}
