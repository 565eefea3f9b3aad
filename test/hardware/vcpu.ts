/** A vCPU for tests, and for programs that tests start. */
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { Arena } from '../../src-core/machine/arena.ts';
import { type InterruptSource, MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { HostClock } from '../../src-core/machine/clock.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';

export interface Vcpu {
  readonly arena: Arena;
  readonly cpu: Cpu;
  readonly ports: PortBus;
  readonly memory: MemoryBus;
  readonly clock: HostClock;
  readonly accounting: ExitAccounting;
}

const NO_INTERRUPTS: InterruptSource = { hasInterrupt: () => false, acknowledge: () => -1 };

/** A vCPU with memory and buses, and no machine around it. */
export function makeVcpu(interrupts: InterruptSource = NO_INTERRUPTS, memoryMib = 4): Vcpu {
  const arena = new Arena(memoryMib);
  const memory = new MemoryBus(arena);
  const ports = new PortBus();
  const clock = new HostClock();
  const accounting = new ExitAccounting();
  const cpu = new Cpu({ arena, memory, ports, clock, interrupts, accounting });
  return { arena, cpu, ports, memory, clock, accounting };
}
