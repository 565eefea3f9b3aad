import { InstructionInfoFactory, OpAccess } from '../../../x86/iced.ts';
import { ARENA } from '../../../machine/arena.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { BlockDecoder, INSTRUCTION_BYTES_MAX } from '../../../x86/decoder.ts';
import type { CodeSize } from '../../../x86/mode.ts';
import { EXIT_INTERNAL, INTERNAL_ERROR, RUN } from './layout.ts';

const EXIT = ARENA.kvmRun + RUN.exit;
/** Fallbacks that follow each other within this are a run of instructions KVM can't execute, ms. */
const CLOSE_MS = 0.25;
/** Least and most instructions executed in software at once where one alone is not enough. */
const CLUSTER_MIN = 64;
const CLUSTER_MAX = 4096;

/**
 * How many instructions the software engine is to execute where KVM gives up: one, and more the closer such places
 * lie, since each change between the two costs more than hundreds of instructions.
 */
export class Fallback {
  #length = 1;
  #lastEnd = -Infinity;

  /** Instructions to execute now. */
  begin(): number {
    const close = performance.now() - this.#lastEnd < CLOSE_MS;
    if (close) this.#length = Math.min(CLUSTER_MAX, Math.max(CLUSTER_MIN, this.#length * 2));
    else this.#length = this.#length > CLUSTER_MIN ? this.#length >> 2 : 1;
    return this.#length;
  }

  end(): void {
    this.#lastEnd = performance.now();
  }
}

/** The bytes of the instruction that KVM could not emulate, where the exit tells them. */
export function refusedInstruction({ u8, u32 }: Cpu): Uint8Array | undefined {
  const told =
    u32[(EXIT + EXIT_INTERNAL.suberror) >> 2] === INTERNAL_ERROR.emulation &&
    (u32[(EXIT + EXIT_INTERNAL.flags) >> 2]! & 1) !== 0;
  const size = told ? Math.min(INSTRUCTION_BYTES_MAX, u8[EXIT + EXIT_INTERNAL.instructionSize]!) : 0;
  if (size === 0) return undefined;
  const from = EXIT + EXIT_INTERNAL.instructionBytes;
  // A copy: iced-x86 takes no shared memory.
  return u8.slice(from, from + size);
}

/** Whether an instruction may write memory other than its stack. */
export function mayWriteMemory(bytes: Uint8Array, codeSize: CodeSize): boolean {
  const decoder = new BlockDecoder(bytes, codeSize);
  try {
    const decoded = decoder.next();
    return decoded.kind !== 'instruction' || writesMemory(decoded.instruction);
  } finally {
    decoder.free();
  }
}

let factory: InstructionInfoFactory | undefined;

const WRITING: ReadonlySet<number> = new Set([
  OpAccess.Write,
  OpAccess.CondWrite,
  OpAccess.ReadWrite,
  OpAccess.ReadCondWrite,
]);

function writesMemory(instruction: Parameters<InstructionInfoFactory['info']>[0]): boolean {
  const info = (factory ??= new InstructionInfoFactory()).info(instruction);
  const used = info.usedMemory() as { access: number; free(): void }[];
  const writes = used.some(({ access }) => WRITING.has(access));
  for (const memory of used) memory.free();
  info.free();
  return writes;
}
