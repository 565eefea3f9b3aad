import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseInspectArguments } from '../../src-main/cli/inspect.ts';
import { inspectionSchema, regionDetailSchema } from '../../src-core/protocol/inspection.ts';
import { temporaryDirectory } from '../host/support.ts';
import * as guest from '../support/tiny-guest.ts';

const cli = fileURLToPath(new URL('../../src-main/cli.ts', import.meta.url));
let directory: ReturnType<typeof temporaryDirectory>;
let kernel: string;
beforeAll(() => {
  directory = temporaryDirectory();
  kernel = join(directory.path, 'kernel');
  // again: inc eax; jmp again
  writeFileSync(kernel, guest.tinyGuest(guest.print('up'), [0x40, 0xeb, 0xfd]));
});
afterAll(() => directory.remove());

function inspectRun(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, 'inspect', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

describe('cli inspect', () => {
  test('the table and one region in full', async () => {
    const ended = await inspectRun('--kernel', kernel, '--after', '0.5', '--region', '1');
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    expect(ended.stdout).toMatch(/^Regions +1 alive of 1 translated, 0 dropped, 0 unused$/m);
    expect(ended.stdout).toMatch(/^1 +0x10002e +0x10002e +0x510002e +32-bit CPL 0 /m);
    expect(ended.stdout).toMatch(/^0x10002e {2}inc eax +rax = incf\.32 rax/m);
    expect(ended.stdout).toMatch(/ i32\.add$/m);
  });

  test('as JSON', async () => {
    const { code, stdout } = await inspectRun('--kernel', kernel, '--after=0.5', '--region=1', '--json');
    const result = JSON.parse(stdout) as { detail: unknown };
    expect(code).toBe(0);
    expect(inspectionSchema.parse(result).regions).toHaveLength(1);
    expect(regionDetailSchema.parse(result.detail).fidelity).toBe('same');
  });

  test('nothing hot: it says so', async () => {
    const ended = await inspectRun('--kernel', kernel, '--exit-on', 'up', '--threshold', '1000000');
    expect(ended.code).toBe(0);
    expect(ended.stdout).toContain('Nothing is translated.');
  });

  test('bad arguments end with 2 and one clear line', async () => {
    const ended = await inspectRun('--kernel', kernel, '--top', '0');
    expect(ended).toMatchObject({ code: 2, stdout: '' });
    expect(ended.stderr).toBe('switchyard: --top must be a whole number from 1 to 1000, not "0"\n');
    const refused = (...args: string[]) => expect(() => parseInspectArguments(['--kernel', kernel, ...args]));
    refused('--tier', '0').toThrow('nothing is translated');
    refused('--engine', 'hardware').toThrow('software engine');
    refused('--order', 'size').toThrow('--order must be entries or work');
    refused('--after', 'x').toThrow('--after must be a number of seconds');
    refused('--region').toThrow('--region needs a value');
  });
});
