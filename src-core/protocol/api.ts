import { z } from 'zod';
import { acceleratorSchema } from './engine.ts';
import { engineUseSchema } from './engine-comparison.ts';
import { hardwareProbeSchema } from './hardware-probe.ts';
import { inspectionQuerySchema, inspectionSchema, regionDetailSchema } from './inspection.ts';
import { fieldErrorSchema } from './messages.ts';
import {
  engineKindSchema,
  exitHistoryPointSchema,
  nameSchema,
  snapshotIdSchema,
  snapshotSchema,
  statisticsSchema,
  vmConfigSchema,
  vmIdSchema,
  vmSchema,
} from './vm.ts';

/**
 * The one API between the window and the host: every command with its parameters and result, every event with its
 * data. Both shells carry it unchanged (messages.ts has the envelope, client.ts the caller's side).
 */

/** The serial ports a VM has: 0 is COM1, 1 is COM2. */
export const serialPortSchema = z.union([z.literal(0), z.literal(1)]);

/** A serial subscription's number, given by the host, unique within a connection. */
export const subscriptionSchema = z.number().int().nonnegative();

export const browseEntrySchema = z.object({
  name: z.string(),
  path: z.string(),
  kind: z.enum(['directory', 'file']),
  /** 0 for directories. */
  sizeBytes: z.number(),
  /** Host time, ms since 1970. */
  modifiedAt: z.number(),
});
export type BrowseEntry = z.infer<typeof browseEntrySchema>;

export const browseResultSchema = z.object({
  /** The directory that was listed, absolute. */
  path: z.string(),
  /** Its parent; null at the root. */
  parent: z.string().nullable(),
  /** Directories first, then files, each by name. */
  entries: z.array(browseEntrySchema),
  /** True when the directory holds more than was listed. */
  truncated: z.boolean(),
});
export type BrowseResult = z.infer<typeof browseResultSchema>;

export const engineInfoSchema = z.object({
  kind: engineKindSchema,
  /** Null for the software engine. */
  accelerator: acceleratorSchema.nullable(),
  label: z.string(),
  available: z.boolean(),
  /** One line: what it runs on, or why it cannot be had. */
  detail: z.string(),
});
export type EngineInfo = z.infer<typeof engineInfoSchema>;

export const hostInfoSchema = z.object({
  shell: z.enum(['electron', 'server']),
  /** True when `pickFile` opens the system's own dialog; otherwise the window lists directories with `browseFiles`. */
  nativeFileDialog: z.boolean(),
  /** Versions by component: switchyard, node, v8, electron (in Electron), sqlite. */
  versions: z.record(z.string(), z.string()),
  platform: z.string(),
  /** Operating system's name for people. */
  osName: z.string(),
  cpuModel: z.string(),
  cpuCount: z.number(),
  memoryBytes: z.number(),
  dataDirectory: z.string(),
  engines: z.array(engineInfoSchema),
});
export type HostInfo = z.infer<typeof hostInfoSchema>;

/** The guests the installer can make out of this computer's packages. */
export const firstGuestVariantSchema = z.enum(['i386', 'amd64']);
export type FirstGuestVariant = z.infer<typeof firstGuestVariantSchema>;

export const firstGuestStatusSchema = z.object({
  /** `unsupported`: not on this host, `reason` says why and what to do instead. */
  state: z.enum(['available', 'installing', 'installed', 'unsupported', 'failed']),
  /** Why it is unsupported or failed; null otherwise. */
  reason: z.string().nullable(),
  hint: z.string().nullable(),
  variants: z.array(firstGuestVariantSchema),
  /** While installing: the step under way in words, and how far the whole is, 0..1. */
  step: z.string().nullable(),
  fraction: z.number().nullable(),
  /** VMs made so far by the installer that still exist. */
  vmIds: z.array(vmIdSchema),
});
export type FirstGuestStatus = z.infer<typeof firstGuestStatusSchema>;

const nothing = z.object({}).strict();
const vmOnly = z.object({ vmId: vmIdSchema }).strict();
const done = z.null();

/** Every command: the schema of its parameters and of its result. */
export const commands = {
  hostInfo: { params: nothing, result: hostInfoSchema },

  /** What this host's hardware virtualization can do. With `again` found out anew. */
  probeHardware: { params: z.object({ again: z.boolean() }).strict(), result: hardwareProbeSchema },

  listVms: { params: nothing, result: z.array(vmSchema) },
  /** Errors by field for a configuration that may be wrong in any way; an empty list means it can be saved. */
  validateConfig: {
    params: z.object({ config: z.unknown(), vmId: vmIdSchema.optional() }).strict(),
    result: z.array(fieldErrorSchema),
  },
  createVm: { params: z.object({ config: vmConfigSchema }).strict(), result: vmSchema },
  /** Saves a whole new configuration. A running VM goes on with the old one (`restartNeeded`), except for name and notes. */
  updateVm: { params: z.object({ vmId: vmIdSchema, config: vmConfigSchema }).strict(), result: vmSchema },
  /** A new VM with the same configuration and no snapshots. Default name: "<name> (copy)". */
  cloneVm: { params: z.object({ vmId: vmIdSchema, name: nameSchema.optional() }).strict(), result: vmSchema },
  /** Deletes the VM and its snapshots; files it boots from are not touched. The VM must not be running. */
  deleteVm: { params: vmOnly, result: done },
  /** What deleting would remove, to be said before it is done. */
  describeDeletion: {
    params: vmOnly,
    result: z.object({ snapshots: z.number(), snapshotBytes: z.number(), keptFiles: z.array(z.string()) }),
  },

  start: { params: vmOnly, result: vmSchema },
  pause: { params: vmOnly, result: vmSchema },
  resume: { params: vmOnly, result: vmSchema },
  /** Hard reset: the guest is not asked. */
  reset: { params: vmOnly, result: vmSchema },
  /** Presses the ACPI power button; the guest decides. */
  powerOff: { params: vmOnly, result: vmSchema },
  /** Ends the VM's process at once. */
  forceOff: { params: vmOnly, result: vmSchema },
  /**
   * Changes the engine, live when the VM runs: `unavailable`, with the reason, when the guest can't go on there, and then
   * it stays where it is. A VM that is off may be given any; one that can't be had when it starts leaves it in
   * software (`engineStatus.problem`).
   */
  setEngine: {
    params: z
      .object({
        vmId: vmIdSchema,
        engine: engineKindSchema,
        /** Of the hardware engine. */
        accelerator: acceleratorSchema.default('kvm'),
      })
      .strict(),
    result: vmSchema,
  },

  /**
   * Starts a stream of `serial` events, the first of which replays the screen and scrollback kept by the host.
   * Works in every VM state; what a stopped VM printed last is kept until its next start.
   */
  serialSubscribe: {
    params: z.object({ vmId: vmIdSchema, port: serialPortSchema }).strict(),
    result: z.object({ subscription: subscriptionSchema }),
  },
  serialUnsubscribe: { params: z.object({ subscription: subscriptionSchema }).strict(), result: done },
  /** Tells the host that the terminal has taken in `length` characters (UTF-16 code units) of `serial` events. */
  serialAck: {
    params: z.object({ subscription: subscriptionSchema, length: z.number().int().nonnegative() }).strict(),
    result: done,
  },
  /** Types into the port. */
  serialInput: {
    params: z.object({ vmId: vmIdSchema, port: serialPortSchema, text: z.string().max(1_000_000) }).strict(),
    result: done,
  },
  /** The kept screen's new size in characters. A serial line cannot tell the guest. */
  serialResize: {
    params: z
      .object({
        vmId: vmIdSchema,
        port: serialPortSchema,
        columns: z.number().int().min(2).max(1000),
        rows: z.number().int().min(1).max(1000),
      })
      .strict(),
    result: done,
  },

  listSnapshots: { params: vmOnly, result: z.array(snapshotSchema) },
  /** Saves memory and devices of a running or paused VM. Progress comes as `progress` events. */
  takeSnapshot: { params: z.object({ vmId: vmIdSchema, name: nameSchema }).strict(), result: snapshotSchema },
  /** Puts the VM (whatever its state) back into the snapshot's state, running. */
  restoreSnapshot: {
    params: z.object({ vmId: vmIdSchema, snapshotId: snapshotIdSchema }).strict(),
    result: vmSchema,
  },
  deleteSnapshot: {
    params: z.object({ vmId: vmIdSchema, snapshotId: snapshotIdSchema }).strict(),
    result: done,
  },
  renameSnapshot: {
    params: z.object({ vmId: vmIdSchema, snapshotId: snapshotIdSchema, name: nameSchema }).strict(),
    result: snapshotSchema,
  },

  /** The latest statistics of a VM; null when it has not run since the host started. */
  statistics: { params: vmOnly, result: statisticsSchema.nullable() },
  /** The kept time series, oldest first, thinned to at most `pointsMax` points. */
  exitHistory: {
    params: z
      .object({
        vmId: vmIdSchema,
        fromMs: z.number().nonnegative(),
        pointsMax: z.number().int().min(1).max(2000),
      })
      .strict(),
    result: z.array(exitHistoryPointSchema),
  },
  /** What the VM did on each engine since a time, as far back as is kept; engines that did not run it are left out. */
  compareEngines: {
    params: z.object({ vmId: vmIdSchema, fromMs: z.number().nonnegative() }).strict(),
    result: z.array(engineUseSchema),
  },
  /** The same as a file's text, with the time series it was added up from. */
  exportComparison: {
    params: z
      .object({ vmId: vmIdSchema, fromMs: z.number().nonnegative(), format: z.enum(['csv', 'json']) })
      .strict(),
    result: z.object({ fileName: z.string(), text: z.string() }),
  },
  /** The latest counters as a file's text. */
  exportExits: {
    params: z.object({ vmId: vmIdSchema, format: z.enum(['csv', 'json']) }).strict(),
    result: z.object({ fileName: z.string(), text: z.string() }),
  },

  /** What the software engine has translated for a running or paused VM; null while another engine runs it. */
  inspect: {
    params: inspectionQuerySchema.extend({ vmId: vmIdSchema }).strict(),
    result: inspectionSchema.nullable(),
  },
  /** One region of it in full; null when it does not live any more. */
  inspectRegion: {
    params: z.object({ vmId: vmIdSchema, region: z.number().int() }).strict(),
    result: regionDetailSchema.nullable(),
  },

  /** Lists a directory on the host; null starts in the user's home. */
  browseFiles: { params: z.object({ path: z.string().nullable() }).strict(), result: browseResultSchema },
  /** Opens the system's file dialog (Electron only, see `hostInfo.nativeFileDialog`); null when cancelled. */
  pickFile: {
    params: z.object({ title: z.string(), startPath: z.string().nullable() }).strict(),
    result: z.string().nullable(),
  },

  firstGuestStatus: { params: nothing, result: firstGuestStatusSchema },
  /** Fetches the packages, builds the initramfs and creates the VM; `firstGuest` events tell how far it is. */
  firstGuestInstall: { params: z.object({ variant: firstGuestVariantSchema }).strict(), result: vmSchema },
  firstGuestCancel: { params: nothing, result: done },

  /** The window's own settings (theme, layout), kept by the host; any JSON of at most 64 KiB. */
  getSettings: { params: nothing, result: z.record(z.string(), z.json()) },
  setSetting: {
    params: z.object({ key: z.string().min(1).max(100), value: z.json() }).strict(),
    result: done,
  },
} as const;

export type Command = keyof typeof commands;
/** What a caller passes. */
export type CommandParams<C extends Command> = z.input<(typeof commands)[C]['params']>;
/** What a handler gets, defaults filled in. */
export type CommandInput<C extends Command> = z.output<(typeof commands)[C]['params']>;
export type CommandResult<C extends Command> = z.output<(typeof commands)[C]['result']>;

/** Every event: the schema of its data. */
export const events = {
  /** What is known of the host's engines is different. */
  enginesChanged: z.object({ engines: z.array(engineInfoSchema) }),
  /** A VM is new or any of its properties changed. */
  vmChanged: z.object({ vm: vmSchema }),
  vmRemoved: z.object({ vmId: vmIdSchema }),
  /** A VM's process ended by itself. `vmChanged` with state `crashed` comes with it. */
  vmCrashed: z.object({ vmId: vmIdSchema, name: z.string(), message: z.string(), hint: z.string() }),
  snapshotsChanged: z.object({
    vmId: vmIdSchema,
    snapshots: z.array(snapshotSchema),
    currentSnapshotId: snapshotIdSchema.nullable(),
  }),
  /** About twice a second for every running VM. */
  statistics: statisticsSchema,
  /** Serial output for a subscription of this connection. */
  serial: z.object({
    subscription: subscriptionSchema,
    /** `replay`: clear the terminal first, then write `text`: the kept screen. `data`: write `text`. */
    kind: z.enum(['replay', 'data']),
    text: z.string(),
    /** With `replay`: the size of the screen that was kept, in characters. */
    columns: z.number().optional(),
    rows: z.number().optional(),
  }),
  /** How far a long operation on a VM is. The command's own answer tells its end. */
  progress: z.object({
    vmId: vmIdSchema,
    task: z.enum(['snapshot', 'restore']),
    fraction: z.number().min(0).max(1),
    text: z.string(),
  }),
  firstGuest: firstGuestStatusSchema,
  /** Something the user should know that belongs to no command. */
  notice: z.object({ level: z.enum(['info', 'warning', 'error']), message: z.string() }),
  /** The host is shutting down; the connection will close. */
  hostClosing: z.object({}),
} as const;

export type ApiEvent = keyof typeof events;
export type EventData<E extends ApiEvent> = z.output<(typeof events)[E]>;

/** Characters of serial output the host sends ahead of the acknowledgements before it waits. */
export const SERIAL_WINDOW_CHARS = 256 * 1024;
