/**
 * Makes random programs: blocks that branch anywhere, with loops, calls and jumps of every kind, code that
 * overwrites code, and faults. Everything comes from a seed and the program's number.
 */
import { Random } from '../random.ts';
import { integer } from '../values.ts';
import type { Halves } from '../values.ts';
import { ENVIRONMENTS, hasSyscall, originsOf } from './environment.ts';
import type { Environment } from './environment.ts';
import { DATA, INTERRUPT_COUNT, LINE_NMI, SELECTOR, VECTOR_EXIT } from './layout.ts';
import { CONDITIONS, Operands, sized } from './operands.ts';
import { FUEL, FUEL_COUNT } from './program.ts';
import { PatchPieces } from './patches.ts';
import type { Block, Interruption, Program } from './program.ts';
import { StraightPieces } from './straight.ts';
import { FAULTS, PRIVILEGED, PRODUCERS, VECTOR, X87 } from './templates.ts';

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
/** A function that goes where the accumulator says, behind those that there may be. */
const THUNK = 'F9';
const HOT_BLOCKS = 6;
const BLOCKS = 24;
const FLAG_IF = 0x200;
const FLAGS_STATUS = 0x8d5;

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
  readonly #straight: StraightPieces;
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
    const makeLabel = (): string => this.#local();
    this.#straight = new StraightPieces(random, this.#env, this.#operands, {
      islands: this.#islands,
      blocks: this.#main,
      makeLabel,
    });
    this.#patches = new PatchPieces(random, this.#env, makeLabel);
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
    if (this.#functions > 0) blocks.push({ label: THUNK, pieces: [`jmp ${accumulator(env.bits)}`] });
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
        pieces.push(this.#straight.setPointer());
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
    const comparison = (): string => this.#straight.pick(PRODUCERS);
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
        return [this.#straight.pick(PRODUCERS), `j${condition} ${this.#target(index)}`];
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
          `and ecx, 7\n${skip} ${over}\n${again}: inc ${count === 'cx' ? 'ax' : count}\n${this.#straight.compute()}\nand ecx, 7\njecxz ${over}\n${name} ${again}\n${over}:`,
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
    const load = (name: string): string =>
      bits === 64 ? `lea rax, [rip+${name}]` : `mov ${accumulator(bits)}, ${name}`;
    switch (random.below(8)) {
      case 0:
        return `${load(target)}\ncall ${accumulator(bits)}`;
      case 3:
        return `${load(target)}\ncall ${THUNK}`;
      case 4: {
        // In a loop, to one function or to another one.
        const counter = this.#operands.absolute(FUEL + random.below(FUEL_COUNT) * 4, 32);
        const again = this.#local();
        const call = this.#local();
        const other = `F${random.below(this.#functions)}`;
        const via = random.pick([accumulator(bits), THUNK]);
        return [
          `${again}: ${load(target)}\ntest byte ${this.#operands.absolute(FUEL, 8)}, ${random.pick([1, 4, 64])}`,
          `jz ${call}\n${load(other)}\n${call}: call ${via}\ndec ${counter}\njg ${again}`,
        ].join('\n');
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
      pieces.push(`j${random.pick(CONDITIONS)} ${over}\n${this.#straight.compute()}\n${over}:`);
    }
    const end = this.#local();
    if (random.chance(0.3))
      pieces.push(`${this.#straight.pick(PRODUCERS)}\nj${random.pick(CONDITIONS)} ${end}`);
    if (index + 1 < this.#functions && random.chance(0.5))
      pieces.push(`call F${index + 1 + random.below(this.#functions - index - 1)}`);
    return [
      { label: `F${index}`, pieces },
      { label: end, pieces: ['ret'] },
    ];
  }

  /** A piece of straight code, or code that others overwrite, as often as the program's weights say. */
  #piece(): string {
    const random = this.#random;
    const weights = this.#weights;
    let left = random.below(Object.values(weights).reduce((sum, weight) => sum + weight, 0));
    for (const [kind, weight] of Object.entries(weights)) {
      left -= weight;
      if (left >= 0) continue;
      switch (kind) {
        case 'integer':
          return random.chance(0.12) ? this.#straight.setPointer() : this.#straight.compute();
        case 'vector':
          return this.#straight.pick(VECTOR);
        case 'x87':
          return this.#straight.pick(X87);
        case 'string':
          return this.#straight.string();
        case 'patch':
          return random.chance(0.5) || this.#patches.slots.length === 0
            ? this.#patches.slot()
            : this.#patches.patch();
        case 'fault':
          return this.#env.ring === 3 && random.chance(0.2)
            ? this.#straight.pick(PRIVILEGED)
            : this.#straight.pick(FAULTS);
        case 'raw':
          return this.#straight.raw();
        case 'wander':
          return this.#straight.wander();
        case 'fields':
          return this.#straight.fields();
        default:
          return this.#straight.system();
      }
    }
    throw new Error('weights do not add up');
  }
}

/** RAX as wide as addresses of code are. */
function accumulator(bits: 16 | 32 | 64): string {
  return bits === 64 ? 'rax' : bits === 32 ? 'eax' : 'ax';
}
