import { fork } from 'node:child_process';
import { once } from 'node:events';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AlreadyRunningError, DataDirectory } from '../../src-main/host/data-directory.ts';
import { temporaryDirectory } from './support.ts';

let directory: ReturnType<typeof temporaryDirectory>;
beforeEach(() => (directory = temporaryDirectory()));
afterEach(() => directory.remove());

test('a second instance is told who holds the directory and where its window is', () => {
  const first = new DataDirectory(directory.path);
  first.setAddress('http://127.0.0.1:1/?token=x');
  let error: unknown;
  try {
    new DataDirectory(directory.path);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(AlreadyRunningError);
  expect((error as AlreadyRunningError).message).toContain(`process ${process.pid}`);
  expect((error as AlreadyRunningError).address).toBe('http://127.0.0.1:1/?token=x');
  first.release();
  new DataDirectory(directory.path).release();
});

test('the hold ends with the process that has it, even by SIGKILL', async () => {
  const script = join(directory.path, 'holder.ts');
  const module = new URL('../../src-main/host/data-directory.ts', import.meta.url).href;
  writeFileSync(
    script,
    `import { DataDirectory } from '${module}';
     new DataDirectory(${JSON.stringify(directory.path)});
     process.send('held');
     setInterval(() => {}, 1000);`,
  );
  const holder = fork(script);
  await once(holder, 'message');
  expect(() => new DataDirectory(directory.path)).toThrow(AlreadyRunningError);
  holder.kill('SIGKILL');
  await once(holder, 'exit');
  new DataDirectory(directory.path).release();
});

test.skipIf(process.platform === 'win32')('only the owner can read the address', () => {
  const held = new DataDirectory(directory.path);
  expect(statSync(join(directory.path, 'instance.json')).mode & 0o777).toBe(0o600);
  held.release();
});
