import { type InsteadName, type OpDef, ops } from '../../../ir/op.ts';
import { emitDeferredFlags } from '../../../ir/ops/arithmetic.ts';
import '../../../ir/ops/index.ts';
import { I32, i32 } from '../../../wasm/opcodes.ts';
import { CodeWriter, ModuleWriter } from '../../../wasm/writer.ts';
import { CTL } from '../../../x86/layout.ts';
import { BLOCK, EXIT, UOP } from '../exit.ts';
import { emitLocate, emitRefill } from '../mmu/refill.ts';
import { emitControlRead } from './control-read.ts';
import { emitDispatch, emitRegionCall } from './dispatch.ts';
import { type CalledFunctions, InterpreterGen } from './generator.ts';
import { emitInterruptReturn } from './interrupt-return.ts';
import { emitRegionLookup } from './lookup.ts';
import { emitQuick } from './quick.ts';
import { emitStringCompare } from './string-compare.ts';
import { emitStringRun } from './string-run.ts';

/** Operations that go on to the next micro-op together. */
const MERGED_OPS = 32;

/** What the interpreter calls in TypeScript. All return 0 to go on, 1 when a fault was recorded. */
export interface InterpreterImports {
  /** Linear address in halves, size and ACCESS_INFO; the value comes in CTL.slowValue or slowWide. */
  slowLoad(lo: number, hi: number, info: number): number;
  /** The same; the value is in CTL.slowValue or slowWide. */
  slowStore(lo: number, hi: number, info: number): number;
  /** Callout id, arena address of the micro-op. */
  callout(id: number, uop: number): number;
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
  const instead: Record<InsteadName, number> = {
    stringRun: emitStringRun(module, refill),
    interruptReturn: emitInterruptReturn(module),
    controlRead: emitControlRead(module),
    compareStrings: emitStringCompare(module),
  };
  for (const [name, index] of Object.entries(instead)) module.export(name, index);
  const quick = emitQuick(module);
  for (const [name, index] of Object.entries(quick)) module.export(name, index);
  const called: CalledFunctions = { ...imported, ...quick, refill, ...instead };
  const { locateLoad, locateStore } = emitLocate(module, refill);
  module.export('locateLoad', locateLoad);
  module.export('locateStore', locateStore);
  const deferredFlags = module.declare([], []);
  const flagsCode = new CodeWriter(0);
  emitDeferredFlags(new InterpreterGen(flagsCode, 0, called));
  module.define(deferredFlags, flagsCode);
  module.export('deferredFlags', deferredFlags);

  module.export('regionLookup', emitRegionLookup(module));

  const run = module.declare([I32, I32], [I32]);
  const w = new CodeWriter(2);
  const block = 0;
  const resumeAt = 1;
  const pc = w.local(I32);
  /** How to enter the block's region. */
  const region = w.local(I32);
  /** 1: a region has refused to run what stands at RIP, which is interpreted therefore. */
  const refused = w.local(I32);
  const link = w.local(I32);
  const g = new InterpreterGen(w, pc, called);
  g.link = link;
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
  emitDispatch(g, { block, region, link }, refill);
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
  // Operations go round the loop group by group: one merge of all of them takes V8's optimiser 90 MB.
  const groupDepths: number[] = [];
  w.block();
  for (let i = defs.length - 1; i >= 0; i--) {
    if (i === defs.length - 1 || (i + 1) % MERGED_OPS === 0) {
      w.block();
      groupDepths[Math.floor(i / MERGED_OPS)] = w.depth;
    }
    w.block();
  }
  const tableDepth = w.depth;
  w.get(pc).mem(i32.load16_u, UOP.op);
  const labelOf = (i: number): number => i + Math.floor(i / MERGED_OPS);
  w.brTable(
    defs.map((_, index) => labelOf(index)),
    tableDepth - uopDepth - 1,
  );
  w.end();
  for (const [i, def] of defs.entries()) {
    def.emit(g);
    if (def.terminates) w.unreachable();
    else w.br(w.depth - groupDepths[Math.floor(i / MERGED_OPS)]!);
    w.end();
    if (i === defs.length - 1 || (i + 1) % MERGED_OPS === 0) {
      w.get(pc).i32Const(UOP.size).op(i32.add).set(pc);
      w.br(w.depth - uopDepth);
      w.end();
    }
  }
  w.unreachable();
  w.end();
  w.end();
  w.unreachable();
  module.define(run, w);
  module.export('run', run);
  return module.finish(memoryPages);
}
