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

/** Standard output, which may be a terminal, a file or a pipe whose reader is slow or gone. */
export class StdoutSink implements Sink {
  #broken = false;

  /** @param onBroken called once when the reader of the pipe is gone. */
  constructor(onBroken: () => void) {
    process.stdout.on('error', () => {
      if (this.#broken) return;
      this.#broken = true;
      onBroken();
    });
  }

  write(bytes: Uint8Array): void {
    if (!this.#broken) process.stdout.write(Uint8Array.from(bytes));
  }

  flush(): Promise<void> {
    if (this.#broken) return Promise.resolve();
    return new Promise((resolve) => process.stdout.write('', () => resolve()));
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
