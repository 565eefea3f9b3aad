import { I32, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import { CTL } from '../../../x86/layout.ts';
import { UOP } from '../exit.ts';
import { count, refuseIf, state } from './state-words.ts';

/**
 * Emits `controlRead(uop)`: MOV from a control register that is nothing but a slot of the state (operand a; 0 for others).
 * Returns 0, with nothing done, when it is the callout's to do (readControl).
 */
export function emitControlRead(module: ModuleWriter): number {
  const index = module.declare([I32], [I32]);
  const w = new CodeWriter(1);
  const uop = 0;
  const slot = w.local(I32);
  w.get(uop).mem(i32.load16_u, UOP.a).tee(slot).op(i32.eqz);
  state(w, CTL.cpl).op(i32.or);
  state(w, CTL.intercepted).op(i32.or);
  refuseIf(w);
  w.get(uop).mem(i32.load16_u, UOP.dst);
  w.get(slot).mem(i64.load).mem(i64.store);
  count(w, CTL.quickControlReads);
  w.i32Const(1);
  module.define(index, w);
  return index;
}
