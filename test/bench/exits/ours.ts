/** Our engine around KVM_RUN, with nothing else of a machine. */
import { ExitAccounting } from '../../../src-core/accounting/exits.ts';
import type { Engine } from '../../../src-core/engines/engine.ts';
import { HardwareEngine } from '../../../src-core/engines/hardware/kvm/hardware-engine.ts';
import { RUN, SIZE } from '../../../src-core/engines/hardware/kvm/layout.ts';
import { exportGeneral, exportSystem } from '../../../src-core/engines/hardware/kvm/registers.ts';
import { ARENA, Arena } from '../../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../../src-core/machine/bus.ts';
import { HostClock } from '../../../src-core/machine/clock.ts';
import { Cpu } from '../../../src-core/x86/cpu.ts';
import { type ExitGuest, load, MMIO, PORT } from './guests.ts';

/** Host time of a batch of exits: of the processors, all threads together, and real. */
export interface BatchTime {
  readonly cpuNs: number;
  readonly realNs: number;
}

const MEMORY_MIB = 4;

/** The bench's guests leave nothing to the software engine. */
const noSoftware: Engine = {
  kind: 'software',
  run: () => {
    throw new Error('KVM could not execute this guest');
  },
  leave: () => undefined,
  requestExit: () => undefined,
  memoryChanged: () => undefined,
  flush: () => undefined,
  dispose: () => undefined,
};

export class OurLoop {
  readonly #engine: HardwareEngine;
  /** Exits still to come in this batch. */
  #left = 0;
  #device = 0;

  constructor(guest: ExitGuest) {
    const { arena, cpu, ports, memory } = makeVcpu(guest);
    this.#engine = new HardwareEngine({ arena, cpu, software: noSoftware });
    const read = (): number => {
      this.#count();
      return this.#device;
    };
    const write = (value: number): void => {
      this.#device = value;
      this.#count();
    };
    ports.register(PORT, PORT, 'bench', {
      readPort: read,
      writePort: (_port, _size, value) => write(value),
    });
    memory.mapMmio(MMIO, 4096, 'bench', {
      readMmio: read,
      writeMmio: (_offset, _size, value) => write(value),
    });
    this.#engine.flush();
  }

  #count(): void {
    if (--this.#left === 0) this.#engine.requestExit();
  }

  /** What `exits` take. */
  run(exits: number): BatchTime {
    this.#left = exits;
    const cpu = process.cpuUsage();
    const started = performance.now();
    // Slices as long as the machine's.
    while (this.#left > 0) this.#engine.run(1);
    const realNs = (performance.now() - started) * 1e6;
    const { user, system } = process.cpuUsage(cpu);
    return { cpuNs: (user + system) * 1000, realNs };
  }

  close(): void {
    this.#engine.dispose();
  }
}

function makeVcpu(guest: ExitGuest): { arena: Arena; cpu: Cpu; ports: PortBus; memory: MemoryBus } {
  const arena = new Arena(MEMORY_MIB);
  const memory = new MemoryBus(arena);
  const ports = new PortBus();
  const cpu = new Cpu({
    arena,
    memory,
    ports,
    clock: new HostClock(),
    interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
    accounting: new ExitAccounting(),
  });
  const view = new DataView(arena.buffer, ARENA.ram, arena.ramSize);
  load({ cpu, view, memory: arena.ram }, guest);
  return { arena, cpu, ports, memory };
}

/** The guest as loop.c reads it. */
export function imageFor(guest: ExitGuest): Uint8Array {
  const { arena, cpu } = makeVcpu(guest);
  exportGeneral(cpu);
  exportSystem(cpu);
  const head = new Uint32Array([arena.ramSize, guest.reason]);
  const registers = arena.u8.slice(ARENA.kvmRun + RUN.regs, ARENA.kvmRun + RUN.sregs + SIZE.sregs);
  return Buffer.concat([new Uint8Array(head.buffer), registers, arena.ram]);
}
