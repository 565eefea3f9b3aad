import { beforeEach, describe, expect, it } from 'vitest';
import { BlockCache } from '../../src-core/engines/software/block-cache.ts';
import type { CachedBlock } from '../../src-core/engines/software/cached-block.ts';
import { ARENA, Arena } from '../../src-core/machine/arena.ts';
import '../../src-core/ir/ops/index.ts';
import { liftBlock } from '../../src-core/x86/lift/block.ts';
import { MODE } from '../../src-core/x86/mode.ts';

const PAGE = 4096;
const MODE_KEY = MODE.code32;
/** mov eax, 0x11223344; ret */
const CODE = Uint8Array.from([0xb8, 0x44, 0x33, 0x22, 0x11, 0xc3]);

describe('the block cache', () => {
  let died: CachedBlock[];
  let evicted: CachedBlock[];
  let pages: Set<number>;

  function cache(size?: number): BlockCache {
    return new BlockCache(
      new Arena(4),
      (page) => pages.add(page),
      (page) => pages.delete(page),
      {
        heat: 8,
        onDeath: (block) => died.push(block),
        onEviction: (block) => evicted.push(block),
        onRewritten: undefined,
        ...(size !== undefined && { size }),
      },
    );
  }

  function add(blocks: BlockCache, code: number, secondPage = -1): number {
    const lifted = liftBlock(CODE, MODE_KEY, 16);
    if (!lifted) throw new Error('not lifted');
    return blocks.add(lifted, code, MODE_KEY, secondPage);
  }

  beforeEach(() => {
    died = [];
    evicted = [];
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

  it('makes room segment by segment, oldest first, and forgets nothing else', () => {
    const blocks = cache(16 * 1024);
    const first = blocks.at(add(blocks, ARENA.ram));
    const live = new Map<number, number>();
    for (let page = 1; evicted.length === 0; page++) {
      const code = ARENA.ram + page * PAGE;
      live.set(code, add(blocks, code));
      if (page > 1000) throw new Error('nothing is evicted');
    }
    expect(evicted).toEqual([first]);
    expect(blocks.find(first.code, MODE_KEY)).toBe(0);
    const found = [...live].filter(([code, address]) => blocks.find(code, MODE_KEY) === address);
    // One segment of sixteen went.
    expect(found.length).toBeGreaterThan(live.size * 0.9);
    expect(pages.size).toBe(found.length);
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
