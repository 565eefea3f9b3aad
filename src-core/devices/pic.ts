import { z } from 'zod';
import type { Device, IrqLine, PortBus } from '../machine/bus.ts';
import { u3, u8 } from './state.ts';

const chipSchema = z.strictObject({
  lines: u8,
  irr: u8,
  isr: u8,
  imr: u8,
  elcr: u8,
  vectorBase: u8,
  initStep: z.int().min(0).max(3),
  needsIcw4: z.boolean(),
  single: z.boolean(),
  lowestPriority: u3,
  readIsr: z.boolean(),
  poll: z.boolean(),
  specialMask: z.boolean(),
  specialFullyNested: z.boolean(),
  autoEoi: z.boolean(),
  rotateOnAutoEoi: z.boolean(),
});
type ChipState = z.infer<typeof chipSchema>;
const stateSchema = z.strictObject({ master: chipSchema, slave: chipSchema });

const CASCADE = 2;
/** The level answered when no request is left at the INTA cycle (8259A data sheet, "spurious interrupt"). */
const SPURIOUS = 7;

function powerOnState(): ChipState {
  return {
    lines: 0,
    irr: 0,
    isr: 0,
    imr: 0,
    elcr: 0,
    vectorBase: 0,
    initStep: 0,
    needsIcw4: false,
    single: false,
    lowestPriority: 7,
    readIsr: false,
    poll: false,
    specialMask: false,
    specialFullyNested: false,
    autoEoi: false,
    rotateOnAutoEoi: false,
  };
}

/** One 8259A (Intel 8259A data sheet), with the edge/level control register the PIIX family put in place of LTIM. */
class PicChip {
  state: ChipState = powerOnState();
  readonly #isMaster: boolean;
  /** Bits of ELCR that can be set: IRQ0, 1, 2, 8 and 13 are always edge-triggered. */
  readonly #elcrMask: number;
  readonly #changed: () => void;

  constructor(isMaster: boolean, changed: () => void) {
    this.#isMaster = isMaster;
    this.#elcrMask = isMaster ? 0xf8 : 0xde;
    this.#changed = changed;
  }

  setLine(input: number, level: boolean): void {
    const { state } = this;
    const mask = 1 << input;
    const was = (state.lines & mask) !== 0;
    if (was === level) return;
    if (level) {
      state.lines |= mask;
      state.irr |= mask;
    } else {
      state.lines &= ~mask;
      if ((state.elcr & mask) !== 0 || (this.#isMaster && input === CASCADE)) state.irr &= ~mask;
    }
    this.#changed();
  }

  /** The input to be served next, or -1. */
  pending(): number {
    const { state } = this;
    const request = this.#highest(state.irr & ~state.imr);
    if (request < 0) return -1;
    let serving = state.isr;
    if (state.specialMask) serving &= ~state.imr;
    // In special fully nested mode a second request of the slave is let through while one is in service.
    if (state.specialFullyNested && this.#isMaster) serving &= ~(1 << CASCADE);
    const current = this.#highest(serving);
    return current < 0 || this.#rank(request) < this.#rank(current) ? request : -1;
  }

  #rank(input: number): number {
    return (input - this.state.lowestPriority - 1) & 7;
  }

  #highest(mask: number): number {
    if (mask === 0) return -1;
    for (let rank = 0; rank < 8; rank++) {
      const input = (rank + this.state.lowestPriority + 1) & 7;
      if ((mask & (1 << input)) !== 0) return input;
    }
    return -1;
  }

  /** The input goes from requested to in service (second INTA pulse). */
  take(input: number): void {
    const { state } = this;
    const mask = 1 << input;
    if (state.autoEoi) {
      if (state.rotateOnAutoEoi) state.lowestPriority = input;
    } else {
      state.isr |= mask;
    }
    // Level inputs and the cascade follow their line; an edge is used up.
    if ((state.elcr & mask) === 0 && !(this.#isMaster && input === CASCADE)) state.irr &= ~mask;
    this.#changed();
  }

  write(address: number, value: number): void {
    const { state } = this;
    if (address === 0) {
      if ((value & 0x10) !== 0) this.#initialize(value);
      else if ((value & 0x08) !== 0) this.#operationWord3(value);
      else this.#operationWord2(value);
    } else if (state.initStep === 0) {
      state.imr = value;
    } else if (state.initStep === 1) {
      state.vectorBase = value & 0xf8;
      state.initStep = state.single ? (state.needsIcw4 ? 3 : 0) : 2;
    } else if (state.initStep === 2) {
      // ICW3 says how the chips are wired, which is fixed on a PC.
      state.initStep = state.needsIcw4 ? 3 : 0;
    } else {
      state.specialFullyNested = (value & 0x10) !== 0;
      state.autoEoi = (value & 0x02) !== 0;
      state.initStep = 0;
    }
    this.#changed();
  }

  #initialize(icw1: number): void {
    const { elcr, lines } = this.state;
    this.state = {
      ...powerOnState(),
      elcr,
      lines,
      // The edge detectors start anew: a line that stands high asks again only where it is level-triggered.
      irr: lines & (this.#isMaster ? elcr | (1 << CASCADE) : elcr),
      initStep: 1,
      needsIcw4: (icw1 & 0x01) !== 0,
      single: (icw1 & 0x02) !== 0,
    };
  }

  #operationWord2(value: number): void {
    const { state } = this;
    const level = value & 7;
    const rotate = (value & 0x80) !== 0;
    const specific = (value & 0x40) !== 0;
    const endOfInterrupt = (value & 0x20) !== 0;
    if (endOfInterrupt) {
      const serving = state.specialMask ? state.isr & ~state.imr : state.isr;
      const input = specific ? level : this.#highest(serving);
      if (input < 0) return;
      state.isr &= ~(1 << input);
      if (rotate) state.lowestPriority = input;
    } else if (specific) {
      if (rotate) state.lowestPriority = level;
    } else {
      state.rotateOnAutoEoi = rotate;
    }
  }

  #operationWord3(value: number): void {
    const { state } = this;
    if ((value & 0x04) !== 0) state.poll = true;
    if ((value & 0x02) !== 0) state.readIsr = (value & 0x01) !== 0;
    if ((value & 0x40) !== 0) state.specialMask = (value & 0x20) !== 0;
  }

  read(address: number): number {
    const { state } = this;
    if (state.poll) {
      state.poll = false;
      const input = this.pending();
      if (input < 0) return SPURIOUS;
      this.take(input);
      return 0x80 | input;
    }
    if (address === 1) return state.imr;
    return state.readIsr ? state.isr : state.irr;
  }

  get elcr(): number {
    return this.state.elcr;
  }

  set elcr(value: number) {
    this.state.elcr = value & this.#elcrMask;
    // A line switched to level triggering asks for as long as it is high, and only then.
    this.state.irr = (this.state.irr & ~this.state.elcr) | (this.state.lines & this.state.elcr);
    this.#changed();
  }
}

/**
 * The PC's two cascaded 8259A interrupt controllers: ports 20h-21h, A0h-A1h, and the edge/level registers
 * 4D0h-4D1h (82371SB data sheet, "ELCR"). Inputs are IRQ0..IRQ15 without IRQ2, the cascade.
 */
export class Pic implements Device {
  readonly name = 'pic';
  readonly #master: PicChip;
  readonly #slave: PicChip;
  readonly #onOutput: (asserted: boolean) => void;
  #output = false;
  #updating = false;

  /** @param onOutput told when the INT output (LINT0 of the processor) changes. */
  constructor(onOutput: (asserted: boolean) => void) {
    this.#onOutput = onOutput;
    const changed = (): void => this.#update();
    this.#master = new PicChip(true, changed);
    this.#slave = new PicChip(false, changed);
  }

  attach(ports: PortBus): void {
    const chips: [number, PicChip][] = [
      [0x20, this.#master],
      [0xa0, this.#slave],
    ];
    for (const [base, chip] of chips) {
      ports.register(base, base + 1, this.name, {
        byteOnly: true,
        readPort: (port) => chip.read(port & 1),
        writePort: (port, _size, value) => chip.write(port & 1, value),
      });
    }
    ports.register(0x4d0, 0x4d1, this.name, {
      byteOnly: true,
      readPort: (port) => (port === 0x4d0 ? this.#master : this.#slave).elcr,
      writePort: (port, _size, value) => {
        (port === 0x4d0 ? this.#master : this.#slave).elcr = value;
      },
    });
  }

  /** Input IRQ0..IRQ15. */
  line(irq: number): IrqLine {
    const chip = irq < 8 ? this.#master : this.#slave;
    return { set: (level) => chip.setLine(irq & 7, level) };
  }

  /** The INT output. */
  get output(): boolean {
    return this.#output;
  }

  /** INTA cycle: the vector. With no request left it is the spurious level 7, which is not put in service. */
  acknowledge(): number {
    const input = this.#master.pending();
    if (input < 0) return this.#master.state.vectorBase | SPURIOUS;
    this.#master.take(input);
    if (input !== CASCADE) return this.#master.state.vectorBase | input;
    const slaveInput = this.#slave.pending();
    if (slaveInput < 0) return this.#slave.state.vectorBase | SPURIOUS;
    this.#slave.take(slaveInput);
    return this.#slave.state.vectorBase | slaveInput;
  }

  #update(): void {
    // The slave's output is an input of the master, whose change comes back here.
    if (this.#updating) return;
    this.#updating = true;
    this.#master.setLine(CASCADE, this.#slave.pending() >= 0);
    this.#updating = false;
    const output = this.#master.pending() >= 0;
    if (output === this.#output) return;
    this.#output = output;
    this.#onOutput(output);
  }

  reset(): void {
    this.#master.state = powerOnState();
    this.#slave.state = powerOnState();
    this.#update();
  }

  save(): unknown {
    return { master: { ...this.#master.state }, slave: { ...this.#slave.state } };
  }

  restore(state: unknown): void {
    const { master, slave } = stateSchema.parse(state);
    this.#master.state = master;
    this.#slave.state = slave;
    this.#update();
  }
}
