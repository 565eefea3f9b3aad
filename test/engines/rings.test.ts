import { describe, expect, it } from 'vitest';
import type { CachedBlock } from '../../src-core/engines/software/cached-block.ts';
import { Rings } from '../../src-core/engines/software/translator/rings.ts';
import type { Translation } from '../../src-core/engines/software/translator/translation.ts';

function block(id: number): CachedBlock {
  return {
    id,
    index: id,
    address: id * 64,
    code: id,
    bytes: 1,
    modeKey: 0,
    secondPage: -1,
    count: 1,
    dead: false,
  };
}

/** Regions that go on to one another as `chains` says, by numbers; each with so many nodes. */
function regions(chains: readonly (readonly number[])[], nodes = 4): Translation[] {
  const blocks = chains.map((_, id) => block(id));
  const blockOf = (id: number): CachedBlock => {
    const found = blocks[id];
    if (!found) throw new Error(`no region ${id}`);
    return found;
  };
  return chains.map((to, id) => ({
    id,
    entry: blockOf(id),
    entries: [{ node: 0, delta: 0, block: blockOf(id) }],
    slot: id + 1,
    nodes: Array.from({ length: nodes }, () => ({ block: blockOf(id), delta: 0, enterable: true })),
    ways: [],
    chains: to.map(blockOf),
    origin: { linear: 0, pages: [], warm: [], wanted: [], begun: [], blocks: 0 },
    wasmBytes: 0,
    entriesSeen: 0,
    looksUnused: 0,
    dead: false,
  }));
}

/** Looks once a while, each region entered so often more each time; what the looks found, by numbers. */
function looks(all: readonly Translation[], perLook: readonly number[], times: number): number[][] {
  const rings = new Rings();
  const entered = all.map(() => 0);
  return Array.from({ length: times }, () => {
    perLook.forEach((more, id) => (entered[id] = (entered[id] ?? 0) + more));
    const found = rings.look(
      all,
      ({ id }) => entered[id] ?? 0,
      (at) => all.find(({ entry }) => entry === at),
    );
    return found.map(({ id }) => id);
  });
}

describe('loops in pieces', () => {
  it('finds regions that lead to one another in a circle, the hottest first, and without what only leads there', () => {
    const all = regions([[1], [2], [0, 3], [], [0]]);
    expect(looks(all, [300_000, 400_000, 300_000, 300_000, 300_000], 2)).toEqual([[], [1, 0, 2]]);
  });

  it('does not mend one place again and again', () => {
    const found = looks(regions([[1], [0]]), [300_000, 400_000], 7);
    expect(found).toEqual([[], [1, 0], [1, 0], [0, 1], [0, 1], [], []]);
  });

  it.each([
    ['entered seldom', regions([[1], [0]]), [100_000, 100_000]],
    ['of which one is entered seldom', regions([[1], [0]]), [400_000, 100_000]],
    ['too large together', regions([[1], [0]], 60), [400_000, 400_000]],
    ['that are a loop each', regions([[0], [1]]), [400_000, 400_000]],
    ['that lead on but not back', regions([[1], []]), [400_000, 400_000]],
  ])('leaves regions alone %s', (_, all, perLook) => {
    for (const found of looks(all, perLook, 4)) expect(found).toEqual([]);
  });
});
