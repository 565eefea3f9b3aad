/** What stands in the way of hardware virtualization is said in a sentence, and leaves nothing behind. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { KvmError, type KvmErrorKind } from '../../src-core/engines/hardware/kvm/errors.ts';
import { HardwareEngine } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import { liveVms } from '../../src-core/engines/hardware/kvm/vm.ts';
import { KvmSystem } from '../../src-core/engines/hardware/kvm/system.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { type Failures, FakeLibc } from './fake-libc.ts';
import { makeVcpu } from './vcpu.ts';

const ENOENT = 2;
const ENOMEM = 12;
const EACCES = 13;
const EBUSY = 16;
const EEXIST = 17;
const EINVAL = 22;
const ENOTTY = 25;

/** Tries to make an engine where calls fail, and checks that it left nothing. */
function attempt(failures: Failures): KvmError {
  const calls = new FakeLibc(failures);
  const { arena, cpu } = makeVcpu();
  const software = new SoftwareEngine({ arena, cpu });
  let caught: unknown;
  try {
    new HardwareEngine({ arena, cpu, software, kvm: { calls } });
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(Error);
  expect([...calls.open$]).toEqual([]);
  expect(calls.mappings).toBe(0);
  expect(calls.timers).toBe(0);
  expect(liveVms()).toBe(0);
  // The guest can still run in software.
  arena.ram.set([0x40, 0x40, 0xf4], 0x1000);
  cpu.setSegment(1, { selector: 0, attributes: 0x9b, limit: 0xffff, base: 0n });
  cpu.rip = 0x1000n;
  cpu.stateReplaced();
  expect(software.run(100)).toBe('halt');
  expect(cpu.gpr32(0)).toBe(2);
  software.dispose();
  if (!(caught instanceof KvmError)) throw caught;
  return caught;
}

describe('refusals', () => {
  const cases: [string, Failures, KvmErrorKind, RegExp][] = [
    ['/dev/kvm is absent', { open: ENOENT }, 'absent', /^This host has no \/dev\/kvm\.$/],
    ['/dev/kvm may not be opened', { open: EACCES }, 'permission', /^You may not use \/dev\/kvm/],
    ['something else is there', { ioctl: { getApiVersion: ENOTTY } }, 'notKvm', /^\/dev\/kvm is not KVM/],
    ['another API', { version: 11 }, 'apiVersion', /version 11 of the KVM API; version 12/],
    [
      'capabilities are missing',
      { lacking: ['immediateExit', 'msrFilter'] },
      'capability',
      /lacks .*: immediateExit, msrFilter\.$/,
    ],
    ['no VM can be made', { ioctl: { createVm: ENOMEM } }, 'create', /could not make a virtual machine/],
    ['another hypervisor is at work', { ioctl: { createVm: EBUSY } }, 'create', /KVM_CREATE_VM: EBUSY/],
    ['no vCPU can be made', { ioctl: { createVcpu: EEXIST } }, 'create', /could not make a vCPU/],
    ['kvm_run can’t be mapped', { map: true }, 'create', /run structure can’t be mapped/],
    [
      'memory can’t be registered',
      { ioctl: { setUserMemoryRegion: ENOMEM } },
      'memory',
      /does not take guest memory 0x0\.\.0x9ffff \(ENOMEM/,
    ],
  ];
  it.each(cases)('%s', (_name, failures, kind, message) => {
    const error = attempt(failures);
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(message);
  });

  it('a permission is mended by a command', () => {
    expect(attempt({ open: EACCES }).command).toMatch(
      /^sudo (usermod -aG \S+ \$USER|setfacl .* \/dev\/kvm)$/,
    );
  });

  it('a hypervisor that holds the processor is named as the reason', () => {
    expect(attempt({ ioctl: { createVm: EBUSY } }).hint).toMatch(/Another hypervisor/);
  });

  it('a call that fails without a meaning of its own is told with its error', () => {
    expect(() => attempt({ ioctl: { setCpuid2: EINVAL } })).toThrow(/^setCpuid2: EINVAL/);
  });
});

describe('a device that is not KVM', () => {
  const directories: string[] = [];
  afterEach(() => {
    for (const path of directories.splice(0)) rmSync(path, { recursive: true, force: true });
  });

  const isLinux = process.platform === 'linux' && process.arch === 'x64';
  it.skipIf(!isLinux)('is told apart from one that is absent', () => {
    const directory = mkdtempSync(join(tmpdir(), 'switchyard-kvm-'));
    directories.push(directory);
    const file = join(directory, 'kvm');
    writeFileSync(file, '');
    const kindOf = (device: string): string => {
      try {
        new KvmSystem({ device }).close();
      } catch (error) {
        if (error instanceof KvmError) return error.kind;
        throw error;
      }
      return 'none';
    };
    expect(kindOf(file)).toBe('notKvm');
    expect(kindOf('/dev/null')).toBe('notKvm');
    expect(kindOf(directory)).toBe('notKvm');
    expect(kindOf(join(directory, 'missing'))).toBe('absent');
    // The superuser may open everything.
    if (process.getuid?.() === 0) return;
    chmodSync(file, 0);
    expect(kindOf(file)).toBe('permission');
  });
});

describe('an engine over a kernel that does all it is asked', () => {
  it('gives everything back', () => {
    const calls = new FakeLibc();
    const { arena, cpu } = makeVcpu();
    const software = new SoftwareEngine({ arena, cpu });
    const engine = new HardwareEngine({ arena, cpu, software, kvm: { calls } });
    // /dev/kvm, the VM and its vCPU.
    expect(calls.open$.size).toBe(3);
    expect(liveVms()).toBe(1);
    engine.dispose();
    engine.dispose();
    expect([...calls.open$]).toEqual([]);
    expect(calls.mappings).toBe(0);
    expect(calls.timers).toBe(0);
    expect(liveVms()).toBe(0);
    software.dispose();
  });
});
