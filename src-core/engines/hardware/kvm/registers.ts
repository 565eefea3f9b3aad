import { ARENA } from '../../../machine/arena.ts';
import {
  ATTR_DB,
  ATTR_G,
  ATTR_L,
  ATTR_P,
  ATTR_S,
  ATTR_UNUSABLE,
  CR0_PE,
  FLAG_VM,
} from '../../../x86/bits.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  CTL,
  EFER,
  FLAGS_SYSTEM,
  GDTR,
  GPR,
  IDTR,
  MSR,
  RIP,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  SS,
  TABLE_LIMIT,
} from '../../../x86/layout.ts';
import { EVENTS, EVENTS_VALID, REGS, RUN, SEGMENT_FIELD, SHADOW, SREGS, SYNC } from './layout.ts';

/**
 * Registers between the vCPU state in the arena and the part of kvm_run that KVM takes from and gives back with
 * KVM_RUN (struct kvm_sync_regs). Both lie in the arena: nothing here calls the kernel.
 */

const REGS_AT = ARENA.kvmRun + RUN.regs;
const SREGS_AT = ARENA.kvmRun + RUN.sregs;
const EVENTS_AT = ARENA.kvmRun + RUN.events;

/** Where the general registers stand in struct kvm_regs, in encoding order. */
const GPR_AT = [
  REGS.rax,
  REGS.rcx,
  REGS.rdx,
  REGS.rbx,
  REGS.rsp,
  REGS.rbp,
  REGS.rsi,
  REGS.rdi,
  ...Array.from({ length: 8 }, (_, i) => REGS.r8 + i * 8),
].map((offset) => REGS_AT + offset);

/** Where the segment registers stand in struct kvm_sregs, in the order of the state: ES CS SS DS FS GS LDTR TR. */
const SEGMENT_AT = [SREGS.es, SREGS.cs, SREGS.ss, SREGS.ds, SREGS.fs, SREGS.gs, SREGS.ldt, SREGS.tr].map(
  (offset) => SREGS_AT + offset,
);

/** 64-bit registers by their places in the state and in struct kvm_sregs. */
const CONTROL = [
  [CR0, SREGS.cr0],
  [CR2, SREGS.cr2],
  [CR3, SREGS.cr3],
  [CR4, SREGS.cr4],
  [EFER, SREGS.efer],
].map(([state, sregs]) => [state!, SREGS_AT + sregs!] as const);

const DPL_SHIFT = 5;
const AVL = 1 << 12;
const AVL_SHIFT = 12;

function copy64(u32: Uint32Array, from: number, to: number): void {
  u32[to >> 2] = u32[from >> 2]!;
  u32[(to >> 2) + 1] = u32[(from >> 2) + 1]!;
}

// ---- the arena's state to KVM ------------------------------------------------------------------------------------

/** General registers, RIP and RFLAGS. */
export function exportGeneral(cpu: Cpu): void {
  const { u32 } = cpu;
  for (let i = 0; i < 16; i++) copy64(u32, GPR + i * 8, GPR_AT[i]!);
  copy64(u32, RIP, REGS_AT + REGS.rip);
  u32[(REGS_AT + REGS.rflags) >> 2] = cpu.rflags;
  u32[((REGS_AT + REGS.rflags) >> 2) + 1] = 0;
  markDirty(cpu, SYNC.regs);
}

/** Segments, tables, control registers, EFER, local APIC base and task priority. */
export function exportSystem(cpu: Cpu): void {
  const { u8, u16, u32 } = cpu;
  for (let i = 0; i < 8; i++) {
    const from = SEG + i * SEG_SIZE;
    const to = SEGMENT_AT[i]!;
    const attributes = u32[(from + SEG_FIELD.attributes) >> 2]!;
    const unusable = (attributes & ATTR_UNUSABLE) !== 0;
    // KVM knows the privilege level as the DPL of SS, also where that is a null selector.
    const dpl = from === SS ? cpu.cpl : (attributes >> DPL_SHIFT) & 3;
    copy64(u32, from + SEG_FIELD.base, to + SEGMENT_FIELD.base);
    u32[(to + SEGMENT_FIELD.limit) >> 2] = u32[(from + SEG_FIELD.limit) >> 2]!;
    u16[(to + SEGMENT_FIELD.selector) >> 1] = u32[(from + SEG_FIELD.selector) >> 2]!;
    u8[to + SEGMENT_FIELD.type] = attributes & 15;
    u8[to + SEGMENT_FIELD.present] = (attributes & ATTR_P) !== 0 && !unusable ? 1 : 0;
    u8[to + SEGMENT_FIELD.dpl] = dpl;
    u8[to + SEGMENT_FIELD.db] = (attributes & ATTR_DB) !== 0 ? 1 : 0;
    u8[to + SEGMENT_FIELD.s] = (attributes & ATTR_S) !== 0 ? 1 : 0;
    u8[to + SEGMENT_FIELD.l] = (attributes & ATTR_L) !== 0 ? 1 : 0;
    u8[to + SEGMENT_FIELD.g] = (attributes & ATTR_G) !== 0 ? 1 : 0;
    u8[to + SEGMENT_FIELD.avl] = (attributes & AVL) !== 0 ? 1 : 0;
    u8[to + SEGMENT_FIELD.unusable] = unusable || (attributes & ATTR_P) === 0 ? 1 : 0;
  }
  exportTable(cpu, GDTR, SREGS_AT + SREGS.gdt);
  exportTable(cpu, IDTR, SREGS_AT + SREGS.idt);
  for (const [state, sregs] of CONTROL) copy64(u32, state, sregs);
  copy64(u32, MSR.apicBase, SREGS_AT + SREGS.apicBase);
  u32[(SREGS_AT + SREGS.cr8) >> 2] = cpu.readTpr();
  u32[((SREGS_AT + SREGS.cr8) >> 2) + 1] = 0;
  // Interrupts are told of in the events.
  u32.fill(0, (SREGS_AT + SREGS.interruptBitmap) >> 2, (SREGS_AT + SREGS.interruptBitmap + 32) >> 2);
  markDirty(cpu, SYNC.sregs);
}

function exportTable({ u16, u32 }: Cpu, from: number, to: number): void {
  copy64(u32, from, to);
  u16[(to + SREGS.tableLimit) >> 1] = u32[(from + TABLE_LIMIT) >> 2]!;
}

/** Interrupt shadow and non-maskable interrupts; no event is being delivered. */
export function exportEvents(cpu: Cpu): void {
  const { u8, u32 } = cpu;
  const shadow = u32[CTL.interruptShadow >> 2]!;
  u8.fill(0, EVENTS_AT, EVENTS_AT + 64);
  u8[EVENTS_AT + EVENTS.interruptShadow] =
    shadow === 0 ? 0 : (shadow & SHADOW_NO_DEBUG) !== 0 ? SHADOW.movSs : SHADOW.sti;
  u8[EVENTS_AT + EVENTS.nmiPending] = u32[CTL.nmiPending >> 2]!;
  u8[EVENTS_AT + EVENTS.nmiMasked] = u32[CTL.nmiBlocked >> 2]!;
  u32[(EVENTS_AT + EVENTS.flags) >> 2] = EVENTS_VALID.nmiPending | EVENTS_VALID.shadow;
  markDirty(cpu, SYNC.events);
}

/**
 * Whether KVM takes events from kvm_run with its next run. They replace an interrupt that it was given by a call before
 * (KVM_INTERRUPT), which is to be put there instead.
 */
export function eventsGiven({ u32 }: Cpu): boolean {
  return (u32[(ARENA.kvmRun + RUN.dirtyRegs) >> 2]! & SYNC.events) !== 0;
}

/** Has an external interrupt delivered first of all, where `eventsGiven`. */
export function giveInterrupt({ u8 }: Cpu, vector: number): void {
  u8[EVENTS_AT + EVENTS.interruptInjected] = 1;
  u8[EVENTS_AT + EVENTS.interruptNumber] = vector;
}

/** CTL.interruptShadow: made by MOV SS or POP SS. */
const SHADOW_NO_DEBUG = 2;
const SHADOW_STI = 1;

function markDirty({ u32 }: Cpu, parts: number): void {
  u32[(ARENA.kvmRun + RUN.dirtyRegs) >> 2]! |= parts;
}

// ---- KVM's state to the arena ------------------------------------------------------------------------------------

/** Everything exportGeneral and exportSystem wrote, and CPL. The derived state is the caller's to renew. */
export function importRegisters(cpu: Cpu): void {
  const { u8, u16, u32 } = cpu;
  for (let i = 0; i < 16; i++) copy64(u32, GPR_AT[i]!, GPR + i * 8);
  copy64(u32, REGS_AT + REGS.rip, RIP);
  cpu.rflags = u32[(REGS_AT + REGS.rflags) >> 2]!;
  for (let i = 0; i < 8; i++) {
    const from = SEGMENT_AT[i]!;
    const to = SEG + i * SEG_SIZE;
    copy64(u32, from + SEGMENT_FIELD.base, to + SEG_FIELD.base);
    u32[(to + SEG_FIELD.limit) >> 2] = u32[(from + SEGMENT_FIELD.limit) >> 2]!;
    u32[(to + SEG_FIELD.selector) >> 2] = u16[(from + SEGMENT_FIELD.selector) >> 1]!;
    u32[(to + SEG_FIELD.attributes) >> 2] =
      u8[from + SEGMENT_FIELD.type]! |
      (u8[from + SEGMENT_FIELD.s]! !== 0 ? ATTR_S : 0) |
      (u8[from + SEGMENT_FIELD.dpl]! << DPL_SHIFT) |
      (u8[from + SEGMENT_FIELD.present]! !== 0 ? ATTR_P : 0) |
      (u8[from + SEGMENT_FIELD.avl]! << AVL_SHIFT) |
      (u8[from + SEGMENT_FIELD.l]! !== 0 ? ATTR_L : 0) |
      (u8[from + SEGMENT_FIELD.db]! !== 0 ? ATTR_DB : 0) |
      (u8[from + SEGMENT_FIELD.g]! !== 0 ? ATTR_G : 0) |
      (u8[from + SEGMENT_FIELD.unusable]! !== 0 ? ATTR_UNUSABLE : 0);
  }
  importTable(cpu, SREGS_AT + SREGS.gdt, GDTR);
  importTable(cpu, SREGS_AT + SREGS.idt, IDTR);
  for (const [state, sregs] of CONTROL) copy64(u32, sregs, state);
  u32[CR8 >> 2] = u32[(SREGS_AT + SREGS.cr8) >> 2]!;
  const protectedMode = (u32[CR0 >> 2]! & CR0_PE) !== 0;
  const v86 = (u32[FLAGS_SYSTEM >> 2]! & FLAG_VM) !== 0;
  const dpl = u8[SREGS_AT + SREGS.ss + SEGMENT_FIELD.dpl]!;
  cpu.setCpl(v86 ? 3 : protectedMode ? dpl : 0);
}

function importTable({ u16, u32 }: Cpu, from: number, to: number): void {
  copy64(u32, from, to);
  u32[(to + TABLE_LIMIT) >> 2] = u16[(from + SREGS.tableLimit) >> 1]!;
}

/** An event that KVM has begun to deliver, or is about to. */
export interface InjectedEvent {
  readonly type: 'external' | 'nmi' | 'exception';
  readonly vector: number;
}

const DB_VECTOR = 1;
const NMI_VECTOR = 2;

/**
 * Interrupt shadow and non-maskable interrupts. The event that is being delivered is returned: the processor's next
 * step is its delivery. Not so for those that come about again because RIP still points at the instruction that raises
 * them: faults, INT n, INT3 and INTO.
 */
export function importEvents(cpu: Cpu): InjectedEvent | undefined {
  const { u8, u32 } = cpu;
  const at = (field: number): number => u8[EVENTS_AT + field]!;
  const shadow = at(EVENTS.interruptShadow);
  u32[CTL.interruptShadow >> 2] =
    (shadow & SHADOW.movSs) !== 0
      ? SHADOW_STI | SHADOW_NO_DEBUG
      : (shadow & SHADOW.sti) !== 0
        ? SHADOW_STI
        : 0;
  if (at(EVENTS.nmiPending) !== 0) u32[CTL.nmiPending >> 2] = 1;
  u32[CTL.nmiBlocked >> 2] = at(EVENTS.nmiMasked) !== 0 && at(EVENTS.nmiInjected) === 0 ? 1 : 0;
  if (at(EVENTS.exceptionPending) !== 0 || at(EVENTS.exceptionInjected) !== 0) {
    const vector = at(EVENTS.exceptionNumber);
    return vector === DB_VECTOR ? { type: 'exception', vector } : undefined;
  }
  if (at(EVENTS.nmiInjected) !== 0) return { type: 'nmi', vector: NMI_VECTOR };
  if (at(EVENTS.interruptInjected) !== 0 && at(EVENTS.interruptSoft) === 0) {
    return { type: 'external', vector: at(EVENTS.interruptNumber) };
  }
  return undefined;
}
