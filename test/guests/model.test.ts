/**
 * The model of hardware virtualization against an outside reading: the exits of single operations under nested and shadow
 * paging, and those of Linux from its first instruction to power-off, beside what is counted in the software engine.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it, test } from 'vitest';
import type { ExitReason } from '../../src-core/accounting/exits.ts';
import {
  measureNanobench,
  NANOBENCH_NAMES,
  type NanobenchBits,
  type NanobenchName,
} from '../../src-core/guests/nanobench/index.ts';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { MachineConfigInput } from '../../src-core/protocol/machine-config.ts';
import { PageTableCensus } from '../hardware/model/page-table-census.ts';
import { type DebianGuest, prepareDebian } from './debian.ts';

const MODES = ['nested', 'shadow'] as const;
const model = (mmu: 'nested' | 'shadow', profile?: string) =>
  ({ engine: 'hardware', hardware: { accelerator: 'model', mmu, ...(profile && { profile }) } }) as const;

type Exits = Partial<Record<ExitReason, number>>;

/** Exits of an operation under either kind of paging: what the intercepts say. No others but a slice's end. */
const BOTH: Partial<Record<NanobenchName, Exits>> = {
  in: { portIo: 1 },
  cpuid: { cpuid: 1 },
  hlt: { hlt: 1, interrupt: 1, mmio: 2 },
  mmio: { mmio: 1 },
  portwrite: { portIo: 1 },
  rdmsr: { msr: 1 },
};
const EXITS: Record<(typeof MODES)[number], Partial<Record<NanobenchName, Exits>>> = {
  nested: BOTH,
  shadow: {
    ...BOTH,
    pgfault: { truePageFault: 1 },
    ptemod: { trace: 1 },
    invlpg: { invlpg: 1 },
    ctxswitch: { controlRegister: 1 },
  },
};
/** How many of these there are is the guest's page tables' business. */
const FORKWAIT_SHADOW: ExitReason[] = [
  'truePageFault',
  'hiddenPageFault',
  'trace',
  'controlRegister',
  'invlpg',
];

describe.each(MODES)('nanobenchmarks, %s paging', (mmu) => {
  it.each([64, 32] as const)(
    '%i-bit: take the exits that the intercepts say',
    async (bits: NanobenchBits) => {
      const run = await measureNanobench({
        bits,
        cycles: 1_000_000,
        timeoutMs: 100_000,
        machine: model(mmu),
      });
      expect(run.model).toMatchObject({ mmu });
      expect(run.results.map(({ name }) => name)).toEqual(NANOBENCH_NAMES);
      for (const result of run.results) {
        if (result.status === 'notApplicable') continue;
        if (result.status !== 'measured') throw new Error(JSON.stringify(result));
        expect(result.modelledCycles, result.name).toBeGreaterThanOrEqual(0);
        const wanted = EXITS[mmu][result.name] ?? {};
        const found = new Map(result.exits.map(({ reason, perOperation }) => [reason, perOperation]));
        if (result.name === 'forkwait' && mmu === 'shadow') {
          for (const reason of FORKWAIT_SHADOW) expect(found.get(reason), reason).toBeGreaterThan(0.9);
          expect(found.get('truePageFault')).toBeLessThan(5.5);
          continue;
        }
        for (const [reason, count] of Object.entries(wanted)) {
          expect(found.get(reason as ExitReason), `${result.name}: ${reason}`).toBeGreaterThan(count * 0.9);
          expect(found.get(reason as ExitReason), `${result.name}: ${reason}`).toBeLessThan(count * 1.3);
        }
        const others = [...found].filter(
          ([reason, count]) => reason !== 'slice' && !(reason in wanted) && count > 0.2,
        );
        expect(others, result.name).toEqual([]);
      }
    },
  );
});

it('a profile of the Pentium 4 comes near the figures that were published for it', async () => {
  const only: NanobenchName[] = ['in', 'pgfault', 'divzero', 'ptemod', 'callret'];
  const machine = { ...model('shadow', 'p4-672'), clock: 'icount' } as const;
  const { results } = await measureNanobench({ bits: 64, only, operations: 256, timeoutMs: 60_000, machine });
  const cycles = results.map((result) => (result.status === 'measured' ? result.modelledCycles : undefined));
  // Hardware VMM: 15826, 11242, 1014, 12733 and 11 cycles; the first three parts of it were derived from these.
  const published = [15826, 11, 11242, 1014, 12733];
  expect(results.map(({ name }) => name)).toEqual(['in', 'callret', 'pgfault', 'divzero', 'ptemod']);
  for (const [index, value] of published.entries()) {
    expect(cycles[index], results[index]?.name).toBeGreaterThan(value * 0.3);
    expect(cycles[index], results[index]?.name).toBeLessThan(value * 1.3);
  }
});

const BOOT_SECONDS = 300;

function linux({ kernel, initrd }: DebianGuest, changes: Partial<MachineConfigInput>): Machine {
  return new Machine({
    memoryMib: 256,
    kernel: { name: 'linux', bytes: readFileSync(kernel) },
    initrd: readFileSync(initrd),
    commandLine: 'console=ttyS0',
    noReboot: true,
    ...changes,
  });
}

function toItsEnd(machine: Machine): Promise<{ text: string; end: MachineEnd }> {
  return new Promise((resolve) => {
    let text = '';
    const timer = setTimeout(() => machine.stop(), BOOT_SECONDS * 1000);
    machine.on('serial', (_port, part) => (text += Buffer.from(part).toString('latin1')));
    machine.on('ended', (end) => {
      clearTimeout(timer);
      resolve({ text, end });
    });
    machine.start();
  });
}

/** Processes, pipes, files and page faults; little computation. The sum is that of 1 MiB of zeros. */
const SCRIPT = `i=0; while [ $i -lt 20 ]; do i=$((i+1)); /bin/busybox true; done; echo "forked $i"
dd if=/dev/zero bs=64k count=16 2>/dev/null | md5sum`;
const MD5_OF_1_MIB_OF_ZEROS = 'b6d81b360a5672d80c27430f39153e2c';

describe.each(['i386', 'amd64'] as const)('Linux, %s', (architecture) => {
  const count = (machine: Machine, reason: ExitReason): number =>
    machine.statistics().exits.reasons[reason]?.count ?? 0;
  const code = (machine: Machine, name: string): number =>
    machine.statistics().model?.exitCodes[`VMEXIT_${name}`]?.count ?? 0;

  test(
    'takes the exits that are predicted from what the software engine counts',
    async (context) => {
      const guest = await prepareDebian(architecture, 'model', SCRIPT);
      if (typeof guest === 'string') return context.skip(guest);
      const clock = 'icount';
      const nested = linux(guest, { ...model('nested'), clock });
      const shadow = linux(guest, { ...model('shadow'), clock });
      const software = linux(guest, { clock });
      const census = new PageTableCensus(software);
      const { text, end } = await toItsEnd(software);
      expect(end).toEqual({ kind: 'powerOff' });
      expect(text).toContain(`forked 20\r\n${MD5_OF_1_MIB_OF_ZEROS}  -`);
      for (const machine of [nested, shadow]) expect(await toItsEnd(machine)).toEqual({ text, end });

      for (const name of ['CR3_READ', 'CR3_WRITE', 'INVLPG', 'EXCP_PF'])
        expect(code(nested, name), name).toBe(0);
      for (const reason of ['truePageFault', 'hiddenPageFault', 'trace', 'invlpg'] as const) {
        expect(count(nested, reason), reason).toBe(0);
      }
      expect(code(nested, 'NPF')).toBe(count(software, 'mmio'));
      for (const machine of [nested, shadow]) {
        for (const reason of ['portIo', 'cpuid', 'hlt', 'mmio', 'interrupt'] as const) {
          expect(count(machine, reason), reason).toBe(count(software, reason));
        }
      }

      expect(count(software, 'invlpg')).toBeGreaterThan(1000);
      expect(count(shadow, 'invlpg')).toBe(count(software, 'invlpg'));
      expect(count(shadow, 'truePageFault')).toBe(count(software, 'truePageFault'));
      expect(code(shadow, 'CR3_WRITE')).toBeGreaterThan(100);
      expect(census.stores).toBeGreaterThan(50_000);
      expect(count(shadow, 'trace')).toBe(census.stores);
      expect(census.firstUses).toBeGreaterThan(20_000);
      expect(count(shadow, 'hiddenPageFault')).toBe(census.firstUses);
    },
    BOOT_SECONDS * 4000,
  );
});

/** How long the guest works while its engine changes. */
const TOGGLE_SECONDS = 60;
const TOGGLE_MS = 50;
/** The script again and again until the time is over, and how often that was. */
const TOGGLE_SCRIPT = `up() { read -r now rest < /proc/uptime; now=\${now%.*}; }
up; end=$((now + ${TOGGLE_SECONDS})); j=0
while [ $now -lt $end ]; do j=$((j+1)); ${SCRIPT}; up; done; echo "rounds $j"`;

describe('Linux, amd64', () => {
  test(
    'changes between the model and software every 50 ms, and its sums are right',
    async (context) => {
      const guest = await prepareDebian('amd64', 'model-toggle', TOGGLE_SCRIPT);
      if (typeof guest === 'string') return context.skip(guest);
      const machine = linux(guest, {});
      const timer = setInterval(() => {
        const modes = [
          { kind: 'software' },
          {
            kind: 'hardware',
            accelerator: 'model',
            mmu: MODES[Math.floor(machine.engineStatus.switches / 2) % 2],
          },
        ] as const;
        const next = machine.engine === 'software' ? modes[1] : modes[0];
        expect(machine.switchEngine({ ...next }).problem).toBeNull();
      }, TOGGLE_MS);
      machine.on('ended', () => clearInterval(timer));
      const { text, end } = await toItsEnd(machine);
      expect(end).toEqual({ kind: 'powerOff' });
      const rounds = Number(/rounds (\d+)/.exec(text)?.[1]);
      expect(rounds).toBeGreaterThan(5);
      expect(text.split(`forked 20\r\n${MD5_OF_1_MIB_OF_ZEROS}  -`).length).toBe(rounds + 1);
      expect(machine.engineStatus.switches).toBeGreaterThan((TOGGLE_SECONDS * 1000) / TOGGLE_MS / 2);
    },
    BOOT_SECONDS * 2000,
  );
});
