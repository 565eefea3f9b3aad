import type { IrOp, Loc } from '../../../ir/op.ts';
import { GPR, TEMP, TEMP_COUNT, TEMP_SIZE } from '../../../x86/layout.ts';
import type { AccessForm } from './adaptation.ts';
import type { RegionNode } from './region.ts';

export const GPR_COUNT = 16;
/** Where the slots of temporaries end. */
export const TEMP_END = TEMP + TEMP_COUNT * TEMP_SIZE;

/** General registers as bits. */
export type RegisterSet = number;

/** In which form the memory access of operation `index` of a node is translated. */
export type FormOf = (node: RegionNode, index: number) => AccessForm;

/** What a region's code depends on besides the region. */
export interface RegionPlace {
  /** Arena address of its table of sites (SITE). */
  siteTable: number;
  /** Arena address of the count of its entries. */
  entries: number;
  formOf: FormOf;
}

/** The operation being emitted. */
export interface EmitStep {
  op: IrOp;
  node: RegionNode;
  /** Its index in the node's block, and that of its instruction's first operation. */
  index: number;
  first: number;
  /** Index after its instruction's last operation. */
  end: number;
  /** How the node's last operation goes on. */
  control: ControlFlow;
}

/** Where a node's last operation goes, by offsets from the node's start. */
export interface ControlFlow {
  jump(codeBits: 16 | 32 | 64, offset: number): void;
  branch(codeBits: 16 | 32 | 64, condition: () => void, taken: number, otherwise: number): void;
  skip(codeBits: 16 | 32 | 64, condition: () => void, offset: number): void;
  jumpAbsolute(target: () => void): void;
  jumpVia(target: () => void): void;
}

/** Whether doing an operation again, with the same state but for temporaries, changes nothing. */
export function isRepeatable({ def, dst }: IrOp): boolean {
  if (def.terminates || def.flags !== 'none' || def.flagsInState) return false;
  if (def.leaves && !def.name.startsWith('ld')) return false;
  return def.writes && dst >= TEMP && dst < TEMP_END;
}

/** Number of the general register at a location. */
export function registerOf(loc: Loc): number | undefined {
  if (loc < GPR || loc >= GPR + GPR_COUNT * 8) return undefined;
  return (loc - GPR) >> 3;
}
