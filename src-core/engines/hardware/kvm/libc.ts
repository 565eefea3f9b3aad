import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';
import { KvmError, SystemCallError } from './errors.ts';

/** Numbers of Linux on x86-64 (asm-generic headers). */
export const O_RDWR = 2;
export const O_CLOEXEC = 0o2000000;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;

export const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  ENXIO: 6,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  EPERM: 1,
} as const;

/**
 * The calls into the C library that the hardware engine makes. Failures are -1, with `errno` telling why. An interface,
 * so that tests can have calls fail.
 */
export interface Libc {
  /** Address of a typed array's first byte; the array's memory must not be resized or freed while it is in use. */
  address(bytes: Uint8Array): number;
  errno(): number;
  open(path: string, flags: number): number;
  close(fd: number): number;
  /** ioctl(2) with an integer or the address of a structure. */
  ioctl(fd: number, request: number, argument: number): number;
  /** Maps `length` bytes of a file over memory that is there. */
  mapOver(address: number, length: number, fd: number): boolean;
  /** Puts fresh anonymous memory in the place of a mapping made by `mapOver`. */
  unmapOver(address: number, length: number): boolean;
  /** Thread id of the calling thread. */
  threadId(): number;
  /** First real-time signal that is free. */
  firstRealTimeSignal(): number;
  /** Adds signals (a sigset at `set`) to those the calling thread blocks. */
  blockSignals(set: number): number;
  /** Takes one of the pending signals of a sigset without waiting: its number, or -1. */
  takeSignal(set: number): number;
  /** timer_create(2) on CLOCK_MONOTONIC. `event` is a sigevent; the timer's id goes to `id`. */
  createTimer(event: number, id: number): number;
  /** timer_settime(2), relative. `time` is an itimerspec. */
  setTimer(timer: number, time: number): number;
  deleteTimer(timer: number): number;
}

const CLOCK_MONOTONIC = 1;
const SIG_BLOCK = 0;
/** The kernel's sigset_t, bytes. */
const SIGSET_SIZE = 8;
/** System call numbers of x86-64. */
const SYS = {
  rt_sigtimedwait: 128,
  rt_sigprocmask: 14,
  timer_create: 222,
  timer_settime: 223,
  timer_delete: 226,
};

let loaded: Libc | undefined;

/**
 * The C library of this process, opened on the first call. The kernel's own interfaces are used for signals and timers
 * (syscall(2)): the C library's structures differ between libraries.
 * @throws KvmError `platform`
 */
export function libc(): Libc {
  return (loaded ??= load());
}

function load(): Libc {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new KvmError(
      'platform',
      `Hardware virtualization is used through Linux KVM on x86-64; this is ${process.platform} on ${process.arch}.`,
    );
  }
  // Loaded when first needed: machines without this engine do without the native module.
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  const library = koffi.load(null);
  const open = library.func('int open(const char *path, int flags, int mode)') as (
    path: string,
    flags: number,
    mode: number,
  ) => number;
  const close = library.func('int close(int fd)') as (fd: number) => number;
  const ioctl = library.func('int ioctl(int fd, unsigned long request, uint64_t argument)') as Libc['ioctl'];
  const mmap = library.func(
    'int64_t mmap(uint64_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
  ) as (
    address: number,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ) => number | bigint;
  const gettid = library.func('int gettid()') as () => number;
  const sigrtmin = library.func('int __libc_current_sigrtmin()') as () => number;
  const syscall = library.func(
    'int64_t syscall(int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)',
  ) as (number: number, a: number, b: number, c: number, d: number) => number;
  const noWait = new Uint8Array(4096);
  const noWaitAddress = Number(koffi.address(noWait));
  return {
    address: (bytes) => Number(koffi.address(bytes)),
    errno: () => koffi.errno(),
    open: (path, flags) => open(path, flags, 0),
    close,
    ioctl,
    mapOver: (address, length, fd) =>
      Number(mmap(address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0)) === address,
    unmapOver: (address, length) =>
      Number(
        mmap(
          address,
          length,
          PROT_READ | PROT_WRITE,
          MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE,
          -1,
          0,
        ),
      ) === address,
    threadId: () => gettid(),
    firstRealTimeSignal: () => sigrtmin(),
    blockSignals: (set) => syscall(SYS.rt_sigprocmask, SIG_BLOCK, set, 0, SIGSET_SIZE),
    // The buffer of zeros stays alive with this closure.
    takeSignal: (set) => syscall(SYS.rt_sigtimedwait, set, 0, noWaitAddress + noWait[0]!, SIGSET_SIZE),
    createTimer: (event, id) => syscall(SYS.timer_create, CLOCK_MONOTONIC, event, id, 0),
    setTimer: (timer, time) => syscall(SYS.timer_settime, timer, 0, time, 0),
    deleteTimer: (timer) => syscall(SYS.timer_delete, timer, 0, 0, 0),
  };
}

/** Passes a result on, or throws SystemCallError where it is negative. */
export function checked(calls: Libc, call: string, result: number): number {
  if (result < 0) throw new SystemCallError(call, calls.errno());
  return result;
}
