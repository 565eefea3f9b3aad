import { z } from 'zod';
import { MEMORY_MIB_MAX, MEMORY_MIB_MIN } from '../machine/arena.ts';
import { engineKindSchema, hardwareOptionsSchema } from './engine.ts';

export { hardwareOptionsSchema, type HardwareOptions, type HardwareOptionsInput } from './engine.ts';

/**
 * What a Machine is built from. Files have become bytes by now: the core reads none itself.
 */

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'bytes are needed');

/** Executions before a region is translated, unless configured: found by measurement (docs/BENCHMARKS.md). */
const TRANSLATION_THRESHOLD = 1000;

/** `host`: guest time is real time. `icount`: guest time counts instructions, so that a run can be repeated exactly. */
export const clockKindSchema = z.enum(['host', 'icount']);
export type ClockKind = z.infer<typeof clockKindSchema>;

/** How the software engine translates. Everything can be switched off, to learn what it is worth. */
export const translatorOptionsSchema = z.strictObject({
  /** Highest tier: 0 interprets micro-ops only, 1 also translates hot regions to WebAssembly. */
  tier: z.union([z.literal(0), z.literal(1)]).default(1),
  /** Translated regions go on to each other directly, without the dispatcher. */
  chaining: z.boolean().default(true),
  /** Instructions that keep leaving translated code are translated anew in a form made for that. */
  adaptive: z.boolean().default(true),
  /**
   * What MOV to CR3 does to cached translations: `flush` drops them but those of global pages; `keep` keeps those of
   * address spaces used lately, with traces on their page tables (found by measurement: docs/BENCHMARKS.md).
   */
  addressSpaces: z.enum(['flush', 'keep']).default('flush'),
  /** Executions of a block after which the region it starts is translated. */
  threshold: z.int().min(1).max(1_000_000).default(TRANSLATION_THRESHOLD),
});
export type TranslatorOptionsInput = z.input<typeof translatorOptionsSchema>;
export type TranslatorOptions = z.output<typeof translatorOptionsSchema>;

export const machineConfigSchema = z
  .strictObject({
    memoryMib: z
      .int()
      .min(MEMORY_MIB_MIN, `at least ${MEMORY_MIB_MIN} MiB`)
      .max(MEMORY_MIB_MAX, `at most ${MEMORY_MIB_MAX} MiB`),
    engine: engineKindSchema.default('software'),
    /**
     * When the hardware engine can't be had or can't run what is booted: `fail`, or run it in software, the reason in
     * the machine's engine status.
     */
    engineRefusal: z.enum(['fail', 'software']).default('fail'),
    clock: clockKindSchema.default('host'),
    /** Linux bzImage or Multiboot image. A Multiboot kernel gets `name` as the first word of its command line. */
    kernel: z.strictObject({ name: z.string(), bytes }).optional(),
    /** Initial RAM disk of a Linux kernel. */
    initrd: bytes.optional(),
    /** Modules of a Multiboot kernel. */
    modules: z.array(z.strictObject({ bytes, commandLine: z.string() })).default([]),
    commandLine: z.string().default(''),
    /** BIOS image. */
    firmware: bytes.optional(),
    /** Bochs-style debug console at port E9h. */
    debugConsole: z.boolean().default(false),
    /** Ports whose writes are reported. */
    logPorts: z.array(z.int().min(0).max(0xffff)).default([]),
    /** isa-debug-exit at port F4h. */
    debugExit: z.boolean().default(false),
    translator: translatorOptionsSchema.prefault({}),
    hardware: hardwareOptionsSchema.prefault({}),
    /** A reset or triple fault ends the run instead of booting again. */
    noReboot: z.boolean().default(false),
  })
  .superRefine(({ kernel, initrd, modules, firmware }, context) => {
    const issue = (path: string, message: string): void =>
      context.addIssue({ code: 'custom', path: [path], message });
    if (!kernel && !firmware) issue('kernel', 'nothing to boot: a kernel or a firmware image is needed');
    if (kernel && firmware) issue('firmware', 'a kernel and a firmware image exclude each other');
    if (!kernel && initrd) issue('initrd', 'an initial RAM disk needs a kernel');
    if (!kernel && modules.length > 0) issue('modules', 'modules need a kernel');
  });
/** As a caller writes it: what has a default may be left out. */
export type MachineConfigInput = z.input<typeof machineConfigSchema>;
export type MachineConfig = z.output<typeof machineConfigSchema>;
