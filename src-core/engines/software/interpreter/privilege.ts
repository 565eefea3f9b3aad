import { i32, i64 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { ATTR_DB, ATTR_L, CR4_SMAP, FLAG_AC } from '../../../x86/bits.ts';
import { CR4, CS, CTL, FLAGS_SYSTEM, GDTR, SEG_FIELD, SS, TABLE_LIMIT, TLB } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { FLAT_CODE, FLAT_DATA } from '../../../x86/syscall.ts';
import { refuseIf, setState, state } from './state-words.ts';
import { pushHost, pushTlbEntry } from './tlb-entry.ts';

// What functions of the interpreter's module that change the privilege level have in common.

/** Pushes the bank of the supervisor; `always` as of an implicit access, which obeys SMAP whatever RFLAGS.AC says. */
export function supervisorBank(w: CodeWriter, always: boolean): void {
  w.i32Const(TLB.bankSupervisorSmap).i32Const(TLB.bankSupervisor);
  state(w, CR4).i32Const(CR4_SMAP).op(i32.and).i32Const(0).op(i32.ne);
  if (!always) state(w, FLAGS_SYSTEM).i32Const(FLAG_AC).op(i32.and).op(i32.eqz).op(i32.and);
  w.select();
}

/** Refuses where the high half of an address, on the stack, is that of none that is canonical: bits 47 to 63 alike. */
export function refuseNonCanonical(w: CodeWriter): void {
  w.i32Const(15).op(i32.shr_s).i32Const(1).op(i32.add).i32Const(1).op(i32.gt_u);
  refuseIf(w);
}

/**
 * Pushes the arena address of the descriptor that a selector (local) of the GDT names; refuses where the TLB does not have it.
 * `linear` and `entry` are locals to work in.
 */
export function pushDescriptor(w: CodeWriter, selector: number, linear: number, entry: number): CodeWriter {
  w.get(selector).i32Const(7).op(i32.or);
  state(w, GDTR + TABLE_LIMIT).op(i32.gt_u);
  refuseIf(w);
  w.i32Const(0).mem(i64.load, GDTR).get(selector).i32Const(0xfff8).op(i32.and);
  w.op(i64.extend_i32_u).op(i64.add).set(linear);
  state(w, CTL.modeKey).i32Const(MODE.longMode).op(i32.and).op(i32.eqz).if();
  w.get(linear).i64Const(0xffffffffn).op(i64.and).set(linear);
  w.end();
  // Eight aligned bytes cross no page.
  w.get(linear).op(i32.wrap_i64).i32Const(7).op(i32.and);
  refuseIf(w);
  return pushReadable(w, linear, entry, () => supervisorBank(w, true));
}

/** Pushes the arena address of a linear one (local), which the TLB must let be read, in the present bank unless given. */
export function pushReadable(w: CodeWriter, linear: number, entry: number, bank?: () => void): CodeWriter {
  pushTlbEntry(w, linear, bank).tee(entry).mem(i64.load, TLB.readTag);
  w.get(linear).i64Const(-4096n).op(i64.and).op(i64.ne);
  refuseIf(w);
  return pushHost(w, linear, entry);
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
