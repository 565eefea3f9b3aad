import { z } from 'zod';
import { MEMORY_MIB_MAX, MEMORY_MIB_MIN } from '../machine/arena.ts';
import { engineKindSchema } from './vm.ts';

/**
 * What a Machine is built from. Files have become bytes by now: the core reads none itself.
 */

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'bytes are needed');

export const clockKindSchema = z.enum(['host', 'icount']);
/** `host`: guest time is real time. `icount`: guest time counts instructions, so that a run can be repeated exactly. */

export const machineConfigSchema = z
  .strictObject({
    memoryMib: z
      .int()
      .min(MEMORY_MIB_MIN, `at least ${MEMORY_MIB_MIN} MiB`)
      .max(MEMORY_MIB_MAX, `at most ${MEMORY_MIB_MAX} MiB`),
    engine: engineKindSchema.default('software'),
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
