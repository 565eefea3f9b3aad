import { ProfileError } from '../../src-core/engines/hardware/model/profile.ts';
import type { HardwareOptionsInput } from '../../src-core/protocol/machine-config.ts';
import { loadProfile } from '../profiles.ts';
import { parseChoice, UsageError } from './usage.ts';

/** The options of the hardware engine, for parseArgs. */
export const HARDWARE_OPTIONS = {
  accelerator: { type: 'string' },
  'kvm-device': { type: 'string' },
  mmu: { type: 'string' },
  profile: { type: 'string' },
} as const;

/** Their lines in a command's help. */
export const HARDWARE_HELP = `  --accelerator NAME       of the hardware engine: kvm, model (hardware virtualization as a model: modelled exits
                           and cycles, on any machine) or auto (KVM where that can run the guest)
  --kvm-device PATH        where KVM is, if not at /dev/kvm
  --mmu NAME               of the model: nested (default) or shadow paging
  --profile NAME|FILE      of the model: what things cost, a built-in profile (epyc, core, p4-672) or a JSON file`;

/** Checks what was given. --mmu and --profile alone mean the model. @throws UsageError */
export function parseHardwareOptions(
  values: Readonly<Partial<Record<keyof typeof HARDWARE_OPTIONS, string | undefined>>>,
  engine: 'software' | 'hardware',
): HardwareOptionsInput {
  const choice = <T extends string>(option: string, text: string | undefined, choices: readonly T[]) =>
    text === undefined ? undefined : parseChoice(option, text, choices);
  const mmu = choice('--mmu', values.mmu, ['shadow', 'nested']);
  const { profile, 'kvm-device': device } = values;
  const given = choice('--accelerator', values.accelerator, ['kvm', 'model', 'auto']);
  for (const [option, value] of Object.entries({ accelerator: given, mmu, profile })) {
    if (value !== undefined && engine !== 'hardware') {
      throw new UsageError(`--${option} needs --engine hardware`);
    }
    if (value !== undefined && option !== 'accelerator' && given === 'kvm') {
      throw new UsageError(`--${option} belongs to the model, not to --accelerator kvm`);
    }
  }
  if (device !== undefined && engine !== 'hardware')
    throw new UsageError('--kvm-device needs --engine hardware');
  if (device === '') throw new UsageError('--kvm-device needs a path');
  if (profile === '') throw new UsageError('--profile needs a name or a file');
  const accelerator = given ?? (mmu !== undefined || profile !== undefined ? 'model' : undefined);
  return {
    ...(accelerator !== undefined && { accelerator }),
    ...(mmu !== undefined && { mmu }),
    ...(profile !== undefined && { profile: load(profile) }),
    ...(device !== undefined && { device }),
  };
}

function load(profile: string) {
  try {
    return loadProfile(profile);
  } catch (error) {
    if (!(error instanceof ProfileError)) throw error;
    throw new UsageError(`--profile: ${error.message}`);
  }
}
