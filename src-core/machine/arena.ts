import { MMU, TLB } from '../x86/layout.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const WASM_PAGE = 64 * KIB;

/** Where things stand in the arena, bytes from its start. The vCPU state comes first (x86/layout.ts). */
export const ARENA = {
  /** Page-aligned room for the mapped kvm_run structure. */
  kvmRun: 0x70000,
  kvmRunSize: 0x8000,
  /** How often each translated region was entered: u32 by slot. */
  regionEntries: 0x78000,
  /** Block lookup table of the interpreter. */
  blockTable: 0x80000,
  blockTableSize: 1 * MIB,
  /** How to enter the region that begins at each block (ENTRY): u32 by the block's index. */
  regionOf: 2 * MIB,
  regionOfSize: 4 * MIB,
  /** Micro-op cache. */
  uops: 6 * MIB,
  uopsSize: 34 * MIB,
  /** Where translated regions may be left for the interpreter: 1 KiB for each. */
  regionSites: 40 * MIB,
  regionSitesSize: 8 * MIB,
  /** Firmware image (mapped below 4 GiB and below 1 MiB), at most this many bytes. */
  rom: 48 * MIB,
  romSize: 16 * MIB,
  /** What is known of each page of the arena (PAGE_RECORD in x86/layout.ts), itself included. */
  pages: 64 * MIB,
  pagesSize: 13 * MIB,
  // The TLB is next (TLB and MMU in x86/layout.ts), up to RAM.
  /** Guest RAM from here on; physical address 0 is at this offset. */
  ram: 80 * MIB,
} as const;

/** Smallest and largest guest memory in MiB; the largest is what is left of wasm's 4 GiB and of the hole below 4 GiB. */
export const MEMORY_MIB_MIN = 4;
export const MEMORY_MIB_MAX = 3072;

/**
 * All guest state in one WebAssembly.Memory, with the typed views TypeScript reads it through.
 * The memory is shared so that workers can compile and inspect beside the vCPU; pages cost nothing until touched.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly buffer: ArrayBufferLike;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;
  readonly i64: BigInt64Array;
  readonly view: DataView;
  /** Guest RAM in bytes. */
  readonly ramSize: number;

  /** @param memoryMib guest RAM, MEMORY_MIB_MIN..MEMORY_MIB_MAX; a RangeError otherwise. */
  constructor(memoryMib: number) {
    if (!Number.isInteger(memoryMib) || memoryMib < MEMORY_MIB_MIN || memoryMib > MEMORY_MIB_MAX) {
      throw new RangeError(
        `memory must be a whole number of MiB from ${MEMORY_MIB_MIN} to ${MEMORY_MIB_MAX}, not ${memoryMib}`,
      );
    }
    if (TLB.base < ARENA.pages + ARENA.pagesSize || MMU.end > ARENA.ram) {
      throw new Error('arena layout: the MMU runs into its neighbours');
    }
    this.ramSize = memoryMib * MIB;
    const pages = (ARENA.ram + this.ramSize) / WASM_PAGE;
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.buffer = this.memory.buffer;
    this.u8 = new Uint8Array(this.buffer);
    this.u16 = new Uint16Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.i32 = new Int32Array(this.buffer);
    this.u64 = new BigUint64Array(this.buffer);
    this.i64 = new BigInt64Array(this.buffer);
    this.view = new DataView(this.buffer);
  }

  /** Guest RAM as bytes; index = physical address (RAM is contiguous from 0). */
  get ram(): Uint8Array {
    return this.u8.subarray(ARENA.ram, ARENA.ram + this.ramSize);
  }
}
