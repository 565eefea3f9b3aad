import type { Cpu } from '../../x86/cpu.ts';
import { INSTRUCTION_BYTES_MAX } from '../../x86/decoder.ts';
import { VECTOR } from '../../x86/faults.ts';
import { deliverException } from '../../x86/interrupts.ts';
import { CTL, RIP } from '../../x86/layout.ts';
import { liftBlock } from '../../x86/lift/block.ts';
import { MODE } from '../../x86/mode.ts';
import { getSigned } from '../../x86/words.ts';
import type { BlockCache } from './block-cache.ts';
import { BLOCK } from './exit.ts';
import type { RunTime } from './run-time.ts';

const PAGE = 4096;
const TWO_32 = 0x100000000;
/** Most bytes a block of code is read from: more than BLOCK_INSTRUCTIONS_MAX instructions usually take. */
const BLOCK_BYTES_MAX = 256;
/** What Mmu.fetchPage returns where no plain memory is. */
const DEVICE_PAGE = -2;

/** Fetches guest code: finds the block at RIP in the micro-op cache, or makes it of the code that stands there. */
export class CodeFetch {
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;
  readonly #time: RunTime;

  constructor(cpu: Cpu, blocks: BlockCache, time: RunTime) {
    this.#cpu = cpu;
    this.#blocks = blocks;
    this.#time = time;
  }

  /** Linear address of the next instruction. */
  get linear(): number {
    const { u32, i32 } = this.#cpu;
    const base = u32[CTL.codeBase >> 2]!;
    const low = u32[RIP >> 2]!;
    const mode = u32[CTL.modeKey >> 2]! & MODE.codeSizeMask;
    if (mode === MODE.code64) return i32[(RIP >> 2) + 1]! * TWO_32 + low;
    return (base + low) % TWO_32;
  }

  /**
   * The block at RIP, its arena address; of at most `maxInstructions` where it has to be made. A fault in fetching it is
   * delivered: 0 then, or 'shutdown'.
   */
  block(maxInstructions: number): number | 'shutdown' {
    const cpu = this.#cpu;
    const modeKey = cpu.get32(CTL.modeKey);
    const { linear } = this;
    const limit = cpu.get32(CTL.codeLimit);
    const offset = (modeKey & MODE.codeSizeMask) === MODE.code64 ? 0 : cpu.get32(RIP);
    if (offset > limit) return this.#fault(VECTOR.GP, 0);
    const code = cpu.mmu.fetchPage(linear);
    if (code === -1) return this.#fault(cpu.get32(CTL.faultVector), cpu.get32(CTL.faultCode));
    if (code >= 0) {
      const known = this.#blocks.find(code, modeKey);
      if (known !== 0 && offset + cpu.u32[(known + BLOCK.bytes) >> 2]! - 1 <= limit) {
        const secondPage = cpu.i32[(known + BLOCK.secondPage) >> 2]!;
        if (secondPage < 0 || cpu.mmu.fetchPage(nextPage(linear, modeKey)) === secondPage) return known;
      }
    }
    return this.#make(linear, code, modeKey, maxInstructions, limit - offset);
  }

  #make(
    linear: number,
    code: number,
    modeKey: number,
    maxInstructions: number,
    roomInSegment: number,
  ): number | 'shutdown' {
    const cpu = this.#cpu;
    const started = performance.now();
    const inPage = PAGE - (linear & (PAGE - 1));
    let bytes =
      code >= 0
        ? cpu.u8.subarray(code, code + Math.min(inPage, BLOCK_BYTES_MAX))
        : this.#readDevice(linear, inPage);
    let secondPage = -1;
    let lifted = liftBlock(bytes, modeKey, code >= 0 ? maxInstructions : 1);
    if (!lifted) {
      // The first instruction runs into the next page, if the segment goes that far.
      if (roomInSegment < inPage) return this.#fault(VECTOR.GP, 0);
      const next = nextPage(linear, modeKey);
      secondPage = cpu.mmu.fetchPage(next);
      if (secondPage === -1) return this.#fault(cpu.get32(CTL.faultVector), cpu.get32(CTL.faultCode));
      const tail =
        secondPage >= 0
          ? cpu.u8.subarray(secondPage, secondPage + INSTRUCTION_BYTES_MAX)
          : this.#readDevice(next, INSTRUCTION_BYTES_MAX);
      const both = new Uint8Array(bytes.length + tail.length);
      both.set(bytes);
      both.set(tail, bytes.length);
      bytes = both;
      lifted = liftBlock(bytes, modeKey, 1);
      if (!lifted) throw new Error('an instruction longer than 15 bytes was not recognised');
    }
    if (lifted.bytes > roomInSegment + 1) {
      if (lifted.instructions.length === 1) return this.#fault(VECTOR.GP, 0);
      return this.#make(linear, code, modeKey, 1, roomInSegment);
    }
    const block = this.#blocks.add(
      lifted,
      code,
      modeKey,
      secondPage,
      code >= 0 && secondPage !== DEVICE_PAGE,
    );
    cpu.accounting.count('translation');
    cpu.accounting.addTime('translation', this.#time.translated(started));
    return block;
  }

  /** Code bytes from where no plain memory is. */
  #readDevice(linear: number, most: number): Uint8Array {
    const bytes = new Uint8Array(Math.min(most, INSTRUCTION_BYTES_MAX));
    const phys = this.#cpu.mmu.translate(linear, 2, this.#cpu.cpl === 3);
    if (phys < 0) throw new Error('a page that was just translated is gone');
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.#cpu.memory.read(phys + i, 1);
    return bytes;
  }

  /** Delivers a fault of the fetch itself, at RIP. */
  #fault(vector: number, errorCode: number): 0 | 'shutdown' {
    this.#cpu.set32(CTL.interruptShadow, 0);
    return deliverException(this.#cpu, vector, errorCode, getSigned(this.#cpu, RIP)) === 'shutdown'
      ? 'shutdown'
      : 0;
  }
}

/** First linear address of the page after the one of `linear`. */
function nextPage(linear: number, modeKey: number): number {
  const next = linear + PAGE - (linear & (PAGE - 1));
  return (modeKey & MODE.codeSizeMask) === MODE.code64 ? next : next % TWO_32;
}
