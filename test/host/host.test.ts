import { existsSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ApiError } from '../../src-core/protocol/messages.ts';
import type { Vm, VmConfig } from '../../src-core/protocol/vm.ts';
import {
  connectClient,
  eventually,
  openTestHost,
  temporaryDirectory,
  testConfig,
  type TestClient,
} from './support.ts';
import { linuxHeader } from '../support/tiny-guest.ts';

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
  expect(opened.faults).toEqual([]);
});

const create = (changes: Partial<VmConfig> = {}): Promise<Vm> =>
  client.call('createVm', { config: testConfig(directory.path, changes) });
async function createRunning(name = 'Test'): Promise<Vm> {
  const { id } = await create({ name });
  return client.call('start', { vmId: id });
}
const type = (vmId: string, text: string): Promise<null> =>
  client.call('serialInput', { vmId, port: 0, text });
async function subscribe(vmId: string): Promise<number> {
  return (await client.call('serialSubscribe', { vmId, port: 0 })).subscription;
}
/** The code an operation fails with. */
async function codeOf(operation: Promise<unknown>): Promise<string> {
  const error: unknown = await operation.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof ApiError ? error.code : `no ApiError but ${String(error)}`;
}
/** Closes the host and opens it again on the same data directory. */
async function reopen(): Promise<void> {
  await opened.close();
  opened = openTestHost(join(directory.path, 'data'));
  client = connectClient(opened.host);
}
const snapshotFiles = (): string[] => readdirSync(join(directory.path, 'data/snapshots'));

describe('the registry through the API', () => {
  test('create, edit, clone, delete', async () => {
    const vm = await create({ memoryMib: 128 });
    expect(vm).toMatchObject({ state: 'stopped', origin: 'user', config: { name: 'Test', memoryMib: 128 } });
    const edited = await client.call('updateVm', { vmId: vm.id, config: { ...vm.config, name: 'Renamed' } });
    expect(edited.config.name).toBe('Renamed');
    const clone = await client.call('cloneVm', { vmId: vm.id });
    expect(clone.config).toEqual({ ...edited.config, name: 'Renamed (copy)' });
    expect((await client.call('cloneVm', { vmId: vm.id })).config.name).toBe('Renamed (copy) 2');
    await client.call('deleteVm', { vmId: vm.id });
    expect((await client.call('listVms', {})).map(({ config }) => config.name)).toEqual([
      'Renamed (copy)',
      'Renamed (copy) 2',
    ]);
    expect(await codeOf(client.call('start', { vmId: vm.id }))).toBe('notFound');
    await client.until('vmRemoved', ({ vmId }) => vmId === vm.id);
  });

  test('VMs and settings are there again after a restart of the host', async () => {
    const vm = await create();
    await client.call('setSetting', { key: 'theme', value: 'dark' });
    await reopen();
    expect(await client.call('listVms', {})).toEqual([vm]);
    expect(await client.call('getSettings', {})).toEqual({ theme: 'dark' });
  });

  test('a wrong configuration is refused field by field, and told so before', async () => {
    const good = testConfig(directory.path);
    const empty = join(directory.path, 'empty');
    writeFileSync(empty, '');
    const initrd = join(directory.path, 'initrd');
    writeFileSync(initrd, 'x');
    truncateSync(initrd, 40 * 1024 * 1024);
    const linux = join(directory.path, 'bzImage');
    writeFileSync(linux, linuxHeader());
    const text = join(directory.path, 'text');
    writeFileSync(text, 'this is no kernel');
    const errorsOf = async (changes: object): Promise<Record<string, string>> =>
      Object.fromEntries(
        (await client.call('validateConfig', { config: { ...good, ...changes } })).map(
          ({ field, message }) => [field, message],
        ),
      );
    expect(await errorsOf({})).toEqual({});
    expect(await errorsOf({ name: '  ' })).toEqual({ name: 'a name is needed' });
    expect(await errorsOf({ memoryMib: 0 })).toEqual({ memoryMib: 'at least 4 MiB' });
    expect(await errorsOf({ memoryMib: 10 * 1024 * 1024 })).toEqual({ memoryMib: 'at most 3072 MiB' });
    expect(await errorsOf({ memoryMib: 64.5 })).toHaveProperty('memoryMib');
    expect(await errorsOf({ kernel: null })).toEqual({ kernel: 'a kernel is needed' });
    expect((await errorsOf({ kernel: '/no/such/file' })).kernel).toContain('does not exist');
    expect((await errorsOf({ kernel: directory.path })).kernel).toContain('is a directory');
    expect((await errorsOf({ kernel: empty })).kernel).toContain('is empty');
    expect((await errorsOf({ kernel: text })).kernel).toContain('is a text file');
    expect((await errorsOf({ kernel: linux, initrd, memoryMib: 32 })).initrd).toContain('has 40 MiB');
    // Where there is no hardware to use, it runs in software and says so.
    expect(await errorsOf({ engine: 'hardware' })).toEqual({});
    expect(await errorsOf({ memoryMib: 'much', name: 7 })).toMatchObject({
      memoryMib: 'a number of MiB is needed',
    });

    const refusal = await client
      .call('createVm', { config: { ...good, memoryMib: 1 } })
      .catch((error: unknown) => error);
    expect(refusal).toMatchObject({
      code: 'invalidConfig',
      fields: [{ field: 'memoryMib', message: 'at least 4 MiB' }],
    });
    await create();
    expect((await errorsOf({})).name).toContain('another virtual machine');
    expect(await client.call('listVms', {})).toHaveLength(1);
  });

  test('nonsense is answered, not swallowed', async () => {
    const { host } = opened;
    const answers: unknown[] = [];
    const connection = host.connect((message) => answers.push(message));
    await connection.receive({ id: 1, method: 'selfDestruct', params: {} });
    await connection.receive({ id: 2, method: 'start', params: { vmId: 'me' } });
    await connection.receive({ id: 3, method: 'start', params: null });
    expect(answers).toMatchObject([
      { id: 1, error: { code: 'badRequest' } },
      { id: 2, error: { code: 'badRequest' } },
      { id: 3, error: { code: 'badRequest' } },
    ]);
    await connection.receive('hello');
    expect(opened.faults.splice(0)).toHaveLength(1);
    host.disconnect(connection);
  });
});

describe('running', () => {
  test('start, pause, resume, power off', async () => {
    const vm = await createRunning();
    expect(vm).toMatchObject({ state: 'running', activeEngine: 'software' });
    const subscription = await subscribe(vm.id);
    expect((await client.call('pause', { vmId: vm.id })).state).toBe('paused');
    await type(vm.id, 'print\n');
    await client.untilSerial(subscription, 'memory:;paused');
    expect((await client.call('resume', { vmId: vm.id })).state).toBe('running');
    await client.call('powerOff', { vmId: vm.id });
    const off = await client.untilState(vm.id, 'stopped');
    expect(off).toMatchObject({ lastEnd: { kind: 'powerOff' }, activeEngine: null });
  });

  test('commands that make no sense now say so', async () => {
    const vm = await create();
    expect(await codeOf(client.call('pause', { vmId: vm.id }))).toBe('wrongState');
    expect(await codeOf(client.call('forceOff', { vmId: vm.id }))).toBe('wrongState');
    expect(await codeOf(type(vm.id, 'x'))).toBe('wrongState');
    await client.call('start', { vmId: vm.id });
    expect(await codeOf(client.call('start', { vmId: vm.id }))).toBe('wrongState');
    expect(await codeOf(client.call('deleteVm', { vmId: vm.id }))).toBe('wrongState');
    expect(await codeOf(client.call('setEngine', { vmId: vm.id, engine: 'hardware' }))).toBe('unavailable');
  });

  test('a guest that cannot be started says why and stays as it was', async () => {
    const vm = await create({ commandLine: 'unbootable' });
    const error = await client.call('start', { vmId: vm.id }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'file', message: 'this is no kernel', hint: 'Choose a kernel.' });
    expect(await client.untilState(vm.id, 'stopped')).toMatchObject({
      lastEnd: { kind: 'startFailed', message: 'this is no kernel' },
    });
  });

  test('editing a running VM waits for its next start; name and notes do not', async () => {
    const vm = await createRunning();
    const named = await client.call('updateVm', { vmId: vm.id, config: { ...vm.config, name: 'New name' } });
    expect(named.restartNeeded).toBe(false);
    const edited = await client.call('updateVm', { vmId: vm.id, config: { ...named.config, memoryMib: 99 } });
    expect(edited.restartNeeded).toBe(true);
    await client.call('forceOff', { vmId: vm.id });
    expect((await client.call('start', { vmId: vm.id })).restartNeeded).toBe(false);
  });

  test('statistics tick with rates, and are exported', async () => {
    const vm = await createRunning();
    await client.until('statistics', ({ vmId }) => vmId === vm.id);
    await type(vm.id, 'hello');
    const tick = await client.until('statistics', ({ rates }) => (rates.portIo ?? 0) > 0);
    expect(tick.exits.reasons.portIo?.count).toBe(5);
    expect(tick.rates.portIo).toBeCloseTo(5 / (tick.intervalMs / 1000));
    const csv = await client.call('exportExits', { vmId: vm.id, format: 'csv' });
    expect(csv.fileName).toBe('Test-exits.csv');
    expect(csv.text).toMatch(/^portIo,Port I\/O,,5,/m);
    const json = await client.call('exportExits', { vmId: vm.id, format: 'json' });
    expect(JSON.parse(json.text)).toMatchObject({ exits: { reasons: { portIo: { count: 5 } } } });
  });
});

describe('a crash', () => {
  test('SIGKILL of one VM is told, and the other runs on; the dead one can be started again', async () => {
    const one = await createRunning('One');
    const two = await createRunning('Two');
    const pid = opened.host.vm(one.id).pid;
    expect(pid).toBeDefined();
    process.kill(pid ?? 0, 'SIGKILL');
    const crash = await client.until('vmCrashed', () => true);
    expect(crash).toMatchObject({ vmId: one.id, name: 'One' });
    expect(crash.message).toContain('SIGKILL');
    const states = (await client.call('listVms', {})).map(({ state }) => state);
    expect(states).toEqual(['crashed', 'running']);
    const subscription = await subscribe(two.id);
    await type(two.id, 'still here');
    await client.untilSerial(subscription, 'still here');
    expect((await client.call('start', { vmId: one.id })).state).toBe('running');
  });

  test("a fault's message reaches the user", async () => {
    const vm = await createRunning();
    await type(vm.id, 'throw\n');
    expect((await client.until('vmCrashed', () => true)).message).toContain('a fault in the machine');
    await client.untilState(vm.id, 'crashed');
  });

  test('VMs of a host that died are shown as crashed by the next', async () => {
    const vm = await createRunning();
    // What a killed host leaves behind: the run's mark in the database, and no process.
    const { default: Database } = await import('better-sqlite3');
    await client.call('forceOff', { vmId: vm.id });
    await opened.close();
    const database = new Database(join(directory.path, 'data/switchyard.db'));
    database.prepare('UPDATE vms SET run_started_at = 1, last_end = NULL').run();
    database.close();
    opened = openTestHost(join(directory.path, 'data'));
    client = connectClient(opened.host);
    expect((await client.call('listVms', {}))[0]).toMatchObject({
      state: 'crashed',
      lastEnd: { kind: 'crash' },
    });
  });
});

describe('serial output', () => {
  test('survives the window: a later one sees the screen and scrollback', async () => {
    const vm = await createRunning();
    await type(vm.id, 'line one\r\nline two\r\n');
    const first = await subscribe(vm.id);
    await client.untilSerial(first, 'line two');
    client.disconnect();
    client = connectClient(opened.host);
    const second = await subscribe(vm.id);
    await client.untilSerial(second, 'line two');
    expect(client.serialText(second)).toContain('booted\r\nline one');
    expect(client.seen('serial')[0]?.kind).toBe('replay');
  });

  test('stays readable after the VM stopped and starts blank with the next run', async () => {
    const vm = await createRunning();
    await type(vm.id, 'last words');
    const subscription = await subscribe(vm.id);
    await client.untilSerial(subscription, 'last words');
    await client.call('forceOff', { vmId: vm.id });
    const after = await subscribe(vm.id);
    await client.untilSerial(after, 'last words');
    await client.call('start', { vmId: vm.id });
    await eventually(() => {
      const text = client.serialText(subscription);
      return text.includes('booted') && !text.includes('last words');
    });
  });

  test('a window that does not keep up is not sent more than its share, and catches up', async () => {
    const vm = await createRunning();
    const slow = await subscribe(vm.id);
    const sent = (): number => client.seen('serial').reduce((sum, { text }) => sum + text.length, 0);
    await client.untilSerial(slow, 'booted');
    await type(vm.id, 'flood\n');
    const other = await subscribe(vm.id);
    await client.untilSerial(other, 'cdef');
    // The slow one is stuck before this marker, which comes once it has taken in what it got.
    await type(vm.id, 'END MARKER');
    await new Promise((resolve) => setTimeout(resolve, 300));
    const textBefore = client.serialText(slow);
    expect(textBefore.length).toBeLessThanOrEqual(300 * 1024);
    expect(textBefore).not.toContain('END MARKER');
    await client.call('serialAck', { subscription: slow, length: sent() });
    await client.untilSerial(slow, 'END MARKER');
  });
});

describe('snapshots', () => {
  test('take, go on, return: memory and screen are those of the moment', async () => {
    const vm = await createRunning();
    const subscription = await subscribe(vm.id);
    await type(vm.id, 'before ');
    await client.untilSerial(subscription, 'before');
    const snapshot = await client.call('takeSnapshot', { vmId: vm.id, name: 'Good' });
    expect(snapshot).toMatchObject({ name: 'Good', parentId: null, sizeBytes: 7 });
    await type(vm.id, 'after');
    await client.untilSerial(subscription, 'after');
    const restored = await client.call('restoreSnapshot', { vmId: vm.id, snapshotId: snapshot.id });
    expect(restored).toMatchObject({ state: 'running', currentSnapshotId: snapshot.id, busy: null });
    await type(vm.id, 'print\n');
    await client.untilSerial(subscription, 'memory:before ;running');
    expect(client.serialText(subscription)).not.toContain('after');
  });

  test('snapshots form a tree, can be renamed and deleted, and outlive the host', async () => {
    const vm = await createRunning();
    const first = await client.call('takeSnapshot', { vmId: vm.id, name: 'First' });
    const second = await client.call('takeSnapshot', { vmId: vm.id, name: 'Second' });
    await client.call('restoreSnapshot', { vmId: vm.id, snapshotId: first.id });
    const branch = await client.call('takeSnapshot', { vmId: vm.id, name: 'Branch' });
    expect([second.parentId, branch.parentId]).toEqual([first.id, first.id]);
    await client.call('renameSnapshot', { vmId: vm.id, snapshotId: branch.id, name: 'Twig' });
    await client.call('deleteSnapshot', { vmId: vm.id, snapshotId: first.id });
    await reopen();
    const kept = await client.call('listSnapshots', { vmId: vm.id });
    expect(kept.map(({ name, parentId }) => [name, parentId])).toEqual([
      ['Second', null],
      ['Twig', null],
    ]);
    expect((await client.call('restoreSnapshot', { vmId: vm.id, snapshotId: branch.id })).state).toBe(
      'running',
    );
    expect(snapshotFiles()).toHaveLength(2);
    await client.call('forceOff', { vmId: vm.id });
    expect(await client.call('describeDeletion', { vmId: vm.id })).toMatchObject({ snapshots: 2 });
    await client.call('deleteVm', { vmId: vm.id });
    expect(snapshotFiles()).toEqual([]);
  });

  test('a snapshot that cannot be loaded leaves the running VM alone', async () => {
    const vm = await createRunning();
    const snapshot = await client.call('takeSnapshot', { vmId: vm.id, name: 'Broken' });
    const path = join(directory.path, 'data/snapshots', `${snapshot.id}.snapshot`);
    const pid = opened.host.vm(vm.id).pid;
    writeFileSync(path, 'damaged');
    expect(await codeOf(client.call('restoreSnapshot', { vmId: vm.id, snapshotId: snapshot.id }))).toBe(
      'file',
    );
    rmSync(path);
    expect(await codeOf(client.call('restoreSnapshot', { vmId: vm.id, snapshotId: snapshot.id }))).toBe(
      'file',
    );
    expect(opened.host.vm(vm.id).pid).toBe(pid);
    expect((await client.untilState(vm.id, 'running')).busy).toBeNull();
  });

  test('what a killed host left of unfinished snapshots is cleaned up, what is entered is kept', async () => {
    const vm = await createRunning();
    await client.call('takeSnapshot', { vmId: vm.id, name: 'Kept' });
    const [kept] = snapshotFiles();
    await opened.close();
    const snapshots = join(directory.path, 'data/snapshots');
    writeFileSync(join(snapshots, '5d8cf0f0-0000-4000-8000-000000000000.snapshot'), 'never entered');
    writeFileSync(join(snapshots, '5d8cf0f0-0000-4000-8000-000000000001.snapshot.unfinished'), 'half');
    opened = openTestHost(join(directory.path, 'data'));
    expect(snapshotFiles()).toEqual([kept]);
  });

  test('a VM killed while its snapshot is taken leaves no trace of it', async () => {
    const vm = await createRunning();
    const taking = codeOf(client.call('takeSnapshot', { vmId: vm.id, name: 'Never' }));
    process.kill(opened.host.vm(vm.id).pid ?? 0, 'SIGKILL');
    expect(['vmProcessEnded', 'wrongState']).toContain(await taking);
    expect(await client.untilState(vm.id, 'crashed')).toMatchObject({ busy: null, snapshotCount: 0 });
    await reopen();
    expect(snapshotFiles()).toEqual([]);
  });
});

test('closing the host ends its VMs and tells the windows', async () => {
  const vm = await createRunning();
  const pid = opened.host.vm(vm.id).pid ?? 0;
  const before = client;
  await reopen();
  expect(before.seen('hostClosing')).toHaveLength(1);
  expect(() => process.kill(pid, 0)).toThrow();
  expect((await client.call('listVms', {}))[0]).toMatchObject({
    state: 'stopped',
    lastEnd: { kind: 'forceOff' },
  });
  expect(existsSync(join(directory.path, 'data/switchyard.db'))).toBe(true);
});
