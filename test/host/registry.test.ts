import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DEFAULT_VM_CONFIG } from '../../src-core/protocol/vm.ts';
import { openDatabase } from '../../src-main/host/database.ts';
import { Registry, type SnapshotRecord } from '../../src-main/host/registry.ts';
import { temporaryDirectory } from './support.ts';

const config = { ...DEFAULT_VM_CONFIG, name: 'One', kernel: '/boot/vmlinuz' };
let directory: ReturnType<typeof temporaryDirectory>;
let registry: Registry;
const reopen = (): void => {
  registry.close();
  registry = new Registry(openDatabase(join(directory.path, 'test.db')));
};
beforeEach(() => {
  directory = temporaryDirectory();
  registry = new Registry(openDatabase(join(directory.path, 'test.db')));
});
afterEach(() => {
  registry.close();
  directory.remove();
});

function snapshot(vmId: string, parentId: string | null, createdAt: number): SnapshotRecord {
  return {
    id: randomUUID(),
    vmId,
    name: `at ${createdAt}`,
    parentId,
    createdAt,
    sizeBytes: 10,
    memoryMib: 64,
    engine: 'software',
    config,
    screens: { 0: 'screen', 1: '' },
  };
}

test('VMs survive reopening, with every change', () => {
  const record = registry.createVm(config, 'user', 1000);
  const changed = {
    ...record,
    config: { ...config, memoryMib: 512 },
    modifiedAt: 2000,
    runStartedAt: 1500,
    lastEnd: { kind: 'powerOff' as const, at: 1600, message: 'done' },
  };
  registry.saveVm(changed);
  reopen();
  expect(registry.listVms()).toEqual([changed]);
});

test('deleting a VM takes its snapshots and samples along and leaves the others', () => {
  const one = registry.createVm(config, 'user');
  const two = registry.createVm({ ...config, name: 'Two' }, 'user');
  for (const { id } of [one, two]) {
    registry.addSnapshot(snapshot(id, null, 1));
    registry.addSample(id, { at: 5, engine: 'software', rates: { hlt: 2 }, instructionsPerSecond: 3 });
  }
  registry.deleteVm(one.id);
  expect(registry.listSnapshots(one.id)).toEqual([]);
  expect(registry.history(one.id, 0, 10)).toEqual([]);
  expect(registry.listSnapshots(two.id)).toHaveLength(1);
  expect(registry.history(two.id, 0, 10)).toHaveLength(1);
});

test('a snapshot becomes current; deleting it hands its children and the VM to its parent', () => {
  const vm = registry.createVm(config, 'user');
  const first = snapshot(vm.id, null, 1);
  const second = snapshot(vm.id, first.id, 2);
  const third = snapshot(vm.id, second.id, 3);
  for (const record of [first, second, third]) registry.addSnapshot(record);
  expect(registry.listVms()[0]?.currentSnapshotId).toBe(third.id);
  registry.deleteSnapshot(second);
  expect(registry.listSnapshots(vm.id)).toEqual([first, { ...third, parentId: first.id }]);
  registry.deleteSnapshot({ ...third, parentId: first.id });
  expect(registry.listVms()[0]?.currentSnapshotId).toBe(first.id);
});

test('the time series keeps its newest points and is thinned on reading', () => {
  const vm = registry.createVm(config, 'user');
  for (let at = 1; at <= 50; at++) {
    registry.addSample(vm.id, { at, engine: 'software', rates: {}, instructionsPerSecond: at });
  }
  registry.pruneSamples(vm.id, 20);
  const kept = registry.history(vm.id, 0, 100);
  expect(kept.map(({ at }) => at)).toEqual(Array.from({ length: 20 }, (_, i) => 31 + i));
  expect(registry.history(vm.id, 0, 5).map(({ at }) => at)).toEqual([31, 35, 39, 43, 47]);
  expect(registry.history(vm.id, 49, 5).map(({ at }) => at)).toEqual([49, 50]);
});

test('what engines did is kept by engine, the newest of it', () => {
  const vm = registry.createVm(config, 'user');
  const use = { ms: 1, instructions: 2, reasons: { hlt: { count: 3, ns: null } } };
  const software = { ...use, engine: { kind: 'software', accelerator: null } } as const;
  const model = { ...use, engine: { kind: 'hardware', accelerator: 'model' } } as const;
  for (let at = 1; at <= 50; at++) {
    registry.addEngineSamples(vm.id, [
      { ...software, at },
      { ...model, at },
    ]);
  }
  registry.pruneEngineSamples(vm.id, 20);
  const kept = registry.engineSamples(vm.id, 0);
  expect(kept).toHaveLength(20);
  expect(kept.slice(0, 2)).toEqual([
    { ...software, at: 41 },
    { ...model, at: 41 },
  ]);
  expect(registry.engineSamples(vm.id, 50)).toHaveLength(2);
  registry.deleteVm(vm.id);
  expect(registry.engineSamples(vm.id, 0)).toEqual([]);
});

test('settings hold any JSON', () => {
  registry.setSetting('theme', 'dark');
  registry.setSetting('layout', { panes: [1, 2], open: null });
  registry.setSetting('theme', 'light');
  reopen();
  expect(registry.settings()).toEqual({ theme: 'light', layout: { panes: [1, 2], open: null } });
});
