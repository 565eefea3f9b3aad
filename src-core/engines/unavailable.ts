import type { EngineKind, EngineProblem } from '../protocol/engine.ts';
import { KvmError } from './hardware/kvm/errors.ts';

/** The engine asked for can't be had, or can't run the guest as it is now. */
export class EngineUnavailableError extends Error {
  readonly engine: EngineKind;
  readonly problem: EngineProblem;

  constructor(engine: EngineKind, problem: EngineProblem, options?: ErrorOptions) {
    super(`the ${engine} engine is not available: ${problem.message}`, options);
    this.name = 'EngineUnavailableError';
    this.engine = engine;
    this.problem = problem;
  }
}

/**
 * The hardware engine refused.
 * @param kind `configuration`: no host could serve that. `unfit`: this host can't. `state`: not as the guest is now.
 */
export function hardwareRefused(
  kind: 'configuration' | 'unfit' | 'state',
  message: string,
): EngineUnavailableError {
  const hint =
    kind === 'unfit'
      ? '“cli -- probe”, or Details in the window, tells what this host’s hardware virtualization can do.'
      : null;
  return new EngineUnavailableError('hardware', { kind, message, hint, command: null });
}

/** Why the hardware engine could not be made or entered. What is no such reason is thrown again. */
export function refusalOf(error: unknown): EngineUnavailableError {
  if (error instanceof EngineUnavailableError) return error;
  if (!(error instanceof KvmError)) throw error;
  const { kind, message, hint = null, command = null } = error;
  return new EngineUnavailableError('hardware', { kind, message, hint, command }, { cause: error });
}
