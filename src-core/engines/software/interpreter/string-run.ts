import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import { FLAG_DF } from '../../../x86/bits.ts';
import { CTL, FLAGS_SYSTEM, RAX, RCX, RDI, RSI, TLB } from '../../../x86/layout.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { MODE } from '../../../x86/mode.ts';
import { BULK, repMovsRun, RUN_MIN } from '../../../x86/string-bulk.ts';
import { UOP } from '../exit.ts';
import { pushHost, pushTlbEntry } from './tlb-entry.ts';

const PAGE = 4096;

/**
 * Emits `stringRun(uop)`: what the bulk callouts of x86/string-bulk.ts do, for flat segments, addresses of 32 and 64 bits
 * and plain pages, which `refill` (emitRefill) puts into the TLB. Returns 0, with nothing done, when it is the callout's to decide. The vCPU state is in
 * the arena; test/x86/string-run.test.ts holds it to the callouts.
 */
export function emitStringRun(module: ModuleWriter, refill: number): number {
  const index = module.declare([I32], [I32]);
  module.define(index, new StringRun(refill).emit());
  return index;
}

class StringRun {
  readonly w = new CodeWriter(1);
  readonly #refill: number;
  readonly #uop = 0;
  readonly #imm = this.w.local(I32);
  readonly #moves = this.w.local(I32);
  readonly #times = this.w.local(I32);
  readonly #bytes = this.w.local(I32);
  readonly #from = this.w.local(I64);
  readonly #to = this.w.local(I64);
  readonly #source = this.w.local(I32);
  readonly #target = this.w.local(I32);
  readonly #entry = this.w.local(I32);

  constructor(refill: number) {
    this.#refill = refill;
  }

  emit(): CodeWriter {
    const { w } = this;
    this.#refuse();
    // At least one iteration is left to the IR.
    this.#index(RCX, this.#from);
    w.i32Const(-1).get(this.#from).op(i32.wrap_i64);
    w.get(this.#from).i64Const(32n).op(i64.shr_u).op(i64.eqz).op(i32.eqz).select();
    w.i32Const(1).op(i32.sub).set(this.#times);
    this.#atMost(() => w.i32Const(0).mem(i32.load, CTL.budget));
    this.#nothingIf(() => w.i32Const(0).mem(i32.load, CTL.budget).i32Const(RUN_MIN).op(i32.lt_s));
    this.#index(RDI, this.#to);
    this.#atMost(() => this.#room(this.#to));
    w.get(this.#moves).if();
    this.#index(RSI, this.#from);
    this.#atMost(() => this.#room(this.#from));
    w.end();
    this.#nothingIf(() => w.get(this.#times).i32Const(RUN_MIN).op(i32.lt_u));
    w.get(this.#times).get(this.#imm).i32Const(BULK.sizeMask).op(i32.and).op(i32.shl).set(this.#bytes);
    w.get(this.#moves).if();
    this.#locate(this.#from, TLB.readTag, this.#source);
    w.end();
    this.#locate(this.#to, TLB.writeTag, this.#target);
    w.get(this.#moves).if();
    this.#move();
    w.else();
    this.#fill();
    w.end();
    this.#advance(RDI, this.#bytes);
    w.i32Const(0).get(this.#times).op(i32.sub).set(this.#entry);
    this.#advance(RCX, this.#entry);
    w.i32Const(0)
      .i32Const(0)
      .mem(i32.load, CTL.budget)
      .get(this.#times)
      .op(i32.sub)
      .mem(i32.store, CTL.budget);
    w.i32Const(1);
    return w;
  }

  /** Leaves to the callout what is not flat, goes downwards or may raise #AC. */
  #refuse(): void {
    const { w } = this;
    w.get(this.#uop).mem(i32.load, UOP.imm).set(this.#imm);
    w.get(this.#uop).mem(i32.load16_u, UOP.callout).i32Const(repMovsRun.id).op(i32.eq).set(this.#moves);
    // Fields a and b, which are neighbours.
    w.get(this.#uop).mem(i32.load, UOP.a);
    w.get(this.#imm).i32Const(BULK.addressShift).op(i32.shr_u).op(i32.eqz).op(i32.or);
    w.i32Const(0).mem(i32.load, FLAGS_SYSTEM).i32Const(FLAG_DF).op(i32.and).op(i32.or);
    w.i32Const(0).mem(i32.load, CTL.modeKey).i32Const(MODE.alignmentCheck).op(i32.and).op(i32.or);
    this.#refuseIf();
  }

  #refuseIf(): void {
    this.w.if().i32Const(0).return().end();
  }

  /** Ends with nothing done where nothing is to be done at once. */
  #nothingIf(condition: () => void): void {
    condition();
    this.w.if().i32Const(1).return().end();
  }

  /** Whether addresses have 64 bits. */
  #wide(): CodeWriter {
    return this.w.get(this.#imm).i32Const(BULK.addressShift).op(i32.shr_u).i32Const(2).op(i32.eq);
  }

  /** Reads an index register or the counter. */
  #index(register: number, local: number): void {
    const { w } = this;
    w.i32Const(0).mem(i64.load, register);
    w.i32Const(0).mem(i64.load32_u, register);
    this.#wide().select().set(local);
  }

  #advance(register: number, by: number): void {
    const { w } = this;
    w.i32Const(0);
    w.i32Const(0).mem(i64.load, register).get(by).op(i64.extend_i32_s).op(i64.add);
    w.i32Const(0).mem(i32.load, register).get(by).op(i32.add).op(i64.extend_i32_u);
    this.#wide().select().mem(i64.store, register);
  }

  /** `times` is no more than what `limit` pushes (unsigned). */
  #atMost(limit: () => void): void {
    const { w } = this;
    limit();
    w.set(this.#entry);
    w.get(this.#times).get(this.#entry).get(this.#times).get(this.#entry).op(i32.lt_u).select();
    w.set(this.#times);
  }

  /** Pushes how many elements fit into the rest of a page. */
  #room(linear: number): void {
    const { w } = this;
    w.i32Const(PAGE)
      .get(linear)
      .op(i32.wrap_i64)
      .i32Const(PAGE - 1)
      .op(i32.and)
      .op(i32.sub);
    w.get(this.#imm).i32Const(BULK.sizeMask).op(i32.and).op(i32.shr_u);
  }

  /** Arena address of a linear address, by the TLB. A page that is watched is not there for stores. */
  #locate(linear: number, tag: number, arena: number): void {
    const { w } = this;
    const halves = (): CodeWriter =>
      w.get(linear).op(i32.wrap_i64).get(linear).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    this.#pushMiss(linear, tag);
    w.if();
    halves()
      .i32Const(1 | (tag === TLB.writeTag ? SLOW.writeIntent : 0))
      .call(this.#refill);
    w.op(i32.eqz);
    this.#refuseIf();
    this.#pushMiss(linear, tag);
    this.#refuseIf();
    w.end();
    pushHost(w, linear, this.#entry).set(arena);
  }

  /** Pushes whether the TLB lacks a page. */
  #pushMiss(linear: number, tag: number): void {
    const { w } = this;
    pushTlbEntry(w, linear).tee(this.#entry).mem(i64.load, tag);
    w.get(linear).i64Const(BigInt(-PAGE)).op(i64.and).op(i64.ne);
  }

  #move(): void {
    const { w } = this;
    // An overlapping copy upwards repeats what it has just written: element by element only.
    this.#nothingIf(() => {
      w.get(this.#target).get(this.#source).op(i32.gt_u);
      w.get(this.#target).get(this.#source).get(this.#bytes).op(i32.add).op(i32.lt_u).op(i32.and);
    });
    w.get(this.#target).get(this.#source).get(this.#bytes).memoryCopy();
    this.#advance(RSI, this.#bytes);
  }

  /** Bytes, and zeros of any size; other patterns are the callout's. */
  #fill(): void {
    const { w } = this;
    w.i32Const(0).mem(i64.load, RAX).i64Const(0n).op(i64.ne);
    w.get(this.#imm).i32Const(BULK.sizeMask).op(i32.and).i32Const(0).op(i32.ne).op(i32.and);
    this.#refuseIf();
    w.get(this.#target).i32Const(0).mem(i32.load, RAX).get(this.#bytes).memoryFill();
  }
}
