import type { ExitAccounting } from '../accounting/exits.ts';
import type { Arena } from '../machine/arena.ts';
import type { InterruptSource, MemoryBus, PortBus } from '../machine/bus.ts';
import type { GuestClock } from '../machine/clock.ts';
import {
  ATTR_DB,
  ATTR_L,
  ATTR_P,
  ATTR_S,
  ATTR_UNUSABLE,
  CR0_AM,
  CR0_EM,
  CR0_ET,
  CR0_NW,
  CR0_CD,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR4_OSFXSR,
  CR4_SMAP,
  EFER_LMA,
  FLAG_AC,
  FLAG_AF,
  FLAG_CF,
  FLAG_IF,
  FLAG_OF,
  FLAG_PF,
  FLAG_RF,
  FLAG_SF,
  FLAG_TF,
  FLAG_VM,
  FLAG_ZF,
  FLAGS_ALL,
  FLAGS_ARITHMETIC,
  FLAGS_FIXED,
  TYPE_CODE,
  TYPE_EXPAND_DOWN,
  TYPE_WRITABLE,
} from './bits.ts';
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  CS,
  CTL,
  DR6,
  DR7,
  DS,
  EFER,
  ES,
  FLAGS_AUX,
  FLAGS_RESULT,
  FLAGS_SYSTEM,
  FPU,
  GDTR,
  GPR,
  IDTR,
  MSR,
  RIP,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  SS,
  STATE_END,
  TABLE_LIMIT,
  TLB,
  XCR0,
} from './layout.ts';
import type { Intercepts } from './intercepts.ts';
import { MODE } from './mode.ts';
import { Mmu } from './mmu.ts';

/** Bits of CTL.fpuTrap. */
export const FPU_TRAP = {
  /** CR0.TS: #NM for x87, MMX and SSE. */
  taskSwitched: 1,
  /** CR0.EM: #NM for x87, #UD for MMX and SSE. */
  emulate: 2,
  /** CR4.OSFXSR clear: #UD for SSE. */
  noFxsr: 4,
} as const;

/** A segment register, decoded. */
export interface Segment {
  selector: number;
  /** See SEG_FIELD.attributes. */
  attributes: number;
  /** Bytes. */
  limit: number;
  base: bigint;
}

export interface CpuParts {
  arena: Arena;
  memory: MemoryBus;
  ports: PortBus;
  clock: GuestClock;
  interrupts: InterruptSource;
  accounting: ExitAccounting;
}

/**
 * The vCPU: names for the state in the arena and the transitions that touch more than one field. It holds no
 * state of its own, so an engine may change everything in the arena and call `stateReplaced`.
 */
export class Cpu {
  readonly arena: Arena;
  readonly memory: MemoryBus;
  readonly ports: PortBus;
  readonly clock: GuestClock;
  readonly interrupts: InterruptSource;
  readonly accounting: ExitAccounting;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;
  readonly i64: BigInt64Array;
  readonly mmu: Mmu;

  /** Local APIC base MSR was written. */
  onApicBase: (value: bigint) => void = () => undefined;
  /** IA32_TSC_DEADLINE was written. */
  onTscDeadline: (value: bigint) => void = () => undefined;
  /** CR8 was written: task priority 0..15. */
  onWriteTpr: (priority: number) => void = () => undefined;
  /** Task priority 0..15 as the local APIC holds it. */
  readTpr: () => number = () => 0;
  /** x87 error with CR0.NE = 0: the FERR# line (IRQ 13). */
  onFerr: (asserted: boolean) => void = () => undefined;
  /** An event wants the run in progress to end (set by the engine). */
  onAttention: () => void = () => undefined;
  /** Instructions retired since power-on, exact also while a callout runs (set by the engine). */
  instructionCount: () => number = () => 0;
  /** What hears of events before they are delivered, while an engine models hardware virtualization. */
  intercepts: Intercepts | undefined;

  constructor({ arena, memory, ports, clock, interrupts, accounting }: CpuParts) {
    this.arena = arena;
    this.memory = memory;
    this.ports = ports;
    this.clock = clock;
    this.interrupts = interrupts;
    this.accounting = accounting;
    ({ u8: this.u8, u16: this.u16, u32: this.u32, i32: this.i32, u64: this.u64, i64: this.i64 } = arena);
    this.mmu = new Mmu(this);
    this.reset();
  }

  /** Word accessors at a byte offset (which must be aligned). */
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
    this.u64[offset >> 3] = value;
  }

  /** General register 0..15 (encoding order), all 64 bits. */
  gpr(index: number): bigint {
    return this.get64(GPR + index * 8);
  }
  setGpr(index: number, value: bigint): void {
    this.set64(GPR + index * 8, BigInt.asUintN(64, value));
  }
  /** Low 32 bits of a general register. */
  gpr32(index: number): number {
    return this.get32(GPR + index * 8);
  }
  /** Writes 32 bits, clearing the upper half as hardware does. */
  setGpr32(index: number, value: number): void {
    this.set32(GPR + index * 8, value);
    this.set32(GPR + index * 8 + 4, 0);
  }

  get rip(): bigint {
    return this.get64(RIP);
  }
  set rip(value: bigint) {
    this.set64(RIP, BigInt.asUintN(64, value));
  }

  /** RFLAGS, assembled. Setting takes any value; reserved bits keep their fixed values. Does not call updateMode. */
  get rflags(): number {
    const low = this.i32[FLAGS_RESULT >> 2]!;
    const high = this.i32[(FLAGS_RESULT >> 2) + 1]!;
    const aux = this.get32(FLAGS_AUX);
    let parity = (low ^ (aux >>> 8)) & 0xff;
    parity ^= parity >> 4;
    parity = (0x9669 >> (parity & 15)) & 1;
    const carry = aux >>> 31;
    const overflow = ((aux >>> 30) & 1) ^ carry;
    return (
      (this.get32(FLAGS_SYSTEM) & ~FLAGS_ARITHMETIC) |
      FLAGS_FIXED |
      (carry ? FLAG_CF : 0) |
      (parity ? FLAG_PF : 0) |
      ((aux & 8) !== 0 ? FLAG_AF : 0) |
      ((low | high) === 0 ? FLAG_ZF : 0) |
      ((high >>> 31) ^ (aux & 1) ? FLAG_SF : 0) |
      (overflow ? FLAG_OF : 0)
    );
  }
  set rflags(value: number) {
    this.set32(FLAGS_SYSTEM, (value & FLAGS_ALL & ~FLAGS_ARITHMETIC) | FLAGS_FIXED);
    const zero = (value & FLAG_ZF) !== 0;
    const carry = (value & FLAG_CF) !== 0;
    const overflow = (value & FLAG_OF) !== 0;
    // The result is 0 (even parity) or 1 (odd parity): the delta corrects PF where that is not what is wanted.
    const parityDelta = ((value & FLAG_PF) !== 0) === zero ? 0 : 1;
    this.i32[FLAGS_RESULT >> 2] = zero ? 0 : 1;
    this.i32[(FLAGS_RESULT >> 2) + 1] = 0;
    this.set32(
      FLAGS_AUX,
      (carry ? 0x80000000 : 0) |
        (carry !== overflow ? 0x40000000 : 0) |
        ((value & FLAG_AF) !== 0 ? 8 : 0) |
        (parityDelta << 8) |
        ((value & FLAG_SF) !== 0 ? 1 : 0),
    );
  }

  get cr0(): number {
    return this.i32[CR0 >> 2]!;
  }
  get cr2(): bigint {
    return this.get64(CR2);
  }
  get cr3(): bigint {
    return this.get64(CR3);
  }
  get cr4(): number {
    return this.i32[CR4 >> 2]!;
  }
  get efer(): number {
    return this.i32[EFER >> 2]!;
  }
  /** Raw setters for boot and state transfer: no checks, no side effects but updateMode and a TLB flush. */
  setCr0(value: number): void {
    this.set64(CR0, BigInt(value >>> 0));
    this.stateReplaced();
  }
  setCr3(value: bigint): void {
    this.set64(CR3, value);
    this.stateReplaced();
  }
  setCr4(value: number): void {
    this.set64(CR4, BigInt(value >>> 0));
    this.stateReplaced();
  }
  set efer(value: number) {
    this.set64(EFER, BigInt(value >>> 0));
    this.stateReplaced();
  }

  get cpl(): number {
    return this.get32(CTL.cpl);
  }
  get protectedMode(): boolean {
    return (this.cr0 & CR0_PE) !== 0;
  }
  get paging(): boolean {
    return (this.cr0 & CR0_PG) !== 0;
  }
  get v86(): boolean {
    return (this.get32(FLAGS_SYSTEM) & FLAG_VM) !== 0;
  }
  /** EFER.LMA. */
  get longMode(): boolean {
    return (this.efer & EFER_LMA) !== 0;
  }
  /** 64-bit code: long mode and CS.L. */
  get code64(): boolean {
    return this.longMode && (this.get32(CS + SEG_FIELD.attributes) & ATTR_L) !== 0;
  }

  /** Segment register 0..7: ES CS SS DS FS GS LDTR TR. */
  segment(index: number): Segment {
    const offset = SEG + index * SEG_SIZE;
    return {
      selector: this.get32(offset + SEG_FIELD.selector),
      attributes: this.get32(offset + SEG_FIELD.attributes),
      limit: this.get32(offset + SEG_FIELD.limit),
      base: this.get64(offset + SEG_FIELD.base),
    };
  }
  /** Writes the hidden part too. Does not change CPL; call updateMode when CS, SS or a flat segment changed. */
  setSegment(index: number, { selector, attributes, limit, base }: Segment): void {
    const offset = SEG + index * SEG_SIZE;
    this.set32(offset + SEG_FIELD.selector, selector & 0xffff);
    this.set32(offset + SEG_FIELD.attributes, attributes);
    this.set32(offset + SEG_FIELD.limit, limit);
    this.set64(offset + SEG_FIELD.base, BigInt.asUintN(64, base));
  }
  setTable(table: 'gdt' | 'idt', base: bigint, limit: number): void {
    const offset = table === 'gdt' ? GDTR : IDTR;
    this.set64(offset, BigInt.asUintN(64, base));
    this.set32(offset + TABLE_LIMIT, limit);
  }
  /** Gates address line 20. */
  setA20(enabled: boolean): void {
    const mask = enabled ? 0xffffffff : 0xffefffff;
    if (this.get32(CTL.a20Mask) === mask) return;
    this.set32(CTL.a20Mask, mask);
    this.mmu.flush();
  }
  get a20(): boolean {
    return this.get32(CTL.a20Mask) === 0xffffffff;
  }
  setCpl(cpl: number): void {
    this.set32(CTL.cpl, cpl);
  }

  /** An interrupt controller's hasInterrupt() may have become true. */
  interruptChanged(): void {
    this.set32(CTL.interruptRequest, 1);
    this.onAttention();
  }

  /** Whether an interrupt controller has something to deliver. */
  interruptWaits(): boolean {
    if (this.interrupts.hasInterrupt()) return true;
    this.set32(CTL.interruptRequest, 0);
    return false;
  }

  /** A non-maskable interrupt. While one is being handled the next waits; more than one are one. */
  raiseNmi(): void {
    this.set32(CTL.nmiPending, 1);
    this.onAttention();
  }

  /** True when a maskable interrupt would be taken at this instruction boundary. */
  get interruptible(): boolean {
    return (this.get32(FLAGS_SYSTEM) & FLAG_IF) !== 0 && this.get32(CTL.interruptShadow) === 0;
  }

  /** Recomputes what is derived from CS, SS, DS, ES, CR0, CR4, EFER, RFLAGS, DR7 and CPL: mode key, TLB bank, FPU trap. */
  updateMode(): void {
    const cr0 = this.cr0;
    const flags = this.get32(FLAGS_SYSTEM);
    const cpl = this.get32(CTL.cpl);
    const long = this.longMode;
    const csAttributes = this.get32(CS + SEG_FIELD.attributes);
    let key = cpl << MODE.cplShift;
    if (long && (csAttributes & ATTR_L) !== 0) {
      key |= MODE.code64 | MODE.stack32 | MODE.flatDs | MODE.flatEs | MODE.flatSs | MODE.flatCs;
    } else {
      if ((csAttributes & ATTR_DB) !== 0) key |= MODE.code32;
      if ((this.get32(SS + SEG_FIELD.attributes) & ATTR_DB) !== 0) key |= MODE.stack32;
      if (this.isFlat(DS)) key |= MODE.flatDs;
      if (this.isFlat(ES)) key |= MODE.flatEs;
      if (this.isFlat(SS)) key |= MODE.flatSs;
      if (this.isFlat(CS)) key |= MODE.flatCs;
    }
    if (long) key |= MODE.longMode;
    if ((cr0 & CR0_PE) !== 0) key |= MODE.protected;
    if ((flags & FLAG_VM) !== 0) key |= MODE.v86;
    if ((flags & (FLAG_TF | FLAG_RF)) !== 0 || (this.get32(DR7) & 0xff) !== 0) key |= MODE.single;
    if ((flags & FLAG_AC) !== 0 && (cr0 & CR0_AM) !== 0 && cpl === 3) key |= MODE.alignmentCheck;
    this.set32(CTL.modeKey, key);
    const code64 = (key & MODE.codeSizeMask) === MODE.code64;
    // In halves: a 64-bit number would be a BigInt, and this runs with every system call.
    this.set32(CTL.codeBase, code64 ? 0 : this.get32(CS + SEG_FIELD.base));
    this.set32(CTL.codeBase + 4, code64 ? 0 : this.get32(CS + SEG_FIELD.base + 4));
    this.set32(CTL.codeLimit, code64 ? 0xffffffff : this.get32(CS + SEG_FIELD.limit));
    const smap = (this.cr4 & CR4_SMAP) !== 0 && (flags & FLAG_AC) === 0;
    this.set32(
      CTL.tlbBank,
      cpl === 3 ? this.get32(CTL.userBank) : smap ? TLB.bankSupervisorSmap : TLB.bankSupervisor,
    );
    this.set32(
      CTL.fpuTrap,
      ((cr0 & CR0_TS) !== 0 ? FPU_TRAP.taskSwitched : 0) |
        ((cr0 & CR0_EM) !== 0 ? FPU_TRAP.emulate : 0) |
        ((this.cr4 & CR4_OSFXSR) === 0 ? FPU_TRAP.noFxsr : 0),
    );
  }

  /** Base 0, limit 4 GiB, usable, readable, and writable where it is data. In real and v86 mode this is never so in practice. */
  isFlat(offset: number): boolean {
    const attributes = this.get32(offset + SEG_FIELD.attributes);
    if ((attributes & (ATTR_UNUSABLE | ATTR_P | ATTR_S)) !== (ATTR_P | ATTR_S)) return false;
    const code = (attributes & TYPE_CODE) !== 0;
    if (code ? offset !== CS : (attributes & TYPE_EXPAND_DOWN) !== 0) return false;
    return (
      (attributes & TYPE_WRITABLE) !== 0 &&
      this.get32(offset + SEG_FIELD.limit) === 0xffffffff &&
      this.get32(offset + SEG_FIELD.base) === 0
    );
  }

  /** State was changed wholesale: derived fields are recomputed and cached translations of addresses dropped. */
  stateReplaced(): void {
    this.set32(CTL.interruptRequest, 1);
    this.mmu.flush();
    this.updateMode();
  }

  /** Power-on state (Intel SDM volume 3, table 10-1), MSRs and the FPU included. */
  reset(): void {
    this.u8.fill(0, GPR, STATE_END);
    this.u8.fill(0, 0, GPR);
    this.set32(CTL.a20Mask, 0xffffffff);
    this.set32(CTL.interruptRequest, 1);
    this.set64(CR0, BigInt((CR0_ET | CR0_NW | CR0_CD) >>> 0));
    for (let index = 0; index < 6; index++) {
      this.setSegment(index, { selector: 0, attributes: 0x93, limit: 0xffff, base: 0n });
    }
    this.setSegment(1, { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff0000n });
    this.setSegment(6, { selector: 0, attributes: 0x82, limit: 0xffff, base: 0n });
    this.setSegment(7, { selector: 0, attributes: 0x8b, limit: 0xffff, base: 0n });
    this.setTable('gdt', 0n, 0xffff);
    this.setTable('idt', 0n, 0xffff);
    this.rip = 0xfff0n;
    this.rflags = FLAGS_FIXED;
    this.set64(DR6, 0xffff0ff0n);
    this.set64(DR7, 0x400n);
    this.set64(CR8, 0n);
    this.set64(MSR.pat, 0x0007040600070406n);
    this.set64(MSR.apicBase, 0xfee00900n);
    this.set64(MSR.miscEnable, 1n);
    this.setGpr(2, 0x663n);
    this.set32(FPU.fcw, 0x40);
    this.set32(FPU.mxcsr, 0x1f80);
    this.set64(XCR0, 1n);
    this.stateReplaced();
  }
}
