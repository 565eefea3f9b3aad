import { Mnemonic } from '../iced.ts';
import { FLAG_AF, FLAG_CF, FLAG_PF, FLAG_SF, FLAG_ZF, FLAGS_ARITHMETIC } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { GuestFault, VECTOR } from '../faults.ts';
import { RAX } from '../layout.ts';
import { lift } from './table.ts';

/** SF, ZF and PF of a byte. */
function byteFlags(value: number): number {
  let parity = value ^ (value >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return (
    ((value & 0x80) !== 0 ? FLAG_SF : 0) | (value === 0 ? FLAG_ZF : 0) | ((parity & 1) === 0 ? FLAG_PF : 0)
  );
}

function setFlags(cpu: Cpu, arithmetic: number): void {
  cpu.rflags = (cpu.rflags & ~FLAGS_ARITHMETIC) | arithmetic;
}

/** DAA and DAS (Intel SDM volume 2, their pseudocode). */
function decimalAdjust(subtract: boolean) {
  return defineCallout(subtract ? 'das' : 'daa', 'otherCallout', (cpu) => {
    const flags = cpu.rflags;
    const old = cpu.u8[RAX]!;
    let al = old;
    let carry = false;
    const auxiliary = (old & 15) > 9 || (flags & FLAG_AF) !== 0;
    if (auxiliary) {
      al = subtract ? al - 6 : al + 6;
      carry = (flags & FLAG_CF) !== 0 || al < 0 || al > 0xff;
    }
    if (old > 0x99 || (flags & FLAG_CF) !== 0) {
      al = subtract ? al - 0x60 : al + 0x60;
      carry = true;
    } else if (!subtract) carry = false;
    cpu.u8[RAX] = al;
    setFlags(cpu, byteFlags(al & 0xff) | (auxiliary ? FLAG_AF : 0) | (carry ? FLAG_CF : 0));
  });
}

/** AAA and AAS. */
function asciiAdjust(subtract: boolean) {
  return defineCallout(subtract ? 'aas' : 'aaa', 'otherCallout', (cpu) => {
    const adjust = (cpu.u8[RAX]! & 15) > 9 || (cpu.rflags & FLAG_AF) !== 0;
    if (adjust) {
      const ax = cpu.u16[RAX >> 1]!;
      if (subtract) {
        cpu.u16[RAX >> 1] = ax - 6;
        cpu.u8[RAX + 1] = cpu.u8[RAX + 1]! - 1;
      } else cpu.u16[RAX >> 1] = ax + 0x106;
    }
    cpu.u8[RAX] = cpu.u8[RAX]! & 15;
    setFlags(cpu, byteFlags(cpu.u8[RAX]) | (adjust ? FLAG_AF | FLAG_CF : 0));
  });
}

const aam = defineCallout('aam', 'otherCallout', (cpu, _dst, _a, _b, imm) => {
  const base = imm & 0xff;
  if (base === 0) throw new GuestFault(VECTOR.DE);
  const al = cpu.u8[RAX]!;
  cpu.u8[RAX + 1] = Math.floor(al / base);
  cpu.u8[RAX] = al % base;
  setFlags(cpu, byteFlags(al % base));
});

const aad = defineCallout('aad', 'otherCallout', (cpu, _dst, _a, _b, imm) => {
  const al = (cpu.u8[RAX]! + cpu.u8[RAX + 1]! * (imm & 0xff)) & 0xff;
  cpu.u16[RAX >> 1] = al;
  setFlags(cpu, byteFlags(al));
});

const adjustments = [
  [Mnemonic.Daa, decimalAdjust(false)],
  [Mnemonic.Das, decimalAdjust(true)],
  [Mnemonic.Aaa, asciiAdjust(false)],
  [Mnemonic.Aas, asciiAdjust(true)],
] as const;
for (const [mnemonic, callout] of adjustments) lift(mnemonic, (cx) => cx.b.callout(callout));
lift(Mnemonic.Aam, (cx) => cx.b.callout(aam, { imm: cx.immediate(0) }));
lift(Mnemonic.Aad, (cx) => cx.b.callout(aad, { imm: cx.immediate(0) }));
