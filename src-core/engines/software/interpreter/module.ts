import { ARENA } from '../../../machine/arena.ts';
import {
  type AccessBytes,
  type Bits,
  type FlagArithmetic,
  type FlagSource,
  type OpDef,
  type OpGen,
  ops,
  type QuickName,
} from '../../../ir/op.ts';
import { emitDeferredFlags } from '../../../ir/ops/arithmetic.ts';
import '../../../ir/ops/index.ts';
import { I32, I64, V128, type ValueType, i32, i64, v128 } from '../../../wasm/opcodes.ts';
import { CodeWriter, ModuleWriter } from '../../../wasm/writer.ts';
import type { Callout } from '../../../x86/callout.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT, RIP, TLB } from '../../../x86/layout.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { MODE } from '../../../x86/mode.ts';
import { BLOCK, ENTRY, EXIT, LOOKUP, REGION, RESUMES_PER_LOOK, SITE, UOP } from '../exit.ts';
import { emitLocate, emitRefill } from '../mmu/refill.ts';
import { emitQuick, type QuickFunctions } from './quick.ts';
import { emitStringRun } from './string-run.ts';

/** What the interpreter calls in TypeScript. All return 0 to go on, 1 when a fault was recorded. */
export interface InterpreterImports {
  /** Linear address in halves, size and ACCESS_INFO; the value comes in CTL.slowValue or slowWide. */
  slowLoad(lo: number, hi: number, info: number): number;
  /** The same; the value is in CTL.slowValue or slowWide. */
  slowStore(lo: number, hi: number, info: number): number;
  /** Callout id, arena address of the micro-op. */
  callout(id: number, uop: number): number;
}

/** Indices of functions that operations call: imported ones, refill (see emitRefill) and what operations do quickly. */
interface Imports extends QuickFunctions {
  refill: number;
  stringRun: number;
  slowLoad: number;
  slowStore: number;
  callout: number;
}

/**
 * Emits operations for the interpreter: operands are read through the fields of the micro-op at local `pc`, results go
 * straight to the vCPU state.
 */
class InterpreterGen implements OpGen {
  readonly w: CodeWriter;
  readonly #pc: number;
  readonly #imports: Imports;
  readonly #scratch = new Map<string, number>();
  /** Branch depth inside the dispatch loop, set by the generator. */
  dispatchDepth = 0;
  /** Type index of regions' functions. */
  regionType = 0;

  constructor(w: CodeWriter, pc: number, imports: Imports) {
    this.w = w;
    this.#pc = pc;
    this.#imports = imports;
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
    this.w.i32Const(callout.id).get(this.#pc).call(this.#imports.callout);
    this.#leaveIfFaulted();
  }
  calloutOfOp(): void {
    this.setState32(CTL.exitUop, () => this.w.get(this.#pc));
    this.#field(UOP.callout);
    this.w.get(this.#pc).call(this.#imports.callout);
    this.#leaveIfFaulted();
  }

  stringRun(): void {
    this.w.get(this.#pc).call(this.#imports.stringRun).op(i32.eqz).if();
    this.calloutOfOp();
    this.w.end();
  }

  quick(name: QuickName, parameters: () => void): void {
    parameters();
    this.w.call(this.#imports[name]);
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
    w.get(address)
      .i64Const(12n)
      .op(i64.shr_u)
      .op(i32.wrap_i64)
      .i32Const(TLB.entries - 1)
      .op(i32.and);
    w.i32Const(Math.log2(TLB.entrySize)).op(i32.shl);
    this.state32(CTL.tlbBank);
    w.op(i32.add).tee(entry).mem(i64.load, tag);
    w.get(address);
    if (bytes > 1) w.i64Const(BigInt(bytes - 1)).op(i64.add);
    w.i64Const(-4096n).op(i64.and).op(i64.eq);
  }

  #host(address: number, entry: number): void {
    this.w.get(address).op(i32.wrap_i64).get(entry).mem(i32.load, TLB.addend).op(i32.add);
  }

  #slowArguments(address: number, info: number): void {
    const { w } = this;
    w.get(address).op(i32.wrap_i64).get(address).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
    this.#field(UOP.c);
    w.i32Const(info).op(i32.or);
  }

  load(linear: number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void {
    const { w } = this;
    const address = this.#wideAddress(linear, width);
    const entry = this.scratch(I32, 10);
    const type = bytes === 16 ? V128 : bytes === 8 ? I64 : I32;
    w.block(type);
    this.#probe(address, bytes, forWrite ? TLB.writeTag : TLB.readTag, entry);
    if (bytes === 16) this.#alignedOrAny(address);
    w.if(I32);
    this.#host(address, entry);
    w.else();
    this.#slowArguments(address, bytes);
    w.call(this.#imports.refill).tee(entry).op(i32.eqz).if();
    this.setState32(CTL.exitUop, () => w.get(this.#pc));
    this.#slowArguments(address, bytes);
    w.call(this.#imports.slowLoad);
    this.#leaveIfFaulted();
    w.i32Const(0);
    if (bytes === 16) w.mem(v128.load, CTL.slowWide);
    else
      w.mem(
        bytes === 8 ? i64.load : bytes === 4 ? i32.load : bytes === 2 ? i32.load16_u : i32.load8_u,
        CTL.slowValue,
      );
    w.br(2);
    w.end();
    w.get(entry);
    w.end();
    w.mem(
      bytes === 16
        ? v128.load
        : bytes === 8
          ? i64.load
          : bytes === 4
            ? i32.load
            : bytes === 2
              ? i32.load16_u
              : i32.load8_u,
    );
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

  store(linear: number, width: 32 | 64, bytes: AccessBytes, value: number): void {
    const { w } = this;
    const address = this.#wideAddress(linear, width);
    const entry = this.scratch(I32, 10);
    w.block();
    this.#probe(address, bytes, TLB.writeTag, entry);
    if (bytes === 16) this.#alignedOrAny(address);
    w.if(I32);
    this.#host(address, entry);
    w.else();
    this.#slowArguments(address, bytes | SLOW.writeIntent);
    w.call(this.#imports.refill).tee(entry).op(i32.eqz).if();
    this.setState32(CTL.exitUop, () => w.get(this.#pc));
    w.i32Const(0).get(value);
    if (bytes === 16) w.mem(v128.store, CTL.slowWide);
    else w.mem(bytes === 8 ? i64.store : i32.store, CTL.slowValue);
    this.#slowArguments(address, bytes);
    w.call(this.#imports.slowStore);
    this.#leaveIfFaulted();
    w.br(2);
    w.end();
    w.get(entry);
    w.end();
    w.get(value);
    w.mem(
      bytes === 16
        ? v128.store
        : bytes === 8
          ? i64.store
          : bytes === 4
            ? i32.store
            : bytes === 2
              ? i32.store16
              : i32.store8,
    );
    w.end();
  }

  jump(codeBits: 16 | 32 | 64): void {
    this.#jumpRelative(codeBits, () => this.imm32());
  }
  branch(codeBits: 16 | 32 | 64, condition: () => void): void {
    this.#jumpRelative(codeBits, () => {
      this.imm32();
      this.c();
      condition();
      this.w.select();
    });
  }
  skip(codeBits: 16 | 32 | 64, condition: () => void): void {
    condition();
    this.w.if();
    this.jump(codeBits);
    this.w.end();
  }
  #jumpRelative(codeBits: 16 | 32 | 64, offset: () => void): void {
    this.setState64(RIP, () => {
      this.state64(RIP);
      offset();
      this.w.op(i64.extend_i32_s).op(i64.add);
      if (codeBits !== 64) this.w.i64Const(codeBits === 16 ? 0xffffn : 0xffffffffn).op(i64.and);
    });
    this.w.br(this.w.depth - this.dispatchDepth);
  }
  jumpAbsolute(target: () => void): void {
    this.setState64(RIP, target);
    this.w.br(this.w.depth - this.dispatchDepth);
  }
  leave(): void {
    this.w.i32Const(EXIT.check).return();
  }
}

/**
 * Generates the interpreter: one function `run(block, uop) -> EXIT reason` that executes the block at that arena
 * address (0: the one RIP leads to) and those that follow, until something needs TypeScript. With `uop` not 0 it first
 * goes on at that micro-op, in the middle of block CTL.currentBlock.
 */
export function generateInterpreter(memoryPages: number): Uint8Array<ArrayBuffer> {
  const module = new ModuleWriter();
  module.importTable(1);
  const imported = {
    slowLoad: module.importFunction('slowLoad', [I32, I32, I32], [I32]),
    slowStore: module.importFunction('slowStore', [I32, I32, I32], [I32]),
    callout: module.importFunction('callout', [I32, I32], [I32]),
  };
  const { refill, tracedStore } = emitRefill(module);
  module.export('tracedStore', tracedStore);
  const stringRun = emitStringRun(module, refill);
  module.export('stringRun', stringRun);
  const quick = emitQuick(module);
  for (const [name, index] of Object.entries(quick)) module.export(name, index);
  const imports: Imports = { ...imported, ...quick, refill, stringRun };
  const { locateLoad, locateStore } = emitLocate(module, refill);
  module.export('locateLoad', locateLoad);
  module.export('locateStore', locateStore);
  const deferredFlags = module.declare([], []);
  const flagsCode = new CodeWriter(0);
  emitDeferredFlags(new InterpreterGen(flagsCode, 0, imports));
  module.define(deferredFlags, flagsCode);
  module.export('deferredFlags', deferredFlags);

  const run = module.declare([I32, I32], [I32]);
  const w = new CodeWriter(2);
  const block = 0;
  const resumeAt = 1;
  const pc = w.local(I32);
  /** How to enter the block's region. */
  const region = w.local(I32);
  /** 1: a region has refused to run what stands at RIP, which is interpreted therefore. */
  const refused = w.local(I32);
  const g = new InterpreterGen(w, pc, imports);
  g.regionType = module.functionType([I32], [I32]);
  const makeFlags = (): void => {
    g.state32(CTL.flagsKind);
    w.if().call(deferredFlags).end();
  };

  w.loop();
  g.dispatchDepth = w.depth;
  w.block();
  w.get(resumeAt).if();
  w.get(resumeAt).set(pc).i32Const(0).set(resumeAt);
  w.br(1);
  w.end();
  emitDispatch(g, block, region, refill);
  emitRegionCall(g, { block, region, pc, refused }, makeFlags);
  makeFlags();
  const heat = g.scratch(I32, 0);
  w.get(block)
    .get(block)
    .mem(i32.load, BLOCK.heat)
    .i32Const(1)
    .op(i32.sub)
    .tee(heat)
    .mem(i32.store, BLOCK.heat);
  w.get(heat).op(i32.eqz).if();
  g.setState32(CTL.currentBlock, () => w.get(block));
  w.i32Const(EXIT.hot).return();
  w.end();
  // The block's instructions are paid for at its entry; a fault gives back what was not executed.
  const left = g.scratch(I32, 0);
  g.state32(CTL.budget);
  w.get(block).mem(i32.load, BLOCK.count).op(i32.sub).tee(left).i32Const(0).op(i32.lt_s).if();
  w.i32Const(EXIT.budget).return();
  w.end();
  g.setState32(CTL.budget, () => w.get(left));
  g.setState32(CTL.currentBlock, () => w.get(block));
  w.get(block).i32Const(BLOCK.header).op(i32.add).set(pc);
  w.end();
  // The next dispatch looks its block up.
  w.i32Const(0).set(block);
  w.loop();
  const uopDepth = w.depth;
  const defs: readonly OpDef[] = ops();
  for (let i = 0; i < defs.length + 1; i++) w.block();
  w.get(pc).mem(i32.load16_u, UOP.op);
  w.brTable(
    defs.map((_, index) => index),
    defs.length,
  );
  w.end();
  for (const def of defs) {
    def.emit(g);
    if (def.terminates) w.unreachable();
    else {
      w.get(pc).i32Const(UOP.size).op(i32.add).set(pc);
      w.br(w.depth - uopDepth);
    }
    w.end();
  }
  w.unreachable();
  w.end();
  w.end();
  w.unreachable();
  module.define(run, w);
  module.export('run', run);
  return module.finish(memoryPages);
}

/**
 * Calls the region that is entered at `block`, if there is one, and goes by what it returns: round the dispatch loop again,
 * out of the block this is emitted in with `pc` set, out of the interpreter, or on to interpreting `block`.
 */
function emitRegionCall(
  g: InterpreterGen,
  { block, region, pc, refused }: { block: number; region: number; pc: number; refused: number },
  makeFlags: () => void,
): void {
  const { w } = g;
  const result = g.scratch(I32, 0);
  const before = g.scratch(I64, 1);
  w.get(region).i32Const(0).get(refused).op(i32.eqz).select();
  w.i32Const(0).set(refused);
  w.if();
  g.state64(RIP);
  w.set(before);
  w.get(region);
  w.get(region).i32Const(ENTRY.slotMask).op(i32.and).callIndirect(g.regionType).set(result);
  w.get(result).i32Const(REGION.refuse).op(i32.eq).if();
  // Another region may have refused, which this one went on to.
  g.state64(RIP);
  w.get(before).op(i64.ne).if();
  w.i32Const(1).set(refused).i32Const(0).set(block);
  w.br(w.depth - g.dispatchDepth);
  w.end();
  w.else();
  w.i32Const(0).set(block);
  w.get(result)
    .op(i32.eqz)
    .brIf(w.depth - g.dispatchDepth);
  w.get(result).i32Const(REGION.site).op(i32.eq).if();
  // What is interpreted next makes flags as words.
  makeFlags();
  emitResume(g, pc);
  w.br(3);
  w.end();
  w.get(result).i32Const(REGION.resume).op(i32.eq).if();
  makeFlags();
  g.state32(CTL.exitUop);
  w.set(pc);
  w.br(3);
  w.end();
  w.i32Const(EXIT.check).i32Const(EXIT.fault).get(result).i32Const(REGION.check).op(i32.eq).select().return();
  w.end();
  w.end();
}

/** Makes of the state a region was left with that of the block to go on in, and sets `pc`. */
function emitResume(g: InterpreterGen, pc: number): void {
  const { w } = g;
  const node = g.scratch(I32, 1);
  g.state32(CTL.resumeTable);
  g.state32(CTL.resumeSite);
  w.i32Const(SITE.nodeShift).op(i32.shr_u).i32Const(SITE.entrySize).op(i32.mul).op(i32.add).set(node);
  g.setState64(RIP, () => {
    g.state64(RIP);
    w.get(node).mem(i64.load32_s, SITE.delta).op(i64.add);
    // Truncated to the code size: 64 bits, or 32, or 16.
    w.i64Const(0xffffffffn).i64Const(0xffffn);
    g.state32(CTL.modeKey);
    w.i32Const(MODE.code32).op(i32.and).select();
    w.i64Const(-1n);
    g.state32(CTL.modeKey);
    w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.ne).select();
    w.op(i64.and);
  });
  g.setState32(CTL.budget, () => {
    g.state32(CTL.budget);
    w.get(node).mem(i32.load, SITE.unpaid).op(i32.sub);
  });
  g.setState32(CTL.currentBlock, () => w.get(node).mem(i32.load, SITE.block));
  w.get(node).mem(i32.load, SITE.block);
  g.state32(CTL.resumeSite);
  w.i32Const((1 << SITE.nodeShift) - 1)
    .op(i32.and)
    .i32Const(UOP.size)
    .op(i32.mul);
  w.i32Const(BLOCK.header).op(i32.add).op(i32.add).set(pc);
  const resumes = g.scratch(I32, 2);
  w.get(node).mem(i32.load, SITE.block).tee(node).get(node).mem(i32.load, BLOCK.resumes);
  w.i32Const(1).op(i32.add).tee(resumes).mem(i32.store, BLOCK.resumes);
  w.get(resumes)
    .i32Const(RESUMES_PER_LOOK - 1)
    .op(i32.and)
    .op(i32.eqz)
    .if();
  g.setState32(CTL.exitUop, () => w.get(pc));
  w.i32Const(EXIT.adapt).return();
  w.end();
}

/** Finds the block for RIP and its region unless a block was given, or returns EXIT.miss; checks CS.limit. */
function emitDispatch(g: InterpreterGen, block: number, region: number, refill: number): void {
  const { w } = g;
  const linear = g.scratch(I64, 0);
  const entry = g.scratch(I32, 1);
  const code = g.scratch(I32, 2);
  w.get(block).op(i32.eqz).if();
  g.state64(RIP);
  g.state64(CTL.codeBase);
  w.op(i64.add).set(linear);
  g.state64(CTL.codeBase);
  w.op(i64.eqz).op(i32.eqz).if();
  w.get(linear).i64Const(0xffffffffn).op(i64.and).set(linear);
  w.end();
  const pushTlbEntry = (): void => {
    w.get(linear)
      .i64Const(12n)
      .op(i64.shr_u)
      .op(i32.wrap_i64)
      .i32Const(TLB.entries - 1)
      .op(i32.and);
    w.i32Const(Math.log2(TLB.entrySize)).op(i32.shl);
    g.state32(CTL.tlbBank);
    w.op(i32.add);
  };
  pushTlbEntry();
  w.tee(entry).mem(i64.load, TLB.execTag);
  w.get(linear).i64Const(-4096n).op(i64.and).op(i64.ne).if(I32);
  w.get(linear).op(i32.wrap_i64).get(linear).i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
  w.i32Const(SLOW.execute | 1)
    .call(refill)
    .tee(code)
    .op(i32.eqz)
    .if();
  w.i32Const(EXIT.miss).return();
  w.end();
  w.get(code);
  w.else();
  w.get(linear).op(i32.wrap_i64).get(entry).mem(i32.load, TLB.addend).op(i32.add);
  w.end();
  w.set(code);
  // lookupIndex()
  w.get(code).get(code).i32Const(13).op(i32.shr_u).op(i32.xor);
  g.state32(CTL.modeKey);
  w.i32Const(0x9e3779b1 | 0)
    .op(i32.mul)
    .op(i32.xor)
    .i32Const(LOOKUP.entries - 2)
    .op(i32.and);
  w.i32Const(Math.log2(LOOKUP.entrySize)).op(i32.shl).set(entry);
  const isOther = (): void => {
    w.get(entry)
      .mem(i32.load, ARENA.blockTable + LOOKUP.code)
      .get(code)
      .op(i32.ne);
    w.get(entry).mem(i32.load, ARENA.blockTable + LOOKUP.mode);
    g.state32(CTL.modeKey);
    w.op(i32.ne).op(i32.or);
  };
  isOther();
  w.if();
  w.get(entry).i32Const(LOOKUP.entrySize).op(i32.add).set(entry);
  isOther();
  w.if();
  w.i32Const(EXIT.miss).return();
  w.end();
  w.end();
  w.get(entry)
    .mem(i32.load, ARENA.blockTable + LOOKUP.region)
    .set(region);
  w.get(entry)
    .mem(i32.load, ARENA.blockTable + LOOKUP.block)
    .tee(block);
  w.i32Const(LOOKUP.secondPage).op(i32.and).if();
  w.get(block).i32Const(LOOKUP.secondPage).op(i32.xor).set(block);
  // Its code goes on in a second page: if that is still the one it was made from.
  w.get(linear).i64Const(-4096n).op(i64.and).i64Const(4096n).op(i64.add).set(linear);
  g.state32(CTL.modeKey);
  w.i32Const(MODE.codeSizeMask).op(i32.and).i32Const(MODE.code64).op(i32.ne).if();
  w.get(linear).i64Const(0xffffffffn).op(i64.and).set(linear);
  w.end();
  pushTlbEntry();
  w.tee(entry).mem(i64.load, TLB.execTag);
  w.get(linear).op(i64.ne);
  w.get(linear).op(i32.wrap_i64).get(entry).mem(i32.load, TLB.addend).op(i32.add);
  w.get(block).mem(i32.load, BLOCK.secondPage).op(i32.ne).op(i32.or).if();
  w.i32Const(EXIT.miss).return();
  w.end();
  w.end();
  w.else();
  w.get(block).mem(i32.load, BLOCK.index).i32Const(2).op(i32.shl).mem(i32.load, ARENA.regionOf).set(region);
  w.end();
  g.state32(CTL.codeLimit);
  w.i32Const(-1).op(i32.ne).if();
  g.state64(RIP);
  w.get(block).mem(i64.load32_u, BLOCK.bytes).op(i64.add).i64Const(1n).op(i64.sub);
  g.state32(CTL.codeLimit);
  w.op(i64.extend_i32_u).op(i64.gt_u).if();
  w.i32Const(EXIT.limit).return();
  w.end();
  w.end();
}
