import { z } from 'zod';
import { inspectionQuerySchema, inspectionSchema, regionDetailSchema } from './inspection.ts';
import { apiErrorSchema } from './messages.ts';
import { engineStatusSchema, engineSwitchSchema, engineTargetSchema } from './engine.ts';
import { hardwareProbeSchema } from './hardware-probe.ts';
import { engineCountersSchema, engineKindSchema, exitSnapshotSchema, vmConfigSchema } from './vm.ts';

/**
 * What the host and the process of one VM say to each other. The pipe carries structured clones, so bytes travel
 * as Uint8Array. The host's messages are requests; each gets one reply. The VM's process also reports events.
 */

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'bytes are needed');
const port = z.union([z.literal(0), z.literal(1)]);
const none = z.object({}).strict();

export const vmProcessRequests = {
  /** Builds the machine and, unless `paused`, lets it run. Comes once, first. */
  start: {
    params: z.object({
      config: vmConfigSchema,
      /** Start from this snapshot file instead of booting. */
      snapshotPath: z.string().nullable(),
      paused: z.boolean(),
      /** What the host's hardware virtualization was found to do; null where that is not known (yet). */
      probe: hardwareProbeSchema.nullable(),
    }),
    result: z.object({ engine: engineStatusSchema, exits: exitSnapshotSchema, guestNs: z.number() }),
  },
  pause: { params: none, result: none },
  resume: { params: none, result: none },
  /** Hard reset; a paused machine stays paused. */
  reset: { params: none, result: none },
  powerButton: { params: none, result: none },
  /** Has another engine go on with the guest. One that can't is no failure: the result says so. */
  switchEngine: {
    params: z.object({ target: engineTargetSchema, probe: hardwareProbeSchema.nullable() }),
    result: engineSwitchSchema,
  },
  serialInput: { params: z.object({ port, bytes }), result: none },
  /** The host has taken in so many bytes of serial output. The guest waits when too many are outstanding. */
  serialAck: { params: z.object({ port, length: z.number().int().nonnegative() }), result: none },
  /** Writes the machine's state to a new file, synced to disk under its final name. The machine goes on as it was. */
  saveSnapshot: { params: z.object({ path: z.string() }), result: z.object({ sizeBytes: z.number() }) },
  /** What the software engine has translated; null while another engine runs the guest. */
  inspect: { params: inspectionQuerySchema, result: inspectionSchema.nullable() },
  /** One region in full; null when it does not live any more. */
  inspectRegion: { params: z.object({ region: z.number().int() }), result: regionDetailSchema.nullable() },
} as const;

export type VmProcessRequest = keyof typeof vmProcessRequests;
export type VmProcessParams<R extends VmProcessRequest> = z.output<(typeof vmProcessRequests)[R]['params']>;
export type VmProcessResult<R extends VmProcessRequest> = z.output<(typeof vmProcessRequests)[R]['result']>;

export const vmProcessRequestSchema = z.object({
  id: z.number().int(),
  request: z.enum(Object.keys(vmProcessRequests) as [VmProcessRequest, ...VmProcessRequest[]]),
  params: z.unknown(),
});

/** What the VM's process says. */
export const vmProcessMessageSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('reply'), id: z.number().int(), result: z.unknown() }),
  z.object({ type: z.literal('failure'), id: z.number().int(), error: apiErrorSchema }),
  /** Loaded and ready for `start`. */
  z.object({ type: z.literal('ready') }),
  z.object({ type: z.literal('serial'), port, bytes }),
  z.object({
    type: z.literal('statistics'),
    engine: engineKindSchema,
    guestNs: z.number(),
    exits: exitSnapshotSchema,
    counters: engineCountersSchema,
    /** CPU time of the process so far, ms. */
    cpuMs: z.number(),
    residentBytes: z.number(),
  }),
  z.object({
    type: z.literal('progress'),
    task: z.enum(['snapshot', 'restore']),
    fraction: z.number(),
    text: z.string(),
  }),
  /** The engine was changed, could not be, or gave up. */
  z.object({
    type: z.literal('engine'),
    status: engineStatusSchema,
    /** Counters at the change: what they hold happened on the engines before. */
    exits: exitSnapshotSchema,
    guestNs: z.number(),
  }),
  /** The guest reset itself and boots again. */
  z.object({ type: z.literal('reset') }),
  /** The guest is done; the process ends after this. */
  z.object({
    type: z.literal('ended'),
    kind: z.enum(['powerOff', 'tripleFault']),
    message: z.string(),
    hint: z.string().optional(),
  }),
]);
export type VmProcessMessage = z.infer<typeof vmProcessMessageSchema>;

/** Bytes of serial output a VM's process sends ahead of the host's acknowledgements before the guest waits. */
export const VM_SERIAL_WINDOW_BYTES = 256 * 1024;

/** How often a VM's process reports statistics, ms. */
export const STATISTICS_INTERVAL_MS = 500;
