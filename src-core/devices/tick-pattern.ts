/** A tick slower than this costs too little to bother. Guest ns. */
const PERIOD_MAX_NS = 20_000_000;
/** A deadline belongs to a tick when it is this part of the period, at most, away from the tick's grid. */
const TOLERANCE = 1 / 32;
/** A deadline may be late by this part of the time for which there has been nothing but the tick. */
const SLACK_SHARE = 1 / 8;
const SLACK_MAX_NS = 100_000_000;

/**
 * Finds out that the deadlines a guest asks for are those of a periodic tick and nothing else, and so how late they
 * may come while the guest is idle: a kernel without dynamic ticks asks for hundreds a second for nothing.
 *
 * Only deadlines in absolute time count, since a guest that asks for these reads a clock and knows how many periods
 * have passed. One that asks for anything else in between (a sleeping program's deadline is off the grid) gets its
 * deadlines exactly; afterwards the tick's slack grows with the time there has been nothing else, so that no sleep is
 * lengthened by more than an eighth.
 */
export class TickPattern {
  /** 0: no tick. */
  #periodNs = 0;
  /** The last deadline that has passed, and since when all of them were on the grid. */
  #passedNs = 0;
  #sinceNs = 0;

  /** The deadline has come. */
  passed(deadlineNs: number): void {
    this.#passedNs = deadlineNs;
  }

  /** The guest asks for a deadline: ns by which it may come late. */
  slackOf(deadlineNs: number): number {
    const interval = deadlineNs - this.#passedNs;
    const periods = Math.round(interval / this.#periodNs);
    const off = Math.abs(interval - periods * this.#periodNs);
    if (this.#periodNs > 0 && periods > 0 && off <= this.#periodNs * TOLERANCE) {
      return Math.min((this.#passedNs - this.#sinceNs) * SLACK_SHARE, SLACK_MAX_NS);
    }
    this.#periodNs = interval > 0 && interval <= PERIOD_MAX_NS ? interval : 0;
    this.#sinceNs = this.#passedNs;
    return 0;
  }

  reset(): void {
    this.#periodNs = 0;
    this.#passedNs = 0;
    this.#sinceNs = 0;
  }
}
