import { spawn } from 'node:child_process';

/** A program that failed; `message` is the most telling line it printed. */
export class CommandError extends Error {
  constructor(command: string, output: string, status: string) {
    const complaint =
      /^(?:E: |dpkg-deb: error: |tar: )(.*)$/m.exec(output)?.[1] ?? output.trim().split('\n').at(-1);
    super(`${command} failed (${status})${complaint ? `: ${complaint}` : ''}`);
    this.name = 'CommandError';
  }
}

export interface CommandOptions {
  cwd?: string;
  signal?: AbortSignal;
}

/** Runs a program to its end. @returns its standard output. @throws CommandError; an AbortError when cancelled. */
export function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      ...options,
      // Messages are read, so they must be the untranslated ones.
      env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) resolve(stdout);
      else reject(new CommandError(command, stderr || stdout, signal ?? `exit code ${code ?? 'unknown'}`));
    });
  });
}

/** Whether a program can be found on the path. */
export async function commandExists(command: string): Promise<boolean> {
  try {
    await runCommand(command, ['--version']);
    return true;
  } catch {
    return false;
  }
}
