import type { ExitAccounting } from '../../accounting/exits.ts';
import type { TranslationPauses } from '../../protocol/inspection.ts';

/**
 * The host's time of a run: when it should be over, and how it is shared out to exits, to translation, and to guest code,
 * which has what is left. Times that are taken anyway are looked at for a run that lasts too long, as instructions that
 * are new to the engine take a hundred times as long as those whose number the run loop gave it.
 */
export class RunTime {
  readonly #onOverdue: () => void;
  /** Host ms. */
  #started = 0;
  #until = Infinity;
  /** Host ns of this run spent in exits, estimated from those that were timed, and in translation. */
  #exitNs = 0;
  #translationNs = 0;
  readonly #pauses: TranslationPauses = {
    longestMs: 0,
    over1Ms: 0,
    over2Ms: 0,
    over5Ms: 0,
    longestInRunMs: 0,
  };

  /** `onOverdue` is called, as often as it is noticed, when a run should be over. */
  constructor(onOverdue: () => void) {
    this.#onOverdue = onOverdue;
  }

  /** A run begins that should take `maxNs` of host time, or however long. */
  begin(maxNs: number): void {
    this.#started = performance.now();
    this.#until = this.#started + maxNs / 1e6;
  }

  /** Translation has taken the time since `started` (performance.now()) in one piece. Returns that, in ns. */
  translated(started: number): number {
    const now = performance.now();
    const ms = now - started;
    this.#translationNs += ms * 1e6;
    const pauses = this.#pauses;
    if (ms > pauses.longestMs) pauses.longestMs = ms;
    if (ms > 1) pauses.over1Ms++;
    if (ms > 2) pauses.over2Ms++;
    if (ms > 5) pauses.over5Ms++;
    if (now > this.#until) this.#onOverdue();
    return ms * 1e6;
  }

  /** An exit, one of `weight` like it, has taken the time since `started`. Returns that, in ns. */
  exited(started: number, weight: number): number {
    const now = performance.now();
    const ns = (now - started) * 1e6;
    this.#exitNs += ns * weight;
    if (now > this.#until) this.#onOverdue();
    return ns;
  }

  /** The run is over: enters its time by category. */
  end(accounting: ExitAccounting): void {
    this.#until = Infinity;
    const ns = (performance.now() - this.#started) * 1e6;
    const translation = Math.min(ns, this.#translationNs);
    const exits = Math.min(ns - translation, this.#exitNs);
    accounting.spend('translation', translation);
    accounting.spend('exits', exits);
    accounting.spend('guest', ns - translation - exits);
    this.#pauses.longestInRunMs = Math.max(this.#pauses.longestInRunMs, translation / 1e6);
    this.#translationNs = 0;
    this.#exitNs = 0;
  }

  /** Of all runs so far. */
  pauses(): TranslationPauses {
    return { ...this.#pauses };
  }
}
