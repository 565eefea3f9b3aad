import { type Arena, ARENA } from '../../../machine/arena.ts';
import { CallBuffer } from './buffer.ts';
import { describeErrno, KvmError } from './errors.ts';
import { CAP, VM_IOCTL } from './ioctl.ts';
import { ENABLE_CAP, MEMORY_REGION, MSR_EXIT, MSR_FILTER, SIZE } from './layout.ts';
import { checked, ERRNO, type Libc } from './libc.ts';
import type { KvmSystem } from './system.ts';
import { KvmStatistics } from './statistics.ts';
import { KvmVcpu } from './vcpu.ts';

/** Guest-physical memory that KVM serves without an exit. */
export interface MemorySlot {
  /** Guest-physical address and bytes; both multiples of 4 KiB. */
  readonly phys: number;
  readonly size: number;
  /** Offset in the arena. */
  readonly arena: number;
  /** False: writes leave KVM as MMIO. */
  readonly writable: boolean;
}

/** MSRs the guest reads and writes in KVM itself; all others come to us. */
export interface MsrRange {
  readonly first: number;
  readonly count: number;
}

/** Pages KVM may want for itself while a guest is in real mode (VT-x without unrestricted guest): below the BIOS. */
const IDENTITY_MAP = 0xfeffc000;
const TSS = 0xfeffd000;
/** Two pages of which one is the empty page of `forgetShadows`; nothing else is there in any machine. */
const SPARE = 0xfefe0000;
/** Its slot, above all others. */
const SPARE_SLOT = 256;
const PAGE = 4096;
const BUFFER_SIZE = 16384;

/**
 * VMs that exist. A memory slot that outlives its memory writes into whatever comes to stand there, so the arena of
 * each must live as long as it does.
 */
const live = new Set<KvmVm>();

/** How many KVM VMs this process holds. */
export function liveVms(): number {
  return live.size;
}

/** One KVM virtual machine over an arena, with at most one vCPU. */
export class KvmVm {
  readonly arena: Arena;
  readonly calls: Libc;
  readonly #system: KvmSystem;
  readonly #fd: number;
  readonly #buffer: CallBuffer;
  readonly #arenaAddress: number;
  #slots: (MemorySlot | undefined)[] = [];
  /** Where the spare page is; 0 before it is first needed. */
  #sparePage = 0;
  #vcpu: KvmVcpu | undefined;
  #statistics: KvmStatistics | undefined;
  #closed = false;

  /** @throws KvmError `create` */
  constructor(system: KvmSystem, arena: Arena) {
    this.arena = arena;
    this.#system = system;
    this.calls = system.calls;
    this.#buffer = new CallBuffer(this.calls, BUFFER_SIZE);
    this.#arenaAddress = this.calls.address(arena.u8);
    if (this.#arenaAddress % PAGE !== 0) {
      throw new KvmError('memory', 'Guest memory does not start at a page: KVM cannot take it.');
    }
    this.#fd = system.createVm();
    live.add(this);
    try {
      this.#reservePages();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Both are of no use beside VT-x and refused there by nobody; guests have nothing at these addresses. */
  #reservePages(): void {
    if (this.extension(CAP.setTssAddress) > 0) this.ioctl('setTssAddress', TSS);
    if (this.extension(CAP.setIdentityMapAddress) > 0) {
      this.#buffer.u64[0] = BigInt(IDENTITY_MAP);
      this.ioctl('setIdentityMapAddress', this.#buffer.address);
    }
  }

  /** The processor walks guest page tables itself (EPT, NPT). */
  get nestedPaging(): boolean {
    return this.#system.nestedPaging;
  }

  extension(capability: number): number {
    return this.calls.ioctl(this.#fd, VM_IOCTL.checkExtension, capability);
  }

  /** Calls an ioctl of the VM's descriptor. @throws SystemCallError */
  ioctl(name: keyof typeof VM_IOCTL, argument: number): number {
    return checked(this.calls, name, this.calls.ioctl(this.#fd, VM_IOCTL[name], argument));
  }

  enableCap(capability: number, argument: number): void {
    const { u8, u32, u64, address } = this.#buffer;
    u8.fill(0, 0, SIZE.enableCap);
    u32[ENABLE_CAP.cap >> 2] = capability;
    u64[ENABLE_CAP.args >> 3] = BigInt(argument);
    this.ioctl('enableCap', address);
  }

  /** Has every access to an MSR outside `ranges` leave KVM (KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR). */
  filterMsrs(ranges: readonly MsrRange[]): void {
    if (ranges.length > MSR_FILTER.rangeCount) throw new RangeError('at most 16 ranges of MSRs');
    this.enableCap(CAP.userSpaceMsr, MSR_EXIT.filter | MSR_EXIT.unknown | MSR_EXIT.invalid);
    const { u8, u32, u64, address } = this.#buffer;
    u8.fill(0);
    u32[MSR_FILTER.flags >> 2] = MSR_FILTER.defaultDeny;
    let bitmap: number = SIZE.msrFilter;
    ranges.forEach(({ first, count }, index) => {
      const range = MSR_FILTER.ranges + index * SIZE.msrFilterRange;
      u32[(range + MSR_FILTER.rangeFlags) >> 2] = MSR_FILTER.read | MSR_FILTER.write;
      u32[(range + MSR_FILTER.rangeMsrs) >> 2] = count;
      u32[(range + MSR_FILTER.rangeBase) >> 2] = first;
      u64[(range + MSR_FILTER.rangeBitmap) >> 3] = BigInt(address + bitmap);
      for (let i = 0; i < count; i++) u8[bitmap + (i >> 3)]! |= 1 << (i & 7);
      bitmap += 8 * Math.ceil(count / 64);
    });
    this.ioctl('setMsrFilter', address);
  }

  get slots(): readonly MemorySlot[] {
    return this.#slots.filter((slot) => slot !== undefined);
  }

  /** Makes guest-physical memory what `wanted` says; slots that are in it already stay. @throws KvmError `memory` */
  setSlots(wanted: readonly MemorySlot[]): void {
    const missing = wanted.filter((slot) => !this.#slots.some((have) => have && sameSlot(have, slot)));
    this.#slots.forEach((have, index) => {
      if (have && !wanted.some((slot) => sameSlot(slot, have))) this.#deleteSlot(index);
    });
    for (const slot of missing) {
      let index = this.#slots.indexOf(undefined);
      if (index < 0) index = this.#slots.length;
      this.#addSlot(index, slot);
    }
  }

  /**
   * Has KVM forget its shadow page tables, of all address spaces: needed after guest page tables were written behind its
   * back. Moving a memory slot does that; an empty page is kept for it.
   */
  forgetShadows(): void {
    this.#sparePage = this.#sparePage === SPARE ? SPARE + PAGE : SPARE;
    const host = this.#arenaAddress + ARENA.kvmRun + ARENA.kvmRunSize - PAGE;
    const result = this.#setRegion(SPARE_SLOT, this.#sparePage, PAGE, host, false);
    if (result < 0) throw this.#memoryError({ phys: this.#sparePage, size: PAGE }, this.calls.errno());
  }

  deleteSlots(): void {
    this.#slots.forEach((slot, index) => {
      if (slot) this.#deleteSlot(index);
    });
    this.#slots = [];
    if (this.#sparePage !== 0) this.#setRegion(SPARE_SLOT, this.#sparePage, 0, 0, false);
    this.#sparePage = 0;
  }

  #addSlot(index: number, slot: MemorySlot): void {
    const { phys, size, arena, writable } = slot;
    if (arena < 0 || arena + size > this.arena.buffer.byteLength)
      throw new RangeError('a slot outside the arena');
    const result = this.#setRegion(index, phys, size, this.#arenaAddress + arena, writable);
    if (result < 0) throw this.#memoryError(slot, this.calls.errno());
    this.#slots[index] = slot;
  }

  #deleteSlot(index: number): void {
    const slot = this.#slots[index];
    if (!slot) return;
    const { phys, arena } = slot;
    const result = this.#setRegion(index, phys, 0, this.#arenaAddress + arena, true);
    if (result < 0) throw this.#memoryError(slot, this.calls.errno());
    this.#slots[index] = undefined;
  }

  #setRegion(index: number, phys: number, size: number, host: number, writable: boolean): number {
    const { u32, u64, address } = this.#buffer;
    u32[MEMORY_REGION.slot >> 2] = index;
    u32[MEMORY_REGION.flags >> 2] = writable ? 0 : MEMORY_REGION.readonly;
    u64[MEMORY_REGION.guestAddress >> 3] = BigInt(phys);
    u64[MEMORY_REGION.size >> 3] = BigInt(size);
    u64[MEMORY_REGION.hostAddress >> 3] = BigInt(host);
    return this.calls.ioctl(this.#fd, VM_IOCTL.setUserMemoryRegion, address);
  }

  #memoryError({ phys, size }: Pick<MemorySlot, 'phys' | 'size'>, errno: number): KvmError {
    const end = phys + size - 1;
    return new KvmError(
      'memory',
      `KVM does not take guest memory 0x${phys.toString(16)}..0x${end.toString(16)} (${describeErrno(errno)}).`,
      errno === ERRNO.ENOMEM
        ? { hint: 'The host is short of memory: give the virtual machine less, or end other programs.' }
        : {},
    );
  }

  /** Makes the vCPU, its kvm_run structure in the arena at ARENA.kvmRun. @throws KvmError `create` */
  createVcpu(): KvmVcpu {
    if (this.#vcpu) throw new Error('this VM has a vCPU already');
    const size = this.#system.vcpuMmapSize;
    if (size > ARENA.kvmRunSize) {
      throw new KvmError('create', `KVM’s run structure of ${size} bytes is larger than the room for it.`);
    }
    const fd = this.calls.ioctl(this.#fd, VM_IOCTL.createVcpu, 0);
    if (fd < 0) {
      throw new KvmError('create', `KVM could not make a vCPU (${describeErrno(this.calls.errno())}).`);
    }
    if (!this.calls.mapOver(this.#arenaAddress + ARENA.kvmRun, size, fd)) {
      const errno = this.calls.errno();
      this.calls.close(fd);
      throw new KvmError('create', `KVM’s run structure can’t be mapped (${describeErrno(errno)}).`);
    }
    this.#vcpu = new KvmVcpu({
      calls: this.calls,
      fd,
      arena: this.arena,
      hasStatistics: this.extension(CAP.binaryStatsFd) > 0,
      unmap: () => this.calls.unmapOver(this.#arenaAddress + ARENA.kvmRun, size),
    });
    return this.#vcpu;
  }

  /** KVM's own counters of the VM by name; none where this KVM has no binary statistics. */
  counters(): Record<string, number> {
    if (this.#statistics === undefined && this.extension(CAP.binaryStatsFd) > 0) {
      this.#statistics = new KvmStatistics(this.ioctl('getStatsFd', 0));
    }
    return this.#statistics?.read() ?? {};
  }

  /** Slots first, then the vCPU with its mapping, then the descriptors: nothing of KVM's is left in the arena. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.deleteSlots();
    } finally {
      this.#statistics?.close();
      this.#vcpu?.close();
      this.calls.close(this.#fd);
      live.delete(this);
    }
  }
}

function sameSlot(a: MemorySlot, b: MemorySlot): boolean {
  return a.phys === b.phys && a.size === b.size && a.arena === b.arena && a.writable === b.writable;
}
