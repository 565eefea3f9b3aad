import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';
import type { Vm, VmConfig } from '../../src-core/protocol/vm.ts';
import { HostEngines } from '../../src-main/host/engines.ts';
import { partialProbe, UNFIT, unableProbe } from '../support/fake-engines.ts';
import { connectClient, openTestHost, temporaryDirectory, type TestClient, testConfig } from './support.ts';

/** Engines in the API: which there are, changing them, and what is said when one can't be had. */

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

interface Session {
  client: TestClient;
  run: (changes?: Partial<VmConfig>) => Promise<Vm>;
}

function open(probe: HardwareProbe): Session {
  const directory = temporaryDirectory();
  const opened = openTestHost(join(directory.path, 'data'), probe);
  closing.push(async () => {
    await opened.close();
    directory.remove();
    expect(opened.faults).toEqual([]);
  });
  const client = connectClient(opened.host);
  const run = async (changes: Partial<VmConfig> = {}): Promise<Vm> => {
    const config = testConfig(directory.path, changes);
    const { id } = await client.call('createVm', { config });
    return client.call('start', { vmId: id });
  };
  return { client, run };
}

test('a running guest is given another engine and back', async () => {
  const { client, run } = open(partialProbe());
  const { id: vmId } = await run();
  const hardware = await client.call('setEngine', { vmId, engine: 'hardware' });
  expect(hardware).toMatchObject({
    activeEngine: 'hardware',
    config: { engine: 'hardware' },
    engineStatus: { accelerator: 'kvm', problem: null, switches: 1, lastSwitch: { problem: null } },
  });
  expect(hardware.engineStatus?.lastSwitch?.ns).toBeGreaterThan(0);
  const software = await client.call('setEngine', { vmId, engine: 'software' });
  expect(software).toMatchObject({ activeEngine: 'software', engineStatus: { switches: 2 } });
  await client.until('vmChanged', ({ vm }) => vm.activeEngine === 'hardware');
});

test('what it did on each engine is told side by side', async () => {
  const { client, run } = open(partialProbe());
  const { id: vmId } = await run();
  const type = (text: string): Promise<unknown> => client.call('serialInput', { vmId, port: 0, text });
  await type('abc');
  await client.call('setEngine', { vmId, engine: 'hardware' });
  await type('abcde');
  await client.call('setEngine', { vmId, engine: 'software' });
  await type('x');
  await client.call('setEngine', { vmId, engine: 'hardware', accelerator: 'model' });
  await type('yz');
  await client.until('statistics', ({ exits }) => exits.reasons.portIo?.count === 11);
  const engines = await client.call('compareEngines', { vmId, fromMs: 0 });
  expect(engines.map(({ engine, reasons }) => [engine.accelerator, reasons.portIo?.count])).toEqual([
    [null, 4],
    ['kvm', 5],
    ['model', 2],
  ]);
  // It is kept when the run is over.
  await client.call('forceOff', { vmId });
  expect(await client.call('compareEngines', { vmId, fromMs: 0 })).toMatchObject([{}, {}, {}]);
  const { text } = await client.call('exportComparison', { vmId, fromMs: 0, format: 'csv' });
  expect(text).toMatch(/,Model,yes,.*,portIo,Port I\/O,2,/);
  expect(await client.call('compareEngines', { vmId, fromMs: Date.now() + 1000 })).toEqual([]);
});

test('a guest the hardware can’t run stays where it is, with the reason', async () => {
  const { client, run } = open(partialProbe('ring3Syscall'));
  const { id: vmId } = await run({ commandLine: 'unfit' });
  const error = await client
    .call('setEngine', { vmId, engine: 'hardware' })
    .catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'unavailable', message: UNFIT.message });
  const [vm] = await client.call('listVms', {});
  expect(vm).toMatchObject({
    activeEngine: 'software',
    config: { engine: 'software' },
    engineStatus: { problem: null, lastSwitch: { problem: UNFIT }, switches: 0 },
  });
});

test('configured for hardware that is not there, it runs in software and says why', async () => {
  const { client, run } = open(unableProbe);
  const vm = await run({ engine: 'hardware' });
  expect(vm).toMatchObject({
    state: 'running',
    activeEngine: 'software',
    config: { engine: 'hardware' },
    engineStatus: { problem: { kind: 'absent', message: 'This host has no /dev/kvm.' } },
  });
  const { engines } = await client.call('hostInfo', {});
  expect(engines[1]).toMatchObject({ available: false });
  expect(engines[1]?.detail).toContain('This host has no /dev/kvm. Load the module.');
});

test('windows hear what was found out of the hardware', async () => {
  const { client } = open(partialProbe('paging32'));
  const { engines } = await client.until('enginesChanged', () => true);
  expect(engines[1]).toMatchObject({ kind: 'hardware', available: true });
  expect(engines[1]?.detail).toContain('Not for guests that need: 32-bit paging.');
});

test('the hardware is tried out once, and again when asked', async () => {
  let probes = 0;
  const engines = new HostEngines(
    () => {
      probes++;
      return Promise.resolve(partialProbe());
    },
    () => undefined,
  );
  expect(engines.known).toBeNull();
  expect(engines.infos()[1]?.available).toBe(false);
  await Promise.all([engines.probe(), engines.probe()]);
  expect(probes).toBe(1);
  expect(engines.infos()[1]?.available).toBe(true);
  await engines.probeAgain();
  expect(probes).toBe(2);
});
