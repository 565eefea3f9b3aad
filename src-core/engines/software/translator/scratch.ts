import { I32, type ValueType } from '../../../wasm/opcodes.ts';

/** A local that is in use. */
export interface Pinned {
  type: ValueType;
  local: number;
}

/** Different scratch locals an operation may ask for, of each type. */
const SCRATCH_COUNT = 16;
/** Value types are numbered downwards from i32. */
export const VALUE_TYPES = 5;

/** Scratch locals handed out, by type and number; -1 where there is none. */
export class Scratch {
  readonly #locals = new Int32Array(VALUE_TYPES * SCRATCH_COUNT).fill(-1);
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
