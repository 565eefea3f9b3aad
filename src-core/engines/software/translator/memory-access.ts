import type { AccessBytes } from '../../../ir/op.ts';
import { ACCESS_INFO } from '../../../ir/ops/memory.ts';
import { I32, I64, i32, i64, LOADS, STORES, v128 } from '../../../wasm/opcodes.ts';
import { CTL, TLB } from '../../../x86/layout.ts';
import { SymbolicValues } from './addresses.ts';
import type { RegionFrame } from './frame.ts';
import type { RegionNode } from './region.ts';
import { KnownSpans, planProbes, type ProbePlan } from './shared-probes.ts';
import type { WaysOut } from './ways-out.ts';

const PAGE_MASK = -4096;

/**
 * Accesses to the guest's memory: each looks its page up in the TLB (a probe) unless one before it did so for both; the
 * rare rest leaves, or calls out where it is not rare (adaptation.ts).
 */
export class MemoryAccesses {
  readonly #frame: RegionFrame;
  readonly #out: WaysOut;
  /** What is known of addresses, and which of the guest's memory needs no look-up, on the path being emitted. */
  readonly #values: SymbolicValues;
  readonly #spans = new KnownSpans();
  readonly #spanLocals: number[] = [];
  /** What the accesses of the node being emitted look up. */
  #plan: ReadonlyMap<number, ProbePlan> = new Map();
  /** What an adapted access of the operation being emitted returned (i32). */
  #accessStatus: number | undefined;

  constructor(frame: RegionFrame, out: WaysOut) {
    this.#frame = frame;
    this.#out = out;
    this.#values = new SymbolicValues(frame.registerType === I64 ? 64 : 32);
  }

  /** A node's operations follow. */
  beginNode(node: RegionNode): void {
    this.#plan = planProbes(node, this.#values, this.#frame.formOf);
  }

  /** Follows what the operation just emitted did to addresses; leaves if its access asks for that. */
  endOperation(): void {
    const { step, w } = this.#frame;
    this.#values.apply(step.op);
    if (this.#accessStatus === undefined) return;
    w.get(this.#accessStatus).i32Const(2).op(i32.eq).hint(false).if();
    this.#out.resumeAt(step.index + 1);
    w.end();
    this.#accessStatus = undefined;
  }

  /** Loads the TLB bank: others may have changed it, and the registers that addresses are known by. */
  reload(): void {
    const { w, bank, bankKnown } = this.#frame;
    if (!bankKnown) w.i32Const(0).mem(i32.load, CTL.tlbBank).set(bank);
    this.forget();
  }

  /** The TLB bank on the stack is the one from here on: what may be accessed is another question now. */
  setBank(): void {
    this.#frame.w.tee(this.#frame.bank);
    this.forgetPlaces();
  }

  /** Nothing is known of what registers hold and where memory is. */
  forget(): void {
    this.#values.clear();
    this.#spans.clear();
  }

  /** Nothing is known of where memory is. */
  forgetPlaces(): void {
    this.#spans.clear();
  }

  /** Remembers what is known here; the function returned brings it back. */
  save(): () => void {
    const plan = this.#plan;
    const values = this.#values.save();
    const spans = this.#spans.save();
    return () => {
      this.#plan = plan;
      values();
      spans();
    };
  }

  /** See OpGen.load. */
  load(address: () => number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void {
    const { w, imports } = this.#frame;
    if (this.#isCallout()) {
      this.#slowAccess(address(), width, bytes, imports.slowLoad);
      const value = w.i32Const(0);
      if (bytes === 16) value.mem(v128.load, CTL.slowWide);
      else value.mem(bytes === 8 ? i64.load : i32.load, CTL.slowValue);
      return;
    }
    const { host, offset } = this.#place(address, width, bytes, forWrite);
    w.get(host).mem(LOADS[bytes], offset);
  }

  /** See OpGen.store. */
  store(address: () => number, width: 32 | 64, bytes: AccessBytes, value: () => void): void {
    const { w, imports } = this.#frame;
    if (this.#isCallout()) {
      const at = address();
      w.i32Const(0);
      value();
      if (bytes === 16) w.mem(v128.store, CTL.slowWide);
      else w.mem(bytes === 8 ? i64.store : i32.store, CTL.slowValue);
      this.#slowAccess(at, width, bytes, imports.slowStore);
      return;
    }
    const { host, offset } = this.#place(address, width, bytes, true);
    w.get(host);
    value();
    w.mem(STORES[bytes], offset);
  }

  #isCallout(): boolean {
    const { step, formOf } = this.#frame;
    return formOf(step.node, step.index) === 'callout';
  }

  /** Where an access takes place: an arena address in a local, and a distance from it. Or it leaves. */
  #place(
    putAddress: () => number,
    width: 32 | 64,
    bytes: AccessBytes,
    write: boolean,
  ): { host: number; offset: number } {
    const { w, step, scratch } = this.#frame;
    const { op, index, node } = step;
    const isAligned = bytes === 16 && (op.c & ACCESS_INFO.aligned) !== 0;
    const symbolic = this.#values.addressOf(op);
    const span = symbolic && this.#spans.find(symbolic, bytes, write);
    const known = span && { host: span.local, offset: symbolic.offset - span.low };
    if (known && !isAligned) return known;
    const address = putAddress();
    if (isAligned) {
      w.get(address);
      if (width === 64) w.op(i32.wrap_i64);
      w.i32Const(15).op(i32.and).hint(false).if();
      this.#out.resumeInstruction();
      w.end();
    }
    if (known) return known;
    if (this.#frame.formOf(node, index) === 'refill') {
      const host = scratch.get(I32, 11);
      this.#probeOrRefill(address, width, bytes, write, host);
      // Page tables that were walked are watched from now on.
      this.#spans.forgetStores();
      return { host, offset: 0 };
    }
    const plan = this.#plan.get(index);
    if (!symbolic || !plan) {
      const host = scratch.get(I32, 11);
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
    const { w } = this.#frame;
    let from = address;
    if (plan.low !== 0) {
      from = this.#frame.scratch.get(width === 64 ? I64 : I32, 9);
      w.get(address);
      if (width === 64) w.i64Const(BigInt(plan.low)).op(i64.add);
      else w.i32Const(plan.low).op(i32.add);
      w.set(from);
    }
    const addend = this.#pushMisses(from, width, plan.high - plan.low, plan.write);
    w.hint(false).if();
    this.#out.resumeInstruction();
    w.end();
    addend();
    w.set(host);
  }

  /**
   * The same for an access whose page the TLB often lacks: it is filled from here, by a call, which costs much of what
   * V8 keeps in registers.
   */
  #probeOrRefill(address: number, width: 32 | 64, bytes: AccessBytes, write: boolean, host: number): void {
    const { w, imports, uop, step } = this.#frame;
    const addend = this.#pushMisses(address, width, bytes, write);
    w.hint(false).if(I32);
    w.get(address);
    if (width === 64) {
      w.op(i32.wrap_i64);
      w.get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    } else {
      w.i32Const(0);
    }
    w.i32Const(step.op.c | bytes)
      .i32Const(uop)
      .call(write ? imports.locateStore : imports.locateLoad);
    w.tee(host).i32Const(0).op(i32.lt_s).hint(false).if();
    this.#out.resumeHere();
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
    const { w, scratch, registerType, bankKnown, bank } = this.#frame;
    const tag = write ? TLB.writeTag : TLB.readTag;
    const entry = scratch.get(I32, 10);
    const legacy = registerType === I32;
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
    let base = 0;
    if (bankKnown) base = TLB.bankUser;
    else w.get(bank).op(i32.add);
    w.tee(entry);
    if (legacy) {
      // Linear addresses have 32 bits: the tag's low half is enough.
      w.mem(i32.load, base + tag);
      low();
      if (bytes > 1) w.i32Const(bytes - 1).op(i32.add);
      w.i32Const(PAGE_MASK).op(i32.and).op(i32.ne);
    } else {
      w.mem(i64.load, base + tag).get(address);
      if (width === 32) w.op(i64.extend_i32_u);
      if (bytes > 1) w.i64Const(BigInt(bytes - 1)).op(i64.add);
      w.i64Const(BigInt(PAGE_MASK)).op(i64.and).op(i64.ne);
    }
    return () => {
      low();
      w.get(entry)
        .mem(i32.load, base + TLB.addend)
        .op(i32.add);
    };
  }

  /** An access as a callout: only what devices may ask about the vCPU is brought up to date. */
  #slowAccess(address: number, width: 32 | 64, bytes: AccessBytes, slow: number): void {
    const frame = this.#frame;
    const { w, scratch, uop, unpaid, budget, step } = frame;
    const status = scratch.get(I32, 14);
    frame.storeBudget();
    frame.storePosition();
    w.get(address);
    if (width === 64) {
      w.op(i32.wrap_i64);
      w.get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    } else {
      w.i32Const(0);
    }
    w.i32Const(step.op.c | bytes)
      .i32Const(uop)
      .call(slow)
      .set(status);
    // What asks for attention takes the budget away.
    w.i32Const(0).mem(i32.load, CTL.budget);
    if (unpaid > 0) w.i32Const(unpaid).op(i32.add);
    w.set(budget).get(status).i32Const(1).op(i32.eq).hint(false).if();
    this.#out.resumeHere();
    w.end();
    this.#accessStatus = status;
    this.#spans.clear();
  }
}
