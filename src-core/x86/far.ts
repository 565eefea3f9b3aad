import { ATTR_DB, ATTR_L, ATTR_P, ATTR_S, ATTR_UNUSABLE } from './bits.ts';
import type { Cpu } from './cpu.ts';
import {
  attributesOf,
  dplOf,
  isCode,
  isConforming,
  isNull,
  limitOf,
  linear,
  loadNull,
  loadRealSegment,
  loadSegment,
  loadV86Segment,
  locateDescriptor,
  markAccessed,
  requireDescriptor,
  requireStackSegment,
  selectorCode,
  SYSTEM_TYPE,
  SYSTEM_WIDE,
  type Descriptor,
} from './descriptors.ts';
import { GuestFault, gp, VECTOR } from './faults.ts';
import { CS, RIP, RSP, SEG, SEG_FIELD, SEG_SIZE, SS } from './layout.ts';
import { SEGMENT } from './segmentation.ts';
import { StackView } from './stack-view.ts';
import { innerStack, innerStackLong, jumpTaskGate, jumpTss } from './task.ts';
import { isCanonical, joinSigned, setSigned } from './words.ts';

/** Operand size of a far transfer, bits. */
export type OperandSize = 16 | 32 | 64;

const isReal = (cpu: Cpu): boolean => !cpu.protectedMode || cpu.v86;

function truncate(offset: number, operandSize: OperandSize): number {
  return operandSize === 16 ? offset & 0xffff : operandSize === 32 ? offset >>> 0 : offset;
}

// ---- shared by JMP, CALL, RET and IRET ----

/** #GP(0) unless `offset` is within the CS limit that holds after a transfer in real-address or virtual-8086 mode. */
export function checkRealOffset(cpu: Cpu, offset: number): void {
  if (offset > (cpu.v86 ? 0xffff : cpu.get32(CS + SEG_FIELD.limit))) throw gp();
}

/** Loads CS:RIP in real-address or virtual-8086 mode. */
export function loadRealCode(cpu: Cpu, selector: number, offset: number): void {
  if (cpu.v86) loadV86Segment(cpu, SEGMENT.cs, selector);
  else loadRealSegment(cpu, SEGMENT.cs, selector);
  setSigned(cpu, RIP, offset);
}

/** #GP(0) unless `offset` can be executed in a code segment: within its limit, canonical in a 64-bit one. */
export function checkOffset(cpu: Cpu, code: Descriptor, offset: number): void {
  if (cpu.longMode && (attributesOf(code) & ATTR_L) !== 0) {
    if (!isCanonical(offset)) throw gp();
  } else if (offset < 0 || offset > limitOf(code)) {
    throw gp();
  }
}

/** The checks of a return's code segment: #GP(0) for null, #GP or #NP with the selector. */
export function requireReturnSegment(cpu: Cpu, selector: number): Descriptor {
  if (isNull(selector)) throw gp();
  const code = requireDescriptor(cpu, selector, VECTOR.GP, 0);
  const attributes = attributesOf(code);
  const rpl = selector & 3;
  const dpl = dplOf(attributes);
  if (
    !isCode(attributes) ||
    (cpu.longMode && (attributes & (ATTR_L | ATTR_DB)) === (ATTR_L | ATTR_DB)) ||
    rpl < cpu.cpl ||
    (isConforming(attributes) ? dpl > rpl : dpl !== rpl)
  ) {
    throw gp(selectorCode(selector, 0));
  }
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  return code;
}

/**
 * The checks of the stack segment a return pops, for the level `rpl` it returns to. Undefined for a null selector,
 * which only 64-bit code below level 3 may have.
 */
export function requireReturnStack(
  cpu: Cpu,
  selector: number,
  rpl: number,
  code: Descriptor,
): Descriptor | undefined {
  if (!isNull(selector)) return requireStackSegment(cpu, selector, rpl, VECTOR.GP, 0);
  const to64 = cpu.longMode && (attributesOf(code) & ATTR_L) !== 0;
  if (!to64 || rpl === 3) throw gp();
  return undefined;
}

/**
 * Loads the SS:RSP a return popped, after CS: the whole of RSP in 64-bit code, ESP or only SP by the stack's size
 * elsewhere. `segment` is undefined for a null selector.
 */
export function loadReturnStack(
  cpu: Cpu,
  selector: number,
  segment: Descriptor | undefined,
  low: number,
  high: number,
): void {
  if (segment) loadSegment(cpu, SEGMENT.ss, selector, segment);
  else loadNull(cpu, SEGMENT.ss, selector, cpu.cpl);
  if (cpu.code64) {
    cpu.set32(RSP, low);
    cpu.set32(RSP + 4, high);
  } else if ((cpu.get32(SS + SEG_FIELD.attributes) & ATTR_DB) !== 0) {
    cpu.setGpr32(4, low);
  } else {
    cpu.setGpr32(4, ((cpu.gpr32(4) & 0xffff0000) | (low & 0xffff)) >>> 0);
  }
}

/** After a return to an outer level: data segments the new CPL may not use become null. */
export function dropInnerSegments(cpu: Cpu): void {
  const cpl = cpu.cpl;
  for (let index = 0; index <= SEGMENT.gs; index++) {
    if (index === SEGMENT.cs || index === SEGMENT.ss) continue;
    const attributes = cpu.get32(SEG + index * SEG_SIZE + SEG_FIELD.attributes);
    if ((attributes & ATTR_UNUSABLE) !== 0 || dplOf(attributes) >= cpl) continue;
    if (!isCode(attributes) || !isConforming(attributes)) loadNull(cpu, index, 0);
  }
}

// ---- JMP and CALL ----

/** A call gate, checked so far that it may be used and its code segment exists. */
interface CallGate {
  readonly selector: number;
  readonly code: Descriptor;
  readonly offset: number;
  /** Bytes of an item it pushes: 2, 4 or 8. */
  readonly size: number;
  /** Parameters to copy to an inner stack. */
  readonly parameters: number;
}

function readCallGate(cpu: Cpu, selector: number, gate: Descriptor): CallGate {
  const attributes = attributesOf(gate);
  let upper = 0;
  if (cpu.longMode) {
    if (locateDescriptor(cpu, selector, 16) === undefined) throw gp(selectorCode(selector, 0));
    upper = cpu.mmu.read32(linear(cpu, gate.address, 8), true);
    const type = cpu.mmu.read32(linear(cpu, gate.address, 12), true) & 0x1f00;
    if (type !== 0) throw gp(selectorCode(selector, 0));
  }
  const dpl = dplOf(attributes);
  if (dpl < cpu.cpl || dpl < (selector & 3)) throw gp(selectorCode(selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
  const target = gate.low >>> 16;
  if (isNull(target)) throw gp();
  const code = requireDescriptor(cpu, target, VECTOR.GP, 0);
  const codeAttributes = attributesOf(code);
  const long = cpu.longMode;
  if (!isCode(codeAttributes) || (long && (codeAttributes & (ATTR_L | ATTR_DB)) !== ATTR_L)) {
    throw gp(selectorCode(target, 0));
  }
  const wide = (attributes & SYSTEM_WIDE) !== 0;
  const low = gate.low & 0xffff;
  return {
    selector: target,
    code,
    offset: wide ? joinSigned((gate.high & 0xffff0000) | low, upper) : low,
    size: long ? 8 : wide ? 4 : 2,
    parameters: long ? 0 : gate.high & 0x1f,
  };
}

/** The checks of a code segment that JMP or CALL names directly, but for its limit. */
function checkDirect(cpu: Cpu, selector: number, code: Descriptor): void {
  const attributes = attributesOf(code);
  const cpl = cpu.cpl;
  const dpl = dplOf(attributes);
  const refused = isConforming(attributes) ? dpl > cpl : (selector & 3) > cpl || dpl !== cpl;
  if (refused || (cpu.longMode && (attributes & (ATTR_L | ATTR_DB)) === (ATTR_L | ATTR_DB))) {
    throw gp(selectorCode(selector, 0));
  }
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(selector, 0));
}

/** Loads CS (RPL = CPL) and RIP. Everything is checked. */
function enterCode(cpu: Cpu, selector: number, code: Descriptor, offset: number): void {
  loadSegment(cpu, SEGMENT.cs, (selector & 0xfffc) | cpu.cpl, code);
  setSigned(cpu, RIP, offset);
  cpu.updateMode();
}

/** What a far pointer names when it is no code segment: a gate or TSS, or #GP(selector). */
function requireCallGate(
  cpu: Cpu,
  selector: number,
  descriptor: Descriptor,
  cause: 'call' | 'jump',
): CallGate {
  const attributes = attributesOf(descriptor);
  const type = attributes & 0xf;
  if ((attributes & ATTR_S) === 0) {
    if (type === SYSTEM_TYPE.callGate32) return readCallGate(cpu, selector, descriptor);
    if (!cpu.longMode) {
      if (type === SYSTEM_TYPE.callGate16) return readCallGate(cpu, selector, descriptor);
      if (type === SYSTEM_TYPE.taskGate) jumpTaskGate(cpu, selector, descriptor, cause);
      if ((type & 5) === 1) jumpTss(cpu, selector, descriptor, cause);
    }
  }
  throw gp(selectorCode(selector, 0));
}

/** JMP far (Intel SDM volume 2, JMP). `offset` is signed with a 64-bit operand size. */
export function jumpFar(cpu: Cpu, selector: number, offset: number, operandSize: OperandSize): void {
  selector &= 0xffff;
  const target = truncate(offset, operandSize);
  if (isReal(cpu)) {
    checkRealOffset(cpu, target);
    loadRealCode(cpu, selector, target);
    cpu.updateMode();
    return;
  }
  if (isNull(selector)) throw gp();
  const descriptor = requireDescriptor(cpu, selector, VECTOR.GP, 0);
  if (isCode(attributesOf(descriptor))) {
    checkDirect(cpu, selector, descriptor);
    checkOffset(cpu, descriptor, target);
    markAccessed(cpu, descriptor);
    enterCode(cpu, selector, descriptor, target);
    return;
  }
  const gate = requireCallGate(cpu, selector, descriptor, 'jump');
  const attributes = attributesOf(gate.code);
  const dpl = dplOf(attributes);
  if (isConforming(attributes) ? dpl > cpu.cpl : dpl !== cpu.cpl) throw gp(selectorCode(gate.selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(gate.selector, 0));
  checkOffset(cpu, gate.code, gate.offset);
  markAccessed(cpu, gate.code);
  enterCode(cpu, gate.selector, gate.code, gate.offset);
}

/** CALL far (Intel SDM volume 2, CALL). `next` is the address after the instruction, `offset` as for jumpFar. */
export function callFar(
  cpu: Cpu,
  selector: number,
  offset: number,
  operandSize: OperandSize,
  next: number,
): void {
  selector &= 0xffff;
  const target = truncate(offset, operandSize);
  const size = operandSize / 8;
  if (isReal(cpu)) {
    const stack = StackView.current(cpu);
    stack.reserve(2, size, 0);
    checkRealOffset(cpu, target);
    pushReturn(cpu, stack, next, size);
    loadRealCode(cpu, selector, target);
    cpu.updateMode();
    return;
  }
  if (isNull(selector)) throw gp();
  const descriptor = requireDescriptor(cpu, selector, VECTOR.GP, 0);
  if (isCode(attributesOf(descriptor))) {
    checkDirect(cpu, selector, descriptor);
    callSameLevel(cpu, selector, descriptor, target, size, next);
  } else {
    callThroughGate(cpu, requireCallGate(cpu, selector, descriptor, 'call'), next);
  }
}

function pushReturn(cpu: Cpu, stack: StackView, next: number, size: number): void {
  stack.push(cpu.get32(CS + SEG_FIELD.selector), size);
  stack.push(next, size);
  stack.commit();
}

function callSameLevel(
  cpu: Cpu,
  selector: number,
  code: Descriptor,
  offset: number,
  size: number,
  next: number,
): void {
  const stack = StackView.current(cpu);
  stack.reserve(2, size, 0);
  checkOffset(cpu, code, offset);
  markAccessed(cpu, code);
  pushReturn(cpu, stack, next, size);
  enterCode(cpu, selector, code, offset);
}

function callThroughGate(cpu: Cpu, gate: CallGate, next: number): void {
  const attributes = attributesOf(gate.code);
  const dpl = dplOf(attributes);
  if (dpl > cpu.cpl) throw gp(selectorCode(gate.selector, 0));
  if ((attributes & ATTR_P) === 0) throw new GuestFault(VECTOR.NP, selectorCode(gate.selector, 0));
  if (isConforming(attributes) || dpl === cpu.cpl) {
    callSameLevel(cpu, gate.selector, gate.code, gate.offset, gate.size, next);
  } else if (cpu.longMode) {
    callInnerLong(cpu, gate, dpl, next);
  } else {
    callInner(cpu, gate, dpl, next);
  }
}

/** Through a 16- or 32-bit call gate to an inner level: new stack from the TSS, parameters copied. */
function callInner(cpu: Cpu, gate: CallGate, level: number, next: number): void {
  const inner = innerStack(cpu, level, 0);
  const stack = StackView.inner(cpu, inner.descriptor, inner.pointer);
  stack.reserve(4 + gate.parameters, gate.size, selectorCode(inner.selector, 0));
  checkOffset(cpu, gate.code, gate.offset);
  const outer = StackView.current(cpu);
  const parameters: number[] = [];
  for (let i = 0; i < gate.parameters; i++) parameters.push(outer.read(i * gate.size, gate.size));
  markAccessed(cpu, inner.descriptor);
  markAccessed(cpu, gate.code);

  stack.push(cpu.get32(SS + SEG_FIELD.selector), gate.size);
  stack.push(cpu.get32(RSP), gate.size);
  for (let i = gate.parameters; i-- > 0;) stack.push(parameters[i]!, gate.size);
  pushReturn(cpu, stack, next, gate.size);
  cpu.setCpl(level);
  loadSegment(cpu, SEGMENT.ss, inner.selector, inner.descriptor);
  enterCode(cpu, gate.selector, gate.code, gate.offset);
}

/** Through a 64-bit call gate to an inner level: RSP from the TSS, SS null. */
function callInnerLong(cpu: Cpu, gate: CallGate, level: number, next: number): void {
  const stack = StackView.long(cpu, innerStackLong(cpu, level, 0, 0), true);
  stack.reserve(4, 8, 0);
  checkOffset(cpu, gate.code, gate.offset);
  markAccessed(cpu, gate.code);
  stack.push64(cpu.get32(SS + SEG_FIELD.selector), 0);
  stack.push64(cpu.get32(RSP), cpu.get32(RSP + 4));
  pushReturn(cpu, stack, next, 8);
  cpu.setCpl(level);
  loadNull(cpu, SEGMENT.ss, level, level);
  enterCode(cpu, gate.selector, gate.code, gate.offset);
}

// ---- RET ----

/** RET far, releasing `release` bytes of parameters (Intel SDM volume 2, RET). */
export function returnFar(cpu: Cpu, operandSize: OperandSize, release: number): void {
  const size = operandSize / 8;
  const stack = StackView.current(cpu);
  const low = stack.read(0, size);
  const rip = size === 8 ? joinSigned(low, stack.read32(4)) : low;
  const selector = stack.read(size, size) & 0xffff;
  if (isReal(cpu)) {
    checkRealOffset(cpu, rip);
    stack.drop(2 * size + release);
    stack.commit();
    loadRealCode(cpu, selector, rip);
    cpu.updateMode();
    return;
  }
  const code = requireReturnSegment(cpu, selector);
  const rpl = selector & 3;
  if (rpl === cpu.cpl) {
    checkOffset(cpu, code, rip);
    markAccessed(cpu, code);
    stack.drop(2 * size + release);
    stack.commit();
    loadSegment(cpu, SEGMENT.cs, selector, code);
  } else {
    const at = 2 * size + release;
    const pointer = stack.read(at, size);
    const pointerHigh = size === 8 ? stack.read32(at + 4) : 0;
    const stackSelector = stack.read(at + size, size) & 0xffff;
    const segment = requireReturnStack(cpu, stackSelector, rpl, code);
    checkOffset(cpu, code, rip);
    markAccessed(cpu, code);
    if (segment) markAccessed(cpu, segment);
    cpu.setCpl(rpl);
    loadSegment(cpu, SEGMENT.cs, selector, code);
    loadReturnStack(cpu, stackSelector, segment, pointer, pointerHigh);
    releaseParameters(cpu, release);
    dropInnerSegments(cpu);
  }
  setSigned(cpu, RIP, rip);
  cpu.updateMode();
}

/** Adds to the outer stack's pointer, in its own size. */
function releaseParameters(cpu: Cpu, release: number): void {
  if (release === 0) return;
  if (cpu.code64) cpu.setGpr(4, cpu.gpr(4) + BigInt(release));
  else if ((cpu.get32(SS + SEG_FIELD.attributes) & ATTR_DB) !== 0) {
    cpu.setGpr32(4, (cpu.gpr32(4) + release) >>> 0);
  } else {
    const old = cpu.gpr32(4);
    cpu.setGpr32(4, ((old & 0xffff0000) | ((old + release) & 0xffff)) >>> 0);
  }
}
