import { AlreadyRunningError, DataDirectory } from './data-directory.ts';
import { DatabaseError } from './database.ts';
import { Host, type Shell } from './host.ts';

/** An open host with the data directory it holds. */
export interface OpenHost {
  host: Host;
  directory: DataDirectory;
  /** Ends all VMs and gives the data directory free. */
  close(): Promise<void>;
}

/** Takes the data directory and opens the host on it. @throws AlreadyRunningError, DatabaseError */
export function openHost(path: string, shell: Shell): OpenHost {
  const directory = new DataDirectory(path);
  try {
    const host = new Host(directory, shell);
    return {
      host,
      directory,
      close: async () => {
        await host.close();
        directory.release();
      },
    };
  } catch (error) {
    directory.release();
    throw error;
  }
}

/** What to tell a user when the host could not be opened; undefined for a fault in Switchyard itself. */
export function describeOpenError(error: unknown): { message: string; hint: string } | undefined {
  if (error instanceof AlreadyRunningError) {
    return {
      message: `${error.message}.`,
      hint: error.address === undefined ? 'Use its window.' : `Its window is at ${error.address}`,
    };
  }
  if (error instanceof DatabaseError) return { message: `${error.message}.`, hint: error.hint };
  if (error instanceof Error && 'code' in error && typeof error.code === 'string' && 'path' in error) {
    return {
      message: `The data directory cannot be used: ${error.message}.`,
      hint: 'Choose another with --data-dir.',
    };
  }
  return undefined;
}
