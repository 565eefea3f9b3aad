/**
 * What an outside reader counts of a guest on the software engine: its stores to page tables in use, and the first uses
 * of what they map. Made apart from the model's shadow tables, by other means (one map of entries by address, brute force
 * where that keeps lists), to hold their counts to.
 */
import type { Machine } from '../../../src-core/machine/machine.ts';
import type { Cpu } from '../../../src-core/x86/cpu.ts';
import type { MemoryObserver } from '../../../src-core/x86/intercepts.ts';
import { ACCESS, type Access, type PageWalker } from '../../../src-core/x86/paging.ts';

/** As the model does: a table with more stores than that, none of them followed by a first use, is a table no more. */
const STORES_MAX = 64;
/** CR0.PG and WP; CR4.PSE, PAE, SMEP and SMAP; EFER.LMA and NXE. */
const CR0_BITS = 0x80010000;
const CR4_BITS = (1 << 4) | (1 << 5) | (1 << 20) | (1 << 21);
const EFER_BITS = (1 << 10) | (1 << 11);

interface Entry {
  /** Page of the arena that it maps; -1 for one that leads to another table. */
  maps: number;
  writable: boolean;
}

interface Table {
  /** What was used of it, by index. */
  readonly names: Map<number, Set<string>>;
  /** Stores since the last first use, and the entry that the last one was to. */
  stores: number;
  last: number;
}

export class PageTableCensus implements MemoryObserver {
  readonly #cpu: Cpu;
  /** By a name that says where it is: table page, level and index; or large page, rights and piece. */
  #used = new Map<string, Entry>();
  /** By table page. */
  #tables = new Map<number, Table>();
  #paging = '';

  /** Stores of the guest to page tables in use. */
  stores = 0;
  /** First uses: accesses whose entries were not used, or not for writing, since they were last stored to. */
  firstUses = 0;

  constructor({ cpu }: Machine) {
    this.#cpu = cpu;
    cpu.mmu.observe(this);
    // What other address spaces map globally was not used in this one.
    const { mmu } = cpu;
    const rootChanged = mmu.rootChanged.bind(mmu);
    mmu.rootChanged = () => {
      rootChanged();
      mmu.dropTranslations();
    };
  }

  walked(_lin: number, access: Access, walker: PageWalker, arena: number, writable: boolean): void {
    this.#notePaging();
    if (arena < 0) return;
    const { mmu } = this.#cpu;
    let known = true;
    const size = (this.#cpu.cr4 & (1 << 5)) !== 0 ? 8 : 4;
    const large = walker.levels === 0 || walker.pageShift !== 12;
    let leafName = '';
    const walked: Table[] = [];
    for (let level = 0; level < walker.levels; level++) {
      const at = mmu.plainMemory(walker.entryAt[level] ?? -1);
      const page = Math.floor(at / 4096);
      // The same table at another distance from the pages it maps is another one.
      const below = walker.levels - level + (walker.pageShift === 12 ? 0 : walker.pageShift === 30 ? 2 : 1);
      const name = `${page}/${below}/${Math.floor((at % 4096) / size)}`;
      walked.push(this.#noteTable(page, Math.floor((at % 4096) / size), name));
      const last = level === walker.levels - 1 && !large;
      if (last) {
        leafName = name;
        continue;
      }
      if (!this.#used.has(name)) known = false;
      this.#used.set(name, { maps: -1, writable: false });
    }
    const { phys, writable: allowed, dirty, user, noExecute } = walker;
    if (large) leafName = `large ${Math.floor(phys / 4096)} ${allowed && dirty} ${user} ${noExecute}`;
    const target = Math.floor(arena / 4096);
    const plain = writable && !this.#tables.has(target);
    const leaf = this.#used.get(leafName);
    const write = access === ACCESS.write;
    if (known && leaf && (!write || !plain || leaf.writable)) return;
    for (const table of walked) table.stores = 0;
    this.#used.set(leafName, { maps: target, writable: plain && dirty && (allowed || write) });
    // A store to a table is counted as that, one to ROM as the device access that it is.
    if (!write || plain) this.firstUses++;
    // A large page that has become dirty is another one from now on.
    if (large) this.#cpu.mmu.dropTranslations();
  }

  #noteTable(page: number, index: number, name: string): Table {
    let table = this.#tables.get(page);
    if (!table) {
      this.#tables.set(page, (table = { names: new Map(), stores: 0, last: -1 }));
      for (const entry of this.#used.values()) if (entry.maps === page) entry.writable = false;
      this.#cpu.mmu.traceTable(page);
    }
    const names = table.names.get(index) ?? new Set();
    table.names.set(index, names.add(name));
    return table;
  }

  tableWritten(arena: number, size: number, byGuest: boolean): void {
    const page = Math.floor(arena / 4096);
    const table = this.#tables.get(page);
    if (!table) return;
    if (byGuest) this.stores++;
    const width = (this.#cpu.cr4 & (1 << 5)) !== 0 ? 8 : 4;
    const first = Math.floor((arena % 4096) / width);
    for (let index = first; index * width < (arena % 4096) + size; index++)
      this.#forget(table.names.get(index));
    if (first !== table.last) table.stores++;
    table.last = first;
    if (table.stores > STORES_MAX) {
      for (const names of table.names.values()) this.#forget(names);
      this.#tables.delete(page);
      this.#cpu.mmu.untraceTable(page);
    }
    this.#cpu.mmu.dropTranslations();
  }

  #forget(names: Set<string> | undefined): void {
    for (const name of names ?? []) this.#used.delete(name);
  }

  device(): void {
    return;
  }

  #notePaging(): void {
    const { cr0, cr4, efer, paging: paged, a20 } = this.#cpu;
    const paging = paged ? `${cr0 & CR0_BITS} ${cr4 & CR4_BITS} ${efer & EFER_BITS} ${a20}` : `none ${a20}`;
    if (paging === this.#paging) return;
    this.#paging = paging;
    for (const page of this.#tables.keys()) this.#cpu.mmu.untraceTable(page);
    this.#used = new Map();
    this.#tables = new Map();
    this.#cpu.mmu.dropTranslations();
  }
}
