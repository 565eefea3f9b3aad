import { ATTR_DB, TYPE_CODE, TYPE_EXPAND_DOWN } from './bits.ts';
import type { Cpu } from './cpu.ts';
import { attributesOf, baseOf, limitOf, type Descriptor } from './descriptors.ts';
import { GuestFault, VECTOR } from './faults.ts';
import { CTL, RSP, SEG_FIELD, SS } from './layout.ts';
import { MODE } from './mode.ts';
import { ACCESS } from './paging.ts';
import { getSigned, isCanonical, setSigned } from './words.ts';

/**
 * A stack that an instruction pushes a whole frame to, or pops one from, with every check made before the first
 * byte moves. `reserve` checks a frame, `push` then writes it and `commit` sets RSP; `read16/32` look at what lies
 * above the pointer without moving it.
 */
export class StackView {
  readonly #cpu: Cpu;
  /** 64-bit addressing: no segment, canonical addresses. */
  readonly #long: boolean;
  readonly #base: number;
  readonly #limit: number;
  readonly #expandDown: boolean;
  /** 0xffff or 0xffffffff: the stack address size outside 64-bit mode. */
  readonly #mask: number;
  /** Bits of the pointer above the mask. */
  readonly #rest: number;
  /** Accesses are made as supervisor although CPL is still 3. */
  readonly #supervisor: boolean;
  /** Misaligned accesses raise #AC. */
  readonly #aligned: boolean;
  #pointer: number;

  private constructor(
    cpu: Cpu,
    long: boolean,
    base: number,
    limit: number,
    attributes: number,
    pointer: number,
    supervisor: boolean,
  ) {
    this.#cpu = cpu;
    this.#long = long;
    this.#base = base;
    this.#limit = limit;
    this.#expandDown = (attributes & (TYPE_EXPAND_DOWN | TYPE_CODE)) === TYPE_EXPAND_DOWN;
    this.#mask = (attributes & ATTR_DB) !== 0 ? 0xffffffff : 0xffff;
    this.#rest = long ? 0 : (pointer & ~this.#mask) >>> 0;
    this.#pointer = long ? pointer : (pointer & this.#mask) >>> 0;
    this.#supervisor = supervisor;
    this.#aligned = !supervisor && (cpu.get32(CTL.modeKey) & MODE.alignmentCheck) !== 0;
  }

  /** The stack SS:RSP of the running code. */
  static current(cpu: Cpu): StackView {
    if (cpu.code64) return new StackView(cpu, true, 0, 0, 0, getSigned(cpu, RSP), false);
    return new StackView(
      cpu,
      false,
      cpu.get32(SS + SEG_FIELD.base),
      cpu.get32(SS + SEG_FIELD.limit),
      cpu.get32(SS + SEG_FIELD.attributes),
      cpu.get32(RSP),
      false,
    );
  }

  /** A stack about to be switched to outside long mode, at a level of its own. */
  static inner(cpu: Cpu, segment: Descriptor, pointer: number): StackView {
    return new StackView(cpu, false, baseOf(segment), limitOf(segment), attributesOf(segment), pointer, true);
  }

  /** A stack in long mode at a given pointer; `supervisor` where CPL is about to drop below 3. */
  static long(cpu: Cpu, pointer: number, supervisor: boolean): StackView {
    return new StackView(cpu, true, 0, 0, 0, pointer, supervisor);
  }

  /** Checks that `count` items of `size` bytes can be pushed: #SS(`code`) beyond limits, #PF. */
  reserve(count: number, size: number, code: number): void {
    const bytes = count * size;
    if (this.#long) {
      const bottom = this.#pointer - bytes;
      if (!isCanonical(bottom) || !isCanonical(this.#pointer - 1)) throw new GuestFault(VECTOR.SS, code);
      this.#checkAlignment(bottom, size);
      this.#cpu.mmu.probe(bottom, bytes, ACCESS.write, this.#supervisor);
      return;
    }
    if (this.#pointer >= bytes) {
      const bottom = this.#pointer - bytes;
      this.#check(bottom, bytes, code);
      this.#checkAlignment(this.#base + bottom, size);
      this.#cpu.mmu.probe((this.#base + bottom) >>> 0, bytes, ACCESS.write, this.#supervisor);
      return;
    }
    // The frame wraps around the end of the stack's address space: item by item.
    let pointer = this.#pointer;
    for (let item = 0; item < count; item++) {
      pointer = ((pointer - size) & this.#mask) >>> 0;
      this.#check(pointer, size, code);
      this.#checkAlignment(this.#base + pointer, size);
      this.#cpu.mmu.probe((this.#base + pointer) >>> 0, size, ACCESS.write, this.#supervisor);
    }
  }

  #checkAlignment(linear: number, size: number): void {
    if (this.#aligned && linear % size !== 0) throw new GuestFault(VECTOR.AC, 0);
  }

  #check(offset: number, size: number, code: number): void {
    const last = offset + size - 1;
    const inside = this.#expandDown ? offset > this.#limit && last <= this.#mask : last <= this.#limit;
    if (!inside || last > 0xffffffff) throw new GuestFault(VECTOR.SS, code);
  }

  /** Pushes the low `size` (2, 4 or 8) bytes of a number, sign-extended to 64 bits, within a reserved frame. */
  push(value: number, size: number): void {
    if (size === 8) return this.push64(value >>> 0, Math.floor(value / 0x1_0000_0000));
    const address = this.#down(size);
    if (size === 4) this.#cpu.mmu.write32(address, value >>> 0, this.#supervisor);
    else this.#cpu.mmu.write16(address, value & 0xffff, this.#supervisor);
  }

  /** Pushes a 64-bit word given by its halves, within a reserved frame. */
  push64(low: number, high: number): void {
    const { mmu } = this.#cpu;
    const address = this.#down(8);
    mmu.write32(address, low >>> 0, this.#supervisor);
    mmu.write32(this.#long ? address + 4 : (address + 4) >>> 0, high >>> 0, this.#supervisor);
  }

  #down(size: number): number {
    if (this.#long) return (this.#pointer -= size);
    this.#pointer = ((this.#pointer - size) & this.#mask) >>> 0;
    return (this.#base + this.#pointer) >>> 0;
  }

  /** Linear address of `size` bytes `distance` bytes above the pointer: #SS(0) beyond limits. */
  #above(distance: number, size: number): number {
    if (this.#long) {
      const address = this.#pointer + distance;
      if (!isCanonical(address) || !isCanonical(address + size - 1)) throw new GuestFault(VECTOR.SS, 0);
      this.#checkAlignment(address, size);
      return address;
    }
    const offset = ((this.#pointer + distance) & this.#mask) >>> 0;
    this.#check(offset, size, 0);
    this.#checkAlignment(this.#base + offset, size);
    return (this.#base + offset) >>> 0;
  }

  read16(distance: number): number {
    return this.#cpu.mmu.read16(this.#above(distance, 2), this.#supervisor);
  }

  read32(distance: number): number {
    return this.#cpu.mmu.read32(this.#above(distance, 4), this.#supervisor);
  }

  /** Checks and reads `size` (2 or 4) bytes; of 8 the low half. */
  read(distance: number, size: number): number {
    if (size === 2) return this.read16(distance);
    if (size === 8) this.#above(distance, 8);
    return this.read32(distance);
  }

  /** Moves the pointer up over a popped frame. */
  drop(bytes: number): void {
    this.#pointer = this.#long ? this.#pointer + bytes : ((this.#pointer + bytes) & this.#mask) >>> 0;
  }

  /** Writes the pointer to RSP; with a 16-bit stack the bits above SP come from the pointer it was made with. */
  commit(): void {
    if (this.#long) setSigned(this.#cpu, RSP, this.#pointer);
    else this.#cpu.setGpr32(4, (this.#rest | this.#pointer) >>> 0);
  }
}
