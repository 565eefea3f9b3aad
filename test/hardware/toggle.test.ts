/** A running machine changes engines: between slices, under load, with what it finds in the way said. */
import { describe, expect, it } from 'vitest';
import { Machine } from '../../src-core/machine/machine.ts';
import type { EngineKind, EngineStatus, EngineTarget } from '../../src-core/protocol/engine.ts';
import { liveVms } from '../../src-core/engines/hardware/kvm/vm.ts';
import { readTsc } from '../../src-core/x86/msr.ts';
import { restoreSnapshot, writeSnapshot } from '../../src-core/machine/snapshot.ts';
import { partialProbe, unableProbe } from '../support/fake-engines.ts';
import { linuxHeader } from '../support/tiny-guest.ts';
import { protectedModeGuest } from './guests.ts';
import { LOAD_RIGHT, loadMachine } from './load-machine.ts';
import { describeKvm } from './support.ts';

const SWITCHES = 1000;
/** Nothing of the guest's is above this. */
const FREE_FROM = 8 * 1024 * 1024;
const OTHER: Record<EngineKind, EngineKind> = { software: 'hardware', hardware: 'software' };

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

function otherEngine(machine: Machine): void {
  const { problem } = machine.switchEngine({ kind: OTHER[machine.engine] });
  expect(problem).toBeNull();
}

describeKvm('A machine that changes engines', () => {
  it('a thousand times under load: not a byte is wrong', { timeout: 240_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    machine.start();
    const ns: number[] = [];
    while (machine.engineStatus.switches < SWITCHES) {
      await turn();
      otherEngine(machine);
      ns.push(machine.engineStatus.lastSwitch?.ns ?? NaN);
    }
    stop();
    const { text, end } = await ended;
    expect(text).toMatch(LOAD_RIGHT);
    expect(end).toEqual({ kind: 'debugExit', value: 42 });
    expect(machine.engineStatus.switches).toBe(SWITCHES);
    // The engine is built once; after that a change moves registers. The median: this host has other work, too.
    expect(median(ns.slice(1))).toBeLessThan(10e6);
    expect(liveVms()).toBe(0);
    // What KVM counted is still to be had.
    expect(machine.statistics().counters.kvm).toHaveProperty('exits');
  });

  it('is as right without a change', { timeout: 60_000 }, async () => {
    const { machine, stop, ended } = loadMachine({ engine: 'hardware' });
    machine.start();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
  });

  it('keeps its interrupts while it changes every 50 ms', { timeout: 120_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    machine.start();
    for (let count = 0; count < 60; count++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      otherEngine(machine);
    }
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
    const { reasons } = machine.statistics().exits;
    expect(reasons.interrupt?.count).toBeGreaterThan(100);
  });

  /** With 1 GiB of memory in use. */
  function largeMachine() {
    const load = loadMachine({ memoryMib: 1024 });
    const { ram } = load.machine.arena;
    for (let at = FREE_FROM; at < ram.length; at += 4096) ram[at] = 1;
    load.machine.start();
    return load;
  }

  it('with 1 GiB of memory in use: in under 10 ms', { timeout: 120_000 }, async () => {
    const { machine, stop, ended } = largeMachine();
    const ns: Record<EngineKind, number[]> = { software: [], hardware: [] };
    for (let count = 0; count < 80; count++) {
      await turn();
      otherEngine(machine);
      ns[machine.engine].push(machine.engineStatus.lastSwitch?.ns ?? NaN);
    }
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
    for (const times of Object.values(ns)) expect(median(times)).toBeLessThan(10e6);
  });

  it('with 1 GiB of memory in use for the first time: in under 10 ms', { timeout: 120_000 }, async () => {
    const first: number[] = [];
    for (let count = 0; count < 3; count++) {
      const { machine, stop, ended } = largeMachine();
      await turn();
      await machine.prepareEngine({ kind: 'hardware' });
      otherEngine(machine);
      const { ns = NaN, buildNs = NaN } = machine.engineStatus.lastSwitch ?? {};
      // The engine was there.
      expect(buildNs).toBeLessThan(1e6);
      first.push(ns);
      stop();
      expect((await ended).text).toMatch(LOAD_RIGHT);
    }
    expect(median(first)).toBeLessThan(10e6);
    expect(liveVms()).toBe(0);
  });

  it('through software, KVM and both kinds of model', { timeout: 120_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    const targets: EngineTarget[] = [
      { kind: 'hardware', accelerator: 'kvm' },
      { kind: 'hardware', accelerator: 'model', mmu: 'shadow' },
      { kind: 'hardware', accelerator: 'kvm' },
      { kind: 'software' },
      { kind: 'hardware', accelerator: 'model', mmu: 'nested' },
      { kind: 'hardware', accelerator: 'model', mmu: 'shadow' },
      { kind: 'software' },
    ];
    machine.start();
    for (let round = 0; round < 40; round++) {
      for (const target of targets) {
        await turn();
        expect(machine.switchEngine(target).problem).toBeNull();
      }
    }
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
    expect(machine.engineStatus.switches).toBe(40 * targets.length);
  });

  it('while it is paused, and before it starts', { timeout: 60_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    otherEngine(machine);
    machine.start();
    await new Promise((resolve) => setTimeout(resolve, 100));
    machine.pause();
    otherEngine(machine);
    expect(machine.engine).toBe('software');
    otherEngine(machine);
    machine.resume();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(machine.engine).toBe('hardware');
    otherEngine(machine);
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
  });

  it('keeps the time-stamp counter and guest time running forward', { timeout: 60_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    machine.start();
    let before = machine.clock.now();
    let tsc = 0n;
    for (let count = 0; count < 50; count++) {
      await turn();
      otherEngine(machine);
      const now = machine.clock.now();
      expect(now).toBeGreaterThan(before);
      before = now;
      if (machine.engine !== 'software') continue;
      const read = readTsc(machine.cpu);
      expect(read).toBeGreaterThan(tsc);
      tsc = read;
    }
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
  });

  const ENGINES = {
    software: {},
    kvm: { engine: 'hardware' },
    'nested model': { engine: 'hardware', hardware: { accelerator: 'model', mmu: 'nested' } },
    'shadow model': { engine: 'hardware', hardware: { accelerator: 'model', mmu: 'shadow' } },
  } as const;
  type Name = keyof typeof ENGINES;
  const others = (Object.keys(ENGINES) as Name[]).filter((name) => name !== 'kvm');

  it.for<[Name, Name]>(
    others.flatMap((other) => [
      ['kvm', other],
      [other, 'kvm'],
    ]),
  )('a snapshot of %s goes on under %s', { timeout: 120_000 }, async ([from, to]) => {
    const first = loadMachine(ENGINES[from]);
    first.machine.start();
    await new Promise((resolve) => setTimeout(resolve, 400));
    first.machine.pause();
    const { engine } = first.machine;
    expect(engine).toBe(from === 'software' ? 'software' : 'hardware');
    const chunks: Uint8Array[] = [];
    for await (const chunk of writeSnapshot(first.machine)) chunks.push(chunk);
    first.machine.stop();
    const second = loadMachine(ENGINES[to]);
    await restoreSnapshot(second.machine, async function* () {
      yield* chunks;
    });
    second.machine.start();
    expect(second.machine.engineStatus).toMatchObject({
      accelerator: to === 'software' ? null : to === 'kvm' ? 'kvm' : 'model',
      problem: null,
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    second.stop();
    // The name of the test was said before the snapshot.
    expect(`load:${(await second.ended).text}`).toMatch(LOAD_RIGHT);
  });

  it('is not held to hardware that a probe found unfit for it', { timeout: 60_000 }, async () => {
    const { machine, stop, ended } = loadMachine();
    machine.start();
    await new Promise((resolve) => setTimeout(resolve, 100));
    const report = machine.switchEngine({ kind: 'hardware' }, partialProbe('longMode'));
    expect(report.problem?.message).toMatch(/^This host’s hardware fails at what the guest uses: Long mode/);
    expect(machine.engine).toBe('software');
    expect(machine.engineStatus.lastSwitch).toEqual(report);
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
  });
});

describe('Where hardware is refused', () => {
  const guest = { memoryMib: 16, kernel: { name: 'guest', bytes: protectedModeGuest() } };

  it('nothing is prepared for it', async () => {
    const machine = new Machine({ ...guest, hardware: { device: '/nowhere/kvm' } });
    await machine.prepareEngine({ kind: 'hardware' });
    expect(machine.engineStatus).toMatchObject({ kind: 'software', problem: null, lastSwitch: null });
    machine.stop();
    await machine.prepareEngine({ kind: 'hardware' });
    expect(liveVms()).toBe(0);
  });

  it('a running guest stays in software, with the reason', () => {
    const machine = new Machine(guest);
    const heard: EngineStatus[] = [];
    machine.on('engine', (status) => heard.push(status));
    machine.start();
    const { problem, to } = machine.switchEngine({ kind: 'hardware', accelerator: 'kvm' }, unableProbe);
    expect(problem?.message).toMatch(/\/dev\/kvm|KVM/);
    expect(to).toEqual({ kind: 'hardware', accelerator: 'kvm' });
    expect(machine.engine).toBe('software');
    expect(heard).toMatchObject([{ kind: 'software', problem: null, lastSwitch: { problem } }]);
    machine.stop();
  });

  it('under the instruction clock there is none', () => {
    const machine = new Machine({ ...guest, clock: 'icount' });
    expect(machine.switchEngine({ kind: 'hardware' }).problem).toMatchObject({ kind: 'configuration' });
    machine.stop();
  });

  it('Linux starts in software where its programs could not run', () => {
    const kernel = { name: 'linux', bytes: linuxHeader() };
    const config = { memoryMib: 64, kernel, engine: 'hardware', engineRefusal: 'software' } as const;
    const machine = new Machine(config, { probe: partialProbe('ring3Int32') });
    machine.start();
    expect(machine.engineStatus).toMatchObject({ kind: 'software' });
    expect(machine.engineStatus.problem?.message).toMatch(/KVM|Linux needs: Ring 3/);
    // Nor can it go there before it has come to its programs.
    expect(machine.switchEngine({ kind: 'hardware' }).problem?.message).toMatch(/KVM|Linux needs: Ring 3/);
    machine.stop();
  });

  it('the model takes over what KVM is unfit for, where either will do', () => {
    const kernel = { name: 'linux', bytes: linuxHeader() };
    const hardware = { accelerator: 'auto' } as const;
    const config = { memoryMib: 64, kernel, engine: 'hardware', hardware } as const;
    const machine = new Machine(config, { probe: partialProbe('ring3Int32') });
    machine.start();
    expect(machine.engineStatus).toMatchObject({ kind: 'hardware', accelerator: 'model' });
    expect(machine.engineStatus.problem?.message).toMatch(/KVM|Linux needs: Ring 3/);
    machine.switchEngine({ kind: 'software' });
    expect(machine.engineStatus.problem).toBeNull();
    expect(machine.switchEngine({ kind: 'hardware' })).toMatchObject({
      to: { kind: 'hardware', accelerator: 'model' },
      problem: null,
    });
    expect(machine.engineStatus.problem?.message).toMatch(/KVM|Linux needs: Ring 3/);
    // KVM and nothing else.
    expect(machine.switchEngine({ kind: 'hardware', accelerator: 'kvm' }).problem).not.toBeNull();
    expect(machine.engineStatus).toMatchObject({ kind: 'hardware', accelerator: 'model', switches: 2 });
    machine.stop();
  });

  it('a machine that insists ends there', () => {
    const config = { ...guest, engine: 'hardware' } as const;
    const start = (): void => {
      const machine = new Machine(config, { probe: unableProbe });
      try {
        machine.start();
      } finally {
        machine.stop();
      }
    };
    expect(start).toThrow(/^the hardware engine is not available: /);
  });

  it('one that has ended, or is in the middle of a run, has no engine to change', () => {
    const machine = new Machine(guest);
    machine.stop();
    expect(() => machine.switchEngine({ kind: 'software' })).toThrow('has ended');
  });
});
