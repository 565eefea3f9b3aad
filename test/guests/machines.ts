/** Runs a system test guest on QEMU and on Switchyard, and tells how it ended and what it printed. */
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { SystemGuest } from '../../src-core/guests/system/index.ts';

export interface GuestRun {
  /** Exit status of the machine's process. */
  readonly status: number | null;
  /** What came out of the debug console. */
  readonly output: string;
  /** What the process said on its standard error. */
  readonly errors: string;
}

/** isa-debug-exit's status for the 42 our guests write. */
export const guestEnded = 85;
/** RAM of the guests, MiB. */
const memory = 64;
const seconds = 60;
/** Output beyond this is a guest that runs wild. */
const outputLimit = 1 << 20;
const repository = new URL('../..', import.meta.url).pathname;

/** QEMU's path, if this machine has it. */
export function findQemu(): string | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(directory, 'qemu-system-x86_64');
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      continue;
    }
  }
  return undefined;
}

/**
 * Runs a guest under QEMU's TCG. The vendor is Intel's because that decides what SYSENTER and SYSCALL do
 * outside the mode they were made for; everything else TCG can do is on.
 */
export function runOnQemu(qemu: string, guest: SystemGuest): Promise<GuestRun> {
  return withImage(guest, (image, output) =>
    execute(
      qemu,
      [
        ...['-accel', 'tcg', '-cpu', 'max,vendor=GenuineIntel', '-m', String(memory), '-nodefaults'],
        ...['-kernel', image, '-debugcon', `file:${output}`, '-serial', 'none', '-display', 'none'],
        ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4', '-no-reboot'],
      ],
      output,
    ),
  );
}

/** Runs a guest on Switchyard's software engine through the command line, with further options of it. */
export function runOnSwitchyard(guest: SystemGuest, options: readonly string[] = []): Promise<GuestRun> {
  return withImage(guest, (image, output) =>
    execute(
      process.execPath,
      [
        ...[join(repository, 'src-main/cli.ts'), 'run', '--kernel', image, '--memory', String(memory)],
        ...['--debugcon', output, '--debug-exit', '--no-reboot', '--serial', 'none'],
        ...['--timeout', String(seconds), ...options],
      ],
      output,
    ),
  );
}

/** Where the expected output of a guest is kept. */
export function expectedPath(guest: SystemGuest): string {
  return join(repository, 'test/guests/expected', `${guest.name}.txt`);
}

async function withImage(
  guest: SystemGuest,
  run: (image: string, output: string) => Promise<GuestRun>,
): Promise<GuestRun> {
  const directory = mkdtempSync(join(tmpdir(), 'switchyard-guest-'));
  try {
    const image = join(directory, `${guest.name}.elf`);
    writeFileSync(image, guest.build());
    const output = join(directory, 'output.txt');
    writeFileSync(output, '');
    return await run(image, output);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function execute(command: string, args: readonly string[], output: string): Promise<GuestRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let errors = '';
    child.stderr.setEncoding('utf8');
    child.stderr.on('data', (text: string) => {
      if (errors.length < outputLimit) errors += text;
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), (seconds + 10) * 1000);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      const text = readFileSync(output, 'latin1').slice(0, outputLimit);
      resolve({ status, output: text, errors: errors.trim() });
    });
  });
}
