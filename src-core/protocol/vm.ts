import { z } from 'zod';
import { MEMORY_MIB_MAX, MEMORY_MIB_MIN } from '../machine/arena.ts';
import { acceleratorSchema, engineKindSchema, engineStatusSchema } from './engine.ts';

/** What the host knows of a VM, as the window sees it. */

export { MEMORY_MIB_MAX, MEMORY_MIB_MIN };
export { engineKindSchema, engineLabels, type EngineKind } from './engine.ts';

/** Longest VM or snapshot name, UTF-16 code units. */
export const NAME_LENGTH_MAX = 100;
/** Longest kernel command line, bytes: what Linux on x86 takes (COMMAND_LINE_SIZE, less the terminating zero). */
export const COMMAND_LINE_LENGTH_MAX = 2047;

/** A name for people: trimmed, not empty, no control characters. */
export const nameSchema = z
  .string()
  .trim()
  .min(1, 'a name is needed')
  .max(NAME_LENGTH_MAX, `at most ${NAME_LENGTH_MAX} characters`)
  .refine((name) => !/\p{Cc}/u.test(name), 'no control characters');

/** Absolute path of a file on the host. */
export const pathSchema = z.string().min(1, 'a file is needed').max(4096, 'the path is too long');

/** A Multiboot module: a file and the command line it is passed with. */
export const moduleSchema = z.object({
  path: pathSchema,
  commandLine: z.string().max(COMMAND_LINE_LENGTH_MAX),
});

/**
 * A VM's configuration: what the create and edit dialogs hold and what the registry keeps. This schema checks form
 * only; whether the files are there and fit is for the host to say (`validateConfig`).
 */
export const vmConfigSchema = z.object({
  name: nameSchema,
  memoryMib: z
    .number('a number of MiB is needed')
    .int('a whole number of MiB is needed')
    .min(MEMORY_MIB_MIN, `at least ${MEMORY_MIB_MIN} MiB`)
    .max(MEMORY_MIB_MAX, `at most ${MEMORY_MIB_MAX} MiB`),
  /** Linux bzImage or Multiboot image; null boots the firmware. */
  kernel: pathSchema.nullable(),
  initrd: pathSchema.nullable(),
  /** Multiboot modules. */
  modules: z.array(moduleSchema).max(32, 'at most 32 modules'),
  /** The kernel's command line. */
  commandLine: z
    .string()
    .max(COMMAND_LINE_LENGTH_MAX, `at most ${COMMAND_LINE_LENGTH_MAX} characters`)
    .refine((text) => !/[\0\n\r]/.test(text), 'one line without NUL characters'),
  /** BIOS image; null uses none (a kernel is then needed). */
  firmware: pathSchema.nullable(),
  engine: engineKindSchema,
  /** What the hardware engine runs the guest with. */
  accelerator: acceleratorSchema.default('kvm'),
  /** Free text. */
  notes: z.string().max(10_000, 'at most 10000 characters'),
});
export type VmConfig = z.infer<typeof vmConfigSchema>;

/** What a new VM starts from in the create dialog. */
export const DEFAULT_VM_CONFIG: VmConfig = {
  name: '',
  memoryMib: 256,
  kernel: null,
  initrd: null,
  modules: [],
  commandLine: 'console=ttyS0',
  firmware: null,
  engine: 'software',
  accelerator: 'kvm',
  notes: '',
};

export const vmIdSchema = z.uuid();
export const snapshotIdSchema = z.uuid();

/**
 * - `stopped`: no process. `starting`: its process is coming up. `running`, `paused`.
 * - `stopping`: told to end, its process is going away.
 * - `crashed`: its process ended by itself; `lastEnd` says how. It can be started again.
 */
export const vmStateSchema = z.enum(['stopped', 'starting', 'running', 'paused', 'stopping', 'crashed']);
export type VmState = z.infer<typeof vmStateSchema>;

/** How the VM's last run ended. */
export const vmEndSchema = z.object({
  kind: z.enum(['powerOff', 'forceOff', 'tripleFault', 'startFailed', 'crash']),
  /** Host time, ms since 1970. */
  at: z.number(),
  /** One sentence for people. */
  message: z.string(),
  hint: z.string().optional(),
});
export type VmEnd = z.infer<typeof vmEndSchema>;

export const vmSchema = z.object({
  id: vmIdSchema,
  config: vmConfigSchema,
  /** `firstGuest`: made by the first-guest installer. */
  origin: z.enum(['user', 'firstGuest']),
  state: vmStateSchema,
  /** Something long under way that keeps other commands off. */
  busy: z.enum(['snapshot', 'restore']).nullable(),
  /** The engine that runs the guest now; null when it is not running. */
  activeEngine: engineKindSchema.nullable(),
  /** More about it: accelerator, the latest change, why it is not the one configured. Null when it is not running. */
  engineStatus: engineStatusSchema.nullable(),
  /** Host times, ms since 1970. */
  createdAt: z.number(),
  modifiedAt: z.number(),
  /** When the present run started; null when there is none. */
  startedAt: z.number().nullable(),
  lastEnd: vmEndSchema.nullable(),
  /** The configuration changed since this run started: it takes effect at the next start. */
  restartNeeded: z.boolean(),
  snapshotCount: z.number().int(),
  /** The snapshot the present state descends from; null for none. */
  currentSnapshotId: snapshotIdSchema.nullable(),
});
export type Vm = z.infer<typeof vmSchema>;

export const snapshotSchema = z.object({
  id: snapshotIdSchema,
  vmId: vmIdSchema,
  name: nameSchema,
  /** The snapshot it was taken after; null at the root. */
  parentId: snapshotIdSchema.nullable(),
  createdAt: z.number(),
  /** Size of its file. */
  sizeBytes: z.number(),
  memoryMib: z.number(),
  /** The engine the guest ran on when it was taken. It can be restored under any. */
  engine: engineKindSchema,
});
export type Snapshot = z.infer<typeof snapshotSchema>;

/** A copy of the exit counters (accounting/exits.ts). */
export const exitSnapshotSchema = z.object({
  reasons: z.record(
    z.string(),
    z.object({
      count: z.number(),
      timed: z.number(),
      ns: z.number(),
      histogram: z.array(z.number()),
      modelled: z.object({ count: z.number(), ns: z.number() }).optional(),
    }),
  ),
  details: z.record(z.string(), z.record(z.string(), z.number())),
  time: z.record(z.string(), z.number()),
  instructions: z.number(),
});

/** What lies under the hardware engine counts too: by accelerator, then by names of its own. */
export const engineCountersSchema = z.record(z.string(), z.record(z.string(), z.number()));
export type EngineCounters = z.infer<typeof engineCountersSchema>;

/** One tick of a running VM's statistics. Counters count from power-on (or from the last restore or reset). */
export const statisticsSchema = z.object({
  vmId: vmIdSchema,
  /** Host time, ms since 1970. */
  at: z.number(),
  engine: engineKindSchema,
  /** Counters of what lies under the hardware engine, by accelerator and name; those of KVM are its own. */
  counters: engineCountersSchema,
  /** Host ms between this tick and the one before; 0 for the first of a run. */
  intervalMs: z.number(),
  /** Guest ns since power-on. */
  guestNs: z.number(),
  exits: exitSnapshotSchema,
  /** Exits per second over the interval, by reason; reasons that stood still are left out. */
  rates: z.record(z.string(), z.number()),
  /** Guest instructions per second over the interval. */
  instructionsPerSecond: z.number(),
  /** Host CPU the VM's process used over the interval, 1 = one core; null where the host cannot say. */
  hostCpu: z.number().nullable(),
  /** Resident memory of the VM's process; null where the host cannot say. */
  residentBytes: z.number().nullable(),
});
export type Statistics = z.infer<typeof statisticsSchema>;

/** One point of the kept time series. */
export const exitHistoryPointSchema = z.object({
  at: z.number(),
  engine: engineKindSchema,
  /** Exits per second by reason. */
  rates: z.record(z.string(), z.number()),
  instructionsPerSecond: z.number(),
});
export type ExitHistoryPoint = z.infer<typeof exitHistoryPointSchema>;
