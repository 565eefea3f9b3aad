import * as opcodes from '../../../wasm/opcodes.ts';
import { hex } from './numbers.ts';
import { stateName } from './state-names.ts';

/** A line of a function's text. */
export interface WasmLine {
  /** Where the instruction stands, bytes from the first one after the declarations of locals. */
  offset: number;
  /** How many blocks it stands in. */
  depth: number;
  text: string;
}

export interface WasmText {
  /** "(local i32 i64)": the types of the locals, by number. */
  locals: string;
  lines: WasmLine[];
}

/** What is not known from the bytes of one body. */
export interface WasmNames {
  /** Name of a function by its index; undefined when it has none. */
  functionName?: ((index: number) => string | undefined) | undefined;
}

const TYPES = new Map<number, string>([
  [opcodes.I32, 'i32'],
  [opcodes.I64, 'i64'],
  [opcodes.F32, 'f32'],
  [opcodes.F64, 'f64'],
  [opcodes.V128, 'v128'],
]);

const { i32, i64, f32, f64, v128, i8x16, i16x8, i32x4, i64x2, f32x4, f64x2 } = opcodes;
/** Instructions of opcodes.ts by opcode: "i32.add". */
const TABLE = new Map<number, string>();
for (const [type, group] of Object.entries({
  ...{ i32, i64, f32, f64, v128 },
  ...{ i8x16, i16x8, i32x4, i64x2, f32x4, f64x2 },
})) {
  for (const [name, opcode] of Object.entries(group)) TABLE.set(opcode, `${type}.${name}`);
}

/** Names whose immediates are not told by the name alone, as WriteCode (wasm/writer.ts) emits them. */
const PLAIN = new Map<number, string>([
  [0x00, 'unreachable'],
  [0x01, 'nop'],
  [0x0f, 'return'],
  [0x1a, 'drop'],
  [0x1b, 'select'],
]);
const LOCALS = new Map<number, string>([
  [0x20, 'local.get'],
  [0x21, 'local.set'],
  [0x22, 'local.tee'],
]);
const OPENERS = new Map<number, string>([
  [0x02, 'block'],
  [0x03, 'loop'],
  [0x04, 'if'],
]);
const BRANCHES = new Map<number, string>([
  [0x0c, 'br'],
  [0x0d, 'br_if'],
]);

/**
 * Disassembles the body of one function, as CodeWriter.body gives it, into lines like WebAssembly's text format. Reads
 * the instructions that wasm/writer.ts can write. Accesses at fixed places in the vCPU's state are named.
 * @throws Error at a byte that is no such instruction.
 */
export function printWasm(body: Uint8Array, { functionName }: WasmNames = {}): WasmText {
  const reader = new Reader(body);
  const types: string[] = [];
  for (let groups = reader.u32(); groups > 0; groups--) {
    const count = reader.u32();
    const type = typeName(reader.byte());
    for (let index = 0; index < count; index++) types.push(type);
  }
  const start = reader.at;
  const lines: WasmLine[] = [];
  let depth = 0;
  while (reader.at < body.length) {
    const offset = reader.at - start;
    const opcode = reader.opcode();
    if (opcode === END && depth === 0) break;
    const opens = OPENERS.get(opcode);
    if (opens !== undefined) {
      const type = reader.byte();
      const result = type === opcodes.VOID ? '' : ` (result ${typeName(type)})`;
      lines.push({ offset, depth, text: `${opens}${result}` });
      depth++;
    } else if (opcode === END) {
      lines.push({ offset, depth: --depth, text: 'end' });
    } else if (opcode === ELSE) {
      lines.push({ offset, depth: depth - 1, text: 'else' });
    } else {
      lines.push({
        offset,
        depth,
        text: instruction(reader, opcode, { functionName, before: lines.at(-1)?.text }),
      });
    }
  }
  return { locals: types.length > 0 ? `(local ${types.join(' ')})` : '', lines };
}

const ELSE = 0x05;
const END = 0x0b;

interface Context extends WasmNames {
  /** The instruction before this one. */
  before: string | undefined;
}

function instruction(reader: Reader, opcode: number, { functionName, before }: Context): string {
  const plain = PLAIN.get(opcode);
  if (plain !== undefined) return plain;
  const local = LOCALS.get(opcode);
  if (local !== undefined) return `${local} ${reader.u32()}`;
  const branch = BRANCHES.get(opcode);
  if (branch !== undefined) return `${branch} ${reader.u32()}`;
  switch (opcode) {
    case 0x0e: {
      const labels: number[] = [];
      for (let count = reader.u32() + 1; count > 0; count--) labels.push(reader.u32());
      return `br_table ${labels.join(' ')}`;
    }
    case 0x10: {
      const index = reader.u32();
      const name = functionName?.(index);
      return `call ${name === undefined ? index : `$${name}`}`;
    }
    case 0x11:
      return `call_indirect${indirect(reader)}`;
    case 0x13:
      return `return_call_indirect${indirect(reader)}`;
    case 0x41:
      return `i32.const ${constant(Number(reader.signed()))}`;
    case 0x42:
      return `i64.const ${constant(reader.signed())}`;
    case 0x43:
      return `f32.const ${reader.float(4)}`;
    case 0x44:
      return `f64.const ${reader.float(8)}`;
    case 0xfc000a:
      reader.skip(2);
      return 'memory.copy';
    case 0xfc000b:
      reader.skip(1);
      return 'memory.fill';
  }
  const name = TABLE.get(opcode);
  if (name === undefined) throw new Error(`no WebAssembly instruction ${hex(opcode)} at ${reader.at}`);
  if (name === 'v128.const') return `${name} i8x16 ${reader.bytes(16).map(hex).join(' ')}`;
  if (name === 'i8x16.shuffle' || name === 'v128.shuffle')
    return `i8x16.shuffle ${reader.bytes(16).join(' ')}`;
  if (name.endsWith('.swizzle')) return 'i8x16.swizzle';
  if (/_lane(_[su])?$/.test(name)) return `${name} ${reader.byte()}`;
  if (/\.(load|store)/.test(name)) return access(reader, name, before === 'i32.const 0');
  return name;
}

/** Type and table of an indirect call: there is one table. */
function indirect(reader: Reader): string {
  const type = reader.u32();
  reader.u32();
  return ` (type ${type})`;
}

/** Below this in the state, an access that is no load from address 0 may well be one of a TLB entry. */
const NAMED_FROM = 0x80;

/**
 * A load or store. A load right after its address, 0, is one from the vCPU's state. The address of a store stands before
 * its value, somewhere: those with an offset that only the state has are taken for stores to it.
 */
function access(reader: Reader, name: string, atZero: boolean): string {
  reader.u32();
  const offset = reader.u32();
  const named = atZero ? !name.includes('store') : name.includes('store') && offset >= NAMED_FROM;
  const place = named ? stateName(offset) : undefined;
  if (offset === 0 && place === undefined) return name;
  return `${name} offset=${hex(offset)}${place === undefined ? '' : `  ;; ${place}`}`;
}

function constant(value: number | bigint): string {
  const big = BigInt(value);
  const size = big < 0n ? -big : big;
  if (size < 1000n) return String(big);
  return `${big < 0n ? '-' : ''}${hex(size)}`;
}

function typeName(type: number): string {
  return TYPES.get(type) ?? `(type ${hex(type)})`;
}

class Reader {
  readonly #body: Uint8Array;
  at = 0;

  constructor(body: Uint8Array) {
    this.#body = body;
  }

  byte(): number {
    const value = this.#body[this.at++];
    if (value === undefined) throw new Error('the function ends in the middle of an instruction');
    return value;
  }

  bytes(count: number): number[] {
    return Array.from({ length: count }, () => this.byte());
  }

  skip(count: number): void {
    this.at += count;
  }

  /** One byte, or prefix << 16 | sub-opcode. */
  opcode(): number {
    const first = this.byte();
    return first >= 0xfc ? (first << 16) | this.u32() : first;
  }

  u32(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  }

  signed(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.byte();
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return (byte & 0x40) !== 0 ? value - (1n << (shift + 7n)) : value;
    }
  }

  float(size: 4 | 8): number {
    const view = new DataView(Uint8Array.from(this.bytes(size)).buffer);
    return size === 4 ? view.getFloat32(0, true) : view.getFloat64(0, true);
  }
}
