import type { EngineInfo } from '../../src-core/protocol/api.ts';
import { describeProblem, engineLabel, engineLabels } from '../../src-core/protocol/engine.ts';
import { type HardwareProbe, PROBE_CHECK_LABELS } from '../../src-core/protocol/hardware-probe.ts';

/** Finds out, in a process of its own, what this host's hardware virtualization can do. Does not reject. */
export type Prober = () => Promise<HardwareProbe>;

/** The engines of this host. What its hardware can do is found out once, and again when that is asked for. */
export class HostEngines {
  readonly #prober: Prober;
  readonly #onChange: () => void;
  #probing: Promise<HardwareProbe> | undefined;
  #known: HardwareProbe | null = null;

  /** @param onChange what `infos` says is different now */
  constructor(prober: Prober, onChange: () => void) {
    this.#prober = prober;
    this.#onChange = onChange;
  }

  /** What was found last; null while that is not known. */
  get known(): HardwareProbe | null {
    return this.#known;
  }

  /** What the hardware can do, found out when it is first asked. */
  probe(): Promise<HardwareProbe> {
    this.#probing ??= this.#find();
    return this.#probing;
  }

  /** The same, found out anew: a permission may have been given since. */
  probeAgain(): Promise<HardwareProbe> {
    this.#probing = undefined;
    return this.probe();
  }

  async #find(): Promise<HardwareProbe> {
    const found = await this.#prober();
    this.#known = found;
    this.#onChange();
    return found;
  }

  infos(): EngineInfo[] {
    return [
      {
        kind: 'software',
        accelerator: null,
        label: engineLabels.software,
        available: true,
        detail: 'Interpreter, and a translator of hot code to WebAssembly; runs on any host.',
      },
      {
        kind: 'hardware',
        accelerator: 'kvm',
        label: engineLabels.hardware,
        available: this.#known !== null && this.#known.verdict !== 'unable',
        detail: describeHardware(this.#known),
      },
      {
        kind: 'hardware',
        accelerator: 'model',
        label: engineLabel({ kind: 'hardware', accelerator: 'model' }),
        available: true,
        detail: 'Hardware virtualization as a model of ours, on any host: its exits and cycles are modelled.',
      },
    ];
  }
}

/** In a few sentences: what hardware virtualization is good for here, or why it is not and what to do. */
function describeHardware(probe: HardwareProbe | null): string {
  if (!probe) return 'It is being found out what this host’s hardware virtualization can do.';
  const { verdict, failure, host, checks } = probe;
  if (verdict === 'unable') {
    return failure ? describeProblem(failure) : 'No guest runs on this host’s hardware.';
  }
  const by = host?.module ? `Linux KVM (${host.module})` : 'Linux KVM';
  if (verdict === 'able') return `The processor’s own virtualization, through ${by}.`;
  const failing = checks.filter(({ works }) => !works).map(({ id }) => PROBE_CHECK_LABELS[id]);
  const lacks = failing.length === 0 ? '' : ` Not for guests that need: ${failing.join('; ')}.`;
  return `The processor’s own virtualization, through ${by}; it works in part.${lacks}`;
}
