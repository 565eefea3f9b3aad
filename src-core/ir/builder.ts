import type { Callout } from '../x86/callout.ts';
import { TEMP, TEMP_COUNT, TEMP_SIZE } from '../x86/layout.ts';
import { type IrOp, type Loc, op } from './op.ts';

/** Fields of an operation that have a default. */
export interface OpFields {
  dst?: Loc;
  a?: Loc;
  b?: Loc;
  imm?: number;
  c?: number;
}

/** How a block ends, where the translator can make use of it. */
export type BlockExit =
  /** A near call: the next instruction stands at offset `next` from the block's start. */
  | { kind: 'call'; next: number }
  /** A near jump or call through a register or memory; `next` as for calls, undefined for jumps. */
  | { kind: 'via'; next: number | undefined }
  /** A near return. */
  | { kind: 'return' };

/** Collects the IR of one block, instruction by instruction. */
export class IrBuilder {
  /** Set by the lifters of near calls, returns and indirect jumps. */
  exit: BlockExit | undefined;
  readonly ops: IrOp[] = [];
  /** For each guest instruction: index of its first operation and its offset in bytes from the block's start. */
  readonly instructions: { firstOp: number; offset: number }[] = [];
  #temps = 0;

  /** Starts the next guest instruction: temporaries are free again. */
  begin(offset: number): void {
    this.instructions.push({ firstOp: this.ops.length, offset });
    this.#temps = 0;
  }

  /** Drops the operations of the current instruction (its lifting failed half-way). */
  rewind(): void {
    const current = this.instructions.at(-1);
    if (current) this.ops.length = current.firstOp;
    this.#temps = 0;
  }

  /** A fresh 16-byte temporary, good to the end of this instruction. */
  temp(): Loc {
    if (this.#temps === TEMP_COUNT) throw new Error('out of IR temporaries');
    return TEMP + this.#temps++ * TEMP_SIZE;
  }

  /** Makes the temporaries that `body` takes free again when it is done: for steps repeated within one instruction. */
  scoped(body: () => void): void {
    const before = this.#temps;
    body();
    this.#temps = before;
  }

  /** Appends an operation by name (src-core/ir/ops). Returns dst. */
  op(name: string, { dst = 0, a = 0, b = 0, imm = 0, c = 0 }: OpFields): Loc {
    this.ops.push({ def: op(name), dst, a, b, imm, c, wide: 0n, callout: undefined });
    return dst;
  }

  /** dst = a 64-bit constant. */
  const64(dst: Loc, value: bigint): Loc {
    const small = BigInt.asIntN(32, value);
    if (small === BigInt.asIntN(64, value)) return this.op('const.64', { dst, imm: Number(small) });
    this.ops.push({
      def: op('const64'),
      dst,
      a: 0,
      b: 0,
      imm: 0,
      c: 0,
      wide: BigInt.asUintN(64, value),
      callout: undefined,
    });
    return dst;
  }

  /** Calls TypeScript. Its operands are whatever that callout says. */
  callout(callout: Callout, { dst = 0, a = 0, b = 0, imm = 0, c = 0 }: OpFields = {}): void {
    this.ops.push({ def: op('callout'), dst, a, b, imm, c, wide: 0n, callout });
  }

  /** The same, unless the engine does it by itself: an operation that ends in OpGen.calloutOfOpUnless. */
  calloutUnless(name: string, callout: Callout, { dst = 0, a = 0, b = 0, imm = 0, c = 0 }: OpFields): void {
    this.ops.push({ def: op(name), dst, a, b, imm, c, wide: 0n, callout });
  }

  /** True when the last operation ends the block. */
  get ended(): boolean {
    return this.ops.at(-1)?.def.terminates ?? false;
  }
}
