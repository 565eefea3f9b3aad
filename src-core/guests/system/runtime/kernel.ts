/** What the protected-mode and the 64-bit kernel of the test guests have in common. */
import { symbol } from '../../assembler/index.ts';
import { DescriptorTable } from './descriptors.ts';
import type { GateOptions } from './descriptors.ts';
import { Program } from './program.ts';

/** Vectors with an error code (SDM vol. 3A, table 6-1). */
export const errorCodeVectors: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17]);

/** Names of the exceptions, by vector; every other vector is an interrupt. */
export const exceptionNames = [
  ...['#DE', '#DB', 'NMI', '#BP', '#OF', '#BR', '#UD', '#NM', '#DF', '#9', '#TS', '#NP', '#SS', '#GP', '#PF'],
  ...['#15', '#MF', '#AC', '#MC', '#XM'],
] as const;

/** Vectors with a gate: 0x00 to 0x3f. */
export const gateCount = 0x40;

/** Vector by which ring 3 returns to the kernel. */
export const leaveUserVector = 0x30;

/** Reports after which a resumed case is given up. */
export const reportLimit = 64;

/** Bytes of the TSS proper, 32- and 64-bit alike, before the I/O permission bitmap. */
export const tssSize = 104;
/** Bytes of the bitmap: ports to 0xff, enough for the debug console, PIT and PICs. */
export const bitmapBytes = 32;

export abstract class Kernel extends Program {
  readonly gdt = new DescriptorTable();
  readonly #gates = new Map<number, GateOptions>();
  readonly #data: string[] = [];
  readonly #bss: { readonly label: string; readonly size: number; readonly align: number }[] = [];

  /** The name of a register at the width of the kernel: `ax` is EAX or RAX. */
  abstract native(name: string): string;

  /**
   * One case: a line of output that begins with its name. A fault in `body` is reported on that line and ends
   * the case; a body that gets to its end prints "ok". Instruction pointers are reported relative to the
   * first instruction of `body`, or as they are where they lie outside the image. Segment registers, stack
   * and flags are in order again afterwards.
   */
  abstract testCase(name: string, body: string | (() => void)): this;

  /** Runs `body` in ring 3 with the given flags, and goes on in ring 0 after it. Registers are kept. */
  abstract user(body: string | (() => void), flags?: number): this;

  /** Emits handlers, tables and stacks, and ends the program's flow with exit status 85. */
  abstract finish(): this;

  /** Assembly text for the data behind the code. */
  data(text: string): this {
    this.#data.push(text);
    return this;
  }

  /** Replaces the reporting gate of a vector. */
  gate(vector: number, options: GateOptions): this {
    this.#gates.set(vector, options);
    return this;
  }

  /** Reserves zeroed memory under a label; 4 KiB-aligned unless told otherwise. */
  reserve(label: string, size: number, align = 4096): this {
    this.#bss.push({ label, size, align });
    return this;
  }

  protected gateOf(vector: number, standard: GateOptions): GateOptions {
    return this.#gates.get(vector) ?? standard;
  }

  protected emitBody(body: string | (() => void)): void {
    if (typeof body === 'string') this.code(body);
    else body();
  }

  /** Bit n is set where vector n has an error code. */
  protected get errorCodeMask(): number {
    return [...errorCodeVectors].reduce((mask, vector) => mask | (1 << vector), 0);
  }

  /** Emits the texts `exception_names` points to, an address of `width` bytes each. */
  protected emitExceptionNames(width: 4 | 8): void {
    const { asm } = this;
    asm.align(8).label('exception_names');
    for (const name of exceptionNames) {
      if (width === 4) asm.dd(symbol(`name$${name}`));
      else asm.dq(symbol(`name$${name}`));
    }
    for (const name of exceptionNames) asm.label(`name$${name}`).ascii(name).db(0);
  }

  /** Emits what {@link data} and {@link reserve} collected, and the three stacks. */
  protected emitDataAndStacks(): void {
    const { asm } = this;
    for (const text of this.#data) this.code(text);
    asm.bss().align(4096);
    for (const stack of ['stack', 'ring0_stack', 'user_stack']) asm.space(0x2000).label(`${stack}_top`);
    for (const { label, size, align } of this.#bss) asm.align(align).label(label).space(size);
    asm.align(4096).label('image_end');
  }
}
