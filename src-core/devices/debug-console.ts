import type { PortBus } from '../machine/bus.ts';

/**
 * A Bochs-style debug console: bytes written to its port go to the host; reading gives E9h, by which guests
 * recognize it. It has no state. The usual port is E9h; SeaBIOS writes its log to 402h.
 */
export class DebugConsole {
  readonly name: string;
  readonly #port: number;
  readonly #onByte: (byte: number) => void;

  constructor(port: number, onByte: (byte: number) => void) {
    this.name = `debugcon-${port.toString(16)}`;
    this.#port = port;
    this.#onByte = onByte;
  }

  attach(ports: PortBus): void {
    ports.register(this.#port, this.#port, this.name, {
      byteOnly: true,
      readPort: () => 0xe9,
      writePort: (_port, _size, value) => this.#onByte(value),
    });
  }
}
