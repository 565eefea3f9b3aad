import { HELP, parseRunArguments, UsageError } from './cli/arguments.ts';
import { inspectGuest, INSPECT_HELP, parseInspectArguments } from './cli/inspect.ts';
import { nanobench, NANOBENCH_HELP, parseNanobenchArguments } from './cli/nanobench.ts';
import { parseProbeArguments, probe, PROBE_HELP } from './cli/probe.ts';
import { EXIT_CODE, run } from './cli/run.ts';
import manifest from '../package.json' with { type: 'json' };

const HELPS = new Map([
  ['nanobench', NANOBENCH_HELP],
  ['probe', PROBE_HELP],
  ['inspect', INSPECT_HELP],
]);

/** The command line: `scripts/cli.mjs` gets here with the right Node. */
async function main(args: string[]): Promise<number> {
  const [command, ...rest] = args;
  if (
    command === undefined ||
    command === '--help' ||
    command === '-h' ||
    command === 'help' ||
    rest.includes('--help')
  ) {
    process.stdout.write(command === undefined ? HELP : (HELPS.get(command) ?? HELP));
    return command === undefined ? EXIT_CODE.usage : EXIT_CODE.ok;
  }
  if (command === '--version') {
    process.stdout.write(`switchyard ${manifest.version}\n`);
    return EXIT_CODE.ok;
  }
  if (command === 'nanobench') return nanobench(parseNanobenchArguments(rest));
  if (command === 'probe') return probe(parseProbeArguments(rest));
  if (command === 'inspect') return inspectGuest(parseInspectArguments(rest));
  if (command !== 'run') throw new UsageError(`there is no command "${command}"; see --help`);
  return run(parseRunArguments(rest));
}

try {
  process.exit(await main(process.argv.slice(2)));
} catch (error) {
  const usage = error instanceof UsageError;
  const text = usage
    ? error.message
    : `a fault in Switchyard: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  process.stderr.write(`switchyard: ${text}\n`);
  process.exit(usage ? EXIT_CODE.usage : EXIT_CODE.fault);
}
