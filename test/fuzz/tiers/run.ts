/**
 * The tiers against each other by hand. Examples:
 *   node test/fuzz/tiers/run.ts --blocks 1000000                 until so many blocks were run
 *   node test/fuzz/tiers/run.ts --environment real16 --count 500
 *   node test/fuzz/tiers/run.ts --seed 7 --program 1234 --minimise
 */
import { parseArgs } from 'node:util';
import { Comparison, compareTiers, describeFailure, MODELLED, SETTINGS, turnOf } from './driver.ts';
import { ENVIRONMENTS, environmentNamed } from './environment.ts';
import { generate } from './generator.ts';
import { textOf } from './program.ts';

const USAGE = `usage: run.ts [--seed N] [--count PROGRAMS | --blocks N | --seconds N] [--first N] [--environment A,B]
              [--budget INSTRUCTIONS] [--size BLOCKS] [--interruptions] [--hot] [--sliced] [--setting N | --self-check | --modelled]
              [--stop-after N]
              [--program N [--show] [--minimise]]
settings: ${SETTINGS.map(({ name }, index) => `${index} ${name}`).join('; ')}
environments: ${ENVIRONMENTS.map(({ name }) => name).join(' ')}`;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '1000' },
    blocks: { type: 'string' },
    seconds: { type: 'string' },
    first: { type: 'string', default: '0' },
    environment: { type: 'string' },
    budget: { type: 'string' },
    size: { type: 'string', default: '24' },
    interruptions: { type: 'boolean', default: false },
    hot: { type: 'boolean', default: false },
    sliced: { type: 'boolean', default: false },
    setting: { type: 'string' },
    modelled: { type: 'boolean', default: false },
    'self-check': { type: 'boolean', default: false },
    'stop-after': { type: 'string', default: '10' },
    program: { type: 'string' },
    show: { type: 'boolean', default: false },
    minimise: { type: 'boolean', default: false },
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
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const environments = values.environment?.split(',').map(environmentNamed);
  const generator = {
    seed: whole('seed', values.seed),
    blocks: whole('size', values.size),
    ...(values.budget !== undefined && { budget: whole('budget', values.budget) }),
    ...(environments !== undefined && { environments }),
    ...(values.interruptions && { interruptions: true }),
    ...(values.hot && { hot: true }),
  };
  const all = values.modelled ? MODELLED : SETTINGS;
  const chosen = values.setting === undefined ? undefined : all[whole('setting', values.setting)];
  // Tier 0 against itself: what differs there is no translator's fault.
  const self = { name: 'tier 0 again', tier: 0 } as const;
  const settings = values['self-check'] ? [self] : chosen === undefined ? all : [chosen];
  if (values.program !== undefined) {
    const number = whole('program', values.program);
    const program = generate(generator, number);
    if (values.show) console.log(textOf(program));
    const comparison = new Comparison(settings);
    try {
      const turn = turnOf(number, settings.length, environments?.length ?? 1);
      const { outcome, exceptions, failure } = comparison.runAs(program, turn, values.sliced);
      console.log(
        `${program.environment.name}: ${outcome.end} after ${outcome.state.instructions} instructions, ${exceptions} exceptions`,
      );
      if (!failure) return 0;
      const least = values.minimise ? comparison.minimise(program, turn, values.sliced) : undefined;
      console.log(describeFailure(least ?? failure));
      return 1;
    } finally {
      comparison.dispose();
    }
  }
  const blocks = values.blocks === undefined ? undefined : whole('blocks', values.blocks);
  const started = performance.now();
  // A program has half as many blocks as it may have, on average.
  const summary = compareTiers({
    ...generator,
    settings,
    sliced: values.sliced,
    first: whole('first', values.first),
    count:
      blocks === undefined
        ? values.seconds === undefined
          ? whole('count', values.count)
          : 1e9
        : Math.ceil(blocks / (generator.blocks / 2 + 3)),
    stopAfter: whole('stop-after', values['stop-after']),
    ...(values.seconds !== undefined && { milliseconds: whole('seconds', values.seconds) * 1000 }),
    onProgress: ({ programs, blocks: done, failures }) =>
      console.error(`${programs} programs, ${done} blocks, ${failures} differ`),
  });
  const seconds = (performance.now() - started) / 1000;
  for (const failure of summary.failures) console.log(describeFailure(failure));
  console.log(
    `${summary.programs} programs (${summary.rejected} rejected), ${summary.blocks} blocks, ` +
      `${summary.instructions} instructions, ${summary.exceptions} exceptions and interrupts in ${seconds.toFixed(1)} s; ` +
      `ended by ${[...summary.ends].map(([end, count]) => `${end} ${count}`).join(', ')}; ${summary.failures.length} differ`,
  );
  for (const [index, statistics] of summary.statistics.entries())
    console.log(
      `${settings[index]?.name}: ${JSON.stringify(statistics)}, adaptations ${JSON.stringify(summary.adaptations[index])}`,
    );
  return summary.failures.length > 0 ? 1 : 0;
}

process.exitCode = main();
