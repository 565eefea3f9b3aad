/** A kernel with a KVM in which chosen calls fail, for hosts of every kind. */
import { CAP, SYSTEM_IOCTL, VCPU_IOCTL, VM_IOCTL } from '../../src-core/engines/hardware/kvm/ioctl.ts';
import type { Libc } from '../../src-core/engines/hardware/kvm/libc.ts';

const PAGE = 4096;
const RUN_SIZE = 3 * PAGE;

type Call = keyof typeof SYSTEM_IOCTL | keyof typeof VM_IOCTL | keyof typeof VCPU_IOCTL;
const NUMBERS: Record<string, number> = { ...SYSTEM_IOCTL, ...VM_IOCTL, ...VCPU_IOCTL };

export interface Failures {
  /** Error number of open(2). */
  open?: number;
  /** Error numbers of ioctls. */
  ioctl?: Partial<Record<Call, number>>;
  /** Version that KVM_GET_API_VERSION gives. */
  version?: number;
  /** Capabilities there are not. */
  lacking?: readonly (keyof typeof CAP)[];
  /** mmap(2) of the vCPU fails. */
  map?: boolean;
}

export class FakeLibc implements Libc {
  /** Descriptors that are open. */
  readonly open$ = new Set<number>();
  /** Mappings over the arena. */
  mappings = 0;
  timers = 0;
  readonly #failures: Failures;
  #errno = 0;
  #next = 100;

  constructor(failures: Failures = {}) {
    this.#failures = failures;
  }

  #fail(errno: number): number {
    this.#errno = errno;
    return -1;
  }

  #descriptor(): number {
    this.open$.add(++this.#next);
    return this.#next;
  }

  address(): number {
    return 0x7f0000000000;
  }
  errno(): number {
    return this.#errno;
  }
  open(): number {
    const { open } = this.#failures;
    return open === undefined ? this.#descriptor() : this.#fail(open);
  }
  close(fd: number): number {
    return this.open$.delete(fd) ? 0 : this.#fail(9);
  }
  ioctl(fd: number, request: number, argument: number): number {
    if (!this.open$.has(fd)) return this.#fail(9);
    const { ioctl = {}, version = 12, lacking = [] } = this.#failures;
    for (const [name, errno] of Object.entries(ioctl)) {
      if (NUMBERS[name] === request) return this.#fail(errno);
    }
    switch (request) {
      case SYSTEM_IOCTL.getApiVersion:
        return version;
      case SYSTEM_IOCTL.checkExtension:
        if (lacking.some((name) => CAP[name] === argument)) return 0;
        return argument === CAP.syncRegs ? 7 : 1;
      case SYSTEM_IOCTL.getVcpuMmapSize:
        return RUN_SIZE;
      case SYSTEM_IOCTL.createVm:
      case VM_IOCTL.createVcpu:
        return this.#descriptor();
      default:
        return 0;
    }
  }
  mapOver(): boolean {
    if (this.#failures.map === true) {
      this.#errno = 12;
      return false;
    }
    this.mappings++;
    return true;
  }
  unmapOver(): boolean {
    this.mappings--;
    return true;
  }
  threadId(): number {
    return 1;
  }
  firstRealTimeSignal(): number {
    return 34;
  }
  blockSignals(): number {
    return 0;
  }
  takeSignal(): number {
    return this.#fail(11);
  }
  createTimer(): number {
    this.timers++;
    return 0;
  }
  setTimer(): number {
    return 0;
  }
  deleteTimer(): number {
    this.timers--;
    return 0;
  }
}
