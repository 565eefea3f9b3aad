import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { ARENA, Arena } from '../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { ModuleWriter } from '../../src-core/wasm/writer.ts';
import type { Callout } from '../../src-core/x86/callout.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';
import { GuestFault } from '../../src-core/x86/faults.ts';
import { RAX, STATE_END } from '../../src-core/x86/layout.ts';
import { ManualClock } from '../devices/harness.ts';

export interface Vcpu {
  cpu: Cpu;
  clock: ManualClock;
  memory: MemoryBus;
  accounting: ExitAccounting;
}

/** A vCPU in its power-on state with nothing around it. */
export function makeVcpu(memoryMib = 16): Vcpu {
  const arena = new Arena(memoryMib);
  const memory = new MemoryBus(arena);
  const accounting = new ExitAccounting();
  const clock = new ManualClock();
  const cpu = new Cpu({
    arena,
    memory,
    ports: new PortBus(),
    clock,
    interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
    accounting,
  });
  return { cpu, clock, memory, accounting };
}

/** The functions of a module that `emit` writes, by the names it returns, bound to a vCPU's arena. */
export function bindModule<Name extends string>(
  { cpu }: Vcpu,
  emit: (module: ModuleWriter) => Readonly<Record<Name, number>>,
): Record<Name, (...parameters: number[]) => number> {
  const module = new ModuleWriter();
  for (const [name, index] of Object.entries<number>(emit(module))) module.export(name, index);
  const { memory, buffer } = cpu.arena;
  const { exports } = new WebAssembly.Instance(
    new WebAssembly.Module(module.finish(buffer.byteLength / 65536)),
    { env: { memory } },
  );
  return exports as Record<Name, (...parameters: number[]) => number>;
}

/** The architectural state, some control words and a range of RAM, to be compared. */
export function stateText({ cpu }: Vcpu, control: readonly number[], ram: number, size: number): string {
  const bytes = (from: number, to: number): string =>
    Buffer.from(cpu.arena.buffer, from, to - from).toString('hex');
  const words = control.map((word) => cpu.get32(word)).join(' ');
  return `${bytes(RAX, STATE_END)} ${words} ${bytes(ARENA.ram + ram, ARENA.ram + ram + size)}`;
}

/** Runs a callout with operands that default to 0. */
export function call(cpu: Cpu, callout: Callout, { dst = 0, a = 0, b = 0, imm = 0, c = 0 } = {}): void {
  callout.run(cpu, dst, a, b, imm, c);
}

/** The guest fault that `body` throws, as [vector, error code]; undefined when it throws none. */
export function faultOf(body: () => unknown): [number, number] | undefined {
  try {
    body();
    return undefined;
  } catch (error) {
    if (!(error instanceof GuestFault)) throw error;
    return [error.vector, error.errorCode];
  }
}

/** Seeded pseudo-random numbers (mulberry32): `next` gives 32 bits, `below` an integer under n. */
export function random(seed: number): { next: () => number; below: (n: number) => number } {
  let state = seed | 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  return { next, below: (n) => next() % n };
}
