import { I32, V128, i32, i64, i8x16, v128 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import { FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF } from '../../../x86/bits.ts';
import { AGGREGATION, STRING_CONTROL, STRINGS } from '../../../x86/fpu/sse-strings.ts';
import { RCX } from '../../../x86/layout.ts';
import { UOP } from '../exit.ts';
import { refuseIf, setFlags, setState64 } from './state-words.ts';

const COUNT = 16;
const ALL = 0xffff;

/**
 * Emits `compareStrings(uop)`: PCMPISTRI of bytes for equality, as C libraries compare and search strings. Returns 0, with
 * nothing done, when it is the callout's to do (x86/fpu/sse-strings.ts). The vCPU state is in the arena;
 * test/x86/string-compare.test.ts holds it to the callout.
 */
export function emitStringCompare(module: ModuleWriter): number {
  const index = module.declare([I32], [I32]);
  module.define(index, new StringCompare().emit());
  return index;
}

/** Pushes the set of the elements before the one whose number is in a local. */
function before(w: CodeWriter, length: number): CodeWriter {
  return w.i32Const(1).get(length).op(i32.shl).i32Const(1).op(i32.sub);
}

class StringCompare {
  readonly w = new CodeWriter(1);
  readonly #uop = 0;
  readonly #control = this.w.local(I32);
  readonly #mode = this.w.local(I32);
  /** Where operand a stands, then its element looked at. */
  readonly #place = this.w.local(I32);
  readonly #a = this.w.local(V128);
  readonly #b = this.w.local(V128);
  readonly #lengthA = this.w.local(I32);
  readonly #lengthB = this.w.local(I32);
  readonly #at = this.w.local(I32);
  /** One bit for each element of b. */
  readonly #result = this.w.local(I32);

  emit(): CodeWriter {
    const { w } = this;
    w.get(this.#uop).mem(i32.load, UOP.imm).set(this.#control);
    w.get(this.#control).i32Const(STRING_CONTROL.aggregationShift).op(i32.shr_u);
    w.i32Const(3).op(i32.and).tee(this.#mode);
    w.i32Const(AGGREGATION.ranges).op(i32.eq);
    w.get(this.#control).i32Const(STRING_CONTROL.words).op(i32.and).op(i32.or);
    w.get(this.#uop).mem(i32.load16_u, UOP.c).i32Const(STRINGS.index).op(i32.ne).op(i32.or);
    refuseIf(w);
    w.get(this.#uop).mem(i32.load16_u, UOP.a).tee(this.#place).mem(v128.load).set(this.#a);
    w.get(this.#uop).mem(i32.load16_u, UOP.b).mem(v128.load).set(this.#b);
    this.#measure(this.#a, this.#lengthA);
    this.#measure(this.#b, this.#lengthB);
    w.get(this.#mode).i32Const(AGGREGATION.equalEach).op(i32.eq).if();
    this.#equalEach();
    w.else();
    w.get(this.#mode).i32Const(AGGREGATION.equalAny).op(i32.eq).if();
    this.#equalAny();
    w.else();
    this.#equalOrdered();
    w.end();
    w.end();
    this.#polarity();
    this.#index();
    this.#flags();
    w.i32Const(1);
    return w;
  }

  /** An operand is valid up to its first zero. */
  #measure(operand: number, length: number): void {
    const { w } = this;
    w.get(operand).v128Const(new Uint8Array(COUNT)).op(i8x16.eq).op(i8x16.bitmask);
    w.i32Const(1 << COUNT)
      .op(i32.or)
      .op(i32.ctz)
      .set(length);
  }

  /** Both valid and equal, or both invalid. */
  #equalEach(): void {
    const { w } = this;
    w.get(this.#a).get(this.#b).op(i8x16.eq).op(i8x16.bitmask);
    before(w, this.#lengthA).op(i32.and);
    before(w, this.#lengthB).op(i32.and);
    before(w, this.#lengthA);
    before(w, this.#lengthB).op(i32.or).i32Const(ALL).op(i32.xor).op(i32.or);
    w.set(this.#result);
  }

  /** Calls `each` for every valid element of a, its number in #at, with the set of valid elements of b equal to it pushed. */
  #eachOfA(each: () => void): void {
    const { w } = this;
    w.i32Const(0).set(this.#at);
    w.block().loop();
    w.get(this.#at).get(this.#lengthA).op(i32.ge_u).brIf(1);
    w.get(this.#place).mem(i32.load8_u).op(i8x16.splat).get(this.#b).op(i8x16.eq).op(i8x16.bitmask);
    before(w, this.#lengthB).op(i32.and);
    each();
    w.get(this.#place).i32Const(1).op(i32.add).set(this.#place);
    w.get(this.#at).i32Const(1).op(i32.add).set(this.#at);
    w.br(0);
    w.end().end();
  }

  #equalAny(): void {
    const { w } = this;
    w.i32Const(0).set(this.#result);
    this.#eachOfA(() => w.get(this.#result).op(i32.or).set(this.#result));
  }

  /** Where a stands in b, what would be behind b's last element counting as equal. */
  #equalOrdered(): void {
    const { w } = this;
    w.i32Const(ALL).set(this.#result);
    this.#eachOfA(() => {
      w.i32Const(ALL << COUNT).op(i32.or);
      w.get(this.#at).op(i32.shr_u).get(this.#result).op(i32.and).set(this.#result);
    });
  }

  #polarity(): void {
    const { w } = this;
    const polarity = (): CodeWriter =>
      w.get(this.#control).i32Const(STRING_CONTROL.polarityShift).op(i32.shr_u).i32Const(3).op(i32.and);
    polarity().i32Const(1).op(i32.eq).if();
    w.get(this.#result).i32Const(ALL).op(i32.xor).set(this.#result);
    w.end();
    polarity().i32Const(3).op(i32.eq).if();
    w.get(this.#result);
    before(w, this.#lengthB).op(i32.xor).set(this.#result);
    w.end();
  }

  #index(): void {
    const { w } = this;
    setState64(w, RCX, () => {
      w.i32Const(31).get(this.#result).op(i32.clz).op(i32.sub);
      w.get(this.#result).op(i32.ctz);
      w.get(this.#control).i32Const(STRING_CONTROL.high).op(i32.and).select();
      w.i32Const(COUNT).get(this.#result).select().op(i64.extend_i32_u);
    });
  }

  #flags(): void {
    const { w } = this;
    const image = this.#at;
    const flag = (bit: number, push: () => void): void => {
      w.i32Const(bit).i32Const(0);
      push();
      w.select();
    };
    flag(FLAG_CF, () => w.get(this.#result));
    flag(FLAG_ZF, () => w.get(this.#lengthB).i32Const(COUNT).op(i32.lt_u));
    w.op(i32.or);
    flag(FLAG_SF, () => w.get(this.#lengthA).i32Const(COUNT).op(i32.lt_u));
    w.op(i32.or);
    flag(FLAG_OF, () => w.get(this.#result).i32Const(1).op(i32.and));
    w.op(i32.or).set(image);
    setFlags(w, image);
  }
}
