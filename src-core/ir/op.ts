import type { Callout } from '../x86/callout.ts';
import type { CodeWriter } from '../wasm/writer.ts';
import type { ValueType } from '../wasm/opcodes.ts';

/**
 * An IR operation is defined once, as a function that emits its wasm. The interpreter generator calls it with
 * operands that are read from the vCPU state through the micro-op's fields; the translator calls it with operands
 * that stand in wasm locals. Nothing else knows what an operation does.
 *
 * Operands are locations: byte offsets in the vCPU state (x86/layout.ts): a general register (GPR + 8 n, or + 1 for
 * AH..BH), an XMM register, a temporary. How many of its bytes take part is the operation's affair.
 */
export type Loc = number;

/** Sizes of an access to the guest's memory. */
export type AccessBytes = 1 | 2 | 4 | 8 | 16;

/** Bits of an integer operand or result. */
export type Bits = 8 | 16 | 32 | 64;

/**
 * The arithmetic that flags come from, by locals: add and sub give r from x and y (no carry in), logic gives r. Values
 * of 8 and 16 bits stand zero-extended in x and y; the upper bits of r are not defined.
 */
export interface FlagArithmetic {
  kind: 'add' | 'sub' | 'logic';
  bits: Bits;
  x: number;
  y: number;
  r: number;
}

/** A complete set of arithmetic flags, as code that need not be emitted where nothing looks at them. */
export interface FlagSource {
  /** Pushes FLAGS_RESULT (i64). Reads scratch locals of its operation only. */
  result: () => void;
  /** Pushes FLAGS_AUX (i32). Likewise. */
  aux: () => void;
  arithmetic?: FlagArithmetic;
}

/**
 * Loads of ES, DS, FS and GS in protected mode (parameters: selector, segment register number, i32 each); what SYSENTER and
 * SYSEXIT do outside long mode but for RIP and RSP; and what SYSCALL and SYSRET do in 64-bit code but for general registers,
 * the arithmetic flags and RIP (parameters of SYSRET: the low half of R11, the high half of RCX).
 */
/** What engines may do themselves instead of calling out: runs of string iterations (x86/string-bulk.ts), IRET's and control registers' plain cases, PCMPISTRI. */
export type InsteadName = 'stringRun' | 'interruptReturn' | 'controlRead' | 'compareStrings';
export type QuickName = 'loadSegment' | 'sysenter' | 'sysexit' | 'syscall' | 'sysret';

/** What an operation's emitter has to work with. All methods append to `w`. */
export interface OpGen {
  readonly w: CodeWriter;
  /** The operation's immediate where it is known while emitting (the translator), undefined in the interpreter. */
  readonly immediate: number | undefined;
  /** Pushes operand a / b / dst: i32 zero-extended for 8, 16 and 32 bits, i64 for 64. */
  a(bits: Bits): void;
  b(bits: Bits): void;
  dst(bits: Bits): void;
  /** Pushes operand a / b / dst as v128. */
  a128(): void;
  b128(): void;
  dst128(): void;
  /** Pushes an i64 loaded from operand + offset bytes (0 or 8): the halves of a 16-byte slot. */
  aHalf(offset: number): void;
  bHalf(offset: number): void;
  /** Writes what `value` pushes (i32 for up to 32 bits, i64 for 64) to dst: 8 and 16 bits merge, 32 zero-extend to 64. */
  set(bits: Bits, value: () => void): void;
  set128(value: () => void): void;
  /** Writes an i64 to half 0 or 8 of a 16-byte dst. */
  setHalf(offset: number, value: () => void): void;
  /** Pushes the immediate as i32, or sign-extended as i64. */
  imm32(): void;
  imm64(): void;
  /** Pushes the 64-bit constant of a `const64` operation. */
  wide(): void;
  /** Pushes field c (0..65535) as i32. */
  c(): void;
  /** A scratch local of this type; different n are different locals. Its value does not survive the operation. */
  scratch(type: ValueType, n: number): number;
  /** Pushes FLAGS_RESULT (i64) / FLAGS_AUX (i32). */
  flagsResult(): void;
  flagsAux(): void;
  /** Writes all arithmetic flags. The source's scratch locals belong to it from here on: do not write them again. */
  setFlags(source: FlagSource): void;
  /** The flags as they are now, for a source that changes some of them; to be called at most once, before `setFlags`. */
  captureFlags(): FlagSource;
  /** Where the flags came from, when that is known and nothing changed them since. */
  flagArithmetic(): FlagArithmetic | undefined;
  /** Pushes / writes a word of vCPU state that is no operand. */
  state32(offset: number): void;
  state64(offset: number): void;
  setState32(offset: number, value: () => void): void;
  setState64(offset: number, value: () => void): void;
  /** Leaves guest code with a fault at this instruction. Code after it (in the same wasm block) is dead. */
  fault(vector: number, errorCode: number): void;
  /**
   * Calls a callout with this operation's operands; leaves guest code when it faulted, or when something wants
   * attention. It must be the last thing the operation does on its path.
   */
  callout(callout: Callout): void;
  /** The same for the callout that the operation itself names. */
  calloutOfOp(): void;
  /** The same as callout for what hardly ever happens: the operation is done once more where that costs less room. */
  rareCallout(callout: Callout): void;
  /**
   * Calls what an engine has for the plain cases of an operation and pushes (i32) whether that did all there is to do; else
   * nothing was done. It reads and writes no general register, no flags and no temporary.
   */
  quick(name: QuickName, parameters: () => void): void;
  /** The same as calloutOfOp, unless what an engine has for it does it by itself. */
  calloutOfOpUnless(name: InsteadName): void;
  /**
   * Pushes what is in the guest's memory at a linear address, which `address` puts into a local where it is needed (i32
   * for addresses of 32 bits, else i64): i32 up to 4 bytes, i64 for 8, v128 for 16. `forWrite` asks for write permission
   * too (read-modify-write). Field c says which segment's fault a non-canonical address raises and whether 16 bytes must
   * be aligned (ACCESS_INFO). The operation has changed nothing before.
   */
  load(address: () => number, width: 32 | 64, bytes: AccessBytes, forWrite: boolean): void;
  /** Stores what `value` pushes (i32 up to 4 bytes, i64 for 8, v128 for 16) to the guest's memory. Likewise. */
  store(address: () => number, width: 32 | 64, bytes: AccessBytes, value: () => void): void;
  /** Ends the block: RIP += the immediate, truncated to the code size. */
  jump(codeBits: 16 | 32 | 64): void;
  /** Ends the block: RIP += the immediate where `condition` pushes non-zero (i32), else field c. */
  branch(codeBits: 16 | 32 | 64, condition: () => void): void;
  /** RIP += the immediate where `condition` pushes non-zero, else on with the next operation. */
  skip(codeBits: 16 | 32 | 64, condition: () => void): void;
  /** Ends the block: RIP = what `target` pushes (i64). */
  jumpAbsolute(target: () => void): void;
  /** The same where the target may well be the one of the last time. */
  jumpVia(target: () => void): void;
  /** Ends the block and returns to the run loop with RIP as it stands. */
  leave(): void;
}

/** How an operation uses the arithmetic flags. */
export type FlagUse = 'none' | 'write' | 'read' | 'readwrite';

export interface OpDef {
  /** Unique: "add.32", "ld.64". */
  readonly name: string;
  /** Dense, process-local. */
  readonly id: number;
  /** Operands read: any of 'a', 'b', 'd' (dst is read too). */
  readonly reads: string;
  /** Whether dst is written. */
  readonly writes: boolean;
  /** Bits of dst that are written by definition (for liveness): 128 for XMM. */
  readonly bits: Bits | 128;
  readonly flags: FlagUse;
  /** Writes the flags on some paths only, or through a callout: they must stand in the vCPU state before and after. */
  readonly flagsInState: boolean;
  /** Can fault, call out, or leave guest code: state must be precise before it. */
  readonly leaves: boolean;
  /** Ends the block: RIP is set. */
  readonly terminates: boolean;
  readonly emit: (g: OpGen) => void;
}

export interface OpTraits {
  reads?: string;
  writes?: boolean;
  flags?: FlagUse;
  flagsInState?: boolean;
  leaves?: boolean;
  terminates?: boolean;
}

const table: OpDef[] = [];
const byName = new Map<string, OpDef>();

/** Defines an operation; called while modules load. */
export function defineOp(name: string, bits: Bits | 128, traits: OpTraits, emit: (g: OpGen) => void): OpDef {
  if (byName.has(name)) throw new Error(`IR operation ${name} is defined twice`);
  const def: OpDef = {
    name,
    id: table.length,
    bits,
    reads: traits.reads ?? 'ab',
    writes: traits.writes ?? true,
    flags: traits.flags ?? 'none',
    flagsInState: traits.flagsInState ?? false,
    leaves: traits.leaves ?? false,
    terminates: traits.terminates ?? false,
    emit,
  };
  table.push(def);
  byName.set(name, def);
  return def;
}

/** Every operation, by id. */
export function ops(): readonly OpDef[] {
  return table;
}

/** An operation by name. An unknown name is a programming error and throws. */
export function op(name: string): OpDef {
  const def = byName.get(name);
  if (!def) throw new Error(`no IR operation ${name}`);
  return def;
}

/** One IR operation with its operands. */
export interface IrOp {
  readonly def: OpDef;
  dst: Loc;
  a: Loc;
  b: Loc;
  /** Signed 32 bits. */
  imm: number;
  /** Unsigned 16 bits. */
  c: number;
  /** 64-bit constant of `const64`. */
  wide: bigint;
  /** What operation `callout` calls. */
  callout: Callout | undefined;
}
