/**
 * Just enough of an AML assembler (ACPI specification, chapter 20) for a table of fixed objects: every function
 * gives the encoding of one term, and terms are put together by concatenation.
 */
export type Aml = readonly number[];

const OP = {
  zero: 0x00,
  one: 0x01,
  name: 0x08,
  byte: 0x0a,
  word: 0x0b,
  dword: 0x0c,
  scope: 0x10,
  buffer: 0x11,
  package: 0x12,
  extended: 0x5b,
  device: 0x82,
} as const;

function word(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff];
}

function dword(value: number): number[] {
  return [...word(value), ...word(value >>> 16)];
}

/** A name of up to four characters, padded with underscores; a leading backslash makes it absolute. */
function nameString(name: string): number[] {
  const absolute = name.startsWith('\\');
  const segment = (absolute ? name.slice(1) : name).padEnd(4, '_');
  if (!/^[A-Z_][A-Z0-9_]{3}$/.test(segment)) throw new Error(`not an AML name: ${name}`);
  return [...(absolute ? [0x5c] : []), ...new TextEncoder().encode(segment)];
}

/** PkgLength, which counts itself, and the bytes it covers. */
function sized(content: Aml): number[] {
  for (let extra = 0; extra <= 3; extra++) {
    const total = content.length + 1 + extra;
    if (extra === 0 ? total >= 0x40 : total >= 1 << (4 + 8 * extra)) continue;
    if (extra === 0) return [total, ...content];
    const lead = [(extra << 6) | (total & 15)];
    for (let i = 0; i < extra; i++) lead.push((total >> (4 + 8 * i)) & 0xff);
    return [...lead, ...content];
  }
  throw new Error('AML package too long');
}

export function integer(value: number): Aml {
  if (value === 0) return [OP.zero];
  if (value === 1) return [OP.one];
  if (value <= 0xff) return [OP.byte, value];
  return value <= 0xffff ? [OP.word, ...word(value)] : [OP.dword, ...dword(value)];
}

/** An EISA identifier such as PNP0A03, packed as _HID wants it. */
export function eisaId(id: string): Aml {
  const letter = (index: number): number => id.charCodeAt(index) - 0x40;
  const product = parseInt(id.slice(3), 16);
  const big = (((letter(0) << 10) | (letter(1) << 5) | letter(2)) << 16) | product;
  return [OP.dword, (big >>> 24) & 0xff, (big >> 16) & 0xff, (big >> 8) & 0xff, big & 0xff];
}

export function define(name: string, value: Aml): Aml {
  return [OP.name, ...nameString(name), ...value];
}

export function scope(name: string, ...terms: Aml[]): Aml {
  return [OP.scope, ...sized([...nameString(name), ...terms.flat()])];
}

export function device(name: string, ...terms: Aml[]): Aml {
  return [OP.extended, OP.device, ...sized([...nameString(name), ...terms.flat()])];
}

export function packageOf(...elements: Aml[]): Aml {
  return [OP.package, ...sized([elements.length, ...elements.flat()])];
}

/** A buffer of resource descriptors (ACPI specification, section 6.4), with the end tag. */
export function resources(...descriptors: Aml[]): Aml {
  const bytes = [...descriptors.flat(), 0x79, 0x00];
  return [OP.buffer, ...sized([...integer(bytes.length), ...bytes])];
}

/** Fixed I/O ports, 16-bit decoded. */
export function ioPorts(base: number, length: number): Aml {
  return [0x47, 0x01, ...word(base), ...word(base), 0x01, length];
}

/** An edge-triggered, active-high ISA interrupt. */
export function isaIrq(irq: number): Aml {
  return [0x22, ...word(1 << irq)];
}

const RANGE_FIXED = 0x0c;

/** Bus numbers a bridge produces. */
export function busNumbers(first: number, last: number): Aml {
  return [0x88, ...word(13), 2, RANGE_FIXED, 0, ...[0, first, last, 0, last - first + 1].flatMap(word)];
}

/** I/O ports a bridge passes on. */
export function ioWindow(first: number, last: number): Aml {
  return [0x88, ...word(13), 1, RANGE_FIXED, 3, ...[0, first, last, 0, last - first + 1].flatMap(word)];
}

/** Memory addresses a bridge passes on, writable and uncached. */
export function memoryWindow(first: number, last: number): Aml {
  return [0x87, ...word(23), 0, RANGE_FIXED, 1, ...[0, first, last, 0, last - first + 1].flatMap(dword)];
}
