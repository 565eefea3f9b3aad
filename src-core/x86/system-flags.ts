import {
  FLAG_AC,
  FLAG_DF,
  FLAG_ID,
  FLAG_IF,
  FLAG_IOPL,
  FLAG_NT,
  FLAG_RF,
  FLAG_TF,
  FLAG_VM,
  FLAGS_ARITHMETIC,
} from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { gp } from './faults.ts';
import { CTL, FLAGS_SYSTEM } from './layout.ts';
import { MODE } from './mode.ts';

const ioplOf = (flags: number): number => (flags >>> 12) & 3;

/** In virtual-8086 mode with IOPL below 3 the flags belong to the monitor: #GP(0). */
function requireFlagAccess(flags: number): void {
  if ((flags & FLAG_VM) !== 0 && ioplOf(flags) < 3) throw gp();
}

/** PUSHF, PUSHFD, PUSHFQ: the image to push (its low 16 bits for PUSHF), without RF and VM. */
export function flagsToPush(cpu: Cpu): number {
  requireFlagAccess(cpu.get32(FLAGS_SYSTEM));
  return cpu.rflags & ~(FLAG_RF | FLAG_VM);
}

/** POPF, POPFD, POPFQ with an operand size in bits: loads what CPL and IOPL allow, clears RF. */
export function popFlags(cpu: Cpu, image: number, operandSize: number): void {
  const flags = cpu.get32(FLAGS_SYSTEM);
  requireFlagAccess(flags);
  const cpl = cpu.protectedMode ? cpu.cpl : 0;
  let mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT;
  if (cpl <= ioplOf(flags)) mask |= FLAG_IF;
  if (cpl === 0) mask |= FLAG_IOPL;
  if (operandSize !== 16) mask |= FLAG_AC | FLAG_ID;
  cpu.rflags = (flags & ~mask & ~FLAG_RF) | (image & mask);
  if (((flags ^ image) & mask & (FLAG_TF | FLAG_AC)) !== 0) cpu.updateMode();
  attendToFlags(cpu);
}

/**
 * To be called after an instruction that may have set IF or TF: when an interrupt waits or every instruction is to be
 * stepped, the run in progress ends after this one.
 */
export function attendToFlags(cpu: Cpu): void {
  const stepping = (cpu.get32(CTL.modeKey) & MODE.single) !== 0;
  const nmi = cpu.get32(CTL.nmiPending) !== 0 && cpu.get32(CTL.nmiBlocked) === 0;
  if (stepping || nmi || ((cpu.get32(FLAGS_SYSTEM) & FLAG_IF) !== 0 && cpu.interruptWaits())) {
    cpu.onAttention();
  }
}

/** #GP(0) unless CLI and STI may change IF. Without VME and PVI that is CPL <= IOPL, and IOPL 3 in virtual-8086 mode. */
function requireInterruptFlag(cpu: Cpu, flags: number): void {
  if (cpu.protectedMode && cpu.cpl > ioplOf(flags)) throw gp();
}

export function clearInterruptFlag(cpu: Cpu): void {
  const flags = cpu.get32(FLAGS_SYSTEM);
  requireInterruptFlag(cpu, flags);
  cpu.set32(FLAGS_SYSTEM, flags & ~FLAG_IF);
}

/** STI: interrupts are held off until the next instruction has ended, when they were off before. */
export function setInterruptFlag(cpu: Cpu): void {
  const flags = cpu.get32(FLAGS_SYSTEM);
  requireInterruptFlag(cpu, flags);
  if ((flags & FLAG_IF) !== 0) return;
  cpu.set32(FLAGS_SYSTEM, flags | FLAG_IF);
  cpu.set32(CTL.interruptShadow, cpu.get32(CTL.interruptShadow) | 1);
  attendToFlags(cpu);
}

/** dst = the flags to push (64 bits). */
export const pushfCallout = defineCallout('pushf', 'otherCallout', (cpu, dst) => {
  cpu.set32(dst, flagsToPush(cpu));
  cpu.set32(dst + 4, 0);
});
/** a = the flags popped (16 or 32 bits of them count), imm = operand size in bits. */
export const popfCallout = defineCallout('popf', 'otherCallout', (cpu, _dst, a, _b, imm) =>
  popFlags(cpu, cpu.get32(a), imm),
);
export const cliCallout = defineCallout('cli', 'otherCallout', clearInterruptFlag);
export const stiCallout = defineCallout('sti', 'otherCallout', setInterruptFlag);
