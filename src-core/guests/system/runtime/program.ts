/**
 * What every system test guest shares: printing through the debug console, ending through
 * isa-debug-exit, and assembly text with a few statements of its own.
 */
import {
  Assembler,
  AssemblyError,
  multibootImage,
  reserveMultibootHeader,
  source,
  symbol,
} from '../../assembler/index.ts';
import type { Bits, MultibootFormat } from '../../assembler/index.ts';

/** Bochs' debug console: every byte written is a character of the output. */
export const debugConsolePort = 0xe9;
/** QEMU's isa-debug-exit: writing `v` ends the machine with exit status (v << 1) | 1. */
export const debugExitPort = 0xf4;

const stackWidth: Readonly<Record<Bits, string>> = { 16: 'word', 32: 'dword', 64: 'qword' };

/** A guest program under construction. */
export class Program {
  readonly asm: Assembler;
  readonly #consoles = new Set<Bits>();

  constructor(origin = 0x100000) {
    this.asm = new Assembler({ origin, bits: 32 });
    reserveMultibootHeader(this.asm);
  }

  /**
   * Assembly text (see {@link source}) with three statements added, all of which keep every register and
   * flag and need a stack:
   * - `say "text"` prints text (`\n` ends a line);
   * - `hex operand, digits` prints the low digits of a register or memory operand of the stack's width;
   * - `exit n` ends the machine.
   */
  code(text: string): this {
    for (const line of text.split('\n')) {
      const [, labels = '', own] = /^\s*((?:[\w.$]+:\s*)*)((?:say|hex|exit)\s.*)?/.exec(line) ?? [];
      if (own === undefined) {
        source(this.asm, line);
        continue;
      }
      source(this.asm, labels);
      const statement = own.trim();
      const say = /^say\s+"(.*)"$/.exec(statement);
      const hex = /^hex\s+(.+?)(?:,\s*(\d+))?$/.exec(statement);
      const exit = /^exit\s+(\w+)$/.exec(statement);
      if (say?.[1] !== undefined) this.say(say[1].replaceAll('\\n', '\n'));
      else if (hex?.[1] !== undefined) this.hex(hex[1], Number(hex[2] ?? 8));
      else if (exit?.[1] !== undefined) this.exit(Number(exit[1]));
      else throw new AssemblyError(`cannot read '${statement}'`);
    }
    return this;
  }

  /** Prints text. The characters stand behind the call, so this works at any address in readable code. */
  say(text: string): this {
    if (text === '') return this;
    const { asm } = this;
    const bits = this.#useConsole();
    asm
      .emit('call', symbol(`puts${bits}`))
      .ascii(text)
      .db(0);
    return this;
  }

  /** Prints the low `digits` hexadecimal digits of an operand that can be pushed. */
  hex(operand: string, digits = 8): this {
    const bits = this.#useConsole();
    // In 64-bit code only whole quadwords can be pushed: a smaller datum is the low part of one.
    const memory = /^(?:(?:word|dword|qword)\s+)?(\[.*\])$/.exec(operand)?.[1];
    const size = /^(?:word|dword|qword)\b/.exec(operand)?.[0];
    const width = bits === 64 ? stackWidth[64] : (size ?? stackWidth[bits]);
    const pushed = memory === undefined ? operand : `${width} ${memory}`;
    source(this.asm, `push ${pushed}\npush ${digits}\ncall puthex${bits}`);
    return this;
  }

  /** Ends the machine with exit status (value << 1) | 1. */
  exit(value: number): this {
    const label = this.asm.unique('halted');
    source(this.asm, `mov eax, ${value}\nout ${debugExitPort}, eax\n${label}: cli\nhlt\njmp ${label}`);
    return this;
  }

  unique(stem: string): string {
    return this.asm.unique(stem);
  }

  /** Emits the console routines for the current width here; needed where code runs away from its image. */
  emitConsoleHere(bits: Bits): this {
    if (this.#consoles.has(bits)) throw new AssemblyError(`the ${bits}-bit console exists already`);
    this.#consoles.add(bits);
    emitConsole(this.asm, bits);
    return this;
  }

  /** Finishes the program as a Multiboot image entered at the label `start`. */
  build(format: MultibootFormat = 'elf'): Uint8Array {
    return multibootImage(this.asm.assemble(), 'start', format);
  }

  /** The console routines are emitted on first use, jumped over. */
  #useConsole(): Bits {
    const bits = this.asm.currentBits;
    if (!this.#consoles.has(bits)) {
      const over = this.asm.unique('console');
      source(this.asm, `jmp ${over}`);
      this.emitConsoleHere(bits);
      source(this.asm, `${over}:`);
    }
    return bits;
  }
}

/**
 * `puts`: prints the zero-terminated string behind the call and returns behind it. `puthex`: prints the
 * pushed number of digits of the value pushed before it, and takes both off the stack.
 */
function emitConsole(asm: Assembler, bits: Bits): void {
  const before = asm.currentBits;
  asm.bits(bits);
  const r = (name: string): string => (bits === 16 ? name : bits === 32 ? `e${name}` : `r${name}`);
  const width = bits / 8;
  const saved = ['ax', 'bx', 'cx', 'dx'].map(r);
  const push = saved.map((name) => `push ${name}`).join('\n');
  const pop = saved
    .toReversed()
    .map((name) => `pop ${name}`)
    .join('\n');
  // Above the return address lie the digits, then the value; below it the flags and four registers. In
  // 16-bit code sp cannot be a base, so bp is saved as well.
  const frame = (bits === 16 ? 6 : 5) * width + width;
  const at = (offset: number): string => (bits === 16 ? `[bp+${offset}]` : `[${r('sp')}+${offset}]`);
  source(
    asm,
    `puts${bits}:
       ${bits === 16 ? 'push bp\nmov bp, sp\nxchg si, [bp+2]' : `xchg ${r('si')}, [${r('sp')}]`}
       pushf
       push ${r('ax')}
       cld
     puts${bits}$next:
       ${bits === 64 ? '' : 'cs'} lodsb
       test al, al
       jz puts${bits}$end
       out ${debugConsolePort}, al
       jmp puts${bits}$next
     puts${bits}$end:
       pop ${r('ax')}
       popf
       ${bits === 16 ? 'xchg si, [bp+2]\npop bp' : `xchg ${r('si')}, [${r('sp')}]`}
       ret
     puthex${bits}:
       pushf
       ${push}
       ${bits === 16 ? 'push bp\nmov bp, sp' : ''}
       mov ${r('bx')}, ${at(frame)}
       mov ${r('dx')}, ${at(frame + width)}
       mov ${r('cx')}, ${bits / 4}
       sub ${r('cx')}, ${r('bx')}
       shl ${r('cx')}, 2
       shl ${r('dx')}, cl
     puthex${bits}$next:
       rol ${r('dx')}, 4
       mov al, dl
       and al, 15
       add al, '0'
       cmp al, '9'
       jbe puthex${bits}$out
       add al, 39
     puthex${bits}$out:
       out ${debugConsolePort}, al
       dec ${r('bx')}
       jnz puthex${bits}$next
       ${bits === 16 ? 'pop bp' : ''}
       ${pop}
       popf
       ret ${2 * width}`,
  );
  asm.bits(before);
}
