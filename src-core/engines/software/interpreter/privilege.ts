import { i32, i64 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { ATTR_DB, ATTR_L, CR4_SMAP, FLAG_AC } from '../../../x86/bits.ts';
import { CR4, CS, CTL, FLAGS_SYSTEM, SEG_FIELD, SS, TLB } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { FLAT_CODE, FLAT_DATA } from '../../../x86/syscall.ts';

// What functions of the interpreter's module that change the privilege level have in common.

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

/** Pushes the bank of the supervisor; `always` as of an implicit access, which obeys SMAP whatever RFLAGS.AC says. */
export function supervisorBank(w: CodeWriter, always: boolean): void {
  w.i32Const(TLB.bankSupervisorSmap).i32Const(TLB.bankSupervisor);
  state(w, CR4).i32Const(CR4_SMAP).op(i32.and).i32Const(0).op(i32.ne);
  if (!always) state(w, FLAGS_SYSTEM).i32Const(FLAG_AC).op(i32.and).op(i32.eqz).op(i32.and);
  w.select();
}

/** Flat segments for 32- or 64-bit code. */
export interface FlatMode {
  /** What CS has besides. */
  size: number;
  /** Bits of the mode that stay, and those that come. */
  kept: number;
  mode: number;
}

const FLAT = MODE.stack32 | MODE.flatSs | MODE.flatCs;
export const FLAT_32: FlatMode = {
  size: ATTR_DB,
  kept: MODE.flatDs | MODE.flatEs | MODE.protected,
  mode: MODE.code32 | FLAT,
};
export const FLAT_64: FlatMode = {
  size: ATTR_L,
  kept: MODE.protected | MODE.longMode,
  mode: MODE.code64 | FLAT | MODE.flatDs | MODE.flatEs,
};

/**
 * Loads CS and SS with flat segments for a privilege level, whose selectors are pushed (without `stack` SS, which is flat,
 * stays), and makes the mode that comes of it; CTL.tlbBank is left to the caller.
 */
export function enterFlat(
  w: CodeWriter,
  { size, kept, mode }: FlatMode,
  cpl: number,
  { code, stack }: { code: () => void; stack: (() => void) | undefined },
): void {
  const load = (register: number, selector: () => void, attributes: number): void => {
    setState(w, register + SEG_FIELD.selector, selector);
    setState(w, register + SEG_FIELD.attributes, () => w.i32Const(attributes | (cpl << 5)));
    setState(w, register + SEG_FIELD.limit, () => w.i32Const(-1));
    w.i32Const(0)
      .i64Const(0n)
      .mem(i64.store, register + SEG_FIELD.base);
  };
  load(CS, code, FLAT_CODE | size);
  if (stack) load(SS, stack, FLAT_DATA);
  setState(w, CTL.cpl, () => w.i32Const(cpl));
  setState(w, CTL.modeKey, () => {
    state(w, CTL.modeKey).i32Const(kept).op(i32.and);
    w.i32Const(mode | (cpl << MODE.cplShift)).op(i32.or);
  });
  w.i32Const(0).i64Const(0n).mem(i64.store, CTL.codeBase);
  setState(w, CTL.codeLimit, () => w.i32Const(-1));
}
