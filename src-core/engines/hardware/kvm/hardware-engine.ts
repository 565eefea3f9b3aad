import type { ExitReason } from '../../../accounting/exits.ts';
import { type Arena, ARENA } from '../../../machine/arena.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { CPUID_MODEL } from '../../../x86/cpuid.ts';
import { deliverInterrupt } from '../../../x86/interrupts.ts';
import { CTL, RIP } from '../../../x86/layout.ts';
import { codeSizeOf } from '../../../x86/mode.ts';
import { ACCESS } from '../../../x86/paging.ts';
import { getSigned } from '../../../x86/words.ts';
import type { Engine, RunEnd } from '../../engine.ts';
import { ExitHandlers } from './exits.ts';
import { KvmError } from './errors.ts';
import { Fallback, mayWriteMemory, refusedInstruction } from './fallback.ts';
import { EVENTS, EXIT_REASON, RUN } from './layout.ts';
import { MSRS_IN_KVM } from './model-registers.ts';
import { eventsGiven, giveInterrupt, type InjectedEvent } from './registers.ts';
import { Residence } from './residence.ts';
import { SliceTimer } from './slice-timer.ts';
import { KvmSystem, type KvmSystemOptions } from './system.ts';
import { setTscRate } from './tsc.ts';
import { INTERRUPTED, type KvmVcpu, REFUSED, refusedRun, unexpectedExit } from './vcpu.ts';
import { KvmVm } from './vm.ts';

const K = ARENA.kvmRun;
const TWO_32 = 0x100000000;
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
  readonly accelerator = 'kvm';
  readonly #cpu: Cpu;
  readonly #software: Engine;
  readonly #owned: { close(): void }[] = [];
  readonly #vm: KvmVm;
  readonly #vcpu: KvmVcpu;
  readonly #timer: SliceTimer;
  readonly #residence: Residence;
  readonly #handlers: ExitHandlers;
  readonly #fallback = new Fallback();
  /** What physical addresses mean has changed. */
  #remapped = false;
  #running = false;
  #leaveAfterRun = false;
  #exitRequested = false;
  #inSoftware = false;
  /** Delivering an event on the way out of KVM ended in a triple fault. */
  #shutdown = false;
  #failure: KvmError | undefined;
  #detour: KvmError | undefined;
  readonly #ticks = new Map<ExitReason, number>();
  /** Host ns of this run: in exits (estimated from those that are timed), and in the software engine. */
  #exitNs = 0;
  #softwareNs = 0;

  /** @throws KvmError */
  constructor({ arena, cpu, software, kvm }: HardwareEngineParts) {
    this.#cpu = cpu;
    this.#software = software;
    try {
      const system = this.#own(new KvmSystem(kvm));
      this.#timer = this.#own(new SliceTimer(system.calls));
      this.#vm = this.#own(new KvmVm(system, arena));
      this.#vm.filterMsrs(MSRS_IN_KVM);
      this.#vcpu = this.#vm.createVcpu();
      this.#vcpu.setCpuid(CPUID_MODEL);
      this.#vcpu.setSignalMask(this.#timer.runMask);
      setTscRate(this.#vcpu);
      this.#vm.setSlots(cpu.memory.regions());
    } catch (error) {
      this.dispose();
      throw error;
    }
    this.#residence = new Residence(cpu, this.#vm, this.#vcpu);
    this.#handlers = new ExitHandlers(cpu, this.#vcpu);
  }

  #own<T extends { close(): void }>(part: T): T {
    this.#owned.push(part);
    return part;
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
      if (this.#remapped) this.#mapMemory();
      if (!this.#residence.inKvm) {
        const end = this.#enter(maxInstructions);
        if (end) return end;
      }
      if (!this.#offerEvents()) return 'halt';
      const exit = this.#vcpu.run();
      this.#takeTaskPriority();
      if (exit === INTERRUPTED) {
        this.#timer.drain();
        if ((deadline - performance.now()) * 1e6 < TIMER_SLACK_NS) return 'slice';
        continue;
      }
      if (exit === REFUSED) {
        this.#giveUp(refusedRun(this.#vcpu.lastErrno));
        continue;
      }
      const end = this.#handle(exit);
      if (end) return end;
    }
  }

  /** KVM does not go on: the guest does, in software, as long as its state can still be had. */
  #giveUp(error: KvmError): void {
    this.#failure = error;
    this.#takeState();
  }

  /** Why KVM no longer runs the guest, which has gone on in software since. */
  get failure(): KvmError | undefined {
    return this.#failure;
  }

  /** The guest is in a mode that KVM does not take, and runs in software until it leaves that. */
  get detour(): KvmError | undefined {
    return this.#detour;
  }

  get shutdownPending(): boolean {
    return this.#shutdown;
  }

  /** Handles an exit. */
  #handle(exit: number): RunEnd | undefined {
    const { accounting } = this.#cpu;
    switch (exit) {
      case EXIT_REASON.io:
        this.#serve('portIo', () => this.#handlers.portIo());
        return undefined;
      case EXIT_REASON.mmio:
        // PhysicalMemory counts it.
        this.#time('mmio', () => this.#handlers.mmio());
        return undefined;
      case EXIT_REASON.rdmsr:
        this.#serve('msr', () => this.#handlers.readMsr());
        return undefined;
      case EXIT_REASON.wrmsr:
        this.#serve('msr', () => this.#handlers.writeMsr());
        return undefined;
      case EXIT_REASON.hlt:
        accounting.count('hlt');
        this.#cpu.set32(CTL.halted, 1);
        return undefined;
      case EXIT_REASON.irqWindowOpen:
        accounting.count('interruptWindow');
        return undefined;
      case EXIT_REASON.setTpr:
        accounting.count('controlRegister');
        return undefined;
      case EXIT_REASON.shutdown:
        return 'shutdown';
      case EXIT_REASON.internalError:
      case EXIT_REASON.failEntry:
        return this.#fallBack();
      default:
        this.#giveUp(unexpectedExit(exit));
        return undefined;
    }
  }

  /** Counts an exit and has it handled. */
  #serve(reason: ExitReason, handle: () => void): void {
    const { accounting } = this.#cpu;
    accounting.count(reason);
    const ns = this.#time(reason, handle);
    if (ns !== undefined) accounting.addTime(reason, ns);
  }

  /** Has an exit handled; the host ns that took, for some of each reason. */
  #time(reason: ExitReason, handle: () => void): number | undefined {
    const tick = ((this.#ticks.get(reason) ?? 0) + 1) % TIMED_EVERY;
    this.#ticks.set(reason, tick);
    if (tick !== 0) {
      handle();
      return undefined;
    }
    const started = performance.now();
    handle();
    const ns = (performance.now() - started) * 1e6;
    this.#exitNs += ns * TIMED_EVERY;
    return ns;
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
      if (halted) awake = !this.#nmiMasked();
    }
    let window = 0;
    if (cpu.interrupts.hasInterrupt()) {
      if (u8[K + RUN.readyForInterruptInjection] !== 0) {
        const vector = cpu.interrupts.acknowledge();
        if (vector >= 0) {
          this.#inject(vector);
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

  /** KVM holds non-maskable interrupts back until the handler of one ends. */
  #nmiMasked(): boolean {
    this.#readRegisters();
    return this.#cpu.u8[K + RUN.events + EVENTS.nmiMasked] !== 0;
  }

  #inject(vector: number): void {
    const cpu = this.#cpu;
    if (eventsGiven(cpu)) giveInterrupt(cpu, vector);
    else this.#vcpu.interrupt(vector);
    this.#countInterrupt(vector, 1);
    // KVM takes one at a time, and says when it is ready for the next only after it was run.
    cpu.u8[K + RUN.readyForInterruptInjection] = 0;
  }

  #countInterrupt(vector: number, times: number): void {
    const { accounting } = this.#cpu;
    accounting.count('interrupt', times);
    accounting.detail('interrupt', `0x${vector.toString(16).padStart(2, '0')}`, times);
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
    if (this.#shutdown) {
      this.#shutdown = false;
      return 'shutdown';
    }
    if (this.#failure) return this.#runSoftware(maxInstructions);
    if (!cpu.a20) return this.#detourVia(addressLine20(), maxInstructions);
    // A breakpoint that MOV SS holds off has no place in KVM's state.
    while (cpu.get32(CTL.pendingDebug) !== 0) {
      const end = this.#runSoftware(1);
      if (end !== 'slice' || this.#exitRequested) return end;
    }
    this.#residence.enter();
    const refusal = this.#refusal();
    if (refusal) return this.#detourVia(refusal, maxInstructions);
    this.#detour = undefined;
    return undefined;
  }

  /** What KVM refuses to run as it is runs in software, and is asked about again with the next run. */
  #detourVia(reason: KvmError, maxInstructions: number): RunEnd {
    this.#detour = reason;
    this.#cpu.accounting.count('softwareFallback');
    return this.#runSoftware(maxInstructions);
  }

  /**
   * Gives KVM the state in the arena now, which `run` does by itself: says whether the guest can go on here before
   * another engine lets go of it. Must not be called during a run.
   * @throws KvmError `state`, the state being in the arena still
   */
  enter(): void {
    if (this.#residence.inKvm) return;
    if (this.#failure) throw this.#failure;
    if (!this.#cpu.a20) throw addressLine20();
    if (this.#cpu.get32(CTL.pendingDebug) !== 0) {
      throw new KvmError('state', 'A breakpoint is about to be reported, which hardware would lose.');
    }
    if (this.#remapped) this.#mapMemory();
    this.#residence.enter();
    const refusal = this.#refusal();
    if (refusal) throw refusal;
  }

  /** Asks KVM whether it takes the state it was just given. Where it does not, the state is in the arena again. */
  #refusal(): KvmError | undefined {
    const exit = this.#vcpu.readRegisters();
    if (exit !== INTERRUPTED && exit !== REFUSED) throw unexpectedExit(exit);
    const differing = exit === INTERRUPTED ? this.#residence.differingControl() : undefined;
    if (exit === INTERRUPTED && differing === undefined) return undefined;
    this.#residence.takeBack();
    return differing === undefined
      ? refusedRun(this.#vcpu.lastErrno)
      : new KvmError('state', `KVM does not run the guest in its present mode (it changes ${differing}).`);
  }

  #mapMemory(): void {
    this.#vm.setSlots(this.#cpu.memory.regions());
    this.#remapped = false;
  }

  leave(): void {
    this.#leaveAfterRun = this.#running;
    if (!this.#running && this.#residence.inKvm) this.#takeState();
  }

  #takeState(): void {
    this.#readRegisters();
    const event = this.#residence.leave();
    this.#software.flush();
    if (event && this.#deliver(event)) this.#shutdown = true;
  }

  /** Delivers what KVM had begun to. */
  #deliver({ type, vector }: InjectedEvent): 'shutdown' | undefined {
    // It was counted when KVM took it, and is again now.
    if (type === 'external') this.#countInterrupt(vector, -1);
    return deliverInterrupt(this.#cpu, vector, { type }) === 'shutdown' ? 'shutdown' : undefined;
  }

  /**
   * Has KVM finish the instruction that left it, which may leave it again, execute nothing further, and write its
   * registers to kvm_run. Registers that KVM was to take but did not run with are then the ones it has.
   */
  #readRegisters(): void {
    for (;;) {
      const exit = this.#vcpu.readRegisters();
      if (exit === INTERRUPTED) break;
      if (exit === REFUSED) throw refusedRun(this.#vcpu.lastErrno);
      this.#handle(exit);
    }
    this.#takeTaskPriority();
  }

  // ---- the software engine -------------------------------------------------------------------------------------

  /** What KVM can't execute runs in the software engine. */
  #fallBack(): RunEnd | undefined {
    const cpu = this.#cpu;
    cpu.accounting.count('softwareFallback');
    // Told where KVM will write its next exit.
    const instruction = refusedInstruction(cpu);
    this.#readRegisters();
    const count = this.#fallback.begin();
    const known = count === 1 && instruction !== undefined;
    const event = this.#residence.borrow(known);
    if (event && this.#deliver(event)) return 'shutdown';
    const alone = known && !event;
    if (!alone || mayWriteMemory(instruction, codeSizeOf(cpu.get32(CTL.modeKey)))) {
      this.#residence.markStale();
    }
    if (count === 1) this.#forgetInstruction();
    else this.#software.flush();
    const end = this.#runSoftware(count);
    this.#fallback.end();
    // A mode that KVM does not take is left to `run`.
    if (end !== 'shutdown' && this.#residence.giveBack()) this.#refusal();
    return end === 'slice' ? undefined : end;
  }

  /**
   * Has the software engine look anew at the instruction at RIP, memory having changed since it last did. For one
   * instruction that is enough, and far cheaper than having it forget everything.
   */
  #forgetInstruction(): void {
    const cpu = this.#cpu;
    const linear = cpu.code64 ? getSigned(cpu, RIP) : (cpu.get32(CTL.codeBase) + cpu.get32(RIP)) % TWO_32;
    const phys = cpu.mmu.translate(linear, ACCESS.execute, cpu.cpl === 3);
    // Where it can't be fetched, the software engine finds that, too.
    if (phys >= 0) this.#software.memoryChanged(phys, 1);
  }

  /** Executes guest code in software. */
  #runSoftware(instructions: number): RunEnd {
    const started = performance.now();
    this.#inSoftware = true;
    try {
      return this.#software.run(instructions, instructions === 1);
    } finally {
      this.#inSoftware = false;
      this.#softwareNs += (performance.now() - started) * 1e6;
    }
  }

  // ---- the machine ---------------------------------------------------------------------------------------------

  counters(): Record<string, number> {
    const counters: Record<string, number> = {};
    for (const [name, value] of Object.entries(this.#vm.counters())) counters[`vm.${name}`] = value;
    return Object.assign(counters, this.#vcpu.counters());
  }

  requestExit(): void {
    this.#exitRequested = true;
    if (this.#inSoftware) this.#software.requestExit();
  }

  memoryChanged(phys: number, length: number): void {
    this.#software.memoryChanged(phys, length);
  }

  flush(): void {
    this.#remapped = true;
    this.#handlers.forget();
    this.#software.flush();
  }

  /** Takes everything down, last made first: memory slots are gone before the arena may be. Idempotent. */
  dispose(): void {
    const part = this.#owned.pop();
    if (!part) return;
    try {
      part.close();
    } finally {
      this.dispose();
    }
  }
}

/** KVM has no address line 20 to gate. */
function addressLine20(): KvmError {
  return new KvmError('state', 'Address line 20 is gated, which hardware does not know.');
}
