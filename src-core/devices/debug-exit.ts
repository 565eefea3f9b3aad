import type { PortBus } from '../machine/bus.ts';

/** First of its four ports, as QEMU's isa-debug-exit has it by convention. */
const BASE = 0xf4;

/** Lets a test guest end the run with a value: the process then exits with (value << 1) | 1. It has no state. */
export class DebugExit {
  readonly name = 'debug-exit';
  readonly #onExit: (value: number) => void;

  constructor(onExit: (value: number) => void) {
    this.#onExit = onExit;
  }

  attach(ports: PortBus): void {
    ports.register(BASE, BASE + 3, this.name, {
      readPort: () => 0,
      writePort: (_port, _size, value) => this.#onExit(value),
    });
  }
}
