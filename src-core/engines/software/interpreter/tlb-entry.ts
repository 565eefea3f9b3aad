import { i32, i64 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { CTL, TLB } from '../../../x86/layout.ts';

/** Pushes the TLB's entry for a linear address (i64 local), in the bank that `bank` pushes; the present one unless given. */
export function pushTlbEntry(
  w: CodeWriter,
  linear: number,
  bank: () => void = () => w.i32Const(0).mem(i32.load, CTL.tlbBank),
): CodeWriter {
  w.get(linear)
    .i64Const(12n)
    .op(i64.shr_u)
    .op(i32.wrap_i64)
    .i32Const(TLB.entries - 1)
    .op(i32.and);
  w.i32Const(Math.log2(TLB.entrySize)).op(i32.shl);
  bank();
  return w.op(i32.add);
}

/** Pushes the arena address of a linear address that the TLB's entry serves. */
export function pushHost(w: CodeWriter, linear: number, entry: number): CodeWriter {
  return w.get(linear).op(i32.wrap_i64).get(entry).mem(i32.load, TLB.addend).op(i32.add);
}
