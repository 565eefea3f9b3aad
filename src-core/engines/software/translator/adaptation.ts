import type { ExitAccounting } from '../../../accounting/exits.ts';
import type { CachedBlock } from '../block-cache.ts';

/** An access is adapted when it was seen so often among the places where regions were left (one in 64 is looked at). */
const SEEN_BEFORE_ADAPTING = 4;
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
  readonly #adapted = new Map<CachedBlock, Map<number, Adapted>>();

  constructor(accounting: ExitAccounting) {
    this.#accounting = accounting;
  }

  /** Whether operation `index` of a block is to be translated as a callout. */
  has(block: CachedBlock, index: number): boolean {
    return this.#adapted.get(block)?.has(index) ?? false;
  }

  /** Adapted accesses of a block. */
  in(block: CachedBlock): number {
    return this.#adapted.get(block)?.size ?? 0;
  }

  /** Adapted accesses alive. */
  get size(): number {
    let size = 0;
    for (const list of this.#adapted.values()) size += list.size;
    return size;
  }

  /** A region was left at an operation. True when that is adapted now: what holds the block is to be translated anew. */
  left(block: CachedBlock, index: number): boolean {
    if (this.has(block, index)) return false;
    let seen = this.#seen.get(block);
    if (!seen) this.#seen.set(block, (seen = new Map<number, number>()));
    const times = (seen.get(index) ?? 0) + 1;
    seen.set(index, times);
    if (times < SEEN_BEFORE_ADAPTING) return false;
    seen.delete(index);
    let adapted = this.#adapted.get(block);
    if (!adapted) this.#adapted.set(block, (adapted = new Map<number, Adapted>()));
    adapted.set(index, { executions: 0, plain: 0 });
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
        this.#accounting.count('adaptation');
        this.#accounting.detail('adaptation', cause);
      }
      entry.plain = 0;
      return false;
    }
    if (++entry.plain < PLAIN_BEFORE_REVERTING) return false;
    list.delete(index);
    this.#accounting.count('adaptation');
    this.#accounting.detail('adaptation', 'back to plain');
    return true;
  }

  forget(block: CachedBlock): void {
    this.#seen.delete(block);
    this.#adapted.delete(block);
  }

  clear(): void {
    this.#seen.clear();
    this.#adapted.clear();
  }
}
