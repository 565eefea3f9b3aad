/**
 * An assembler as a library: a program is built statement by statement, laid out with branches as short as
 * they can be, and turned into bytes. 16-, 32- and 64-bit code mix in one image.
 */
import { selectEncoding } from './encoding.ts';
import type { Encoding, SelectedEncoding } from './encoding.ts';
import { AssemblyError, toExpression } from './expression.ts';
import type { Expression, SymbolResolver, Value } from './expression.ts';
import type { Bits, Operand } from './operands.ts';

/** A laid-out program: contiguous bytes at `origin`, then `bssSize` bytes the loader clears. */
export interface AssembledImage {
  /** Load address of the first byte. */
  readonly origin: bigint;
  readonly bytes: Uint8Array;
  /** Bytes after the last one that must exist and be zero when the program starts. */
  readonly bssSize: number;
  /** Every label and `equ` symbol with its value. */
  readonly symbols: ReadonlyMap<string, bigint>;
}

type Statement = { readonly where: string } & (
  | { readonly kind: 'label'; readonly name: string }
  | { readonly kind: 'instruction'; readonly encoding: SelectedEncoding }
  | { readonly kind: 'data'; readonly unit: 1 | 2 | 4 | 8; readonly values: readonly Expression[] }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'align'; readonly boundary: number; readonly fill: number }
  | { readonly kind: 'org'; readonly address: bigint }
  | { readonly kind: 'space'; readonly size: number }
  | { readonly kind: 'phase'; readonly address: bigint | undefined }
  | { readonly kind: 'bss' }
);

interface Placed {
  /** Offset from the origin of the image. */
  readonly offset: number;
  /** Address the code believes it runs at. */
  readonly address: bigint;
  readonly size: number;
}

export class Assembler {
  readonly #origin: bigint;
  readonly #statements: Statement[] = [];
  readonly #equates = new Map<string, Expression>();
  readonly #labels = new Set<string>();
  #bits: Bits;
  #unique = 0;

  /** A program loaded at `origin` (default 1 MiB, where Multiboot kernels live), beginning in `bits`-bit code. */
  constructor(options: { readonly origin?: number | bigint; readonly bits?: Bits } = {}) {
    this.#origin = BigInt(options.origin ?? 0x100000);
    this.#bits = options.bits ?? 32;
  }

  /** Width of the code that follows. */
  get currentBits(): Bits {
    return this.#bits;
  }

  bits(bits: Bits): this {
    this.#bits = bits;
    return this;
  }

  /** Names the current address. */
  label(name: string): this {
    this.#define(name);
    this.#labels.add(name);
    return this.#append({ kind: 'label', name });
  }

  /** Names a value. */
  equ(name: string, value: Value): this {
    this.#define(name);
    this.#equates.set(name, toExpression(value));
    return this;
  }

  /** A label name nothing else uses. */
  unique(stem: string): string {
    return `${stem}$${this.#unique++}`;
  }

  /** One instruction; see {@link selectEncoding} for what a mnemonic may say. */
  emit(mnemonic: string, ...operands: readonly Operand[]): this {
    return this.#append({ kind: 'instruction', encoding: selectEncoding(this.#bits, mnemonic, operands) });
  }

  db(...values: readonly Value[]): this {
    return this.#data(1, values);
  }

  dw(...values: readonly Value[]): this {
    return this.#data(2, values);
  }

  dd(...values: readonly Value[]): this {
    return this.#data(4, values);
  }

  dq(...values: readonly Value[]): this {
    return this.#data(8, values);
  }

  /** Text as bytes, one a character (code points to 255), without a terminator. */
  ascii(text: string): this {
    const bytes = Uint8Array.from(text, (character) => {
      const code = character.codePointAt(0) ?? 0;
      if (code > 0xff) throw new AssemblyError(`'${text}': ${character} is not one byte`);
      return code;
    });
    return this.#append({ kind: 'bytes', bytes });
  }

  bytes(bytes: Uint8Array): this {
    return this.#append({ kind: 'bytes', bytes });
  }

  /** Fills up to a multiple of `boundary` (a power of two) of the code's own address. */
  align(boundary: number, fill = 0): this {
    if (boundary < 1 || (boundary & (boundary - 1)) !== 0) {
      throw new AssemblyError(`align ${boundary}: not a power of two`);
    }
    return this.#append({ kind: 'align', boundary, fill });
  }

  /** Fills with zeros up to a load address, which must lie ahead. */
  org(address: number | bigint): this {
    return this.#append({ kind: 'org', address: BigInt(address) });
  }

  /** Zero bytes. */
  space(size: number): this {
    if (!Number.isInteger(size) || size < 0) throw new AssemblyError(`space ${size}: not a size`);
    return this.#append({ kind: 'space', size });
  }

  /**
   * What follows is assembled to run at `address`, though it is loaded where it stands; someone has to copy
   * it there, or map it. Ended by {@link dephase}.
   */
  phase(address: number | bigint): this {
    return this.#append({ kind: 'phase', address: BigInt(address) });
  }

  dephase(): this {
    return this.#append({ kind: 'phase', address: undefined });
  }

  /** What follows takes no room in the image and is zero at the start: only labels, `space` and `align`. */
  bss(): this {
    return this.#append({ kind: 'bss' });
  }

  #data(unit: 1 | 2 | 4 | 8, values: readonly Value[]): this {
    return this.#append({ kind: 'data', unit, values: values.map(toExpression) });
  }

  #define(name: string): void {
    if (this.#labels.has(name) || this.#equates.has(name)) {
      throw new AssemblyError(`symbol '${name}' is defined twice`);
    }
  }

  #append(
    statement: Statement extends infer S ? (S extends Statement ? Omit<S, 'where'> : never) : never,
  ): this {
    this.#statements.push({ ...statement, where: `statement ${this.#statements.length + 1}` });
    return this;
  }

  /** Lays the program out and writes its bytes. Throws {@link AssemblyError}. */
  assemble(): AssembledImage {
    // Branches start short and only ever grow, so this ends; shrinking again could go back and forth.
    const grown = new Set<number>();
    for (;;) {
      const layout = this.#place(grown);
      const resolve = this.#resolver(layout.labels);
      let changed = false;
      for (const [index, statement] of this.#statements.entries()) {
        if (statement.kind !== 'instruction' || grown.has(index)) continue;
        const { encoding } = statement;
        const placed = layout.placed[index];
        if (encoding.near === undefined || encoding.target === undefined || placed === undefined) continue;
        const distance = encoding.target.evaluate(resolve) - (placed.address + BigInt(placed.size));
        if (distance < -128n || distance > 127n) {
          grown.add(index);
          changed = true;
        }
      }
      if (!changed) return this.#write(layout, grown, resolve);
    }
  }

  #place(grown: ReadonlySet<number>): {
    placed: Placed[];
    labels: Map<string, bigint>;
    size: number;
    bssStart: number | undefined;
  } {
    const placed: Placed[] = [];
    const labels = new Map<string, bigint>();
    let offset = 0;
    let phaseDelta = 0n;
    let bssStart: number | undefined;
    for (const [index, statement] of this.#statements.entries()) {
      const address = this.#origin + BigInt(offset) + phaseDelta;
      let size = 0;
      switch (statement.kind) {
        case 'label':
          labels.set(statement.name, address);
          break;
        case 'instruction':
          size = chosen(statement.encoding, grown.has(index)).size;
          break;
        case 'data':
          size = statement.unit * statement.values.length;
          break;
        case 'bytes':
          size = statement.bytes.length;
          break;
        case 'align':
          size = Number(-address & BigInt(statement.boundary - 1));
          break;
        case 'org':
          size = Number(statement.address - (this.#origin + BigInt(offset)));
          if (size < 0) {
            throw new AssemblyError(
              `org 0x${statement.address.toString(16)}: lies behind what is already there`,
            );
          }
          break;
        case 'space':
          size = statement.size;
          break;
        case 'phase':
          phaseDelta =
            statement.address === undefined ? 0n : statement.address - (this.#origin + BigInt(offset));
          break;
        case 'bss':
          bssStart = offset;
          break;
      }
      if (bssStart !== undefined && (statement.kind === 'instruction' || statement.kind === 'data')) {
        throw new AssemblyError(`${statement.where}: code or data after bss()`);
      }
      placed.push({ offset, address, size });
      offset += size;
    }
    return { placed, labels, size: offset, bssStart };
  }

  #resolver(labels: ReadonlyMap<string, bigint>): SymbolResolver {
    const open = new Set<string>();
    const resolve = (name: string): bigint => {
      const address = labels.get(name);
      if (address !== undefined) return address;
      const equate = this.#equates.get(name);
      if (equate === undefined) throw new AssemblyError(`symbol '${name}' is not defined`);
      if (open.has(name)) throw new AssemblyError(`symbol '${name}' is defined by itself`);
      open.add(name);
      try {
        return equate.evaluate(resolve);
      } finally {
        open.delete(name);
      }
    };
    return resolve;
  }

  #write(
    layout: { placed: Placed[]; labels: Map<string, bigint>; size: number; bssStart: number | undefined },
    grown: ReadonlySet<number>,
    resolve: SymbolResolver,
  ): AssembledImage {
    const bytes = new Uint8Array(layout.bssStart ?? layout.size);
    for (const [index, statement] of this.#statements.entries()) {
      const placed = layout.placed[index];
      if (placed === undefined) continue;
      switch (statement.kind) {
        case 'instruction': {
          const code = chosen(statement.encoding, grown.has(index)).encode(placed.address, resolve);
          if (code.length !== placed.size) {
            throw new AssemblyError(
              `${statement.where}: ${code.length} bytes where ${placed.size} were laid out`,
            );
          }
          bytes.set(code, placed.offset);
          break;
        }
        case 'data':
          writeData(bytes, placed.offset, statement.unit, statement.values, resolve);
          break;
        case 'bytes':
          bytes.set(statement.bytes, placed.offset);
          break;
        case 'align':
          if (placed.offset < bytes.length)
            bytes.fill(statement.fill, placed.offset, placed.offset + placed.size);
          break;
        default:
          break;
      }
    }
    const symbols = new Map(layout.labels);
    for (const name of this.#equates.keys()) symbols.set(name, resolve(name));
    return {
      origin: this.#origin,
      bytes,
      bssSize: layout.bssStart === undefined ? 0 : layout.size - layout.bssStart,
      symbols,
    };
  }
}

function chosen(encoding: SelectedEncoding, grown: boolean): Encoding {
  return grown && encoding.near !== undefined ? encoding.near : encoding;
}

function writeData(
  bytes: Uint8Array,
  offset: number,
  unit: 1 | 2 | 4 | 8,
  values: readonly Expression[],
  resolve: SymbolResolver,
): void {
  const width = BigInt(unit * 8);
  let at = offset;
  for (const expression of values) {
    const value = expression.evaluate(resolve);
    if (value < -(1n << (width - 1n)) || value >= 1n << width) {
      throw new AssemblyError(`${expression.text} = 0x${value.toString(16)} does not fit ${unit * 8} bits`);
    }
    for (let byte = 0; byte < unit; byte++) bytes[at++] = Number((value >> BigInt(byte * 8)) & 0xffn);
  }
}
