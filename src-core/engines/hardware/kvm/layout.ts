/**
 * Structures of the KVM API as byte offsets, for reading and writing them through typed arrays. From Linux,
 * include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h; test/hardware/layout.test.ts compares them with this
 * system's headers where a C compiler is at hand.
 */

/** Sizes in bytes of structures (without what a flexible array member adds). */
export const SIZE = {
  regs: 144,
  segment: 24,
  dtable: 16,
  sregs: 312,
  vcpuEvents: 64,
  debugRegs: 128,
  xsave: 4096,
  memoryRegion: 32,
  enableCap: 104,
  msrsHeader: 8,
  msrEntry: 16,
  msrFilter: 392,
  msrFilterRange: 24,
  cpuidHeader: 8,
  cpuidEntry: 40,
  signalMaskHeader: 4,
  deviceAttr: 24,
  statsHeader: 24,
  statsDescriptor: 16,
  run: 2352,
} as const;

/** struct kvm_run, mapped from the vCPU's descriptor. */
export const RUN = {
  /** u8 */
  requestInterruptWindow: 0,
  /** u8 */
  immediateExit: 1,
  /** u32 */
  exitReason: 8,
  /** u8 */
  readyForInterruptInjection: 12,
  /** u8 */
  ifFlag: 13,
  /** u64 */
  cr8: 16,
  /** u64 */
  apicBase: 24,
  /** The union of what each exit tells. */
  exit: 32,
  /** u64 */
  validRegs: 288,
  /** u64 */
  dirtyRegs: 296,
  /** struct kvm_sync_regs: regs, sregs, events. */
  regs: 304,
  sregs: 304 + SIZE.regs,
  events: 304 + SIZE.regs + SIZE.sregs,
} as const;

/** KVM_EXIT_IO, from RUN.exit. */
export const EXIT_IO = {
  /** u8: 0 in, 1 out. */
  direction: 0,
  /** u8: 1, 2 or 4. */
  size: 1,
  /** u16 */
  port: 2,
  /** u32: repetitions (string instructions). */
  count: 4,
  /** u64: where the data is, from the start of kvm_run. */
  dataOffset: 8,
} as const;

/** KVM_EXIT_MMIO, from RUN.exit. */
export const EXIT_MMIO = {
  /** u64 */
  address: 0,
  /** 8 bytes */
  data: 8,
  /** u32: 1..8 */
  length: 16,
  /** u8 */
  isWrite: 20,
} as const;

/** KVM_EXIT_INTERNAL_ERROR, from RUN.exit. With `emulation` the rest is struct emulation_failure. */
export const EXIT_INTERNAL = {
  /** u32 */
  suberror: 0,
  /** u32: 64-bit words that follow. */
  ndata: 4,
  /** u64 each */
  data: 8,
  /** u64: bit 0, the instruction's bytes follow. */
  flags: 8,
  /** u8 */
  instructionSize: 16,
  /** 15 bytes */
  instructionBytes: 17,
} as const;

/** KVM_EXIT_X86_RDMSR and WRMSR, from RUN.exit. */
export const EXIT_MSR = {
  /** u8: non-zero injects #GP. */
  error: 0,
  /** u32 */
  reason: 8,
  /** u32 */
  index: 12,
  /** u64 */
  data: 16,
} as const;

/** KVM_EXIT_FAIL_ENTRY: u64, from RUN.exit. */
export const EXIT_FAIL_ENTRY = { reason: 0 } as const;

export const EXIT_REASON = {
  unknown: 0,
  exception: 1,
  io: 2,
  hypercall: 3,
  debug: 4,
  hlt: 5,
  mmio: 6,
  irqWindowOpen: 7,
  shutdown: 8,
  failEntry: 9,
  intr: 10,
  setTpr: 11,
  tprAccess: 12,
  nmi: 16,
  internalError: 17,
  systemEvent: 24,
  rdmsr: 29,
  wrmsr: 30,
  busLock: 33,
  notify: 37,
  memoryFault: 39,
} as const;

/** Suberrors of an internal error. */
export const INTERNAL_ERROR = {
  emulation: 1,
  simultaneousExceptions: 2,
  delivery: 3,
  unexpectedExit: 4,
} as const;

/** struct kvm_regs: u64 each. Its order differs from the encoding order of the registers. */
export const REGS = {
  rax: 0,
  rbx: 8,
  rcx: 16,
  rdx: 24,
  rsi: 32,
  rdi: 40,
  rsp: 48,
  rbp: 56,
  r8: 64,
  rip: 128,
  rflags: 136,
} as const;

/** struct kvm_segment. */
export const SEGMENT_FIELD = {
  /** u64 */
  base: 0,
  /** u32, bytes */
  limit: 8,
  /** u16 */
  selector: 12,
  /** u8 each from here on */
  type: 14,
  present: 15,
  dpl: 16,
  db: 17,
  s: 18,
  l: 19,
  g: 20,
  avl: 21,
  unusable: 22,
} as const;

/** struct kvm_sregs. */
export const SREGS = {
  cs: 0,
  ds: 24,
  es: 48,
  fs: 72,
  gs: 96,
  ss: 120,
  tr: 144,
  ldt: 168,
  /** u64 base, then u16 limit. */
  gdt: 192,
  idt: 208,
  tableLimit: 8,
  /** u64 each */
  cr0: 224,
  cr2: 232,
  cr3: 240,
  cr4: 248,
  cr8: 256,
  efer: 264,
  apicBase: 272,
  /** 256 bits: the interrupt that is being injected. */
  interruptBitmap: 280,
} as const;

/** struct kvm_vcpu_events: u8 unless stated. */
export const EVENTS = {
  exceptionInjected: 0,
  exceptionNumber: 1,
  exceptionHasErrorCode: 2,
  exceptionPending: 3,
  /** u32 */
  exceptionErrorCode: 4,
  interruptInjected: 8,
  interruptNumber: 9,
  interruptSoft: 10,
  interruptShadow: 11,
  nmiInjected: 12,
  nmiPending: 13,
  nmiMasked: 14,
  /** u32 */
  flags: 20,
  exceptionHasPayload: 55,
  /** u64 */
  exceptionPayload: 56,
} as const;

/** KVM_VCPUEVENT_VALID_*: what KVM_SET_VCPU_EVENTS is to take beyond the rest. */
export const EVENTS_VALID = { nmiPending: 1, shadow: 4 } as const;
export const SHADOW = { movSs: 1, sti: 2 } as const;
/** KVM_SYNC_X86_*: parts of kvm_sync_regs. */
export const SYNC = { regs: 1, sregs: 2, events: 4, all: 7 } as const;

/** struct kvm_debugregs: u64 each. */
export const DEBUG_REGS = { db: 0, dr6: 32, dr7: 40, flags: 48 } as const;

/** The XSAVE area (Intel SDM volume 1, 13.4): legacy region as of FXSAVE64, then the header. */
export const XSAVE = {
  /** u16 */
  fcw: 0,
  /** u16 */
  fsw: 2,
  /** u8: one bit a physical register, 1 = in use. */
  ftw: 4,
  /** u16 */
  fop: 6,
  /** u64 */
  fip: 8,
  /** u64 */
  fdp: 16,
  /** u32 */
  mxcsr: 24,
  /** 16 bytes each, in stack order. */
  st: 32,
  /** 16 bytes each */
  xmm: 160,
  /** u64 */
  xstateBv: 512,
  /** Bits of XSTATE_BV: x87 and SSE. */
  legacyComponents: 3,
} as const;

/** struct kvm_userspace_memory_region. */
export const MEMORY_REGION = {
  /** u32 */
  slot: 0,
  /** u32 */
  flags: 4,
  /** u64 each */
  guestAddress: 8,
  size: 16,
  hostAddress: 24,
  readonly: 2,
} as const;

/** struct kvm_enable_cap: u32 cap, u32 flags, u64 args[4]. */
export const ENABLE_CAP = { cap: 0, args: 8 } as const;

/** struct kvm_msrs: u32 count, then entries of u32 index, u32 -, u64 data. */
export const MSRS = { count: 0, entries: 8, entryIndex: 0, entryData: 8 } as const;

/** struct kvm_msr_filter: u32 flags, then 16 ranges. */
export const MSR_FILTER = {
  flags: 0,
  defaultDeny: 1,
  ranges: 8,
  rangeCount: 16,
  /** Within a range: u32 flags (1 read, 2 write), u32 count, u32 first, u64 address of the bitmap (1 = allowed). */
  rangeFlags: 0,
  rangeMsrs: 4,
  rangeBase: 8,
  rangeBitmap: 16,
  read: 1,
  write: 2,
} as const;
/** KVM_MSR_EXIT_REASON_*: for KVM_CAP_X86_USER_SPACE_MSR. */
export const MSR_EXIT = { invalid: 1, unknown: 2, filter: 4 } as const;

/** struct kvm_cpuid2: u32 count, u32 -, then entries of u32 function, index, flags, eax, ebx, ecx, edx. */
export const CPUID2 = {
  count: 0,
  entries: 8,
  function: 0,
  index: 4,
  flags: 8,
  eax: 12,
  ebx: 16,
  ecx: 20,
  edx: 24,
  significantIndex: 1,
} as const;

/** struct kvm_device_attr: u32 flags, u32 group, u64 attr, u64 address. */
export const DEVICE_ATTR = { group: 4, attr: 8, address: 16, tscControl: 0, tscOffset: 0 } as const;

/** struct kvm_stats_header: u32 each. */
export const STATS_HEADER = { nameSize: 4, count: 8, descOffset: 16, dataOffset: 20 } as const;
/** struct kvm_stats_desc: u32 flags, s16 exponent, u16 size, u32 offset, u32 bucket size, then the name. */
export const STATS_DESCRIPTOR = { size: 6, offset: 8, name: 16 } as const;
