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
 * All c bytes have to be writable, stored or not.
 */
export const maskedStore = defineCallout('maskedStore', 'otherCallout', (cpu, dst, a, b, _imm, c) => {
  const lin = cpu.mmu.linearAt(dst);
  cpu.mmu.probe(lin, c, ACCESS.write);
  for (let byte = 0; byte < c; byte++) {
    if ((cpu.u8[b + byte]! & 0x80) !== 0) cpu.mmu.write8(lin + byte, cpu.u8[a + byte]!);
  }
});
