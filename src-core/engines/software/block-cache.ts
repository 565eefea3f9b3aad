import { ARENA, type Arena } from '../../machine/arena.ts';
import type { IrOp } from '../../ir/op.ts';
import { op } from '../../ir/op.ts';
import type { LiftedBlock } from '../../x86/lift/block.ts';
import { PAGE_RECORD } from '../../x86/layout.ts';
import { type CodeSize, MODE } from '../../x86/mode.ts';
import { recordOf } from '../../x86/tlb.ts';
import { BLOCK, LOOKUP, lookupIndex, START, UOP } from './exit.ts';

const PAGE_SHIFT = 12;
const LOOKUP_WORDS = LOOKUP.entrySize >> 2;
/** Code is tracked in chunks of so many bytes, 64 a page. */
const CHUNK_SHIFT = 6;

/** A cached block. */
export interface CachedBlock {
  /** Blocks made before it since everything was last forgotten. */
  readonly id: number;
  /** BLOCK.index: taken again when the block's place is used for others. */
  readonly index: number;
  /** Arena address of its header in the micro-op area. */
  readonly address: number;
  /** Arena address of its first byte of guest code. */
  readonly code: number;
  readonly bytes: number;
  readonly modeKey: number;
  /** Arena address of the second page's first byte when the code runs into another page, else -1. */
  readonly secondPage: number;
  /** Guest instructions. Where each starts stands in the arena, in the order of instructions (instructionStart). */
  readonly count: number;
  /** Its code was changed: never entered again. */
  dead: boolean;
}

export interface BlockCacheOptions {
  /** Executions until a block is hot; 0: never. */
  heat: number;
  /** Hears of blocks whose code changed. */
  onDeath: (block: CachedBlock) => void;
  /** Hears of blocks, dead ones too, whose micro-ops make way for others. */
  onEviction: (block: CachedBlock) => void;
  /** Given, code that keeps being changed grows hot later and later, and this is told each time. */
  onRewritten: (() => void) | undefined;
  /** Bytes to use of the arena's room for micro-ops. */
  size?: number;
}

/** Code rewritten more often than this needs no more executions to be hot than after as many rewrites: 64 times as many. */
const REWRITES_MAX = 6;
/** Places to remember the rewrites of. */
const REWRITTEN_PLACES_MAX = 4096;
/** The micro-op cache is filled segment by segment, round and round; a segment's blocks are forgotten together. */
const SEGMENTS = 16;

/** The micro-op cache: blocks by the arena address of their code and their mode, and which pages hold code. */
export class BlockCache {
  readonly #arena: Arena;
  readonly #protectPage: (arenaPage: number) => void;
  readonly #unprotectPage: (arenaPage: number) => void;
  /** By index. */
  readonly #blocks: (CachedBlock | undefined)[] = [];
  readonly #freeIndexes: number[] = [];
  /** The blocks on each page of the arena with code; which chunks of it hold code stands in its PAGE_RECORD. */
  readonly #pages = new Map<number, Set<CachedBlock>>();
  /** Every live block by key. The table wasm looks in has one place for several keys: a block put out of it stays here. */
  readonly #live = new Map<number, CachedBlock>();
  #next: number = ARENA.uops;
  #nextId = 0;
  #segment = 0;
  readonly #segmentSize: number;
  readonly #segments: CachedBlock[][] = Array.from({ length: SEGMENTS }, () => []);
  readonly #heat: number;
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
    { heat, onDeath, onEviction, onRewritten, size = ARENA.uopsSize }: BlockCacheOptions,
  ) {
    this.#heat = heat;
    this.#onDeath = onDeath;
    this.#onEviction = onEviction;
    this.#onRewritten = onRewritten;
    this.#segmentSize = Math.floor(size / SEGMENTS / UOP.size) * UOP.size;
    this.#arena = arena;
    this.#protectPage = protectPage;
    this.#unprotectPage = unprotectPage;
    this.#clearTable();
  }

  #clearTable(): void {
    const start = ARENA.blockTable;
    this.#arena.u8.fill(0, start, start + LOOKUP.entries * LOOKUP.entrySize);
  }

  /** Room for `bytes`; the oldest blocks make way where there is none. */
  #reserve(bytes: number): number {
    if (this.#next + bytes > ARENA.uops + (this.#segment + 1) * this.#segmentSize) {
      this.#segment = (this.#segment + 1) % SEGMENTS;
      this.#next = ARENA.uops + this.#segment * this.#segmentSize;
      const evicted = this.#segments[this.#segment]!;
      this.#segments[this.#segment] = [];
      for (const block of evicted) this.#evict(block);
    }
    const address = this.#next;
    this.#next += bytes;
    return address;
  }

  #evict(block: CachedBlock): void {
    if (!block.dead) this.#remove(block);
    for (const start of block.secondPage < 0 ? [block.code] : [block.code, block.secondPage]) {
      const page = start >>> PAGE_SHIFT;
      const blocks = this.#pages.get(page);
      if (!blocks?.delete(block) || blocks.size > 0) continue;
      this.#pages.delete(page);
      this.#setChunks(page, 0, 0);
      this.#unprotectPage(page);
    }
    this.#onEviction(block);
    this.#blocks[block.index] = undefined;
    this.#freeIndexes.push(block.index);
  }

  /** Blocks made since everything was last forgotten: the next one's id. */
  get count(): number {
    return this.#nextId;
  }

  /** Forgets everything. */
  clear(): void {
    for (const page of this.#pages.keys()) {
      this.#setChunks(page, 0, 0);
      this.#unprotectPage(page);
    }
    this.#pages.clear();
    this.#live.clear();
    this.#blocks.length = 0;
    this.#freeIndexes.length = 0;
    this.#segments.forEach((_, index) => (this.#segments[index] = []));
    this.#segment = 0;
    this.#next = ARENA.uops;
    this.#clearTable();
  }

  /** The block of a header address. */
  at(address: number): CachedBlock {
    const block = this.#blocks[this.#arena.u32[(address + BLOCK.index) >> 2]!];
    if (!block) throw new Error(`no block at 0x${address.toString(16)}`);
    return block;
  }

  /**
   * The live block at a place in a mode, which is put back into wasm's table. Where it runs into a second page, the caller
   * sees to it that this page is still the one mapped there, at each entry.
   */
  find(code: number, modeKey: number): CachedBlock | undefined {
    const block = this.#live.get(keyOf(code, modeKey));
    if (block) this.#enter(block);
    return block;
  }

  /** Where a block's instruction starts: arena address of its first micro-op, and its offset in bytes of guest code. */
  instructionStart({ address }: CachedBlock, index: number): { uop: number; offset: number } {
    const { u16, u32 } = this.#arena;
    const first = address + BLOCK.header;
    const start = (first + u32[(address + BLOCK.ops) >> 2]! * UOP.size + index * START.size) >> 1;
    return { uop: first + u16[start]! * UOP.size, offset: u16[start + (START.offset >> 1)]! };
  }

  /** Which of a block's instructions a micro-op belongs to. */
  instructionAt(block: CachedBlock, uop: number): number {
    let low = 0;
    let high = block.count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.instructionStart(block, middle).uop <= uop) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Executions until code at a place is hot: more, the more often it was changed. */
  #heatAt(code: number, modeKey: number): number {
    const rewrites = this.#onRewritten ? (this.#deaths.get(keyOf(code, modeKey)) ?? 0) : 0;
    if (rewrites === 0) return this.#heat;
    this.#onRewritten?.();
    return this.#heat * 2 ** Math.min(REWRITES_MAX, rewrites);
  }

  /** Puts a block into the first place of its pair; what stood there moves to the second. */
  #enter(block: CachedBlock): void {
    const { code, modeKey, address, secondPage, index } = block;
    const { u32 } = this.#arena;
    let entry = this.#entryOf(block);
    if (entry < 0) {
      entry = (ARENA.blockTable + lookupIndex(code, modeKey) * LOOKUP.entrySize) >> 2;
      u32.copyWithin(entry + LOOKUP_WORDS, entry, entry + LOOKUP_WORDS);
    }
    u32[entry + (LOOKUP.code >> 2)] = code;
    u32[entry + (LOOKUP.mode >> 2)] = modeKey;
    u32[entry + (LOOKUP.block >> 2)] = secondPage < 0 ? address : address | LOOKUP.secondPage;
    u32[entry + (LOOKUP.region >> 2)] = u32[(ARENA.regionOf >> 2) + index]!;
  }

  /** Index of a block's table entry in words, -1 when it has none. */
  #entryOf({ code, modeKey, address }: CachedBlock): number {
    const { u32 } = this.#arena;
    const first = (ARENA.blockTable + lookupIndex(code, modeKey) * LOOKUP.entrySize) >> 2;
    for (const entry of [first, first + LOOKUP_WORDS]) {
      if ((u32[entry + (LOOKUP.block >> 2)]! & ~LOOKUP.secondPage) === address) return entry;
    }
    return -1;
  }

  /** Says how the region that begins at a block is entered (ENTRY), 0 for none. */
  setRegion(block: CachedBlock, region: number): void {
    const { u32 } = this.#arena;
    u32[regionCell(block) >> 2] = region;
    const entry = this.#entryOf(block);
    if (entry >= 0) u32[entry + (LOOKUP.region >> 2)] = region;
  }

  /** The same, without touching the table. */
  peek(code: number, modeKey: number): CachedBlock | undefined {
    return this.#live.get(keyOf(code, modeKey));
  }

  /** Encodes a lifted block and enters it in the table (`listed` false: it is for one use). */
  add(lifted: LiftedBlock, code: number, modeKey: number, secondPage: number, listed = true): CachedBlock {
    const { view, u32 } = this.#arena;
    const count = lifted.instructions.length;
    const starts = Math.ceil((count * START.size) / UOP.size) * UOP.size;
    const address = this.#reserve(BLOCK.header + lifted.ops.length * UOP.size + starts);
    const id = this.#nextId++;
    const index = this.#freeIndexes.pop() ?? this.#blocks.length;
    u32[(address + BLOCK.count) >> 2] = count;
    u32[(address + BLOCK.ops) >> 2] = lifted.ops.length;
    u32[(address + BLOCK.bytes) >> 2] = lifted.bytes;
    u32[(address + BLOCK.index) >> 2] = index;
    u32[(address + BLOCK.secondPage) >> 2] = secondPage;
    // Blocks of single steps are entered one by one: never hot.
    u32[(address + BLOCK.heat) >> 2] = (modeKey & MODE.single) !== 0 ? 0 : this.#heatAt(code, modeKey);
    u32[(address + BLOCK.resumes) >> 2] = 0;
    const first = address + BLOCK.header;
    lifted.ops.forEach((ir, index) => writeUop(view, first + index * UOP.size, ir));
    let start = first + lifted.ops.length * UOP.size;
    for (const { firstOp, offset } of lifted.instructions) {
      view.setUint16(start + START.op, firstOp, true);
      view.setUint16(start + START.offset, offset, true);
      start += START.size;
    }
    const block: CachedBlock = {
      id,
      index,
      address,
      code,
      bytes: lifted.bytes,
      modeKey,
      secondPage,
      count,
      dead: false,
    };
    this.#blocks[index] = block;
    u32[regionCell(block) >> 2] = 0;
    this.#segments[this.#segment]!.push(block);
    if (!listed) return block;
    const inFirst = Math.min(lifted.bytes, 4096 - (code & 0xfff));
    this.#claim(block, code, inFirst);
    if (secondPage >= 0) this.#claim(block, secondPage, lifted.bytes - inFirst);
    this.#enter(block);
    this.#live.set(keyOf(code, modeKey), block);
    return block;
  }

  #claim(block: CachedBlock, start: number, bytes: number): void {
    const page = start >>> PAGE_SHIFT;
    let blocks = this.#pages.get(page);
    if (!blocks) {
      this.#pages.set(page, (blocks = new Set()));
      this.#protectPage(page);
    }
    blocks.add(block);
    const [low, high] = chunks(start, bytes);
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    const { u32 } = this.#arena;
    this.#setChunks(page, u32[at]! | low, u32[at + 1]! | high);
  }

  /** Which 64-byte chunks of a page hold code, as two masks. */
  #setChunks(page: number, low: number, high: number): void {
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    this.#arena.u32[at] = low;
    this.#arena.u32[at + 1] = high;
  }

  /** Kills the blocks that hold any of these bytes (arena addresses, within one page). Returns how many. */
  invalidate(start: number, bytes: number): number {
    const page = start >>> PAGE_SHIFT;
    const blocks = this.#pages.get(page);
    if (!blocks) return 0;
    const [low, high] = chunks(start, bytes);
    const at = (recordOf(page) + PAGE_RECORD.chunks) >> 2;
    const { u32 } = this.#arena;
    if ((u32[at]! & low) === 0 && (u32[at + 1]! & high) === 0) return 0;
    let killed = 0;
    let leftLow = 0;
    let leftHigh = 0;
    for (const block of blocks) {
      if (block.dead) {
        // Its other page was written before.
        blocks.delete(block);
        continue;
      }
      const inFirst = Math.min(block.bytes, 4096 - (block.code & 0xfff));
      const first = block.code >>> PAGE_SHIFT === page;
      const from = first ? block.code : block.secondPage;
      const length = first ? inFirst : block.bytes - inFirst;
      if (from < start + bytes && start < from + length) {
        this.#kill(block);
        blocks.delete(block);
        killed++;
      } else {
        const [blockLow, blockHigh] = chunks(from, length);
        leftLow |= blockLow;
        leftHigh |= blockHigh;
      }
    }
    this.#setChunks(page, leftLow, leftHigh);
    if (blocks.size === 0) {
      this.#pages.delete(page);
      this.#unprotectPage(page);
    }
    return killed;
  }

  #kill(block: CachedBlock): void {
    this.#remove(block);
    const key = keyOf(block.code, block.modeKey);
    if (this.#deaths.size >= REWRITTEN_PLACES_MAX) this.#deaths.clear();
    this.#deaths.set(key, (this.#deaths.get(key) ?? 0) + 1);
    this.#onDeath(block);
  }

  /** A block is not found any more. */
  #remove(block: CachedBlock): void {
    block.dead = true;
    const entry = this.#entryOf(block);
    if (entry >= 0) this.#arena.u32.fill(0, entry, entry + LOOKUP_WORDS);
    const key = keyOf(block.code, block.modeKey);
    if (this.#live.get(key) === block) this.#live.delete(key);
  }
}

/** Arena address of the word that says how to enter the region that begins at a block. */
export function regionCell({ index }: CachedBlock): number {
  return ARENA.regionOf + index * 4;
}

/** Code's arena address and the mode key (14 bits) in one number. */
function keyOf(code: number, modeKey: number): number {
  return code * 0x4000 + modeKey;
}

/** The chunks of a page that [start, start + bytes) touches, as two 32-bit masks. */
function chunks(start: number, bytes: number): [number, number] {
  const first = (start & 0xfff) >> CHUNK_SHIFT;
  const last = Math.min(63, ((start & 0xfff) + bytes - 1) >> CHUNK_SHIFT);
  let low = 0;
  let high = 0;
  for (let chunk = first; chunk <= last; chunk++) {
    if (chunk < 32) low |= 1 << chunk;
    else high |= 1 << (chunk - 32);
  }
  return [low, high];
}

function writeUop(view: DataView, at: number, ir: IrOp): void {
  view.setUint16(at + UOP.op, ir.def.id, true);
  view.setUint16(at + UOP.dst, ir.dst, true);
  if (ir.def.name === 'const64') {
    view.setBigUint64(at + UOP.wide, ir.wide, true);
  } else {
    view.setUint16(at + UOP.a, ir.a, true);
    view.setUint16(at + UOP.b, ir.b, true);
    view.setInt32(at + UOP.imm, ir.imm, true);
  }
  view.setUint16(at + UOP.c, ir.c, true);
  view.setUint16(at + UOP.callout, ir.callout?.id ?? 0, true);
}

/** Overwrites a micro-op with one that ends the block at `offset` from its start; returns the bytes it replaced. */
export function patchEnd(arena: Arena, uop: number, codeBits: CodeSize, offset: number): Uint8Array {
  const saved = arena.u8.slice(uop, uop + UOP.size);
  writeUop(arena.view, uop, {
    def: op(`end.${codeBits}`),
    dst: 0,
    a: 0,
    b: 0,
    imm: offset,
    c: 0,
    wide: 0n,
    callout: undefined,
  });
  return saved;
}
