import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter } from '../../../wasm/writer.ts';
import { CTL, RIP, TLB } from '../../../x86/layout.ts';
import { MODE } from '../../../x86/mode.ts';
import { type CachedBlock, regionCell } from '../cached-block.ts';
import { ENTRY, REGION, SITE } from '../exit.ts';
import { RegionGen } from './generator.ts';
import type { RegionImports } from './imports.ts';
import {
  type PageGuard,
  type Region,
  type RegionEdge,
  type RegionNode,
  RETURN_EDGE,
  viaEdges,
} from './region.ts';
import { dirtyRegisters, flagsLiveness, registersOf } from './liveness.ts';
import type { ControlFlow, RegionPlace, RegisterSet } from './step.ts';

/**
 * Instructions after which a region returns even from a loop: V8 replaces a function by its optimised version only when
 * it is called anew (DESIGN.md, section 5).
 */
const INSTRUCTIONS_PER_CALL = 50_000;

/**
 * Emits a region as one function, its control flow as nested blocks and loops after the dominator tree (Ramsey,
 * "Beyond Relooper", ICFP 2022). The function takes an ENTRY and returns a REGION code.
 */
export function emitRegion(
  region: Region,
  imports: RegionImports,
  place: RegionPlace,
  record: RecordSite,
): CodeWriter {
  return new RegionEmitter(region, imports, place, record).emit();
}

/** The function's parameter. */
const ENTRY_PARAMETER = 0;

/** Regions call one another this deep; deeper calls go on without coming back. */
const CALL_DEPTH_MAX = 48;

/**
 * Told for each node, once: what the interpreter must know to go on in it. `unpaid`: instructions to pay for; `at`: where
 * its code starts, bytes from the function's first instruction.
 */
export type RecordSite = (node: RegionNode, unpaid: number, at: number) => void;

class RegionEmitter {
  readonly #region: Region;
  readonly #w = new CodeWriter(1);
  readonly #g: RegionGen;
  /** Budget below which the region is left at a loop's head. */
  readonly #floor: number;
  readonly #target: number;
  /** By dominator. */
  readonly #children = new Map<RegionNode | undefined, RegionNode[]>();
  readonly #labels = new Map<RegionNode, number>();
  readonly #flagsLive: ReadonlyMap<RegionNode, boolean>;
  /** Registers that may differ from the state at a node's start. */
  readonly #dirtyIn: ReadonlyMap<RegionNode, RegisterSet>;
  readonly #record: RecordSite;
  readonly #regionType: number;
  readonly #regionLookup: number;
  /** Arena address of the count of its entries. */
  readonly #entries: number;

  constructor(region: Region, imports: RegionImports, place: RegionPlace, record: RecordSite) {
    this.#record = record;
    this.#regionType = imports.regionType;
    this.#regionLookup = imports.regionLookup;
    this.#region = region;
    let used = 0;
    let written = 0;
    for (const { lifted } of region.nodes) {
      const registers = registersOf(lifted.ops);
      used |= registers.used;
      written |= registers.written;
    }
    this.#g = new RegionGen(this.#w, imports, region, place, used, written);
    this.#entries = place.entries;
    this.#floor = this.#w.local(I32);
    this.#target = this.#w.local(I64);
    for (const node of region.nodes) {
      const list = this.#children.get(node.dominator);
      if (list) list.push(node);
      else this.#children.set(node.dominator, [node]);
    }
    this.#flagsLive = flagsLiveness(region);
    this.#dirtyIn = dirtyRegisters(region);
  }

  emit(): CodeWriter {
    const w = this.#w;
    const g = this.#g;
    this.#emitChecks();
    w.block();
    g.out.exitDepth = w.depth;
    w.block();
    g.out.resumeDepth = w.depth;
    if (this.#region.entries.length > 1) this.#emitRoot(this.#children.get(undefined)!);
    else this.#emitTree(this.#region.entry);
    w.end();
    g.out.emitResume();
    w.end();
    this.#emitExit();
    return w;
  }

  /** Refuses where the budget does not cover a pass through the region, or its code may not lie within CS's limit. */
  #emitChecks(): void {
    const w = this.#w;
    const g = this.#g;
    const { instructions, lowest, highest, modeKey, entries } = this.#region;
    w.i32Const(0).mem(i64.load, RIP);
    if (entries.length > 1)
      w.get(ENTRY_PARAMETER).i32Const(ENTRY.deltaShift).op(i32.shr_s).op(i64.extend_i32_s).op(i64.sub);
    w.set(g.frame.rip);
    w.i32Const(0).mem(i32.load, CTL.budget).tee(g.frame.budget).i32Const(instructions).op(i32.lt_s);
    if ((modeKey & MODE.codeSizeMask) !== MODE.code64) {
      // Also no wrapping round at the end of the code size.
      w.get(g.frame.rip).i64Const(BigInt(lowest)).op(i64.add).i64Const(0n).op(i64.lt_s).op(i32.or);
      w.get(g.frame.rip)
        .i64Const(BigInt(highest - 1))
        .op(i64.add);
      w.i32Const(0).mem(i64.load32_u, CTL.codeLimit).op(i64.gt_s).op(i32.or);
      if ((modeKey & MODE.codeSizeMask) === MODE.code16) {
        // A far transfer may enter 16-bit code above 64 KiB, where only the interpreter keeps all of EIP.
        w.get(g.frame.rip)
          .i64Const(BigInt(highest - 1))
          .op(i64.add);
        w.i64Const(0xffffn).op(i64.gt_s).op(i32.or);
      }
    }
    w.hint(false).if().i32Const(REGION.refuse).return().end();
    w.i32Const(0).i32Const(0).mem(i32.load, this.#entries).i32Const(1).op(i32.add);
    w.mem(i32.store, this.#entries);
    g.reload();
    w.get(g.frame.budget).i32Const(INSTRUCTIONS_PER_CALL).op(i32.sub).tee(this.#floor);
    w.i32Const(instructions).get(this.#floor).i32Const(instructions).op(i32.gt_s).select().set(this.#floor);
  }

  /** The end of the function: on to the region of the block at RIP, if one is known, or back to whoever called. */
  #emitExit(): void {
    const w = this.#w;
    const { exitBlock } = this.#g.frame;
    this.#g.out.emitExit();
    w.get(exitBlock).if();
    w.get(exitBlock).mem(i32.load, 0).tee(exitBlock).hint(true).if();
    this.#pushEntry(exitBlock).returnCallIndirect(this.#regionType);
    w.end();
    w.end();
    w.i32Const(REGION.continue);
  }

  /** Pushes an ENTRY as parameter and its slot, for a call. */
  #pushEntry(entry: number): CodeWriter {
    return this.#w.get(entry).get(entry).i32Const(ENTRY.slotMask).op(i32.and);
  }

  // ---- structure -----------------------------------------------------------------------------------------------

  /** Goes to the node to enter at, and emits what no node dominates. */
  #emitRoot(tops: readonly RegionNode[]): void {
    const w = this.#w;
    const last = [...tops].sort((a, b) => a.order - b.order).at(-1);
    if (!last) {
      const { entry, entries } = this.#region;
      const depthOf = (node: RegionNode): number => w.depth - this.#labels.get(node)!;
      const byOrder = new Map(entries.map((node) => [node.order, node]));
      const most = Math.max(...byOrder.keys());
      w.get(ENTRY_PARAMETER).i32Const(ENTRY.nodeShift).op(i32.shr_u).i32Const(ENTRY.nodeMask).op(i32.and);
      w.brTable(
        Array.from({ length: most + 1 }, (_, order) => depthOf(byOrder.get(order) ?? entry)),
        depthOf(entry),
      );
      return;
    }
    w.block();
    this.#labels.set(last, w.depth);
    this.#emitRoot(tops.filter((node) => node !== last));
    w.end();
    this.#atMerge(last);
    this.#emitTree(last);
  }

  /** A node and all it dominates. */
  #emitTree(node: RegionNode): void {
    const merges = (this.#children.get(node) ?? []).filter(isMerge).sort((a, b) => a.order - b.order);
    if (node.backIn > 0) {
      this.#w.loop();
      this.#labels.set(node, this.#w.depth);
      this.#atMerge(node);
      this.#emitWithin(node, merges);
      this.#w.unreachable().end();
      return;
    }
    this.#emitWithin(node, merges);
  }

  /** The node's code inside a block for each merge it dominates, so that branches to them are branches out. */
  #emitWithin(node: RegionNode, merges: readonly RegionNode[]): void {
    const last = merges.at(-1);
    if (!last) {
      this.#emitNode(node);
      return;
    }
    this.#w.block();
    this.#labels.set(last, this.#w.depth);
    this.#emitWithin(node, merges.slice(0, -1));
    this.#w.end();
    this.#atMerge(last);
    this.#emitTree(last);
  }

  /** What holds where several ways come together. */
  #atMerge(node: RegionNode): void {
    this.#g.flags.place = 'deferred';
    this.#g.frame.unpaid = 0;
    this.#g.registers.dirty = this.#dirtyIn.get(node)!;
    this.#g.memory.forget();
  }

  // ---- one node ------------------------------------------------------------------------------------------------

  #emitNode(node: RegionNode): void {
    const g = this.#g;
    const { ops, instructions } = node.lifted;
    g.frame.unpaid += node.block.count;
    this.#record(node, g.frame.unpaid, this.#w.code.length);
    const control = this.#controlOf(node);
    g.memory.beginNode(node);
    instructions.forEach(({ firstOp }, at) => {
      const end = instructions[at + 1]?.firstOp ?? ops.length;
      g.registers.beginInstruction();
      for (let index = firstOp; index < end; index++) {
        g.emit({ op: ops[index]!, node, index, first: firstOp, end, control });
      }
    });
  }

  #controlOf(node: RegionNode): ControlFlow {
    const w = this.#w;
    const split = (
      condition: () => void,
      taken: () => void,
      otherwise?: () => void,
      likely?: boolean,
    ): void => {
      condition();
      const back = this.#fork();
      if (likely !== undefined) w.hint(likely);
      w.if();
      taken();
      if (otherwise) {
        w.else();
        back();
        otherwise();
      }
      w.end();
      back();
    };
    return {
      jump: (codeBits, offset) => this.#go(node, codeBits, offset),
      branch: (codeBits, condition, taken, otherwise) => {
        split(
          condition,
          () => this.#go(node, codeBits, taken),
          () => this.#go(node, codeBits, otherwise),
          isLikely(node, taken, otherwise),
        );
        w.unreachable();
      },
      skip: (codeBits, condition, offset) => split(condition, () => this.#go(node, codeBits, offset)),
      jumpAbsolute: (target) => this.#jumpAbsolute(node, target, returnEdges(node)),
      jumpVia: (target) =>
        this.#jumpAbsolute(
          node,
          target,
          viaEdges(node).map(({ edge }) => edge),
        ),
    };
  }

  /** Remembers what is known here; the function returned brings it back, for another path from here. */
  #fork(): () => void {
    const g = this.#g;
    const flags = g.flags.share();
    const { unpaid } = g.frame;
    const { dirty } = g.registers;
    const restore = g.saveContext();
    return () => {
      g.flags.place = flags;
      g.frame.unpaid = unpaid;
      g.registers.dirty = dirty;
      restore();
    };
  }

  /** Goes on at an offset from the node's start. */
  #go(node: RegionNode, codeBits: 16 | 32 | 64, offset: number): void {
    const edge = node.edges.get(offset);
    if (edge) {
      this.#follow(node, edge);
      return;
    }
    // A branch of another size than the code's truncates its target.
    const w = this.#w;
    this.#g.frame.pushRip(node.delta);
    w.i64Const(BigInt(offset)).op(i64.add).lowBits(codeBits);
    w.set(this.#g.frame.exitRip);
    this.#leave(undefined);
  }

  #follow(node: RegionNode, edge: RegionEdge): void {
    const w = this.#w;
    const g = this.#g;
    const { delta, target } = edge;
    for (const guard of edge.guards) this.#emitGuard(guard, delta);
    if (!target) {
      if (edge.chain) this.#chain(node, edge, edge.chain);
      else if (edge.learns) g.out.resumeHere();
      else this.#exit(delta, undefined);
      return;
    }
    const back = target.order <= node.order;
    if (!isMerge(target) && target.backIn === 0) {
      this.#emitTree(target);
      return;
    }
    g.frame.pay();
    if (back) {
      w.get(g.frame.budget).get(this.#floor).op(i32.lt_s);
      const on = this.#fork();
      w.hint(false).if();
      this.#exit(delta, undefined);
      w.end();
      on();
    }
    if (this.#flagsLive.get(target) === true) g.flags.settle();
    if (back || isMerge(target)) w.br(w.depth - this.#labels.get(target)!);
    else this.#emitTree(target);
  }

  /** Goes on to the region that is entered at a block, if there is one: for good, or as a call that comes back here. */
  #chain(node: RegionNode, { delta, after }: RegionEdge, block: CachedBlock): void {
    if (!after) {
      this.#exit(delta, block);
      return;
    }
    // A call: its region returns to this function, which goes on if RIP says that the guest's did likewise.
    const w = this.#w;
    const g = this.#g;
    const entry = g.scratch(I32, 13);
    const depth = g.scratch(I32, 14);
    w.i32Const(0).mem(i32.load, regionCell(block)).set(entry);
    w.i32Const(0).mem(i32.load, CTL.callDepth).set(depth);
    w.get(entry).op(i32.eqz).get(depth).i32Const(CALL_DEPTH_MAX).op(i32.ge_s).op(i32.or);
    const on = this.#fork();
    w.hint(false).if();
    this.#exit(delta, block);
    w.end();
    on();
    g.frame.storeRip(delta);
    this.#storeState();
    this.#callRegion(node, entry, depth, after);
  }

  /** The same for a call to wherever RIP is to be, to the region there if one can be found by looking it up. */
  #callAny(node: RegionNode, after: RegionEdge): void {
    const w = this.#w;
    const g = this.#g;
    const entry = g.scratch(I32, 13);
    const depth = g.scratch(I32, 14);
    w.i32Const(0).get(this.#target).mem(i64.store, RIP);
    this.#storeState();
    w.i32Const(0).mem(i32.load, CTL.callDepth).tee(depth).i32Const(CALL_DEPTH_MAX).op(i32.lt_s).if(I32);
    w.call(this.#regionLookup);
    w.else().i32Const(0).end();
    w.tee(entry).op(i32.eqz).hint(false).if().i32Const(REGION.continue).return().end();
    this.#callRegion(node, entry, depth, after);
  }

  /** Calls the region of an ENTRY, all state being stored, and goes on behind it. */
  #callRegion(node: RegionNode, entry: number, depth: number, after: RegionEdge): void {
    const w = this.#w;
    const g = this.#g;
    w.i32Const(0).get(depth).i32Const(1).op(i32.add).mem(i32.store, CTL.callDepth);
    this.#pushEntry(entry).callIndirect(this.#regionType).set(entry);
    w.i32Const(0).get(depth).mem(i32.store, CTL.callDepth);
    // REGION.continue is 0: what is returned when all is well but RIP or budget.
    w.i32Const(0).mem(i32.load, CTL.budget).tee(g.frame.budget).get(this.#floor).op(i32.lt_s);
    w.i32Const(0).mem(i64.load, RIP);
    g.frame.pushRip(after.delta);
    w.op(i64.ne).op(i32.or).get(entry).op(i32.or).hint(false).if().get(entry).return().end();
    if (!after.target && after.chain && after.guards.length === 0) {
      // Another region begins there: nothing of this one's state is needed any more.
      w.i32Const(0).mem(i32.load, regionCell(after.chain)).tee(entry).hint(true).if();
      this.#pushEntry(entry).returnCallIndirect(this.#regionType);
      w.end();
      w.i32Const(REGION.continue).return();
      return;
    }
    g.reload();
    g.flags.place = 'deferred';
    g.frame.unpaid = 0;
    g.registers.dirty = 0;
    this.#follow(node, after);
  }

  /** Leaves the region unless the code page is the one it was translated from. */
  #emitGuard({ delta, arena }: PageGuard, exitDelta: number): void {
    const w = this.#w;
    const g = this.#g;
    const linear = g.scratch(I64, 0);
    const entry = g.scratch(I32, 1);
    g.frame.pushRip(delta);
    w.i32Const(0).mem(i64.load, CTL.codeBase).op(i64.add);
    if ((this.#region.modeKey & MODE.codeSizeMask) !== MODE.code64) w.lowBits(32);
    w.tee(linear)
      .i64Const(7n)
      .op(i64.shr_u)
      .op(i32.wrap_i64)
      .i32Const((TLB.entries - 1) << 5)
      .op(i32.and);
    w.i32Const(0).mem(i32.load, CTL.tlbBank).op(i32.add).tee(entry).mem(i64.load, TLB.execTag);
    w.get(linear).i64Const(-4096n).op(i64.and).op(i64.ne);
    w.get(entry).mem(i32.load, TLB.addend).get(linear).op(i32.wrap_i64).op(i32.add);
    w.i32Const(arena).op(i32.ne).op(i32.or);
    const on = this.#fork();
    w.hint(false).if();
    this.#exit(exitDelta, undefined);
    w.end();
    on();
  }

  /** A jump to a computed address: where a call that the region followed returns to, where it went so far, or out. */
  #jumpAbsolute(node: RegionNode, target: () => void, predicted: readonly RegionEdge[]): void {
    const w = this.#w;
    const g = this.#g;
    target();
    w.set(this.#target);
    for (const edge of predicted) {
      if (!(edge.target ?? edge.chain)) continue;
      const on = this.#fork();
      w.get(this.#target);
      g.frame.pushRip(edge.delta);
      w.op(i64.eq).if();
      this.#follow(node, edge);
      w.end();
      on();
    }
    if (node.afterAny) {
      this.#callAny(node, node.afterAny);
      return;
    }
    if (node.via?.learns) {
      w.i32Const(0).get(this.#target).op(i32.wrap_i64);
      w.mem(i32.store, g.frame.siteTable + node.order * SITE.entrySize + SITE.target);
      g.out.resumeHere();
      return;
    }
    w.get(this.#target).set(g.frame.exitRip);
    this.#leave(undefined);
  }

  /** Leaves the region for the code at an offset from its entry: for the region of the block there, if that is known. */
  #exit(delta: number, block: CachedBlock | undefined): void {
    this.#g.frame.pushRip(delta);
    this.#w.set(this.#g.frame.exitRip);
    this.#leave(block);
  }

  #leave(block: CachedBlock | undefined): void {
    this.#w.i32Const(block ? regionCell(block) : 0).set(this.#g.frame.exitBlock);
    this.#g.out.exit();
  }

  #storeState(): void {
    const g = this.#g;
    g.flags.settle();
    g.registers.storeDirty();
    g.frame.storeBudget();
  }
}

function returnEdges({ edges }: RegionNode): readonly RegionEdge[] {
  const edge = edges.get(RETURN_EDGE);
  return edge ? [edge] : [];
}

/** Whether a branch is likely taken: only one of its sides leads out of the region. */
function isLikely({ edges }: RegionNode, taken: number, otherwise: number): boolean | undefined {
  const stays = edges.get(taken)?.target !== undefined;
  return stays === (edges.get(otherwise)?.target !== undefined) ? undefined : stays;
}

/** Whether a node is reached over several ways from before it, so that it must have a label. */
function isMerge(node: RegionNode): boolean {
  return node.forwardIn > 1;
}
