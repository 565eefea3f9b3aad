import { DR0, DR7 } from './layout.ts';

/** Bits of DR6 and DR7 (Intel SDM volume 3, section 18.2). */
export const DR6_BD = 1 << 13;
export const DR6_BS = 1 << 14;
export const DR6_BT = 1 << 15;
export const DR7_GD = 1 << 13;
/** R/W field of DR7. */
const WATCH = { execute: 0, write: 1, io: 2, readWrite: 3 } as const;

interface State {
  readonly i32: Int32Array;
}

/** L or G of breakpoint `index` is set. */
function enabled(dr7: number, index: number): boolean {
  return ((dr7 >>> (index * 2)) & 3) !== 0;
}

function watchOf(dr7: number, index: number): number {
  return (dr7 >>> (16 + index * 4)) & 3;
}

/** Bytes watched: LEN 0 = 1, 1 = 2, 2 = 8, 3 = 4. */
function lengthOf(dr7: number, index: number): number {
  const length = (dr7 >>> (18 + index * 4)) & 3;
  return length === 2 ? 8 : length + 1;
}

/** First byte watched: DRn with the bits below its length ignored; a linear address as the MMU has them. */
function startOf({ i32 }: State, index: number, length: number): number {
  const at = (DR0 + index * 8) >> 2;
  return i32[at + 1]! * 0x100000000 + ((i32[at]! & -length) >>> 0);
}

/** Whether any data breakpoint is enabled. */
export function hasDataBreakpoints({ i32 }: State): boolean {
  const dr7 = i32[DR7 >> 2]!;
  if ((dr7 & 0xff) === 0) return false;
  for (let index = 0; index < 4; index++) {
    if (enabled(dr7, index) && (watchOf(dr7, index) & 1) !== 0) return true;
  }
  return false;
}

/** DR6 bits (B0..B3) of the data breakpoints that an access of `size` bytes at `lin` hits. */
export function dataBreakpoints(state: State, lin: number, size: number, write: boolean): number {
  const dr7 = state.i32[DR7 >> 2]!;
  let hits = 0;
  for (let index = 0; index < 4; index++) {
    const watch = watchOf(dr7, index);
    if (!enabled(dr7, index) || !(watch === WATCH.readWrite || (write && watch === WATCH.write))) continue;
    const length = lengthOf(dr7, index);
    const start = startOf(state, index, length);
    if (lin < start + length && start < lin + size) hits |= 1 << index;
  }
  return hits;
}

/** DR6 bits of the instruction breakpoints at linear address `lin`. RF is the caller's business. */
export function instructionBreakpoint(state: State, lin: number): number {
  const dr7 = state.i32[DR7 >> 2]!;
  if ((dr7 & 0xff) === 0) return 0;
  let hits = 0;
  for (let index = 0; index < 4; index++) {
    if (!enabled(dr7, index) || watchOf(dr7, index) !== WATCH.execute) continue;
    if (startOf(state, index, 1) === lin) hits |= 1 << index;
  }
  return hits;
}
