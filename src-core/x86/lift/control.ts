import { Code, Mnemonic, OpKind, Register } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { CONDITIONS } from '../../ir/ops/flags.ts';
import { RBP, RCX, RSP } from '../layout.ts';
import { MODE } from '../mode.ts';
import type { LiftContext } from './context.ts';
import { generalRegister, isGeneralRegister } from './registers.ts';
import { lift } from './table.ts';

/** Where a relative branch goes, as an offset from the block's start (the decoder's IP of which is 0). */
function branchOffset(cx: LiftContext): number {
  return Number(BigInt.asIntN(32, cx.insn.nearBranchTarget));
}

/** Width of a near transfer: operand size outside 64-bit mode, always 64 in it. */
function transferBits(cx: LiftContext): 16 | 32 | 64 {
  if (cx.code64) return 64;
  const kind = cx.insn.opKind(0);
  return kind === OpKind.NearBranch16 ? 16 : 32;
}

/** True where a target must be compared with CS.limit before anything is committed. */
function limited(cx: LiftContext): boolean {
  return !cx.code64 && (cx.modeKey & MODE.flatCs) === 0;
}

/** Checks a branch target in a location (an offset in CS). */
function checkTarget(cx: LiftContext, target: Loc): void {
  if (cx.code64) cx.b.op('canonical', { a: target });
  else if (limited(cx)) cx.b.op('codelimit', { a: target });
}

function checkRelative(cx: LiftContext, bits: 16 | 32 | 64, offset: number): void {
  if (!limited(cx)) return;
  checkTarget(cx, cx.b.op(`rip.${bits}`, { dst: cx.b.temp(), imm: offset }));
}

/** A jump target from a register or memory operand, zero-extended. */
function indirectTarget(cx: LiftContext): { target: Loc; bits: 16 | 32 | 64 } {
  const { b } = cx;
  const bits = cx.code64 ? 64 : cx.bits(0) === 16 ? 16 : 32;
  const target = b.temp();
  const source = cx.read(0, bits);
  if (bits === 64) b.op('mov.64', { dst: target, a: source });
  else b.op(`zext.${bits}.64`, { dst: target, a: source });
  return { target, bits };
}

lift(Mnemonic.Jmp, (cx) => {
  const { b } = cx;
  const kind = cx.insn.opKind(0);
  if (kind === OpKind.NearBranch16 || kind === OpKind.NearBranch32 || kind === OpKind.NearBranch64) {
    const bits = transferBits(cx);
    const offset = branchOffset(cx);
    checkRelative(cx, bits, offset);
    b.op(`jmp.${bits}`, { imm: offset });
    return;
  }
  if (farTransfer?.(cx)) return;
  const { target, bits } = indirectTarget(cx);
  checkTarget(cx, target);
  jumpVia(cx, target, bits, undefined);
});

/** Ends the block with a near jump through a register or memory, or a call with the next instruction at offset `next`. */
function jumpVia({ b, codeBits }: LiftContext, target: Loc, bits: Bits, next: number | undefined): void {
  // Where 16-bit code goes is not learned, nor what a prefix makes of the other size.
  if (bits === codeBits && bits !== 16) {
    b.exit = { kind: 'via', next };
    b.op('jvia', { a: target });
  } else {
    b.op('jind', { a: target });
  }
}

/** Far JMP and CALL belong to another file. */
let farTransfer: ((cx: LiftContext) => boolean) | undefined;
export function claimFarTransfers(claim: (cx: LiftContext) => boolean): void {
  farTransfer = claim;
}

lift(Mnemonic.Call, (cx) => {
  const { b } = cx;
  const kind = cx.insn.opKind(0);
  if (kind === OpKind.NearBranch16 || kind === OpKind.NearBranch32 || kind === OpKind.NearBranch64) {
    const bits = transferBits(cx);
    const offset = branchOffset(cx);
    checkRelative(cx, bits, offset);
    cx.push(cx.nextIp(), bits);
    b.exit = { kind: 'call', next: cx.next };
    b.op(`jmp.${bits}`, { imm: offset });
    return;
  }
  if (farTransfer?.(cx)) return;
  const { target, bits } = indirectTarget(cx);
  checkTarget(cx, target);
  cx.push(cx.nextIp(), bits);
  jumpVia(cx, target, bits, cx.next);
});

lift(Mnemonic.Ret, (cx) => {
  const { b, insn } = cx;
  const bits: 16 | 32 | 64 = cx.code64 ? 64 : insn.stackPointerIncrement - releasedBytes(cx) === 2 ? 16 : 32;
  const { value, pointer } = cx.peek(bits);
  const target = b.temp();
  if (bits === 64) b.op('mov.64', { dst: target, a: value });
  else b.op(`zext.${bits}.64`, { dst: target, a: value });
  checkTarget(cx, target);
  const released = releasedBytes(cx);
  if (released > 0) b.op(`lea1.${cx.stackBits}`, { dst: pointer, a: pointer, imm: released });
  cx.setStackPointer(pointer);
  b.exit = { kind: 'return' };
  b.op('jind', { a: target });
});

/** The immediate of RET imm16. */
function releasedBytes(cx: LiftContext): number {
  return cx.insn.opCount === 1 ? cx.immediate(0) & 0xffff : 0;
}

/** Mnemonics of each condition, in encoding order. */
const JCC = [
  Mnemonic.Jo,
  Mnemonic.Jno,
  Mnemonic.Jb,
  Mnemonic.Jae,
  Mnemonic.Je,
  Mnemonic.Jne,
  Mnemonic.Jbe,
  Mnemonic.Ja,
  Mnemonic.Js,
  Mnemonic.Jns,
  Mnemonic.Jp,
  Mnemonic.Jnp,
  Mnemonic.Jl,
  Mnemonic.Jge,
  Mnemonic.Jle,
  Mnemonic.Jg,
];
const SETCC = [
  Mnemonic.Seto,
  Mnemonic.Setno,
  Mnemonic.Setb,
  Mnemonic.Setae,
  Mnemonic.Sete,
  Mnemonic.Setne,
  Mnemonic.Setbe,
  Mnemonic.Seta,
  Mnemonic.Sets,
  Mnemonic.Setns,
  Mnemonic.Setp,
  Mnemonic.Setnp,
  Mnemonic.Setl,
  Mnemonic.Setge,
  Mnemonic.Setle,
  Mnemonic.Setg,
];
const CMOVCC = [
  Mnemonic.Cmovo,
  Mnemonic.Cmovno,
  Mnemonic.Cmovb,
  Mnemonic.Cmovae,
  Mnemonic.Cmove,
  Mnemonic.Cmovne,
  Mnemonic.Cmovbe,
  Mnemonic.Cmova,
  Mnemonic.Cmovs,
  Mnemonic.Cmovns,
  Mnemonic.Cmovp,
  Mnemonic.Cmovnp,
  Mnemonic.Cmovl,
  Mnemonic.Cmovge,
  Mnemonic.Cmovle,
  Mnemonic.Cmovg,
];

/** True where taken and not taken differ in more than the address: in the limit check, or in the width of IP. */
function chosenTarget(cx: LiftContext, bits: 16 | 32 | 64): boolean {
  return limited(cx) || bits !== cx.codeBits;
}

/**
 * The target of such a conditional jump on `condition` (an 8-bit truth): the fault comes, and IP is cut to the operand
 * size, only when the jump is taken.
 */
function conditionalTarget(cx: LiftContext, bits: 16 | 32 | 64, offset: number, condition: Loc): Loc {
  const { b } = cx;
  const taken = b.op(`rip.${bits}`, { dst: b.temp(), imm: offset });
  if (limited(cx)) {
    // Offset 0 is always within the limit; the next instruction may not be, but then the fault is its own.
    const checked = b.op('movif.64', { dst: b.const64(b.temp(), 0n), a: taken, b: condition });
    checkTarget(cx, checked);
  }
  return b.op('movif.64', { dst: cx.nextIp(), a: taken, b: condition });
}

CONDITIONS.forEach((name, code) => {
  lift(JCC[code]!, (cx) => {
    const bits = transferBits(cx);
    const offset = branchOffset(cx);
    if (chosenTarget(cx, bits)) {
      const condition = cx.b.op(`set.${name}`, { dst: cx.b.temp() });
      cx.b.op('jind', { a: conditionalTarget(cx, bits, offset, condition) });
    } else cx.b.op(`j${name}.${bits}`, { imm: offset, c: cx.next });
  });
  lift(SETCC[code]!, (cx) => {
    if (cx.isRegister(0)) cx.b.op(`set.${name}`, { dst: cx.register(0) });
    else cx.store(8, cx.address(8, true), cx.b.op(`set.${name}`, { dst: cx.b.temp() }));
  });
  lift(CMOVCC[code]!, (cx) => {
    const { b } = cx;
    const bits = cx.bits(0);
    const source = cx.read(1, bits);
    const dst = cx.register(0);
    const result = b.op(`mov.${bits}`, { dst: b.temp(), a: dst });
    b.op(`movif.${bits}`, { dst: result, a: source, b: b.op(`set.${name}`, { dst: b.temp() }) });
    b.op(`mov.${bits}`, { dst, a: result });
  });
});

/** LOOP, LOOPE, LOOPNE and JrCXZ count in rCX of the address size. */
function counterBits(mnemonics: readonly [Mnemonic, 16 | 32 | 64][]) {
  return (cx: LiftContext): 16 | 32 | 64 =>
    mnemonics.find(([m]) => m === cx.insn.mnemonic)?.[1] ?? cx.codeBits;
}
const jcxzBits = counterBits([
  [Mnemonic.Jcxz, 16],
  [Mnemonic.Jecxz, 32],
  [Mnemonic.Jrcxz, 64],
]);

function jumpIf(cx: LiftContext, condition: Loc): void {
  const bits = transferBits(cx);
  const offset = branchOffset(cx);
  if (chosenTarget(cx, bits)) cx.b.op('jind', { a: conditionalTarget(cx, bits, offset, condition) });
  else cx.b.op(`jif.${bits}`, { a: condition, imm: offset, c: cx.next });
}

lift([Mnemonic.Jcxz, Mnemonic.Jecxz, Mnemonic.Jrcxz], (cx) => {
  const { b } = cx;
  const zero = b.op(`nonzero.${jcxzBits(cx)}`, { dst: b.temp(), a: RCX });
  b.op('xor.8i', { dst: zero, a: zero, imm: 1 });
  jumpIf(cx, zero);
});

/** The counter's width, which is the address size and not among the operands. */
const LOOP_BITS = new Map<Code, 16 | 32 | 64>();
for (const name of ['Loop', 'Loope', 'Loopne'] as const) {
  for (const branch of [16, 32] as const) {
    LOOP_BITS.set(Code[`${name}_rel8_${branch}_CX`], 16);
    LOOP_BITS.set(Code[`${name}_rel8_${branch}_ECX`], 32);
  }
  LOOP_BITS.set(Code[`${name}_rel8_64_ECX`], 32);
  for (const branch of [16, 64] as const) LOOP_BITS.set(Code[`${name}_rel8_${branch}_RCX`], 64);
}

lift([Mnemonic.Loop, Mnemonic.Loope, Mnemonic.Loopne], (cx) => {
  const { b, insn } = cx;
  const bits = LOOP_BITS.get(insn.code) ?? cx.codeBits;
  const counter = b.op(`lea1.${bits}`, { dst: b.temp(), a: RCX, imm: -1 });
  const go = b.op(`nonzero.${bits}`, { dst: b.temp(), a: counter });
  if (insn.mnemonic !== Mnemonic.Loop) {
    const flag = b.op(insn.mnemonic === Mnemonic.Loope ? 'set.e' : 'set.ne', { dst: b.temp() });
    b.op('and.8', { dst: go, a: go, b: flag });
  }
  const width = transferBits(cx);
  const chosen = chosenTarget(cx, width);
  const target = chosen ? conditionalTarget(cx, width, branchOffset(cx), go) : 0;
  b.op(`mov.${bits}`, { dst: RCX, a: counter });
  if (chosen) b.op('jind', { a: target });
  else b.op(`jif.${width}`, { a: go, imm: branchOffset(cx), c: cx.next });
});

// ---- stack -------------------------------------------------------------------------------------------------------

lift(Mnemonic.Push, (cx) => {
  if (pushPopSegment?.(cx)) return;
  const { b, insn } = cx;
  const bits = stackOperandBits(cx);
  let value: Loc;
  if (cx.isImmediate(0)) {
    value = b.temp();
    if (bits === 64) b.const64(value, insn.immediate(0));
    else b.op(`const.${bits}`, { dst: value, imm: cx.immediate(0) });
  } else value = cx.read(0, bits);
  cx.push(value, bits);
});

/** PUSH and POP of segment registers belong to another file. */
let pushPopSegment: ((cx: LiftContext) => boolean) | undefined;
export function claimSegmentPushPop(claim: (cx: LiftContext) => boolean): void {
  pushPopSegment = claim;
}

/** How many bits a PUSH or POP moves: what it does to the stack pointer. */
function stackOperandBits(cx: LiftContext): Bits {
  return (Math.abs(cx.insn.stackPointerIncrement) * 8) as Bits;
}

lift(Mnemonic.Pop, (cx) => {
  if (pushPopSegment?.(cx)) return;
  const { b, insn } = cx;
  const bits = stackOperandBits(cx);
  if (cx.isRegister(0)) {
    const { value, pointer } = cx.peek(bits);
    cx.setStackPointer(pointer);
    b.op(`mov.${bits}`, { dst: cx.register(0), a: value });
    return;
  }
  const { value, pointer } = cx.peek(bits);
  // An address through rSP is computed with the pointer already moved (Intel SDM volume 2, "POP").
  const usesStack = isGeneralRegister(insn.memoryBase) && generalRegister(insn.memoryBase).loc === RSP;
  if (!usesStack) {
    cx.store(bits, cx.address(bits, true), value);
    cx.setStackPointer(pointer);
    return;
  }
  const saved = b.op('mov.64', { dst: b.temp(), a: RSP });
  cx.setStackPointer(pointer);
  const offset = cx.effectiveAddress();
  b.op('mov.64', { dst: RSP, a: saved });
  cx.store(bits, cx.segmented(cx.memorySegment(), offset, bits, true), value);
  cx.setStackPointer(pointer);
});

lift([Mnemonic.Pusha, Mnemonic.Pushad], (cx) => {
  const { b } = cx;
  const bits = cx.insn.mnemonic === Mnemonic.Pushad ? 32 : 16;
  const bytes = bits / 8;
  // In the order of the pushes, so that a fault names the first slot that is not writable. What was stored by then lies
  // below the stack pointer, which moves last: the instruction can start again.
  let pointer = RSP;
  for (let n = 0; n < 8; n++) {
    const slot = cx.stackSlot(-bytes * (n + 1), bits, true);
    cx.store(bits, slot.address, RAX_BASE + n * 8);
    pointer = slot.pointer;
  }
  b.op(`mov.${cx.stackBits}`, { dst: RSP, a: pointer });
});
const RAX_BASE = RSP - 32;

lift([Mnemonic.Popa, Mnemonic.Popad], (cx) => {
  const { b } = cx;
  const bits = cx.insn.mnemonic === Mnemonic.Popad ? 32 : 16;
  const bytes = bits / 8;
  const values: Loc[] = [];
  for (let n = 0; n < 8; n++)
    values.push(n === 3 ? 0 : cx.load(bits, cx.stackSlot(bytes * n, bits, false).address));
  const { pointer } = cx.stackSlot(bytes * 8, bits, false);
  values.forEach((value, n) => {
    if (n !== 3) b.op(`mov.${bits}`, { dst: RAX_BASE + (7 - n) * 8, a: value });
  });
  cx.setStackPointer(pointer);
});

lift(Mnemonic.Leave, (cx) => {
  const { b } = cx;
  const bits = LEAVE_BITS.get(cx.insn.code) ?? cx.codeBits;
  const pointer = b.op(`lea1.${cx.stackBits}`, { dst: b.temp(), a: RBP, imm: 0 });
  const value = cx.load(bits, cx.segmented(Register.SS, pointer, bits, false));
  const after = b.op(`lea1.${cx.stackBits}`, { dst: b.temp(), a: pointer, imm: bits / 8 });
  cx.setStackPointer(after);
  b.op(`mov.${bits}`, { dst: RBP, a: value });
});

const LEAVE_BITS = new Map<Code, 16 | 32 | 64>([
  [Code.Leavew, 16],
  [Code.Leaved, 32],
  [Code.Leaveq, 64],
]);

const ENTER_BITS = new Map<Code, 16 | 32 | 64>([
  [Code.Enterw_imm16_imm8, 16],
  [Code.Enterd_imm16_imm8, 32],
  [Code.Enterq_imm16_imm8, 64],
]);

lift(Mnemonic.Enter, (cx) => {
  const { b, insn } = cx;
  const bits = ENTER_BITS.get(insn.code) ?? cx.codeBits;
  const bytes = bits / 8;
  const size = Number(insn.immediate(0)) & 0xffff;
  const level = Number(insn.immediate(1)) & 31;
  const first = cx.stackSlot(-bytes, bits, true);
  cx.store(bits, first.address, RBP);
  let frame = first.pointer;
  if (cx.stackBits < bits) {
    // A 32-bit frame pointer on a 16-bit stack is ESP, not SP.
    frame = b.op('mov.64', { dst: b.temp(), a: RSP });
    b.op(`mov.${cx.stackBits}`, { dst: frame, a: first.pointer });
  }
  let pushed = 1;
  for (let n = 1; n < level; n++) {
    b.scoped(() => {
      const offset = b.op(`lea1.${cx.stackBits}`, { dst: b.temp(), a: RBP, imm: -bytes * n });
      const value = cx.load(bits, cx.segmented(Register.SS, offset, bits, false));
      cx.store(bits, cx.stackSlot(-bytes * ++pushed, bits, true).address, value);
    });
  }
  if (level > 0) cx.store(bits, cx.stackSlot(-bytes * ++pushed, bits, true).address, frame);
  // The final top of the stack must be writable, though nothing is written there.
  const last = cx.stackSlot(-bytes * pushed - size, bits, true);
  cx.loadForWrite(bits, last.address);
  b.op(`mov.${bits === 64 ? 64 : bits}`, { dst: RBP, a: frame });
  cx.setStackPointer(last.pointer);
});

lift(Mnemonic.Bound, (cx) => {
  const { b } = cx;
  const bits = cx.bits(0) === 16 ? 16 : 32;
  const segment = cx.memorySegment();
  const place = cx.effectiveAddress();
  const lower = cx.load(bits, cx.segmented(segment, place, bits, false));
  const behind = b.op(`lea1.${cx.addressBits()}`, { dst: b.temp(), a: place, imm: bits / 8 });
  const upper = cx.load(bits, cx.segmented(segment, behind, bits, false));
  b.op(`bound.${bits}`, { dst: cx.register(0), a: lower, b: upper });
});
