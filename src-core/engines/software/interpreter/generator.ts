import type {
  AccessBytes,
  Bits,
  FlagArithmetic,
  FlagSource,
  InsteadName,
  OpGen,
  QuickName,
} from '../../../ir/op.ts';
import { I32, I64, LOADS, STORES, V128, type ValueType, i32, i64, v128 } from '../../../wasm/opcodes.ts';
import type { CodeWriter } from '../../../wasm/writer.ts';
import type { Callout } from '../../../x86/callout.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT, RIP, TLB } from '../../../x86/layout.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { EXIT, UOP } from '../exit.ts';
import type { QuickFunctions } from './quick.ts';
import { pushHost, pushTlbEntry } from './tlb-entry.ts';

/** Indices of functions that operations call: imported ones, refill (see emitRefill) and what operations do quickly. */
export interface CalledFunctions extends QuickFunctions, Record<InsteadName, number> {
  refill: number;
  slowLoad: number;
  slowStore: number;
  callout: number;
}

/**
 * Emits operations for the interpreter: operands are read through the fields of the micro-op at local `pc`, results go
 * straight to the vCPU state.
 */
export class InterpreterGen implements OpGen {
  readonly w: CodeWriter;
  readonly #pc: number;
  readonly #called: CalledFunctions;
  readonly #scratch = new Map<string, number>();
  /** Branch depth inside the dispatch loop, set by the generator. */
  dispatchDepth = 0;
  /** Type index of regions' functions. */
  regionType = 0;
  /** Local with the link that the next dispatch may find its block through (block-links.ts). */
  link = -1;

  constructor(w: CodeWriter, pc: number, called: CalledFunctions) {
    this.w = w;
    this.#pc = pc;
    this.#called = called;
  }

  /** Pushes the location in a micro-op's field. */
  #field(offset: number): void {
    this.w.get(this.#pc).mem(i32.load16_u, offset);
  }

  #read(field: number, bits: Bits): void {
    this.#field(field);
    this.w.mem(bits === 8 ? i32.load8_u : bits === 16 ? i32.load16_u : bits === 32 ? i32.load : i64.load);
  }

  a(bits: Bits): void {
    this.#read(UOP.a, bits);
  }
  b(bits: Bits): void {
    this.#read(UOP.b, bits);
  }
  dst(bits: Bits): void {
    this.#read(UOP.dst, bits);
  }
  #half(field: number, offset: number): void {
    this.#field(field);
    this.w.mem(i64.load, offset);
  }
  aHalf(offset: number): void {
    this.#half(UOP.a, offset);
  }
  bHalf(offset: number): void {
    this.#half(UOP.b, offset);
  }
  #wide(field: number): void {
    this.#field(field);
    this.w.mem(v128.load);
  }
  a128(): void {
    this.#wide(UOP.a);
  }
  b128(): void {
    this.#wide(UOP.b);
  }
  dst128(): void {
    this.#wide(UOP.dst);
  }

  set(bits: Bits, value: () => void): void {
    this.#field(UOP.dst);
    value();
    if (bits === 8) this.w.mem(i32.store8);
    else if (bits === 16) this.w.mem(i32.store16);
    else if (bits === 32) this.w.op(i64.extend_i32_u).mem(i64.store);
    else this.w.mem(i64.store);
  }
  set128(value: () => void): void {
    this.#field(UOP.dst);
    value();
    this.w.mem(v128.store);
  }
  setHalf(offset: number, value: () => void): void {
    this.#field(UOP.dst);
    value();
    this.w.mem(i64.store, offset);
  }

  imm32(): void {
    this.w.get(this.#pc).mem(i32.load, UOP.imm);
  }
  imm64(): void {
    this.w.get(this.#pc).mem(i64.load32_s, UOP.imm);
  }
  wide(): void {
    this.w.get(this.#pc).mem(i64.load, UOP.wide);
  }
  c(): void {
    this.#field(UOP.c);
  }

  scratch(type: ValueType, n: number): number {
    const key = `${type}.${n}`;
    let local = this.#scratch.get(key);
    if (local === undefined) this.#scratch.set(key, (local = this.w.local(type)));
    return local;
  }

  readonly immediate = undefined;
  flagArithmetic(): FlagArithmetic | undefined {
    return undefined;
  }
  flagsResult(): void {
    this.state64(FLAGS_RESULT);
  }
  flagsAux(): void {
    this.state32(FLAGS_AUX);
  }
  setFlags({ result, aux }: FlagSource): void {
    this.setState64(FLAGS_RESULT, result);
    this.setState32(FLAGS_AUX, aux);
  }
  captureFlags(): FlagSource {
    return { result: () => this.flagsResult(), aux: () => this.flagsAux() };
  }
  state32(offset: number): void {
    this.w.i32Const(0).mem(i32.load, offset);
  }
  state64(offset: number): void {
    this.w.i32Const(0).mem(i64.load, offset);
  }
  setState32(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    this.w.mem(i32.store, offset);
  }
  setState64(offset: number, value: () => void): void {
    this.w.i32Const(0);
    value();
    this.w.mem(i64.store, offset);
  }

  #exitHere(reason: number): void {
    this.setState32(CTL.exitUop, () => this.w.get(this.#pc));
    this.w.i32Const(reason).return();
  }

  fault(vector: number, errorCode: number): void {
    if (vector >= 0) this.setState32(CTL.faultVector, () => this.w.i32Const(vector));
    this.setState32(CTL.faultCode, () => this.w.i32Const(errorCode));
    this.#exitHere(EXIT.fault);
  }

  /** Leaves with the fault that an imported function recorded, if the status on the stack says so. */
  #leaveIfFaulted(): void {
    this.w.if();
    this.#exitHere(EXIT.fault);
    this.w.end();
  }

  callout(callout: Callout): void {
    this.setState32(CTL.exitUop, () => this.w.get(this.#pc));
    this.w.i32Const(callout.id).get(this.#pc).call(this.#called.callout);
    this.#leaveIfFaulted();
  }
  rareCallout(callout: Callout): void {
    this.callout(callout);
  }
  calloutOfOp(): void {
    this.setState32(CTL.exitUop, () => this.w.get(this.#pc));
    this.#field(UOP.callout);
    this.w.get(this.#pc).call(this.#called.callout);
    this.#leaveIfFaulted();
  }

  calloutOfOpUnless(name: InsteadName): void {
    this.w.get(this.#pc).call(this.#called[name]).op(i32.eqz).if();
    this.calloutOfOp();
    this.w.end();
  }

  quick(name: QuickName, parameters: () => void): void {
    parameters();
    this.w.call(this.#called[name]);
  }

  /** An address as an i64 local. */
  #wideAddress(address: number, width: 32 | 64): number {
    if (width === 64) return address;
    const wide = this.scratch(I64, 11);
    this.w.get(address).op(i64.extend_i32_u).set(wide);
    return wide;
  }

  /** Leaves the TLB entry's arena address in scratch and pushes whether its tag allows the access. */
  #probe(address: number, bytes: number, tag: number, entry: number): void {
    const { w } = this;
    pushTlbEntry(w, address).tee(entry).mem(i64.load, tag);
    w.get(address);
    if (bytes > 1) w.i64Const(BigInt(bytes - 1)).op(i64.add);
    w.i64Const(-4096n).op(i64.and).op(i64.eq);
  }

  #slowArguments(address: number, info: number): void {
    const { w } = this;
    w.get(address).op(i32.wrap_i64).get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    this.#field(UOP.c);
    w.i32Const(info).op(i32.or);
  }

  load(linear: () => number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void {
    const { w } = this;
    const address = this.#wideAddress(linear(), width);
    const entry = this.scratch(I32, 10);
    const type = bytes === 16 ? V128 : bytes === 8 ? I64 : I32;
    w.block(type);
    this.#probe(address, bytes, forWrite ? TLB.writeTag : TLB.readTag, entry);
    if (bytes === 16) this.#alignedOrAny(address);
    w.if(I32);
    pushHost(this.w, address, entry);
    w.else();
    this.#slowArguments(address, bytes);
    w.call(this.#called.refill).tee(entry).op(i32.eqz).if();
    this.setState32(CTL.exitUop, () => w.get(this.#pc));
    this.#slowArguments(address, bytes);
    w.call(this.#called.slowLoad);
    this.#leaveIfFaulted();
    w.i32Const(0);
    w.mem(LOADS[bytes], bytes === 16 ? CTL.slowWide : CTL.slowValue);
    w.br(2);
    w.end();
    w.get(entry);
    w.end();
    w.mem(LOADS[bytes]);
    w.end();
  }

  /** 16-byte accesses: ANDs in that the address is aligned where field c asks for it; the slow path raises the fault. */
  #alignedOrAny(address: number): void {
    const { w } = this;
    this.#field(UOP.c);
    w.i32Const(10).op(i32.shr_u).i32Const(1).op(i32.and);
    w.get(address).op(i32.wrap_i64).i32Const(15).op(i32.and).i32Const(0).op(i32.ne);
    w.op(i32.and).op(i32.eqz).op(i32.and);
  }

  store(linear: () => number, width: 32 | 64, bytes: AccessBytes, pushValue: () => void): void {
    const { w } = this;
    const address = this.#wideAddress(linear(), width);
    const value = this.scratch(bytes === 16 ? V128 : bytes === 8 ? I64 : I32, 6);
    pushValue();
    w.set(value);
    const entry = this.scratch(I32, 10);
    w.block();
    this.#probe(address, bytes, TLB.writeTag, entry);
    if (bytes === 16) this.#alignedOrAny(address);
    w.if(I32);
    pushHost(this.w, address, entry);
    w.else();
    this.#slowArguments(address, bytes | SLOW.writeIntent);
    w.call(this.#called.refill).tee(entry).op(i32.eqz).if();
    this.setState32(CTL.exitUop, () => w.get(this.#pc));
    w.i32Const(0).get(value);
    if (bytes === 16) w.mem(v128.store, CTL.slowWide);
    else w.mem(bytes === 8 ? i64.store : i32.store, CTL.slowValue);
    this.#slowArguments(address, bytes);
    w.call(this.#called.slowStore);
    this.#leaveIfFaulted();
    w.br(2);
    w.end();
    w.get(entry);
    w.end();
    w.get(value);
    w.mem(STORES[bytes]);
    w.end();
  }

  jump(codeBits: 16 | 32 | 64): void {
    this.#jumpRelative(codeBits, () => this.imm32());
  }
  branch(codeBits: 16 | 32 | 64, condition: () => void): void {
    const { w } = this;
    const taken = this.scratch(I32, 0);
    this.#jumpRelative(
      codeBits,
      () => {
        this.imm32();
        this.c();
        condition();
        w.tee(taken).select();
      },
      taken,
    );
  }
  skip(codeBits: 16 | 32 | 64, condition: () => void): void {
    condition();
    this.w.if();
    this.jump(codeBits);
    this.w.end();
  }
  /** `taken`: local that says which of its two ways a branch goes. */
  #jumpRelative(codeBits: 16 | 32 | 64, offset: () => void, taken?: number): void {
    const { w } = this;
    this.setState64(RIP, () => {
      this.state64(RIP);
      offset();
      w.op(i64.extend_i32_s).op(i64.add);
      w.lowBits(codeBits);
    });
    w.get(this.#pc);
    if (taken !== undefined) w.get(taken).op(i32.eqz).op(i32.or);
    w.set(this.link);
    w.br(w.depth - this.dispatchDepth);
  }
  jumpAbsolute(target: () => void): void {
    this.setState64(RIP, target);
    this.w.br(this.w.depth - this.dispatchDepth);
  }
  jumpVia(target: () => void): void {
    const { w } = this;
    const to = this.scratch(I64, 0);
    const pc = this.#pc;
    target();
    w.set(to);
    w.get(pc).get(pc).mem(i32.load16_u, UOP.c).i32Const(1).op(i32.add).i32Const(0);
    w.get(pc).mem(i32.load, UOP.imm).get(to).op(i32.wrap_i64).op(i32.eq).select().mem(i32.store16, UOP.c);
    w.get(pc).get(to).op(i32.wrap_i64).mem(i32.store, UOP.imm);
    w.get(pc).set(this.link);
    this.jumpAbsolute(() => w.get(to));
  }
  leave(): void {
    this.w.i32Const(EXIT.check).return();
  }
}
