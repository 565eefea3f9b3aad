import type { ExitAccounting } from '../accounting/exits.ts';
import type { Arena } from '../machine/arena.ts';
import type { MemoryBus } from '../machine/bus.ts';
import { MMU, PAGE_FLAG, PAGE_RECORD } from './layout.ts';
import { recordOf } from './tlb.ts';

const PAGE = 0x1000;
const CACHE_SIZE = 1024;
/** `arenaOf` results that are no arena address. */
const NO_MEMORY = -1;
/** One in this many device accesses is timed. */
const SAMPLE_EVERY = 64;

/**
 * Physical memory as the vCPU sees it: plain memory in the arena found quickly, devices reached through the bus
 * and accounted, watched pages told of when they change.
 */
export class PhysicalMemory {
  readonly #arena: Arena;
  readonly #bus: MemoryBus;
  readonly #accounting: ExitAccounting;
  readonly #view: DataView;
  readonly #u8: Uint8Array;
  /** A store touched a page with translated code; called after the store with the arena address and the bytes. */
  onCodeWrite: (arenaAddress: number, size: number) => void = () => undefined;
  /** Called before an access of deviceRead or deviceWrite. */
  onDevice: (phys: number, size: number, write: boolean) => void = () => undefined;

  /**
   * Direct-mapped memo of MemoryBus.backing: physical page number, then arena address of the page with bit 0 set
   * where it is writable (NO_MEMORY where it is none).
   */
  readonly #memoPage = new Float64Array(CACHE_SIZE).fill(-1);
  readonly #memoArena = new Float64Array(CACHE_SIZE);
  #deviceAccesses = 0;

  constructor(arena: Arena, bus: MemoryBus, accounting: ExitAccounting) {
    this.#arena = arena;
    this.#bus = bus;
    this.#accounting = accounting;
    this.#view = arena.view;
    this.#u8 = arena.u8;
    this.forget();
  }

  /** Forgets where pages are: the meaning of physical addresses changed. */
  forget(): void {
    this.#memoPage.fill(-1);
    const { lowEnd, highEnd } = this.#bus.plainRam;
    this.#arena.u32[MMU.lowRamEnd >> 2] = lowEnd;
    this.#arena.u32[MMU.highRamSize >> 2] = highEnd - 0x100000;
  }

  /**
   * Arena address of a byte of plain memory, -1 where a device or nothing is behind the address.
   * @param forWrite only memory that takes writes (not ROM).
   */
  arenaOf(phys: number, forWrite: boolean): number {
    const page = Math.floor(phys / PAGE);
    const slot = page & (CACHE_SIZE - 1);
    if (this.#memoPage[slot] !== page) {
      const { arena, writable } = this.#bus.backing(page * PAGE);
      this.#memoPage[slot] = page;
      this.#memoArena[slot] = arena < 0 ? NO_MEMORY : arena + (writable ? 1 : 0);
    }
    const found = this.#memoArena[slot]!;
    if (found < 0 || (forWrite && (found & 1) === 0)) return NO_MEMORY;
    // The low 12 bits of a number below 2^53 are those of its low 32 bits.
    return ((found & ~1) | (phys & (PAGE - 1))) >>> 0;
  }

  /** A 32-bit word of plain memory (aligned; for the page walk): devices and nothing read all ones. */
  read32(phys: number): number {
    const arena = this.arenaOf(phys, false);
    return arena < 0 ? -1 : this.#arena.i32[arena >>> 2]!;
  }

  /** Writes an aligned 32-bit word of plain memory; swallowed elsewhere. */
  write32(phys: number, value: number): void {
    const arena = this.arenaOf(phys, true);
    if (arena < 0) return;
    this.#arena.i32[arena >>> 2] = value;
    const watched = this.#u8[recordOf(arena >>> 12) + PAGE_RECORD.flags]!;
    if ((watched & PAGE_FLAG.code) !== 0) this.onCodeWrite(arena, 4);
  }

  /** Copies 1..16 bytes within the arena. */
  copy(from: number, to: number, size: number): void {
    const view = this.#view;
    switch (size) {
      case 1:
        this.#u8[to] = this.#u8[from]!;
        return;
      case 2:
        view.setUint16(to, view.getUint16(from, true), true);
        return;
      case 4:
        view.setInt32(to, view.getInt32(from, true), true);
        return;
      case 8:
        view.setInt32(to, view.getInt32(from, true), true);
        view.setInt32(to + 4, view.getInt32(from + 4, true), true);
        return;
      default:
        this.#u8.copyWithin(to, from, from + size);
    }
  }

  /** Reads 1..16 bytes that do not cross a page through the bus, to an arena address. Accounted as one MMIO exit. */
  deviceRead(phys: number, to: number, size: number): void {
    this.onDevice(phys, size, false);
    const started = this.#enter(phys);
    const step = pieceSize(phys, size);
    for (let done = 0; done < size; done += step) {
      const value = this.#bus.read(phys + done, step);
      if (step === 4) this.#view.setUint32(to + done, value, true);
      else if (step === 2) this.#view.setUint16(to + done, value, true);
      else this.#u8[to + done] = value;
    }
    this.#leave(started);
  }

  /** Writes 1..16 bytes that do not cross a page through the bus, from an arena address. */
  deviceWrite(phys: number, from: number, size: number): void {
    this.onDevice(phys, size, true);
    const started = this.#enter(phys);
    const step = pieceSize(phys, size);
    for (let done = 0; done < size; done += step) {
      const at = from + done;
      const value =
        step === 4
          ? this.#view.getUint32(at, true)
          : step === 2
            ? this.#view.getUint16(at, true)
            : this.#u8[at]!;
      this.#bus.write(phys + done, step, value);
    }
    this.#leave(started);
  }

  /** Counts one device access; the time it started when this one is measured, otherwise -1. */
  #enter(phys: number): number {
    this.#accounting.count('mmio');
    this.#accounting.detail(
      'mmio',
      this.#bus.deviceAt(phys) ?? (this.arenaOf(phys, false) >= 0 ? 'rom' : 'unmapped'),
    );
    this.#deviceAccesses = (this.#deviceAccesses + 1) % SAMPLE_EVERY;
    return this.#deviceAccesses === 0 ? performance.now() : -1;
  }

  #leave(started: number): void {
    if (started >= 0) this.#accounting.addTime('mmio', (performance.now() - started) * 1e6);
  }
}

/** Size of the bus accesses an access of `size` bytes is made of: naturally aligned 2 and 4 bytes, otherwise bytes. */
function pieceSize(phys: number, size: number): number {
  if (size >= 4 && size % 4 === 0 && phys % 4 === 0) return 4;
  return size === 2 && phys % 2 === 0 ? 2 : 1;
}
