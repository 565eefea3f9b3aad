import { type Instruction, MemorySizeExt, OpKind, Register } from '../iced.ts';
import { IrBuilder } from '../../ir/builder.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { ACCESS_INFO, SEGLIN_ALIGNED, SEGLIN_WRITE } from '../../ir/ops/memory.ts';
import { VECTOR } from '../faults.ts';
import { CS, DS, ES, FS, GS, RSP, SEG_FIELD, SS } from '../layout.ts';
import { MODE, type CodeSize, codeSizeOf, cplOf } from '../mode.ts';
import { generalRegister, isGeneralRegister, segmentRegister } from './registers.ts';

/** A linear address in the making: location + displacement, added with this many bits by the load or store. */
export interface Address {
  loc: Loc;
  disp: number;
  width: 32 | 64;
  /** ACCESS_INFO bits. */
  info: number;
}

/** Thrown by a lifter for an encoding that raises #UD. */
export class UndefinedInstruction extends Error {
  constructor() {
    super('undefined instruction');
  }
}

/** Lifting of one guest instruction: what it says (from iced), the mode it was read in, and the IR that comes of it. */
export class LiftContext {
  readonly b: IrBuilder;
  readonly modeKey: number;
  readonly codeBits: CodeSize;
  /** Width of the stack pointer. */
  readonly stackBits: CodeSize;
  insn!: Instruction;
  /** The block's guest code, from its start. */
  bytes: Uint8Array = new Uint8Array();
  /** The instruction before this one was STI: the interrupt shadow ends with this one. */
  shadow = false;
  /** Offsets in bytes from the block's start: of this instruction and of the next. */
  offset = 0;
  next = 0;

  constructor(b: IrBuilder, modeKey: number) {
    this.b = b;
    this.modeKey = modeKey;
    this.codeBits = codeSizeOf(modeKey);
    this.stackBits = this.codeBits === 64 ? 64 : (modeKey & MODE.stack32) !== 0 ? 32 : 16;
  }

  get code64(): boolean {
    return this.codeBits === 64;
  }
  get cpl(): number {
    return cplOf(this.modeKey);
  }
  /** Protected mode proper: PE set and not virtual-8086. */
  get protectedMode(): boolean {
    return (this.modeKey & (MODE.protected | MODE.v86)) === MODE.protected;
  }
  get v86(): boolean {
    return (this.modeKey & MODE.v86) !== 0;
  }

  // ---- operands ------------------------------------------------------------------------------------------------

  isMemory(operand: number): boolean {
    return this.insn.opKind(operand) === OpKind.Memory;
  }
  isRegister(operand: number): boolean {
    return this.insn.opKind(operand) === OpKind.Register;
  }
  isImmediate(operand: number): boolean {
    const kind = this.insn.opKind(operand);
    return kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64;
  }

  /** Size in bits of a general-register or memory operand. */
  bits(operand: number): Bits {
    if (this.isRegister(operand)) return generalRegister(this.insn.opRegister(operand)).bits;
    return this.memoryBits();
  }

  /** Size in bits of the memory operand, where it is one of 8, 16, 32, 64. */
  memoryBits(): Bits {
    const bits = MemorySizeExt.size(this.insn.memorySize) * 8;
    if (bits !== 8 && bits !== 16 && bits !== 32 && bits !== 64) throw new UndefinedInstruction();
    return bits;
  }

  /** An immediate, sign-extended from 32 bits. */
  immediate(operand: number): number {
    return Number(BigInt.asIntN(32, this.insn.immediate(operand)));
  }

  register(operand: number): Loc {
    return generalRegister(this.insn.opRegister(operand)).loc;
  }

  /** A location that holds the operand's value: the register itself, or a temporary with the memory or immediate. */
  read(operand: number, bits: Bits = this.bits(operand)): Loc {
    const kind = this.insn.opKind(operand);
    if (kind === OpKind.Register) return this.register(operand);
    if (kind === OpKind.Memory) return this.load(bits, this.address(bits));
    const t = this.b.temp();
    if (bits === 64) return this.b.const64(t, this.insn.immediate(operand));
    return this.b.op(`const.${bits}`, { dst: t, imm: this.immediate(operand) });
  }

  /** Writes `value` to a register or memory operand. */
  write(operand: number, value: Loc, bits: Bits = this.bits(operand)): void {
    if (this.isRegister(operand)) this.b.op(`mov.${bits}`, { dst: this.register(operand), a: value });
    else this.store(bits, this.address(bits, true), value);
  }

  // ---- memory --------------------------------------------------------------------------------------------------

  /** Width of the memory operand's effective address. */
  addressBits(): CodeSize {
    const { memoryBase: base, memoryIndex: index } = this.insn;
    const register = base !== Register.None ? base : index;
    if (register === Register.RIP) return 64;
    if (register === Register.EIP) return 32;
    if (register !== Register.None && isGeneralRegister(register)) {
      const { bits } = generalRegister(register);
      if (bits !== 8) return bits;
    }
    const size = this.insn.memoryDisplSize;
    return size === 8 ? 64 : size === 4 ? 32 : size === 2 ? 16 : this.codeBits;
  }

  /** The effective address (no segment) of the memory operand in a location, zero-extended to 64 bits. */
  effectiveAddress(): Loc {
    const { insn, b } = this;
    const bits = this.addressBits();
    const base = insn.memoryBase;
    const index = insn.memoryIndex;
    const wide = BigInt.asIntN(64, insn.memoryDisplacement);
    const t = b.temp();
    if (base === Register.RIP || base === Register.EIP) {
      // The decoder's IP is the offset from the block's start, so this is relative to that.
      this.blockRelative(t, wide);
      return bits === 32 ? b.op('zext.32.64', { dst: t, a: t }) : t;
    }
    const disp = Number(BigInt.asIntN(32, wide));
    if (BigInt(disp) !== wide && bits === 64) {
      if (base !== Register.None || index !== Register.None)
        throw new Error('64-bit displacement with registers');
      return b.const64(t, wide);
    }
    if (base === Register.None && index === Register.None) {
      if (bits === 64) return b.const64(t, wide);
      b.op('const.32', { dst: t, imm: bits === 16 ? disp & 0xffff : disp });
      return t;
    }
    const scale = Math.log2(insn.memoryIndexScale);
    const name = base === Register.None ? 'lea0' : index === Register.None ? 'lea1' : 'lea2';
    return b.op(`${name}.${bits}`, {
      dst: t,
      a: base === Register.None ? 0 : generalRegister(base).loc,
      b: index === Register.None ? 0 : generalRegister(index).loc,
      imm: disp,
      c: index === Register.None ? 0 : scale,
    });
  }

  /** dst = linear-in-segment address of block start + offset, for RIP-relative operands. */
  blockRelative(dst: Loc, offset: bigint): Loc {
    const small = Number(BigInt.asIntN(32, offset));
    if (BigInt(small) === offset) return this.b.op('rip.64', { dst, imm: small });
    const t = this.b.temp();
    this.b.op('rip.64', { dst, imm: 0 });
    this.b.const64(t, offset);
    return this.b.op('add.64', { dst, a: dst, b: t });
  }

  /**
   * The linear address of the instruction's memory operand for an access of `bits` (128 for 16 bytes; the access size
   * matters for limit checks): segment base added, limits checked.
   */
  address(bits: Bits | 48 | 80 | 128, write = false, info = 0): Address {
    const { insn } = this;
    const segment = this.memorySegment();
    const width = this.addressBits();
    const plain = this.#flat(segment);
    const base = insn.memoryBase;
    const stack = segment === Register.SS ? ACCESS_INFO.stack : 0;
    const disp = BigInt.asIntN(32, insn.memoryDisplacement);
    const direct = insn.memoryIndex === Register.None && isGeneralRegister(base);
    if (
      plain &&
      direct &&
      width === (this.code64 ? 64 : 32) &&
      (width === 32 || disp === BigInt.asIntN(64, insn.memoryDisplacement))
    ) {
      const address: Address = {
        loc: generalRegister(base).loc,
        disp: Number(disp),
        width,
        info: info | stack,
      };
      this.#checkAlignment(address, bits);
      return address;
    }
    return this.segmented(segment, this.effectiveAddress(), bits, write, info);
  }

  /** The memory operand's segment. 64-bit code ignores overrides but those with FS and GS. */
  memorySegment(): Register {
    const { memorySegment: segment, memoryBase: base } = this.insn;
    if (!this.code64 || segment === Register.FS || segment === Register.GS) return segment;
    switch (base) {
      case Register.RSP:
      case Register.ESP:
      case Register.RBP:
      case Register.EBP:
        return Register.SS;
      default:
        return Register.DS;
    }
  }

  /** The linear address of `offset` (a location, zero-extended) in a segment. */
  segmented(segment: Register, offset: Loc, bits: Bits | 48 | 80 | 128, write: boolean, info = 0): Address {
    const { b } = this;
    const stack = segment === Register.SS ? ACCESS_INFO.stack : 0;
    let loc = offset;
    if (this.code64) {
      if (segment === Register.FS || segment === Register.GS) {
        loc = b.temp();
        b.op('add.64', { dst: loc, a: offset, b: segmentRegister(segment) + SEG_FIELD.base });
      }
    } else if (!this.#flat(segment)) {
      loc = b.temp();
      b.op('seglin', {
        dst: loc,
        a: offset,
        b: segmentRegister(segment),
        imm:
          (bits / 8 - 1) |
          (write ? SEGLIN_WRITE : 0) |
          ((info & ACCESS_INFO.aligned) !== 0 ? SEGLIN_ALIGNED : 0),
      });
    }
    const address: Address = { loc, disp: 0, width: this.code64 ? 64 : 32, info: info | stack };
    this.#checkAlignment(address, bits);
    return address;
  }

  #flat(segment: Register): boolean {
    if (this.code64) return segment !== Register.FS && segment !== Register.GS;
    switch (segmentRegister(segment)) {
      case DS:
        return (this.modeKey & MODE.flatDs) !== 0;
      case ES:
        return (this.modeKey & MODE.flatEs) !== 0;
      case SS:
        return (this.modeKey & MODE.flatSs) !== 0;
      case CS:
      case FS:
      case GS:
      default:
        return false;
    }
  }

  /** #AC where it is live. Operands of 6, 10 and 16 bytes have rules of their own. */
  #checkAlignment({ loc, disp, width }: Address, bits: number): void {
    if ((this.modeKey & MODE.alignmentCheck) === 0 || bits === 8 || bits === 48 || bits > 64) return;
    this.b.op(`align.a${width}`, { a: loc, imm: disp, c: bits / 8 - 1 });
  }

  /** Loads 8..64 bits into a fresh temporary. */
  load(bits: Bits, { loc, disp, width, info }: Address): Loc {
    return this.b.op(`ld.${bits}.a${width}`, { dst: this.b.temp(), a: loc, imm: disp, c: info });
  }
  /** The load of a read-modify-write: raises what the store would. The store after it cannot fault. */
  loadForWrite(bits: Bits | 128, { loc, disp, width, info }: Address): Loc {
    return this.b.op(`ldw.${bits}.a${width}`, {
      dst: this.b.temp(),
      a: loc,
      imm: disp,
      c: info | ACCESS_INFO.forWrite,
    });
  }
  store(bits: Bits, { loc, disp, width, info }: Address, value: Loc): void {
    this.b.op(`st.${bits}.a${width}`, { a: loc, b: value, imm: disp, c: info });
  }
  /** 16 bytes; put ACCESS_INFO.aligned into the address's info where misalignment raises #GP(0). */
  load128({ loc, disp, width, info }: Address, dst: Loc = this.b.temp()): Loc {
    return this.b.op(`ld.128.a${width}`, { dst, a: loc, imm: disp, c: info });
  }
  store128({ loc, disp, width, info }: Address, value: Loc): void {
    this.b.op(`st.128.a${width}`, { a: loc, b: value, imm: disp, c: info });
  }
  /** Linear address as one location (64 bits), for callouts (Mmu.linearAt). */
  linear({ loc, disp, width }: Address): Loc {
    if (disp === 0 && width === 64) return loc;
    return this.b.op(`lea1.${width}`, { dst: this.b.temp(), a: loc, imm: disp });
  }

  // ---- stack ---------------------------------------------------------------------------------------------------

  /** The address `delta` bytes from the stack pointer, and the new stack pointer in a temporary. */
  stackSlot(delta: number, bits: Bits, write: boolean): { pointer: Loc; address: Address } {
    const pointer = this.b.op(`lea1.${this.stackBits}`, { dst: this.b.temp(), a: RSP, imm: delta });
    return { pointer, address: this.segmented(Register.SS, pointer, bits, write) };
  }
  setStackPointer(pointer: Loc): void {
    this.b.op(`mov.${this.stackBits}`, { dst: RSP, a: pointer });
  }
  push(value: Loc, bits: Bits): void {
    const { pointer, address } = this.stackSlot(-bits / 8, bits, true);
    this.store(bits, address, value);
    this.setStackPointer(pointer);
  }
  /** Loads the top of the stack; the caller commits `pointer` once nothing can fault any more. */
  peek(bits: Bits): { value: Loc; pointer: Loc } {
    const { address } = this.stackSlot(0, bits, false);
    const value = this.load(bits, address);
    const pointer = this.b.op(`lea1.${this.stackBits}`, { dst: this.b.temp(), a: RSP, imm: bits / 8 });
    return { value, pointer };
  }
  pop(bits: Bits): Loc {
    const { value, pointer } = this.peek(bits);
    this.setStackPointer(pointer);
    return value;
  }

  // ---- control flow --------------------------------------------------------------------------------------------

  /** The address of the next instruction (an offset in CS), zero-extended. */
  nextIp(): Loc {
    return this.b.op(`rip.${this.codeBits}`, { dst: this.b.temp(), imm: this.next });
  }
  /** Raises an exception at this instruction; nothing follows. */
  raise(vector: number): void {
    this.b.op('raise', { imm: vector });
  }
  /** Ends the block after this instruction and looks for events: for anything that changes mode, IF or mappings. */
  endBlock(): void {
    this.b.op(`end.${this.codeBits}`, { imm: this.next });
  }
  /** Ends the block after a callout that has set RIP. */
  endAtRip(): void {
    this.b.op('endrip', {});
  }
  /** #GP(0) at lift time where CPL (part of the mode) forbids the instruction. */
  requireCpl0(): boolean {
    if (this.cpl === 0) return true;
    this.b.op('raise', { imm: VECTOR.GP });
    return false;
  }
}
