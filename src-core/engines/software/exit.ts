/** Why wasm code returned to TypeScript. */
export const EXIT = {
  /** No block is known for RIP in this mode. */
  miss: 0,
  /** The next block has more instructions than the budget allows. */
  budget: 1,
  /** CTL.faultVector/faultCode at CTL.exitUop. */
  fault: 2,
  /** A block ended with a request to look for events. */
  check: 3,
  /** The next block may run past CS.limit. */
  limit: 4,
  /** Block CTL.currentBlock was executed so often that the region it starts should be translated. */
  hot: 5,
  /** A region of block CTL.currentBlock was left at micro-op CTL.exitUop, once more: that may want adapting. */
  adapt: 6,
} as const;

/**
 * Regions are left in a block for the interpreter so often before EXIT.adapt comes, for a threshold of one: what mends that
 * is translating anew, which is worth as little for what happens seldom as translating is in the first place.
 */
const LEAVES_PER_THRESHOLD = 4;
const LEAVES_MIN = 64;
const LEAVES_MAX = 0xffff;

/** How often regions are left in a block until EXIT.adapt, where blocks are hot after `threshold` executions. */
export function leavesPerLook(threshold: number): number {
  return Math.min(LEAVES_MAX, Math.max(LEAVES_MIN, threshold * LEAVES_PER_THRESHOLD));
}

/** A block of micro-ops: a header of 48 bytes, the micro-ops, then where the instructions start (START). */
export const BLOCK = {
  /** u32: guest instructions in the block. */
  count: 0,
  /** u32: bytes of guest code. */
  bytes: 4,
  /** u32: the block's number, by which its word at ARENA.regionOf is found. */
  index: 8,
  /** u32: arena address of the second page's first byte where the code runs into another page, else 2^32 - 1. */
  secondPage: 12,
  /** i32: executions left until EXIT.hot. */
  heat: 16,
  /** u16: how often regions may be left in this block for the interpreter until EXIT.adapt. */
  leaves: 20,
  /** u16: the low half of `heat` when it was last asked whether the block is still used. */
  heatSeen: 22,
  /** u16: micro-ops. */
  ops: 24,
  /** u16: the mode key (14 bits), with bit `dead` set once the code was changed. */
  mode: 26,
  dead: 0x8000,
  /** u32: arena address of its first byte of guest code. */
  code: 28,
  /** u32: arena addresses of the next block with code on the same page, on the same second page, and in the same bucket; 0: none. */
  nextOnPage: 32,
  nextOnSecondPage: 36,
  nextInBucket: 40,
  /** u32: blocks made before it since everything was last forgotten. */
  id: 44,
  header: 48,
} as const;

/** Where an instruction starts: 4 bytes for each instruction of a block, after its micro-ops. */
export const START = {
  /** u16: index of its first micro-op. */
  op: 0,
  /** u16: offset in bytes of guest code. */
  offset: 2,
  size: 4,
} as const;

/**
 * How to enter a region, 0 for none: the slot of its function in the table, the entry's node, and the entry's offset from
 * the address the region was grown from (signed). The function is given it. A word for each block stands at
 * ARENA.regionOf: together, as every way on to a region reads one.
 */
export const ENTRY = {
  slotMask: 0x1fff,
  nodeShift: 13,
  nodeMask: 0x3f,
  deltaShift: 19,
} as const;

/** What a translated region's function returns. The vCPU state is complete then. */
export const REGION = {
  /** On with whatever stands at RIP. */
  continue: 0,
  /** The block must be interpreted: the budget is too small for the region, or CS's limit too near. Nothing was executed. */
  refuse: 1,
  /** Interpretation goes on at micro-op CTL.exitUop of block CTL.currentBlock, which is paid for. */
  resume: 2,
  /** As EXIT.check. */
  check: 3,
  /** As EXIT.fault. */
  fault: 4,
  /** Interpretation goes on at site CTL.resumeSite of the region whose table is at CTL.resumeTable. RIP is the region's entry. */
  site: 5,
} as const;

/** Where regions are left for the interpreter: for each node, what turns the region's state into that of its block. */
export const SITE = {
  /** A site: node << nodeShift | index of the micro-op in its block. */
  nodeShift: 16,
  /** u32: arena address of the block. */
  block: 0,
  /** i32: offset of the block from RIP at the region's entry. */
  delta: 4,
  /** i32: instructions, those of the block included, that the budget has still to be charged with. */
  unpaid: 8,
  /** u32: low half of where an indirect jump at the node's end went when the region was last left for it; 0 once asked. */
  target: 12,
  entrySize: 16,
  /** Entries of a region. */
  nodes: 64,
} as const;

/** One micro-op: an IR operation with its operands, 16 bytes. */
export const UOP = {
  /** u16: IR operation id. */
  op: 0,
  /** u16 */
  dst: 2,
  /** u16 */
  a: 4,
  /** u16 */
  b: 6,
  /** i32; of `jvia` the low half of where it last went (u32). */
  imm: 8,
  /** u16; of `jvia` how many times in a row it had gone there before. */
  c: 12,
  /** u16: callout id of `callout`. */
  callout: 14,
  /**
   * u16 and u8 of jumps and branches to an offset: the block there in units of linkUnit, its low 16 bits and the rest, 0 as
   * long as none is known (interpreter/block-links.ts). That of a branch not taken is linkOther bytes behind, and 1.
   */
  linkLow: 2,
  linkOther: 4,
  linkHigh: 14,
  linkUnit: 16,
  /** u64 of `const64`: takes the place of a, b and imm. */
  wide: 4,
  size: 16,
} as const;

/** The block lookup table: pairs of entries of 16 bytes, each for any block that belongs to the pair. */
export const LOOKUP = {
  entries: 65536,
  entrySize: 16,
  /** u32: arena address of the code. */
  code: 0,
  /** u32: mode key. */
  mode: 4,
  /** u32: the block, with bit secondPage set where its code runs into another page, which is to be looked at then. */
  block: 8,
  secondPage: 1,
  /** u32: the block's ENTRY. */
  region: 12,
} as const;

/** Index of the first of the two entries a block may stand in. The wasm dispatch computes the same. */
export function lookupIndex(code: number, modeKey: number): number {
  return (code ^ (code >>> 13) ^ Math.imul(modeKey, 0x9e3779b1)) & (LOOKUP.entries - 2);
}
