/** Runs the nanobenchmark guest on a Machine of ours and joins what it says with what the exit accounting saw. */
import { type ExitReason, EXIT_REASON_KEYS } from '../../accounting/exits.ts';
import type { ModelStatistics } from '../../engines/hardware/model/meter.ts';
import { TSC_HZ } from '../../machine/clock.ts';
import { Machine, type MachineEnd } from '../../machine/machine.ts';
import type { EngineProblem } from '../../protocol/engine.ts';
import type { MachineConfigInput } from '../../protocol/machine-config.ts';
import {
  NANOBENCH_MARK_PORT,
  NANOBENCH_MARKS,
  nanobenchmark,
  NANOBENCHMARKS,
  type NanobenchBits,
  type NanobenchName,
  type NanobenchNeed,
} from './catalogue.ts';
import type { NanobenchLacks } from './lacks.ts';
import { type NanobenchHead, type NanobenchLine, parseNanobenchLine } from './output.ts';
import { buildNanobench } from './program.ts';

/** What the kernel writes to isa-debug-exit when it is done. */
const DONE = 42;
const MEMORY_MIB = 64;
/** A guest that has said and marked nothing for this long, ms of host time, does not come back. */
const STALL_MS = 20_000;
/** How far the TSC's frequency and the PIT's may be off each other. */
const CLOCK_SLACK = 0.002;

export interface NanobenchOptions {
  readonly bits: NanobenchBits;
  /** Which, in the catalogue's order; all unless said. */
  readonly only?: readonly NanobenchName[];
  /** Operations of each; calibrated unless said. */
  readonly operations?: number;
  /** TSC cycles to calibrate for. */
  readonly cycles?: number;
  /** Engine, clock and translator of the machine. */
  readonly machine?: Pick<MachineConfigInput, 'engine' | 'hardware' | 'clock' | 'translator'>;
  /** What the engine cannot do here, and why: benchmarks that need it are skipped by name. */
  readonly lacks?: NanobenchLacks;
  /** Host time after which the run is given up, ms. */
  readonly timeoutMs: number;
  /** Host time without a sign of life after which a benchmark is given up, ms: the others go on without it. */
  readonly stallMs?: number;
  /** Called with each result as it comes. */
  readonly onResult?: (result: NanobenchResult) => void;
}

/** One benchmark of a run. */
export type NanobenchResult =
  | {
      readonly name: NanobenchName;
      readonly status: 'measured';
      readonly operations: number;
      /** TSC cycles and guest ns an operation, overhead subtracted; may be a little below zero. */
      readonly cycles: number;
      readonly ns: number;
      /** Guest instructions an operation; undefined where the engine does not count them. */
      readonly instructions: number | undefined;
      /** Cycles an operation takes on the processor that the model's cost profile describes; undefined elsewhere. */
      readonly modelledCycles: number | undefined;
      /** Exits an operation, by reason: those that happen, most frequent first. */
      readonly exits: readonly { readonly reason: ExitReason; readonly perOperation: number }[];
    }
  | {
      readonly name: NanobenchName;
      /**
       * `notApplicable`: this width has it not. `skipped`: this engine lacks what it needs. `failed`: an event did
       * not happen as it should have, or the guest did not come back from it.
       */
      readonly status: 'notApplicable' | 'skipped' | 'failed';
      readonly reason: string;
    };

export interface NanobenchRun {
  readonly bits: NanobenchBits;
  readonly tscKhz: number;
  /** What ran it, when that was a model of hardware virtualization. */
  readonly model: NanobenchModel | undefined;
  /** Why it was not the engine that was asked for; null when it was. */
  readonly problem: EngineProblem | null;
  readonly results: readonly NanobenchResult[];
}

export type NanobenchModel = Pick<ModelStatistics, 'mmu' | 'profile'>;

/** The run did not come to its end. */
export class NanobenchError extends Error {
  /** It took longer than it was given. */
  readonly timedOut: boolean;

  constructor(message: string, timedOut = false) {
    super(message);
    this.name = 'NanobenchError';
    this.timedOut = timedOut;
  }
}

/**
 * Runs the guest to its end. A benchmark that it does not come back from is failed, and those after it are run by a new
 * one.
 * @throws NanobenchError, NanobenchOutputError, EngineUnavailableError, or what the machine's configuration is refused with
 */
export async function measureNanobench(options: NanobenchOptions): Promise<NanobenchRun> {
  const { bits, only, lacks = {} } = options;
  const wanted = NANOBENCHMARKS.map(({ name }) => name).filter((name) => only?.includes(name) ?? true);
  const skipped = new Map<NanobenchName, string>();
  for (const name of wanted) {
    const entry = nanobenchmark(name);
    // That this width has it not is the better reason: the guest says so itself.
    if (bits === 32 && entry.only64 !== undefined) continue;
    const needs: readonly NanobenchNeed[] = ['kernel', ...entry.needs];
    const reason = needs.map((need) => lacks[need]).find((text) => text !== undefined);
    if (reason !== undefined) skipped.set(name, reason);
  }
  const run = await runAll(
    options,
    wanted.filter((name) => !skipped.has(name)),
  );
  const results = wanted.map((name): NanobenchResult => {
    const reason = skipped.get(name);
    if (reason !== undefined) return { name, status: 'skipped', reason };
    const result = run.results.find((candidate) => candidate.name === name);
    if (!result) throw new NanobenchError(`the guest said nothing of ${name}`);
    return result;
  });
  return { bits, ...run, results };
}

/** As many guests as it takes: each has a result for one benchmark at least. */
async function runAll(
  options: NanobenchOptions,
  names: readonly NanobenchName[],
): Promise<Omit<NanobenchRun, 'bits'>> {
  const deadline = performance.now() + options.timeoutMs;
  let run: Omit<NanobenchRun, 'bits'> = {
    tscKhz: TSC_HZ / 1000,
    model: undefined,
    problem: null,
    results: [],
  };
  while (run.results.length < names.length) {
    const left = { ...options, timeoutMs: Math.max(1, deadline - performance.now()) };
    const next = await new Session(left, names.slice(run.results.length)).run();
    run = { ...next, results: [...run.results, ...next.results] };
    if (next.results.length === 0) break;
  }
  return run;
}

/** Counts that stand between two marks. */
type Counted = ExitReason | 'instructions' | 'modelledCycles';
type Counts = ReadonlyMap<Counted, number>;

function counts(machine: Machine): Counts {
  const { exits: snapshot, model } = machine.statistics();
  const all = new Map<Counted, number>([['instructions', snapshot.instructions]]);
  if (model) all.set('modelledCycles', model.cycles.total);
  for (const reason of EXIT_REASON_KEYS) all.set(reason, snapshot.reasons[reason]?.count ?? 0);
  return all;
}

/** What happened between marks, over all rounds of the benchmark that runs. */
class Brackets {
  #overheadBegan: Counts | undefined;
  #began: Counts | undefined;
  #rounds = 0;
  readonly #net = new Map<Counted, number>();

  mark(kind: number, now: Counts): void {
    switch (kind) {
      case NANOBENCH_MARKS.overheadBegins:
        this.#overheadBegan = now;
        break;
      case NANOBENCH_MARKS.overheadEnds:
        this.#add(this.#overheadBegan, now, -1);
        break;
      case NANOBENCH_MARKS.begins:
        this.#began = now;
        break;
      case NANOBENCH_MARKS.ends:
        this.#add(this.#began, now, 1);
        this.#rounds++;
        break;
    }
  }

  #add(from: Counts | undefined, to: Counts, sign: 1 | -1): void {
    if (!from) return;
    for (const [key, count] of to) {
      const change = sign * (count - (from.get(key) ?? 0));
      this.#net.set(key, (this.#net.get(key) ?? 0) + change);
    }
  }

  /** A count's share of one operation; what the overhead has more of counts as none. */
  perOperation(key: Counted, operations: number): number {
    const rounds = Math.max(1, this.#rounds);
    return Math.max(0, (this.#net.get(key) ?? 0) / rounds / operations);
  }
}

class Session {
  readonly #options: NanobenchOptions;
  readonly #names: readonly NanobenchName[];
  readonly #results: NanobenchResult[] = [];
  #brackets = new Brackets();
  #head: NanobenchHead | undefined;
  #text = '';
  /** The engine counts every instruction of the guest. */
  #counted = false;
  #model: NanobenchModel | undefined;
  /** Host time of the guest's last line or mark. */
  #lastSign = 0;

  constructor(options: NanobenchOptions, names: readonly NanobenchName[]) {
    this.#options = options;
    this.#names = names;
  }

  async run(): Promise<Omit<NanobenchRun, 'bits'>> {
    const machine = this.#build();
    const { model } = machine.statistics();
    this.#model = model && { mmu: model.mmu, profile: model.profile };
    this.#counted = machine.engine === 'software' || model !== undefined;
    try {
      await this.#toItsEnd(machine);
    } finally {
      machine.stop();
    }
    const { problem } = machine.engineStatus;
    return { tscKhz: this.#tscKhz(), model: this.#model, problem, results: this.#results };
  }

  #build(): Machine {
    const { bits, operations, cycles, machine } = this.#options;
    const words = [`only=${this.#names.join(',')}`];
    if (operations !== undefined) words.push(`operations=${operations}`);
    if (cycles !== undefined) words.push(`cycles=${cycles}`);
    return new Machine({
      ...machine,
      memoryMib: MEMORY_MIB,
      kernel: { name: `nanobench${bits}`, bytes: buildNanobench(bits) },
      commandLine: words.join(' '),
      debugExit: true,
      noReboot: true,
    });
  }

  #toItsEnd(machine: Machine): Promise<void> {
    return new Promise((resolve, reject) => {
      const { timeoutMs, stallMs = STALL_MS } = this.#options;
      const stop = (): void => {
        clearTimeout(timer);
        clearInterval(watch);
      };
      const fail = (error: unknown): void => {
        stop();
        reject(error instanceof Error ? error : new NanobenchError(String(error)));
      };
      const timer = setTimeout(() => fail(this.#timedOut(timeoutMs)), timeoutMs);
      this.#lastSign = performance.now();
      const watch = setInterval(() => {
        if (performance.now() - this.#lastSign < stallMs) return;
        if (!this.#head) return fail(this.#timedOut(stallMs));
        stop();
        this.#stalled(stallMs);
        resolve();
      }, stallMs / 10);
      machine.on('serial', (port, bytes) => {
        if (port !== 0) return;
        this.#lastSign = performance.now();
        try {
          this.#receive(bytes);
        } catch (error) {
          fail(error);
        }
      });
      this.#listenForMarks(machine);
      machine.on('ended', (end) => {
        stop();
        if (end.kind === 'debugExit' && end.value === DONE) resolve();
        else fail(endedBadly(end));
      });
      machine.start();
    });
  }

  /** The benchmark that the guest is at; undefined after the last. */
  #present(): NanobenchName | undefined {
    return this.#names[this.#results.length];
  }

  #timedOut(ms: number): NanobenchError {
    const at = this.#head ? `, in ${this.#present() ?? 'its last lines'}` : ', before its first line';
    return new NanobenchError(`the nanobenchmark guest was not done after ${ms / 1000} s${at}`, true);
  }

  #stalled(ms: number): void {
    const name = this.#present();
    if (name === undefined) return;
    const reason = `the guest did not come back from it (nothing for ${ms / 1000} s); the others were run without it`;
    const result = { name, status: 'failed', reason } as const;
    this.#results.push(result);
    this.#options.onResult?.(result);
  }

  /**
   * Engines add their counts up at the end of a run, so a mark stops the machine: guest time stands still while the
   * counters are read.
   */
  #listenForMarks(machine: Machine): void {
    machine.ports.register(NANOBENCH_MARK_PORT, NANOBENCH_MARK_PORT + 3, 'nanobench', {
      readPort: () => 0xff,
      writePort: (_port, _size, value) => {
        this.#lastSign = performance.now();
        machine.pause();
        setImmediate(() => {
          this.#brackets.mark(value & 0xff, counts(machine));
          machine.resume();
        });
      },
    });
  }

  #receive(bytes: Uint8Array): void {
    this.#text += Buffer.from(bytes).toString('latin1');
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end).trim();
      this.#text = this.#text.slice(end + 1);
      if (line !== '') this.#line(parseNanobenchLine(line));
    }
  }

  #line(line: NanobenchLine): void {
    if (!('benchmark' in line)) {
      if ('tscKhzLeast' in line) this.#head = line;
      return;
    }
    const result = this.#result(line);
    this.#brackets = new Brackets();
    this.#results.push(result);
    this.#options.onResult?.(result);
  }

  #result(line: Extract<NanobenchLine, { benchmark: NanobenchName }>): NanobenchResult {
    const name = line.benchmark;
    if (!line.applicable) return { name, status: 'notApplicable', reason: line.reason };
    if (!('operations' in line) || !line.verified) {
      return { name, status: 'failed', reason: line.failure ?? 'not verified' };
    }
    const { operations, cyclesPerOperation } = line;
    const brackets = this.#brackets;
    const exits = EXIT_REASON_KEYS.map((reason) => ({
      reason,
      perOperation: brackets.perOperation(reason, operations),
    }));
    return {
      name,
      status: 'measured',
      operations,
      cycles: cyclesPerOperation,
      ns: (cyclesPerOperation * 1e6) / this.#tscKhz(),
      instructions: this.#counted ? brackets.perOperation('instructions', operations) : undefined,
      modelledCycles: this.#model ? brackets.perOperation('modelledCycles', operations) : undefined,
      exits: exits
        .filter(({ perOperation }) => perOperation > 0)
        .sort((a, b) => b.perOperation - a.perOperation),
    };
  }

  #tscKhz(): number {
    if (!this.#head) throw new NanobenchError('the guest began without saying what it is');
    const { tscKhzLeast: least, tscKhzMost: most, tscKhzStated: stated } = this.#head;
    // What CPUID states is exact, where it is true.
    const believable = stated >= least * (1 - CLOCK_SLACK) && stated <= most * (1 + CLOCK_SLACK);
    return believable ? stated : (least + most) / 2;
  }
}

function endedBadly(end: MachineEnd): Error {
  switch (end.kind) {
    case 'panic':
      return end.error;
    case 'debugExit':
      return new NanobenchError(`the nanobenchmark guest ended with ${end.value}`);
    case 'tripleFault':
      return new NanobenchError('the nanobenchmark guest ended in a triple fault');
    default:
      return new NanobenchError(`the nanobenchmark guest ended before its time (${end.kind})`);
  }
}
