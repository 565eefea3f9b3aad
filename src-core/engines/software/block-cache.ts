import { ARENA, type Arena } from '../../machine/arena.ts';
import type { LiftedBlock } from '../../x86/lift/block.ts';
import { PAGE_RECORD } from '../../x86/layout.ts';
import { MODE } from '../../x86/mode.ts';
import { recordOf } from '../../x86/tlb.ts';
import { BlockRoom } from './block-room.ts';
import { type CachedBlock, readBlock, regionCell, sizeOfBlock, writeOps } from './cached-block.ts';
import { BLOCK, leavesPerLook, LOOKUP, lookupIndex } from './exit.ts';

const PAGE = 4096;
const PAGE_SHIFT = 12;
const LOOKUP_WORDS = LOOKUP.entrySize >> 2;
/** Code is tracked in chunks of so many bytes, 64 a page. */
const CHUNK_SHIFT = 6;
/** Lists of live blocks by a hash of code and mode (a power of two). */
const BUCKETS = 65536;

export interface BlockCacheOptions {
  /** Executions until a block is hot; 0: never. */
  heat: number;
  /** Whether a block that someone asked for by name is in use, though it may not be executed itself. */
  isHeld: (block: CachedBlock) => boolean;
  /** Hears of blocks that someone asked for by name and whose code changed. */
  onDeath: (block: CachedBlock) => void;
  /** Hears of such blocks, dead ones too, whose micro-ops make way for others. */
  onEviction: (block: CachedBlock) => void;
  /** Given, code that keeps being changed grows hot later and later, and this is told each time. */
  onRewritten: (() => void) | undefined;
  /** Bytes to use of the arena's room for micro-ops, at first and at most. */
  size?: number;
  sizeMax?: number;
}

/** Bytes of micro-ops kept at first: after a boot of Linux two thirds of the blocks are never executed again. */
const SIZE = 6 << 20;
/** Code rewritten more often than this needs no more executions to be hot than after as many rewrites: 64 times as many. */
const REWRITES_MAX = 6;
/** Places to remember the rewrites of. */
const REWRITTEN_PLACES_MAX = 4096;

/**
 * The micro-op cache: blocks by the arena address of their code and their mode, and which pages hold code. Blocks are known
 * by the arena address of their header; `at` gives one as an object.
 */
export class BlockCache {
  readonly #arena: Arena;
  readonly #protectPage: (arenaPage: number) => void;
  readonly #unprotectPage: (arenaPage: number) => void;
  /** By index: those asked for. */
  readonly #blocks: (CachedBlock | undefined)[] = [];
  readonly #freeIndexes: number[] = [];
  #indexes = 0;
  /** The first block of each page of the arena with code; which chunks of it hold code stands in its PAGE_RECORD. */
  readonly #pages = new Map<number, number>();
  /** The first of the live blocks of each bucket. The table wasm looks in has two places for several: those put out of it stay here. */
  readonly #buckets = new Int32Array(BUCKETS);
  readonly #room: BlockRoom;
  #nextId = 0;
  readonly #heat: number;
  readonly #leaves: number;
  readonly #isHeld: (block: CachedBlock) => boolean;
  readonly #onDeath: (block: CachedBlock) => void;
  readonly #onEviction: (block: CachedBlock) => void;
  readonly #onRewritten: (() => void) | undefined;
  /** How often the code at a place was changed. */
  readonly #deaths = new Map<number, number>();

  /**
   * The first callbacks put and lift write protection on a page (arena address >> 12) as it gets or loses code; `onDeath`
   * hears of blocks whose code changed. A block is hot after `heat` executions.
   */
  constructor(
    arena: Arena,
    protectPage: (arenaPage: number) => void,
    unprotectPage: (arenaPage: number) => void,
    {
      heat,
      isHeld,
      onDeath,
      onEviction,
      onRewritten,
      size = SIZE,
      sizeMax = ARENA.uopsSize,
    }: BlockCacheOptions,
  ) {
    this.#heat = heat;
    this.#leaves = leavesPerLook(heat);
    this.#onDeath = onDeath;
    this.#onEviction = onEviction;
    this.#onRewritten = onRewritten;
    this.#isHeld = isHeld;
    this.#arena = arena;
    this.#room = new BlockRoom({
      arena,
      start: ARENA.uops,
      size,
      sizeMax,
      keeps: (address) => this.#keeps(address),
      onEviction: (addresses) => this.#evict(addresses),
    });
    this.#protectPage = protectPage;
    this.#unprotectPage = unprotectPage;
    this.#clearTable();
  }

  #clearTable(): void {
    const start = ARENA.blockTable;
    this.#arena.u8.fill(0, start, start + LOOKUP.entries * LOOKUP.entrySize);
  }

  // ---- room ----------------------------------------------------------------------------------------------------

  /** Whether a block stays when the hand of the clock comes by: held by the translator, or executed since it last did. */
  #keeps(address: number): boolean {
    if (this.#isDead(address)) return false;
    const { u16, u32 } = this.#arena;
    const block = this.#blocks[u32[(address + BLOCK.index) >> 2]!];
    const heat = u16[(address + BLOCK.heat) >> 1]!;
    const seen = (address + BLOCK.heatSeen) >> 1;
    const executed = u16[seen] !== heat;
    u16[seen] = heat;
    return executed || (block !== undefined && this.#isHeld(block));
  }

  #evict(addresses: readonly number[]): void {
    const { u32 } = this.#arena;
    const pages = new Set<number>();
    for (const address of addresses) {
      if (!this.#isDead(address)) this.#remove(address);
      for (const page of this.#pagesOf(address)) pages.add(page);
      const index = u32[(address + BLOCK.index) >> 2]!;
      const block = this.#blocks[index];
      if (block) this.#onEviction(block);
      this.#blocks[index] = undefined;
      this.#freeIndexes.push(index);
    }
    for (const page of pages) this.#filter(page, () => true);
  }

  /** Forgets everything. */
  clear(): void {
    for (const page of this.#pages.keys()) {
      this.#setChunks(page, 0, 0);
      this.#unprotectPage(page);
    }
    this.#pages.clear();
    this.#buckets.fill(0);
    this.#blocks.length = 0;
    this.#freeIndexes.length = 0;
    this.#indexes = 0;
    this.#room.clear();
    this.#clearTable();
  }

  // ---- finding -------------------------------------------------------------------------------------------------

  /** Blocks made since everything was last forgotten: the next one's id. */
  get count(): number {
    return this.#nextId;
  }

  /** The block at an address, as an object: the same one as long as the block's place is not used for others. */
  at(address: number): CachedBlock {
    const index = this.#arena.u32[(address + BLOCK.index) >> 2]!;
    return (this.#blocks[index] ??= readBlock(this.#arena, address));
  }

  /**
   * The live block at a place in a mode, which is put back into wasm's table; 0 when there is none. Where it runs into a
   * second page, the caller sees to it that this page is still the one mapped there, at each entry.
   */
  find(code: number, modeKey: number): number {
    const address = this.#search(code, modeKey);
    if (address !== 0) this.#enter(address, code, modeKey);
    return address;
  }

  /** The live block at a place in a mode, without touching the table. */
  peek(code: number, modeKey: number): CachedBlock | undefined {
    const address = this.#search(code, modeKey);
    return address === 0 ? undefined : this.at(address);
  }

  #search(code: number, modeKey: number): number {
    const { u16, u32 } = this.#arena;
    let address = this.#buckets[bucketOf(code, modeKey)]!;
    while (address !== 0) {
      if (u32[(address + BLOCK.code) >> 2] === code && u16[(address + BLOCK.mode) >> 1] === modeKey) break;
      address = u32[(address + BLOCK.nextInBucket) >> 2]!;
    }
    return address;
  }

  /** Takes a block out of its bucket; of those of one code and mode only the newest is in it. */
  #leaveBucket(address: number, code: number, modeKey: number): void {
    const { u32 } = this.#arena;
    const bucket = bucketOf(code, modeKey);
    const next = u32[(address + BLOCK.nextInBucket) >> 2]!;
    let at = this.#buckets[bucket]!;
    if (at === address) {
      this.#buckets[bucket] = next;
      return;
    }
    while (at !== 0) {
      const link = (at + BLOCK.nextInBucket) >> 2;
      at = u32[link]!;
      if (at === address) u32[link] = next;
    }
  }

  /** Executions until code at a place is hot: more, the more often it was changed. */
  #heatAt(code: number, modeKey: number): number {
    const rewrites = this.#onRewritten ? (this.#deaths.get(keyOf(code, modeKey)) ?? 0) : 0;
    if (rewrites === 0) return this.#heat;
    this.#onRewritten?.();
    return this.#heat * 2 ** Math.min(REWRITES_MAX, rewrites);
  }

  /** Puts a block into the first place of its pair; what stood there moves to the second. */
  #enter(address: number, code: number, modeKey: number): void {
    const { u32, i32 } = this.#arena;
    let entry = this.#entryOf(address, code, modeKey);
    if (entry < 0) {
      entry = (ARENA.blockTable + lookupIndex(code, modeKey) * LOOKUP.entrySize) >> 2;
      u32.copyWithin(entry + LOOKUP_WORDS, entry, entry + LOOKUP_WORDS);
    }
    const onePage = i32[(address + BLOCK.secondPage) >> 2]! < 0;
    u32[entry + (LOOKUP.code >> 2)] = code;
    u32[entry + (LOOKUP.mode >> 2)] = modeKey;
    u32[entry + (LOOKUP.block >> 2)] = onePage ? address : address | LOOKUP.secondPage;
    u32[entry + (LOOKUP.region >> 2)] = u32[(ARENA.regionOf >> 2) + u32[(address + BLOCK.index) >> 2]!]!;
  }

  /** Index of a block's table entry in words, -1 when it has none. */
  #entryOf(address: number, code: number, modeKey: number): number {
    const { u32 } = this.#arena;
    const first = (ARENA.blockTable + lookupIndex(code, modeKey) * LOOKUP.entrySize) >> 2;
    if ((u32[first + (LOOKUP.block >> 2)]! & ~LOOKUP.secondPage) === address) return first;
    const second = first + LOOKUP_WORDS;
    return (u32[second + (LOOKUP.block >> 2)]! & ~LOOKUP.secondPage) === address ? second : -1;
  }

  /** Says how the region that begins at a block is entered (ENTRY), 0 for none. */
  setRegion(block: CachedBlock, region: number): void {
    const { u32 } = this.#arena;
    u32[regionCell(block) >> 2] = region;
    const entry = this.#entryOf(block.address, block.code, block.modeKey);
    if (entry >= 0) u32[entry + (LOOKUP.region >> 2)] = region;
  }

  /** EXIT.adapt comes for this block when regions have been left in it as often as at first. */
  waitToLook(block: CachedBlock): void {
    this.#arena.u16[(block.address + BLOCK.leaves) >> 1] = this.#leaves;
  }

  // ---- making --------------------------------------------------------------------------------------------------

  /**
   * Encodes a lifted block and enters it in the table (`listed` false: it is for one use). `secondPage`: as
   * CachedBlock's. Returns the address of its header.
   */
  add(lifted: LiftedBlock, code: number, modeKey: number, secondPage: number, listed = true): number {
    const { u16, u32 } = this.#arena;
    const { ops, instructions, bytes } = lifted;
    const address = this.#room.reserve(sizeOfBlock(ops.length, instructions.length));
    const index = this.#freeIndexes.pop() ?? this.#indexes++;
    const at = address >> 2;
    u32[at + (BLOCK.count >> 2)] = instructions.length;
    u32[at + (BLOCK.bytes >> 2)] = bytes;
    u32[at + (BLOCK.index >> 2)] = index;
    u32[at + (BLOCK.secondPage >> 2)] = secondPage;
    // Blocks of single steps are entered one by one: never hot.
    const heat = (modeKey & MODE.single) !== 0 ? 0 : this.#heatAt(code, modeKey);
    u32[at + (BLOCK.heat >> 2)] = heat;
    u16[(address + BLOCK.leaves) >> 1] = this.#leaves;
    // To stay, it is to be executed a second time.
    u16[(address + BLOCK.heatSeen) >> 1] = heat - 1;
    u16[(address + BLOCK.ops) >> 1] = ops.length;
    u16[(address + BLOCK.mode) >> 1] = modeKey;
    u32[at + (BLOCK.code >> 2)] = code;
    u32[at + (BLOCK.nextOnPage >> 2)] = 0;
    u32[at + (BLOCK.nextOnSecondPage >> 2)] = 0;
    u32[at + (BLOCK.nextInBucket >> 2)] = 0;
    u32[at + (BLOCK.id >> 2)] = this.#nextId++;
    writeOps(this.#arena, address, lifted);
    u32[(ARENA.regionOf >> 2) + index] = 0;
    if (!listed) return address;
    for (const page of this.#pagesOf(address)) this.#claim(address, page);
    this.#enter(address, code, modeKey);
    const before = this.#search(code, modeKey);
    if (before !== 0) this.#leaveBucket(before, code, modeKey);
    const bucket = bucketOf(code, modeKey);
    u32[at + (BLOCK.nextInBucket >> 2)] = this.#buckets[bucket]!;
    this.#buckets[bucket] = address;
    return address;
  }

  // ---- pages with code -----------------------------------------------------------------------------------------

  /** The pages (arena address >> 12) a block has code on: one or two. */
  #pagesOf(address: number): readonly number[] {
    const { u32, i32 } = this.#arena;
    const first = u32[(address + BLOCK.code) >> 2]! >>> PAGE_SHIFT;
    const second = i32[(address + BLOCK.secondPage) >> 2]!;
    // Code may run from a page's end to its own start, under two names.
    return second < 0 || second >>> PAGE_SHIFT === first ? [first] : [first, second >>> PAGE_SHIFT];
  }

  /** Index of the word through which a page's list goes on behind a block. */
  #linkOf(address: number, page: number): number {
    const first = this.#arena.u32[(address + BLOCK.code) >> 2]! >>> PAGE_SHIFT;
    return (address + (first === page ? BLOCK.nextOnPage : BLOCK.nextOnSecondPage)) >> 2;
  }

  /** The parts of a page that hold a block's code: arena addresses, one start and end after the other. */
  #partsOn(address: number, page: number): readonly number[] {
    const { u32, i32 } = this.#arena;
    const code = u32[(address + BLOCK.code) >> 2]!;
    const bytes = u32[(address + BLOCK.bytes) >> 2]!;
    const second = i32[(address + BLOCK.secondPage) >> 2]!;
    const inFirst = Math.min(bytes, PAGE - (code & (PAGE - 1)));
    const parts: number[] = [];
    if (code >>> PAGE_SHIFT === page) parts.push(code, code + inFirst);
    if (second >= 0 && second >>> PAGE_SHIFT === page) parts.push(second, second + bytes - inFirst);
    return parts;
  }

  /** Enters a block in a page's list. */
  #claim(address: number, page: number): void {
    const first = this.#pages.get(page);
    if (first === undefined) this.#protectPage(page);
    this.#arena.u32[this.#linkOf(address, page)] = first ?? 0;
    this.#pages.set(page, address);
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    const { u32 } = this.#arena;
    const [low, high] = chunksOf(this.#partsOn(address, page));
    this.#setChunks(page, u32[at]! | low, u32[at + 1]! | high);
  }

  /** Which 64-byte chunks of a page hold code, as two masks. */
  #setChunks(page: number, low: number, high: number): void {
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    this.#arena.u32[at] = low;
    this.#arena.u32[at + 1] = high;
  }

  /** Leaves in a page's list what is to be kept and not dead; the page may have no code any more. */
  #filter(page: number, keep: (address: number) => boolean): void {
    const { u32 } = this.#arena;
    let first = 0;
    let low = 0;
    let high = 0;
    for (let address = this.#pages.get(page) ?? 0, next: number; address !== 0; address = next) {
      const link = this.#linkOf(address, page);
      next = u32[link]!;
      // Dead, though on this list: its other page was written.
      if (this.#isDead(address) || !keep(address)) continue;
      u32[link] = first;
      first = address;
      const [partLow, partHigh] = chunksOf(this.#partsOn(address, page));
      low |= partLow;
      high |= partHigh;
    }
    if (!this.#pages.has(page)) return;
    this.#setChunks(page, low, high);
    if (first !== 0) {
      this.#pages.set(page, first);
      return;
    }
    this.#pages.delete(page);
    this.#unprotectPage(page);
  }

  /** Kills the blocks that hold any of these bytes (arena addresses, within one page). Returns how many. */
  invalidate(start: number, bytes: number): number {
    const page = start >>> PAGE_SHIFT;
    if (!this.#pages.has(page)) return 0;
    const end = start + bytes;
    const [low, high] = chunksOf([start, end]);
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    const { u32 } = this.#arena;
    if ((u32[at]! & low) === 0 && (u32[at + 1]! & high) === 0) return 0;
    let killed = 0;
    this.#filter(page, (address) => {
      const parts = this.#partsOn(address, page);
      if (!parts.some((from, part) => part % 2 === 0 && from < end && start < parts[part + 1]!)) return true;
      this.#kill(address);
      killed++;
      return false;
    });
    return killed;
  }

  #kill(address: number): void {
    const { u16, u32 } = this.#arena;
    const key = keyOf(u32[(address + BLOCK.code) >> 2]!, u16[(address + BLOCK.mode) >> 1]!);
    this.#remove(address);
    if (this.#deaths.size >= REWRITTEN_PLACES_MAX) this.#deaths.clear();
    this.#deaths.set(key, (this.#deaths.get(key) ?? 0) + 1);
    const block = this.#blocks[u32[(address + BLOCK.index) >> 2]!];
    if (block) this.#onDeath(block);
  }

  #isDead(address: number): boolean {
    return (this.#arena.u16[(address + BLOCK.mode) >> 1]! & BLOCK.dead) !== 0;
  }

  /** A block is not found any more. */
  #remove(address: number): void {
    const { u16, u32 } = this.#arena;
    const code = u32[(address + BLOCK.code) >> 2]!;
    const modeKey = u16[(address + BLOCK.mode) >> 1]!;
    const entry = this.#entryOf(address, code, modeKey);
    if (entry >= 0) u32.fill(0, entry, entry + LOOKUP_WORDS);
    this.#leaveBucket(address, code, modeKey);
    u16[(address + BLOCK.mode) >> 1] = modeKey | BLOCK.dead;
    const block = this.#blocks[u32[(address + BLOCK.index) >> 2]!];
    if (block) block.dead = true;
  }
}

/** Code's arena address and the mode key (14 bits) in one number. */
function keyOf(code: number, modeKey: number): number {
  return code * 0x4000 + modeKey;
}

function bucketOf(code: number, modeKey: number): number {
  return (code ^ (code >>> 16) ^ Math.imul(modeKey, 0x9e3779b1)) & (BUCKETS - 1);
}

/** The chunks of a page that parts of it (starts and ends) touch, as two 32-bit masks. */
function chunksOf(parts: readonly number[]): [number, number] {
  let low = 0;
  let high = 0;
  for (let part = 0; part < parts.length; part += 2) {
    const start = parts[part]!;
    const bytes = parts[part + 1]! - start;
    const first = (start & (PAGE - 1)) >> CHUNK_SHIFT;
    const last = Math.min(63, ((start & (PAGE - 1)) + bytes - 1) >> CHUNK_SHIFT);
    for (let chunk = first; chunk <= last; chunk++) {
      if (chunk < 32) low |= 1 << chunk;
      else high |= 1 << (chunk - 32);
    }
  }
  return [low, high];
}
