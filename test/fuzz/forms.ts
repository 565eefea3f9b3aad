/**
 * Every instruction form to fuzz, as a template its bytes can be made from: taken from iced-x86's opcode table,
 * so that nothing is listed by hand and nothing can be forgotten.
 */
import {
  Code,
  CodeExt,
  MandatoryPrefix,
  MemorySize,
  MemorySizeExt,
  Mnemonic,
  OpCodeOperandKind as Kind,
  OpCodeTableKind,
} from 'iced-x86';
import type { OpCodeInfo } from 'iced-x86';
import type { Bitness } from '../oracle/state.ts';
import { exclusion } from './scope.ts';
import type { ValueClass } from './values.ts';

export type RmKind = 'register' | 'memory' | 'either';

/** How to write one form's bytes. */
export interface Form {
  readonly code: Code;
  /** Name of the code in iced-x86, for reports. */
  readonly name: string;
  readonly mnemonic: string;
  readonly bitness: Bitness;
  /** Mandatory prefix byte or 0. */
  readonly mandatory: number;
  readonly operandSizePrefix: boolean;
  readonly addressSizePrefix: boolean;
  /** REX.W needed. */
  readonly rexW: boolean;
  readonly opcode: readonly number[];
  /** Low three bits of the last opcode byte name a register. */
  readonly opcodeRegister: boolean;
  readonly modrm: boolean;
  /** Value of ModRM.reg, or -1 when it names a register. */
  readonly regFixed: number;
  /** Values of ModRM.reg that exist, when it names a register. */
  readonly regCount: number;
  readonly rmFixed: number;
  readonly rm: RmKind;
  /** Sizes of the immediates in bytes, in order. */
  readonly immediates: readonly number[];
  /** Absolute address (MOV moffs). */
  readonly moffs: boolean;
  /** Size in bytes of a relative branch's displacement, 0 for none. */
  readonly relative: number;
  /** Bytes of the memory operand, 0 when it has no fixed size. */
  readonly memoryBytes: number;
  readonly valueClass: ValueClass;
  /** Reads [rSI], or reads or writes [rDI]. */
  readonly stringSource: boolean;
  readonly stringDestination: boolean;
  readonly xlat: boolean;
  readonly canRep: boolean;
  readonly canRepne: boolean;
  readonly canLock: boolean;
  /** Operand size in bits, 0 where the form has none. */
  readonly operandBits: number;
  /** Operand kinds as iced-x86 names them. */
  readonly operands: readonly Kind[];
  readonly isX87: boolean;
  readonly isVector: boolean;
}

const REGISTER_FIELD = new Set<Kind>([
  Kind.r8_reg,
  Kind.r16_reg,
  Kind.r32_reg,
  Kind.r64_reg,
  Kind.seg_reg,
  Kind.mm_reg,
  Kind.xmm_reg,
  Kind.cr_reg,
  Kind.dr_reg,
  Kind.tr_reg,
]);
const RM_EITHER = new Set<Kind>([
  Kind.r8_or_mem,
  Kind.r16_or_mem,
  Kind.r32_or_mem,
  Kind.r64_or_mem,
  Kind.mm_or_mem,
  Kind.xmm_or_mem,
]);
const RM_REGISTER = new Set<Kind>([Kind.r16_rm, Kind.r32_rm, Kind.r64_rm, Kind.mm_rm, Kind.xmm_rm]);
const OPCODE_REGISTER = new Set<Kind>([
  Kind.r8_opcode,
  Kind.r16_opcode,
  Kind.r32_opcode,
  Kind.r64_opcode,
  Kind.sti_opcode,
]);
const IMMEDIATE = new Map<Kind, number>([
  [Kind.imm8, 1],
  [Kind.imm8sex16, 1],
  [Kind.imm8sex32, 1],
  [Kind.imm8sex64, 1],
  [Kind.imm16, 2],
  [Kind.imm32, 4],
  [Kind.imm32sex64, 4],
  [Kind.imm64, 8],
]);
const RELATIVE = new Map<Kind, number>([
  [Kind.br16_1, 1],
  [Kind.br32_1, 1],
  [Kind.br64_1, 1],
  [Kind.br16_2, 2],
  [Kind.br32_4, 4],
  [Kind.br64_4, 4],
]);
/** Operand kinds that add no bytes. */
const IMPLIED = new Set<Kind>([
  Kind.al,
  Kind.cl,
  Kind.ax,
  Kind.dx,
  Kind.eax,
  Kind.rax,
  Kind.st0,
  Kind.es,
  Kind.cs,
  Kind.ss,
  Kind.ds,
  Kind.fs,
  Kind.gs,
  Kind.imm8_const_1,
  Kind.seg_rSI,
  Kind.es_rDI,
  Kind.seg_rDI,
  Kind.seg_rBX_al,
]);
const FLOAT_CLASS = new Map<MemorySize, ValueClass>([
  [MemorySize.Float32, 'float32'],
  [MemorySize.Float64, 'float64'],
  [MemorySize.Float80, 'float80'],
  [MemorySize.Packed64_Float32, 'float32'],
  [MemorySize.Packed128_Float32, 'float32'],
  [MemorySize.Packed128_Float64, 'float64'],
  [MemorySize.Bcd, 'bcd'],
]);

function available(info: OpCodeInfo, bitness: Bitness): boolean {
  // AMD alone knows 16-bit near branches in 64-bit code.
  if (bitness === 64) return info.mode64 && info.intelDecoder64;
  return bitness === 32 ? info.mode32 : info.mode16;
}

function enumName(values: object, value: number): string {
  return String((values as Record<number, string>)[value] ?? value);
}

function opcodeBytes(info: OpCodeInfo): number[] {
  const bytes: number[] = [];
  if (info.table !== OpCodeTableKind.Normal) bytes.push(0x0f);
  if (info.table === OpCodeTableKind.T0F38) bytes.push(0x38);
  if (info.table === OpCodeTableKind.T0F3A) bytes.push(0x3a);
  if (info.opCodeLength === 2) bytes.push(info.opCode >>> 8);
  bytes.push(info.opCode & 0xff);
  return bytes;
}

function valueClassOf(info: OpCodeInfo, isVector: boolean): ValueClass {
  const byMemory = FLOAT_CLASS.get(info.memorySize);
  if (byMemory !== undefined) return byMemory;
  return isVector && info.mnemonic !== Mnemonic.Cvtpi2ps ? 'bytes' : 'integer';
}

/** The template of a code, or a reason why it can't be made. */
function makeForm(code: Code, bitness: Bitness, info: OpCodeInfo): Form | string {
  const operands: Kind[] = [];
  for (let index = 0; index < info.opCount; index++) operands.push(info.opKind(index));
  let modrm = info.isGroup || info.isRmGroup;
  let regNamed = false;
  let regCount = 8;
  let rm: RmKind = 'register';
  let opcodeRegister = false;
  let moffs = false;
  let relative = 0;
  const immediates: number[] = [];
  for (const kind of operands) {
    if (REGISTER_FIELD.has(kind)) {
      modrm = regNamed = true;
      if (kind === Kind.seg_reg) regCount = 6;
    } else if (RM_EITHER.has(kind)) {
      modrm = true;
      rm = 'either';
    } else if (kind === Kind.mem) {
      modrm = true;
      rm = 'memory';
    } else if (RM_REGISTER.has(kind)) modrm = true;
    else if (OPCODE_REGISTER.has(kind)) opcodeRegister = true;
    else if (kind === Kind.mem_offs) moffs = true;
    else if (kind === Kind.farbr2_2) immediates.push(2, 2);
    else if (kind === Kind.farbr4_2) immediates.push(4, 2);
    else if (IMMEDIATE.has(kind)) immediates.push(IMMEDIATE.get(kind) ?? 0);
    else if (RELATIVE.has(kind)) relative = RELATIVE.get(kind) ?? 0;
    else if (!IMPLIED.has(kind)) return `operand kind ${enumName(Kind, kind)}`;
  }
  const isVector = operands.some((kind) =>
    [Kind.xmm_reg, Kind.xmm_or_mem, Kind.xmm_rm, Kind.mm_reg, Kind.mm_or_mem, Kind.mm_rm].includes(kind),
  );
  const prefix = info.mandatoryPrefix;
  const size = info.operandSize;
  const defaultSize = bitness === 16 ? 16 : 32;
  const rexW =
    bitness === 64 && (info.W === 1 || (size === 64 && !info.defaultOpSize64 && !info.forceOpSize64));
  const mnemonic = enumName(Mnemonic, info.mnemonic);
  const first = info.opCode >>> (info.opCodeLength === 2 ? 8 : 0);
  return {
    code,
    name: enumName(Code, code),
    mnemonic,
    bitness,
    mandatory:
      prefix === MandatoryPrefix.P66
        ? 0x66
        : prefix === MandatoryPrefix.PF3
          ? 0xf3
          : prefix === MandatoryPrefix.PF2
            ? 0xf2
            : 0,
    operandSizePrefix: (size === 16 || size === 32) && size !== defaultSize,
    addressSizePrefix: info.addressSize !== 0 && info.addressSize !== bitness,
    rexW,
    opcode: opcodeBytes(info),
    opcodeRegister,
    modrm,
    regFixed: info.isGroup ? info.groupIndex : regNamed ? -1 : 0,
    regCount,
    rmFixed: info.isRmGroup ? info.rmGroupIndex : -1,
    rm,
    immediates,
    moffs,
    relative,
    memoryBytes: MemorySizeExt.size(info.memorySize),
    valueClass: valueClassOf(info, isVector),
    stringSource: operands.includes(Kind.seg_rSI),
    stringDestination: operands.includes(Kind.es_rDI) || operands.includes(Kind.seg_rDI),
    xlat: operands.includes(Kind.seg_rBX_al),
    canRep: info.canUseRepPrefix,
    canRepne: info.canUseRepnePrefix,
    canLock: info.canUseLockPrefix,
    operandBits: size,
    operands,
    isX87: info.table === OpCodeTableKind.Normal && first >= 0xd8 && first <= 0xdf,
    isVector,
  };
}

/** The forms of one code size, and what is left out with the reason. */
export interface FormSet {
  readonly forms: readonly Form[];
  /** Legacy-encoded codes left out: name and reason. */
  readonly excluded: ReadonlyMap<string, string>;
}

const sets = new Map<Bitness, FormSet>();

/** Every form of a code size. */
export function formsOf(bitness: Bitness): FormSet {
  const known = sets.get(bitness);
  if (known !== undefined) return known;
  const forms: Form[] = [];
  const excluded = new Map<string, string>();
  for (const [name, code] of Object.entries(Code)) {
    if (typeof code !== 'number') continue;
    const info = CodeExt.opCode(code);
    try {
      if (!info.isInstruction || !available(info, bitness)) continue;
      const reason = exclusion(code, bitness);
      if (reason !== undefined) {
        if (!reason.startsWith('VEX')) excluded.set(name, reason);
        continue;
      }
      const form = makeForm(code, bitness, info);
      if (typeof form === 'string') excluded.set(name, form);
      else forms.push(form);
    } finally {
      info.free();
    }
  }
  const set = { forms, excluded };
  sets.set(bitness, set);
  return set;
}
