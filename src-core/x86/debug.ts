import { CR4_DE } from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { GuestFault, gp, ud, VECTOR } from './faults.ts';
import { CTL, DR0, DR6, DR7 } from './layout.ts';
import { MODE } from './mode.ts';
import { requireCpl0 } from './privilege.ts';

/** Bits of DR6 and DR7 (Intel SDM volume 3, section 18.2). */
export const DR6_BD = 1 << 13;
export const DR6_BS = 1 << 14;
export const DR7_GD = 1 << 13;
/** B0..B3 and BD, BS, BT: what can be written; all other bits of DR6 are fixed. */
const DR6_WRITABLE = 0xe00f;
const DR6_FIXED = 0xffff0ff0;
/** L and G of the breakpoints, LE and GE, GD, R/W and LEN; bit 10 reads one. */
const DR7_WRITABLE = 0xffff23ff;
const DR7_FIXED = 0x400;
/** R/W field of DR7. */
const WATCH = { execute: 0, write: 1, io: 2, readWrite: 3 } as const;

interface State {
  readonly i32: Int32Array;
}

/** L or G of breakpoint `index` is set. */
function enabled(dr7: number, index: number): boolean {
  return ((dr7 >>> (index * 2)) & 3) !== 0;
}

function watchOf(dr7: number, index: number): number {
  return (dr7 >>> (16 + index * 4)) & 3;
}

/** Bytes watched: LEN 0 = 1, 1 = 2, 2 = 8, 3 = 4. */
function lengthOf(dr7: number, index: number): number {
  const length = (dr7 >>> (18 + index * 4)) & 3;
  return length === 2 ? 8 : length + 1;
}

/** First byte watched: DRn with the bits below its length ignored; a linear address as the MMU has them. */
function startOf({ i32 }: State, index: number, length: number): number {
  const at = (DR0 + index * 8) >> 2;
  return i32[at + 1]! * 0x100000000 + ((i32[at]! & -length) >>> 0);
}

/** Whether any data breakpoint is enabled. */
export function hasDataBreakpoints({ i32 }: State): boolean {
  const dr7 = i32[DR7 >> 2]!;
  if ((dr7 & 0xff) === 0) return false;
  for (let index = 0; index < 4; index++) {
    if (enabled(dr7, index) && (watchOf(dr7, index) & 1) !== 0) return true;
  }
  return false;
}

/** DR6 bits (B0..B3) of the data breakpoints that an access of `size` bytes at `lin` hits. */
export function dataBreakpoints(state: State, lin: number, size: number, write: boolean): number {
  const dr7 = state.i32[DR7 >> 2]!;
  let hits = 0;
  for (let index = 0; index < 4; index++) {
    const watch = watchOf(dr7, index);
    if (!enabled(dr7, index) || !(watch === WATCH.readWrite || (write && watch === WATCH.write))) continue;
    const length = lengthOf(dr7, index);
    const start = startOf(state, index, length);
    if (lin < start + length && start < lin + size) hits |= 1 << index;
  }
  return hits;
}

/** DR6 bits of the instruction breakpoints at linear address `lin`. RF is the caller's business. */
export function instructionBreakpoint(state: State, lin: number): number {
  const dr7 = state.i32[DR7 >> 2]!;
  if ((dr7 & 0xff) === 0) return 0;
  let hits = 0;
  for (let index = 0; index < 4; index++) {
    if (!enabled(dr7, index) || watchOf(dr7, index) !== WATCH.execute) continue;
    if (startOf(state, index, 1) === lin) hits |= 1 << index;
  }
  return hits;
}

/** DR6 bits of the I/O breakpoints (CR4.DE) that an access of `size` bytes at a port hits. */
export function portBreakpoints(cpu: Cpu, port: number, size: number): number {
  const dr7 = cpu.i32[DR7 >> 2]!;
  if ((dr7 & 0xff) === 0 || (cpu.cr4 & CR4_DE) === 0) return 0;
  let hits = 0;
  for (let index = 0; index < 4; index++) {
    if (!enabled(dr7, index) || watchOf(dr7, index) !== WATCH.io) continue;
    const length = lengthOf(dr7, index);
    const start = startOf(cpu, index, length);
    if (port < start + length && start < port + size) hits |= 1 << index;
  }
  return hits;
}

/**
 * Makes ready for the delivery of #DB with these DR6 bits: B0..B3 say what this one is for, the others collect;
 * general detection goes off (Intel SDM volume 3, section 18.2.3).
 * @returns the exception, for the caller to throw or deliver.
 */
export function raiseDebug(cpu: Cpu, bits: number): GuestFault {
  cpu.set32(DR6, (cpu.get32(DR6) & ~0xf) | bits | DR6_FIXED);
  cpu.set32(DR7, cpu.get32(DR7) & ~DR7_GD);
  return new GuestFault(VECTOR.DB);
}

/** The register a MOV DR names: DR4 and DR5 are DR6 and DR7 unless CR4.DE makes them #UD. Checks all of it. */
function debugRegister(cpu: Cpu, index: number): number {
  if (index > 7) throw ud();
  if ((index === 4 || index === 5) && (cpu.cr4 & CR4_DE) !== 0) throw ud();
  requireCpl0(cpu);
  if ((cpu.get32(DR7) & DR7_GD) !== 0) throw raiseDebug(cpu, DR6_BD);
  return index === 4 || index === 5 ? index + 2 : index;
}

/** Where DR0..DR3, DR6, DR7 stand in the state. */
const slotOf = (register: number): number => (register < 4 ? DR0 + register * 8 : DR6 + (register - 6) * 8);

/** MOV r, DRn. dst: 64-bit slot (the lifter narrows it). imm: n. */
export const readDebug = defineCallout('readDebug', 'controlRegister', (cpu, dst, _a, _b, imm) => {
  cpu.set64(dst, cpu.get64(slotOf(debugRegister(cpu, imm))));
});

/** MOV DRn, r. a: 64-bit slot, of which 64-bit code uses all and other code the low half. imm: n. */
export const writeDebug = defineCallout('writeDebug', 'controlRegister', (cpu, _dst, a, _b, imm) => {
  const register = debugRegister(cpu, imm);
  const low = cpu.get32(a);
  const code64 = (cpu.get32(CTL.modeKey) & MODE.codeSizeMask) === MODE.code64;
  const high = code64 ? cpu.get32(a + 4) : 0;
  const slot = slotOf(register);
  const watched = hasDataBreakpoints(cpu);
  if (register >= 6) {
    if (high !== 0) throw gp();
    const value = register === 6 ? (low & DR6_WRITABLE) | DR6_FIXED : (low & DR7_WRITABLE) | DR7_FIXED;
    cpu.set32(slot, value);
  } else {
    cpu.set32(slot, low);
    cpu.set32(slot + 4, high);
  }
  // Watched pages are kept out of the TLB.
  if (watched || hasDataBreakpoints(cpu)) cpu.mmu.flush();
  cpu.updateMode();
});
