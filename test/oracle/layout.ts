/**
 * Memory layout and record formats shared by the silicon oracle's machine code (program.ts), its client
 * (client.ts) and everything that wants to run the same case elsewhere.
 *
 * The oracle is a static executable of our own: nothing but the case's code page and data pages lives below
 * 4 GiB, so a stray access of the instruction under test faults exactly as it would in a guest with the same
 * page tables, and can't corrupt the oracle.
 */

/** Linear address of the single page holding the instruction under test; every other byte of it is INT3. */
export const CODE_BASE = 0x9000_0000;
/** Bytes in the code page. */
export const CODE_SIZE = 0x1000;
/**
 * Linear address of the data window. It lies across 2 GiB so that mistakes with the sign of a 32-bit address
 * show; the pages before and after are not present.
 */
export const DATA_BASE = 0x7fff_f000;
/** Bytes in the data window (two pages, not executable). */
export const DATA_SIZE = 0x2000;

/** Linear address of the base of the 16-bit data and stack segments; offset 0x4000 is {@link DATA_BASE}. */
export const DATA16_BASE = DATA_BASE - 0x4000;

/** Selectors as Linux on x86-64 gives them to processes (arch/x86/include/asm/segment.h, RPL 3). */
export const SELECTOR_CODE64 = 0x33;
export const SELECTOR_CODE32 = 0x23;
export const SELECTOR_DATA = 0x2b;

/** One descriptor of the oracle's LDT, as `modify_ldt(2)` takes it. */
export interface LdtEntry {
  readonly base: number;
  /** Limit in bytes, or in 4 KiB pages when {@link pages} is set. */
  readonly limit: number;
  readonly pages: boolean;
  /** The D/B bit. */
  readonly big: boolean;
  /** Descriptor type bits 3:2 (0 data, 1 expand-down data, 2 code; the kernel refuses conforming code). */
  readonly contents: 0 | 1 | 2;
  /** Data: not writable. Code: not readable. */
  readonly restricted: boolean;
  readonly present: boolean;
}

/** The LDT every 16- and 32-bit case runs with; selector = index * 8 + 7. */
export const LDT: readonly LdtEntry[] = [
  { base: CODE_BASE, limit: 0xffff, pages: false, big: false, contents: 2, restricted: false, present: true },
  {
    base: DATA16_BASE,
    limit: 0xffff,
    pages: false,
    big: false,
    contents: 0,
    restricted: false,
    present: true,
  },
  // A limit in the middle of the second page, so that accesses run into it before they run into the guard page.
  { base: DATA_BASE, limit: 0x17ff, pages: false, big: true, contents: 0, restricted: false, present: true },
  // Expand-down: offsets 0x800 to 0xffffffff are valid.
  { base: DATA_BASE, limit: 0x07ff, pages: false, big: true, contents: 1, restricted: false, present: true },
  { base: DATA_BASE, limit: 0x1fff, pages: false, big: true, contents: 0, restricted: true, present: true },
  // Execute-only code with a limit.
  { base: CODE_BASE, limit: 0x0fff, pages: false, big: true, contents: 2, restricted: true, present: true },
  { base: DATA_BASE, limit: 0x1fff, pages: false, big: true, contents: 0, restricted: false, present: false },
];

/** Selector of an entry of {@link LDT}. */
export function ldtSelector(index: number): number {
  return index * 8 + 7;
}

export const SELECTOR_CODE16 = ldtSelector(0);
export const SELECTOR_DATA16 = ldtSelector(1);
export const SELECTOR_LIMITED = ldtSelector(2);
export const SELECTOR_EXPAND_DOWN = ldtSelector(3);
export const SELECTOR_READ_ONLY = ldtSelector(4);
export const SELECTOR_EXECUTE_ONLY = ldtSelector(5);
export const SELECTOR_NOT_PRESENT = ldtSelector(6);

/** Number of data window images the oracle holds; a case names one as the window's contents at its start. */
export const IMAGE_COUNT = 16;

/** Bytes in an FXSAVE image (Intel SDM vol. 1, section 10.5.1). */
export const FXSAVE_SIZE = 512;

/** Offsets in a case record as sent to the oracle. */
export const CASE = {
  /** u32: offset of the instruction in the code page. */
  codeStart: 0x00,
  /** u32: bytes to copy there (those beyond the page's end are not there for the processor either). */
  codeLength: 0x04,
  /** u32: index of the data window image. */
  image: 0x08,
  /** u32: 1 to set the FS and GS bases (64-bit code), 0 to leave what the selectors give. */
  setBases: 0x0c,
  /** 32 bytes of code. */
  code: 0x10,
  /** Far pointer m16:32: u32 offset, u16 selector of the instruction. */
  entry: 0x30,
  /** u16 selectors. */
  ss: 0x38,
  ds: 0x3a,
  es: 0x3c,
  fs: 0x3e,
  gs: 0x40,
  /** u64 segment bases. */
  fsBase: 0x48,
  gsBase: 0x50,
  /** u64 RFLAGS (TF clear). */
  rflags: 0x58,
  /** 16 u64 in encoding order (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15). */
  gpr: 0x60,
  /** u32: number of patches to the data window. */
  patchCount: 0xe0,
  /** Patches of {@link PATCH_STRIDE} bytes: u32 offset in the data window (at most DATA_SIZE - 16), pad, 16 bytes. */
  patches: 0x100,
  /** 512 bytes: FXSAVE image (64-bit format). */
  fxsave: 0x200,
} as const;

export const CASE_SIZE = 0x400;
export const PATCH_STRIDE = 24;
export const MAX_PATCHES = 8;

/** Offsets in a result record as the oracle sends it. */
export const RESULT = {
  /** u32: bytes in this record, a multiple of 16. */
  length: 0x00,
  /** u32: exception vector. */
  vector: 0x04,
  /** u32: error code. */
  errorCode: 0x08,
  /** u32: signal number. */
  signal: 0x0c,
  /** u64: CR2, meaningful when the vector is 14. */
  cr2: 0x10,
  /** u64. */
  rip: 0x18,
  rflags: 0x20,
  /** u16 selectors. */
  cs: 0x28,
  gs: 0x2a,
  fs: 0x2c,
  ss: 0x2e,
  ds: 0x30,
  es: 0x32,
  /** u64 segment bases. */
  fsBase: 0x38,
  gsBase: 0x40,
  gpr: 0x60,
  /** u32: first and one past the last byte of the data window that changed, in steps of 16; equal if none did. */
  dirtyStart: 0xe0,
  dirtyEnd: 0xe4,
  /** 512 bytes. */
  fxsave: 0x100,
  /** The bytes of the data window from dirtyStart to dirtyEnd. */
  memory: 0x300,
} as const;

/** Vector reported for a case that was stopped because it did not end (a branch to itself). */
export const VECTOR_ENDLESS = 254;

/** Most cases in one batch. */
export const MAX_BATCH = 4096;

/** First word the oracle writes when it is ready, followed by a u32 with a bit set for every LDT entry refused. */
export const HELLO_MAGIC = 0x5359_4f52;

/** Where the oracle itself lives: far above 4 GiB, and at no address a generator of interesting numbers comes upon. */
export const ORACLE = {
  text: 0x2b5c_1234_0000n,
  /** One anonymous mapping. */
  work: 0x2b5c_3456_0000n,
  workSize: 0x400_0000n,
  altStack: 0x0_0000n,
  altStackSize: 0x2_0000n,
  stackTop: 0x3_0000n,
  shadow: 0x4_0000n,
  images: 0x6_0000n,
  input: 0x10_0000n,
  output: 0x80_0000n,
} as const;
