import { ExitAccounting } from '../../../accounting/exits.ts';
import { FLAG_IF } from '../../../x86/bits.ts';
import type { Callout, CalloutFunction } from '../../../x86/callout.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { pushesErrorCode, VECTOR } from '../../../x86/faults.ts';
import type { Intercepts, TaskSwitchCause } from '../../../x86/intercepts.ts';
import { CR2, CTL, FLAGS_SYSTEM } from '../../../x86/layout.ts';
import { MSR_INDEX } from '../../../x86/msr.ts';
import { ACCESS, type Access, type PageWalker, PF } from '../../../x86/paging.ts';
import type { Engine, RunEnd } from '../../engine.ts';
import type { SoftwareEngine } from '../../software/software-engine.ts';
import {
  INSTRUCTION_INTERCEPTS,
  IOIO,
  type InstructionExit,
  type InstructionIntercept,
} from './instructions.ts';
import { Meter, type ModelExitReason, type ModelMmu, type ModelStatistics } from './meter.ts';
import type { CostProfile } from './profile.ts';
import { ShadowTables } from './shadow.ts';
import {
  EVENT_TYPE,
  EXIT_CODE,
  eventInjection,
  INTERCEPT1,
  INTERCEPT2,
  TLB_CONTROL,
  V_INTR,
  VMCB,
  Vmcb,
} from './vmcb.ts';

const TWO_32 = 0x100000000;
/** Levels of the nested page tables, which map 4 KiB each. */
const NESTED_LEVELS = 4;
/** Address space identifier of the guest; 0 is the host's. */
const GUEST_ASID = 1;
/** EXITINFO1 of a nested page fault for the final address, in the upper half (APM volume 2, section 15.25.6). */
const NPF_FINAL = 1;
const PAGES_IN_4_GIB = 0x100000;
/** Bit of EVENTINJ: the event pushes the error code in the upper half. */
const EVENT_ERROR_CODE_VALID = 1n << 11n;
/** EXITINFO2 of a task switch, upper half (APM volume 2, section 15.14.1). */
const TASK_SWITCH = { iret: 1 << 4, jump: 1 << 6, errorCode: 1 << 12 } as const;

/** MSRs that are the guest's own while it runs: VMLOAD and VMRUN load them. */
const PASSED_MSRS = [
  MSR_INDEX.star,
  MSR_INDEX.lstar,
  MSR_INDEX.cstar,
  MSR_INDEX.fmask,
  MSR_INDEX.kernelGsBase,
  MSR_INDEX.fsBase,
  MSR_INDEX.gsBase,
  MSR_INDEX.sysenterCs,
  MSR_INDEX.sysenterEsp,
  MSR_INDEX.sysenterEip,
];

export interface ModelEngineParts {
  cpu: Cpu;
  /** Executes the guest, on the same arena. It is not disposed of with this engine. */
  software: SoftwareEngine;
  mmu: ModelMmu;
  profile: CostProfile;
}

/**
 * Hardware virtualization as a model: AMD's SVM (APM volume 2, chapter 15) over the software engine. The guest's
 * instructions have the software engine's semantics. What the intercepts of a VMCB catch becomes an exit: state is saved
 * to the VMCB, the VMM does what it takes, and VMRUN goes on from the VMCB. Exits are counted in the taxonomy that all
 * engines share, and charged for as a cost profile says. Time, wherever it is the model's, is modelled; the guest's own
 * clock is the machine's as under every engine.
 *
 * Memory is virtualized by nested paging (every miss of the TLB is a two-dimensional walk; devices are nested page
 * faults; all RAM is mapped from the beginning, so there are no others) or by shadow page tables (ShadowTables; with
 * page-fault, CR3 and INVLPG exits). The software TLB stands for the processor's.
 *
 * A REP INS or OUTS exits before the element it is at, with STR and REP set (APM volume 2, section 15.10.2); how much of
 * the rest the VMM emulates before it resumes the guest is up to the VMM. This one goes on to the end of the memory
 * operand's page, or to an interrupt, as software does that translates the operand once an exit; so there is an exit for
 * each page. Tasks are not switched (x86/task.ts): their exit is the last. A fault in the delivery of an exception
 * reaches the VMM as the double fault that the two become. An instruction that reads and writes a device's memory exits twice. The
 * VMCB's arithmetic flags are exact at intercepted instructions and events; at exits for memory they, and in code that
 * was adapted before the model came (translator/adaptation.ts) registers too, may be those of a little before.
 */
export class ModelEngine implements Engine, Intercepts {
  readonly kind = 'hardware';
  readonly accelerator = 'model';
  readonly #cpu: Cpu;
  readonly #software: SoftwareEngine;
  readonly #mmu: ModelMmu;
  readonly #profile: CostProfile;
  readonly #meter: Meter;
  readonly #shadow: ShadowTables | undefined;
  readonly vmcb = new Vmcb();
  /** What the software engine that executes the guest counts. */
  readonly #inner = new ExitAccounting();
  #attached = false;
  #running = false;
  #leaveAfterRun = false;
  /** The VMM is emulating an instruction. */
  #handling = false;
  /** The last run ended in the middle of guest code. */
  #inGuest = false;
  /** Instructions retired when the guest was last left. */
  #exitedAt = 0;
  /** The same when this engine last let go of the vCPU. */
  #leftAt = -1n;
  /** Linear address of the last store that missed the TLB. */
  #stored = 0;
  /** The event that is being delivered, in the form of EVENTINJ; 0 when none is. */
  #event = 0n;
  /** The repeated string I/O that the VMM emulates: its address, the page of its operand, instructions retired with it. */
  #string = { rip: 0n, page: -1, retired: -1 };

  constructor({ cpu, software, mmu, profile }: ModelEngineParts) {
    this.#cpu = cpu;
    this.#software = software;
    this.#mmu = mmu;
    this.#profile = profile;
    this.#meter = new Meter(profile, cpu.accounting);
    this.#shadow = mmu === 'shadow' ? new ShadowTables(cpu) : undefined;
    this.#setUp();
  }

  /** Without identifiers the TLB's entries are nobody's: each entry empties it. */
  get #tlbControl(): number {
    return this.#profile.asids.value ? TLB_CONTROL.none : TLB_CONTROL.flushAll;
  }

  /** The VMM's choice of intercepts. */
  #setUp(): void {
    const { vmcb } = this;
    const shadow = this.#shadow !== undefined;
    vmcb.set32(
      VMCB.intercept1,
      INTERCEPT1.intr |
        INTERCEPT1.nmi |
        INTERCEPT1.cr0SelWrite |
        INTERCEPT1.rdpmc |
        INTERCEPT1.cpuid |
        INTERCEPT1.invd |
        INTERCEPT1.hlt |
        INTERCEPT1.ioioProt |
        INTERCEPT1.msrProt |
        INTERCEPT1.taskSwitch |
        INTERCEPT1.shutdown |
        (shadow ? INTERCEPT1.invlpg : 0),
    );
    vmcb.set32(VMCB.intercept2, INTERCEPT2.vmrun | INTERCEPT2.wbinvd);
    // CR4 decides how tables are read. With a shadow, CR3 is the VMM's.
    vmcb.setIntercepts(VMCB.interceptCr, 1 << (16 + 4), true);
    vmcb.setIntercepts(VMCB.interceptCr, (1 << 3) | (1 << (16 + 3)), shadow);
    vmcb.setIntercepts(VMCB.interceptException, 1 << VECTOR.MC, true);
    vmcb.setIntercepts(VMCB.interceptException, 1 << VECTOR.PF, shadow);
    vmcb.set32(VMCB.guestAsid, GUEST_ASID);
    vmcb.set32(VMCB.vIntr, V_INTR.masking);
    vmcb.set64(VMCB.npEnable, shadow ? 0n : 1n);
    for (const msr of PASSED_MSRS) vmcb.msrpm.passThrough(msr);
    vmcb.u8[VMCB.tlbControl] = this.#tlbControl;
  }

  // ---- the run loop --------------------------------------------------------------------------------------------

  run(maxInstructions: number, exact = false, maxNs = Infinity): RunEnd {
    const cpu = this.#cpu;
    this.enter();
    this.#running = true;
    const before = cpu.get64(CTL.instructions);
    const callsBefore = this.#inner.countOf('systemCall');
    cpu.accounting.divert(this.#inner);
    try {
      this.#vmrun();
      const end = this.#software.run(maxInstructions, exact, maxNs);
      if (end === 'shutdown') {
        this.#leaveGuest(EXIT_CODE.SHUTDOWN, 'exception');
        this.#event = 0n;
      }
      // How long a slice takes is up to the host that executes the model: its end is no exit.
      this.#meter.count('slice');
      this.#inGuest = end === 'slice' && this.#retired() > this.#exitedAt + 1;
      return end;
    } finally {
      cpu.accounting.divert(undefined);
      this.#meter.instructions(Number(cpu.get64(CTL.instructions) - before));
      // Some are callouts, some translated code.
      this.#meter.native('systemCall', this.#inner.countOf('systemCall') - callsBefore);
      this.#meter.publish();
      this.#running = false;
      if (this.#leaveAfterRun) this.leave();
    }
  }

  #retired(): number {
    return this.#cpu.instructionCount();
  }

  /** Puts the model between guest and software engine, which `run` does by itself. */
  enter(): void {
    if (this.#attached) return;
    this.#attached = true;
    this.#leaveAfterRun = false;
    this.#software.intercept(this);
    // Another engine has run, which follows no tables.
    if (this.#cpu.get64(CTL.instructions) !== this.#leftAt) this.#shadow?.clear();
    else this.#shadow?.resume();
  }

  leave(): void {
    this.#leaveAfterRun = this.#running;
    if (this.#running || !this.#attached) return;
    this.#attached = false;
    this.#leftAt = this.#cpu.get64(CTL.instructions);
    this.#shadow?.suspend();
    this.#software.intercept(undefined);
  }

  // ---- leaving and entering the guest --------------------------------------------------------------------------

  /** #VMEXIT: the guest's state is saved, and why it was left. EXITINFO1 and EXITINFO2 in halves. */
  #leaveGuest(code: number, reason: ModelExitReason, low = 0, high = 0, low2 = 0, high2 = 0): void {
    const { vmcb } = this;
    const { rip, next } = this.#software.position();
    vmcb.save(this.#cpu, rip);
    vmcb.set64(VMCB.nRip, next);
    // What was being delivered was not: the VMM is to inject it again.
    vmcb.set64(VMCB.exitIntInfo, this.#event);
    vmcb.set64(VMCB.eventInj, 0n);
    const { u32 } = vmcb;
    u32[VMCB.exitCode >> 2] = code;
    u32[VMCB.exitInfo1 >> 2] = low;
    u32[(VMCB.exitInfo1 + 4) >> 2] = high;
    u32[VMCB.exitInfo2 >> 2] = low2;
    u32[(VMCB.exitInfo2 + 4) >> 2] = high2;
    this.#exitedAt = this.#retired();
    this.#meter.exit(code, reason);
  }

  /** VMRUN, from a VMCB that the VMM has made of the vCPU's state: after a run's end devices or a host may have changed it. */
  #vmrun(): void {
    const { vmcb } = this;
    const cpu = this.#cpu;
    const waiting = vmcb.intercepts(VMCB.intercept1, INTERCEPT1.vintr);
    const arrived = cpu.get32(CTL.nmiPending) !== 0 || (cpu.interrupts.hasInterrupt() && !waiting);
    // A device's interrupt came while the guest was running: a physical one has brought it to the VMM.
    if (this.#inGuest && arrived) this.#leaveGuest(EXIT_CODE.INTR, 'interrupt');
    else vmcb.save(cpu, cpu.rip);
    this.#exitedAt = this.#retired();
    this.#resumeGuest(false);
  }

  /**
   * VMRUN, from the VMCB as it stands.
   * @param emulated an instruction has been emulated, so the interrupt shadow before it is over.
   */
  #resumeGuest(emulated: boolean): void {
    const { vmcb } = this;
    const cpu = this.#cpu;
    const pending = cpu.interrupts.hasInterrupt();
    const open =
      (cpu.get32(FLAGS_SYSTEM) & FLAG_IF) !== 0 && (emulated || cpu.get32(CTL.interruptShadow) === 0);
    this.#awaitWindow(pending && !open);
    const inconsistency = vmcb.inconsistency();
    if (inconsistency !== undefined) throw new Error(`the model's VMRUN is refused: ${inconsistency}`);
    vmcb.load(cpu);
    if (vmcb.u8[VMCB.tlbControl] === TLB_CONTROL.none) return;
    cpu.mmu.dropTranslations();
    vmcb.u8[VMCB.tlbControl] = this.#tlbControl;
  }

  /** An event in whose delivery the guest was left comes first of all (APM volume 2, section 15.7.2). */
  #injectAgain(): void {
    const { vmcb } = this;
    const interrupted = vmcb.get64(VMCB.exitIntInfo);
    if (interrupted === 0n) return;
    vmcb.set64(VMCB.eventInj, interrupted);
    this.#meter.injection();
  }

  /** Asks for an exit as soon as the guest takes interrupts: a virtual one is pending (APM volume 2, section 15.21.4). */
  #awaitWindow(on: boolean): void {
    const { vmcb } = this;
    const value = vmcb.get32(VMCB.vIntr);
    vmcb.set32(
      VMCB.vIntr,
      on ? value | V_INTR.irq | V_INTR.ignoreTpr : value & ~(V_INTR.irq | V_INTR.ignoreTpr),
    );
    vmcb.setIntercepts(VMCB.intercept1, INTERCEPT1.vintr, on);
  }

  // ---- what the software engine tells --------------------------------------------------------------------------

  wrap(callout: Callout): CalloutFunction {
    const { run, reason } = callout;
    const intercept = INSTRUCTION_INTERCEPTS.get(callout);
    const native: CalloutFunction =
      reason === 'farTransfer'
        ? (cpu, dst, a, b, imm, c) => {
            this.#meter.native(reason);
            run(cpu, dst, a, b, imm, c);
          }
        : run;
    return intercept ? this.#intercepted(intercept, run, native) : native;
  }

  /** @param run executes the instruction as the VMM's emulation, `native` as the processor. */
  #intercepted(
    intercept: InstructionIntercept,
    run: CalloutFunction,
    native: CalloutFunction,
  ): CalloutFunction {
    return (cpu, dst, a, b, imm, c) => {
      const taken = intercept(cpu, this.vmcb, { dst, a, b, imm, c });
      if (!taken) {
        native(cpu, dst, a, b, imm, c);
        return;
      }
      if (!this.#emulatesOn(taken, a)) this.#leaveForInstruction(taken);
      this.#handling = true;
      try {
        // A fault of the instruction is thrown, and injected on entry.
        run(cpu, dst, a, b, imm, c);
      } finally {
        this.#handling = false;
        this.vmcb.save(cpu, taken.code === EXIT_CODE.IRET ? cpu.rip : this.vmcb.get64(VMCB.nRip));
        // The shadow of another root: entries of a shadow are never global.
        if (taken.code === EXIT_CODE.CR3_WRITE) this.vmcb.u8[VMCB.tlbControl] = TLB_CONTROL.flushGuest;
        this.#resumeGuest(true);
      }
    };
  }

  /**
   * Whether the VMM is in the middle of emulating this repeated string I/O, for which no further exit is taken. Notes where
   * it is.
   */
  #emulatesOn({ code, low }: InstructionExit, operand: number): boolean {
    if (code !== EXIT_CODE.IOIO || (low & IOIO.repeated) === 0) return false;
    const before = this.#string;
    const retired = this.#retired();
    const { rip } = this.#software.position();
    const { u32 } = this.#cpu;
    const page = u32[(operand + 4) >> 2]! * PAGES_IN_4_GIB + (u32[operand >> 2]! >>> 12);
    this.#string = { rip, page, retired };
    if (before.rip !== rip || before.page !== page || before.retired !== retired - 1) return false;
    this.#exitedAt = retired;
    return true;
  }

  #leaveForInstruction({ code, reason, low, high }: InstructionExit): void {
    this.#leaveGuest(code, reason, low, high);
    const { vmcb } = this;
    if (code === EXIT_CODE.IRET) vmcb.setIntercepts(VMCB.intercept1, INTERCEPT1.iret, false);
    if (code !== EXIT_CODE.IOIO) return;
    vmcb.set64(VMCB.exitInfo2, vmcb.get64(VMCB.nRip));
    this.#meter.detail('portIo', `0x${(low >>> 16).toString(16)}`);
  }

  exception(vector: number, errorCode: number): void {
    const code = pushesErrorCode(vector) ? errorCode : undefined;
    this.#meter.native('exception');
    if (this.vmcb.intercepts(VMCB.interceptException, 1 << vector)) {
      this.#interceptedException(vector, errorCode, code);
    }
    this.#event = eventInjection(vector, EVENT_TYPE.exception, code);
  }

  /** @param code what the exception pushes */
  #interceptedException(vector: number, errorCode: number, code: number | undefined): void {
    if (vector !== VECTOR.PF) {
      this.#leaveGuest(EXIT_CODE.EXCP_PF - VECTOR.PF + vector, 'exception', errorCode);
    } else {
      const { u32 } = this.#cpu;
      const [low, high] = [u32[CR2 >> 2]!, u32[(CR2 + 4) >> 2]!];
      this.#leaveGuest(EXIT_CODE.EXCP_PF, 'truePageFault', errorCode, 0, low, high);
    }
    // The guest's own tables fault, too: the VMM gives the fault to the guest, in the place of what it interrupted.
    this.#inject(vector, EVENT_TYPE.exception, code);
    this.#resumeGuest(false);
  }

  softwareEvent(vector: number, interrupt: boolean): void {
    this.#event = eventInjection(vector, interrupt ? EVENT_TYPE.software : EVENT_TYPE.exception);
  }

  delivered(): void {
    this.#event = 0n;
  }

  taskSwitch(selector: number, cause: TaskSwitchCause): void {
    if (!this.vmcb.intercepts(VMCB.intercept1, INTERCEPT1.taskSwitch)) return;
    const pushes = (this.#event & EVENT_ERROR_CODE_VALID) !== 0n;
    this.#leaveGuest(
      EXIT_CODE.TASK_SWITCH,
      'otherCallout',
      selector,
      0,
      pushes ? Number(this.#event >> 32n) : 0,
      (cause === 'iret' ? TASK_SWITCH.iret : 0) |
        (cause === 'jump' ? TASK_SWITCH.jump : 0) |
        (pushes ? TASK_SWITCH.errorCode : 0),
    );
  }

  interrupt(vector: number, nonMaskable: boolean): void {
    // Without an exit that the VMM could inject on, one is taken at the instruction boundary where it can be.
    const { vmcb } = this;
    if (this.#retired() > this.#exitedAt + 1 || vmcb.intercepts(VMCB.intercept1, INTERCEPT1.vintr)) {
      // A non-maskable one is the host's doing: it interrupts the guest for that.
      if (nonMaskable) this.#leaveGuest(EXIT_CODE.INTR, 'interrupt');
      else this.#leaveGuest(EXIT_CODE.VINTR, 'interruptWindow');
      this.#awaitWindow(false);
      this.#inject(vector, nonMaskable ? EVENT_TYPE.nmi : EVENT_TYPE.interrupt);
      this.#resumeGuest(false);
    } else {
      this.#inject(vector, nonMaskable ? EVENT_TYPE.nmi : EVENT_TYPE.interrupt);
    }
    this.#event = eventInjection(vector, nonMaskable ? EVENT_TYPE.nmi : EVENT_TYPE.interrupt);
    if (nonMaskable) vmcb.setIntercepts(VMCB.intercept1, INTERCEPT1.iret, true);
    this.#meter.count('interrupt');
    this.#meter.detail('interrupt', `0x${vector.toString(16).padStart(2, '0')}`);
    this.#meter.native('interrupt');
  }

  #inject(vector: number, type: number, errorCode?: number): void {
    this.vmcb.set64(VMCB.eventInj, eventInjection(vector, type, errorCode));
    this.#meter.injection();
  }

  walked(
    lin: number,
    access: Access,
    walker: PageWalker,
    arena: number,
    writable: boolean,
    known: boolean,
  ): void {
    const shadow = this.#shadow;
    if (access === ACCESS.write) this.#stored = lin;
    if (!this.#handling) this.#chargeWalk(walker, access, arena, known);
    if (!shadow || shadow.access(lin, access, walker, arena, writable) === 'none') return;
    if (this.#handling) return;
    const code =
      (access === ACCESS.write ? PF.write : access === ACCESS.execute ? PF.instruction : 0) |
      (this.#cpu.cpl === 3 ? PF.user : 0);
    this.#leaveGuest(EXIT_CODE.EXCP_PF, 'hiddenPageFault', code, 0, lin | 0, Math.floor(lin / TWO_32));
    this.#injectAgain();
    this.#resumeGuest(false);
  }

  /** The processor's page walk. A store that the software engine looks at for its own sake walks no tables. */
  #chargeWalk({ levels }: PageWalker, access: Access, arena: number, known: boolean): void {
    if (access === ACCESS.write && known && arena >= 0 && this.#cpu.mmu.watched(arena >>> 12) !== 0) return;
    this.#meter.walk(this.#shadow ? this.#shadow.levels : (levels + 1) * (NESTED_LEVELS + 1) - 1);
  }

  tableWritten(arena: number, size: number, byGuest: boolean): void {
    const shadow = this.#shadow;
    if (!shadow) return;
    const exits = byGuest && !this.#handling;
    const lin = this.#stored;
    if (exits) {
      const code = PF.present | PF.write | (this.#cpu.cpl === 3 ? PF.user : 0);
      this.#leaveGuest(EXIT_CODE.EXCP_PF, 'trace', code, 0, lin | 0, Math.floor(lin / TWO_32));
      this.#meter.detail('trace', 'page table');
    }
    shadow.written(arena, size);
    if (!exits) return;
    this.#injectAgain();
    this.#resumeGuest(false);
  }

  device(phys: number, _size: number, write: boolean): void {
    if (this.#handling) return;
    const rights = (write ? PF.write : 0) | (this.#cpu.cpl === 3 ? PF.user : 0);
    const [low, high] = [phys % TWO_32, Math.floor(phys / TWO_32)];
    // With a shadow the VMM finds the device by a walk of the guest's tables, of the same fault.
    if (this.#shadow) this.#leaveGuest(EXIT_CODE.EXCP_PF, 'mmio', rights, 0, low, high);
    else this.#leaveGuest(EXIT_CODE.NPF, 'mmio', rights | PF.user, NPF_FINAL, low, high);
    this.#meter.detail('mmio', this.#cpu.memory.deviceAt(phys) ?? this.#noDevice(phys));
    this.#injectAgain();
    this.#resumeGuest(false);
  }

  #noDevice(phys: number): string {
    return this.#cpu.memory.backing(phys).arena >= 0 ? 'rom' : 'unmapped';
  }

  // ---- the machine ---------------------------------------------------------------------------------------------

  statistics(): ModelStatistics {
    return this.#meter.statistics(this.#mmu, this.#shadow?.size ?? 0);
  }

  /** Modelled cycles, and exits by the manual's names. */
  counters(): Record<string, number> {
    const { cycles, exitCodes, tlbMisses, walkReferences } = this.statistics();
    const counters: Record<string, number> = {
      'modelled.tlbMisses': tlbMisses,
      'modelled.walkReferences': walkReferences,
    };
    for (const [name, value] of Object.entries(cycles)) counters[`modelled.cycles.${name}`] = value;
    for (const [name, { count }] of Object.entries(exitCodes)) counters[`modelled.${name}`] = count;
    return counters;
  }

  get executor(): Engine {
    return this.#software;
  }

  /** What the software engine that executes the guest has counted: for comparison. */
  get executed(): ExitAccounting {
    return this.#inner;
  }

  requestExit(): void {
    this.#software.requestExit();
  }

  memoryChanged(phys: number, length: number): void {
    if (!this.#attached) this.#shadow?.clear();
    this.#software.memoryChanged(phys, length);
  }

  flush(): void {
    this.#shadow?.clear();
    this.#software.flush();
  }

  dispose(): void {
    this.#running = false;
    this.leave();
  }
}
