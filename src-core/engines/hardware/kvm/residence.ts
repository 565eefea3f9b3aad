import { ARENA } from '../../../machine/arena.ts';
import { CR0_PG, CR4_PGE, FLAG_IF } from '../../../x86/bits.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { CR0, CR4, CTL, DR0, EFER, FPU, MSR, XCR0 } from '../../../x86/layout.ts';
import { exportDebugRegisters, importDebugRegisters } from './debug-registers.ts';
import { exportFloatingPoint, importFloatingPoint } from './floating-point.ts';
import { RUN, SIZE, SREGS } from './layout.ts';
import { exportMsrs, importMsrs } from './model-registers.ts';
import {
  exportEvents,
  exportGeneral,
  exportSystem,
  importEvents,
  importRegisters,
  type InjectedEvent,
} from './registers.ts';
import { exportTsc, importTsc } from './tsc.ts';
import type { KvmVcpu } from './vcpu.ts';
import type { KvmVm } from './vm.ts';

const K = ARENA.kvmRun;

/** Parts of the state that cost calls to move; they are given back to KVM after a step only where it changed them. */
const WATCHED = {
  msrs: { from: MSR.star, to: MSR.apicBase },
  debug: { from: DR0, to: DR0 + 64 },
  floatingPoint: { from: FPU.fcw, to: XCR0 },
} as const;
type Watched = keyof typeof WATCHED;
const WATCHED_KEYS = Object.keys(WATCHED) as Watched[];

/** Registers that make modes: name, and their places in the state and in struct kvm_sregs. */
const CONTROLS = [
  ['CR0', CR0, SREGS.cr0],
  ['CR4', CR4, SREGS.cr4],
  ['EFER', EFER, SREGS.efer],
] as const;

/**
 * Moves the vCPU's state between the arena and KVM, and keeps account of where it is. Registers, segments and events
 * travel with KVM_RUN and cost nothing; the rest is moved by calls.
 */
export class Residence {
  readonly #cpu: Cpu;
  readonly #vm: KvmVm;
  readonly #vcpu: KvmVcpu;
  readonly #before: Record<Watched, Uint8Array>;
  /** KVM has the state. */
  #inKvm = false;
  /** Guest memory or translations were changed in software: what KVM derived from page tables may be wrong. */
  #stale = false;
  /** The guest has used paging. */
  #paged = false;
  /** A non-maskable interrupt was pending in the state KVM was given last. */
  #nmiGiven = 0;

  constructor(cpu: Cpu, vm: KvmVm, vcpu: KvmVcpu) {
    this.#cpu = cpu;
    this.#vm = vm;
    this.#vcpu = vcpu;
    this.#before = {
      msrs: new Uint8Array(WATCHED.msrs.to - WATCHED.msrs.from),
      debug: new Uint8Array(WATCHED.debug.to - WATCHED.debug.from),
      floatingPoint: new Uint8Array(WATCHED.floatingPoint.to - WATCHED.floatingPoint.from),
    };
  }

  get inKvm(): boolean {
    return this.#inKvm;
  }

  /** Software wrote guest memory or changed translations. */
  markStale(): void {
    this.#stale = true;
  }

  /** Gives KVM the state in the arena. */
  enter(): void {
    const cpu = this.#cpu;
    const vcpu = this.#vcpu;
    exportMsrs(cpu, vcpu);
    exportFloatingPoint(cpu, vcpu);
    exportDebugRegisters(cpu, vcpu);
    exportTsc(cpu, vcpu);
    this.#exportRegisters();
  }

  #exportRegisters(): void {
    const cpu = this.#cpu;
    exportGeneral(cpu);
    exportSystem(cpu);
    exportEvents(cpu);
    this.#nmiGiven = cpu.get32(CTL.nmiPending);
    cpu.set32(CTL.nmiPending, 0);
    if ((cpu.i32[CR0 >> 2]! & CR0_PG) !== 0) this.#paged = true;
    if (this.#stale && this.#paged) this.#forgetTranslations();
    this.#stale = false;
    const interruptible = (cpu.rflags & FLAG_IF) !== 0;
    const shadow = cpu.get32(CTL.interruptShadow) !== 0;
    cpu.u8[K + RUN.ifFlag] = interruptible ? 1 : 0;
    cpu.u8[K + RUN.readyForInterruptInjection] = interruptible && !shadow ? 1 : 0;
    this.#inKvm = true;
  }

  /** Brings the whole state into the arena. The event KVM had begun to deliver is returned. */
  leave(): InjectedEvent | undefined {
    const event = this.#importRegisters();
    importMsrs(this.#cpu, this.#vcpu);
    importTsc(this.#cpu, this.#vcpu);
    // Who has the state now may do anything with it and with memory.
    this.#stale = true;
    return event;
  }

  /**
   * Like `leave`, for a few instructions of the software engine, after which `giveBack` follows.
   * @param known only an instruction that is known, which has nothing to do with what takes calls to find out
   */
  borrow(known: boolean): InjectedEvent | undefined {
    const event = this.#importRegisters();
    if (!known) {
      // Others may hold SWAPGS or RDTSC.
      importMsrs(this.#cpu, this.#vcpu);
      importTsc(this.#cpu, this.#vcpu);
    }
    for (const key of WATCHED_KEYS) {
      const { from, to } = WATCHED[key];
      this.#before[key].set(this.#cpu.u8.subarray(from, to));
    }
    return event;
  }

  #importRegisters(): InjectedEvent | undefined {
    const cpu = this.#cpu;
    importRegisters(cpu);
    if ((cpu.i32[CR0 >> 2]! & CR0_PG) !== 0) this.#paged = true;
    const event = importEvents(cpu);
    importFloatingPoint(cpu, this.#vcpu);
    importDebugRegisters(cpu, this.#vcpu);
    this.#inKvm = false;
    cpu.stateReplaced();
    return event;
  }

  /** Ends what `borrow` began. True when modes have changed since: whether KVM takes them is to be asked. */
  giveBack(): boolean {
    const cpu = this.#cpu;
    const modesChanged = this.differingControl() !== undefined;
    if (this.#changed('msrs')) exportMsrs(cpu, this.#vcpu);
    if (this.#changed('debug')) exportDebugRegisters(cpu, this.#vcpu);
    if (this.#changed('floatingPoint')) exportFloatingPoint(cpu, this.#vcpu);
    this.#exportRegisters();
    return modesChanged;
  }

  #changed(key: Watched): boolean {
    const { u32 } = this.#cpu;
    const { from } = WATCHED[key];
    const before = new Uint32Array(this.#before[key].buffer);
    return before.some((word, i) => u32[(from >> 2) + i] !== word);
  }

  /**
   * Whether KVM has the modes it was given, once it has written its registers out: some do not say that they can't have
   * them. The control register that is different is returned.
   */
  differingControl(): string | undefined {
    const { u32 } = this.#cpu;
    return CONTROLS.find(([, state, sregs]) => u32[state >> 2] !== u32[(K + RUN.sregs + sregs) >> 2])?.[0];
  }

  /** KVM did not take the state, which is still in the arena but for what `enter` or `giveBack` took out of it. */
  takeBack(): void {
    this.#cpu.set32(K + RUN.dirtyRegs, 0);
    this.#cpu.set32(CTL.nmiPending, this.#nmiGiven);
    this.#inKvm = false;
  }

  /**
   * With nested paging there is only the TLB to flush: KVM does that when a bit of CR4 that matters to it changes. With
   * shadow paging KVM has copies of the guest's page tables, which it must make anew.
   */
  #forgetTranslations(): void {
    if (!this.#vm.nestedPaging) {
      this.#vm.forgetShadows();
      return;
    }
    const { u8, u32, address } = this.#vcpu.buffer;
    u8.set(this.#cpu.u8.subarray(K + RUN.sregs, K + RUN.sregs + SIZE.sregs));
    u32[SREGS.cr4 >> 2]! ^= CR4_PGE;
    this.#vcpu.ioctl('setSregs', address);
  }
}
