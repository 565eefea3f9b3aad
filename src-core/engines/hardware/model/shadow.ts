import type { Cpu } from '../../../x86/cpu.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_NXE,
} from '../../../x86/bits.ts';
import { CTL } from '../../../x86/layout.ts';
import type { Mmu } from '../../../x86/mmu.ts';
import { ACCESS, type Access, type PageWalker } from '../../../x86/paging.ts';

const PAGE = 0x1000;
/** Bytes that one page of shadow entries for a large guest page maps. */
const DIRECT_SHIFT = 21;
const DIRECT_ENTRIES = 512;
/**
 * Stores to a traced table, each to another entry than the one before, without an exit in between for which the VMM walks
 * it, after which the guest is taken to use it for other things. What the processor walks the VMM does not see.
 */
const TABLE_STORES_MAX = 64;
/** Shadows that are kept; one more, and the VMM begins anew. They take up to 4 KiB each. */
const TABLES_MAX = 16384;
/** Levels of tables: a guest's table may serve at more than one. */
const HEIGHTS = 4;

/**
 * Values of a shadow entry: not present, or present and read-only. A writable one holds the time it was made, one of a
 * large page its rights.
 */
const ABSENT = 0;
const READ_ONLY = 1;
/** ShadowTable.place of a table that stands at several places; no multiple of a page. */
const SEVERAL = 1;

/** The shadow of one guest page table at one level. */
interface ShadowTable {
  /** One for each entry of the guest's table. */
  readonly entries: Uint32Array;
  /** Log2 of the size of the guest's entries. */
  readonly entryShift: number;
  /** Linear address that entry 0 maps; SEVERAL when that is not one. Last level only. */
  place: number | undefined;
  /** Stores since the VMM last walked the table that were to another entry than the one before, and which that was. */
  stores: number;
  stored: number;
}

/** What a page fault exit was about when the guest's own tables allow the access. */
export type ShadowMiss =
  /** The shadow had no entry, or not one for writing: the VMM makes it. */
  | 'hidden'
  /** It serves the access, or the exit is taken for another reason (a traced page, a device). */
  | 'none';

/**
 * Shadow page tables (Adams and Agesen, ASPLOS 2006, section 2.4): what the processor walks in place of the guest's
 * tables while the VMM virtualizes memory in software. A guest table has one shadow, shared by all address spaces that
 * use it. Both stay the same because tables with a shadow are traced: the guest's stores to them exit, and the VMM drops
 * what it made of the old entry. Entries are filled when the guest first misses them (hidden faults), writable only once
 * the guest's entry is dirty. Large guest pages are shadowed by entries for 4 KiB, shared by all who map the same 2 MiB
 * with the same rights; so is memory without paging.
 *
 * The software TLB stands for the processor's: it holds nothing that is not in the shadow.
 */
export class ShadowTables {
  readonly #cpu: Cpu;
  readonly #mmu: Mmu;
  /** By arena page * HEIGHTS + height above the last level. */
  readonly #tables = new Map<number, ShadowTable>();
  /** By physical address of 2 MiB and rights. */
  readonly #direct = new Map<number, Uint32Array>();
  /** Arena pages of traced tables. */
  readonly #traced = new Set<number>();
  /** When the trace of a page ended: entries that were made before its trace do not let it be written any more. */
  readonly #untracedSince = new Map<number, number>();
  /** The traces are off. */
  #suspended = false;
  #time = READ_ONLY;
  /** Tables of the present walk, from the root. */
  readonly #walk: ShadowTable[] = [];
  /** Control bits that the guest's tables were read with. */
  #role = 0;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
    this.#mmu = cpu.mmu;
  }

  /** Guest page tables that have a shadow. */
  get size(): number {
    return this.#tables.size;
  }

  /** Levels of the tables that the processor walks for the guest: none of PAE's register-held root. */
  get levels(): number {
    if ((this.#role & ROLE.pae) === 0) return 2;
    return (this.#role & ROLE.long) !== 0 ? 4 : 2;
  }

  /**
   * The guest's tables allow an access (MemoryObserver.walked): whether the shadow does, too. Afterwards it does, as far
   * as traces allow.
   */
  access(lin: number, access: Access, walker: PageWalker, arena: number, writable: boolean): ShadowMiss {
    this.#checkRole();
    if (this.#tables.size >= TABLES_MAX) this.clear();
    // A device's page is never present in the shadow: the access itself exits.
    if (arena < 0) return 'none';
    const target = arena >>> 12;
    const wide = (this.#role & ROLE.pae) !== 0;
    const entryShift = wide ? 3 : 2;
    const { levels, pageShift } = walker;
    const leafHeight = pageShift === 12 ? 0 : pageShift === 30 ? 2 : 1;
    let present = true;
    let entries: Uint32Array | undefined;
    let index = 0;
    for (let level = 0; level < levels; level++) {
      const at = this.#mmu.plainMemory(walker.entryAt[level]!);
      // A table in ROM or in no memory can't be traced: nothing made of it is kept.
      if (at < 0) return 'hidden';
      const height = leafHeight + levels - 1 - level;
      const table = this.#table(at >>> 12, height, entryShift);
      this.#walk[level] = table;
      entries = table.entries;
      index = (at & (PAGE - 1)) >> entryShift;
      if (height === 0) notePlace(table, lin, index);
      if (level < levels - 1 || pageShift !== 12) {
        if (entries[index] === ABSENT) present = false;
        if (level < levels - 1) entries[index] = READ_ONLY;
      }
    }
    if (levels === 0 || pageShift !== 12) {
      const rights = rightsOf(walker);
      if (entries) this.#link(entries, index, READ_ONLY + rights);
      entries = this.#directTable(walker.phys, rights);
      index = Math.floor(walker.phys / PAGE) & (DIRECT_ENTRIES - 1);
    }
    if (!entries) throw new Error('a walk without a table');
    const entry = entries[index]!;
    if (entry === ABSENT) present = false;
    const traced = this.#traced.has(target);
    const forWrite = access === ACCESS.write;
    const mayWrite = writable && !traced;
    if (present && (!forWrite || !mayWrite || this.#grants(entry, target))) return 'none';
    for (let level = 0; level < levels; level++) this.#walk[level]!.stores = 0;
    // A store to a traced page or to ROM exits once, for that: an entry for reading is made on the way.
    // CR0.WP being clear lets a supervisor write where the tables do not.
    const grant = mayWrite && walker.dirty && (walker.writable || forWrite);
    entries[index] = grant ? ++this.#time : READ_ONLY;
    return forWrite && !mayWrite ? 'none' : 'hidden';
  }

  /** Whether an entry lets the page be written: no trace has begun on it since. */
  #grants(entry: number, target: number): boolean {
    return entry > READ_ONLY && entry > (this.#untracedSince.get(target) ?? 0);
  }

  #table(page: number, height: number, entryShift: number): ShadowTable {
    const key = page * HEIGHTS + height;
    let table = this.#tables.get(key);
    if (table?.entryShift === entryShift) return table;
    table = {
      entries: new Uint32Array(PAGE >> entryShift),
      entryShift,
      place: undefined,
      stores: 0,
      stored: -1,
    };
    this.#tables.set(key, table);
    if (!this.#traced.has(page)) {
      this.#traced.add(page);
      this.#mmu.traceTable(page);
    }
    return table;
  }

  /** The entries for the 2 MiB of physical memory around the walk's result, with its rights. */
  #directTable(phys: number, rights: number): Uint32Array {
    const key = Math.floor(phys / 2 ** DIRECT_SHIFT) * 8 + rights;
    let entries = this.#direct.get(key);
    if (!entries) this.#direct.set(key, (entries = new Uint32Array(DIRECT_ENTRIES)));
    return entries;
  }

  /** Has a large page's entry lead to entries with the rights that it has now: it may just have become dirty. */
  #link(entries: Uint32Array, index: number, rights: number): void {
    const before = entries[index];
    entries[index] = rights;
    // What was made with other rights can't be reached any more.
    if (before !== ABSENT && before !== rights) this.#mmu.dropTranslations();
  }

  /** A traced table was stored to (MemoryObserver.tableWritten): what was made of the old entries goes. */
  written(start: number, size: number): void {
    const page = start >>> 12;
    let stores = 0;
    for (let height = 0; height < HEIGHTS; height++) {
      const table = this.#tables.get(page * HEIGHTS + height);
      if (!table) continue;
      const { entries, entryShift, place } = table;
      const first = (start & (PAGE - 1)) >> entryShift;
      if (first !== table.stored) table.stores++;
      table.stored = first;
      stores = Math.max(stores, table.stores);
      const last = ((start & (PAGE - 1)) + size - 1) >> entryShift;
      for (let index = first; index <= last; index++) {
        if (entries[index] === ABSENT) continue;
        entries[index] = ABSENT;
        if (height === 0 && place !== undefined && place !== SEVERAL)
          this.#mmu.invalidatePage(place + index * PAGE);
        else this.#mmu.dropTranslations();
      }
    }
    if (stores > TABLE_STORES_MAX) this.#drop(page);
  }

  /** Takes a guest page for no table any more. */
  #drop(page: number): void {
    for (let height = 0; height < HEIGHTS; height++) this.#tables.delete(page * HEIGHTS + height);
    this.#traced.delete(page);
    this.#untracedSince.set(page, ++this.#time);
    this.#mmu.untraceTable(page);
    this.#mmu.dropTranslations();
  }

  /** Drops all shadow tables: the meaning of the guest's tables or of its memory changed. */
  clear(): void {
    if (!this.#suspended) this.suspend();
    this.#suspended = false;
    this.#tables.clear();
    this.#direct.clear();
    this.#traced.clear();
    this.#untracedSince.clear();
    this.#mmu.dropTranslations();
  }

  /** Takes the write protection off the guest's tables, for as long as the guest stands still, and puts it back. */
  suspend(): void {
    this.#suspended = true;
    for (const page of this.#traced) this.#mmu.untraceTable(page);
  }
  resume(): void {
    this.#suspended = false;
    for (const page of this.#traced) this.#mmu.traceTable(page);
  }

  #checkRole(): void {
    const role = roleOf(this.#cpu);
    if (role === this.#role) return;
    this.clear();
    this.#role = role;
  }
}

/** Bits of a role. */
const ROLE = { paging: 1, writeProtect: 2, pae: 4, pse: 8, smep: 16, smap: 32, long: 64, nxe: 128, a20: 256 };

/** What decides how the guest's tables are read. */
function roleOf(cpu: Cpu): number {
  const { cr0, cr4, efer } = cpu;
  if ((cr0 & CR0_PG) === 0) return cpu.get32(CTL.a20Mask) === 0xffffffff ? ROLE.a20 : 0;
  return (
    ROLE.paging |
    ((cr0 & CR0_WP) !== 0 ? ROLE.writeProtect : 0) |
    ((cr4 & CR4_PAE) !== 0 ? ROLE.pae : 0) |
    ((cr4 & CR4_PSE) !== 0 ? ROLE.pse : 0) |
    ((cr4 & CR4_SMEP) !== 0 ? ROLE.smep : 0) |
    ((cr4 & CR4_SMAP) !== 0 ? ROLE.smap : 0) |
    ((efer & EFER_LMA) !== 0 ? ROLE.long : 0) |
    ((efer & EFER_NXE) !== 0 ? ROLE.nxe : 0) |
    (cpu.get32(CTL.a20Mask) === 0xffffffff ? ROLE.a20 : 0)
  );
}

/** What a large page allows, 0 to 7. */
function rightsOf({ writable, user, noExecute, dirty }: PageWalker): number {
  return (writable && dirty ? 1 : 0) | (user ? 2 : 0) | (noExecute ? 4 : 0);
}

/** Remembers which linear addresses a last-level table maps. */
function notePlace(table: ShadowTable, lin: number, index: number): void {
  const place = (Math.floor(lin / PAGE) - index) * PAGE;
  table.place ??= place;
  if (table.place !== place) table.place = SEVERAL;
}
