import { Code, Mnemonic } from '../iced.ts';
import { FLAG_OF } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import { callFar, jumpFar, returnFar, type OperandSize } from '../far.ts';
import { VECTOR } from '../faults.ts';
import { deliverInterrupt, type EventType } from '../interrupts.ts';
import { interruptReturn } from '../iret.ts';
import { GPR, MSR, RCX, RDX, RIP, RSP } from '../layout.ts';
import { MODE } from '../mode.ts';
import type { Loc } from '../../ir/op.ts';
import { attendToFlags } from '../system-flags.ts';
import { syscall, sysenterCallout, sysexitCallout, sysret } from '../syscall.ts';
import { getSigned, setSigned } from '../words.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { claimFarTransfers } from './control.ts';
import { lift } from './table.ts';

const R11 = GPR + 11 * 8;

// Operands of jmp.far and call.far: dst = selector (16 bits, read), a = offset (64 bits), b = address of the next
// instruction (64 bits), imm = operand size in bits.
const farJump = defineCallout('jmp.far', 'farTransfer', (cpu, dst, a, _b, imm) =>
  jumpFar(cpu, cpu.u16[dst >> 1]!, getSigned(cpu, a), imm as OperandSize),
);
const farCall = defineCallout('call.far', 'farTransfer', (cpu, dst, a, b, imm) =>
  callFar(cpu, cpu.u16[dst >> 1]!, getSigned(cpu, a), imm as OperandSize, getSigned(cpu, b)),
);
/** imm = operand size in bits, c = bytes of parameters to release. */
const farReturn = defineCallout('ret.far', 'farTransfer', (cpu, _dst, _a, _b, imm, c) =>
  returnFar(cpu, imm as OperandSize, c),
);
/** imm = operand size in bits. */
export const iret = defineCallout('iret', 'farTransfer', (cpu, _dst, _a, _b, imm) => {
  interruptReturn(cpu, imm as OperandSize);
  attendToFlags(cpu);
});

const SOFTWARE_TYPES: readonly EventType[] = ['software', 'softwareException', 'icebp'];
/** imm = vector, c = index in SOFTWARE_TYPES, a = address of the next instruction (64 bits). */
const softwareInterrupt = defineCallout('int', 'farTransfer', (cpu, _dst, a, _b, imm, c) => {
  deliverInterrupt(cpu, imm, { type: SOFTWARE_TYPES[c]!, returnRip: getSigned(cpu, a) });
});
/** a = address of the next instruction (64 bits). */
const interruptOnOverflow = defineCallout('into', 'farTransfer', (cpu, _dst, a) => {
  const next = getSigned(cpu, a);
  if ((cpu.rflags & FLAG_OF) === 0) setSigned(cpu, RIP, next);
  else deliverInterrupt(cpu, VECTOR.OF, { type: 'softwareException', returnRip: next });
});

/** a = address of the next instruction (64 bits). */
const syscallCallout = defineCallout('syscall', 'systemCall', (cpu, _dst, a) =>
  syscall(cpu, getSigned(cpu, a)),
);
/** imm = operand size in bits. */
const sysretCallout = defineCallout('sysret', 'systemCall', (cpu, _dst, _a, _b, imm) => {
  sysret(cpu, imm);
  attendToFlags(cpu);
});

/** Goes on at the RIP a callout has set; where that set IF or TF it has ended the run in progress (attendToFlags). */
function continueAtRip(cx: LiftContext): void {
  if ((cx.modeKey & MODE.single) !== 0) cx.endAtRip();
  else cx.b.op('jind', { a: RIP });
}

const OPERAND_SIZES = new Map<Code, OperandSize>([
  [Code.Jmp_ptr1616, 16],
  [Code.Jmp_ptr1632, 32],
  [Code.Jmp_m1616, 16],
  [Code.Jmp_m1632, 32],
  [Code.Jmp_m1664, 64],
  [Code.Call_ptr1616, 16],
  [Code.Call_ptr1632, 32],
  [Code.Call_m1616, 16],
  [Code.Call_m1632, 32],
  [Code.Call_m1664, 64],
  [Code.Retfw, 16],
  [Code.Retfw_imm16, 16],
  [Code.Retfd, 32],
  [Code.Retfd_imm16, 32],
  [Code.Retfq, 64],
  [Code.Retfq_imm16, 64],
  [Code.Iretw, 16],
  [Code.Iretd, 32],
  [Code.Iretq, 64],
  [Code.Sysretd, 32],
  [Code.Sysretq, 64],
  [Code.Sysexitd, 32],
  [Code.Sysexitq, 64],
]);

function operandSize(cx: LiftContext): OperandSize {
  const size = OPERAND_SIZES.get(cx.insn.code);
  if (size === undefined) throw new UndefinedInstruction();
  return size;
}

/** A far pointer in memory, two accesses: its offset, zero-extended to 64 bits, and its selector. */
export function loadFarPointer(cx: LiftContext, bits: OperandSize): { offset: Loc; selector: Loc } {
  const { b } = cx;
  const segment = cx.memorySegment();
  const place = cx.effectiveAddress();
  const low = cx.load(bits, cx.segmented(segment, place, bits, false));
  const offset = bits === 64 ? low : b.op(`zext.${bits}.64`, { dst: b.temp(), a: low });
  const behind = b.op(`lea1.${cx.addressBits()}`, { dst: b.temp(), a: place, imm: bits / 8 });
  return { offset, selector: cx.load(16, cx.segmented(segment, behind, 16, false)) };
}

/** The far pointer a JMP or CALL names, in the instruction or in memory. */
function farTarget(cx: LiftContext, size: OperandSize): { offset: Loc; selector: Loc } {
  const { b, insn } = cx;
  if (cx.isMemory(0)) return loadFarPointer(cx, size);
  const target = size === 16 ? insn.farBranch16 : insn.farBranch32;
  return {
    offset: b.const64(b.temp(), BigInt(target >>> 0)),
    selector: b.op('const.32', { dst: b.temp(), imm: insn.farBranchSelector }),
  };
}

// JMP and CALL with a far pointer; the near forms have the same mnemonics.
claimFarTransfers((cx) => {
  const size = OPERAND_SIZES.get(cx.insn.code);
  if (size === undefined) return false;
  const { offset, selector } = farTarget(cx, size);
  const callout = cx.insn.mnemonic === Mnemonic.Call ? farCall : farJump;
  cx.b.callout(callout, { dst: selector, a: offset, b: cx.nextIp(), imm: size });
  continueAtRip(cx);
  return true;
});

lift(Mnemonic.Retf, (cx) => {
  const release = cx.insn.opCount === 1 ? cx.insn.immediate16 : 0;
  cx.b.callout(farReturn, { imm: operandSize(cx), c: release });
  continueAtRip(cx);
});

lift([Mnemonic.Iret, Mnemonic.Iretd, Mnemonic.Iretq], (cx) => {
  cx.b.calloutUnless('iret', iret, { imm: operandSize(cx) });
  continueAtRip(cx);
});

function liftInterrupt(cx: LiftContext, vector: number, type: EventType): void {
  cx.b.callout(softwareInterrupt, { a: cx.nextIp(), imm: vector, c: SOFTWARE_TYPES.indexOf(type) });
  continueAtRip(cx);
}
lift(Mnemonic.Int, (cx) => liftInterrupt(cx, cx.insn.immediate8, 'software'));
lift(Mnemonic.Int3, (cx) => liftInterrupt(cx, VECTOR.BP, 'softwareException'));
lift(Mnemonic.Int1, (cx) => liftInterrupt(cx, VECTOR.DB, 'icebp'));
lift(Mnemonic.Into, (cx) => {
  cx.b.callout(interruptOnOverflow, { a: cx.nextIp() });
  continueAtRip(cx);
});

/** SYSENTER and SYSEXIT where they need no callout as a rule. */
function isPlain({ modeKey }: LiftContext): boolean {
  return (modeKey & (MODE.protected | MODE.longMode | MODE.single | MODE.v86)) === MODE.protected;
}

/** Goes on at the 32-bit address in a slot, with the stack pointer from another. */
function goOn({ b }: LiftContext, stackPointer: Loc, target: Loc): void {
  b.op('mov.32', { dst: RSP, a: stackPointer });
  b.op('jind', { a: b.op('zext.32.64', { dst: b.temp(), a: target }) });
}

/** SYSCALL and SYSRET where they need no callout as a rule. */
function isPlain64({ modeKey, code64 }: LiftContext): boolean {
  return code64 && (modeKey & MODE.single) === 0;
}

lift(Mnemonic.Syscall, (cx) => {
  const { b } = cx;
  if (isPlain64(cx)) {
    const flags = b.op('pushf', { dst: b.temp() });
    const next = cx.nextIp();
    b.op('syscall', {});
    b.op('mov.64', { dst: RCX, a: next });
    b.op('mov.64', { dst: R11, a: flags });
    b.op('setflags', { a: flags, b: MSR.sfmask });
    b.op('jind', { a: b.op('mov.64', { dst: b.temp(), a: MSR.lstar }) });
    return;
  }
  cx.b.callout(syscallCallout, { a: cx.nextIp() });
  continueAtRip(cx);
});
lift(Mnemonic.Sysenter, (cx) => {
  if (isPlain(cx)) {
    cx.b.op('sysenter', {});
    goOn(cx, MSR.sysenterEsp, MSR.sysenterEip);
    return;
  }
  cx.b.callout(sysenterCallout);
  continueAtRip(cx);
});
lift([Mnemonic.Sysret, Mnemonic.Sysretq], (cx) => {
  const { b } = cx;
  if (isPlain64(cx) && operandSize(cx) === 64) {
    b.op('sysret', { a: R11, b: RCX, imm: 64 });
    b.op('setflags', { a: R11, b: b.op('const.32', { dst: b.temp(), imm: 0 }) });
    b.op('jind', { a: b.op('mov.64', { dst: b.temp(), a: RCX }) });
    return;
  }
  cx.b.callout(sysretCallout, { imm: operandSize(cx) });
  continueAtRip(cx);
});
lift([Mnemonic.Sysexit, Mnemonic.Sysexitq], (cx) => {
  if (isPlain(cx)) {
    cx.b.op('sysexit', { imm: operandSize(cx) });
    goOn(cx, RCX, RDX);
    return;
  }
  cx.b.callout(sysexitCallout, { imm: operandSize(cx) });
  continueAtRip(cx);
});
