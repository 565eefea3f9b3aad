import { type BlockType, i32, i64, type ValueType } from './opcodes.ts';

const CAPACITY = 4096;
/** Buffers given back, for the next writers: V8 would free them late, and translating asks for many. */
const spareBuffers: Uint8Array<ArrayBuffer>[] = [];
const SPARE_MAX = 32;
const LOCAL_SET = 0x21;
const LOCAL_TEE = 0x22;
/** Constants of zero, told from other instructions by numbers that no opcode has. */
const I32_ZERO = 0x100_0041;
const I64_ZERO = 0x100_0042;

/** Bytes of a wasm binary, written in place into a buffer that grows by doubling. */
export class ByteWriter {
  bytes: Uint8Array<ArrayBuffer> = spareBuffers.pop() ?? new Uint8Array(CAPACITY);
  length = 0;

  /** What was written is not needed any more, nor is the writer. */
  release(): void {
    if (spareBuffers.length < SPARE_MAX) spareBuffers.push(this.bytes);
    this.bytes = new Uint8Array(0);
    this.length = 0;
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

  append(other: ByteWriter): this {
    return this.raw(other.bytes.subarray(0, other.length));
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

  /** A copy of what was written. */
  copy(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }
}

/**
 * The body of one wasm function. Locals are allocated as they are asked for; instructions are appended in wasm's
 * own stack order. A few pairs that say too much are written shorter: V8 keeps the binary as long as the code lives.
 */
export class CodeWriter {
  readonly code = new ByteWriter();
  readonly #params: number;
  readonly #locals: ValueType[] = [];
  /** The instruction before the next one, where it began and ended; stale when the code goes on elsewhere. */
  #last = -1;
  #lastAt = 0;
  #lastEnd = -1;
  #lastLocal = 0;
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

  /** The next instruction begins: whether the one before it was this one. */
  #follows(opcode: number): boolean {
    return this.#last === opcode && this.#lastEnd === this.code.length;
  }

  /** An instruction that others may be joined with was written from `at` on. */
  #wrote(opcode: number, at: number): void {
    this.#last = opcode;
    this.#lastAt = at;
    this.#lastEnd = this.code.length;
  }

  /** Takes back the instruction before, if it was this one and no other path leads behind it. */
  takeBack(opcode: number): boolean {
    if (!this.#follows(opcode)) return false;
    this.code.length = this.#lastAt;
    this.#last = -1;
    return true;
  }

  /** An instruction without immediates (arithmetic, comparison, conversion, SIMD). */
  op(opcode: number): this {
    if (opcode === i32.add && this.takeBack(I32_ZERO)) return this;
    if (opcode === i64.add && this.takeBack(I64_ZERO)) return this;
    if (opcode === i32.wrap_i64 && this.takeBack(i64.extend_i32_u)) return this;
    const at = this.code.length;
    if (opcode < 0x100) {
      this.code.byte(opcode);
      if (opcode === i64.extend_i32_u) this.#wrote(opcode, at);
    } else {
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
    const at = this.code.length;
    this.code.byte(0x41).s32(value);
    if (value === 0) this.#wrote(I32_ZERO, at);
    return this;
  }
  i64Const(value: bigint): this {
    const at = this.code.length;
    this.code.byte(0x42).s64(value);
    if (value === 0n) this.#wrote(I64_ZERO, at);
    return this;
  }
  /** Leaves the low bits of the i64 on the stack. */
  lowBits(bits: 16 | 32 | 64): this {
    if (bits === 16) return this.i64Const(0xffffn).op(i64.and);
    return bits === 32 ? this.op(i32.wrap_i64).op(i64.extend_i32_u) : this;
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
    if (this.#follows(LOCAL_SET) && this.#lastLocal === local) {
      this.code.bytes[this.#lastAt] = LOCAL_TEE;
      this.#last = -1;
      return this;
    }
    this.code.byte(0x20).u32(local);
    return this;
  }
  set(local: number): this {
    const at = this.code.length;
    this.code.byte(LOCAL_SET).u32(local);
    this.#lastLocal = local;
    this.#wrote(LOCAL_SET, at);
    return this;
  }
  tee(local: number): this {
    this.code.byte(LOCAL_TEE).u32(local);
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
    const out = new ByteWriter();
    this.writeTo(out);
    return out.copy();
  }

  /** Writes the body; returns how many of its bytes come before the first instruction. */
  writeTo(out: ByteWriter): number {
    const start = out.length;
    const groups: [number, ValueType][] = [];
    for (const type of this.#locals) {
      const last = groups.at(-1);
      if (last?.[1] === type) last[0]++;
      else groups.push([1, type]);
    }
    out.u32(groups.length);
    for (const [count, type] of groups) out.u32(count).byte(type);
    const declarations = out.length - start;
    out.append(this.code).byte(0x0b);
    return declarations;
  }

  /** The code stands in a module that was finished; it cannot be read here any more. */
  release(): void {
    this.code.release();
  }
}

interface BranchHint {
  /** Bytes from the first instruction. */
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
  readonly #functionTypes: FunctionType[] = [];
  readonly #imports: { name: string; type: number }[] = [];
  readonly #functions: { type: number; code: CodeWriter | undefined }[] = [];
  readonly #names = new Map<number, string>();
  readonly #exports: { name: string; index: number }[] = [];
  readonly #elements: { slot: number; index: number }[] = [];
  #table = 0;

  #type({ parameters, results }: FunctionType): number {
    const key = `${parameters.join()}:${results.join()}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    this.#functionTypes.push({ parameters, results });
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
    this.#functions.push({ type: this.#type({ parameters, results }), code: undefined });
    return this.#imports.length + this.#functions.length - 1;
  }

  define(index: number, code: CodeWriter): void {
    const entry = this.#functions[index - this.#imports.length];
    if (!entry) throw new Error(`no function ${index}`);
    entry.code = code;
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
    const out = this.#write(pages);
    const bytes = out.copy();
    out.release();
    return bytes;
  }

  /** Compiles the module; `bytes`: how long its binary was. */
  compile(pages: number): { module: WebAssembly.Module; bytes: number } {
    const out = this.#write(pages);
    const bytes = out.length;
    const module = new WebAssembly.Module(out.bytes.subarray(0, bytes));
    out.release();
    return { module, bytes };
  }

  #write(pages: number): ByteWriter {
    const out = new ByteWriter();
    out.raw(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
    const section = (id: number, write: (content: ByteWriter) => void): void => {
      const content = new ByteWriter();
      write(content);
      out.byte(id).u32(content.length).append(content);
      content.release();
    };
    section(1, (types) => {
      types.u32(this.#functionTypes.length);
      for (const { parameters, results } of this.#functionTypes) {
        types.byte(0x60).u32(parameters.length);
        for (const type of parameters) types.byte(type);
        types.u32(results.length);
        for (const type of results) types.byte(type);
      }
    });
    section(2, (imports) => {
      imports.u32(this.#imports.length + 1 + (this.#table > 0 ? 1 : 0));
      imports.name('env').name('memory').byte(2).byte(3).u32(pages).u32(pages);
      if (this.#table > 0) imports.name('env').name('table').byte(1).byte(0x70).byte(0).u32(this.#table);
      for (const { name, type } of this.#imports) imports.name('env').name(name).byte(0).u32(type);
    });
    section(3, (functions) => {
      functions.u32(this.#functions.length);
      for (const { type } of this.#functions) functions.u32(type);
    });
    section(7, (exports) => {
      exports.u32(this.#exports.length);
      for (const { name, index } of this.#exports) exports.name(name).byte(0).u32(index);
    });
    if (this.#elements.length > 0) {
      section(9, (elements) => {
        elements.u32(this.#elements.length);
        for (const { slot, index } of this.#elements) {
          elements.byte(0).byte(0x41).s32(slot).byte(0x0b).u32(1).u32(index);
        }
      });
    }
    // Hints stand before the code they are about.
    const code = new ByteWriter().u32(this.#functions.length);
    const body = new ByteWriter();
    const hinted: { index: number; hints: readonly BranchHint[]; start: number }[] = [];
    for (const [number, { code: written }] of this.#functions.entries()) {
      if (!written) throw new Error('a declared function has no body');
      body.length = 0;
      const start = written.writeTo(body);
      code.u32(body.length).append(body);
      const { hints } = written;
      if (hints.length > 0) hinted.push({ index: this.#imports.length + number, hints, start });
    }
    body.release();
    if (hinted.length > 0) section(0, (content) => writeHints(content, hinted));
    out.byte(10).u32(code.length).append(code);
    code.release();
    if (this.#names.size > 0) section(0, (content) => this.#writeNames(content));
    return out;
  }

  /** The custom section of names (Core Specification 2.0, appendix "Name Section"): of functions only. */
  #writeNames(content: ByteWriter): void {
    const functions = new ByteWriter().u32(this.#names.size);
    for (const [index, name] of [...this.#names].sort(([a], [b]) => a - b)) functions.u32(index).name(name);
    content.name('name').byte(1).u32(functions.length).append(functions);
    functions.release();
  }
}

/** The custom section of branch hints (WebAssembly proposal "Branch Hinting"); offsets count from a function body's start. */
function writeHints(
  content: ByteWriter,
  hinted: readonly { index: number; hints: readonly BranchHint[]; start: number }[],
): void {
  content.name('metadata.code.branch_hint').u32(hinted.length);
  for (const { index, hints, start } of hinted) {
    content.u32(index).u32(hints.length);
    for (const { at, likely } of hints) {
      content.u32(start + at).byte(1);
      content.byte(likely ? 1 : 0);
    }
  }
}
