/** What Ctrl-] sends: leaves the console. */
const ESCAPE_BYTE = 0x1d;
/** What Ctrl-^ sends: changes the engine. */
const ENGINE_BYTE = 0x1e;

/** What stdin's bytes do. */
export interface ConsoleHandlers {
  /** Bytes for the guest. Returning false pauses stdin until `resume` is called. */
  onInput(bytes: Uint8Array): boolean;
  /** Ctrl-] was typed. */
  onLeave(): void;
  /** Ctrl-^ was typed. */
  onEngine(): void;
}

/**
 * Standard input as the guest's keyboard. A terminal is put into raw mode, so that Ctrl-C reaches the guest, and
 * back on every way out of the process: `close`, an uncaught error, a signal's handler that ends in process.exit.
 */
export class Console {
  readonly #handlers: ConsoleHandlers;
  readonly #raw: boolean;
  readonly #restore = (): void => {
    if (this.#raw) process.stdin.setRawMode(false);
  };
  readonly #receive = (bytes: Buffer): void => this.#data(bytes);
  readonly #fail = (): void => this.close();

  constructor(handlers: ConsoleHandlers) {
    this.#handlers = handlers;
    this.#raw = process.stdin.isTTY;
    if (this.#raw) {
      process.stderr.write('Ctrl-] leaves the console, Ctrl-^ changes the engine.\n');
      process.stdin.setRawMode(true);
      process.on('exit', this.#restore);
    }
    process.stdin.on('data', this.#receive);
    // A terminal that went away ends the input, not the guest.
    process.stdin.on('error', this.#fail);
  }

  resume(): void {
    process.stdin.resume();
  }

  /** Something for the user, on stderr; a terminal in raw mode does not go back to the line's start by itself. */
  say(text: string): void {
    process.stderr.write(this.#raw ? `\r\n${text}\r\n` : `${text}\n`);
  }

  close(): void {
    process.stdin.off('data', this.#receive);
    process.stdin.pause();
    this.#restore();
    process.off('exit', this.#restore);
  }

  #data(bytes: Buffer): void {
    if (!this.#raw) {
      this.#input(bytes);
      return;
    }
    let from = 0;
    for (const [at, byte] of bytes.entries()) {
      if (byte !== ESCAPE_BYTE && byte !== ENGINE_BYTE) continue;
      this.#input(bytes.subarray(from, at));
      from = at + 1;
      if (byte === ENGINE_BYTE) {
        this.#handlers.onEngine();
        continue;
      }
      this.#handlers.onLeave();
      return;
    }
    this.#input(bytes.subarray(from));
  }

  #input(bytes: Uint8Array): void {
    if (bytes.length > 0 && !this.#handlers.onInput(bytes)) process.stdin.pause();
  }
}
