import { Mnemonic, OpKind } from 'iced-x86';
import { defineCallout } from '../callout.ts';
import { RAX, RDX } from '../layout.ts';
import { readPort, writePort } from '../ports.ts';
import type { LiftContext } from './context.ts';
import { lift } from './table.ts';

// Operands: dst or b = value, of c bytes; a = port (16 bits) with imm < 0, else imm is the port.
export const portRead = defineCallout('in', 'portIo', (cpu, dst, a, _b, imm, c) => {
  const value = readPort(cpu, imm < 0 ? cpu.u16[a >> 1]! : imm, c);
  if (c === 1) cpu.u8[dst] = value;
  else if (c === 2) cpu.u16[dst >> 1] = value;
  else {
    cpu.set32(dst, value);
    cpu.set32(dst + 4, 0);
  }
});
export const portWrite = defineCallout('out', 'portIo', (cpu, _dst, a, b, imm, c) => {
  const value = c === 1 ? cpu.u8[b]! : c === 2 ? cpu.u16[b >> 1]! : cpu.get32(b);
  writePort(cpu, imm < 0 ? cpu.u16[a >> 1]! : imm, c, value);
});

/** The port operand as fields of a callout. */
function portFields(cx: LiftContext, operand: number): { a: number; imm: number } {
  const immediate = cx.insn.opKind(operand) === OpKind.Immediate8;
  return immediate ? { a: 0, imm: cx.insn.immediate8 } : { a: RDX, imm: -1 };
}

// A device may have raised or dropped its interrupt, or asked the run loop to come back: the block ends.
lift(Mnemonic.In, (cx) => {
  cx.b.callout(portRead, { dst: RAX, ...portFields(cx, 1), c: cx.bits(0) / 8 });
  cx.endBlock();
});
lift(Mnemonic.Out, (cx) => {
  cx.b.callout(portWrite, { b: RAX, ...portFields(cx, 0), c: cx.bits(1) / 8 });
  cx.endBlock();
});
