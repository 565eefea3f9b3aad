/**
 * The x87 environment and whole FPU state in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR (Intel SDM volume 1, figures
 * 8-9 to 8-12), FXSAVE and FXRSTOR (volume 1, section 10.5; volume 2).
 */
import type { Cpu } from '../cpu.ts';
import { CR4_OSFXSR } from '../bits.ts';
import { gp } from '../faults.ts';
import { FPU, ST, XMM } from '../layout.ts';
import { ACCESS, type Access } from '../mmu.ts';
import { KIND, unpack80 } from '../softfloat/number.ts';
import {
  FSW,
  initialize,
  physical,
  readBits,
  registerLoc,
  setControlWord,
  setStatusWord,
  statusWord,
  updateSummary,
} from './state.ts';

/** How the environment is laid out: 16- or 32-bit operand size, real (and virtual-8086) or protected mode. */
export interface EnvironmentFormat {
  readonly bits: 16 | 32;
  readonly protectedMode: boolean;
}

const TAG = { valid: 0, zero: 1, special: 2, empty: 3 } as const;

/** The full tag word, computed from the registers' contents. */
function tagWord(cpu: Cpu): number {
  const empty = cpu.get32(FPU.empty);
  let word = 0;
  for (let register = 0; register < 8; register++) {
    let tag: number = TAG.empty;
    if (((empty >> register) & 1) === 0) {
      const value = unpack80(readBits(cpu, register - cpu.get32(FPU.top)));
      if (value.kind === KIND.zero) tag = TAG.zero;
      else tag = value.kind === KIND.finite && !value.denormal ? TAG.valid : TAG.special;
    }
    word |= tag << (register * 2);
  }
  return word;
}

function setTagWord(cpu: Cpu, word: number): void {
  let empty = 0;
  for (let register = 0; register < 8; register++) {
    if (((word >> (register * 2)) & 3) === TAG.empty) empty |= 1 << register;
  }
  cpu.set32(FPU.empty, empty);
}

export function environmentSize({ bits }: EnvironmentFormat): number {
  return bits === 16 ? 14 : 28;
}

/** A 20-bit (real mode) address of a pointer. */
function realAddress(cpu: Cpu, selector: number, offset: number): number {
  return (cpu.get32(selector) * 16 + cpu.get32(offset)) | 0;
}

function environmentBytes(cpu: Cpu, { bits, protectedMode }: EnvironmentFormat): Uint8Array {
  const opcode = cpu.get32(FPU.fop) & 0x7ff;
  const control = cpu.get32(FPU.fcw);
  if (bits === 16) {
    const words = new Uint16Array([control, statusWord(cpu), tagWord(cpu), 0, 0, 0, 0]);
    if (protectedMode) {
      words.set([cpu.get32(FPU.fip), cpu.get32(FPU.fcs), cpu.get32(FPU.fdp), cpu.get32(FPU.fds)], 3);
    } else {
      const ip = realAddress(cpu, FPU.fcs, FPU.fip);
      const dp = realAddress(cpu, FPU.fds, FPU.fdp);
      words.set([ip, ((ip >> 4) & 0xf000) | opcode, dp, (dp >> 4) & 0xf000], 3);
    }
    return new Uint8Array(words.buffer);
  }
  const dwords = new Uint32Array(7);
  dwords.set([0xffff0000 | control, 0xffff0000 | statusWord(cpu), 0xffff0000 | tagWord(cpu)]);
  if (protectedMode) {
    dwords[3] = cpu.get32(FPU.fip);
    dwords[4] = cpu.get32(FPU.fcs) | (opcode << 16);
    dwords[5] = cpu.get32(FPU.fdp);
    dwords[6] = 0xffff0000 | cpu.get32(FPU.fds);
  } else {
    const ip = realAddress(cpu, FPU.fcs, FPU.fip);
    const dp = realAddress(cpu, FPU.fds, FPU.fdp);
    dwords[3] = 0xffff0000 | (ip & 0xffff);
    dwords[4] = ((ip >>> 4) & 0x0ffff000) | opcode;
    dwords[5] = 0xffff0000 | (dp & 0xffff);
    dwords[6] = (dp >>> 4) & 0x0ffff000;
  }
  return new Uint8Array(dwords.buffer);
}

function setEnvironment(cpu: Cpu, bytes: Uint8Array, { bits, protectedMode }: EnvironmentFormat): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const step = bits / 8;
  const field = (index: number): number =>
    bits === 16 ? view.getUint16(index * step, true) : view.getUint32(index * step, true);
  setControlWord(cpu, field(0));
  setStatusWord(cpu, field(1));
  setTagWord(cpu, field(2));
  cpu.set64(FPU.fip, 0n);
  cpu.set64(FPU.fdp, 0n);
  if (protectedMode) {
    cpu.set32(FPU.fip, field(3));
    cpu.set32(FPU.fcs, field(4) & 0xffff);
    if (bits === 32) cpu.set32(FPU.fop, (field(4) >>> 16) & 0x7ff);
    cpu.set32(FPU.fdp, field(5));
    cpu.set32(FPU.fds, field(6) & 0xffff);
    return;
  }
  const upper = (value: number): number => (bits === 16 ? (value & 0xf000) << 4 : (value & 0x0ffff000) << 4);
  cpu.set32(FPU.fop, field(4) & 0x7ff);
  cpu.set32(FPU.fip, (field(3) & 0xffff) | upper(field(4)));
  cpu.set32(FPU.fdp, (field(5) & 0xffff) | upper(field(6)));
  cpu.set32(FPU.fcs, 0);
  cpu.set32(FPU.fds, 0);
}

/** Faults like the processor: the first word is accessed first, then the last byte. */
function probe(cpu: Cpu, lin: number, size: number, { bits }: EnvironmentFormat, access: Access): void {
  cpu.mmu.probe(lin, bits / 8, access);
  cpu.mmu.probe(lin + size - 1, 1, access);
}

/** FNSTENV: stores, then masks all exceptions. */
export function storeEnvironment(cpu: Cpu, lin: number, format: EnvironmentFormat): void {
  probe(cpu, lin, environmentSize(format), format, ACCESS.write);
  cpu.mmu.writeBytes(lin, environmentBytes(cpu, format));
  cpu.set32(FPU.fcw, cpu.get32(FPU.fcw) | FSW.exceptions);
  updateSummary(cpu);
}

/** FLDENV */
export function loadEnvironment(cpu: Cpu, lin: number, format: EnvironmentFormat): void {
  const bytes = new Uint8Array(environmentSize(format));
  probe(cpu, lin, bytes.length, format, ACCESS.read);
  cpu.mmu.readBytes(lin, bytes);
  setEnvironment(cpu, bytes, format);
}

/** FNSAVE: environment, then ST(0) to ST(7) of ten bytes each; then FNINIT. */
export function saveState(cpu: Cpu, lin: number, format: EnvironmentFormat): void {
  const size = environmentSize(format);
  const bytes = new Uint8Array(size + 80);
  probe(cpu, lin, bytes.length, format, ACCESS.write);
  bytes.set(environmentBytes(cpu, format));
  for (let i = 0; i < 8; i++) {
    const loc = registerLoc(cpu, i);
    bytes.set(cpu.u8.subarray(loc, loc + 10), size + i * 10);
  }
  cpu.mmu.writeBytes(lin, bytes);
  initialize(cpu);
}

/** FRSTOR */
export function restoreState(cpu: Cpu, lin: number, format: EnvironmentFormat): void {
  const size = environmentSize(format);
  const bytes = new Uint8Array(size + 80);
  probe(cpu, lin, bytes.length, format, ACCESS.read);
  cpu.mmu.readBytes(lin, bytes);
  setEnvironment(cpu, bytes, format);
  for (let i = 0; i < 8; i++) {
    const loc = ST + physical(cpu, i) * 16;
    cpu.u8.set(bytes.subarray(size + i * 10, size + i * 10 + 10), loc);
  }
}

/** Bits of MXCSR that exist (MXCSR_MASK). */
export const MXCSR_MASK = 0xffff;

/** Form of the FXSAVE area: REX.W gives 64-bit pointers; XMM8 to XMM15 exist in 64-bit code. */
export interface FxFormat {
  readonly wide: boolean;
  readonly code64: boolean;
}

const FX_SIZE = 512;
/** Where the area is put together and taken apart: guests do that at every task switch. */
const fxArea = new Uint8Array(FX_SIZE);
const fxView = new DataView(fxArea.buffer);

/** Copies ST(0) to ST(7) between the state and the area, ten bytes each. */
function moveStack(cpu: Cpu, toArea: boolean): void {
  const { u8 } = cpu;
  for (let i = 0; i < 8; i++) {
    const loc = registerLoc(cpu, i);
    const at = 32 + i * 16;
    for (let byte = 0; byte < 10; byte++) {
      if (toArea) fxArea[at + byte] = u8[loc + byte]!;
      else u8[loc + byte] = fxArea[at + byte]!;
    }
  }
}

/** FXSAVE; the address is aligned to 16 (checked before). */
export function fxsave(cpu: Cpu, lin: number, { wide, code64 }: FxFormat): void {
  const view = fxView;
  const fsw = statusWord(cpu);
  fxArea.fill(0, 0, 160);
  view.setUint16(0, cpu.get32(FPU.fcw), true);
  view.setUint16(2, fsw, true);
  view.setUint8(4, ~cpu.get32(FPU.empty) & 0xff);
  // AMD's processors save the pointers only with an unmasked exception pending (AMD manual volume 2, 11.4.4).
  if ((fsw & FSW.es) !== 0) {
    view.setUint16(6, cpu.get32(FPU.fop), true);
    view.setBigUint64(8, cpu.get64(FPU.fip), true);
    view.setBigUint64(16, cpu.get64(FPU.fdp), true);
    if (!wide) {
      view.setUint32(12, cpu.get32(FPU.fcs), true);
      view.setUint32(20, cpu.get32(FPU.fds), true);
    }
  }
  view.setUint32(24, cpu.get32(FPU.mxcsr), true);
  view.setUint32(28, MXCSR_MASK, true);
  moveStack(cpu, true);
  const withXmm = (cpu.cr4 & CR4_OSFXSR) !== 0;
  const xmmBytes = withXmm ? (code64 ? 256 : 128) : 0;
  fxArea.set(cpu.u8.subarray(XMM, XMM + xmmBytes), 160);
  // The whole area must be writable, the parts that are left alone too.
  cpu.mmu.probe(lin, FX_SIZE, ACCESS.write);
  cpu.mmu.writeBytes(lin, fxArea.subarray(0, 160 + xmmBytes));
}

/** Pointers are kept in 57 bits, the linear addresses of 5-level paging. */
function canonical(pointer: bigint): bigint {
  return BigInt.asUintN(64, BigInt.asIntN(57, pointer));
}

/** FXRSTOR. @throws GuestFault #GP(0) for reserved bits of MXCSR. */
export function fxrstor(cpu: Cpu, lin: number, { wide, code64 }: FxFormat): void {
  const view = fxView;
  cpu.mmu.readBytes(lin, fxArea);
  const withXmm = (cpu.cr4 & CR4_OSFXSR) !== 0;
  const mxcsr = view.getUint32(24, true);
  if (withXmm && (mxcsr & ~MXCSR_MASK) !== 0) throw gp();
  setControlWord(cpu, view.getUint16(0, true));
  setStatusWord(cpu, view.getUint16(2, true));
  cpu.set32(FPU.empty, ~view.getUint8(4) & 0xff);
  cpu.set32(FPU.fop, view.getUint16(6, true) & 0x7ff);
  for (const [pointer, selector, at] of [
    [FPU.fip, FPU.fcs, 8],
    [FPU.fdp, FPU.fds, 16],
  ] as const) {
    if (wide) {
      cpu.set64(pointer, canonical(view.getBigUint64(at, true)));
      continue;
    }
    cpu.set32(pointer, view.getUint32(at, true));
    cpu.set32(pointer + 4, 0);
    cpu.set32(selector, view.getUint16(at + 4, true));
  }
  moveStack(cpu, false);
  if (!withXmm) return;
  cpu.set32(FPU.mxcsr, mxcsr);
  cpu.u8.set(fxArea.subarray(160, code64 ? 416 : 288), XMM);
}
