import type { Cpu } from '../../../x86/cpu.ts';
import { MSR } from '../../../x86/layout.ts';
import { MSR_INDEX } from '../../../x86/msr.ts';
import type { KvmVcpu } from './vcpu.ts';
import type { MsrRange } from './vm.ts';

/**
 * Which MSRs KVM keeps while the guest runs in it. Guests write these often, and KVM does it without an exit; EFER and
 * the bases of FS and GS are part of the registers that come with every exit. All other accesses leave KVM and are
 * answered by the one model of MSRs (x86/msr.ts), which has its values in the arena.
 */
export const MSRS_IN_KVM: readonly MsrRange[] = [
  { first: MSR_INDEX.efer, count: 1 },
  { first: MSR_INDEX.fsBase, count: 3 },
];

/** MSRs whose values KVM needs, with their places in the state. */
const KEPT = new Map<number, number>([
  [MSR_INDEX.star, MSR.star],
  [MSR_INDEX.lstar, MSR.lstar],
  [MSR_INDEX.cstar, MSR.cstar],
  [MSR_INDEX.fmask, MSR.sfmask],
  [MSR_INDEX.kernelGsBase, MSR.kernelGsBase],
  [MSR_INDEX.tscAux, MSR.tscAux],
  [MSR_INDEX.sysenterCs, MSR.sysenterCs],
  [MSR_INDEX.sysenterEsp, MSR.sysenterEsp],
  [MSR_INDEX.sysenterEip, MSR.sysenterEip],
  [MSR_INDEX.pat, MSR.pat],
]);

/** True for an MSR that KVM has to be told about when the guest writes it. */
export function isKept(index: number): boolean {
  return KEPT.has(index);
}

export function exportMsrs(cpu: Cpu, vcpu: KvmVcpu): void {
  vcpu.setMsrs([...KEPT].map(([index, offset]) => [index, cpu.get64(offset)] as const));
}

/** One MSR, after the guest wrote it through the model. */
export function exportMsr(cpu: Cpu, vcpu: KvmVcpu, index: number): void {
  const offset = KEPT.get(index);
  if (offset !== undefined) vcpu.setMsrs([[index, cpu.get64(offset)]]);
}

/** What SWAPGS and WRMSR changed within KVM. */
export function importMsrs(cpu: Cpu, vcpu: KvmVcpu): void {
  const [value] = vcpu.getMsrs([MSR_INDEX.kernelGsBase]);
  if (value !== undefined) cpu.set64(MSR.kernelGsBase, value);
}
