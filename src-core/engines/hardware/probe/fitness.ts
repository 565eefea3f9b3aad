import {
  type HardwareProbe,
  PROBE_CHECK_LABELS,
  type ProbeCheckId,
} from '../../../protocol/hardware-probe.ts';
import type { GuestSystem } from '../../../firmware/boot.ts';
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
  if (probe.verdict === 'unable') return unable(probe);
  const missing = CR4_FEATURES.filter(([bit]) => (cpu.cr4 & bit) !== 0)
    .map(([, name]) => name)
    .filter((name) => probe.host?.missingFeatures.includes(name));
  if (missing.length > 0) return `The guest uses what this host’s hardware lacks: ${missing.join(', ')}.`;
  return failure(needs(cpu), probe, 'the guest uses');
}

/** The same for an operating system that is yet to boot and will come to use paging and ring 3. */
export function unfitForSystem(system: GuestSystem, probe: HardwareProbe): string | undefined {
  if (probe.verdict === 'unable') return unable(probe);
  if (system === 'linux64') {
    return failure(['longMode', 'pageFault', 'ring3Int', 'ring3Syscall', 'interrupts'], probe, 'Linux needs');
  }
  // Which of the two kinds of paging its kernel was built for shows when it switches it on.
  return (
    (failure(['paging32'], probe, 'Linux needs') && failure(['pagingPae'], probe, 'Linux needs')) ??
    failure(['ring3Int32', 'interrupts'], probe, 'Linux needs')
  );
}

function unable(probe: HardwareProbe): string {
  return probe.failure?.message ?? 'No guest runs on this host’s hardware.';
}

/** The first of these that does not work. */
function failure(ids: readonly ProbeCheckId[], probe: HardwareProbe, what: string): string | undefined {
  for (const id of ids) {
    const check = probe.checks.find((candidate) => candidate.id === id);
    if (check?.works === true) continue;
    const why = check ? check.detail : 'it was not tried';
    return `This host’s hardware fails at what ${what}: ${PROBE_CHECK_LABELS[id]} (${why}).`;
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
