import { ARENA } from '../../../machine/arena.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { GuestFault } from '../../../x86/faults.ts';
import { MSR } from '../../../x86/layout.ts';
import { MSR_INDEX, readMsr, writeMsr } from '../../../x86/msr.ts';
import { PhysicalMemory } from '../../../x86/physical.ts';
import { EXIT_IO, EXIT_MMIO, EXIT_MSR, RUN, SREGS } from './layout.ts';
import { exportMsr, isKept } from './model-registers.ts';
import { portName } from '../../../x86/ports.ts';
import { exportTsc } from './tsc.ts';
import type { KvmVcpu } from './vcpu.ts';

const K = ARENA.kvmRun;
const EXIT = K + RUN.exit;
const TWO_32 = 0x100000000;

/** What the guest asks of the machine at an exit. KVM finishes the instruction when it is run again. */
export class ExitHandlers {
  readonly #cpu: Cpu;
  readonly #vcpu: KvmVcpu;
  readonly #memory: PhysicalMemory;

  constructor(cpu: Cpu, vcpu: KvmVcpu) {
    this.#cpu = cpu;
    this.#vcpu = vcpu;
    this.#memory = new PhysicalMemory(cpu.arena, cpu.memory, cpu.accounting);
  }

  /** The meaning of physical memory changed. */
  forget(): void {
    this.#memory.forget();
  }

  /** IN, OUT, INS, OUTS; string instructions with several data at once. */
  portIo(): void {
    const { u8, u16, u32, ports, accounting, arena } = this.#cpu;
    const { view } = arena;
    const size = u8[EXIT + EXIT_IO.size]!;
    const port = u16[(EXIT + EXIT_IO.port) >> 1]!;
    const out = u8[EXIT + EXIT_IO.direction] !== 0;
    const first = K + u32[(EXIT + EXIT_IO.dataOffset) >> 2]!;
    const end = first + u32[(EXIT + EXIT_IO.count) >> 2]! * size;
    accounting.detail('portIo', portName(port));
    for (let at = first; at < end; at += size) {
      if (out) {
        const value = size === 1 ? u8[at]! : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true);
        ports.write(port, size, value);
      } else {
        const value = ports.read(port, size);
        if (size === 1) u8[at] = value;
        else if (size === 2) view.setUint16(at, value, true);
        else view.setUint32(at, value, true);
      }
    }
  }

  /** An access to what is no plain memory, or a write to ROM. Counted and timed by PhysicalMemory. */
  mmio(): void {
    const { u8, u32 } = this.#cpu;
    const address = (EXIT + EXIT_MMIO.address) >> 2;
    const phys = u32[address + 1]! * TWO_32 + u32[address]!;
    const length = u32[(EXIT + EXIT_MMIO.length) >> 2]!;
    if (u8[EXIT + EXIT_MMIO.isWrite] !== 0) this.#memory.deviceWrite(phys, EXIT + EXIT_MMIO.data, length);
    else this.#memory.deviceRead(phys, EXIT + EXIT_MMIO.data, length);
  }

  readMsr(): void {
    const { u8, u32, u64 } = this.#cpu;
    u8[EXIT + EXIT_MSR.error] = raises(() => {
      u64[(EXIT + EXIT_MSR.data) >> 3] = readMsr(this.#cpu, u32[(EXIT + EXIT_MSR.index) >> 2]!);
    });
  }

  writeMsr(): void {
    const { u8, u32, u64 } = this.#cpu;
    const index = u32[(EXIT + EXIT_MSR.index) >> 2]!;
    u8[EXIT + EXIT_MSR.error] = raises(() => {
      writeMsr(this.#cpu, index, u64[(EXIT + EXIT_MSR.data) >> 3]!);
      if (isKept(index)) exportMsr(this.#cpu, this.#vcpu, index);
      else if (index === MSR_INDEX.apicBase) this.#setApicBase();
      else if (index === MSR_INDEX.timeStampCounter || index === MSR_INDEX.tscAdjust) {
        exportTsc(this.#cpu, this.#vcpu);
      }
    });
  }

  /** Where the guest moved its local APIC, or that it switched it off: CPUID shows that. */
  #setApicBase(): void {
    const { u64, address } = this.#vcpu.buffer;
    this.#vcpu.ioctl('getSregs', address);
    u64[SREGS.apicBase >> 3] = this.#cpu.get64(MSR.apicBase);
    this.#vcpu.ioctl('setSregs', address);
  }
}

/** 1 when the action raises #GP, which KVM is then told to do in the guest. */
function raises(action: () => void): number {
  try {
    action();
    return 0;
  } catch (error) {
    if (!(error instanceof GuestFault)) throw error;
    return 1;
  }
}
