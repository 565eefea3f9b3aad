import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { type DebianGuest, prepareDebian } from './debian.ts';

/** Real Linux kernels from Debian's packages, through the command line. */

const root = fileURLToPath(new URL('../..', import.meta.url));

/** What the guest does, and what it must print. The sum is that of 16 MiB of zeros. */
const SCRIPT = `uname -m
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo "loop $i"
dd if=/dev/zero bs=1M count=16 2>/dev/null | md5sum`;
const MD5_OF_16_MIB_OF_ZEROS = '2c7ab85a893283e98c931e9511add182';

/** Wall time a boot may take, generously: this shares two cores with whatever else runs. */
const LIMIT_SECONDS = { i386: 600, amd64: 900 } as const;

function boot(
  { kernel, initrd }: DebianGuest,
  timeout: number,
): Promise<{ code: number | null; output: string }> {
  const args = [
    'run',
    '--kernel',
    kernel,
    '--initrd',
    initrd,
    '--append',
    'console=ttyS0',
    '--memory',
    '256',
  ];
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [join(root, 'src-main/cli.ts'), ...args, '--no-reboot', '--timeout', String(timeout)],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
}

describe.each([
  ['i386', 'i686'],
  ['amd64', 'x86_64'],
] as const)('Debian 12 netboot kernel, %s', (architecture, machine) => {
  test(
    'boots to a shell, loops, sums, and powers off through ACPI',
    async (context) => {
      const guest = await prepareDebian(architecture, 'test', SCRIPT);
      if (typeof guest === 'string') return context.skip(guest);
      const { code, output } = await boot(guest, LIMIT_SECONDS[architecture]);
      const tail = output.slice(-3000);
      expect(tail).toContain(`${machine}\r\n`);
      expect(tail).toContain('loop 20000\r\n');
      expect(tail).toContain(`${MD5_OF_16_MIB_OF_ZEROS}  -`);
      expect(tail).toContain('ACPI: PM: Preparing to enter system sleep state S5');
      expect(code, tail).toBe(0);
    },
    (LIMIT_SECONDS[architecture] + 420) * 1000,
  );
});
