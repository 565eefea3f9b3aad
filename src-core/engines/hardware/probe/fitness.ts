import {
  type HardwareProbe,
  PROBE_CHECK_LABELS,
  type ProbeCheckId,
} from '../../../protocol/hardware-probe.ts';
import { CR4_FSGSBASE, CR4_PAE, CR4_SMAP, CR4_SMEP, EFER_SCE } from '../../../x86/bits.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { MSR } from '../../../x86/layout.ts';

/** Bits of CR4 that need a feature of the processor. */
const CR4_FEATURES = [
  [CR4_SMEP, 'smep'],
  [CR4_SMAP, 'smap'],
  [CR4_FSGSBASE, 'fsgsbase'],
] as const;

/**
 * Why a host of which a probe found this cannot run a guest in the state the vCPU is in now; undefined when nothing
 * speaks against it. What the guest does next may still be more than the host can.
 */
export function unfitFor(cpu: Cpu, probe: HardwareProbe): string | undefined {
  if (probe.verdict === 'unable') return probe.failure?.message ?? 'No guest runs on this host’s hardware.';
  const missing = CR4_FEATURES.filter(([bit]) => (cpu.cr4 & bit) !== 0)
    .map(([, name]) => name)
    .filter((name) => probe.host?.missingFeatures.includes(name));
  if (missing.length > 0) return `The guest uses what this host’s hardware lacks: ${missing.join(', ')}.`;
  for (const id of needs(cpu)) {
    const check = probe.checks.find((candidate) => candidate.id === id);
    if (check?.works === true) continue;
    const why = check ? check.detail : 'it was not tried';
    return `This host’s hardware fails at what the guest uses: ${PROBE_CHECK_LABELS[id]} (${why}).`;
  }
  return undefined;
}

/** What must work for a guest in this state. */
function needs(cpu: Cpu): ProbeCheckId[] {
  if (!cpu.protectedMode) return ['realMode'];
  const user = cpu.cpl === 3;
  if (cpu.longMode) {
    // Where SYSCALL leads is set up once there are programs that use it.
    const calls = (cpu.efer & EFER_SCE) !== 0 && cpu.get64(MSR.lstar) !== 0n;
    return [
      'longMode',
      ...(user ? (['ring3Int'] as const) : []),
      ...(calls ? (['ring3Syscall'] as const) : []),
    ];
  }
  const ring3: ProbeCheckId[] = user ? ['ring3Int32'] : [];
  if (!cpu.paging) return ['protectedMode', ...ring3];
  return [(cpu.cr4 & CR4_PAE) !== 0 ? 'pagingPae' : 'paging32', ...ring3];
}
