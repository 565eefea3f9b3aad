import { CR0_MP, CR0_NE, CR0_TS } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import { type Cpu, FPU_TRAP } from '../cpu.ts';
import { GuestFault, ud, VECTOR } from '../faults.ts';
import { CTL, FPU } from '../layout.ts';
import { FSW } from './state.ts';

/** Classes of instructions in the `fpucheck` operation: the bits of CTL.fpuTrap that concern them, and more. */
export const FPU_CHECK = {
  trapMask: 7,
  /** A pending x87 error is reported first. The same bit as in the status word. */
  pending: FSW.es,
  /** CR0.EM means #UD, not #NM: MMX and SSE. */
  simd: 0x100,
  /** FWAIT: CR0.TS counts with CR0.MP only, CR0.EM not at all. */
  wait: 0x200,
} as const;

const X87_TRAPS = FPU_TRAP.taskSwitched | FPU_TRAP.emulate;
/** Field c of `fpucheck`, by kind of instruction. */
export const CHECK = {
  x87: X87_TRAPS | FPU_CHECK.pending,
  /** FNINIT, FNCLEX, FNSTCW, FNSTSW, FNSTENV, FNSAVE; FXSAVE and FXRSTOR. */
  x87NoWait: X87_TRAPS,
  wait: FPU_TRAP.taskSwitched | FPU_CHECK.pending | FPU_CHECK.wait,
  mmx: X87_TRAPS | FPU_CHECK.pending | FPU_CHECK.simd,
  sse: X87_TRAPS | FPU_TRAP.noFxsr | FPU_CHECK.simd,
  /** SSE conversions between XMM and MMX registers or from 64 bits of memory as MMX does. */
  sseMmx: X87_TRAPS | FPU_TRAP.noFxsr | FPU_CHECK.simd | FPU_CHECK.pending,
} as const;

/** Reports what keeps an instruction of class c from using the FPU (Intel SDM volume 3, tables 2-2 and 13-1). */
export const fpuCheck = defineCallout('fpuCheck', 'otherCallout', (cpu, _dst, _a, _b, _imm, c) => {
  const trap = cpu.get32(CTL.fpuTrap) & c & FPU_CHECK.trapMask;
  if ((c & FPU_CHECK.simd) !== 0 && (trap & ~FPU_TRAP.taskSwitched) !== 0) throw ud();
  if (trap !== 0 && ((c & FPU_CHECK.wait) === 0 || (cpu.cr0 & (CR0_MP | CR0_TS)) === (CR0_MP | CR0_TS))) {
    throw new GuestFault(VECTOR.NM);
  }
  if ((cpu.get32(FPU.fsw) & c & FPU_CHECK.pending) !== 0) reportPending(cpu);
});

/** A pending x87 error: #MF, or the FERR# line where CR0.NE leaves errors to the interrupt controller. */
function reportPending(cpu: Cpu): void {
  if ((cpu.cr0 & CR0_NE) !== 0) throw new GuestFault(VECTOR.MF);
  cpu.onFerr(true);
}
