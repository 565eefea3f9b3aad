import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const START = fileURLToPath(new URL('../../../scripts/start.mjs', import.meta.url));
/** Building takes its time where nothing was built yet. */
const START_LIMIT_MS = 120_000;

/** The app as a user starts it in the server shell: `npm start -- --no-open`. */
export interface RunningApp {
  address: string;
  /** Process ids of the VMs' processes, by VM name. Linux only: read from /proc. */
  vmProcesses: () => Map<string, number>;
  stop: () => Promise<void>;
}

/** @param cache a directory that stands in for the app's cache of packages, which else begins empty. */
export async function startApp(cache?: string): Promise<RunningApp> {
  const directory = mkdtempSync(join(tmpdir(), 'switchyard-e2e-'));
  if (cache !== undefined) {
    mkdirSync(cache, { recursive: true });
    symlinkSync(cache, join(directory, 'cache'));
  }
  const child = spawn(process.execPath, [START, '--no-open', '--data-dir', directory], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once('close', resolve));
      child.kill('SIGTERM');
      await ended;
    }
    rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  };
  try {
    const address = await readAddress(child);
    return { address, vmProcesses: () => vmProcesses(child.pid ?? 0), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function readAddress(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = '';
    const read = (text: string): void => {
      output += text;
      const address = /http:\/\/127\.0\.0\.1:\d+\/\?token=\S+/.exec(output)?.[0];
      if (address !== undefined) resolve(address);
    };
    child.stdout?.setEncoding('utf8').on('data', read);
    child.stderr?.setEncoding('utf8').on('data', read);
    child.once('close', (code) => reject(new Error(`the app ended with ${code ?? 'a signal'}:\n${output}`)));
    setTimeout(() => reject(new Error(`no address within the time:\n${output}`)), START_LIMIT_MS).unref();
  });
}

/** Processes below one process whose title is that of a VM. */
function vmProcesses(root: number): Map<string, number> {
  const parents = new Map<number, number>();
  const titles = new Map<number, string>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const pid = Number(name);
      // The name in parentheses may hold spaces; the parent is the second field after it.
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      parents.set(pid, Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
      titles.set(pid, readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim());
    } catch {
      // It ended while we looked.
      continue;
    }
  }
  const found = new Map<string, number>();
  for (const [pid, title] of titles) {
    const name = /^switchyard-vm (.*)$/.exec(title)?.[1];
    let at: number | undefined = pid;
    while (at !== undefined && at !== root) at = parents.get(at);
    if (name !== undefined && at === root) found.set(name, pid);
  }
  return found;
}
