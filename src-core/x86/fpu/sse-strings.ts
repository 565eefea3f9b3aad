/** SSE4.2: string comparison (Intel SDM volume 1, section 12.10.3; volume 2, section 4.1) and CRC32. */
import { FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF, FLAGS_ARITHMETIC } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { RCX, XMM } from '../layout.ts';

/** Field c of `compareStrings`. */
export const STRINGS = { explicit: 1, index: 2 } as const;

/** Fields of the control byte. */
export const STRING_CONTROL = {
  words: 1,
  signed: 2,
  aggregationShift: 2,
  polarityShift: 4,
  /** Index: the most significant set bit, not the least. Mask: expanded to bytes or words. */
  high: 0x40,
} as const;

/** How elements are compared. */
export const AGGREGATION = { equalAny: 0, ranges: 1, equalEach: 2, equalOrdered: 3 } as const;

/** Elements of one operand, and how many are valid. */
interface Text {
  readonly elements: Int32Array;
  length: number;
}

/** The operands of the comparison under way: static C libraries do so many that allocating them each time shows. */
const textA: Text = { elements: new Int32Array(16), length: 0 };
const textB: Text = { elements: new Int32Array(16), length: 0 };

/** Reads an operand's elements; all of them are valid up to the first zero. */
function readText(cpu: Cpu, loc: number, control: number, count: number, text: Text): void {
  const { elements } = text;
  const signed = (control & STRING_CONTROL.signed) !== 0;
  const { u8 } = cpu;
  text.length = count;
  for (let i = count - 1; i >= 0; i--) {
    let value: number;
    if (count === 8) {
      value = u8[loc + 2 * i]! | (u8[loc + 2 * i + 1]! << 8);
      if (signed) value = (value << 16) >> 16;
    } else {
      value = u8[loc + i]!;
      if (signed) value = (value << 24) >> 24;
    }
    elements[i] = value;
    if (value === 0) text.length = i;
  }
}

/** An explicit length: the magnitude of a signed number, at most the number of elements. */
function explicitLength(value: bigint, count: number): number {
  const magnitude = value < 0n ? -value : value;
  return magnitude > BigInt(count) ? count : Number(magnitude);
}

/** The comparison of single elements, with what invalid ones count as; then aggregated to one bit an element of b. */
function aggregate(a: Text, b: Text, mode: number, count: number): number {
  let result = 0;
  for (let j = 0; j < count; j++) if (bitOf(a, b, mode, count, j)) result |= 1 << j;
  return result;
}

function bitOf(a: Text, b: Text, mode: number, count: number, j: number): boolean {
  const validB = j < b.length;
  const value = b.elements[j]!;
  switch (mode) {
    case AGGREGATION.equalAny:
      if (!validB) return false;
      for (let i = 0; i < a.length; i++) if (a.elements[i] === value) return true;
      return false;
    case AGGREGATION.ranges:
      if (!validB) return false;
      for (let i = 0; i + 1 < a.length; i += 2) {
        if (value >= a.elements[i]! && value <= a.elements[i + 1]!) return true;
      }
      return false;
    case AGGREGATION.equalEach: {
      const validA = j < a.length;
      return validA && validB ? a.elements[j] === value : !validA && !validB;
    }
    default:
      for (let i = 0; i < count - j && i < a.length; i++) {
        if (j + i >= b.length || a.elements[i] !== b.elements[j + i]) return false;
      }
      return true;
  }
}

/** PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: operands a and b, `imm` the control byte, lengths at dst and dst + 8. */
export const compareStrings = defineCallout('compareStrings', 'otherCallout', (cpu, dst, a, b, imm, c) => {
  const count = (imm & STRING_CONTROL.words) !== 0 ? 8 : 16;
  readText(cpu, a, imm, count, textA);
  readText(cpu, b, imm, count, textB);
  if ((c & STRINGS.explicit) !== 0) {
    textA.length = explicitLength(cpu.i64[dst >> 3]!, count);
    textB.length = explicitLength(cpu.i64[(dst >> 3) + 1]!, count);
  }
  const lengthA = textA.length;
  const lengthB = textB.length;
  const raw = aggregate(textA, textB, (imm >> STRING_CONTROL.aggregationShift) & 3, count);
  const every = (1 << count) - 1;
  const polarity = (imm >> STRING_CONTROL.polarityShift) & 3;
  const valid = (1 << lengthB) - 1;
  const result = polarity === 1 ? raw ^ every : polarity === 3 ? raw ^ valid : raw;

  if ((c & STRINGS.index) !== 0) {
    const high = (imm & STRING_CONTROL.high) !== 0;
    const index = result === 0 ? count : high ? 31 - Math.clz32(result) : 31 - Math.clz32(result & -result);
    cpu.set32(RCX, index);
    cpu.set32(RCX + 4, 0);
  } else {
    writeMask(cpu, result, count, (imm & STRING_CONTROL.high) !== 0);
  }
  cpu.rflags =
    (cpu.rflags & ~FLAGS_ARITHMETIC) |
    (result !== 0 ? FLAG_CF : 0) |
    (lengthB < count ? FLAG_ZF : 0) |
    (lengthA < count ? FLAG_SF : 0) |
    ((result & 1) !== 0 ? FLAG_OF : 0);
});

/** XMM0 = the bits, zero-extended or each expanded to an element. */
function writeMask(cpu: Cpu, result: number, count: number, expanded: boolean): void {
  if (!expanded) {
    cpu.set64(XMM, BigInt(result));
    cpu.set64(XMM + 8, 0n);
    return;
  }
  const size = 16 / count;
  for (let byte = 0; byte < 16; byte++) {
    cpu.u8[XMM + byte] = ((result >> Math.floor(byte / size)) & 1) !== 0 ? 0xff : 0;
  }
}

/** CRC-32C, bits reversed: polynomial 0x11EDC6F41. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) !== 0 ? 0x82f63b78 : 0);
  return crc >>> 0;
});

/** CRC32: accumulates the c bits at location b into the low 32 bits of a; the result fills 64 bits of dst. */
export const crc32 = defineCallout('crc32', 'otherCallout', (cpu, dst, a, b, _imm, c) => {
  let crc = cpu.get32(a);
  for (let byte = 0; byte < c / 8; byte++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ cpu.u8[b + byte]!) & 0xff]!;
  cpu.set64(dst, BigInt(crc >>> 0));
});
