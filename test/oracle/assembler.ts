/**
 * A very small 64-bit assembler over iced-x86's block encoder: instructions in order, labels, branches.
 */
import { BlockEncoder, BlockEncoderOptions, Instruction, MemoryOperand, Register } from 'iced-x86';
import type { Code } from 'iced-x86';

/** A place in the program; bound once, branched to from anywhere. */
export class Label {
  readonly name: string;
  index = -1;
  constructor(name: string) {
    this.name = name;
  }
}

/** Memory operand [base + displacement], 64-bit addressing. */
export function mem(base: Register, displacement = 0): MemoryOperand {
  return new MemoryOperand(
    base,
    Register.None,
    1,
    BigInt(displacement),
    displacement === 0 ? 0 : 1,
    false,
    Register.None,
  );
}

/** Memory operand [base + index * scale], 64-bit addressing. */
export function memIndex(base: Register, index: Register, scale: number): MemoryOperand {
  return new MemoryOperand(base, index, scale, 0n, 0, false, Register.None);
}

/** Memory operand at a fixed address within 2 GiB of the program, RIP-relative. */
export function memAt(address: bigint): MemoryOperand {
  return new MemoryOperand(Register.RIP, Register.None, 1, address, 8, false, Register.None);
}

export class Assembler {
  private readonly instructions: Instruction[] = [];
  private readonly fixups: { instruction: Instruction; label: Label }[] = [];

  /** Appends an instruction. */
  emit(instruction: Instruction): void {
    // The block encoder knows a branch target by the address its instruction had before encoding: number them.
    instruction.ip = BigInt(this.instructions.length + 1);
    this.instructions.push(instruction);
  }

  /** Binds a label to the next instruction. */
  bind(label: Label): void {
    if (label.index >= 0) throw new Error(`label ${label.name} bound twice`);
    label.index = this.instructions.length;
  }

  /** Appends a near branch to a label. */
  branch(code: Code, label: Label): void {
    const instruction = Instruction.createBranch(code, 0n);
    this.fixups.push({ instruction, label });
    this.emit(instruction);
  }

  /** Appends LEA of a label's address. */
  leaLabel(code: Code, register: Register, label: Label): void {
    const instruction = Instruction.createRegMem(code, register, memAt(0n));
    this.fixups.push({ instruction, label });
    this.emit(instruction);
  }

  /**
   * Encodes everything at the given address.
   * @throws Error when a label is unbound or an instruction can't be encoded.
   */
  assemble(address: bigint): Uint8Array {
    const encoder = new BlockEncoder(64, BlockEncoderOptions.None);
    for (const { instruction, label } of this.fixups) {
      if (label.index < 0) throw new Error(`label ${label.name} is not bound`);
      const target = BigInt(label.index + 1);
      if (instruction.memoryBase === Register.RIP) instruction.memoryDisplacement = target;
      else instruction.nearBranch64 = target;
    }
    for (const instruction of this.instructions) encoder.add(instruction);
    const bytes = encoder.encode(address);
    encoder.free();
    for (const instruction of this.instructions) instruction.free();
    return bytes;
  }
}
