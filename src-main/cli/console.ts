/** What Ctrl-] sends: leaves the console. */
const ESCAPE_BYTE = 0x1d;

/** What stdin's bytes do. */
export interface ConsoleHandlers {
  /** Bytes for the guest. Returning false pauses stdin until `resume` is called. */
  onInput(bytes: Uint8Array): boolean;
  /** Ctrl-] was typed. */
  onLeave(): void;
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
      process.stderr.write('Ctrl-] leaves the console.\n');
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

  close(): void {
    process.stdin.off('data', this.#receive);
    process.stdin.pause();
    this.#restore();
    process.off('exit', this.#restore);
  }

  #data(bytes: Buffer): void {
    const escape = this.#raw ? bytes.indexOf(ESCAPE_BYTE) : -1;
    const input = escape < 0 ? bytes : bytes.subarray(0, escape);
    if (input.length > 0 && !this.#handlers.onInput(input)) process.stdin.pause();
    if (escape >= 0) this.#handlers.onLeave();
  }
}
