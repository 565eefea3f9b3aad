import { z } from 'zod';
import type { Device, PortBus } from '../machine/bus.ts';
import { u8 } from './state.ts';

const stateSchema = z.strictObject({ code: u8 });

/** Port 80h: firmware's progress codes, and what many systems write to in order to wait a microsecond. */
export class PostCode implements Device {
  readonly name = 'post';
  #code = 0;

  /** The last code written. */
  get code(): number {
    return this.#code;
  }

  attach(ports: PortBus): void {
    ports.register(0x80, 0x80, this.name, {
      byteOnly: true,
      readPort: () => this.#code,
      writePort: (_port, _size, value) => {
        this.#code = value;
      },
    });
  }

  reset(): void {
    this.#code = 0;
  }

  save(): unknown {
    return { code: this.#code };
  }

  restore(state: unknown): void {
    this.#code = stateSchema.parse(state).code;
  }
}
