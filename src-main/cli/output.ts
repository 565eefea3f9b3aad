import { closeSync, openSync, writeSync } from 'node:fs';
import { UsageError } from './arguments.ts';

/** Somewhere bytes of the guest go. */
export interface Sink {
  write(bytes: Uint8Array): void;
  /** Everything written so far is with the operating system once this resolves. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** A file, truncated at the start. Bytes are gathered and written a few times a second and at the end. */
export class FileSink implements Sink {
  static readonly #FLUSH_MS = 100;
  static readonly #GATHER_BYTES = 64 * 1024;
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(FileSink.#GATHER_BYTES);
  #length = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @throws UsageError when the file cannot be written. */
  constructor(path: string, option: string) {
    try {
      this.#fd = openSync(path, 'w');
    } catch (error) {
      throw new UsageError(
        `${option}: cannot write ${path}: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }

  write(bytes: Uint8Array): void {
    let rest = bytes;
    while (rest.length > 0) {
      const part = rest.subarray(0, this.#buffer.length - this.#length);
      this.#buffer.set(part, this.#length);
      this.#length += part.length;
      rest = rest.subarray(part.length);
      if (this.#length === this.#buffer.length) this.#writeOut();
    }
    this.#timer ??= setTimeout(() => this.#writeOut(), FileSink.#FLUSH_MS);
  }

  #writeOut(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (let done = 0; done < this.#length;)
      done += writeSync(this.#fd, this.#buffer, done, this.#length - done);
    this.#length = 0;
  }

  flush(): Promise<void> {
    this.#writeOut();
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#writeOut();
    closeSync(this.#fd);
    return Promise.resolve();
  }
}

/** How long the end waits for a reader of stdout to take what is left, ms. */
const STDOUT_PATIENCE_MS = 5000;

export interface StdoutOptions {
  /** Bytes that may wait before the writer is told to stop. */
  backlogMax: number;
  /** False: write no more for now; true: go on. */
  onReady: (ready: boolean) => void;
  /** Called once when the reader of the pipe is gone. */
  onBroken: () => void;
}

/** Standard output, which may be a terminal, a file or a pipe whose reader is slow or gone. */
export class StdoutSink implements Sink {
  readonly #options: StdoutOptions;
  #broken = false;
  #held = false;

  constructor(options: StdoutOptions) {
    this.#options = options;
    process.stdout.on('error', () => {
      if (this.#broken) return;
      this.#broken = true;
      options.onBroken();
    });
    process.stdout.on('drain', () => {
      if (!this.#held) return;
      this.#held = false;
      options.onReady(true);
    });
  }

  write(bytes: Uint8Array): void {
    if (this.#broken) return;
    process.stdout.write(bytes);
    if (process.stdout.writableLength <= this.#options.backlogMax || this.#held) return;
    this.#held = true;
    this.#options.onReady(false);
  }

  flush(): Promise<void> {
    if (this.#broken) return Promise.resolve();
    return new Promise((resolve) => {
      // A reader that has stopped reading must not keep us for ever.
      const timer = setTimeout(resolve, STDOUT_PATIENCE_MS);
      // The callback comes with an error too when the reader goes away meanwhile.
      process.stdout.write('', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  close(): Promise<void> {
    return this.flush();
  }
}

/** Finds a text in a stream of bytes, however the stream is cut. */
export class TextWatcher {
  readonly #wanted: Buffer;
  #tail: Buffer = Buffer.alloc(0);

  constructor(text: string) {
    this.#wanted = Buffer.from(text, 'utf8');
  }

  /** Takes the next bytes; true when the text ends within them. */
  push(bytes: Uint8Array): boolean {
    const joined = Buffer.concat([this.#tail, bytes]);
    if (joined.includes(this.#wanted)) return true;
    this.#tail = joined.subarray(Math.max(0, joined.length - this.#wanted.length + 1));
    return false;
  }
}
