/**
 * The callouts x87 instructions are executed by. `imm` of their IR operation holds the instruction's offset in the
 * block (bits 0..15), for memory operands the segment register's number (bits 16..18) and whether it is SS (bit 19),
 * and the opcode as FOP has it (bits 20..30): the low three bits of the first byte, then ModRM.
 */
import { defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { FLAG_CF, FLAG_PF, FLAG_ZF } from '../bits.ts';
import { gp } from '../faults.ts';
import { CS, FPU, RIP, SEG, SEG_FIELD, SEG_SIZE } from '../layout.ts';
import { type Unpacked, unpack32, unpack64 } from '../softfloat/number.ts';
import {
  arctangent,
  arithmetic,
  arithmeticMemory,
  compareFlags,
  compareRegister,
  compareWith,
  cosine,
  examine,
  exponential,
  extractParts,
  logarithm,
  logarithmPlusOne,
  partialRemainder,
  roundToInteger,
  scaleBySecond,
  sine,
  sineAndCosine,
  squareRoot,
  tangent,
  test,
} from './arithmetic.ts';
import {
  type EnvironmentFormat,
  fxrstor,
  fxsave,
  loadEnvironment,
  restoreState,
  saveState,
  storeEnvironment,
} from './environment.ts';
import { FSW, initialize, pop, setControlWord, updateSummary } from './state.ts';
import {
  changeSign,
  exchange,
  free,
  integerAt,
  loadBcd,
  loadConstant,
  loadFloat32,
  loadFloat64,
  loadFloat80,
  loadInteger,
  loadRegister,
  moveIf,
  rotate,
  storeBcd,
  storeFloat32,
  storeFloat64,
  storeFloat80,
  storeInteger,
  storeRegister,
  storeUnchecked,
} from './transfer.ts';

export const X87_IMM = { segmentShift: 16, stack: 1 << 19, fopShift: 20 } as const;

/** Remembers the instruction for FNSTENV and the like (SDM volume 1, sections 8.1.8 and 8.1.9). */
function noteInstruction(cpu: Cpu, imm: number): void {
  cpu.set32(FPU.fop, imm >>> X87_IMM.fopShift);
  cpu.set64(FPU.fip, cpu.get64(RIP) + BigInt(imm & 0xffff));
  cpu.set32(FPU.fcs, cpu.get32(CS + SEG_FIELD.selector));
}

/** The same for its memory operand, at the linear address in a location. */
function noteOperand(cpu: Cpu, imm: number, linear: number): void {
  const segment = SEG + ((imm >> X87_IMM.segmentShift) & 7) * SEG_SIZE;
  const offset = cpu.get64(linear) - cpu.get64(segment + SEG_FIELD.base);
  cpu.set64(FPU.fdp, BigInt.asUintN(cpu.code64 ? 64 : 32, offset));
  cpu.set32(FPU.fds, cpu.get32(segment + SEG_FIELD.selector));
}

type RegisterHandler = (cpu: Cpu, i: number) => void;
/** Handlers of register forms, by first byte and ModRM: index (e << 6) | (modrm & 0x3f). */
const registerForms = new Array<RegisterHandler | undefined>(512);

/** One handler for the eight opcodes E reg C0 + reg * 8 .. + 7. */
function group(e: number, reg: number, handler: RegisterHandler): void {
  for (let i = 0; i < 8; i++) registerForms[(e << 6) | (reg << 3) | i] = handler;
}
function single(e: number, modrm: number, handler: RegisterHandler): void {
  registerForms[(e << 6) | (modrm & 0x3f)] = handler;
}

for (const reg of [0, 1, 4, 5, 6, 7]) {
  group(0, reg, (cpu, i) => arithmetic(cpu, reg, i, 0, false));
  group(4, reg, (cpu, i) => arithmetic(cpu, reg, i, i, false));
  group(6, reg, (cpu, i) => arithmetic(cpu, reg, i, i, true));
}
group(0, 2, (cpu, i) => compareRegister(cpu, i, false, 0));
group(0, 3, (cpu, i) => compareRegister(cpu, i, false, 1));
group(4, 2, (cpu, i) => compareRegister(cpu, i, false, 0));
group(4, 3, (cpu, i) => compareRegister(cpu, i, false, 1));
group(6, 2, (cpu, i) => compareRegister(cpu, i, false, 1));
single(6, 0xd9, (cpu, i) => compareRegister(cpu, i, false, 2));
group(5, 4, (cpu, i) => compareRegister(cpu, i, true, 0));
group(5, 5, (cpu, i) => compareRegister(cpu, i, true, 1));
single(2, 0xe9, (cpu, i) => compareRegister(cpu, i, true, 2));
group(3, 5, (cpu, i) => compareFlags(cpu, i, true, false));
group(3, 6, (cpu, i) => compareFlags(cpu, i, false, false));
group(7, 5, (cpu, i) => compareFlags(cpu, i, true, true));
group(7, 6, (cpu, i) => compareFlags(cpu, i, false, true));

group(1, 0, loadRegister);
for (const [e, reg] of [
  [1, 1],
  [5, 1],
  [7, 1],
] as const) {
  group(e, reg, exchange);
}
group(5, 2, (cpu, i) => storeRegister(cpu, i, false));
for (const [e, reg] of [
  [5, 3],
  [7, 2],
  [7, 3],
] as const) {
  group(e, reg, (cpu, i) => storeRegister(cpu, i, true));
}
group(1, 3, storeUnchecked);
group(5, 0, (cpu, i) => free(cpu, i, false));
group(7, 0, (cpu, i) => free(cpu, i, true));

/** FCMOVcc: B, E, BE, U with DA; their opposites with DB. */
[FLAG_CF, FLAG_ZF, FLAG_CF | FLAG_ZF, FLAG_PF].forEach((flags, reg) => {
  group(2, reg, (cpu, i) => moveIf(cpu, i, (cpu.rflags & flags) !== 0));
  group(3, reg, (cpu, i) => moveIf(cpu, i, (cpu.rflags & flags) === 0));
});

single(1, 0xd0, () => undefined);
single(1, 0xe0, (cpu) => changeSign(cpu, false));
single(1, 0xe1, (cpu) => changeSign(cpu, true));
single(1, 0xe4, test);
single(1, 0xe5, examine);
for (let index = 0; index < 7; index++) single(1, 0xe8 + index, (cpu) => loadConstant(cpu, index));
[
  exponential,
  logarithm,
  tangent,
  arctangent,
  extractParts,
  (cpu: Cpu): void => partialRemainder(cpu, true),
  (cpu: Cpu): void => rotate(cpu, -1),
  (cpu: Cpu): void => rotate(cpu, 1),
  (cpu: Cpu): void => partialRemainder(cpu, false),
  logarithmPlusOne,
  squareRoot,
  sineAndCosine,
  roundToInteger,
  scaleBySecond,
  sine,
  cosine,
].forEach((handler, index) => single(1, 0xf0 + index, handler));

/** Register forms. Nothing but the state they work on. */
export const x87Register = defineCallout('x87Register', 'floatingPoint', (cpu, _dst, _a, _b, imm) => {
  noteInstruction(cpu, imm);
  const fop = imm >>> X87_IMM.fopShift;
  const handler = registerForms[((fop >> 2) & 0x1c0) | (fop & 0x3f)];
  if (!handler) throw new Error(`no x87 instruction ${fop.toString(16)}`);
  handler(cpu, fop & 7);
});

/** Handlers of memory forms, by first byte and ModRM.reg: index (e << 3) | reg. */
type LoadHandler = (cpu: Cpu, value: number) => void;
const loadForms = new Array<LoadHandler | undefined>(64);
type StoreHandler = (cpu: Cpu, lin: number) => void;
const storeForms = new Array<StoreHandler | undefined>(64);

function memoryGroup(e: number, valueAt: (cpu: Cpu, loc: number) => Unpacked): void {
  for (const reg of [0, 1, 4, 5, 6, 7]) {
    loadForms[(e << 3) | reg] = (cpu, loc) => arithmeticMemory(cpu, reg, valueAt(cpu, loc));
  }
  loadForms[(e << 3) | 2] = (cpu, loc) => void compareWith(cpu, valueAt(cpu, loc), false);
  loadForms[(e << 3) | 3] = (cpu, loc) => {
    if (compareWith(cpu, valueAt(cpu, loc), false)) pop(cpu);
  };
}
memoryGroup(0, (cpu, loc) => unpack32(cpu.get32(loc)));
memoryGroup(2, (cpu, loc) => integerAt(cpu, loc, 32));
memoryGroup(4, (cpu, loc) => unpack64(cpu.get64(loc)));
memoryGroup(6, (cpu, loc) => integerAt(cpu, loc, 16));
loadForms[0o10] = loadFloat32;
loadForms[0o30] = (cpu, loc) => loadInteger(cpu, loc, 32);
loadForms[0o35] = loadFloat80;
loadForms[0o50] = loadFloat64;
loadForms[0o70] = (cpu, loc) => loadInteger(cpu, loc, 16);
loadForms[0o74] = loadBcd;
loadForms[0o75] = (cpu, loc) => loadInteger(cpu, loc, 64);

storeForms[0o12] = (cpu, lin) => storeFloat32(cpu, lin, false);
storeForms[0o13] = (cpu, lin) => storeFloat32(cpu, lin, true);
storeForms[0o31] = (cpu, lin) => storeInteger(cpu, lin, 32, true, true);
storeForms[0o32] = (cpu, lin) => storeInteger(cpu, lin, 32, false);
storeForms[0o33] = (cpu, lin) => storeInteger(cpu, lin, 32, true);
storeForms[0o37] = storeFloat80;
storeForms[0o51] = (cpu, lin) => storeInteger(cpu, lin, 64, true, true);
storeForms[0o52] = (cpu, lin) => storeFloat64(cpu, lin, false);
storeForms[0o53] = (cpu, lin) => storeFloat64(cpu, lin, true);
storeForms[0o71] = (cpu, lin) => storeInteger(cpu, lin, 16, true, true);
storeForms[0o72] = (cpu, lin) => storeInteger(cpu, lin, 16, false);
storeForms[0o73] = (cpu, lin) => storeInteger(cpu, lin, 16, true);
storeForms[0o76] = storeBcd;
storeForms[0o77] = (cpu, lin) => storeInteger(cpu, lin, 64, true);

function memoryIndex(imm: number): number {
  const fop = imm >>> X87_IMM.fopShift;
  return ((fop >> 5) & 0o70) | ((fop >> 3) & 7);
}

/** Forms that read memory: dst is the location of the value, b of its linear address. */
export const x87Load = defineCallout('x87Load', 'floatingPoint', (cpu, dst, _a, b, imm) => {
  noteInstruction(cpu, imm);
  noteOperand(cpu, imm, b);
  const handler = loadForms[memoryIndex(imm)];
  if (!handler) throw new Error(`no x87 load ${imm.toString(16)}`);
  handler(cpu, dst);
});

/** Forms that write memory, at the linear address in location b. */
export const x87Store = defineCallout('x87Store', 'floatingPoint', (cpu, _dst, _a, b, imm) => {
  const handler = storeForms[memoryIndex(imm)];
  if (!handler) throw new Error(`no x87 store ${imm.toString(16)}`);
  handler(cpu, cpu.mmu.linearAt(b, (imm & X87_IMM.stack) !== 0));
  noteInstruction(cpu, imm);
  noteOperand(cpu, imm, b);
});

export const fninit = defineCallout('fninit', 'floatingPoint', initialize);

/** FNCLEX */
export const fnclex = defineCallout('fnclex', 'floatingPoint', (cpu) => {
  cpu.set32(FPU.fsw, cpu.get32(FPU.fsw) & ~(FSW.exceptions | FSW.stackFault));
  updateSummary(cpu);
});

/** FLDCW with the word in location a. */
export const x87Control = defineCallout('fldcw', 'floatingPoint', (cpu, _dst, a) => {
  setControlWord(cpu, cpu.get32(a) & 0xffff);
  updateSummary(cpu);
});

/** Field c of the callouts below: how memory is laid out. */
export const LAYOUT = { operand32: 1, protectedMode: 2, wide: 4, code64: 8, stack: 16 } as const;

function environmentFormat(c: number): EnvironmentFormat {
  return { bits: (c & LAYOUT.operand32) !== 0 ? 32 : 16, protectedMode: (c & LAYOUT.protectedMode) !== 0 };
}

/** The state-moving instructions: b is the location of the linear address. */
function mover(name: string, move: (cpu: Cpu, lin: number, format: EnvironmentFormat) => void) {
  return defineCallout(name, 'floatingPoint', (cpu, _dst, _a, b, _imm, c) => {
    move(cpu, cpu.mmu.linearAt(b, (c & LAYOUT.stack) !== 0), environmentFormat(c));
  });
}
export const fnstenv = mover('fnstenv', storeEnvironment);
export const fldenv = mover('fldenv', loadEnvironment);
export const fnsave = mover('fnsave', saveState);
export const frstor = mover('frstor', restoreState);

/** The FXSAVE area. */
export const FX_ALIGNED = { size: 512, alignment: 16 } as const;

function fxMover(name: string, move: typeof fxsave) {
  return defineCallout(name, 'floatingPoint', (cpu, _dst, _a, b, _imm, c) => {
    const lin = cpu.mmu.linearAt(b, (c & LAYOUT.stack) !== 0);
    if (lin % FX_ALIGNED.alignment !== 0) throw gp();
    move(cpu, lin, { wide: (c & LAYOUT.wide) !== 0, code64: (c & LAYOUT.code64) !== 0 });
  });
}
export const fxsaveCallout = fxMover('fxsave', fxsave);
export const fxrstorCallout = fxMover('fxrstor', fxrstor);
