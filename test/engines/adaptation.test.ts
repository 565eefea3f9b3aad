import { describe, expect, it } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { Adaptations } from '../../src-core/engines/software/translator/adaptation.ts';
import type { CachedBlock } from '../../src-core/engines/software/cached-block.ts';

const BLOCK = {} as CachedBlock;

/** How often an access is seen to leave until it is translated in another form. */
function untilAdapted(adaptations: Adaptations): number {
  for (let times = 1; times < 10_000; times++) if (adaptations.left(BLOCK, 3, [3])) return times;
  return Infinity;
}

/** Executes an adapted access as plain code could until it goes back. */
function revert(adaptations: Adaptations): void {
  for (let times = 0; times < 10_000; times++) if (adaptations.executed(BLOCK, 3, () => 'none')) return;
  throw new Error('it did not go back');
}

describe('adaptation of accesses', () => {
  it('fills the TLB first, calls out then, and goes back', () => {
    const adaptations = new Adaptations(new ExitAccounting());
    expect(adaptations.formOf(BLOCK, 3)).toBe('plain');
    untilAdapted(adaptations);
    expect(adaptations.formOf(BLOCK, 3)).toBe('refill');
    untilAdapted(adaptations);
    expect(adaptations.formOf(BLOCK, 3)).toBe('callout');
    revert(adaptations);
    expect(adaptations.formOf(BLOCK, 3)).toBe('refill');
  });

  it('takes longer each time to adapt what went back', () => {
    const adaptations = new Adaptations(new ExitAccounting());
    untilAdapted(adaptations);
    const times = Array.from({ length: 4 }, () => {
      const seen = untilAdapted(adaptations);
      revert(adaptations);
      return seen;
    });
    const [first = 0] = times;
    expect(times).toEqual([first, 2 * first, 4 * first, 8 * first]);
  });

  it('stays with what keeps needing it', () => {
    const adaptations = new Adaptations(new ExitAccounting());
    untilAdapted(adaptations);
    untilAdapted(adaptations);
    for (let times = 0; times < 1000; times++)
      expect(adaptations.executed(BLOCK, 3, () => 'device')).toBe(false);
    expect(adaptations.formOf(BLOCK, 3)).toBe('callout');
  });
});
