import type { Cpu } from '../cpu.ts';
import { CR0_NE } from '../bits.ts';
import { FPU, ST } from '../layout.ts';
import { type Bits80, DEFAULT_NAN, pack80, type Unpacked, unpack80 } from '../softfloat/number.ts';
import { FLAG, type FloatContext, PRECOMPUTATION } from '../softfloat/round.ts';

/** Bits of the x87 status word beside the exception flags (Intel SDM volume 1, figure 8-4). */
export const FSW = {
  exceptions: 0x3f,
  stackFault: 1 << 6,
  /** Exception summary. */
  es: 1 << 7,
  c0: 1 << 8,
  c1: 1 << 9,
  c2: 1 << 10,
  topShift: 11,
  topMask: 7 << 11,
  c3: 1 << 14,
  busy: 1 << 15,
  conditions: (1 << 8) | (1 << 9) | (1 << 10) | (1 << 14),
} as const;

/** The control word after FNINIT. */
export const FCW_INITIAL = 0x37f;
/** Bits of the control word that can be written; bit 6 reads as 1. */
export const FCW_MASK = 0x1f3f;
const FCW_FIXED = 0x40;

/** Precision control: significant bits. The reserved value acts as 64. */
const PRECISION = [24, 64, 53, 64] as const;

/** Environment of the x87 operation being executed. One is enough: callouts do not nest. */
export const x87Context: FloatContext = {
  rounding: 0,
  precision: 64,
  masks: 0x3f,
  flags: 0,
  roundedUp: false,
  x87: true,
  flushToZero: false,
  denormalsAreZero: false,
};

/** Starts an operation: rounding, masks and 64-bit precision, nothing raised. */
export function begin(cpu: Cpu): FloatContext {
  const fcw = cpu.get32(FPU.fcw);
  x87Context.rounding = (fcw >> 10) & 3;
  x87Context.precision = 64;
  x87Context.masks = fcw & FSW.exceptions;
  x87Context.flags = 0;
  x87Context.roundedUp = false;
  return x87Context;
}

/** The same for the instructions precision control applies to: FADD, FSUB, FMUL, FDIV, FSQRT. */
export function beginWithPrecision(cpu: Cpu): FloatContext {
  const context = begin(cpu);
  context.precision = PRECISION[(cpu.get32(FPU.fcw) >> 8) & 3]!;
  return context;
}

/** ES and B follow the unmasked exceptions; FERR# follows ES where CR0.NE leaves errors to the interrupt controller. */
export function updateSummary(cpu: Cpu): void {
  const fsw = cpu.get32(FPU.fsw);
  const pending = (fsw & ~cpu.get32(FPU.fcw) & FSW.exceptions) !== 0;
  cpu.set32(FPU.fsw, pending ? fsw | FSW.es | FSW.busy : fsw & ~(FSW.es | FSW.busy));
  if (pending !== ((fsw & FSW.es) !== 0) && (cpu.cr0 & CR0_NE) === 0) cpu.onFerr(pending);
}

/** Sets the status word's C1 and exception flags, and raises the pending error where one is unmasked. */
function setStatus(cpu: Cpu, flags: number, c1: boolean): void {
  const fsw = cpu.get32(FPU.fsw);
  cpu.set32(FPU.fsw, (fsw & ~FSW.c1) | flags | (c1 ? FSW.c1 : 0));
  if ((flags & FSW.exceptions) !== 0) updateSummary(cpu);
}

/**
 * Enters what the operation raised into the status word.
 * @returns false when an unmasked invalid, denormal or divide-by-zero forbids to deliver a result.
 */
export function finish(cpu: Cpu, context: FloatContext): boolean {
  const { flags } = context;
  if ((flags & ~context.masks & PRECOMPUTATION) !== 0) {
    setStatus(cpu, flags & PRECOMPUTATION, false);
    return false;
  }
  setStatus(cpu, flags, context.roundedUp);
  return true;
}

/** An operand or destination register is empty. @returns true when masked: the default NaN is the result. */
export function stackUnderflow(cpu: Cpu): boolean {
  setStatus(cpu, FLAG.invalid | FSW.stackFault, false);
  return (cpu.get32(FPU.fcw) & FLAG.invalid) !== 0;
}

/** The register to push into is not empty. @returns true when masked: the default NaN is pushed. */
export function stackOverflow(cpu: Cpu): boolean {
  setStatus(cpu, FLAG.invalid | FSW.stackFault, true);
  return (cpu.get32(FPU.fcw) & FLAG.invalid) !== 0;
}

export function clearC1(cpu: Cpu): void {
  cpu.set32(FPU.fsw, cpu.get32(FPU.fsw) & ~FSW.c1);
}

export function hasC1(cpu: Cpu): boolean {
  return (cpu.get32(FPU.fsw) & FSW.c1) !== 0;
}

/** Replaces C0, C2 and C3 (the bits of `conditions`). */
export function setConditions(cpu: Cpu, conditions: number): void {
  cpu.set32(FPU.fsw, (cpu.get32(FPU.fsw) & ~(FSW.c0 | FSW.c2 | FSW.c3)) | conditions);
}

/** Number of the physical register that is ST(i). */
export function physical(cpu: Cpu, i: number): number {
  return (cpu.get32(FPU.top) + i) & 7;
}

export function isEmpty(cpu: Cpu, i: number): boolean {
  return ((cpu.get32(FPU.empty) >> physical(cpu, i)) & 1) !== 0;
}

/** Location of ST(i). */
export function registerLoc(cpu: Cpu, i: number): number {
  return ST + physical(cpu, i) * 16;
}

export function readBits(cpu: Cpu, i: number): Bits80 {
  const loc = registerLoc(cpu, i);
  return { significand: cpu.get64(loc), signExponent: cpu.u16[(loc + 8) >> 1]! };
}

export function read(cpu: Cpu, i: number): Unpacked {
  return unpack80(readBits(cpu, i));
}

/** Writes ST(i), which becomes valid. */
export function writeBits(cpu: Cpu, i: number, { significand, signExponent }: Bits80): void {
  const loc = registerLoc(cpu, i);
  cpu.set64(loc, significand);
  cpu.u16[(loc + 8) >> 1] = signExponent;
  cpu.set32(FPU.empty, cpu.get32(FPU.empty) & ~(1 << physical(cpu, i)));
}

export function write(cpu: Cpu, i: number, value: Unpacked): void {
  writeBits(cpu, i, pack80(value));
}

export const DEFAULT_NAN_BITS = pack80(DEFAULT_NAN);

export function setTop(cpu: Cpu, top: number): void {
  cpu.set32(FPU.top, top & 7);
}

/** ST(0) becomes empty and ST(1) the top. */
export function pop(cpu: Cpu): void {
  cpu.set32(FPU.empty, cpu.get32(FPU.empty) | (1 << physical(cpu, 0)));
  setTop(cpu, cpu.get32(FPU.top) + 1);
}

/** True when a push would overwrite a register in use. */
export function pushOverflows(cpu: Cpu): boolean {
  return !isEmpty(cpu, 7);
}

/** Pushes; overflow has been dealt with. */
export function pushBits(cpu: Cpu, bits: Bits80): void {
  setTop(cpu, cpu.get32(FPU.top) - 1);
  writeBits(cpu, 0, bits);
}

/** The status word with TOP, as software sees it. */
export function statusWord(cpu: Cpu): number {
  return (cpu.get32(FPU.fsw) | (cpu.get32(FPU.top) << FSW.topShift)) & 0xffff;
}

/** Sets the status word with TOP; ES and B follow from flags and masks, whatever is written to them. */
export function setStatusWord(cpu: Cpu, value: number): void {
  setTop(cpu, (value & FSW.topMask) >> FSW.topShift);
  const es = cpu.get32(FPU.fsw) & (FSW.es | FSW.busy);
  cpu.set32(FPU.fsw, (value & ~(FSW.topMask | FSW.es | FSW.busy) & 0xffff) | es);
  updateSummary(cpu);
}

export function setControlWord(cpu: Cpu, value: number): void {
  cpu.set32(FPU.fcw, (value & FCW_MASK) | FCW_FIXED);
}

/** FNINIT (SDM volume 1, section 8.1.5); registers keep their contents but are empty. */
export function initialize(cpu: Cpu): void {
  setControlWord(cpu, FCW_INITIAL);
  setStatusWord(cpu, 0);
  cpu.set32(FPU.empty, 0xff);
  cpu.set32(FPU.fop, 0);
  cpu.set64(FPU.fip, 0n);
  cpu.set64(FPU.fdp, 0n);
  cpu.set32(FPU.fcs, 0);
  cpu.set32(FPU.fds, 0);
}
