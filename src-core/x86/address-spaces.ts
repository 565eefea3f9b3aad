import type { Arena } from '../machine/arena.ts';
import { CR3, MMU, PAGE_FLAG, PAGE_RECORD, TLB } from './layout.ts';
import { PDPTE } from './paging.ts';
import { recordOf, type Tlb } from './tlb.ts';

const PAGE = 0x1000;
const LEAF = PAGE_FLAG.leaf32 | PAGE_FLAG.leaf64;
/** Words of the state that a root of page tables consists of: CR3, and the PDPTEs of PAE paging. */
const ROOT_WORDS = [CR3, CR3 + 4, ...[0, 4, 8, 12, 16, 20, 24, 28].map((at) => PDPTE + at)];

/** Stores to a page table without a new translation from it in between, after which its trace is not worth while. */
export const TABLE_STORES_MAX = 64;
/** What a store counts for that TypeScript had to look at. */
const LOOKED_AT = 8;

/** An address space whose translations for CPL 3 are kept in a TLB bank of its own. */
interface Space {
  /** Bit in MMU.space and PAGE_RECORD.spaces. */
  readonly bit: number;
  readonly bank: number;
  /** ROOT_WORDS when it was last current. */
  root: Int32Array;
  /** Page tables changed in a way that was not followed: everything goes when it is next switched to. */
  stale: boolean;
  lastUsed: number;
  /** Arena pages of the tables its translations were made from. */
  readonly tables: Set<number>;
}

/** A page table that a walk used. */
export interface UsedTable {
  /** Arena address of the entry. */
  at: number;
  /** Flag for a table whose entries all map 4 KiB pages, 0 for others. */
  leaf: number;
}

/**
 * Translations that survive MOV to CR3. Each address space used lately has a user bank of the TLB. A switch back to
 * one finds it as it was left, because its page tables were traced meanwhile: a page that a translation was made from
 * is write-protected, and a store to an entry that may be cached drops what was made from it, in all address spaces.
 *
 * The guest may change its tables without INVLPG as long as it loads CR3 before it relies on the change: dropping at
 * once is more than it may ask for. Supervisor banks are shared by all and flushed but for global pages, as hardware
 * does it: kernels map the same everywhere, mostly globally.
 *
 * A table that is written again and again loses its trace, and the address spaces made from it are flushed when they
 * are next switched to, which is all that MOV to CR3 promises.
 */
export class AddressSpaces {
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;
  readonly #tlb: Tlb;
  readonly #spaces: readonly Space[];
  readonly #first: Space;
  #current: Space;
  #clock = 0;

  constructor({ i32, u16, u8 }: Arena, tlb: Tlb) {
    this.#i32 = i32;
    this.#u16 = u16;
    this.#u8 = u8;
    this.#tlb = tlb;
    this.#spaces = Array.from({ length: TLB.userBanks }, (_, index) => ({
      bit: 1 << index,
      bank: TLB.base + (index === 0 ? 0 : index + 2) * TLB.bankSize,
      root: new Int32Array(ROOT_WORDS.length),
      stale: false,
      lastUsed: 0,
      tables: new Set<number>(),
    }));
    const [first] = this.#spaces;
    if (!first) throw new Error('there is no user bank');
    this.#first = first;
    this.#current = first;
  }

  /** TLB bank of the current address space. */
  get bank(): number {
    return this.#current.bank;
  }

  /** All banks were flushed: no address space but the one of the current CR3. */
  reset(): void {
    for (const space of this.#spaces) {
      this.#untrace(space);
      space.stale = false;
      space.lastUsed = 0;
    }
    this.#enter(this.#first, this.#root());
  }

  /** MOV to CR3, when CR3 and PDPTEs hold their new values. */
  switch(): void {
    const root = this.#root();
    const known = this.#spaces.find((space) => space.lastUsed > 0 && same(space.root, root));
    const space = known ?? this.#oldest();
    if (!known || space.stale) {
      this.#tlb.flushBank(space.bank);
      this.#untrace(space);
      space.stale = false;
    }
    this.#enter(space, root);
  }

  #enter(space: Space, root: Int32Array): void {
    space.root = root;
    space.lastUsed = ++this.#clock;
    this.#current = space;
    this.#i32[MMU.space >> 2] = space.bit;
  }

  #root(): Int32Array {
    return Int32Array.from(ROOT_WORDS, (offset) => this.#i32[offset >> 2]!);
  }

  #oldest(): Space {
    let oldest = this.#current;
    for (const space of this.#spaces) if (space.lastUsed < oldest.lastUsed) oldest = space;
    return oldest;
  }

  /** A translation of the current address space for CPL 3 was made from these tables, root first. */
  trace(lin: number, tables: readonly UsedTable[]): void {
    const { bit } = this.#current;
    for (const { at, leaf } of tables) {
      if (at < 0) {
        // What is no plain memory can't be watched.
        this.#current.stale = true;
        continue;
      }
      const page = at >>> 12;
      const record = recordOf(page);
      const place = placeOf(lin, leaf);
      const flags = this.#u8[record + PAGE_RECORD.flags]!;
      if ((flags & PAGE_FLAG.table) === 0) {
        this.#tlb.protect(page, PAGE_FLAG.table | leaf);
        this.#i32[(record + PAGE_RECORD.link) >> 2] = place;
        this.#u16[(record + PAGE_RECORD.spaces) >> 1] = 0;
      } else if ((flags & LEAF) !== leaf || this.#i32[(record + PAGE_RECORD.link) >> 2] !== place) {
        // It stands at several places: which translations an entry made is not known any more.
        this.#u8[record + PAGE_RECORD.flags] = flags & ~LEAF;
      }
      this.#u8[record + PAGE_RECORD.writes] = 0;
      this.#u16[(record + PAGE_RECORD.spaces) >> 1]! |= bit;
      this.#current.tables.add(page);
    }
  }

  /** A traced table (or many bytes of it) was written, at arena address `start`: what was made from these entries goes. */
  written(start: number, bytes: number): void {
    const page = start >>> 12;
    const record = recordOf(page);
    const flags = this.#u8[record + PAGE_RECORD.flags]!;
    const spaces = this.#u16[(record + PAGE_RECORD.spaces) >> 1]!;
    const writes = this.#u8[record + PAGE_RECORD.writes]! + LOOKED_AT;
    const last = (start & (PAGE - 1)) + bytes - 1;
    if ((flags & LEAF) === 0 || writes > TABLE_STORES_MAX) {
      for (const space of this.#spaces) {
        if ((spaces & space.bit) === 0) continue;
        space.stale = true;
        space.tables.delete(page);
      }
      this.#release(page);
      return;
    }
    this.#u8[record + PAGE_RECORD.writes] = writes;
    const entryShift = (flags & PAGE_FLAG.leaf32) !== 0 ? 2 : 3;
    const base = this.#i32[(record + PAGE_RECORD.link) >> 2]! * 2 ** 21;
    const banks = this.#spaces.filter(({ bit }) => (spaces & bit) !== 0).map(({ bank }) => bank);
    for (let index = (start & (PAGE - 1)) >> entryShift; index <= last >> entryShift; index++) {
      this.#tlb.dropPage(base + index * PAGE, banks);
    }
  }

  /** Forgets what a space's translations were made from: it has none left. */
  #untrace(space: Space): void {
    for (const page of space.tables) {
      const at = (recordOf(page) + PAGE_RECORD.spaces) >> 1;
      const left = this.#u16[at]! & ~space.bit;
      this.#u16[at] = left;
      if (left === 0) this.#release(page);
    }
    space.tables.clear();
  }

  /** The table is not watched any more. */
  #release(page: number): void {
    const record = recordOf(page);
    this.#u16[(record + PAGE_RECORD.spaces) >> 1] = 0;
    this.#i32[(record + PAGE_RECORD.link) >> 2] = 0;
    this.#tlb.unprotect(page, PAGE_FLAG.table | LEAF);
  }
}

/** PAGE_RECORD.link of a table with 4 KiB pages that maps `lin`: the first address it maps >> 21. */
function placeOf(lin: number, leaf: number): number {
  if (leaf === 0) return 0;
  const place = Math.floor(lin / 2 ** 21) | 0;
  return leaf === PAGE_FLAG.leaf32 ? place & ~1 : place;
}

function same(left: Int32Array, right: Int32Array): boolean {
  return left.every((word, index) => word === right[index]);
}
