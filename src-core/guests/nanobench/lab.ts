/** The kernel the nanobenchmarks live in, in either width, and the assembly text they are written in. */
import { AssemblyError, source, symbol } from '../assembler/index.ts';
import { systemTypes } from '../system/runtime/descriptors.ts';
import { code0, Kernel32 } from '../system/runtime/kernel32.ts';
import { code64, Kernel64 } from '../system/runtime/kernel64.ts';
import { enablePaging32, type PageTables } from '../system/runtime/paging.ts';
import type { NanobenchBits } from './catalogue.ts';

/** Physical, and where it is mapped linear, addresses of the interrupt controllers' registers (82093AA; SDM vol. 3A, 10.4.1). */
export const IO_APIC_ADDRESS = 0xfec0_0000;
export const LOCAL_APIC_ADDRESS = 0xfee0_0000;
/** Present, writable, not cached, large (SDM vol. 3A, 4.5.4). */
const DEVICE_PAGE = 0x93;

/** Assembly whose text is the same in both widths, see {@link Lab.code}. */
export class Lab {
  readonly bits: NanobenchBits;
  readonly kernel: Kernel32 | Kernel64;
  /** Bytes of a register. */
  readonly width: 4 | 8;
  readonly tables: PageTables;
  /** Selector of ring 0 code. */
  readonly codeSelector: number;
  readonly #names: Readonly<Record<string, string>>;

  constructor(bits: NanobenchBits) {
    this.bits = bits;
    this.width = bits === 64 ? 8 : 4;
    this.#names = { word: bits === 64 ? 'qword' : 'dword', data: bits === 64 ? 'dq' : 'dd' };
    this.codeSelector = bits === 64 ? code64 : code0;
    if (bits === 64) {
      const kernel = new Kernel64();
      this.kernel = kernel;
      this.tables = kernel.tables;
      this.#saveMultiboot();
      this.#mapDevices64();
    } else {
      const kernel = new Kernel32();
      this.kernel = kernel;
      this.#saveMultiboot();
      this.tables = this.#pagingIfWanted(kernel);
    }
  }

  /** Tables from the top down, as labels; the last one is that of the region benchmarks map at will. */
  get levels(): readonly string[] {
    return this.bits === 64
      ? ['pml4', 'directory_pointers', 'page_directory', 'test_table']
      : ['page_directory', 'test_table'];
  }

  /**
   * Assembly text with what makes it fit both widths: `%ax` is EAX or RAX (so for every register), `%word` the
   * size of one and `%data` the directive for one. Statements of its own, which keep registers: `print 'text'`
   * sends text to COM1, `line 'text'` that and the end of the line, and `fail 'text'` says what went wrong with a
   * benchmark.
   */
  code(text: string): this {
    for (const line of text.split('\n')) {
      const own = /^\s*(print|line|fail) '(.*)'\s*$/.exec(line);
      if (own?.[1] === 'print') this.#print(own[2] ?? '');
      else if (own?.[1] === 'line') this.#print(`${own[2] ?? ''}\r\n`);
      else if (own !== null) this.#fail(own[2] ?? '');
      else this.kernel.code(this.expand(line));
    }
    return this;
  }

  /** Data behind the code, in the same text. */
  data(text: string): this {
    this.kernel.data(this.expand(text));
    return this;
  }

  expand(text: string): string {
    return text.replaceAll(/%([a-z]+)/g, (_, name: string) => this.#names[name] ?? this.kernel.native(name));
  }

  /** Runs `body` in ring 3. */
  user(body: () => void): this {
    this.kernel.user(body);
    return this;
  }

  /** An interrupt gate under a vector of its own; {@link borrowGate} puts it in another's place. */
  gate(vector: number, label: string, dpl = 0): this {
    this.kernel.gate(vector, {
      selector: this.codeSelector,
      offset: symbol(label),
      type: systemTypes.interruptGate,
      dpl,
    });
    return this;
  }

  /** A zero-terminated text among the data; its label. */
  text(text: string): string {
    const label = this.kernel.unique('text');
    if (text.includes('"')) throw new AssemblyError(`a text may not hold quotes: ${text}`);
    this.kernel.data(`${label}: db "${text}", 0`);
    return label;
  }

  #print(text: string): void {
    const { asm } = this.kernel;
    asm.emit('call', symbol('serial_text')).bytes(new TextEncoder().encode(text)).db(0);
  }

  #fail(text: string): void {
    source(this.kernel.asm, this.expand(`mov %word [failure], ${this.text(text)}`));
  }

  #saveMultiboot(): void {
    this.kernel.code('mov [multiboot_information], ebx');
    this.kernel.data('align 4\nmultiboot_information: dd 0');
  }

  #mapDevices64(): void {
    const entry = (address: number): string => `mmio_directory+${((address >>> 21) & 0x1ff) * 8}`;
    this.kernel.reserve('mmio_directory', 0x1000).code(`
      mov dword [directory_pointers+24], mmio_directory+3
      mov dword [${entry(IO_APIC_ADDRESS)}], ${IO_APIC_ADDRESS | DEVICE_PAGE}
      mov dword [${entry(LOCAL_APIC_ADDRESS)}], ${LOCAL_APIC_ADDRESS | DEVICE_PAGE}`);
  }

  /** 32-bit code turns paging on only when the command line asks for it: not every engine has it. */
  #pagingIfWanted(kernel: Kernel32): PageTables {
    this.kernel.code(`
      call parse_command_line
      cmp dword [paging_wanted], 0
      jz paging$off
      mov dword [page_directory+${(IO_APIC_ADDRESS >>> 22) * 4}], ${(IO_APIC_ADDRESS | DEVICE_PAGE) >>> 0}
      mov eax, cr4
      or eax, 0x10
      mov cr4, eax`);
    const tables = enablePaging32(kernel, false);
    this.kernel.code('paging$off:');
    return tables;
  }
}
