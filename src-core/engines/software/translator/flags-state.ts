import { flagsKindOf } from '../../../ir/ops/arithmetic.ts';
import type { FlagArithmetic, FlagSource } from '../../../ir/op.ts';
import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT } from '../../../x86/layout.ts';
import type { RegionFrame } from './frame.ts';
import type { Pinned } from './scratch.ts';

/** Where the arithmetic flags are: in the vCPU state in a form that only memory knows, in its words, or not made yet. */
export type FlagsPlace = 'deferred' | 'words' | PendingFlags;

interface PendingFlags {
  source: FlagSource;
  /** Locals the source reads. */
  pinned: readonly Pinned[];
  /** How many sources it is made from, one changing some flags of the other. */
  depth: number;
  /** One of them is what the vCPU state holds: it is not to be written while this is pending. */
  fromState: boolean;
}

/** Flags are made when they would depend on more sources than this. */
const CAPTURE_DEPTH_MAX = 2;

/** The arithmetic flags on the path being emitted: what sets them leaves a source, what looks at them has them made. */
export class FlagsState {
  readonly #frame: RegionFrame;
  place: FlagsPlace = 'deferred';
  /** What the operation being emitted makes its flags from. */
  #captured: Pick<PendingFlags, 'pinned' | 'depth' | 'fromState'> | undefined;

  constructor(frame: RegionFrame) {
    this.#frame = frame;
  }

  /** Whether they are not made yet, from what the vCPU state holds among others. */
  get dependOnState(): boolean {
    return typeof this.place !== 'string' && this.place.fromState;
  }

  /** Where the flags came from, as OpGen.flagArithmetic. */
  arithmetic(): FlagArithmetic | undefined {
    return typeof this.place === 'string' ? undefined : this.place.source.arithmetic;
  }

  /** Pushes FLAGS_RESULT (i64). */
  pushResult(): void {
    const { place } = this;
    if (typeof place !== 'string') {
      this.#apart(place.source.result);
      return;
    }
    this.makeWords();
    this.#frame.w.i32Const(0).mem(i64.load, FLAGS_RESULT);
  }

  /** Pushes FLAGS_AUX (i32). */
  pushAux(): void {
    const { place } = this;
    if (typeof place !== 'string') {
      this.#apart(place.source.aux);
      return;
    }
    this.makeWords();
    this.#frame.w.i32Const(0).mem(i32.load, FLAGS_AUX);
  }

  /** The flags come from `source` from here on. */
  set(source: FlagSource): void {
    if (this.#frame.step.op.def.flagsInState) {
      this.#storeWords(source);
      return;
    }
    this.#release();
    const captured = this.#captured;
    this.#captured = undefined;
    this.place = {
      source,
      pinned: [...this.#frame.scratch.taken(), ...(captured?.pinned ?? [])],
      depth: captured ? captured.depth + 1 : 0,
      fromState: captured?.fromState ?? false,
    };
  }

  /** The flags as they are now, for a source that changes some of them (OpGen.captureFlags). */
  capture(): FlagSource {
    if (typeof this.place !== 'string' && this.place.depth >= CAPTURE_DEPTH_MAX) this.settle();
    const { place } = this;
    if (typeof place === 'string') {
      this.#captured = { pinned: [], depth: 0, fromState: true };
      const known = place === 'words';
      return {
        result: () => {
          if (!known) this.#settleWords();
          this.#frame.w.i32Const(0).mem(i64.load, FLAGS_RESULT);
        },
        aux: () => {
          if (!known) this.#settleWords();
          this.#frame.w.i32Const(0).mem(i32.load, FLAGS_AUX);
        },
      };
    }
    this.#captured = place;
    this.place = { ...place, pinned: [] };
    return {
      result: () => this.#apart(place.source.result),
      aux: () => this.#apart(place.source.aux),
    };
  }

  /** Writes the flags; from here on the vCPU state has them. */
  settle(): void {
    if (typeof this.place === 'string') return;
    this.store();
    this.#release();
    this.place = 'deferred';
  }

  /** The flags' words hold from here on. */
  makeWords(): void {
    const { place } = this;
    if (place === 'words') return;
    if (place === 'deferred') {
      this.#settleWords();
    } else {
      this.#storeWords(place.source);
      this.#release();
    }
    this.place = 'words';
  }

  /** Makes the flags' words from what else the vCPU state has, if they are not made. */
  #settleWords(): void {
    const { w } = this.#frame;
    w.i32Const(0).mem(i32.load, CTL.flagsKind).if();
    w.call(this.#frame.imports.deferredFlags);
    w.end();
  }

  /** Writes flags that are not made yet, without changing what is known about them afterwards. */
  store(): void {
    const { place } = this;
    if (typeof place === 'string') return;
    const { w } = this.#frame;
    const { arithmetic } = place.source;
    if (!arithmetic) {
      this.#storeWords(place.source);
      return;
    }
    w.i32Const(0).i32Const(flagsKindOf(arithmetic)).mem(i32.store, CTL.flagsKind);
    const store = arithmetic.bits === 64 ? i64.store : i32.store;
    const { x, y, r } = arithmetic;
    w.i32Const(0)
      .get(arithmetic.kind === 'logic' ? r : x)
      .mem(store, CTL.flagsX);
    if (arithmetic.kind !== 'logic') w.i32Const(0).get(y).mem(store, CTL.flagsY);
  }

  #storeWords({ result, aux }: FlagSource): void {
    const { w } = this.#frame;
    this.#apart(() => {
      // Both are known before either is written: they may be made from the words as they are.
      const made = this.#frame.scratch.get(I64, 15);
      result();
      w.set(made).i32Const(0);
      aux();
      w.mem(i32.store, FLAGS_AUX).i32Const(0).get(made).mem(i64.store, FLAGS_RESULT);
    });
    w.i32Const(0).i32Const(0).mem(i32.store, CTL.flagsKind);
  }

  /** Puts what the flags are to be made from where the common ways out look for it. */
  stage(): void {
    const { place } = this;
    const { w, registerType, exitKind, exitX, exitY } = this.#frame;
    const arithmetic = typeof place === 'string' ? undefined : place.source.arithmetic;
    const narrow = registerType === I32;
    if (!arithmetic || (narrow && arithmetic.bits === 64)) {
      this.store();
      w.i32Const(-1).set(exitKind);
      return;
    }
    const { kind, bits, x, y, r } = arithmetic;
    const stage = (from: number, to: number): void => {
      w.get(from);
      if (!narrow && bits !== 64) w.op(i64.extend_i32_u);
      w.set(to);
    };
    w.i32Const(flagsKindOf(arithmetic)).set(exitKind);
    stage(kind === 'logic' ? r : x, exitX);
    if (kind !== 'logic') stage(y, exitY);
  }

  /** Writes at a common way out what was staged on the way to it. */
  storeStaged(): void {
    const { w, registerType, exitKind, exitX, exitY } = this.#frame;
    const store = registerType === I32 ? i32.store : i64.store;
    w.get(exitKind).i32Const(0).op(i32.ge_s).if();
    w.i32Const(0).get(exitKind).mem(i32.store, CTL.flagsKind);
    w.i32Const(0).get(exitX).mem(store, CTL.flagsX);
    w.i32Const(0).get(exitY).mem(store, CTL.flagsY);
    w.end();
  }

  /** What several paths inherit about the flags; the locals it needs are never used for anything else again. */
  share(): FlagsPlace {
    if (typeof this.place !== 'string') this.place = { ...this.place, pinned: [] };
    return this.place;
  }

  /** The scratch locals of the operation are free again, but for those the flags still need. */
  giveBackScratch(): void {
    this.#frame.scratch.giveBack(typeof this.place === 'string' ? undefined : this.place.pinned);
  }

  #release(): void {
    if (typeof this.place !== 'string') this.#frame.scratch.release(this.place.pinned);
  }

  /** Emits with scratch locals of its own: code of a flag source made earlier. */
  #apart(emit: () => void): void {
    const { scratch } = this.#frame;
    const taken = scratch.setAside();
    emit();
    this.giveBackScratch();
    scratch.resume(taken);
  }
}
