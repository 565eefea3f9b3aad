import { existsSync, readdirSync } from 'node:fs';
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { commandExists, runCommand } from './command.ts';

/** Bytes of a download. */
export type DownloadProgress = (received: number, total: number) => void;

/** Debian's name of an architecture. */
export type DebianArchitecture = 'amd64' | 'i386';

interface Planned {
  fileName: string;
  size: number;
}

/** Why packages cannot be had here; undefined when they can. */
export async function aptMissing(): Promise<string | undefined> {
  if (process.platform !== 'linux') return 'this is not a Linux system';
  for (const command of ['apt-get', 'apt-cache', 'dpkg', 'dpkg-deb', 'tar', 'bash']) {
    if (!(await commandExists(command))) return `this system has no ${command}`;
  }
  return undefined;
}

/**
 * Fetches Debian packages without root, and without touching the system's own state: lists of other architectures
 * (or missing ones) are kept in a private directory. apt checks the packages' signatures and hashes as always.
 */
export class AptFetcher {
  readonly #directory: string;
  readonly #architecture: DebianArchitecture;
  readonly #signal: AbortSignal;
  #private = false;

  /** @param directory a cache that may be deleted any time. */
  constructor(directory: string, architecture: DebianArchitecture, signal: AbortSignal) {
    this.#directory = join(directory, architecture);
    this.#architecture = architecture;
    this.#signal = signal;
  }

  /** Makes sure there are package lists for the architecture that know the given packages. */
  async prepare(names: readonly string[]): Promise<void> {
    await mkdir(join(this.#directory, 'packages'), { recursive: true });
    const native = (await runCommand('dpkg', ['--print-architecture'], { signal: this.#signal })).trim();
    this.#private = native !== this.#architecture;
    if (!this.#private && (await this.#knows(names))) return;
    this.#private = true;
    await mkdir(join(this.#directory, 'lists/partial'), { recursive: true });
    await mkdir(join(this.#directory, 'cache/archives/partial'), { recursive: true });
    if (!(await this.#knows(names))) await this.#update(names);
  }

  /** The package a meta package stands for: the first dependency whose name matches. */
  async resolve(meta: string, wanted: RegExp): Promise<string> {
    const output = await this.#apt('apt-cache', ['depends', '--important', meta]);
    const name = [...output.matchAll(/^\s*\|?Depends: (\S+)/gm)]
      .map((match) => match[1])
      .find((found) => found !== undefined && wanted.test(found));
    if (name === undefined) throw new Error(`the package ${meta} does not say which kernel it stands for`);
    return name.replace(/:.*$/, '');
  }

  /** Downloads packages that are not in the cache yet. @returns their files, in the order of the names. */
  async download(names: readonly string[], progress: DownloadProgress): Promise<string[]> {
    try {
      return await this.#download(names, progress);
    } catch (error) {
      // Lists older than the mirror name files that are gone: one update, then once more.
      if (this.#signal.aborted || !this.#private) throw error;
      await this.#update(names);
      return this.#download(names, progress);
    }
  }

  async #download(names: readonly string[], progress: DownloadProgress): Promise<string[]> {
    const directory = join(this.#directory, 'packages');
    const planned = await Promise.all(names.map((name) => this.#plan(name)));
    const total = planned.reduce((sum, { size }) => sum + size, 0);
    const report = async (): Promise<void> => {
      const sizes = await Promise.all(planned.map(({ fileName }) => sizeOf(join(directory, fileName))));
      progress(
        Math.min(
          total,
          sizes.reduce((sum, size) => sum + size, 0),
        ),
        total,
      );
    };
    const timer = setInterval(() => void report(), 200);
    try {
      for (const [index, { fileName, size }] of planned.entries()) {
        const path = join(directory, fileName);
        if ((await sizeOf(path)) === size) continue;
        await rm(path, { force: true });
        await this.#apt('apt-get', ['download', names[index] ?? ''], directory);
        if ((await sizeOf(path)) !== size) throw new Error(`apt-get did not deliver ${fileName}`);
      }
      await report();
    } finally {
      clearInterval(timer);
    }
    return planned.map(({ fileName }) => join(directory, fileName));
  }

  async #plan(name: string): Promise<Planned> {
    const output = await this.#apt('apt-get', ['download', '--print-uris', name]);
    const match = /^'[^']*' (\S+) (\d+)/m.exec(output);
    if (!match?.[1]) throw new Error(`apt-get knows no file for the package ${name}`);
    return { fileName: match[1], size: Number(match[2]) };
  }

  async #knows(names: readonly string[]): Promise<boolean> {
    if (this.#private && !existsSync(join(this.#directory, 'lists'))) return false;
    const output = await this.#apt('apt-cache', ['policy', ...names]);
    const candidates = [...output.matchAll(/^\s*Candidate: (?!\(none\))/gm)];
    return candidates.length === names.length;
  }

  async #update(names: readonly string[]): Promise<void> {
    let problem: unknown;
    // A mirror in the middle of a sync fails for one of its lists; those that came may be enough.
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        await this.#apt('apt-get', ['update']);
      } catch (error) {
        if (this.#signal.aborted) throw error;
        problem = error;
      }
      if (await this.#knows(names)) return;
    }
    const reason = problem instanceof Error ? ` (${problem.message})` : '';
    throw new Error(
      `the package lists of this system do not have ${names.join(', ')} for ${this.#architecture}${reason}`,
    );
  }

  #apt(command: string, args: readonly string[], cwd?: string): Promise<string> {
    const options = ['APT::Sandbox::User=root', 'APT::Install-Recommends=false'];
    if (this.#private) {
      options.push(
        `APT::Architecture=${this.#architecture}`,
        `APT::Architectures=${this.#architecture}`,
        `Dir::State::Lists=${join(this.#directory, 'lists')}`,
        `Dir::Cache=${join(this.#directory, 'cache')}`,
      );
    }
    const optionArgs = options.flatMap((option) => ['-o', option]);
    return runCommand(command, [...optionArgs, ...args], {
      signal: this.#signal,
      ...(cwd === undefined ? {} : { cwd }),
    });
  }
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 0;
    throw error;
  }
}

/** Unpacks the files of a package whose paths (with a leading "./") match one of the patterns, as tar's wildcards. */
export async function unpack(
  deb: string,
  directory: string,
  patterns: readonly string[],
  signal: AbortSignal,
): Promise<string[]> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  // Both ends of the pipe are programs, so a shell joins them; the paths stay arguments and need no quoting.
  const pipe = 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --no-same-owner --wildcards "${@:3}"';
  await runCommand('bash', ['-c', `set -o pipefail; ${pipe}`, 'bash', deb, directory, ...patterns], {
    signal,
  });
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
