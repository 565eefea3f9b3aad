/**
 * Straight code: pieces that go on behind themselves, if only after a fault, an interrupt or a call of the system.
 */
import { encodeForm } from '../encode.ts';
import { formsOf } from '../forms.ts';
import type { Form } from '../forms.ts';
import type { Random } from '../random.ts';
import { basesOf, hasSyscall, hasSysenter } from './environment.ts';
import type { Environment } from './environment.ts';
import { DATA, PORT, SERVICE_COUNT, VECTOR_SERVICE } from './layout.ts';
import { CONDITIONS } from './operands.ts';
import type { Operands } from './operands.ts';
import { CONSUMERS, MOVES, PRODUCERS, STRINGS, SYSTEM } from './templates.ts';
import type { Template } from './templates.ts';

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

/** What pieces refer to in their program. */
export interface Surroundings {
  /** Labels of data among the code. */
  readonly islands: readonly string[];
  /** Blocks of the main part: B0, B1... */
  readonly blocks: number;
  /** Makes a label nothing else uses. */
  readonly makeLabel: () => string;
}

/** Makes pieces of straight code of one program. */
export class StraightPieces {
  readonly #random: Random;
  readonly #env: Environment;
  readonly #operands: Operands;
  readonly #islands: readonly string[];
  readonly #blocks: number;
  readonly #makeLabel: () => string;

  constructor(random: Random, env: Environment, operands: Operands, surroundings: Surroundings) {
    this.#random = random;
    this.#env = env;
    this.#operands = operands;
    this.#islands = surroundings.islands;
    this.#blocks = surroundings.blocks;
    this.#makeLabel = surroundings.makeLabel;
  }

  /** An instruction or two that only compute. */
  compute(): string {
    return this.pick(this.#random.pick([PRODUCERS, CONSUMERS, MOVES]));
  }

  /** An instruction from one of the templates that there are in the environment's mode. */
  pick(templates: readonly Template[]): string {
    const { text, sizes } = this.#random.pick(this.#usable(templates));
    return this.#operands.fill(text, sizes);
  }

  /** Loads a pointer register with an address where something is. */
  setPointer(): string {
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
  wander(): string {
    const random = this.#random;
    const register = this.#operands.pointer(this.#env.bits);
    return random.chance(0.6)
      ? `add ${register}, ${random.pick([1, 2, 4, 8, 16, -4, -1])}`
      : `xor ${register}, ${random.pick([1, 2, 4, 8, 16, 32])}`;
  }

  /** Accesses next to each other, as to a structure or a stack frame, some of them on one side of a branch only. */
  fields(): string {
    const random = this.#random;
    const { bits } = this.#env;
    this.#operands.outsideTemplates();
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
    const otherwise = this.#makeLabel();
    const end = this.#makeLabel();
    const condition = `${this.pick(PRODUCERS)}\nj${random.pick(CONDITIONS)} ${otherwise}`;
    this.#operands.outsideTemplates();
    return `${some()}\n${condition}\n${some()}\njmp ${end}\n${otherwise}:\n${some()}\n${end}:\n${some()}`;
  }

  /** A string instruction, at addresses where runs meet edges of pages. */
  string(): string {
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
    lines.push(this.pick(STRINGS));
    if (random.chance(0.8)) lines.push('cld');
    return lines.join('\n');
  }

  /** Bytes of any form of the opcode table, register operands mostly. */
  raw(): string {
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

  /** What concerns handlers, devices and what only privileged code may do. */
  system(): string {
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
        return random.chance(0.15) ? this.#breakpoint() : this.pick(SYSTEM);
      default:
        return ring === 0 ? this.pick(SYSTEM) : this.#service();
    }
  }

  /** What holds off interrupts for an instruction, and what changes whether there are any. */
  #shadow(): string {
    const random = this.#random;
    const { bits, mode, ring } = this.#env;
    const flags = `pushf\nxor byte [${bits === 64 ? 'rsp' : 'esp'}+1], 2\npopf`;
    return random.pick([
      `mov ecx, ss\nmov ss, ecx\n${this.compute()}`,
      'mov ecx, ss\nmov ss, ecx\nmov ss, ecx\nnop',
      bits === 64 ? 'nop' : `push ss\npop ss\n${this.compute()}`,
      ...(ring === 0 || mode === 'v86'
        ? [flags, 'cli', 'sti', `sti\n${this.compute()}`, 'sti\nsti\ncli']
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
      ? [code, `B${random.below(this.#blocks)}`, 0]
      : [data, `DATA+${DATA.plain + random.below(0x40) * 0x20}`, random.pick([1, 3])];
    const move = bits === 64 ? 'mov_r64_imm64' : 'mov';
    return `${move} ${a}, ${place}+${base}\nmov dr0, ${a}\nmov eax, ${0x401 | (kind << 16) | (kind === 0 ? 0 : 3 << 18)}\nmov dr7, ${a}`;
  }

  /** Asks the handlers for something, or calls the system the fast way. */
  #service(): string {
    const random = this.#random;
    if (hasSyscall(this.#env) && random.chance(0.3)) return 'syscall';
    if (hasSysenter(this.#env) && random.chance(0.3)) {
      const back = this.#makeLabel();
      return `mov edx, ${back}\nmov ecx, esp\nsysenter\n${back}:`;
    }
    return `mov al, ${random.below(SERVICE_COUNT)}\nint ${VECTOR_SERVICE}`;
  }

  #usable(templates: readonly Template[]): readonly Template[] {
    const long = this.#env.bits === 64;
    return templates.filter(({ only }) => only === undefined || (only === 'long') === long);
  }
}
