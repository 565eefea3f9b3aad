import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import Database from 'better-sqlite3';
import { z } from 'zod';

/** Another Switchyard holds the data directory. */
export class AlreadyRunningError extends Error {
  /** Where the other instance can be reached, when it said so. */
  readonly address: string | undefined;

  constructor(directory: string, holder: Holder | undefined) {
    const who = holder ? ` (process ${holder.pid})` : '';
    super(`Switchyard is already running${who} with the data directory ${directory}`);
    this.name = 'AlreadyRunningError';
    this.address = holder?.address ?? undefined;
  }
}

const holderSchema = z.object({ pid: z.number().int(), address: z.string().nullable() });
type Holder = z.infer<typeof holderSchema>;

/** Where Switchyard keeps its things unless told otherwise: the system's place for an application's data. */
export function defaultDataDirectory(): string {
  if (process.platform === 'darwin') return join(homedir(), 'Library/Application Support/Switchyard');
  if (process.platform === 'win32') {
    return join(process.env.APPDATA ?? join(homedir(), 'AppData/Roaming'), 'Switchyard');
  }
  return join(process.env.XDG_DATA_HOME ?? join(homedir(), '.local/share'), 'switchyard');
}

/**
 * The directory everything Switchyard keeps lives in, held by one instance at a time. The hold is SQLite's lock on
 * a small file, which the operating system releases however the process ends.
 */
export class DataDirectory {
  readonly path: string;
  readonly databasePath: string;
  readonly snapshotsPath: string;
  /** What can be fetched or built again. */
  readonly cachePath: string;
  readonly #lock: Database.Database;
  readonly #holderPath: string;

  /** @throws AlreadyRunningError; an Error of the file system when the directory cannot be made or written. */
  constructor(path: string) {
    this.path = resolve(path);
    this.databasePath = join(this.path, 'switchyard.db');
    this.snapshotsPath = join(this.path, 'snapshots');
    this.cachePath = join(this.path, 'cache');
    this.#holderPath = join(this.path, 'instance.json');
    mkdirSync(dirname(this.path), { recursive: true });
    for (const directory of [this.path, this.snapshotsPath, this.cachePath]) makeDirectory(directory);
    this.#lock = new Database(join(this.path, 'instance.lock'), { timeout: 0 });
    try {
      this.#lock.exec('BEGIN EXCLUSIVE');
    } catch (error) {
      this.#lock.close();
      if (error instanceof Database.SqliteError && error.code === 'SQLITE_BUSY') {
        throw new AlreadyRunningError(this.path, this.#readHolder());
      }
      throw error;
    }
    this.setAddress(null);
  }

  /** Tells a second instance where this one can be reached. The address holds the token, so only the owner may read it. */
  setAddress(address: string | null): void {
    writeFileSync(this.#holderPath, JSON.stringify({ pid: process.pid, address } satisfies Holder), {
      mode: 0o600,
    });
    chmodSync(this.#holderPath, 0o600);
  }

  release(): void {
    this.setAddress(null);
    this.#lock.close();
  }

  #readHolder(): Holder | undefined {
    try {
      return holderSchema.safeParse(JSON.parse(readFileSync(this.#holderPath, 'utf8'))).data;
    } catch {
      // The holder has just started and not written it yet, or it is damaged: the message does without.
      return undefined;
    }
  }
}

/** Not `recursive`: on file systems that cannot make directories (/proc) Node would try for ever. */
function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
  }
}
