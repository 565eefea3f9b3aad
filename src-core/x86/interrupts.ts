import { ATTR_DB, ATTR_L, ATTR_P, FLAG_AC, FLAG_IF, FLAG_NT, FLAG_RF, FLAG_TF, FLAG_VM } from './bits.ts';
import type { Cpu } from './cpu.ts';
import { DR7_GD } from './debug.ts';
import {
  attributesOf,
  dplOf,
  gateCode,
  isCode,
  isConforming,
  isNull,
  limitOf,
  linear,
  loadNull,
  loadRealSegment,
  loadSegment,
  markAccessed,
  requireDescriptor,
  selectorCode,
  SYSTEM_TYPE,
  SYSTEM_WIDE,
  type Descriptor,
} from './descriptors.ts';
import { GuestFault, gp, pushesErrorCode, VECTOR } from './faults.ts';
import {
  CS,
  CTL,
  DR7,
  DS,
  ES,
  FLAGS_SYSTEM,
  FS,
  GS,
  IDTR,
  RIP,
  RSP,
  SEG_FIELD,
  SS,
  TABLE_LIMIT,
} from './layout.ts';
import { SEGMENT } from './segmentation.ts';
import { StackView } from './stack-view.ts';
import { innerStack, innerStackLong, interruptTask } from './task.ts';
import { getSigned, isCanonical, joinSigned, setSigned } from './words.ts';

/**
 * What is delivered: an external interrupt, an NMI, INT n (`software`), INT3 or INTO (`softwareException`), an
 * exception the processor raised, or INT1 (`icebp`).
 */
export type EventType = 'external' | 'nmi' | 'software' | 'softwareException' | 'exception' | 'icebp';

export interface EventOptions {
  readonly type: EventType;
  /** For exceptions that push one. */
  readonly errorCode?: number | undefined;
  /** Return address to push; RIP when absent. Software events give the address after the instruction. */
  readonly returnRip?: number | undefined;
}

/** 'shutdown' is a triple fault. */
export type Delivery = 'delivered' | 'shutdown';

/** CTL.interruptShadow: no single-step trap after this instruction. */
const NO_DEBUG_TRAP = 2;

/** No error code to push. */
const NO_CODE = -1;

/**
 * Delivers an event through the IVT or IDT (Intel SDM volume 3, chapter 6; volume 2, INT n). Software events
 * (`software`, `softwareException`, `icebp`) are instructions: their faults are thrown, with nothing changed. Faults
 * in the delivery of others are delivered in their turn.
 */
export function deliverInterrupt(cpu: Cpu, vector: number, options: EventOptions): Delivery {
  const { type } = options;
  const rip = options.returnRip ?? getSigned(cpu, RIP);
  if (type === 'exception') return deliverException(cpu, vector, options.errorCode ?? 0, rip);
  if (type !== 'external' && type !== 'nmi') {
    cpu.intercepts?.softwareEvent(vector, type === 'software');
    enter(cpu, vector, type, NO_CODE, rip);
    cpu.intercepts?.delivered();
    return 'delivered';
  }
  cpu.accounting.count('interrupt');
  cpu.accounting.detail('interrupt', INTERRUPT_NAMES[vector]!);
  cpu.intercepts?.interrupt(vector, type === 'nmi');
  try {
    enter(cpu, vector, type, NO_CODE, rip);
  } catch (fault) {
    if (!(fault instanceof GuestFault)) throw fault;
    return deliverException(cpu, fault.vector, fault.errorCode, rip);
  }
  cpu.intercepts?.delivered();
  if (type === 'nmi') cpu.set32(CTL.nmiBlocked, 1);
  return 'delivered';
}

/**
 * Delivers an exception, with what follows when that faults in turn: by the classes of the SDM's table 6-5 the
 * second is delivered, or both become a double fault, or the processor shuts down.
 * @param rip return address to push: the faulting instruction's, or the next one's for a trap. RIP when absent.
 */
export function deliverException(
  cpu: Cpu,
  vector: number,
  errorCode: number,
  rip: number = getSigned(cpu, RIP),
): Delivery {
  let current = vector;
  let code = errorCode;
  for (;;) {
    const { accounting } = cpu;
    if (current === VECTOR.PF) {
      accounting.count('truePageFault');
    } else {
      accounting.count('exception');
      accounting.detail('exception', EXCEPTION_NAMES[current] ?? `${current}`);
    }
    cpu.intercepts?.exception(current, code);
    try {
      enter(cpu, current, 'exception', pushesErrorCode(current) ? code : NO_CODE, rip);
      cpu.intercepts?.delivered();
      return 'delivered';
    } catch (fault) {
      if (!(fault instanceof GuestFault)) throw fault;
      if (current === VECTOR.DF) return 'shutdown';
      const doubles = isContributory(fault.vector)
        ? isContributory(current) || current === VECTOR.PF
        : fault.vector === VECTOR.PF && current === VECTOR.PF;
      current = doubles ? VECTOR.DF : fault.vector;
      code = doubles ? 0 : fault.errorCode;
    }
  }
}

const INTERRUPT_NAMES = Array.from(
  { length: 256 },
  (_, vector) => `0x${vector.toString(16).padStart(2, '0')}`,
);
const EXCEPTION_NAMES: readonly (string | undefined)[] = (() => {
  const names: string[] = [];
  for (const [name, vector] of Object.entries(VECTOR)) names[vector] = `#${name}`;
  return names;
})();

/** Contributory exceptions (Intel SDM volume 3, table 6-4). */
function isContributory(vector: number): boolean {
  return (
    vector === VECTOR.DE ||
    vector === VECTOR.TS ||
    vector === VECTOR.NP ||
    vector === VECTOR.SS ||
    vector === VECTOR.GP
  );
}

/** Faults push RF set, so that the instruction is not stopped at again; traps, aborts and #DB do not. */
function isFault(vector: number): boolean {
  return (
    vector !== VECTOR.DB &&
    vector !== VECTOR.BP &&
    vector !== VECTOR.OF &&
    vector !== VECTOR.DF &&
    vector !== VECTOR.MC
  );
}

/** Enters a handler; throws GuestFault before any state but accessed bits has changed. */
function enter(cpu: Cpu, vector: number, type: EventType, errorCode: number, rip: number): void {
  const software = type !== 'external' && type !== 'nmi' && type !== 'exception';
  const stepped = software && (cpu.get32(FLAGS_SYSTEM) & FLAG_TF) !== 0;
  if (cpu.longMode) enterLong(cpu, vector, type, errorCode, rip);
  else if (cpu.protectedMode) enterProtected(cpu, vector, type, errorCode, rip);
  else enterReal(cpu, vector, type, rip);
  cpu.set32(CTL.halted, 0);
  // TF is off now, so the instruction is not stepped over: debuggers know that of INT n, INT3 and INTO.
  cpu.set32(CTL.interruptShadow, stepped ? NO_DEBUG_TRAP : 0);
  if (vector === VECTOR.DB && type !== 'software') cpu.set32(DR7, cpu.get32(DR7) & ~DR7_GD);
  cpu.updateMode();
}

/** The EXT bit of error codes: INT n, INT3 and INTO are the program's own doing, all else is external to it. */
function externalBit(type: EventType): 0 | 1 {
  return type === 'software' || type === 'softwareException' ? 0 : 1;
}

/** The flags image to push. */
function pushedFlags(cpu: Cpu, vector: number, type: EventType): number {
  const flags = cpu.rflags;
  return type === 'exception' && isFault(vector) ? flags | FLAG_RF : flags;
}

function clearFlags(cpu: Cpu, flags: number): void {
  cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) & ~flags);
}

/** Real-address mode: a far pointer in the interrupt vector table, no error code (Intel SDM volume 3, section 21.1.4). */
function enterReal(cpu: Cpu, vector: number, type: EventType, rip: number): void {
  const ext = externalBit(type);
  if (vector * 4 + 3 > cpu.get32(IDTR + TABLE_LIMIT)) throw gp(gateCode(vector, ext));
  const target = cpu.mmu.read32(linear(cpu, getSigned(cpu, IDTR), vector * 4), true);
  const stack = StackView.current(cpu);
  stack.reserve(3, 2, ext);
  const offset = target & 0xffff;
  if (offset > cpu.get32(CS + SEG_FIELD.limit)) throw gp(ext);

  stack.push(pushedFlags(cpu, vector, type), 2);
  stack.push(cpu.get32(CS + SEG_FIELD.selector), 2);
  stack.push(rip, 2);
  stack.commit();
  clearFlags(cpu, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
  loadRealSegment(cpu, SEGMENT.cs, target >>> 16);
  setSigned(cpu, RIP, offset);
}

/** A gate's presence and, for INT n, INT3 and INTO, its DPL. `high` is its second 32-bit word. */
function checkGate(cpu: Cpu, vector: number, type: EventType, high: number): void {
  const ext = externalBit(type);
  if (ext === 0 && ((high >>> 13) & 3) < cpu.cpl) throw gp(gateCode(vector, ext));
  if ((high & 0x8000) === 0) throw new GuestFault(VECTOR.NP, gateCode(vector, ext));
}

/** The code segment a gate names, as far as every mode checks it alike. */
function requireHandlerSegment(cpu: Cpu, selector: number, ext: number): Descriptor {
  if (isNull(selector)) throw gp(ext);
  const code = requireDescriptor(cpu, selector, VECTOR.GP, ext);
  const attributes = attributesOf(code);
  if (!isCode(attributes) || dplOf(attributes) > cpu.cpl) throw gp(selectorCode(selector, ext));
  return code;
}

/** Protected and virtual-8086 mode: 8-byte gates. */
function enterProtected(cpu: Cpu, vector: number, type: EventType, errorCode: number, rip: number): void {
  const v86 = cpu.v86;
  const ext = externalBit(type);
  if (v86 && type === 'software' && ((cpu.get32(FLAGS_SYSTEM) >>> 12) & 3) < 3) throw gp();
  if (vector * 8 + 7 > cpu.get32(IDTR + TABLE_LIMIT)) throw gp(gateCode(vector, ext));
  const gate = (cpu.get32(IDTR) + vector * 8) >>> 0;
  const low = cpu.mmu.read32(gate, true);
  const high = cpu.mmu.read32((gate + 4) >>> 0, true);
  const gateType = (high >>> 8) & 0x1f;
  const trap = gateType === SYSTEM_TYPE.trapGate16 || gateType === SYSTEM_TYPE.trapGate32;
  const interrupt = gateType === SYSTEM_TYPE.interruptGate16 || gateType === SYSTEM_TYPE.interruptGate32;
  if (!trap && !interrupt && gateType !== SYSTEM_TYPE.taskGate) throw gp(gateCode(vector, ext));
  checkGate(cpu, vector, type, high);
  const selector = low >>> 16;
  if (gateType === SYSTEM_TYPE.taskGate) interruptTask(cpu, selector, ext);

  const code = requireHandlerSegment(cpu, selector, ext);
  const attributes = attributesOf(code);
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, ext));
  const cpl = cpu.cpl;
  const level = isConforming(attributes) ? cpl : dplOf(attributes);
  if (v86 && level !== 0) throw gp(selectorCode(selector, ext));

  const wide = (gateType & SYSTEM_WIDE) !== 0;
  const size = wide ? 4 : 2;
  const offset = wide ? ((high & 0xffff0000) | (low & 0xffff)) >>> 0 : low & 0xffff;
  const inner = level < cpl ? innerStack(cpu, level, ext) : undefined;
  const stack = inner ? StackView.inner(cpu, inner.descriptor, inner.pointer) : StackView.current(cpu);
  const count = 3 + (inner ? 2 : 0) + (v86 ? 4 : 0) + (errorCode === NO_CODE ? 0 : 1);
  stack.reserve(count, size, inner ? selectorCode(inner.selector, ext) : ext);
  if (offset > limitOf(code)) throw gp(ext);
  markAccessed(cpu, code);
  if (inner) markAccessed(cpu, inner.descriptor);

  if (v86) {
    stack.push(cpu.get32(GS + SEG_FIELD.selector), size);
    stack.push(cpu.get32(FS + SEG_FIELD.selector), size);
    stack.push(cpu.get32(DS + SEG_FIELD.selector), size);
    stack.push(cpu.get32(ES + SEG_FIELD.selector), size);
  }
  if (inner) {
    stack.push(cpu.get32(SS + SEG_FIELD.selector), size);
    stack.push(cpu.get32(RSP), size);
  }
  stack.push(pushedFlags(cpu, vector, type), size);
  stack.push(cpu.get32(CS + SEG_FIELD.selector), size);
  stack.push(rip, size);
  if (errorCode !== NO_CODE) stack.push(errorCode, size);
  stack.commit();
  if (inner) {
    loadSegment(cpu, SEGMENT.ss, inner.selector, inner.descriptor);
    cpu.setCpl(level);
  }
  loadSegment(cpu, SEGMENT.cs, (selector & 0xfffc) | level, code);
  if (v86) {
    loadNull(cpu, SEGMENT.es, 0);
    loadNull(cpu, SEGMENT.ds, 0);
    loadNull(cpu, SEGMENT.fs, 0);
    loadNull(cpu, SEGMENT.gs, 0);
  }
  clearFlags(cpu, FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (interrupt ? FLAG_IF : 0));
  setSigned(cpu, RIP, offset);
}

/** Long mode: 16-byte gates to 64-bit code, SS:RSP always pushed on an aligned stack. */
function enterLong(cpu: Cpu, vector: number, type: EventType, errorCode: number, rip: number): void {
  const { mmu } = cpu;
  const ext = externalBit(type);
  if (vector * 16 + 15 > cpu.get32(IDTR + TABLE_LIMIT)) throw gp(gateCode(vector, ext));
  const gate = getSigned(cpu, IDTR) + vector * 16;
  const low = mmu.read32(gate, true);
  const high = mmu.read32(gate + 4, true);
  const gateType = (high >>> 8) & 0x1f;
  if (gateType !== SYSTEM_TYPE.interruptGate32 && gateType !== SYSTEM_TYPE.trapGate32) {
    throw gp(gateCode(vector, ext));
  }
  checkGate(cpu, vector, type, high);
  const offset = joinSigned((high & 0xffff0000) | (low & 0xffff), mmu.read32(gate + 8, true));

  const selector = low >>> 16;
  const code = requireHandlerSegment(cpu, selector, ext);
  const attributes = attributesOf(code);
  if ((attributes & (ATTR_L | ATTR_DB)) !== ATTR_L) throw gp(selectorCode(selector, ext));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, ext));

  const cpl = cpu.cpl;
  const level = isConforming(attributes) ? cpl : dplOf(attributes);
  const ist = high & 7;
  const switched = level < cpl;
  const top = switched || ist !== 0 ? innerStackLong(cpu, level, ist, ext) : getSigned(cpu, RSP);
  const stack = StackView.long(cpu, top - (((top % 16) + 16) % 16), switched);
  stack.reserve(errorCode === NO_CODE ? 5 : 6, 8, ext);
  if (!isCanonical(offset)) throw gp(ext);
  markAccessed(cpu, code);

  stack.push64(cpu.get32(SS + SEG_FIELD.selector), 0);
  stack.push64(cpu.get32(RSP), cpu.get32(RSP + 4));
  stack.push64(pushedFlags(cpu, vector, type), 0);
  stack.push64(cpu.get32(CS + SEG_FIELD.selector), 0);
  stack.push(rip, 8);
  if (errorCode !== NO_CODE) stack.push64(errorCode, 0);
  stack.commit();
  if (switched) {
    loadNull(cpu, SEGMENT.ss, level, level);
    cpu.setCpl(level);
  }
  loadSegment(cpu, SEGMENT.cs, (selector & 0xfffc) | level, code);
  clearFlags(
    cpu,
    FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (gateType === SYSTEM_TYPE.interruptGate32 ? FLAG_IF : 0),
  );
  setSigned(cpu, RIP, offset);
}
