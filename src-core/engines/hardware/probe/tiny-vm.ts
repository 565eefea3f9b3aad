import { ExitAccounting } from '../../../accounting/exits.ts';
import { ARENA, Arena } from '../../../machine/arena.ts';
import { MemoryBus, PortBus } from '../../../machine/bus.ts';
import { HostClock } from '../../../machine/clock.ts';
import { Cpu } from '../../../x86/cpu.ts';
import { CPUID_MODEL } from '../../../x86/cpuid.ts';
import { exportFloatingPoint } from '../kvm/floating-point.ts';
import { EXIT_FAIL_ENTRY, EXIT_INTERNAL, EXIT_IO, EXIT_MMIO, EXIT_REASON, REGS, RUN } from '../kvm/layout.ts';
import { exportMsrs } from '../kvm/model-registers.ts';
import { exportEvents, exportGeneral, exportSystem } from '../kvm/registers.ts';
import { SliceTimer } from '../kvm/slice-timer.ts';
import type { KvmSystem } from '../kvm/system.ts';
import { INTERRUPTED, type KvmVcpu, REFUSED, refusedRun } from '../kvm/vcpu.ts';
import { KvmVm } from '../kvm/vm.ts';

const K = ARENA.kvmRun;
const EXIT = K + RUN.exit;
const MEMORY_MIB = 4;

/** Ports by which the small guests talk, 32 bits each. */
export const PORT = {
  /** A value to report. */
  report: 0x10,
  /** The guest is done. */
  end: 0x11,
  /** Nothing but an exit. */
  exit: 0x12,
  /** Asks for interrupt 0x30 as soon as it can be taken. */
  interrupt: 0x13,
} as const;
const VECTOR = 0x30;

export interface TinyRun {
  /** Values the guest reported. */
  readonly values: readonly number[];
  /** Times the guest was left because it enabled interrupts. */
  readonly windows: number;
  /** Why it did not get to its end; undefined where it did. */
  readonly problem: string | undefined;
}

/** A KVM VM with a few MiB for one small guest, driven without our engine: what fails here is KVM's. */
export class TinyVm {
  readonly cpu: Cpu;
  /** Guest memory. */
  readonly memory: Uint8Array;
  readonly view: DataView;
  readonly #vm: KvmVm;
  readonly #vcpu: KvmVcpu;
  readonly #timer: SliceTimer;

  /** @throws KvmError, SystemCallError */
  constructor(system: KvmSystem) {
    const arena = new Arena(MEMORY_MIB);
    this.memory = arena.ram;
    this.view = new DataView(arena.buffer, ARENA.ram, arena.ramSize);
    const memory = new MemoryBus(arena);
    this.cpu = new Cpu({
      arena,
      memory,
      ports: new PortBus(),
      clock: new HostClock(),
      interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
      accounting: new ExitAccounting(),
    });
    this.#vm = new KvmVm(system, arena);
    try {
      this.#vcpu = this.#vm.createVcpu();
      this.#vcpu.setCpuid(CPUID_MODEL);
      this.#timer = new SliceTimer(system.calls);
      this.#vcpu.setSignalMask(this.#timer.runMask);
      this.#vm.setSlots([{ phys: 0, size: arena.ramSize, arena: ARENA.ram, writable: true }]);
    } catch (error) {
      this.#vm.close();
      throw error;
    }
  }

  /** Runs the guest whose state and memory have been set up, for at most `limitMs` of host time. */
  run(limitMs: number): TinyRun {
    const { cpu } = this;
    exportMsrs(cpu, this.#vcpu);
    exportFloatingPoint(cpu, this.#vcpu);
    exportGeneral(cpu);
    exportSystem(cpu);
    exportEvents(cpu);
    const deadline = performance.now() + limitMs;
    this.#timer.arm(limitMs * 1e6);
    const values: number[] = [];
    let windows = 0;
    let wanted = false;
    for (;;) {
      cpu.u8[K + RUN.requestInterruptWindow] = wanted ? 1 : 0;
      if (wanted && cpu.u8[K + RUN.readyForInterruptInjection] !== 0) {
        wanted = false;
        cpu.u8[K + RUN.requestInterruptWindow] = 0;
        this.#vcpu.interrupt(VECTOR);
      }
      const exit = this.#vcpu.run();
      if (exit === EXIT_REASON.irqWindowOpen) {
        windows++;
        continue;
      }
      if (exit === INTERRUPTED) {
        this.#timer.drain();
        if (performance.now() < deadline) continue;
        return { values, windows, problem: `it is not done after ${limitMs} ms ${this.#place()}` };
      }
      const port = exit === EXIT_REASON.io ? cpu.u16[(EXIT + EXIT_IO.port) >> 1]! : -1;
      if (port === PORT.end) return { values, windows, problem: undefined };
      if (port === PORT.interrupt) wanted = true;
      else if (port === PORT.report) values.push(this.#data());
      else if (port !== PORT.exit) return { values, windows, problem: this.#describe(exit) };
    }
  }

  #data(): number {
    const { u32, arena } = this.cpu;
    return arena.view.getUint32(K + u32[(EXIT + EXIT_IO.dataOffset) >> 2]!, true);
  }

  /** Where the guest stands. KVM overwrites what it told of the exit. */
  #place(): string {
    this.#vcpu.readRegisters();
    const rip = this.cpu.get64(K + RUN.regs + REGS.rip);
    return `at RIP 0x${rip.toString(16)}`;
  }

  #describe(exit: number): string {
    const { u32 } = this.cpu;
    switch (exit) {
      case REFUSED:
        return refusedRun(this.#vcpu.lastErrno).message;
      case EXIT_REASON.shutdown:
        return `triple fault ${this.#place()}`;
      case EXIT_REASON.internalError: {
        const instruction = this.#instruction();
        return `KVM gives up ${this.#place()}: ${instruction}`;
      }
      case EXIT_REASON.failEntry:
        return `the processor refuses the guest’s state (0x${u32[(EXIT + EXIT_FAIL_ENTRY.reason) >> 2]!.toString(16)})`;
      case EXIT_REASON.mmio: {
        const address = u32[(EXIT + EXIT_MMIO.address) >> 2]!;
        return `access to 0x${address.toString(16)}, where nothing is, ${this.#place()}`;
      }
      case EXIT_REASON.hlt:
        return `a fault ${this.#place()}`;
      default:
        return `unexpected exit ${exit} ${this.#place()}`;
    }
  }

  /** The instruction KVM could not emulate, where it says so. */
  #instruction(): string {
    const { u8, u32 } = this.cpu;
    if (u32[(EXIT + EXIT_INTERNAL.suberror) >> 2] !== 1) {
      return `internal error ${u32[(EXIT + EXIT_INTERNAL.suberror) >> 2]!}`;
    }
    if ((u32[(EXIT + EXIT_INTERNAL.flags) >> 2]! & 1) === 0) return 'an instruction it cannot emulate';
    const from = EXIT + EXIT_INTERNAL.instructionBytes;
    const bytes = u8.slice(from, from + Math.min(8, u8[EXIT + EXIT_INTERNAL.instructionSize]!));
    return `it cannot emulate ${Buffer.from(bytes).toString('hex')}`;
  }

  close(): void {
    this.#timer.close();
    this.#vm.close();
  }
}
