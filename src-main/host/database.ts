import { existsSync, renameSync, rmSync } from 'node:fs';
import Database from 'better-sqlite3';

/** The database cannot be used, said in one line for people; nothing in it was changed. */
export class DatabaseError extends Error {
  readonly hint: string;

  constructor(message: string, hint: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'DatabaseError';
    this.hint = hint;
  }
}

/**
 * The schema's steps: step i brings a database from user_version i to i + 1. A step that was ever released is
 * never changed; what needs changing becomes a new step.
 */
export const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    config TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    run_started_at INTEGER,
    last_end TEXT,
    current_snapshot_id TEXT
  ) STRICT;
  CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    parent_id TEXT,
    created_at INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    engine TEXT NOT NULL,
    config TEXT NOT NULL,
    screens TEXT NOT NULL
  ) STRICT;
  CREATE INDEX snapshots_by_vm ON snapshots (vm_id, created_at);
  CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  CREATE TABLE exit_samples (
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    engine TEXT NOT NULL,
    instructions_per_second REAL NOT NULL,
    rates TEXT NOT NULL,
    PRIMARY KEY (vm_id, at)
  ) STRICT, WITHOUT ROWID;
  `,
  `
  CREATE TABLE engine_samples (
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    engine TEXT NOT NULL,
    accelerator TEXT,
    ms REAL NOT NULL,
    instructions REAL NOT NULL,
    reasons TEXT NOT NULL
  ) STRICT;
  CREATE INDEX engine_samples_by_vm ON engine_samples (vm_id, at);
  `,
];

/**
 * Opens (or creates) the database and brings it to the newest schema, each step in a transaction of its own and
 * after a backup beside it (`FILE.backup-vN`).
 * @throws DatabaseError when the file is not a database, is damaged, or was made by a newer Switchyard.
 */
export function openDatabase(path: string, migrations: readonly string[] = MIGRATIONS): Database.Database {
  let database: Database.Database | undefined;
  try {
    database = new Database(path, { timeout: 5000 });
    const version = schemaVersion(database);
    if (version > migrations.length) {
      throw new DatabaseError(
        `${path} was made by a newer Switchyard (schema ${version}; this one knows up to ${migrations.length})`,
        'Start the newer Switchyard, or another data directory with --data-dir. The database was left as it is.',
      );
    }
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = FULL');
    if (version > 0 && version < migrations.length) backup(database, `${path}.backup-v${version}`);
    migrate(database, version, migrations);
    database.pragma('foreign_keys = ON');
    return database;
  } catch (error) {
    database?.close();
    if (error instanceof Database.SqliteError) {
      throw new DatabaseError(
        `the database ${path} cannot be used: ${error.message}`,
        'Move the file away (keep it) to start afresh, or put back a backup from beside it.',
        { cause: error },
      );
    }
    throw error;
  }
}

function schemaVersion(database: Database.Database): number {
  const version: unknown = database.pragma('user_version', { simple: true });
  if (typeof version !== 'number') throw new Error('SQLite gave no user_version');
  return version;
}

function backup(database: Database.Database, path: string): void {
  const unfinished = `${path}.tmp`;
  if (existsSync(unfinished)) rmSync(unfinished);
  database.prepare('VACUUM INTO ?').run(unfinished);
  renameSync(unfinished, path);
}

function migrate(database: Database.Database, from: number, migrations: readonly string[]): void {
  migrations.slice(from).forEach((sql, index) => {
    const step = database.transaction(() => {
      database.exec(sql);
      database.pragma(`user_version = ${from + index + 1}`);
    });
    step.immediate();
  });
}
