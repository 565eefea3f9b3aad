import type { IrOp, Loc, OpDef } from '../../../ir/op.ts';
import { GPR, TEMP, TEMP_SIZE } from '../../../x86/layout.ts';
import { GPR_COUNT, TEMP_END } from './step.ts';

/** What is known of a value: a constant distance from a root, which stands for something that does not change. */
export interface SymbolicValue {
  root: number;
  /** Bytes, exact; comparable for the same root only. */
  offset: number;
}

/** The memory access that an operation is. */
export interface MemoryAccess {
  bytes: number;
  write: boolean;
  /** Of the address, in bits. */
  width: number;
}

/** The root of constants. */
const CONSTANTS = 0;

/**
 * Follows what general registers and temporaries hold along a path through translated code, as far as that is an address
 * and a distance: so two accesses are known to be next to each other (value numbering of address arithmetic).
 */
export class SymbolicValues {
  /** Bits of the addresses followed: those of general registers. */
  readonly #bits: 32 | 64;
  #values: (SymbolicValue | undefined)[] = [];
  /** Roots of sums of others. */
  #sums = new Map<string, number>();
  #roots = CONSTANTS + 1;

  constructor(bits: 32 | 64) {
    this.#bits = bits;
  }

  /** The same knowledge, to go on with apart. */
  clone(): SymbolicValues {
    const copy = new SymbolicValues(this.#bits);
    copy.#values = [...this.#values];
    copy.#sums = new Map(this.#sums);
    copy.#roots = this.#roots;
    return copy;
  }

  /** Remembers what is known here; the function returned brings it back. */
  save(): () => void {
    const values = [...this.#values];
    return () => {
      this.#values = [...values];
    };
  }

  /** Nothing is known of any value: other paths lead here too, or others may have changed them. */
  clear(): void {
    this.#values = [];
    this.#sums.clear();
  }

  /** The address that a load or store accesses, undefined where it is of another size than those followed. */
  addressOf({ def, a, imm }: IrOp): SymbolicValue | undefined {
    if (accessOf(def)?.width !== this.#bits) return undefined;
    return this.#plus(this.#of(a), imm);
  }

  /** What is known after an operation. */
  apply(op: IrOp): void {
    if (!op.def.writes) return;
    const index = indexOf(op.dst);
    if (index !== undefined) this.#values[index] = this.#result(op);
  }

  #result(op: IrOp): SymbolicValue | undefined {
    const { kind, bits } = shapeOf(op.def);
    if (bits !== this.#bits || wholeIndexOf(op.dst) === undefined) return undefined;
    switch (kind) {
      case 'mov':
        return this.#of(op.a);
      case 'const':
        return { root: CONSTANTS, offset: op.imm };
      case 'add':
      case 'lea1':
        return this.#plus(this.#of(op.a), op.imm);
      case 'sub':
        return this.#plus(this.#of(op.a), -op.imm);
      case 'lea0':
        return this.#plus(this.#sum(undefined, this.#of(op.b), op.c), op.imm);
      case 'lea2':
        return this.#plus(this.#sum(this.#of(op.a), this.#of(op.b), op.c), op.imm);
      default:
        return undefined;
    }
  }

  #of(loc: Loc): SymbolicValue | undefined {
    const index = wholeIndexOf(loc);
    if (index === undefined) return undefined;
    return (this.#values[index] ??= { root: this.#roots++, offset: 0 });
  }

  #plus(value: SymbolicValue | undefined, offset: number): SymbolicValue | undefined {
    return value && { root: value.root, offset: value.offset + offset };
  }

  /** base + (index << shift), the same root each time. */
  #sum(
    base: SymbolicValue | undefined,
    index: SymbolicValue | undefined,
    shift: number,
  ): SymbolicValue | undefined {
    if (!index) return undefined;
    const key = `${base?.root}:${index.root}:${index.offset}:${shift}`;
    let root = this.#sums.get(key);
    if (root === undefined) this.#sums.set(key, (root = this.#roots++));
    return { root, offset: base?.offset ?? 0 };
  }
}

/** Index in the table of values of the register or temporary that a location is, or is part of. */
function indexOf(loc: Loc): number | undefined {
  if (loc >= GPR && loc < GPR + GPR_COUNT * 8) return (loc - GPR) >> 3;
  if (loc >= TEMP && loc < TEMP_END) return GPR_COUNT + Math.floor((loc - TEMP) / TEMP_SIZE);
  return undefined;
}

/** The same for locations of whole values only. */
function wholeIndexOf(loc: Loc): number | undefined {
  const start = loc >= TEMP && loc < TEMP_END ? (loc - TEMP) % TEMP_SIZE === 0 : (loc - GPR) % 8 === 0;
  return start ? indexOf(loc) : undefined;
}

type ShapeKind = 'mov' | 'const' | 'add' | 'sub' | 'lea0' | 'lea1' | 'lea2' | undefined;

interface Shape {
  kind: ShapeKind;
  bits: number;
}

const KINDS: Readonly<Record<string, ShapeKind>> = {
  mov: 'mov',
  const: 'const',
  'addf i': 'add',
  'add i': 'add',
  'subf i': 'sub',
  'sub i': 'sub',
  lea0: 'lea0',
  lea1: 'lea1',
  lea2: 'lea2',
};

const shapes: Shape[] = [];

/** What an operation does with addresses, from its name. */
function shapeOf({ id, name }: OpDef): Shape {
  return (shapes[id] ??= (() => {
    const match = /^(\w+)\.(\d+)(i?)$/.exec(name);
    if (!match) return { kind: undefined, bits: 0 };
    return { kind: KINDS[match[3] ? `${match[1]} i` : match[1]!], bits: Number(match[2]) };
  })());
}

const accesses: (MemoryAccess | null)[] = [];

/** The memory access that an operation is, if it is one. */
export function accessOf({ id, name }: OpDef): MemoryAccess | undefined {
  let access = accesses[id];
  if (access === undefined) {
    const match = /^(ld|ldw|ldzx|ldsx|st)\.(\d+)(?:\.\d+)?\.a(\d+)$/.exec(name);
    access = match && {
      bytes: Number(match[2]) / 8,
      write: match[1] === 'ldw' || match[1] === 'st',
      width: Number(match[3]),
    };
    accesses[id] = access;
  }
  return access ?? undefined;
}
