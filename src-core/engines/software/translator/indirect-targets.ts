import type { ExitAccounting } from '../../../accounting/exits.ts';
import type { CachedBlock } from '../cached-block.ts';
import { TARGETS_MAX, type ViaSite } from './region.ts';

/** A site that was seen to go to places not known, and every time to another one, is not asked any more. */
const STRAYS_MAX = 4;

interface Site {
  /** What it is known to go to, from its block's start. */
  readonly distances: number[];
  /** Where it was last seen to go instead. */
  stray: number | undefined;
  strays: number;
}

/**
 * Where indirect jumps and calls go. One that is always left to the dispatcher costs its callers the way back, too: regions
 * go on to where it went so far, if that is where it goes, and are translated anew when it is seen to go elsewhere (the
 * misbehaving chains of adaptive binary translation, Adams & Agesen, ASPLOS 2006).
 */
export class IndirectTargets {
  readonly #accounting: ExitAccounting;
  readonly #sites = new Map<CachedBlock, Map<number, Site>>();

  constructor(accounting: ExitAccounting) {
    this.#accounting = accounting;
  }

  /** What is known of a site. `guess`: where the interpreter saw it go, taken as long as there is nothing better. */
  at(block: CachedBlock, from: number, guess: number | undefined): ViaSite {
    let site = this.#sites.get(block)?.get(from);
    if (!site && guess !== undefined) site = this.#add(block, from, [guess]);
    return { from, distances: [...(site?.distances ?? [])], learns: !site || this.#learns(site) };
  }

  #learns({ distances, strays }: Site): boolean {
    return distances.length < TARGETS_MAX && strays < STRAYS_MAX;
  }

  /**
   * A region was left, as one is now and then, because a site went to `distance`. True when it is to be translated
   * otherwise now.
   */
  seen(block: CachedBlock, from: number, distance: number): boolean {
    const site = this.#sites.get(block)?.get(from) ?? this.#add(block, from, []);
    // A region may be older than what is known.
    if (!this.#learns(site) || site.distances.includes(distance)) return false;
    if (distance === site.stray) {
      site.distances.push(distance);
      site.stray = undefined;
      this.#accounting.adapted('indirect target');
      return true;
    }
    site.stray = distance;
    site.strays++;
    if (this.#learns(site)) return false;
    this.#accounting.adapted('changing target');
    return true;
  }

  #add(block: CachedBlock, from: number, distances: number[]): Site {
    const site = { distances, stray: undefined, strays: 0 };
    const sites = this.#sites.get(block);
    if (sites) sites.set(from, site);
    else this.#sites.set(block, new Map([[from, site]]));
    return site;
  }

  forget(block: CachedBlock): void {
    this.#sites.delete(block);
  }

  clear(): void {
    this.#sites.clear();
  }
}
