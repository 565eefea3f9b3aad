import type { Cpu } from '../../../x86/cpu.ts';
import { CTL, RIP, TLB } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import type { BlockCache } from '../block-cache.ts';
import type { CachedBlock } from '../cached-block.ts';

const PAGE = 4096;
const TWO_32 = 0x100000000;

/** Where code stands, as the TLB knows it at present. */
export class CodePlaces {
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;

  constructor(cpu: Cpu, blocks: BlockCache) {
    this.#cpu = cpu;
    this.#blocks = blocks;
  }

  /** Linear address of the block that RIP stands at, signed for 64-bit code. */
  linearOf({ modeKey }: CachedBlock): number {
    const { u32, i32 } = this.#cpu;
    const rip = i32[(RIP >> 2) + 1]! * TWO_32 + u32[RIP >> 2]!;
    return wrapped(modeKey, isCode64(modeKey) ? rip : rip + u32[CTL.codeBase >> 2]!);
  }

  /** The low half of RIP at a linear address. */
  ripOf({ modeKey }: CachedBlock, linear: number): number {
    return (isCode64(modeKey) ? linear : linear - this.#cpu.u32[CTL.codeBase >> 2]!) | 0;
  }

  /** Arena address of the linear page `pages` after that of a linear address, -1 when the TLB does not know it. */
  pageAfter(modeKey: number, linear: number, pages: number): number {
    const { u32, i32 } = this.#cpu;
    const at = wrapped(modeKey, linear + pages * PAGE);
    const page = Math.floor(at / PAGE);
    const entry = (u32[CTL.tlbBank >> 2]! + (page & (TLB.entries - 1)) * TLB.entrySize) >> 2;
    const low = (at | 0) & -PAGE;
    if (i32[entry + (TLB.execTag >> 2)] !== low) return -1;
    if (i32[entry + (TLB.execTag >> 2) + 1] !== Math.floor(at / TWO_32)) return -1;
    return (low + i32[entry + (TLB.addend >> 2)]!) >>> 0;
  }

  /** Whether a block is known `offset` bytes after a block at which RIP stands. */
  isKnown(block: CachedBlock, offset: number): boolean {
    const { modeKey } = block;
    const linear = this.linearOf(block) + offset;
    const page = this.pageAfter(modeKey, linear, 0);
    return (
      page >= 0 && this.#blocks.peek(page + (wrapped(modeKey, linear) & (PAGE - 1)), modeKey) !== undefined
    );
  }
}

/** How far it is from a block at RIP to a target, both known by their low halves. */
export function distanceTo({ modeKey }: CachedBlock, target: number, rip: number): number {
  return isCode64(modeKey) ? (target - rip) | 0 : (target >>> 0) - (rip >>> 0);
}

function isCode64(modeKey: number): boolean {
  return (modeKey & MODE.codeSizeMask) === MODE.code64;
}

/** A linear address within what code of a mode can reach: 32 bits, or 64 signed. */
function wrapped(modeKey: number, linear: number): number {
  return isCode64(modeKey) ? linear : ((linear % TWO_32) + TWO_32) % TWO_32;
}
