import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import {
  ATTR_UNUSABLE,
  FLAG_AC,
  FLAG_DF,
  FLAG_ID,
  FLAG_IF,
  FLAG_IOPL,
  FLAG_NT,
  FLAG_TF,
  FLAG_VIF,
  FLAG_VIP,
  FLAG_VM,
  FLAGS_FIXED,
} from '../../../x86/bits.ts';
import { CTL, DR7, FLAGS_SYSTEM, RIP, RSP, SEG, SEG_FIELD, SEG_SIZE } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { SEGMENT } from '../../../x86/segmentation.ts';
import { UOP } from '../exit.ts';
import {
  enterFlat,
  FLAT_32,
  FLAT_64,
  pushDescriptor,
  pushReadable,
  refuseNonCanonical,
  supervisorBank,
} from './privilege.ts';
import { count, refuseIf, setFlags, setState, setState64, state } from './state-words.ts';

const PAGE = 4096;
/** What an image of the flags must not hold here: steps, tasks, virtual interrupts, #AC that may come to life. */
const RARE_FLAGS = FLAG_TF | FLAG_NT | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP;
/** What of it stays in FLAGS_SYSTEM; RF, which would last for one instruction, changes nothing without breakpoints. */
const KEPT_FLAGS = FLAG_DF | FLAG_ID | FLAG_IF | FLAG_IOPL;
/** Descriptors as kernels have them: the low half of flat ones, and the high half of accessed ones but for their DPL. */
const FLAT_LOW = 0x0000ffff;
const HIGH = { code32: 0x00cf9b00, code64: 0x00af9b00, data: 0x00cf9300 } as const;
const HIGH_DPL_SHIFT = 13;
/** The DPL of a segment register's attributes (SEG_FIELD). */
const DPL = 3 << 5;

/**
 * Emits `interruptReturn(uop)`: IRET from level 0 in flat 32-bit or in 64-bit code, to such code of level 0 or 3, its frame
 * within a page that the TLB knows. Returns 0, with nothing done, when it is the callout's to do (x86/iret.ts). The vCPU
 * state is in the arena; test/x86/interrupt-return.test.ts holds it to the callout.
 */
export function emitInterruptReturn(module: ModuleWriter): number {
  const index = module.declare([I32], [I32]);
  module.define(index, new InterruptReturn().emit());
  return index;
}

class InterruptReturn {
  readonly w = new CodeWriter(1);
  readonly #uop = 0;
  readonly #linear = this.w.local(I64);
  readonly #entry = this.w.local(I32);
  readonly #frame = this.w.local(I32);
  readonly #code = this.w.local(I32);
  readonly #stack = this.w.local(I32);
  readonly #flags = this.w.local(I32);
  /** Of a descriptor: its linear address, then arena address. */
  readonly #at = this.w.local(I64);
  readonly #descriptor = this.w.local(I32);

  emit(): CodeWriter {
    const { w } = this;
    this.#refuse();
    w.get(this.#uop).mem(i32.load, UOP.imm).i32Const(64).op(i32.eq).if();
    this.#return64();
    w.else();
    this.#return32();
    w.end();
    w.i32Const(1);
    return w;
  }

  /** All but what is done here: the mode it is executed in, breakpoints, nested tasks, a model that wants to know. */
  #refuse(): void {
    const { w } = this;
    const mode = MODE.single | MODE.v86 | MODE.protected | MODE.cplMask;
    const of32 = mode | MODE.codeSizeMask | MODE.longMode | MODE.stack32 | MODE.flatSs;
    const of64 = mode | MODE.codeSizeMask | MODE.longMode;
    state(w, CTL.modeKey);
    w.i32Const(of64).i32Const(of32);
    w.get(this.#uop).mem(i32.load, UOP.imm).i32Const(64).op(i32.eq).select().op(i32.and);
    w.i32Const(MODE.protected | MODE.longMode | MODE.code64);
    w.i32Const(MODE.protected | MODE.code32 | MODE.stack32 | MODE.flatSs);
    w.get(this.#uop).mem(i32.load, UOP.imm).i32Const(64).op(i32.eq).select().op(i32.ne);
    w.get(this.#uop).mem(i32.load, UOP.imm).i32Const(16).op(i32.eq).op(i32.or);
    state(w, DR7).i32Const(0xff).op(i32.and).op(i32.or);
    state(w, FLAGS_SYSTEM).i32Const(FLAG_NT).op(i32.and).op(i32.or);
    state(w, CTL.nmiPending).op(i32.or);
    state(w, CTL.intercepted).op(i32.or);
    refuseIf(w);
  }

  #return32(): void {
    const { w } = this;
    w.i32Const(0).mem(i64.load32_u, RSP).set(this.#linear);
    this.#locateFrame(20);
    this.#takeFrame(4);
    this.#requireDescriptor(this.#code, HIGH.code32);
    w.get(this.#code).i32Const(3).op(i32.and).if();
    this.#requireOuter();
    w.get(this.#frame).mem(i32.load16_u, 16).set(this.#stack);
    this.#requireStack();
    this.#enter(FLAT_32, 3, true);
    setState64(w, RSP, () => w.get(this.#frame).mem(i64.load32_u, 12));
    w.else();
    this.#enter(FLAT_32, 0, false);
    setState64(w, RSP, () => w.get(this.#linear).i64Const(12n).op(i64.add).i64Const(0xffffffffn).op(i64.and));
    w.end();
    setState64(w, RIP, () => w.get(this.#frame).mem(i64.load32_u, 0));
    setFlags(w, this.#flags);
  }

  #return64(): void {
    const { w } = this;
    w.i32Const(0).mem(i64.load, RSP).set(this.#linear);
    this.#locateFrame(40);
    this.#takeFrame(8);
    w.get(this.#frame).mem(i32.load, 4);
    refuseNonCanonical(w);
    this.#requireDescriptor(this.#code, HIGH.code64);
    w.get(this.#frame).mem(i32.load16_u, 32).set(this.#stack);
    this.#requireStack();
    w.get(this.#code).i32Const(3).op(i32.and).if();
    this.#requireOuter();
    this.#enter(FLAT_64, 3, true);
    w.else();
    this.#enter(FLAT_64, 0, true);
    w.end();
    setState64(w, RSP, () => w.get(this.#frame).mem(i64.load, 24));
    setState64(w, RIP, () => w.get(this.#frame).mem(i64.load, 0));
    setFlags(w, this.#flags);
  }

  /** Where the frame is, which must lie in one page. */
  #locateFrame(bytes: number): void {
    const { w } = this;
    w.get(this.#linear)
      .op(i32.wrap_i64)
      .i32Const(PAGE - 1)
      .op(i32.and);
    w.i32Const(PAGE - bytes).op(i32.gt_u);
    refuseIf(w);
    pushReadable(w, this.#linear, this.#entry).set(this.#frame);
  }

  /** The code selector and the flags of a frame of so many bytes for each. */
  #takeFrame(size: number): void {
    const { w } = this;
    w.get(this.#frame).mem(i32.load16_u, size).set(this.#code);
    w.get(this.#frame)
      .mem(i32.load, 2 * size)
      .tee(this.#flags)
      .i32Const(RARE_FLAGS)
      .op(i32.and);
    // What may have waited for IF.
    w.get(this.#flags).i32Const(FLAG_IF).op(i32.and).i32Const(0).op(i32.ne);
    state(w, CTL.interruptRequest).op(i32.and).op(i32.or);
    refuseIf(w);
    // Levels 1 and 2.
    w.get(this.#code).i32Const(3).op(i32.and).i32Const(1).op(i32.sub).i32Const(2).op(i32.lt_u);
    refuseIf(w);
  }

  /** A selector (local) of the GDT whose descriptor is flat and of the level that CS's selector asks for. */
  #requireDescriptor(selector: number, high: number): void {
    const { w } = this;
    w.get(selector).i32Const(0xfffc).op(i32.and).op(i32.eqz);
    w.get(selector).i32Const(4).op(i32.and).op(i32.or);
    refuseIf(w);
    pushDescriptor(w, selector, this.#at, this.#entry)
      .tee(this.#descriptor)
      .mem(i32.load, 0)
      .i32Const(FLAT_LOW)
      .op(i32.ne);
    w.get(this.#descriptor).mem(i32.load, 4).i32Const(high);
    w.get(this.#code).i32Const(3).op(i32.and).i32Const(HIGH_DPL_SHIFT).op(i32.shl).op(i32.or);
    w.op(i32.ne).op(i32.or);
    refuseIf(w);
  }

  /** The stack's selector has the code's level, and its descriptor too. */
  #requireStack(): void {
    const { w } = this;
    w.get(this.#stack).get(this.#code).op(i32.xor).i32Const(3).op(i32.and);
    refuseIf(w);
    this.#requireDescriptor(this.#stack, HIGH.data);
  }

  /** No data segment would have to be dropped at level 3. */
  #requireOuter(): void {
    const { w } = this;
    for (const index of [SEGMENT.es, SEGMENT.ds, SEGMENT.fs, SEGMENT.gs]) {
      const attributes = SEG + index * SEG_SIZE + SEG_FIELD.attributes;
      state(w, attributes).i32Const(ATTR_UNUSABLE).op(i32.and).op(i32.eqz);
      state(w, attributes).i32Const(DPL).op(i32.and).i32Const(DPL).op(i32.ne).op(i32.and);
      if (index !== SEGMENT.es) w.op(i32.or);
    }
    refuseIf(w);
  }

  #enter(flat: typeof FLAT_32, cpl: number, withStack: boolean): void {
    const { w } = this;
    setState(w, FLAGS_SYSTEM, () => {
      w.get(this.#flags).i32Const(KEPT_FLAGS).op(i32.and).i32Const(FLAGS_FIXED).op(i32.or);
    });
    enterFlat(w, flat, cpl, {
      code: () => w.get(this.#code),
      stack: withStack ? () => w.get(this.#stack) : undefined,
    });
    setState(w, CTL.tlbBank, () => {
      if (cpl === 0) supervisorBank(w, false);
      else state(w, CTL.userBank);
    });
    setState(w, CTL.nmiBlocked, () => w.i32Const(0));
    count(w, CTL.quickReturns);
  }
}
