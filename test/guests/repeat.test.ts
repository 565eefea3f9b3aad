import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { type DebianGuest, prepareDebian } from './debian.ts';
import type { DigestRun } from './digest-run.ts';

/** Runs under the instruction clock can be repeated: a whole Linux boot ends in the same state, bit for bit. */

const program = fileURLToPath(new URL('digest-run.ts', import.meta.url));
const LIMIT_MS = 900_000;

async function boot({ kernel, initrd }: DebianGuest, ...args: string[]): Promise<DigestRun> {
  const { stdout } = await promisify(execFile)(process.execPath, [program, kernel, initrd, ...args], {
    timeout: LIMIT_MS,
    maxBuffer: 1 << 24,
  });
  return JSON.parse(stdout) as DigestRun;
}

describe('Debian 12 netboot kernel, amd64, under the instruction clock', () => {
  test(
    'boots to the same instruction count and state again, and in the other tier',
    async (context) => {
      const guest = await prepareDebian('amd64', 'repeat', 'uname -m');
      if (typeof guest === 'string') return context.skip(guest);
      const [first, second] = await Promise.all([boot(guest, '1'), boot(guest, '1', 'disturbed')]);
      expect(first.end, first.serial.slice(-3000)).toEqual({ kind: 'powerOff' });
      expect(first.serial).toContain('x86_64\r\n');
      expect(first.digest.instructions).toBeGreaterThan(1e9);
      expect(second).toEqual(first);
      expect(await boot(guest, '0')).toEqual(first);
    },
    2 * LIMIT_MS + 420_000,
  );
});
