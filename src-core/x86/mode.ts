/**
 * The mode key: everything about the vCPU's mode that the lifter bakes into a block. Blocks made under another
 * key are never executed. Kept in CTL.modeKey by Cpu.updateMode.
 */
export const MODE = {
  /** Bits 0..1: code size: 0 = 16, 1 = 32, 2 = 64 bits. */
  codeSizeMask: 3,
  code16: 0,
  code32: 1,
  code64: 2,
  /** Stack pointer is 32 bits wide (SS.B); meaningless in 64-bit code. */
  stack32: 1 << 2,
  /** Blocks of one instruction: TF, RF or an enabled breakpoint wants attention after each. */
  single: 1 << 3,
  /** Segment is flat: base 0, limit 4 GiB, readable (and writable for data): no checks to emit. */
  flatDs: 1 << 4,
  flatEs: 1 << 5,
  flatSs: 1 << 6,
  flatCs: 1 << 7,
  /** Bits 8..9: CPL. */
  cplShift: 8,
  cplMask: 3 << 8,
  /** Virtual-8086 mode. */
  v86: 1 << 10,
  /** CR0.PE (also set in virtual-8086 and long mode). */
  protected: 1 << 11,
  /** #AC is live: CR0.AM, RFLAGS.AC and CPL 3. */
  alignmentCheck: 1 << 12,
  /** EFER.LMA: long mode active (64-bit or compatibility). */
  longMode: 1 << 13,
} as const;

export type CodeSize = 16 | 32 | 64;

export function codeSizeOf(modeKey: number): CodeSize {
  const size = modeKey & MODE.codeSizeMask;
  return size === MODE.code64 ? 64 : size === MODE.code32 ? 32 : 16;
}

export function cplOf(modeKey: number): number {
  return (modeKey & MODE.cplMask) >> MODE.cplShift;
}
