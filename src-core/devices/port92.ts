import { z } from 'zod';
import type { Device, PortBus } from '../machine/bus.ts';

/** Address line 20. Port 92h and the 8042 both drive it; the last to write wins. */
export class A20Gate {
  enabled = true;
  readonly #onChange: (enabled: boolean) => void;

  constructor(onChange: (enabled: boolean) => void) {
    this.#onChange = onChange;
  }

  set(enabled: boolean): void {
    this.enabled = enabled;
    this.#onChange(enabled);
  }
}

const stateSchema = z.strictObject({ a20: z.boolean(), resetBit: z.boolean() });

/** System control port A (92h): bit 1 is A20, bit 0 resets the processor when it goes to 1. */
export class Port92 implements Device {
  readonly name = 'port92';
  readonly #a20: A20Gate;
  readonly #onReset: () => void;
  #resetBit = false;

  constructor(a20: A20Gate, onReset: () => void) {
    this.#a20 = a20;
    this.#onReset = onReset;
  }

  attach(ports: PortBus): void {
    ports.register(0x92, 0x92, this.name, {
      byteOnly: true,
      readPort: () => (this.#a20.enabled ? 2 : 0) | (this.#resetBit ? 1 : 0),
      writePort: (_port, _size, value) => {
        this.#a20.set((value & 2) !== 0);
        const wasSet = this.#resetBit;
        this.#resetBit = (value & 1) !== 0;
        if (this.#resetBit && !wasSet) this.#onReset();
      },
    });
  }

  reset(): void {
    this.#resetBit = false;
    this.#a20.set(true);
  }

  save(): unknown {
    return { a20: this.#a20.enabled, resetBit: this.#resetBit };
  }

  restore(state: unknown): void {
    const { a20, resetBit } = stateSchema.parse(state);
    this.#resetBit = resetBit;
    this.#a20.set(a20);
  }
}
