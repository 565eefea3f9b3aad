import { describe, expect, it } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { ARENA, Arena } from '../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { IcountClock } from '../../src-core/machine/clock.ts';
import { CR0_ET, CR0_PE } from '../../src-core/x86/bits.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';

/** A CPU in flat 32-bit protected mode without paging, about to execute `code` at 0x1000. */
function machine(code: number[]): { cpu: Cpu; engine: SoftwareEngine } {
  const arena = new Arena(16);
  const accounting = new ExitAccounting();
  const cpu: Cpu = new Cpu({
    arena,
    memory: new MemoryBus(arena),
    ports: new PortBus(),
    clock: new IcountClock(() => cpu.instructionCount()),
    interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
    accounting,
  });
  const engine = new SoftwareEngine({ arena, cpu });
  cpu.setCr0(CR0_PE | CR0_ET);
  for (const index of [0, 2, 3, 4, 5])
    cpu.setSegment(index, { selector: 16, attributes: 0xc093, limit: 0xffffffff, base: 0n });
  cpu.setSegment(1, { selector: 8, attributes: 0xc09b, limit: 0xffffffff, base: 0n });
  cpu.updateMode();
  cpu.rip = 0x1000n;
  cpu.setGpr(4, 0x8000n);
  arena.ram.set(code, 0x1000);
  return { cpu, engine };
}

describe('the interpreter', () => {
  it('adds in a loop and counts instructions exactly', () => {
    // mov ecx, 10; xor eax, eax; l: add eax, ecx; dec ecx; jnz l; hlt
    const { cpu, engine } = machine([0xb9, 10, 0, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0xf4]);
    expect(engine.run(1_000_000)).toBe('halt');
    expect(cpu.gpr(0)).toBe(55n);
    expect(cpu.instructionCount()).toBe(2 + 3 * 10 + 1);
  });

  it('stops after exactly so many instructions', () => {
    const { cpu, engine } = machine([0xb9, 10, 0, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0xf4]);
    for (let n = 1; n <= 20; n++) {
      expect(engine.run(1, true)).toBe('slice');
      expect(cpu.instructionCount()).toBe(n);
    }
    expect(engine.run(1000)).toBe('halt');
    expect(cpu.gpr(0)).toBe(55n);
  });

  it('executes code that patches the next instruction', () => {
    // mov byte [0x100c], 5; nop; mov eax, 1 (its immediate at 0x100c..) ; hlt
    const { cpu, engine } = machine([0xc6, 0x05, 0x09, 0x10, 0, 0, 5, 0x90, 0xb8, 1, 0, 0, 0, 0xf4]);
    engine.run(1000);
    expect(cpu.gpr(0)).toBe(5n);
    expect(cpu.instructionCount()).toBe(4);
  });

  it('delivers a non-maskable interrupt whatever IF says, and the next one after IRET', () => {
    // 0x1000: nop; jmp $; handler at 0x1010: inc ebx; iret
    const { cpu, engine } = machine([0x90, 0xeb, 0xfe]);
    cpu.arena.ram.set([0x43, 0xcf], 0x1010);
    // GDT at 0x2000 with code at 8 and data at 16; IDT at 0x3000, vector 2 an interrupt gate.
    cpu.arena.view.setBigUint64(ARENA.ram + 0x2008, 0x00cf9b000000ffffn, true);
    cpu.arena.view.setBigUint64(ARENA.ram + 0x2010, 0x00cf93000000ffffn, true);
    cpu.arena.view.setBigUint64(ARENA.ram + 0x3010, 0x00008e0000081010n, true);
    cpu.setTable('gdt', 0x2000n, 0x17);
    cpu.setTable('idt', 0x3000n, 0xff);
    engine.run(100, true);
    cpu.raiseNmi();
    engine.run(1, true);
    expect(cpu.rip).toBe(0x1011n);
    // A second one waits for the end of the first handler: IRET, and it is delivered.
    cpu.raiseNmi();
    engine.run(1, true);
    expect(cpu.rip).toBe(0x1010n);
    engine.run(100, true);
    expect(cpu.gpr(3)).toBe(2n);
    expect(cpu.rip).toBe(0x1001n);
  });

  it('calls, pushes and returns', () => {
    // call f; hlt; f: push 7; pop eax; ret
    const { cpu, engine } = machine([0xe8, 1, 0, 0, 0, 0xf4, 0x6a, 7, 0x58, 0xc3]);
    expect(engine.run(1000)).toBe('halt');
    expect(cpu.gpr(0)).toBe(7n);
    expect(cpu.gpr(4)).toBe(0x8000n);
  });
});
