import { Arena } from '../../src-core/machine/arena.ts';
import { type IrqLine, MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { TimerClock } from '../../src-core/machine/clock.ts';

/** Guest time that only moves when a test says so; timers fire in order on the way. */
export class ManualClock extends TimerClock {
  #ns = 0;

  override now(): number {
    return this.#ns;
  }

  override setNow(ns: number): void {
    this.#ns = ns;
  }

  advance(ns: number): void {
    const end = this.#ns + ns;
    while (this.nextDeadline <= end) {
      this.#ns = Math.max(this.#ns, this.nextDeadline);
      this.runDue();
    }
    this.#ns = end;
  }
}

/** An interrupt line that remembers its level and counts rising edges. */
export class ProbeLine implements IrqLine {
  level = false;
  edges = 0;

  set(level: boolean): void {
    if (level && !this.level) this.edges++;
    this.level = level;
  }
}

export function makeBus(memoryMib = 4): { ports: PortBus; memory: MemoryBus; arena: Arena } {
  const arena = new Arena(memoryMib);
  return { ports: new PortBus(), memory: new MemoryBus(arena), arena };
}

/** Passes a device's state through JSON, as a snapshot does. */
export function throughJson(state: unknown): unknown {
  return JSON.parse(JSON.stringify(state));
}
