import type { Bits, Loc } from '../../../ir/op.ts';
import { I32, I64, i32, i64, v128 } from '../../../wasm/opcodes.ts';
import { GPR, TEMP, TEMP_SIZE } from '../../../x86/layout.ts';
import type { RegionFrame, RegisterType } from './frame.ts';
import { GPR_COUNT, registerOf, type RegisterSet, TEMP_END } from './step.ts';

/** Where the present value of a temporary is: in a local of a type, or in its slot of the vCPU state. */
type TempPlace = { type: RegisterType; local: number } | 'state';

/** General registers and temporaries: what operations read and write stands in locals as far as it can. */
export class Registers {
  readonly #frame: RegionFrame;
  /** Local of each general register in use, by number. */
  readonly #registers: number[] = [];
  /** Registers the region writes somewhere. */
  readonly #written: RegisterSet;
  /** Registers whose local may differ from the state. */
  dirty: RegisterSet = 0;
  #temps: (TempPlace | undefined)[] = [];
  #tempLocals: (number | undefined)[][] = [];
  /** Type of the local the operation's result went to, if that is a temporary. */
  #resultType: RegisterType | undefined;

  constructor(frame: RegionFrame, used: RegisterSet, written: RegisterSet) {
    this.#frame = frame;
    this.#written = written;
    for (let register = 0; register < GPR_COUNT; register++) {
      this.#registers[register] = (used & (1 << register)) !== 0 ? frame.w.local(frame.registerType) : -1;
    }
  }

  /** Loads the general registers: others may have changed them. */
  load(): void {
    const { w, registerType } = this.#frame;
    for (const [register, local] of this.#registers.entries()) {
      if (local < 0) continue;
      w.i32Const(0)
        .mem(registerType === I64 ? i64.load : i32.load, GPR + register * 8)
        .set(local);
    }
  }

  /** Writes the general registers in `registers`. */
  store(registers: RegisterSet): void {
    for (let register = 0; register < GPR_COUNT; register++) {
      if ((registers & (1 << register)) !== 0) this.#storeRegister(register);
    }
  }

  /** Writes those that may have changed on the path being emitted. */
  storeDirty(): void {
    this.store(this.dirty);
  }

  /** Writes those that may have changed on any path. */
  storeWritten(): void {
    this.store(this.#written);
  }

  /** A new guest instruction: temporaries hold nothing. */
  beginInstruction(): void {
    this.#temps = [];
  }

  beginOperation(): void {
    this.#resultType = undefined;
    const { def, dst } = this.#frame.step.op;
    if (def.bits !== 64 || !def.reads.includes('d')) return;
    // What it may leave as it was is to stand where its result would.
    const place = this.#tempPlace(dst);
    if (place?.type !== I32) return;
    const index = (dst - TEMP) / TEMP_SIZE;
    const local = this.#tempLocal(index, I64);
    this.#frame.w.get(place.local).op(i64.extend_i32_u).set(local);
    this.#temps[index] = { type: I64, local };
  }

  /** Where the temporaries are now, for `restoreTemps` on another path. */
  saveTemps(): readonly (TempPlace | undefined)[] {
    return [...this.#temps];
  }

  restoreTemps(temps: readonly (TempPlace | undefined)[]): void {
    this.#temps = [...temps];
  }

  #storeRegister(register: number): void {
    const { w, registerType } = this.#frame;
    w.i32Const(0).get(this.#registers[register]!);
    if (registerType === I32) w.op(i64.extend_i32_u);
    w.mem(i64.store, GPR + register * 8);
  }

  /** Pushes the low `bits` of a location, as OpGen.a. */
  read(loc: Loc, bits: Bits): void {
    const { w } = this.#frame;
    const register = registerOf(loc);
    if (register !== undefined) {
      const local = this.#registers[register]!;
      w.get(local);
      this.#narrow(this.#frame.registerType, bits, (loc & 1) !== 0);
      return;
    }
    const place = this.#tempPlace(loc);
    if (place) {
      w.get(place.local);
      this.#narrow(place.type, bits, false);
      return;
    }
    // An upper part of a temporary is read from its slot.
    this.#toState(loc);
    w.i32Const(0).mem(
      bits === 8 ? i32.load8_u : bits === 16 ? i32.load16_u : bits === 32 ? i32.load : i64.load,
      loc,
    );
  }

  /** Pushes the i64 at a location + offset bytes (0 or 8). */
  readHalf(loc: Loc, offset: number): void {
    const register = registerOf(loc);
    if (register !== undefined) {
      if (offset !== 0) throw new Error('a general register has no upper half');
      this.read(loc, 64);
      return;
    }
    if (offset === 0 && this.#tempPlace(loc)) {
      this.read(loc, 64);
      return;
    }
    this.#toState(loc);
    this.#frame.w.i32Const(0).mem(i64.load, loc + offset);
  }

  /** Pushes a location as v128. */
  read128(loc: Loc): void {
    this.#toState(loc);
    this.#frame.w.i32Const(0).mem(v128.load, loc);
  }

  /** Writes what `value` pushes to a location, as OpGen.set. */
  set(loc: Loc, bits: Bits, value: () => void): void {
    const { w } = this.#frame;
    const register = registerOf(loc);
    if (register !== undefined) {
      this.#setRegister(register, (loc & 1) !== 0, bits, value);
      return;
    }
    if (loc >= TEMP && loc < TEMP_END && (loc - TEMP) % TEMP_SIZE === 0) {
      const index = (loc - TEMP) / TEMP_SIZE;
      const before = this.#temps[index];
      if (before !== undefined && bits < 32) {
        this.#setPart(index, before, bits === 8 ? 0xff : 0xffff, value);
        return;
      }
      value();
      // On another path of the operation it may stand in a local already: the same one then.
      const narrow = bits < 64 || (this.#resultType !== I64 && this.#takeBackExtension());
      const type = (this.#resultType ??= narrow ? I32 : I64);
      const local = this.#tempLocal(index, type);
      if (bits < 32) w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
      if (type === I64 && bits !== 64) w.op(i64.extend_i32_u);
      else if (type === I32 && !narrow) throw new Error('a temporary of two widths');
      w.set(local);
      this.#temps[index] = { type, local };
      return;
    }
    w.i32Const(0);
    value();
    if (bits === 8) w.mem(i32.store8, loc);
    else if (bits === 16) w.mem(i32.store16, loc);
    else if (bits === 32) w.op(i64.extend_i32_u).mem(i64.store, loc);
    else w.mem(i64.store, loc);
  }

  /**
   * Whether the value on the stack is 32 bits extended by zeros, which are then not extended: outside long mode most that
   * reads a temporary, as an address, wants no more.
   */
  #takeBackExtension(): boolean {
    const { registerType, step, w } = this.#frame;
    // What may be written or not stays of one width.
    return registerType === I32 && !step.op.def.reads.includes('d') && w.takeBack(i64.extend_i32_u);
  }

  set128(loc: Loc, value: () => void): void {
    const { w } = this.#frame;
    w.i32Const(0);
    // The value may be made from the old one.
    value();
    this.#markState(loc);
    w.mem(v128.store, loc);
  }

  setHalf(loc: Loc, offset: number, value: () => void): void {
    const { w } = this.#frame;
    if (registerOf(loc) !== undefined) throw new Error('a general register has no halves');
    this.#toState(loc);
    w.i32Const(0);
    value();
    w.mem(i64.store, loc + offset);
  }

  /** Writes the temporaries the rest of the instruction may read to their slots. */
  storeTemps(index = this.#frame.step.index): void {
    const { node, end } = this.#frame.step;
    const { ops } = node.lifted;
    let stored = 0n;
    for (let at = index; at < end; at++) {
      const { dst, a, b } = ops[at]!;
      for (const loc of [dst, a, b]) {
        if (loc < TEMP || loc >= TEMP_END) continue;
        const temp = (loc - TEMP) >> 4;
        const bit = 1n << BigInt(temp);
        if ((stored & bit) !== 0n) continue;
        stored |= bit;
        const place = this.#temps[temp];
        if (place !== undefined && place !== 'state') this.#storeTemp(temp, place);
      }
    }
  }

  /** After a callout: a temporary it may have written stands in its slot. */
  reloadResult(): void {
    const { dst } = this.#frame.step.op;
    if (dst < TEMP || dst >= TEMP_END) return;
    const index = (dst - TEMP) >> 4;
    const type = (this.#resultType ??= I64);
    const local = this.#tempLocal(index, type);
    this.#frame.w
      .i32Const(0)
      .mem(type === I64 ? i64.load : i32.load, TEMP + index * TEMP_SIZE)
      .set(local);
    this.#temps[index] = { type, local };
  }

  /** Turns a whole local on the stack into an operand of `bits`. */
  #narrow(type: RegisterType, bits: Bits, high: boolean): void {
    const { w } = this.#frame;
    if (bits === 64) {
      if (type === I32) w.op(i64.extend_i32_u);
      return;
    }
    if (type === I64) w.op(i32.wrap_i64);
    if (high) w.i32Const(8).op(i32.shr_u);
    if (bits < 32) w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
  }

  #tempPlace(loc: Loc): Exclude<TempPlace, 'state'> | undefined {
    if (loc < TEMP || loc >= TEMP_END || (loc - TEMP) % TEMP_SIZE !== 0) return undefined;
    const place = this.#temps[(loc - TEMP) / TEMP_SIZE];
    return place === 'state' ? undefined : place;
  }

  /** Makes sure that a temporary's value is in its slot: what follows treats it as memory. */
  #toState(loc: Loc): void {
    if (loc < TEMP || loc >= TEMP_END) return;
    const index = (loc - TEMP) >> 4;
    const place = this.#temps[index];
    if (place !== undefined && place !== 'state') this.#storeTemp(index, place);
    this.#temps[index] = 'state';
  }

  /** A temporary is about to be overwritten whole, in its slot. */
  #markState(loc: Loc): void {
    if (loc >= TEMP && loc < TEMP_END) this.#temps[(loc - TEMP) >> 4] = 'state';
  }

  #storeTemp(index: number, place: Exclude<TempPlace, 'state'>): void {
    const { w } = this.#frame;
    w.i32Const(0).get(place.local);
    if (place.type === I32) w.op(i64.extend_i32_u);
    w.mem(i64.store, TEMP + index * TEMP_SIZE);
  }

  /** Overwrites the low bits of a temporary that holds something: as in its slot, the others stay. */
  #setPart(index: number, place: TempPlace, mask: number, value: () => void): void {
    const { w } = this.#frame;
    const type = place === 'state' ? I64 : place.type;
    const local = place === 'state' ? this.#tempLocal(index, I64) : place.local;
    if (place === 'state') {
      w.i32Const(0)
        .mem(i64.load, TEMP + index * TEMP_SIZE)
        .set(local);
    }
    w.get(local);
    if (type === I64) w.i64Const(BigInt(~mask)).op(i64.and);
    else w.i32Const(~mask).op(i32.and);
    value();
    w.i32Const(mask).op(i32.and);
    if (type === I64) w.op(i64.extend_i32_u).op(i64.or);
    else w.op(i32.or);
    w.set(local);
    this.#resultType = type;
    this.#temps[index] = { type, local };
  }

  #setRegister(register: number, high: boolean, bits: Bits, value: () => void): void {
    const { w } = this.#frame;
    const local = this.#registers[register]!;
    this.dirty |= 1 << register;
    const narrow = this.#frame.registerType === I32;
    if (bits >= 32) {
      value();
      if (narrow && bits === 64) w.op(i32.wrap_i64);
      else if (!narrow && bits === 32) w.op(i64.extend_i32_u);
      w.set(local);
      return;
    }
    const mask = (bits === 8 ? 0xff : 0xffff) << (high ? 8 : 0);
    w.get(local);
    if (narrow) w.i32Const(~mask).op(i32.and);
    else w.i64Const(BigInt(~mask)).op(i64.and);
    value();
    w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
    if (high) w.i32Const(8).op(i32.shl);
    if (narrow) w.op(i32.or);
    else w.op(i64.extend_i32_u).op(i64.or);
    w.set(local);
  }

  #tempLocal(index: number, type: RegisterType): number {
    const locals = (this.#tempLocals[index] ??= []);
    return (locals[type] ??= this.#frame.w.local(type));
  }
}
