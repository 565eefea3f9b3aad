import { z } from 'zod';

/** What this host's hardware virtualization was found to do, by running small guests on it. */

/** What a small guest tries out. */
export const probeCheckIdSchema = z.enum([
  'realMode',
  'protectedMode',
  'paging32',
  'pagingPae',
  'longMode',
  'cpuid',
  'pageFault',
  'ring3Int32',
  'ring3Int',
  'ring3Syscall',
  'interrupts',
  'x87',
  'sse',
]);
export type ProbeCheckId = z.infer<typeof probeCheckIdSchema>;

export const PROBE_CHECK_LABELS: Record<ProbeCheckId, string> = {
  realMode: '16-bit real mode',
  protectedMode: '32-bit protected mode without paging',
  paging32: '32-bit paging',
  pagingPae: 'PAE paging',
  longMode: 'Long mode, ring 0',
  cpuid: 'CPUID as the machine has it',
  pageFault: 'Page faults in long mode',
  ring3Int32: 'Ring 3 and back by INT, 32-bit paging',
  ring3Int: 'Ring 3 and back by INT, long mode',
  ring3Syscall: 'Ring 3 and back by SYSCALL',
  interrupts: 'Interrupts, and waiting for them to be enabled',
  x87: 'x87 arithmetic in ring 0',
  sse: 'SSE in ring 0',
};

export const probeCheckSchema = z.strictObject({
  id: probeCheckIdSchema,
  works: z.boolean(),
  /** What happened where it does not work; empty where it does. */
  detail: z.string(),
});
export type ProbeCheck = z.infer<typeof probeCheckSchema>;

/** Speed of what the guests measure. */
export const probeSpeedSchema = z.strictObject({
  /** Host ns from one OUT in a loop to the next, our handler included: the median of batches. */
  exitNs: z.number().nonnegative(),
  /** Guest instructions a second in a loop of ring 0. */
  instructionsPerSecond: z.number().nonnegative(),
});
export type ProbeSpeed = z.infer<typeof probeSpeedSchema>;

/** What KVM says of itself. */
export const probeHostSchema = z.strictObject({
  /** Kernel module that serves /dev/kvm: "kvm_intel", "kvm_amd" or another; null where that can't be told. */
  module: z.string().nullable(),
  /** The processor walks guest page tables (EPT, NPT); otherwise KVM keeps shadow page tables. */
  nestedPaging: z.boolean(),
  /** The guest's time-stamp counter can run at the machine's rate; otherwise it runs at the host's. */
  tscScaling: z.boolean(),
  /** Processor features that guests are shown and this host does not have. */
  missingFeatures: z.array(z.string()),
});
export type ProbeHost = z.infer<typeof probeHostSchema>;

export const probeFailureSchema = z.strictObject({
  /** KvmErrorKind, or `timeout` and `crash` of the process that probes. */
  kind: z.string(),
  message: z.string(),
  hint: z.string().nullable(),
  /** A command that mends it. */
  command: z.string().nullable(),
});
export type ProbeFailure = z.infer<typeof probeFailureSchema>;

/**
 * - `able`: everything tried works. `partly`: some of it does; `checks` says what.
 * - `unable`: no guest runs; `failure` says why.
 */
export const hardwareProbeSchema = z.strictObject({
  verdict: z.enum(['able', 'partly', 'unable']),
  failure: probeFailureSchema.nullable(),
  host: probeHostSchema.nullable(),
  checks: z.array(probeCheckSchema),
  speed: probeSpeedSchema.nullable(),
});
export type HardwareProbe = z.infer<typeof hardwareProbeSchema>;

/** What the process that probes says, in this order, so that one that hangs or dies has told what went before. */
export const probeMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('host'), host: probeHostSchema }),
  z.strictObject({ type: z.literal('begin'), id: probeCheckIdSchema }),
  z.strictObject({ type: z.literal('check'), check: probeCheckSchema }),
  z.strictObject({ type: z.literal('speed'), speed: probeSpeedSchema }),
  z.strictObject({ type: z.literal('failure'), failure: probeFailureSchema }),
  z.strictObject({ type: z.literal('end') }),
]);
export type ProbeMessage = z.infer<typeof probeMessageSchema>;
