import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { Arena } from '../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { IcountClock } from '../../src-core/machine/clock.ts';
import { CR0_ET, CR0_NE, CR0_PE, CR4_OSFXSR, CR4_OSXMMEXCPT } from '../../src-core/x86/bits.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';
import { CTL } from '../../src-core/x86/layout.ts';

const CODE = 0x1000;
const IDT = 0x3000;
const GDT = 0x2800;
const HANDLERS = 0x5000;
/** Where tests keep memory operands. */
export const DATA = 0x4000;

/**
 * A flat 32-bit vCPU at ring 0 with the FPU switched on and an HLT behind every exception vector.
 */
export class FpuMachine {
  readonly cpu: Cpu;
  readonly arena: Arena;
  readonly #engine: SoftwareEngine;

  constructor() {
    this.arena = new Arena(16);
    const accounting = new ExitAccounting();
    this.cpu = new Cpu({
      arena: this.arena,
      memory: new MemoryBus(this.arena),
      ports: new PortBus(),
      clock: new IcountClock(() => this.cpu.instructionCount()),
      interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
      accounting,
    });
    this.#engine = new SoftwareEngine({ arena: this.arena, cpu: this.cpu });
    const { cpu } = this;
    const { ram } = this.arena;
    const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
    for (const index of [0, 2, 3, 4, 5]) {
      cpu.setSegment(index, { selector: 16, attributes: 0xc093, limit: 0xffffffff, base: 0n });
    }
    cpu.setSegment(1, { selector: 8, attributes: 0xc09b, limit: 0xffffffff, base: 0n });
    view.setBigUint64(GDT + 8, 0x00cf9b000000ffffn, true);
    view.setBigUint64(GDT + 16, 0x00cf93000000ffffn, true);
    for (let vector = 0; vector < 32; vector++) {
      const handler = HANDLERS + vector;
      view.setUint32(IDT + vector * 8, (8 << 16) | handler, true);
      view.setUint32(IDT + vector * 8 + 4, 0x8e00, true);
      ram[handler] = 0xf4;
    }
    cpu.setTable('gdt', BigInt(GDT), 23);
    cpu.setTable('idt', BigInt(IDT), 255);
    cpu.setCr4(CR4_OSFXSR | CR4_OSXMMEXCPT);
    this.setCr0(CR0_NE);
  }

  setCr0(bits: number): void {
    this.cpu.setCr0(CR0_PE | CR0_ET | bits);
  }

  /** Runs code and the HLT behind it. @returns the vector of the exception it ended with, or undefined. */
  run(code: readonly number[]): number | undefined {
    const { cpu } = this;
    this.arena.ram.set([...code, 0xf4], CODE);
    this.#engine.memoryChanged(CODE, code.length + 1);
    cpu.set32(CTL.halted, 0);
    cpu.rip = BigInt(CODE);
    cpu.setGpr(4, 0x8000n);
    if (this.#engine.run(10_000) !== 'halt') throw new Error('the code does not halt');
    const vector = Number(cpu.rip) - HANDLERS - 1;
    return vector >= 0 && vector < 32 ? vector : undefined;
  }

  dispose(): void {
    this.#engine.dispose();
  }
}
