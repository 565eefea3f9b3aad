import type { OpDef } from '../../../ir/op.ts';
import type { LiftedBlock } from '../../../x86/lift/block.ts';
import { codeSizeOf } from '../../../x86/mode.ts';
import type { CachedBlock } from '../cached-block.ts';
import { arrange, countEdges, cutIrreducible, loopBodies } from './control-flow.ts';

/** Most blocks and guest instructions of a region. */
const NODES_MAX = 60;
const INSTRUCTIONS_MAX = 500;
/** Calls are followed this deep, into functions of at most so many blocks and instructions. */
const CALL_DEPTH_MAX = 2;
const CALLEE_BLOCKS_MAX = 4;
const CALLEE_INSTRUCTIONS_MAX = 24;
/** Targets of an indirect jump or call that a region knows. */
export const TARGETS_MAX = 3;
const PAGE = 4096;

/** A page other than the entry's whose translation must be checked before code in it is entered. */
export interface PageGuard {
  /** Offset from RIP at entry of an address in the page. */
  delta: number;
  /** Arena address of the byte there. */
  arena: number;
}

/** Calls the region has followed and not returned from. */
export interface CallFrame {
  /** Offset from RIP at entry of the address the call returns to. */
  returnDelta: number;
  parent: CallFrame | undefined;
  depth: number;
}

/** A way from one node to another, or out of the region. */
export interface RegionEdge {
  /** Where it leads: offset from RIP at entry. */
  delta: number;
  target: RegionNode | undefined;
  /** The block there, whose own region may be gone on to when there is no target. */
  chain: CachedBlock | undefined;
  /** Checks to make before going to either. */
  guards: readonly PageGuard[];
  /** What stands there was not known; leaving for it is worth knowing. */
  learns: boolean;
  /** A call that was not followed: where in this region its return leads. */
  after: RegionEdge | undefined;
}

/** An indirect jump or call of a region. A function that is part of it, as thunks are, has one for each call. */
export interface ViaSite {
  /** 0, or where the function that it is in returns to: arena address. */
  readonly from: number;
  /** Where it went to so far, as far as that is known: from its block's start, what was known first first. */
  readonly distances: readonly number[];
  /** Going elsewhere is worth knowing. */
  readonly learns: boolean;
}

/** A block's place in a region. The same block may stand in it several times, under different calls. */
export interface RegionNode {
  readonly block: CachedBlock;
  readonly lifted: LiftedBlock;
  /** Offset of its first instruction from RIP at entry. */
  readonly delta: number;
  readonly frame: CallFrame | undefined;
  /** What is known of where an indirect jump or call at its end goes. */
  via: ViaSite | undefined;
  /** Where a call at its end comes back to that changes its target too often to know all. */
  afterAny: RegionEdge | undefined;
  /** Ways out, by the offset from this block's start that the operations name, or by one of the keys below. */
  readonly edges: Map<number, RegionEdge>;
  /** Position in reverse postorder. */
  order: number;
  /** Immediate dominator; none when the region is entered here, or in several places that all lead here. */
  dominator: RegionNode | undefined;
  /** The region may as well be entered here. */
  enterable: boolean;
  /** Edges that come from earlier in reverse postorder, and from later (a loop's back edges). */
  forwardIn: number;
  backIn: number;
}

/** Hot code that is translated as one function; every loop is entered at its head only. */
export interface Region {
  readonly modeKey: number;
  /** The node it was grown from. Offsets count from RIP there. */
  readonly entry: RegionNode;
  /** Where the function can be entered, `entry` first: others are where calls return to and where ways meet. */
  readonly entries: readonly RegionNode[];
  /** In reverse postorder. */
  readonly nodes: readonly RegionNode[];
  /** Guest instructions of all nodes: no path without a loop is longer. */
  readonly instructions: number;
  /** Offsets from RIP at entry that the code reaches from and to. */
  readonly lowest: number;
  readonly highest: number;
  /** Code at CPL 3 always finds its TLB bank at TLB.bankUser: address spaces have none of their own. */
  readonly oneUserBank: boolean;
}

/** What the builder asks of the engine. */
export interface RegionSource {
  /** The live block at an arena address in a mode. */
  block(code: number, modeKey: number): CachedBlock | undefined;
  /** Whether it was executed often enough to be worth including. */
  warm(block: CachedBlock): boolean;
  /** Whether another region is entered there, which this one should go on to rather than hold the same code. */
  begun(block: CachedBlock): boolean;
  /** Whether the region should be entered there too. */
  wanted(block: CachedBlock): boolean;
  /** Whether regions may go on to one another. */
  readonly chaining: boolean;
  /** Whether regions are translated anew when more is known. */
  readonly adaptive: boolean;
  /** What is known of the indirect jump at the end of a block, for a place of it (ViaSite); `delta`: of the block. */
  via(block: CachedBlock, from: number, delta: number): ViaSite;
  /** See Region. */
  readonly oneUserBank: boolean;
  lift(block: CachedBlock): LiftedBlock | undefined;
  /** Arena page address of the linear page `pages` after the entry's, if it is known to the TLB; else -1. */
  page(pages: number): number;
}

/** Keys in a node's edges that are not offsets: the predicted return, and where calls come back to... */
export const RETURN_EDGE = Number.MIN_SAFE_INTEGER;
const AFTER_CALL_EDGE = Number.MIN_SAFE_INTEGER + 1;
/** ...and where indirect jumps and calls went to so far; behind each of them where it comes back to. */
const VIA_EDGE = Number.MIN_SAFE_INTEGER + 2;
const KEYS_END = VIA_EDGE + 2 * TARGETS_MAX;

/** The ways on that lead to an offset from a node's start, known calls and jumps among them. */
export function waysOf(node: RegionNode): { offset: number; edge: RegionEdge }[] {
  const ways = viaEdges(node).map(({ distance, edge }) => ({ offset: distance, edge }));
  for (const [key, edge] of node.edges) if (key > KEYS_END) ways.push({ offset: key, edge });
  return ways;
}

/** The edges of an indirect jump or call to where it went so far, by the distances in its ViaSite. */
export function viaEdges({ via, edges }: RegionNode): { distance: number; edge: RegionEdge }[] {
  return (via?.distances ?? []).flatMap((distance, index) => {
    const edge = edges.get(VIA_EDGE + 2 * index);
    return edge ? [{ distance, edge }] : [];
  });
}

/** Grows a region from its entry along the blocks that were executed. Undefined where there is nothing to translate. */
export function buildRegion(entryBlock: CachedBlock, source: RegionSource): Region | undefined {
  return new RegionBuilder(entryBlock, source).build();
}

class RegionBuilder {
  readonly #source: RegionSource;
  readonly #modeKey: number;
  readonly #inPage: number;
  readonly #entryBlock: CachedBlock;
  readonly #nodes = new Map<string, RegionNode>();
  readonly #frames = new Map<CallFrame, number>();
  readonly #queue: RegionNode[] = [];
  readonly #lifted = new Map<CachedBlock, LiftedBlock | undefined>();
  #instructions = 0;

  constructor(entryBlock: CachedBlock, source: RegionSource) {
    this.#source = source;
    this.#entryBlock = entryBlock;
    this.#modeKey = entryBlock.modeKey;
    this.#inPage = entryBlock.code & (PAGE - 1);
  }

  build(): Region | undefined {
    const entry = this.#add(this.#entryBlock, 0, undefined);
    if (!entry) return undefined;
    for (let node = this.#queue.shift(); node; node = this.#queue.shift()) this.#follow(node);
    let nodes = arrange([entry]);
    if (cutIrreducible(nodes)) nodes = arrange([entry]);
    countEdges(nodes);
    const entries = [entry, ...this.#furtherEntries(nodes)];
    if (entries.length > 1) {
      nodes = arrange(entries);
      countEdges(nodes);
      for (const node of entries) node.forwardIn++;
    }
    let lowest = 0;
    let highest = 0;
    let instructions = 0;
    for (const { delta, block } of nodes) {
      lowest = Math.min(lowest, delta);
      highest = Math.max(highest, delta + block.bytes);
      instructions += block.count;
    }
    const { oneUserBank } = this.#source;
    return { modeKey: this.#modeKey, entry, entries, nodes, instructions, lowest, highest, oneUserBank };
  }

  /**
   * Where else the region is entered: where that is wanted, where its calls return to and where ways meet, as what is
   * known about the state ends there anyway. Not within loops, which have one entry, nor in pages that would have to be
   * checked first.
   */
  #furtherEntries(nodes: readonly RegionNode[]): RegionNode[] {
    if (!this.#source.chaining) return [];
    const returns = new Set(
      nodes.flatMap(({ edges, afterAny }) => [
        afterAny?.target,
        ...[...edges.values()].map(({ after }) => after?.target),
      ]),
    );
    const inLoops = loopBodies(nodes);
    for (const node of nodes) {
      node.enterable =
        !node.frame &&
        node.block.secondPage < 0 &&
        pageOf(this.#inPage + node.delta) === 0 &&
        !inLoops.has(node);
    }
    return nodes.filter(
      (node) =>
        node.order > 0 &&
        node.enterable &&
        (node.forwardIn > 1 || node.backIn > 0 || returns.has(node) || this.#source.wanted(node.block)) &&
        !this.#source.begun(node.block),
    );
  }

  #key(delta: number, frame: CallFrame | undefined): string {
    if (!frame) return String(delta);
    let id = this.#frames.get(frame);
    if (id === undefined) this.#frames.set(frame, (id = this.#frames.size));
    return `${delta}@${id}`;
  }

  #add(block: CachedBlock, delta: number, frame: CallFrame | undefined): RegionNode | undefined {
    if (this.#nodes.size >= NODES_MAX) return undefined;
    if (this.#nodes.size > 0 && this.#instructions + block.count > INSTRUCTIONS_MAX) return undefined;
    const lifted = this.#lift(block);
    if (!lifted) return undefined;
    const node: RegionNode = {
      block,
      lifted,
      delta,
      frame,
      via: undefined,
      afterAny: undefined,
      edges: new Map(),
      order: -1,
      dominator: undefined,
      enterable: false,
      forwardIn: 0,
      backIn: 0,
    };
    this.#instructions += block.count;
    this.#nodes.set(this.#key(delta, frame), node);
    this.#queue.push(node);
    return node;
  }

  #follow(node: RegionNode): void {
    const { lifted, delta } = node;
    const codeBits = codeSizeOf(this.#modeKey);
    for (const { def, imm, c } of lifted.ops) {
      const [kind, bits] = controlKind(def);
      if (kind === undefined || bits !== codeBits) continue;
      if (kind === 'jmp' && lifted.exit?.kind === 'call') {
        this.#call(node, { go: imm, after: AFTER_CALL_EDGE }, delta + imm, delta + lifted.exit.next);
        continue;
      }
      this.#edge(node, imm, delta + imm, node.frame);
      if (kind === 'branch') this.#edge(node, c, delta + c, node.frame);
    }
    if (lifted.exit?.kind === 'return' && node.frame) {
      this.#edge(node, RETURN_EDGE, node.frame.returnDelta, node.frame.parent);
    }
    if (lifted.exit?.kind === 'via') this.#via(node, lifted.exit.next);
  }

  /** Goes where an indirect jump or call went so far. */
  #via(node: RegionNode, next: number | undefined): void {
    const { frame } = node;
    const from = frame ? this.#place(frame.returnDelta)?.arena : 0;
    if (from === undefined) return;
    node.via = this.#source.via(node.block, from, node.delta);
    for (const [index, distance] of node.via.distances.entries()) {
      const delta = node.delta + distance;
      const keys = { go: VIA_EDGE + 2 * index, after: VIA_EDGE + 2 * index + 1 };
      if (next !== undefined) this.#call(node, keys, delta, node.delta + next);
      else if (frame) this.#callFrom(node, keys, delta, frame);
      else this.#edge(node, keys.go, delta, undefined);
    }
    if (node.via.learns || !this.#source.chaining) return;
    const after =
      next !== undefined
        ? this.#edge(node, AFTER_CALL_EDGE, node.delta + next, frame)
        : frame && this.#edge(node, AFTER_CALL_EDGE, frame.returnDelta, frame.parent);
    if (after?.target ?? after?.chain) node.afterAny = after;
    else node.edges.delete(AFTER_CALL_EDGE);
  }

  #call(node: RegionNode, keys: { go: number; after: number }, delta: number, returnDelta: number): void {
    const depth = (node.frame?.depth ?? 0) + 1;
    this.#callFrom(node, keys, delta, { returnDelta, parent: node.frame, depth });
  }

  /** A small callee is followed; another one's own region is called, and this region goes on behind it. */
  #callFrom(
    node: RegionNode,
    keys: { go: number; after: number },
    delta: number,
    { returnDelta, parent, depth }: CallFrame,
  ): void {
    const place = this.#place(delta);
    const callee = place && this.#source.block(place.arena, this.#modeKey);
    if (callee && depth <= CALL_DEPTH_MAX && this.#isSmall(callee, delta)) {
      this.#edge(node, keys.go, delta, this.#push(parent, returnDelta, depth));
      return;
    }
    const edge = this.#edge(node, keys.go, delta, undefined, false);
    if (!edge?.chain) return;
    const after = this.#edge(node, keys.after, returnDelta, parent);
    if (after?.target ?? after?.chain) edge.after = after;
    else node.edges.delete(keys.after);
  }

  /** Whether a function's warm blocks, all in its own page, are few, and it calls nothing but what is one block itself. */
  #isSmall(callee: CachedBlock, delta: number): boolean {
    const seen = new Set<number>();
    const queue = [callee];
    let instructions = 0;
    for (let block = queue.pop(); block; block = queue.pop()) {
      if (seen.has(block.code)) continue;
      seen.add(block.code);
      instructions += block.count;
      if (seen.size > CALLEE_BLOCKS_MAX || instructions > CALLEE_INSTRUCTIONS_MAX) return false;
      const lifted = this.#lift(block);
      if (!lifted) return false;
      const at = delta + block.code - callee.code;
      if (lifted.exit?.kind === 'via' && lifted.exit.next !== undefined) return false;
      const call = lifted.exit?.kind === 'call' ? lifted.exit : undefined;
      for (const { def, imm, c } of lifted.ops) {
        const [kind] = controlKind(def);
        if (kind === undefined) continue;
        if (call) {
          const inner = kind === 'jmp' ? this.#leafAt(at + imm) : undefined;
          if (!inner) return false;
          instructions += inner.count;
        }
        for (const offset of call ? [call.next] : kind === 'branch' ? [imm, c] : [imm]) {
          const code = block.code + offset;
          if (Math.floor(code / PAGE) !== Math.floor(callee.code / PAGE)) return false;
          const next = this.#source.block(code, this.#modeKey);
          if (next && this.#source.warm(next)) queue.push(next);
        }
      }
    }
    return true;
  }

  /** The block at an offset from the entry that is a function by itself, as those that tell i386 code where it is. */
  #leafAt(delta: number): CachedBlock | undefined {
    const place = this.#place(delta);
    const block = place && this.#source.block(place.arena, this.#modeKey);
    return block && this.#lift(block)?.exit?.kind === 'return' ? block : undefined;
  }

  #lift(block: CachedBlock): LiftedBlock | undefined {
    if (!this.#lifted.has(block)) this.#lifted.set(block, this.#source.lift(block));
    return this.#lifted.get(block);
  }

  #push(parent: CallFrame | undefined, returnDelta: number, depth: number): CallFrame {
    for (const frame of this.#frames.keys()) {
      if (frame.parent === parent && frame.returnDelta === returnDelta) return frame;
    }
    const frame = { returnDelta, parent, depth };
    this.#frames.set(frame, this.#frames.size);
    return frame;
  }

  #edge(
    node: RegionNode,
    key: number,
    delta: number,
    frame: CallFrame | undefined,
    follow = true,
  ): RegionEdge | undefined {
    if (node.edges.has(key)) return undefined;
    const edge: RegionEdge = {
      delta,
      target: undefined,
      chain: undefined,
      guards: [],
      learns: false,
      after: undefined,
    };
    node.edges.set(key, edge);
    const place = this.#place(delta);
    const block = place && this.#source.block(place.arena, this.#modeKey);
    if (!block) {
      edge.learns = this.#source.adaptive;
      return edge;
    }
    const guards: PageGuard[] = [];
    if (pageOf(this.#inPage + delta) !== pageOf(this.#inPage + node.delta) && place.page !== 0) {
      guards.push({ delta, arena: place.arena });
    }
    // A block that runs into a second page: that one must be the one it was made from.
    if (block.secondPage >= 0) {
      const second = delta + PAGE - (place.arena & (PAGE - 1));
      const there = this.#place(second);
      if (there?.arena !== block.secondPage) return edge;
      if (place.page + 1 !== 0) guards.push({ delta: second, arena: there.arena });
    }
    edge.guards = guards;
    if (follow) {
      edge.target = this.#nodes.get(this.#key(delta, frame));
      if (!edge.target && this.#source.warm(block) && (frame || !this.#source.begun(block))) {
        edge.target = this.#add(block, delta, frame);
      }
    }
    if (!edge.target && this.#source.chaining) edge.chain = block;
    return edge;
  }

  /** Where the code at an offset from the entry stands. */
  #place(delta: number): { arena: number; page: number } | undefined {
    const page = pageOf(this.#inPage + delta);
    const arena = page === 0 ? this.#entryBlock.code - this.#inPage : this.#source.page(page);
    if (arena < 0) return undefined;
    return { arena: arena + ((this.#inPage + delta) & (PAGE - 1)), page };
  }
}

function pageOf(offset: number): number {
  return Math.floor(offset / PAGE);
}

const controlKinds: ReturnType<typeof controlKindOf>[] = [];

/** Which of a lifted block's operations lead elsewhere: their kind and code size. */
export function controlKind({ id, name }: OpDef): ReturnType<typeof controlKindOf> {
  return (controlKinds[id] ??= controlKindOf(name));
}

function controlKindOf(name: string): ['jmp' | 'branch' | 'skip' | undefined, number] {
  const dot = name.lastIndexOf('.');
  const bits = Number(name.slice(dot + 1));
  if (name.startsWith('jmp.')) return ['jmp', bits];
  if (name.startsWith('skipz.')) return ['skip', bits];
  if (name.startsWith('j') && dot > 0) return ['branch', bits];
  return [undefined, 0];
}
