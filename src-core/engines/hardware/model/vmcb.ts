import type { Cpu } from '../../../x86/cpu.ts';
import {
  CR0_CD,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR4_PAE,
  ATTR_DB,
  ATTR_L,
  ATTR_P,
  ATTR_UNUSABLE,
  EFER_LMA,
  EFER_LME,
} from '../../../x86/bits.ts';
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CTL,
  DR6,
  DR7,
  EFER,
  GDTR,
  IDTR,
  MSR,
  RAX,
  RSP,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  TABLE_LIMIT,
} from '../../../x86/layout.ts';

/**
 * The virtual machine control block: byte offsets of its control area (AMD64 Architecture Programmer's Manual, APM,
 * volume 2, appendix B, table B-1). Names are the manual's.
 */
export const VMCB = {
  /** u32: bit n intercepts reads of CRn, bit 16 + n writes. */
  interceptCr: 0x000,
  /** u32: the same for debug registers. */
  interceptDr: 0x004,
  /** u32: bit n intercepts exception vector n. */
  interceptException: 0x008,
  /** u32: see INTERCEPT1. */
  intercept1: 0x00c,
  /** u32: see INTERCEPT2. */
  intercept2: 0x010,
  /** u64: host physical addresses of the permission maps (Iopm, Msrpm). */
  iopmBasePa: 0x040,
  msrpmBasePa: 0x048,
  /** u64: added to the TSC that the guest reads. */
  tscOffset: 0x050,
  /** u32: address space identifier of the guest; 0 is the host's. */
  guestAsid: 0x058,
  /** u8: see TLB_CONTROL. */
  tlbControl: 0x05c,
  /** u32: V_TPR in bits 0..7, V_IRQ bit 8, V_INTR_PRIO 16..19, V_IGN_TPR 20, V_INTR_MASKING 24. */
  vIntr: 0x060,
  /** u8: V_INTR_VECTOR. */
  vIntrVector: 0x064,
  /** u64: bit 0 INTERRUPT_SHADOW. */
  interruptShadow: 0x068,
  /** u64: why the guest was left: see EXIT_CODE. */
  exitCode: 0x070,
  exitInfo1: 0x078,
  exitInfo2: 0x080,
  /** u64: EXITINTINFO, the event in whose delivery the guest was left, in the form of eventInj. */
  exitIntInfo: 0x088,
  /** u64: bit 0 enables nested paging. */
  npEnable: 0x090,
  /** u64: event to inject on entry: see eventInjection. */
  eventInj: 0x0a8,
  /** u64: root of the nested page tables. */
  nCr3: 0x0b0,
  /** u64: RIP of the next instruction, at an intercepted instruction. */
  nRip: 0x0c8,
} as const;

/** The state save area's offsets, from the VMCB's start (APM volume 2, appendix B, table B-2). Segments: 16 bytes each. */
export const SAVE = {
  es: 0x400,
  cs: 0x410,
  ss: 0x420,
  ds: 0x430,
  fs: 0x440,
  gs: 0x450,
  gdtr: 0x460,
  ldtr: 0x470,
  idtr: 0x480,
  tr: 0x490,
  /** u8 */
  cpl: 0x4cb,
  efer: 0x4d0,
  cr4: 0x548,
  cr3: 0x550,
  cr0: 0x558,
  dr7: 0x560,
  dr6: 0x568,
  rflags: 0x570,
  rip: 0x578,
  rsp: 0x5d8,
  rax: 0x5f8,
  star: 0x600,
  lstar: 0x608,
  cstar: 0x610,
  sfmask: 0x618,
  kernelGsBase: 0x620,
  sysenterCs: 0x628,
  sysenterEsp: 0x630,
  sysenterEip: 0x638,
  cr2: 0x640,
  gPat: 0x668,
} as const;

/** Fields of a segment register in the save area. */
const SAVED_SEGMENT = { selector: 0, attributes: 2, limit: 4, base: 8 } as const;

/** Bits of VMCB.intercept1. */
export const INTERCEPT1 = {
  intr: 1 << 0,
  nmi: 1 << 1,
  vintr: 1 << 4,
  /** Writes of CR0 that change other bits than TS and MP. */
  cr0SelWrite: 1 << 5,
  rdtsc: 1 << 14,
  rdpmc: 1 << 15,
  cpuid: 1 << 18,
  iret: 1 << 20,
  invd: 1 << 22,
  hlt: 1 << 24,
  invlpg: 1 << 25,
  ioioProt: 1 << 27,
  msrProt: 1 << 28,
  taskSwitch: 1 << 29,
  shutdown: 0x80000000 | 0,
} as const;

/** Bits of VMCB.intercept2. */
export const INTERCEPT2 = { vmrun: 1 << 0, rdtscp: 1 << 7, wbinvd: 1 << 9 } as const;

/** Values of VMCB.tlbControl (APM volume 2, section 15.16.1). */
export const TLB_CONTROL = { none: 0, flushAll: 1, flushGuest: 3, flushGuestNonGlobal: 7 } as const;

/** Bits of VMCB.vIntr. */
export const V_INTR = { irq: 1 << 8, priorityShift: 16, ignoreTpr: 1 << 20, masking: 1 << 24 } as const;

/** The exit codes that the model knows (APM volume 2, appendix C), named as there without VMEXIT_. */
export const EXIT_CODE = {
  CR0_READ: 0x00,
  CR3_READ: 0x03,
  CR4_READ: 0x04,
  CR8_READ: 0x08,
  CR0_WRITE: 0x10,
  CR3_WRITE: 0x13,
  CR4_WRITE: 0x14,
  CR8_WRITE: 0x18,
  EXCP_PF: 0x4e,
  INTR: 0x60,
  VINTR: 0x64,
  CR0_SEL_WRITE: 0x65,
  RDTSC: 0x6e,
  RDPMC: 0x6f,
  CPUID: 0x72,
  IRET: 0x74,
  INVD: 0x76,
  HLT: 0x78,
  INVLPG: 0x79,
  IOIO: 0x7b,
  MSR: 0x7c,
  TASK_SWITCH: 0x7d,
  SHUTDOWN: 0x7f,
  RDTSCP: 0x87,
  WBINVD: 0x89,
  NPF: 0x400,
} as const;

const names = new Map<number, string>(Object.entries(EXIT_CODE).map(([name, code]) => [code, name]));

/** The manual's name of an exit code. */
export function exitCodeName(code: number): string {
  const known = names.get(code);
  if (known !== undefined) return `VMEXIT_${known}`;
  if (code < 0x20) return `VMEXIT_CR${code & 15}_${code < 0x10 ? 'READ' : 'WRITE'}`;
  if (code >= 0x40 && code < 0x60) return `VMEXIT_EXCP${code - 0x40}`;
  return `VMEXIT_${code.toString(16)}h`;
}

/** Types of an injected event (APM volume 2, section 15.20). */
export const EVENT_TYPE = { interrupt: 0, nmi: 2, exception: 3, software: 4 } as const;

/** What stands in VMCB.eventInj and VMCB.exitIntInfo. */
export function eventInjection(vector: number, type: number, errorCode?: number): bigint {
  const low = vector | (type << 8) | (errorCode === undefined ? 0 : 1 << 11) | 0x80000000;
  return BigInt(low >>> 0) | (BigInt((errorCode ?? 0) >>> 0) << 32n);
}

/** Where the segment registers of the vCPU's layout (x86/layout.ts, encoding order) are saved. */
const SEGMENTS = [SAVE.es, SAVE.cs, SAVE.ss, SAVE.ds, SAVE.fs, SAVE.gs, SAVE.ldtr, SAVE.tr] as const;

/** 64-bit fields that are copied as they are: offset in the VMCB, in the vCPU's state. What VMRUN and VMLOAD load. */
const WORDS: readonly (readonly [number, number])[] = [
  [SAVE.efer, EFER],
  [SAVE.cr4, CR4],
  [SAVE.cr3, CR3],
  [SAVE.cr0, CR0],
  [SAVE.cr2, CR2],
  [SAVE.dr7, DR7],
  [SAVE.dr6, DR6],
  [SAVE.rsp, RSP],
  [SAVE.rax, RAX],
  [SAVE.star, MSR.star],
  [SAVE.lstar, MSR.lstar],
  [SAVE.cstar, MSR.cstar],
  [SAVE.sfmask, MSR.sfmask],
  [SAVE.kernelGsBase, MSR.kernelGsBase],
  [SAVE.sysenterCs, MSR.sysenterCs],
  [SAVE.sysenterEsp, MSR.sysenterEsp],
  [SAVE.sysenterEip, MSR.sysenterEip],
  [SAVE.gPat, MSR.pat],
];
/** 32-bit words of all that, as indices into 32-bit views: of the VMCB, of the arena. */
const HALVES = WORDS.flatMap(([vmcb, state]) => [
  [vmcb >> 2, state >> 2] as const,
  [(vmcb + 4) >> 2, (state + 4) >> 2] as const,
]);

/** A segment's attributes in 12 bits (APM volume 2, section 15.5.1), of a register's in x86/layout.ts. Not usable: not present. */
function packAttributes(attributes: number): number {
  const present = (attributes & ATTR_UNUSABLE) === 0 ? attributes : attributes & ~ATTR_P;
  return (present & 0xff) | ((present >>> 4) & 0xf00);
}

/** One VMCB, and the permission maps that it names. */
export class Vmcb {
  readonly #bytes = new ArrayBuffer(0x1000);
  readonly u8 = new Uint8Array(this.#bytes);
  readonly u16 = new Uint16Array(this.#bytes);
  readonly u32 = new Uint32Array(this.#bytes);
  readonly i32 = new Int32Array(this.#bytes);
  readonly u64 = new BigUint64Array(this.#bytes);
  readonly msrpm = new Msrpm();
  readonly iopm = new Iopm();

  get32(offset: number): number {
    return this.u32[offset >> 2]!;
  }
  set32(offset: number, value: number): void {
    this.u32[offset >> 2] = value;
  }
  get64(offset: number): bigint {
    return this.u64[offset >> 3]!;
  }
  set64(offset: number, value: bigint): void {
    this.u64[offset >> 3] = BigInt.asUintN(64, value);
  }

  /** Whether a bit of an intercept vector is set. */
  intercepts(vector: number, bits: number): boolean {
    return (this.i32[vector >> 2]! & bits) !== 0;
  }

  setIntercepts(vector: number, bits: number, on: boolean): void {
    if (on) this.i32[vector >> 2]! |= bits;
    else this.i32[vector >> 2]! &= ~bits;
  }

  // ---- the processor's part ----

  /** #VMEXIT (and VMSAVE): the guest's registers go to the save area. `rip` is exact, the vCPU's own may lag. */
  save(cpu: Cpu, rip: bigint): void {
    const { u32 } = this;
    for (const [to, from] of HALVES) u32[to] = cpu.u32[from]!;
    SEGMENTS.forEach((at, index) => {
      const from = SEG + index * SEG_SIZE;
      this.u16[(at + SAVED_SEGMENT.selector) >> 1] = cpu.u32[(from + SEG_FIELD.selector) >> 2]!;
      this.u16[(at + SAVED_SEGMENT.attributes) >> 1] = packAttributes(
        cpu.u32[(from + SEG_FIELD.attributes) >> 2]!,
      );
      u32[(at + SAVED_SEGMENT.limit) >> 2] = cpu.u32[(from + SEG_FIELD.limit) >> 2]!;
      u32[(at + SAVED_SEGMENT.base) >> 2] = cpu.u32[(from + SEG_FIELD.base) >> 2]!;
      u32[(at + SAVED_SEGMENT.base + 4) >> 2] = cpu.u32[(from + SEG_FIELD.base + 4) >> 2]!;
    });
    for (const [at, from] of [
      [SAVE.gdtr, GDTR],
      [SAVE.idtr, IDTR],
    ] as const) {
      u32[(at + SAVED_SEGMENT.limit) >> 2] = cpu.u32[(from + TABLE_LIMIT) >> 2]!;
      u32[(at + SAVED_SEGMENT.base) >> 2] = cpu.u32[from >> 2]!;
      u32[(at + SAVED_SEGMENT.base + 4) >> 2] = cpu.u32[(from + 4) >> 2]!;
    }
    this.u8[SAVE.cpl] = cpu.u32[CTL.cpl >> 2]!;
    u32[SAVE.rflags >> 2] = cpu.rflags;
    u32[(SAVE.rflags + 4) >> 2] = 0;
    this.u64[SAVE.rip >> 3] = rip;
    u32[VMCB.interruptShadow >> 2] = cpu.u32[CTL.interruptShadow >> 2]! & 1;
    u32[VMCB.vIntr >> 2] = (u32[VMCB.vIntr >> 2]! & ~0xff) | cpu.readTpr();
  }

  /**
   * VMRUN's consistency checks (APM volume 2, section 15.5.1).
   * @returns what is inconsistent, for which the processor leaves with VMEXIT_INVALID.
   */
  inconsistency(): string | undefined {
    const cr0 = this.i32[SAVE.cr0 >> 2]!;
    const cr4 = this.i32[SAVE.cr4 >> 2]!;
    const efer = this.i32[SAVE.efer >> 2]!;
    const attributes = this.u16[(SAVE.cs + SAVED_SEGMENT.attributes) >> 1]!;
    const paged = (cr0 & CR0_PG) !== 0;
    const long = (efer & EFER_LME) !== 0 && paged;
    if ((cr0 & CR0_NW) !== 0 && (cr0 & CR0_CD) === 0) return 'CR0.NW is set and CR0.CD is clear';
    if (this.u32[(SAVE.cr0 + 4) >> 2] !== 0) return 'the upper half of CR0 is not zero';
    if (long && (cr4 & CR4_PAE) === 0) return 'EFER.LME and CR0.PG are set and CR4.PAE is clear';
    if (long && (cr0 & CR0_PE) === 0) return 'EFER.LME and CR0.PG are set and CR0.PE is clear';
    if (long && (efer & EFER_LMA) !== 0 && (attributes & 0x600) === (ATTR_L | ATTR_DB) >> 4) {
      return 'CS.L and CS.D are set in long mode';
    }
    if (this.get32(VMCB.guestAsid) === 0) return 'the ASID is the host’s';
    if (!this.intercepts(VMCB.intercept2, INTERCEPT2.vmrun)) return 'VMRUN is not intercepted';
    return undefined;
  }

  /** VMRUN (and VMLOAD): what differs in the save area goes to the guest's registers. RIP is the caller's. */
  load(cpu: Cpu): void {
    let changed = false;
    for (const [from, to] of HALVES) {
      if (cpu.u32[to] === this.u32[from]) continue;
      cpu.u32[to] = this.u32[from]!;
      changed = true;
    }
    SEGMENTS.forEach((at, index) => {
      if (this.#loadSegment(cpu, at, SEG + index * SEG_SIZE)) changed = true;
    });
    for (const [from, table] of [
      [SAVE.gdtr, 'gdt'],
      [SAVE.idtr, 'idt'],
    ] as const) {
      cpu.setTable(table, this.get64(from + SAVED_SEGMENT.base), this.get32(from + SAVED_SEGMENT.limit));
    }
    if (this.u8[SAVE.cpl] !== cpu.u32[CTL.cpl >> 2]) {
      cpu.setCpl(this.u8[SAVE.cpl]!);
      changed = true;
    }
    if (this.u32[SAVE.rflags >> 2] !== cpu.rflags) {
      cpu.rflags = this.get32(SAVE.rflags);
      changed = true;
    }
    if (changed) cpu.stateReplaced();
  }

  #loadSegment(cpu: Cpu, at: number, to: number): boolean {
    const selector = this.u16[(at + SAVED_SEGMENT.selector) >> 1]!;
    const packed = this.u16[(at + SAVED_SEGMENT.attributes) >> 1]!;
    const limit = this.u32[(at + SAVED_SEGMENT.limit) >> 2]!;
    const low = this.u32[(at + SAVED_SEGMENT.base) >> 2]!;
    const high = this.u32[(at + SAVED_SEGMENT.base + 4) >> 2]!;
    const { u32 } = cpu;
    if (
      u32[(to + SEG_FIELD.selector) >> 2] === selector &&
      packAttributes(u32[(to + SEG_FIELD.attributes) >> 2]!) === packed &&
      u32[(to + SEG_FIELD.limit) >> 2] === limit &&
      u32[(to + SEG_FIELD.base) >> 2] === low &&
      u32[(to + SEG_FIELD.base + 4) >> 2] === high
    ) {
      return false;
    }
    u32[(to + SEG_FIELD.selector) >> 2] = selector;
    u32[(to + SEG_FIELD.attributes) >> 2] =
      (packed & 0xff) | ((packed & 0xf00) << 4) | ((packed & ATTR_P) === 0 ? ATTR_UNUSABLE : 0);
    u32[(to + SEG_FIELD.limit) >> 2] = limit;
    u32[(to + SEG_FIELD.base) >> 2] = low;
    u32[(to + SEG_FIELD.base + 4) >> 2] = high;
    return true;
  }
}

/** The ranges of MSRs that the map covers, 2 KiB each: four to a byte (APM volume 2, section 15.11). */
const MSR_RANGES = [0, 0xc0000000, 0xc0010000] as const;
const MSRS_IN_RANGE = 0x2000;

/** MSR permission map: two bits for each MSR, of which the lower intercepts reads and the upper writes. */
export class Msrpm {
  readonly #bytes = new Uint8Array(0x2000).fill(0xff);

  /** Bit number of an MSR's read bit; -1 where the map does not reach: such MSRs always exit. */
  #bit(msr: number): number {
    const range = MSR_RANGES.findIndex((first) => msr >= first && msr < first + MSRS_IN_RANGE);
    return range < 0 ? -1 : (range * MSRS_IN_RANGE + (msr - MSR_RANGES[range]!)) * 2;
  }

  intercepts(msr: number, write: boolean): boolean {
    const bit = this.#bit(msr);
    if (bit < 0) return true;
    return ((this.#bytes[bit >> 3]! >> ((bit & 7) + (write ? 1 : 0))) & 1) !== 0;
  }

  /** Lets the guest read and write an MSR without an exit. */
  passThrough(msr: number): void {
    const bit = this.#bit(msr);
    if (bit >= 0) this.#bytes[bit >> 3]! &= ~(3 << (bit & 7));
  }
}

/** I/O permission map: a bit for each port, set where accesses exit (APM volume 2, section 15.10.1). */
export class Iopm {
  readonly #bytes = new Uint8Array(0x3000).fill(0xff);

  /** Whether an access of `size` bytes exits: one of its ports is intercepted. */
  intercepts(port: number, size: number): boolean {
    for (let at = port; at < port + size; at++) {
      if (((this.#bytes[at >> 3]! >> (at & 7)) & 1) !== 0) return true;
    }
    return false;
  }
}
