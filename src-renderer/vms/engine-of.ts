import type { EngineName } from '../../src-core/protocol/engine.ts';
import type { Vm } from '../../src-core/protocol/vm.ts';

/** The engine that runs a VM now; where it is off, the one it is to start on. */
export function engineOf({ engineStatus, config }: Vm): EngineName {
  if (engineStatus) return { kind: engineStatus.kind, accelerator: engineStatus.accelerator };
  const { engine: kind, accelerator } = config;
  return { kind, accelerator: kind === 'hardware' ? accelerator : null };
}

export function sameEngine(one: EngineName, other: EngineName): boolean {
  return one.kind === other.kind && one.accelerator === other.accelerator;
}
