import { beforeEach, describe, expect, it } from 'vitest';
import { BlockCache } from '../../src-core/engines/software/block-cache.ts';
import type { CachedBlock } from '../../src-core/engines/software/cached-block.ts';
import { ARENA, Arena } from '../../src-core/machine/arena.ts';
import '../../src-core/ir/ops/index.ts';
import { BLOCK } from '../../src-core/engines/software/exit.ts';
import { liftBlock } from '../../src-core/x86/lift/block.ts';
import { MODE } from '../../src-core/x86/mode.ts';
import { random } from '../x86/vcpu.ts';

const PAGE = 4096;
const MODE_KEY = MODE.code32;
/** mov eax, 0x11223344; ret */
const CODE = Uint8Array.from([0xb8, 0x44, 0x33, 0x22, 0x11, 0xc3]);

describe('the block cache', () => {
  let died: CachedBlock[];
  let evicted: CachedBlock[];
  let held: Set<CachedBlock>;
  let pages: Set<number>;
  let arena: Arena;

  function cache(size?: number, sizeMax?: number): BlockCache {
    arena = new Arena(4);
    return new BlockCache(
      arena,
      (page) => pages.add(page),
      (page) => pages.delete(page),
      {
        heat: 8,
        isHeld: (block) => held.has(block),
        onDeath: (block) => died.push(block),
        onEviction: (block) => evicted.push(block),
        onRewritten: undefined,
        ...(size !== undefined && { size, sizeMax: sizeMax ?? size }),
      },
    );
  }

  function execute(address: number): void {
    const heat = (address + BLOCK.heat) >> 2;
    arena.i32[heat] = (arena.i32[heat] ?? 0) - 1;
  }

  function add(blocks: BlockCache, code: number, secondPage = -1): number {
    const lifted = liftBlock(CODE, MODE_KEY, 16);
    if (!lifted) throw new Error('not lifted');
    return blocks.add(lifted, code, MODE_KEY, secondPage);
  }

  beforeEach(() => {
    died = [];
    evicted = [];
    held = new Set();
    pages = new Set();
  });

  it('finds blocks by place and mode, and describes them', () => {
    const blocks = cache();
    const code = ARENA.ram + 0x1234;
    const address = add(blocks, code);
    expect(blocks.find(code, MODE_KEY)).toBe(address);
    expect(blocks.find(code, MODE.code16)).toBe(0);
    expect(blocks.find(code + 1, MODE_KEY)).toBe(0);
    expect(blocks.at(address)).toBe(blocks.peek(code, MODE_KEY));
    expect(blocks.at(address)).toMatchObject({ code, modeKey: MODE_KEY, bytes: 6, count: 2, secondPage: -1 });
  });

  it('kills what holds a byte that was written, and only that', () => {
    const blocks = cache();
    const first = add(blocks, ARENA.ram + 0x1000);
    const second = add(blocks, ARENA.ram + 0x1006);
    const known = blocks.at(second);
    expect(blocks.invalidate(ARENA.ram + 0x100c, 4)).toBe(0);
    expect(blocks.invalidate(ARENA.ram + 0x1007, 1)).toBe(1);
    expect(known.dead).toBe(true);
    expect(died).toEqual([known]);
    expect(blocks.find(ARENA.ram + 0x1006, MODE_KEY)).toBe(0);
    expect(blocks.find(ARENA.ram + 0x1000, MODE_KEY)).toBe(first);
    expect(pages.size).toBe(1);
    expect(blocks.invalidate(ARENA.ram + 0x1000, 1)).toBe(1);
    expect(pages.size).toBe(0);
    // Nobody had asked for the first by name.
    expect(died).toEqual([known]);
  });

  it('watches both pages of a block, also when they are one page under two names', () => {
    const blocks = cache();
    const end = ARENA.ram + 0x2000 - 3;
    add(blocks, end, ARENA.ram + 0x5000);
    expect(blocks.invalidate(ARENA.ram + 0x5003, 1)).toBe(0);
    expect(blocks.invalidate(ARENA.ram + 0x5002, 1)).toBe(1);
    expect(blocks.invalidate(end, 1)).toBe(0);
    expect(pages.size).toBe(0);
    const start = ARENA.ram + 0x1000;
    add(blocks, end, start);
    expect(pages.size).toBe(1);
    expect(blocks.invalidate(start + 3, 1)).toBe(0);
    expect(blocks.invalidate(start + 2, 1)).toBe(1);
    expect(pages.size).toBe(0);
    add(blocks, end, start);
    expect(blocks.invalidate(end, 1)).toBe(1);
    expect(pages.size).toBe(0);
  });

  /** Adds blocks, one a page, from a page on; returns them by code. */
  function addMany(blocks: BlockCache, from: number, count: number): Map<number, number> {
    return new Map(
      Array.from({ length: count }, (_, at) => {
        const code = ARENA.ram + ((from + at) % 1024) * PAGE;
        return [code, add(blocks, code)] as const;
      }),
    );
  }

  it('makes room window by window, oldest first, and forgets nothing else', () => {
    const blocks = cache(16 * 1024);
    const first = blocks.at(add(blocks, ARENA.ram));
    execute(first.address);
    const live = new Map<number, number>();
    for (let page = 1; evicted.length === 0; page++) {
      const code = ARENA.ram + page * PAGE;
      const address = add(blocks, code);
      // As blocks are when they have been made.
      execute(address);
      live.set(code, address);
      if (page > 1000) throw new Error('nothing is evicted');
    }
    expect(evicted).toEqual([first]);
    expect(blocks.find(first.code, MODE_KEY)).toBe(0);
    const found = [...live].filter(([code, address]) => blocks.find(code, MODE_KEY) === address);
    // A window of sixteen went.
    expect(found.length).toBeGreaterThan(live.size * 0.9);
    expect(pages.size).toBe(found.length);
  });

  it('keeps what is executed and what is held, round after round', () => {
    const blocks = cache(16 * 1024);
    const used = blocks.at(add(blocks, ARENA.ram + 2000 * PAGE));
    const part = blocks.at(add(blocks, ARENA.ram + 2001 * PAGE));
    held.add(part);
    for (let round = 0; round < 40; round++) {
      for (const address of addMany(blocks, round * 32, 32).values()) {
        execute(address);
        execute(used.address);
      }
    }
    expect(blocks.find(used.code, MODE_KEY)).toBe(used.address);
    expect(blocks.find(part.code, MODE_KEY)).toBe(part.address);
    held.clear();
    addMany(blocks, 0, 400);
    expect(evicted).toContain(part);
    expect(blocks.find(part.code, MODE_KEY)).toBe(0);
  });

  it('makes room even where all is held', () => {
    const blocks = cache(16 * 1024);
    for (let page = 0; page < 1000; page++) held.add(blocks.at(add(blocks, ARENA.ram + page * PAGE)));
    expect(evicted.length).toBeGreaterThan(700);
    // The last stand where they were put, whole.
    const last = ARENA.ram + 999 * PAGE;
    expect(blocks.peek(last, MODE_KEY)).toMatchObject({ code: last, count: 2, bytes: 6 });
  });

  it('takes more room where most is kept, and no more than there is', () => {
    const blocks = cache(16 * 1024, 64 * 1024);
    let most = 0;
    for (let page = 0; page < 1000; page++) {
      const address = add(blocks, ARENA.ram + page * PAGE);
      most = Math.max(most, address);
      if (page % 8 !== 0) held.add(blocks.at(address));
    }
    expect(most).toBeGreaterThan(ARENA.uops + 60 * 1024);
    expect(most).toBeLessThan(ARENA.uops + 64 * 1024);
    const few = cache(16 * 1024, 64 * 1024);
    for (let page = 0; page < 1000; page++) most = Math.max(0, add(few, ARENA.ram + page * PAGE));
    expect(most).toBeLessThan(ARENA.uops + 16 * 1024);
  });

  it('uses the room of blocks of other sizes', () => {
    const blocks = cache(16 * 1024);
    const nops = (count: number): number => {
      const lifted = liftBlock(new Uint8Array(count).fill(0x90), MODE_KEY, count);
      if (!lifted) throw new Error('not lifted');
      return blocks.add(lifted, ARENA.ram + ((count * 7919) % 1000) * PAGE, MODE_KEY, -1);
    };
    const next = random(7);
    for (let turn = 0; turn < 5000; turn++) {
      const count = 1 + next.below(40);
      const address = nops(count);
      expect(address % 16).toBe(0);
      expect(address).toBeLessThan(ARENA.uops + 16 * 1024);
      expect(blocks.at(address).count).toBe(count);
      if (turn % 3 === 0) blocks.invalidate(blocks.at(address).code, 1);
      expect(pages.size).toBeLessThanOrEqual(1000);
    }
  });

  it('forgets everything when told to', () => {
    const blocks = cache();
    add(blocks, ARENA.ram);
    blocks.clear();
    expect(blocks.find(ARENA.ram, MODE_KEY)).toBe(0);
    expect(pages.size).toBe(0);
    expect(blocks.count).toBe(1);
  });
});
