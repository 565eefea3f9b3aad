/**
 * The nanobenchmark guest: every event it is about happens, on the software engine and on QEMU, and the exits that
 * the accounting sees around each are the ones the operation must take.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { ExitReason } from '../../src-core/accounting/exits.ts';
import { probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import {
  buildNanobench,
  measureNanobench,
  NANOBENCH_NAMES,
  nanobenchLacks,
  nanobenchmark,
  type NanobenchBits,
  type NanobenchName,
  type NanobenchOptions,
  type NanobenchResult,
  type NanobenchRun,
  NanobenchOutputError,
  parseNanobenchLine,
} from '../../src-core/guests/nanobench/index.ts';
import { UsageError } from '../../src-main/cli/arguments.ts';
import { parseNanobenchArguments } from '../../src-main/cli/nanobench.ts';
import { findQemu, guestEnded } from './machines.ts';

const cli = fileURLToPath(new URL('../../src-main/cli.ts', import.meta.url));
const timeoutMs = 120_000;
/** Enough for every event to happen many times, and quick. */
const quick = { cycles: 1_000_000, timeoutMs };
/** What the hardware engine can do here. */
const kvm = await probeHardware();
const only64: readonly NanobenchName[] = ['syscall', 'cr8wr'];

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

function execute(command: string, args: readonly string[]): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code, stdout, stderr });
    });
  });
}

const nanobench = (...args: string[]): Promise<Ended> =>
  execute(process.execPath, [cli, 'nanobench', ...args]);

function measured(result: NanobenchResult | undefined): Extract<NanobenchResult, { status: 'measured' }> {
  if (result?.status !== 'measured') throw new Error(`not measured: ${JSON.stringify(result)}`);
  return result;
}

/** Exits an operation must take, whatever the tier: true of the software engine. */
const taken: Readonly<Partial<Record<NanobenchName, Partial<Record<ExitReason, number>>>>> = {
  in: { portIo: 1 },
  cr8wr: { controlRegister: 1 },
  pgfault: { truePageFault: 1 },
  divzero: { exception: 1 },
  cpuid: { cpuid: 1 },
  hlt: { hlt: 1, interrupt: 1, mmio: 2 },
  invlpg: { invlpg: 1, tlbFill: 1 },
  mmio: { mmio: 1 },
  portwrite: { portIo: 1 },
  rdmsr: { msr: 1 },
  smc: { selfModifyingCode: 1 },
  ctxswitch: { controlRegister: 1 },
  // The child writes four pages that are shared, the parent one.
  forkwait: { truePageFault: 5 },
};

describe.each([32, 64] as const)('%i-bit', (bits: NanobenchBits) => {
  const applicable = NANOBENCH_NAMES.filter((name) => bits === 64 || !only64.includes(name));

  describe.each([0, 1] as const)('software engine, tier %i', (tier) => {
    it('does everything it measures, with the exits that takes', async () => {
      const seen: NanobenchResult[] = [];
      const run = await measureNanobench({
        bits,
        ...quick,
        machine: { translator: { tier } },
        onResult: (result) => seen.push(result),
      });
      expect(run.results).toEqual(seen);
      expect(run.results.map(({ name }) => name)).toEqual(NANOBENCH_NAMES);
      expect(run.tscKhz).toBe(1_000_000);
      for (const result of run.results) {
        if (!applicable.includes(result.name)) {
          expect(result).toMatchObject({ status: 'notApplicable' });
          continue;
        }
        const { exits, operations } = measured(result);
        expect(operations).toBeGreaterThan(0);
        for (const [reason, count] of Object.entries(taken[result.name] ?? {})) {
          const found = exits.find((exit) => exit.reason === reason)?.perOperation ?? 0;
          expect(found, `${result.name}: ${reason}`).toBeGreaterThan(count * 0.9);
          expect(found, `${result.name}: ${reason}`).toBeLessThan(count * 1.3);
        }
      }
    });
  });

  it('goes on without what the guest does not come back from', async () => {
    const { results } = await measureNanobench({
      bits,
      only: ['callret', 'hlt', 'mmio'],
      // Many seconds of sleep, for HLT.
      operations: 400_000,
      stallMs: 3000,
      timeoutMs,
    });
    expect(results).toMatchObject([
      { name: 'callret', status: 'measured' },
      { name: 'hlt', status: 'failed', reason: expect.stringContaining('did not come back') as string },
      { name: 'mmio', status: 'measured' },
    ]);
  });

  it('counts instructions exactly under the instruction clock, and the same again', async () => {
    const options: NanobenchOptions = {
      bits,
      only: ['in', 'callret', 'pgfault', 'divzero', 'ptemod', 'iret', 'smc', 'forkwait'],
      operations: 64,
      timeoutMs,
      machine: { clock: 'icount' },
    };
    const first = await measureNanobench(options);
    const cyclesOf = (name: NanobenchName): number =>
      measured(first.results.find((result) => result.name === name)).cycles;
    expect(cyclesOf('in')).toBe(1);
    expect(cyclesOf('callret')).toBe(2);
    // The load that faults retires when it is skipped: the handler's four instructions are what is left.
    expect(cyclesOf('pgfault')).toBe(4);
    expect(cyclesOf('divzero')).toBe(3);
    expect(cyclesOf('ptemod')).toBe(1);
    expect(cyclesOf('iret')).toBe(0);
    expect(cyclesOf('smc')).toBe(0);
    expect(cyclesOf('forkwait')).toBeGreaterThan(1000);
    // Slices and translations follow the host's clock; what the guest did must not.
    const done = ({ results }: NanobenchRun) =>
      results.map(measured).map(({ name, operations, cycles, instructions }) => ({
        name,
        operations,
        cycles,
        instructions,
      }));
    expect(done(await measureNanobench(options))).toEqual(done(first));
  });

  if (kvm.verdict === 'unable') it.skip(`KVM: ${kvm.failure?.message ?? 'it cannot be used'}`);
  else {
    it('does everything it measures on KVM, and skips by name what that cannot do', async () => {
      const lacks = nanobenchLacks(kvm, bits);
      const run = await measureNanobench({
        bits,
        ...quick,
        lacks,
        timeoutMs: 60_000,
        machine: { engine: 'hardware', hardware: { accelerator: 'kvm' } },
      });
      for (const result of run.results) {
        const lacking = ['kernel' as const, ...nanobenchmark(result.name).needs].some(
          (need) => need in lacks,
        );
        const status = lacking ? 'skipped' : 'measured';
        expect(result.status).toBe(applicable.includes(result.name) ? status : 'notApplicable');
      }
    });
  }

  const qemu = findQemu();
  if (qemu === undefined) it.skip('QEMU: this machine has no qemu-system-x86_64');
  else {
    it('does everything it measures on QEMU', async () => {
      const directory = mkdtempSync(join(tmpdir(), 'switchyard-nanobench-'));
      try {
        const image = join(directory, 'nanobench.elf');
        writeFileSync(image, buildNanobench(bits));
        const { code, stdout, stderr } = await execute(qemu, [
          ...['-accel', 'tcg', '-cpu', 'max', '-m', '64', '-nodefaults', '-display', 'none', '-no-reboot'],
          ...['-kernel', image, '-append', 'cycles=1000000', '-serial', 'stdio'],
          ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
        ]);
        expect(code, stderr).toBe(guestEnded);
        const lines = stdout.trim().split(/\r?\n/).map(parseNanobenchLine);
        expect(lines[0]).toMatchObject({ guest: 'nanobench', bits });
        expect(lines.at(-1)).toEqual({ guest: 'nanobench', end: true });
        const results = lines.filter((line) => 'benchmark' in line);
        expect(results.map(({ benchmark }) => benchmark)).toEqual(NANOBENCH_NAMES);
        for (const result of results) {
          const { benchmark } = result;
          if (applicable.includes(benchmark)) expect(result).toMatchObject({ bits, verified: true });
          else expect(result).toMatchObject({ bits, applicable: false });
        }
      } finally {
        rmSync(directory, { recursive: true, force: true });
      }
    });
  }
});

describe('what runs', () => {
  it('is what was asked for, so many times', async () => {
    const run = await measureNanobench({ bits: 64, only: ['cpuid', 'in'], operations: 20, timeoutMs });
    // Whole iterations of eight.
    expect(run.results).toMatchObject([
      { name: 'in', operations: 24 },
      { name: 'cpuid', operations: 24 },
    ]);
  });

  it('leaves out by name what the engine lacks', async () => {
    const run = await measureNanobench({
      bits: 32,
      ...quick,
      only: ['in', 'pgfault', 'forkwait', 'hlt'],
      lacks: { paging: 'no 32-bit paging here', interrupts: 'none get in' },
    });
    expect(run.results).toMatchObject([
      { name: 'in', status: 'measured' },
      { name: 'pgfault', status: 'skipped', reason: 'no 32-bit paging here' },
      { name: 'hlt', status: 'skipped', reason: 'none get in' },
      { name: 'forkwait', status: 'skipped', reason: 'no 32-bit paging here' },
    ]);
  });

  it('ends when it takes too long', async () => {
    const run = measureNanobench({ bits: 64, only: ['forkwait'], operations: 8_000_000, timeoutMs: 300 });
    await expect(run).rejects.toMatchObject({ name: 'NanobenchError', timedOut: true });
  });

  it('is read with suspicion', () => {
    for (const line of ['', 'hello', '{}', '{"benchmark":"in"}', '{"guest":"nanobench","end":false}']) {
      expect(() => parseNanobenchLine(line)).toThrow(NanobenchOutputError);
    }
  });
});

describe('the command', () => {
  const few = ['--only', 'in,callret', '--operations', '64'];

  it('prints a table', async () => {
    const { code, stdout, stderr } = await nanobench(...few);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(stdout).toContain('64-bit guest, software engine');
    expect(stdout).toContain('published, P4 672, secondary source');
    expect(stdout).toMatch(/^in +.*3209 +~native \/ 15 +15826 +1\.00 Port I\/O/m);
    expect(stdout).toMatch(/^callret +.*11 +51 +11 +none/m);
  });

  it('prints JSON', async () => {
    const { code, stdout } = await nanobench(
      ...few,
      '--json',
      '--bits',
      '32',
      '--no-adaptive',
      '--clock',
      'icount',
    );
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      format: 'switchyard-nanobench',
      engine: 'software',
      translator: { adaptive: false },
      clock: 'icount',
      bits: 32,
      results: [
        {
          name: 'in',
          cycles: 1,
          exits: [{ reason: 'portIo', perOperation: 1 }],
          published: { native: 3209, hardware: 15826, source: 'published, P4 672, secondary source' },
        },
        { name: 'callret', cycles: 2, instructions: 2 },
      ],
    });
  });

  it('writes the guest for others to boot', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'switchyard-nanobench-'));
    try {
      const image = join(directory, 'guest.elf');
      expect(await nanobench('--image', image, '--bits', '32')).toEqual({ code: 0, stdout: '', stderr: '' });
      expect(readFileSync(image)).toEqual(Buffer.from(buildNanobench(32)));
      const refused = await nanobench('--image', join(directory, 'not/there'));
      expect(refused).toMatchObject({ code: 2, stdout: '' });
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it('refuses an engine that is not available in one line', async () => {
    const { code, stdout, stderr } = await nanobench('--engine', 'hardware', '--clock', 'icount');
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^switchyard: the hardware engine is not available: .*\n$/);
  });

  it.each([
    [['--only', 'nop'], 'there is no benchmark "nop"'],
    [['--bits', '16'], '--bits must be 32 or 64'],
    [['--operations', '0'], '--operations must be a whole number from 1'],
    [['--mmu', 'nested'], '--mmu needs --engine hardware'],
    [['--engine', 'hardware', '--accelerator', 'kvm', '--mmu', 'shadow'], '--mmu belongs to the model'],
    [['--engine', 'hardware', '--profile', ''], '--profile needs a name'],
    [['extra'], 'extra'],
  ])('refuses %j', (args, message) => {
    expect(() => parseNanobenchArguments(args)).toThrow(UsageError);
    expect(() => parseNanobenchArguments(args)).toThrow(message);
  });

  it('takes --mmu and --profile to mean the model', () => {
    const { hardware } = parseNanobenchArguments(['--engine', 'hardware', '--mmu', 'shadow']);
    expect(hardware).toEqual({ accelerator: 'model', mmu: 'shadow' });
  });
});
