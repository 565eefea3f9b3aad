/**
 * Compares the ending state on the host processor with Switchyard's, leaving out what the SDM calls undefined
 * and the known differences.
 */
import { Code, Decoder, DecoderOptions, OpKind, Register } from 'iced-x86';
import type { Instruction } from 'iced-x86';
import { CASE, DATA_BASE, DATA_SIZE, RESULT, SELECTOR_CODE64 } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import type { CaseView, ResultView } from '../oracle/state.ts';
import { segmentOf } from './guest.ts';
import { HOST_FLAGS } from './host.ts';
import { KNOWN_DIFFERENCES } from './known-differences.ts';
import type { Part } from './known-differences.ts';
import {
  undefinedBits,
  undefinedConditions,
  undefinedDestination,
  undefinedFlags,
  undefinedX87,
} from './undefined.ts';

/** One differing part of the state. */
export interface Difference {
  readonly field: string;
  readonly part: Part;
  readonly expected: string;
  readonly actual: string;
}

const GPR_NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];
/** CF PF AF ZF SF TF IF DF OF IOPL NT AC ID: all of RFLAGS but RF, which only says how the state was saved. */
const COMPARED_FLAGS = 0x24_7fd5;
const SEGMENTS: readonly (readonly [string, number])[] = [
  ['cs', RESULT.cs],
  ['ss', RESULT.ss],
  ['ds', RESULT.ds],
  ['es', RESULT.es],
  ['fs', RESULT.fs],
  ['gs', RESULT.gs],
];
const PUSHES_ERROR_CODE = new Set([10, 11, 12, 13, 14, 17]);
const VECTOR_NAMES = [
  '#DE',
  '#DB',
  'NMI',
  'end',
  '#OF',
  '#BR',
  '#UD',
  '#NM',
  '#DF',
  '9',
  '#TS',
  '#NP',
  '#SS',
  '#GP',
  '#PF',
  '15',
  '#MF',
  '#AC',
  '18',
  '#XM',
];

function hex(value: number | bigint, digits = 0): string {
  return value.toString(16).padStart(digits, '0');
}

function hexBytes(bytes: Uint8Array): string {
  // Most significant byte first, as a number is written.
  return Buffer.from(bytes).reverse().toString('hex');
}

function gprName(index: number): string {
  return GPR_NAMES[index] ?? `r${index}`;
}

/** Every difference, defined or not. An empty list is the common case and found fast. */
function rawDifferences(state: CaseView, expected: ResultView, actual: ResultView): Difference[] {
  const out: Difference[] = [];
  const add = (field: string, part: Part, a: string, b: string): void => {
    out.push({ field, part, expected: a, actual: b });
  };
  if (expected.vector !== actual.vector) {
    const name = (result: ResultView): string => {
      const vector = VECTOR_NAMES[result.vector] ?? String(result.vector);
      return PUSHES_ERROR_CODE.has(result.vector) ? `${vector}(${hex(result.errorCode)})` : vector;
    };
    add('vector', 'all', name(expected), name(actual));
    return out;
  }
  if (PUSHES_ERROR_CODE.has(expected.vector) && normalErrorCode(expected) !== normalErrorCode(actual))
    add('error code', 'errorCode', hex(expected.errorCode), hex(actual.errorCode));
  if (expected.vector === 14 && expected.cr2 !== actual.cr2)
    add('cr2', 'cr2', hex(expected.cr2), hex(actual.cr2));
  if (expected.rip !== actual.rip) add('rip', 'all', hex(expected.rip), hex(actual.rip));
  if (((expected.rflags ^ actual.rflags) & COMPARED_FLAGS) !== 0)
    add('rflags', 'rflags', hex(expected.rflags & COMPARED_FLAGS), hex(actual.rflags & COMPARED_FLAGS));
  // Leaving 64-bit code, the upper halves are undefined (SDM vol. 1, 3.4.1.1).
  const wide = state.bitness === 64 && expected.view.getUint16(RESULT.cs, true) === SELECTOR_CODE64;
  for (let index = 0; index < (state.bitness === 64 ? 16 : 8); index++) {
    const mask = wide ? 0xffff_ffff_ffff_ffffn : 0xffff_ffffn;
    const a = expected.gpr(index) & mask;
    const b = actual.gpr(index) & mask;
    if (a !== b) add(gprName(index), 'registers', hex(a, wide ? 16 : 8), hex(b, wide ? 16 : 8));
  }
  for (const [name, offset] of SEGMENTS) {
    const a = selectorOf(expected, offset);
    const b = selectorOf(actual, offset);
    if (a !== b) add(name, 'registers', hex(a), hex(b));
  }
  if (HOST_FLAGS.has('fsgsbase')) {
    for (const [name, offset] of [
      ['fs base', RESULT.fsBase],
      ['gs base', RESULT.gsBase],
    ] as const) {
      const a = expected.view.getBigUint64(offset, true);
      const b = actual.view.getBigUint64(offset, true);
      if (a !== b) add(name, 'registers', hex(a), hex(b));
    }
  }
  compareFx(expected.fx, actual.fx, add);
  compareMemory(expected, actual, add);
  return out;
}

/** A selector; null ones lose their RPL when the host's kernel returns to the process (SDM vol. 2, IRET). */
function selectorOf(result: ResultView, offset: number): number {
  const selector = result.view.getUint16(offset, true);
  return (selector & ~3) === 0 ? 0 : selector;
}

/** Error codes of page faults in the kernel's half: the host's kernel is mapped there, a guest's may not be. */
function normalErrorCode(result: ResultView): number {
  // Linux's TASK_SIZE_MAX: the last user page counts as the kernel's.
  const kernelHalf = result.vector === 14 && result.cr2 >= 0x7fff_ffff_f000n;
  return kernelHalf ? result.errorCode | 1 : result.errorCode;
}

function compareFx(
  a: Uint8Array,
  b: Uint8Array,
  add: (field: string, part: Part, a: string, b: string) => void,
): void {
  const field = (name: string, part: Part, at: number, length: number): void => {
    for (let index = at; index < at + length; index++)
      if (a[index] !== b[index]) {
        add(name, part, hexBytes(a.subarray(at, at + length)), hexBytes(b.subarray(at, at + length)));
        return;
      }
  };
  field('fcw', 'x87', FX.fcw, 2);
  field('fsw', 'x87', FX.fsw, 2);
  field('ftw', 'x87', FX.ftw, 1);
  field('fop', 'fop', FX.fop, 2);
  field('fip', 'fip', FX.fip, 8);
  field('fdp', 'fdp', FX.fdp, 8);
  field('mxcsr', 'mxcsr', FX.mxcsr, 4);
  for (let index = 0; index < 8; index++) field(`st${index}`, 'x87', FX.st + index * 16, 10);
  for (let index = 0; index < 16; index++) field(`xmm${index}`, 'xmm', FX.xmm + index * 16, 16);
}

function compareMemory(
  expected: ResultView,
  actual: ResultView,
  add: (field: string, part: Part, a: string, b: string) => void,
): void {
  const same =
    expected.dirtyStart === actual.dirtyStart &&
    expected.dirtyEnd === actual.dirtyEnd &&
    Buffer.compare(expected.memory, actual.memory) === 0;
  if (same) return;
  const at = (result: ResultView, offset: number): string =>
    offset >= result.dirtyStart && offset < result.dirtyEnd
      ? hexBytes(result.memory.subarray(offset - result.dirtyStart, offset - result.dirtyStart + 16))
      : 'unchanged';
  let reported = 0;
  for (let offset = 0; offset < DATA_SIZE; offset += 16) {
    const a = at(expected, offset);
    const b = at(actual, offset);
    if (a === b) continue;
    add(`data+${hex(offset)}`, 'memory', a, b);
    if (++reported === 4) return;
  }
}

/** Decodes a case's instruction; the caller frees it. */
export function decodeCase(state: CaseView): Instruction {
  const decoder = new Decoder(
    state.bitness,
    state.bytes.slice(CASE.code, CASE.code + 32),
    DecoderOptions.None,
  );
  try {
    decoder.ip = BigInt(state.rip);
    return decoder.decode();
  } finally {
    decoder.free();
  }
}

/** Whether an opcode byte D8 to DF follows the prefixes. */
function isX87(state: CaseView): boolean {
  for (const byte of state.code) {
    if (byte >= 0xd8 && byte <= 0xdf) return true;
    if (byte < 0x26 || (byte & 0xf0) === 0x50) return false;
  }
  return false;
}

function differsOnlyIn(difference: Difference, mask: number): boolean {
  const changed = Number.parseInt(difference.expected, 16) ^ Number.parseInt(difference.actual, 16);
  return (changed & ~mask) === 0;
}

function sameBut(difference: Difference, mask: bigint): boolean {
  const changed = BigInt(`0x${difference.expected}`) ^ BigInt(`0x${difference.actual}`);
  return (changed & ~mask) === 0n;
}

/** Whether a differing block of memory differs in bytes [start, start + length) of the data window alone. */
function differsOnlyAt({ field, expected, actual }: Difference, start: number, length: number): boolean {
  const block = Number.parseInt(field.slice('data+'.length), 16);
  const a = Buffer.from(expected, 'hex').reverse();
  const b = Buffer.from(actual, 'hex').reverse();
  if (a.length !== 16 || b.length !== 16) return false;
  return a.every(
    (byte, index) => byte === b[index] || (block + index >= start && block + index < start + length),
  );
}

/** Where the instruction's memory operand is in the data window, -1 when it has none. */
function operandOffset(instruction: Instruction, state: CaseView): number {
  const { memoryBase: base, memoryIndex: index, memorySegment: segment } = instruction;
  let hasMemory = false;
  for (let operand = 0; operand < instruction.opCount; operand++)
    if (instruction.opKind(operand) === OpKind.Memory) hasMemory = true;
  if (!hasMemory) return -1;
  let offset = instruction.memoryDisplacement;
  let bits = instruction.memoryDisplSize === 2 ? 16 : state.bitness === 64 ? 64 : 32;
  if (base !== Register.RIP && base !== Register.EIP) {
    const sized = base !== Register.None ? base : index;
    if (sized >= Register.RAX && sized <= Register.R15) bits = 64;
    else if (sized >= Register.EAX && sized <= Register.R15D) bits = 32;
    else if (sized >= Register.AX && sized <= Register.R15W) bits = 16;
    offset += registerValue(state, base) + registerValue(state, index) * BigInt(instruction.memoryIndexScale);
  }
  const linear = BigInt.asUintN(bits, offset) + registerValue(state, segment);
  return Number(
    BigInt.asIntN(53, BigInt.asUintN(state.bitness === 64 ? 64 : 32, linear) - BigInt(DATA_BASE)),
  );
}

/** A register's value for address calculation; of a segment register its base. */
function registerValue(state: CaseView, register: Register): bigint {
  if (register >= Register.RAX && register <= Register.R15) return state.gpr(register - Register.RAX);
  if (register >= Register.EAX && register <= Register.R15D)
    return state.gpr(register - Register.EAX) & 0xffff_ffffn;
  if (register >= Register.AX && register <= Register.R15W)
    return state.gpr(register - Register.AX) & 0xffffn;
  if (state.bitness === 64) {
    if (register === Register.FS) return state.view.getBigUint64(CASE.fsBase, true);
    return register === Register.GS ? state.view.getBigUint64(CASE.gsBase, true) : 0n;
  }
  const fields = new Map([
    [Register.ES, CASE.es],
    [Register.CS, CASE.entry + 4],
    [Register.SS, CASE.ss],
    [Register.DS, CASE.ds],
    [Register.FS, CASE.fs],
    [Register.GS, CASE.gs],
  ]);
  const field = fields.get(register);
  return field === undefined ? 0n : segmentOf(state.view.getUint16(field, true)).base;
}

/** What a comparison found: real differences, and how many were set aside by which reason. */
export interface Verdict {
  readonly differences: readonly Difference[];
  /** Reasons of the known differences that applied. */
  readonly setAside: readonly string[];
}

const EQUAL: Verdict = { differences: [], setAside: [] };
export const UNDEFINED_BY_SDM = 'undefined by the SDM';

/** Compares two results of the same case. */
export function compare(state: CaseView, expected: ResultView, actual: ResultView): Verdict {
  let differences = rawDifferences(state, expected, actual);
  if (differences.length === 0) return EQUAL;
  const setAside: string[] = [];
  const instruction = decodeCase(state);
  try {
    const keep = (reason: string, predicate: (difference: Difference) => boolean): void => {
      const kept = differences.filter(predicate);
      if (kept.length !== differences.length) setAside.push(reason);
      differences = kept;
    };
    // A fault at another address is the next instruction's.
    const completed = expected.vector === 3 || expected.rip !== BigInt(state.rip);
    if (instruction.code !== Code.INVALID && completed) {
      const flags = undefinedFlags(instruction, state);
      const conditions = undefinedConditions(instruction.mnemonic, isX87(state));
      const unsettled = undefinedX87(instruction.mnemonic, state);
      const bits = undefinedBits(instruction.mnemonic);
      keep(UNDEFINED_BY_SDM, (difference) => {
        if (difference.part === 'x87' && unsettled) return false;
        if (difference.field === 'rflags') return !differsOnlyIn(difference, flags);
        if (difference.part === 'registers' && bits !== 0n) return !sameBut(difference, bits);
        if (difference.field === 'fsw') return !differsOnlyIn(difference, conditions);
        return !(
          undefinedDestination(instruction, state) &&
          (difference.part === 'registers' || difference.part === 'memory')
        );
      });
    }
    for (const known of KNOWN_DIFFERENCES) {
      if (differences.length === 0) break;
      if (!known.applies({ instruction, state, expected, actual })) continue;
      const at = known.operandBytes === undefined ? -1 : operandOffset(instruction, state);
      keep(known.reason, (difference) => {
        if (known.parts.includes('all') || known.parts.includes(difference.part)) return false;
        if (known.statusBits !== undefined && difference.field === 'fsw')
          return !differsOnlyIn(difference, known.statusBits);
        if (known.operandBytes === undefined || difference.part !== 'memory' || at < 0) return true;
        const [start, length] = known.operandBytes;
        return !differsOnlyAt(difference, at + start, length);
      });
    }
    return { differences, setAside };
  } finally {
    instruction.free();
  }
}
