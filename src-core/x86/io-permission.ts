import { ATTR_UNUSABLE, FLAG_VM } from './bits.ts';
import type { Cpu } from './cpu.ts';
import { linear, SYSTEM_WIDE } from './descriptors.ts';
import { gp } from './faults.ts';
import { FLAGS_SYSTEM, SEG_FIELD, TR } from './layout.ts';
import { getSigned } from './words.ts';

/** Offset of the I/O map base in a 32- or 64-bit TSS, and the smallest limit of a TSS that has one. */
const IO_MAP_BASE = 0x66;
const IO_MAP_LIMIT = 0x67;

/**
 * Throws #GP(0) unless IN, OUT, INS or OUTS may access ports port..port+size-1: CPL <= IOPL, or the TSS's I/O
 * permission bitmap allows all of them; virtual-8086 mode always asks the bitmap (Intel SDM volume 1, section
 * 19.5).
 */
export function checkIoPermission(cpu: Cpu, port: number, size: number): void {
  if (!cpu.protectedMode) return;
  const flags = cpu.get32(FLAGS_SYSTEM);
  if ((flags & FLAG_VM) === 0 && cpu.cpl <= ((flags >>> 12) & 3)) return;

  const attributes = cpu.get32(TR + SEG_FIELD.attributes);
  const limit = cpu.get32(TR + SEG_FIELD.limit);
  const usable = (attributes & ATTR_UNUSABLE) === 0 && (attributes & SYSTEM_WIDE) !== 0;
  if (!usable || limit < IO_MAP_LIMIT) throw gp();
  const base = getSigned(cpu, TR + SEG_FIELD.base);
  // Two bytes are always read, so both must be within the limit: hence the bitmap's byte of ones at its end.
  const at = cpu.mmu.read16(linear(cpu, base, IO_MAP_BASE), true) + (port >>> 3);
  if (at + 1 > limit) throw gp();
  const bits = cpu.mmu.read16(linear(cpu, base, at), true) >>> (port & 7);
  if ((bits & ((1 << size) - 1)) !== 0) throw gp();
}
