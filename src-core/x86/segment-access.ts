import { ATTR_DB, ATTR_P, ATTR_UNUSABLE, TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_WRITABLE } from './bits.ts';
import { defineCallout } from './callout.ts';
import { GuestFault, VECTOR } from './faults.ts';
import { SEG_FIELD, SS } from './layout.ts';

/**
 * The full check of an access through a segment outside 64-bit mode (Intel SDM volume 3, sections 5.3 and 5.5): operand
 * a is the offset, b the segment register's location, imm the size minus 1 and, in bit 8, whether it writes, in bit 9
 * whether it must be aligned to 16 bytes; dst gets the linear address. Raises #SS(0) through SS and #GP(0) through the
 * others, and #GP(0) for misalignment.
 */
export const segmentAccess = defineCallout('segment.access', 'descriptor', (cpu, dst, a, b, imm) => {
  const attributes = cpu.get32(b + SEG_FIELD.attributes);
  const limit = cpu.get32(b + SEG_FIELD.limit);
  const offset = cpu.get32(a);
  const last = offset + (imm & 0xff);
  const write = (imm & 0x100) !== 0;
  const refuse = (): GuestFault => new GuestFault(b === SS ? VECTOR.SS : VECTOR.GP);
  const linear = (cpu.get32(b + SEG_FIELD.base) + offset) >>> 0;
  if ((imm & 0x200) !== 0 && (linear & 15) !== 0) throw new GuestFault(VECTOR.GP);
  if ((attributes & ATTR_UNUSABLE) !== 0 || (attributes & ATTR_P) === 0) throw refuse();
  const writable = (attributes & TYPE_WRITABLE) !== 0;
  if ((attributes & TYPE_CODE) !== 0) {
    // Real and virtual-8086 mode let code segments be written (their attributes are those of data there).
    if (write || !writable) throw refuse();
    if (last > limit) throw refuse();
  } else {
    if (write && !writable) throw refuse();
    if ((attributes & TYPE_EXPAND_DOWN) !== 0) {
      const top = (attributes & ATTR_DB) !== 0 ? 0xffffffff : 0xffff;
      if (offset <= limit || last > top) throw refuse();
    } else if (last > limit && limit !== 0xffffffff) {
      throw refuse();
    }
  }
  cpu.set32(dst, linear);
  cpu.set32(dst + 4, 0);
});
