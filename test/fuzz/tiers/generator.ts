/**
 * Makes random programs: blocks that branch anywhere, with loops, calls and jumps of every kind, code that
 * overwrites code, and faults. Everything comes from a seed and the program's number.
 */
import { encodeForm } from '../encode.ts';
import { formsOf } from '../forms.ts';
import type { Form } from '../forms.ts';
import { Random } from '../random.ts';
import { integer } from '../values.ts';
import type { Halves } from '../values.ts';
import { basesOf, ENVIRONMENTS, hasSyscall, hasSysenter, originsOf } from './environment.ts';
import type { Environment } from './environment.ts';
import {
  DATA,
  INTERRUPT_COUNT,
  LINE_NMI,
  PORT,
  SELECTOR,
  SERVICE_COUNT,
  VECTOR_EXIT,
  VECTOR_SERVICE,
} from './layout.ts';
import { CONDITIONS, Operands, sized } from './operands.ts';
import { FUEL, FUEL_COUNT } from './program.ts';
import { PatchPieces } from './patches.ts';
import type { Block, Interruption, Program } from './program.ts';
import {
  CONSUMERS,
  FAULTS,
  MOVES,
  PRIVILEGED,
  PRODUCERS,
  STRINGS,
  SYSTEM,
  VECTOR,
  X87,
} from './templates.ts';
import type { Template } from './templates.ts';

export interface GeneratorOptions {
  readonly seed: number;
  /** Only these; all when absent. */
  readonly environments?: readonly Environment[];
  /** Most blocks of a program (default 24). */
  readonly blocks?: number;
  /** Instructions a program may execute (default 4000, or 160,000 now and then). */
  readonly budget?: number;
  /**
   * Few blocks, loops that go round for long, pointers that wander: what instructions do in them changes when they have
   * long been translated (default now and then).
   */
  readonly hot?: boolean;
  /** Whether interrupts come at random instruction counts (default true for a third of the programs). */
  readonly interruptions?: boolean;
}

const BUDGET = 4000;
const BUDGET_LONG = 160_000;
const HOT_BLOCKS = 6;
const BLOCKS = 24;
const FLAG_IF = 0x200;
const FLAGS_STATUS = 0x8d5;

/** The forms random bytes are made from: those that stay where they are. */
const straightForms = new Map<number, readonly Form[]>();

function formsFor(bits: 16 | 32 | 64): readonly Form[] {
  const known = straightForms.get(bits);
  if (known) return known;
  const leaves =
    /^(j|call|ret|iret|loop|int|syscall|sysret|sysenter|sysexit|hlt|enter|leave|popf|xbegin|rsm|l[gi]dt|lmsw)/i;
  const forms = formsOf(bits).forms.filter(
    ({ mnemonic, relative, name }) =>
      relative === 0 && !leaves.test(mnemonic) && !/_(cr|dr)|Mov_sreg|Pop[ws]_(SS|DS|ES)/i.test(name),
  );
  straightForms.set(bits, forms);
  return forms;
}

/** Makes program `number` of a seed. */
export function generate(options: GeneratorOptions, number: number): Program {
  return new ProgramGenerator(options, number).make();
}

class ProgramGenerator {
  readonly #random: Random;
  readonly #options: GeneratorOptions;
  readonly #number: number;
  readonly #env: Environment;
  readonly #operands: Operands;
  readonly #patches: PatchPieces;
  readonly #islands: string[] = [];
  /** Blocks of the main part; functions follow. */
  readonly #main: number;
  readonly #functions: number;
  readonly #hot: boolean;
  #locals = 0;
  /** What this program is mostly made of. */
  readonly #weights: Readonly<
    Record<
      'integer' | 'vector' | 'x87' | 'string' | 'patch' | 'fault' | 'raw' | 'system' | 'wander' | 'fields',
      number
    >
  >;

  constructor(options: GeneratorOptions, number: number) {
    const random = new Random(options.seed ^ 0x7469_6572, number);
    this.#random = random;
    this.#options = options;
    this.#number = number;
    const environments = options.environments ?? ENVIRONMENTS;
    const env = environments[number % environments.length];
    if (!env) throw new Error('no environments');
    this.#env = env;
    this.#hot = options.hot ?? random.chance(0.03);
    const most = this.#hot ? HOT_BLOCKS : (options.blocks ?? BLOCKS);
    this.#main = 2 + random.below(Math.max(1, most - 2));
    this.#functions = random.below(4);
    for (let index = 0; index < 3; index++) this.#islands.push(`V${index}`);
    this.#operands = new Operands(random, this.#env, this.#islands);
    this.#patches = new PatchPieces(random, this.#env, () => this.#local());
    const some = (share: number, weight: number): number => (random.chance(share) ? weight : 0);
    this.#weights = {
      integer: 60,
      vector: some(0.3, 25),
      x87: some(0.25, 25),
      string: some(0.5, 5),
      patch: some(0.6, random.pick(this.#hot ? [1, 3] : [3, 8, 20])),
      fault: some(this.#hot ? 0.2 : 0.6, random.pick([2, 6])),
      raw: some(0.4, 8),
      system: some(0.6, 3),
      wander: this.#hot ? 12 : 0,
      fields: some(0.6, random.pick([5, 20])),
    };
  }

  make(): Program {
    const random = this.#random;
    const env = this.#env;
    const blocks: Block[] = [];
    for (let index = 0; index < this.#main; index++) blocks.push(this.#block(index));
    blocks.push({ label: `B${this.#main}`, pieces: [`int ${VECTOR_EXIT}`] });
    for (let index = 0; index < this.#functions; index++) blocks.push(...this.#function(index));
    for (const island of this.#islands) blocks.push({ label: island, pieces: ['dq 0x1122334455667788, 3'] });
    const halves: Halves = [0, 0];
    const registers = Array.from({ length: env.bits === 64 ? 16 : 8 }, () => {
      integer(random, halves);
      const value = BigInt(halves[0] >>> 0) | (BigInt(halves[1] >>> 0) << 32n);
      return env.bits === 64 ? value : BigInt.asUintN(32, value);
    });
    for (const pointer of [3, 5, 6, 7])
      registers[pointer] = this.#dataAddress(DATA.plain + 0x800 + pointer * 64);
    registers[4] = originsOf(env).stack + 0x1800n;
    const interrupts = this.#options.interruptions ?? random.chance(0.35);
    return {
      environment: env,
      seed: this.#options.seed,
      number: this.#number,
      // Somewhere before the end of the first page, so that the code crosses it.
      start: random.chance(0.7) ? 0x1000 - random.below(1200) : random.below(0xc00),
      blocks,
      slots: this.#patches.slots,
      registers,
      rflags:
        2 |
        (random.u32() & FLAGS_STATUS) |
        (interrupts ? FLAG_IF : 0) |
        (random.chance(0.05) ? 0x400 : 0) |
        (random.chance(0.02) ? 0x4_0000 : 0) |
        (random.chance(0.02) ? 0x100 : 0),
      fill: random.below(0x4000_0000),
      // Long enough for translated code to come back on its own account, now and then.
      loops: this.#hot ? random.pick([20, 100, 400]) : 1,
      budget: this.#options.budget ?? (this.#hot || random.chance(0.02) ? BUDGET_LONG : BUDGET),
      interruptions: interrupts ? this.#interruptions() : [],
    };
  }

  #interruptions(): Interruption[] {
    const random = this.#random;
    const dense = random.pick([8, 60, 400]);
    return Array.from({ length: 4 + random.below(60) }, () => ({
      after: 1 + random.below(dense),
      line: random.chance(0.05) ? LINE_NMI : random.below(INTERRUPT_COUNT),
    }));
  }

  /** An address in the data window as the program names it. */
  #dataAddress(offset: number): bigint {
    return originsOf(this.#env).data + BigInt(offset);
  }

  // ---- control flow ----------------------------------------------------------------------------------------------

  #block(index: number): Block {
    const random = this.#random;
    const pieces: string[] = [];
    if (index === 0 || random.chance(0.25))
      for (let count = random.below(3) + (index === 0 ? 2 : 0); count > 0; count--)
        pieces.push(this.#setPointer());
    for (let count = random.below(8); count > 0; count--) pieces.push(this.#piece());
    pieces.push(...this.#terminator(index));
    return { label: `B${index}`, pieces };
  }

  /** Some block of the main part, mostly a later one. */
  #target(from: number): string {
    const random = this.#random;
    if (random.chance(0.75)) return `B${Math.min(this.#main, from + 1 + random.below(4))}`;
    return `B${random.below(this.#main + 1)}`;
  }

  #earlier(from: number): string {
    return `B${Math.max(0, from - this.#random.below(4))}`;
  }

  #local(): string {
    return `L${this.#locals++}`;
  }

  /** What a block ends with. */
  #terminator(index: number): string[] {
    const random = this.#random;
    const condition = random.pick(CONDITIONS);
    const comparison = (): string => this.#pick(PRODUCERS);
    switch (this.#hot && random.chance(0.6) ? 8 : random.below(22)) {
      case 0:
      case 1:
        return [];
      case 2:
        return [`jmp ${this.#target(index)}`];
      case 3:
      case 4:
        return [`j${condition} ${this.#target(index)}`];
      case 5:
      case 6:
        return [this.#pick(PRODUCERS), `j${condition} ${this.#target(index)}`];
      case 7:
        return [
          `cmp ${this.#operands.register(32)}, ${this.#operands.immediate(32)}\nj${condition} ${this.#target(index)}`,
        ];
      case 8:
      case 9:
      case 10:
      case 11:
        return [this.#backEdge(index)];
      case 12: {
        // LOOP and its kin; RCX small so that it ends.
        const count = this.#operands.register(16);
        const name = random.pick(['loop', 'loope', 'loopne']);
        const skip = random.pick(
          ['jcxz', 'jecxz'].filter((mnemonic) => this.#env.bits !== 64 || mnemonic === 'jecxz'),
        );
        const over = this.#local();
        const again = this.#local();
        return [
          `and ecx, 7\n${skip} ${over}\n${again}: inc ${count === 'cx' ? 'ax' : count}\n${this.#straight()}\nand ecx, 7\njecxz ${over}\n${name} ${again}\n${over}:`,
        ];
      }
      case 13:
      case 14:
        return [this.#indirectJump(index)];
      case 15:
      case 16:
      case 17:
        return [this.#call()];
      case 18:
        return [this.#pushReturn(index)];
      case 19:
        return [this.#farJump(index)];
      case 20:
        return [
          `${comparison()}\nj${condition} ${this.#target(index)}\nj${random.pick(CONDITIONS)} ${this.#target(index)}`,
        ];
      default:
        // A bound on its own, without fuel: the budget ends it.
        return random.chance(0.1)
          ? [`jmp ${this.#earlier(index)}`]
          : [`j${condition} ${this.#earlier(index)}`];
    }
  }

  /** A jump back that is taken as often as its counter in memory says. */
  #backEdge(index: number): string {
    const random = this.#random;
    const counter = this.#operands.absolute(FUEL + random.below(FUEL_COUNT) * 4, 32);
    const step = random.pick([`dec ${counter}`, `sub ${counter}, 1`, `add ${counter}, -1`]);
    return `${step}\njg ${this.#earlier(index)}`;
  }

  #indirectJump(index: number): string {
    const random = this.#random;
    const { bits } = this.#env;
    const table = this.#local();
    const over = this.#local();
    const targets = Array.from({ length: 4 }, () => this.#target(index));
    const word = { 16: 'dw', 32: 'dd', 64: 'dq' }[bits];
    const data = `${table}: ${word} ${targets.join(', ')}`;
    if (bits === 64) {
      const pointer = random.pick(['rdx', 'r11']);
      const load = `and eax, 3\nlea ${pointer}, [rip+${table}]`;
      return random.chance(0.5)
        ? `${load}\njmp qword [${pointer}+rax*8]\n${data}`
        : `${load}\nmov rcx, [${pointer}+rax*8]\njmp rcx\n${data}\n${over}:`;
    }
    if (bits === 32)
      return random.chance(0.5)
        ? `and eax, 3\njmp dword [fs:eax*4+${table}-CODE]\n${data}`
        : `and eax, 3\nmov ecx, [cs:eax*4+${table}]\njmp ecx\n${data}`;
    return `and bx, 6\njmp word [cs:bx+${table}]\n${data}`;
  }

  #call(): string {
    const random = this.#random;
    if (this.#functions === 0) return 'nop';
    const target = `F${random.below(this.#functions)}`;
    const { bits } = this.#env;
    switch (random.below(5)) {
      case 0: {
        const register = bits === 64 ? 'rax' : bits === 32 ? 'eax' : 'ax';
        return bits === 64
          ? `lea rax, [rip+${target}]\ncall rax`
          : `mov ${register}, ${target}\ncall ${register}`;
      }
      case 1: {
        // Where am I: a call that never returns.
        const here = this.#local();
        return `call ${here}\n${here}: pop ${sized(random.pick(['ax', 'dx']), bits)}`;
      }
      case 2: {
        const counter = this.#operands.absolute(FUEL + random.below(FUEL_COUNT) * 4, 32);
        const again = this.#local();
        return `${again}: call ${target}\ndec ${counter}\njg ${again}`;
      }
      default:
        return `call ${target}`;
    }
  }

  /** Jumps by RET to a place that no CALL came from. */
  #pushReturn(index: number): string {
    const target = this.#target(index);
    const { bits } = this.#env;
    if (bits === 64) return `lea rax, [rip+${target}]\npush rax\nret`;
    return this.#random.chance(0.5)
      ? `push ${bits === 16 ? 'word ' : 'dword '}${target}\nret`
      : `push ${this.#operands.register(bits)}\npush ${bits === 16 ? 'word ' : 'dword '}${target}\nret ${bits / 8}`;
  }

  #farJump(index: number): string {
    const random = this.#random;
    const target = this.#target(index);
    const { bits, mode } = this.#env;
    if (random.chance(0.04)) {
      // On in code of another size, where the same bytes are other instructions.
      if (hasSyscall(this.#env) && this.#env.base < 1n << 32n)
        return `lea rax, [rip+${target}]\npush ${SELECTOR.sysret | 3}\npush rax\nretfq`;
      if (bits !== 64 && mode === 'long' && this.#env.flat)
        return `jmp ${SELECTOR.sysret + 16 + 3}:${target}`;
      if (mode === 'protected' || (mode === 'long' && bits !== 64)) return `jmp OTHERSEL:${target}`;
    }
    if (bits === 64) {
      const frame = random.chance(0.5)
        ? 'mov rdx, rsp\nmov ecx, ss\npush rcx\npush rdx\npushf\nmov ecx, cs\npush rcx\npush rax\niret'
        : 'mov ecx, cs\npush rcx\npush rax\nretfq';
      return `lea rax, [rip+${target}]\n${frame}`;
    }
    const push = bits === 16 ? 'push word ' : 'push dword ';
    return random.pick([
      `jmp CODESEL:${target}`,
      `push cs\n${push}${target}\nretf`,
      `pushf\npush cs\n${push}${target}\niret`,
    ]);
  }

  /** A function: a few blocks that end in a return. */
  #function(index: number): Block[] {
    const random = this.#random;
    const pieces: string[] = [];
    for (let count = 1 + random.below(5); count > 0; count--) pieces.push(this.#piece());
    if (random.chance(0.5)) {
      const over = this.#local();
      pieces.push(`j${random.pick(CONDITIONS)} ${over}\n${this.#straight()}\n${over}:`);
    }
    const end = this.#local();
    if (random.chance(0.3)) pieces.push(`${this.#pick(PRODUCERS)}\nj${random.pick(CONDITIONS)} ${end}`);
    if (index + 1 < this.#functions && random.chance(0.5))
      pieces.push(`call F${index + 1 + random.below(this.#functions - index - 1)}`);
    return [
      { label: `F${index}`, pieces },
      { label: end, pieces: ['ret'] },
    ];
  }

  // ---- straight code ---------------------------------------------------------------------------------------------

  #usable(templates: readonly Template[]): readonly Template[] {
    const long = this.#env.bits === 64;
    return templates.filter(({ only }) => only === undefined || (only === 'long') === long);
  }

  #pick(templates: readonly Template[]): string {
    const { text, sizes } = this.#random.pick(this.#usable(templates));
    return this.#operands.fill(text, sizes);
  }

  /** An instruction or two that only compute. */
  #straight(): string {
    return this.#pick(this.#random.pick([PRODUCERS, CONSUMERS, MOVES]));
  }

  #piece(): string {
    const random = this.#random;
    const weights = this.#weights;
    let left = random.below(Object.values(weights).reduce((sum, weight) => sum + weight, 0));
    for (const [kind, weight] of Object.entries(weights)) {
      left -= weight;
      if (left >= 0) continue;
      switch (kind) {
        case 'integer':
          return random.chance(0.12) ? this.#setPointer() : this.#straight();
        case 'vector':
          return this.#pick(VECTOR);
        case 'x87':
          return this.#pick(X87);
        case 'string':
          return this.#string();
        case 'patch':
          return random.chance(0.5) || this.#patches.slots.length === 0
            ? this.#patches.slot()
            : this.#patches.patch();
        case 'fault':
          return this.#env.ring === 3 && random.chance(0.2) ? this.#pick(PRIVILEGED) : this.#pick(FAULTS);
        case 'raw':
          return this.#raw();
        case 'wander':
          return this.#wander();
        case 'fields':
          return this.#fields();
        default:
          return this.#system();
      }
    }
    throw new Error('weights do not add up');
  }

  /** Loads a pointer register with an address where something is. */
  #setPointer(): string {
    const random = this.#random;
    const { bits } = this.#env;
    const edge = (offset: number): number => offset - random.below(20);
    const offset = random.pick([
      edge(DATA.plain + 0x1000),
      DATA.plain + random.below(0x1f00),
      DATA.plain + 0x400 + random.below(0x40) * 16,
      DATA.fixable + random.below(0xf00),
      edge(DATA.fixable),
      DATA.swapped + random.below(0x1e00),
      edge(DATA.swapped + 0x1000),
      random.chance(0.3) ? edge(DATA.readOnly) : DATA.plain + 0x300,
      random.chance(0.4) ? DATA.mmio + random.below(0x100) : DATA.plain + 0xf00,
      random.chance(0.2) ? DATA.absent + random.below(0x1000) : DATA.plain + 0x700,
    ]);
    const register = this.#operands.pointer(bits);
    if (bits === 64) {
      if (this.#env.flat && random.chance(0.1)) return `lea ${register}, [rip+${random.pick(this.#islands)}]`;
      return random.chance(0.5)
        ? `lea ${register}, [rip+DATA+${offset}]`
        : `mov_r64_imm64 ${register}, DATA+${offset}`;
    }
    if (this.#env.flat && random.chance(0.1)) return `mov ${register}, ${random.pick(this.#islands)}`;
    // The upper half counts where addresses are 32 bits wide.
    return `mov ${bits === 16 ? `e${register}` : register}, DATA+${offset}`;
  }

  /** Moves a pointer a little: over the edge of a page, onto a device, and away again. */
  #wander(): string {
    const random = this.#random;
    const register = this.#operands.pointer(this.#env.bits);
    return random.chance(0.6)
      ? `add ${register}, ${random.pick([1, 2, 4, 8, 16, -4, -1])}`
      : `xor ${register}, ${random.pick([1, 2, 4, 8, 16, 32])}`;
  }

  /** Accesses next to each other, as to a structure or a stack frame, some of them on one side of a branch only. */
  #fields(): string {
    const random = this.#random;
    const { bits } = this.#env;
    const pointer = this.#operands.pointer(bits);
    const other = this.#operands.pointer(bits);
    const stack = bits === 16 ? undefined : bits === 64 ? 'rsp' : 'esp';
    const access = (): string => {
      const base =
        stack !== undefined && random.chance(0.25) ? stack : random.pick([pointer, pointer, other]);
      const distance = random.below(16) * 4 + (random.chance(0.2) ? random.below(4) : 0);
      const size = random.pick([8, 16, 32, 32, bits]);
      const place = `${{ 8: 'byte', 16: 'word', 32: 'dword', 64: 'qword' }[size]} [${base}+${distance}]`;
      const register = this.#operands.register(size);
      return random.pick([
        `mov ${register}, ${place}`,
        `mov ${register}, ${place}`,
        `mov ${place}, ${register}`,
        `add ${place}, ${register}`,
        `cmp ${place}, ${register}`,
        `xchg ${register}, ${place}`,
        `push ${this.#operands.register(bits)}\npop ${this.#operands.register(bits)}`,
        bits === 16 ? 'nop' : `lea ${other}, [${pointer}+${random.below(32)}]`,
        `add ${pointer}, ${random.pick([1, 4, 8, -4])}`,
      ]);
    };
    const some = (): string => Array.from({ length: 1 + random.below(4) }, access).join('\n');
    if (random.chance(0.4)) return some();
    const otherwise = this.#local();
    const end = this.#local();
    const condition = `${this.#pick(PRODUCERS)}\nj${random.pick(CONDITIONS)} ${otherwise}`;
    return `${some()}\n${condition}\n${some()}\njmp ${end}\n${otherwise}:\n${some()}\n${end}:\n${some()}`;
  }

  #string(): string {
    const random = this.#random;
    const { bits } = this.#env;
    const offset = (): number =>
      random.pick([
        DATA.plain + 0x800,
        DATA.plain + 0xff0,
        DATA.fixable - 16,
        DATA.swapped + 0xff8,
        DATA.plain + 0x1100,
      ]) + random.below(16);
    const load = (name: string): string =>
      bits === 64 ? `lea r${name}, [rip+DATA+${offset()}]` : `mov e${name}, DATA+${offset()}`;
    const lines = [load('si'), load('di'), `mov ecx, ${random.pick([0, 1, 5, 9, 40])}`];
    if (random.chance(0.2)) lines.unshift('std');
    lines.push(this.#pick(STRINGS));
    if (random.chance(0.8)) lines.push('cld');
    return lines.join('\n');
  }

  /** Bytes of any form of the opcode table, register operands mostly. */
  #raw(): string {
    const random = this.#random;
    const forms = formsFor(this.#env.bits);
    for (let attempt = 0; attempt < 20; attempt++) {
      const form = random.pick(forms);
      const encoded = encodeForm(random, form);
      if (encoded.address !== undefined && !random.chance(0.1)) continue;
      if ((encoded.rm === 4 || encoded.reg === 4) && !random.chance(0.1)) continue;
      return `db ${encoded.bytes.join(', ')}`;
    }
    return 'nop';
  }

  #system(): string {
    const random = this.#random;
    const { ring, mode } = this.#env;
    switch (random.below(14)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return this.#service();
      case 4:
        return `mov al, ${random.below(256)}\nout ${PORT.dma}, al`;
      case 5:
        return `out ${PORT.interrupt}, al`;
      case 6:
        return `out ${PORT.exit}, al`;
      case 7:
        return 'rdtsc';
      case 8:
        return this.#env.bits === 64 || mode === 'real' || mode === 'v86'
          ? 'cpuid'
          : `mov ecx, ${random.pick(['DATASEL', 'ROSEL', 'NPSEL', 'CODESEL', '0', 'GSSEL'])}\nmov es, ecx\n${this.#operands.fill('mov {m32}, {r32}', [32])}\nmov ecx, DATASEL\nmov es, ecx`;
      case 9:
        // The trap flag, for as long as the handler lets it be.
        return random.chance(0.2)
          ? `pushf\nor byte [${this.#env.bits === 64 ? 'rsp' : 'esp'}+1], 1\npopf`
          : 'pushf\npopf';
      case 10:
        return this.#shadow();
      case 11:
        if (ring !== 0) return 'nop';
        return random.chance(0.15) ? this.#breakpoint() : this.#pick(SYSTEM);
      default:
        return ring === 0 ? this.#pick(SYSTEM) : this.#service();
    }
  }

  /** What holds off interrupts for an instruction, and what changes whether there are any. */
  #shadow(): string {
    const random = this.#random;
    const { bits, mode, ring } = this.#env;
    const flags = `pushf\nxor byte [${bits === 64 ? 'rsp' : 'esp'}+1], 2\npopf`;
    return random.pick([
      `mov ecx, ss\nmov ss, ecx\n${this.#straight()}`,
      'mov ecx, ss\nmov ss, ecx\nmov ss, ecx\nnop',
      bits === 64 ? 'nop' : `push ss\npop ss\n${this.#straight()}`,
      ...(ring === 0 || mode === 'v86'
        ? [flags, 'cli', 'sti', `sti\n${this.#straight()}`, 'sti\nsti\ncli']
        : []),
    ]);
  }

  /** A breakpoint on data or code, until the handler takes it away. */
  #breakpoint(): string {
    const random = this.#random;
    const { bits } = this.#env;
    const a = bits === 64 ? 'rax' : 'eax';
    const { code, data } = basesOf(this.#env);
    const [base, place, kind] = random.chance(0.5)
      ? [code, `B${random.below(this.#main)}`, 0]
      : [data, `DATA+${DATA.plain + random.below(0x40) * 0x20}`, random.pick([1, 3])];
    const move = bits === 64 ? 'mov_r64_imm64' : 'mov';
    return `${move} ${a}, ${place}+${base}\nmov dr0, ${a}\nmov eax, ${0x401 | (kind << 16) | (kind === 0 ? 0 : 3 << 18)}\nmov dr7, ${a}`;
  }

  /** Asks the handlers for something, or calls the system the fast way. */
  #service(): string {
    const random = this.#random;
    if (hasSyscall(this.#env) && random.chance(0.3)) return 'syscall';
    if (hasSysenter(this.#env) && random.chance(0.3)) {
      const back = this.#local();
      return `mov edx, ${back}\nmov ecx, esp\nsysenter\n${back}:`;
    }
    return `mov al, ${random.below(SERVICE_COUNT)}\nint ${VECTOR_SERVICE}`;
  }
}
