/** SSE4.2: string comparison (Intel SDM volume 1, section 12.10.3; volume 2, section 4.1) and CRC32. */
import { FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF, FLAGS_ARITHMETIC } from '../bits.ts';
import { defineCallout } from '../callout.ts';
import type { Cpu } from '../cpu.ts';
import { RCX, XMM } from '../layout.ts';

/** Field c of `compareStrings`. */
export const STRINGS = { explicit: 1, index: 2 } as const;

/** Fields of the control byte. */
const CONTROL = {
  words: 1,
  signed: 2,
  aggregationShift: 2,
  polarityShift: 4,
  /** Index: the most significant set bit, not the least. Mask: expanded to bytes or words. */
  high: 0x40,
} as const;

const AGGREGATION = { equalAny: 0, ranges: 1, equalEach: 2, equalOrdered: 3 } as const;

/** Elements of one operand, and how many are valid. */
interface Text {
  readonly elements: readonly number[];
  readonly length: number;
}

function readElements(cpu: Cpu, loc: number, control: number): number[] {
  const elements: number[] = [];
  const signed = (control & CONTROL.signed) !== 0;
  const view = new DataView(cpu.u8.buffer, cpu.u8.byteOffset + loc, 16);
  for (let at = 0; at < 16; at += (control & CONTROL.words) !== 0 ? 2 : 1) {
    if ((control & CONTROL.words) !== 0)
      elements.push(signed ? view.getInt16(at, true) : view.getUint16(at, true));
    else elements.push(signed ? view.getInt8(at) : view.getUint8(at));
  }
  return elements;
}

/** An explicit length: the magnitude of a signed number, at most the number of elements. */
function explicitLength(value: bigint, count: number): number {
  const magnitude = value < 0n ? -value : value;
  return magnitude > BigInt(count) ? count : Number(magnitude);
}

/** The comparison of single elements, with what invalid ones count as; then aggregated to one bit an element of b. */
function aggregate(a: Text, b: Text, mode: number, count: number): number {
  let result = 0;
  const equal = (i: number, j: number): boolean => a.elements[i] === b.elements[j];
  for (let j = 0; j < count; j++) {
    const validB = j < b.length;
    let bit = false;
    switch (mode) {
      case AGGREGATION.equalAny:
        for (let i = 0; i < a.length && validB; i++) bit ||= equal(i, j);
        break;
      case AGGREGATION.ranges:
        for (let i = 0; i + 1 < a.length && validB; i += 2) {
          const value = b.elements[j]!;
          bit ||= value >= a.elements[i]! && value <= a.elements[i + 1]!;
        }
        break;
      case AGGREGATION.equalEach: {
        const validA = j < a.length;
        bit = validA && validB ? equal(j, j) : !validA && !validB;
        break;
      }
      default: {
        bit = true;
        for (let i = 0; i < count - j && i < a.length; i++) bit &&= j + i < b.length && equal(i, j + i);
      }
    }
    if (bit) result |= 1 << j;
  }
  return result;
}

/** PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: operands a and b, `imm` the control byte, lengths at dst and dst + 8. */
export const compareStrings = defineCallout('compareStrings', 'otherCallout', (cpu, dst, a, b, imm, c) => {
  const elementsA = readElements(cpu, a, imm);
  const elementsB = readElements(cpu, b, imm);
  const count = elementsA.length;
  const explicit = (c & STRINGS.explicit) !== 0;
  const implicitLength = (elements: readonly number[]): number => {
    const end = elements.indexOf(0);
    return end < 0 ? count : end;
  };
  const lengthA = explicit ? explicitLength(cpu.i64[dst >> 3]!, count) : implicitLength(elementsA);
  const lengthB = explicit ? explicitLength(cpu.i64[(dst >> 3) + 1]!, count) : implicitLength(elementsB);
  const mode = (imm >> CONTROL.aggregationShift) & 3;
  const raw = aggregate(
    { elements: elementsA, length: lengthA },
    { elements: elementsB, length: lengthB },
    mode,
    count,
  );
  const every = (1 << count) - 1;
  const polarity = (imm >> CONTROL.polarityShift) & 3;
  const valid = (1 << lengthB) - 1;
  const result = polarity === 1 ? raw ^ every : polarity === 3 ? raw ^ valid : raw;

  if ((c & STRINGS.index) !== 0) {
    const high = (imm & CONTROL.high) !== 0;
    const index = result === 0 ? count : high ? 31 - Math.clz32(result) : 31 - Math.clz32(result & -result);
    cpu.set64(RCX, BigInt(index));
  } else {
    writeMask(cpu, result, count, (imm & CONTROL.high) !== 0);
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
