import { gunzipSync } from 'node:zlib';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeCpio } from '../../src-main/firstguest/cpio.ts';
import { buildInitramfs } from '../../src-main/firstguest/initramfs.ts';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { connectClient, openTestHost, temporaryDirectory, type TestClient } from './support.ts';

interface Entry {
  name: string;
  mode: number;
  inode: number;
  device: [number, number];
  data: Buffer;
}

/** Reads a newc archive as the kernel's documentation describes it. */
function readCpio(archive: Uint8Array): Entry[] {
  const bytes = Buffer.from(archive);
  const entries: Entry[] = [];
  for (let at = 0; ;) {
    expect(bytes.toString('ascii', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      parseInt(bytes.toString('ascii', at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const nameEnd = at + 110 + field(11);
    const name = bytes.toString('utf8', at + 110, nameEnd - 1);
    expect(bytes[nameEnd - 1]).toBe(0);
    const dataStart = (nameEnd + 3) & ~3;
    const dataEnd = dataStart + field(6);
    if (name === 'TRAILER!!!') {
      expect(dataEnd).toBe(bytes.length);
      return entries;
    }
    const data = bytes.subarray(dataStart, dataEnd);
    entries.push({ name, mode: field(1), inode: field(0), device: [field(9), field(10)], data });
    at = (dataEnd + 3) & ~3;
  }
}

test('an archive holds what was put in, aligned, whatever the lengths', () => {
  const files = Array.from({ length: 9 }, (_, length) => ({
    kind: 'file' as const,
    path: 'f'.repeat(length + 1),
    mode: 0o640,
    data: Buffer.alloc(length, length),
  }));
  const entries = readCpio(
    writeCpio([
      { kind: 'directory', path: 'dev', mode: 0o755 },
      { kind: 'characterDevice', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
      { kind: 'link', path: 'sh', target: 'busybox' },
      ...files,
    ]),
  );
  expect(entries.slice(0, 3)).toMatchObject([
    { name: 'dev', mode: 0o040755 },
    { name: 'dev/console', mode: 0o020600, device: [5, 1] },
    { name: 'sh', mode: 0o120777, data: Buffer.from('busybox') },
  ]);
  expect(
    entries.slice(3).map(({ name, mode, data }) => ({ path: name, mode, data: Buffer.from(data) })),
  ).toEqual(files.map(({ path, data }) => ({ path, mode: 0o100640, data })));
  expect(new Set(entries.map(({ inode }) => inode)).size).toBe(entries.length);
});

test('an initramfs is the same for the same parts, and parents come before their children', () => {
  const options = {
    busybox: Buffer.from('busybox'),
    modules: [{ name: 'button.ko', data: Buffer.from('ko') }],
  };
  const image = buildInitramfs(options);
  expect(Buffer.compare(image, buildInitramfs(options))).toBe(0);
  const names = readCpio(gunzipSync(image)).map(({ name }) => name);
  expect(names).toContain('init');
  expect(names).toContain('lib/modules/00-button.ko');
  names.forEach((name, index) => {
    const parent = name.split('/').slice(0, -1).join('/');
    if (parent !== '') expect(names.indexOf(parent), name).toBeLessThan(index);
    if (parent !== '') expect(names, name).toContain(parent);
  });
});

let directory: ReturnType<typeof temporaryDirectory>;
let opened: ReturnType<typeof openTestHost>;
let client: TestClient;
beforeEach(() => {
  directory = temporaryDirectory();
  opened = openTestHost(join(directory.path, 'data'));
  client = connectClient(opened.host);
});
afterEach(async () => {
  await opened.close();
  directory.remove();
});

test('the installer tells whether it can work here, and can be cancelled', async (context) => {
  const missing = await aptMissing();
  const status = await client.call('firstGuestStatus', {});
  if (missing !== undefined) {
    expect(status.state).toBe('unsupported');
    expect(status.reason).toContain(missing);
    return context.skip(`cancelling needs apt: ${missing}`);
  }
  expect(status).toMatchObject({ state: 'available', vmIds: [], fraction: null });
  const installing = client.call('firstGuestInstall', { variant: 'amd64' }).catch((error: unknown) => error);
  await client.until('firstGuest', ({ state }) => state === 'installing');
  expect(
    await client.call('firstGuestInstall', { variant: 'i386' }).catch((error: unknown) => error),
  ).toMatchObject({
    code: 'wrongState',
  });
  await client.call('firstGuestCancel', {});
  expect(await installing).toMatchObject({ code: 'cancelled' });
  expect((await client.call('firstGuestStatus', {})).state).toBe('available');
  expect(await client.call('listVms', {})).toEqual([]);
});
