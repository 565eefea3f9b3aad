import { Mnemonic, OpKind } from '../iced.ts';
import { defineCallout } from '../callout.ts';
import { checkIoPermission } from '../io-permission.ts';
import { RAX, RDI, RDX, RSI } from '../layout.ts';
import { ACCESS } from '../paging.ts';
import { readPort, writePort } from '../ports.ts';
import type { LiftContext } from './context.ts';
import { repeat, StringInstruction } from './string.ts';
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

/** imm of INS and OUTS, which is for those who want to know what instruction it is. */
export const STRING_IO = { repeated: 1, address16: 2, address32: 4, address64: 8 } as const;
const ADDRESS_SIZES = {
  16: STRING_IO.address16,
  32: STRING_IO.address32,
  64: STRING_IO.address64,
} as const;

// INS and OUTS of one element: a = linear address (64 bits), c = bytes, imm = STRING_IO. The port is DX.
export const insElement = defineCallout('ins', 'portIo', (cpu, _dst, a, _b, _imm, c) => {
  const { mmu } = cpu;
  const port = cpu.u16[RDX >> 1]!;
  checkIoPermission(cpu, port, c);
  const address = mmu.linearAt(a);
  mmu.probe(address, c, ACCESS.write);
  const value = readPort(cpu, port, c);
  if (c === 1) mmu.write8(address, value);
  else if (c === 2) mmu.write16(address, value);
  else mmu.write32(address, value);
});
export const outsElement = defineCallout('outs', 'portIo', (cpu, _dst, a, _b, _imm, c) => {
  const { mmu } = cpu;
  const port = cpu.u16[RDX >> 1]!;
  checkIoPermission(cpu, port, c);
  const address = mmu.linearAt(a);
  const value = c === 1 ? mmu.read8(address) : c === 2 ? mmu.read16(address) : mmu.read32(address);
  writePort(cpu, port, c, value);
});

/** Permission for c bytes at the port in DX: where it can be refused it is asked for before REP looks at its counter. */
const checkPermission = defineCallout('ins.check', 'portIo', (cpu, _dst, _a, _b, _imm, c) =>
  checkIoPermission(cpu, cpu.u16[RDX >> 1]!, c),
);

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

for (const [input, output, bits] of [
  [Mnemonic.Insb, Mnemonic.Outsb, 8],
  [Mnemonic.Insw, Mnemonic.Outsw, 16],
  [Mnemonic.Insd, Mnemonic.Outsd, 32],
] as const) {
  for (const [mnemonic, callout, index] of [
    [input, insElement, RDI],
    [output, outsElement, RSI],
  ] as const) {
    lift(mnemonic, (cx) => {
      if (cx.cpl > 0) cx.b.callout(checkPermission, { c: bits / 8 });
      const s = new StringInstruction(cx, bits);
      const repeated = cx.insn.hasRepPrefix || cx.insn.hasRepnePrefix;
      const imm = ADDRESS_SIZES[s.width] | (repeated ? STRING_IO.repeated : 0);
      repeat(cx, s.width, () => {
        cx.b.callout(callout, { a: cx.linear(s.address(index, index === RDI)), imm, c: bits / 8 });
        s.advance(index);
      });
      if (!cx.b.ended) cx.endBlock();
    });
  }
}
