/** Whole machines on the model: the same guests as on the software engine, the same text, and the exits that they must take. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { systemGuests } from '../../../src-core/guests/system/index.ts';
import type { SystemGuest } from '../../../src-core/guests/system/index.ts';
import { Machine, type MachineEnd } from '../../../src-core/machine/machine.ts';
import { restoreSnapshot, writeSnapshot } from '../../../src-core/machine/snapshot.ts';
import type { EngineTarget } from '../../../src-core/protocol/engine.ts';
import type { MachineConfigInput } from '../../../src-core/protocol/machine-config.ts';
import { expectedPath } from '../../guests/machines.ts';
import { LOAD_RIGHT, loadMachine } from '../load-machine.ts';
import { PageTableCensus } from './page-table-census.ts';

const TIMEOUT = 60_000;
const MODES = ['nested', 'shadow'] as const;
const model = (mmu: 'nested' | 'shadow') =>
  ({ engine: 'hardware', hardware: { accelerator: 'model', mmu } }) as const;
const DONE: MachineEnd = { kind: 'debugExit', value: 42 };

function build(guest: SystemGuest, changes: Partial<MachineConfigInput>): Machine {
  return new Machine({
    memoryMib: 64,
    kernel: { name: guest.name, bytes: guest.build() },
    debugConsole: true,
    debugExit: true,
    noReboot: true,
    // Translated code is what the model meets most of.
    translator: { threshold: 1 },
    ...changes,
  });
}

async function toItsEnd(machine: Machine): Promise<{ text: string; end: MachineEnd }> {
  let text = '';
  machine.on('debugConsole', (part) => (text += Buffer.from(part).toString('latin1')));
  const end = await new Promise<MachineEnd>((resolve) => {
    machine.on('ended', resolve);
    machine.start();
  });
  return { text, end };
}

const expected = (guest: SystemGuest): string => readFileSync(expectedPath(guest), 'latin1');
const named = (...names: string[]): SystemGuest[] => systemGuests.filter(({ name }) => names.includes(name));
const endOf = (guest: SystemGuest): MachineEnd =>
  guest.ends === 'triple-fault' ? { kind: 'tripleFault' } : DONE;
const count = (machine: Machine, reason: string): number =>
  machine.statistics().exits.reasons[reason]?.count ?? 0;

describe.each(MODES)('system guests, %s paging', (mmu) => {
  it.each(systemGuests.map((guest) => [guest.name, guest] as const))(
    '%s',
    async (_, guest) => {
      const machine = build(guest, model(mmu));
      const { text, end } = await toItsEnd(machine);
      expect(text).toBe(expected(guest));
      expect(end).toEqual(endOf(guest));
      const { exitCodes } = machine.statistics().model ?? { exitCodes: {} };
      const taken = Object.keys(exitCodes);
      if (mmu === 'nested') {
        expect(taken.filter((code) => /CR3|INVLPG|EXCP14|EXCP_PF/.test(code))).toEqual([]);
      } else {
        expect(taken).not.toContain('VMEXIT_NPF');
      }
    },
    TIMEOUT,
  );
});

/**
 * First uses that no exit is taken for: OUTS reads memory that the VMM, which emulates it, finds by a walk of its own.
 */
const READ_BY_VMM: Partial<Record<string, number>> = { strings: 2 };

describe('exits with shadow paging are what is counted in the software engine', () => {
  const guests = systemGuests.filter(({ ends }) => ends !== 'triple-fault');
  it.each(guests.map((guest) => [guest.name, guest] as const))(
    '%s',
    async (name, guest) => {
      const modelled = build(guest, { ...model('shadow'), clock: 'icount' });
      await toItsEnd(modelled);
      const software = build(guest, { clock: 'icount' });
      const census = new PageTableCensus(software);
      await toItsEnd(software);
      expect(modelled.accounting.instructions).toBe(software.accounting.instructions);
      expect(count(modelled, 'hiddenPageFault')).toBe(census.firstUses - (READ_BY_VMM[name] ?? 0));
      expect(count(modelled, 'trace')).toBe(census.stores);
      for (const reason of ['truePageFault', 'cpuid', 'mmio', 'interrupt']) {
        expect(count(modelled, reason), reason).toBe(count(software, reason));
      }
    },
    TIMEOUT,
  );
});

describe('a guest that changes engines', () => {
  const targets: EngineTarget[] = [
    { kind: 'software' },
    { kind: 'hardware', accelerator: 'model', mmu: 'shadow' },
    { kind: 'hardware', accelerator: 'model', mmu: 'nested' },
  ];
  const target = (change: number): EngineTarget => targets[change % targets.length] ?? { kind: 'software' };

  it.each(
    named('paging-32', 'paging-pae', 'paging-64', 'long-mode', 'timers', 'debug').flatMap((guest) =>
      (['flush', 'keep'] as const).map((addressSpaces) => [guest.name, addressSpaces, guest] as const),
    ),
  )(
    '%s (--address-spaces %s) prints the same, however often it does',
    async (_, addressSpaces, guest) => {
      const machine = build(guest, { translator: { threshold: 1, addressSpaces } });
      let changes = 0;
      let ended = false;
      machine.on('ended', () => (ended = true));
      const change = (): void => {
        if (ended) return;
        const { problem } = machine.switchEngine(target(++changes));
        expect(problem).toBeNull();
        setImmediate(change);
      };
      setImmediate(change);
      const { text, end } = await toItsEnd(machine);
      expect(text).toBe(expected(guest));
      expect(end).toEqual(DONE);
      expect(changes).toBeGreaterThan(5);
    },
    TIMEOUT,
  );

  it(
    'a thousand times under load: not a byte is wrong',
    async () => {
      const { machine, stop } = loadMachine();
      const run = toItsEnd(machine);
      const ns: number[] = [];
      for (let changes = 1; changes <= 1000; changes++) {
        await new Promise((resolve) => setImmediate(resolve));
        const change = machine.switchEngine(target(changes));
        expect(change.problem).toBeNull();
        ns.push(change.ns);
      }
      stop();
      const { text, end } = await run;
      expect(text).toMatch(LOAD_RIGHT);
      expect(end).toEqual(DONE);
      expect(ns.sort((a, b) => a - b)[ns.length / 2]).toBeLessThan(10e6);
    },
    TIMEOUT,
  );

  it.each([
    ['software', 'nested'],
    ['nested', 'software'],
    ['shadow', 'software'],
    ['software', 'shadow'],
    ['shadow', 'nested'],
    ['nested', 'shadow'],
  ] as const)(
    'a snapshot of %s goes on under %s',
    async (from, to) => {
      const engine = (name: typeof from): Partial<MachineConfigInput> =>
        name === 'software' ? {} : model(name);
      const first = loadMachine(engine(from));
      first.machine.start();
      await new Promise((resolve) => setTimeout(resolve, 200));
      first.machine.pause();
      const chunks: Uint8Array[] = [];
      for await (const chunk of writeSnapshot(first.machine)) chunks.push(chunk);
      first.machine.stop();
      const second = loadMachine(engine(to));
      await restoreSnapshot(second.machine, async function* () {
        yield* chunks;
      });
      setTimeout(second.stop, 100);
      const { text } = await toItsEnd(second.machine);
      // What was said before the snapshot is not said again.
      expect(`load:${text}`).toMatch(LOAD_RIGHT);
    },
    TIMEOUT,
  );
});

describe('what it says of itself', () => {
  async function paging64(): Promise<Machine> {
    const [guest] = named('paging-64');
    if (!guest) throw new Error('there is no such guest');
    const machine = build(guest, model('nested'));
    await toItsEnd(machine);
    return machine;
  }

  it('is that it is modelled', async () => {
    const machine = await paging64();
    const { model: statistics, counters, engineStatus } = machine.statistics();
    expect(engineStatus).toMatchObject({ kind: 'hardware', accelerator: 'model' });
    expect(statistics).toMatchObject({ modelled: true, mmu: 'nested', profile: { name: 'epyc' } });
    if (!statistics) throw new Error('the model did not run the guest');
    const { cycles, reasons } = statistics;
    expect(cycles.total).toBe(cycles.guest + cycles.walks + cycles.events + cycles.exits);
    // Exit, handler and entry of the profile, and no more.
    const sum = Object.values(reasons).reduce((all, one) => all + one.cycles, 0);
    expect(sum).toBeLessThanOrEqual(cycles.exits);
    expect(sum).toBeGreaterThan(0.9 * cycles.exits);
    const modelledNs = machine.accounting.snapshot().reasons.portIo?.modelled?.ns ?? 0;
    expect(modelledNs).toBeCloseTo(((reasons.portIo?.cycles ?? 0) * 1000) / statistics.profile.mhz, 3);
    expect(modelledNs).toBeGreaterThan(0);
    expect(Object.keys(counters.model ?? {}).every((name) => name.startsWith('modelled.'))).toBe(true);
  });

  it('stands in for KVM where that is not to be had', () => {
    const [guest] = named('paging-64');
    if (!guest) throw new Error('there is no such guest');
    const hardware = { accelerator: 'auto', device: '/nowhere/kvm' } as const;
    const machine = build(guest, { engine: 'hardware', hardware });
    expect(machine.engineStatus).toMatchObject({
      kind: 'hardware',
      accelerator: 'model',
      problem: { kind: 'absent', message: 'This host has no /nowhere/kvm.' },
    });
    machine.stop();
  });

  it('four levels over four are 24 references', async () => {
    const machine = await paging64();
    const { walkReferences = 0, tlbMisses = 1 } = machine.statistics().model ?? {};
    // 4 where paging is still off, 14 to 24 with large and small pages.
    expect(walkReferences / tlbMisses).toBeGreaterThan(10);
    expect(walkReferences / tlbMisses).toBeLessThanOrEqual(24);
  });
});
