import type { ExitReason } from '../accounting/exits.ts';
import type { Cpu } from './cpu.ts';

/**
 * What a callout does: executes one guest instruction, or a part of one, in TypeScript. `dst`, `a`, `b` are
 * operand locations (byte offsets in the vCPU state) and `imm` (32 bits, signed) and `c` (16 bits) constants, all
 * as the lifter put them into the IR. It throws GuestFault BEFORE changing any architectural state. RIP, while it
 * runs, is the block's first instruction; one that needs the address of the next gets it as an operand.
 */
export type CalloutFunction = (cpu: Cpu, dst: number, a: number, b: number, imm: number, c: number) => void;

export interface Callout {
  readonly id: number;
  readonly name: string;
  /** How it is accounted; undefined for callouts too small to be exits (they count as otherCallout). */
  readonly reason: ExitReason;
  readonly run: CalloutFunction;
}

const table: Callout[] = [];

/** Registers a callout. Ids are process-local and never stored. */
export function defineCallout(name: string, reason: ExitReason, run: CalloutFunction): Callout {
  const callout = { id: table.length, name, reason, run };
  table.push(callout);
  return callout;
}

/** Every callout, by id. */
export function callouts(): readonly Callout[] {
  return table;
}
