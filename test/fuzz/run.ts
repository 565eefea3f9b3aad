/**
 * The fuzzer by hand. Examples:
 *   node test/fuzz/run.ts --count 200000                       every 64-bit form
 *   node test/fuzz/run.ts --mnemonic Fadd,Fmul --bits 32       some forms
 *   node test/fuzz/run.ts --seed 7 --case 1234 --bits 16       one case, in full
 */
import { parseArgs } from 'node:util';
import { CASE_SIZE, DATA_SIZE, RESULT } from '../oracle/layout.ts';
import { CaseView, ResultView } from '../oracle/state.ts';
import type { Bitness } from '../oracle/state.ts';
import type { Adapter } from './adapter.ts';
import { compare } from './compare.ts';
import { fuzz, startOracle } from './driver.ts';
import { formsOf } from './forms.ts';
import type { Form } from './forms.ts';
import { Generator, makeImages } from './generator.ts';
import { minimise } from './minimise.ts';
import { describeState, disassemble } from './report.ts';

const USAGE = `usage: run.ts [--bits 64|32|16] [--seed N] [--count N] [--first N] [--mnemonic A,B] [--code REGEX] [--integer]
              [--examples N] [--stop-after N] [--raw SHARE] [--legacy] [--coverage] [--host-only]
              [--case N] [--minimise]`;

const { values } = parseArgs({
  options: {
    bits: { type: 'string', default: '64' },
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '100000' },
    first: { type: 'string', default: '0' },
    mnemonic: { type: 'string' },
    code: { type: 'string' },
    integer: { type: 'boolean', default: false },
    examples: { type: 'string', default: '1' },
    'stop-after': { type: 'string' },
    raw: { type: 'string' },
    legacy: { type: 'boolean', default: false },
    coverage: { type: 'boolean', default: false },
    'host-only': { type: 'boolean', default: false },
    case: { type: 'string' },
    minimise: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

function integerOption(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    console.error(`--${name}: not a whole number: ${text}`);
    process.exit(2);
  }
  return value;
}

function selectForms(bitness: Bitness): readonly Form[] | undefined {
  if (values.mnemonic === undefined && values.code === undefined && !values.integer) return undefined;
  const names = values.mnemonic?.toLowerCase().split(',');
  const pattern = values.code === undefined ? undefined : new RegExp(values.code);
  const forms = formsOf(bitness).forms.filter(
    ({ mnemonic, name, isX87, isVector }) =>
      !(values.integer && (isX87 || isVector)) &&
      (names?.includes(mnemonic.toLowerCase()) ?? true) &&
      (pattern?.test(name) ?? true),
  );
  if (forms.length === 0) {
    console.error('no form matches');
    process.exit(2);
  }
  return forms;
}

async function makeAdapter(seed: number): Promise<Adapter | undefined> {
  if (values['host-only']) return undefined;
  const { SoftwareAdapter } = await import('./software-adapter.ts');
  return new SoftwareAdapter(makeImages(seed), values.legacy);
}

async function runOne(
  bitness: Bitness,
  seed: number,
  number: number,
  forms: readonly Form[] | undefined,
): Promise<void> {
  const oracle = await startOracle(seed);
  const adapter = await makeAdapter(seed);
  try {
    const generator = new Generator({
      seed,
      bitness,
      ...(forms === undefined ? {} : { forms }),
      ...(values.raw === undefined ? {} : { rawShare: Number(values.raw) }),
    });
    let state = new CaseView(new ArrayBuffer(CASE_SIZE), 0);
    const verdict = generator.generate(state, number);
    if (typeof verdict === 'string') {
      console.log(`rejected: ${verdict}`);
      return;
    }
    if (values.minimise && adapter !== undefined) state = await minimise(oracle, adapter, state);
    const { code, text } = disassemble(state);
    console.log(`${code}: ${text}\n      ${describeState(state, true)}`);
    const expected = ResultView.of(await oracle.run(state.bytes, 1), 0);
    console.log(
      `host: vector ${expected.vector}, error ${expected.errorCode.toString(16)}, rip ${expected.rip.toString(16)}`,
    );
    if (adapter === undefined) return;
    const own = new Uint8Array(RESULT.memory + DATA_SIZE);
    adapter.run(state, own);
    const { differences, setAside } = compare(state, expected, new ResultView(own.buffer, 0, own.length));
    for (const { field, expected: a, actual: b } of differences)
      console.log(`  ${field}: host ${a}, ours ${b}`);
    if (differences.length === 0)
      console.log(`  same${setAside.length > 0 ? ` (${setAside.join('; ')})` : ''}`);
  } finally {
    adapter?.dispose();
    await oracle.close();
  }
}

async function main(): Promise<void> {
  const bits = integerOption('bits', values.bits);
  if (values.help || (bits !== 64 && bits !== 32 && bits !== 16)) {
    console.error(USAGE);
    process.exit(values.help ? 0 : 2);
  }
  const seed = integerOption('seed', values.seed);
  const forms = selectForms(bits);
  if (values.case !== undefined) {
    await runOne(bits, seed, integerOption('case', values.case), forms);
    return;
  }
  const oracle = await startOracle(seed);
  const adapter = await makeAdapter(seed);
  const outcome = await fuzz(oracle, {
    seed,
    bitness: bits,
    count: integerOption('count', values.count),
    first: integerOption('first', values.first),
    examples: integerOption('examples', values.examples),
    ...(forms === undefined ? {} : { forms }),
    ...(adapter === undefined ? {} : { adapter }),
    ...(values.raw === undefined ? {} : { rawShare: Number(values.raw) }),
    ...(values['stop-after'] === undefined
      ? {}
      : { stopAfter: integerOption('stop-after', values['stop-after']) }),
  });
  const { generate, ours, total } = outcome.cost;
  console.log(
    `${outcome.executed} cases, ${outcome.findings.count} differ; ` +
      `${(total / 1000).toFixed(1)} us a case (generating ${(generate / 1000).toFixed(1)}, ours ${(ours / 1000).toFixed(1)})`,
  );
  console.log(outcome.findings.report());
  for (const [reason, count] of outcome.setAside) console.log(`set aside ${count}: ${reason}`);
  if (values.coverage) {
    for (const [reason, count] of outcome.rejected) console.log(`rejected ${count}: ${reason}`);
    for (const [name, { cases, completed }] of [...outcome.coverage].sort())
      console.log(`${name}: ${completed} of ${cases} without a fault`);
  }
  adapter?.dispose();
  await oracle.close();
}

await main();
