/**
 * Single instructions on both tiers, by hand. Examples:
 *   node test/fuzz/tiers/run-instructions.ts --count 1000000             64-bit code
 *   node test/fuzz/tiers/run-instructions.ts --bits 16 --legacy --mnemonic Daa,Das
 *   node test/fuzz/tiers/run-instructions.ts --bits 32 --case 1234
 */
import { parseArgs } from 'node:util';
import { formsOf } from '../forms.ts';
import { compareInstructions, describeFailures } from './instructions.ts';

const USAGE = `usage: run-instructions.ts [--bits 64|32|16] [--legacy] [--seed N] [--count N] [--first N] [--case N]
                           [--mnemonic A,B] [--threshold N] [--stop-after N]`;

const { values } = parseArgs({
  options: {
    bits: { type: 'string', default: '64' },
    legacy: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '10000' },
    first: { type: 'string', default: '0' },
    case: { type: 'string' },
    mnemonic: { type: 'string' },
    threshold: { type: 'string', default: '1' },
    'stop-after': { type: 'string', default: '50' },
    help: { type: 'boolean', default: false },
  },
});

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    console.error(`--${name}: not a whole number: ${text}`);
    process.exit(2);
  }
  return value;
}

function main(): number {
  const bitness = whole('bits', values.bits);
  if (values.help || (bitness !== 64 && bitness !== 32 && bitness !== 16)) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const names = values.mnemonic?.toLowerCase().split(',');
  const forms =
    names && formsOf(bitness).forms.filter(({ mnemonic }) => names.includes(mnemonic.toLowerCase()));
  if (forms?.length === 0) {
    console.error('no form matches');
    return 2;
  }
  const started = performance.now();
  const { executed, completed, failures, statistics } = compareInstructions({
    seed: whole('seed', values.seed),
    bitness,
    legacy: values.legacy,
    count: values.case === undefined ? whole('count', values.count) : 1,
    first: whole('case', values.case ?? values.first),
    threshold: whole('threshold', values.threshold),
    stopAfter: whole('stop-after', values['stop-after']),
    ...(forms !== undefined && { forms }),
  });
  console.log(describeFailures(failures, 200));
  const seconds = (performance.now() - started) / 1000;
  console.log(
    `${executed} cases, ${completed} without a fault, in ${seconds.toFixed(1)} s; ${failures.length} differ; ` +
      JSON.stringify(statistics),
  );
  return failures.length > 0 ? 1 : 0;
}

process.exitCode = main();
