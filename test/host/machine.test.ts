import { join } from 'node:path';
import { writeFileSync, truncateSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Vm } from '../../src-core/protocol/vm.ts';
import { openHost, type OpenHost } from '../../src-main/host/open.ts';
import { forkLauncher } from '../../src-main/host/vm-process-handle.ts';
import { unableProbe } from '../support/fake-engines.ts';
import * as guest from '../support/tiny-guest.ts';
import { connectClient, temporaryDirectory, testConfig, type TestClient } from './support.ts';

/** The host with real VM processes, running guests of a few bytes. */

let directory: ReturnType<typeof temporaryDirectory>;
let opened: OpenHost;
let client: TestClient;
const faults: Error[] = [];
beforeEach(() => {
  directory = temporaryDirectory();
  opened = openHost(join(directory.path, 'data'), {
    kind: 'server',
    versions: {},
    launch: forkLauncher(),
    probe: () => Promise.resolve(unableProbe),
    onFault: (error) => faults.push(error),
  });
  client = connectClient(opened.host);
});
afterEach(async () => {
  await opened.close();
  directory.remove();
  expect(faults).toEqual([]);
});

async function create(...steps: readonly number[][]): Promise<Vm> {
  const kernel = join(directory.path, 'guest');
  writeFileSync(kernel, guest.tinyGuest(...steps));
  return client.call('createVm', { config: testConfig(directory.path, { kernel, memoryMib: 16 }) });
}
async function subscribe(vmId: string): Promise<number> {
  return (await client.call('serialSubscribe', { vmId, port: 0 })).subscription;
}

test('a guest runs, is typed to, counts its exits and powers off', async () => {
  const vm = await create(guest.print('ready '), guest.echo, guest.powerOff, guest.halt);
  const subscription = await subscribe(vm.id);
  await client.call('start', { vmId: vm.id });
  await client.untilSerial(subscription, 'ready ');
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'hello' });
  await client.untilSerial(subscription, 'ready hello');
  const tick = await client.until(
    'statistics',
    ({ exits, intervalMs }) => intervalMs > 0 && (exits.details.portIo?.['0x3f8'] ?? 0) >= 16,
  );
  expect(tick.instructionsPerSecond).toBeGreaterThan(0);
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'q' });
  expect((await client.untilState(vm.id, 'stopped')).lastEnd).toMatchObject({ kind: 'powerOff' });
});

test('pausing stops the guest, resuming lets it go on', async () => {
  const vm = await create(guest.print('ready '), guest.echo, guest.halt);
  const subscription = await subscribe(vm.id);
  await client.call('start', { vmId: vm.id });
  await client.untilSerial(subscription, 'ready ');
  await client.call('pause', { vmId: vm.id });
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'late' });
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(client.serialText(subscription)).not.toContain('late');
  await client.call('resume', { vmId: vm.id });
  await client.untilSerial(subscription, 'ready late');
});

test('a snapshot brings back the moment it was taken, and a damaged one costs nothing', async () => {
  const vm = await create(guest.print('ready '), guest.echo, guest.powerOff, guest.halt);
  const subscription = await subscribe(vm.id);
  await client.call('start', { vmId: vm.id });
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'one ' });
  await client.untilSerial(subscription, 'ready one ');
  const snapshot = await client.call('takeSnapshot', { vmId: vm.id, name: 'one' });
  expect(snapshot.sizeBytes).toBeGreaterThan(1000);
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'two q' });
  expect((await client.untilState(vm.id, 'stopped')).lastEnd).toMatchObject({ kind: 'powerOff' });
  const back = await client.call('restoreSnapshot', { vmId: vm.id, snapshotId: snapshot.id });
  expect(back.state).toBe('running');
  await client.call('serialInput', { vmId: vm.id, port: 0, text: 'three' });
  await client.untilSerial(subscription, 'ready one three');
  truncateSync(join(directory.path, 'data/snapshots', `${snapshot.id}.snapshot`), snapshot.sizeBytes - 1);
  await expect(
    client.call('restoreSnapshot', { vmId: vm.id, snapshotId: snapshot.id }),
  ).rejects.toMatchObject({
    code: 'file',
    message: 'the snapshot is cut short',
  });
  await client.call('serialInput', { vmId: vm.id, port: 0, text: ' four' });
  await client.untilSerial(subscription, 'three four');
});

test('a triple fault is told instead of booting for ever', async () => {
  const vm = await create(guest.tripleFault);
  await client.call('start', { vmId: vm.id });
  expect((await client.untilState(vm.id, 'stopped')).lastEnd).toMatchObject({ kind: 'tripleFault' });
});

test('a reset by the user boots again', async () => {
  const vm = await create(guest.print('boot '), guest.echo);
  const subscription = await subscribe(vm.id);
  await client.call('start', { vmId: vm.id });
  await client.untilSerial(subscription, 'boot ');
  await client.call('reset', { vmId: vm.id });
  await client.untilSerial(subscription, 'boot boot ');
});

test('a kernel that went away since the VM was made is told at its start', async () => {
  const vm = await create(guest.halt);
  writeFileSync(join(directory.path, 'guest'), 'no kernel any more');
  await expect(client.call('start', { vmId: vm.id })).rejects.toMatchObject({ code: 'file' });
  expect((await client.untilState(vm.id, 'stopped')).lastEnd).toMatchObject({ kind: 'startFailed' });
});

test('output without end neither fills memory nor keeps commands off', async () => {
  // JMP back over the OUT: the same character for ever.
  const flood = [...guest.print('x'), 0xeb, 0x100 - guest.print('x').length - 2];
  const vm = await create(flood);
  await subscribe(vm.id);
  await client.call('start', { vmId: vm.id });
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const started = Date.now();
  await client.call('pause', { vmId: vm.id });
  expect(Date.now() - started).toBeLessThan(1000);
  expect(client.seen('serial').reduce((sum, { text }) => sum + text.length, 0)).toBeLessThan(600_000);
});
