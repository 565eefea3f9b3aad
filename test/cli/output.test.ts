import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UsageError } from '../../src-main/cli/arguments.ts';
import { FileSink, TextWatcher } from '../../src-main/cli/output.ts';
import { temporaryDirectory } from '../host/support.ts';

test('a text is found however the stream is cut', () => {
  const stream = Buffer.from('noise lologin: é more');
  for (const wanted of ['login:', 'n', 'é', 'noise', 'more']) {
    for (let size = 1; size <= stream.length; size++) {
      const watcher = new TextWatcher(wanted);
      let found = -1;
      for (let at = 0; at < stream.length && found < 0; at += size) {
        if (watcher.push(stream.subarray(at, at + size))) found = at;
      }
      expect(found, `${wanted} in pieces of ${size}`).toBeGreaterThanOrEqual(0);
    }
  }
  expect(new TextWatcher('absent').push(stream)).toBe(false);
});

test('a file gets every byte, in order, past the size of the buffer', async () => {
  const directory = temporaryDirectory();
  const path = join(directory.path, 'out');
  const sink = new FileSink(path, '--serial');
  const wanted: Uint8Array[] = [];
  for (const size of [1, 70_000, 3, 65_536, 200_000]) {
    const chunk = Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) & 0xff);
    wanted.push(chunk);
    sink.write(chunk);
  }
  await sink.flush();
  sink.write(Buffer.from('end'));
  await sink.close();
  expect(readFileSync(path).equals(Buffer.concat([...wanted, Buffer.from('end')]))).toBe(true);
  directory.remove();
});

test('a file that cannot be written is a usage error in one line', () => {
  expect(() => new FileSink('/no/such/directory/file', '--debugcon')).toThrow(UsageError);
});
