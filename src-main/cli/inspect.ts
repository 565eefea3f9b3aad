import { inspect, inspectRegion } from '../../src-core/engines/software/inspector/inspect.ts';
import type { Machine } from '../../src-core/machine/machine.ts';
import {
  INSPECTION_ORDERS,
  type Inspection,
  type InspectionQuery,
  type RegionDetail,
} from '../../src-core/protocol/inspection.ts';
import {
  parseChoice,
  parseRunArguments,
  parseTimeout,
  parseWhole,
  type RunOptions,
  UsageError,
} from './arguments.ts';
import { describeInspection, describeRegion } from './inspect-text.ts';
import { run } from './run.ts';

export const INSPECT_HELP = `Usage: npm run --silent cli -- inspect (--kernel FILE | --firmware FILE) [options]

Runs a virtual machine on the software engine as "cli -- run" does, with its options, and shows what was translated
when it ends: the hottest regions, and on demand one region's guest code beside its IR and WebAssembly. The serial port
goes nowhere unless --serial says otherwise.

When to stop
  --after SECONDS          after so long
  --exit-on TEXT           as soon as serial output holds TEXT
                           or when the guest ends

What to show
  --top N                  regions in the table (default 20)
  --order NAME             work: entries times instructions (default); entries
  --region K               also row K of the table in full
  --json                   as JSON

Exit codes are those of "cli -- run".
`;

/** `switchyard inspect`, checked. */
export interface InspectOptions {
  run: RunOptions;
  afterSeconds: number | undefined;
  query: InspectionQuery;
  /** Row of the table, from 1. */
  region: number | undefined;
  json: boolean;
}

const TOP_DEFAULT = '20';
const REGIONS_MAX = 1000;

/** Parses what follows `inspect`. @throws UsageError */
export function parseInspectArguments(args: readonly string[]): InspectOptions {
  const rest = [...args];
  const json = takeFlag(rest, '--json');
  const after = takeValue(rest, '--after');
  const top = takeValue(rest, '--top') ?? TOP_DEFAULT;
  const order = takeValue(rest, '--order') ?? 'work';
  const region = takeValue(rest, '--region');
  // What comes later wins: these are defaults.
  const options = parseRunArguments(['--serial', 'none', '--tier', '1', ...rest]);
  if (options.engine === 'hardware') {
    throw new UsageError(
      'inspect shows what the software engine translates: --engine hardware translates nothing',
    );
  }
  if (options.translator.tier === 0) throw new UsageError('with --tier 0 nothing is translated');
  const query = {
    top: parseWhole('--top', top, 1, REGIONS_MAX),
    order: parseChoice('--order', order, INSPECTION_ORDERS),
  };
  return {
    run: options,
    afterSeconds: parseTimeout(after, '--after'),
    query,
    region: region === undefined ? undefined : parseWhole('--region', region, 1, query.top),
    json,
  };
}

function takeFlag(args: string[], name: string): boolean {
  const at = args.indexOf(name);
  if (at >= 0) args.splice(at, 1);
  return at >= 0;
}

/** Takes "NAME VALUE" or "NAME=VALUE" out of the arguments. */
function takeValue(args: string[], name: string): string | undefined {
  const at = args.findIndex((argument) => argument === name || argument.startsWith(`${name}=`));
  if (at < 0) return undefined;
  const [given = '', next] = args.slice(at, at + 2);
  if (given !== name) {
    args.splice(at, 1);
    return given.slice(name.length + 1);
  }
  if (next === undefined) throw new UsageError(`${name} needs a value`);
  args.splice(at, 2);
  return next;
}

/** Runs a guest and prints what was translated. @returns the run's exit code. @throws UsageError */
export async function inspectGuest(options: InspectOptions): Promise<number> {
  let found: { inspection: Inspection; detail: RegionDetail | undefined } | undefined;
  const code = await run(options.run, {
    afterSeconds: options.afterSeconds,
    prepare: (machine) =>
      // The translator is emptied right after this.
      machine.on('state', (state) => {
        if (state === 'off') found = inspectMachine(machine, options);
      }),
  });
  if (!found) throw new Error('the machine ended without being inspected');
  const { inspection, detail } = found;
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ ...inspection, detail: detail ?? null }, null, 2)}\n`);
    return code;
  }
  process.stdout.write(describeInspection(inspection));
  if (detail) process.stdout.write(`\n${describeRegion(detail)}`);
  else if (options.region !== undefined) {
    throw new UsageError(
      `there is no region ${options.region}: only ${inspection.regions.length} were found`,
    );
  }
  return code;
}

function inspectMachine(
  machine: Machine,
  { query, region }: InspectOptions,
): { inspection: Inspection; detail: RegionDetail | undefined } {
  const { translator } = machine;
  if (!translator) throw new Error('another engine than the software engine ran the guest');
  const inspection = inspect(translator, query);
  const row = region === undefined ? undefined : inspection.regions[region - 1];
  return { inspection, detail: row && inspectRegion(translator, row.id) };
}
