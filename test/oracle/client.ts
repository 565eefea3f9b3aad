/**
 * Starts the oracle program and exchanges batches with it.
 */
import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { CASE_SIZE, DATA_SIZE, HELLO_MAGIC, IMAGE_COUNT, LDT, MAX_BATCH, RESULT } from './layout.ts';
import { buildOracleProgram } from './program.ts';

type OracleProcess = ChildProcessByStdio<Writable, Readable, null>;

/** A batch not answered for this long means the instruction under test never ends (milliseconds). */
const BATCH_TIMEOUT = 60_000;

/** The results of one batch: records of varying length in one buffer, in the order of the cases. */
export interface ResultBatch {
  readonly bytes: Uint8Array;
  /** Byte offset of each record. */
  readonly offsets: Uint32Array;
}

/** Why this machine can't be an oracle, or undefined when it can be tried. */
export function oracleUnavailable(): string | undefined {
  if (process.platform !== 'linux') return `the silicon oracle needs Linux, this is ${process.platform}`;
  if (process.arch !== 'x64') return `the silicon oracle needs an x86-64 processor, this is ${process.arch}`;
  return undefined;
}

/** Directories to put the program in, best first. */
function executablePlaces(): string[] {
  return [tmpdir(), '/dev/shm', process.cwd()];
}

/** The host processor, run one instruction at a time in a child process. */
export class Oracle {
  /** Indices of the LDT entries the kernel refused (16-bit segments may be switched off). */
  readonly refusedLdtEntries: readonly number[];
  private readonly child: OracleProcess;
  private readonly source: ByteSource;

  private constructor(child: OracleProcess, source: ByteSource, refused: readonly number[]) {
    this.child = child;
    this.source = source;
    this.refusedLdtEntries = refused;
  }

  /**
   * Starts the oracle.
   * @param images IMAGE_COUNT data window images of DATA_SIZE bytes, one after the other.
   * @throws Error when the program can't be started; the message says why.
   */
  static async start(images: Uint8Array): Promise<Oracle> {
    if (images.length !== IMAGE_COUNT * DATA_SIZE) throw new Error(`images: ${images.length} bytes`);
    const unavailable = oracleUnavailable();
    if (unavailable !== undefined) throw new Error(unavailable);
    const failures: string[] = [];
    for (const place of executablePlaces()) {
      try {
        return await Oracle.startIn(place, images);
      } catch (error) {
        // A place may be missing, full, or mounted without the right to execute.
        failures.push(error instanceof Error ? error.message : String(error));
      }
    }
    throw new Error(failures.join('; '));
  }

  private static async startIn(place: string, images: Uint8Array): Promise<Oracle> {
    const directory = mkdtempSync(join(place, 'switchyard-oracle-'));
    try {
      const file = join(directory, 'oracle');
      writeFileSync(file, buildOracleProgram());
      chmodSync(file, 0o700);
      const child = spawn(file, [], { stdio: ['pipe', 'pipe', 'inherit'] });
      const source = new ByteSource(child);
      const hello = await source.take(8);
      const view = new DataView(hello.buffer, hello.byteOffset, hello.byteLength);
      if (view.getUint32(0, true) !== HELLO_MAGIC) throw new Error('oracle: not our program');
      const mask = view.getUint32(4, true);
      child.stdin.write(images);
      return new Oracle(
        child,
        source,
        LDT.map((_, index) => index).filter((index) => (mask & (1 << index)) !== 0),
      );
    } finally {
      // The running program keeps its file.
      rmSync(directory, { recursive: true, force: true });
    }
  }

  /**
   * Runs cases; batches may be queued without waiting for the one before.
   * @param cases `count` case records of CASE_SIZE bytes; must stay unchanged until the result arrives.
   * @throws Error when the oracle died or does not answer.
   */
  async run(cases: Uint8Array, count: number): Promise<ResultBatch> {
    if (count < 1 || count > MAX_BATCH) throw new Error(`batch of ${count} cases`);
    const { stdin } = this.child;
    const header = new Uint8Array(4);
    new DataView(header.buffer).setUint32(0, count, true);
    stdin.write(header);
    stdin.write(cases.subarray(0, count * CASE_SIZE));
    return this.source.takeBatch(count);
  }

  /** Ends the oracle process and waits until it is gone. */
  async close(): Promise<void> {
    this.source.expectEnd();
    this.child.stdin.end();
    await this.source.ended;
  }
}

/** Reads exact amounts from the child's output, in the order asked for. */
class ByteSource {
  readonly ended: Promise<void>;
  private readonly child: OracleProcess;
  private chunks: Uint8Array[] = [];
  private available = 0;
  private waiting: { bytes: number; resolve: (bytes: Uint8Array) => void; reject: (error: Error) => void }[] =
    [];
  private failure: Error | undefined;
  private endExpected = false;
  private queue: Promise<unknown> = Promise.resolve();

  constructor(child: OracleProcess) {
    this.child = child;
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.fail(new Error(`oracle: cannot start (${error.message})`));
        resolve();
      });
      child.once('close', (code, signal) => {
        if (!this.endExpected || this.waiting.length > 0)
          this.fail(new Error(`oracle: ended with ${signal ?? `status ${code}`}`));
        resolve();
      });
    });
    child.stdin.on('error', (error) => this.fail(new Error(`oracle: cannot write (${error.message})`)));
    child.stdout.on('data', (chunk: Uint8Array) => {
      this.chunks.push(chunk);
      this.available += chunk.length;
      this.serve();
    });
  }

  expectEnd(): void {
    this.endExpected = true;
  }

  take(bytes: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) reject(this.failure);
      else {
        this.waiting.push({ bytes, resolve, reject });
        this.serve();
      }
    });
  }

  /** Reads one result batch after those asked for before. */
  takeBatch(count: number): Promise<ResultBatch> {
    const batch = this.queue.then(() => this.readBatch(count));
    // A failed batch is its caller's to handle; the ones queued behind it fail by themselves.
    this.queue = batch.catch(() => undefined);
    return batch;
  }

  private async readBatch(count: number): Promise<ResultBatch> {
    const timer = setTimeout(() => {
      this.fail(new Error(`oracle: no answer in ${BATCH_TIMEOUT / 1000} s, an instruction does not end`));
      this.child.kill('SIGKILL');
    }, BATCH_TIMEOUT);
    try {
      const header = await this.take(4);
      const length = new DataView(header.buffer, header.byteOffset, 4).getUint32(0, true);
      const bytes = await this.take(length);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const offsets = new Uint32Array(count);
      let at = 0;
      for (let index = 0; index < count; index++) {
        offsets[index] = at;
        at += view.getUint32(at + RESULT.length, true);
      }
      if (at !== length) throw new Error(`oracle: ${length} bytes of results, records make ${at}`);
      return { bytes, offsets };
    } finally {
      clearTimeout(timer);
    }
  }

  private fail(error: Error): void {
    this.failure ??= error;
    for (const { reject } of this.waiting) reject(this.failure);
    this.waiting = [];
  }

  private serve(): void {
    for (
      let next = this.waiting[0];
      next !== undefined && this.available >= next.bytes;
      next = this.waiting[0]
    ) {
      this.waiting.shift();
      const bytes = new Uint8Array(next.bytes);
      let filled = 0;
      while (filled < next.bytes) {
        const chunk = this.chunks[0];
        if (chunk === undefined) throw new Error('oracle: byte count out of step');
        const part = chunk.subarray(0, next.bytes - filled);
        bytes.set(part, filled);
        filled += part.length;
        if (part.length === chunk.length) this.chunks.shift();
        else this.chunks[0] = chunk.subarray(part.length);
      }
      this.available -= next.bytes;
      next.resolve(bytes);
    }
  }
}
