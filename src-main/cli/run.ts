import { BootError } from '../../src-core/firmware/boot.ts';
import { probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import { EngineUnavailableError, Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import { describeProblem } from '../../src-core/protocol/engine.ts';
import { LoadError, loadMachineFiles } from '../load.ts';
import { UsageError, type RunOptions, type SerialTarget } from './arguments.ts';
import { Console } from './console.ts';
import { EngineControl } from './engine-control.ts';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';
import { FileSink, StdoutSink, TextWatcher, type Sink } from './output.ts';

export const EXIT_CODE = {
  ok: 0,
  fault: 1,
  usage: 2,
  reset: 3,
  refused: 4,
  timeout: 124,
  brokenPipe: 141,
} as const;

/** Typed bytes that may wait for the guest before stdin is paused, and how often it is looked at again, ms. */
const INPUT_BACKLOG_MAX = 4096;
const INPUT_POLL_MS = 20;
/** Output that may wait for a slow reader of stdout before the guest's transmitter is held, bytes. */
const OUTPUT_BACKLOG_MAX = 256 * 1024;

/** Why a run ended, and the exit code that says so. */
interface Outcome {
  code: number;
  /** Stands in the statistics file. */
  reason: string;
  /** For stderr, when the exit code alone does not tell a person enough. */
  message?: string;
}

/** What another command makes of a run. */
export interface RunHooks {
  /** Called with the machine before it starts. */
  prepare: (machine: Machine) => void;
  /** End after so many seconds, with exit code 0. */
  afterSeconds: number | undefined;
}

/** Runs one machine to its end. @returns the exit code. @throws UsageError */
export async function run(options: RunOptions, hooks?: RunHooks): Promise<number> {
  const { engine, switchEveryMs, strict, clock, hardware } = options;
  const used = (engine === 'hardware' || switchEveryMs !== undefined) && hardware.accelerator !== 'model';
  // One who insists on KVM wants to see what it does.
  const asks = !strict || hardware.accelerator === 'auto';
  const probe = used && asks && clock === 'host' ? await findOut(options) : undefined;
  const machine = buildMachine(options, probe);
  if (!machine) return EXIT_CODE.refused;
  hooks?.prepare(machine);
  const session = new Session(machine, options, probe, hooks?.afterSeconds);
  return session.run();
}

/** What the hardware can do. */
function findOut({ hardware: { device } }: RunOptions): Promise<HardwareProbe> {
  return probeHardware(device === undefined ? {} : { device });
}

/** Undefined when hardware is refused to one who insists on it. @throws UsageError */
function buildMachine(options: RunOptions, probe: HardwareProbe | undefined): Machine | undefined {
  try {
    const config = {
      memoryMib: options.memoryMib,
      engine: options.engine,
      engineRefusal: options.strict ? 'fail' : 'software',
      hardware: options.hardware,
      clock: options.clock,
      ...loadMachineFiles({
        kernel: options.kernel ?? null,
        initrd: options.initrd ?? null,
        modules: options.modules.map((path) => ({ path, commandLine: path })),
        firmware: options.firmware ?? null,
        commandLine: options.append,
      }),
      debugConsole: options.debugcon !== undefined,
      logPorts: options.logPorts.map(({ port }) => port),
      debugExit: options.debugExit,
      noReboot: options.noReboot,
      translator: options.translator,
    } as const;
    return new Machine(config, { probe });
  } catch (error) {
    if (error instanceof LoadError || error instanceof BootError) throw new UsageError(error.message);
    if (!(error instanceof EngineUnavailableError)) throw error;
    if (error.problem.kind === 'configuration') throw new UsageError(error.message);
    process.stderr.write(`switchyard: ${describeProblem(error.problem)}\n`);
    return undefined;
  }
}

/** One run: the machine, where its output goes, and what ends it. */
class Session {
  readonly #machine: Machine;
  readonly #options: RunOptions;
  readonly #afterSeconds: number | undefined;
  readonly #engines: EngineControl;
  readonly #sinks: Sink[] = [];
  readonly #started = performance.now();
  #console: Console | undefined;
  #timer: NodeJS.Timeout | undefined;
  #afterTimer: NodeJS.Timeout | undefined;
  #poll: NodeJS.Timeout | undefined;
  #finish: (outcome: Outcome) => void = () => undefined;

  constructor(
    machine: Machine,
    options: RunOptions,
    probe: HardwareProbe | undefined,
    afterSeconds: number | undefined,
  ) {
    this.#machine = machine;
    this.#options = options;
    this.#afterSeconds = afterSeconds;
    this.#engines = new EngineControl(machine, {
      everyMs: options.switchEveryMs,
      probe: probe ?? (options.strict || options.hardware.accelerator === 'model' ? null : undefined),
      findOut: () => findOut(options),
      say: (text) => this.#say(text),
      onRefused: (text) => {
        if (options.strict) this.#finish({ code: EXIT_CODE.refused, reason: 'refused', message: text });
        else this.#say(text);
      },
    });
  }

  async run(): Promise<number> {
    const finished = new Promise<Outcome>((resolve) => (this.#finish = resolve));
    this.#connectSerial(0, this.#options.serial, '--serial');
    this.#connectSerial(1, this.#options.serial2, '--serial2');
    this.#connectLogs();
    const { stats } = this.#options;
    const statistics = stats === undefined ? undefined : this.#keep(new FileSink(stats, '--stats'));
    this.#machine.on('ended', (end) => this.#finish(outcomeOf(end)));
    this.#armTimeout();
    this.#catchSignals();
    this.#machine.start();
    this.#engines.start();
    const outcome = await finished;
    this.#stop();
    if (statistics) this.#writeStatistics(statistics, outcome);
    for (const sink of this.#sinks) await sink.close();
    if (outcome.message !== undefined) process.stderr.write(`switchyard: ${outcome.message}\n`);
    return outcome.code;
  }

  #connectSerial(port: number, target: SerialTarget, option: string): void {
    const watcher = this.#options.exitOn === undefined ? undefined : new TextWatcher(this.#options.exitOn);
    const sink = this.#openSerial(port, target, option);
    this.#machine.on('serial', (source, bytes) => {
      if (source !== port) return;
      sink?.write(bytes);
      if (watcher?.push(bytes) === true) this.#finish({ code: EXIT_CODE.ok, reason: 'exitOn' });
    });
  }

  #openSerial(port: number, target: SerialTarget, option: string): Sink | undefined {
    switch (target.kind) {
      case 'none':
        return undefined;
      case 'file':
        return this.#keep(new FileSink(target.path, option));
      case 'stdio':
        this.#openConsole(port);
        return this.#keep(
          new StdoutSink({
            backlogMax: OUTPUT_BACKLOG_MAX,
            onReady: (ready) => this.#machine.setSerialReady(port, ready),
            onBroken: () => this.#finish({ code: EXIT_CODE.brokenPipe, reason: 'brokenPipe' }),
          }),
        );
    }
  }

  #openConsole(port: number): void {
    const console = new Console({
      onInput: (bytes) => {
        this.#machine.sendSerial(port, bytes);
        if (this.#machine.serialBacklog(port) <= INPUT_BACKLOG_MAX) return true;
        this.#poll ??= setInterval(() => {
          if (this.#machine.serialBacklog(port) > 0) return;
          clearInterval(this.#poll);
          this.#poll = undefined;
          console.resume();
        }, INPUT_POLL_MS);
        return false;
      },
      onEngine: () => this.#engines.toggle(),
      onLeave: () => this.#finish({ code: EXIT_CODE.ok, reason: 'left' }),
    });
    this.#console = console;
  }

  #connectLogs(): void {
    if (this.#options.debugcon !== undefined) {
      const sink = this.#keep(new FileSink(this.#options.debugcon, '--debugcon'));
      this.#machine.on('debugConsole', (bytes) => sink.write(bytes));
    }
    for (const { port, path } of this.#options.logPorts) {
      const sink = this.#keep(new FileSink(path, '--log-port'));
      this.#machine.on('logPort', (source, bytes) => {
        if (source === port) sink.write(bytes);
      });
    }
  }

  #armTimeout(): void {
    if (this.#afterSeconds !== undefined) {
      const finish = (): void => this.#finish({ code: EXIT_CODE.ok, reason: 'after' });
      this.#afterTimer = setTimeout(finish, this.#afterSeconds * 1000);
    }
    const seconds = this.#options.timeoutSeconds;
    if (seconds === undefined) return;
    this.#timer = setTimeout(
      () =>
        this.#finish({
          code: EXIT_CODE.timeout,
          reason: 'timeout',
          message: `the guest was not done after ${seconds} s`,
        }),
      seconds * 1000,
    );
  }

  #catchSignals(): void {
    for (const [signal, number] of [
      ['SIGINT', 2],
      ['SIGTERM', 15],
      ['SIGHUP', 1],
    ] as const) {
      process.once(signal, () => this.#finish({ code: 128 + number, reason: signal }));
    }
  }

  /** A line for the user. */
  #say(text: string): void {
    const line = `switchyard: ${text}`;
    if (this.#console) this.#console.say(line);
    else process.stderr.write(`${line}\n`);
  }

  #stop(): void {
    this.#engines.stop();
    clearTimeout(this.#timer);
    clearTimeout(this.#afterTimer);
    clearInterval(this.#poll);
    this.#machine.stop();
    this.#console?.close();
  }

  #writeStatistics(sink: Sink, { code, reason }: Outcome): void {
    const { kernel, initrd, modules, firmware, append, memoryMib, clock } = this.#options;
    const { engine, engineStatus, counters, guestNs, exits, postCode, translator, model } =
      this.#machine.statistics();
    const report = {
      format: 'switchyard-statistics',
      version: 1,
      run: { kernel, initrd, modules, firmware, append, memoryMib, clock },
      end: { reason, code },
      engine,
      engineStatus,
      switches: this.#engines.report(),
      counters,
      hostSeconds: (performance.now() - this.#started) / 1000,
      guestSeconds: guestNs / 1e9,
      postCode,
      translator,
      model,
      ...exits,
    };
    sink.write(Buffer.from(`${JSON.stringify(report, null, 2)}\n`));
  }

  #keep<T extends Sink>(sink: T): T {
    this.#sinks.push(sink);
    return sink;
  }
}

function outcomeOf(end: MachineEnd): Outcome {
  switch (end.kind) {
    case 'powerOff':
    case 'stopped':
      return { code: EXIT_CODE.ok, reason: end.kind };
    case 'reset':
      return { code: EXIT_CODE.reset, reason: end.kind, message: 'the guest reset the machine' };
    case 'tripleFault':
      return { code: EXIT_CODE.reset, reason: end.kind, message: 'triple fault: the guest could not go on' };
    case 'debugExit':
      // A process's exit code has eight bits.
      return { code: ((end.value << 1) | 1) & 0xff, reason: end.kind };
    case 'panic':
      return {
        code: EXIT_CODE.fault,
        reason: end.kind,
        message: `a fault in Switchyard: ${end.error.stack ?? end.error.message}`,
      };
  }
}
