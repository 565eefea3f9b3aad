import type { EngineInfo } from '../../src-core/protocol/api.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';
import { engineLabels, type EngineKind } from '../../src-core/protocol/vm.ts';

/** The engines of this Switchyard on this host. */
export function engineInfos(): EngineInfo[] {
  return [
    {
      kind: 'software',
      label: engineLabels.software,
      available: true,
      detail: 'Interpreter, and a translator of hot code to WebAssembly; runs on any host.',
    },
    {
      kind: 'hardware',
      label: engineLabels.hardware,
      available: false,
      detail:
        'In this version only the command line can use it (run --engine hardware; probe tells what this host can do).',
    },
  ];
}

/** @throws ApiError `unavailable` when the engine cannot be used on this host. */
export function requireEngine(kind: EngineKind): void {
  const info = engineInfos().find((candidate) => candidate.kind === kind);
  if (info?.available !== true) {
    throw new ApiError({
      code: 'unavailable',
      message: `The ${kind} engine is not available: ${info?.detail ?? 'it is unknown.'}`,
      hint: 'Use the software engine.',
    });
  }
}
