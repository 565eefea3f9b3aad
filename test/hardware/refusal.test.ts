/** Whatever stands in the way of the hardware, the machine runs in software and tells what it was. */
import { afterEach, expect, it, vi } from 'vitest';
import type { HardwareEngineParts } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import { KvmError } from '../../src-core/engines/hardware/kvm/errors.ts';
import { liveVms } from '../../src-core/engines/hardware/kvm/vm.ts';
import { Machine } from '../../src-core/machine/machine.ts';
import type { EngineStatus } from '../../src-core/protocol/engine.ts';
import { debugExit, halt, tinyGuest } from '../support/tiny-guest.ts';
import { type Failures, FakeLibc } from './fake-libc.ts';

const ENOENT = 2;
const ENOMEM = 12;
const EACCES = 13;
const EBUSY = 16;
const ENOTTY = 25;

interface MadeUpHost {
  failures: Failures;
  made: { failWith: (error: KvmError) => void; goRound: (reason: KvmError | undefined) => void }[];
}

const host = vi.hoisted((): MadeUpHost => ({ failures: {}, made: [] }));

/** The hardware engine on a host made up. Where that lets it be made, it can be told to give up, or to go round KVM. */
vi.mock(import('../../src-core/engines/hardware/kvm/hardware-engine.ts'), async (original) => {
  const { HardwareEngine } = await original();
  class EngineOnFakeHost extends HardwareEngine {
    #failure: KvmError | undefined;
    #detour: KvmError | undefined;

    constructor(parts: HardwareEngineParts) {
      super({ ...parts, kvm: { calls: new FakeLibc(host.failures) } });
      host.made.push(this);
    }

    failWith(error: KvmError): void {
      this.#failure = error;
    }
    override get failure(): KvmError | undefined {
      return this.#failure;
    }
    goRound(reason: KvmError | undefined): void {
      this.#detour = reason;
    }
    override get detour(): KvmError | undefined {
      return this.#detour;
    }
    override enter(): void {
      if (this.#failure) throw this.#failure;
    }
    override leave(): void {
      return;
    }
    override counters(): Record<string, number> {
      return {};
    }
    override run(): 'slice' {
      return 'slice';
    }
  }
  return { HardwareEngine: EngineOnFakeHost };
});

afterEach(() => {
  host.failures = {};
  host.made.length = 0;
  expect(liveVms()).toBe(0);
});

const config = {
  memoryMib: 16,
  kernel: { name: 'guest', bytes: tinyGuest(debugExit(3), halt) },
  debugExit: true,
  engine: 'hardware',
  engineRefusal: 'software',
} as const;

function ended(machine: Machine): Promise<unknown> {
  return new Promise((resolve) => machine.on('ended', resolve));
}

it.for<[string, Failures, RegExp]>([
  ['absent', { open: ENOENT }, /has no \/dev\/kvm/],
  ['permission', { open: EACCES }, /may not use/],
  ['notKvm', { ioctl: { getApiVersion: ENOTTY } }, /is not KVM/],
  ['capability', { lacking: ['syncRegs'] }, /lacks/],
  ['create', { ioctl: { createVm: EBUSY } }, /EBUSY/],
  ['create', { ioctl: { createVcpu: ENOMEM } }, /could not make a vCPU/],
  ['memory', { ioctl: { setUserMemoryRegion: ENOMEM } }, /does not take guest memory/],
])('%s: runs in software', async ([kind, failures, message]) => {
  host.failures = failures;
  const machine = new Machine(config);
  const end = ended(machine);
  machine.start();
  expect(machine.engineStatus).toMatchObject({ kind: 'software', problem: { kind } });
  expect(machine.engineStatus.problem?.message).toMatch(message);
  expect(await end).toEqual({ kind: 'debugExit', value: 3 });
  // One who insists gets no machine, and nothing is left of it.
  expect(() => new Machine({ ...config, engineRefusal: 'fail' })).toThrow(message);
});

it('hardware that is there later can be had later', () => {
  host.failures = { open: EACCES };
  const machine = new Machine({ ...config, kernel: { name: 'guest', bytes: tinyGuest(halt) } });
  machine.start();
  expect(machine.switchEngine({ kind: 'hardware' }).problem).toMatchObject({
    kind: 'permission',
    command: expect.stringContaining('sudo') as string,
  });
  host.failures = {};
  expect(machine.switchEngine({ kind: 'hardware' }).problem).toBeNull();
  expect(machine.engineStatus).toMatchObject({ kind: 'hardware', problem: null, switches: 1 });
  machine.stop();
});

it('an engine that gives up while it runs leaves the guest to software, and can be had again', async () => {
  const machine = new Machine(config);
  const heard: EngineStatus[] = [];
  machine.on('engine', (status) => heard.push(status));
  const end = ended(machine);
  machine.start();
  expect(machine.engine).toBe('hardware');
  await new Promise((resolve) => setImmediate(resolve));
  host.made[0]?.failWith(new KvmError('system', 'KVM gave an unexpected exit 42.'));
  expect(await end).toEqual({ kind: 'debugExit', value: 3 });
  expect(heard).toMatchObject([{ kind: 'software', problem: { kind: 'system' } }]);
  expect(machine.engine).toBe('software');
  expect(host.made).toHaveLength(1);
});

it('a mode that KVM does not take is told of once, and that it is over', async () => {
  const machine = new Machine(config);
  const heard: EngineStatus[] = [];
  machine.on('engine', (status) => heard.push(status));
  machine.start();
  const turns = async (count: number): Promise<void> => {
    for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  const [engine] = host.made;
  // There and back many times in a second is one piece of news.
  for (let round = 0; round < 10; round++) {
    engine?.goRound(new KvmError('state', `KVM does not run the guest in its present mode, round ${round}.`));
    await turns(5);
    engine?.goRound(undefined);
    await turns(5);
  }
  const detour = { kind: 'state', message: expect.stringContaining('round 0') as string };
  expect(heard).toMatchObject([{ kind: 'hardware', problem: null, detour }]);
  await vi.waitUntil(() => heard.length > 1, { timeout: 5000 });
  expect(heard.slice(1)).toMatchObject([{ kind: 'hardware', problem: null, detour: null }]);
  machine.stop();
});
