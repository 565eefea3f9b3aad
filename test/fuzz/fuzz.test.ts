/**
 * Single instructions on the host processor and on Switchyard, compared in every bit of the state they leave.
 *
 * SWITCHYARD_FUZZ_CASES: 64-bit cases (default 1,000,000); each other environment runs a fifth of that.
 * SWITCHYARD_FUZZ_SEED: the seed (default 1). A failure names seed, code size and case, which `test/fuzz/run.ts`
 * runs again: node test/fuzz/run.ts --seed S --bits B --case N [--minimise].
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { oracleUnavailable } from '../oracle/client.ts';
import type { Oracle } from '../oracle/client.ts';
import { CASE_SIZE } from '../oracle/layout.ts';
import { CaseView } from '../oracle/state.ts';
import type { Bitness } from '../oracle/state.ts';
import { SoftwareAdapter } from './software-adapter.ts';
import { fuzz, startOracle } from './driver.ts';
import { formsOf } from './forms.ts';
import { Generator, makeImages } from './generator.ts';

const seed = Number(process.env.SWITCHYARD_FUZZ_SEED ?? 1);
const cases = Number(process.env.SWITCHYARD_FUZZ_CASES ?? 1_000_000);
if (!Number.isInteger(seed) || !Number.isInteger(cases) || cases < 1)
  throw new Error('SWITCHYARD_FUZZ_SEED and SWITCHYARD_FUZZ_CASES take whole numbers');

/** Instructions that can't end without a fault at CPL 3 with IOPL 0, or that are there to fault. */
const ALWAYS_FAULTS =
  /^(INVALID|Ins[bwd]_|Outs[bwd]_|In_|Out_|Int_imm8|Rdmsr|Wrmsr|Hlt|Cli|Sti|Clac|Stac|Monitor|Mwait|Rsm|Sysret|Ltr_|Lldt_|L[gi]dt_|Lmsw_|Invlpg_|Swapgs|Clts|Invd|Wbinvd|Ud[012]|Mov_(r32|r64)_[cd]r|Mov_[cd]r_)/;
/** 16-bit offsets in 32-bit code lead to the first 64 KiB, where nothing is. */
const FAULTS_IN_32 = /^(Retnw|Call_rel16|Jmp_rel16|Jmp_rel8_16|Call_rm16|Jmp_rm16)/;

const unavailable = oracleUnavailable();
if (unavailable !== undefined) console.warn(`SKIPPED fuzzer: ${unavailable}`);

describe('fuzz case generator', () => {
  it('makes the same case again from seed and number alone', () => {
    for (const bitness of [64, 32, 16] as const) {
      const first = new CaseView(new ArrayBuffer(CASE_SIZE), 0);
      const again = new CaseView(new ArrayBuffer(CASE_SIZE), 0);
      const generator = new Generator({ seed, bitness });
      for (let number = 0; number < 200; number++) {
        generator.generate(first, number * 7);
        new Generator({ seed, bitness }).generate(again, number * 7);
        expect(Buffer.compare(first.bytes, again.bytes)).toBe(0);
      }
    }
  });

  it('has forms of every implemented extension in every code size', () => {
    const names = (bitness: Bitness): string[] => formsOf(bitness).forms.map(({ name }) => name);
    expect(names(64).length).toBeGreaterThan(1200);
    expect(names(32).length).toBeGreaterThan(1100);
    expect(names(16).length).toBeGreaterThan(1100);
    for (const name of [
      'Adc_rm64_r64',
      'Fpatan',
      'Psadbw_mm_mmm64',
      'Pcmpestri_xmm_xmmm128_imm8',
      'Cmpxchg16b_m128',
    ])
      expect(names(64)).toContain(name);
    for (const name of ['Aam_imm8', 'Bound_r32_m3232', 'Arpl_rm16_r16', 'Into'])
      expect(names(16)).toContain(name);
  });
});

describe.skipIf(unavailable !== undefined)(`single instructions against this processor, seed ${seed}`, () => {
  let oracle: Oracle;
  beforeAll(async () => {
    oracle = await startOracle(seed);
  });
  afterAll(async () => oracle.close());

  async function check(bitness: Bitness, count: number, legacy: boolean): Promise<void> {
    const adapter = new SoftwareAdapter(makeImages(seed), legacy);
    try {
      const outcome = await fuzz(oracle, { seed, bitness, count, adapter });
      const { findings, executed, setAside, coverage } = outcome;
      console.log(
        `${bitness}-bit${legacy ? ' (PAE)' : ''}: seed ${seed}, ${executed} cases, ${findings.count} differ; set aside: ` +
          ([...setAside].map(([reason, times]) => `${times} ${reason}`).join(', ') || 'none'),
      );
      expect(findings.count, `differences with seed ${seed}:\n${findings.report(30)}`).toBe(0);
      if (count < formsOf(bitness).forms.length * 40) return;
      // Nothing passes by never having run.
      const idle = formsOf(bitness)
        .forms.map(({ name }) => name)
        .filter((name) => !ALWAYS_FAULTS.test(name) && !(bitness === 32 && FAULTS_IN_32.test(name)))
        .filter((name) => (coverage.get(name)?.completed ?? 0) === 0);
      expect(idle).toEqual([]);
    } finally {
      adapter.dispose();
    }
  }

  it(`64-bit code: ${cases} cases`, async () => check(64, cases, false), 1_800_000);
  it('32-bit code in compatibility mode', async () => check(32, Math.ceil(cases / 5), false), 900_000);
  it('32-bit code in protected mode with PAE', async () => check(32, Math.ceil(cases / 5), true), 900_000);
  it('16-bit code in compatibility mode', async ({ skip }) => {
    if (oracle.refusedLdtEntries.length > 0) skip('this kernel gives no 16-bit segments (modify_ldt)');
    await check(16, Math.ceil(cases / 5), false);
  }, 900_000);
  it('16-bit code in protected mode with PAE', async ({ skip }) => {
    if (oracle.refusedLdtEntries.length > 0) skip('this kernel gives no 16-bit segments (modify_ldt)');
    await check(16, Math.ceil(cases / 5), true);
  }, 900_000);
});
