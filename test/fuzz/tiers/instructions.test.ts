/**
 * The fuzzer's single instructions on both tiers of the software engine, in every bit of the state they leave.
 *
 * SWITCHYARD_FUZZ_CASES: 64-bit cases (default one for each form), a fifth of that in each other environment.
 * SWITCHYARD_FUZZ_SEED: the seed (default 1). A failure names its case, which `test/fuzz/tiers/run-instructions.ts`
 * runs again: node test/fuzz/tiers/run-instructions.ts --seed S --bits B [--legacy] --case N.
 */
import { describe, expect, it } from 'vitest';
import type { Bitness } from '../../oracle/state.ts';
import { formsOf } from '../forms.ts';
import { compareInstructions, describeFailures } from './instructions.ts';

const seed = Number(process.env.SWITCHYARD_FUZZ_SEED ?? 1);
const cases = process.env.SWITCHYARD_FUZZ_CASES;
if (!Number.isInteger(seed) || (cases !== undefined && !(Number(cases) >= 1)))
  throw new Error('SWITCHYARD_FUZZ_SEED and SWITCHYARD_FUZZ_CASES take whole numbers');

describe('single instructions do the same on both tiers', () => {
  it.each<[Bitness, boolean]>([
    [64, false],
    [32, false],
    [32, true],
    [16, false],
    [16, true],
  ])(
    '%i-bit code, in protected mode: %s',
    (bitness, legacy) => {
      const share = bitness === 64 ? 1 : 5;
      const count = cases === undefined ? formsOf(bitness).forms.length : Math.ceil(Number(cases) / share);
      const { executed, failures, statistics } = compareInstructions({ seed, bitness, legacy, count });
      console.log(
        `seed ${seed}: ${executed} cases, ${failures.length} differ, ${statistics.translated} regions`,
      );
      expect(failures.length, describeFailures(failures)).toBe(0);
      // Nothing passes by never having run: each case was translated, and what was translated was entered.
      expect(statistics.translated).toBeGreaterThan(executed * 0.9);
      expect(statistics.entries).toBeGreaterThan(executed * 0.9);
    },
    7_200_000,
  );
});
