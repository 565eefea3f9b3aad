import type {
  AccessBytes,
  Bits,
  FlagArithmetic,
  FlagSource,
  IrOp,
  Loc,
  OpDef,
  OpGen,
  QuickName,
} from '../../../ir/op.ts';
import { flagsKindOf } from '../../../ir/ops/arithmetic.ts';
import { ACCESS_INFO } from '../../../ir/ops/memory.ts';
import { I32, I64, i32, i64, v128, type ValueType } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import type { Callout } from '../../../x86/callout.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT, GPR, RIP, TEMP, TEMP_SIZE, TLB } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { BLOCK, REGION, SITE, UOP } from '../exit.ts';
import { accessOf, SymbolicValues } from './addresses.ts';
import type { RegionImports } from './imports.ts';
import { controlKind, type Region, type RegionNode } from './region.ts';
import { type Pinned, Scratch, VALUE_TYPES } from './scratch.ts';
import { KnownSpans, planProbes, type ProbePlan } from './shared-probes.ts';
import {
  type EmitStep,
  type FormOf,
  GPR_COUNT,
  isRepeatable,
  registerOf,
  type RegionPlace,
  type RegisterSet,
  TEMP_END,
} from './step.ts';

const PAGE_MASK = -4096;

/** Where the present value of a temporary is: in a local of a type, or in its slot of the vCPU state. */
type TempPlace = { type: typeof I32 | typeof I64; local: number } | 'state';

/** Where the arithmetic flags are: in the vCPU state in a form that only memory knows, in its words, or not made yet. */
export type FlagsPlace = 'deferred' | 'words' | PendingFlags;

interface PendingFlags {
  source: FlagSource;
  /** Locals the source reads. */
  pinned: readonly Pinned[];
  /** How many sources it is made from, one changing some flags of the other. */
  depth: number;
  /** One of them is what the vCPU state holds: it is not to be written while this is pending. */
  fromState: boolean;
}

/** Flags are made when they would depend on more sources than this. */
const CAPTURE_DEPTH_MAX = 2;

/**
 * Emits operations for translated code: general registers stand in wasm locals, temporaries too; flags are made when
 * something looks at them; whatever is rare leaves for the interpreter at the operation's own micro-op, with the vCPU
 * state complete.
 */
export class RegionGen implements OpGen {
  readonly w: CodeWriter;
  readonly #imports: RegionImports;
  readonly #modeKey: number;
  /** Budget that any way on from here is covered by. */
  readonly #reserve: number;
  /** Local of each general register in use, by number. */
  readonly #registers: number[] = [];
  readonly #registerType: typeof I32 | typeof I64;
  /** Registers the region writes somewhere. */
  readonly #written: RegisterSet;
  /** The TLB bank is TLB.bankUser, and not in local `bank`. */
  readonly #bankKnown: boolean;
  /** RIP at the node the region was grown from (i64). */
  readonly rip: number;
  /** Instructions left (i32), when the region returns, and the TLB bank. */
  readonly budget: number;
  readonly #bank: number;
  /** Which site the region is left at for the interpreter (ResumeSites). */
  readonly #site: number;
  readonly #siteTable: number;
  readonly #formOf: FormOf;
  /** What is known of addresses, and which of the guest's memory needs no look-up, on the path being emitted. */
  readonly #values: SymbolicValues;
  readonly #spans = new KnownSpans();
  readonly #spanLocals: number[] = [];
  /** What the accesses of the node being emitted look up. */
  #plan: ReadonlyMap<number, ProbePlan> = new Map();
  /** What an adapted access of the operation being emitted returned (i32). */
  #accessStatus: number | undefined;
  /** Depths of the blocks whose ends are the common ways out: to the interpreter, and to whatever stands at RIP. */
  resumeDepth = 0;
  exitDepth = 0;
  /** For the common way out: RIP, and the block there whose region to go on to (0: none is known). */
  readonly exitRip: number;
  readonly exitBlock: number;
  /** For both: CTL.flagsKind with what the flags are made from, negative when the state has them already. */
  readonly #exitKind: number;
  readonly #exitX: number;
  readonly #exitY: number;

  readonly #free: number[][] = Array.from({ length: VALUE_TYPES }, () => []);
  #scratch = new Scratch();
  #temps: (TempPlace | undefined)[] = [];
  #tempLocals: (number | undefined)[][] = [];

  #step!: EmitStep;
  flags: FlagsPlace = 'deferred';
  /** What the operation being emitted makes its flags from. */
  #captured: Pick<PendingFlags, 'pinned' | 'depth' | 'fromState'> | undefined;
  /** Type of the local its result went to, if that is a temporary. */
  #resultType: typeof I32 | typeof I64 | undefined;
  /** Instructions executed since `budget` was brought up to date. */
  unpaid = 0;
  /** Registers whose local may differ from the state. */
  dirty: RegisterSet = 0;

  constructor(
    w: CodeWriter,
    imports: RegionImports,
    region: Region,
    { siteTable, formOf }: RegionPlace,
    used: RegisterSet,
    written: RegisterSet,
  ) {
    const { modeKey } = region;
    this.#siteTable = siteTable;
    this.#formOf = formOf;
    this.#reserve = region.instructions;
    this.w = w;
    this.#imports = imports;
    this.#modeKey = modeKey;
    this.#written = written;
    this.#bankKnown = region.oneUserBank && (modeKey & MODE.cplMask) >> MODE.cplShift === 3;
    // Outside long mode the upper halves of registers are zero and stay so.
    this.#registerType = (modeKey & MODE.longMode) !== 0 ? I64 : I32;
    this.#values = new SymbolicValues(this.#registerType === I64 ? 64 : 32);
    this.rip = w.local(I64);
    this.budget = w.local(I32);
    this.#bank = w.local(I32);
    this.#site = w.local(I32);
    this.exitRip = w.local(I64);
    this.exitBlock = w.local(I32);
    this.#exitKind = w.local(I32);
    this.#exitX = w.local(this.#registerType);
    this.#exitY = w.local(this.#registerType);
    for (let register = 0; register < GPR_COUNT; register++) {
      this.#registers[register] = (used & (1 << register)) !== 0 ? w.local(this.#registerType) : -1;
    }
  }

  get #op(): IrOp {
    return this.#step.op;
  }
  get #node(): RegionNode {
    return this.#step.node;
  }
  /** Arena address of the micro-op that does the same in the interpreter. */
  get #uop(): number {
    return this.#node.block.address + BLOCK.header + this.#step.index * UOP.size;
  }

  // ---- entry and exits -----------------------------------------------------------------------------------------

  /** Loads registers and TLB bank: others may have changed them. */
  reload(): void {
    const { w } = this;
    for (const [register, local] of this.#registers.entries()) {
      if (local < 0) continue;
      w.i32Const(0)
        .mem(this.#registerType === I64 ? i64.load : i32.load, GPR + register * 8)
        .set(local);
    }
    if (!this.#bankKnown) w.i32Const(0).mem(i32.load, CTL.tlbBank).set(this.#bank);
    this.forgetAddresses();
  }

  /** Nothing is known of what registers hold and where memory is. */
  forgetAddresses(): void {
    this.#values.clear();
    this.#spans.clear();
  }

  #storeRegister(register: number): void {
    const local = this.#registers[register]!;
    this.w.i32Const(0).get(local);
    if (this.#registerType === I32) this.w.op(i64.extend_i32_u);
    this.w.mem(i64.store, GPR + register * 8);
  }

  /** Writes registers that may have changed. */
  storeRegisters(registers: RegisterSet = this.dirty): void {
    for (let register = 0; register < GPR_COUNT; register++) {
      if ((registers & (1 << register)) !== 0) this.#storeRegister(register);
    }
  }

  /** Writes the budget, brought up to date. */
  storeBudget(): void {
    const { w } = this;
    w.i32Const(0).get(this.budget);
    if (this.unpaid > 0) w.i32Const(this.unpaid).op(i32.sub);
    w.mem(i32.store, CTL.budget);
  }

  /** Takes the instructions executed since from the local budget. */
  pay(): void {
    if (this.unpaid === 0) return;
    this.w.get(this.budget).i32Const(this.unpaid).op(i32.sub).set(this.budget);
    this.unpaid = 0;
  }

  /** Pushes RIP at entry + delta, truncated to the code size. */
  pushRip(delta: number): void {
    const { w } = this;
    w.get(this.rip);
    if (delta !== 0) w.i64Const(BigInt(delta)).op(i64.add);
    const size = this.#modeKey & MODE.codeSizeMask;
    if (size !== MODE.code64) w.i64Const(size === MODE.code16 ? 0xffffn : 0xffffffffn).op(i64.and);
  }

  storeRip(delta: number): void {
    this.w.i32Const(0);
    this.pushRip(delta);
    this.w.mem(i64.store, RIP);
  }

  /** Leaves by the common way out. `exitRip` and `exitBlock` are set. */
  exit(): void {
    const { w } = this;
    this.#stageFlags();
    this.pay();
    w.br(w.depth - this.exitDepth);
  }

  /** The common way out: all state is stored. */
  emitExit(): void {
    this.#storeStaged(this.exitRip);
  }

  /** Stores all state, where several ways out have come together. `rip`: local. */
  #storeStaged(rip: number): void {
    const { w } = this;
    this.#storeStagedFlags();
    this.storeRegisters(this.#written);
    w.i32Const(0).get(this.budget).mem(i32.store, CTL.budget);
    w.i32Const(0).get(rip).mem(i64.store, RIP);
  }

  /** Puts what the flags are to be made from where the common ways out look for it. */
  #stageFlags(): void {
    const { flags, w } = this;
    const arithmetic = typeof flags === 'string' ? undefined : flags.source.arithmetic;
    const narrow = this.#registerType === I32;
    if (!arithmetic || (narrow && arithmetic.bits === 64)) {
      this.#storeFlags();
      w.i32Const(-1).set(this.#exitKind);
      return;
    }
    const { kind, bits, x, y, r } = arithmetic;
    const stage = (from: number, to: number): void => {
      w.get(from);
      if (!narrow && bits !== 64) w.op(i64.extend_i32_u);
      w.set(to);
    };
    w.i32Const(flagsKindOf(arithmetic)).set(this.#exitKind);
    stage(kind === 'logic' ? r : x, this.#exitX);
    if (kind !== 'logic') stage(y, this.#exitY);
  }

  #storeStagedFlags(): void {
    const { w } = this;
    const store = this.#registerType === I32 ? i32.store : i64.store;
    w.get(this.#exitKind).i32Const(0).op(i32.ge_s).if();
    w.i32Const(0).get(this.#exitKind).mem(i32.store, CTL.flagsKind);
    w.i32Const(0).get(this.#exitX).mem(store, CTL.flagsX);
    w.i32Const(0).get(this.#exitY).mem(store, CTL.flagsY);
    w.end();
  }

  /** The common way out to the interpreter; the site says where it goes on. */
  emitResume(): void {
    const { w } = this;
    this.#storeStaged(this.rip);
    w.i32Const(0).get(this.#site).mem(i32.store, CTL.resumeSite);
    w.i32Const(0).i32Const(this.#siteTable).mem(i32.store, CTL.resumeTable);
    w.i32Const(REGION.site).return();
  }

  /** Leaves for the interpreter at the micro-op of this operation, of which nothing has been done. */
  resumeHere(): void {
    this.#resumeAt(this.#step.index);
  }

  /** The same, or from its instruction's start where nothing but temporaries would be written once more. */
  #resumeInstruction(): void {
    const { first, index, node } = this.#step;
    for (let at = first; at < index; at++) {
      if (isRepeatable(node.lifted.ops[at]!)) continue;
      this.resumeHere();
      return;
    }
    this.#resumeAt(first);
  }

  /** Leaves for the interpreter at micro-op `index` of this node's block: this operation's or the next one's. */
  #resumeAt(index: number): void {
    const { w } = this;
    this.#stageFlags();
    if (index !== this.#step.first) this.#storeTemps(index);
    w.i32Const((this.#node.order << SITE.nodeShift) | index).set(this.#site);
    w.br(w.depth - this.resumeDepth);
  }

  /** Writes flags that are not made yet, without changing what is known about them afterwards. */
  #storeFlags(): void {
    const { flags, w } = this;
    if (typeof flags === 'string') return;
    const { arithmetic } = flags.source;
    if (!arithmetic) {
      this.#storeWords(flags.source);
      return;
    }
    w.i32Const(0).i32Const(flagsKindOf(arithmetic)).mem(i32.store, CTL.flagsKind);
    const store = arithmetic.bits === 64 ? i64.store : i32.store;
    const { x, y, r } = arithmetic;
    w.i32Const(0)
      .get(arithmetic.kind === 'logic' ? r : x)
      .mem(store, CTL.flagsX);
    if (arithmetic.kind !== 'logic') w.i32Const(0).get(y).mem(store, CTL.flagsY);
  }

  #storeWords({ result, aux }: FlagSource): void {
    const { w } = this;
    this.#apart(() => {
      // Both are known before either is written: they may be made from the words as they are.
      const made = this.scratch(I64, 15);
      result();
      w.set(made).i32Const(0);
      aux();
      w.mem(i32.store, FLAGS_AUX).i32Const(0).get(made).mem(i64.store, FLAGS_RESULT);
    });
    w.i32Const(0).i32Const(0).mem(i32.store, CTL.flagsKind);
  }

  /** Writes the flags; from here on the vCPU state has them. */
  settleFlags(): void {
    if (typeof this.flags === 'string') return;
    this.#storeFlags();
    this.#release();
    this.flags = 'deferred';
  }

  /** The flags' words hold from here on. */
  #makeWords(): void {
    const { flags } = this;
    if (flags === 'words') return;
    if (flags === 'deferred') {
      this.#settleWords();
    } else {
      this.#storeWords(flags.source);
      this.#release();
    }
    this.flags = 'words';
  }

  /** Makes the flags' words from what else the vCPU state has, if they are not made. */
  #settleWords(): void {
    const { w } = this;
    w.i32Const(0).mem(i32.load, CTL.flagsKind).if();
    w.call(this.#imports.deferredFlags);
    w.end();
  }

  /** Emits with scratch locals of its own: code of a flag source made earlier. */
  #apart(emit: () => void): void {
    const saved = this.#scratch;
    this.#scratch = new Scratch();
    emit();
    this.#giveBack();
    this.#scratch = saved;
  }

  // ---- one operation after the other ---------------------------------------------------------------------------

  /** A node's operations follow. */
  beginNode(node: RegionNode): void {
    this.#plan = planProbes(node, this.#values, this.#formOf);
  }

  /** A new guest instruction: temporaries hold nothing. */
  beginInstruction(): void {
    this.#temps = [];
  }

  emit(step: EmitStep): void {
    this.#step = step;
    this.#resultType = undefined;
    const { def } = step.op;
    if (def.flagsInState) this.#makeWords();
    else if (typeof this.flags !== 'string' && this.flags.fromState && mayCallOut(def)) this.settleFlags();
    def.emit(this);
    if (def.flagsInState && def.flags !== 'read') this.flags = 'words';
    this.#values.apply(step.op);
    if (this.#accessStatus !== undefined) {
      this.w.get(this.#accessStatus).i32Const(2).op(i32.eq).if();
      this.#resumeAt(step.index + 1);
      this.w.end();
      this.#accessStatus = undefined;
    }
    this.#giveBack();
  }

  /** Other paths are emitted before this operation is done; the function returned brings back where it was. */
  saveContext(): () => void {
    const step = this.#step;
    const temps = [...this.#temps];
    const plan = this.#plan;
    const values = this.#values.save();
    const spans = this.#spans.save();
    // Scratch locals of the operation so far are not used again on any path.
    this.#scratch.clear();
    return () => {
      this.#step = step;
      this.#temps = [...temps];
      this.#plan = plan;
      values();
      spans();
      this.#scratch.clear();
    };
  }

  /** The scratch locals of the operation are free again, but for those the flags still need. */
  #giveBack(): void {
    const pinned = typeof this.flags === 'string' ? undefined : this.flags.pinned;
    for (const { type, local } of this.#scratch.all()) {
      if (!pinned?.some((pin) => pin.local === local)) this.#free[I32 - type]!.push(local);
    }
    this.#scratch.clear();
  }

  #release(): void {
    if (typeof this.flags === 'string') return;
    for (const { type, local } of this.flags.pinned) {
      // Still held by the operation being emitted, it is given back with that.
      if (!this.#scratch.has(local)) this.#free[I32 - type]!.push(local);
    }
  }

  /** What several paths inherit about the flags; the locals it needs are never used for anything else again. */
  shareFlags(): FlagsPlace {
    if (typeof this.flags !== 'string') this.flags = { ...this.flags, pinned: [] };
    return this.flags;
  }

  scratch(type: ValueType, n: number): number {
    let local = this.#scratch.get(type, n);
    if (local < 0) {
      local = this.#free[I32 - type]!.pop() ?? this.w.local(type);
      this.#scratch.set(type, n, local);
    }
    return local;
  }

  // ---- operands ------------------------------------------------------------------------------------------------

  get immediate(): number {
    return this.#op.imm;
  }

  a(bits: Bits): void {
    this.#read(this.#op.a, bits);
  }
  b(bits: Bits): void {
    this.#read(this.#op.b, bits);
  }
  dst(bits: Bits): void {
    this.#read(this.#op.dst, bits);
  }

  #read(loc: Loc, bits: Bits): void {
    const { w } = this;
    const register = registerOf(loc);
    if (register !== undefined) {
      const local = this.#registers[register]!;
      w.get(local);
      this.#narrow(this.#registerType, bits, (loc & 1) !== 0);
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

  /** Turns a whole local on the stack into an operand of `bits`. */
  #narrow(type: typeof I32 | typeof I64, bits: Bits, high: boolean): void {
    const { w } = this;
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

  #storeTemp(index: number, place: Exclude<TempPlace, 'state'>): void {
    const { w } = this;
    w.i32Const(0).get(place.local);
    if (place.type === I32) w.op(i64.extend_i32_u);
    w.mem(i64.store, TEMP + index * TEMP_SIZE);
  }

  /** Writes the temporaries the rest of the instruction may read to their slots. */
  #storeTemps(index = this.#step.index): void {
    const { node, end } = this.#step;
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

  #half(loc: Loc, offset: number): void {
    const register = registerOf(loc);
    if (register !== undefined) {
      if (offset !== 0) throw new Error('a general register has no upper half');
      this.#read(loc, 64);
      return;
    }
    if (offset === 0 && this.#tempPlace(loc)) {
      this.#read(loc, 64);
      return;
    }
    this.#toState(loc);
    this.w.i32Const(0).mem(i64.load, loc + offset);
  }
  aHalf(offset: number): void {
    this.#half(this.#op.a, offset);
  }
  bHalf(offset: number): void {
    this.#half(this.#op.b, offset);
  }
  #wide(loc: Loc): void {
    this.#toState(loc);
    this.w.i32Const(0).mem(v128.load, loc);
  }
  a128(): void {
    this.#wide(this.#op.a);
  }
  b128(): void {
    this.#wide(this.#op.b);
  }
  dst128(): void {
    this.#wide(this.#op.dst);
  }

  set(bits: Bits, value: () => void): void {
    const { w } = this;
    const loc = this.#op.dst;
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
      // On another path of the operation it may stand in a local already: the same one then.
      const type = (this.#resultType ??= bits === 64 ? I64 : I32);
      const local = this.#tempLocal(index, type);
      value();
      if (bits < 32) w.i32Const(bits === 8 ? 0xff : 0xffff).op(i32.and);
      if (type === I64 && bits !== 64) w.op(i64.extend_i32_u);
      else if (type === I32 && bits === 64) throw new Error('a temporary of two widths');
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

  /** Overwrites the low bits of a temporary that holds something: as in its slot, the others stay. */
  #setPart(index: number, place: TempPlace, mask: number, value: () => void): void {
    const { w } = this;
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
    const { w } = this;
    const local = this.#registers[register]!;
    this.dirty |= 1 << register;
    const narrow = this.#registerType === I32;
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

  #tempLocal(index: number, type: typeof I32 | typeof I64): number {
    const locals = (this.#tempLocals[index] ??= []);
    return (locals[type] ??= this.w.local(type));
  }

  set128(value: () => void): void {
    const { w } = this;
    w.i32Const(0);
    // The value may be made from the old one.
    value();
    this.#markState(this.#op.dst);
    w.mem(v128.store, this.#op.dst);
  }
  setHalf(offset: number, value: () => void): void {
    const { w } = this;
    const loc = this.#op.dst;
    if (registerOf(loc) !== undefined) throw new Error('a general register has no halves');
    this.#toState(loc);
    w.i32Const(0);
    value();
    w.mem(i64.store, loc + offset);
  }
  /** A temporary is about to be overwritten whole, in its slot. */
  #markState(loc: Loc): void {
    if (loc >= TEMP && loc < TEMP_END) this.#temps[(loc - TEMP) >> 4] = 'state';
  }

  imm32(): void {
    this.w.i32Const(this.#op.imm);
  }
  imm64(): void {
    this.w.i64Const(BigInt(this.#op.imm));
  }
  wide(): void {
    this.w.i64Const(this.#op.wide);
  }
  c(): void {
    this.w.i32Const(this.#op.c);
  }

  // ---- flags and state words -----------------------------------------------------------------------------------

  flagArithmetic(): FlagArithmetic | undefined {
    return typeof this.flags === 'string' ? undefined : this.flags.source.arithmetic;
  }
  flagsResult(): void {
    const { flags } = this;
    if (typeof flags !== 'string') {
      this.#apart(flags.source.result);
      return;
    }
    this.#makeWords();
    this.w.i32Const(0).mem(i64.load, FLAGS_RESULT);
  }
  flagsAux(): void {
    const { flags } = this;
    if (typeof flags !== 'string') {
      this.#apart(flags.source.aux);
      return;
    }
    this.#makeWords();
    this.w.i32Const(0).mem(i32.load, FLAGS_AUX);
  }
  setFlags(source: FlagSource): void {
    if (this.#op.def.flagsInState) {
      this.#storeWords(source);
      return;
    }
    this.#release();
    const captured = this.#captured;
    this.#captured = undefined;
    this.flags = {
      source,
      pinned: [...this.#scratch.all(), ...(captured?.pinned ?? [])],
      depth: captured ? captured.depth + 1 : 0,
      fromState: captured?.fromState ?? false,
    };
  }
  captureFlags(): FlagSource {
    if (typeof this.flags !== 'string' && this.flags.depth >= CAPTURE_DEPTH_MAX) this.settleFlags();
    const { flags } = this;
    if (typeof flags === 'string') {
      this.#captured = { pinned: [], depth: 0, fromState: true };
      const known = flags === 'words';
      return {
        result: () => {
          if (!known) this.#settleWords();
          this.state64(FLAGS_RESULT);
        },
        aux: () => {
          if (!known) this.#settleWords();
          this.state32(FLAGS_AUX);
        },
      };
    }
    this.#captured = flags;
    this.flags = { ...flags, pinned: [] };
    return {
      result: () => this.#apart(flags.source.result),
      aux: () => this.#apart(flags.source.aux),
    };
  }
  state32(offset: number): void {
    this.w.i32Const(0).mem(i32.load, offset);
  }
  state64(offset: number): void {
    if (offset === RIP) this.pushRip(this.#node.delta);
    else this.w.i32Const(0).mem(i64.load, offset);
  }
  setState32(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    if (offset === CTL.tlbBank) {
      this.w.tee(this.#bank);
      // Another privilege level, or other rights: what may be accessed is another question now.
      this.#spans.clear();
    }
    this.w.mem(i32.store, offset);
  }
  setState64(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    this.w.mem(i64.store, offset);
  }

  // ---- leaving -------------------------------------------------------------------------------------------------

  fault(): void {
    this.resumeHere();
  }

  callout(callout: Callout): void {
    this.#call(callout.id);
  }
  calloutOfOp(): void {
    this.#call(this.#calloutOfOp());
  }
  stringRun(): void {
    this.#call(this.#calloutOfOp(), this.#imports.stringRun);
  }
  quick(name: QuickName, parameters: () => void): void {
    parameters();
    this.w.call(this.#imports[name]);
    this.#spans.clear();
  }
  #calloutOfOp(): number {
    if (!this.#op.callout) throw new Error('an operation without a callout');
    return this.#op.callout.id;
  }

  /** Calls a callout, unless function `first` of the micro-op says that it has done all there is to do. */
  #call(id: number, first?: number): void {
    const { w } = this;
    this.#storeFlags();
    this.#storeTemps();
    this.storeRegisters(this.#written);
    this.storeBudget();
    this.storeRip(this.#node.delta);
    w.i32Const(0).i32Const(this.#uop).mem(i32.store, CTL.exitUop);
    w.i32Const(0).i32Const(this.#node.block.address).mem(i32.store, CTL.currentBlock);
    const result = this.scratch(I32, 12);
    // A fault, or something that wants attention: then the interpreter goes on behind this operation.
    const callout = (): CodeWriter => w.i32Const(id).i32Const(this.#uop).call(this.#imports.callout);
    if (first === undefined) callout();
    else {
      w.i32Const(this.#uop).call(first).if(I32).i32Const(0).else();
      callout().end();
    }
    w.tee(result).if();
    w.get(result).return();
    w.end();
    this.reload();
    // String instructions done in bulk use up budget that the rest of the region counts on.
    w.i32Const(0).mem(i32.load, CTL.budget).tee(this.budget);
    w.i32Const(this.#reserve).op(i32.lt_s).if();
    w.i32Const(0)
      .i32Const(this.#uop + UOP.size)
      .mem(i32.store, CTL.exitUop);
    w.i32Const(REGION.resume).return();
    w.end();
    if (this.unpaid > 0) w.get(this.budget).i32Const(this.unpaid).op(i32.add).set(this.budget);
    this.#reloadTemps();
  }

  /** After a callout: a temporary it may have written stands in its slot. */
  #reloadTemps(): void {
    const { dst } = this.#op;
    if (dst < TEMP || dst >= TEMP_END) return;
    const index = (dst - TEMP) >> 4;
    const type = (this.#resultType ??= I64);
    const local = this.#tempLocal(index, type);
    this.w
      .i32Const(0)
      .mem(type === I64 ? i64.load : i32.load, TEMP + index * TEMP_SIZE)
      .set(local);
    this.#temps[index] = { type, local };
  }

  // ---- memory --------------------------------------------------------------------------------------------------

  /** Where an access takes place: an arena address in a local, and a distance from it. Or it leaves. */
  #place(
    address: number,
    width: 32 | 64,
    bytes: AccessBytes,
    write: boolean,
  ): { host: number; offset: number } {
    const { w } = this;
    const { op, index, node } = this.#step;
    if (bytes === 16 && (op.c & ACCESS_INFO.aligned) !== 0) {
      w.get(address);
      if (width === 64) w.op(i32.wrap_i64);
      w.i32Const(15).op(i32.and).if();
      this.#resumeInstruction();
      w.end();
    }
    const symbolic = this.#values.addressOf(op);
    const known = symbolic && this.#spans.find(symbolic, bytes, write);
    if (symbolic && known) return { host: known.local, offset: symbolic.offset - known.low };
    if (this.#formOf(node, index) === 'refill') {
      const host = this.scratch(I32, 11);
      this.#probeOrRefill(address, width, bytes, write, host);
      // Page tables that were walked are watched from now on.
      this.#spans.forgetStores();
      return { host, offset: 0 };
    }
    const plan = this.#plan.get(index);
    if (!symbolic || !plan) {
      const host = this.scratch(I32, 11);
      this.#probe(address, width, { low: 0, high: bytes, write }, host);
      return { host, offset: 0 };
    }
    const local = (this.#spanLocals[this.#spans.size] ??= w.local(I32));
    this.#probe(address, width, plan, local);
    const { root, offset } = symbolic;
    this.#spans.add({ root, low: offset + plan.low, high: offset + plan.high, write: plan.write, local });
    return { host: local, offset: -plan.low };
  }

  /** Puts the arena address of bytes around an address into `host` if the TLB serves them all, or leaves. */
  #probe(address: number, width: 32 | 64, plan: ProbePlan, host: number): void {
    const { w } = this;
    let from = address;
    if (plan.low !== 0) {
      from = this.scratch(width === 64 ? I64 : I32, 9);
      w.get(address);
      if (width === 64) w.i64Const(BigInt(plan.low)).op(i64.add);
      else w.i32Const(plan.low).op(i32.add);
      w.set(from);
    }
    const addend = this.#pushMisses(from, width, plan.high - plan.low, plan.write);
    w.if();
    this.#resumeInstruction();
    w.end();
    addend();
    w.set(host);
  }

  /**
   * The same for an access whose page the TLB often lacks: it is filled from here, by a call, which costs much of what
   * V8 keeps in registers.
   */
  #probeOrRefill(address: number, width: 32 | 64, bytes: AccessBytes, write: boolean, host: number): void {
    const { w } = this;
    const addend = this.#pushMisses(address, width, bytes, write);
    w.if(I32);
    w.get(address);
    if (width === 64) {
      w.op(i32.wrap_i64);
      w.get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    } else {
      w.i32Const(0);
    }
    w.i32Const(this.#op.c | bytes)
      .i32Const(this.#uop)
      .call(write ? this.#imports.locateStore : this.#imports.locateLoad);
    w.tee(host).i32Const(0).op(i32.lt_s).if();
    this.resumeHere();
    w.end();
    w.get(host);
    w.else();
    addend();
    w.end();
    w.set(host);
  }

  /**
   * Pushes whether the TLB does not serve `bytes` at an address, or they lie on two pages. The function returned pushes
   * their arena address if it does.
   */
  #pushMisses(address: number, width: 32 | 64, bytes: number, write: boolean): () => void {
    const { w } = this;
    const tag = write ? TLB.writeTag : TLB.readTag;
    const entry = this.scratch(I32, 10);
    const legacy = this.#registerType === I32;
    const low = (): void => {
      w.get(address);
      if (width === 64) w.op(i32.wrap_i64);
    };
    if (width === 64 && !legacy) {
      w.get(address).i64Const(7n).op(i64.shr_u).op(i32.wrap_i64);
    } else {
      low();
      w.i32Const(7).op(i32.shr_u);
    }
    w.i32Const((TLB.entries - 1) << 5).op(i32.and);
    let bank = 0;
    if (this.#bankKnown) bank = TLB.bankUser;
    else w.get(this.#bank).op(i32.add);
    w.tee(entry);
    if (legacy) {
      // Linear addresses have 32 bits: the tag's low half is enough.
      w.mem(i32.load, bank + tag);
      low();
      if (bytes > 1) w.i32Const(bytes - 1).op(i32.add);
      w.i32Const(PAGE_MASK).op(i32.and).op(i32.ne);
    } else {
      w.mem(i64.load, bank + tag).get(address);
      if (width === 32) w.op(i64.extend_i32_u);
      if (bytes > 1) w.i64Const(BigInt(bytes - 1)).op(i64.add);
      w.i64Const(BigInt(PAGE_MASK)).op(i64.and).op(i64.ne);
    }
    return () => {
      low();
      w.get(entry)
        .mem(i32.load, bank + TLB.addend)
        .op(i32.add);
    };
  }

  /** An access as a callout: only what devices may ask about the vCPU is brought up to date. */
  #slowAccess(address: number, width: 32 | 64, bytes: AccessBytes, slow: number): void {
    const { w } = this;
    const status = this.scratch(I32, 14);
    this.storeBudget();
    w.i32Const(0).i32Const(this.#uop).mem(i32.store, CTL.exitUop);
    w.i32Const(0).i32Const(this.#node.block.address).mem(i32.store, CTL.currentBlock);
    w.get(address);
    if (width === 64) {
      w.op(i32.wrap_i64);
      w.get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    } else {
      w.i32Const(0);
    }
    w.i32Const(this.#op.c | bytes)
      .i32Const(this.#uop)
      .call(slow)
      .set(status);
    // What asks for attention takes the budget away.
    w.i32Const(0).mem(i32.load, CTL.budget);
    if (this.unpaid > 0) w.i32Const(this.unpaid).op(i32.add);
    w.set(this.budget).get(status).i32Const(1).op(i32.eq).if();
    this.resumeHere();
    w.end();
    this.#accessStatus = status;
    this.#spans.clear();
  }

  load(address: number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void {
    if (this.#formOf(this.#node, this.#step.index) === 'callout') {
      this.#slowAccess(address, width, bytes, this.#imports.slowLoad);
      const value = this.w.i32Const(0);
      if (bytes === 16) value.mem(v128.load, CTL.slowWide);
      else value.mem(bytes === 8 ? i64.load : i32.load, CTL.slowValue);
      return;
    }
    const { host, offset } = this.#place(address, width, bytes, forWrite);
    this.w
      .get(host)
      .mem(
        bytes === 16
          ? v128.load
          : bytes === 8
            ? i64.load
            : bytes === 4
              ? i32.load
              : bytes === 2
                ? i32.load16_u
                : i32.load8_u,
        offset,
      );
  }

  store(address: number, width: 32 | 64, bytes: AccessBytes, value: number): void {
    if (this.#formOf(this.#node, this.#step.index) === 'callout') {
      this.w.i32Const(0).get(value);
      if (bytes === 16) this.w.mem(v128.store, CTL.slowWide);
      else this.w.mem(bytes === 8 ? i64.store : i32.store, CTL.slowValue);
      this.#slowAccess(address, width, bytes, this.#imports.slowStore);
      return;
    }
    const { host, offset } = this.#place(address, width, bytes, true);
    this.w
      .get(host)
      .get(value)
      .mem(
        bytes === 16
          ? v128.store
          : bytes === 8
            ? i64.store
            : bytes === 4
              ? i32.store
              : bytes === 2
                ? i32.store16
                : i32.store8,
        offset,
      );
  }

  // ---- control flow: the emitter of the region knows what follows ----------------------------------------------

  jump(codeBits: 16 | 32 | 64): void {
    this.#step.control.jump(codeBits, this.#op.imm);
  }
  branch(codeBits: 16 | 32 | 64, condition: () => void): void {
    this.#step.control.branch(codeBits, condition, this.#op.imm, this.#op.c);
  }
  skip(codeBits: 16 | 32 | 64, condition: () => void): void {
    this.#step.control.skip(codeBits, condition, this.#op.imm);
  }
  jumpAbsolute(target: () => void): void {
    this.#step.control.jumpAbsolute(target);
  }
  leave(): void {
    this.settleFlags();
    this.storeRegisters();
    this.storeBudget();
    this.w.i32Const(REGION.check).return();
  }
}

/** Whether the state may be stored in the midst of an operation that goes on in translated code. */
function mayCallOut(def: OpDef): boolean {
  return def.leaves && !accessOf(def) && controlKind(def)[0] === undefined;
}
