/**
 * What two runs of the same program differ in.
 */
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CS,
  DR0,
  FLAGS_SYSTEM,
  FPU,
  GPR,
  RIP,
  SEG,
  SEG_SIZE,
  ST,
  STATE_END,
  XMM,
} from '../../../src-core/x86/layout.ts';
import type { CpuState } from './state.ts';
import type { Outcome, Subject } from './subject.ts';

const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];
/** Differences named at most: one wrong value soon makes everything differ. */
const NAMED_MAX = 24;

/** Name of the 64-bit word of state at an offset. */
function nameOf(offset: number): string {
  if (offset >= GPR && offset < RIP) {
    const index = (offset - GPR) / 8;
    return REGISTERS[index] ?? `r${index}`;
  }
  if (offset >= ST && offset < XMM)
    return `fpu register ${(offset - ST) >> 4}${(offset & 8) !== 0 ? ' (exponent)' : ''}`;
  if (offset >= XMM && offset < XMM + 256)
    return `xmm${(offset - XMM) >> 4}${(offset & 8) !== 0 ? ' (high)' : ''}`;
  if (offset >= SEG && offset < SEG + 8 * SEG_SIZE)
    return `segment ${['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'ldtr', 'tr'][(offset - SEG) >> 5]} +${offset & 31}`;
  const names = new Map<number, string>([
    [RIP, 'rip'],
    [FLAGS_SYSTEM & ~7, 'flags'],
    [CR0, 'cr0'],
    [CR2, 'cr2'],
    [CR3, 'cr3'],
    [CR4, 'cr4'],
    [CS, 'cs'],
    [DR0, 'dr0'],
    [FPU.fcw & ~7, 'fcw, fsw'],
    [FPU.top & ~7, 'x87 top, empty'],
    [FPU.fop & ~7, 'fop, mxcsr'],
    [FPU.fip, 'fip'],
    [FPU.fdp, 'fdp'],
  ]);
  return names.get(offset) ?? `state 0x${offset.toString(16)}`;
}

/** Compares the outcomes and the memory of two subjects that ran the same program; empty when nothing differs. */
export function differences(
  expected: { outcome: Outcome; subject: Subject },
  actual: { outcome: Outcome; subject: Subject },
): string[] {
  const found: string[] = [];
  const differ = (field: string, a: string | number, b: string | number): void => {
    if (a !== b) found.push(`${field}: ${expected.subject.name} ${a}, ${actual.subject.name} ${b}`);
  };
  const [a, b] = [expected.outcome, actual.outcome];
  differ('end', a.end, b.end);
  differ('pending interrupt lines', a.pendingLines, b.pendingLines);
  stateDifferences(a.state, b.state, differ);
  const event = a.events.findIndex((text, index) => text !== b.events[index]);
  if (event >= 0 || a.events.length !== b.events.length) {
    const index = event >= 0 ? event : a.events.length;
    differ(`event ${index}`, a.events[index] ?? '(none)', b.events[index] ?? '(none)');
  }
  if (Buffer.compare(expected.subject.ram, actual.subject.ram) !== 0)
    memoryDifferences(expected, actual, differ);
  return found.length > NAMED_MAX
    ? [...found.slice(0, NAMED_MAX), `and ${found.length - NAMED_MAX} more`]
    : found;
}

/** Tells `differ` of every part of two states; it takes what does not differ, too. */
export function stateDifferences(
  a: CpuState,
  b: CpuState,
  differ: (field: string, a: string | number, b: string | number) => void,
): void {
  differ('instructions', a.instructions, b.instructions);
  differ('rflags', a.rflags.toString(16), b.rflags.toString(16));
  for (const [name, value] of Object.entries(a.control)) differ(name, value, b.control[name] ?? -1);
  if (Buffer.compare(a.registers, b.registers) === 0) return;
  const word = ({ registers }: CpuState, at: number): string =>
    new DataView(registers.buffer).getBigUint64(at - GPR, true).toString(16);
  for (let at = GPR; at < STATE_END; at += 8) differ(nameOf(at), word(a, at), word(b, at));
}

function memoryDifferences(
  { subject: a }: { subject: Subject },
  { subject: b }: { subject: Subject },
  differ: (field: string, a: string, b: string) => void,
): void {
  for (let at = 0; at < a.ram.length; at += 16) {
    const bytes = ({ ram }: Subject): string =>
      Buffer.from(ram.buffer, ram.byteOffset + at, 16).toString('hex');
    differ(`physical 0x${at.toString(16)}`, bytes(a), bytes(b));
  }
}
