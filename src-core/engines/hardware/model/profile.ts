import { z } from 'zod';
import coreProfile from './profiles/core.json' with { type: 'json' };
import epycProfile from './profiles/epyc.json' with { type: 'json' };
import pentium4Profile from './profiles/p4-672.json' with { type: 'json' };

/**
 * Cost profiles: what the model takes things to cost, in cycles of the modelled processor. A profile is a JSON file; the
 * built-in ones lie in profiles/ beside this and can be copied and edited. Each figure says where it comes from: who
 * published it, what it was derived from, or that it is assumed.
 */

/** Where a figure comes from. */
const sourceSchema = z
  .string()
  .regex(
    /^(assumed|(published|measured|derived): \S.*|assumed: \S.*)$/,
    'must be "assumed" or begin with "assumed: ", "published: ", "measured: " or "derived: "',
  );

const figureSchema = z.strictObject({ value: z.number().min(0).max(1e9), source: sourceSchema });

/**
 * What the VMM does about an exit, between #VMEXIT and VMRUN. By the keys of the exit taxonomy (accounting/exits.ts), but
 * `injection`, which is added where an event is injected on entry.
 */
const handlersSchema = z.strictObject({
  portIo: figureSchema,
  mmio: figureSchema,
  controlRegister: figureSchema,
  msr: figureSchema,
  cpuid: figureSchema,
  hlt: figureSchema,
  invlpg: figureSchema,
  rdtsc: figureSchema,
  truePageFault: figureSchema,
  hiddenPageFault: figureSchema,
  trace: figureSchema,
  exception: figureSchema,
  interrupt: figureSchema,
  interruptWindow: figureSchema,
  otherCallout: figureSchema,
  injection: figureSchema,
});

/** What the processor does itself, in guest mode and without an exit. */
const nativeSchema = z.strictObject({
  /** Delivering an exception or page fault through the IDT. */
  exception: figureSchema,
  /** Delivering an interrupt. */
  interrupt: figureSchema,
  /** IRET, INT n, far jumps, calls and returns. */
  farTransfer: figureSchema,
  /** SYSCALL, SYSRET, SYSENTER, SYSEXIT. */
  systemCall: figureSchema,
});

export const costProfileSchema = z.strictObject({
  format: z.literal('switchyard-cost-profile'),
  version: z.literal(1),
  /** By which it is chosen. */
  name: z.string().regex(/^[a-z0-9][a-z0-9-]*$/, 'must be of small letters, digits and hyphens'),
  /** The processor, in words. */
  title: z.string().min(1),
  /** Clock, MHz. */
  mhz: figureSchema.refine(({ value }) => value > 0, 'must be more than 0'),
  /** The TLB's entries carry address space identifiers; without, each entry and exit empties it. */
  asids: z.strictObject({ value: z.boolean(), source: sourceSchema }),
  cycles: z.strictObject({
    /** An instruction of the guest. */
    instruction: figureSchema,
    /** A memory reference of a page walk. */
    walkReference: figureSchema,
    /** #VMEXIT, and VMRUN. */
    exit: figureSchema,
    entry: figureSchema,
    native: nativeSchema,
    handlers: handlersSchema,
  }),
});
export type CostProfile = z.output<typeof costProfileSchema>;
export type CostHandler = keyof CostProfile['cycles']['handlers'];

/** A cost profile that can't be used. The message says what is wrong in which place. */
export class ProfileError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ProfileError';
  }
}

/** Reads a profile. `where` names it in the message. @throws ProfileError */
export function parseProfile(data: unknown, where: string): CostProfile {
  const result = costProfileSchema.safeParse(data);
  if (result.success) return result.data;
  const issues = result.error.issues.map(({ path, message }) =>
    path.length > 0 ? `${path.join('.')}: ${message}` : message,
  );
  throw new ProfileError(`the cost profile ${where} is not valid: ${issues.slice(0, 3).join('; ')}`, {
    cause: result.error,
  });
}

/** The built-in profiles, the default one first. */
export const BUILT_IN_PROFILES: readonly CostProfile[] = [
  parseProfile(epycProfile, 'epyc'),
  parseProfile(coreProfile, 'core'),
  parseProfile(pentium4Profile, 'p4-672'),
];

/** A built-in profile; the default one unless named. @throws ProfileError */
export function builtInProfile(name?: string): CostProfile {
  const profile =
    name === undefined ? BUILT_IN_PROFILES[0] : BUILT_IN_PROFILES.find((one) => one.name === name);
  if (profile) return profile;
  const names = BUILT_IN_PROFILES.map((one) => one.name).join(', ');
  throw new ProfileError(`there is no cost profile "${name}"; built in are ${names}`);
}
