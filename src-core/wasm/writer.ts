import type { BlockType, ValueType } from './opcodes.ts';

/** Bytes of a wasm binary, written in place into a buffer that grows by doubling. */
export class ByteWriter {
  bytes: Uint8Array<ArrayBuffer>;
  length = 0;

  constructor(capacity = 1024) {
    this.bytes = new Uint8Array(capacity);
  }

  #reserve(extra: number): void {
    if (this.length + extra <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(this.bytes.length * 2, this.length + extra));
    grown.set(this.bytes.subarray(0, this.length));
    this.bytes = grown;
  }

  byte(value: number): this {
    if (this.length === this.bytes.length) this.#reserve(1);
    this.bytes[this.length++] = value;
    return this;
  }

  raw(data: Uint8Array): this {
    this.#reserve(data.length);
    this.bytes.set(data, this.length);
    this.length += data.length;
    return this;
  }

  /** Unsigned LEB128 of a u32. */
  u32(value: number): this {
    let rest = value >>> 0;
    while (rest >= 0x80) {
      this.byte((rest & 0x7f) | 0x80);
      rest >>>= 7;
    }
    return this.byte(rest);
  }

  /** Signed LEB128 of an i32. */
  s32(value: number): this {
    let rest = value | 0;
    for (;;) {
      const low = rest & 0x7f;
      rest >>= 7;
      if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }

  /** Signed LEB128 of an i64. */
  s64(value: bigint): this {
    let rest = BigInt.asIntN(64, value);
    for (;;) {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      if ((rest === 0n && (low & 0x40) === 0) || (rest === -1n && (low & 0x40) !== 0)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }

  /** Length-prefixed UTF-8 (names are ASCII here). */
  name(text: string): this {
    const data = new TextEncoder().encode(text);
    return this.u32(data.length).raw(data);
  }

  finish(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }
}

/**
 * The body of one wasm function. Locals are allocated as they are asked for; instructions are appended in wasm's
 * own stack order.
 */
export class CodeWriter {
  readonly code = new ByteWriter();
  readonly #params: number;
  readonly #locals: ValueType[] = [];
  /** How many blocks are open: `depth - (depth inside the target)` is a branch's label. */
  depth = 0;
  /** In the order of their places, which count from the first instruction. */
  readonly hints: BranchHint[] = [];

  constructor(parameterCount: number) {
    this.#params = parameterCount;
  }

  /** A new local of this type; its index. */
  local(type: ValueType): number {
    this.#locals.push(type);
    return this.#params + this.#locals.length - 1;
  }

  /** The branch that follows (`if` or `brIf`) is likely taken, or not. */
  hint(likely: boolean): this {
    this.hints.push({ at: this.code.length, likely });
    return this;
  }

  /** An instruction without immediates (arithmetic, comparison, conversion, SIMD). */
  op(opcode: number): this {
    if (opcode < 0x100) this.code.byte(opcode);
    else {
      this.code.byte(opcode >>> 16);
      this.code.u32(opcode & 0xffff);
    }
    return this;
  }
  /** A SIMD instruction with a lane immediate. */
  lane(opcode: number, lane: number): this {
    this.op(opcode).code.byte(lane);
    return this;
  }
  /** i8x16.shuffle with its 16 lane numbers. */
  shuffle(lanes: readonly number[]): this {
    this.op(0xfd000d);
    for (const lane of lanes) this.code.byte(lane);
    return this;
  }
  /** A load or store at (address on the stack) + offset. Alignment is only a hint and stays 0. */
  mem(opcode: number, offset = 0): this {
    this.op(opcode).code.byte(0).u32(offset);
    return this;
  }
  i32Const(value: number): this {
    this.code.byte(0x41).s32(value);
    return this;
  }
  i64Const(value: bigint): this {
    this.code.byte(0x42).s64(value);
    return this;
  }
  f64Const(value: number): this {
    this.code.byte(0x44).raw(new Uint8Array(new Float64Array([value]).buffer));
    return this;
  }
  f32Const(value: number): this {
    this.code.byte(0x43).raw(new Uint8Array(new Float32Array([value]).buffer));
    return this;
  }
  v128Const(bytes: Uint8Array): this {
    this.op(0xfd000c).code.raw(bytes);
    return this;
  }
  get(local: number): this {
    this.code.byte(0x20).u32(local);
    return this;
  }
  set(local: number): this {
    this.code.byte(0x21).u32(local);
    return this;
  }
  tee(local: number): this {
    this.code.byte(0x22).u32(local);
    return this;
  }
  block(type: BlockType = 0x40): this {
    this.code.byte(0x02).byte(type);
    this.depth++;
    return this;
  }
  loop(type: BlockType = 0x40): this {
    this.code.byte(0x03).byte(type);
    this.depth++;
    return this;
  }
  if(type: BlockType = 0x40): this {
    this.code.byte(0x04).byte(type);
    this.depth++;
    return this;
  }
  else(): this {
    this.code.byte(0x05);
    return this;
  }
  end(): this {
    this.code.byte(0x0b);
    this.depth--;
    return this;
  }
  br(depth: number): this {
    this.code.byte(0x0c).u32(depth);
    return this;
  }
  brIf(depth: number): this {
    this.code.byte(0x0d).u32(depth);
    return this;
  }
  brTable(depths: readonly number[], otherwise: number): this {
    this.code.byte(0x0e).u32(depths.length);
    for (const depth of depths) this.code.u32(depth);
    this.code.u32(otherwise);
    return this;
  }
  return(): this {
    this.code.byte(0x0f);
    return this;
  }
  call(index: number): this {
    this.code.byte(0x10).u32(index);
    return this;
  }
  /** Calls the function in slot (on the stack) of table 0; its type's index. */
  callIndirect(type: number): this {
    this.code.byte(0x11).u32(type).u32(0);
    return this;
  }
  /** The same as a tail call. */
  returnCallIndirect(type: number): this {
    this.code.byte(0x13).u32(type).u32(0);
    return this;
  }
  drop(): this {
    this.code.byte(0x1a);
    return this;
  }
  select(): this {
    this.code.byte(0x1b);
    return this;
  }
  unreachable(): this {
    this.code.byte(0x00);
    return this;
  }
  memoryCopy(): this {
    this.op(0xfc000a).code.byte(0).byte(0);
    return this;
  }
  memoryFill(): this {
    this.op(0xfc000b).code.byte(0);
    return this;
  }

  /** The function body as it stands in the code section: local declarations, code, end. */
  body(): Uint8Array {
    const out = new ByteWriter(this.code.length + 64);
    const groups: [number, ValueType][] = [];
    for (const type of this.#locals) {
      const last = groups.at(-1);
      if (last?.[1] === type) last[0]++;
      else groups.push([1, type]);
    }
    out.u32(groups.length);
    for (const [count, type] of groups) out.u32(count).byte(type);
    out.raw(this.code.bytes.subarray(0, this.code.length)).byte(0x0b);
    return out.finish();
  }
}

interface BranchHint {
  /** Bytes from the first instruction, or from the function body's start. */
  at: number;
  likely: boolean;
}

interface FunctionType {
  parameters: readonly ValueType[];
  results: readonly ValueType[];
}

/** Assembles a module: imported functions and one imported shared memory, functions, exports. */
export class ModuleWriter {
  readonly #types: string[] = [];
  readonly #typeBytes: Uint8Array[] = [];
  readonly #imports: { name: string; type: number }[] = [];
  readonly #functions: { type: number; body: Uint8Array | undefined; hints: readonly BranchHint[] }[] = [];
  readonly #names = new Map<number, string>();
  readonly #exports: { name: string; index: number }[] = [];
  readonly #elements: { slot: number; index: number }[] = [];
  #table = 0;

  #type({ parameters, results }: FunctionType): number {
    const key = `${parameters.join()}:${results.join()}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    const out = new ByteWriter(16).byte(0x60).u32(parameters.length);
    for (const type of parameters) out.byte(type);
    out.u32(results.length);
    for (const type of results) out.byte(type);
    this.#typeBytes.push(out.finish());
    return this.#types.push(key) - 1;
  }

  /** Index of a function type. */
  functionType(parameters: readonly ValueType[], results: readonly ValueType[]): number {
    return this.#type({ parameters, results });
  }

  /** Imports env.table, a table of functions with at least `size` slots, as table 0. */
  importTable(size: number): void {
    this.#table = size;
  }

  /** Puts a function into a slot of table 0 when the module is instantiated. */
  element(slot: number, index: number): void {
    this.#elements.push({ slot, index });
  }

  /** Imports env.NAME; all imports come before the first function. Returns the function index. */
  importFunction(name: string, parameters: readonly ValueType[], results: readonly ValueType[]): number {
    if (this.#functions.length > 0) throw new Error('imports come before functions');
    return this.#imports.push({ name, type: this.#type({ parameters, results }) }) - 1;
  }

  /** Declares a function so that it can be called; `define` gives it its body. */
  declare(parameters: readonly ValueType[], results: readonly ValueType[]): number {
    this.#functions.push({ type: this.#type({ parameters, results }), body: undefined, hints: [] });
    return this.#imports.length + this.#functions.length - 1;
  }

  define(index: number, code: CodeWriter): void {
    const entry = this.#functions[index - this.#imports.length];
    if (!entry) throw new Error(`no function ${index}`);
    const body = code.body();
    // The body is what declares the locals, the code, and an end.
    const start = body.length - code.code.length - 1;
    entry.body = body;
    entry.hints = code.hints.map(({ at, likely }) => ({ at: start + at, likely }));
  }

  /** What profilers and debuggers call a function. */
  nameFunction(index: number, name: string): void {
    this.#names.set(index, name);
  }

  export(name: string, index: number): void {
    this.#exports.push({ name, index });
    this.nameFunction(index, name);
  }

  /** The binary. `pages` is the size of the shared memory imported as env.memory. */
  finish(pages: number): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(65536);
    out.raw(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
    const section = (id: number, content: ByteWriter): void => {
      out.byte(id).u32(content.length).raw(content.bytes.subarray(0, content.length));
    };
    const types = new ByteWriter().u32(this.#typeBytes.length);
    for (const bytes of this.#typeBytes) types.raw(bytes);
    section(1, types);
    const imports = new ByteWriter().u32(this.#imports.length + 1 + (this.#table > 0 ? 1 : 0));
    imports.name('env').name('memory').byte(2).byte(3).u32(pages).u32(pages);
    if (this.#table > 0) imports.name('env').name('table').byte(1).byte(0x70).byte(0).u32(this.#table);
    for (const { name, type } of this.#imports) imports.name('env').name(name).byte(0).u32(type);
    section(2, imports);
    const functions = new ByteWriter().u32(this.#functions.length);
    for (const { type } of this.#functions) functions.u32(type);
    section(3, functions);
    const exports = new ByteWriter().u32(this.#exports.length);
    for (const { name, index } of this.#exports) exports.name(name).byte(0).u32(index);
    section(7, exports);
    if (this.#elements.length > 0) {
      const elements = new ByteWriter().u32(this.#elements.length);
      for (const { slot, index } of this.#elements) {
        elements.byte(0).byte(0x41).s32(slot).byte(0x0b).u32(1).u32(index);
      }
      section(9, elements);
    }
    const code = new ByteWriter(65536).u32(this.#functions.length);
    for (const { body } of this.#functions) {
      if (!body) throw new Error('a declared function has no body');
      code.u32(body.length).raw(body);
    }
    const hints = this.#hintSection();
    if (hints) section(0, hints);
    section(10, code);
    if (this.#names.size > 0) section(0, this.#nameSection());
    return out.finish();
  }

  /** The custom section of branch hints (WebAssembly proposal "Branch Hinting"), which stands before the code. */
  #hintSection(): ByteWriter | undefined {
    const count = this.#functions.filter(({ hints }) => hints.length > 0).length;
    if (count === 0) return undefined;
    const out = new ByteWriter().name('metadata.code.branch_hint').u32(count);
    for (const [number, { hints }] of this.#functions.entries()) {
      if (hints.length === 0) continue;
      out.u32(this.#imports.length + number).u32(hints.length);
      for (const { at, likely } of hints)
        out
          .u32(at)
          .byte(1)
          .byte(likely ? 1 : 0);
    }
    return out;
  }

  /** The custom section of names (Core Specification 2.0, appendix "Name Section"): of functions only. */
  #nameSection(): ByteWriter {
    const functions = new ByteWriter().u32(this.#names.size);
    for (const [index, name] of [...this.#names].sort(([a], [b]) => a - b)) functions.u32(index).name(name);
    return new ByteWriter()
      .name('name')
      .byte(1)
      .u32(functions.length)
      .raw(functions.bytes.subarray(0, functions.length));
  }
}
