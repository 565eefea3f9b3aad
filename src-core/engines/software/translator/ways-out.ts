import { i32, i64 } from '../../../wasm/opcodes.ts';
import { CTL, RIP } from '../../../x86/layout.ts';
import { REGION, SITE } from '../exit.ts';
import type { FlagsState } from './flags-state.ts';
import type { RegionFrame } from './frame.ts';
import type { Registers } from './registers.ts';
import { isRepeatable } from './step.ts';

/**
 * How a region is left: all ways out meet in two places at its end, one to the interpreter and one to whatever stands at
 * RIP. On the way there they say in locals what differs between them.
 */
export class WaysOut {
  readonly #frame: RegionFrame;
  readonly #registers: Registers;
  readonly #flags: FlagsState;
  /** Depths of the blocks whose ends are the common ways out: to the interpreter, and to whatever stands at RIP. */
  resumeDepth = 0;
  exitDepth = 0;

  constructor(frame: RegionFrame, registers: Registers, flags: FlagsState) {
    this.#frame = frame;
    this.#registers = registers;
    this.#flags = flags;
  }

  /** Leaves by the common way out. The frame's `exitRip` and `exitBlock` are set. */
  exit(): void {
    const { w } = this.#frame;
    this.#flags.stage();
    this.#frame.pay();
    w.br(w.depth - this.exitDepth);
  }

  /** The common way out: all state is stored. */
  emitExit(): void {
    this.#storeStaged(this.#frame.exitRip);
  }

  /** The common way out to the interpreter; the site says where it goes on. */
  emitResume(): void {
    const { w } = this.#frame;
    this.#storeStaged(this.#frame.rip);
    w.i32Const(0).get(this.#frame.site).mem(i32.store, CTL.resumeSite);
    w.i32Const(0).i32Const(this.#frame.siteTable).mem(i32.store, CTL.resumeTable);
    w.i32Const(REGION.site).return();
  }

  /** Leaves for the interpreter at the micro-op of this operation, of which nothing has been done. */
  resumeHere(): void {
    this.resumeAt(this.#frame.step.index);
  }

  /** The same, or from its instruction's start where nothing but temporaries would be written once more. */
  resumeInstruction(): void {
    const { first, index, node } = this.#frame.step;
    for (let at = first; at < index; at++) {
      if (isRepeatable(node.lifted.ops[at]!)) continue;
      this.resumeHere();
      return;
    }
    this.resumeAt(first);
  }

  /** Leaves for the interpreter at micro-op `index` of this node's block: this operation's or the next one's. */
  resumeAt(index: number): void {
    const { w } = this.#frame;
    this.#flags.stage();
    if (index !== this.#frame.step.first) this.#registers.storeTemps(index);
    w.i32Const((this.#frame.step.node.order << SITE.nodeShift) | index).set(this.#frame.site);
    w.br(w.depth - this.resumeDepth);
  }

  /** Stores all state, where several ways out have come together. `rip`: local. */
  #storeStaged(rip: number): void {
    const { w } = this.#frame;
    this.#flags.storeStaged();
    this.#registers.storeWritten();
    w.i32Const(0).get(this.#frame.budget).mem(i32.store, CTL.budget);
    w.i32Const(0).get(rip).mem(i64.store, RIP);
  }
}
