/** Choosing the encoding of one instruction and writing its bytes. */
import { Encoder, Instruction, OpCodeOperandKind as Kind, OpKind, Register } from '../../x86/iced.ts';
import type { OpCodeOperandKind } from '../../x86/iced.ts';
import { canonicalName, codesNamed } from './codes.ts';
import type { CodeEntry } from './codes.ts';
import { AssemblyError } from './expression.ts';
import type { Expression, SymbolResolver } from './expression.ts';
import { toExpression } from './expression.ts';
import { describeOperand, registerNamed } from './operands.ts';
import type { Bits, MemoryReference, Operand, RegisterClass, RegisterOperand } from './operands.ts';

/** One way to write an instruction: its size never depends on the values of the symbols in it. */
export interface Encoding {
  readonly size: number;
  /** The bytes at address `ip`; throws {@link AssemblyError} when a value does not fit. */
  encode(ip: bigint, resolve: SymbolResolver): Uint8Array;
}

export interface SelectedEncoding extends Encoding {
  /** For a branch whose short form was chosen provisionally: the near form to fall back to. */
  readonly near: Encoding | undefined;
  /** The target of a branch to a near address. */
  readonly target: Expression | undefined;
}

interface Prefixes {
  rep: boolean;
  repne: boolean;
  lock: boolean;
  segment: RegisterOperand | undefined;
  addressBits: Bits | undefined;
  operandBits: Bits | undefined;
  branch: 'short' | 'near' | undefined;
}

const encoders = new Map<Bits, Encoder>();

function encoderFor(bits: Bits): Encoder {
  let encoder = encoders.get(bits);
  if (encoder === undefined) {
    encoder = new Encoder(bits);
    encoders.set(bits, encoder);
  }
  return encoder;
}

const shortBranchKinds: ReadonlySet<OpCodeOperandKind> = new Set([Kind.br16_1, Kind.br32_1, Kind.br64_1]);

const nearBranchOpKinds = new Map<OpCodeOperandKind, OpKind>([
  [Kind.br16_1, OpKind.NearBranch16],
  [Kind.br16_2, OpKind.NearBranch16],
  [Kind.br32_1, OpKind.NearBranch32],
  [Kind.br32_4, OpKind.NearBranch32],
  [Kind.br64_1, OpKind.NearBranch64],
  [Kind.br64_4, OpKind.NearBranch64],
]);

/** Which registers each operand kind takes: by class, or one register alone. */
const registerClasses = new Map<OpCodeOperandKind, RegisterClass>([
  [Kind.r8_or_mem, 'gpr8'],
  [Kind.r16_or_mem, 'gpr16'],
  [Kind.r32_or_mem, 'gpr32'],
  [Kind.r64_or_mem, 'gpr64'],
  [Kind.mm_or_mem, 'mm'],
  [Kind.xmm_or_mem, 'xmm'],
  [Kind.r8_reg, 'gpr8'],
  [Kind.r8_opcode, 'gpr8'],
  [Kind.r16_reg, 'gpr16'],
  [Kind.r16_reg_mem, 'gpr16'],
  [Kind.r16_rm, 'gpr16'],
  [Kind.r16_opcode, 'gpr16'],
  [Kind.r32_reg, 'gpr32'],
  [Kind.r32_reg_mem, 'gpr32'],
  [Kind.r32_rm, 'gpr32'],
  [Kind.r32_opcode, 'gpr32'],
  [Kind.r64_reg, 'gpr64'],
  [Kind.r64_reg_mem, 'gpr64'],
  [Kind.r64_rm, 'gpr64'],
  [Kind.r64_opcode, 'gpr64'],
  [Kind.seg_reg, 'segment'],
  [Kind.mm_reg, 'mm'],
  [Kind.mm_rm, 'mm'],
  [Kind.xmm_reg, 'xmm'],
  [Kind.xmm_rm, 'xmm'],
  [Kind.cr_reg, 'control'],
  [Kind.dr_reg, 'debug'],
  [Kind.sti_opcode, 'st'],
]);

const fixedRegisters = new Map<OpCodeOperandKind, Register>([
  [Kind.es, Register.ES],
  [Kind.cs, Register.CS],
  [Kind.ss, Register.SS],
  [Kind.ds, Register.DS],
  [Kind.fs, Register.FS],
  [Kind.gs, Register.GS],
  [Kind.al, Register.AL],
  [Kind.cl, Register.CL],
  [Kind.ax, Register.AX],
  [Kind.dx, Register.DX],
  [Kind.eax, Register.EAX],
  [Kind.rax, Register.RAX],
  [Kind.st0, Register.ST0],
]);

const memoryKinds: ReadonlySet<OpCodeOperandKind> = new Set([
  Kind.mem,
  Kind.mem_offs,
  Kind.r8_or_mem,
  Kind.r16_or_mem,
  Kind.r32_or_mem,
  Kind.r64_or_mem,
  Kind.mm_or_mem,
  Kind.xmm_or_mem,
]);

interface ImmediateForm {
  readonly opKind: OpKind;
  /** Bits the encoding holds. */
  readonly bits: number;
  /** Bits the held value is sign-extended to; equal to `bits` where it is not. */
  readonly extendedTo: number;
}

const immediateForms = new Map<OpCodeOperandKind, ImmediateForm>([
  [Kind.imm8, { opKind: OpKind.Immediate8, bits: 8, extendedTo: 8 }],
  [Kind.imm8sex16, { opKind: OpKind.Immediate8to16, bits: 8, extendedTo: 16 }],
  [Kind.imm8sex32, { opKind: OpKind.Immediate8to32, bits: 8, extendedTo: 32 }],
  [Kind.imm8sex64, { opKind: OpKind.Immediate8to64, bits: 8, extendedTo: 64 }],
  [Kind.imm16, { opKind: OpKind.Immediate16, bits: 16, extendedTo: 16 }],
  [Kind.imm32, { opKind: OpKind.Immediate32, bits: 32, extendedTo: 32 }],
  [Kind.imm32sex64, { opKind: OpKind.Immediate32to64, bits: 32, extendedTo: 64 }],
  [Kind.imm64, { opKind: OpKind.Immediate64, bits: 64, extendedTo: 64 }],
]);

/** Whether a value, taken signed or unsigned at the operand's width, survives in this form. */
function immediateFits(value: bigint, form: ImmediateForm): boolean {
  const width = BigInt(form.extendedTo);
  // The complement of an unsigned value reaches down to -(2^width): `and al, ~0x80`.
  if (value < -(1n << width) || value >= 1n << width) return false;
  const normal = BigInt.asIntN(form.extendedTo, value);
  return form.bits === form.extendedTo || BigInt.asIntN(form.bits, normal) === normal;
}

function implicitMemoryOpKind(kind: OpCodeOperandKind, addressBits: Bits): OpKind | undefined {
  const pick = (in16: OpKind, in32: OpKind, in64: OpKind): OpKind =>
    addressBits === 16 ? in16 : addressBits === 32 ? in32 : in64;
  switch (kind) {
    case Kind.seg_rSI:
      return pick(OpKind.MemorySegSI, OpKind.MemorySegESI, OpKind.MemorySegRSI);
    case Kind.seg_rDI:
      return pick(OpKind.MemorySegDI, OpKind.MemorySegEDI, OpKind.MemorySegRDI);
    case Kind.es_rDI:
      return pick(OpKind.MemoryESDI, OpKind.MemoryESEDI, OpKind.MemoryESRDI);
    default:
      return undefined;
  }
}

/** Splits `lock`, `rep`, `es`, `a32`, `short` and the like off the mnemonic. */
function parseMnemonic(text: string): { name: string; prefixes: Prefixes } {
  const prefixes: Prefixes = {
    rep: false,
    repne: false,
    lock: false,
    segment: undefined,
    addressBits: undefined,
    operandBits: undefined,
    branch: undefined,
  };
  let name: string | undefined;
  for (const word of text.trim().toLowerCase().split(/\s+/)) {
    if (word === 'rep' || word === 'repe' || word === 'repz') prefixes.rep = true;
    else if (word === 'repne' || word === 'repnz') prefixes.repne = true;
    else if (word === 'lock') prefixes.lock = true;
    else if (word === 'short' || word === 'near') prefixes.branch = word;
    else if (/^[ao](16|32|64)$/.test(word)) {
      const width: Bits = word.endsWith('16') ? 16 : word.endsWith('32') ? 32 : 64;
      if (word.startsWith('a')) prefixes.addressBits = width;
      else prefixes.operandBits = width;
    } else if (name === undefined && registerNamed(word)?.class === 'segment') {
      prefixes.segment = registerNamed(word);
    } else if (name === undefined) name = word;
    else throw new AssemblyError(`'${text}': two mnemonics, '${name}' and '${word}'`);
  }
  if (name === undefined) throw new AssemblyError(`'${text}': prefixes without an instruction`);
  return { name, prefixes };
}

function describe(text: string, operands: readonly Operand[]): string {
  return operands.length === 0 ? text : `${text} ${operands.map(describeOperand).join(', ')}`;
}

function operandFits(entry: CodeEntry, position: number, operand: Operand, bits: Bits): boolean {
  const kind = entry.operandKinds[position];
  if (kind === undefined) return false;
  if (typeof operand === 'object' && operand.kind === 'register') {
    const only = fixedRegisters.get(kind);
    return only !== undefined ? only === operand.register : registerClasses.get(kind) === operand.class;
  }
  if (typeof operand === 'object' && operand.kind === 'memory') {
    if (!memoryKinds.has(kind)) return false;
    if (kind === Kind.mem_offs && !moffsFits(operand, bits)) return false;
    return operand.size === undefined || entry.memoryBytes === 0 || operand.size === entry.memoryBytes;
  }
  if (typeof operand === 'object' && operand.kind === 'far') {
    return kind === Kind.farbr2_2 || kind === Kind.farbr4_2;
  }
  if (nearBranchOpKinds.has(kind)) return true;
  const value = toExpression(operand).constant;
  if (kind === Kind.imm8_const_1) return value === 1n;
  const form = immediateForms.get(kind);
  if (form === undefined) return false;
  // A symbol's value is not known yet: only a form that holds every value of the width is sure to fit.
  return value === undefined ? form.bits === form.extendedTo || form.bits === 32 : immediateFits(value, form);
}

/** Whether the form with a bare address in the instruction may hold this reference. */
function moffsFits(memory: MemoryReference, bits: Bits): boolean {
  if (memory.base !== undefined || memory.index !== undefined) return false;
  if (bits !== 64) return true;
  // In 64-bit code a bare address means a sign-extended 32-bit one, unless it cannot be one.
  const address = memory.displacement.constant;
  return address !== undefined && BigInt.asIntN(32, address) !== BigInt.asIntN(64, address);
}

function checkNumber(text: string, value: bigint, bits: number): bigint {
  const width = BigInt(bits);
  if (value < -(1n << (width - 1n)) || value >= 1n << width) {
    throw new AssemblyError(`${text}: 0x${value.toString(16)} does not fit ${bits} bits`);
  }
  return value;
}

function setMemory(
  instruction: Instruction,
  memory: MemoryReference,
  bits: Bits,
  text: string,
  resolve: SymbolResolver,
): void {
  const { base, index, displacement } = memory;
  const value = displacement.evaluate(resolve);
  const shown = base ?? index;
  const ripRelative = base?.class === 'instruction-pointer';
  const addressBits: Bits =
    shown === undefined
      ? (memory.addressBits ?? bits)
      : shown.class === 'gpr16'
        ? 16
        : shown.class === 'gpr32'
          ? 32
          : 64;
  if (base !== undefined) instruction.memoryBase = base.register;
  if (index !== undefined) instruction.memoryIndex = index.register;
  instruction.memoryIndexScale = memory.scale;
  if (memory.segment !== undefined) instruction.segmentPrefix = memory.segment.register;
  const fullSize = addressBits / 8;
  if (ripRelative) {
    instruction.memoryDisplSize = 8;
    instruction.memoryDisplacement = BigInt.asIntN(64, value);
    return;
  }
  checkNumber(text, value, addressBits);
  const normal = BigInt.asIntN(addressBits, value);
  const short = displacement.constant !== undefined && !memory.wide && BigInt.asIntN(8, normal) === normal;
  if (shown === undefined || !short) instruction.memoryDisplSize = fullSize;
  else instruction.memoryDisplSize = normal === 0n ? 0 : 1;
  // iced holds displacements of 16- and 32-bit addresses zero-extended, of 64-bit ones sign-extended.
  instruction.memoryDisplacement =
    addressBits === 64 || instruction.memoryDisplSize === 1
      ? normal
      : BigInt.asIntN(64, BigInt.asUintN(addressBits, value));
}

function setImmediate(
  instruction: Instruction,
  position: number,
  form: ImmediateForm,
  value: bigint,
  text: string,
): void {
  if (!immediateFits(value, form)) {
    throw new AssemblyError(`${text}: immediate 0x${value.toString(16)} does not fit ${form.bits} bits`);
  }
  instruction.setOpKind(position, form.opKind);
  instruction.setImmediateI64(position, BigInt.asIntN(form.extendedTo, value));
}

/** Fills an iced instruction from operands that have already been found to fit. */
function fill(
  instruction: Instruction,
  entry: CodeEntry,
  operands: readonly Operand[],
  prefixes: Prefixes,
  bits: Bits,
  text: string,
  resolve: SymbolResolver,
): void {
  instruction.code = entry.code;
  if (prefixes.rep) instruction.hasRepPrefix = true;
  if (prefixes.repne) instruction.hasRepnePrefix = true;
  if (prefixes.lock) instruction.hasLockPrefix = true;
  if (prefixes.segment !== undefined) instruction.segmentPrefix = prefixes.segment.register;
  let immediates = 0;
  for (const [position, kind] of entry.operandKinds.entries()) {
    if (entry.implicitOperands) {
      setImplicit(instruction, position, kind, prefixes.addressBits ?? bits);
      continue;
    }
    const operand = operands[position];
    if (operand === undefined) throw new AssemblyError(`${text}: operand ${position + 1} is missing`);
    if (typeof operand === 'object' && operand.kind === 'register') {
      instruction.setOpKind(position, OpKind.Register);
      instruction.setOpRegister(position, operand.register);
    } else if (typeof operand === 'object' && operand.kind === 'memory') {
      instruction.setOpKind(position, OpKind.Memory);
      setMemory(instruction, operand, bits, text, resolve);
    } else if (typeof operand === 'object' && operand.kind === 'far') {
      const wide = kind === Kind.farbr4_2;
      instruction.setOpKind(position, wide ? OpKind.FarBranch32 : OpKind.FarBranch16);
      instruction.farBranchSelector = Number(checkNumber(text, operand.selector.evaluate(resolve), 16));
      const offset = Number(checkNumber(text, operand.offset.evaluate(resolve), wide ? 32 : 16));
      if (wide) instruction.farBranch32 = offset;
      else instruction.farBranch16 = offset;
    } else {
      const value = toExpression(operand).evaluate(resolve);
      const branch = nearBranchOpKinds.get(kind);
      if (branch !== undefined) {
        instruction.setOpKind(position, branch);
        if (branch === OpKind.NearBranch16) instruction.nearBranch16 = Number(checkNumber(text, value, 16));
        else if (branch === OpKind.NearBranch32)
          instruction.nearBranch32 = Number(checkNumber(text, value, 32));
        else instruction.nearBranch64 = BigInt.asUintN(64, value);
        continue;
      }
      const form = immediateForms.get(kind) ?? { opKind: OpKind.Immediate8, bits: 8, extendedTo: 8 };
      // The second byte-sized immediate of an instruction has a kind of its own (enter, extrq).
      setImmediate(
        instruction,
        position,
        immediates > 0 ? { ...form, opKind: OpKind.Immediate8_2nd } : form,
        value,
        text,
      );
      immediates++;
    }
  }
}

function setImplicit(
  instruction: Instruction,
  position: number,
  kind: OpCodeOperandKind,
  addressBits: Bits,
): void {
  const memory = implicitMemoryOpKind(kind, addressBits);
  if (memory !== undefined) {
    instruction.setOpKind(position, memory);
    return;
  }
  if (kind === Kind.seg_rBX_al) {
    instruction.setOpKind(position, OpKind.Memory);
    instruction.memoryBase =
      addressBits === 16 ? Register.BX : addressBits === 32 ? Register.EBX : Register.RBX;
    instruction.memoryIndex = Register.AL;
    return;
  }
  const register = fixedRegisters.get(kind);
  if (register !== undefined) {
    instruction.setOpKind(position, OpKind.Register);
    instruction.setOpRegister(position, register);
  }
}

function makeEncoding(
  entry: CodeEntry,
  operands: readonly Operand[],
  prefixes: Prefixes,
  bits: Bits,
  text: string,
): Encoding {
  const encode = (ip: bigint, resolve: SymbolResolver): Uint8Array => {
    const encoder = encoderFor(bits);
    const instruction = new Instruction();
    try {
      fill(instruction, entry, operands, prefixes, bits, text, resolve);
      try {
        encoder.encode(instruction, ip);
      } catch (error) {
        encoder.takeBuffer();
        throw new AssemblyError(`${text}: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error,
        });
      }
      return encoder.takeBuffer();
    } finally {
      instruction.free();
    }
  };
  // The size is the same wherever the instruction and its symbols end up.
  return { size: encode(0n, () => 0n).length, encode };
}

function branchKind(entry: CodeEntry): 'short' | 'near' | undefined {
  const kind = entry.operandKinds[0];
  if (kind === undefined || !nearBranchOpKinds.has(kind)) return undefined;
  return shortBranchKinds.has(kind) ? 'short' : 'near';
}

/**
 * The shortest encoding that means what was asked; among equals, the first in iced's order. The mnemonic may
 * carry prefixes: `lock`, `rep`/`repe`/`repne`, a segment and `a16`/`a32`/`a64` for string instructions, `short` or `near`
 * for branches, and `o16`/`o32`/`o64` where a branch or a pushed value is to have another width than the code. Throws {@link AssemblyError} saying what does not fit.
 */
export function selectEncoding(bits: Bits, mnemonic: string, operands: readonly Operand[]): SelectedEncoding {
  const text = describe(mnemonic, operands);
  const { name, prefixes } = parseMnemonic(mnemonic);
  const named = codesNamed(canonicalName(name, bits));
  if (named.length === 0) throw new AssemblyError(`'${text}': no instruction is called '${name}'`);
  const inMode = named.filter((entry) => entry.modes[bits]);
  if (inMode.length === 0) throw new AssemblyError(`'${text}': ${name} does not exist in ${bits}-bit code`);
  const sized = inMode.filter((entry) =>
    entry.implicitOperands ? operands.length === 0 : entry.operandKinds.length === operands.length,
  );
  if (sized.length === 0) {
    const counts = [
      ...new Set(inMode.map((entry) => (entry.implicitOperands ? 0 : entry.operandKinds.length))),
    ];
    throw new AssemblyError(
      `'${text}': ${name} takes ${counts.join(' or ')} operands, not ${operands.length}`,
    );
  }
  const fitting = sized.filter(
    (entry) =>
      entry.implicitOperands ||
      operands.every((operand, position) => operandFits(entry, position, operand, bits)),
  );
  if (fitting.length === 0) {
    const [first, second] = operands;
    // xchg and test mean the same either way round, but have their memory operand in front.
    if (
      (name === 'xchg' || name === 'test') &&
      isRegister(first) &&
      second !== undefined &&
      !isRegister(second)
    ) {
      return selectEncoding(bits, mnemonic, [second, first]);
    }
    const forms = [...new Set(sized.map((entry) => formOf(entry)))];
    throw new AssemblyError(
      `'${text}': no form of ${name} takes these operands; there are: ${forms.join('; ')}`,
    );
  }
  refuseAmbiguousSize(text, operands, fitting);

  const usable = ofWidth(fitting, operands, prefixes.operandBits ?? bits).filter(
    (entry) => prefixes.branch === undefined || branchKind(entry) === prefixes.branch,
  );
  if (usable.length === 0) throw new AssemblyError(`'${text}': ${name} has no ${prefixes.branch ?? ''} form`);
  const short = usable.filter((entry) => branchKind(entry) !== 'near');
  const near = usable.filter((entry) => branchKind(entry) === 'near');
  const first = operands[0];
  const target =
    near.length + short.length > 0 && branchKind(usable[0] as CodeEntry) !== undefined && first !== undefined
      ? toExpression(first as Expression | number | bigint)
      : undefined;
  const preferred = short.length > 0 ? short : near;
  const best = shortest(preferred, operands, prefixes, bits, text);
  const fallback =
    short.length > 0 && near.length > 0 ? shortest(near, operands, prefixes, bits, text) : undefined;
  return { ...best, near: fallback, target };
}

function isRegister(operand: Operand | undefined): operand is RegisterOperand {
  return typeof operand === 'object' && operand.kind === 'register';
}

/** Width in bits of the offset a branch carries. */
const branchWidths = new Map<OpCodeOperandKind, Bits>([
  [Kind.br16_1, 16],
  [Kind.br16_2, 16],
  [Kind.br32_1, 32],
  [Kind.br32_4, 32],
  [Kind.br64_1, 64],
  [Kind.br64_4, 64],
  [Kind.farbr2_2, 16],
  [Kind.farbr4_2, 32],
]);

/**
 * Where no register and no memory operand shows the width (branches, far pointers, push of a value), the
 * width of the code around it is meant, though another might be shorter.
 */
function ofWidth(
  entries: readonly CodeEntry[],
  operands: readonly Operand[],
  width: Bits,
): readonly CodeEntry[] {
  const shown = operands.some(
    (operand) => typeof operand === 'object' && (operand.kind === 'register' || operand.kind === 'memory'),
  );
  if ((shown && !isStateImage(entries)) || operands.length === 0) return entries;
  const matching = entries.filter((entry) => {
    const branch = entry.operandKinds[0] === undefined ? undefined : branchWidths.get(entry.operandKinds[0]);
    return (branch ?? entry.operandSize) === width;
  });
  return matching.length > 0 ? matching : entries;
}

function shortest(
  entries: readonly CodeEntry[],
  operands: readonly Operand[],
  prefixes: Prefixes,
  bits: Bits,
  text: string,
): Encoding {
  let best: Encoding | undefined;
  let refusal: AssemblyError | undefined;
  for (const entry of entries) {
    try {
      const encoding = makeEncoding(entry, operands, prefixes, bits, text);
      if (best === undefined || encoding.size < best.size) best = encoding;
    } catch (error) {
      if (!(error instanceof AssemblyError)) throw error;
      refusal ??= error;
    }
  }
  if (best === undefined) throw refusal ?? new AssemblyError(`'${text}': no encoding`);
  return best;
}

/** Images of FPU state are as large as the operand size makes them: nobody has to say how large. */
function isStateImage(entries: readonly CodeEntry[]): boolean {
  return entries.every(
    (entry) => entry.operandKinds.length === 1 && entry.memoryBytes > 10 && entry.memoryBytes !== 16,
  );
}

/** A memory operand whose width neither it nor a register shows must not be guessed. */
function refuseAmbiguousSize(
  text: string,
  operands: readonly Operand[],
  entries: readonly CodeEntry[],
): void {
  const unsized = operands.some(
    (operand) => typeof operand === 'object' && operand.kind === 'memory' && operand.size === undefined,
  );
  if (!unsized) return;
  const sizes = [...new Set(entries.map((entry) => entry.memoryBytes))];
  if (sizes.length > 1 && !isStateImage(entries)) {
    throw new AssemblyError(`'${text}': say the size of the memory operand (${sizes.join(', ')} bytes)`);
  }
}

function formOf(entry: CodeEntry): string {
  const instruction = new Instruction();
  try {
    instruction.code = entry.code;
    const info = instruction.opCode;
    try {
      return info.instructionString;
    } finally {
      info.free();
    }
  } finally {
    instruction.free();
  }
}
