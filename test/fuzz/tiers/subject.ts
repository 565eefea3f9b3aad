/**
 * One side of a comparison: a vCPU with an engine, a test device, and the means to run a program on them.
 */
import { ExitAccounting } from '../../../src-core/accounting/exits.ts';
import type { Engine, RunEnd } from '../../../src-core/engines/engine.ts';
import { ModelEngine } from '../../../src-core/engines/hardware/model/model-engine.ts';
import type { ModelMmu } from '../../../src-core/engines/hardware/model/meter.ts';
import { builtInProfile } from '../../../src-core/engines/hardware/model/profile.ts';
import { SoftwareEngine } from '../../../src-core/engines/software/software-engine.ts';
import type { TranslatorStatistics } from '../../../src-core/protocol/inspection.ts';
import { Arena } from '../../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../../src-core/machine/bus.ts';
import { IcountClock } from '../../../src-core/machine/clock.ts';
import type { TranslatorOptions } from '../../../src-core/protocol/machine-config.ts';
import { FLAG_IF } from '../../../src-core/x86/bits.ts';
import { Cpu } from '../../../src-core/x86/cpu.ts';
import { FPU, ST, XMM } from '../../../src-core/x86/layout.ts';
import { Random } from '../random.ts';
import { fill16, float80 } from '../values.ts';
import { enter, hasPaging } from './environment.ts';
import {
  LINE_NMI,
  PHYSICAL,
  physicalOf,
  PORT,
  REACHABLE,
  VARIABLE,
  VECTOR_INTERRUPTS,
  WINDOW,
} from './layout.ts';
import { FUEL, FUEL_COUNT, load } from './program.ts';
import type { Program, ProgramImage } from './program.ts';
import { captureState } from './state.ts';
import type { CpuState } from './state.ts';

const PAGE = 0x1000;
const MEMORY_MIB = 4;
/** Runs in a row that may execute nothing: a device that ends each at once must not go on for ever. */
const IDLE_RUNS_MAX = 10;

/** How a program ended. */
export interface Outcome {
  readonly end: RunEnd;
  readonly state: CpuState;
  /** Interrupt lines nobody acknowledged. */
  readonly pendingLines: number;
  /** What the host saw: stops and device accesses, in order. */
  readonly events: readonly string[];
}

export class Subject {
  readonly name: string;
  readonly cpu: Cpu;
  /** The software engine, or the model that stands over it. */
  readonly engine: Engine;
  readonly #software: SoftwareEngine;
  /** What programs can reach of RAM. */
  readonly ram: Uint8Array;
  #pending = 0;
  #events: string[] = [];
  #slices: Random | undefined;
  #dmaTargets: readonly number[] = [];

  constructor(name: string, translator: TranslatorOptions, model?: ModelMmu) {
    this.name = name;
    const arena = new Arena(MEMORY_MIB);
    const memory = new MemoryBus(arena);
    const ports = new PortBus();
    this.cpu = new Cpu({
      arena,
      memory,
      ports,
      clock: new IcountClock(() => this.cpu.instructionCount()),
      interrupts: { hasInterrupt: () => this.#pending !== 0, acknowledge: () => this.#acknowledge() },
      accounting: new ExitAccounting(),
    });
    const software = new SoftwareEngine({ arena, cpu: this.cpu, translator });
    this.#software = software;
    this.engine = model
      ? new ModelEngine({ cpu: this.cpu, software, mmu: model, profile: builtInProfile('p4-672') })
      : software;
    this.ram = arena.ram.subarray(0, REACHABLE);
    ports.register(PORT.first, PORT.last, 'tester', {
      readPort: (port, size) => this.#readDevice(port, size),
      writePort: (port, size, value) => this.#writePort(port, size, value),
    });
    memory.mapMmio(PHYSICAL.mmio, PAGE, 'tester', {
      readMmio: (offset, size) => this.#readDevice(offset, size),
      writeMmio: (offset, size, value) => {
        this.#note(`mmio ${offset.toString(16)} ${size} = ${value.toString(16)}`);
        if (offset === 0) this.raise(value & 15);
      },
    });
    memory.onRemap = () => this.engine.flush();
  }

  get statistics(): TranslatorStatistics {
    return this.#software.translatorStatistics();
  }

  /** Adaptations of translated code by kind, so far. */
  get adaptations(): Readonly<Record<string, number>> {
    return this.cpu.accounting.snapshot().details.adaptation ?? {};
  }

  /** Exceptions and interrupts the guest's handlers counted in the last run. */
  get exceptions(): number {
    const at = PHYSICAL.variables + VARIABLE.count;
    return new DataView(this.ram.buffer, this.ram.byteOffset).getUint16(at, true);
  }

  dispose(): void {
    this.engine.dispose();
    if (this.engine !== this.#software) this.#software.dispose();
  }

  /** Asserts an interrupt line until the vCPU acknowledges it. */
  raise(line: number): void {
    if (line === LINE_NMI) {
      this.cpu.raiseNmi();
      return;
    }
    this.#pending |= 1 << line;
    this.cpu.interruptChanged();
  }

  #acknowledge(): number {
    const line = 31 - Math.clz32(this.#pending);
    this.#pending &= ~(1 << line);
    this.#note(`interrupt ${line}`);
    return VECTOR_INTERRUPTS + line;
  }

  #note(text: string): void {
    this.#events.push(`${this.cpu.instructionCount()}: ${text}`);
  }

  /** Both the port and the memory-mapped registers count instructions. */
  #readDevice(at: number, size: number): number {
    this.#note(`read ${at.toString(16)} ${size}`);
    return Math.imul(this.cpu.instructionCount() + at, 0x9e37_79b1) >>> (32 - size * 8);
  }

  #writePort(port: number, size: number, value: number): void {
    this.#note(`port ${port.toString(16)} ${size} = ${value.toString(16)}`);
    if (port === PORT.interrupt) this.raise(value & 15);
    if (port === PORT.exit) this.engine.requestExit();
    if (port === PORT.dma && this.#dmaTargets.length > 0) {
      const target = this.#dmaTargets[value % this.#dmaTargets.length] ?? 0;
      this.ram[target] = (value * 29) & 0xff;
      this.engine.memoryChanged(target, 1);
    }
  }

  /**
   * Loads a program and runs it to its end or to the end of its budget. With `slices` the engine is given random
   * small numbers of instructions at once, which nothing the guest sees may depend on.
   */
  run(program: Program, image: ProgramImage, slices?: Random): Outcome {
    const { cpu, engine } = this;
    this.#slices = slices;
    this.#pending = 0;
    this.#events = [];
    this.#dmaTargets = image.dmaTargets;
    load(this.ram, program, image);
    engine.flush();
    this.#start(program, image);
    let end: RunEnd = 'slice';
    for (const { after, line } of program.interruptions) {
      const budget = program.budget - cpu.instructionCount();
      if (budget <= 0) break;
      end = this.#execute(Math.min(after, budget));
      this.#note(`stop at ${cpu.rip.toString(16)}, flags ${cpu.rflags.toString(16)}, ${end}`);
      // HLT with interrupts enabled waits for the next one.
      if (end === 'shutdown' || (end === 'halt' && (cpu.rflags & FLAG_IF) === 0)) break;
      this.raise(line);
    }
    if (end === 'slice') end = this.#execute(program.budget - cpu.instructionCount());
    return { end, state: captureState(cpu), pendingLines: this.#pending, events: this.#events };
  }

  /** Exactly so many instructions, unless the vCPU halts or shuts down before; a device may end runs in between. */
  #execute(instructions: number): RunEnd {
    const { cpu, engine } = this;
    const until = cpu.instructionCount() + instructions;
    for (let idle = 0; cpu.instructionCount() < until && idle < IDLE_RUNS_MAX;) {
      const before = cpu.instructionCount();
      const slice = this.#slices ? 1 + this.#slices.below(this.#slices.pick([4, 40, 400])) : Infinity;
      const end = engine.run(Math.min(slice, until - before), true);
      if (end !== 'slice') return end;
      idle = cpu.instructionCount() === before ? idle + 1 : 0;
    }
    return 'slice';
  }

  #start({ environment, registers, rflags, fill, seed }: Program, image: ProgramImage): void {
    const { cpu } = this;
    enter(cpu, environment);
    registers.forEach((value, index) => cpu.setGpr(index, value));
    cpu.rflags = cpu.rflags | rflags;
    cpu.rip = image.entry;
    cpu.set32(FPU.fcw, 0x37f);
    cpu.set32(FPU.empty, 0xff);
    if (fill !== undefined) this.#fill(new Random(seed, fill), hasPaging(environment));
    cpu.stateReplaced();
  }

  /** Random numbers for FPU, SSE and the data pages. */
  #fill(random: Random, paging: boolean): void {
    const { cpu } = this;
    const view = new DataView(cpu.arena.buffer);
    for (let index = 0; index < 16; index++)
      fill16(random, random.pick(['integer', 'float32', 'float64', 'bytes']), view, XMM + index * 16);
    for (let index = 0; index < 8; index++) {
      float80(random, view, ST + index * 16);
      view.setUint16(ST + index * 16 + 10, 0, true);
      view.setUint32(ST + index * 16 + 12, 0, true);
    }
    cpu.set32(FPU.empty, random.u32() & 0xff & random.u32());
    cpu.set32(FPU.top, random.below(8));
    if (random.chance(0.3)) cpu.set32(FPU.fcw, 0x340 | (random.u32() & 0xc3f));
    if (random.chance(0.3)) {
      const masks = random.chance(0.8) ? 0x1f80 : random.u32() & 0x1f80;
      cpu.set32(FPU.mxcsr, masks | (random.u32() & 0xe040 & random.u32()));
    }
    const ram = new DataView(this.ram.buffer, this.ram.byteOffset, this.ram.byteLength);
    const classes = ['integer', 'float32', 'float64', 'float80', 'bytes', 'bcd'] as const;
    for (let page = 0; page < 6; page++) {
      const start = physicalOf(WINDOW.data + page * PAGE, paging);
      for (let at = 0; at < PAGE; at += 16) {
        const fuel = page * PAGE + at - FUEL;
        if (fuel >= 0 && fuel < FUEL_COUNT * 4) continue;
        fill16(random, classes[(at >> 6) % classes.length] ?? 'integer', ram, start + at);
      }
    }
  }
}
