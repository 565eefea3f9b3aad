/** Engines where there is no machine: what the processes that play one say of theirs, and probes of hosts made up. */
import type {
  Accelerator,
  EngineName,
  EngineProblem,
  EngineStatus,
  EngineSwitch,
  EngineTarget,
} from '../../src-core/protocol/engine.ts';
import {
  type HardwareProbe,
  PROBE_CHECK_LABELS,
  type ProbeCheckId,
  probeCheckIdSchema,
} from '../../src-core/protocol/hardware-probe.ts';

const SOFTWARE: EngineName = { kind: 'software', accelerator: null };
const HARDWARE = { kind: 'hardware', accelerator: 'kvm' } as const;
/** What a change takes, ns. */
const SWITCH_NS = 412_000;

const NO_KVM = {
  kind: 'absent',
  message: 'This host has no /dev/kvm.',
  hint: 'Load the module.',
  command: null,
};
/** What a guest that uses it gets to hear on a host of `partialProbe`. */
export const UNFIT: EngineProblem = {
  kind: 'unfit',
  message: 'This host’s hardware fails at what the guest uses: Ring 3 and back by SYSCALL (a fault).',
  hint: null,
  command: null,
};

/** A host without hardware virtualization. */
export const unableProbe: HardwareProbe = {
  verdict: 'unable',
  failure: NO_KVM,
  host: null,
  checks: [],
  speed: null,
};

/** A host whose hardware does all but what is named. */
export function partialProbe(...failing: ProbeCheckId[]): HardwareProbe {
  return {
    verdict: failing.length === 0 ? 'able' : 'partly',
    failure: null,
    host: { module: 'kvm_test', nestedPaging: true, tscScaling: true, missingFeatures: [] },
    checks: probeCheckIdSchema.options.map((id) => {
      const works = !failing.includes(id);
      return { id, works, detail: works ? '' : `${PROBE_CHECK_LABELS[id]} is not there` };
    }),
    speed: { exitNs: 1000, instructionsPerSecond: 2e9 },
  };
}

/** The engines of a guest that is not there. One whose command line says `unfit` does not run on the hardware. */
export class FakeEngines {
  status: EngineStatus = { ...SOFTWARE, problem: null, detour: null, lastSwitch: null, switches: 0 };
  #unfit = false;

  start(
    config: { engine: string; accelerator: Accelerator; commandLine: string },
    probe: HardwareProbe | null,
  ): EngineStatus {
    this.#unfit = config.commandLine.includes('unfit');
    const hardware = config.engine === 'hardware';
    const problem = hardware ? this.#problem(config.accelerator, probe) : null;
    const name: EngineName =
      hardware && !problem ? { ...HARDWARE, accelerator: config.accelerator } : SOFTWARE;
    this.status = { ...name, problem, detour: null, lastSwitch: null, switches: 0 };
    return this.status;
  }

  switch(target: EngineTarget, probe: HardwareProbe | null): EngineSwitch {
    const { kind, accelerator } = this.status;
    const wanted = target.kind === 'hardware' && target.accelerator === 'model' ? 'model' : 'kvm';
    const problem = target.kind === 'hardware' ? this.#problem(wanted, probe) : null;
    const to: EngineName = target.kind === 'hardware' ? { ...HARDWARE, accelerator: wanted } : SOFTWARE;
    const lastSwitch: EngineSwitch = {
      from: { kind, accelerator },
      to,
      problem,
      ns: SWITCH_NS,
      buildNs: 0,
    };
    this.status = problem
      ? { ...this.status, lastSwitch }
      : { ...to, problem: null, detour: null, lastSwitch, switches: this.status.switches + 1 };
    return lastSwitch;
  }

  #problem(accelerator: Accelerator, probe: HardwareProbe | null): EngineProblem | null {
    if (accelerator === 'model') return null;
    return probe?.verdict === 'unable' ? NO_KVM : this.#unfit ? UNFIT : null;
  }
}
