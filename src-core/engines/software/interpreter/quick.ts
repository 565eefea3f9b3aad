import type { QuickName } from '../../../ir/op.ts';
import { I32, I64, i32 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import {
  ATTR_UNUSABLE,
  EFER_SCE,
  FLAG_AC,
  FLAG_IF,
  FLAG_TF,
  FLAGS_ARITHMETIC,
  FLAGS_FIXED,
} from '../../../x86/bits.ts';
import {
  CTL,
  EFER,
  FLAGS_SYSTEM,
  MSR,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  SEGMENT_MEMO,
  SEGMENT_MEMO_VALID,
} from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { SEGMENT } from '../../../x86/segmentation.ts';
import { SYSRET_FLAGS } from '../../../x86/syscall.ts';
import {
  enterFlat,
  FLAT_32,
  FLAT_64,
  type FlatMode,
  pushDescriptor,
  refuseNonCanonical,
  supervisorBank,
} from './privilege.ts';
import { count, refuseIf, setState, state } from './state-words.ts';

/** Function indices of what `emitQuick` defines. */
export type QuickFunctions = Record<QuickName, number>;

/**
 * Emits the plain cases of what callouts do with every system call (OpGen.quick): each function returns 1 when it has
 * done all, or 0 with nothing done. test/x86/quick.test.ts holds them to the callouts.
 */
export function emitQuick(module: ModuleWriter): QuickFunctions {
  const define = (parameters: number, body: (w: CodeWriter) => void): number => {
    const index = module.declare(new Array<typeof I32>(parameters).fill(I32), [I32]);
    const w = new CodeWriter(parameters);
    body(w);
    module.define(index, w);
    return index;
  };
  return {
    loadSegment: define(2, loadSegment),
    sysenter: define(0, sysenter),
    sysexit: define(0, sysexit),
    syscall: define(0, syscall),
    sysret: define(2, sysret),
  };
}

/** A null selector, or one whose descriptor is the one a callout found good (SEGMENT_MEMO). The mode stays what it is. */
function loadSegment(w: CodeWriter): void {
  const selector = 0;
  const index = 1;
  const memo = w.local(I32);
  const register = w.local(I32);
  /** What of the mode the segment decides. */
  const decides = w.local(I32);
  const entry = w.local(I32);
  const address = w.local(I64);
  const field = (offset: number, value: () => void): void => {
    w.get(register);
    value();
    w.mem(i32.store, SEG + offset);
  };
  w.get(index).i32Const(SEG_SIZE).op(i32.mul).set(register);
  w.i32Const(MODE.flatDs).i32Const(MODE.flatEs).get(index).i32Const(SEGMENT.ds).op(i32.eq).select();
  w.i32Const(0);
  w.get(index).i32Const(SEGMENT.fs).op(i32.lt_u);
  state(w, CTL.modeKey).i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.ne).op(i32.and);
  w.select().set(decides);

  w.get(selector).i32Const(0xfffc).op(i32.and).op(i32.eqz).if();
  state(w, CTL.modeKey).get(decides).op(i32.and);
  refuseIf(w);
  field(SEG_FIELD.attributes, () => w.i32Const(ATTR_UNUSABLE));
  field(SEG_FIELD.limit, () => w.i32Const(0));
  field(SEG_FIELD.base, () => w.i32Const(0));
  w.else();
  w.get(index).i32Const(SEGMENT_MEMO.entries).op(i32.mul);
  w.get(selector).i32Const(3).op(i32.shr_u);
  w.i32Const(SEGMENT_MEMO.entries - 1)
    .op(i32.and)
    .op(i32.add);
  w.i32Const(SEGMENT_MEMO.entrySize).op(i32.mul).set(memo);
  const noted = (offset: number): CodeWriter => w.get(memo).mem(i32.load, SEGMENT_MEMO.base + offset);
  noted(SEGMENT_MEMO.key).get(selector);
  state(w, CTL.cpl).i32Const(16).op(i32.shl).op(i32.or);
  w.i32Const(SEGMENT_MEMO_VALID | 0)
    .op(i32.or)
    .op(i32.ne);
  refuseIf(w);
  pushDescriptor(w, selector, address, entry).tee(entry).mem(i32.load, 0);
  noted(SEGMENT_MEMO.low).op(i32.ne);
  w.get(entry).mem(i32.load, 4);
  noted(SEGMENT_MEMO.high).op(i32.ne).op(i32.or);
  refuseIf(w);
  state(w, CTL.modeKey).get(decides).op(i32.and);
  w.get(decides).i32Const(0);
  noted(SEGMENT_MEMO.flat).select().op(i32.ne);
  refuseIf(w);
  field(SEG_FIELD.attributes, () => noted(SEGMENT_MEMO.attributes));
  field(SEG_FIELD.limit, () => noted(SEGMENT_MEMO.limit));
  field(SEG_FIELD.base, () => noted(SEGMENT_MEMO.segmentBase));
  w.end();
  field(SEG_FIELD.selector, () => w.get(selector));
  field(SEG_FIELD.base + 4, () => w.i32Const(0));
  count(w, CTL.quickSegmentLoads);
  w.i32Const(1);
}

/** Leaves what a debugger looks at, virtual-8086 mode and long mode to the callouts. */
function refuseMode(w: CodeWriter): void {
  state(w, CTL.modeKey)
    .i32Const(MODE.single | MODE.v86 | MODE.longMode)
    .op(i32.and);
  refuseIf(w);
}

/** CS and SS as the fast system call instructions load them: SS's selector stands so far from that of CS. */
function enter(w: CodeWriter, selector: number, flat: FlatMode, cpl: number, stack: number): void {
  const from = (offset: number) => (): void => {
    w.get(selector).i32Const(offset).op(i32.add).i32Const(0xffff).op(i32.and);
  };
  enterFlat(w, flat, cpl, { code: from(0), stack: from(stack) });
  count(w, CTL.quickSystemCalls);
}

function sysenter(w: CodeWriter): void {
  const selector = w.local(I32);
  refuseMode(w);
  state(w, MSR.sysenterCs).i32Const(0xfffc).op(i32.and).tee(selector).op(i32.eqz);
  refuseIf(w);
  setState(w, FLAGS_SYSTEM, () => state(w, FLAGS_SYSTEM).i32Const(~FLAG_IF).op(i32.and));
  enter(w, selector, FLAT_32, 0, 8);
  setState(w, CTL.tlbBank, () => supervisorBank(w, false));
  w.i32Const(1);
}

function sysexit(w: CodeWriter): void {
  const selector = w.local(I32);
  refuseMode(w);
  state(w, CTL.cpl);
  refuseIf(w);
  // #AC may come to life.
  state(w, FLAGS_SYSTEM).i32Const(FLAG_AC).op(i32.and);
  refuseIf(w);
  state(w, MSR.sysenterCs).i32Const(0xfffc).op(i32.and).tee(selector).op(i32.eqz);
  refuseIf(w);
  w.get(selector).i32Const(16).op(i32.add).i32Const(3).op(i32.or).set(selector);
  enter(w, selector, FLAT_32, 3, 8);
  setState(w, CTL.tlbBank, () => state(w, CTL.userBank));
  w.i32Const(1);
}

/** Leaves what a debugger looks at, what is not 64-bit code and processors without SYSCALL to the callouts. */
function refuseMode64(w: CodeWriter): void {
  state(w, CTL.modeKey)
    .i32Const(MODE.single | MODE.longMode | MODE.codeSizeMask)
    .op(i32.and);
  w.i32Const(MODE.longMode | MODE.code64).op(i32.ne);
  refuseIf(w);
  state(w, EFER).i32Const(EFER_SCE).op(i32.and).op(i32.eqz);
  refuseIf(w);
}

function syscall(w: CodeWriter): void {
  const selector = w.local(I32);
  refuseMode64(w);
  setState(w, FLAGS_SYSTEM, () => {
    state(w, FLAGS_SYSTEM);
    state(w, MSR.sfmask).i32Const(-1).op(i32.xor).op(i32.and);
    w.i32Const(FLAGS_FIXED).op(i32.or);
  });
  state(w, MSR.star + 4)
    .i32Const(0xfffc)
    .op(i32.and)
    .set(selector);
  enter(w, selector, FLAT_64, 0, 8);
  setState(w, CTL.tlbBank, () => supervisorBank(w, false));
  w.i32Const(1);
}

function sysret(w: CodeWriter): void {
  const r11 = 0;
  const rcxHigh = 1;
  const flags = w.local(I32);
  const selector = w.local(I32);
  refuseMode64(w);
  state(w, CTL.cpl);
  refuseIf(w);
  w.get(rcxHigh);
  refuseNonCanonical(w);
  w.get(r11)
    .i32Const(SYSRET_FLAGS & ~FLAGS_ARITHMETIC)
    .op(i32.and)
    .i32Const(FLAGS_FIXED)
    .op(i32.or)
    .set(flags);
  // Steps, and #AC that may come to life.
  w.get(flags)
    .i32Const(FLAG_TF | FLAG_AC)
    .op(i32.and);
  refuseIf(w);
  // What may have waited for IF.
  w.get(flags).i32Const(FLAG_IF).op(i32.and).i32Const(0).op(i32.ne);
  state(w, CTL.interruptRequest);
  state(w, CTL.nmiPending).op(i32.or).i32Const(0).op(i32.ne).op(i32.and);
  refuseIf(w);
  setState(w, FLAGS_SYSTEM, () => w.get(flags));
  state(w, MSR.star + 4)
    .i32Const(16)
    .op(i32.shr_u)
    .i32Const(16)
    .op(i32.add)
    .i32Const(3)
    .op(i32.or)
    .set(selector);
  enter(w, selector, FLAT_64, 3, -8);
  setState(w, CTL.tlbBank, () => state(w, CTL.userBank));
  w.i32Const(1);
}
