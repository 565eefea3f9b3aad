import type {
  AccessBytes,
  Bits,
  FlagArithmetic,
  FlagSource,
  OpDef,
  OpGen,
  InsteadName,
  QuickName,
} from '../../../ir/op.ts';
import { i32, i64, type ValueType } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import type { Callout } from '../../../x86/callout.ts';
import { CTL, RIP } from '../../../x86/layout.ts';
import { REGION } from '../exit.ts';
import { accessOf } from './addresses.ts';
import { Callouts } from './callouts.ts';
import { FlagsState } from './flags-state.ts';
import { RegionFrame } from './frame.ts';
import type { RegionImports } from './imports.ts';
import { MemoryAccesses } from './memory-access.ts';
import { controlKind, type Region } from './region.ts';
import { Registers } from './registers.ts';
import type { EmitStep, RegionPlace, RegisterSet } from './step.ts';
import { WaysOut } from './ways-out.ts';

/**
 * Emits operations for translated code: general registers stand in wasm locals, temporaries too; flags are made when
 * something looks at them; whatever is rare leaves for the interpreter at the operation's own micro-op, with the vCPU
 * state complete.
 */
export class RegionGen implements OpGen {
  readonly w: CodeWriter;
  readonly frame: RegionFrame;
  readonly registers: Registers;
  readonly flags: FlagsState;
  readonly out: WaysOut;
  readonly memory: MemoryAccesses;
  readonly #callouts: Callouts;

  constructor(
    w: CodeWriter,
    imports: RegionImports,
    region: Region,
    place: RegionPlace,
    used: RegisterSet,
    written: RegisterSet,
  ) {
    this.w = w;
    this.frame = new RegionFrame(w, imports, region, place);
    this.registers = new Registers(this.frame, used, written);
    this.flags = new FlagsState(this.frame);
    this.out = new WaysOut(this.frame, this.registers, this.flags);
    this.memory = new MemoryAccesses(this.frame, this.out);
    this.#callouts = new Callouts(this.frame, this.registers, this.flags, this.memory);
  }

  // ---- one operation after the other ---------------------------------------------------------------------------

  emit(step: EmitStep): void {
    const { flags } = this;
    const { def } = step.op;
    this.frame.step = step;
    this.registers.beginOperation();
    if (def.flagsInState) flags.makeWords();
    else if (flags.dependOnState && mayCallOut(def)) flags.settle();
    def.emit(this);
    if (def.flagsInState && def.flags !== 'read') flags.place = 'words';
    this.memory.endOperation();
    flags.giveBackScratch();
  }

  /** Loads registers and TLB bank: others may have changed them. */
  reload(): void {
    this.registers.load();
    this.memory.reload();
  }

  /** Other paths are emitted before this operation is done; the function returned brings back where it was. */
  saveContext(): () => void {
    const { frame, registers } = this;
    const { step } = frame;
    const temps = registers.saveTemps();
    const memory = this.memory.save();
    // Scratch locals of the operation so far are not used again on any path.
    frame.scratch.abandon();
    return () => {
      frame.step = step;
      registers.restoreTemps(temps);
      memory();
      frame.scratch.abandon();
    };
  }

  scratch(type: ValueType, n: number): number {
    return this.frame.scratch.get(type, n);
  }

  // ---- operands ------------------------------------------------------------------------------------------------

  get immediate(): number {
    return this.frame.step.op.imm;
  }
  a(bits: Bits): void {
    this.registers.read(this.frame.step.op.a, bits);
  }
  b(bits: Bits): void {
    this.registers.read(this.frame.step.op.b, bits);
  }
  dst(bits: Bits): void {
    this.registers.read(this.frame.step.op.dst, bits);
  }
  aHalf(offset: number): void {
    this.registers.readHalf(this.frame.step.op.a, offset);
  }
  bHalf(offset: number): void {
    this.registers.readHalf(this.frame.step.op.b, offset);
  }
  a128(): void {
    this.registers.read128(this.frame.step.op.a);
  }
  b128(): void {
    this.registers.read128(this.frame.step.op.b);
  }
  dst128(): void {
    this.registers.read128(this.frame.step.op.dst);
  }
  set(bits: Bits, value: () => void): void {
    this.registers.set(this.frame.step.op.dst, bits, value);
  }
  set128(value: () => void): void {
    this.registers.set128(this.frame.step.op.dst, value);
  }
  setHalf(offset: number, value: () => void): void {
    this.registers.setHalf(this.frame.step.op.dst, offset, value);
  }
  imm32(): void {
    this.w.i32Const(this.frame.step.op.imm);
  }
  imm64(): void {
    this.w.i64Const(BigInt(this.frame.step.op.imm));
  }
  wide(): void {
    this.w.i64Const(this.frame.step.op.wide);
  }
  c(): void {
    this.w.i32Const(this.frame.step.op.c);
  }

  // ---- flags and state words -----------------------------------------------------------------------------------

  flagArithmetic(): FlagArithmetic | undefined {
    return this.flags.arithmetic();
  }
  flagsResult(): void {
    this.flags.pushResult();
  }
  flagsAux(): void {
    this.flags.pushAux();
  }
  setFlags(source: FlagSource): void {
    this.flags.set(source);
  }
  captureFlags(): FlagSource {
    return this.flags.capture();
  }
  state32(offset: number): void {
    this.w.i32Const(0).mem(i32.load, offset);
  }
  state64(offset: number): void {
    if (offset === RIP) this.frame.pushRip(this.frame.step.node.delta);
    else this.w.i32Const(0).mem(i64.load, offset);
  }
  setState32(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    if (offset === CTL.tlbBank) this.memory.setBank();
    this.w.mem(i32.store, offset);
  }
  setState64(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    this.w.mem(i64.store, offset);
  }

  // ---- leaving -------------------------------------------------------------------------------------------------

  fault(): void {
    this.out.resumeHere();
  }
  callout(callout: Callout): void {
    this.#callouts.call(callout.id);
  }
  /** Left for the interpreter: storing and loading all state for a call would take more room than all else. */
  rareCallout(): void {
    this.out.resumeHere();
  }
  calloutOfOp(): void {
    this.#callouts.calloutOfOp();
  }
  calloutOfOpUnless(name: InsteadName): void {
    this.#callouts.calloutOfOpUnless(name);
  }
  quick(name: QuickName, parameters: () => void): void {
    this.#callouts.quick(name, parameters);
  }

  // ---- memory --------------------------------------------------------------------------------------------------

  load(address: () => number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void {
    this.memory.load(address, width, bytes, forWrite);
  }
  store(address: () => number, width: 32 | 64, bytes: AccessBytes, value: () => void): void {
    this.memory.store(address, width, bytes, value);
  }

  // ---- control flow: the emitter of the region knows what follows ----------------------------------------------

  jump(codeBits: 16 | 32 | 64): void {
    const { control, op } = this.frame.step;
    control.jump(codeBits, op.imm);
  }
  branch(codeBits: 16 | 32 | 64, condition: () => void): void {
    const { control, op } = this.frame.step;
    control.branch(codeBits, condition, op.imm, op.c);
  }
  skip(codeBits: 16 | 32 | 64, condition: () => void): void {
    const { control, op } = this.frame.step;
    control.skip(codeBits, condition, op.imm);
  }
  jumpAbsolute(target: () => void): void {
    this.frame.step.control.jumpAbsolute(target);
  }
  jumpVia(target: () => void): void {
    this.frame.step.control.jumpVia(target);
  }
  leave(): void {
    this.flags.settle();
    this.registers.storeDirty();
    this.frame.storeBudget();
    this.w.i32Const(REGION.check).return();
  }
}

/** Whether the state may be stored in the midst of an operation that goes on in translated code. */
function mayCallOut(def: OpDef): boolean {
  return def.leaves && !accessOf(def) && controlKind(def)[0] === undefined;
}
