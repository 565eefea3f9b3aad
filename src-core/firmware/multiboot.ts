import {
  BootError,
  type BootPlan,
  FLAT_CODE32,
  FLAT_DATA,
  flatDescriptor,
  type MemoryImage,
} from './boot.ts';
import { elfSegments, isElf } from './elf.ts';
import { CONVENTIONAL_END, memoryMap } from './memory-map.ts';

/** Multiboot Specification 0.6.96, sections 3.1 to 3.3. */
const HEADER_MAGIC = 0x1badb002;
const LOADER_MAGIC = 0x2badb002;
/** The header lies within the first 8 KiB, on a multiple of 4. */
const HEADER_SEARCH = 8192;
const FLAG_ADDRESSES = 0x10000;
/** Requirements we meet: page-aligned modules, memory information. A video mode is a wish that may go unmet. */
const KNOWN_REQUIREMENTS = 0x0007;

const INFO_MEMORY = 0x001;
const INFO_COMMAND_LINE = 0x004;
const INFO_MODULES = 0x008;
const INFO_MEMORY_MAP = 0x040;
const INFO_LOADER_NAME = 0x200;
const INFO_SIZE = 120;

const PAGE = 4096;
const MIB = 1024 * 1024;
/** Preferred place of the information structure and what it points to. */
const INFO_BASE = 0x10000;
const INFO_ROOM = 0x10000;
const LOADER_NAME = 'Switchyard';

export interface MultibootModule {
  bytes: Uint8Array;
  /** The module's string. */
  commandLine: string;
}

export interface MultibootBoot {
  kernel: Uint8Array;
  modules: readonly MultibootModule[];
  commandLine: string;
  ramSize: number;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** File offset of the Multiboot header, or -1. */
export function findMultibootHeader(bytes: Uint8Array): number {
  const view = viewOf(bytes);
  const end = Math.min(bytes.length, HEADER_SEARCH) - 12;
  for (let at = 0; at <= end; at += 4) {
    if (view.getUint32(at, true) !== HEADER_MAGIC) continue;
    const sum = HEADER_MAGIC + view.getUint32(at + 4, true) + view.getUint32(at + 8, true);
    if (sum % 0x100000000 === 0) return at;
  }
  return -1;
}

/** Lays out a Multiboot kernel with its modules and the information structure. Throws BootError. */
export function planMultiboot({ kernel, modules, commandLine, ramSize }: MultibootBoot): BootPlan {
  const header = findMultibootHeader(kernel);
  if (header < 0) throw new BootError('kernel', 'has no Multiboot header', 'Choose another kernel');
  const flags = viewOf(kernel).getUint32(header + 4, true);
  const unknown = flags & 0xffff & ~KNOWN_REQUIREMENTS;
  if (unknown !== 0) {
    throw new BootError(
      'kernel',
      `requires Multiboot features that do not exist here (flags 0x${unknown.toString(16)})`,
      'Choose another kernel',
    );
  }
  const { images, entry } = (flags & FLAG_ADDRESSES) !== 0 ? flatImages(kernel, header) : elfImages(kernel);
  for (const image of images) checkInMemory('kernel', image, ramSize);

  let top = Math.max(MIB, ...images.map(imageEnd));
  const placed: { start: number; end: number; commandLine: string }[] = [];
  modules.forEach(({ bytes, commandLine: string }, index) => {
    const start = Math.ceil(top / PAGE) * PAGE;
    const image = { address: start, bytes };
    if (start + bytes.length > ramSize) {
      const need = Math.ceil((start + bytes.length) / MIB);
      throw new BootError(
        `module ${index + 1}`,
        `does not fit in memory: it would end at ${need} MiB, the machine has ${ramSize / MIB} MiB`,
        `Give the machine at least ${need + 1} MiB`,
      );
    }
    images.push(image);
    top = start + bytes.length;
    placed.push({ start, end: top, commandLine: string });
  });

  const low = images.every((image) => imageEnd(image) <= INFO_BASE || image.address >= INFO_BASE + INFO_ROOM);
  const base = low ? INFO_BASE : Math.ceil(top / PAGE) * PAGE;
  const { bytes, info, gdt } = information(base, placed, commandLine, ramSize);
  const image = { address: base, bytes };
  if (low && bytes.length > INFO_ROOM) {
    throw new BootError('command line', `takes more than ${INFO_ROOM / 1024} KiB`, 'Make it shorter');
  }
  checkInMemory('command line', image, ramSize);
  images.push(image);

  const data = { selector: 0x10, ...FLAT_DATA };
  const code = { selector: 0x08, ...FLAT_CODE32 };
  return {
    images,
    registers: {
      gpr: { 0: BigInt(LOADER_MAGIC), 1: 0n, 2: 0n, 3: BigInt(info), 4: 0n, 5: 0n, 6: 0n, 7: 0n },
      rip: BigInt(entry),
      rflags: 0x2,
      cr0: 0x11,
      cr3: 0n,
      cr4: 0,
      efer: 0,
      segments: [data, code, data, data, data, data],
      gdt: { base: BigInt(gdt), limit: 23 },
      idt: { base: 0n, limit: 0 },
    },
  };
}

function imageEnd({ address, bytes, zeros }: MemoryImage): number {
  return address + bytes.length + (zeros ?? 0);
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** Images must lie in RAM: below 640 KiB or above 1 MiB, and below the end of memory. */
function checkInMemory(subject: string, image: MemoryImage, ramSize: number): void {
  const end = imageEnd(image);
  if (end > ramSize) {
    throw new BootError(
      subject,
      `wants ${hex(image.address)} to ${hex(end)}, outside of the machine's ${ramSize / MIB} MiB`,
      `Give the machine at least ${Math.ceil(end / MIB) + 1} MiB, or link the kernel lower`,
    );
  }
  if (image.address < MIB && end > CONVENTIONAL_END) {
    throw new BootError(
      subject,
      `wants ${hex(image.address)} to ${hex(end)}, which is not all RAM (${hex(CONVENTIONAL_END)} to 0x100000 is not)`,
      'Link the kernel at 1 MiB or higher',
    );
  }
}

/** The header's own addresses (the "a.out kludge"). */
function flatImages(kernel: Uint8Array, header: number): { images: MemoryImage[]; entry: number } {
  const again = 'Copy it again, or choose another kernel';
  if (header + 32 > kernel.length) {
    throw new BootError('kernel', 'is cut short within its Multiboot header', again);
  }
  const view = viewOf(kernel);
  const field = (index: number): number => view.getUint32(header + 4 * index, true);
  const headerAddress = field(3);
  const loadAddress = field(4);
  const loadEnd = field(5);
  const bssEnd = field(6);
  const entry = field(7);
  const offset = header - (headerAddress - loadAddress);
  const fileEnd = loadEnd === 0 ? kernel.length : offset + (loadEnd - loadAddress);
  if (headerAddress < loadAddress || offset < 0 || fileEnd < offset) {
    throw new BootError('kernel', 'has contradicting addresses in its Multiboot header', again);
  }
  if (fileEnd > kernel.length) {
    throw new BootError('kernel', `is cut short: ${kernel.length} of ${fileEnd} bytes`, again);
  }
  const bytes = kernel.subarray(offset, fileEnd);
  const zeros = bssEnd === 0 ? 0 : bssEnd - (loadAddress + bytes.length);
  if (zeros < 0) {
    throw new BootError('kernel', 'ends its bss before its data in the Multiboot header', again);
  }
  const image = { address: loadAddress, bytes, zeros };
  if (entry < loadAddress || entry >= imageEnd(image)) {
    throw new BootError('kernel', `has its entry ${hex(entry)} outside of what is loaded`, again);
  }
  return { images: [image], entry };
}

function elfImages(kernel: Uint8Array): { images: MemoryImage[]; entry: number } {
  if (!isElf(kernel)) {
    throw new BootError(
      'kernel',
      'has a Multiboot header without addresses, and is not an ELF file',
      'Choose another kernel',
    );
  }
  return elfSegments(kernel);
}

/** The information structure at `base`, followed by everything it points to and a GDT. */
function information(
  base: number,
  modules: readonly { start: number; end: number; commandLine: string }[],
  commandLine: string,
  ramSize: number,
): { bytes: Uint8Array; info: number; gdt: number } {
  const map = memoryMap(ramSize);
  const encoder = new TextEncoder();
  const strings = [commandLine, LOADER_NAME, ...modules.map((module) => module.commandLine)].map((text) =>
    encoder.encode(text),
  );
  const gdtAt = INFO_SIZE;
  const mapAt = gdtAt + 24;
  const modulesAt = mapAt + map.length * 24;
  const stringsAt = modulesAt + modules.length * 16;
  const bytes = new Uint8Array(stringsAt + strings.reduce((sum, { length }) => sum + length + 1, 0));
  const view = viewOf(bytes);
  const addresses: number[] = [];
  let at = stringsAt;
  for (const string of strings) {
    bytes.set(string, at);
    addresses.push(base + at);
    at += string.length + 1;
  }
  const set = (offset: number, value: number): void => view.setUint32(offset, value, true);
  set(
    0,
    INFO_MEMORY |
      INFO_COMMAND_LINE |
      INFO_MEMORY_MAP |
      INFO_LOADER_NAME |
      (modules.length > 0 ? INFO_MODULES : 0),
  );
  set(4, CONVENTIONAL_END / 1024);
  set(8, (ramSize - MIB) / 1024);
  set(16, addresses[0] ?? 0);
  set(20, modules.length);
  set(24, modules.length > 0 ? base + modulesAt : 0);
  set(44, map.length * 24);
  set(48, base + mapAt);
  set(64, addresses[1] ?? 0);
  view.setBigUint64(gdtAt + 8, flatDescriptor(FLAT_CODE32.attributes), true);
  view.setBigUint64(gdtAt + 16, flatDescriptor(FLAT_DATA.attributes), true);
  map.forEach((range, index) => {
    const entry = mapAt + index * 24;
    set(entry, 20);
    view.setBigUint64(entry + 4, BigInt(range.base), true);
    view.setBigUint64(entry + 12, BigInt(range.size), true);
    set(entry + 20, range.type);
  });
  modules.forEach(({ start, end }, index) => {
    const entry = modulesAt + index * 16;
    set(entry, start);
    set(entry + 4, end);
    set(entry + 8, addresses[2 + index] ?? 0);
  });
  return { bytes, info: base, gdt: base + gdtAt };
}
