import type { ExitAccounting } from '../../../accounting/exits.ts';
import type { CachedBlock } from '../cached-block.ts';
import type { ViaSite } from './region.ts';

/** A target that changed so often is not predicted any more. */
const CHANGES_MAX = 4;

interface Site {
  /** What it is predicted to go to, from its block's start. */
  distance: number | undefined;
  /** Where it was last seen to go instead. */
  other: number;
  changes: number;
}

/**
 * Where indirect jumps and calls go. One that is always left to the dispatcher costs what it calls its way back, too: regions
 * therefore go on to where it went so far, if that is where it goes, and are translated anew where it goes elsewhere (the
 * misbehaving chains of adaptive binary translation).
 */
export class IndirectTargets {
  readonly #accounting: ExitAccounting;
  readonly #sites = new Map<CachedBlock, Map<number, Site>>();

  constructor(accounting: ExitAccounting) {
    this.#accounting = accounting;
  }

  /** What is known of a site. `guess`: where the interpreter saw it go, taken as long as there is nothing better. */
  at(block: CachedBlock, from: number, guess: number | undefined): ViaSite {
    const site = this.#sites.get(block)?.get(from);
    if (!site && guess !== undefined) this.#add(block, from, { distance: guess, other: guess, changes: 0 });
    const { distance, changes } = site ?? { distance: guess, changes: 0 };
    return { from, distance, learns: changes < CHANGES_MAX };
  }

  /**
   * A region was left, as one is now and then, because a site went to `distance`. True when it is translated otherwise now.
   */
  seen(block: CachedBlock, from: number, distance: number): boolean {
    const site = this.#sites.get(block)?.get(from);
    if (!site) {
      this.#add(block, from, { distance: undefined, other: distance, changes: 0 });
      return false;
    }
    // A region may be older than what is known.
    if (site.changes >= CHANGES_MAX || distance === site.distance) return false;
    if (distance === site.other) {
      // The first target is no change, the next ones are.
      if (site.distance !== undefined) site.changes++;
      site.distance = distance;
      this.#count('indirect target');
    } else {
      site.other = distance;
      if (++site.changes < CHANGES_MAX) return false;
    }
    if (site.changes < CHANGES_MAX) return true;
    site.distance = undefined;
    this.#count('changing target');
    return true;
  }

  #add(block: CachedBlock, from: number, site: Site): void {
    const sites = this.#sites.get(block);
    if (sites) sites.set(from, site);
    else this.#sites.set(block, new Map([[from, site]]));
  }

  #count(kind: string): void {
    this.#accounting.count('adaptation');
    this.#accounting.detail('adaptation', kind);
  }

  forget(block: CachedBlock): void {
    this.#sites.delete(block);
  }

  clear(): void {
    this.#sites.clear();
  }
}
