import { describe, expect, it } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import type { CachedBlock } from '../../src-core/engines/software/cached-block.ts';
import { IndirectTargets } from '../../src-core/engines/software/translator/indirect-targets.ts';

const BLOCK: CachedBlock = {
  id: 0,
  index: 0,
  address: 0x60_0000,
  code: 0x500_0000,
  bytes: 2,
  modeKey: 0,
  secondPage: -1,
  count: 1,
  dead: false,
};

function targets(): IndirectTargets {
  return new IndirectTargets(new ExitAccounting());
}

describe('targets of indirect jumps', () => {
  it('are known when they were seen twice in a row', () => {
    const known = targets();
    expect(known.at(BLOCK, 0, undefined)).toEqual({ from: 0, distances: [], learns: true });
    expect(known.seen(BLOCK, 0, 100)).toBe(false);
    expect(known.at(BLOCK, 0, undefined).distances).toEqual([]);
    expect(known.seen(BLOCK, 0, 100)).toBe(true);
    expect(known.at(BLOCK, 0, undefined)).toEqual({ from: 0, distances: [100], learns: true });
    expect(known.seen(BLOCK, 0, 100)).toBe(false);
  });

  it('start with a guess, which stays what was first known', () => {
    const known = targets();
    expect(known.at(BLOCK, 0, -8).distances).toEqual([-8]);
    expect(known.at(BLOCK, 0, 12).distances).toEqual([-8]);
    expect(known.seen(BLOCK, 0, -8)).toBe(false);
  });

  it('are kept apart by where a function that is part of regions was called from', () => {
    const known = targets();
    known.at(BLOCK, 0x500_1000, 100);
    known.at(BLOCK, 0x500_2000, 200);
    expect(known.at(BLOCK, 0x500_1000, undefined).distances).toEqual([100]);
    expect(known.at(BLOCK, 0x500_2000, undefined).distances).toEqual([200]);
    expect(known.at(BLOCK, 0, undefined).distances).toEqual([]);
  });

  it('are three at most', () => {
    const known = targets();
    for (const distance of [1, 2, 3]) {
      known.seen(BLOCK, 0, distance);
      expect(known.seen(BLOCK, 0, distance)).toBe(true);
    }
    expect(known.at(BLOCK, 0, undefined)).toEqual({ from: 0, distances: [1, 2, 3], learns: false });
    known.seen(BLOCK, 0, 4);
    expect(known.seen(BLOCK, 0, 4)).toBe(false);
  });

  it('are not learned where each one seen is another', () => {
    const known = targets();
    const changed = [10, 20, 30, 40].map((distance) => known.seen(BLOCK, 0, distance));
    expect(changed).toEqual([false, false, false, true]);
    expect(known.at(BLOCK, 0, undefined)).toEqual({ from: 0, distances: [], learns: false });
    known.forget(BLOCK);
    expect(known.at(BLOCK, 0, undefined).learns).toBe(true);
  });
});
