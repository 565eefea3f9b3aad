/**
 * What the x87's fast paths share. They run where things are plain: all exceptions masked, rounding to nearest in 64 bits,
 * operands that are normal numbers or zeros, no stack fault, and nothing raised but inexact. Everything else is done by
 * the callouts of x86/fpu/x87.ts, with the same operands.
 *
 * The registers are addressed through TOP, so they are always in memory, at ST.
 */
import { I32, I64, type ValueType, i32, i64 } from '../../wasm/opcodes.ts';
import type { CodeWriter } from '../../wasm/writer.ts';
import type { Callout } from '../../x86/callout.ts';
import { FSW } from '../../x86/fpu/state.ts';
import { X87_IMM } from '../../x86/fpu/x87.ts';
import { CS, CTL, FPU, RIP, SEG, SEG_FIELD, SEG_SIZE, ST } from '../../x86/layout.ts';
import { MODE } from '../../x86/mode.ts';
import { defineOp, type OpGen } from '../op.ts';

/** Field c of arithmetic: ModRM.reg of D8 (what to do), and where: ST(source), ST(target), how many pops. */
export const X87_FIELD = { source: 3, target: 6, pops: 9 } as const;

export const INTEGER_BIT = -0x8000000000000000n;
export const SIGN = 0x8000;
export const EXPONENT = 0x7fff;
/** Bits of the control word: exception masks, precision and rounding control; all masked, 64 bits, to nearest. */
export const MASKS = 0x3f;
export const PLAIN_ARITHMETIC = { mask: 0xf3f, value: 0x33f } as const;
export const PLAIN_STORE = { mask: 0xc3f, value: 0x3f } as const;
const INEXACT = 0x20;
/** Exponent of the widened form of a number that is not plain: no register holds a zero significand with it. */
export const UNFIT = 0x7fff;

/** A number taken apart: locals for the significand, the biased exponent and the sign (0 or SIGN). */
export interface Parts {
  readonly significand: number;
  readonly exponent: number;
  readonly sign: number;
}

/** Emits one x87 operation: a fast path that can be left for the callout at any point before it changes state. */
export class Emitter {
  readonly g: OpGen;
  readonly w: CodeWriter;
  #slowDepth = 0;
  #doneDepth = 0;

  constructor(g: OpGen) {
    this.g = g;
    this.w = g.w;
  }

  local(type: ValueType, n: number): number {
    return this.g.scratch(type, n);
  }
  parts(n: number): Parts {
    return {
      significand: this.local(I64, n),
      exponent: this.local(I32, n),
      sign: this.local(I32, n + 3),
    };
  }

  /** The fast path, and the callout it gives way to. */
  with(callout: Callout, fast: () => void): void {
    const { w, g } = this;
    w.block();
    this.#doneDepth = w.depth;
    w.block();
    this.#slowDepth = w.depth;
    fast();
    this.done();
    w.end();
    g.callout(callout);
    w.end();
  }
  /** Leaves for the callout if the condition on the stack holds. */
  slowIf(): void {
    this.w.brIf(this.w.depth - this.#slowDepth);
  }
  slowUnless(): void {
    this.w.op(i32.eqz);
    this.slowIf();
  }
  done(): void {
    this.w.br(this.w.depth - this.#doneDepth);
  }

  /** Leaves unless the control word has these modes. */
  requireControl({ mask, value }: { mask: number; value: number }): void {
    this.g.state32(FPU.fcw);
    this.w.i32Const(mask).op(i32.and).i32Const(value).op(i32.ne);
    this.slowIf();
  }

  /** Sets local `at` to the offset of ST(i) from ST; `i` pushes the index. */
  register(at: number, i: () => void): void {
    this.g.state32(FPU.top);
    i();
    this.w.op(i32.add).i32Const(7).op(i32.and).i32Const(4).op(i32.shl).set(at);
  }
  /** Pushes the tag bit (1 = empty) of the register at an offset. */
  pushEmpty(at: number): void {
    this.g.state32(FPU.empty);
    this.w.get(at).i32Const(4).op(i32.shr_u).op(i32.shr_u).i32Const(1).op(i32.and);
  }
  requireValid(at: number): void {
    this.pushEmpty(at);
    this.slowIf();
  }

  /** Takes the register at an offset apart. */
  unpackRegister(at: number, { significand, exponent, sign }: Parts): void {
    const { w } = this;
    w.get(at).mem(i64.load, ST).set(significand);
    w.get(at)
      .mem(i32.load16_u, ST + 8)
      .tee(exponent)
      .i32Const(SIGN)
      .op(i32.and)
      .set(sign);
    w.get(exponent).i32Const(EXPONENT).op(i32.and).set(exponent);
  }
  /** Takes a widened operand apart. */
  unpackOperand({ significand, exponent, sign }: Parts): void {
    const { w, g } = this;
    g.aHalf(0);
    w.set(significand);
    g.aHalf(8);
    w.op(i32.wrap_i64).tee(exponent).i32Const(SIGN).op(i32.and).set(sign);
    w.get(exponent).i32Const(EXPONENT).op(i32.and).set(exponent);
  }
  /** Leaves unless it is a normal number or a zero. */
  requirePlain({ significand, exponent }: Parts): void {
    const { w } = this;
    w.get(significand).i64Const(0n).op(i64.lt_s);
    w.get(exponent).i32Const(1).op(i32.sub).i32Const(0x7ffe).op(i32.lt_u).op(i32.and);
    w.get(significand).op(i64.eqz).get(exponent).op(i32.eqz).op(i32.and).op(i32.or);
    this.slowUnless();
  }

  /** Writes the register at an offset: it becomes valid. */
  writeRegister(at: number, significand: () => void, signExponent: () => void): void {
    const { w, g } = this;
    w.get(at);
    significand();
    w.mem(i64.store, ST);
    w.get(at);
    signExponent();
    w.mem(i32.store16, ST + 8);
    g.setState32(FPU.empty, () => {
      g.state32(FPU.empty);
      w.i32Const(1).get(at).i32Const(4).op(i32.shr_u).op(i32.shl).i32Const(-1).op(i32.xor).op(i32.and);
    });
  }

  /** Pops as often (0..2) as `count` pushes. */
  pop(count: () => void): void {
    const { w, g } = this;
    const n = this.local(I32, 8);
    count();
    w.tee(n).if();
    g.setState32(FPU.empty, () => {
      // The bits of the popped registers, rotated within eight.
      const bits = this.local(I32, 9);
      w.i32Const(1).get(n).op(i32.shl).i32Const(1).op(i32.sub);
      g.state32(FPU.top);
      w.op(i32.shl).set(bits);
      g.state32(FPU.empty);
      w.get(bits).get(bits).i32Const(8).op(i32.shr_u).op(i32.or).i32Const(0xff).op(i32.and).op(i32.or);
    });
    g.setState32(FPU.top, () => {
      g.state32(FPU.top);
      w.get(n).op(i32.add).i32Const(7).op(i32.and);
    });
    w.end();
  }

  /** Sets C1 (and PE, when inexact) from locals holding 0 or 1. */
  setInexact(inexact: number, up: number): void {
    const { w, g } = this;
    g.setState32(FPU.fsw, () => {
      g.state32(FPU.fsw);
      w.i32Const(~FSW.c1).op(i32.and);
      w.get(inexact).i32Const(Math.log2(INEXACT)).op(i32.shl).op(i32.or);
      w.get(up).i32Const(Math.log2(FSW.c1)).op(i32.shl).op(i32.or);
    });
  }
  clearC1(): void {
    this.g.setState32(FPU.fsw, () => {
      this.g.state32(FPU.fsw);
      this.w.i32Const(~FSW.c1).op(i32.and);
    });
  }

  /** Remembers opcode and address of the instruction (callouts do the same). */
  noteInstruction(): void {
    const { w, g } = this;
    g.setState32(FPU.fop, () => {
      g.imm32();
      w.i32Const(X87_IMM.fopShift).op(i32.shr_u);
    });
    g.setState64(FPU.fip, () => {
      g.state64(RIP);
      g.imm32();
      w.i32Const(0xffff).op(i32.and).op(i64.extend_i32_u).op(i64.add);
    });
    g.setState32(FPU.fcs, () => g.state32(CS + SEG_FIELD.selector));
  }
  /** And of its memory operand, whose linear address operand b is. */
  noteOperand(): void {
    const { w, g } = this;
    const segment = this.local(I32, 9);
    g.imm32();
    w.i32Const(X87_IMM.segmentShift).op(i32.shr_u).i32Const(7).op(i32.and);
    w.i32Const(Math.log2(SEG_SIZE)).op(i32.shl).set(segment);
    g.setState64(FPU.fdp, () => {
      g.b(64);
      w.get(segment)
        .mem(i64.load, SEG + SEG_FIELD.base)
        .op(i64.sub);
      w.i64Const(-1n).i64Const(0xffffffffn);
      g.state32(CTL.modeKey);
      w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.eq).select().op(i64.and);
    });
    g.setState32(FPU.fds, () => w.get(segment).mem(i32.load, SEG + SEG_FIELD.selector));
  }

  /** Pushes a part of field c. */
  field(shift: number, mask: number): void {
    this.g.c();
    if (shift > 0) this.w.i32Const(shift).op(i32.shr_u);
    this.w.i32Const(mask).op(i32.and);
  }
  /** Pushes FOP's ModRM.reg. */
  modrmReg(): void {
    this.g.imm32();
    this.w
      .i32Const(X87_IMM.fopShift + 3)
      .op(i32.shr_u)
      .i32Const(7)
      .op(i32.and);
  }
}

/** Defines an operation of the x87. Its operands are those of the callout it gives way to. */
export function defineX87(name: string, emit: (e: Emitter) => void): void {
  defineOp(
    name,
    128,
    { reads: 'abd', writes: false, flags: 'readwrite', flagsInState: true, leaves: true },
    (g) => emit(new Emitter(g)),
  );
}
