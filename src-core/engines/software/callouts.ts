import type { ExitReason } from '../../accounting/exits.ts';
import { type CalloutFunction, callouts } from '../../x86/callout.ts';
import type { Cpu } from '../../x86/cpu.ts';
import { GuestFault } from '../../x86/faults.ts';
import type { Intercepts } from '../../x86/intercepts.ts';
import { CTL } from '../../x86/layout.ts';
import type { RunTime } from './run-time.ts';

/** One in this many callouts of a reason is timed. */
const TIMED_EVERY = 64;

/**
 * Executes what the interpreter and translated code leave to TypeScript, callouts and memory accesses that the TLB does
 * not serve. Counts them by reason and times a sample.
 */
export class Callouts {
  readonly #cpu: Cpu;
  readonly #time: RunTime;
  /** One is being executed: TypeScript is on wasm's stack, CTL.exitUop says where. */
  active = false;
  /** What is executed for each callout. */
  #functions: CalloutFunction[];
  readonly #reasons: ExitReason[];
  readonly #counts: Float64Array;
  /** The counts start anew with each run; which callouts are timed must not depend on that. */
  readonly #ticks: Uint32Array;
  #slowAccesses = 0;

  constructor(cpu: Cpu, time: RunTime) {
    this.#cpu = cpu;
    this.#time = time;
    const table = callouts();
    this.#functions = table.map(({ run }) => run);
    this.#reasons = table.map(({ reason }) => reason);
    this.#counts = new Float64Array(table.length);
    this.#ticks = new Uint32Array(table.length);
  }

  /** A model of hardware virtualization stands between the guest's code and what it asks of the processor. */
  get intercepted(): boolean {
    return this.#cpu.get32(CTL.intercepted) !== 0;
  }

  /** Executes a callout for the micro-op at an arena address. Returns 0 to go on, 1 when a fault was recorded in CTL. */
  call(id: number, uop: number): number {
    const cpu = this.#cpu;
    const { u16 } = cpu;
    const at = uop >> 1;
    this.#counts[id]!++;
    const started = ++this.#ticks[id]! % TIMED_EVERY === 0 ? performance.now() : -1;
    this.active = true;
    try {
      this.#functions[id]!(
        cpu,
        u16[at + 1]!,
        u16[at + 2]!,
        u16[at + 3]!,
        cpu.i32[(uop + 8) >> 2]!,
        u16[at + 6]!,
      );
      return 0;
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      cpu.set32(CTL.faultVector, error.vector);
      cpu.set32(CTL.faultCode, error.errorCode);
      return 1;
    } finally {
      this.active = false;
      if (started >= 0) {
        cpu.accounting.addTime(this.#reasons[id]!, this.#time.exited(started, TIMED_EVERY));
      }
    }
  }

  /** Does a memory access that the TLB did not serve. Returns what it returns: 0, or 1 when a fault was recorded in CTL. */
  access(access: () => number): number {
    this.active = true;
    const started = ++this.#slowAccesses % TIMED_EVERY === 0 ? performance.now() : -1;
    const status = access();
    this.active = false;
    if (started >= 0) this.#time.exited(started, TIMED_EVERY);
    return status;
  }

  /**
   * Puts a model of hardware virtualization between the guest's code and what it asks of the processor, or (undefined)
   * takes it away. Between runs only.
   */
  intercept(intercepts: Intercepts | undefined): void {
    this.#functions = callouts().map((callout) => intercepts?.wrap(callout) ?? callout.run);
    this.#cpu.set32(CTL.intercepted, intercepts ? 1 : 0);
    this.#cpu.intercepts = intercepts;
    this.#cpu.mmu.observe(intercepts);
  }

  /** Enters what was counted since the last time, also by wasm, which did quickly what could have been a callout. */
  collectCounts(): void {
    const { accounting } = this.#cpu;
    const quickly = (reason: ExitReason, counter: number): void => {
      const count = this.#cpu.get32(counter);
      if (count === 0) return;
      accounting.count(reason, count);
      this.#cpu.set32(counter, 0);
    };
    quickly('descriptor', CTL.quickSegmentLoads);
    quickly('systemCall', CTL.quickSystemCalls);
    quickly('farTransfer', CTL.quickReturns);
    quickly('controlRegister', CTL.quickControlReads);
    const counts = this.#counts;
    for (let id = 0; id < counts.length; id++) {
      const count = counts[id]!;
      if (count === 0) continue;
      accounting.count(this.#reasons[id]!, count);
      counts[id] = 0;
    }
  }
}
