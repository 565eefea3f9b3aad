/** What the tests of the hardware engine share. Those that need KVM are skipped, with the reason, where there is none. */
import { describe } from 'vitest';
import { ExitAccounting, type ExitSnapshot } from '../../src-core/accounting/exits.ts';
import { KvmError } from '../../src-core/engines/hardware/kvm/errors.ts';
import { KvmSystem } from '../../src-core/engines/hardware/kvm/system.ts';
import { Arena } from '../../src-core/machine/arena.ts';
import { type InterruptSource, MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { EngineKind } from '../../src-core/protocol/vm.ts';
import { HostClock } from '../../src-core/machine/clock.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';

/** Why KVM can't be used here; undefined where it can. */
export const kvmUnavailable: string | undefined = (() => {
  try {
    new KvmSystem().close();
    return undefined;
  } catch (error) {
    if (error instanceof KvmError) return error.message;
    throw error;
  }
})();

/** `describe` where KVM is, `describe.skip` with the reason where it is not. */
export function describeKvm(name: string, body: () => void): void {
  if (kvmUnavailable === undefined) describe(name, body);
  else describe.skip(`${name} (skipped: ${kvmUnavailable})`, body);
}

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

/** What a machine's guest wrote to the debug console, and how it ended. */
export interface MachineRun {
  readonly text: string;
  readonly end: MachineEnd;
  readonly exits: ExitSnapshot;
}

/** Runs a Multiboot image to its end on an engine. */
export function runMachine(
  bytes: Uint8Array,
  engine: EngineKind,
  options: { seconds?: number; memoryMib?: number } = {},
): Promise<MachineRun> {
  const { seconds = 60, memoryMib = 64 } = options;
  const machine = new Machine({
    memoryMib,
    engine,
    kernel: { name: 'guest', bytes },
    debugConsole: true,
    debugExit: true,
    noReboot: true,
  });
  return new Promise((resolve) => {
    let text = '';
    const timer = setTimeout(() => machine.stop(), seconds * 1000);
    machine.on('debugConsole', (part) => (text += Buffer.from(part).toString('latin1')));
    machine.on('ended', (end) => {
      clearTimeout(timer);
      resolve({ text, end, exits: machine.statistics().exits });
    });
    machine.start();
  });
}
