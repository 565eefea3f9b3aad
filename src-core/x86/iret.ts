import {
  FLAG_AC,
  FLAG_DF,
  FLAG_ID,
  FLAG_IF,
  FLAG_IOPL,
  FLAG_NT,
  FLAG_RF,
  FLAG_TF,
  FLAG_VIF,
  FLAG_VIP,
  FLAG_VM,
  FLAGS_ALL,
  FLAGS_ARITHMETIC,
} from './bits.ts';
import type { Cpu } from './cpu.ts';
import { loadSegment, loadV86Segment, markAccessed } from './descriptors.ts';
import { gp } from './faults.ts';
import {
  checkOffset,
  checkRealOffset,
  dropInnerSegments,
  loadRealCode,
  loadReturnStack,
  requireReturnSegment,
  requireReturnStack,
  type OperandSize,
} from './far.ts';
import { CTL, DR7, FLAGS_SYSTEM, RIP } from './layout.ts';
import { SEGMENT } from './segmentation.ts';
import { StackView } from './stack-view.ts';
import { returnTask } from './task.ts';
import { joinSigned, setSigned } from './words.ts';

/** Flags IRET always loads, with any operand size. */
const LOW_FLAGS = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT;
/** Those it loads besides with a 32- or 64-bit operand size. */
const HIGH_FLAGS = FLAG_RF | FLAG_AC | FLAG_ID;
const REAL_FLAGS = LOW_FLAGS | FLAG_IF | FLAG_IOPL;

/** IRET, IRETD and IRETQ in every mode (Intel SDM volume 2, IRET). Unblocks NMIs even when it faults. */
export function interruptReturn(cpu: Cpu, operandSize: OperandSize): void {
  cpu.set32(CTL.nmiBlocked, 0);
  const flags = cpu.get32(FLAGS_SYSTEM);
  const nested = (flags & FLAG_NT) !== 0;
  if (!cpu.protectedMode) {
    returnReal(cpu, operandSize, REAL_FLAGS);
  } else if ((flags & FLAG_VM) !== 0) {
    if ((flags & FLAG_IOPL) !== FLAG_IOPL) throw gp();
    returnReal(cpu, operandSize, LOW_FLAGS | FLAG_IF);
  } else if (cpu.longMode) {
    if (nested) throw gp();
    returnProtected(cpu, operandSize);
  } else {
    if (nested) returnTask(cpu);
    returnProtected(cpu, operandSize);
  }
  cpu.updateMode();
}

/** In real-address and virtual-8086 mode. */
function returnReal(cpu: Cpu, operandSize: OperandSize, lowFlags: number): void {
  const size = operandSize / 8;
  const stack = StackView.current(cpu);
  const offset = stack.read(0, size);
  const selector = stack.read(size, size) & 0xffff;
  const image = stack.read(2 * size, size);
  checkRealOffset(cpu, offset);
  stack.drop(3 * size);
  stack.commit();
  loadRealCode(cpu, selector, offset);
  loadFlags(cpu, image, size === 2 ? lowFlags : lowFlags | HIGH_FLAGS);
}

/**
 * RF lasts for one instruction, which the engine sees to while breakpoints are enabled. While none is it would change
 * nothing but stay, so it isn't set at all.
 */
function loadFlags(cpu: Cpu, image: number, mask: number): void {
  const loaded = (cpu.get32(DR7) & 0xff) === 0 ? mask & ~FLAG_RF : mask;
  cpu.rflags = (cpu.get32(FLAGS_SYSTEM) & ~mask) | (image & loaded);
}

function returnProtected(cpu: Cpu, operandSize: OperandSize): void {
  const size = operandSize / 8;
  const stack = StackView.current(cpu);
  const low = stack.read(0, size);
  const rip = size === 8 ? joinSigned(low, stack.read32(4)) : low;
  const selector = stack.read(size, size) & 0xffff;
  const image = stack.read(2 * size, size);
  const cpl = cpu.cpl;
  if (size === 4 && cpl === 0 && (image & FLAG_VM) !== 0 && !cpu.longMode) {
    returnToV86(cpu, stack, rip, selector, image);
    return;
  }
  const code = requireReturnSegment(cpu, selector);
  const rpl = selector & 3;
  // What may be loaded is decided by the level and IOPL the instruction runs at.
  let mask = size === 2 ? LOW_FLAGS : LOW_FLAGS | HIGH_FLAGS;
  if (cpl <= ((cpu.get32(FLAGS_SYSTEM) >>> 12) & 3)) mask |= FLAG_IF;
  if (cpl === 0) mask |= size === 2 ? FLAG_IOPL : FLAG_IOPL | FLAG_VIF | FLAG_VIP;

  if (rpl > cpl || cpu.code64) {
    const pointer = stack.read(3 * size, size);
    const pointerHigh = size === 8 ? stack.read32(3 * size + 4) : 0;
    const stackSelector = stack.read(4 * size, size) & 0xffff;
    const segment = requireReturnStack(cpu, stackSelector, rpl, code);
    checkOffset(cpu, code, rip);
    markAccessed(cpu, code);
    if (segment) markAccessed(cpu, segment);
    cpu.setCpl(rpl);
    loadSegment(cpu, SEGMENT.cs, selector, code);
    loadReturnStack(cpu, stackSelector, segment, pointer, pointerHigh);
    if (rpl > cpl) dropInnerSegments(cpu);
  } else {
    checkOffset(cpu, code, rip);
    markAccessed(cpu, code);
    stack.drop(3 * size);
    stack.commit();
    loadSegment(cpu, SEGMENT.cs, selector, code);
  }
  loadFlags(cpu, image, mask);
  setSigned(cpu, RIP, rip);
}

/** IRETD at level 0 with VM set in the flags image. */
function returnToV86(cpu: Cpu, stack: StackView, rip: number, selector: number, image: number): void {
  const pointer = stack.read32(12);
  const ss = stack.read32(16);
  const es = stack.read32(20);
  const ds = stack.read32(24);
  const fs = stack.read32(28);
  const gs = stack.read32(32);
  if (rip > 0xffff) throw gp();
  loadFlags(cpu, image, FLAGS_ALL);
  cpu.setCpl(3);
  cpu.setGpr32(4, pointer);
  loadV86Segment(cpu, SEGMENT.es, es);
  loadV86Segment(cpu, SEGMENT.cs, selector);
  loadV86Segment(cpu, SEGMENT.ss, ss);
  loadV86Segment(cpu, SEGMENT.ds, ds);
  loadV86Segment(cpu, SEGMENT.fs, fs);
  loadV86Segment(cpu, SEGMENT.gs, gs);
  setSigned(cpu, RIP, rip);
}
