import type { InsteadName, QuickName } from '../../../ir/op.ts';
import { I32, i32 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { CTL } from '../../../x86/layout.ts';
import { REGION, UOP } from '../exit.ts';
import type { FlagsState } from './flags-state.ts';
import type { RegionFrame } from './frame.ts';
import type { MemoryAccesses } from './memory-access.ts';
import type { Registers } from './registers.ts';

/** Calls out of translated code, to what TypeScript and the interpreter's module do for it. */
export class Callouts {
  readonly #frame: RegionFrame;
  readonly #registers: Registers;
  readonly #flags: FlagsState;
  readonly #memory: MemoryAccesses;

  constructor(frame: RegionFrame, registers: Registers, flags: FlagsState, memory: MemoryAccesses) {
    this.#frame = frame;
    this.#registers = registers;
    this.#flags = flags;
    this.#memory = memory;
  }

  /** The callout that the operation being emitted names. */
  calloutOfOp(): void {
    this.call(this.#calloutOfOp());
  }

  /** The same where the function for it does not do it. */
  calloutOfOpUnless(name: InsteadName): void {
    this.call(this.#calloutOfOp(), this.#frame.imports[name]);
  }

  /** See OpGen.quick. */
  quick(name: QuickName, parameters: () => void): void {
    parameters();
    this.#frame.w.call(this.#frame.imports[name]);
    this.#memory.forgetPlaces();
  }

  /** Calls a callout, unless function `first` of the micro-op says that it has done all there is to do. */
  call(id: number, first?: number): void {
    const frame = this.#frame;
    const { w, uop, budget } = frame;
    this.#flags.store();
    this.#registers.storeTemps();
    this.#registers.storeWritten();
    frame.storeBudget();
    frame.storeRip(frame.step.node.delta);
    frame.storePosition();
    const result = frame.scratch.get(I32, 12);
    // A fault, or something that wants attention: then the interpreter goes on behind this operation.
    const callout = (): CodeWriter => w.i32Const(id).i32Const(uop).call(frame.imports.callout);
    if (first === undefined) callout();
    else {
      w.i32Const(uop).call(first).if(I32).i32Const(0).else();
      callout().end();
    }
    w.tee(result).hint(false).if();
    w.get(result).return();
    w.end();
    this.#registers.load();
    this.#memory.reload();
    // String instructions done in bulk use up budget that the rest of the region counts on.
    w.i32Const(0).mem(i32.load, CTL.budget).tee(budget);
    w.i32Const(frame.reserve).op(i32.lt_s).hint(false).if();
    w.i32Const(0)
      .i32Const(uop + UOP.size)
      .mem(i32.store, CTL.exitUop);
    w.i32Const(REGION.resume).return();
    w.end();
    if (frame.unpaid > 0) w.get(budget).i32Const(frame.unpaid).op(i32.add).set(budget);
    this.#registers.reloadResult();
  }

  #calloutOfOp(): number {
    const { callout } = this.#frame.step.op;
    if (!callout) throw new Error('an operation without a callout');
    return callout.id;
  }
}
