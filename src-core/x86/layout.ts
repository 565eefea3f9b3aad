/**
 * The vCPU state's fixed layout: byte offsets from the start of the arena.
 *
 * Micro-ops name their operands by these offsets, the translator maps them to wasm locals, the hardware
 * engine moves them to and from KVM, and a snapshot is a copy of them. Every register is 64 bits wide from
 * the first day. All offsets are below 64 KiB so that they fit the 16-bit operand fields of a micro-op.
 */

/** Control words shared between wasm code and TypeScript. */
export const CTL = {
  /** i32: instructions the current run may still execute; wasm leaves at the next block once it is negative. */
  budget: 0x00,
  /** u32: arena address of the micro-op that left the interpreter. */
  exitUop: 0x08,
  /** u32: arena address of the block header being executed. */
  currentBlock: 0x0c,
  /** u32: arena address of the TLB bank for the current privilege (see TLB below). */
  tlbBank: 0x10,
  /** u32: block lookup key of the current mode (code size, stack size, flat segments, TF, ...). */
  modeKey: 0x14,
  /** u32: non-zero when x87/MMX/SSE instructions must take the slow check (CR0.EM/TS, CR4.OSFXSR). */
  fpuTrap: 0x18,
  /** i64/u64 (8 bytes): value passed between wasm and the slow memory path. */
  slowValue: 0x20,
  /** 16 bytes, aligned: wide value passed between wasm and the slow memory path. */
  slowWide: 0x30,
  /** u64: instructions retired before the current run (the run's own come from budget). */
  instructions: 0x40,
  /** u32: 1 after MOV SS / POP SS / STI: no interrupt before the next instruction ends. Bit 1: also no #DB. */
  interruptShadow: 0x48,
  /** u32: 1 while the vCPU waits in HLT. */
  halted: 0x4c,
  /** u32: current privilege level 0..3. */
  cpl: 0x50,
  /** u32: A20 mask applied to physical addresses (0xffffffff or 0xffefffff). */
  a20Mask: 0x54,
  /** u32: vector of the fault that ended the run (with EXIT.fault), and its error code. */
  faultVector: 0x5c,
  faultCode: 0x60,
  /** u32: DR6 bits of data or I/O breakpoints hit by the current instruction, delivered as #DB after it. */
  pendingDebug: 0x64,
  /** u64: what is added to RIP for the linear address of code: CS.base, 0 in 64-bit code. */
  codeBase: 0x70,
  /** u32: largest offset in the code segment: CS.limit, all ones in 64-bit code. */
  codeLimit: 0x78,
  /** u32: 1 while an NMI waits to be delivered. */
  nmiPending: 0x7c,
  /** u32: 1 while NMIs are blocked (between NMI delivery and IRET). */
  nmiBlocked: 0x58,
  /**
   * u32: 0 when FLAGS_RESULT and FLAGS_AUX hold; else how to make them from flagsX and flagsY (u64 each), which is what
   * translated code leaves (flagsKindOf in ir/ops/arithmetic.ts). 0 wherever TypeScript runs.
   */
  flagsKind: 0x80,
  flagsX: 0x88,
  flagsY: 0x90,
  /** u32: where translated code was left for the interpreter (SITE in engines/software/exit.ts). */
  resumeSite: 0x98,
  /** u32: arena address of the region's table of such places. */
  resumeTable: 0x9c,
  /** i32: how deep translated regions have called one another. */
  callDepth: 0xa0,
  /** u32: arena address of the TLB bank for CPL 3 in the current address space. */
  userBank: 0xa4,
  /** u32: 0 when no interrupt controller has anything to deliver, whatever RFLAGS.IF says; 1 when one may have. */
  interruptRequest: 0xa8,
  /** u32 counters that TypeScript collects: what wasm did of the work of callouts. */
  quickSegmentLoads: 0xac,
  quickSystemCalls: 0xb0,
  quickReturns: 0xb4,
  quickControlReads: 0xbc,
  /** u32: 1 while a model of hardware virtualization has to hear of what it might intercept: wasm does nothing for callouts. */
  intercepted: 0xb8,
} as const;

/** General registers in encoding order: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15; 8 bytes each. */
export const GPR = 0x100;
export const RAX = GPR;
export const RCX = GPR + 8;
export const RDX = GPR + 16;
export const RBX = GPR + 24;
export const RSP = GPR + 32;
export const RBP = GPR + 40;
export const RSI = GPR + 48;
export const RDI = GPR + 56;

/** u64: RIP. While a block runs this is the address of the block's first instruction. */
export const RIP = 0x180;

/**
 * Arithmetic flags in a form that does not depend on the instruction that made them.
 * `FLAGS_RESULT` (i64): the result, sign-extended to 64 bits: ZF = (result == 0).
 * `FLAGS_AUX` (u32): bit 31 CF; bit 30 CF ^ OF; bit 3 AF; bits 15..8 parity delta: PF is the even parity of
 * (result ^ aux >> 8) & 0xff; bit 0 sign delta: SF = (result < 0) ^ bit 0. All other bits are zero.
 */
export const FLAGS_RESULT = 0x188;
export const FLAGS_AUX = 0x190;
/** u32: RFLAGS without the arithmetic flags (OSZAPC): TF IF DF IOPL NT RF VM AC VIF VIP ID and bit 1. */
export const FLAGS_SYSTEM = 0x194;

export const CR0 = 0x1a0;
export const CR2 = 0x1a8;
export const CR3 = 0x1b0;
export const CR4 = 0x1b8;
export const CR8 = 0x1c0;
export const EFER = 0x1c8;
/** DR0..DR3, then DR6, DR7; 8 bytes each. */
export const DR0 = 0x1d0;
export const DR6 = 0x1f0;
export const DR7 = 0x1f8;

/** Segment registers, 32 bytes each, in encoding order ES CS SS DS FS GS, then LDTR, TR. */
export const SEG = 0x200;
export const SEG_SIZE = 32;
/** Fields of a segment register. */
export const SEG_FIELD = {
  /** u16 in a u32. */
  selector: 0,
  /** u32: descriptor attributes: bits 0..3 type, 4 S, 5..6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable. */
  attributes: 4,
  /** u32: limit in bytes (already scaled by G). */
  limit: 8,
  /** u64: base. */
  base: 16,
} as const;
export const ES = SEG;
export const CS = SEG + 32;
export const SS = SEG + 64;
export const DS = SEG + 96;
export const FS = SEG + 128;
export const GS = SEG + 160;
export const LDTR = SEG + 192;
export const TR = SEG + 224;

/** GDTR and IDTR: base (u64), then limit (u32). */
export const GDTR = 0x300;
export const IDTR = 0x310;
export const TABLE_LIMIT = 8;

/** Model-specific registers kept in state; 8 bytes each. */
export const MSR = {
  star: 0x320,
  lstar: 0x328,
  cstar: 0x330,
  sfmask: 0x338,
  kernelGsBase: 0x340,
  tscAux: 0x348,
  /** Added to the clock's TSC. */
  tscOffset: 0x350,
  pat: 0x358,
  sysenterCs: 0x360,
  sysenterEsp: 0x368,
  sysenterEip: 0x370,
  apicBase: 0x378,
  miscEnable: 0x380,
  mtrrDefType: 0x388,
  /** 11 fixed-range MTRRs. */
  mtrrFixed: 0x390,
  /** 8 pairs of variable-range base and mask. */
  mtrrVariable: 0x3e8,
  tscDeadline: 0x468,
  /** IA32_TSC_ADJUST: what the guest's own writes have added to the TSC. An engine's change of tscOffset leaves it. */
  tscAdjust: 0x470,
} as const;

/** x87: control word, status word WITHOUT TOP (bits 11..13 zero), TOP, tags; u32 each. */
export const FPU = {
  fcw: 0x480,
  fsw: 0x484,
  /** 0..7 */
  top: 0x488,
  /** One bit a PHYSICAL register R0..R7, 1 = empty (the FXSAVE abridged tag word inverted). */
  empty: 0x48c,
  fop: 0x490,
  mxcsr: 0x494,
  /** u64 */
  fip: 0x498,
  /** u64 */
  fdp: 0x4a0,
  fcs: 0x4a8,
  fds: 0x4ac,
} as const;
/** Physical x87 registers R0..R7, 16 bytes each: 64-bit significand, then sign and exponent (u16). MMX MM0..7 alias the significands. */
export const ST = 0x500;
/** XMM0..XMM15, 16 bytes each. */
export const XMM = 0x580;
/** XCR0, u64. */
export const XCR0 = 0x680;

/** Scratch slots for IR temporaries: 64 of 16 bytes, aligned 16. They hold nothing between instructions. */
export const TEMP = 0x700;
export const TEMP_COUNT = 64;
export const TEMP_SIZE = 16;

/** One past the architectural state: what a snapshot keeps is [GPR, STATE_END) plus the control words named in machine/snapshot. */
export const STATE_END = 0x700;

/**
 * What loads of data segment registers from the GDT came to: 8 entries of 32 bytes for each of ES..GS, chosen by the
 * selector's index modulo 8. All of it follows from the entry's key and descriptor, so an entry never goes stale.
 */
export const SEGMENT_MEMO = {
  base: 0xc00,
  entries: 8,
  entrySize: 32,
  /** u32: the selector | CPL << 16 | 1 << 31; 0 where nothing stands. */
  key: 0,
  /** u32 each: the descriptor in memory, marked as accessed. */
  low: 4,
  high: 8,
  /** u32 each: fields of the segment register. */
  attributes: 12,
  limit: 16,
  segmentBase: 20,
  /** u32: 1 where the segment is flat (MODE). */
  flat: 24,
} as const;
export const SEGMENT_MEMO_VALID = 0x80000000;

const TLB_BASE = 77 * 1024 * 1024;
const TLB_ENTRIES = 4096;
const TLB_BANK_SIZE = TLB_ENTRIES * 32;

/**
 * The software TLB: direct-mapped banks of 4,096 entries of 32 bytes (docs/BENCHMARKS.md says why so many): user, supervisor with SMAP enforced, supervisor
 * plain, then more user banks, for address spaces that wait for their turn (x86/address-spaces.ts). The pages an entry
 * allows are compared as full 64-bit linear page addresses; a tag that allows nothing is TLB_INVALID (its low bits are
 * set, so it equals no page address).
 */
export const TLB = {
  base: TLB_BASE,
  entries: TLB_ENTRIES,
  entrySize: 32,
  bankSize: TLB_BANK_SIZE,
  banks: 10,
  /** User banks among them: bank 0 and those from 3 on. */
  userBanks: 8,
  /** i64: linear page address when reads may go straight to RAM. */
  readTag: 0,
  /** i64: likewise for writes (never on pages with translated code or a trace). */
  writeTag: 8,
  /** i64: likewise for instruction fetch. */
  execTag: 16,
  /** i32: arena address = (low 32 bits of linear address) + addend, wrapping. */
  addend: 24,
  /** u32: see TLB_FLAG. */
  flags: 28,
  bankUser: TLB_BASE,
  bankSupervisorSmap: TLB_BASE + TLB_BANK_SIZE,
  bankSupervisor: TLB_BASE + 2 * TLB_BANK_SIZE,
} as const;
export const TLB_INVALID = -1n;
export const TLB_END = TLB.base + TLB.banks * TLB.bankSize;

/** The flags of a TLB entry. One that is not in use has no page size. */
export const TLB_FLAG = {
  /** A global page. */
  global: 1,
  /** The page tables allow writes, but the page is watched: each must be looked at (tracedStore). */
  traced: 2,
  /** The entry stands in its bank's list of global entries, or in that of the others. */
  listedGlobal: 4,
  listed: 8,
  /** Bits 8..13: log2 of the size of the page that the entry is a part of. */
  sizeShift: 8,
} as const;

const LIST_SIZE = TLB_ENTRIES * 2;
const LISTS_END = TLB_END + TLB.banks * 2 * LIST_SIZE;

/** What the MMU keeps for TypeScript and wasm alike, beside the TLB. */
export const MMU = {
  /**
   * Two lists of entries for each bank, u16 each: those filled as global since they were last flushed, then the others,
   * so that a flush costs what was filled since the last.
   */
  lists: TLB_END,
  listSize: LIST_SIZE,
  /** u32 [2] for each bank: how long its lists are. */
  listLengths: LISTS_END,
  /** u8 [3][1024]: 1 where an entry may be part of a 2 MiB, 4 MiB or 1 GiB page with that number modulo 1024. */
  largeParts: LISTS_END + 0x100,
  /** u32: plain RAM ends here below 1 MiB, and so many bytes of it follow from 1 MiB on (see PhysicalMemory). */
  lowRamEnd: LISTS_END + 0xd00,
  highRamSize: LISTS_END + 0xd04,
  /** u32: 1 while data breakpoints are enabled: TypeScript does every access the TLB misses. */
  watching: LISTS_END + 0xd08,
  /** u32: bit of the current address space in PAGE_RECORD.spaces, 0 while translations are not kept over MOV to CR3. */
  space: LISTS_END + 0xd0c,
  /** u32 counters that TypeScript collects (Mmu.collectCounts): entries filled, stores beside code, to page tables. */
  fills: LISTS_END + 0xd10,
  storesBesideCode: LISTS_END + 0xd14,
  tableStores: LISTS_END + 0xd18,
  end: LISTS_END + 0xd20,
} as const;

/** What is known of each 4 KiB page of the arena: 16 bytes at ARENA.pages + 16 * (arena address >> 12). */
export const PAGE_RECORD = {
  sizeShift: 4,
  /** u64: bit i: bytes 64 i .. 64 i + 63 of the page hold code that was translated. */
  chunks: 0,
  /**
   * u32. While flags is 0: one more than the number of the TLB entry that lets the page be written, and
   * PAGE_WRITERS_MORE when there may be others. While it is a traced page table: the linear address it maps >> 21.
   */
  link: 8,
  /** u16: one bit for each address space that has translations made from this page table. */
  spaces: 12,
  /** u8: stores to a traced page table since a translation was last made from it. */
  writes: 14,
  /** u8: see PAGE_FLAG; 0 when stores may go straight to the page. */
  flags: 15,
} as const;
export const PAGE_WRITERS_MORE = 0x80000000;
export const PAGE_FLAG = {
  /** It holds translated code. */
  code: 1,
  /** It is a page table with a trace. */
  table: 2,
  /** It is a last-level page table at one place only (PAGE_RECORD.link), with entries of 4 or of 8 bytes. */
  leaf32: 4,
  leaf64: 8,
} as const;
