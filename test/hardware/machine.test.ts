/** Whole machines on KVM: the same guests as on the software engine, the same text. */
import { readFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';
import { probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import { systemGuests } from '../../src-core/guests/system/index.ts';
import type { HardwareProbe, ProbeCheckId } from '../../src-core/protocol/hardware-probe.ts';
import { expectedPath } from '../guests/machines.ts';
import { cpuidGuest, longModeGuest, protectedModeGuest } from './guests.ts';
import { describeKvm, runMachine } from './support.ts';

const TIMEOUT = 240_000;

/** What a system guest needs of KVM beyond 32-bit code in ring 0. */
const NEEDS: Partial<Record<string, readonly ProbeCheckId[]>> = {
  cmpxchg16b: ['longMode'],
  gates: ['ring3Int32'],
  privilege: ['ring3Int32'],
  'privilege-stacks': ['ring3Int32'],
  'paging-32': ['paging32', 'ring3Int32'],
  'paging-32-writes': ['paging32', 'ring3Int32'],
  'paging-pae': ['pagingPae', 'ring3Int32'],
  'paging-pae-writes': ['pagingPae', 'ring3Int32'],
  'paging-64': ['longMode', 'ring3Int'],
  limits: ['ring3Int32'],
  v8086: ['ring3Int32'],
  'long-mode': ['longMode', 'ring3Int', 'ring3Syscall'],
  debug: ['ring3Int32'],
  strings: ['paging32'],
  'self-modifying-code': ['paging32'],
};
/** What kvm_pvm, which emulates ring 0, is known to do wrong though the probe’s guests work on it. */
const KVM_PVM_WRONG: Partial<Record<string, string>> = {
  segments: 'LTR of a selector with TI set has no error code',
  'gates-external': 'faults in the delivery of an exception become double faults',
  'long-mode-checks': 'faults in the delivery of an exception become double faults',
  'debug-order': 'data breakpoints are lost where two hit at once',
  timers: 'interrupts are let in some hundred instructions after STI',
  'real-mode': 'INT FFh never ends',
};

let probe: HardwareProbe;

function works(id: ProbeCheckId): boolean {
  return probe.checks.some((check) => check.id === id && check.works);
}

function whyNot(name: string): string | undefined {
  const failing = NEEDS[name]?.find((id) => !works(id));
  if (failing !== undefined) return `this KVM fails at ${failing}`;
  const known = KVM_PVM_WRONG[name];
  return known !== undefined && probe.host?.module === 'kvm_pvm' ? `kvm_pvm: ${known}` : undefined;
}

describeKvm('Machines on KVM', () => {
  beforeAll(async () => {
    probe = await probeHardware();
    expect(probe.failure).toBeNull();
  }, TIMEOUT);

  it.for([
    ['64-bit code in ring 0', longModeGuest, 'longMode'],
    ['32-bit code without paging', protectedModeGuest, 'protectedMode'],
    ['CPUID', cpuidGuest, 'cpuid'],
  ] as const)(
    '%s gives the text of the software engine',
    { timeout: TIMEOUT },
    async ([, build, needed], { skip }) => {
      if (!works(needed)) skip(`this KVM fails at ${needed}`);
      const image = build();
      const software = await runMachine(image, 'software');
      const hardware = await runMachine(image, 'hardware');
      expect(software.text).toMatch(/\nend\n$/);
      expect(hardware.text).toBe(software.text);
      expect(hardware.end).toEqual(software.end);
    },
  );

  it.for(systemGuests)('system guest $name', { timeout: TIMEOUT }, async (guest, { skip }) => {
    const reason = whyNot(guest.name);
    if (reason !== undefined) skip(reason);
    const { text, end } = await runMachine(guest.build(), 'hardware');
    expect(text).toBe(readFileSync(expectedPath(guest), 'latin1'));
    expect(end).toEqual(
      guest.ends === 'triple-fault' ? { kind: 'tripleFault' } : { kind: 'debugExit', value: 42 },
    );
  });
});
