import type { IrOp, Loc } from '../../../ir/op.ts';
import type { Region, RegionNode } from './region.ts';
import { registerOf, type RegisterSet } from './step.ts';

/** The general registers that operations name, and those they may write. */
export function registersOf(ops: readonly IrOp[]): { used: RegisterSet; written: RegisterSet } {
  let used = 0;
  let written = 0;
  for (const { def, dst, a, b } of ops) {
    used |= registerBit(dst) | registerBit(a) | registerBit(b);
    if (def.writes) written |= registerBit(dst);
  }
  return { used, written };
}

function registerBit(loc: Loc): RegisterSet {
  const register = registerOf(loc);
  return register === undefined ? 0 : 1 << register;
}

/** Whether something looks at the flags a node is entered with before they are all written. */
export function flagsLiveness(region: Region): Map<RegionNode, boolean> {
  const decided = new Map<RegionNode, boolean>();
  for (const node of region.nodes) {
    for (const { def } of node.lifted.ops) {
      // Leaving for the interpreter hands the flags over.
      if (def.leaves || def.flags === 'read' || def.flags === 'readwrite') {
        decided.set(node, true);
        break;
      }
      if (def.flags === 'write') {
        decided.set(node, false);
        break;
      }
    }
  }
  // The rest only passes them on: live where one of the ways out is, or leaves the region.
  const result = new Map(region.nodes.map((node) => [node, decided.get(node) ?? false]));
  for (let changed = true; changed;) {
    changed = false;
    for (const node of region.nodes.toReversed()) {
      if (decided.has(node) || result.get(node)) continue;
      const edges = [...node.edges.values()];
      if (edges.length > 0 && edges.every(({ target }) => target && !result.get(target))) continue;
      result.set(node, true);
      changed = true;
    }
  }
  return result;
}

/** Which registers may have been written on some way to each node. */
export function dirtyRegisters(region: Region): Map<RegionNode, RegisterSet> {
  const written = region.nodes.map(({ lifted }) => registersOf(lifted.ops).written);
  const result = new Map<RegionNode, RegisterSet>(region.nodes.map((node) => [node, 0]));
  for (let changed = true; changed;) {
    changed = false;
    for (const node of region.nodes) {
      const out = result.get(node)! | written[node.order]!;
      for (const { target } of node.edges.values()) {
        if (!target) continue;
        const into = result.get(target)!;
        if ((into | out) === into) continue;
        result.set(target, into | out);
        changed = true;
      }
    }
  }
  return result;
}
