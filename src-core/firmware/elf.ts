import { BootError, type MemoryImage } from './boot.ts';

const HEADER_SIZE = 52;
const PROGRAM_HEADER_SIZE = 32;
const CLASS_32 = 1;
const LITTLE_ENDIAN = 1;
const EXECUTABLE = 2;
const MACHINE_386 = 3;
const PT_LOAD = 1;

export function isElf(bytes: Uint8Array): boolean {
  return bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
}

/**
 * The loadable segments of a 32-bit x86 executable at their physical addresses, and the physical address of its
 * entry (System V ABI, chapter 5). Throws BootError when the file is not one, or is damaged.
 */
export function elfSegments(bytes: Uint8Array): { images: MemoryImage[]; entry: number } {
  const damaged = (what: string): BootError =>
    new BootError('kernel', `is a damaged ELF file: ${what}`, 'Copy it again, or build it again');
  if (bytes.length < HEADER_SIZE) throw damaged('it ends within the ELF header');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes[4] !== CLASS_32) {
    throw new BootError('kernel', 'is a 64-bit ELF file', 'Multiboot loads 32-bit ones: convert it to ELF32');
  }
  if (bytes[5] !== LITTLE_ENDIAN || view.getUint16(18, true) !== MACHINE_386) {
    throw new BootError('kernel', 'is an ELF file for another processor', 'Choose one built for x86');
  }
  if (view.getUint16(16, true) !== EXECUTABLE) {
    throw new BootError('kernel', 'is an ELF file that is not an executable', 'Link it first');
  }
  const entry = view.getUint32(24, true);
  const tableAt = view.getUint32(28, true);
  const entrySize = view.getUint16(42, true);
  const count = view.getUint16(44, true);
  if (count > 0 && entrySize < PROGRAM_HEADER_SIZE) throw damaged(`program headers of ${entrySize} bytes`);
  if (tableAt + count * entrySize > bytes.length) throw damaged('its program headers lie past its end');

  const images: MemoryImage[] = [];
  let physicalEntry = -1;
  for (let index = 0; index < count; index++) {
    const at = tableAt + index * entrySize;
    if (view.getUint32(at, true) !== PT_LOAD) continue;
    const offset = view.getUint32(at + 4, true);
    const virtual = view.getUint32(at + 8, true);
    const address = view.getUint32(at + 12, true);
    const fileSize = view.getUint32(at + 16, true);
    const memorySize = view.getUint32(at + 20, true);
    if (memorySize === 0) continue;
    if (offset + fileSize > bytes.length) throw damaged(`segment ${index} lies past its end`);
    if (fileSize > memorySize) throw damaged(`segment ${index} is larger in the file than in memory`);
    images.push({ address, bytes: bytes.subarray(offset, offset + fileSize), zeros: memorySize - fileSize });
    if (entry >= virtual && entry < virtual + memorySize) physicalEntry = entry - virtual + address;
  }
  if (images.length === 0) throw damaged('nothing to load');
  if (physicalEntry < 0) throw damaged(`its entry 0x${entry.toString(16)} lies in no segment`);
  return { images, entry: physicalEntry };
}
