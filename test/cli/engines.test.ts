import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { kvmUnavailable } from '../hardware/support.ts';
import { temporaryDirectory } from '../host/support.ts';
import * as guest from '../support/tiny-guest.ts';
import { cliRun } from './cli.ts';

/** Engines on the command line: hardware that is refused, and changes while the guest runs. */

let directory: ReturnType<typeof temporaryDirectory>;
beforeAll(() => (directory = temporaryDirectory()));
afterAll(() => directory.remove());

const at = (name: string): string => join(directory.path, name);
function kernel(...steps: readonly number[][]): string {
  writeFileSync(at('kernel'), guest.tinyGuest(...steps));
  return at('kernel');
}
const hello = (): string => kernel(guest.print('hello\n'), guest.powerOff, guest.halt);
const statistics = (): unknown => JSON.parse(readFileSync(at('stats'), 'utf8'));

describe('hardware that is not there', () => {
  const missing = (): string[] => ['--engine', 'hardware', '--kvm-device', at('missing')];

  test('is told of, and the guest runs in software', async () => {
    const { code, stdout, stderr } = await cliRun([
      ...missing(),
      '--kernel',
      hello(),
      '--stats',
      at('stats'),
    ]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'hello\n' });
    expect(stderr).toMatch(
      /^switchyard: hardware was asked for, the guest runs in software: This host has no /,
    );
    expect(stderr.trimEnd()).not.toContain('\n');
    expect(statistics()).toMatchObject({
      engine: 'software',
      engineStatus: { kind: 'software', problem: { kind: 'absent' }, switches: 0 },
      counters: {},
    });
  });

  test('the model takes its place where either will do', async () => {
    const args = [...missing(), '--accelerator', 'auto', '--kernel', hello(), '--stats', at('stats')];
    const { code, stdout, stderr } = await cliRun(args);
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'hello\n' });
    expect(stderr).toMatch(
      /^switchyard: the guest runs on hardware \(modelled\), not on KVM: This host has no /,
    );
    expect(stderr.trimEnd()).not.toContain('\n');
    expect(statistics()).toMatchObject({
      engine: 'hardware',
      engineStatus: { accelerator: 'model', problem: { kind: 'absent' } },
    });
  });

  test('ends a run that insists on it: 4', async () => {
    const { code, stdout, stderr } = await cliRun([...missing(), '--strict', '--kernel', hello()]);
    expect({ code, stdout }).toEqual({ code: 4, stdout: '' });
    expect(stderr).toMatch(/^switchyard: This host has no .*missing\./);
    expect(stderr.trimEnd()).not.toContain('\n');
  });

  test('leaves a guest that is to change to it where it is', async () => {
    const args = ['--switch-every', '20', '--kvm-device', at('missing'), '--timeout', '1.5'];
    const ended = await cliRun([...args, '--kernel', kernel(guest.loop), '--stats', at('stats')]);
    expect(ended.code).toBe(124);
    expect(ended.stderr).toMatch(/^switchyard: the guest stays on software: This host has no /);
    // Once, not every 20 ms.
    expect(ended.stderr.match(/stays on software/g)).toHaveLength(1);
    const strict = await cliRun([...args, '--strict', '--kernel', kernel(guest.loop)]);
    expect(strict.code).toBe(4);
  });
});

describe.skipIf(kvmUnavailable !== undefined)(`on KVM (skipped without: ${kvmUnavailable ?? ''})`, () => {
  test('a guest changes engines all the time and comes to its end', async () => {
    const print = Array.from({ length: 40 }, (_, line) => guest.print(`line ${line}\n`));
    const wait = [0xb9, 0x00, 0x00, 0x20, 0x00, 0xe2, 0xfe]; // mov ecx, 200000h; loop $
    const image = kernel(...print.flatMap((text) => [text, wait]), guest.powerOff, guest.halt);
    const args = ['--strict', '--switch-every', '20', '--timeout', '100'];
    const { code, stdout, stderr } = await cliRun([...args, '--kernel', image, '--stats', at('stats')]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.split('\n')).toHaveLength(41);
    const { switches, counters } = statistics() as {
      switches: { switched: number; refused: number };
      counters: Record<string, Record<string, number>>;
    };
    expect(switches.switched).toBeGreaterThan(4);
    expect(switches.refused).toBe(0);
    expect(counters.kvm?.exits).toBeGreaterThan(0);
  }, 120_000);
});
