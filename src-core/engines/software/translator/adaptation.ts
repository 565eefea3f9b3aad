import type { ExitAccounting } from '../../../accounting/exits.ts';
import type { CachedBlock } from '../cached-block.ts';

/**
 * How a memory access is translated. `plain`: through the TLB, or it leaves for the interpreter. `refill`: the TLB is filled
 * from translated code. `callout`: done in TypeScript.
 */
export type AccessForm = 'plain' | 'refill' | 'callout';

/** An access is adapted when it was seen so often among the places where regions were left (few are looked at, leavesPerLook). */
const SEEN_BEFORE_ADAPTING = { plain: 1, refill: 4 } as const;
/** Each time an access went back this doubles for it, up to so often: what was done for nothing is not done again soon. */
const DOUBLINGS_MAX = 10;
/** Of an adapted access's executions, one in so many (a power of two) is looked at. */
const EXECUTIONS_PER_LOOK = 16;
/** It goes back after so many looks in a row at what plain code would have done. */
const PLAIN_BEFORE_REVERTING = 8;

/** Why an access cannot be done through the TLB. */
export type AccessCause = 'device' | 'page crossing' | 'code page' | 'none';

interface Adapted {
  executions: number;
  /** Looks in a row at what plain code would have done. */
  plain: number;
}

/**
 * Which memory accesses of which blocks are translated as callouts, because they kept leaving translated code (Adams &
 * Agesen, ASPLOS 2006, section 3.3: adaptive binary translation), and when they go back.
 */
export class Adaptations {
  readonly #accounting: ExitAccounting;
  readonly #seen = new Map<CachedBlock, Map<number, number>>();
  readonly #refilled = new Map<CachedBlock, Set<number>>();
  readonly #adapted = new Map<CachedBlock, Map<number, Adapted>>();
  /** How often accesses went back. */
  readonly #reverted = new Map<CachedBlock, Map<number, number>>();

  constructor(accounting: ExitAccounting) {
    this.#accounting = accounting;
  }

  /** How the access of operation `index` of a block is to be translated. */
  formOf(block: CachedBlock, index: number): AccessForm {
    if (this.#adapted.get(block)?.has(index)) return 'callout';
    return this.#refilled.get(block)?.has(index) ? 'refill' : 'plain';
  }

  /** Accesses of a block that are translated as callouts. */
  in(block: CachedBlock): number {
    return this.#adapted.get(block)?.size ?? 0;
  }

  /** Accesses alive that are translated as callouts. */
  get size(): number {
    let size = 0;
    for (const list of this.#adapted.values()) size += list.size;
    return size;
  }

  /**
   * A region was left at an operation. True when something is translated in another form now, and with it what holds the
   * block. Plain accesses are left at their instruction's start: `accesses` are those of the instruction.
   */
  left(block: CachedBlock, index: number, accesses: readonly number[]): boolean {
    const form = this.formOf(block, index);
    if (form === 'callout' || accesses.length === 0) return false;
    let seen = this.#seen.get(block);
    if (!seen) this.#seen.set(block, (seen = new Map<number, number>()));
    const times = (seen.get(index) ?? 0) + 1;
    seen.set(index, times);
    const doublings = Math.min(this.#reverted.get(block)?.get(index) ?? 0, DOUBLINGS_MAX);
    if (times < SEEN_BEFORE_ADAPTING[form] << doublings) return false;
    seen.delete(index);
    if (form === 'refill') {
      let adapted = this.#adapted.get(block);
      if (!adapted) this.#adapted.set(block, (adapted = new Map<number, Adapted>()));
      adapted.set(index, { executions: 0, plain: 0 });
      return true;
    }
    let refilled = this.#refilled.get(block);
    if (!refilled) this.#refilled.set(block, (refilled = new Set<number>()));
    const before = refilled.size;
    for (const access of accesses) refilled.add(access);
    if (refilled.size === before) return false;
    this.#accounting.adapted('refill');
    return true;
  }

  /** An adapted access was executed. True when it goes back to its plain form. */
  executed(block: CachedBlock, index: number, causeOf: () => AccessCause): boolean {
    const list = this.#adapted.get(block);
    const entry = list?.get(index);
    if (!list || !entry) return false;
    if ((entry.executions++ & (EXECUTIONS_PER_LOOK - 1)) !== 0) return false;
    const cause = causeOf();
    if (cause !== 'none') {
      if (entry.executions === 1) {
        this.#accounting.adapted(cause);
      }
      entry.plain = 0;
      return false;
    }
    if (++entry.plain < PLAIN_BEFORE_REVERTING) return false;
    list.delete(index);
    let reverted = this.#reverted.get(block);
    if (!reverted) this.#reverted.set(block, (reverted = new Map<number, number>()));
    reverted.set(index, (reverted.get(index) ?? 0) + 1);
    this.#accounting.adapted('back to plain');
    return true;
  }

  forget(block: CachedBlock): void {
    this.#seen.delete(block);
    this.#refilled.delete(block);
    this.#adapted.delete(block);
    this.#reverted.delete(block);
  }

  clear(): void {
    this.#seen.clear();
    this.#refilled.clear();
    this.#adapted.clear();
    this.#reverted.clear();
  }
}
