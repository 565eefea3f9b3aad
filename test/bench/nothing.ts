import type { GuestName } from './rows.ts';

/** Where the program is loaded; any free address does. */
const BASE = 0x400000;

/** exit(0): i386 has it as system call 1 behind `int 0x80`, amd64 as 60 behind `syscall`. */
const CODE = {
  // mov eax,1; xor ebx,ebx; int 0x80
  i386: [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80],
  // mov eax,60; xor edi,edi; syscall
  amd64: [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05],
} as const;

/**
 * The smallest program: an executable of one segment that ends at once, so that the fork and exec row measures the
 * kernel and not a C library (ELF-32 and ELF-64: System V ABI, gABI 4.1, "ELF Header" and "Program Header").
 */
export function smallestProgram(guest: GuestName): Uint8Array {
  const wide = guest === 'amd64';
  const code = CODE[guest];
  const headerSize = wide ? 64 : 52;
  const programHeaderSize = wide ? 56 : 32;
  const start = headerSize + programHeaderSize;
  const size = start + code.length;
  const writer = new ElfWriter(size, wide);
  writer.bytes([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  // e_type ET_EXEC, e_machine EM_X86_64 or EM_386, e_version
  writer
    .half(2)
    .half(wide ? 62 : 3)
    .word(1);
  // e_entry, e_phoff, e_shoff, e_flags
  writer
    .address(BASE + start)
    .address(headerSize)
    .address(0)
    .word(0);
  // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
  writer.half(headerSize).half(programHeaderSize).half(1).half(0).half(0).half(0);
  // p_type PT_LOAD; p_flags PF_R | PF_X stand second in ELF-64, seventh in ELF-32.
  writer.word(1);
  if (wide) writer.word(5);
  // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz
  writer.address(0).address(BASE).address(BASE).address(size).address(size);
  if (!wide) writer.word(5);
  // p_align
  writer.address(0x1000);
  writer.bytes(code);
  return writer.data;
}

class ElfWriter {
  readonly data: Buffer;
  readonly #wide: boolean;
  #at = 0;

  constructor(size: number, wide: boolean) {
    this.data = Buffer.alloc(size);
    this.#wide = wide;
  }

  bytes(bytes: readonly number[]): this {
    this.data.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  half(value: number): this {
    this.#at = this.data.writeUInt16LE(value, this.#at);
    return this;
  }

  word(value: number): this {
    this.#at = this.data.writeUInt32LE(value, this.#at);
    return this;
  }

  /** An address, offset or size: as wide as the format. */
  address(value: number): this {
    this.word(value);
    return this.#wide ? this.word(0) : this;
  }
}
