import type { Arena } from '../machine/arena.ts';
import { ARENA } from '../machine/arena.ts';
import { MMU, PAGE_RECORD, PAGE_WRITERS_MORE, TLB, TLB_FLAG } from './layout.ts';

const PAGE = 0x1000;
const TWO_32 = 0x100000000;
/** Page size classes larger than 4 KiB: log2 of 2 MiB, 4 MiB and 1 GiB. */
export const LARGE_SHIFTS = [21, 22, 30] as const;
/** Of an entry's flags: in use, when not zero. */
const SIZE_MASK = 0x3f << TLB_FLAG.sizeShift;
const LISTED = TLB_FLAG.listed | TLB_FLAG.listedGlobal;

/** What `Tlb.put` makes an entry from. */
export interface Translation {
  /** Arena address of the byte at the linear address. */
  arena: number;
  /** Log2 of the size of the page that maps it. */
  shift: number;
  readable: boolean;
  /** May be written without another look at the page tables (the dirty flag is set). */
  writable: boolean;
  executable: boolean;
  global: boolean;
}

/** Arena address of the record of a page of the arena (see PAGE_RECORD). */
export function recordOf(arenaPage: number): number {
  return ARENA.pages + (arenaPage << PAGE_RECORD.sizeShift);
}

/**
 * The TLB that wasm code probes, with its lists and the write protection of watched pages. Everything stands in the
 * arena: `refill` (engines/software/mmu/refill.ts) makes entries by the same rules in wasm. What one writes, the other
 * must find as if it had written it itself; test/x86/refill.test.ts compares them byte for byte.
 *
 * Entries are named by their arena addresses.
 */
export class Tlb {
  readonly #i32: Int32Array;
  readonly #u32: Uint32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;

  constructor({ i32, u32, u16, u8 }: Arena) {
    this.#i32 = i32;
    this.#u32 = u32;
    this.#u16 = u16;
    this.#u8 = u8;
    for (let entry: number = TLB.base; entry < MMU.lists; entry += TLB.entrySize) this.#clear(entry, 0);
  }

  /** Arena address from the TLB, or -1 on a miss. `tag`: TLB.readTag, writeTag or execTag. */
  lookup(lin: number, tag: number, bank: number): number {
    const i32 = this.#i32;
    const at = (bank >> 2) + ((Math.floor(lin / PAGE) & (TLB.entries - 1)) << 3);
    const tagAt = at + (tag >> 2);
    if (i32[tagAt] !== (lin & ~(PAGE - 1)) || i32[tagAt + 1] !== Math.floor(lin / TWO_32)) return -1;
    return (lin + i32[at + (TLB.addend >> 2)]!) >>> 0;
  }

  /** Makes the entry for the page of `lin`. One that allows nothing is not made. */
  put(lin: number, bank: number, translation: Translation): void {
    const { arena, shift, readable, writable, executable, global } = translation;
    if (!readable && !executable) return;
    const page = Math.floor(lin / PAGE);
    const entry = bank + (page & (TLB.entries - 1)) * TLB.entrySize;
    this.#list(entry, bank, global);
    if (shift !== 12) this.#u8[largePart(lin, shift)] = 1;

    const arenaPage = arena >>> 12;
    const watched = this.#u8[recordOf(arenaPage) + PAGE_RECORD.flags] !== 0;
    const direct = writable && !watched;
    const i32 = this.#i32;
    const at = entry >> 2;
    const low = lin & ~(PAGE - 1);
    const high = Math.floor(lin / TWO_32);
    if (direct) this.#noteWriter(arenaPage, entry);
    i32[at] = readable ? low : -1;
    i32[at + 1] = readable ? high : -1;
    i32[at + 2] = direct ? low : -1;
    i32[at + 3] = direct ? high : -1;
    i32[at + 4] = executable ? low : -1;
    i32[at + 5] = executable ? high : -1;
    i32[at + 6] = arena - lin;
    i32[at + 7] =
      (i32[at + 7]! & LISTED) |
      (global ? TLB_FLAG.global : 0) |
      (writable && watched ? TLB_FLAG.traced : 0) |
      (shift << TLB_FLAG.sizeShift);
  }

  /** Enters an entry in its bank's list, if it does not stand there. */
  #list(entry: number, bank: number, global: boolean): void {
    const flagsAt = (entry + TLB.flags) >> 2;
    const flag = global ? TLB_FLAG.listedGlobal : TLB_FLAG.listed;
    const flags = this.#i32[flagsAt]!;
    if ((flags & flag) !== 0) return;
    this.#i32[flagsAt] = flags | flag;
    const list = listOf(bankIndex(bank), global);
    const lengthAt = list.length >> 2;
    const length = this.#u32[lengthAt]!;
    this.#u16[(list.base >> 1) + length] = (entry - bank) / TLB.entrySize;
    this.#u32[lengthAt] = length + 1;
  }

  /** Remembers that an entry lets a page be written, so that protecting it need not look at all entries. */
  #noteWriter(arenaPage: number, entry: number): void {
    const at = (recordOf(arenaPage) + PAGE_RECORD.link) >> 2;
    const known = this.#u32[at]!;
    const number = (entry - TLB.base) / TLB.entrySize + 1;
    if ((known & 0xffff) === number) return;
    if (known === 0) {
      this.#u32[at] = number;
      return;
    }
    const more =
      (known & PAGE_WRITERS_MORE) !== 0 ||
      this.#writes(TLB.base + ((known & 0xffff) - 1) * TLB.entrySize, arenaPage);
    this.#u32[at] = more ? (number | PAGE_WRITERS_MORE) >>> 0 : number;
  }

  /** Whether an entry lets this page of the arena be written directly. */
  #writes(entry: number, arenaPage: number): boolean {
    const low = this.#i32[(entry + TLB.writeTag) >> 2]!;
    return low !== -1 && (low + this.#i32[(entry + TLB.addend) >> 2]!) >>> 12 === arenaPage;
  }

  #clear(entry: number, flags: number): void {
    // Plain stores: `fill` on shared memory costs four times as much.
    const i32 = this.#i32;
    const at = entry >> 2;
    i32[at] = -1;
    i32[at + 1] = -1;
    i32[at + 2] = -1;
    i32[at + 3] = -1;
    i32[at + 4] = -1;
    i32[at + 5] = -1;
    i32[at + 7] = flags;
  }

  // ---- dropping translations ----

  /** Drops all translations of all banks. */
  flush(): void {
    for (let index = 0; index < TLB.banks; index++) this.flushBank(TLB.base + index * TLB.bankSize);
    this.#u8.fill(0, MMU.largeParts, MMU.largeParts + LARGE_SHIFTS.length * 1024);
  }

  /** Drops all translations of a bank. */
  flushBank(bank: number): void {
    this.#dropListed(bank, true, 0);
    this.#dropListed(bank, false, 0);
  }

  /** Drops a bank's translations but those of global pages. */
  flushNonGlobal(bank: number): void {
    this.#dropListed(bank, false, TLB_FLAG.global);
  }

  /** Empties a list: drops its entries but those that have a flag of `kept`. */
  #dropListed(bank: number, global: boolean, kept: number): void {
    const i32 = this.#i32;
    const list = listOf(bankIndex(bank), global);
    const length = this.#u32[list.length >> 2]!;
    this.#u32[list.length >> 2] = 0;
    const mine = global ? TLB_FLAG.listedGlobal : TLB_FLAG.listed;
    for (let i = 0; i < length; i++) {
      const entry = bank + this.#u16[(list.base >> 1) + i]! * TLB.entrySize;
      const flagsAt = (entry + TLB.flags) >> 2;
      const flags = i32[flagsAt]! & ~mine;
      if ((flags & kept) !== 0) i32[flagsAt] = flags;
      else this.#clear(entry, flags & LISTED);
    }
  }

  /** Drops the translations of the page that contains `lin`, whatever its size, in these banks. */
  invalidatePage(lin: number, banks: readonly number[]): void {
    this.dropPage(lin, banks);
    for (const shift of LARGE_SHIFTS) {
      if (this.#u8[largePart(lin, shift)] !== 0) this.#invalidateLarge(lin, shift);
    }
  }

  /** Drops the translations of the 4 KiB at `lin` in these banks. */
  dropPage(lin: number, banks: readonly number[]): void {
    const low = lin & ~(PAGE - 1);
    const high = Math.floor(lin / TWO_32);
    const slot = (Math.floor(lin / PAGE) & (TLB.entries - 1)) * TLB.entrySize;
    for (const bank of banks) {
      const entry = bank + slot;
      if (this.#lowOf(entry) === low && this.#highOf(entry) === high) this.#drop(entry);
    }
  }

  /** Drops the parts of a large page in all banks. */
  #invalidateLarge(lin: number, shift: number): void {
    const size = 2 ** shift;
    const number = Math.floor(lin / size);
    let others = 0;
    this.#eachListed((entry) => {
      if (this.#i32[(entry + TLB.flags) >> 2]! >>> TLB_FLAG.sizeShift !== shift) return;
      const other = Math.floor((this.#highOf(entry) * TWO_32 + (this.#lowOf(entry) >>> 0)) / size);
      if (other === number) this.#drop(entry);
      else if (((other ^ number) & 1023) === 0) others++;
    });
    if (others === 0) this.#u8[largePart(lin, shift)] = 0;
  }

  #drop(entry: number): void {
    this.#clear(entry, this.#i32[(entry + TLB.flags) >> 2]! & LISTED);
  }

  /** Halves of an entry's linear page; -1 where it is not in use. */
  #lowOf(entry: number): number {
    const low = this.#i32[(entry + TLB.readTag) >> 2]!;
    return low !== -1 ? low : this.#i32[(entry + TLB.execTag) >> 2]!;
  }
  #highOf(entry: number): number {
    const at = this.#i32[(entry + TLB.readTag) >> 2]! !== -1 ? TLB.readTag : TLB.execTag;
    return this.#i32[(entry + at + 4) >> 2]!;
  }

  /** Every entry in use, some of them twice. */
  #eachListed(visit: (entry: number) => void): void {
    for (let index = 0; index < TLB.banks; index++) {
      const bank = TLB.base + index * TLB.bankSize;
      for (const global of [true, false]) {
        const list = listOf(index, global);
        const length = this.#u32[list.length >> 2]!;
        for (let i = 0; i < length; i++) {
          const entry = bank + this.#u16[(list.base >> 1) + i]! * TLB.entrySize;
          if ((this.#i32[(entry + TLB.flags) >> 2]! & SIZE_MASK) !== 0) visit(entry);
        }
      }
    }
  }

  // ---- write protection ----

  /** Watches a page of the arena for this reason (PAGE_FLAG): no entry lets it be written directly from now on. */
  protect(arenaPage: number, reason: number): void {
    const record = recordOf(arenaPage);
    const before = this.#u8[record + PAGE_RECORD.flags]!;
    this.#u8[record + PAGE_RECORD.flags] = before | reason;
    if (before !== 0) return;
    const writer = this.#u32[(record + PAGE_RECORD.link) >> 2]!;
    this.#u32[(record + PAGE_RECORD.link) >> 2] = 0;
    if (writer === 0) return;
    if ((writer & PAGE_WRITERS_MORE) === 0) {
      this.#guard(TLB.base + (writer - 1) * TLB.entrySize, arenaPage);
    } else {
      this.#eachListed((entry) => this.#guard(entry, arenaPage));
    }
  }

  /** Ends that. Entries get their write tag back when they are next missed for a write. */
  unprotect(arenaPage: number, reason: number): void {
    const record = recordOf(arenaPage);
    const left = this.#u8[record + PAGE_RECORD.flags]! & ~reason;
    this.#u8[record + PAGE_RECORD.flags] = left;
    if (left === 0) this.#u32[(record + PAGE_RECORD.link) >> 2] = 0;
  }

  #guard(entry: number, arenaPage: number): void {
    if (!this.#writes(entry, arenaPage)) return;
    const at = entry >> 2;
    this.#i32[at + (TLB.writeTag >> 2)] = -1;
    this.#i32[at + (TLB.writeTag >> 2) + 1] = -1;
    this.#i32[at + (TLB.flags >> 2)]! |= TLB_FLAG.traced;
  }

  /** Why a page of the arena is watched (PAGE_FLAG), 0 when it is not. */
  watched(arenaPage: number): number {
    return this.#u8[recordOf(arenaPage) + PAGE_RECORD.flags]!;
  }
}

function bankIndex(bank: number): number {
  return (bank - TLB.base) / TLB.bankSize;
}

/** Arena addresses of a bank's list of global or other entries, and of its length. */
function listOf(index: number, global: boolean): { base: number; length: number } {
  const number = index * 2 + (global ? 0 : 1);
  return { base: MMU.lists + number * MMU.listSize, length: MMU.listLengths + number * 4 };
}

/** Arena address of the byte that says whether there may be parts of the large page at `lin`. */
function largePart(lin: number, shift: number): number {
  const sizeClass = shift === 21 ? 0 : shift === 22 ? 1 : 2;
  return MMU.largeParts + sizeClass * 1024 + (Math.floor(lin / 2 ** shift) & 1023);
}
