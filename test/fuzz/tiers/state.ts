/**
 * The vCPU's state as a record that can be compared byte by byte.
 */
import type { Cpu } from '../../../src-core/x86/cpu.ts';
import { CTL, FLAGS_AUX, FLAGS_RESULT, GPR, STATE_END } from '../../../src-core/x86/layout.ts';

/** Control words that are state, by name. */
export type ControlWords = Readonly<Record<string, number>>;

/** A vCPU's state at an instruction boundary. */
export interface CpuState {
  /** The registers [GPR, STATE_END), without the arithmetic flags. */
  readonly registers: Uint8Array;
  /** Flags may be kept in more than one form; this is the one that counts. */
  readonly rflags: number;
  readonly control: ControlWords;
  /** Instructions retired since the vCPU's reset. */
  readonly instructions: number;
}

export function captureState(cpu: Cpu): CpuState {
  const registers = cpu.u8.slice(GPR, STATE_END);
  registers.fill(0, FLAGS_RESULT - GPR, FLAGS_RESULT - GPR + 8);
  registers.fill(0, FLAGS_AUX - GPR, FLAGS_AUX - GPR + 4);
  return {
    registers,
    rflags: cpu.rflags,
    control: {
      modeKey: cpu.get32(CTL.modeKey),
      fpuTrap: cpu.get32(CTL.fpuTrap),
      interruptShadow: cpu.get32(CTL.interruptShadow),
      halted: cpu.get32(CTL.halted),
      cpl: cpu.get32(CTL.cpl),
      pendingDebug: cpu.get32(CTL.pendingDebug),
      codeBase: Number(cpu.get64(CTL.codeBase)),
      codeLimit: cpu.get32(CTL.codeLimit),
      nmiBlocked: cpu.get32(CTL.nmiBlocked),
      nmiPending: cpu.get32(CTL.nmiPending),
    },
    instructions: cpu.instructionCount(),
  };
}
