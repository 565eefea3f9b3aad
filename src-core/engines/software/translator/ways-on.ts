import type { ExitAccounting } from '../../../accounting/exits.ts';
import type { Arena } from '../../../machine/arena.ts';
import type { TranslatorOptions } from '../../../protocol/machine-config.ts';
import { RIP } from '../../../x86/layout.ts';
import type { CachedBlock } from '../cached-block.ts';
import { BLOCK, SITE, UOP } from '../exit.ts';
import { type CodePlaces, distanceTo } from './code-places.ts';
import { IndirectTargets } from './indirect-targets.ts';
import type { ViaSite } from './region.ts';
import { siteTableOf, type Translation } from './translation.ts';

/** Where an indirect jump went is believed when it went there so often in a row, or since it was first executed. */
const BELIEVED_MIN = 32;
/** The regions that hold a block are translated anew for what it leads to at most so often. */
const RELINKS_MAX = 4;

/**
 * What regions do not know about where they go on when they are translated, and find out: a region is left for the
 * interpreter where that is, and one of so many such ways is looked at here (leavesPerLook).
 */
export class WaysOn {
  readonly #arena: Arena;
  readonly #options: TranslatorOptions;
  readonly #accounting: ExitAccounting;
  readonly #places: CodePlaces;
  readonly #targets: IndirectTargets;
  /** How often regions were translated anew as the ways on from a block became known. */
  readonly #relinked = new Map<CachedBlock, number>();

  constructor(arena: Arena, options: TranslatorOptions, accounting: ExitAccounting, places: CodePlaces) {
    this.#arena = arena;
    this.#options = options;
    this.#accounting = accounting;
    this.#places = places;
    this.#targets = new IndirectTargets(accounting);
  }

  /** What is known of the indirect jump at the end of a block, which stands at a linear address (ViaSite). */
  site(block: CachedBlock, from: number, linear: number): ViaSite {
    if (!this.#options.adaptive) return { from, distances: [], learns: false };
    const { u16, u32 } = this.#arena;
    const last = u16[(block.address + BLOCK.ops) >> 1]! - 1;
    const uop = block.address + BLOCK.header + last * UOP.size;
    const target = u32[(uop + UOP.imm) >> 2]!;
    const isBelieved =
      target !== 0 && u16[(uop + UOP.c) >> 1]! >= Math.min(BELIEVED_MIN, this.#options.threshold - 1);
    const guess = isBelieved ? distanceTo(block, target, this.#places.ripOf(block, linear)) : undefined;
    return this.#targets.at(block, from, guess);
  }

  /** An indirect jump was left at. RIP stands at its block. Returns which of the regions that hold it know better now. */
  leftVia(block: CachedBlock, holders: readonly Translation[]): readonly Translation[] {
    const { u32 } = this.#arena;
    const changed = new Set<number>();
    for (const { slot, ways } of holders) {
      for (const { node, block: held, via } of ways) {
        if (held !== block || !via?.learns) continue;
        const cell = (siteTableOf(slot) + node * SITE.entrySize + SITE.target) >> 2;
        const target = u32[cell]!;
        u32[cell] = 0;
        if (target === 0) continue;
        const distance = distanceTo(block, target, u32[RIP >> 2]!);
        if (this.#targets.seen(block, via.from, distance)) changed.add(via.from);
      }
    }
    if (changed.size === 0) return this.left(block, holders);
    return holders.filter(({ ways }) =>
      ways.some(({ block: held, via }) => held === block && via?.learns === true && changed.has(via.from)),
    );
  }

  /** The same for a way to what was not known: a page that the TLB did not have, code that had not been executed. */
  left(block: CachedBlock, holders: readonly Translation[]): readonly Translation[] {
    const wiser = holders.filter(({ ways }) =>
      ways.some(
        ({ block: held, open }) =>
          held === block && open.some((offset) => this.#places.isKnown(block, offset)),
      ),
    );
    const times = this.#relinked.get(block) ?? 0;
    if (wiser.length === 0 || times >= RELINKS_MAX) return [];
    this.#relinked.set(block, times + 1);
    this.#accounting.adapted('unknown target');
    return wiser;
  }

  forget(block: CachedBlock): void {
    this.#targets.forget(block);
    this.#relinked.delete(block);
  }

  clear(): void {
    this.#targets.clear();
    this.#relinked.clear();
  }
}
