import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import { CTL, RIP } from '../../../x86/layout.ts';
import { codeSizeOf, MODE } from '../../../x86/mode.ts';
import { BLOCK, UOP } from '../exit.ts';
import type { RegionImports } from './imports.ts';
import type { Region } from './region.ts';
import { ScratchLocals } from './scratch.ts';
import type { EmitStep, FormOf, RegionPlace } from './step.ts';

/** Type of the locals general registers stand in. */
export type RegisterType = typeof I32 | typeof I64;

/**
 * What all parts of the generator work with: the locals every region has, the operation being emitted, and RIP and the
 * budget, which are known relative to the region's entry.
 */
export class RegionFrame {
  readonly w: CodeWriter;
  readonly imports: RegionImports;
  readonly scratch: ScratchLocals;
  readonly modeKey: number;
  readonly registerType: RegisterType;
  /** The TLB bank is TLB.bankUser, and not in local `bank`. */
  readonly bankKnown: boolean;
  /** Budget that any way on from here is covered by. */
  readonly reserve: number;
  /** Arena address of the region's table of sites. */
  readonly siteTable: number;
  readonly formOf: FormOf;
  /** RIP at the node the region was grown from (i64). */
  readonly rip: number;
  /** Instructions left (i32), when the region returns, and the TLB bank. */
  readonly budget: number;
  readonly bank: number;
  /** Which site the region is left at for the interpreter (ResumeSites). */
  readonly site: number;
  /** For the common way out: RIP, and the block there whose region to go on to (0: none is known). */
  readonly exitRip: number;
  readonly exitBlock: number;
  /** For all ways out: CTL.flagsKind with what the flags are made from, negative when the state has them already. */
  readonly exitKind: number;
  readonly exitX: number;
  readonly exitY: number;
  /** The operation being emitted. */
  step!: EmitStep;
  /** Instructions executed since `budget` was brought up to date. */
  unpaid = 0;

  constructor(w: CodeWriter, imports: RegionImports, region: Region, { siteTable, formOf }: RegionPlace) {
    const { modeKey } = region;
    this.w = w;
    this.imports = imports;
    this.scratch = new ScratchLocals(w);
    this.modeKey = modeKey;
    // Outside long mode the upper halves of registers are zero and stay so.
    this.registerType = (modeKey & MODE.longMode) !== 0 ? I64 : I32;
    this.bankKnown = region.oneUserBank && (modeKey & MODE.cplMask) >> MODE.cplShift === 3;
    this.reserve = region.instructions;
    this.siteTable = siteTable;
    this.formOf = formOf;
    this.rip = w.local(I64);
    this.budget = w.local(I32);
    this.bank = w.local(I32);
    this.site = w.local(I32);
    this.exitRip = w.local(I64);
    this.exitBlock = w.local(I32);
    this.exitKind = w.local(I32);
    this.exitX = w.local(this.registerType);
    this.exitY = w.local(this.registerType);
  }

  /** Arena address of the micro-op that does the same in the interpreter. */
  get uop(): number {
    return this.step.node.block.address + BLOCK.header + this.step.index * UOP.size;
  }

  /** Pushes RIP at entry + delta, truncated to the code size. */
  pushRip(delta: number): void {
    const { w } = this;
    w.get(this.rip);
    if (delta !== 0) w.i64Const(BigInt(delta)).op(i64.add);
    w.lowBits(codeSizeOf(this.modeKey));
  }

  storeRip(delta: number): void {
    this.w.i32Const(0);
    this.pushRip(delta);
    this.w.mem(i64.store, RIP);
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

  /** Names the micro-op and its block for what is called from here. */
  storePosition(): void {
    const { w } = this;
    w.i32Const(0).i32Const(this.uop).mem(i32.store, CTL.exitUop);
    w.i32Const(0).i32Const(this.step.node.block.address).mem(i32.store, CTL.currentBlock);
  }
}
