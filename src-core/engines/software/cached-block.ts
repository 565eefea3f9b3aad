import { ARENA, type Arena } from '../../machine/arena.ts';
import { type IrOp, op } from '../../ir/op.ts';
import type { LiftedBlock } from '../../x86/lift/block.ts';
import type { CodeSize } from '../../x86/mode.ts';
import { BLOCK, START, UOP } from './exit.ts';

/**
 * A block of the micro-op cache, for those that work with it by name. All there is about it stands in the arena, as most
 * blocks are executed a few times and never looked at: of 80,000 after a Linux boot a quarter ever has such an object.
 */
export interface CachedBlock {
  /** Blocks made before it since everything was last forgotten. */
  readonly id: number;
  /** BLOCK.index: taken again when the block's place is used for others. */
  readonly index: number;
  /** Arena address of its header in the micro-op area. */
  readonly address: number;
  /** Arena address of its first byte of guest code. */
  readonly code: number;
  readonly bytes: number;
  readonly modeKey: number;
  /** Arena address of the second page's first byte when the code runs into another page, else -1. */
  readonly secondPage: number;
  /** Guest instructions. Where each starts stands in the arena, in the order of instructions (instructionStart). */
  readonly count: number;
  /** Its code was changed: never entered again. */
  dead: boolean;
}

/** Reads a block's header. */
export function readBlock({ u16, u32, i32 }: Arena, address: number): CachedBlock {
  const at = address >> 2;
  const count = u32[at + (BLOCK.count >> 2)]!;
  if (count === 0) throw new Error(`no block at 0x${address.toString(16)}`);
  const mode = u16[(address + BLOCK.mode) >> 1]!;
  return {
    id: u32[at + (BLOCK.id >> 2)]!,
    index: u32[at + (BLOCK.index >> 2)]!,
    address,
    code: u32[at + (BLOCK.code >> 2)]!,
    bytes: u32[at + (BLOCK.bytes >> 2)]!,
    modeKey: mode & ~BLOCK.dead,
    secondPage: i32[at + (BLOCK.secondPage >> 2)]!,
    count,
    dead: (mode & BLOCK.dead) !== 0,
  };
}

/** Bytes a block takes with so many micro-ops and instructions. */
export function sizeOfBlock(ops: number, instructions: number): number {
  return BLOCK.header + ops * UOP.size + Math.ceil((instructions * START.size) / UOP.size) * UOP.size;
}

/** Writes what follows a block's header. */
export function writeOps({ view }: Arena, address: number, { ops, instructions }: LiftedBlock): void {
  let at = address + BLOCK.header;
  for (const ir of ops) {
    writeUop(view, at, ir);
    at += UOP.size;
  }
  for (const { firstOp, offset } of instructions) {
    view.setUint16(at + START.op, firstOp, true);
    view.setUint16(at + START.offset, offset, true);
    at += START.size;
  }
}

/** Where a block's instruction starts: arena address of its first micro-op, and its offset in bytes of guest code. */
export function instructionStart(
  { u16 }: Arena,
  { address }: CachedBlock,
  index: number,
): { uop: number; offset: number } {
  const first = address + BLOCK.header;
  const start = (first + u16[(address + BLOCK.ops) >> 1]! * UOP.size + index * START.size) >> 1;
  return { uop: first + u16[start]! * UOP.size, offset: u16[start + (START.offset >> 1)]! };
}

/** Which of a block's instructions a micro-op belongs to. */
export function instructionAt(arena: Arena, block: CachedBlock, uop: number): number {
  let low = 0;
  let high = block.count - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (instructionStart(arena, block, middle).uop <= uop) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Arena address of the word that says how to enter the region that begins at a block. */
export function regionCell({ index }: CachedBlock): number {
  return ARENA.regionOf + index * 4;
}

function writeUop(view: DataView, at: number, ir: IrOp): void {
  view.setUint16(at + UOP.op, ir.def.id, true);
  view.setUint16(at + UOP.dst, ir.dst, true);
  if (ir.def.name === 'const64') {
    view.setBigUint64(at + UOP.wide, ir.wide, true);
  } else {
    view.setUint16(at + UOP.a, ir.a, true);
    view.setUint16(at + UOP.b, ir.b, true);
    view.setInt32(at + UOP.imm, ir.imm, true);
  }
  view.setUint16(at + UOP.c, ir.c, true);
  view.setUint16(at + UOP.callout, ir.callout?.id ?? 0, true);
}

/** Overwrites a micro-op with one that ends the block at `offset` from its start; returns the bytes it replaced. */
export function patchEnd(arena: Arena, uop: number, codeBits: CodeSize, offset: number): Uint8Array {
  const saved = arena.u8.slice(uop, uop + UOP.size);
  writeUop(arena.view, uop, {
    def: op(`end.${codeBits}`),
    dst: 0,
    a: 0,
    b: 0,
    imm: offset,
    c: 0,
    wide: 0n,
    callout: undefined,
  });
  return saved;
}
