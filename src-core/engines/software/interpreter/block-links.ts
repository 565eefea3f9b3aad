import { i32 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { CTL } from '../../../x86/layout.ts';
import { BLOCK, UOP } from '../exit.ts';

/*
 * Jumps of the interpreter remember, in their micro-ops (UOP), the blocks they last went to. The lookup table has a cache line
 * for nearly every block, and waiting for those was a tenth of the time of code that is executed a few times.
 *
 * A link is a guess, held to the code's address and to the block's own header: the block may have been changed, made way
 * for another or, after that, be any piece of one. Pieces do not look like the header of a block on one page: where that
 * says so (BLOCK.secondPage is -1) stand a callout's id, offsets and counts, which are small.
 *
 * The local `link` is the micro-op that was left through, plus 1 where a branch was not taken; 0: none.
 */

const UNIT_SHIFT = Math.log2(UOP.linkUnit);

/** Sets `block` to what the link leads to, 0 where that is not the block of the code at arena address `code`. */
export function emitFollowLink(w: CodeWriter, link: number, code: number, block: number): void {
  w.get(link).if();
  pushLowPlace(w, link);
  w.mem(i32.load16_u, UOP.linkLow);
  w.get(link).mem(i32.load8_u, UOP.linkHigh).i32Const(16).op(i32.shl).op(i32.or);
  w.i32Const(UNIT_SHIFT).op(i32.shl).tee(block).if();
  w.get(block).mem(i32.load, BLOCK.secondPage).i32Const(-1).op(i32.ne);
  w.get(block).mem(i32.load, BLOCK.code).get(code).op(i32.ne).op(i32.or);
  w.get(block).mem(i32.load16_u, BLOCK.mode);
  w.i32Const(0).mem(i32.load, CTL.modeKey).op(i32.ne).op(i32.or).if();
  w.i32Const(0).set(block);
  w.end();
  w.end();
  w.end();
}

/** Makes the link lead to `block`, which lies on one page. */
export function emitLink(w: CodeWriter, link: number, block: number): void {
  w.get(link).if();
  pushLowPlace(w, link);
  w.get(block).i32Const(UNIT_SHIFT).op(i32.shr_u).mem(i32.store16, UOP.linkLow);
  w.get(link)
    .get(block)
    .i32Const(UNIT_SHIFT + 16)
    .op(i32.shr_u)
    .mem(i32.store8, UOP.linkHigh);
  w.end();
}

/** Pushes what UOP.linkLow counts from. */
function pushLowPlace(w: CodeWriter, link: number): void {
  w.get(link).get(link).i32Const(1).op(i32.and);
  w.i32Const(UOP.linkOther - 1)
    .op(i32.mul)
    .op(i32.add);
}
