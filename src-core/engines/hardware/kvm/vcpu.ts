import { type Arena, ARENA } from '../../../machine/arena.ts';
import { CallBuffer } from './buffer.ts';
import { describeErrno, KvmError } from './errors.ts';
import { VCPU_IOCTL } from './ioctl.ts';
import { CPUID2, DEVICE_ATTR, EXIT_REASON, MSRS, RUN, SIZE, SYNC } from './layout.ts';
import { checked, type Libc } from './libc.ts';
import { KvmStatistics } from './statistics.ts';

/** What KVM_RUN came back with when no exit is to be handled. */
export const INTERRUPTED = -1;
/** KVM_RUN refused: the state is not one the processor can be in, or a system call failed. `lastErrno` says which. */
export const REFUSED = -2;

const BUFFER_SIZE = 16384;
const ERRNO_EINTR = 4;
const ERRNO_EAGAIN = 11;
const K = ARENA.kvmRun;

export interface KvmVcpuParts {
  calls: Libc;
  fd: number;
  arena: Arena;
  /** This KVM has KVM_GET_STATS_FD. */
  hasStatistics: boolean;
  /** Puts ordinary memory in the place of kvm_run. */
  unmap: () => boolean;
}

export interface CpuidValue {
  readonly leaf: number;
  /** Undefined: the leaf does not look at ECX. */
  readonly subleaf?: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** A KVM vCPU. Its kvm_run structure stands in the arena at ARENA.kvmRun and is read and written there. */
export class KvmVcpu {
  readonly buffer: CallBuffer;
  /** The error number behind REFUSED. */
  lastErrno = 0;
  readonly #calls: Libc;
  readonly #fd: number;
  readonly #u8: Uint8Array;
  readonly #u32: Uint32Array;
  readonly #unmap: () => boolean;
  readonly #hasStatistics: boolean;
  #statistics: KvmStatistics | undefined;
  #closed = false;

  constructor({ calls, fd, arena, hasStatistics, unmap }: KvmVcpuParts) {
    this.#hasStatistics = hasStatistics;
    this.#calls = calls;
    this.#fd = fd;
    this.#u8 = arena.u8;
    this.#u32 = arena.u32;
    this.#unmap = unmap;
    this.buffer = new CallBuffer(calls, BUFFER_SIZE);
  }

  /** Runs the guest to the next exit: its reason (EXIT_REASON), INTERRUPTED or REFUSED. */
  run(): number {
    if (this.#calls.ioctl(this.#fd, VCPU_IOCTL.run, 0) >= 0) return this.#u32[(K + RUN.exitReason) >> 2]!;
    const errno = this.#calls.errno();
    if (errno === ERRNO_EINTR || errno === ERRNO_EAGAIN) return INTERRUPTED;
    this.lastErrno = errno;
    return REFUSED;
  }

  /** Lets KVM finish the instruction of the last exit without executing another. The result is as of `run`. */
  complete(): number {
    this.#u8[K + RUN.immediateExit] = 1;
    const result = this.run();
    this.#u8[K + RUN.immediateExit] = 0;
    return result;
  }

  /**
   * `complete`, after which registers, segments and events stand in kvm_run. They do not come with every exit: reading
   * them out of the processor costs a large part of what an exit does.
   */
  readRegisters(): number {
    this.#u32[(K + RUN.validRegs) >> 2] = SYNC.all;
    const result = this.complete();
    this.#u32[(K + RUN.validRegs) >> 2] = 0;
    return result;
  }

  /** Has KVM deliver an external interrupt with the next instruction. KVM has said that it is ready for one. */
  interrupt(vector: number): void {
    this.buffer.u32[0] = vector;
    this.ioctl('interrupt', this.buffer.address);
  }

  /** Calls an ioctl of the vCPU's descriptor. @throws SystemCallError */
  ioctl(name: keyof typeof VCPU_IOCTL, argument: number): number {
    return checked(this.#calls, name, this.#calls.ioctl(this.#fd, VCPU_IOCTL[name], argument));
  }

  /** Like `ioctl`, for calls that may fail: negative then. */
  tryIoctl(name: keyof typeof VCPU_IOCTL, argument: number): number {
    return this.#calls.ioctl(this.#fd, VCPU_IOCTL[name], argument);
  }

  /** Signals blocked during KVM_RUN, as a bit mask (bit n - 1 for signal n). */
  setSignalMask(mask: bigint): void {
    const { u32, view, address } = this.buffer;
    u32[0] = 8;
    view.setBigUint64(4, mask, true);
    this.ioctl('setSignalMask', address);
  }

  setCpuid(entries: readonly CpuidValue[]): void {
    const { u8, u32, address } = this.buffer;
    u8.fill(0, 0, CPUID2.entries + entries.length * SIZE.cpuidEntry);
    u32[CPUID2.count >> 2] = entries.length;
    entries.forEach(({ leaf, subleaf, eax, ebx, ecx, edx }, index) => {
      const at = (CPUID2.entries + index * SIZE.cpuidEntry) >> 2;
      u32[at + (CPUID2.function >> 2)] = leaf;
      u32[at + (CPUID2.index >> 2)] = subleaf ?? 0;
      u32[at + (CPUID2.flags >> 2)] = subleaf === undefined ? 0 : CPUID2.significantIndex;
      u32[at + (CPUID2.eax >> 2)] = eax;
      u32[at + (CPUID2.ebx >> 2)] = ebx;
      u32[at + (CPUID2.ecx >> 2)] = ecx;
      u32[at + (CPUID2.edx >> 2)] = edx;
    });
    this.ioctl('setCpuid2', address);
  }

  /** @throws KvmError `state` when an MSR is refused */
  setMsrs(values: readonly (readonly [index: number, value: bigint])[]): void {
    const { u32, u64, address } = this.buffer;
    u32[MSRS.count >> 2] = values.length;
    u32[1] = 0;
    values.forEach(([index, value], i) => {
      const at = MSRS.entries + i * SIZE.msrEntry;
      u32[(at + MSRS.entryIndex) >> 2] = index;
      u32[(at + MSRS.entryIndex + 4) >> 2] = 0;
      u64[(at + MSRS.entryData) >> 3] = BigInt.asUintN(64, value);
    });
    const done = this.ioctl('setMsrs', address);
    const refused = values[done];
    if (refused) throw msrError('take', refused[0]);
  }

  /** @throws KvmError `state` when there is no such MSR */
  getMsrs(indices: readonly number[]): bigint[] {
    const { u32, u64, address } = this.buffer;
    u32[MSRS.count >> 2] = indices.length;
    u32[1] = 0;
    indices.forEach((index, i) => {
      const at = (MSRS.entries + i * SIZE.msrEntry) >> 2;
      u32[at] = index;
      u32[at + 1] = 0;
    });
    const done = this.ioctl('getMsrs', address);
    const refused = indices[done];
    if (refused !== undefined) throw msrError('give', refused);
    return indices.map((_, i) => u64[(MSRS.entries + i * SIZE.msrEntry + MSRS.entryData) >> 3]!);
  }

  /** What KVM adds to the host's (scaled) TSC for the guest's; undefined where KVM does not tell. */
  getTscOffset(): bigint | undefined {
    return this.#tscAttribute('getDeviceAttr') ? this.buffer.u64[4] : undefined;
  }

  /** False where KVM cannot. */
  setTscOffset(offset: bigint): boolean {
    this.buffer.u64[4] = BigInt.asUintN(64, offset);
    return this.#tscAttribute('setDeviceAttr');
  }

  #tscAttribute(name: 'getDeviceAttr' | 'setDeviceAttr'): boolean {
    const { u8, u32, u64, address } = this.buffer;
    u8.fill(0, 0, SIZE.deviceAttr);
    u32[DEVICE_ATTR.group >> 2] = DEVICE_ATTR.tscControl;
    u64[DEVICE_ATTR.attr >> 3] = BigInt(DEVICE_ATTR.tscOffset);
    u64[DEVICE_ATTR.address >> 3] = BigInt(address + 32);
    return this.tryIoctl(name, address) >= 0;
  }

  /** KVM's own counters of the vCPU by name; none where this KVM has no binary statistics. */
  counters(): Record<string, number> {
    if (this.#hasStatistics) this.#statistics ??= new KvmStatistics(this.ioctl('getStatsFd', 0));
    return this.#statistics?.read() ?? {};
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#statistics?.close();
    // The mapping holds the vCPU, and with it the VM.
    const unmapped = this.#unmap();
    this.#calls.close(this.#fd);
    if (!unmapped) throw new KvmError('system', 'KVM’s run structure can’t be taken out of the arena.');
  }
}

/** A sentence about an exit the engine does not know. */
export function unexpectedExit(reason: number): KvmError {
  const name =
    Object.entries(EXIT_REASON).find(([, value]) => value === reason)?.[0] ?? 'unknown to this engine';
  return new KvmError('system', `KVM gave an unexpected exit ${reason} (${name}).`);
}

/** What KVM_RUN's refusal means. */
export function refusedRun(errno: number): KvmError {
  return new KvmError(
    'state',
    `KVM does not run the guest in its present state (KVM_RUN: ${describeErrno(errno)}).`,
  );
}

function msrError(verb: string, index: number): KvmError {
  return new KvmError('state', `KVM does not ${verb} MSR 0x${index.toString(16)}.`);
}
