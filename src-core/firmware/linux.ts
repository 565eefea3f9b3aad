import {
  BootError,
  type BootPlan,
  type BootRegisters,
  FLAT_CODE32,
  FLAT_CODE64,
  FLAT_DATA,
  flatDescriptor,
  type MemoryImage,
} from './boot.ts';
import { memoryMap } from './memory-map.ts';

/** Fields of the setup header, offsets in the file and in boot_params (Linux: Documentation/arch/x86/boot.rst). */
const HDR = {
  setupSectors: 0x1f1,
  sysSize: 0x1f4,
  bootFlag: 0x1fe,
  jumpOffset: 0x201,
  magic: 0x202,
  version: 0x206,
  loaderType: 0x210,
  loadFlags: 0x211,
  code32Start: 0x214,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  heapEnd: 0x224,
  commandLine: 0x228,
  initrdMax: 0x22c,
  alignment: 0x230,
  relocatable: 0x234,
  xLoadFlags: 0x236,
  commandLineSize: 0x238,
  preferredAddress: 0x258,
  initSize: 0x260,
} as const;
/** Fields of boot_params outside of the header (Documentation/arch/x86/zero-page.rst). */
const PARAMS = { acpiRsdp: 0x070, e820Entries: 0x1e8, e820Table: 0x2d0 } as const;

const MAGIC = 0x53726448;
const MIN_VERSION = 0x0206;
const LOADED_HIGH = 0x01;
const CAN_USE_HEAP = 0x80;
const XLF_KERNEL_64 = 0x0001;
/** A loader without a number of its own. */
const LOADER_TYPE = 0xff;

/** Where the boot data stands, in conventional memory. */
const ZERO_PAGE = 0x10000;
const GDT = 0x11000;
const PAGE_TABLES = 0x12000;
const COMMAND_LINE = 0x20000;
const COMMAND_LINE_ROOM = 0x10000;
const HEAP_END = 0xe000;
const LOAD_ADDRESS = 0x100000;
const PAGE = 4096;
const MIB = 1024 * 1024;

const BOOT_CS = 0x10;
const BOOT_DS = 0x18;

/** What the header of a bzImage says. */
export interface LinuxKernel {
  /** Boot protocol, 0x0206 for 2.06. */
  version: number;
  /** It has the 64-bit entry point. */
  is64: boolean;
  /** Bytes of the protected-mode part, from this file offset on. */
  codeOffset: number;
  /** Longest command line in bytes, without the terminating zero. */
  commandLineMax: number;
  /** Highest address a byte of the initrd may have. */
  initrdMax: number;
  /** Memory the kernel needs from `runtimeStart` on before it can read the memory map. */
  runtimeStart: number;
  runtimeSize: number;
}

/** True when the file carries a Linux setup header. */
export function isLinux(bytes: Uint8Array): boolean {
  return bytes.length >= HDR.magic + 4 && viewOf(bytes).getUint32(HDR.magic, true) === MAGIC;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Reads and checks the setup header. Throws BootError. */
export function parseLinux(bytes: Uint8Array): LinuxKernel {
  const again = 'Copy it again, or choose another kernel';
  if (bytes.length < 0x268) {
    throw new BootError('kernel', `is cut short: ${bytes.length} bytes do not hold a setup header`, again);
  }
  const view = viewOf(bytes);
  if (view.getUint16(HDR.bootFlag, true) !== 0xaa55) {
    throw new BootError('kernel', 'has a damaged boot sector (no AA55h at 1FEh)', again);
  }
  const version = view.getUint16(HDR.version, true);
  if (version < MIN_VERSION) {
    const text = `${version >> 8}.${(version & 0xff).toString().padStart(2, '0')}`;
    throw new BootError(
      'kernel',
      `speaks Linux boot protocol ${text}, older than 2.06`,
      'Choose Linux 2.6.22 or later',
    );
  }
  if (((bytes[HDR.loadFlags] ?? 0) & LOADED_HIGH) === 0) {
    throw new BootError('kernel', 'is a zImage, loaded below 1 MiB', 'Choose a bzImage');
  }
  const sectors = bytes[HDR.setupSectors] ?? 0;
  const codeOffset = ((sectors === 0 ? 4 : sectors) + 1) * 512;
  const size = codeOffset + view.getUint32(HDR.sysSize, true) * 16;
  // The size is counted in units of 16 bytes, so the last may be incomplete.
  if (bytes.length <= codeOffset || bytes.length < size - 15) {
    throw new BootError('kernel', `is cut short: ${bytes.length} of ${size} bytes`, again);
  }
  const relocatable = bytes[HDR.relocatable] !== 0;
  const has210 = version >= 0x020a;
  const alignment = view.getUint32(HDR.alignment, true) || 1;
  const preferred = has210 ? Number(view.getBigUint64(HDR.preferredAddress, true)) : LOAD_ADDRESS;
  const runtimeStart = relocatable
    ? Math.max(preferred, Math.ceil(LOAD_ADDRESS / alignment) * alignment)
    : preferred;
  return {
    version,
    is64: version >= 0x020c && (view.getUint16(HDR.xLoadFlags, true) & XLF_KERNEL_64) !== 0,
    codeOffset,
    commandLineMax: view.getUint32(HDR.commandLineSize, true),
    initrdMax: view.getUint32(HDR.initrdMax, true),
    runtimeStart,
    runtimeSize: has210 ? view.getUint32(HDR.initSize, true) : bytes.length - codeOffset,
  };
}

export interface LinuxBoot {
  kernel: Uint8Array;
  initrd?: Uint8Array | undefined;
  commandLine: string;
  ramSize: number;
  /** Physical address of the RSDP. */
  acpiRsdp: number;
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`;
}

/** Lays out a Linux kernel, its command line and its initrd in memory, for its 64-bit entry where it has one. Throws BootError. */
export function planLinux({ kernel, initrd, commandLine, ramSize, acpiRsdp }: LinuxBoot): BootPlan {
  const info = parseLinux(kernel);
  const code = kernel.subarray(info.codeOffset);
  const kernelEnd = Math.max(LOAD_ADDRESS + code.length, info.runtimeStart + info.runtimeSize);
  if (kernelEnd > ramSize) {
    throw new BootError(
      'kernel',
      `needs memory up to ${mib(kernelEnd)}, the machine has ${mib(ramSize)}`,
      `Give the machine at least ${mib(kernelEnd + (initrd?.length ?? 0) + 16 * MIB)}`,
    );
  }
  const text = new TextEncoder().encode(commandLine);
  const longest = Math.min(info.commandLineMax, COMMAND_LINE_ROOM - 1);
  if (text.length > longest) {
    throw new BootError(
      'command line',
      `has ${text.length} bytes, the kernel takes ${longest}`,
      'Make it shorter',
    );
  }
  if (text.includes(0)) {
    throw new BootError('command line', 'has a zero byte in it', 'Remove it');
  }

  const params = new Uint8Array(PAGE);
  const view = viewOf(params);
  const headerEnd = HDR.magic + (kernel[HDR.jumpOffset] ?? 0);
  params.set(kernel.subarray(HDR.setupSectors, headerEnd), HDR.setupSectors);
  view.setUint8(HDR.loaderType, LOADER_TYPE);
  view.setUint8(HDR.loadFlags, view.getUint8(HDR.loadFlags) | CAN_USE_HEAP);
  view.setUint16(HDR.heapEnd, HEAP_END, true);
  view.setUint32(HDR.code32Start, LOAD_ADDRESS, true);
  view.setUint32(HDR.commandLine, COMMAND_LINE, true);
  view.setBigUint64(PARAMS.acpiRsdp, BigInt(acpiRsdp), true);
  const map = memoryMap(ramSize);
  view.setUint8(PARAMS.e820Entries, map.length);
  map.forEach(({ base, size, type }, index) => {
    const at = PARAMS.e820Table + index * 20;
    view.setBigUint64(at, BigInt(base), true);
    view.setBigUint64(at + 8, BigInt(size), true);
    view.setUint32(at + 16, type, true);
  });

  const images: MemoryImage[] = [
    { address: LOAD_ADDRESS, bytes: code },
    { address: COMMAND_LINE, bytes: text, zeros: 1 },
  ];
  if (initrd) {
    const address = placeInitrd(initrd.length, info, kernelEnd, ramSize);
    view.setUint32(HDR.ramdiskImage, address, true);
    view.setUint32(HDR.ramdiskSize, initrd.length, true);
    images.push({ address, bytes: initrd });
  }
  images.push({ address: ZERO_PAGE, bytes: params });
  const descriptors = [0n, 0n, flatDescriptor((info.is64 ? FLAT_CODE64 : FLAT_CODE32).attributes)];
  descriptors.push(flatDescriptor(FLAT_DATA.attributes));
  images.push({ address: GDT, bytes: quads(descriptors) });
  if (info.is64) images.push({ address: PAGE_TABLES, bytes: identityPageTables() });
  const system = info.is64 ? 'linux64' : 'linux32';
  return { images, registers: entryRegisters(info.is64, descriptors.length), system };
}

/** As high as the kernel allows, so that it is out of the way of what the kernel unpacks. */
function placeInitrd(size: number, info: LinuxKernel, kernelEnd: number, ramSize: number): number {
  if (size === 0) {
    throw new BootError('initrd', 'is empty', 'Choose another file, or boot without an initrd');
  }
  const top = Math.min(ramSize, info.initrdMax + 1);
  const address = Math.floor((top - size) / PAGE) * PAGE;
  if (address < kernelEnd) {
    throw new BootError(
      'initrd',
      `has ${mib(size)}, but only ${mib(Math.max(0, top - kernelEnd))} of the machine's ${mib(ramSize)} are free for it`,
      ramSize < info.initrdMax
        ? `Give the machine at least ${mib(kernelEnd + size + 16 * MIB)}`
        : `This kernel takes an initrd below ${mib(info.initrdMax)} only: choose a smaller one`,
    );
  }
  return address;
}

function quads(values: readonly bigint[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values).buffer);
}

/** Four-level page tables that map the first 4 GiB onto themselves in pages of 2 MiB: PML4, PDPT, four directories. */
function identityPageTables(): Uint8Array {
  const entries = new BigUint64Array(6 * 512);
  const table = 0x3n;
  const largePage = 0x83n;
  entries[0] = BigInt(PAGE_TABLES + PAGE) | table;
  for (let i = 0; i < 4; i++) entries[512 + i] = BigInt(PAGE_TABLES + (2 + i) * PAGE) | table;
  for (let i = 0; i < 4 * 512; i++) entries[2 * 512 + i] = (BigInt(i) << 21n) | largePage;
  return new Uint8Array(entries.buffer);
}

function entryRegisters(is64: boolean, descriptors: number): BootRegisters {
  const data = { selector: BOOT_DS, ...FLAT_DATA };
  const code = { selector: BOOT_CS, ...(is64 ? FLAT_CODE64 : FLAT_CODE32) };
  return {
    // RSI points to boot_params; EBP, EDI and EBX are zero at the 32-bit entry.
    gpr: { 0: 0n, 1: 0n, 2: 0n, 3: 0n, 4: 0n, 5: 0n, 6: BigInt(ZERO_PAGE), 7: 0n },
    rip: BigInt(LOAD_ADDRESS + (is64 ? 0x200 : 0)),
    rflags: 0x2,
    // PE and ET, with paging in long mode.
    cr0: is64 ? 0x80000011 : 0x11,
    cr3: is64 ? BigInt(PAGE_TABLES) : 0n,
    // PAE.
    cr4: is64 ? 0x20 : 0,
    // LME and LMA.
    efer: is64 ? 0x500 : 0,
    segments: [data, code, data, data, data, data],
    gdt: { base: BigInt(GDT), limit: descriptors * 8 - 1 },
    idt: { base: 0n, limit: 0 },
  };
}
