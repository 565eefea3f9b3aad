/** From what the probe found out about a host's hardware virtualization to the benchmarks that cannot run there. */
import { type HardwareProbe, PROBE_CHECK_LABELS, type ProbeCheckId } from '../../protocol/hardware-probe.ts';
import type { NanobenchBits, NanobenchNeed } from './catalogue.ts';

/** The probe's check that stands for each need, by width. */
const checks: Readonly<Record<NanobenchBits, Partial<Record<NanobenchNeed, ProbeCheckId>>>> = {
  32: {
    kernel: 'protectedMode',
    paging: 'paging32',
    pageFaults: 'paging32',
    userMode: 'ring3Int32',
    interrupts: 'interrupts',
  },
  64: {
    kernel: 'longMode',
    paging: 'longMode',
    pageFaults: 'pageFault',
    userMode: 'ring3Int',
    syscall: 'ring3Syscall',
    interrupts: 'interrupts',
  },
};

export type NanobenchLacks = Readonly<Partial<Record<NanobenchNeed, string>>>;

/** What the probed accelerator cannot do for the guest, and how that showed. */
export function nanobenchLacks(probe: HardwareProbe, bits: NanobenchBits): NanobenchLacks {
  const lacks: Partial<Record<NanobenchNeed, string>> = {};
  for (const [need, id] of Object.entries(checks[bits]) as [NanobenchNeed, ProbeCheckId][]) {
    const check = probe.checks.find((candidate) => candidate.id === id);
    if (check?.works !== false) continue;
    const module = probe.host?.module ?? 'this host';
    lacks[need] = `${PROBE_CHECK_LABELS[id]} does not work on ${module} (${check.detail})`;
  }
  return lacks;
}
