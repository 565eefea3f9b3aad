/** A boot image that can't be used: says what is wrong, with what, and what to do about it. */
export class BootError extends Error {
  /** What the problem is about: "kernel", "initrd", "module 2", "firmware", "memory". */
  readonly subject: string;
  /** What the user can do. */
  readonly advice: string;

  constructor(subject: string, problem: string, advice: string) {
    super(`${subject}: ${problem}. ${advice}`);
    this.name = 'BootError';
    this.subject = subject;
    this.advice = advice;
  }
}

/** Bytes to be placed in guest RAM. */
export interface MemoryImage {
  /** Physical address. */
  address: number;
  bytes: Uint8Array;
  /** Zero bytes that follow (a program's bss). */
  zeros?: number;
}

/** A segment register as the CPU takes it (x86/layout.ts, SEG_FIELD). */
export interface BootSegment {
  selector: number;
  attributes: number;
  limit: number;
  base: bigint;
}

/** Register state a boot protocol asks for. What is not named keeps its state after reset. */
export interface BootRegisters {
  /** General registers by encoding number (0 RAX .. 7 RDI). */
  gpr: Partial<Record<number, bigint>>;
  rip: bigint;
  rflags: number;
  cr0: number;
  cr3: bigint;
  cr4: number;
  efer: number;
  /** By number: ES CS SS DS FS GS. */
  segments: readonly BootSegment[];
  gdt: { base: bigint; limit: number };
  idt: { base: bigint; limit: number };
}

/** Operating systems whose needs are known from what they are. */
export type GuestSystem = 'linux32' | 'linux64';

/** What a boot protocol does to the machine before the first instruction. */
export interface BootPlan {
  images: MemoryImage[];
  registers: BootRegisters;
  /** What is booted, where that tells what it will come to use of the processor. */
  system?: GuestSystem;
}

/** Segment attributes as in SEG_FIELD: present, code or data, accessed, with 4 KiB granularity. */
export const FLAT_CODE32 = { attributes: 0xc09b, limit: 0xffffffff, base: 0n } as const;
export const FLAT_CODE64 = { attributes: 0xa09b, limit: 0xffffffff, base: 0n } as const;
export const FLAT_DATA = { attributes: 0xc093, limit: 0xffffffff, base: 0n } as const;

/** A GDT descriptor for a flat segment of 4 GiB. */
export function flatDescriptor(attributes: number): bigint {
  return 0x0000_0000_0000_ffffn | (0xfn << 48n) | (BigInt(attributes & 0xf0ff) << 40n);
}

/** How a file that is none of the kinds we boot looks like, to say something useful about it. */
export function describeUnknownFile(bytes: Uint8Array): string {
  if (bytes.length === 0) return 'is empty';
  const [a, b, c, d] = bytes;
  if (a === 0x1f && b === 0x8b) return 'is a gzip-compressed file';
  if (a === 0xfd && b === 0x37 && c === 0x7a) return 'is an xz-compressed file';
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return 'is a zstd-compressed file';
  if (a === 0x7f && b === 0x45 && c === 0x4c && d === 0x46)
    return 'is an ELF file without a Multiboot header';
  if (a === 0x4d && b === 0x5a) return 'is a Windows or EFI program';
  if (a === 0x30 && b === 0x37 && c === 0x30 && d === 0x37) return 'is a cpio archive (an initrd?)';
  if (isText(bytes.subarray(0, 512))) return 'is a text file';
  return 'holds neither a Linux boot header nor a Multiboot header';
}

/** UTF-8 without control characters other than white space; the last character may be cut. */
function isText(bytes: Uint8Array): boolean {
  if (bytes.some((byte) => (byte < 0x20 && (byte < 9 || byte > 13)) || byte === 0x7f)) return false;
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true });
    return true;
  } catch {
    return false;
  }
}
