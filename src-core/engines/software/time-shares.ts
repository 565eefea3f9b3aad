import type { ExitAccounting } from '../../accounting/exits.ts';

/** How the host's time of one run is shared out: to its exits, to translation, and what is left to guest code. */
export class TimeShares {
  /** Host ns of this run spent in exits, estimated from those that were timed. */
  exitNs = 0;
  /** Host ns of this run spent in translation. */
  translationNs = 0;

  /** The run is over: enters its time, `ns` altogether, by category. */
  spend(accounting: ExitAccounting, ns: number): void {
    const translation = Math.min(ns, this.translationNs);
    const exits = Math.min(ns - translation, this.exitNs);
    accounting.spend('translation', translation);
    accounting.spend('exits', exits);
    accounting.spend('guest', ns - translation - exits);
    this.translationNs = 0;
    this.exitNs = 0;
  }
}
