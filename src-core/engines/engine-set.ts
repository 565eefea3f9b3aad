import type { Arena } from '../machine/arena.ts';
import type { EngineTarget, HardwareOptions } from '../protocol/engine.ts';
import type { ClockKind, TranslatorOptions } from '../protocol/machine-config.ts';
import type { EngineCounters } from '../protocol/vm.ts';
import type { Cpu } from '../x86/cpu.ts';
import type { Engine } from './engine.ts';
import { HardwareEngine } from './hardware/kvm/hardware-engine.ts';
import { ModelEngine } from './hardware/model/model-engine.ts';
import { builtInProfile, ProfileError } from './hardware/model/profile.ts';
import { libc } from './hardware/kvm/libc.ts';
import { SoftwareEngine } from './software/software-engine.ts';
import { hardwareRefused } from './unavailable.ts';

/** What engines are made from. */
export interface EngineParts {
  readonly arena: Arena;
  readonly cpu: Cpu;
  readonly clock: ClockKind;
  readonly translator: TranslatorOptions;
  /** What a target leaves out. */
  readonly hardware: HardwareOptions;
}

/** Which engine, everything said. */
type Wanted =
  | { readonly kind: 'software' }
  | ({ readonly kind: 'hardware'; readonly accelerator: 'kvm' | 'model' } & Omit<
      HardwareOptions,
      'accelerator'
    >);

/**
 * What a target means, in the order in which it is to be tried: `auto` is KVM, and the model where that can't run the
 * guest.
 * @param configured what the target leaves out
 */
export function accelerators(
  target: EngineTarget,
  configured: HardwareOptions,
): [EngineTarget, ...EngineTarget[]] {
  if (target.kind === 'software' || (target.accelerator ?? configured.accelerator) !== 'auto')
    return [target];
  return [
    { ...target, accelerator: 'kvm' },
    { ...target, accelerator: 'model' },
  ];
}

/**
 * The engines of a machine. The software engine is there from the start; the others are made when they are first needed
 * and stay for the next change, so that a change moves state and builds nothing.
 */
export class EngineSet {
  readonly #parts: EngineParts;
  /** In the order in which they were made. */
  readonly #made = new Map<string, Engine>();
  readonly software: SoftwareEngine;
  /** What the engines that are gone counted last. */
  readonly #finalCounters: EngineCounters = {};

  constructor(parts: EngineParts) {
    this.#parts = parts;
    const { arena, cpu, translator } = parts;
    this.software = new SoftwareEngine({ arena, cpu, translator });
    this.#made.set(keyOf({ kind: 'software' }), this.software);
  }

  /** The engine for a target. @throws EngineUnavailableError, KvmError */
  get(target: EngineTarget): Engine {
    const wanted = this.#complete(target);
    const key = keyOf(wanted);
    let engine = this.#made.get(key);
    if (!engine) this.#made.set(key, (engine = this.#make(wanted)));
    return engine;
  }

  #complete(target: EngineTarget): Wanted {
    if (target.kind === 'software') return target;
    const { accelerator, ...rest } = { ...this.#parts.hardware, ...target };
    return { accelerator: accelerator === 'model' ? 'model' : 'kvm', ...rest };
  }

  #make(wanted: Wanted): Engine {
    if (wanted.kind === 'software') return this.software;
    const { arena, cpu, clock } = this.#parts;
    const { software } = this;
    if (wanted.accelerator === 'model') return this.#makeModel(wanted);
    if (clock === 'icount') {
      throw hardwareRefused(
        'configuration',
        'Hardware does not count instructions, which the icount clock needs.',
      );
    }
    const kvm = wanted.device === undefined ? {} : { device: wanted.device };
    return new HardwareEngine({ arena, cpu, software, kvm });
  }

  #makeModel({ mmu = 'nested', profile }: Omit<HardwareOptions, 'accelerator'>): Engine {
    const { cpu } = this.#parts;
    try {
      const costs = typeof profile === 'object' ? profile : builtInProfile(profile);
      return new ModelEngine({ cpu, software: this.software, mmu, profile: costs });
    } catch (error) {
      if (!(error instanceof ProfileError)) throw error;
      throw hardwareRefused('configuration', error.message);
    }
  }

  /**
   * `get` in steps of a few ms at most, so that the guest can go on between them.
   * @throws EngineUnavailableError, KvmError
   */
  *prepare(target: EngineTarget): Generator<void, void> {
    const wanted = this.#complete(target);
    if (this.#made.has(keyOf(wanted))) return;
    if (wanted.kind === 'hardware' && wanted.accelerator === 'kvm') {
      this.warmUp();
      yield;
    }
    this.get(target);
    yield;
  }

  /** Loads what a hardware engine needs and is slow to come. */
  warmUp(): void {
    libc();
  }

  /** Takes down an engine that can't go on; asked for again, it is made anew. */
  retire(engine: Engine): void {
    for (const [key, made] of this.#made) {
      if (made !== engine) continue;
      this.#made.delete(key);
      try {
        this.#keepCounters(engine);
      } finally {
        engine.dispose();
      }
    }
  }

  /** What lies under the engines counts, by accelerator. Also of engines that are not in use, and after `dispose`. */
  counters(): EngineCounters {
    for (const engine of this.#made.values()) this.#keepCounters(engine);
    return structuredClone(this.#finalCounters);
  }

  #keepCounters(engine: Engine): void {
    if (engine.counters && engine.accelerator) this.#finalCounters[engine.accelerator] = engine.counters();
  }

  /** Takes all engines down, last made first: they stand on the software engine. Idempotent. */
  dispose(): void {
    const engines = [...this.#made.values()].reverse();
    this.#made.clear();
    try {
      for (const engine of engines) this.#keepCounters(engine);
    } finally {
      disposeAll(engines);
    }
  }
}

function disposeAll(engines: Engine[]): void {
  const [first, ...rest] = engines;
  if (!first) return;
  try {
    first.dispose();
  } finally {
    disposeAll(rest);
  }
}

function keyOf(wanted: Wanted): string {
  if (wanted.kind === 'software') return 'software';
  const { accelerator, mmu = '', profile = '', device = '' } = wanted;
  const costs = typeof profile === 'object' ? JSON.stringify(profile) : profile;
  return ['hardware', accelerator, mmu, costs, device].join(' ');
}
