import { parseArgs } from 'node:util';
import type { HardwareOptionsInput, TranslatorOptionsInput } from '../../src-core/protocol/machine-config.ts';
import { MEMORY_MIB_MAX, MEMORY_MIB_MIN } from '../../src-core/protocol/vm.ts';
import { HARDWARE_HELP, HARDWARE_OPTIONS, parseHardwareOptions } from './hardware-options.ts';
import { parseChoice, UsageError } from './usage.ts';

export { parseChoice, UsageError } from './usage.ts';

/** Where a serial port goes. */
export type SerialTarget = { kind: 'stdio' } | { kind: 'file'; path: string } | { kind: 'none' };

/** `switchyard run`, checked. */
export interface RunOptions {
  kernel: string | undefined;
  initrd: string | undefined;
  modules: string[];
  append: string;
  firmware: string | undefined;
  memoryMib: number;
  engine: 'software' | 'hardware';
  hardware: HardwareOptionsInput;
  /** Hardware that is refused ends the run. */
  strict: boolean;
  /** Host ms from one change of engines to the next. */
  switchEveryMs: number | undefined;
  serial: SerialTarget;
  serial2: SerialTarget;
  debugcon: string | undefined;
  logPorts: { port: number; path: string }[];
  debugExit: boolean;
  exitOn: string | undefined;
  timeoutSeconds: number | undefined;
  clock: 'host' | 'icount';
  stats: string | undefined;
  noReboot: boolean;
  translator: TranslatorOptionsInput;
}

export const MEMORY_MIB_DEFAULT = 256;

export const HELP = `Usage: npm run --silent cli -- run (--kernel FILE | --firmware FILE) [options]

Runs one virtual machine in this process, its serial port on the terminal. Ctrl-] leaves the console, Ctrl-^ has the
other engine go on with the guest.
"cli -- nanobench" measures an engine with a guest of our own; see "cli -- nanobench --help".
"cli -- probe" tells what this host's hardware virtualization can do.
"cli -- inspect" shows what the software engine made of a guest's hot code; see "cli -- inspect --help".

What to boot
  --kernel FILE            Linux bzImage or Multiboot image
  --initrd FILE            initial RAM disk (Linux)
  --module FILE            Multiboot module; may be given several times
  --append TEXT            the kernel's command line
  --firmware FILE          BIOS image

The machine
  --memory MIB             guest memory, ${MEMORY_MIB_MIN} to ${MEMORY_MIB_MAX} (default ${MEMORY_MIB_DEFAULT})
  --engine NAME            software or hardware (default software). Where hardware can't be had, or can't run the guest,
                           the guest runs in software and the reason is told
  --strict                 end (exit code 4) rather than run in software when hardware is refused; does not try
                           out first what the hardware can do
  --switch-every MS        have software and hardware take turns with the running guest, for experiments
${HARDWARE_HELP}
  --clock NAME             host: guest time is real time (default); icount: it counts instructions, repeatable
  --no-reboot              a reset or triple fault ends the run instead of rebooting
  --debug-exit             isa-debug-exit at port 0xf4

What the software engine does (for experiments)
  --tier N                 0: interpret only; 1: translate hot code too (default 1)
  --threshold N            executions before code is translated
  --no-chaining            translated regions do not go on to each other directly
  --no-adaptive            instructions that keep leaving translated code are not translated anew
  --address-spaces flush|keep
                           drop an address space's translations on MOV to CR3, or keep them coherent with traces

Where its output goes
  --serial TARGET          COM1: stdio (default), file:FILE or none
  --serial2 TARGET         COM2: likewise (default none)
  --debugcon FILE          what the guest writes to port 0xe9
  --log-port 0xNNN=FILE    the bytes the guest writes to a port; may be given several times
  --stats FILE             exits and times at the end, as JSON

When it ends
  --exit-on TEXT           end as soon as serial output holds TEXT
  --timeout SECONDS        end after this long

Exit codes
  0    the guest powered off, TEXT appeared, or you left the console
  2    bad arguments, or files that cannot be booted
  3    reset or triple fault with --no-reboot
  4    hardware was refused, with --strict
  124  timeout
  (V << 1) | 1   the guest wrote V to isa-debug-exit
  1    a fault in Switchyard itself
`;

/** Parses what follows `run`. @throws UsageError */
export function parseRunArguments(args: string[]): RunOptions {
  const values = parse(args);
  if (values.kernel === undefined && values.firmware === undefined) {
    throw new UsageError('nothing to boot: give --kernel FILE or --firmware FILE');
  }
  if (values.kernel !== undefined && values.firmware !== undefined) {
    throw new UsageError('--kernel and --firmware exclude each other');
  }
  if (values.kernel === undefined) {
    for (const [option, given] of [
      ['--initrd', values.initrd !== undefined],
      ['--module', values.module.length > 0],
      ['--append', values.append !== undefined],
    ] as const) {
      if (given) throw new UsageError(`${option} needs --kernel`);
    }
  }
  const engine = parseChoice('--engine', values.engine, ['software', 'hardware']);
  const switchEvery = values['switch-every'];
  const options: RunOptions = {
    kernel: values.kernel,
    initrd: values.initrd,
    modules: values.module,
    append: values.append ?? '',
    firmware: values.firmware,
    memoryMib: parseMemory(values.memory),
    engine,
    hardware: parseHardwareOptions(values, switchEvery === undefined ? engine : 'hardware'),
    strict: values.strict,
    switchEveryMs:
      switchEvery === undefined ? undefined : parseWhole('--switch-every', switchEvery, 1, 3_600_000),
    serial: parseSerial('--serial', values.serial),
    serial2: parseSerial('--serial2', values.serial2),
    debugcon: values.debugcon,
    logPorts: values['log-port'].map(parseLogPort),
    debugExit: values['debug-exit'],
    exitOn: values['exit-on'],
    timeoutSeconds: parseTimeout(values.timeout),
    clock: parseChoice('--clock', values.clock, ['host', 'icount']),
    stats: values.stats,
    noReboot: values['no-reboot'],
    translator: {
      tier: parseChoice('--tier', values.tier, ['0', '1']) === '0' ? 0 : 1,
      chaining: !values['no-chaining'],
      adaptive: !values['no-adaptive'],
      ...(values['address-spaces'] !== undefined && {
        addressSpaces: parseChoice('--address-spaces', values['address-spaces'], ['flush', 'keep'] as const),
      }),
      ...(values.threshold !== undefined && {
        threshold: parseWhole('--threshold', values.threshold, 1, 1_000_000),
      }),
    },
  };
  checkEngines(options);
  if (options.exitOn === '') throw new UsageError('--exit-on needs a text that is not empty');
  if (options.serial.kind === 'stdio' && options.serial2.kind === 'stdio') {
    throw new UsageError('--serial and --serial2 cannot both be stdio');
  }
  return options;
}

/** @throws UsageError for options that have nothing to act on. */
function checkEngines({ engine, hardware, strict, switchEveryMs, clock }: RunOptions): void {
  if (strict && engine !== 'hardware' && switchEveryMs === undefined) {
    throw new UsageError('--strict needs --engine hardware or --switch-every');
  }
  if (switchEveryMs !== undefined && clock === 'icount' && hardware.accelerator !== 'model') {
    throw new UsageError('--switch-every needs --clock host: hardware does not count instructions');
  }
}

function parse(args: string[]) {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        kernel: { type: 'string' },
        initrd: { type: 'string' },
        module: { type: 'string', multiple: true, default: [] },
        append: { type: 'string' },
        firmware: { type: 'string' },
        memory: { type: 'string' },
        engine: { type: 'string', default: 'software' },
        strict: { type: 'boolean', default: false },
        'switch-every': { type: 'string' },
        ...HARDWARE_OPTIONS,
        serial: { type: 'string', default: 'stdio' },
        serial2: { type: 'string', default: 'none' },
        debugcon: { type: 'string' },
        'log-port': { type: 'string', multiple: true, default: [] },
        'debug-exit': { type: 'boolean', default: false },
        'exit-on': { type: 'string' },
        timeout: { type: 'string' },
        clock: { type: 'string', default: 'host' },
        stats: { type: 'string' },
        'no-reboot': { type: 'boolean', default: false },
        tier: { type: 'string', default: '1' },
        threshold: { type: 'string' },
        'no-chaining': { type: 'boolean', default: false },
        'no-adaptive': { type: 'boolean', default: false },
        'address-spaces': { type: 'string' },
      },
    });
    if (positionals[0] !== undefined) throw new UsageError(`unexpected argument "${positionals[0]}"`);
    return values;
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parseMemory(text: string | undefined): number {
  if (text === undefined) return MEMORY_MIB_DEFAULT;
  const mib = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(mib >= MEMORY_MIB_MIN && mib <= MEMORY_MIB_MAX)) {
    throw new UsageError(
      `--memory must be a whole number of MiB from ${MEMORY_MIB_MIN} to ${MEMORY_MIB_MAX}, not "${text}"`,
    );
  }
  return mib;
}

function parseSerial(option: string, text: string): SerialTarget {
  if (text === 'stdio' || text === 'none') return { kind: text };
  if (text.startsWith('file:') && text.length > 5) return { kind: 'file', path: text.slice(5) };
  throw new UsageError(`${option} must be stdio, file:FILE or none, not "${text}"`);
}

function parseLogPort(text: string): { port: number; path: string } {
  const match = /^(0x[0-9a-f]{1,4}|\d{1,5})=(.+)$/i.exec(text);
  const port = Number(match?.[1] ?? NaN);
  if (!match?.[2] || port > 0xffff) throw new UsageError(`--log-port must be 0xNNN=FILE, not "${text}"`);
  return { port, path: match[2] };
}

export function parseWhole(option: string, text: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= least && value <= most)) {
    throw new UsageError(`${option} must be a whole number from ${least} to ${most}, not "${text}"`);
  }
  return value;
}

export function parseTimeout(text: string | undefined, option = '--timeout'): number | undefined {
  if (text === undefined) return undefined;
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  // The largest delay a timer takes is 2^31 - 1 ms, a bit over 24 days.
  if (!(seconds > 0 && seconds <= 2_000_000)) {
    throw new UsageError(`${option} must be a number of seconds above 0, not "${text}"`);
  }
  return seconds;
}
