/** The same loop in C (loop.c), built with the system's compiler. */
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { ExitGuest } from './guests.ts';
import { type BatchTime, imageFor } from './ours.ts';

/** Builds the program. @returns its path. Throws when there is no compiler. */
export function buildReference(directory: string): string {
  const program = join(directory, 'exit-loop');
  const source = fileURLToPath(new URL('./loop.c', import.meta.url));
  execFileSync('cc', ['-O2', '-Wall', '-o', program, source], { stdio: ['ignore', 'inherit', 'inherit'] });
  return program;
}

export class ReferenceLoop {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly #interface: Interface;

  constructor(program: string, directory: string, guest: ExitGuest) {
    const image = join(directory, 'guest.bin');
    writeFileSync(image, imageFor(guest));
    this.#child = spawn(program, [image], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#interface = createInterface({ input: this.#child.stdout });
    this.#lines = this.#interface[Symbol.asyncIterator]();
  }

  /** What `exits` take. */
  async run(exits: number): Promise<BatchTime> {
    this.#child.stdin.write(`${exits}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new Error('the loop in C ended early');
    const [cpuNs = NaN, realNs = NaN] = line.value.split(' ').map(Number);
    return { cpuNs, realNs };
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.stdin.end();
    await ended;
    this.#interface.close();
  }
}
