import type { CachedBlock } from '../cached-block.ts';
import type { Translation } from './translation.ts';

/** Translations by blocks. Most blocks have one: a list for each would be memory for nothing. */
export class TranslationIndex {
  readonly #entries = new Map<CachedBlock, Translation | Translation[]>();

  has(block: CachedBlock): boolean {
    return this.#entries.has(block);
  }

  of(block: CachedBlock): readonly Translation[] {
    const entry = this.#entries.get(block);
    return entry === undefined ? NONE : Array.isArray(entry) ? entry : [entry];
  }

  enter(blocks: Iterable<CachedBlock>, translation: Translation): void {
    for (const block of blocks) {
      const entry = this.#entries.get(block);
      if (entry === undefined) this.#entries.set(block, translation);
      else if (Array.isArray(entry)) entry.push(translation);
      else this.#entries.set(block, [entry, translation]);
    }
  }

  withdraw(blocks: Iterable<CachedBlock>, translation: Translation): void {
    for (const block of blocks) {
      const left = this.of(block).filter((other) => other !== translation);
      const [first] = left;
      if (first === undefined) this.#entries.delete(block);
      else this.#entries.set(block, left.length === 1 ? first : left);
    }
  }
}

const NONE: readonly Translation[] = [];
