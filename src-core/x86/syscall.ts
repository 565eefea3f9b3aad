import {
  ATTR_DB,
  ATTR_G,
  ATTR_L,
  ATTR_P,
  ATTR_S,
  EFER_SCE,
  FLAG_IF,
  FLAG_RF,
  FLAG_TF,
  FLAG_VM,
  FLAGS_ARITHMETIC,
  FLAGS_FIXED,
} from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { writeSegment } from './descriptors.ts';
import { gp, ud } from './faults.ts';
import { CTL, FLAGS_SYSTEM, MSR, RCX, RDX, RIP, RSP } from './layout.ts';
import { SEGMENT } from './segmentation.ts';
import { attendToFlags } from './system-flags.ts';
import { getSigned, isCanonical, setSigned } from './words.ts';

/** Attributes of readable, accessed code (without its size) and writable, accessed data; present, 4 KiB granular, DPL 0. */
export const FLAT_CODE = 0xb | ATTR_S | ATTR_P | ATTR_G;
export const FLAT_DATA = 0x3 | ATTR_S | ATTR_P | ATTR_G | ATTR_DB;
/** RFLAGS bits SYSRET takes from R11. */
export const SYSRET_FLAGS = 0x3c7fd7;
const R11 = 11;

/** Flat CS and SS for privilege level `level`, as the fast system call instructions load them: from no table. */
function loadFlatCode(cpu: Cpu, selector: number, level: number, size: number): void {
  writeSegment(cpu, SEGMENT.cs, selector, FLAT_CODE | size | (level << 5), 0xffffffff, 0);
}
function loadFlatStack(cpu: Cpu, selector: number, level: number): void {
  writeSegment(cpu, SEGMENT.ss, selector, FLAT_DATA | (level << 5), 0xffffffff, 0);
}

/**
 * SYSCALL (Intel SDM volume 2) but for RCX, R11, the arithmetic flags and RIP, which it neither reads nor writes: #UD
 * outside 64-bit mode, as on Intel's processors.
 */
export function enterBySyscall(cpu: Cpu): void {
  if (!cpu.code64 || (cpu.efer & EFER_SCE) === 0) throw ud();
  const flags = cpu.get32(FLAGS_SYSTEM);
  const masked = (flags & ~cpu.get32(MSR.sfmask) & ~FLAG_RF) | FLAGS_FIXED;
  cpu.set32(FLAGS_SYSTEM, masked);
  // TF counts as it is after SYSCALL: an operating system that masks it is not stepped into.
  if ((flags & ~masked & FLAG_TF) !== 0) cpu.set32(CTL.interruptShadow, 2);
  const selector = cpu.get32(MSR.star + 4) & 0xfffc;
  loadFlatCode(cpu, selector, 0, ATTR_L);
  loadFlatStack(cpu, selector + 8, 0);
  cpu.setCpl(0);
  cpu.updateMode();
}

/** SYSCALL. `next` is the address after it. */
export function syscall(cpu: Cpu, next: number): void {
  const flags = cpu.rflags;
  enterBySyscall(cpu);
  setSigned(cpu, RCX, next);
  cpu.setGpr32(R11, flags);
  cpu.rflags = flags & ~cpu.get32(MSR.sfmask) & ~FLAG_RF;
  setSigned(cpu, RIP, getSigned(cpu, MSR.lstar));
}

/** Where SYSRET goes. */
function sysretTarget(cpu: Cpu, operandSize: number): number {
  return operandSize === 64 ? getSigned(cpu, RCX) : cpu.get32(RCX);
}

/** SYSRET (Intel SDM volume 2) but for the arithmetic flags and RIP. */
export function leaveBySysret(cpu: Cpu, operandSize: number): void {
  if (!cpu.code64 || (cpu.efer & EFER_SCE) === 0) throw ud();
  if (cpu.cpl !== 0) throw gp();
  const to64 = operandSize === 64;
  if (!isCanonical(sysretTarget(cpu, operandSize))) throw gp();
  const selector = cpu.get32(MSR.star + 4) >>> 16;
  cpu.set32(FLAGS_SYSTEM, (cpu.gpr32(R11) & SYSRET_FLAGS & ~FLAGS_ARITHMETIC) | FLAGS_FIXED);
  loadFlatCode(cpu, (to64 ? selector + 16 : selector) | 3, 3, to64 ? ATTR_L : ATTR_DB);
  loadFlatStack(cpu, (selector + 8) | 3, 3);
  cpu.setCpl(3);
  cpu.updateMode();
}

/** SYSRET, to 64-bit code with a 64-bit operand size, else to compatibility mode. */
export function sysret(cpu: Cpu, operandSize: number): void {
  leaveBySysret(cpu, operandSize);
  cpu.rflags = (cpu.gpr32(R11) & SYSRET_FLAGS) | FLAGS_FIXED;
  setSigned(cpu, RIP, sysretTarget(cpu, operandSize));
}

/** SYSENTER (Intel SDM volume 2). */
export function sysenter(cpu: Cpu): void {
  const selector = cpu.get32(MSR.sysenterCs) & 0xfffc;
  if (!cpu.protectedMode || selector === 0) throw gp();
  const long = cpu.longMode;
  cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) & ~(FLAG_VM | FLAG_IF | FLAG_RF));
  cpu.set32(RSP, cpu.get32(MSR.sysenterEsp));
  cpu.set32(RSP + 4, long ? cpu.get32(MSR.sysenterEsp + 4) : 0);
  cpu.set32(RIP, cpu.get32(MSR.sysenterEip));
  cpu.set32(RIP + 4, long ? cpu.get32(MSR.sysenterEip + 4) : 0);
  loadFlatCode(cpu, selector, 0, long ? ATTR_L : ATTR_DB);
  loadFlatStack(cpu, selector + 8, 0);
  cpu.setCpl(0);
  cpu.updateMode();
}

/** SYSEXIT (Intel SDM volume 2), to 64-bit code with a 64-bit operand size. */
export function sysexit(cpu: Cpu, operandSize: number): void {
  const base = cpu.get32(MSR.sysenterCs) & 0xfffc;
  if (!cpu.protectedMode || base === 0 || cpu.cpl !== 0) throw gp();
  const to64 = operandSize === 64;
  const target = to64 ? getSigned(cpu, RDX) : cpu.get32(RDX);
  const pointer = to64 ? getSigned(cpu, RCX) : cpu.get32(RCX);
  if (!isCanonical(target) || !isCanonical(pointer)) throw gp();
  const selector = to64 ? base + 32 : base + 16;
  loadFlatCode(cpu, selector | 3, 3, to64 ? ATTR_L : ATTR_DB);
  loadFlatStack(cpu, (selector + 8) | 3, 3);
  setSigned(cpu, RSP, pointer);
  setSigned(cpu, RIP, target);
  cpu.setCpl(3);
  cpu.updateMode();
}

/** SYSCALL and SYSRET, but for what operations do after them. */
export const enterBySyscallCallout = defineCallout('syscall.enter', 'systemCall', (cpu) =>
  enterBySyscall(cpu),
);
/** imm = operand size in bits. */
export const leaveBySysretCallout = defineCallout('sysret.leave', 'systemCall', (cpu, _dst, _a, _b, imm) => {
  leaveBySysret(cpu, imm);
  attendToFlags(cpu);
});
export const sysenterCallout = defineCallout('sysenter', 'systemCall', (cpu) => sysenter(cpu));
/** imm = operand size in bits. */
export const sysexitCallout = defineCallout('sysexit', 'systemCall', (cpu, _dst, _a, _b, imm) =>
  sysexit(cpu, imm),
);
