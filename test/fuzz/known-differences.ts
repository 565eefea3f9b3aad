/**
 * Where the host's silicon and Switchyard differ and neither is wrong: each entry says what is not compared,
 * for which instructions, and why. What the SDM itself leaves undefined is in undefined.ts.
 */
import { Code, MemorySizeExt, Mnemonic, Register } from 'iced-x86';
import type { Instruction } from 'iced-x86';
import { CASE, CODE_BASE, CODE_SIZE, RESULT, SELECTOR_CODE64, SELECTOR_DATA16 } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import { AMD } from './host.ts';
import { CONDITION } from './undefined.ts';
import type { CaseView, ResultView } from '../oracle/state.ts';

/** Parts of the ending state that may be left out of the comparison. */
export type Part =
  | 'memory'
  | 'cr2'
  | 'fip'
  | 'fdp'
  | 'fop'
  | 'mxcsr'
  | 'x87'
  | 'xmm'
  | 'rflags'
  | 'errorCode'
  | 'registers'
  | 'all';

export interface KnownDifference {
  readonly parts: readonly Part[];
  /** Bits of the x87 status word set aside. */
  readonly statusBits?: number;
  /** Bytes of the memory operand set aside: offset and length. */
  readonly operandBytes?: readonly [number, number];
  readonly reason: string;
  readonly applies: (context: DifferenceContext) => boolean;
}

export interface DifferenceContext {
  /** The decoded instruction; its code is INVALID for bytes that are none. */
  readonly instruction: Instruction;
  readonly state: CaseView;
  /** The host processor's result. */
  readonly expected: ResultView;
  /** Switchyard's. */
  readonly actual: ResultView;
}

/** Far transfers: microcoded, with many memory accesses and checks. */
const FAR = new Set<Mnemonic>([
  Mnemonic.Retf,
  Mnemonic.Iret,
  Mnemonic.Iretd,
  Mnemonic.Iretq,
  Mnemonic.Call,
  Mnemonic.Jmp,
]);

const MEMORY_FAULTS = new Set([12, 13, 14]);
/** And #AC. */
const LOAD_FAULTS = new Set([...MEMORY_FAULTS, 17]);
const STRING_STORES = new Set<Mnemonic>([
  Mnemonic.Stosb,
  Mnemonic.Stosw,
  Mnemonic.Stosd,
  Mnemonic.Stosq,
  Mnemonic.Movsb,
  Mnemonic.Movsw,
  Mnemonic.Movsd,
  Mnemonic.Movsq,
]);

function codeSelector(result: ResultView): number {
  return result.view.getUint16(RESULT.cs, true);
}

/** Far transfers share their mnemonics with near ones. */
function isFar(instruction: Instruction): boolean {
  const { isCallNear, isCallNearIndirect, isJmpShortOrNear, isJmpNearIndirect } = instruction;
  return !(isCallNear || isCallNearIndirect || isJmpShortOrNear || isJmpNearIndirect);
}

function segmentBase({ view }: CaseView, segment: Register): bigint {
  if (segment === Register.FS) return view.getBigUint64(CASE.fsBase, true);
  return segment === Register.GS ? view.getBigUint64(CASE.gsBase, true) : 0n;
}

function isCanonical(address: bigint): boolean {
  return BigInt.asIntN(48, address) === BigInt.asIntN(64, address);
}

/** Whether the instruction itself raised the fault, not the one it led to. */
function faulted(state: CaseView, result: ResultView): boolean {
  return result.vector !== 3 && result.rip === BigInt(state.rip);
}

function hexOf(state: CaseView): string {
  return Buffer.from(state.code).toString('hex');
}

function hasRepeatPrefix(state: CaseView): boolean {
  for (const byte of state.code) {
    if (byte === 0xf2 || byte === 0xf3) return true;
    if (byte >= 0x70 && byte !== 0xf0) return false;
  }
  return false;
}

/** Instructions that store more than one operand: a fault part way may leave the first stores done or not. */
const SEVERAL_STORES = new Set<Mnemonic>([
  Mnemonic.Pusha,
  Mnemonic.Pushad,
  Mnemonic.Enter,
  Mnemonic.Fxsave,
  Mnemonic.Fxsave64,
  Mnemonic.Fnsave,
  Mnemonic.Fnstenv,
]);

const KEEPS_C1 = new Set<Mnemonic>([
  Mnemonic.Fcmovb,
  Mnemonic.Fcmove,
  Mnemonic.Fcmovbe,
  Mnemonic.Fcmovu,
  Mnemonic.Fcmovnb,
  Mnemonic.Fcmovne,
  Mnemonic.Fcmovnbe,
  Mnemonic.Fcmovnu,
  Mnemonic.Fcomi,
  Mnemonic.Fcomip,
  Mnemonic.Fucomi,
  Mnemonic.Fucomip,
]);
const COMPARES = new Set<Mnemonic>([
  Mnemonic.Fcom,
  Mnemonic.Fcomp,
  Mnemonic.Fcompp,
  Mnemonic.Fucom,
  Mnemonic.Fucomp,
  Mnemonic.Fucompp,
  Mnemonic.Ficom,
  Mnemonic.Ficomp,
  Mnemonic.Ftst,
  Mnemonic.Fcomi,
  Mnemonic.Fcomip,
  Mnemonic.Fucomi,
  Mnemonic.Fucomip,
]);
const SEVERAL_ACCESSES = new Set<Mnemonic>([
  Mnemonic.Fldenv,
  Mnemonic.Frstor,
  Mnemonic.Fxrstor,
  Mnemonic.Fxrstor64,
  Mnemonic.Fnstenv,
  Mnemonic.Fnsave,
  Mnemonic.Fxsave,
  Mnemonic.Fxsave64,
]);
/** Those of strings; CMPSD is also the name of an SSE2 instruction. */
const CMPS = new Set<Code>([Code.Cmpsb_m8_m8, Code.Cmpsw_m16_m16, Code.Cmpsd_m32_m32, Code.Cmpsq_m64_m64]);
const LOADS_MXCSR = new Set<Mnemonic>([Mnemonic.Ldmxcsr, Mnemonic.Fxrstor, Mnemonic.Fxrstor64]);
const TRANSCENDENTAL = new Set<Mnemonic>([
  Mnemonic.F2xm1,
  Mnemonic.Fyl2x,
  Mnemonic.Fyl2xp1,
  Mnemonic.Fptan,
  Mnemonic.Fpatan,
  Mnemonic.Fsin,
  Mnemonic.Fcos,
  Mnemonic.Fsincos,
]);

const APPROXIMATIONS = new Set<Mnemonic>([
  Mnemonic.Rcpss,
  Mnemonic.Rcpps,
  Mnemonic.Rsqrtss,
  Mnemonic.Rsqrtps,
]);

/** Whether every x87 register differs by at most one unit in the last place. */
function registersWithinUlp({ expected, actual }: DifferenceContext): boolean {
  for (let index = 0; index < 8; index++) {
    const at = RESULT.fxsave + FX.st + index * 16;
    const magnitude = ({ view }: ResultView): bigint =>
      (BigInt(view.getUint16(at + 8, true) & 0x7fff) << 63n) |
      (view.getBigUint64(at, true) & 0x7fff_ffff_ffff_ffffn);
    const sign = ({ view }: ResultView): number => view.getUint16(at + 8, true) & 0x8000;
    const distance = magnitude(expected) - magnitude(actual);
    if (sign(expected) !== sign(actual) || distance < -1n || distance > 1n) return false;
  }
  return true;
}

/** Whether every single-precision lane is the same, or nearly. */
function lanesClose({ expected, actual }: DifferenceContext): boolean {
  for (let lane = 0; lane < 64; lane++) {
    const at = RESULT.fxsave + FX.xmm + lane * 4;
    if (expected.view.getUint32(at, true) === actual.view.getUint32(at, true)) continue;
    const a = expected.view.getFloat32(at, true);
    const b = actual.view.getFloat32(at, true);
    if (!(Math.abs(a - b) <= Math.abs(a) * 3 * 2 ** -12)) return false;
  }
  return true;
}

/** x87 status word of a result. */
function statusWord(result: ResultView): number {
  return result.view.getUint16(RESULT.fxsave + FX.fsw, true);
}
const ERROR_SUMMARY = 0x80;

export const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    // Where ASLR puts the host process's stack and vDSO, the guest has nothing.
    reason: 'the host process has memory of its own at this address',
    parts: ['all'],
    applies: ({ actual }) =>
      actual.vector === 14 && actual.cr2 >= 0x7f00_0000_0000n && actual.cr2 < 0x8000_0000_0000n,
  },
  {
    parts: ['fip', 'fdp', 'fop'],
    reason:
      'the host saves the x87 exception pointers as 0 while no exception is pending (AMD64 APM vol. 2, 11.4.4)',
    applies: ({ expected }) => (statusWord(expected) & ERROR_SUMMARY) === 0,
  },
  {
    parts: ['memory', 'cr2'],
    reason:
      'several stores and a fault: which of them were done is up to the implementation (SDM vol. 3, 6.5)',
    applies: ({ instruction, expected }) => expected.vector !== 3 && SEVERAL_STORES.has(instruction.mnemonic),
  },
  {
    parts: ['all'],
    reason: 'a far transfer with several reasons to fault: the order of its accesses and checks is its own',
    applies: ({ instruction, state, expected, actual }) =>
      FAR.has(instruction.mnemonic) &&
      isFar(instruction) &&
      faulted(state, expected) &&
      faulted(state, actual) &&
      (expected.vector !== 17 || (instruction.mnemonic === Mnemonic.Retf && instruction.opCount > 0)) &&
      actual.vector !== 17,
  },
  {
    parts: ['registers', 'cr2'],
    reason: 'POPA that faults part way: which registers are loaded by then is up to the implementation',
    applies: ({ instruction, state, expected }) =>
      (instruction.mnemonic === Mnemonic.Popa || instruction.mnemonic === Mnemonic.Popad) &&
      faulted(state, expected),
  },
  {
    parts: ['all'],
    reason: 'AMD: far CALL between 64-bit and other code pushes with the new code size',
    applies: ({ instruction, state, expected }) =>
      AMD &&
      instruction.mnemonic === Mnemonic.Call &&
      isFar(instruction) &&
      (faulted(state, expected) || (codeSelector(expected) === SELECTOR_CODE64) !== (state.bitness === 64)),
  },
  {
    parts: ['memory'],
    reason: 'a far CALL that faults after it pushed',
    applies: ({ instruction, state, expected }) =>
      instruction.mnemonic === Mnemonic.Call && faulted(state, expected),
  },
  {
    parts: ['registers'],
    reason:
      'AMD: CMPXCHG of a 32-bit register that is not equal leaves its upper half; the SDM writes it back',
    applies: ({ instruction }) => AMD && instruction.code === Code.Cmpxchg_rm32_r32,
  },
  {
    parts: ['all'],
    reason: 'REP prefixes are reserved before LOOPcc (SDM vol. 2, 2.1.1); AMD takes them for the condition',
    applies: ({ instruction, state }) =>
      AMD &&
      (instruction.mnemonic === Mnemonic.Loope || instruction.mnemonic === Mnemonic.Loopne) &&
      hasRepeatPrefix(state),
  },
  {
    parts: ['all'],
    reason: 'AMD: UD0 and UD1 raise #UD before the rest of the instruction is fetched',
    applies: ({ instruction, expected, actual }) =>
      AMD &&
      (instruction.mnemonic === Mnemonic.Ud0 || instruction.mnemonic === Mnemonic.Ud1) &&
      expected.vector === 6 &&
      actual.vector === 14,
  },
  {
    parts: ['all'],
    reason: 'AMD: MOVSXD r16 reads 32 bits of memory, Intel 16',
    applies: ({ instruction }) => AMD && instruction.code === Code.Movsxd_r16_rm16,
  },
  {
    parts: ['registers'],
    reason: 'AMD: RETF imm16 with a 16-bit stack carries into the upper half of ESP',
    applies: ({ instruction, state }) =>
      AMD &&
      instruction.mnemonic === Mnemonic.Retf &&
      state.view.getUint16(CASE.ss, true) === SELECTOR_DATA16,
  },
  {
    parts: ['all'],
    reason:
      'an access across the end of a segment of 4 GiB faults or wraps, as the implementation likes (SDM vol. 3, 5.3)',
    applies: ({ state, expected, actual }) =>
      state.bitness !== 64 &&
      (expected.vector === 12 || expected.vector === 13) &&
      actual.vector === 14 &&
      (actual.cr2 === 0n || actual.cr2 >= 0xffff_ff00n),
  },
  {
    parts: ['all'],
    reason: 'AMD: LOCK is ignored before group 6 (0F 00), and makes CR8 of CR0 in MOV (0F 20, 0F 22)',
    applies: ({ instruction, state }) =>
      AMD && instruction.code === Code.INVALID && /f0.*0f(00|20|22)/.test(hexOf(state)),
  },
  {
    parts: [],
    statusBits: CONDITION.C1,
    reason: 'AMD: FCMOVcc and FCOMI leave C1 alone',
    applies: ({ instruction }) => AMD && KEEPS_C1.has(instruction.mnemonic),
  },
  {
    parts: ['rflags'],
    statusBits: CONDITION.C0 | CONDITION.C1 | CONDITION.C2 | CONDITION.C3,
    reason: 'AMD: x87 comparisons give their result even when they raise an unmasked exception',
    applies: ({ instruction, expected }) =>
      AMD && COMPARES.has(instruction.mnemonic) && (statusWord(expected) & ERROR_SUMMARY) !== 0,
  },
  {
    parts: ['cr2'],
    reason: 'many loads or stores and a page fault: which is made first is up to the implementation',
    applies: ({ instruction, state, expected }) =>
      SEVERAL_ACCESSES.has(instruction.mnemonic) && faulted(state, expected),
  },
  {
    parts: ['cr2', 'errorCode'],
    reason: 'CMPS: which of its two loads is made first is up to the implementation (Zen 4: that at rDI)',
    applies: ({ instruction, expected, actual }) =>
      CMPS.has(instruction.code) && expected.vector === 14 && actual.vector === 14,
  },
  {
    parts: ['all'],
    reason: 'CMPS whose two loads fault differently: which is made first is up to the implementation',
    applies: ({ instruction, state, expected, actual }) =>
      CMPS.has(instruction.code) &&
      faulted(state, expected) &&
      faulted(state, actual) &&
      expected.vector !== actual.vector &&
      LOAD_FAULTS.has(expected.vector) &&
      LOAD_FAULTS.has(actual.vector),
  },
  {
    parts: [],
    operandBytes: [28, 4],
    reason: 'FXSAVE stores the host’s MXCSR_MASK, which may name more bits',
    applies: ({ instruction }) =>
      instruction.mnemonic === Mnemonic.Fxsave || instruction.mnemonic === Mnemonic.Fxsave64,
  },
  {
    parts: ['fip', 'fdp'],
    reason: 'FXRSTOR makes the x87 pointers canonical on this host',
    applies: ({ instruction }) => instruction.mnemonic === Mnemonic.Fxrstor64,
  },
  {
    parts: [],
    statusBits: CONDITION.C1,
    reason: 'x87 transcendental functions: whether the last bit was rounded up is not defined exactly',
    applies: ({ instruction }) => TRANSCENDENTAL.has(instruction.mnemonic),
  },
  {
    parts: ['x87'],
    reason: 'x87 transcendental functions: the last bit (no processor rounds all of them correctly)',
    applies: (context) => TRANSCENDENTAL.has(context.instruction.mnemonic) && registersWithinUlp(context),
  },
  {
    parts: ['xmm'],
    reason: 'RCP and RSQRT are approximations: both within 1.5 * 2^-12 of the exact value (SDM vol. 2)',
    applies: (context) => APPROXIMATIONS.has(context.instruction.mnemonic) && lanesClose(context),
  },
  {
    parts: ['all'],
    reason: 'an undefined opcode at the end of a page: #UD, or a page fault for the bytes it would have had',
    applies: ({ instruction, expected, actual }) =>
      instruction.code === Code.INVALID &&
      ((expected.vector === 6 && actual.vector === 14) || (expected.vector === 14 && actual.vector === 6)) &&
      (expected.vector === 14 ? expected : actual).cr2 === BigInt(CODE_BASE + CODE_SIZE),
  },
  {
    parts: ['all'],
    reason: 'an undefined opcode with more than 15 bytes: #UD, or #GP for the length it would have had',
    applies: ({ instruction, state, expected, actual }) =>
      instruction.code === Code.INVALID &&
      expected.vector === 13 &&
      actual.vector === 6 &&
      state.code.length >= 15,
  },
  {
    parts: ['all'],
    reason: 'many loads or stores, the first beyond a limit and another not present (or the other way round)',
    applies: ({ instruction, state, expected, actual }) =>
      (SEVERAL_ACCESSES.has(instruction.mnemonic) || MemorySizeExt.size(instruction.memorySize) === 10) &&
      faulted(state, expected) &&
      faulted(state, actual) &&
      MEMORY_FAULTS.has(expected.vector) &&
      MEMORY_FAULTS.has(actual.vector),
  },
  {
    parts: ['all'],
    reason: 'a misaligned 16-byte operand beyond the limit of SS: #GP or #SS',
    applies: ({ instruction, state, expected, actual }) =>
      state.bitness !== 64 &&
      MemorySizeExt.size(instruction.memorySize) === 16 &&
      expected.vector === 13 &&
      actual.vector === 12,
  },
  {
    parts: ['all'],
    reason: 'REP MOVS and STOS over their own bytes: how many iterations run before the change is seen',
    applies: ({ instruction, state }) =>
      STRING_STORES.has(instruction.mnemonic) &&
      (instruction.hasRepPrefix || instruction.hasRepnePrefix) &&
      (state.gpr(7) & 0xffff_f000n) === BigInt(CODE_BASE),
  },
  {
    parts: ['all'],
    reason: 'AMD: MXCSR has a bit 17 (misaligned SSE), reserved elsewhere',
    applies: ({ instruction, expected, actual }) =>
      AMD && LOADS_MXCSR.has(instruction.mnemonic) && expected.vector !== 13 && actual.vector === 13,
  },
  {
    parts: ['all'],
    reason: 'AMD: a near CALL pushes before it looks at its target',
    applies: ({ instruction, state, expected, actual }) =>
      AMD &&
      instruction.mnemonic === Mnemonic.Call &&
      !isFar(instruction) &&
      faulted(state, expected) &&
      expected.vector !== 13 &&
      actual.vector === 13,
  },
  {
    parts: ['all'],
    reason:
      'AMD: a non-canonical offset from FS or GS faults even where the base makes a canonical address of it',
    applies: ({ instruction, state, expected, actual }) =>
      AMD &&
      state.bitness === 64 &&
      expected.vector === 13 &&
      actual.vector === 14 &&
      !isCanonical(actual.cr2 - segmentBase(state, instruction.memorySegment)),
  },
];
