import type { Cpu } from './cpu.ts';

const TWO_32 = 0x1_0000_0000;

/**
 * The 64-bit word at a state offset as a signed number. Exact for canonical addresses and for every value below
 * 2^53 in size; others are rounded, but never into the canonical range.
 */
export function getSigned(cpu: Cpu, offset: number): number {
  return cpu.i32[(offset >> 2) + 1]! * TWO_32 + cpu.u32[offset >> 2]!;
}

/** Writes a number (an integer below 2^53 in size) as a 64-bit word, sign-extended. */
export function setSigned(cpu: Cpu, offset: number, value: number): void {
  cpu.u32[offset >> 2] = value >>> 0;
  cpu.i32[(offset >> 2) + 1] = Math.floor(value / TWO_32);
}

/** Joins the halves of a 64-bit word into a signed number (see getSigned). */
export function joinSigned(low: number, high: number): number {
  return (high | 0) * TWO_32 + (low >>> 0);
}

/** Canonical with 48 linear address bits (Intel SDM volume 1, section 3.3.7.1). */
export function isCanonical(address: number): boolean {
  return address >= -0x8000_0000_0000 && address < 0x8000_0000_0000;
}
