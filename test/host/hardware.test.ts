import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Vm, VmConfig } from '../../src-core/protocol/vm.ts';
import { openHost, type OpenHost } from '../../src-main/host/open.ts';
import { forkLauncher } from '../../src-main/host/vm-process-handle.ts';
import { describeKvm } from '../hardware/support.ts';
import { partialProbe } from '../support/fake-engines.ts';
import { echo, halt, loop, print, tinyGuest } from '../support/tiny-guest.ts';
import { connectClient, temporaryDirectory, testConfig, type TestClient } from './support.ts';

/** The host with real VM processes on KVM. The guests are 32-bit code without paging, which any KVM runs. */
describeKvm('VMs on KVM', () => {
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
      probe: () => Promise.resolve(partialProbe()),
      onFault: (error) => faults.push(error),
    });
    client = connectClient(opened.host);
  });
  afterEach(async () => {
    await opened.close();
    directory.remove();
    expect(faults).toEqual([]);
  });

  async function start(steps: readonly number[][], changes: Partial<VmConfig> = {}): Promise<Vm> {
    const kernel = join(directory.path, `guest-${changes.name ?? ''}`);
    writeFileSync(kernel, tinyGuest(...steps));
    const config = testConfig(directory.path, { kernel, memoryMib: 16, ...changes });
    const { id } = await client.call('createVm', { config });
    return client.call('start', { vmId: id });
  }

  it('a guest goes on from where it was', { timeout: 60_000 }, async () => {
    const { id: vmId } = await start([print('ready '), echo, halt]);
    const { subscription } = await client.call('serialSubscribe', { vmId, port: 0 });
    await client.untilSerial(subscription, 'ready ');
    let shown = 'ready ';
    for (const engine of ['hardware', 'software', 'hardware', 'software'] as const) {
      const vm = await client.call('setEngine', { vmId, engine });
      expect(vm).toMatchObject({ activeEngine: engine, engineStatus: { problem: null } });
      await client.call('serialInput', { vmId, port: 0, text: `${engine[0] ?? ''}-` });
      shown += `${engine[0] ?? ''}-`;
      await client.untilSerial(subscription, shown);
    }
    const tick = await client.until('statistics', ({ counters }) => (counters.kvm?.exits ?? 0) > 0);
    expect(Object.keys(tick.counters)).toEqual(['kvm']);
    const engines = await client.call('compareEngines', { vmId, fromMs: 0 });
    expect(engines.map(({ engine }) => engine.accelerator)).toEqual([null, 'kvm']);
  });

  it('one that is killed in KVM takes nothing along and starts again', { timeout: 60_000 }, async () => {
    const other = await start([print('ready '), echo, halt], { name: 'Other' });
    const vm = await start([loop], { name: 'Loop', engine: 'hardware' });
    expect(vm).toMatchObject({ activeEngine: 'hardware', engineStatus: { accelerator: 'kvm' } });
    // Its code is nothing but KVM_RUN by now.
    await client.until('statistics', ({ vmId, engine }) => vmId === vm.id && engine === 'hardware');
    const killedAt = Date.now();
    process.kill(opened.host.vm(vm.id).pid ?? 0, 'SIGKILL');
    expect((await client.untilState(vm.id, 'crashed')).lastEnd?.message).toContain('SIGKILL');
    expect(Date.now() - killedAt).toBeLessThan(5000);
    const { subscription } = await client.call('serialSubscribe', { vmId: other.id, port: 0 });
    await client.call('serialInput', { vmId: other.id, port: 0, text: 'on' });
    await client.untilSerial(subscription, 'ready on');
    expect(await client.call('start', { vmId: vm.id })).toMatchObject({ activeEngine: 'hardware' });
  });
});
