import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DatabaseError, MIGRATIONS, openDatabase } from '../../src-main/host/database.ts';
import { temporaryDirectory } from './support.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let path: string;
beforeEach(() => {
  directory = temporaryDirectory();
  path = join(directory.path, 'test.db');
});
afterEach(() => directory.remove());

const version = (database: Database.Database): unknown => database.pragma('user_version', { simple: true });

test('a new database gets the newest schema, in WAL mode, without a backup', () => {
  const database = openDatabase(path);
  expect(version(database)).toBe(MIGRATIONS.length);
  expect(database.pragma('journal_mode', { simple: true })).toBe('wal');
  expect(database.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'vms'").pluck().get()).toBe(1);
  database.close();
  expect(existsSync(`${path}.backup-v1`)).toBe(false);
});

test('an older database is backed up and migrated step by step', () => {
  const first = openDatabase(path, ['CREATE TABLE a (x)']);
  first.exec('INSERT INTO a VALUES (7)');
  first.close();
  const steps = ['CREATE TABLE a (x)', 'ALTER TABLE a ADD COLUMN y DEFAULT 1', 'UPDATE a SET y = x + 1'];
  const second = openDatabase(path, steps);
  expect(version(second)).toBe(3);
  expect(second.prepare('SELECT y FROM a').pluck().get()).toBe(8);
  second.close();
  const backup = new Database(`${path}.backup-v1`, { readonly: true });
  expect(version(backup)).toBe(1);
  expect(backup.prepare('SELECT * FROM a').get()).toEqual({ x: 7 });
  backup.close();
});

test('a step that fails leaves the step before it whole', () => {
  openDatabase(path, ['CREATE TABLE a (x)']).close();
  const broken = [
    'CREATE TABLE a (x)',
    'CREATE TABLE b (x)',
    'CREATE TABLE c (x); INSERT INTO missing VALUES (1)',
  ];
  expect(() => openDatabase(path, broken)).toThrow(DatabaseError);
  const database = new Database(path);
  expect(version(database)).toBe(2);
  const tables = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").pluck().all();
  expect(tables).toEqual(['a', 'b']);
  database.close();
});

test('a database from the future is refused and not touched', () => {
  const future = new Database(path);
  future.pragma('user_version = 99');
  future.close();
  const before = readFileSync(path);
  expect(() => openDatabase(path)).toThrow(/newer Switchyard \(schema 99/);
  expect(readFileSync(path)).toEqual(before);
});

test('a file that is no database is refused and not touched', () => {
  writeFileSync(path, 'this is a text file, and quite long enough to be looked at\n'.repeat(100));
  const before = readFileSync(path);
  expect(() => openDatabase(path)).toThrow(DatabaseError);
  expect(readFileSync(path)).toEqual(before);
});
