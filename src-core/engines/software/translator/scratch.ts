import { I32, type ValueType } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';

/** A local that is in use. */
export interface Pinned {
  type: ValueType;
  local: number;
}

/** Different scratch locals an operation may ask for, of each type. */
const SCRATCH_COUNT = 16;
/** Value types are numbered downwards from i32. */
const VALUE_TYPES = 5;

/** Scratch locals handed out, by type and number; -1 where there is none. */
export class Scratch {
  readonly #locals: number[] = new Array<number>(VALUE_TYPES * SCRATCH_COUNT).fill(-1);
  readonly #taken: number[] = [];

  get(type: ValueType, n: number): number {
    return this.#locals[(I32 - type) * SCRATCH_COUNT + n]!;
  }
  set(type: ValueType, n: number, local: number): void {
    const index = (I32 - type) * SCRATCH_COUNT + n;
    this.#locals[index] = local;
    this.#taken.push(index);
  }
  *all(): Iterable<Pinned> {
    for (const index of this.#taken) {
      const type = (I32 - Math.floor(index / SCRATCH_COUNT)) as ValueType;
      yield { type, local: this.#locals[index]! };
    }
  }
  has(local: number): boolean {
    return this.#taken.some((index) => this.#locals[index] === local);
  }
  clear(): void {
    for (const index of this.#taken) this.#locals[index] = -1;
    this.#taken.length = 0;
  }
}

/** Scratch locals of a region: those the operation being emitted has, and those that are free for the next. */
export class ScratchLocals {
  readonly #w: CodeWriter;
  readonly #free: number[][] = Array.from({ length: VALUE_TYPES }, () => []);
  #taken = new Scratch();

  constructor(w: CodeWriter) {
    this.#w = w;
  }

  /** The operation's scratch local of this type and number. */
  get(type: ValueType, n: number): number {
    let local = this.#taken.get(type, n);
    if (local < 0) {
      local = this.#free[I32 - type]!.pop() ?? this.#w.local(type);
      this.#taken.set(type, n, local);
    }
    return local;
  }

  /** All the operation has. */
  taken(): Iterable<Pinned> {
    return this.#taken.all();
  }

  /** The operation's are free again, but for those pinned. */
  giveBack(pinned: readonly Pinned[] | undefined): void {
    for (const { type, local } of this.#taken.all()) {
      if (!pinned?.some((pin) => pin.local === local)) this.#free[I32 - type]!.push(local);
    }
    this.#taken.clear();
  }

  /** What was pinned is free again; what the operation being emitted holds too is given back with that. */
  release(pinned: readonly Pinned[]): void {
    for (const { type, local } of pinned) {
      if (!this.#taken.has(local)) this.#free[I32 - type]!.push(local);
    }
  }

  /** The operation's are not used again on any path. */
  abandon(): void {
    this.#taken.clear();
  }

  /** What is emitted from here on has scratch locals of its own, until `resume` with what this returns. */
  setAside(): Scratch {
    const taken = this.#taken;
    this.#taken = new Scratch();
    return taken;
  }

  resume(taken: Scratch): void {
    this.#taken = taken;
  }
}
