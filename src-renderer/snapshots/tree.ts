import type { Snapshot } from '../../src-core/protocol/vm.ts';

/** A snapshot in the order it is shown, with its depth in the tree. */
export interface SnapshotRow {
  snapshot: Snapshot;
  depth: number;
}

/**
 * Snapshots as a tree, each below the one it was taken after, siblings by age. A line of single children stays at
 * one depth: only where it branches do the later branches move in.
 */
export function snapshotRows(snapshots: readonly Snapshot[]): SnapshotRow[] {
  const ids = new Set(snapshots.map(({ id }) => id));
  const children = new Map<string | null, Snapshot[]>();
  for (const snapshot of [...snapshots].sort((a, b) => a.createdAt - b.createdAt)) {
    // A parent that was deleted leaves its children at the root.
    const parent = snapshot.parentId !== null && ids.has(snapshot.parentId) ? snapshot.parentId : null;
    const siblings = children.get(parent);
    if (siblings) siblings.push(snapshot);
    else children.set(parent, [snapshot]);
  }
  const rows: SnapshotRow[] = [];
  const visit = (parent: string | null, depth: number): void => {
    const below = children.get(parent) ?? [];
    for (const [index, snapshot] of below.entries()) {
      // The last sibling goes on along its parent's line; the ones before it branch off.
      const own = parent !== null && index < below.length - 1 ? depth + 1 : depth;
      rows.push({ snapshot, depth: own });
      visit(snapshot.id, own);
    }
  };
  visit(null, 0);
  return rows;
}
