import { defineCallout } from '../callout.ts';
import { gp } from '../faults.ts';
import { FPU } from '../layout.ts';
import { ACCESS } from '../mmu.ts';
import { MXCSR_MASK } from './environment.ts';

/** LDMXCSR with the word in location a: reserved bits raise #GP(0). */
export const ldmxcsr = defineCallout('ldmxcsr', 'floatingPoint', (cpu, _dst, a) => {
  const value = cpu.get32(a);
  if ((value & ~MXCSR_MASK) !== 0) throw gp();
  cpu.set32(FPU.mxcsr, value);
});

/**
 * MASKMOVQ, MASKMOVDQU: the first c bytes of a whose byte in b has bit 7 set, to the linear address in location dst.
 * Bytes that are not stored do not fault.
 */
export const maskedStore = defineCallout('maskedStore', 'otherCallout', (cpu, dst, a, b, _imm, c) => {
  const stored: number[] = [];
  for (let byte = 0; byte < c; byte++) {
    if ((cpu.u8[b + byte]! & 0x80) !== 0) stored.push(byte);
  }
  if (stored.length === 0) return;
  const lin = cpu.mmu.linearAt(dst);
  for (const byte of stored) cpu.mmu.probe(lin + byte, 1, ACCESS.write);
  for (const byte of stored) cpu.mmu.write8(lin + byte, cpu.u8[a + byte]!);
});
