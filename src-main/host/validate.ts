import { isAbsolute } from 'node:path';
import { BootError } from '../../src-core/firmware/boot.ts';
import { planBoot } from '../../src-core/firmware/load.ts';
import type { FieldError } from '../../src-core/protocol/messages.ts';
import { machineConfigSchema } from '../../src-core/protocol/machine-config.ts';
import { vmConfigSchema, type VmConfig } from '../../src-core/protocol/vm.ts';
import { checkFile, LoadError, loadMachineFiles } from '../load.ts';

/**
 * All errors of a configuration, field by field: its form, the files it names, and whether they fit together.
 * @param others names of the other VMs, which this one's must differ from.
 */
export function validateConfig(config: unknown, others: readonly string[]): FieldError[] {
  const parsed = vmConfigSchema.safeParse(config);
  if (parsed.success) return checkContent(parsed.data, others);
  const seen = new Set<string>();
  const errors: FieldError[] = [];
  for (const { path, message } of parsed.error.issues) {
    const field = path.map(String).join('.') || 'config';
    // The first thing wrong with a field is enough to read.
    if (!seen.has(field)) errors.push({ field, message });
    seen.add(field);
  }
  return errors;
}

function checkContent(config: VmConfig, others: readonly string[]): FieldError[] {
  const errors: FieldError[] = [];
  if (others.includes(config.name)) {
    errors.push({ field: 'name', message: 'another virtual machine has this name' });
  }
  if (config.kernel === null && config.firmware === null) {
    errors.push({
      field: 'kernel',
      message: 'a kernel is needed',
      hint: 'Choose a kernel, or a firmware image to boot from.',
    });
  }
  if (config.kernel !== null && config.firmware !== null) {
    errors.push({ field: 'firmware', message: 'a kernel and a firmware image exclude each other' });
  }
  if (config.kernel === null && config.modules.length > 0) {
    errors.push({ field: 'modules', message: 'modules need a kernel' });
  }
  if (config.kernel === null && config.initrd !== null) {
    errors.push({ field: 'initrd', message: 'an initial RAM disk needs a kernel' });
  }
  checkPath(errors, 'kernel', config.kernel, 'kernel');
  const initrdBytes = checkPath(errors, 'initrd', config.initrd, 'initial RAM disk');
  checkPath(errors, 'firmware', config.firmware, 'firmware');
  config.modules.forEach(({ path }, index) => checkPath(errors, `modules.${index}.path`, path, 'module'));
  // Whether the files boot is worth asking only when nothing simpler is wrong with them.
  if (errors.length === 0) errors.push(...checkBoot(config, initrdBytes));
  return errors;
}

/** What the boot protocols say to the files: a kernel that is none, an initrd that does not fit. */
function checkBoot(config: VmConfig, initrdBytes: number | undefined): FieldError[] {
  try {
    const machine = machineConfigSchema.parse({
      memoryMib: config.memoryMib,
      // Of an initial RAM disk the size is what matters here, and it may be large: zeros do.
      ...loadMachineFiles({ ...config, initrd: null }),
      ...(initrdBytes === undefined ? {} : { initrd: new Uint8Array(initrdBytes) }),
    });
    planBoot(machine, config.memoryMib * 1024 * 1024);
    return [];
  } catch (error) {
    if (error instanceof LoadError) return [{ field: 'kernel', message: error.message }];
    if (!(error instanceof BootError)) throw error;
    return [{ field: bootField(error.subject), message: error.message }];
  }
}

/** The form's field for what a BootError is about. */
function bootField(subject: string): string {
  const module = /^module (\d+)$/.exec(subject)?.[1];
  if (module !== undefined) return `modules.${Number(module) - 1}.path`;
  if (subject === 'memory') return 'memoryMib';
  return subject === 'command line' ? 'commandLine' : subject;
}

/** The file's size when there is one and nothing is wrong with it. */
function checkPath(
  errors: FieldError[],
  field: string,
  path: string | null,
  what: string,
): number | undefined {
  if (path === null) return undefined;
  if (!isAbsolute(path)) {
    errors.push({ field, message: 'the path must be absolute' });
    return undefined;
  }
  try {
    return checkFile(path, what).size;
  } catch (error) {
    if (!(error instanceof LoadError)) throw error;
    errors.push({ field, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) });
    return undefined;
  }
}
