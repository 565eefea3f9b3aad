import type { Machine } from '../../src-core/machine/machine.ts';
import { describeEngine, describeProblem, type EngineStatus } from '../../src-core/protocol/engine.ts';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';

export interface EngineControlOptions {
  /** Change engines this often, ms of host time; undefined for only when asked. */
  everyMs: number | undefined;
  /** What this host's hardware can do; undefined to have it found out before the first change to it, null never. */
  probe: HardwareProbe | undefined | null;
  findOut: () => Promise<HardwareProbe>;
  /** Something the user should know. */
  say: (text: string) => void;
  /** The guest does not run where it should. */
  onRefused: (text: string) => void;
}

/** What came of the changes of a run, for its statistics. Times are host ns for which the guest stood still. */
export interface SwitchReport {
  switched: number;
  refused: number;
  medianNs: number | null;
  maxNs: number | null;
}

/** Changes a running machine's engine between software and hardware, when asked or all the time. */
export class EngineControl {
  readonly #machine: Machine;
  readonly #options: EngineControlOptions;
  readonly #times: number[] = [];
  #probe: HardwareProbe | undefined | null;
  #refused = 0;
  #timer: NodeJS.Timeout | undefined;
  #busy = false;
  /** The last problem and detour that were told of. */
  #told: EngineStatus['problem'] = null;
  #toldDetour: EngineStatus['detour'] = null;

  constructor(machine: Machine, options: EngineControlOptions) {
    this.#machine = machine;
    this.#options = options;
    this.#probe = options.probe;
    machine.on('engine', (status) => this.#tell(status));
  }

  /** To be called when the machine has started. */
  start(): void {
    this.#tell(this.#machine.engineStatus);
    const { everyMs } = this.#options;
    if (everyMs !== undefined) this.#timer = setInterval(() => this.#change(false), everyMs);
  }

  /** Has the other engine go on with the guest, and says what came of it. */
  toggle(): void {
    this.#change(true);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  report(): SwitchReport {
    const times = [...this.#times].sort((a, b) => a - b);
    return {
      switched: times.length,
      refused: this.#refused,
      medianNs: times[times.length >> 1] ?? null,
      maxNs: times.at(-1) ?? null,
    };
  }

  #change(aloud: boolean): void {
    if (this.#busy) return;
    this.#busy = true;
    void this.#prepareAndSwitch(aloud).finally(() => (this.#busy = false));
  }

  async #prepareAndSwitch(aloud: boolean): Promise<void> {
    const target = { kind: this.#machine.engine === 'software' ? 'hardware' : 'software' } as const;
    if (target.kind === 'hardware' && this.#probe === undefined) this.#probe = await this.#options.findOut();
    const probe = this.#probe ?? undefined;
    await this.#machine.prepareEngine(target, probe);
    if (this.#machine.state !== 'running' && this.#machine.state !== 'paused') return;
    const { to, problem, ns } = this.#machine.switchEngine(target, probe);
    if (problem) {
      // Said once, not every few ms.
      if (aloud || this.#refused === 0) {
        const stays = describeEngine(this.#machine.engineStatus);
        this.#options.onRefused(`the guest stays on ${stays}: ${describeProblem(problem)}`);
      }
      this.#refused++;
      return;
    }
    this.#times.push(ns);
    if (aloud) {
      this.#options.say(`the guest runs on ${describeEngine(to)}, after ${(ns / 1e6).toFixed(2)} ms`);
    }
  }

  /** That the guest does not, no longer, or for a while not run on the engine asked for must not pass in silence. */
  #tell(status: EngineStatus): void {
    this.#tellProblem(status);
    this.#tellDetour(status);
  }

  #tellProblem({ problem, kind, accelerator }: EngineStatus): void {
    if (problem === this.#told) return;
    this.#told = problem;
    if (!problem) return;
    const why = describeProblem(problem);
    if (kind === 'software') {
      this.#options.onRefused(`hardware was asked for, the guest runs in software: ${why}`);
    } else {
      // The model is what was asked for where KVM does not do.
      this.#options.say(`the guest runs on ${describeEngine({ kind, accelerator })}, not on KVM: ${why}`);
    }
  }

  #tellDetour(status: EngineStatus): void {
    const { detour } = status;
    if (detour === this.#toldDetour) return;
    this.#toldDetour = detour;
    this.#options.say(
      detour
        ? `${describeEngine(status)} leaves the guest to the software engine while it is as it is: ${describeProblem(detour)}`
        : `the guest runs on ${describeEngine(status)} again`,
    );
  }
}
