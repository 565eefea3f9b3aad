/**
 * What the Intel SDM (volume 2, "Flags Affected" and "FPU Flags Affected" of each instruction) leaves undefined.
 * These bits are not compared; nothing else is left out here.
 */
import { MemorySizeExt, Mnemonic, OpKind, Register } from 'iced-x86';
import type { Instruction } from 'iced-x86';
import { CASE } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import type { CaseView } from '../oracle/state.ts';

export const FLAG = { CF: 0x1, PF: 0x4, AF: 0x10, ZF: 0x40, SF: 0x80, OF: 0x800 } as const;
const { CF, PF, AF, ZF, SF, OF } = FLAG;

/** x87 condition codes in the status word. */
export const CONDITION = { C0: 0x100, C1: 0x200, C2: 0x400, C3: 0x4000 } as const;
const { C0, C1, C2, C3 } = CONDITION;

const FIXED: ReadonlyMap<Mnemonic, number> = new Map<Mnemonic, number>([
  [Mnemonic.Aaa, OF | SF | ZF | PF],
  [Mnemonic.Aas, OF | SF | ZF | PF],
  [Mnemonic.Aad, OF | AF | CF],
  [Mnemonic.Aam, OF | AF | CF],
  [Mnemonic.Daa, OF],
  [Mnemonic.Das, OF],
  [Mnemonic.And, AF],
  [Mnemonic.Or, AF],
  [Mnemonic.Xor, AF],
  [Mnemonic.Test, AF],
  [Mnemonic.Mul, SF | ZF | AF | PF],
  [Mnemonic.Imul, SF | ZF | AF | PF],
  [Mnemonic.Div, CF | OF | SF | ZF | AF | PF],
  [Mnemonic.Idiv, CF | OF | SF | ZF | AF | PF],
  [Mnemonic.Bsf, CF | OF | SF | AF | PF],
  [Mnemonic.Bsr, CF | OF | SF | AF | PF],
  [Mnemonic.Bt, OF | SF | AF | PF],
  [Mnemonic.Bts, OF | SF | AF | PF],
  [Mnemonic.Btr, OF | SF | AF | PF],
  [Mnemonic.Btc, OF | SF | AF | PF],
]);

const SHIFTS = new Set<Mnemonic>([Mnemonic.Shl, Mnemonic.Sal, Mnemonic.Shr, Mnemonic.Sar]);
const ROTATES = new Set<Mnemonic>([Mnemonic.Rol, Mnemonic.Ror, Mnemonic.Rcl, Mnemonic.Rcr]);
const DOUBLE_SHIFTS = new Set<Mnemonic>([Mnemonic.Shld, Mnemonic.Shrd]);

/** Operand size in bits of a shift's or rotate's destination. */
function destinationBits(instruction: Instruction): number {
  if (instruction.op0Kind === OpKind.Register) {
    const register = instruction.op0Register;
    if (register >= Register.RAX && register <= Register.R15) return 64;
    if (register >= Register.EAX && register <= Register.R15D) return 32;
    return register >= Register.AX && register <= Register.R15W ? 16 : 8;
  }
  return MemorySizeExt.size(instruction.memorySize) * 8;
}

/** Shift count after masking (Intel SDM vol. 2: 5 bits, 6 with 64-bit operands). */
function shiftCount(instruction: Instruction, state: CaseView, bits: number): number {
  const last = instruction.opCount - 1;
  const raw =
    instruction.opKind(last) === OpKind.Register
      ? Number(state.gpr(1) & 0xffn)
      : Number(instruction.immediate(last)) & 0xff;
  return raw & (bits === 64 ? 63 : 31);
}

/** RFLAGS bits undefined after an instruction that ended without a fault. */
export function undefinedFlags(instruction: Instruction, state: CaseView): number {
  const { mnemonic } = instruction;
  const fixed = FIXED.get(mnemonic);
  if (fixed !== undefined) return fixed;
  if (SHIFTS.has(mnemonic) || ROTATES.has(mnemonic) || DOUBLE_SHIFTS.has(mnemonic)) {
    const bits = destinationBits(instruction);
    const count = shiftCount(instruction, state, bits);
    if (count === 0) return 0;
    if (ROTATES.has(mnemonic)) return count === 1 ? 0 : OF;
    const overflow = count === 1 ? 0 : OF;
    if (DOUBLE_SHIFTS.has(mnemonic)) return count > bits ? CF | OF | SF | ZF | AF | PF : AF | overflow;
    return AF | overflow | (count >= bits && mnemonic !== Mnemonic.Sar ? CF : 0);
  }
  return 0;
}

/** Bits of the destination register that are undefined: LAR's "x" in the mask 00Fx_FF00H. */
export function undefinedBits(mnemonic: Mnemonic): bigint {
  return mnemonic === Mnemonic.Lar ? 0xf_0000n : 0n;
}

/**
 * Whether the x87 result is undefined: F2XM1 of a number beyond -1 and 1, FYL2XP1 of one beyond 1 - sqrt(2)/2 and
 * sqrt(2) - 1.
 */
export function undefinedX87(mnemonic: Mnemonic, state: CaseView): boolean {
  if (mnemonic !== Mnemonic.F2xm1 && mnemonic !== Mnemonic.Fyl2xp1) return false;
  const at = CASE.fxsave + FX.st;
  const word = state.view.getUint16(at + 8, true);
  const exponent = (word & 0x7fff) - 0x3fff;
  if (exponent === 0x4000) return false;
  const magnitude = Number(state.view.getBigUint64(at, true)) * 2 ** (Math.max(-1000, exponent) - 63);
  if (mnemonic === Mnemonic.F2xm1) return magnitude > 1;
  return magnitude > ((word & 0x8000) !== 0 ? 1 - Math.SQRT1_2 : Math.SQRT2 - 1);
}

/** Whether the destination itself is undefined. */
export function undefinedDestination(instruction: Instruction, state: CaseView): boolean {
  const { mnemonic } = instruction;
  if (DOUBLE_SHIFTS.has(mnemonic)) {
    const bits = destinationBits(instruction);
    return shiftCount(instruction, state, bits) > bits;
  }
  // BSWAP of a 16-bit register.
  return (
    mnemonic === Mnemonic.Bswap &&
    instruction.op0Register >= Register.AX &&
    instruction.op0Register <= Register.R15W
  );
}

/** x87 instructions that define all four condition codes (vol. 1, table 8-1, and vol. 2). */
const DEFINES_ALL = new Set<Mnemonic>([
  Mnemonic.Fxam,
  Mnemonic.Fcom,
  Mnemonic.Fcomp,
  Mnemonic.Fcompp,
  Mnemonic.Fucom,
  Mnemonic.Fucomp,
  Mnemonic.Fucompp,
  Mnemonic.Ftst,
  Mnemonic.Ficom,
  Mnemonic.Ficomp,
  Mnemonic.Fprem,
  Mnemonic.Fprem1,
  Mnemonic.Fninit,
  Mnemonic.Fldenv,
  Mnemonic.Frstor,
  Mnemonic.Fxrstor,
  Mnemonic.Fxrstor64,
  Mnemonic.Fxsave,
  Mnemonic.Fxsave64,
  Mnemonic.Fnop,
]);
/** C2 says whether the argument was in range. */
const DEFINES_C2 = new Set<Mnemonic>([Mnemonic.Fsin, Mnemonic.Fcos, Mnemonic.Fsincos, Mnemonic.Fptan]);
/** C0 to C3 all undefined. */
const DEFINES_NONE = new Set<Mnemonic>([
  Mnemonic.Fldcw,
  Mnemonic.Fnstcw,
  Mnemonic.Fnstsw,
  Mnemonic.Fnstenv,
  Mnemonic.Fnclex,
  Mnemonic.Ffree,
]);

/** x87 status word bits undefined after an instruction; `isX87` says whether it is one at all. */
export function undefinedConditions(mnemonic: Mnemonic, isX87: boolean): number {
  if (!isX87 || DEFINES_ALL.has(mnemonic)) return 0;
  if (DEFINES_NONE.has(mnemonic)) return C0 | C1 | C2 | C3;
  if (DEFINES_C2.has(mnemonic)) return C0 | C3;
  return C0 | C2 | C3;
}
