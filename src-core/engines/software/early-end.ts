import type { Arena } from '../../machine/arena.ts';
import type { Cpu } from '../../x86/cpu.ts';
import { CTL } from '../../x86/layout.ts';
import { codeSizeOf } from '../../x86/mode.ts';
import type { BlockCache } from './block-cache.ts';
import { instructionAt, instructionStart, patchEnd } from './cached-block.ts';

/** A micro-op overwritten to end its block early. */
interface Patch {
  readonly uop: number;
  readonly saved: Uint8Array;
  /** Instructions of the block that come after the end. */
  readonly rest: number;
}

/** Ends the block that is being executed after its current instruction, by a patch of its micro-ops. */
export class EarlyEnd {
  readonly #arena: Arena;
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;
  #patch: Patch | undefined;

  constructor(arena: Arena, cpu: Cpu, blocks: BlockCache) {
    this.#arena = arena;
    this.#cpu = cpu;
    this.#blocks = blocks;
  }

  /** A block is to end early, and has not yet. */
  get pending(): boolean {
    return this.#patch !== undefined;
  }

  /** Makes the current block end after the instruction that is being executed, at CTL.exitUop. */
  afterInstruction(): void {
    if (this.#patch) return;
    const cpu = this.#cpu;
    const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
    const next = instructionAt(this.#arena, block, cpu.get32(CTL.exitUop)) + 1;
    if (next >= block.count) return;
    const { uop, offset } = instructionStart(this.#arena, block, next);
    const saved = patchEnd(this.#arena, uop, codeSizeOf(block.modeKey), offset);
    this.#patch = { uop, saved, rest: block.count - next };
  }

  /** After EXIT.check: the patch, if there is one, ended the block. Undoes it, and the count of the instructions it cut off. */
  settle(): void {
    const patch = this.#patch;
    if (!patch) return;
    this.#cpu.i32[CTL.budget >> 2]! += patch.rest;
    this.undo();
  }

  /** Undoes a patch; the block ended otherwise. */
  undo(): void {
    const patch = this.#patch;
    if (!patch) return;
    this.#cpu.u8.set(patch.saved, patch.uop);
    this.#patch = undefined;
  }
}
