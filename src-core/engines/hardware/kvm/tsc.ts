import { TSC_HZ } from '../../../machine/clock.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { MSR } from '../../../x86/layout.ts';
import { MSR_INDEX, readTsc } from '../../../x86/msr.ts';
import type { KvmVcpu } from './vcpu.ts';

/**
 * The guest's time-stamp counter: in the arena it follows the guest's clock, in KVM the host's counter, scaled where the
 * processor can do that. What the guest reads goes on from where it was at each change between the two.
 */

/** Has KVM count at the machine's rate. False where it can't: the guest then counts at the host's. */
export function setTscRate(vcpu: KvmVcpu): boolean {
  const khz = TSC_HZ / 1000;
  return vcpu.tryIoctl('setTscKhz', khz) >= 0 && vcpu.tryIoctl('getTscKhz', 0) === khz;
}

/** Sets KVM's counter to what the guest would read now. */
export function exportTsc(cpu: Cpu, vcpu: KvmVcpu): void {
  const offset = vcpu.getTscOffset();
  if (offset === undefined) {
    vcpu.setMsrs([[MSR_INDEX.timeStampCounter, readTsc(cpu)]]);
    return;
  }
  // Read before KVM's: the guest is to see no more than it would have, so that leaving KVM takes nothing back.
  const wanted = readTsc(cpu);
  const [value] = vcpu.getMsrs([MSR_INDEX.timeStampCounter]);
  vcpu.setTscOffset(offset + wanted - (value ?? wanted));
}

/** Has the counter in the arena go on from KVM's, where that is ahead. */
export function importTsc(cpu: Cpu, vcpu: KvmVcpu): void {
  const [value] = vcpu.getMsrs([MSR_INDEX.timeStampCounter]);
  if (value === undefined) return;
  const ahead = BigInt.asIntN(64, value - readTsc(cpu));
  if (ahead > 0n) cpu.set64(MSR.tscOffset, BigInt.asUintN(64, cpu.get64(MSR.tscOffset) + ahead));
}
