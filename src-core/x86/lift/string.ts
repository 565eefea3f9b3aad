import { Mnemonic, OpKind, Register } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { RAX, RCX, RDI, RSI } from '../layout.ts';
import { MODE } from '../mode.ts';
import { BULK, repMovsRun, repStosRun } from '../string-bulk.ts';
import { type LiftContext, UndefinedInstruction } from './context.ts';
import { segmentRegister } from './registers.ts';
import { lift, type Lifter } from './table.ts';

/** Address size of a string instruction, from which index register it uses. */
function indexBits(cx: LiftContext): 16 | 32 | 64 {
  for (let operand = 0; operand < cx.insn.opCount; operand++) {
    switch (cx.insn.opKind(operand)) {
      case OpKind.MemorySegSI:
      case OpKind.MemorySegDI:
      case OpKind.MemoryESDI:
        return 16;
      case OpKind.MemorySegESI:
      case OpKind.MemorySegEDI:
      case OpKind.MemoryESEDI:
        return 32;
      case OpKind.MemorySegRSI:
      case OpKind.MemorySegRDI:
      case OpKind.MemoryESRDI:
        return 64;
      default:
    }
  }
  return cx.codeBits;
}

/** One string instruction: index registers, element size, segments and the step by DF. */
export class StringInstruction {
  readonly cx: LiftContext;
  readonly bits: Bits;
  readonly width: 16 | 32 | 64;
  readonly #step: Loc;

  constructor(cx: LiftContext, bits: Bits) {
    this.cx = cx;
    this.bits = bits;
    this.width = indexBits(cx);
    this.#step = cx.b.op('step', { dst: cx.b.temp(), imm: bits / 8 });
  }

  /** Linear address through SI (in the overridable segment) or DI (in ES). */
  address(index: Loc, write: boolean): ReturnType<LiftContext['segmented']> {
    const { cx } = this;
    const offset = cx.b.op(`lea1.${this.width}`, { dst: cx.b.temp(), a: index, imm: 0 });
    return cx.segmented(index === RSI ? cx.memorySegment() : Register.ES, offset, this.bits, write);
  }

  /** Moves an index register on by one element. */
  advance(index: Loc): void {
    this.cx.b.op(`add.${this.width}`, { dst: index, a: index, b: this.#step });
  }
}

/**
 * Wraps one iteration into REP: nothing when the counter is zero, else an iteration, the counter less one, and round
 * again by executing the same instruction anew, so that interrupts and faults find it restartable. `whileZero` says
 * which ZF goes on (REPE 1, REPNE 0); `bulk` may do most of the work first.
 */
export function repeat(
  cx: LiftContext,
  width: 16 | 32 | 64,
  iteration: () => void,
  { compare = false, bulk }: { compare?: boolean; bulk?: () => void } = {},
): void {
  const { b, insn } = cx;
  const repeated = insn.hasRepPrefix || insn.hasRepnePrefix;
  if (!repeated) {
    iteration();
    return;
  }
  b.op(`skipz.${width}.${cx.codeBits}`, { a: RCX, imm: cx.next });
  if ((cx.modeKey & MODE.single) === 0) bulk?.();
  iteration();
  b.op(`add.${width}i`, { dst: RCX, a: RCX, imm: -1 });
  const more = b.op(`nonzero.${width}`, { dst: b.temp(), a: RCX });
  if (compare) {
    const flag = b.op(insn.hasRepnePrefix ? 'set.ne' : 'set.e', { dst: b.temp() });
    b.op('and.8', { dst: more, a: more, b: flag });
  }
  b.op(`jif.${cx.codeBits}`, { a: more, imm: cx.offset, c: cx.next });
}

/** Location of a segment register for the bulk callouts, 0 where it is flat. */
function bulkSegment(cx: LiftContext, segment: Register): Loc {
  const loc = segmentRegister(segment);
  if (cx.code64) return segment === Register.FS || segment === Register.GS ? loc : 0;
  if (segment === Register.ES && (cx.modeKey & MODE.flatEs) !== 0) return 0;
  if (segment === Register.DS && (cx.modeKey & MODE.flatDs) !== 0) return 0;
  return loc;
}

/** imm of the bulk callouts. */
function bulkShape(s: StringInstruction): number {
  return Math.log2(s.bits / 8) | (Math.log2(s.width / 16) << BULK.addressShift);
}

function sizes(
  byte: Mnemonic,
  word: Mnemonic,
  dword: Mnemonic,
  qword: Mnemonic,
): readonly [Mnemonic, Bits][] {
  return [
    [byte, 8],
    [word, 16],
    [dword, 32],
    [qword, 64],
  ];
}

lift(Mnemonic.Movsb, (cx) => liftMovs(cx, 8));
lift(Mnemonic.Movsw, (cx) => liftMovs(cx, 16));
lift(Mnemonic.Movsq, (cx) => liftMovs(cx, 64));

/** MOVSD is also the name of an SSE2 instruction: see the end of this file. */
function liftMovs(cx: LiftContext, bits: Bits): void {
  const s = new StringInstruction(cx, bits);
  repeat(
    cx,
    s.width,
    () => {
      const value = cx.load(bits, s.address(RSI, false));
      cx.store(bits, s.address(RDI, true), value);
      s.advance(RSI);
      s.advance(RDI);
    },
    {
      bulk: () =>
        cx.b.calloutUnless('stringrun', repMovsRun, {
          a: bulkSegment(cx, cx.memorySegment()),
          b: bulkSegment(cx, Register.ES),
          imm: bulkShape(s),
        }),
    },
  );
}

for (const [mnemonic, bits] of sizes(Mnemonic.Stosb, Mnemonic.Stosw, Mnemonic.Stosd, Mnemonic.Stosq)) {
  lift(mnemonic, (cx) => {
    const s = new StringInstruction(cx, bits);
    repeat(
      cx,
      s.width,
      () => {
        cx.store(bits, s.address(RDI, true), RAX);
        s.advance(RDI);
      },
      {
        bulk: () =>
          cx.b.calloutUnless('stringrun', repStosRun, { b: bulkSegment(cx, Register.ES), imm: bulkShape(s) }),
      },
    );
  });
}

for (const [mnemonic, bits] of sizes(Mnemonic.Lodsb, Mnemonic.Lodsw, Mnemonic.Lodsd, Mnemonic.Lodsq)) {
  lift(mnemonic, (cx) => {
    const s = new StringInstruction(cx, bits);
    repeat(cx, s.width, () => {
      const value = cx.load(bits, s.address(RSI, false));
      s.advance(RSI);
      cx.b.op(`mov.${bits}`, { dst: RAX, a: value });
    });
  });
}

for (const [mnemonic, bits] of sizes(Mnemonic.Scasb, Mnemonic.Scasw, Mnemonic.Scasd, Mnemonic.Scasq)) {
  lift(mnemonic, (cx) => {
    const s = new StringInstruction(cx, bits);
    repeat(
      cx,
      s.width,
      () => {
        const value = cx.load(bits, s.address(RDI, false));
        s.advance(RDI);
        cx.b.op(`cmpf.${bits}`, { a: RAX, b: value });
      },
      { compare: true },
    );
  });
}

lift(Mnemonic.Cmpsb, (cx) => liftCmps(cx, 8));
lift(Mnemonic.Cmpsw, (cx) => liftCmps(cx, 16));
lift(Mnemonic.Cmpsq, (cx) => liftCmps(cx, 64));

/** CMPSD likewise. */
function liftCmps(cx: LiftContext, bits: Bits): void {
  const s = new StringInstruction(cx, bits);
  repeat(
    cx,
    s.width,
    () => {
      const x = cx.load(bits, s.address(RSI, false));
      const y = cx.load(bits, s.address(RDI, false));
      s.advance(RSI);
      s.advance(RDI);
      cx.b.op(`cmpf.${bits}`, { a: x, b: y });
    },
    { compare: true },
  );
}

/** What MOVSD and CMPSD mean where they are SSE2 instructions. */
const scalarDouble = new Map<Mnemonic, Lifter>();

/** MOVSD and CMPSD with XMM operands belong to the SSE2 lifters, which claim them here. */
export function claimScalarDouble(
  mnemonic: typeof Mnemonic.Movsd | typeof Mnemonic.Cmpsd,
  lifter: Lifter,
): void {
  scalarDouble.set(mnemonic, lifter);
}

function isString(cx: LiftContext): boolean {
  const kind = cx.insn.opKind(0);
  return kind !== OpKind.Register && kind !== OpKind.Memory;
}

for (const [mnemonic, string] of [
  [Mnemonic.Movsd, liftMovs],
  [Mnemonic.Cmpsd, liftCmps],
] as const) {
  lift(mnemonic, (cx) => {
    if (isString(cx)) return string(cx, 32);
    const lifter = scalarDouble.get(mnemonic);
    if (!lifter) throw new UndefinedInstruction();
    lifter(cx);
  });
}
