import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { ACCESS } from './mmu.ts';
import { CTL, FLAGS_SYSTEM, RAX, RCX, RDI, RSI, SEG_FIELD } from './layout.ts';
import {
  ATTR_P,
  ATTR_S,
  ATTR_UNUSABLE,
  FLAG_DF,
  TYPE_CODE,
  TYPE_EXPAND_DOWN,
  TYPE_WRITABLE,
} from './bits.ts';
import { MODE } from './mode.ts';

/**
 * REP MOVS and REP STOS in runs. The IR of one iteration says what these instructions do; a run does as many of them
 * at once as stay within one page of plain memory on each side, always leaving at least one to the IR. Each iteration
 * counts as an instruction, so a run is no longer than the budget. Where an engine has a quicker way for the plain cases
 * (engines/software/interpreter/string-run.ts) these callouts do the rest.
 */

const LOW16 = 0xffff;
const LOW32 = 0xffffffff;

/** Fewer iterations are not worth a run. */
export const RUN_MIN = 4;

/** Fields of imm of the bulk callouts. */
export const BULK = {
  /** Bits 0..1: log2 of the element size. */
  sizeMask: 3,
  /** Bits 2..3: address size: 0 = 16, 1 = 32, 2 = 64 bits. */
  addressShift: 2,
} as const;

function counter(cpu: Cpu, mask: number, wide: boolean): number {
  if (!wide) return (cpu.get32(RCX) & mask) >>> 0;
  // Counts of 2^32 and more are as good as 2^32 - 1: a run is far shorter.
  return cpu.get32(RCX + 4) !== 0 ? LOW32 : cpu.get32(RCX);
}

/** An expand-up segment that allows the access; the others are the IR's to judge. */
function plainSegment(attributes: number, write: boolean): boolean {
  if ((attributes & (ATTR_UNUSABLE | ATTR_P | ATTR_S)) !== (ATTR_P | ATTR_S)) return false;
  const writable = (attributes & TYPE_WRITABLE) !== 0;
  if ((attributes & TYPE_CODE) !== 0) return !write && writable;
  return (attributes & TYPE_EXPAND_DOWN) === 0 && (writable || !write);
}

/** Linear address of index register + segment base (0 when `segment` is 0), or NaN when it needs the slow way. */
function linear(
  cpu: Cpu,
  index: number,
  segment: number,
  mask: number,
  wide: boolean,
  write: boolean,
): number {
  if (wide) {
    const high = cpu.i32[(index + 4) >> 2]!;
    if (segment !== 0) return Number.NaN;
    return high < -0x8000 || high > 0x7fff ? Number.NaN : high * 0x100000000 + cpu.get32(index);
  }
  const offset = (cpu.get32(index) & mask) >>> 0;
  if (segment === 0) return offset;
  if (!plainSegment(cpu.get32(segment + SEG_FIELD.attributes), write)) return Number.NaN;
  // The whole run must lie within the limit: the caller keeps to one page, so checking its last byte suffices.
  if ((offset | 0xfff) >>> 0 > cpu.get32(segment + SEG_FIELD.limit)) return Number.NaN;
  return (cpu.get32(segment + SEG_FIELD.base) + offset) >>> 0;
}

function advance(cpu: Cpu, index: number, bytes: number, mask: number, wide: boolean): void {
  if (wide) cpu.set64(index, BigInt.asUintN(64, cpu.get64(index) + BigInt(bytes)));
  else if (mask === LOW16) cpu.u16[index >> 1] = cpu.get32(index) + bytes;
  else {
    cpu.set32(index, cpu.get32(index) + bytes);
    cpu.set32(index + 4, 0);
  }
}

interface Shape {
  size: number;
  mask: number;
  wide: boolean;
  /** Iterations the counter and the budget allow, at least one being left over. */
  most: number;
}

function shape(cpu: Cpu, imm: number): Shape | undefined {
  if ((cpu.get32(FLAGS_SYSTEM) & FLAG_DF) !== 0) return undefined;
  // Iterations that may raise #AC are the IR's.
  if ((cpu.get32(CTL.modeKey) & MODE.alignmentCheck) !== 0) return undefined;
  const width = (imm >> BULK.addressShift) & 3;
  const wide = width === 2;
  const mask = width === 0 ? LOW16 : LOW32;
  const most = Math.min(counter(cpu, mask, wide) - 1, cpu.i32[CTL.budget >> 2]!);
  return most < RUN_MIN ? undefined : { size: 1 << (imm & BULK.sizeMask), mask, wide, most };
}

/** Iterations of `size` that fit between a linear address and the end of its page (and of a 16-bit offset). */
function room(lin: number, size: number): number {
  return Math.floor((4096 - (lin & 0xfff)) / size);
}

function finish(cpu: Cpu, times: number, { mask, wide }: Shape): void {
  advance(cpu, RCX, -times, mask, wide);
  cpu.i32[CTL.budget >> 2]! -= times;
}

/** Operands: a = source segment's location (0: flat), b = ES's location (0: flat). */
export const repMovsRun = defineCallout('rep movs', 'stringOperation', (cpu, _dst, a, b, imm) => {
  const run = shape(cpu, imm);
  if (!run) return;
  const { size, mask, wide } = run;
  const from = linear(cpu, RSI, a, mask, wide, false);
  const to = linear(cpu, RDI, b, mask, wide, true);
  if (Number.isNaN(from) || Number.isNaN(to)) return;
  const times = Math.min(run.most, room(from, size), room(to, size));
  if (times < RUN_MIN) return;
  const source = cpu.mmu.ramRun(from, ACCESS.read);
  if (source < 0) return;
  const target = cpu.mmu.ramRun(to, ACCESS.write);
  if (target < 0) return;
  const bytes = times * size;
  // An overlapping copy upwards repeats what it has just written: element by element only.
  if (target > source && target < source + bytes) return;
  cpu.u8.copyWithin(target, source, source + bytes);
  advance(cpu, RSI, bytes, mask, wide);
  advance(cpu, RDI, bytes, mask, wide);
  finish(cpu, times, run);
});

/** Operand b = ES's location (0: flat). */
export const repStosRun = defineCallout('rep stos', 'stringOperation', (cpu, _dst, _a, b, imm) => {
  const run = shape(cpu, imm);
  if (!run) return;
  const { size, mask, wide } = run;
  const to = linear(cpu, RDI, b, mask, wide, true);
  if (Number.isNaN(to)) return;
  const times = Math.min(run.most, room(to, size));
  if (times < RUN_MIN) return;
  const target = cpu.mmu.ramRun(to, ACCESS.write);
  if (target < 0) return;
  const bytes = times * size;
  const low = cpu.get32(RAX);
  const high = cpu.get32(RAX + 4);
  if (size === 1) cpu.u8.fill(low, target, target + bytes);
  else if (low === 0 && (size < 8 || high === 0)) cpu.u8.fill(0, target, target + bytes);
  else {
    // One element, then doubled.
    for (let i = 0; i < size; i++)
      cpu.u8[target + i] = (i < 4 ? low >>> (8 * i) : high >>> (8 * (i - 4))) & 0xff;
    for (let done = size; done < bytes; done *= 2) {
      cpu.u8.copyWithin(target + done, target, target + Math.min(done, bytes - done));
    }
  }
  advance(cpu, RDI, bytes, mask, wide);
  finish(cpu, times, run);
});
