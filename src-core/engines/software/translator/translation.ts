import { ARENA } from '../../../machine/arena.ts';
import type { CachedBlock } from '../cached-block.ts';
import { SITE } from '../exit.ts';
import type { ViaSite } from './region.ts';

/** A region that was translated. */
export interface Translation {
  /** Counts translations. */
  readonly id: number;
  /** What it was grown from. */
  readonly entry: CachedBlock;
  /** Where it is entered, `entry` first, unless other regions are entered there: node number, its offset and block. */
  readonly entries: readonly { readonly node: number; readonly delta: number; readonly block: CachedBlock }[];
  readonly slot: number;
  /** Its nodes in reverse postorder: a region itself, with its IR, is too large to keep. */
  readonly nodes: readonly TranslatedNode[];
  /** Those of its nodes whose ways on were not all known. */
  readonly ways: readonly OpenNode[];
  /** Blocks whose regions it goes on to. */
  readonly chains: readonly CachedBlock[];
  /** What its making depended on, so that the inspector can repeat it. */
  readonly origin: TranslationOrigin;
  /** Bytes of its function's instructions. */
  readonly wasmBytes: number;
  /** Entries when they were looked at last, and how many looks in a row found no more of them. */
  entriesSeen: number;
  looksUnused: number;
  /** Its code changed, or nothing used it: it is not entered again. */
  dead: boolean;
}

export interface TranslatedNode {
  readonly block: CachedBlock;
  readonly delta: number;
  /** The region may be entered here, when it is translated anew for that. */
  readonly enterable: boolean;
}

/** A node whose ways on were not all known. */
export interface OpenNode {
  /** Its number. */
  readonly node: number;
  readonly block: CachedBlock;
  /** An indirect jump at its end. */
  readonly via: ViaSite | undefined;
  /** Where it leads to and nothing was known: offsets from the block's start. */
  readonly open: readonly number[];
}

/** Arena address of the sites of the region in a slot. */
export function siteTableOf(slot: number): number {
  return ARENA.regionSites + slot * SITE.nodes * SITE.entrySize;
}

/** The blocks a translation holds. */
export function blocksOf({ nodes }: Translation): ReadonlySet<CachedBlock> {
  return new Set(nodes.map(({ block }) => block));
}

/** Lists, not sets and maps: there are thousands, hardly ever looked into, and a set takes a hundred bytes and more. */
export interface TranslationOrigin {
  /** Linear address it had when it was translated (it may have others). Signed for 64-bit code. */
  readonly linear: number;
  /** Linear pages that were asked for: distance from the entry's page, and arena address or -1 where none was known. */
  readonly pages: readonly (readonly [distance: number, arena: number])[];
  /** Blocks that were warm then, of those that were asked about. */
  readonly warm: readonly CachedBlock[];
  /** Blocks where it had to be entered too. */
  readonly wanted: readonly CachedBlock[];
  /** Blocks where other regions were entered, of those that were asked about. */
  readonly begun: readonly CachedBlock[];
  /** Blocks with an id below this were known. */
  readonly blocks: number;
}

/** Most places whose dropped translations are counted. */
const PLACES_MAX = 4096;

/** How often translations were dropped, by where they were entered; the places dropped last are remembered. */
export class DropCounts {
  readonly #counts = new Map<string, number>();

  count(entry: CachedBlock): void {
    const key = keyOf(entry);
    const before = this.#counts.get(key) ?? 0;
    this.#counts.delete(key);
    this.#counts.set(key, before + 1);
    if (this.#counts.size <= PLACES_MAX) return;
    for (const oldest of this.#counts.keys()) {
      this.#counts.delete(oldest);
      return;
    }
  }

  of(entry: CachedBlock): number {
    return this.#counts.get(keyOf(entry)) ?? 0;
  }
}

function keyOf({ code, modeKey }: CachedBlock): string {
  return `${code}:${modeKey}`;
}
