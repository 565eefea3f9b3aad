import { z } from 'zod';
import { costProfileSchema } from '../engines/hardware/model/profile.ts';

/** Engines: which there are, which one runs a guest, and how it came to that. */

export const engineKindSchema = z.enum(['software', 'hardware']);
export type EngineKind = z.infer<typeof engineKindSchema>;

export const engineLabels: Record<EngineKind, string> = { software: 'Software', hardware: 'Hardware' };

/** `kvm`: the processor's own virtualization. `model`: hardware virtualization as a model, on any machine. */
export const acceleratorSchema = z.enum(['kvm', 'model']);
export type Accelerator = z.infer<typeof acceleratorSchema>;

/** How the hardware engine runs a guest; what is left out is the engine's choice. */
export const hardwareOptionsSchema = z.strictObject({
  /** `kvm` unless given. `auto`: KVM where this host's can run the guest, else the model. */
  accelerator: z.enum([...acceleratorSchema.options, 'auto']).optional(),
  /** How the model virtualizes memory: shadow page tables, or two-dimensional (nested) page walks (unless given). */
  mmu: z.enum(['shadow', 'nested']).optional(),
  /** Cost profile of the model: the name of a built-in one, or one of the caller's own. */
  profile: z.union([z.string().min(1), costProfileSchema]).optional(),
  /** Where KVM is, if not at /dev/kvm. */
  device: z.string().min(1).optional(),
});
export type HardwareOptionsInput = z.input<typeof hardwareOptionsSchema>;
export type HardwareOptions = z.output<typeof hardwareOptionsSchema>;

/** The engine a guest is to run on. What is left out of the hardware's options is as the machine was configured. */
export const engineTargetSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('software') }),
  hardwareOptionsSchema.extend({ kind: z.literal('hardware') }),
]);
export type EngineTarget = z.output<typeof engineTargetSchema>;

/** Why an engine can't be had or can't run a guest, for people. */
export const engineProblemSchema = z.strictObject({
  /** KvmErrorKind, or `unfit` for what a probe found the host unable to do, or `configuration`. */
  kind: z.string(),
  message: z.string(),
  /** What to do about it, where that is known. */
  hint: z.string().nullable(),
  /** A command that mends it. */
  command: z.string().nullable(),
});
export type EngineProblem = z.infer<typeof engineProblemSchema>;

/** An engine by name: `accelerator` is null for the software engine. */
export const engineNameSchema = z.strictObject({
  kind: engineKindSchema,
  accelerator: acceleratorSchema.nullable(),
});
export type EngineName = z.infer<typeof engineNameSchema>;

/** What came of an attempt to change the engine of a guest. */
export const engineSwitchSchema = z.strictObject({
  from: engineNameSchema,
  to: engineNameSchema,
  /** Null when the guest runs on the other engine now; otherwise why it stays where it was. */
  problem: engineProblemSchema.nullable(),
  /** Host time for which the guest stood still, ns. */
  ns: z.number().nonnegative(),
  /** The part of it that making the engine took: 0 for one that was there already. */
  buildNs: z.number().nonnegative(),
});
export type EngineSwitch = z.infer<typeof engineSwitchSchema>;

/** The engine that runs a guest. */
export const engineStatusSchema = engineNameSchema.extend({
  /** Why the guest does not run on the engine it was configured for, or no longer does; null when it does. */
  problem: engineProblemSchema.nullable(),
  /**
   * Why the software engine executes the guest, or did so a moment ago, in the place of the engine named here, which does
   * not take the mode that the guest is in; null when it does not.
   */
  detour: engineProblemSchema.nullable(),
  /** The latest attempt to change engines; null before the first. */
  lastSwitch: engineSwitchSchema.nullable(),
  /** Changes so far. */
  switches: z.int().nonnegative(),
});
export type EngineStatus = z.infer<typeof engineStatusSchema>;

/** What an engine is called where there is room for a word. */
export function engineLabel({ kind, accelerator }: EngineName): string {
  return accelerator === 'model' ? 'Model' : engineLabels[kind];
}

/** "hardware (KVM)" and the like, for messages. */
export function describeEngine({ kind, accelerator }: EngineName): string {
  if (accelerator === null) return kind;
  return `${kind} (${accelerator === 'kvm' ? 'KVM' : 'modelled'})`;
}

/** A problem in one line. */
export function describeProblem({ message, hint, command }: EngineProblem): string {
  const advice = [hint, command === null ? null : `Try: ${command}`].filter((part) => part !== null);
  return [message, ...advice].join(' ');
}
