/** The probe: what it says of a host, and of a process that probes and goes wrong. */
import { spawn } from 'node:child_process';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { type ProbeProcess, probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import { probe } from '../../src-core/engines/hardware/probe/probe.ts';
import {
  hardwareProbeSchema,
  probeCheckIdSchema,
  type ProbeHost,
  type ProbeMessage,
} from '../../src-core/protocol/hardware-probe.ts';
import { describeProbe } from '../../src-main/cli/probe.ts';
import { FakeLibc } from './fake-libc.ts';
import { describeKvm } from './support.ts';

const HOST: ProbeHost = { module: 'kvm_intel', nestedPaging: true, tscScaling: true, missingFeatures: [] };
const ALL = probeCheckIdSchema.options;

/** A process that says these messages and then ends, or does not. */
function process(
  messages: readonly ProbeMessage[],
  end: { code: number | null; signal: string | null } | undefined,
): ProbeProcess & { killed: boolean } {
  const output = new PassThrough();
  output.write('a line that is no message\n');
  for (const message of messages) output.write(`${JSON.stringify(message)}\n`);
  if (end) output.end();
  const fake = {
    output,
    killed: false,
    kill: () => {
      fake.killed = true;
    },
    ended: end ? Promise.resolve(end) : new Promise<never>(() => undefined),
  };
  return fake;
}

const ok = (id: (typeof ALL)[number]): ProbeMessage[] => [
  { type: 'begin', id },
  { type: 'check', check: { id, works: true, detail: '' } },
];

describe('The probe’s result', () => {
  it('is "able" when everything works', async () => {
    const messages: ProbeMessage[] = [{ type: 'host', host: HOST }, ...ALL.flatMap(ok), { type: 'end' }];
    const result = await probeHardware({ launch: () => process(messages, { code: 0, signal: null }) });
    expect(result.verdict).toBe('able');
    expect(result.failure).toBeNull();
    expect(describeProbe(result)).toMatch(/^Hardware virtualization works: everything tried does\.$/m);
  });

  it('is "partly" when features are missing, though everything works', async () => {
    const host = { ...HOST, missingFeatures: ['smap'] };
    const messages: ProbeMessage[] = [{ type: 'host', host }, ...ALL.flatMap(ok), { type: 'end' }];
    const result = await probeHardware({ launch: () => process(messages, { code: 0, signal: null }) });
    expect(result.verdict).toBe('partly');
    expect(describeProbe(result)).toMatch(/Features missing +smap/);
  });

  it('names the check that a process died of', async () => {
    const messages: ProbeMessage[] = [
      { type: 'host', host: HOST },
      ...ok('realMode'),
      { type: 'begin', id: 'paging32' },
    ];
    const launch = (): ProbeProcess => process(messages, { code: null, signal: 'SIGSEGV' });
    const result = await probeHardware({ launch });
    expect(result.verdict).toBe('partly');
    expect(result.failure).toMatchObject({ kind: 'crash' });
    expect(result.failure?.message).toContain('SIGSEGV');
    expect(result.checks.at(-1)).toMatchObject({ id: 'paging32', works: false });
  });

  it('comes though the process hangs and cannot be killed', async () => {
    const hanging = process(
      [
        { type: 'host', host: HOST },
        { type: 'begin', id: 'realMode' },
      ],
      undefined,
    );
    const result = await probeHardware({ launch: () => hanging, timeoutMs: 100 });
    expect(hanging.killed).toBe(true);
    expect(result.verdict).toBe('unable');
    expect(result.failure).toMatchObject({ kind: 'timeout' });
    expect(result.checks).toEqual([{ id: 'realMode', works: false, detail: 'KVM did not come back' }]);
  });

  it('comes though the process cannot be started', async () => {
    const launch = (): ProbeProcess => {
      const child = spawn('/nonexistent/node', [], { stdio: ['ignore', 'pipe', 'ignore'] });
      return {
        output: child.stdout,
        kill: () => void child.kill(),
        ended: new Promise((resolve) => {
          child.on('error', ({ message }) => resolve({ code: null, signal: null, error: message }));
        }),
      };
    };
    const result = await probeHardware({ launch });
    expect(result.verdict).toBe('unable');
    expect(result.failure).toMatchObject({ kind: 'crash' });
    expect(result.failure?.message).toMatch(/can’t be started: .*ENOENT/);
  });
});

describe('What stands in the way', () => {
  it('is said with the command that mends it', async () => {
    const messages: ProbeMessage[] = [];
    probe((message) => messages.push(message), { calls: new FakeLibc({ open: 13 }) });
    const result = await probeHardware({ launch: () => process(messages, { code: 0, signal: null }) });
    expect(result.verdict).toBe('unable');
    expect(result.failure).toMatchObject({ kind: 'permission' });
    expect(describeProbe(result)).toMatch(/You may not use \/dev\/kvm[^\n]*\n[^\n]*\n {4}sudo /);
  });

  it('is found out by a process that is really started', async () => {
    const result = await probeHardware({ device: '/nonexistent/kvm' });
    expect(result.verdict).toBe('unable');
    const isLinux = globalThis.process.platform === 'linux' && globalThis.process.arch === 'x64';
    expect(result.failure).toMatchObject({ kind: isLinux ? 'absent' : 'platform' });
  });
});

describeKvm('The probe on this host', () => {
  it('tries everything and leaves nothing', { timeout: 60_000 }, async () => {
    const result = hardwareProbeSchema.parse(await probeHardware());
    expect(result.failure).toBeNull();
    expect(result.checks.map(({ id }) => id)).toEqual(ALL);
    expect(result.checks.find(({ id }) => id === 'realMode')).toMatchObject({ works: true });
    expect(result.speed?.exitNs).toBeGreaterThan(0);
    for (const { works, detail } of result.checks) expect(detail === '').toBe(works);
  });
});
