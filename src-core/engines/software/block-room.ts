import type { Arena } from '../../machine/arena.ts';
import { sizeOfBlock } from './cached-block.ts';
import { BLOCK, UOP } from './exit.ts';

/** So many bytes are looked through at once for blocks that are not used any more. */
const WINDOW = 32_768;
/** Of the room there is, at least so many windows. */
const WINDOWS_MIN = 16;
/** Where a round frees less than one in so many bytes, more room is taken... */
const FREED_SHARE_MIN = 4;
/** ...by one in so many bytes of it. */
const GROWTH_SHARE = 4;

export interface BlockRoomOptions {
  arena: Arena;
  /** Arena address of the room, and bytes of it to use at first and at most: multiples of UOP.size. */
  start: number;
  size: number;
  sizeMax: number;
  /** Whether a block is to stay this time; asked of each once a round. */
  keeps: (address: number) => boolean;
  /** Hears of blocks that make way; their headers can still be read. */
  onEviction: (addresses: readonly number[]) => void;
}

/**
 * Where the micro-op cache puts its blocks: a hand goes round the room, ahead of it blocks make way that are not kept, and new
 * blocks stand in the holes (the clock algorithm). Where most are kept, the room grows. A hole has a header as a block has: no instructions, and its size in
 * place of the bytes of code.
 */
export class BlockRoom {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #start: number;
  readonly #firstEnd: number;
  readonly #lastEnd: number;
  #end: number;
  readonly #window: number;
  readonly #keeps: (address: number) => boolean;
  readonly #onEviction: (addresses: readonly number[]) => void;
  /** What is left of the hole being filled. Its header is written when it is left. */
  #next: number;
  #holeEnd: number;
  /** Up to where was looked for what makes way. */
  #windowEnd: number;
  /** Bytes freed since the hand was at the start; the first round has nothing to free. */
  #freed = Infinity;

  constructor({ arena, start, size, sizeMax, keeps, onEviction }: BlockRoomOptions) {
    this.#u16 = arena.u16;
    this.#u32 = arena.u32;
    this.#start = start;
    this.#firstEnd = start + size;
    this.#lastEnd = start + sizeMax;
    this.#end = this.#firstEnd;
    this.#window = Math.min(WINDOW, Math.floor(size / WINDOWS_MIN));
    this.#keeps = keeps;
    this.#onEviction = onEviction;
    this.#next = start;
    this.#holeEnd = this.#end;
    this.#windowEnd = this.#end;
  }

  /** All of it is one hole again. */
  clear(): void {
    this.#end = this.#firstEnd;
    this.#next = this.#start;
    this.#holeEnd = this.#end;
    this.#windowEnd = this.#end;
    this.#freed = Infinity;
  }

  /** Room for so many bytes, a multiple of UOP.size. */
  reserve(bytes: number): number {
    if (bytes > this.#window) throw new Error(`a block of ${bytes} bytes has no room`);
    for (let rounds = 0; this.#holeEnd - this.#next < bytes;) {
      this.#leaveHole(this.#next, this.#holeEnd);
      if (this.#holeEnd >= this.#end) {
        if (this.#grow()) continue;
        this.#holeEnd = this.#start;
        this.#windowEnd = this.#start;
        this.#freed = 0;
        rounds++;
      }
      // After a round, and what was left of another, all blocks were asked: where everything is kept, anything goes.
      if (this.#holeEnd >= this.#windowEnd) this.#windowEnd = this.#sweep(this.#holeEnd, rounds <= 2);
      this.#findHole(this.#holeEnd);
    }
    const address = this.#next;
    this.#next += bytes;
    return address;
  }

  /** Adds room behind the end as a hole, if the round that ends there freed little. */
  #grow(): boolean {
    const size = this.#end - this.#start;
    if (this.#end >= this.#lastEnd || this.#freed * FREED_SHARE_MIN >= size) return false;
    const growth = Math.ceil(size / GROWTH_SHARE / UOP.size) * UOP.size;
    this.#next = this.#end;
    this.#end = Math.min(this.#lastEnd, this.#end + growth);
    this.#holeEnd = this.#end;
    this.#windowEnd = this.#end;
    // What was added has no blocks yet that could make way.
    this.#freed = Infinity;
    return true;
  }

  #isHole(address: number): boolean {
    return this.#u32[(address + BLOCK.count) >> 2] === 0;
  }

  /** Bytes of the block or hole at an address. */
  #sizeOf(address: number): number {
    const count = this.#u32[(address + BLOCK.count) >> 2]!;
    if (count === 0) return this.#u32[(address + BLOCK.bytes) >> 2]!;
    return sizeOfBlock(this.#u16[(address + BLOCK.ops) >> 1]!, count);
  }

  #leaveHole(start: number, end: number): void {
    if (start === end) return;
    this.#u32[(start + BLOCK.count) >> 2] = 0;
    this.#u32[(start + BLOCK.bytes) >> 2] = end - start;
  }

  /** Goes to the next hole of the window, from the start of a block or hole. */
  #findHole(from: number): void {
    let at = from;
    while (at < this.#windowEnd && !this.#isHole(at)) at += this.#sizeOf(at);
    this.#next = at;
    this.#holeEnd = at < this.#windowEnd ? at + this.#sizeOf(at) : at;
  }

  /** Makes holes of the blocks in the window from an address on that are not kept. Returns where the window ends. */
  #sweep(from: number, asking: boolean): number {
    const evicted: number[] = [];
    const holes: { start: number; end: number }[] = [];
    let at = from;
    while (at < this.#end && at < from + this.#window) {
      const next = at + this.#sizeOf(at);
      const isHole = this.#isHole(at);
      if (isHole || !asking || !this.#keeps(at)) {
        if (!isHole) evicted.push(at);
        const last = holes.at(-1);
        if (last?.end === at) last.end = next;
        else holes.push({ start: at, end: next });
        this.#freed += next - at;
      }
      at = next;
    }
    if (evicted.length > 0) this.#onEviction(evicted);
    for (const { start, end } of holes) this.#leaveHole(start, end);
    return at;
  }
}
