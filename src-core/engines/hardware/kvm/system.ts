import { readFileSync, statSync } from 'node:fs';
import { CallBuffer } from './buffer.ts';
import { describeErrno, KvmError, SystemCallError } from './errors.ts';
import { API_VERSION, CAP, SYSTEM_IOCTL } from './ioctl.ts';
import { CPUID2, SIZE } from './layout.ts';
import { checked, ERRNO, type Libc, libc, O_CLOEXEC, O_RDWR } from './libc.ts';
import type { CpuidValue } from './vcpu.ts';

/** Room for this many CPUID leaves. */
const SUPPORTED_CPUID_MAX = 256;

export const KVM_DEVICE = '/dev/kvm';

/** What this engine cannot do without. */
const REQUIRED: readonly (keyof typeof CAP)[] = [
  'userMemory',
  'syncMmu',
  'readonlyMemory',
  'extCpuid',
  'syncRegs',
  'immediateExit',
  'vcpuEvents',
  'debugRegs',
  'xsave',
  'userSpaceMsr',
  'msrFilter',
];
/** KVM_CAP_SYNC_REGS gives the parts of kvm_sync_regs there are. */
const SYNC_REGS_NEEDED = 7;

/** Parameters of KVM's modules for Intel and AMD. */
const NESTED_PAGING = ['/sys/module/kvm_intel/parameters/ept', '/sys/module/kvm_amd/parameters/npt'];

function isSwitchedOn(parameter: string): boolean {
  try {
    return /^[Y1]/.test(readFileSync(parameter, 'latin1'));
  } catch {
    // The module is not there.
    return false;
  }
}

export interface KvmSystemOptions {
  device?: string;
  calls?: Libc;
}

/** /dev/kvm, opened and found to be what this engine needs. */
export class KvmSystem {
  readonly calls: Libc;
  readonly #fd: number;
  #closed = false;

  /** @throws KvmError `platform`, `absent`, `permission`, `notKvm`, `apiVersion` or `capability` */
  constructor({ device = KVM_DEVICE, calls = libc() }: KvmSystemOptions = {}) {
    this.calls = calls;
    this.#fd = calls.open(device, O_RDWR | O_CLOEXEC);
    if (this.#fd < 0) throw openError(device, calls.errno());
    try {
      this.#checkApi(device);
      this.#checkCapabilities();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #checkApi(device: string): void {
    const version = this.calls.ioctl(this.#fd, SYSTEM_IOCTL.getApiVersion, 0);
    if (version < 0) {
      throw new KvmError('notKvm', `${device} is not KVM (${describeErrno(this.calls.errno())}).`, {
        hint: 'Another device or a file stands in its place.',
        command: `ls -l ${device}`,
      });
    }
    if (version !== API_VERSION) {
      throw new KvmError(
        'apiVersion',
        `${device} speaks version ${version} of the KVM API; version ${API_VERSION} is needed.`,
      );
    }
  }

  #checkCapabilities(): void {
    const missing = REQUIRED.filter((name) => this.extension(CAP[name]) <= 0);
    if (missing.length === 0 && (this.extension(CAP.syncRegs) & SYNC_REGS_NEEDED) !== SYNC_REGS_NEEDED) {
      missing.push('syncRegs');
    }
    if (missing.length === 0) return;
    throw new KvmError(
      'capability',
      `This host’s KVM lacks what the hardware engine needs: ${missing.join(', ')}.`,
      {
        hint: 'Linux 5.10 or later has all of it.',
        command: 'uname -r',
      },
    );
  }

  /** KVM_CHECK_EXTENSION: 0 when there is none, 1 or a number that depends on the capability. */
  extension(capability: number): number {
    return this.calls.ioctl(this.#fd, SYSTEM_IOCTL.checkExtension, capability);
  }

  /** Whether KVM uses nested paging (its modules say so); without, it keeps shadow page tables. */
  readonly nestedPaging = NESTED_PAGING.some(isSwitchedOn);

  /** Bytes to map of a vCPU's descriptor. */
  get vcpuMmapSize(): number {
    return checked(
      this.calls,
      'KVM_GET_VCPU_MMAP_SIZE',
      this.calls.ioctl(this.#fd, SYSTEM_IOCTL.getVcpuMmapSize, 0),
    );
  }

  /** The CPUID leaves KVM can give guests (KVM_GET_SUPPORTED_CPUID). */
  supportedCpuid(): CpuidValue[] {
    const { u32, address } = new CallBuffer(
      this.calls,
      CPUID2.entries + SUPPORTED_CPUID_MAX * SIZE.cpuidEntry,
    );
    u32[CPUID2.count >> 2] = SUPPORTED_CPUID_MAX;
    this.ioctl('getSupportedCpuid', address);
    return Array.from({ length: u32[CPUID2.count >> 2]! }, (_, index) => {
      const at = (CPUID2.entries + index * SIZE.cpuidEntry) >> 2;
      const value = (offset: number): number => u32[at + (offset >> 2)]!;
      return {
        leaf: value(CPUID2.function),
        subleaf: value(CPUID2.index),
        eax: value(CPUID2.eax),
        ebx: value(CPUID2.ebx),
        ecx: value(CPUID2.ecx),
        edx: value(CPUID2.edx),
      };
    });
  }

  /** Calls an ioctl of the system descriptor. @throws SystemCallError */
  ioctl(name: keyof typeof SYSTEM_IOCTL, argument: number): number {
    return checked(this.calls, name, this.calls.ioctl(this.#fd, SYSTEM_IOCTL[name], argument));
  }

  /** Makes a VM: its descriptor. @throws KvmError `create` */
  createVm(): number {
    for (;;) {
      const fd = this.calls.ioctl(this.#fd, SYSTEM_IOCTL.createVm, 0);
      if (fd >= 0) return fd;
      const errno = this.calls.errno();
      // KVM_CREATE_VM initialises the processors, which a signal may interrupt.
      if (errno === ERRNO.EINTR) continue;
      throw createError(errno);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.calls.close(this.#fd);
  }
}

function createError(errno: number): KvmError {
  const busy = errno === ERRNO.EBUSY;
  return new KvmError(
    'create',
    `KVM could not make a virtual machine (KVM_CREATE_VM: ${describeErrno(errno)}).`,
    {
      hint: busy
        ? 'Another hypervisor holds the processor’s virtualization; end its virtual machines first.'
        : 'The kernel’s log says more.',
      command: busy ? 'lsmod | grep -E "vboxdrv|vmmon|kvm"' : 'sudo dmesg | grep -i kvm | tail',
      cause: new SystemCallError('KVM_CREATE_VM', errno),
    },
  );
}

function openError(device: string, errno: number): KvmError {
  const cause = new SystemCallError(`open ${device}`, errno);
  switch (errno) {
    case ERRNO.ENOENT:
    case ERRNO.ENXIO:
    case ERRNO.ENODEV:
      // Of another path than KVM's own nothing follows for the host.
      return new KvmError('absent', `This host has no ${device}.`, {
        ...(device === KVM_DEVICE && absentHint()),
        cause,
      });
    case ERRNO.EACCES:
    case ERRNO.EPERM:
      return new KvmError('permission', `You may not use ${device} (${describeErrno(errno)}).`, {
        ...permissionHint(device),
        cause,
      });
    case ERRNO.EISDIR:
      return new KvmError('notKvm', `${device} is not KVM but a directory.`, { cause });
    default:
      return new KvmError('system', `${device} can’t be opened (${describeErrno(errno)}).`, { cause });
  }
}

/** What brings /dev/kvm about: the module for this processor, or a switch in the firmware. */
function absentHint(): { hint: string; command?: string } {
  const flags = cpuFlags();
  if (flags.has('vmx')) {
    return {
      hint: 'The processor has VT-x; the module that uses it is not loaded.',
      command: 'sudo modprobe kvm_intel',
    };
  }
  if (flags.has('svm')) {
    return {
      hint: 'The processor has AMD-V; the module that uses it is not loaded.',
      command: 'sudo modprobe kvm_amd',
    };
  }
  if (flags.has('hypervisor')) {
    return {
      hint: 'This host is itself a virtual machine without nested virtualization: switch that on where it runs.',
    };
  }
  return {
    hint: 'The processor shows no VT-x or AMD-V: look in the firmware setup whether it is switched off.',
  };
}

function cpuFlags(): ReadonlySet<string> {
  try {
    const [, flags = ''] = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1')) ?? [];
    return new Set(flags.trim().split(/\s+/));
  } catch {
    // Without /proc nothing is known of the processor.
    return new Set();
  }
}

/** How to get at a device that belongs to another group. */
function permissionHint(device: string): { hint: string; command: string } {
  const group = groupOf(device);
  return group === undefined || group === 'root'
    ? { hint: 'Give yourself access until the next start:', command: `sudo setfacl -m u:$USER:rw ${device}` }
    : { hint: `Join the group "${group}", then log in again:`, command: `sudo usermod -aG ${group} $USER` };
}

function groupOf(path: string): string | undefined {
  try {
    const { gid, mode } = statSync(path);
    if ((mode & 0o060) !== 0o060) return undefined;
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((entry) => entry.split(':')[2] === String(gid));
    return line?.split(':')[0];
  } catch {
    // The hint does without the group's name.
    return undefined;
  }
}
