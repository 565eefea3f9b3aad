/** Whether a host can run a guest as it is now, by what the probe found. */
import { describe, expect, it } from 'vitest';
import { unfitFor, unfitForSystem } from '../../src-core/engines/hardware/probe/fitness.ts';
import {
  longMode,
  paging32,
  pagingPae,
  protectedMode,
  realMode,
} from '../../src-core/engines/hardware/probe/modes.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  type HardwareProbe,
  probeCheckIdSchema,
  type ProbeCheckId,
} from '../../src-core/protocol/hardware-probe.ts';
import { CR4_SMAP } from '../../src-core/x86/bits.ts';
import { partialProbe, unableProbe } from '../support/fake-engines.ts';
import { makeVcpu } from './vcpu.ts';

function probeWithout(failing: readonly ProbeCheckId[], missingFeatures: string[] = []): HardwareProbe {
  return {
    verdict: 'partly',
    failure: null,
    host: { module: null, nestedPaging: true, tscScaling: true, missingFeatures },
    checks: probeCheckIdSchema.options.map((id) => {
      const works = !failing.includes(id);
      return { id, works, detail: works ? '' : 'triple fault' };
    }),
    speed: null,
  };
}

function place() {
  const { arena, cpu } = makeVcpu();
  return { cpu, view: new DataView(arena.buffer, ARENA.ram, arena.ramSize) };
}

describe('Fitness of a host', () => {
  it.each([
    ['real mode', realMode, 'realMode'],
    ['protected mode', (at) => protectedMode(at), 'protectedMode'],
    ['32-bit paging', (at) => paging32(at), 'paging32'],
    ['PAE paging', (at) => pagingPae(at), 'pagingPae'],
    ['long mode', (at) => longMode(at), 'longMode'],
  ] satisfies [string, (at: ReturnType<typeof place>) => void, ProbeCheckId][])(
    '%s needs what tries it out',
    (_name, prepare, id) => {
      const at = place();
      prepare(at);
      expect(unfitFor(at.cpu, probeWithout([]))).toBeUndefined();
      expect(unfitFor(at.cpu, probeWithout([id]))).toMatch(/^This host’s hardware fails at .*triple fault/);
      const others = probeCheckIdSchema.options.filter((other) => other !== id);
      expect(unfitFor(at.cpu, probeWithout(others))).toBeUndefined();
    },
  );

  it('programs of ring 3 need the ways into the kernel', () => {
    const at = place();
    longMode(at, {}, 0x1000);
    expect(unfitFor(at.cpu, probeWithout(['ring3Int']))).toBeUndefined();
    expect(unfitFor(at.cpu, probeWithout(['ring3Syscall']))).toMatch(/SYSCALL/);
    at.cpu.setCpl(3);
    expect(unfitFor(at.cpu, probeWithout(['ring3Int']))).toMatch(/INT, long mode/);
  });

  it('features in use must be there', () => {
    const at = place();
    longMode(at);
    const probe = probeWithout([], ['smap', 'popcnt']);
    expect(unfitFor(at.cpu, probe)).toBeUndefined();
    at.cpu.setCr4(at.cpu.cr4 | CR4_SMAP);
    expect(unfitFor(at.cpu, probe)).toBe('The guest uses what this host’s hardware lacks: smap.');
  });

  it('a host on which nothing runs says why', () => {
    const failure = { kind: 'absent', message: 'This host has no /dev/kvm.', hint: null, command: null };
    const probe: HardwareProbe = { verdict: 'unable', failure, host: null, checks: [], speed: null };
    expect(unfitFor(place().cpu, probe)).toBe('This host has no /dev/kvm.');
  });
});

describe('an operating system that is yet to boot', () => {
  it.each([
    ['linux64', ['ring3Syscall'], /Linux needs: Ring 3 and back by SYSCALL/],
    ['linux64', ['paging32', 'pagingPae', 'ring3Int32'], undefined],
    // Its kernel was built for one kind of paging or the other.
    ['linux32', ['paging32'], undefined],
    ['linux32', ['pagingPae', 'longMode'], undefined],
    ['linux32', ['paging32', 'pagingPae'], /Linux needs: PAE paging/],
    ['linux32', ['ring3Int32'], /Linux needs: Ring 3 and back by INT, 32-bit paging/],
  ] as const)('%s where %s fail', (system, failing, reason) => {
    const found = unfitForSystem(system, partialProbe(...failing));
    if (reason) expect(found).toMatch(reason);
    else expect(found).toBeUndefined();
  });

  it('anything, where nothing runs', () => {
    expect(unfitForSystem('linux64', unableProbe)).toBe('This host has no /dev/kvm.');
  });
});
