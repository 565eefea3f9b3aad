import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { buildInitramfs } from '../../src-main/firstguest/initramfs.ts';
import { fetchInstallerKernel } from '../../src-main/firstguest/packages.ts';

/** Real Linux kernels from Debian's packages, through the command line. */

const root = fileURLToPath(new URL('../..', import.meta.url));
const cache = join(root, '.cache/guests');

/** What the guest does, and what it must print. The sum is that of 16 MiB of zeros. */
const SCRIPT = `uname -m
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo "loop $i"
dd if=/dev/zero bs=1M count=16 2>/dev/null | md5sum`;
const MD5_OF_16_MIB_OF_ZEROS = '2c7ab85a893283e98c931e9511add182';

/** Wall time a boot may take, generously: this shares two cores with whatever else runs. */
const LIMIT_SECONDS = { i386: 600, amd64: 900 } as const;

interface Guest {
  kernel: string;
  initrd: string;
}

/** The guest's files, or why they cannot be had here. */
async function prepare(architecture: 'i386' | 'amd64'): Promise<Guest | string> {
  const missing = await aptMissing();
  if (missing !== undefined) return missing;
  try {
    const parts = await fetchInstallerKernel({
      cache,
      architecture,
      signal: AbortSignal.timeout(400_000),
      onStep: () => undefined,
      onDownload: () => undefined,
    });
    mkdirSync(cache, { recursive: true });
    const initrd = join(cache, `${architecture}-test.gz`);
    writeFileSync(initrd, buildInitramfs({ busybox: parts.busybox, script: SCRIPT }));
    return { kernel: parts.kernel, initrd };
  } catch (error) {
    return `its packages cannot be had: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function boot({ kernel, initrd }: Guest, timeout: number): Promise<{ code: number | null; output: string }> {
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
      const guest = await prepare(architecture);
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
