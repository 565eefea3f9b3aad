/**
 * Random programs on both tiers of the software engine: the same final state, instruction count, exceptions and
 * device accesses.
 *
 * SWITCHYARD_FUZZ_CASES: blocks to run (default 2,500 in the first test, less in the others).
 * SWITCHYARD_FUZZ_SEED: the seed (default 1). A failure names seed and program, which `test/fuzz/tiers/run.ts` runs
 * again: node test/fuzz/tiers/run.ts --seed S --program N [--interruptions] [--hot] [--sliced] [--modelled] [--minimise].
 */
import { describe, expect, it } from 'vitest';
import { compareTiers, describeFailure, MODELLED, SETTINGS } from './driver.ts';
import type { CompareOptions, Summary } from './driver.ts';
import { generate } from './generator.ts';
import { imageOf, textOf } from './program.ts';

const seed = Number(process.env.SWITCHYARD_FUZZ_SEED ?? 1);
const blocks = Number(process.env.SWITCHYARD_FUZZ_CASES ?? 2_500);
if (!Number.isInteger(seed) || !Number.isInteger(blocks) || blocks < 1)
  throw new Error('SWITCHYARD_FUZZ_SEED and SWITCHYARD_FUZZ_CASES take whole numbers');

/** A program has about so many blocks. */
const BLOCKS_A_PROGRAM = 18;

function check(share: number, options: Partial<CompareOptions> = {}): Summary {
  const count = Math.ceil((blocks * share) / BLOCKS_A_PROGRAM);
  const summary = compareTiers({ seed, count, ...options });
  console.log(
    `seed ${seed}: ${summary.programs} programs, ${summary.blocks} blocks, ${summary.instructions} instructions, ` +
      `${summary.exceptions} exceptions and interrupts, ${summary.failures.length} programs differ`,
  );
  expect(summary.failures.length, summary.failures.slice(0, 3).map(describeFailure).join('\n\n')).toBe(0);
  // Nothing passes by never having run.
  expect(summary.rejected).toBeLessThan(count / 20 + 1);
  expect(summary.exceptions).toBeGreaterThan(summary.programs);
  summary.statistics.forEach(({ translated, entries }, index) => {
    const setting = (options.settings ?? SETTINGS)[index];
    if (setting?.tier !== 1) return;
    expect(translated, setting.name).toBeGreaterThan(summary.programs / 10);
    expect(entries, setting.name).toBeGreaterThan(summary.programs / 4);
  });
  return summary;
}

describe('random programs', () => {
  it('are the same again from seed and number alone', () => {
    for (let number = 0; number < 56; number++) {
      const [program, again] = [generate({ seed }, number), generate({ seed }, number)];
      expect(textOf(again)).toBe(textOf(program));
      expect(Buffer.compare(imageOf(again).code, imageOf(program).code)).toBe(0);
    }
  });

  it('do the same on both tiers', () => {
    check(1);
  }, 3_600_000);

  it('do the same with interrupts at random instruction counts', () => {
    check(1 / 4, { interruptions: true, first: 1_000_000 });
  }, 3_600_000);

  it('do the same in loops that go round for long, where instructions are adapted', () => {
    check(1 / 6, { hot: true, first: 3_000_000 });
  }, 3_600_000);

  it('do the same in slices of any size', () => {
    check(1 / 4, { sliced: true, first: 2_000_000 });
  }, 3_600_000);

  it('do the same on the model of hardware virtualization', () => {
    check(1 / 4, { settings: MODELLED, interruptions: true, first: 4_000_000 });
    check(1 / 8, { settings: MODELLED, sliced: true, first: 5_000_000 });
  }, 3_600_000);
});
