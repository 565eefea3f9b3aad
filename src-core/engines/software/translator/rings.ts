import type { CachedBlock } from '../cached-block.ts';
import type { Translation } from './translation.ts';

/** A loop in pieces is worth mending where one of them is entered so often within a look (a few million times a second)... */
const ENTRIES_MIN = 250_000;
/** ...and the others at least once for so many entries of it... */
const SHARE = 2;
/** ...unless together they hold more than one region should... */
const NODES_MAX = 96;
/** ...or it was tried so often from one place. */
const JOINS_MAX = 2;

/**
 * Finds loops that lie in pieces: regions that lead to one another in a circle and are entered all the time. They come
 * about where the parts of a loop grow hot one after the other; in one region the loop takes two thirds of the time (gzip's
 * search for matches). Only the hottest are looked for: what was translated well is not to be made anew for little.
 */
export class Rings {
  /** Entries at the last look, of regions that had many. */
  #seen = new Map<Translation, number>();
  /** How often a loop was put together from the region grown from a block. */
  readonly #joins = new WeakMap<CachedBlock, number>();

  /**
   * Looks at all regions. Returns those to be made one, the most often entered first; none where there is no such loop.
   * `entered`: how often a region was entered so far; `at`: the region that is entered at a block.
   */
  look(
    translations: Iterable<Translation>,
    entered: (translation: Translation) => number,
    at: (block: CachedBlock) => Translation | undefined,
  ): readonly Translation[] {
    const before = this.#seen;
    const seen = new Map<Translation, number>();
    const heat = new Map<Translation, number>();
    let hottest: Translation | undefined;
    let most = ENTRIES_MIN;
    for (const translation of translations) {
      const entries = entered(translation);
      if (entries * SHARE < ENTRIES_MIN) continue;
      seen.set(translation, entries);
      const since = entries - (before.get(translation) ?? entries);
      if (since * SHARE < ENTRIES_MIN) continue;
      heat.set(translation, since);
      if (since < most || (this.#joins.get(translation.entry) ?? 0) >= JOINS_MAX) continue;
      hottest = translation;
      most = since;
    }
    this.#seen = seen;
    if (!hottest) return [];
    const ring = ringOf(hottest, (translation) =>
      translation.chains
        .map(at)
        .filter((next) => next !== undefined)
        .filter((next) => (heat.get(next) ?? 0) * SHARE >= most),
    );
    if (ring.length < 2 || ring.reduce((sum, { nodes }) => sum + nodes.length, 0) > NODES_MAX) return [];
    this.#joins.set(hottest.entry, (this.#joins.get(hottest.entry) ?? 0) + 1);
    return ring;
  }
}

/** What lies on a way from `start` to itself, `start` first. */
function ringOf(start: Translation, next: (from: Translation) => readonly Translation[]): Translation[] {
  const from = new Map<Translation, Translation[]>();
  const reached = new Set([start]);
  for (const translation of reached) {
    for (const to of next(translation)) {
      reached.add(to);
      const list = from.get(to);
      if (list) list.push(translation);
      else from.set(to, [translation]);
    }
  }
  const ring = new Set([start]);
  for (const translation of ring) for (const before of from.get(translation) ?? []) ring.add(before);
  return from.has(start) ? [...ring] : [];
}
