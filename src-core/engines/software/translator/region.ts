import type { LiftedBlock } from '../../../x86/lift/block.ts';
import { codeSizeOf } from '../../../x86/mode.ts';
import type { CachedBlock } from '../block-cache.ts';

/** Most blocks and guest instructions of a region. */
const NODES_MAX = 64;
const INSTRUCTIONS_MAX = 400;
/** Calls are followed this deep. */
const CALL_DEPTH_MAX = 2;
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
  /** Checks to make before going there. */
  guards: readonly PageGuard[];
}

/** A block's place in a region. The same block may stand in it several times, under different calls. */
export interface RegionNode {
  readonly block: CachedBlock;
  readonly lifted: LiftedBlock;
  /** Offset of its first instruction from RIP at entry. */
  readonly delta: number;
  readonly frame: CallFrame | undefined;
  /** Ways out, by the offset from this block's start that the operations name; -1: the predicted return. */
  readonly edges: Map<number, RegionEdge>;
  /** Position in reverse postorder. */
  order: number;
  /** Immediate dominator; itself for the entry. */
  dominator: RegionNode;
  /** Edges that come from earlier in reverse postorder, and from later (a loop's back edges). */
  forwardIn: number;
  backIn: number;
}

/** Hot code that is translated as one function: entered at its first node only, every loop entered at its head only. */
export interface Region {
  readonly modeKey: number;
  readonly entry: RegionNode;
  /** In reverse postorder. */
  readonly nodes: readonly RegionNode[];
  /** Guest instructions of all nodes: no path without a loop is longer. */
  readonly instructions: number;
  /** Offsets from RIP at entry that the code reaches from and to. */
  readonly lowest: number;
  readonly highest: number;
}

/** What the builder asks of the engine. */
export interface RegionSource {
  /** The live block at an arena address in a mode, if it was executed often enough to be worth including. */
  block(code: number, modeKey: number): CachedBlock | undefined;
  lift(block: CachedBlock): LiftedBlock | undefined;
  /** Arena page address of the linear page `pages` after the entry's, if it is known to the TLB; else -1. */
  page(pages: number): number;
}

/** Offset key of the predicted return. */
export const RETURN_EDGE = -1;

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
    let nodes = arrange(entry);
    if (cutIrreducible(nodes)) nodes = arrange(entry);
    countEdges(nodes);
    let lowest = 0;
    let highest = 0;
    let instructions = 0;
    for (const { delta, block } of nodes) {
      lowest = Math.min(lowest, delta);
      highest = Math.max(highest, delta + block.bytes);
      instructions += block.instructions.length;
    }
    return { modeKey: this.#modeKey, entry, nodes, instructions, lowest, highest };
  }

  #key(delta: number, frame: CallFrame | undefined): string {
    if (!frame) return String(delta);
    let id = this.#frames.get(frame);
    if (id === undefined) this.#frames.set(frame, (id = this.#frames.size));
    return `${delta}@${id}`;
  }

  #add(block: CachedBlock, delta: number, frame: CallFrame | undefined): RegionNode | undefined {
    if (this.#nodes.size >= NODES_MAX) return undefined;
    if (this.#nodes.size > 0 && this.#instructions + block.instructions.length > INSTRUCTIONS_MAX)
      return undefined;
    const lifted = this.#source.lift(block);
    if (!lifted) return undefined;
    const node: RegionNode = {
      block,
      lifted,
      delta,
      frame,
      edges: new Map(),
      order: -1,
      dominator: undefined as unknown as RegionNode,
      forwardIn: 0,
      backIn: 0,
    };
    node.dominator = node;
    this.#instructions += block.instructions.length;
    this.#nodes.set(this.#key(delta, frame), node);
    this.#queue.push(node);
    return node;
  }

  #follow(node: RegionNode): void {
    const { lifted, delta } = node;
    const codeBits = codeSizeOf(this.#modeKey);
    for (const { def, imm, c } of lifted.ops) {
      const [kind, bits] = controlKind(def.name);
      if (kind === undefined || bits !== codeBits) continue;
      if (kind === 'jmp' && lifted.exit?.kind === 'call') {
        this.#edge(node, imm, delta + imm, this.#push(node.frame, delta + lifted.exit.next));
        continue;
      }
      this.#edge(node, imm, delta + imm, node.frame);
      if (kind === 'branch') this.#edge(node, c, delta + c, node.frame);
    }
    if (lifted.exit?.kind === 'return' && node.frame) {
      this.#edge(node, RETURN_EDGE, node.frame.returnDelta, node.frame.parent);
    }
  }

  #push(parent: CallFrame | undefined, returnDelta: number): CallFrame | undefined {
    const depth = (parent?.depth ?? 0) + 1;
    if (depth > CALL_DEPTH_MAX) return undefined;
    for (const frame of this.#frames.keys()) {
      if (frame.parent === parent && frame.returnDelta === returnDelta) return frame;
    }
    const frame = { returnDelta, parent, depth };
    this.#frames.set(frame, this.#frames.size);
    return frame;
  }

  #edge(node: RegionNode, key: number, delta: number, frame: CallFrame | undefined): void {
    if (node.edges.has(key)) return;
    const edge: RegionEdge = { delta, target: undefined, guards: [] };
    node.edges.set(key, edge);
    const place = this.#place(delta);
    if (!place) return;
    let target = this.#nodes.get(this.#key(delta, frame));
    if (!target) {
      const block = this.#source.block(place.arena, this.#modeKey);
      target = block && this.#add(block, delta, frame);
    }
    if (!target) return;
    const guards: PageGuard[] = [];
    if (pageOf(this.#inPage + delta) !== pageOf(this.#inPage + node.delta) && place.page !== 0) {
      guards.push({ delta, arena: place.arena });
    }
    // A block that runs into a second page: that one must be the one it was made from.
    if (target.block.secondPage >= 0) {
      const second = delta + PAGE - (place.arena & (PAGE - 1));
      const there = this.#place(second);
      if (there?.arena !== target.block.secondPage) return;
      if (place.page + 1 !== 0) guards.push({ delta: second, arena: there.arena });
    }
    edge.target = target;
    edge.guards = guards;
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

/** Which of a lifted block's operations lead elsewhere: their kind and code size. */
function controlKind(name: string): ['jmp' | 'branch' | 'skip' | undefined, number] {
  const dot = name.lastIndexOf('.');
  const bits = Number(name.slice(dot + 1));
  if (name.startsWith('jmp.')) return ['jmp', bits];
  if (name.startsWith('skipz.')) return ['skip', bits];
  if (name.startsWith('j') && dot > 0) return ['branch', bits];
  return [undefined, 0];
}

/** Reverse postorder and dominators (the iteration of Cooper, Harvey and Kennedy). */
function arrange(entry: RegionNode): RegionNode[] {
  const nodes: RegionNode[] = [];
  const seen = new Set<RegionNode>([entry]);
  const stack: { node: RegionNode; next: RegionEdge[] }[] = [
    { node: entry, next: [...entry.edges.values()] },
  ];
  for (let top = stack.at(-1); top; top = stack.at(-1)) {
    const edge = top.next.pop();
    if (!edge) {
      nodes.push(top.node);
      stack.pop();
      continue;
    }
    const { target } = edge;
    if (!target || seen.has(target)) continue;
    seen.add(target);
    stack.push({ node: target, next: [...target.edges.values()] });
  }
  nodes.reverse();
  nodes.forEach((node, order) => {
    node.order = order;
    node.dominator = node;
  });
  const predecessors = new Map<RegionNode, RegionNode[]>(nodes.map((node) => [node, []]));
  for (const node of nodes) {
    for (const { target } of node.edges.values()) if (target) predecessors.get(target)!.push(node);
  }
  const done = new Set<RegionNode>([entry]);
  for (let changed = true; changed;) {
    changed = false;
    for (const node of nodes) {
      if (node === entry) continue;
      let dominator: RegionNode | undefined;
      for (const predecessor of predecessors.get(node)!) {
        if (done.has(predecessor)) dominator = dominator ? common(dominator, predecessor) : predecessor;
      }
      if (!done.has(node) || node.dominator !== dominator) {
        node.dominator = dominator!;
        done.add(node);
        changed = true;
      }
    }
  }
  return nodes;
}

function common(a: RegionNode, b: RegionNode): RegionNode {
  while (a !== b) {
    while (a.order > b.order) a = a.dominator;
    while (b.order > a.order) b = b.dominator;
  }
  return a;
}

function dominates(a: RegionNode, b: RegionNode): boolean {
  while (b.order > a.order) b = b.dominator;
  return a === b;
}

/** Makes an edge into the middle of a loop leave the region instead. True when there was one. */
function cutIrreducible(nodes: readonly RegionNode[]): boolean {
  let cut = false;
  for (const node of nodes) {
    for (const edge of node.edges.values()) {
      const { target } = edge;
      if (target && target.order <= node.order && !dominates(target, node)) {
        edge.target = undefined;
        cut = true;
      }
    }
  }
  return cut;
}

function countEdges(nodes: readonly RegionNode[]): void {
  for (const node of nodes) {
    for (const { target } of node.edges.values()) {
      if (!target) continue;
      if (target.order <= node.order) target.backIn++;
      else target.forwardIn++;
    }
  }
}
