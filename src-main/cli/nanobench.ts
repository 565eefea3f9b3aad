import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type ExitReason, EXIT_REASONS } from '../../src-core/accounting/exits.ts';
import {
  buildNanobench,
  measureNanobench,
  NANOBENCH_NAMES,
  type NanobenchBits,
  NanobenchError,
  type NanobenchLacks,
  nanobenchLacks,
  type NanobenchName,
  NanobenchOutputError,
  type NanobenchResult,
  type NanobenchRun,
  PUBLISHED,
  PUBLISHED_LABEL,
  type PublishedFigures,
} from '../../src-core/guests/nanobench/index.ts';
import { probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import { describeProblem } from '../../src-core/protocol/engine.ts';
import { EngineUnavailableError } from '../../src-core/machine/machine.ts';
import {
  type HardwareOptionsInput,
  type TranslatorOptions,
  translatorOptionsSchema,
} from '../../src-core/protocol/machine-config.ts';
import { parseChoice, parseTimeout, parseWhole, UsageError } from './arguments.ts';
import { HARDWARE_HELP, HARDWARE_OPTIONS, parseHardwareOptions } from './hardware-options.ts';
import { EXIT_CODE } from './run.ts';

export const NANOBENCH_HELP = `Usage: npm run --silent cli -- nanobench [options]

Runs our nanobenchmark guest and prints, for each operation, what it costs and which exits it takes, beside the figures
Adams and Agesen published in 2006.

What runs
  --only NAME,NAME...      of ${NANOBENCH_NAMES.slice(0, 9).join(', ')},
                           ${NANOBENCH_NAMES.slice(9).join(', ')}
  --bits N                 64 (default) or 32: width of the guest's code
  --operations N           operations of each benchmark (default: as many as take --cycles)
  --cycles N               TSC cycles each benchmark is made to take

On what
  --engine NAME            software (default) or hardware
${HARDWARE_HELP}
  --clock NAME             host (default) or icount: the TSC counts instructions, so cycles are instructions
  --tier N                 software: 0 interprets only, 1 translates too
  --no-chaining            software: translated regions do not go on to each other directly
  --no-adaptive            software: instructions that keep leaving translated code are not translated anew

  --image FILE             only write the guest, a Multiboot kernel, to FILE: for QEMU and others to boot with
                           -device isa-debug-exit,iobase=0xf4,iosize=4 -serial stdio -append 'only=... cycles=...'
  --json                   print JSON instead of a table
  --timeout SECONDS        give up after this long (default 120)

Exit codes: 0 every event happened; 1 one did not, or the guest failed; 2 bad arguments, or an engine that is not
available; 124 timeout
`;

const TIMEOUT_SECONDS = 120;
/** Calibration under the instruction clock, whose cycles are instructions, not nanoseconds. */
const ICOUNT_CYCLES = 200_000;

/** `switchyard nanobench`, checked. */
export interface NanobenchArguments {
  only: NanobenchName[] | undefined;
  bits: NanobenchBits;
  operations: number | undefined;
  cycles: number | undefined;
  engine: 'software' | 'hardware';
  hardware: HardwareOptionsInput;
  clock: 'host' | 'icount';
  translator: TranslatorOptions;
  image: string | undefined;
  json: boolean;
  timeoutSeconds: number;
}

/** Parses what follows `nanobench`. @throws UsageError */
export function parseNanobenchArguments(args: string[]): NanobenchArguments {
  const values = parse(args);
  const engine = parseChoice('--engine', values.engine, ['software', 'hardware']);
  const clock = parseChoice('--clock', values.clock, ['host', 'icount']);
  const number = (option: string, text: string | undefined, most: number): number | undefined =>
    text === undefined ? undefined : parseWhole(option, text, 1, most);
  return {
    only: values.only === undefined ? undefined : parseNames(values.only),
    bits: parseChoice('--bits', values.bits, ['32', '64']) === '32' ? 32 : 64,
    operations: number('--operations', values.operations, 8_000_000),
    cycles:
      number('--cycles', values.cycles, 2_000_000_000) ?? (clock === 'icount' ? ICOUNT_CYCLES : undefined),
    engine,
    hardware: parseHardwareOptions(values, engine),
    clock,
    translator: translatorOptionsSchema.parse({
      ...(values.tier !== undefined && {
        tier: parseChoice('--tier', values.tier, ['0', '1']) === '0' ? 0 : 1,
      }),
      chaining: !values['no-chaining'],
      adaptive: !values['no-adaptive'],
    }),
    image: values.image,
    json: values.json,
    timeoutSeconds: parseTimeout(values.timeout) ?? TIMEOUT_SECONDS,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        only: { type: 'string' },
        bits: { type: 'string', default: '64' },
        operations: { type: 'string' },
        cycles: { type: 'string' },
        engine: { type: 'string', default: 'software' },
        ...HARDWARE_OPTIONS,
        clock: { type: 'string', default: 'host' },
        tier: { type: 'string' },
        'no-chaining': { type: 'boolean', default: false },
        'no-adaptive': { type: 'boolean', default: false },
        image: { type: 'string' },
        json: { type: 'boolean', default: false },
        timeout: { type: 'string' },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parseNames(text: string): NanobenchName[] {
  return text.split(',').map((part) => {
    const name = NANOBENCH_NAMES.find((candidate) => candidate === part.trim());
    if (name === undefined) {
      throw new UsageError(`there is no benchmark "${part}"; there are ${NANOBENCH_NAMES.join(', ')}`);
    }
    return name;
  });
}

/** Runs the guest and reports. @returns the exit code. @throws UsageError */
export async function nanobench(options: NanobenchArguments): Promise<number> {
  const { only, bits, operations, cycles, engine, hardware, clock, translator, timeoutSeconds } = options;
  if (options.image !== undefined) return writeImage(options.image, bits);
  let run: NanobenchRun;
  try {
    run = await measureNanobench({
      bits,
      ...(only && { only }),
      ...(operations !== undefined && { operations }),
      ...(cycles !== undefined && { cycles }),
      machine: { engine, hardware, clock, translator },
      lacks: await findLacks(options),
      timeoutMs: timeoutSeconds * 1000,
    });
  } catch (error) {
    if (error instanceof EngineUnavailableError) throw new UsageError(error.message);
    if (error instanceof NanobenchError || error instanceof NanobenchOutputError) {
      process.stderr.write(`switchyard: ${error.message}\n`);
      return error instanceof NanobenchError && error.timedOut ? EXIT_CODE.timeout : EXIT_CODE.fault;
    }
    throw error;
  }
  if (run.problem) {
    process.stderr.write(
      `switchyard: the guest ran on the model, not on KVM: ${describeProblem(run.problem)}\n`,
    );
  }
  process.stdout.write(options.json ? json(options, run) : table(options, run));
  return run.results.some(({ status }) => status === 'failed') ? EXIT_CODE.fault : EXIT_CODE.ok;
}

/** What the host's virtualization cannot do, found out by the probe; the other engines can do everything. */
async function findLacks({ engine, hardware, bits }: NanobenchArguments): Promise<NanobenchLacks> {
  if (engine !== 'hardware' || hardware.accelerator === 'model') return {};
  const { device } = hardware;
  return nanobenchLacks(await probeHardware(device === undefined ? {} : { device }), bits);
}

function writeImage(path: string, bits: NanobenchBits): number {
  try {
    writeFileSync(path, buildNanobench(bits));
  } catch (error) {
    throw new UsageError(
      `--image: cannot write ${path}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  return EXIT_CODE.ok;
}

/** How the engine that ran is called; a modelled one says so wherever it is named. */
function engineName({ engine, translator }: NanobenchArguments, { model }: NanobenchRun): string {
  if (engine === 'software') {
    const off = [
      translator.tier === 0 && 'interpreter only',
      !translator.chaining && 'no chaining',
      !translator.adaptive && 'not adaptive',
    ].filter((text) => text !== false);
    return off.length > 0 ? `software engine (${off.join(', ')})` : 'software engine';
  }
  if (!model) return 'hardware engine (KVM)';
  const { mmu, profile } = model;
  return `hardware engine (MODELLED, ${mmu} paging, cost profile ${profile.name}: ${profile.title}, ${profile.mhz} MHz)`;
}

function json(options: NanobenchArguments, { bits, tscKhz, model, results }: NanobenchRun): string {
  const { engine, clock, translator } = options;
  const report = {
    format: 'switchyard-nanobench',
    version: 1,
    engine,
    ...(engine === 'hardware' ? { modelled: model !== undefined, ...(model && { model }) } : { translator }),
    clock,
    bits,
    tscKhz,
    results: results.map((result) => ({
      ...result,
      published: PUBLISHED[result.name] && { source: PUBLISHED_LABEL, ...PUBLISHED[result.name] },
    })),
  };
  return `${JSON.stringify(report, null, 2)}\n`;
}

/** Exits below this share of an operation are not shown: slices, translation, ticks. */
const SHOWN_EXITS = 0.005;
/** Shorter than the taxonomy's labels, where those are long. */
const SHORT: Partial<Record<ExitReason, string>> = {
  mmio: 'MMIO',
  controlRegister: 'control reg.',
  msr: 'MSR',
  truePageFault: 'true #PF',
  hiddenPageFault: 'hidden #PF',
  trace: 'trace',
  exception: 'exception',
  interrupt: 'interrupt',
  interruptWindow: 'int. window',
  systemCall: 'system call',
  farTransfer: 'far/IRET/INT',
  descriptor: 'descriptor',
  rdtsc: 'TSC',
  floatingPoint: 'FP helper',
  stringOperation: 'string op.',
  otherCallout: 'other',
  selfModifyingCode: 'SMC',
  translation: 'translation',
  retranslation: 'retranslation',
  adaptation: 'adaptation',
  chainMiss: 'chain miss',
  softwareFallback: 'in software',
  slice: 'slice',
};

/** What stands in a column; the first row holds the titles. */
interface Column {
  readonly cells: string[];
  readonly right?: boolean;
}

/** The table people read. */
export function table(options: NanobenchArguments, run: NanobenchRun): string {
  const { results } = run;
  const icount = options.clock === 'icount';
  const measured = (title: string, show: (result: Measured) => string): Column => ({
    cells: [title, ...results.map((result) => (result.status === 'measured' ? show(result) : ''))],
    right: true,
  });
  const published = (which: keyof PublishedFigures): Column => ({
    cells: [which, ...results.map(({ name }) => PUBLISHED[name]?.[which]?.toString() ?? '')],
    right: true,
  });
  // Under the instruction clock cycles are instructions, and there is no time.
  const costs = icount
    ? [measured('instructions', ({ cycles }) => figure(cycles))]
    : [
        measured('cycles', ({ cycles }) => figure(cycles)),
        measured('ns', ({ ns }) => figure(ns)),
        measured('instr.', ({ instructions }) => instructions?.toFixed(1) ?? ''),
      ];
  // What the model says comes first: the guest's own clock runs with the host that executes the model.
  if (run.model) {
    costs.unshift(
      measured('modelled cycles', ({ modelledCycles }) =>
        modelledCycles === undefined ? '' : figure(modelledCycles),
      ),
    );
  }
  const columns: Column[] = [
    { cells: ['', ...results.map(({ name }) => name)] },
    ...costs,
    ...(['native', 'software', 'hardware'] as const).map(published),
    { cells: ['exits per operation', ...results.map(exits)] },
  ];
  const clock = icount
    ? 'the TSC counts instructions'
    : `cycles are of the guest's TSC, ${(run.tscKhz / 1000).toFixed(1)} MHz`;
  return [
    `Nanobenchmarks, ${run.bits}-bit guest, ${engineName(options, run)}; ${clock}.`,
    ...(run.model
      ? [
          'modelled cycles: what the cost profile makes of instructions, exits, page walks and events; not measured. cycles, ns: of what executes the model.',
        ]
      : []),
    `native, software, hardware: CPU cycles of an operation (${PUBLISHED_LABEL}).`,
    '',
    ...layOut(columns),
    '',
  ].join('\n');
}

function layOut(columns: readonly Column[]): string[] {
  const padded = columns.map(({ cells, right }) => {
    const width = Math.max(...cells.map(({ length }) => length));
    return cells.map((cell) => (right === true ? cell.padStart(width) : cell.padEnd(width)));
  });
  const [first = []] = padded;
  return first.map((_, line) =>
    padded
      .map((cells) => cells[line] ?? '')
      .join('  ')
      .trimEnd(),
  );
}

type Measured = Extract<NanobenchResult, { status: 'measured' }>;

function exits(result: NanobenchResult): string {
  switch (result.status) {
    case 'notApplicable':
      return `not applicable: ${result.reason}`;
    case 'skipped':
      return `skipped: ${result.reason}`;
    case 'failed':
      return `FAILED: ${result.reason}`;
    case 'measured': {
      const shown = result.exits.filter(({ perOperation }) => perOperation >= SHOWN_EXITS);
      if (shown.length === 0) return 'none';
      return shown
        .map(
          ({ reason, perOperation }) => `${perOperation.toFixed(2)} ${SHORT[reason] ?? EXIT_REASONS[reason]}`,
        )
        .join(', ');
    }
  }
}

/** A figure with as many decimals as it bears. */
function figure(value: number): string {
  return value.toFixed(Math.abs(value) < 100 ? 1 : 0);
}
