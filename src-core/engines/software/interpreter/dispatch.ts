import { ARENA } from '../../../machine/arena.ts';
import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CTL, RIP, TLB } from '../../../x86/layout.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { MODE } from '../../../x86/mode.ts';
import { BLOCK, ENTRY, EXIT, LOOKUP, REGION, SITE, UOP } from '../exit.ts';
import { emitFollowLink, emitLink } from './block-links.ts';
import { emitCode, emitLinear, emitTableEntry } from './lookup.ts';
import type { InterpreterGen } from './generator.ts';
import { pushHost, pushTlbEntry } from './tlb-entry.ts';

/**
 * Calls the region that is entered at `block`, if there is one, and goes by what it returns: round the dispatch loop again,
 * out of the block this is emitted in with `pc` set, out of the interpreter, or on to interpreting `block`.
 */
export function emitRegionCall(
  g: InterpreterGen,
  { block, region, pc, refused }: { block: number; region: number; pc: number; refused: number },
  makeFlags: () => void,
): void {
  const { w } = g;
  const result = g.scratch(I32, 0);
  const before = g.scratch(I64, 1);
  w.get(region).i32Const(0).get(refused).op(i32.eqz).select();
  w.i32Const(0).set(refused);
  w.if();
  g.state64(RIP);
  w.set(before);
  w.get(region);
  w.get(region).i32Const(ENTRY.slotMask).op(i32.and).callIndirect(g.regionType).set(result);
  w.get(result).i32Const(REGION.refuse).op(i32.eq).if();
  // Another region may have refused, which this one went on to.
  g.state64(RIP);
  w.get(before).op(i64.ne).if();
  w.i32Const(1).set(refused).i32Const(0).set(block);
  w.br(w.depth - g.dispatchDepth);
  w.end();
  w.else();
  w.i32Const(0).set(block);
  w.get(result)
    .op(i32.eqz)
    .brIf(w.depth - g.dispatchDepth);
  w.get(result).i32Const(REGION.site).op(i32.eq).if();
  // What is interpreted next makes flags as words.
  makeFlags();
  emitResume(g, pc);
  w.br(3);
  w.end();
  w.get(result).i32Const(REGION.resume).op(i32.eq).if();
  makeFlags();
  g.state32(CTL.exitUop);
  w.set(pc);
  w.br(3);
  w.end();
  w.i32Const(EXIT.check).i32Const(EXIT.fault).get(result).i32Const(REGION.check).op(i32.eq).select().return();
  w.end();
  w.end();
}

/** Makes of the state a region was left with that of the block to go on in, and sets `pc`. */
function emitResume(g: InterpreterGen, pc: number): void {
  const { w } = g;
  const node = g.scratch(I32, 1);
  g.state32(CTL.resumeTable);
  g.state32(CTL.resumeSite);
  w.i32Const(SITE.nodeShift).op(i32.shr_u).i32Const(SITE.entrySize).op(i32.mul).op(i32.add).set(node);
  g.setState64(RIP, () => {
    g.state64(RIP);
    w.get(node).mem(i64.load32_s, SITE.delta).op(i64.add);
    // Truncated to the code size: 64 bits, or 32, or 16.
    w.i64Const(0xffffffffn).i64Const(0xffffn);
    g.state32(CTL.modeKey);
    w.i32Const(MODE.code32).op(i32.and).select();
    w.i64Const(-1n);
    g.state32(CTL.modeKey);
    w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.ne).select();
    w.op(i64.and);
  });
  g.setState32(CTL.budget, () => {
    g.state32(CTL.budget);
    w.get(node).mem(i32.load, SITE.unpaid).op(i32.sub);
  });
  g.setState32(CTL.currentBlock, () => w.get(node).mem(i32.load, SITE.block));
  w.get(node).mem(i32.load, SITE.block);
  g.state32(CTL.resumeSite);
  w.i32Const((1 << SITE.nodeShift) - 1)
    .op(i32.and)
    .i32Const(UOP.size)
    .op(i32.mul);
  w.i32Const(BLOCK.header).op(i32.add).op(i32.add).set(pc);
  const leaves = g.scratch(I32, 2);
  w.get(node).mem(i32.load, SITE.block).tee(node).get(node).mem(i32.load16_u, BLOCK.leaves);
  w.i32Const(1).op(i32.sub).tee(leaves).mem(i32.store16, BLOCK.leaves);
  w.get(leaves).op(i32.eqz).if();
  g.setState32(CTL.exitUop, () => w.get(pc));
  w.i32Const(EXIT.adapt).return();
  w.end();
}

/**
 * Finds the block for RIP, through the link that was left through or in the table, and its region, unless a block was
 * given, or returns EXIT.miss; checks CS.limit.
 */
export function emitDispatch(
  g: InterpreterGen,
  { block, region, link }: { block: number; region: number; link: number },
  refill: number,
): void {
  const { w } = g;
  const linear = g.scratch(I64, 0);
  const entry = g.scratch(I32, 1);
  const code = g.scratch(I32, 2);
  const setRegion = (): void => {
    w.get(block).mem(i32.load, BLOCK.index).i32Const(2).op(i32.shl).mem(i32.load, ARENA.regionOf).set(region);
  };
  const miss = (): void => {
    w.i32Const(EXIT.miss).return();
  };
  w.get(block).op(i32.eqz).if();
  emitLinear(w, linear);
  emitCode(w, { linear, entry, code }, () => {
    w.get(linear).op(i32.wrap_i64).get(linear).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    w.i32Const(SLOW.execute | 1)
      .call(refill)
      .tee(code)
      .op(i32.eqz)
      .if();
    miss();
    w.end();
  });
  emitFollowLink(w, link, code, block);
  w.get(block).op(i32.eqz).if();
  emitTableEntry(w, code, entry, miss);
  w.get(entry)
    .mem(i32.load, ARENA.blockTable + LOOKUP.region)
    .set(region);
  w.get(entry)
    .mem(i32.load, ARENA.blockTable + LOOKUP.block)
    .tee(block);
  w.i32Const(LOOKUP.secondPage).op(i32.and).if();
  w.get(block).i32Const(LOOKUP.secondPage).op(i32.xor).set(block);
  // Its code goes on in a second page: if that is still the one it was made from.
  w.get(linear).i64Const(-4096n).op(i64.and).i64Const(4096n).op(i64.add).set(linear);
  g.state32(CTL.modeKey);
  w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.ne).if();
  w.get(linear).i64Const(0xffffffffn).op(i64.and).set(linear);
  w.end();
  pushTlbEntry(w, linear).tee(entry).mem(i64.load, TLB.execTag);
  w.get(linear).op(i64.ne);
  pushHost(w, linear, entry);
  w.get(block).mem(i32.load, BLOCK.secondPage).op(i32.ne).op(i32.or).if();
  w.i32Const(EXIT.miss).return();
  w.end();
  w.else();
  emitLink(w, link, block);
  w.end();
  w.else();
  setRegion();
  w.end();
  w.i32Const(0).set(link);
  w.else();
  setRegion();
  w.end();
  g.state32(CTL.codeLimit);
  w.i32Const(-1).op(i32.ne).if();
  g.state64(RIP);
  w.get(block).mem(i64.load32_u, BLOCK.bytes).op(i64.add).i64Const(1n).op(i64.sub);
  g.state32(CTL.codeLimit);
  w.op(i64.extend_i32_u).op(i64.gt_u).if();
  w.i32Const(EXIT.limit).return();
  w.end();
  w.end();
}
