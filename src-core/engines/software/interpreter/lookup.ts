import { ARENA } from '../../../machine/arena.ts';
import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import { CTL, RIP, TLB } from '../../../x86/layout.ts';
import { LOOKUP } from '../exit.ts';
import { pushHost, pushTlbEntry } from './tlb-entry.ts';

/** Sets `linear` (i64) to the linear address of the code at RIP. */
export function emitLinear(w: CodeWriter, linear: number): void {
  w.i32Const(0).mem(i64.load, RIP);
  w.i32Const(0).mem(i64.load, CTL.codeBase).op(i64.add).set(linear);
  w.i32Const(0).mem(i64.load, CTL.codeBase).op(i64.eqz).op(i32.eqz).if();
  w.get(linear).i64Const(0xffffffffn).op(i64.and).set(linear);
  w.end();
}

/** Sets `code` to where the code at a linear address stands in the arena; `absent` sets it where the TLB does not know. */
export function emitCode(
  w: CodeWriter,
  { linear, entry, code }: { linear: number; entry: number; code: number },
  absent: () => void,
): void {
  pushTlbEntry(w, linear).tee(entry).mem(i64.load, TLB.execTag);
  w.get(linear).i64Const(-4096n).op(i64.and).op(i64.ne).if();
  absent();
  w.else();
  pushHost(w, linear, entry).set(code);
  w.end();
}

/** Sets `entry` to the lookup table's entry for the code at arena address `code` in the present mode, less the table's. */
export function emitTableEntry(w: CodeWriter, code: number, entry: number, absent: () => void): void {
  const mode = (): CodeWriter => w.i32Const(0).mem(i32.load, CTL.modeKey);
  // lookupIndex()
  w.get(code).get(code).i32Const(13).op(i32.shr_u).op(i32.xor);
  mode()
    .i32Const(0x9e3779b1 | 0)
    .op(i32.mul)
    .op(i32.xor)
    .i32Const(LOOKUP.entries - 2)
    .op(i32.and);
  w.i32Const(Math.log2(LOOKUP.entrySize)).op(i32.shl).set(entry);
  const isOther = (): void => {
    w.get(entry)
      .mem(i32.load, ARENA.blockTable + LOOKUP.code)
      .get(code)
      .op(i32.ne);
    w.get(entry).mem(i32.load, ARENA.blockTable + LOOKUP.mode);
    mode().op(i32.ne).op(i32.or);
  };
  isOther();
  w.if();
  w.get(entry).i32Const(LOOKUP.entrySize).op(i32.add).set(entry);
  isOther();
  w.if();
  absent();
  w.end();
  w.end();
}

/** Defines a function () -> ENTRY of the region at RIP, 0 where none is known without looking further. */
export function emitRegionLookup(module: ModuleWriter): number {
  const index = module.declare([], [I32]);
  const w = new CodeWriter(0);
  const linear = w.local(I64);
  const entry = w.local(I32);
  const code = w.local(I32);
  const none = (): void => {
    w.i32Const(0).return();
  };
  emitLinear(w, linear);
  emitCode(w, { linear, entry, code }, none);
  emitTableEntry(w, code, entry, none);
  // What runs into a second page is the dispatcher's.
  w.i32Const(0);
  w.get(entry).mem(i32.load, ARENA.blockTable + LOOKUP.region);
  w.get(entry)
    .mem(i32.load, ARENA.blockTable + LOOKUP.block)
    .i32Const(LOOKUP.secondPage)
    .op(i32.and)
    .select();
  module.define(index, w);
  return index;
}
