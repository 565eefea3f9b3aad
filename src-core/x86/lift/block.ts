import { type BlockExit, IrBuilder } from '../../ir/builder.ts';
import type { IrOp } from '../../ir/op.ts';
import { BlockDecoder, INSTRUCTION_BYTES_MAX } from '../decoder.ts';
import { VECTOR } from '../faults.ts';
import { codeSizeOf, MODE } from '../mode.ts';
import { LiftContext, UndefinedInstruction } from './context.ts';
import './index.ts';
import { lifterOf } from './table.ts';

/** Most instructions in a block. */
export const BLOCK_INSTRUCTIONS_MAX = 32;
/** Most operations in a block before it is closed. */
const BLOCK_OPS_MAX = 400;

/** The IR of a run of guest instructions that is entered at its start only. */
export interface LiftedBlock {
  ops: readonly IrOp[];
  instructions: readonly { firstOp: number; offset: number }[];
  /** Bytes of guest code. */
  bytes: number;
  exit: BlockExit | undefined;
}

/**
 * Lifts a block from guest code bytes. Returns undefined when not even the first instruction is whole: the caller gives
 * more bytes (it runs into the next page).
 */
export function liftBlock(
  code: Uint8Array,
  modeKey: number,
  maxInstructions: number,
): LiftedBlock | undefined {
  const b = new IrBuilder();
  const cx = new LiftContext(b, modeKey);
  cx.bytes = code;
  const decoder = new BlockDecoder(code, codeSizeOf(modeKey));
  const limit = (modeKey & MODE.single) !== 0 ? 1 : maxInstructions;
  try {
    while (!b.ended) {
      const offset = decoder.position;
      if (b.instructions.length === limit || b.ops.length > BLOCK_OPS_MAX) {
        b.op(`${cx.shadow ? 'end' : 'jmp'}.${cx.codeBits}`, { imm: offset });
        return { ops: b.ops, instructions: b.instructions, bytes: offset, exit: undefined };
      }
      const decoded = decoder.next();
      if (decoded.kind === 'truncated') {
        if (offset === 0 && code.length < INSTRUCTION_BYTES_MAX) return undefined;
        if (offset > 0) {
          b.op(`${cx.shadow ? 'end' : 'jmp'}.${cx.codeBits}`, { imm: offset });
          return { ops: b.ops, instructions: b.instructions, bytes: offset, exit: undefined };
        }
      }
      b.begin(offset);
      if (cx.shadow) b.op('unshadow', {});
      cx.shadow = false;
      if (decoded.kind !== 'instruction') {
        cx.raise(decoded.kind === 'truncated' || decoded.tooLong ? VECTOR.GP : VECTOR.UD);
        break;
      }
      cx.insn = decoded.instruction;
      cx.offset = offset;
      cx.next = decoder.position;
      try {
        const lifter = lifterOf(cx.insn.mnemonic);
        if (!lifter) throw new UndefinedInstruction();
        lifter(cx);
      } catch (error) {
        if (!(error instanceof UndefinedInstruction)) throw error;
        b.rewind();
        cx.raise(VECTOR.UD);
      }
    }
    const bytes = Math.max(1, decoder.position);
    return { ops: b.ops, instructions: b.instructions, bytes, exit: b.exit };
  } finally {
    decoder.free();
  }
}
