import { ATTR_P } from './bits.ts';
import type { Cpu } from './cpu.ts';
import {
  attributesOf,
  dplOf,
  findDescriptor,
  isNull,
  limitOf,
  linear,
  requireStackSegment,
  selectorCode,
  SYSTEM_TYPE,
  SYSTEM_WIDE,
  type Descriptor,
} from './descriptors.ts';
import { GuestFault, gp, VECTOR } from './faults.ts';
import type { TaskSwitchCause } from './intercepts.ts';
import { SEG_FIELD, TR } from './layout.ts';
import { getSigned, isCanonical, joinSigned } from './words.ts';

/** The guest asked for something architectural that this VMM does not implement: the machine stops and says so. */
export class VmmUnsupported extends Error {
  /** What was asked for, as a noun phrase. */
  readonly feature: string;
  constructor(feature: string, detail: string) {
    super(`the guest uses ${feature}, which is not implemented (${detail})`);
    this.feature = feature;
  }
}

/** A stack of a more privileged level, as the TSS names it. */
export interface InnerStack {
  readonly selector: number;
  readonly pointer: number;
  readonly descriptor: Descriptor;
}

/**
 * Finds and checks the stack for level `level` (0..2) in the current TSS, outside long mode: #TS with the TSS's or
 * the stack's selector, #SS with the stack's when it is not present (Intel SDM volume 2, CALL and INT n).
 */
export function innerStack(cpu: Cpu, level: number, ext: number): InnerStack {
  const wide = (cpu.get32(TR + SEG_FIELD.attributes) & SYSTEM_WIDE) !== 0;
  const at = wide ? level * 8 + 4 : level * 4 + 2;
  if (at + (wide ? 5 : 3) > cpu.get32(TR + SEG_FIELD.limit)) throw tssFault(cpu, ext);
  const address = cpu.get32(TR + SEG_FIELD.base) + at;
  const pointer = wide ? cpu.mmu.read32(address >>> 0, true) : cpu.mmu.read16(address >>> 0, true);
  const selector = cpu.mmu.read16((address + (wide ? 4 : 2)) >>> 0, true);
  if (isNull(selector)) throw new GuestFault(VECTOR.TS, ext);
  return { selector, pointer, descriptor: requireStackSegment(cpu, selector, level, VECTOR.TS, ext) };
}

/**
 * The stack pointer for level `level` (0..2), or of interrupt stack table entry `ist` (1..7, else 0), in the
 * current 64-bit TSS. #TS with the TSS's selector beyond its limit, #SS(ext) when the pointer is non-canonical.
 */
export function innerStackLong(cpu: Cpu, level: number, ist: number, ext: number): number {
  const at = ist !== 0 ? ist * 8 + 28 : level * 8 + 4;
  if (at + 7 > cpu.get32(TR + SEG_FIELD.limit)) throw tssFault(cpu, ext);
  const address = getSigned(cpu, TR + SEG_FIELD.base) + at;
  const low = cpu.mmu.read32(address, true);
  const pointer = joinSigned(low, cpu.mmu.read32(address + 4, true));
  if (!isCanonical(pointer)) throw new GuestFault(VECTOR.SS, ext);
  return pointer;
}

function tssFault(cpu: Cpu, ext: number): GuestFault {
  return new GuestFault(VECTOR.TS, selectorCode(cpu.get32(TR + SEG_FIELD.selector), ext));
}

function refuseSwitch(cpu: Cpu, selector: number, cause: TaskSwitchCause, how: string): never {
  cpu.intercepts?.taskSwitch(selector, cause);
  throw new VmmUnsupported('hardware task switching', `${how}, TSS selector 0x${selector.toString(16)}`);
}

/** Limits a TSS must have at least, so that the whole state of a task is in it (Intel SDM volume 3, table 7-1). */
const TSS16_LIMIT = 0x2b;
const TSS32_LIMIT = 0x67;

/** #TS with the selector when a TSS is too short to hold a task. */
function requireTssLimit(selector: number, descriptor: Descriptor, ext: number): void {
  const wide = (attributesOf(descriptor) & SYSTEM_WIDE) !== 0;
  if (limitOf(descriptor) < (wide ? TSS32_LIMIT : TSS16_LIMIT)) {
    throw new GuestFault(VECTOR.TS, selectorCode(selector, ext));
  }
}

/** Checks that a TSS can be switched to: #GP, #NP or #TS with its selector. */
function requireAvailableTss(cpu: Cpu, selector: number, ext: number): void {
  const descriptor = (selector & 4) === 0 ? findDescriptor(cpu, selector) : undefined;
  if (!descriptor) throw gp(selectorCode(selector, ext));
  const attributes = attributesOf(descriptor);
  const type = attributes & 0x1f;
  if (type !== SYSTEM_TYPE.tss16Available && type !== SYSTEM_TYPE.tss32Available) {
    throw gp(selectorCode(selector, ext));
  }
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, ext));
  requireTssLimit(selector, descriptor, ext);
}

/** A task gate in the IDT was invoked (its DPL and presence are checked): refuses as INT n would. */
export function interruptTask(cpu: Cpu, tss: number, ext: number): never {
  requireAvailableTss(cpu, tss, ext);
  refuseSwitch(cpu, tss, 'gate', 'interrupt through a task gate');
}

/** JMP or CALL to a task gate in the GDT or LDT (Intel SDM volume 2, JMP: TASK-GATE). */
export function jumpTaskGate(cpu: Cpu, selector: number, gate: Descriptor, cause: 'call' | 'jump'): never {
  const attributes = attributesOf(gate);
  if (dplOf(attributes) < cpu.cpl || dplOf(attributes) < (selector & 3)) throw gp(selectorCode(selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  const tss = gate.low >>> 16;
  requireAvailableTss(cpu, tss, 0);
  refuseSwitch(cpu, tss, cause, 'far transfer through a task gate');
}

/** JMP or CALL to a TSS descriptor (Intel SDM volume 2, JMP: TASK-STATE-SEGMENT). */
export function jumpTss(cpu: Cpu, selector: number, descriptor: Descriptor, cause: 'call' | 'jump'): never {
  const dpl = dplOf(attributesOf(descriptor));
  if (dpl < cpu.cpl || dpl < (selector & 3)) throw gp(selectorCode(selector, 0));
  requireAvailableTss(cpu, selector, 0);
  refuseSwitch(cpu, selector, cause, 'far transfer to a TSS');
}

/** IRET with NT set outside long mode (Intel SDM volume 2, IRET: TASK-RETURN): #TS with the back link unless valid. */
export function returnTask(cpu: Cpu): never {
  const link = cpu.mmu.read16(linear(cpu, cpu.get32(TR + SEG_FIELD.base), 0), true);
  const descriptor = (link & 4) === 0 ? findDescriptor(cpu, link) : undefined;
  const fault = new GuestFault(VECTOR.TS, selectorCode(link, 0));
  if (!descriptor) throw fault;
  const attributes = attributesOf(descriptor);
  const type = attributes & 0x1f;
  if (type !== SYSTEM_TYPE.tss16Busy && type !== SYSTEM_TYPE.tss32Busy) throw fault;
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(link, 0));
  requireTssLimit(link, descriptor, 0);
  refuseSwitch(cpu, link, 'iret', 'IRET with NT set');
}
