import Database from 'better-sqlite3';
import manifest from '../package.json' with { type: 'json' };

/** Versions of Switchyard and what it is built on, by component. */
export function versions(): Record<string, string> {
  const database = new Database(':memory:');
  try {
    const sqlite: unknown = database.prepare('SELECT sqlite_version()').pluck().get();
    return { switchyard: manifest.version, sqlite: String(sqlite) };
  } finally {
    database.close();
  }
}
