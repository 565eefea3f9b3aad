import type { Engine } from '../engines/engine.ts';
import { accelerators, type EngineSet } from '../engines/engine-set.ts';
import { unfitFor, unfitForSystem } from '../engines/hardware/probe/fitness.ts';
import { type EngineUnavailableError, hardwareRefused, refusalOf } from '../engines/unavailable.ts';
import type { GuestSystem } from '../firmware/boot.ts';
import type {
  EngineName,
  EngineProblem,
  EngineStatus,
  EngineSwitch,
  EngineTarget,
} from '../protocol/engine.ts';
import type { HardwareProbe } from '../protocol/hardware-probe.ts';
import type { MachineConfig } from '../protocol/machine-config.ts';
import type { Cpu } from '../x86/cpu.ts';
import { DetourWatch } from './detour-watch.ts';

export interface EngineSelectorParts {
  readonly cpu: Cpu;
  readonly engines: EngineSet;
  readonly config: Pick<MachineConfig, 'engine' | 'engineRefusal' | 'hardware'>;
  /** What the machine boots, where that is known. */
  readonly system: GuestSystem | undefined;
  readonly probe: HardwareProbe | undefined;
  /** Another engine runs the guest, or why not this one, or not at present, has become known. */
  readonly onChange: () => void;
}

/** Says which of a machine's engines runs the guest, and changes it between two runs. */
export class EngineSelector {
  readonly #cpu: Cpu;
  readonly #engines: EngineSet;
  readonly #config: EngineSelectorParts['config'];
  readonly #system: GuestSystem | undefined;
  readonly #fallsBack: boolean;
  readonly #onChange: () => void;
  readonly #detour = new DetourWatch();
  #current: Engine;
  #probe: HardwareProbe | undefined;
  #problem: EngineProblem | null = null;
  #lastSwitch: EngineSwitch | null = null;
  #switches = 0;
  /** The model is to take over what KVM does not run. */
  #modelStandsIn: boolean;
  /** Whether the present engine can run what the machine was given to run is not known yet. */
  #unchecked: boolean;

  /** @throws EngineUnavailableError */
  constructor({ cpu, engines, config, system, probe, onChange }: EngineSelectorParts) {
    this.#cpu = cpu;
    this.#engines = engines;
    this.#config = config;
    this.#system = system;
    this.#fallsBack = config.engineRefusal === 'software';
    this.#onChange = onChange;
    this.#probe = probe;
    this.#current = engines.software;
    this.#modelStandsIn = config.hardware.accelerator === 'auto';
    this.#unchecked = config.engine === 'hardware';
    if (config.engine !== 'hardware') return;
    try {
      this.#current = engines.get(accelerators({ kind: 'hardware' }, config.hardware)[0]);
    } catch (error) {
      this.#refused(refusalOf(error));
    }
  }

  /** The guest runs on the model or in software instead, where that is wanted. */
  #refused(refusal: EngineUnavailableError): void {
    if (this.#modelStandsIn) {
      this.#current = this.#engines.get({ kind: 'hardware', accelerator: 'model' });
    } else {
      if (!this.#fallsBack || refusal.problem.kind === 'configuration') throw refusal;
      this.#current = this.#engines.software;
    }
    this.#problem = refusal.problem;
  }

  get current(): Engine {
    return this.#current;
  }

  status(): EngineStatus {
    return {
      ...nameOf(this.#current),
      problem: this.#problem,
      detour: this.#detour.reason,
      lastSwitch: this.#lastSwitch,
      switches: this.#switches,
    };
  }

  /** The vCPU is in a state that no engine ran it to: from a snapshot, or at power-on. */
  stateReplaced(): void {
    this.#unchecked = true;
  }

  /**
   * Before a guest goes on from a state that its engine did not run it to: sees whether the hardware is fit for that.
   * @throws EngineUnavailableError
   */
  admit(): void {
    if (!this.#unchecked) return;
    this.#unchecked = false;
    if (this.#current.kind === 'software') return;
    try {
      this.#requireFit(this.#current);
      // Without a probe that is all there is to go by.
      if (this.#fallsBack || this.#modelStandsIn) this.#current.enter?.();
    } catch (error) {
      this.#current.leave();
      this.#refused(refusalOf(error));
      this.#current.flush();
      this.#onChange();
    }
  }

  /** For its present state, and for what an operating system that is still booting will come to use. */
  #requireFit({ accelerator }: Pick<Engine, 'accelerator'> | EngineName): void {
    if (accelerator !== 'kvm' || !this.#probe) return;
    const system = this.#system;
    const reason = unfitFor(this.#cpu, this.#probe) ?? (system && unfitForSystem(system, this.#probe));
    if (reason !== undefined) throw hardwareRefused('unfit', reason);
  }

  /**
   * Makes the engine that a change to a target needs, in steps between which the guest can go on. What is in the way of
   * that is left for the change to tell.
   */
  *prepare(target: EngineTarget, probe = this.#probe): Generator<void, void> {
    this.#probe = probe;
    for (const candidate of accelerators(target, this.#config.hardware)) {
      try {
        this.#requireFit(targetName(candidate));
        yield* this.#engines.prepare(candidate);
        return;
      } catch (error) {
        refusalOf(error);
      }
    }
  }

  /**
   * Has another engine go on with the guest, which stands at an instruction boundary. Where it can't, the guest stays
   * with the engine it has. Must not be called during a run.
   * @param probe what this host's hardware was found to do, if that is newer
   */
  switchTo(target: EngineTarget, probe = this.#probe): EngineSwitch {
    const started = performance.now();
    this.#probe = probe;
    const from = nameOf(this.#current);
    const candidates = accelerators(target, this.#config.hardware);
    let to = targetName(candidates[0]);
    let buildMs = 0;
    /** What the engine before the present one was refused for. */
    let refused: EngineProblem | null = null;
    let problem: EngineProblem | null = null;
    for (const candidate of candidates) {
      const asked = performance.now();
      refused = problem;
      problem = null;
      try {
        const next = this.#engines.get(candidate);
        to = nameOf(next);
        buildMs += performance.now() - asked;
        if (next !== this.#current) this.#moveTo(next);
        break;
      } catch (error) {
        ({ problem } = refusalOf(error));
      }
    }
    const ns = (performance.now() - started) * 1e6;
    this.#lastSwitch = { from, to, problem, ns, buildNs: buildMs * 1e6 };
    if (problem === null) {
      this.#problem = refused;
      this.#modelStandsIn = candidates.length > 1;
    }
    this.#onChange();
    return this.#lastSwitch;
  }

  #moveTo(next: Engine): void {
    const from = this.#current;
    from.leave();
    if (from.shutdownPending === true) {
      throw hardwareRefused(
        'state',
        'The guest has run into a triple fault: it is about to be reset or stopped.',
      );
    }
    this.#requireFit(next);
    // What it knows of memory is from when it ran last, unless that is kept by the one engine that executes for both.
    if ((next.executor ?? next) !== (from.executor ?? from)) next.flush();
    next.enter?.();
    this.#current = next;
    this.#switches++;
    this.#detour.clear();
  }

  /**
   * After a run: an engine that has given up leaves the guest to another for good, with the reason, and one that had it
   * executed in software for a while is told of.
   */
  checkRun(): void {
    const { failure, detour } = this.#current;
    if (failure) this.#retire(failure);
    else if (this.#detour.note(detour, performance.now())) this.#onChange();
  }

  #retire(failure: Error): void {
    const failed = this.#current;
    failed.leave();
    this.#problem = refusalOf(failure).problem;
    this.#current = this.#modelStandsIn
      ? this.#engines.get({ kind: 'hardware', accelerator: 'model' })
      : this.#engines.software;
    this.#current.flush();
    this.#engines.retire(failed);
    this.#detour.clear();
    this.#onChange();
  }
}

function nameOf(engine: Engine): EngineName {
  return { kind: engine.kind, accelerator: engine.accelerator ?? null };
}

function targetName(target: EngineTarget): EngineName {
  return {
    kind: target.kind,
    accelerator: target.kind === 'software' ? null : target.accelerator === 'model' ? 'model' : 'kvm',
  };
}
