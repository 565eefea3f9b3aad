import { accessOf, type SymbolicValue, type SymbolicValues } from './addresses.ts';
import { controlKind, type RegionNode } from './region.ts';
import type { FormOf } from './step.ts';

/** Accesses are looked up together when they lie within so many bytes: more would often be on two pages. */
const SPAN_MAX = 128;

/** Bytes around an access that are looked up with it, relative to its address, and whether to write there. */
export interface ProbePlan {
  low: number;
  /** After the last byte. */
  high: number;
  write: boolean;
}

/** Bytes of the guest's memory whose place is known: they lie on one page, which the TLB serves. */
export interface KnownSpan {
  root: number;
  low: number;
  high: number;
  /** Stores too. */
  write: boolean;
  /** Local with the arena address of `low` (i32). */
  local: number;
}

interface Group {
  root: number;
  low: number;
  high: number;
  write: boolean;
  /** Its first access, and how often there is another. */
  index: number;
  offset: number;
  members: number;
}

/**
 * Which accesses of a node look up more than their own bytes, for accesses behind them that are certain to be executed
 * too: pushes, fields of a structure, the load and the store of a read-modify-write.
 */
export function planProbes(
  node: RegionNode,
  known: SymbolicValues,
  formOf: FormOf,
): ReadonlyMap<number, ProbePlan> {
  const values = known.clone();
  const groups: Group[] = [];
  let open: Group[] = [];
  node.lifted.ops.forEach((op, index) => {
    const access = accessOf(op.def);
    if (access) {
      const form = formOf(node, index);
      const address = form === 'plain' ? values.addressOf(op) : undefined;
      if (form === 'callout') open = [];
      if (address) join(open, groups, index, address, access.bytes, access.write);
    } else if (op.def.leaves && controlKind(op.def)[0] === undefined) {
      open = [];
    }
    values.apply(op);
  });
  return new Map(
    groups
      .filter(({ members }) => members > 1)
      .map(({ index, offset, low, high, write }) => [
        index,
        { low: low - offset, high: high - offset, write },
      ]),
  );
}

function join(
  open: Group[],
  groups: Group[],
  index: number,
  { root, offset }: SymbolicValue,
  bytes: number,
  write: boolean,
): void {
  const end = offset + bytes;
  for (const group of open) {
    if (group.root !== root) continue;
    const low = Math.min(group.low, offset);
    const high = Math.max(group.high, end);
    if (high - low > SPAN_MAX) continue;
    group.low = low;
    group.high = high;
    group.write ||= write;
    group.members++;
    return;
  }
  const group = { root, low: offset, high: end, write, index, offset, members: 1 };
  open.push(group);
  groups.push(group);
}

/** The spans known on the path being emitted. */
export class KnownSpans {
  #spans: readonly KnownSpan[] = [];

  /** Where `bytes` at an address are known. */
  find({ root, offset }: SymbolicValue, bytes: number, write: boolean): KnownSpan | undefined {
    return this.#spans.find(
      (span) =>
        span.root === root && span.low <= offset && offset + bytes <= span.high && (span.write || !write),
    );
  }

  /** How many there are: on one path, none shares its local with another. */
  get size(): number {
    return this.#spans.length;
  }

  add(span: KnownSpan): void {
    this.#spans = [...this.#spans, span];
  }

  clear(): void {
    this.#spans = [];
  }

  /** Pages may be watched from here on that were not before: stores are to be looked up again. */
  forgetStores(): void {
    this.#spans = this.#spans.map((span) => ({ ...span, write: false }));
  }

  /** Remembers what is known here; the function returned brings it back. */
  save(): () => void {
    const spans = this.#spans;
    return () => {
      this.#spans = spans;
    };
  }
}
