/** Images a Multiboot 1 loader takes (Multiboot Specification 0.6.96, chapter 3). */
import type { AssembledImage } from './assembler.ts';
import { Assembler } from './assembler.ts';
import { AssemblyError } from './expression.ts';

const headerMagic = 0x1badb002;
/** Flags bit 0: modules on page boundaries; bit 1: memory information wanted. */
const baseFlags = 0x3;
/** Flags bit 16: the address fields of the header are valid and an ELF header, if any, is not looked at. */
const addressFieldsFlag = 0x10000;
const headerSize = 32;
const elfHeaderSize = 52;
const programHeaderSize = 32;
/** Where the segment begins in an ELF file: within the 8 KiB that are searched for the header. */
const segmentFileOffset = 0x1000;

/** `elf`: an ELF32 executable with one segment; `flat`: bare bytes whose header says where they go. */
export type MultibootFormat = 'elf' | 'flat';

/** Room for the header; must come first in the program. {@link multibootImage} fills it. */
export function reserveMultibootHeader(assembler: Assembler): void {
  assembler.space(headerSize);
}

/**
 * A file a Multiboot loader (`qemu -kernel`, ours) takes, entered at the symbol `entry` in 32-bit protected
 * mode without paging. The program must begin with {@link reserveMultibootHeader}. Throws
 * {@link AssemblyError} when it does not, or lies above 4 GiB.
 */
export function multibootImage(image: AssembledImage, entry: string, format: MultibootFormat): Uint8Array {
  const entryAddress = image.symbols.get(entry);
  if (entryAddress === undefined) throw new AssemblyError(`entry symbol '${entry}' is not defined`);
  const end = image.origin + BigInt(image.bytes.length + image.bssSize);
  if (end > 0x1_0000_0000n) throw new AssemblyError('a Multiboot program must lie below 4 GiB');
  if (image.bytes.length < headerSize || image.bytes.subarray(0, headerSize).some((byte) => byte !== 0)) {
    throw new AssemblyError('the program does not begin with room for a Multiboot header');
  }
  const program = image.bytes.slice();
  writeHeader(program, image, Number(entryAddress), format);
  return format === 'flat' ? program : wrapElf(program, image, Number(entryAddress));
}

function writeHeader(
  program: Uint8Array,
  image: AssembledImage,
  entry: number,
  format: MultibootFormat,
): void {
  const view = new DataView(program.buffer, program.byteOffset, headerSize);
  const flags = format === 'flat' ? baseFlags | addressFieldsFlag : baseFlags;
  const fields = [headerMagic, flags, -(headerMagic + flags) >>> 0];
  if (format === 'flat') {
    const load = Number(image.origin);
    const loadEnd = load + image.bytes.length;
    // header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr
    fields.push(load, load, loadEnd, loadEnd + image.bssSize, entry);
  }
  for (const [index, field] of fields.entries()) view.setUint32(index * 4, field, true);
}

function wrapElf(program: Uint8Array, image: AssembledImage, entry: number): Uint8Array {
  const file = new Uint8Array(segmentFileOffset + program.length);
  const view = new DataView(file.buffer);
  // e_ident: magic, ELFCLASS32, ELFDATA2LSB, EV_CURRENT (System V ABI, chapter 4)
  file.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  const half = (offset: number, value: number): void => view.setUint16(offset, value, true);
  const word = (offset: number, value: number): void => view.setUint32(offset, value, true);
  half(16, 2); // e_type ET_EXEC
  half(18, 3); // e_machine EM_386
  word(20, 1); // e_version
  word(24, entry);
  word(28, elfHeaderSize); // e_phoff
  half(40, elfHeaderSize); // e_ehsize
  half(42, programHeaderSize);
  half(44, 1); // e_phnum
  const header = elfHeaderSize;
  word(header, 1); // p_type PT_LOAD
  word(header + 4, segmentFileOffset);
  word(header + 8, Number(image.origin)); // p_vaddr
  word(header + 12, Number(image.origin)); // p_paddr
  word(header + 16, program.length); // p_filesz
  word(header + 20, program.length + image.bssSize); // p_memsz
  word(header + 24, 7); // p_flags RWX
  word(header + 28, 0x1000); // p_align
  file.set(program, segmentFileOffset);
  return file;
}
