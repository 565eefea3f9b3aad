import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import type { A20Gate } from './port92.ts';
import { u8 } from './state.ts';

const STATUS_OUTPUT_FULL = 0x01;
const STATUS_SYSTEM = 0x04;
const STATUS_COMMAND = 0x08;
const STATUS_UNLOCKED = 0x10;

const CONFIG_INTERRUPT = 0x01;
const CONFIG_SYSTEM = 0x04;
const CONFIG_KEYBOARD_OFF = 0x10;
const CONFIG_AUX_OFF = 0x20;
const CONFIG_TRANSLATE = 0x40;

const OUTPUT_NOT_RESET = 0x01;
const OUTPUT_A20 = 0x02;

const KEYBOARD_ACK = 0xfa;
const KEYBOARD_RESEND = 0xfe;

const stateSchema = z.strictObject({
  config: u8,
  output: z.array(u8).max(64),
  pendingCommand: u8.nullable(),
  keyboardParameter: u8.nullable(),
  lastWasCommand: z.boolean(),
  ram: z.array(u8).length(32),
});

/**
 * 8042 keyboard controller at ports 60h and 64h: self-tests, the output port with A20 and reset, and a keyboard
 * that answers commands but is never typed on. There is no auxiliary device.
 */
export class I8042 implements Device {
  readonly name = 'i8042';
  readonly #irq: IrqLine;
  readonly #a20: A20Gate;
  readonly #onReset: () => void;
  #config = 0;
  /** Bytes waiting to be read at port 60h. */
  #output: number[] = [];
  /** A controller command that waits for its parameter at port 60h. */
  #pendingCommand: number | null = null;
  /** A keyboard command that waits for its parameter. */
  #keyboardParameter: number | null = null;
  #lastWasCommand = false;
  /** The controller's own memory; byte 0 is the configuration, kept in #config. */
  #ram = new Uint8Array(32);

  /**
   * @param irq IRQ1.
   * @param onReset the guest pulsed the processor's reset line.
   */
  constructor(irq: IrqLine, a20: A20Gate, onReset: () => void) {
    this.#irq = irq;
    this.#a20 = a20;
    this.#onReset = onReset;
    this.reset();
  }

  attach(ports: PortBus): void {
    ports.register(0x60, 0x60, this.name, {
      byteOnly: true,
      readPort: () => this.#readData(),
      writePort: (_port, _size, value) => this.#writeData(value),
    });
    ports.register(0x64, 0x64, this.name, {
      byteOnly: true,
      readPort: () =>
        (this.#output.length > 0 ? STATUS_OUTPUT_FULL : 0) |
        ((this.#config & CONFIG_SYSTEM) !== 0 ? STATUS_SYSTEM : 0) |
        (this.#lastWasCommand ? STATUS_COMMAND : 0) |
        STATUS_UNLOCKED,
      writePort: (_port, _size, value) => this.#command(value),
    });
  }

  #push(...bytes: number[]): void {
    // A guest that never reads must not make this grow.
    if (this.#output.length + bytes.length <= 64) this.#output.push(...bytes);
    this.#update();
  }

  #readData(): number {
    const byte = this.#output.shift() ?? 0;
    // The line falls between two bytes, so that each makes its own edge.
    this.#irq.set(false);
    this.#update();
    return byte;
  }

  #update(): void {
    this.#irq.set(this.#output.length > 0 && (this.#config & CONFIG_INTERRUPT) !== 0);
  }

  #command(value: number): void {
    this.#lastWasCommand = true;
    this.#pendingCommand = null;
    if (value >= 0x20 && value < 0x40) {
      this.#push(value === 0x20 ? this.#config : (this.#ram[value & 0x1f] ?? 0));
      return;
    }
    if (value >= 0xf0) {
      // Pulses the output lines whose bits are zero; bit 0 is the processor's reset.
      if ((value & 1) === 0) this.#onReset();
      return;
    }
    switch (value) {
      case 0xa7:
        this.#config |= CONFIG_AUX_OFF;
        break;
      case 0xa8:
        this.#config &= ~CONFIG_AUX_OFF;
        break;
      case 0xa9:
        // Auxiliary port test: clock line stuck low, as with nothing there.
        this.#push(0x01);
        break;
      case 0xaa:
        this.#config |= CONFIG_SYSTEM;
        this.#push(0x55);
        break;
      case 0xab:
        this.#push(0x00);
        break;
      case 0xad:
        this.#config |= CONFIG_KEYBOARD_OFF;
        break;
      case 0xae:
        this.#config &= ~CONFIG_KEYBOARD_OFF;
        break;
      case 0xc0:
        this.#push(0x80);
        break;
      case 0xd0:
        this.#push(
          OUTPUT_NOT_RESET | (this.#a20.enabled ? OUTPUT_A20 : 0) | (this.#output.length > 0 ? 0x10 : 0),
        );
        break;
      case 0xd1:
      case 0xd2:
      case 0xd3:
      case 0xd4:
        this.#pendingCommand = value;
        break;
      case 0xdd:
        this.#a20.set(false);
        break;
      case 0xdf:
        this.#a20.set(true);
        break;
      default:
        if (value >= 0x60 && value < 0x80) this.#pendingCommand = value;
    }
  }

  #writeData(value: number): void {
    this.#lastWasCommand = false;
    const command = this.#pendingCommand;
    this.#pendingCommand = null;
    if (command === null) {
      this.#keyboard(value);
      return;
    }
    switch (command) {
      case 0x60:
        this.#config = value;
        this.#update();
        break;
      case 0xd1:
        this.#a20.set((value & OUTPUT_A20) !== 0);
        if ((value & OUTPUT_NOT_RESET) === 0) this.#onReset();
        break;
      case 0xd2:
      case 0xd3:
        // With no auxiliary device its loopback comes back as if from the keyboard.
        this.#push(value);
        break;
      case 0xd4:
        // To the auxiliary device: nobody answers.
        break;
      default:
        this.#ram[command & 0x1f] = value;
    }
  }

  /** A byte for the keyboard (IBM PS/2 technical reference, "keyboard commands"). */
  #keyboard(value: number): void {
    // Writing to the keyboard enables its interface.
    this.#config &= ~CONFIG_KEYBOARD_OFF;
    const parameterOf = this.#keyboardParameter;
    this.#keyboardParameter = null;
    if (parameterOf !== null && value < 0xed) {
      this.#push(KEYBOARD_ACK);
      if (parameterOf === 0xf0 && value === 0) this.#push(2);
      return;
    }
    switch (value) {
      case 0xed:
      case 0xf0:
      case 0xf3:
        this.#keyboardParameter = value;
        this.#push(KEYBOARD_ACK);
        break;
      case 0xee:
        this.#push(0xee);
        break;
      case 0xf2:
        this.#push(KEYBOARD_ACK, 0xab, (this.#config & CONFIG_TRANSLATE) !== 0 ? 0x41 : 0x83);
        break;
      case 0xf4:
      case 0xf5:
      case 0xf6:
        this.#push(KEYBOARD_ACK);
        break;
      case 0xff:
        this.#push(KEYBOARD_ACK, 0xaa);
        break;
      default:
        this.#push(KEYBOARD_RESEND);
    }
  }

  reset(): void {
    this.#config = CONFIG_TRANSLATE | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF | CONFIG_SYSTEM;
    this.#output = [];
    this.#pendingCommand = null;
    this.#keyboardParameter = null;
    this.#lastWasCommand = false;
    this.#ram = new Uint8Array(32);
    this.#irq.set(false);
  }

  save(): unknown {
    return {
      config: this.#config,
      output: [...this.#output],
      pendingCommand: this.#pendingCommand,
      keyboardParameter: this.#keyboardParameter,
      lastWasCommand: this.#lastWasCommand,
      ram: [...this.#ram],
    };
  }

  restore(state: unknown): void {
    const saved = stateSchema.parse(state);
    this.#config = saved.config;
    this.#output = saved.output;
    this.#pendingCommand = saved.pendingCommand;
    this.#keyboardParameter = saved.keyboardParameter;
    this.#lastWasCommand = saved.lastWasCommand;
    this.#ram = Uint8Array.from(saved.ram);
    this.#update();
  }
}
