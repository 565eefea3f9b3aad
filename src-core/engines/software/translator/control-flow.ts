import type { RegionEdge, RegionNode } from './region.ts';

/** Reverse postorder and dominators (the iteration of Cooper, Harvey and Kennedy). */
export function arrange(entries: readonly RegionNode[]): RegionNode[] {
  const nodes: RegionNode[] = [];
  const seen = new Set<RegionNode>();
  for (const entry of entries.toReversed()) visit(entry, seen, nodes);
  nodes.reverse();
  nodes.forEach((node, order) => {
    node.order = order;
    node.dominator = undefined;
  });
  const predecessors = predecessorsOf(nodes);
  const done = new Set<RegionNode>(entries);
  const fixed = new Set<RegionNode>(entries);
  for (let changed = true; changed;) {
    changed = false;
    for (const node of nodes) {
      if (fixed.has(node)) continue;
      let dominator: RegionNode | undefined;
      let first = true;
      for (const predecessor of predecessors.get(node)!) {
        if (!done.has(predecessor)) continue;
        dominator = first ? predecessor : common(dominator, predecessor);
        first = false;
      }
      if (!done.has(node) || node.dominator !== dominator) {
        node.dominator = dominator;
        done.add(node);
        changed = true;
      }
    }
  }
  return nodes;
}

/** Appends what an entry leads to, and was not seen before, in postorder. */
function visit(entry: RegionNode, seen: Set<RegionNode>, nodes: RegionNode[]): void {
  if (seen.has(entry)) return;
  seen.add(entry);
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
}

function predecessorsOf(nodes: readonly RegionNode[]): Map<RegionNode, RegionNode[]> {
  const predecessors = new Map<RegionNode, RegionNode[]>(nodes.map((node) => [node, []]));
  for (const node of nodes) {
    for (const { target } of node.edges.values()) if (target) predecessors.get(target)!.push(node);
  }
  return predecessors;
}

function common(a: RegionNode | undefined, b: RegionNode | undefined): RegionNode | undefined {
  while (a && b && a !== b) {
    if (a.order > b.order) a = a.dominator;
    else b = b.dominator;
  }
  return a && b;
}

function dominates(a: RegionNode, b: RegionNode): boolean {
  let at: RegionNode | undefined = b;
  while (at && at.order > a.order) at = at.dominator;
  return a === at;
}

/** The nodes of loops that are not the heads of outermost ones. */
export function loopBodies(nodes: readonly RegionNode[]): Set<RegionNode> {
  const predecessors = predecessorsOf(nodes);
  const bodies = new Set<RegionNode>();
  for (const head of nodes) {
    if (head.backIn === 0) continue;
    const body = new Set<RegionNode>();
    const queue = predecessors.get(head)!.filter((from) => from.order >= head.order);
    for (let node = queue.pop(); node; node = queue.pop()) {
      if (node === head || body.has(node)) continue;
      body.add(node);
      bodies.add(node);
      queue.push(...predecessors.get(node)!);
    }
  }
  return bodies;
}

/** Makes an edge into the middle of a loop leave the region instead. True when there was one. */
export function cutIrreducible(nodes: readonly RegionNode[]): boolean {
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

export function countEdges(nodes: readonly RegionNode[]): void {
  for (const node of nodes) {
    node.forwardIn = 0;
    node.backIn = 0;
  }
  for (const node of nodes) {
    for (const { target } of node.edges.values()) {
      if (!target) continue;
      if (target.order <= node.order) target.backIn++;
      else target.forwardIn++;
    }
  }
}
