import { spawn, type ChildProcess } from 'node:child_process';
import { stripVTControlCharacters } from 'node:util';
import { MarkerReader, type Marker } from './markers.ts';
import { cpuSeconds, sampleMemory } from './memory.ts';
import type { Launch } from './peers/peer.ts';
import { BOOT_ROW, type Row } from './rows.ts';

/** What one run of one guest in one peer gave. Times are seconds of the host's clock. */
export interface Session {
  /** By row name; rows that were not reached are missing. */
  rows: Map<string, { seconds: number; result: string }>;
  /** Why it ended early: what it was doing, and what its last lines were. */
  failure?: string;
  /** Largest resident size less touched guest RAM, bytes; undefined where RAM cannot be told apart. */
  memoryAboveRam?: number;
  /** Largest resident size, bytes. */
  memoryPeak?: number;
  /** Share of a core that the guest's sleep takes. */
  idle?: number;
}

export interface SessionOptions {
  rows: readonly Row[];
  /** How long to wait for the next marker, seconds. */
  timeout: number;
  signal: AbortSignal;
  onRow: (name: string, seconds: number) => void;
}

const MEMORY_INTERVAL_MS = 1000;
/** The guest's sleep is looked at after it has settled. */
const IDLE_SETTLE_MS = 1500;
const IDLE_MS = 4000;
/** How long a process may take to end by itself when asked to, ms. */
const GRACE_MS = 2000;
/** Output kept to explain a failure, characters. */
const TAIL = 1500;

/** Runs a guest to the end of its script and ends its process. @throws an AbortError when cancelled. */
export async function runSession(launch: Launch, options: SessionOptions): Promise<Session> {
  const run = new Run(launch, options);
  try {
    await run.follow();
    if (launch.boots && run.session.failure === undefined) await run.watchIdle();
    run.checkMemory();
  } finally {
    await run.end();
  }
  options.signal.throwIfAborted();
  return run.session;
}

class Run {
  readonly session: Session = { rows: new Map() };
  readonly #launch: Launch;
  readonly #options: SessionOptions;
  readonly #child: ChildProcess;
  readonly #closed: Promise<void>;
  readonly #reader = new MarkerReader();
  readonly #started = performance.now();
  readonly #sampler: NodeJS.Timeout;
  #watchdog: NodeJS.Timeout | undefined;
  #tail = '';
  #doing: string;
  #began = 0;
  #took = 0;
  #over = false;
  #finish: () => void = () => undefined;

  constructor(launch: Launch, options: SessionOptions) {
    this.#launch = launch;
    this.#options = options;
    this.#doing = launch.boots ? BOOT_ROW : 'start';
    this.#child = spawn(launch.command, launch.args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      ...(launch.env && { env: launch.env }),
    });
    this.#closed = new Promise((resolve) => {
      this.#child.on('close', () => resolve());
    });
    this.#sampler = setInterval(() => this.#sample(), MEMORY_INTERVAL_MS);
  }

  /** Until the script is done, or something went wrong. */
  follow(): Promise<void> {
    const { signal } = this.#options;
    return new Promise((resolve) => {
      this.#finish = () => {
        this.#over = true;
        clearTimeout(this.#watchdog);
        signal.removeEventListener('abort', this.#finish);
        resolve();
      };
      signal.addEventListener('abort', this.#finish);
      this.#child.on('error', (error) => this.#fail(`could not be started: ${error.message}`));
      this.#child.on('close', (code, by) => this.#fail(`ended (${by ?? `exit code ${code ?? 'unknown'}`})`));
      this.#child.stdout?.setEncoding('latin1').on('data', (text: string) => this.#receive(text));
      this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => this.#remember(text));
      this.#expect();
    });
  }

  async watchIdle(): Promise<void> {
    const { pid } = this.#child;
    if (pid === undefined) return;
    this.#sample();
    await this.#pause(IDLE_SETTLE_MS);
    const before = cpuSeconds(pid);
    const started = performance.now();
    await this.#pause(IDLE_MS);
    const after = cpuSeconds(pid);
    if (before === undefined || after === undefined) return;
    this.session.idle = (after - before) / ((performance.now() - started) / 1000);
  }

  /** A machine whose guest RAM is not where we look for it has no figure for memory; that must not go unnoticed. */
  checkMemory(): void {
    const { memoryPeak, memoryAboveRam } = this.session;
    if (this.#launch.ram === undefined || memoryPeak === undefined || memoryAboveRam !== undefined) return;
    this.session.failure ??= 'no mapping of the process has the size of guest RAM';
  }

  /** Ends the process: by asking, then by force. */
  async end(): Promise<void> {
    clearInterval(this.#sampler);
    clearTimeout(this.#watchdog);
    this.#kill('SIGTERM');
    const force = setTimeout(() => this.#kill('SIGKILL'), GRACE_MS);
    await this.#closed;
    clearTimeout(force);
  }

  /** The process and its children, which are a group of their own; one that has ended stays alone. */
  #kill(signal: NodeJS.Signals): void {
    const { pid, exitCode, signalCode } = this.#child;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    process.kill(-pid, signal);
  }

  #pause(milliseconds: number): Promise<void> {
    const { signal } = this.#options;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, signal.aborted ? 0 : milliseconds);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #receive(text: string): void {
    const now = performance.now();
    this.#remember(text);
    for (const marker of this.#reader.push(text, now)) {
      this.#expect();
      this.#take(marker);
    }
  }

  #take(marker: Marker): void {
    switch (marker.kind) {
      case 'boot':
        this.#doing = 'preparing';
        if (this.#launch.boots) this.#record(BOOT_ROW, (marker.at - this.#started) / 1000, '');
        return;
      case 'begin':
        this.#doing = marker.row;
        this.#began = marker.at;
        return;
      case 'end':
        this.#took = (marker.at - this.#began) / 1000;
        return;
      case 'result':
        this.#record(marker.row, this.#took, marker.result);
        return;
      case 'done':
        this.#finish();
    }
  }

  #record(name: string, seconds: number, result: string): void {
    this.session.rows.set(name, { seconds, result });
    this.#options.onRow(name, seconds);
  }

  /** Restarts the wait for the next marker. */
  #expect(): void {
    const { timeout } = this.#options;
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#fail(`gave no sign for ${timeout} s`), timeout * 1000);
  }

  #fail(what: string): void {
    // What happens after the last marker is our own doing.
    if (this.#over) return;
    this.session.failure = `${what} at "${this.#doing}"; its last output:\n${stripVTControlCharacters(this.#tail).trim()}`;
    this.#finish();
  }

  #remember(text: string): void {
    this.#tail = (this.#tail + text).slice(-TAIL);
  }

  #sample(): void {
    const { pid } = this.#child;
    const sample = pid === undefined ? undefined : sampleMemory(pid, this.#launch.ram);
    if (sample === undefined) return;
    const { session } = this;
    session.memoryPeak = Math.max(session.memoryPeak ?? 0, sample.resident);
    if (sample.guestRam === undefined) return;
    session.memoryAboveRam = Math.max(session.memoryAboveRam ?? 0, sample.resident - sample.guestRam);
  }
}
