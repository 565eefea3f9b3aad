import type { ExitReason } from '../../../accounting/exits.ts';
import { type Arena, ARENA } from '../../../machine/arena.ts';
import { FLAG_IF } from '../../../x86/bits.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { CPUID_MODEL } from '../../../x86/cpuid.ts';
import { GuestFault } from '../../../x86/faults.ts';
import { deliverException, deliverInterrupt } from '../../../x86/interrupts.ts';
import { CTL } from '../../../x86/layout.ts';
import { MSR_INDEX, readMsr, writeMsr } from '../../../x86/msr.ts';
import { PhysicalMemory } from '../../../x86/physical.ts';
import type { Engine, RunEnd } from '../../engine.ts';
import { exportDebugRegisters, importDebugRegisters } from './debug-registers.ts';
import { exportFloatingPoint, importFloatingPoint } from './floating-point.ts';
import { EXIT_IO, EXIT_MMIO, EXIT_MSR, EXIT_REASON, RUN } from './layout.ts';
import { exportMsr, exportMsrs, importMsrs, isKept, MSRS_IN_KVM } from './model-registers.ts';
import {
  exportEvents,
  exportGeneral,
  exportSystem,
  importEvents,
  importRegisters,
  injectInterrupt,
  type InjectedEvent,
  setApicBase,
} from './registers.ts';
import { SliceTimer } from './slice-timer.ts';
import { KvmSystem, type KvmSystemOptions } from './system.ts';
import { exportTsc, importTsc, setTscRate } from './tsc.ts';
import { INTERRUPTED, type KvmVcpu, REFUSED, refusedRun, unexpectedExit } from './vcpu.ts';
import { KvmVm } from './vm.ts';

const K = ARENA.kvmRun;
const EXIT = K + RUN.exit;
/** A run without a time limit of its own, ns. */
const SLICE_NS = 2_000_000;
/** One in this many exits of a reason is timed. */
const TIMED_EVERY = 64;
/** A run that has less than this left is over, ns. */
const TIMER_SLACK_NS = 20_000;

export interface HardwareEngineParts {
  arena: Arena;
  cpu: Cpu;
  /** Executes what KVM can't, on the same arena. It is not disposed of with this engine. */
  software: Engine;
  /** What may be different in tests. */
  kvm?: KvmSystemOptions;
}

/**
 * The hardware engine on Linux KVM. Guest memory is the arena; interrupt controllers and timers are the machine's own
 * devices, so that a change of engines moves the processor's registers and nothing else. While this engine runs, the
 * vCPU's state is in KVM; `leave` brings it back into the arena.
 */
export class HardwareEngine implements Engine {
  readonly kind = 'hardware';
  readonly #cpu: Cpu;
  readonly #software: Engine;
  readonly #memory: PhysicalMemory;
  readonly #system: KvmSystem;
  readonly #vm: KvmVm;
  readonly #vcpu: KvmVcpu;
  readonly #timer: SliceTimer;
  /** The vCPU's state is in KVM. */
  #entered = false;
  /** KVM has not executed anything since the state was given to it. */
  #fresh = false;
  /** What physical addresses mean has changed. */
  #remapped = true;
  /** Guest memory was written by the software engine, page tables perhaps: KVM must forget what it derived. */
  #stale = false;
  #running = false;
  #leaveAfterRun = false;
  #exitRequested = false;
  #inSoftware = false;
  #disposed = false;
  readonly #ticks = new Map<ExitReason, number>();
  /** Host ns of this run: in exits (estimated from those that are timed), and in the software engine. */
  #exitNs = 0;
  #softwareNs = 0;

  /** @throws KvmError */
  constructor({ arena, cpu, software, kvm }: HardwareEngineParts) {
    this.#cpu = cpu;
    this.#software = software;
    this.#memory = new PhysicalMemory(arena, cpu.memory, cpu.accounting);
    this.#system = new KvmSystem(kvm);
    try {
      this.#vm = new KvmVm(this.#system, arena);
    } catch (error) {
      this.#system.close();
      throw error;
    }
    try {
      this.#vm.filterMsrs(MSRS_IN_KVM);
      this.#vcpu = this.#vm.createVcpu();
      this.#vcpu.setCpuid(CPUID_MODEL);
      setTscRate(this.#vcpu);
      this.#timer = new SliceTimer(this.#system.calls);
      this.#vcpu.setSignalMask(this.#timer.runMask);
      this.#vm.setSlots(cpu.memory.regions());
    } catch (error) {
      this.#vm.close();
      this.#system.close();
      throw error;
    }
  }

  // ---- the run loop --------------------------------------------------------------------------------------------

  run(maxInstructions: number, _exact = false, maxNs = SLICE_NS): RunEnd {
    const { accounting } = this.#cpu;
    const started = performance.now();
    this.#running = true;
    this.#exitRequested = false;
    this.#exitNs = 0;
    this.#softwareNs = 0;
    try {
      this.#timer.arm(maxNs);
      return this.#loop(started + maxNs / 1e6, maxInstructions);
    } finally {
      this.#running = false;
      if (this.#leaveAfterRun) this.leave();
      const ns = (performance.now() - started) * 1e6 - this.#softwareNs;
      const exits = Math.min(ns, this.#exitNs);
      accounting.spend('exits', exits);
      accounting.spend('guest', ns - exits);
      accounting.count('slice');
    }
  }

  #loop(deadline: number, maxInstructions: number): RunEnd {
    for (;;) {
      if (this.#exitRequested) return 'slice';
      if (!this.#entered) {
        const end = this.#enter(maxInstructions);
        if (end) return end;
      }
      if (this.#remapped) this.#mapMemory();
      if (!this.#offerEvents()) return 'halt';
      const exit = this.#vcpu.run();
      this.#takeTaskPriority();
      if (exit === INTERRUPTED) {
        this.#timer.drain();
        if ((deadline - performance.now()) * 1e6 < TIMER_SLACK_NS) return 'slice';
        continue;
      }
      const fresh = this.#fresh;
      this.#fresh = false;
      const end = exit === REFUSED ? this.#refused(fresh) : this.#handle(exit);
      if (end) return end;
    }
  }

  /** Handles an exit, timing some of each reason. */
  #handle(exit: number): RunEnd | undefined {
    switch (exit) {
      case EXIT_REASON.io:
        this.#timed('portIo', () => this.#portIo());
        return undefined;
      case EXIT_REASON.mmio:
        this.#mmio();
        return undefined;
      case EXIT_REASON.hlt:
        this.#cpu.accounting.count('hlt');
        this.#cpu.set32(CTL.halted, 1);
        return undefined;
      case EXIT_REASON.irqWindowOpen:
        this.#cpu.accounting.count('interruptWindow');
        return undefined;
      case EXIT_REASON.setTpr:
        this.#cpu.accounting.count('controlRegister');
        return undefined;
      case EXIT_REASON.rdmsr:
        this.#timed('msr', () => this.#readMsr());
        return undefined;
      case EXIT_REASON.wrmsr:
        this.#timed('msr', () => this.#writeMsr());
        return undefined;
      case EXIT_REASON.shutdown:
        return 'shutdown';
      case EXIT_REASON.internalError:
      case EXIT_REASON.failEntry:
        return this.#fallback();
      default:
        throw unexpectedExit(exit);
    }
  }

  #timed(reason: ExitReason, handle: () => void): void {
    const { accounting } = this.#cpu;
    accounting.count(reason);
    const tick = ((this.#ticks.get(reason) ?? 0) + 1) % TIMED_EVERY;
    this.#ticks.set(reason, tick);
    if (tick !== 0) return handle();
    const started = performance.now();
    handle();
    const ns = (performance.now() - started) * 1e6;
    accounting.addTime(reason, ns);
    this.#exitNs += ns * TIMED_EVERY;
  }

  // ---- exits ---------------------------------------------------------------------------------------------------

  #portIo(): void {
    const { u8, u16, u32, ports, accounting } = this.#cpu;
    const size = u8[EXIT + EXIT_IO.size]!;
    const port = u16[(EXIT + EXIT_IO.port) >> 1]!;
    const count = u32[(EXIT + EXIT_IO.count) >> 2]!;
    const out = u8[EXIT + EXIT_IO.direction] !== 0;
    const { view } = this.#cpu.arena;
    let at = K + u32[(EXIT + EXIT_IO.dataOffset) >> 2]!;
    accounting.detail('portIo', portName(port));
    for (let i = 0; i < count; i++, at += size) {
      if (out) {
        ports.write(
          port,
          size,
          size === 1 ? u8[at]! : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true),
        );
      } else {
        const value = ports.read(port, size);
        if (size === 1) u8[at] = value;
        else if (size === 2) view.setUint16(at, value, true);
        else view.setUint32(at, value, true);
      }
    }
  }

  /** Counted and timed by PhysicalMemory. */
  #mmio(): void {
    const { u8, u32 } = this.#cpu;
    const low = u32[(EXIT + EXIT_MMIO.address) >> 2]!;
    const phys = u32[((EXIT + EXIT_MMIO.address) >> 2) + 1]! * 0x100000000 + low;
    const length = u32[(EXIT + EXIT_MMIO.length) >> 2]!;
    if (u8[EXIT + EXIT_MMIO.isWrite] !== 0) this.#memory.deviceWrite(phys, EXIT + EXIT_MMIO.data, length);
    else this.#memory.deviceRead(phys, EXIT + EXIT_MMIO.data, length);
  }

  #readMsr(): void {
    const { u8, u32, u64 } = this.#cpu;
    u8[EXIT + EXIT_MSR.error] = this.#faults(() => {
      u64[(EXIT + EXIT_MSR.data) >> 3] = readMsr(this.#cpu, u32[(EXIT + EXIT_MSR.index) >> 2]!);
    });
  }

  #writeMsr(): void {
    const { u8, u32, u64 } = this.#cpu;
    const index = u32[(EXIT + EXIT_MSR.index) >> 2]!;
    u8[EXIT + EXIT_MSR.error] = this.#faults(() => {
      writeMsr(this.#cpu, index, u64[(EXIT + EXIT_MSR.data) >> 3]!);
      if (isKept(index)) exportMsr(this.#cpu, this.#vcpu, index);
      else if (index === MSR_INDEX.apicBase) setApicBase(this.#cpu);
      else if (index === MSR_INDEX.timeStampCounter || index === MSR_INDEX.tscAdjust) {
        exportTsc(this.#cpu, this.#vcpu);
      }
    });
  }

  /** 1 when the action raised #GP, which KVM is then told to inject. */
  #faults(action: () => void): number {
    try {
      action();
      return 0;
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      return 1;
    }
  }

  // ---- interrupts ----------------------------------------------------------------------------------------------

  /** Gives KVM what is to be delivered. False when the vCPU waits in HLT and nothing ends that. */
  #offerEvents(): boolean {
    const cpu = this.#cpu;
    const { u8, u32 } = cpu;
    const halted = u32[CTL.halted >> 2] !== 0;
    let awake = !halted;
    if (u32[CTL.nmiPending >> 2] !== 0) {
      this.#vcpu.ioctl('nmi', 0);
      u32[CTL.nmiPending >> 2] = 0;
      awake = true;
    }
    let window = 0;
    if (cpu.interrupts.hasInterrupt()) {
      if (u8[K + RUN.readyForInterruptInjection] !== 0) {
        const vector = cpu.interrupts.acknowledge();
        if (vector >= 0) {
          injectInterrupt(cpu, vector);
          cpu.accounting.count('interrupt');
          cpu.accounting.detail('interrupt', `0x${vector.toString(16).padStart(2, '0')}`);
          // Stands until KVM has been run: it takes one at a time.
          u8[K + RUN.readyForInterruptInjection] = 0;
          awake = true;
        }
        window = cpu.interrupts.hasInterrupt() ? 1 : 0;
      } else {
        window = 1;
        if (u8[K + RUN.ifFlag] !== 0) awake = true;
      }
    }
    u8[K + RUN.requestInterruptWindow] = window;
    u32[(K + RUN.cr8) >> 2] = cpu.readTpr();
    if (awake && halted) u32[CTL.halted >> 2] = 0;
    return awake;
  }

  /** The guest's CR8 is the local APIC's task priority. */
  #takeTaskPriority(): void {
    const cpu = this.#cpu;
    const priority = cpu.u32[(K + RUN.cr8) >> 2]!;
    if (priority !== cpu.readTpr()) cpu.onWriteTpr(priority);
  }

  // ---- where the state is --------------------------------------------------------------------------------------

  /** Gives KVM the state in the arena, after executing in software what must come first. */
  #enter(maxInstructions: number): RunEnd | undefined {
    const cpu = this.#cpu;
    if (!cpu.a20) return this.#runSoftware(maxInstructions);
    // A breakpoint that MOV SS holds off has no place in KVM's state.
    while (cpu.get32(CTL.pendingDebug) !== 0) {
      const end = this.#runSoftware(1);
      if (end !== 'slice' || this.#exitRequested) return end;
    }
    if (this.#remapped) this.#mapMemory();
    else if (this.#stale) this.#vm.renewSlots();
    this.#stale = false;
    exportMsrs(cpu, this.#vcpu);
    exportFloatingPoint(cpu, this.#vcpu);
    exportDebugRegisters(cpu, this.#vcpu);
    exportTsc(cpu, this.#vcpu);
    exportGeneral(cpu);
    exportSystem(cpu);
    exportEvents(cpu);
    const interruptible = (cpu.rflags & FLAG_IF) !== 0;
    cpu.u8[K + RUN.ifFlag] = interruptible ? 1 : 0;
    cpu.u8[K + RUN.readyForInterruptInjection] =
      interruptible && cpu.get32(CTL.interruptShadow) === 0 ? 1 : 0;
    this.#entered = true;
    this.#fresh = true;
    return undefined;
  }

  #mapMemory(): void {
    if (this.#stale) this.#vm.deleteSlots();
    this.#vm.setSlots(this.#cpu.memory.regions());
    this.#remapped = false;
  }

  leave(): void {
    this.#leaveAfterRun = this.#running;
    if (this.#running || !this.#entered) return;
    const event = this.#import();
    if (event) this.#deliver(event);
  }

  /** Brings the state into the arena. The event KVM had begun to deliver is returned. */
  #import(): InjectedEvent | undefined {
    const cpu = this.#cpu;
    // Also has KVM write the registers out once more: what it was given but did not run with included.
    this.#finishInstruction();
    importRegisters(cpu);
    const event = importEvents(cpu);
    importFloatingPoint(cpu, this.#vcpu);
    importDebugRegisters(cpu, this.#vcpu);
    importMsrs(cpu, this.#vcpu);
    importTsc(cpu, this.#vcpu);
    this.#entered = false;
    this.#stale = true;
    cpu.stateReplaced();
    this.#software.flush();
    return event;
  }

  #deliver({ type, vector, errorCode }: InjectedEvent): 'shutdown' | undefined {
    const cpu = this.#cpu;
    const delivery =
      type === 'exception'
        ? deliverException(cpu, vector, errorCode)
        : deliverInterrupt(cpu, vector, { type });
    return delivery === 'shutdown' ? 'shutdown' : undefined;
  }

  /** Has KVM finish the instruction that left it, which may leave it again, and execute nothing further. */
  #finishInstruction(): void {
    for (;;) {
      const exit = this.#vcpu.complete();
      if (exit === INTERRUPTED) break;
      if (exit === REFUSED) throw refusedRun(this.#vcpu.lastErrno);
      this.#handle(exit);
    }
    this.#takeTaskPriority();
  }

  // ---- the software engine -------------------------------------------------------------------------------------

  /** An instruction that KVM can't execute runs in the software engine. */
  #fallback(): RunEnd | undefined {
    this.#cpu.accounting.count('softwareFallback');
    const event = this.#import();
    if (event && this.#deliver(event)) return 'shutdown';
    const end = this.#runSoftware(1);
    return end === 'slice' ? undefined : end;
  }

  /** KVM does not take the state it was given: software goes on from there. */
  #refused(fresh: boolean): RunEnd | undefined {
    if (!fresh) throw refusedRun(this.#vcpu.lastErrno);
    this.#cpu.accounting.count('softwareFallback');
    this.#entered = false;
    const end = this.#runSoftware(1);
    return end === 'slice' ? undefined : end;
  }

  #runSoftware(instructions: number): RunEnd {
    const started = performance.now();
    this.#inSoftware = true;
    this.#stale = true;
    try {
      return this.#software.run(instructions, instructions === 1);
    } finally {
      this.#inSoftware = false;
      this.#softwareNs += (performance.now() - started) * 1e6;
    }
  }

  // ---- the machine ---------------------------------------------------------------------------------------------

  requestExit(): void {
    this.#exitRequested = true;
    if (this.#inSoftware) this.#software.requestExit();
  }

  memoryChanged(phys: number, length: number): void {
    this.#software.memoryChanged(phys, length);
  }

  flush(): void {
    this.#remapped = true;
    this.#memory.forget();
    this.#software.flush();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#timer.close();
    this.#vm.close();
    this.#system.close();
  }
}

const portNames = new Array<string | undefined>(0x10000);

function portName(port: number): string {
  return (portNames[port] ??= `0x${port.toString(16)}`);
}
