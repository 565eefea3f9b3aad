import { flagWords } from '../../../ir/ops/flags.ts';
import { i32, i64 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT } from '../../../x86/layout.ts';

// What functions of the interpreter's module that do the work of callouts have in common.

/** The function returns 0, with nothing done, where the top of the stack is not 0. */
export function refuseIf(w: CodeWriter): void {
  w.if().i32Const(0).return().end();
}

/** Pushes a word of the state. */
export function state(w: CodeWriter, offset: number): CodeWriter {
  return w.i32Const(0).mem(i32.load, offset);
}

export function setState(w: CodeWriter, offset: number, value: () => void): void {
  w.i32Const(0);
  value();
  w.mem(i32.store, offset);
}

/** Counts in a word that TypeScript collects. */
export function count(w: CodeWriter, counter: number): void {
  setState(w, counter, () => state(w, counter).i32Const(1).op(i32.add));
}

export function setState64(w: CodeWriter, offset: number, value: () => void): void {
  w.i32Const(0);
  value();
  w.mem(i64.store, offset);
}

/** Sets the arithmetic flags from an image of RFLAGS (local), as Cpu.rflags does. */
export function setFlags(w: CodeWriter, image: number): void {
  const words = flagWords(w, image);
  setState(w, CTL.flagsKind, () => w.i32Const(0));
  setState64(w, FLAGS_RESULT, words.result);
  setState(w, FLAGS_AUX, words.aux);
}
