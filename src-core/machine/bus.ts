import { ARENA, type Arena } from './arena.ts';

/**
 * A device's I/O ports. Sizes are 1, 2 or 4 bytes; values are unsigned. A handler that only knows bytes may say
 * so with `byteOnly`: the bus then splits wider accesses into bytes at consecutive ports.
 */
export interface PortHandler {
  readonly byteOnly?: boolean;
  readPort(port: number, size: number): number;
  writePort(port: number, size: number, value: number): void;
}

/** A device's memory-mapped registers. `offset` counts from the mapping's start; sizes are 1, 2 or 4 bytes (8-byte accesses come as two). */
export interface MmioHandler {
  readMmio(offset: number, size: number): number;
  writeMmio(offset: number, size: number, value: number): void;
}

/** A device: something with guest-visible state that is reset, saved and restored by name. */
export interface Device {
  /** Unique and stable: names the device in snapshots and in exit accounting ("uart0", "pit", "ioapic"). */
  readonly name: string;
  /** Power-on state. */
  reset(): void;
  /** Plain JSON-able state; `restore` takes exactly what `save` gave (and validates it with zod). */
  save(): unknown;
  restore(state: unknown): void;
}

/** An interrupt line into a controller. Level: true = asserted. */
export interface IrqLine {
  set(level: boolean): void;
}

/** What the engine asks of the interrupt controllers (PIC behind the local APIC's LINT0, local APIC). */
export interface InterruptSource {
  /** True when an interrupt waits that the CPU would take with IF = 1. */
  hasInterrupt(): boolean;
  /** INTA cycle: the vector, which becomes in service. -1 when it was spurious and vanished. */
  acknowledge(): number;
}

interface PortRange {
  first: number;
  last: number;
  handler: PortHandler;
  device: string;
}

/** The 64 Ki I/O ports. Unclaimed ports read all ones and swallow writes. */
export class PortBus {
  readonly #owner = new Map<number, PortRange>();
  /** Every port write passes here first when set (`--log-port`). */
  onWrite: ((port: number, size: number, value: number) => void) | undefined;

  /** Claims ports first..last (inclusive) for a device. A clash is a programming error and throws. */
  register(first: number, last: number, device: string, handler: PortHandler): void {
    const range = { first, last, handler, device };
    for (let port = first; port <= last; port++) {
      const other = this.#owner.get(port);
      if (other)
        throw new Error(`port 0x${port.toString(16)} wanted by ${device} belongs to ${other.device}`);
      this.#owner.set(port, range);
    }
  }

  /** Gives ports back (a BAR that moved). */
  unregister(first: number, last: number): void {
    for (let port = first; port <= last; port++) this.#owner.delete(port);
  }

  /** The device that owns a port, or undefined. */
  deviceAt(port: number): string | undefined {
    return this.#owner.get(port & 0xffff)?.device;
  }

  read(port: number, size: number): number {
    const owner = this.#owner.get(port);
    if (owner && (size === 1 || (!owner.handler.byteOnly && port + size - 1 <= owner.last))) {
      return owner.handler.readPort(port, size) >>> 0;
    }
    if (size === 1) return 0xff;
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = ((value << 8) | this.read((port + i) & 0xffff, 1)) >>> 0;
    return value;
  }

  write(port: number, size: number, value: number): void {
    this.onWrite?.(port, size, value);
    this.#write(port, size, value);
  }

  #write(port: number, size: number, value: number): void {
    const owner = this.#owner.get(port);
    if (owner && (size === 1 || (!owner.handler.byteOnly && port + size - 1 <= owner.last))) {
      owner.handler.writePort(port, size, value);
    } else if (size > 1) {
      for (let i = 0; i < size; i++) this.#write((port + i) & 0xffff, 1, (value >>> (8 * i)) & 0xff);
    }
  }
}

interface MmioRange {
  base: number;
  size: number;
  handler: MmioHandler;
  device: string;
}

/** What a physical page is, for the MMU. */
export interface PageBacking {
  /** Arena offset of the page's bytes, or -1 when reads must go to a device (or to nothing). */
  arena: number;
  /** False for ROM and for everything that is not plain memory. */
  writable: boolean;
}

/** A run of pages of plain memory. */
export interface MemoryRegion {
  /** First physical address, and bytes. */
  phys: number;
  size: number;
  /** Arena offset of the first byte. */
  arena: number;
  /** False for ROM. */
  writable: boolean;
}

const PAGE = 4096;

/**
 * Guest physical memory: RAM from 0 (contiguous, below the hole), the legacy area 0xA0000..0xFFFFF with its
 * read and write enables in 16 KiB steps (PAM), ROM below 4 GiB, and MMIO ranges. Physical addresses are numbers
 * below 2^52.
 */
export class MemoryBus {
  readonly #arena: Arena;
  readonly #mmio: MmioRange[] = [];
  /** For each 16 KiB of 0xC0000..0xFFFFF: bit 0 reads come from RAM (else from ROM), bit 1 writes go to RAM. */
  readonly #pam = new Uint8Array(16).fill(3);
  #romBytes = 0;
  /** Called when the meaning of physical pages changed and cached translations of them must go. */
  onRemap: () => void = () => undefined;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  get ramSize(): number {
    return this.#arena.ramSize;
  }

  /** Installs a firmware image at the top of 4 GiB, its last 128 KiB also below 1 MiB. Its bytes are copied to the arena. */
  installRom(image: Uint8Array): void {
    if (image.length > ARENA.romSize || image.length % PAGE !== 0) {
      throw new RangeError(
        `firmware must be a multiple of 4 KiB and at most 16 MiB, not ${image.length} bytes`,
      );
    }
    this.#arena.u8.set(image, ARENA.rom);
    this.#romBytes = image.length;
    this.#pam.fill(0);
    this.onRemap();
  }

  get romBytes(): number {
    return this.#romBytes;
  }

  /** Read and write enable of one 16 KiB step (0..15, from 0xC0000 up), as the host bridge's PAM registers set it. */
  setPam(step: number, readRam: boolean, writeRam: boolean): void {
    const value = (readRam ? 1 : 0) | (writeRam ? 2 : 0);
    if (this.#pam[step] === value) return;
    this.#pam[step] = value;
    this.onRemap();
  }

  /** Maps device registers; ranges must be page-aligned. */
  mapMmio(base: number, size: number, device: string, handler: MmioHandler): void {
    this.#mmio.push({ base, size, handler, device });
    this.onRemap();
  }

  unmapMmio(base: number): void {
    const index = this.#mmio.findIndex((range) => range.base === base);
    if (index >= 0) this.#mmio.splice(index, 1);
    this.onRemap();
  }

  /** What stands behind a physical address; the page containing it is uniform. */
  backing(phys: number): PageBacking {
    const page = phys - (phys % PAGE);
    if (page < this.ramSize) {
      if (page < 0xa0000 || page >= 0x100000) {
        return this.#mmioAt(page)
          ? { arena: -1, writable: false }
          : { arena: ARENA.ram + page, writable: true };
      }
      if (page < 0xc0000) return { arena: -1, writable: false };
      const pam = this.#pam[(page - 0xc0000) >> 14] ?? 0;
      if ((pam & 1) !== 0) return { arena: ARENA.ram + page, writable: (pam & 2) !== 0 };
      // Reads come from ROM while writes may go to RAM (shadowing in progress): both take the slow path then.
      const fromTop = 0x100000 - page;
      if (fromTop <= this.#romBytes && fromTop <= 0x20000) {
        return { arena: (pam & 2) !== 0 ? -1 : ARENA.rom + this.#romBytes - fromTop, writable: false };
      }
      return { arena: -1, writable: false };
    }
    const fromTop = 0x100000000 - page;
    if (fromTop > 0 && fromTop <= this.#romBytes) {
      return { arena: ARENA.rom + this.#romBytes - fromTop, writable: false };
    }
    return { arena: -1, writable: false };
  }

  /** All plain memory, from low to high addresses: maximal runs that are contiguous in the arena and alike. */
  regions(): MemoryRegion[] {
    const four = 0x100000000;
    const bounds = new Set([0, 0xa0000, 0x100000, this.ramSize, four - this.#romBytes, four]);
    for (let step = 0; step < 16; step++) bounds.add(0xc0000 + step * 0x4000);
    bounds.add(0x100000 - Math.min(this.#romBytes, 0x20000));
    for (const { base, size } of this.#mmio) bounds.add(base).add(base + size);
    const sorted = [...bounds].sort((a, b) => a - b);
    const regions: MemoryRegion[] = [];
    for (let i = 0; i + 1 < sorted.length; i++) {
      const phys = sorted[i] ?? 0;
      const size = (sorted[i + 1] ?? phys) - phys;
      const { arena, writable } = this.backing(phys);
      if (arena < 0 || size === 0) continue;
      const last = regions.at(-1);
      const joins =
        last !== undefined &&
        last.phys + last.size === phys &&
        last.arena + last.size === arena &&
        last.writable === writable;
      if (joins) last.size += size;
      else regions.push({ phys, size, arena, writable });
    }
    return regions;
  }

  /** RAM that `backing` always finds in the arena, writable: [0, lowEnd) and [1 MiB, highEnd). */
  get plainRam(): { lowEnd: number; highEnd: number } {
    let lowEnd = Math.min(0xa0000, this.ramSize);
    let highEnd = this.ramSize;
    for (const { base, size } of this.#mmio) {
      lowEnd = Math.min(lowEnd, base);
      if (base + size > 0x100000) highEnd = Math.min(highEnd, Math.max(base, 0x100000));
    }
    return { lowEnd, highEnd };
  }

  /** The device whose registers a physical address falls into, or undefined. */
  deviceAt(phys: number): string | undefined {
    return this.#mmioAt(phys)?.device;
  }

  #mmioAt(phys: number): MmioRange | undefined {
    return this.#mmio.find((range) => phys >= range.base && phys < range.base + range.size);
  }

  /** A read of 1, 2 or 4 bytes that does not cross a page, from whatever is there. Nothing there reads all ones. */
  read(phys: number, size: number): number {
    const { arena } = this.backing(phys);
    if (arena >= 0) return this.#readArena(arena + (phys % PAGE), size);
    const range = this.#mmioAt(phys);
    if (range) return range.handler.readMmio(phys - range.base, size) >>> 0;
    const shadow = this.#shadow(phys);
    if (shadow >= 0) return this.#readArena(shadow, size);
    return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
  }

  /** A write of 1, 2 or 4 bytes that does not cross a page. Writes to ROM and to nothing are swallowed. */
  write(phys: number, size: number, value: number): void {
    const { arena, writable } = this.backing(phys);
    if (arena >= 0 && writable) return this.#writeArena(arena + (phys % PAGE), size, value);
    const range = this.#mmioAt(phys);
    if (range) return range.handler.writeMmio(phys - range.base, size, value);
    if (phys >= 0xc0000 && phys < 0x100000 && ((this.#pam[(phys - 0xc0000) >> 14] ?? 0) & 2) !== 0) {
      this.#writeArena(ARENA.ram + phys, size, value);
    }
  }

  /** Arena offset of ROM below 1 MiB while its RAM shadow is write-enabled only; -1 elsewhere. */
  #shadow(phys: number): number {
    const fromTop = 0x100000 - phys;
    if (phys < 0xc0000 || fromTop <= 0 || fromTop > Math.min(this.#romBytes, 0x20000)) return -1;
    return ARENA.rom + this.#romBytes - fromTop;
  }

  #readArena(offset: number, size: number): number {
    const { view } = this.#arena;
    if (size === 1) return view.getUint8(offset);
    return size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
  }

  #writeArena(offset: number, size: number, value: number): void {
    const { view } = this.#arena;
    if (size === 1) view.setUint8(offset, value);
    else if (size === 2) view.setUint16(offset, value, true);
    else view.setUint32(offset, value, true);
  }
}
