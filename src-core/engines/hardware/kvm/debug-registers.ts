import type { Cpu } from '../../../x86/cpu.ts';
import { DR0, DR6, DR7 } from '../../../x86/layout.ts';
import { DEBUG_REGS, SIZE } from './layout.ts';
import type { KvmVcpu } from './vcpu.ts';

/** DR0..DR3, DR6 and DR7 between the arena and KVM. */

const BREAKPOINTS = 4;

export function exportDebugRegisters(cpu: Cpu, vcpu: KvmVcpu): void {
  const { u8, u64, address } = vcpu.buffer;
  u8.fill(0, 0, SIZE.debugRegs);
  for (let i = 0; i < BREAKPOINTS; i++) u64[(DEBUG_REGS.db >> 3) + i] = cpu.get64(DR0 + i * 8);
  u64[DEBUG_REGS.dr6 >> 3] = cpu.get64(DR6);
  u64[DEBUG_REGS.dr7 >> 3] = cpu.get64(DR7);
  vcpu.ioctl('setDebugRegs', address);
}

export function importDebugRegisters(cpu: Cpu, vcpu: KvmVcpu): void {
  const { u64, address } = vcpu.buffer;
  vcpu.ioctl('getDebugRegs', address);
  for (let i = 0; i < BREAKPOINTS; i++) cpu.set64(DR0 + i * 8, u64[(DEBUG_REGS.db >> 3) + i]!);
  cpu.set64(DR6, u64[DEBUG_REGS.dr6 >> 3]!);
  cpu.set64(DR7, u64[DEBUG_REGS.dr7 >> 3]!);
}
