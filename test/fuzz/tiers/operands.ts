/**
 * Fills the templates' placeholders with random operands that a mode has, and that mostly lead to memory that is
 * there.
 */
import type { Random } from '../random.ts';
import type { Environment } from './environment.ts';
import { DATA } from './layout.ts';

const BYTES_LOW = ['al', 'cl', 'dl', 'bl'];
const BYTES_HIGH = ['ah', 'ch', 'dh', 'bh'];
const NAMES = ['ax', 'cx', 'dx', 'bx', 'bp', 'si', 'di'];
const EXTENDED = ['8', '9', '10', '11', '12', '13', '14', '15'];
export const CONDITIONS = [
  'o',
  'no',
  'b',
  'ae',
  'e',
  'ne',
  'be',
  'a',
  's',
  'ns',
  'p',
  'np',
  'l',
  'ge',
  'le',
  'g',
];

/** Registers that hold addresses most of the time, without width. */
const POINTERS = ['bx', 'si', 'di', 'bp'];
const POINTERS_64 = [...POINTERS, '12', '13'];

const KEYWORD = new Map([
  [8, 'byte'],
  [16, 'word'],
  [32, 'dword'],
  [48, 'fword'],
  [64, 'qword'],
  [80, 'tword'],
  [128, 'oword'],
]);

/** Offset in the data window of a word for control values. */
const CONTROL_WORD = DATA.plain + 0x20;
/** A place for FXSAVE, aligned. */
const FXSAVE_AREA = DATA.plain + 0x400;

export class Operands {
  readonly #random: Random;
  readonly #env: Environment;
  /** Labels of data in the code pages. */
  readonly #islands: readonly string[];
  /** AH to DH are usable: no REX prefix may be needed. */
  #legacyRegisters = false;
  /** Lines that come before, to bound an index. */
  #before: string[] = [];

  constructor(random: Random, env: Environment, islands: readonly string[]) {
    this.#random = random;
    this.#env = env;
    this.#islands = islands;
  }

  /** Native register size. */
  get width(): 16 | 32 | 64 {
    return this.#env.bits;
  }

  /** The lines of a template with operands. */
  fill(text: string, sizes: readonly number[]): string {
    const usable = sizes.filter((size) => size <= 32 || this.width === 64);
    const size = usable.length === 0 ? 32 : this.#random.pick(usable);
    this.#legacyRegisters = this.width === 64 && size < 64 && this.#random.chance(0.2);
    this.#before = [];
    const filled = text
      .replaceAll('%', { 8: 'b', 16: 'w', 32: 'd', 64: 'q' }[size] ?? 'b')
      .replaceAll('#', String(size))
      .replace(/\{(\w+?)(\d*)\}/g, (whole, kind: string, digits: string) =>
        this.#operand(kind, digits === '' ? size : Number(digits), whole),
      );
    return [...this.#before, filled].join('\n');
  }

  #operand(kind: string, size: number, whole: string): string {
    const random = this.#random;
    switch (kind) {
      case 'r':
        return this.register(size);
      case 'rp':
        return this.register(this.width);
      case 'rc':
        // Control registers move whole.
        return this.register(Math.max(32, this.width));
      case 'rca':
        return this.width === 64 ? 'rax' : 'eax';
      case 'm':
        return this.memory(size);
      case 'mp':
        return this.memory(this.width);
      case 'rm':
        return random.chance(0.5) ? this.register(size) : this.memory(size);
      case 'i':
        return this.immediate(size);
      case 'n':
        return String(random.below(1 << size));
      case 'cc':
        return random.pick(CONDITIONS);
      case 'x':
        return `xmm${random.below(this.width === 64 && !this.#legacyRegisters ? 16 : 8)}`;
      case 'mm':
        return `mm${random.below(8)}`;
      case 'st':
        return `st${random.below(8)}`;
      case 'a':
        return this.absolute(DATA.plain + 0x800 + random.below(0xc0) * 16, 128);
      case 'cw':
        return this.absolute(CONTROL_WORD, 0);
      case 'f':
        return this.absolute(FXSAVE_AREA, 0);
      case 'absent':
        return this.absolute(DATA.absent + random.below(0xf00) - (random.chance(0.3) ? 0 : 4), 0);
      case 'readonly':
        return this.absolute(DATA.readOnly + random.below(0xff0), 0);
      default:
        throw new Error(`placeholder ${whole}`);
    }
  }

  /** What is named next stands in no template: it may need a REX prefix. */
  outsideTemplates(): void {
    this.#legacyRegisters = false;
  }

  /** A general register of a size that is not the stack pointer; now and then one that holds an address. */
  register(size: number): string {
    const random = this.#random;
    if (size === 8) {
      const extra = this.width === 64 && !this.#legacyRegisters;
      if (!extra) return random.pick([...BYTES_LOW, ...BYTES_HIGH]);
      return random.chance(0.5)
        ? random.pick([...BYTES_LOW, 'sil', 'dil', 'bpl'])
        : `r${random.pick(EXTENDED)}b`;
    }
    const extended = this.width === 64 && !this.#legacyRegisters && random.chance(0.4);
    if (extended) return sized(random.pick(EXTENDED), size);
    return sized(random.chance(0.85) ? random.pick(['ax', 'cx', 'dx']) : random.pick(NAMES), size);
  }

  /** An immediate of a size; 64-bit instructions take 32 bits, sign-extended. */
  immediate(size: number): string {
    const random = this.#random;
    const bits = Math.min(size, 32);
    const kind = random.below(6);
    const limit = 2 ** (bits - 1);
    if (kind === 0) return String(random.below(4));
    if (kind === 1) return String(-1 - random.below(3));
    if (kind === 2) return String(random.below(2) === 0 ? limit - 1 : -limit);
    if (kind === 3) return String(random.below(256) - 128);
    return String(random.below(2 ** bits) - limit);
  }

  /** A pointer register at the code's or another address size. */
  pointer(size: number): string {
    return sized(this.#random.pick(size === 64 ? POINTERS_64 : POINTERS), size);
  }

  /** A memory operand of a size in bits. */
  memory(size: number): string {
    const random = this.#random;
    const keyword = KEYWORD.get(size);
    const prefix = keyword === undefined ? '' : `${keyword} `;
    const kind = random.below(20);
    const displacement = random.chance(0.5) ? '' : `+${random.below(48) - 24}`.replace('+-', '-');
    if (kind < 3) return this.absolute(random.below(0x3000) & (random.chance(0.5) ? ~7 : ~0), size);
    if (kind < 5) return `${prefix}[${this.#stackPointer()}+${random.below(64)}]`;
    if (kind === 5 && this.#islands.length > 0) {
      const segment = random.pick(['fs', 'gs']);
      return `${prefix}[${segment}:${random.pick(this.#islands)}-CODE+${random.below(12)}]`;
    }
    if (this.width === 16 && random.chance(0.7)) {
      const base = random.pick(['bx', 'bp', 'si', 'di', 'bx+si', 'bx+di', 'bp+di']);
      if (!base.includes('+')) return `${prefix}[${base}${displacement}]`;
      // Two pointers would add up to nowhere: the second becomes small.
      const index = base.slice(3);
      this.#before.push(`and ${index}, 0x3f`);
      return `${prefix}[${base}${displacement}]`;
    }
    const address = this.width === 64 && (this.#legacyRegisters || random.chance(0.9)) ? 64 : 32;
    const base = this.#legacyRegisters ? sized(random.pick(POINTERS), address) : this.pointer(address);
    if (kind < 14) return `${prefix}[${base}${displacement}]`;
    const index = random.pick(['ax', 'cx', 'dx']);
    this.#before.push(`and ${sized(index, address === 64 ? 32 : address)}, ${random.pick([0x1f, 7, 0xff])}`);
    return `${prefix}[${base}+${sized(index, address)}*${random.pick([1, 2, 4, 8])}${displacement}]`;
  }

  #stackPointer(): string {
    // 16-bit addresses have no stack pointer.
    return this.width === 64 ? 'rsp' : 'esp';
  }

  /** Memory at an offset in the data window, without registers. */
  absolute(offset: number, size: number): string {
    const keyword = KEYWORD.get(size);
    return `${keyword === undefined ? '' : `${keyword} `}[${this.width === 64 ? 'rip+' : ''}DATA+${offset}]`;
  }
}

/** A register's name at a size: `ax`, `si`, or a number of the extended ones. */
export function sized(name: string, size: number): string {
  if (/^\d/.test(name)) return `r${name}${{ 8: 'b', 16: 'w', 32: 'd' }[size] ?? ''}`;
  return size === 16 ? name : size === 32 ? `e${name}` : `r${name}`;
}
