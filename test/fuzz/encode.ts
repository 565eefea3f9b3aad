/**
 * Makes the bytes of a form: random operands, redundant prefixes, every ModRM and SIB shape. Where the memory
 * operand ends up is decided afterwards, by the values the registers get (see {@link Address}).
 */
import type { Bitness } from '../oracle/state.ts';
import type { Form } from './forms.ts';
import type { Random } from './random.ts';

/** Segment registers in encoding order. */
export const SEGMENT = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5 } as const;
const SEGMENT_PREFIX = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

const RSP = 4;
const RBP = 5;

/** A memory operand as encoded; registers by number, -1 for none. */
export interface Address {
  base: number;
  index: number;
  scale: number;
  /** Bytes of displacement: 0, 1, 2, 4 or 8. */
  displacementSize: number;
  /** Where the displacement's bytes are in the instruction. */
  displacementAt: number;
  ripRelative: boolean;
  /** Effective segment register (overrides that 64-bit code ignores do not count). */
  segment: number;
}

/** An instruction under construction. */
export interface Encoded {
  readonly bytes: readonly number[];
  /** Explicit memory operand, if any. */
  readonly address: Address | undefined;
  /** Address size in bits. */
  readonly addressSize: Bitness;
  /** Segment override that counts, -1 for none. */
  readonly override: number;
  /** REP, REPE or REPNE before a string instruction. */
  readonly repeat: boolean;
  /** Register numbers in ModRM.reg, and in ModRM.rm or the opcode; -1 for none. */
  readonly reg: number;
  readonly rm: number;
  /** Offset of the first immediate or of the branch displacement. */
  readonly tailAt: number;
}

/** Base and index registers of 16-bit addressing (Intel SDM vol. 2, table 2-1). */
const ADDRESS16: readonly (readonly [number, number])[] = [
  [3, 6],
  [3, 7],
  [5, 6],
  [5, 7],
  [6, -1],
  [7, -1],
  [5, -1],
  [3, -1],
];

interface Prefixes {
  list: number[];
  addressSize: Bitness;
  override: number;
  repeat: boolean;
}

function choosePrefixes(random: Random, form: Form, memory: boolean): Prefixes {
  const { bitness } = form;
  const list: number[] = [];
  const string = form.stringSource || form.stringDestination;
  if (form.operandSizePrefix !== random.chance(0.01) && form.mandatory !== 0x66) list.push(0x66);
  const otherAddressSize = random.chance(memory || string ? 0.12 : 0.01);
  if (form.addressSizePrefix !== otherAddressSize) list.push(0x67);
  const toggled = list.includes(0x67);
  const addressSize = bitness === 64 ? (toggled ? 32 : 64) : (bitness === 32) !== toggled ? 32 : 16;
  let override = -1;
  if (random.chance(memory || string ? 0.15 : 0.01)) {
    const segment = random.chance(0.6) ? 4 + random.below(2) : random.below(6);
    if (bitness !== 64 || segment >= SEGMENT.fs) override = segment;
    list.push(SEGMENT_PREFIX[segment] ?? 0);
  }
  let repeat = false;
  if (form.mandatory === 0) {
    if (form.canRep && random.chance(0.5)) list.push(0xf3);
    else if (form.canRepne && random.chance(0.6)) list.push(0xf2);
    else if (random.chance(string ? 0.03 : 0.01)) list.push(random.chance(0.5) ? 0xf3 : 0xf2);
    repeat = string && (list.includes(0xf3) || list.includes(0xf2));
  }
  if (random.chance(form.canLock ? (memory ? 0.25 : 0.02) : 0.005)) list.push(0xf0);
  // Legacy prefixes may come in any order.
  for (let index = list.length - 1; index > 0; index--) {
    const other = random.below(index + 1);
    const kept = list[index] ?? 0;
    list[index] = list[other] ?? 0;
    list[other] = kept;
  }
  // A mandatory prefix goes last, where it wins whatever other prefixes there are.
  if (form.mandatory !== 0) list.push(form.mandatory);
  return { list, addressSize, override, repeat };
}

/** Random ModRM memory form: the address it makes, and ModRM (without reg) and SIB bytes. */
function chooseAddress(
  random: Random,
  form: Form,
  { addressSize, override }: Prefixes,
  rex: number,
): { address: Address; modrm: number; sib: number } {
  const mod = random.below(3);
  let rm = random.below(8);
  let sib = -1;
  const address: Address = {
    base: -1,
    index: -1,
    scale: 1,
    displacementSize: mod === 1 ? 1 : mod === 2 ? (addressSize === 16 ? 2 : 4) : 0,
    displacementAt: 0,
    ripRelative: false,
    segment: SEGMENT.ds,
  };
  if (addressSize === 16) {
    const [base, index] = ADDRESS16[rm] ?? [-1, -1];
    if (mod === 0 && rm === 6) address.displacementSize = 2;
    else {
      address.base = base;
      address.index = index;
    }
  } else {
    if (random.chance(0.25)) rm = 4;
    if (rm === 4) {
      const sibBase = random.below(8);
      const sibIndex = random.below(8) | ((rex & 2) << 2);
      const shift = random.below(4);
      sib = (shift << 6) | ((sibIndex & 7) << 3) | sibBase;
      address.index = sibIndex === RSP ? -1 : sibIndex;
      address.scale = 1 << shift;
      if (sibBase === RBP && mod === 0) address.displacementSize = 4;
      else address.base = sibBase | ((rex & 1) << 3);
    } else if (rm === 5 && mod === 0) {
      address.displacementSize = 4;
      address.ripRelative = form.bitness === 64;
    } else address.base = rm | ((rex & 1) << 3);
  }
  if (address.base === RBP || (address.base === RSP && addressSize !== 16)) address.segment = SEGMENT.ss;
  if (override >= 0) address.segment = override;
  return { address, modrm: (mod << 6) | rm, sib };
}

function pushRandom(random: Random, bytes: number[], count: number): void {
  for (let index = 0; index < count; index++) bytes.push(random.u32() & 0xff);
}

/** Immediates: plain random, with small and extreme ones more often. */
function pushImmediate(random: Random, bytes: number[], size: number): void {
  const kind = random.below(4);
  if (kind === 0) {
    const small = (random.u32() << 26) >> 26;
    for (let index = 0; index < size; index++)
      bytes.push((index < 4 ? small >> (index * 8) : small >> 31) & 0xff);
  } else if (kind === 1) {
    const fill = random.chance(0.5) ? 0xff : 0;
    for (let index = 0; index < size; index++)
      bytes.push(index === size - 1 ? fill ^ (random.chance(0.5) ? 0x80 : 0) : fill);
  } else pushRandom(random, bytes, size);
}

/** Bytes of one random instance of a form. */
export function encodeForm(random: Random, form: Form): Encoded {
  const memory = form.modrm && form.rm !== 'register' && (form.rm === 'memory' || random.chance(0.55));
  const chosen = choosePrefixes(random, form, memory);
  const bytes = chosen.list;
  let rex = 0;
  if (form.bitness === 64 && (form.rexW || random.chance(0.4))) {
    rex = 0x40 | (form.rexW ? 8 : 0) | random.below(8);
    // REX.W where it changes nothing, or the operand size of a form that is not this one: rarely.
    if (random.chance(0.01)) rex ^= 8;
    bytes.push(rex);
  }
  bytes.push(...form.opcode);
  let reg = -1;
  let rm = -1;
  let address: Address | undefined;
  if (form.opcodeRegister) {
    rm = random.below(8);
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) | rm;
    rm |= (rex & 1) << 3;
  }
  if (form.modrm) {
    const field = form.regFixed >= 0 ? form.regFixed : random.below(form.regCount);
    if (form.regFixed < 0) reg = field | ((rex & 4) << 1);
    if (memory) {
      const made = chooseAddress(random, form, chosen, rex);
      address = made.address;
      bytes.push(made.modrm | (field << 3));
      if (made.sib >= 0) bytes.push(made.sib);
      address.displacementAt = bytes.length;
      pushRandom(random, bytes, address.displacementSize);
    } else {
      const field2 = form.rmFixed >= 0 ? form.rmFixed : random.below(8);
      bytes.push(0xc0 | (field << 3) | field2);
      rm = field2 | ((rex & 1) << 3);
    }
  }
  if (form.moffs) {
    address = {
      base: -1,
      index: -1,
      scale: 1,
      displacementSize: chosen.addressSize / 8,
      displacementAt: bytes.length,
      ripRelative: false,
      segment: chosen.override >= 0 ? chosen.override : SEGMENT.ds,
    };
    pushRandom(random, bytes, address.displacementSize);
  }
  const tailAt = bytes.length;
  for (const size of form.immediates) pushImmediate(random, bytes, size);
  if (form.relative !== 0) pushRandom(random, bytes, form.relative);
  return {
    bytes,
    address,
    addressSize: chosen.addressSize,
    override: chosen.override,
    repeat: chosen.repeat,
    reg,
    rm,
    tailAt,
  };
}
