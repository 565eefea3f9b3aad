/**
 * Runs cases on the host processor and on Switchyard side by side and collects the differences.
 */
import { Code } from 'iced-x86';
import { Oracle } from '../oracle/client.ts';
import type { ResultBatch } from '../oracle/client.ts';
import { CASE_SIZE, DATA_SIZE, MAX_BATCH, RESULT, VECTOR_ENDLESS } from '../oracle/layout.ts';
import { CaseView, ResultView } from '../oracle/state.ts';
import type { Bitness } from '../oracle/state.ts';
import type { Adapter } from './adapter.ts';
import { compare } from './compare.ts';
import type { Form } from './forms.ts';
import { Generator, makeImages } from './generator.ts';
import { Findings } from './report.ts';

/** Cases a batch holds: small enough that both sides work at the same time. */
const BATCH = Math.min(1024, MAX_BATCH);

export interface FuzzOptions {
  readonly seed: number;
  readonly bitness: Bitness;
  readonly count: number;
  /** Number of the first case (default 0). */
  readonly first?: number;
  readonly forms?: readonly Form[];
  readonly rawShare?: number;
  /** Examples kept of each code (default 1). */
  readonly examples?: number;
  /** Our side; without it only the host runs, for coverage. */
  readonly adapter?: Adapter;
  /** Stop after this many differing cases (default: never). */
  readonly stopAfter?: number;
}

export interface FuzzOutcome {
  readonly findings: Findings;
  /** Cases compared, rejected ones not counted. */
  readonly executed: number;
  /** Why cases were rejected, with counts. */
  readonly rejected: ReadonlyMap<string, number>;
  /** Known differences and undefined results met, with counts. */
  readonly setAside: ReadonlyMap<string, number>;
  /** Cases and cases without a fault, for each code. */
  readonly coverage: ReadonlyMap<string, { cases: number; completed: number }>;
  /** Nanoseconds a case spent in generating, on the host, and on our side. */
  readonly cost: { readonly generate: number; readonly ours: number; readonly total: number };
}

function increment(map: Map<string, number>, key: string): void {
  map.set(key, (map.get(key) ?? 0) + 1);
}

interface Batch {
  readonly first: number;
  readonly cases: Uint8Array;
  readonly verdicts: (Code | string)[];
  readonly results: Promise<ResultBatch>;
}

/** Runs a series of cases. */
export async function fuzz(oracle: Oracle, options: FuzzOptions): Promise<FuzzOutcome> {
  const { seed, bitness, count, adapter } = options;
  const generator = new Generator({
    seed,
    bitness,
    ...(options.forms === undefined ? {} : { forms: options.forms }),
    ...(options.rawShare === undefined ? {} : { rawShare: options.rawShare }),
  });
  const findings = new Findings(options.examples ?? 1);
  const rejected = new Map<string, number>();
  const setAside = new Map<string, number>();
  const coverage = new Map<string, { cases: number; completed: number }>();
  const own = new Uint8Array(RESULT.memory + DATA_SIZE);
  let executed = 0;
  let generateTime = 0;
  let ourTime = 0;
  const begin = performance.now();

  const start = (first: number): Batch => {
    const size = Math.min(BATCH, (options.first ?? 0) + count - first);
    const cases = new Uint8Array(size * CASE_SIZE);
    const verdicts: (Code | string)[] = [];
    const before = performance.now();
    for (let index = 0; index < size; index++)
      verdicts.push(generator.generate(new CaseView(cases.buffer, index * CASE_SIZE), first + index));
    generateTime += performance.now() - before;
    return { first, cases, verdicts, results: oracle.run(cases, size) };
  };

  const check = (batch: Batch, results: ResultBatch): void => {
    for (const [index, verdict] of batch.verdicts.entries()) {
      if (typeof verdict === 'string') {
        increment(rejected, verdict);
        continue;
      }
      const expected = ResultView.of(results, index);
      if (expected.vector === VECTOR_ENDLESS) {
        increment(rejected, 'does not end');
        continue;
      }
      executed++;
      const name = Code[verdict];
      const covered = coverage.get(name) ?? { cases: 0, completed: 0 };
      covered.cases++;
      if (expected.vector === 3) covered.completed++;
      coverage.set(name, covered);
      if (adapter === undefined || adapter.skips?.(verdict) === true) continue;
      const state = new CaseView(batch.cases.buffer, index * CASE_SIZE);
      const before = performance.now();
      try {
        adapter.run(state, own);
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        findings.add(batch.first + index, state, [
          {
            field: `threw "${message}"`,
            part: 'all',
            expected: `vector ${expected.vector}`,
            actual: 'an error',
          },
        ]);
        continue;
      }
      ourTime += performance.now() - before;
      const { differences, setAside: reasons } = compare(
        state,
        expected,
        new ResultView(own.buffer, 0, own.length),
      );
      for (const reason of reasons) increment(setAside, reason);
      if (differences.length > 0) findings.add(batch.first + index, state, differences);
    }
  };

  let next = options.first ?? 0;
  const end = next + count;
  let current: Batch | undefined = start(next);
  next += current.verdicts.length;
  while (current !== undefined) {
    const running: Batch = current;
    const results = await running.results;
    const stop = findings.count >= (options.stopAfter ?? Infinity);
    // The host works on the next batch while we work on this one.
    current = next < end && !stop ? start(next) : undefined;
    next += current?.verdicts.length ?? 0;
    check(running, results);
  }
  const perCase = (milliseconds: number): number => (milliseconds * 1e6) / Math.max(1, count);
  return {
    findings,
    executed,
    rejected,
    setAside,
    coverage,
    cost: {
      generate: perCase(generateTime),
      ours: perCase(ourTime),
      total: perCase(performance.now() - begin),
    },
  };
}

/** Starts an oracle with the images of a seed. */
export function startOracle(seed: number): Promise<Oracle> {
  return Oracle.start(makeImages(seed));
}
