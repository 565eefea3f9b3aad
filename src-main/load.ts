import { readFileSync, statSync, type Stats } from 'node:fs';
import { basename } from 'node:path';
import type { MachineConfigInput } from '../src-core/protocol/machine-config.ts';

/** A file that cannot be used, said in one line for people. */
export class LoadError extends Error {
  readonly path: string;
  readonly hint: string | undefined;

  constructor(message: string, path: string, hint?: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'LoadError';
    this.path = path;
    this.hint = hint;
  }
}

/** Largest file worth reading: no guest has more memory than this. */
const SIZE_MAX = 3 * 1024 ** 3;

/**
 * Checks that a path names a readable, non-empty regular file of sane size, without reading it.
 * @param what what the file is meant to be, for messages ("kernel", "initrd").
 * @throws LoadError with the reason.
 */
export function checkFile(path: string, what: string): Stats {
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch (error) {
    throw describe(error, path, what);
  }
  if (stats.isDirectory()) {
    throw new LoadError(`the ${what} ${path} is a directory`, path, 'Choose the file itself.');
  }
  if (!stats.isFile()) throw new LoadError(`the ${what} ${path} is not a regular file`, path);
  if (stats.size === 0) throw new LoadError(`the ${what} ${path} is empty`, path);
  if (stats.size > SIZE_MAX) {
    throw new LoadError(
      `the ${what} ${path} has ${(stats.size / 1024 ** 3).toFixed(1)} GiB, more than a guest can hold`,
      path,
    );
  }
  return stats;
}

/** Reads a whole file after `checkFile`. @throws LoadError with the reason. */
export function loadFile(path: string, what: string): Uint8Array {
  checkFile(path, what);
  try {
    return readFileSync(path);
  } catch (error) {
    throw describe(error, path, what);
  }
}

function describe(error: unknown, path: string, what: string): LoadError {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new LoadError(`the ${what} ${path} does not exist`, path, 'Check the path.', { cause: error });
    case 'EACCES':
    case 'EPERM':
      return new LoadError(
        `the ${what} ${path} cannot be read: permission denied`,
        path,
        'Check who may read the file.',
        { cause: error },
      );
    default:
      return new LoadError(
        `the ${what} ${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
        path,
        undefined,
        { cause: error },
      );
  }
}

/** The files a machine is built from, and what is done with them. */
export interface MachineFiles {
  kernel: string | null;
  initrd: string | null;
  modules: readonly { path: string; commandLine: string }[];
  firmware: string | null;
  commandLine: string;
}

type LoadedFiles = Pick<MachineConfigInput, 'kernel' | 'initrd' | 'modules' | 'firmware' | 'commandLine'>;

/** Reads the files of a machine. @throws LoadError */
export function loadMachineFiles(files: MachineFiles): LoadedFiles {
  return {
    ...(files.kernel === null
      ? {}
      : { kernel: { name: basename(files.kernel), bytes: loadFile(files.kernel, 'kernel') } }),
    ...(files.initrd === null ? {} : { initrd: loadFile(files.initrd, 'initrd') }),
    ...(files.firmware === null ? {} : { firmware: loadFile(files.firmware, 'firmware') }),
    modules: files.modules.map(({ path, commandLine }) => ({ bytes: loadFile(path, 'module'), commandLine })),
    commandLine: files.commandLine,
  };
}
