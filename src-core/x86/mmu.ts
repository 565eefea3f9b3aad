import type { Cpu } from './cpu.ts';
import { AddressSpaces } from './address-spaces.ts';
import { CR4_PAE, CR4_SMAP } from './bits.ts';
import { dataBreakpoints, hasDataBreakpoints } from './debug.ts';
import { GuestFault, VECTOR } from './faults.ts';
import type { MemoryObserver } from './intercepts.ts';
import { CR2, CR3, CR4, CTL, MMU, PAGE_FLAG, TLB } from './layout.ts';
import { MODE } from './mode.ts';
import { ACCESS, isUserBank, PageWalker, PDPTE, readPdptes, type Access } from './paging.ts';
import { PhysicalMemory } from './physical.ts';
import { Tlb, type Translation } from './tlb.ts';

export { ACCESS, type Access } from './paging.ts';

/** Bits of the `info` word that wasm passes to refill, slowLoad and slowStore; bits 0..7 are the size in bytes. */
export const SLOW = {
  sizeMask: 0xff,
  /** An access through SS: a non-canonical address is #SS(0), not #GP(0). */
  stack: 1 << 8,
  /** A load whose value is written back: it needs, and faults like, a write. */
  writeIntent: 1 << 9,
  /** #GP(0) unless aligned to 16 bytes. */
  aligned16: 1 << 10,
  /** refill only: an instruction fetch. */
  execute: 1 << 11,
} as const;

const PAGE = 0x1000;
const TWO_32 = 0x100000000;
/** Canonical linear addresses are -CANONICAL..CANONICAL - 1. */
const CANONICAL = 0x800000000000;
/** What `#resolve` returns besides an arena address: a fault is recorded; the bus must do it (at #phys). */
const FAULT = -1;
const DEVICE = -2;

/**
 * Linear memory: the page walk, the software TLB that wasm code probes, the slow paths wasm calls when it misses,
 * and accessors for TypeScript. Most misses never come here: `refill` (engines/software/mmu/refill.ts) does for plain
 * RAM in wasm what `fill` does for everything, and leaves to TypeScript what faults, is no plain RAM or is watched.
 *
 * A linear address is a number: 0..2^32-1 outside long mode, signed and canonical (-2^47..2^47-1) in it.
 */
export class Mmu {
  readonly #cpu: Cpu;
  readonly #i32: Int32Array;
  readonly #u8: Uint8Array;
  readonly #memory: PhysicalMemory;
  readonly #walker: PageWalker;
  readonly #tlb: Tlb;
  /** The address spaces whose translations survive MOV to CR3; undefined while none does. */
  #spaces: AddressSpaces | undefined;
  /** The banks that are in use now. */
  #banks: readonly number[] = [];
  /** Physical address of the byte `#resolve` was last asked for, when it is not plain memory. */
  #phys = 0;
  /** Any data breakpoint is enabled: slow accesses look for hits, watched pages are not cached. */
  #watching = false;
  #observer: MemoryObserver | undefined;
  /** Address spaces were kept before an observer came. */
  #keptBefore = false;
  /** What `#tryFill` caches: one object for all of them. */
  readonly #translation: Translation = {
    arena: 0,
    shift: 12,
    readable: false,
    writable: false,
    executable: false,
    global: false,
  };

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
    this.#i32 = cpu.i32;
    this.#u8 = cpu.u8;
    this.#memory = new PhysicalMemory(cpu.arena, cpu.memory, cpu.accounting);
    this.#walker = new PageWalker(cpu, this.#memory);
    this.#tlb = new Tlb(cpu.arena);
    this.flush();
  }

  /** Called after a store to a page with translated code: arena address and bytes. */
  get onCodeWrite(): (arenaAddress: number, size: number) => void {
    return this.#memory.onCodeWrite;
  }
  set onCodeWrite(callback: (arenaAddress: number, size: number) => void) {
    this.#memory.onCodeWrite = callback;
  }

  // ---- TLB ----

  /** Drops everything cached about addresses: all translations, global ones too, and where physical pages are. */
  flush(): void {
    this.#tlb.flush();
    this.#memory.forget();
    this.#watching = hasDataBreakpoints(this.#cpu);
    this.#i32[MMU.watching >> 2] = this.#watching || this.#observer ? 1 : 0;
    this.#spaces?.reset();
    this.#useBank(this.#spaces?.bank ?? TLB.bankUser);
  }

  /** MOV to CR3: of other address spaces only translations of global pages may be used from now on. */
  rootChanged(): void {
    this.#tlb.flushNonGlobal(TLB.bankSupervisorSmap);
    this.#tlb.flushNonGlobal(TLB.bankSupervisor);
    if (this.#spaces) {
      this.#spaces.switch();
      this.#useBank(this.#spaces.bank);
    } else {
      this.#tlb.flushNonGlobal(TLB.bankUser);
    }
  }

  #useBank(userBank: number): void {
    this.#i32[CTL.userBank >> 2] = userBank;
    if (isUserBank(this.#i32[CTL.tlbBank >> 2]!)) this.#i32[CTL.tlbBank >> 2] = userBank;
    if (this.#banks[0] !== userBank) {
      this.#banks = [userBank, TLB.bankSupervisorSmap, TLB.bankSupervisor];
    }
  }

  /** Whether translations of an address space are kept for when CR3 comes back to it. Drops everything cached. */
  keepAddressSpaces(keep: boolean): void {
    this.#spaces?.reset();
    this.#spaces = keep ? new AddressSpaces(this.#cpu.arena, this.#tlb) : undefined;
    this.#i32[MMU.space >> 2] = 0;
    this.flush();
  }

  /** Something other than the vCPU changed these bytes of the arena. */
  memoryChanged(arena: number, size: number): void {
    if ((this.#tlb.watched(arena >>> 12) & PAGE_FLAG.table) !== 0) this.#tableWritten(arena, size, false);
  }

  #tableWritten(arena: number, size: number, byGuest: boolean): void {
    this.#countTrace('page table');
    this.#spaces?.written(arena, size);
    this.#observer?.tableWritten(arena, size, byGuest);
  }

  // ---- for a model of hardware virtualization ----

  /** Tells `observer` of every walk and traced store from now on; undefined ends that. Drops everything cached. */
  observe(observer: MemoryObserver | undefined): void {
    // The model traces page tables itself, and MOV to CR3 drops translations on what it models.
    if (observer && !this.#observer) {
      this.#keptBefore = this.#spaces !== undefined;
      this.keepAddressSpaces(false);
    }
    const ended = this.#observer && !observer;
    this.#observer = observer;
    this.#memory.onDevice = (phys, size, write) => observer?.device(phys, size, write);
    if (ended) this.keepAddressSpaces(this.#keptBefore);
    else this.flush();
  }

  /** Drops all cached translations, those of global pages too. */
  dropTranslations(): void {
    this.#tlb.flush();
  }

  /** Traces stores to a page of the arena: MemoryObserver.tableWritten hears of them. */
  traceTable(arenaPage: number): void {
    this.#tlb.protect(arenaPage, PAGE_FLAG.table);
  }

  untraceTable(arenaPage: number): void {
    this.#tlb.unprotect(arenaPage, PAGE_FLAG.table);
  }

  /** Arena address of plain, writable memory at a physical address; -1 where there is none. */
  plainMemory(phys: number): number {
    return this.#memory.arenaOf(phys, true);
  }

  #countTrace(reason: string, times = 1): void {
    if (times === 0) return;
    const { accounting } = this.#cpu;
    accounting.count('trace', times);
    accounting.detail('trace', reason, times);
  }

  /** INVLPG: drops the translations of the page that contains `lin`, whatever its size. */
  invalidatePage(lin: number): void {
    this.#tlb.invalidatePage(lin, this.#banks);
  }

  /** A page of the arena got translated code: stores to it are looked at from now on. */
  protectCodePage(arenaPage: number): void {
    this.#tlb.protect(arenaPage, PAGE_FLAG.code);
  }

  /** The page's translated code is gone: it may be written directly again. */
  unprotectCodePage(arenaPage: number): void {
    this.#tlb.unprotect(arenaPage, PAGE_FLAG.code);
  }

  /** Why stores to a page of the arena are looked at (PAGE_FLAG); 0 when they are not. */
  watched(arenaPage: number): number {
    return this.#tlb.watched(arenaPage);
  }

  /** Moves what wasm counted to the accounting. */
  collectCounts(): void {
    const { accounting } = this.#cpu;
    accounting.count('tlbFill', this.#take(MMU.fills));
    this.#countTrace('data beside code', this.#take(MMU.storesBesideCode));
    this.#countTrace('unused page table entry', this.#take(MMU.tableStores));
  }

  #take(counter: number): number {
    const count = this.#cpu.u32[counter >> 2]!;
    this.#i32[counter >> 2] = 0;
    return count;
  }

  /**
   * Translates and caches. Every kind of access the page allows without another look at its tables is cached.
   * @returns false when the access faults; the fault is recorded.
   */
  fill(lin: number, access: Access, user: boolean): boolean {
    return this.#fill(lin, access, this.#bankFor(user));
  }

  #fill(lin: number, access: Access, bank: number): boolean {
    if (this.#tryFill(lin, access, bank)) return true;
    const long = this.#longMode;
    if (long && (lin < -CANONICAL || lin >= CANONICAL)) {
      this.#record(VECTOR.GP, 0);
      return false;
    }
    this.#record(VECTOR.PF, this.#walker.errorCode);
    this.#i32[CR2 >> 2] = lin;
    this.#i32[(CR2 >> 2) + 1] = long ? Math.floor(lin / TWO_32) : 0;
    // A page fault drops what is cached about the page (Intel SDM volume 3, section 4.10.4.1).
    this.invalidatePage(lin);
    return false;
  }

  #record(vector: number, errorCode: number): void {
    this.#i32[CTL.faultVector >> 2] = vector;
    this.#i32[CTL.faultCode >> 2] = errorCode;
  }

  /** `#fill` that records no fault. */
  #tryFill(lin: number, access: Access, bank: number): boolean {
    if (lin < -CANONICAL || lin >= CANONICAL) return false;
    this.#cpu.accounting.count('tlbFill');
    const walker = this.#walker;
    if (!walker.walk(lin, access, bank)) return false;
    const memory = this.#memory;
    const arena = memory.arenaOf(walker.phys, false);
    if (this.#observer) this.#tell(this.#observer, lin, access, bank, arena);
    if (arena < 0) return true;

    let readable = walker.allows(ACCESS.read, bank);
    let writable =
      walker.dirty && walker.allows(ACCESS.write, bank) && memory.arenaOf(walker.phys, true) >= 0;
    if (this.#watching) {
      const start = lin - (lin & (PAGE - 1));
      readable &&= dataBreakpoints(this.#cpu, start, PAGE, false) === 0;
      writable &&= dataBreakpoints(this.#cpu, start, PAGE, true) === 0;
    }
    const translation = this.#translation;
    translation.arena = arena;
    translation.shift = walker.pageShift;
    translation.readable = readable;
    translation.writable = writable;
    translation.executable = walker.allows(ACCESS.execute, bank);
    translation.global = walker.global;
    this.#tlb.put(lin, bank, translation);
    if (this.#spaces && isUserBank(bank)) this.#traceTables(lin, this.#spaces);
    return true;
  }

  #tell(observer: MemoryObserver, lin: number, access: Access, bank: number, arena: number): void {
    const writable = this.#memory.arenaOf(this.#walker.phys, true) >= 0;
    const known = this.#tlb.lookup(lin, TLB.readTag, bank) >= 0;
    observer.walked(lin, access, this.#walker, arena, writable, known);
  }

  /** The translation just made depends on these tables. */
  #traceTables(lin: number, spaces: AddressSpaces): void {
    const { levels, entryAt, pageShift } = this.#walker;
    const wide = (this.#i32[CR4 >> 2]! & CR4_PAE) !== 0;
    const tables = Array.from({ length: levels }, (_, level) => ({
      at: this.#memory.arenaOf(entryAt[level]!, true),
      leaf: level < levels - 1 || pageShift !== 12 ? 0 : wide ? PAGE_FLAG.leaf64 : PAGE_FLAG.leaf32,
    }));
    spaces.trace(lin, tables);
  }

  /** The bank of an explicit access now; with `user` false at CPL 3, of an implicit supervisor access. */
  #bankFor(user: boolean): number {
    if (user) return this.#i32[CTL.userBank >> 2]!;
    const bank = this.#i32[CTL.tlbBank >> 2]!;
    return isUserBank(bank) ? this.#supervisorBank : bank;
  }

  /** Implicit supervisor accesses obey SMAP whatever RFLAGS.AC says (Intel SDM volume 3, section 4.6.1). */
  get #supervisorBank(): number {
    return (this.#i32[CR4 >> 2]! & CR4_SMAP) !== 0 ? TLB.bankSupervisorSmap : TLB.bankSupervisor;
  }

  get #longMode(): boolean {
    return (this.#i32[CTL.modeKey >> 2]! & MODE.longMode) !== 0;
  }

  /** The PDPTEs of PAE paging are read from memory at CR3. False, with nothing changed, when that is #GP(0). */
  loadPdptes(cr3Low = this.#i32[CR3 >> 2]!): boolean {
    const words = readPdptes(this.#memory, cr3Low, this.#i32[CTL.a20Mask >> 2]!);
    if (!words) return false;
    this.#i32.set(words, PDPTE >> 2);
    return true;
  }

  // ---- translation ----

  /**
   * Physical address behind a linear one.
   * @returns -1 when the access faults: the fault stands in CTL.faultVector, CTL.faultCode and CR2.
   */
  translate(lin: number, access: Access, user: boolean): number {
    return this.#fill(lin, access, this.#bankFor(user)) ? this.#walker.phys : -1;
  }

  /** Arena address for an access, FAULT (recorded) or DEVICE (#phys says where). */
  #resolve(lin: number, access: Access, bank: number): number {
    const tag = access === ACCESS.read ? TLB.readTag : access === ACCESS.write ? TLB.writeTag : TLB.execTag;
    const cached = this.#tlb.lookup(lin, tag, bank);
    if (cached >= 0) return cached;
    if (!this.#fill(lin, access, bank)) return FAULT;
    const { phys } = this.#walker;
    const arena = this.#memory.arenaOf(phys, access === ACCESS.write);
    if (arena >= 0) return arena;
    this.#phys = phys;
    return DEVICE;
  }

  /** Linear address of the page after the one containing `lin`; wraps at 4 GiB outside 64-bit code. */
  #nextPage(lin: number): number {
    const next = (Math.floor(lin / PAGE) + 1) * PAGE;
    const code64 = (this.#i32[CTL.modeKey >> 2]! & MODE.codeSizeMask) === MODE.code64;
    return next === TWO_32 && !code64 ? 0 : next;
  }

  /** Outside long mode addresses are 32 bits wide, however they were computed. */
  #wrap(lin: number): number {
    return this.#longMode ? lin : lin >>> 0;
  }

  /**
   * Where the code byte at `lin` is, for the current CPL.
   * @returns an arena address; -1 with a fault recorded; -2 when it is not plain memory.
   */
  fetchPage(lin: number): number {
    return this.#resolve(this.#wrap(lin), ACCESS.execute, this.#i32[CTL.tlbBank >> 2]!);
  }

  /**
   * For string instructions: arena address of the byte at `lin` when the rest of its page may be accessed
   * directly, at the current CPL, with nothing to watch. -1 otherwise, with no fault recorded: the ordinary
   * accessors then do what is to be done. Accessed and dirty flags are set.
   */
  ramRun(lin: number, access: Access): number {
    const bank = this.#i32[CTL.tlbBank >> 2]!;
    const tag = access === ACCESS.write ? TLB.writeTag : TLB.readTag;
    const cached = this.#tlb.lookup(lin, tag, bank);
    if (cached >= 0) return cached;
    return this.#tryFill(lin, access, bank) ? this.#tlb.lookup(lin, tag, bank) : -1;
  }

  /** Whether the TLB serves an access at the current CPL as it stands: nothing is walked for the answer. */
  isCached(lin: number, access: typeof ACCESS.read | typeof ACCESS.write): boolean {
    const tag = access === ACCESS.write ? TLB.writeTag : TLB.readTag;
    return this.#tlb.lookup(lin, tag, this.#i32[CTL.tlbBank >> 2]!) >= 0;
  }

  // ---- slow paths called from wasm ----

  /**
   * A load the TLB did not serve. The value goes to CTL.slowValue (zero-extended to 8 bytes), or CTL.slowWide.
   * @param lo low half of the linear address. @param hi its high half, signed. @param info see SLOW.
   * @returns 0 = done, 1 = a fault is recorded in CTL.faultVector and CTL.faultCode.
   */
  slowLoad(lo: number, hi: number, info: number): number {
    const lin = this.#linear(lo, hi, info);
    if (lin === undefined) return 1;
    const size = info & SLOW.sizeMask;
    const access = (info & SLOW.writeIntent) !== 0 ? ACCESS.write : ACCESS.read;
    const to = size === 16 ? CTL.slowWide : CTL.slowValue;
    return this.#load(lin, size, access, this.#i32[CTL.tlbBank >> 2]!, to) ? 0 : 1;
  }

  /** A store the TLB did not serve, of the value in CTL.slowValue or CTL.slowWide. Otherwise as slowLoad. */
  slowStore(lo: number, hi: number, info: number): number {
    const lin = this.#linear(lo, hi, info);
    if (lin === undefined) return 1;
    const size = info & SLOW.sizeMask;
    const from = size === 16 ? CTL.slowWide : CTL.slowValue;
    return this.#store(lin, size, this.#i32[CTL.tlbBank >> 2]!, from) ? 0 : 1;
  }

  /** The linear address of a slow access, undefined when it is non-canonical or misaligned (recorded). */
  #linear(lo: number, hi: number, info: number): number | undefined {
    // Misalignment comes first: #GP(0) even through SS.
    if ((info & SLOW.aligned16) !== 0 && (lo & 15) !== 0) {
      this.#record(VECTOR.GP, 0);
      return undefined;
    }
    const last = (lo >>> 0) + (info & SLOW.sizeMask) - 1;
    if (hi < -0x8000 || hi > 0x7fff || (hi === 0x7fff && last >= TWO_32)) {
      this.#record((info & SLOW.stack) !== 0 ? VECTOR.SS : VECTOR.GP, 0);
      return undefined;
    }
    return hi * TWO_32 + (lo >>> 0);
  }

  #load(lin: number, size: number, access: Access, bank: number, to: number): boolean {
    const memory = this.#memory;
    const first = PAGE - (lin & (PAGE - 1));
    if (size < 8) {
      this.#i32[to >> 2] = 0;
      this.#i32[(to >> 2) + 1] = 0;
    }
    if (size <= first) {
      const arena = this.#resolve(lin, access, bank);
      if (arena === FAULT) return false;
      if (arena >= 0) memory.copy(arena, to, size);
      else memory.deviceRead(this.#phys, to, size);
    } else {
      const low = this.#resolve(lin, access, bank);
      if (low === FAULT) return false;
      const lowPhys = this.#phys;
      const high = this.#resolve(this.#nextPage(lin), access, bank);
      if (high === FAULT) return false;
      const highPhys = this.#phys;
      if (low >= 0) memory.copy(low, to, first);
      else memory.deviceRead(lowPhys, to, first);
      if (high >= 0) memory.copy(high, to + first, size - first);
      else memory.deviceRead(highPhys, to + first, size - first);
    }
    if (this.#watching) this.#watch(lin, size, access === ACCESS.write);
    return true;
  }

  #store(lin: number, size: number, bank: number, from: number): boolean {
    const first = PAGE - (lin & (PAGE - 1));
    if (size <= first) {
      const arena = this.#resolve(lin, ACCESS.write, bank);
      if (arena === FAULT) return false;
      this.#put(arena, this.#phys, from, size);
    } else {
      const low = this.#resolve(lin, ACCESS.write, bank);
      if (low === FAULT) return false;
      const lowPhys = this.#phys;
      const high = this.#resolve(this.#nextPage(lin), ACCESS.write, bank);
      if (high === FAULT) return false;
      const highPhys = this.#phys;
      this.#put(low, lowPhys, from, first);
      this.#put(high, highPhys, from + first, size - first);
    }
    if (this.#watching) this.#watch(lin, size, true);
    return true;
  }

  /** Stores within a page, to the arena or (arena < 0) through the bus. */
  #put(arena: number, phys: number, from: number, size: number): void {
    if (arena < 0) {
      this.#memory.deviceWrite(phys, from, size);
      return;
    }
    this.#memory.copy(from, arena, size);
    const watched = this.#tlb.watched(arena >>> 12);
    if ((watched & PAGE_FLAG.code) !== 0) {
      this.#countTrace('code');
      this.onCodeWrite(arena, size);
    }
    if ((watched & PAGE_FLAG.table) !== 0) this.#tableWritten(arena, size, true);
  }

  #watch(lin: number, size: number, write: boolean): void {
    const at = CTL.pendingDebug >> 2;
    this.#i32[at] = this.#i32[at]! | dataBreakpoints(this.#cpu, lin, size, write);
  }

  // ---- accessors for TypeScript ----

  /** The recorded fault as an exception. */
  #recorded(): GuestFault {
    return new GuestFault(this.#i32[CTL.faultVector >> 2]!, this.#i32[CTL.faultCode >> 2]);
  }

  /** Loads into CTL.slowValue. */
  #get(lin: number, size: number, supervisor: boolean): void {
    if (!this.#load(this.#wrap(lin), size, ACCESS.read, this.#bankOf(supervisor), CTL.slowValue)) {
      throw this.#recorded();
    }
  }

  /** Stores from CTL.slowValue. */
  #set(lin: number, size: number, supervisor: boolean): void {
    if (!this.#store(this.#wrap(lin), size, this.#bankOf(supervisor), CTL.slowValue)) {
      throw this.#recorded();
    }
  }

  #bankOf(supervisor: boolean): number {
    return supervisor ? this.#supervisorBank : this.#i32[CTL.tlbBank >> 2]!;
  }

  /**
   * Reads and writes of guest memory, of any alignment, at the current CPL or (`supervisor`) as an implicit
   * supervisor access. They throw GuestFault and then have changed nothing.
   */
  read8(lin: number, supervisor = false): number {
    this.#get(lin, 1, supervisor);
    return this.#u8[CTL.slowValue]!;
  }
  read16(lin: number, supervisor = false): number {
    this.#get(lin, 2, supervisor);
    return this.#cpu.u16[CTL.slowValue >> 1]!;
  }
  read32(lin: number, supervisor = false): number {
    // Delivering an event takes a dozen of these: the aligned hit goes straight to memory.
    if ((lin & 3) === 0) {
      const cached = this.#tlb.lookup(this.#wrap(lin), TLB.readTag, this.#bankOf(supervisor));
      if (cached >= 0) return this.#cpu.u32[cached >>> 2]!;
    }
    this.#get(lin, 4, supervisor);
    return this.#cpu.u32[CTL.slowValue >> 2]!;
  }
  read64(lin: number, supervisor = false): bigint {
    this.#get(lin, 8, supervisor);
    return this.#cpu.u64[CTL.slowValue >> 3]!;
  }
  write8(lin: number, value: number, supervisor = false): void {
    this.#u8[CTL.slowValue] = value;
    this.#set(lin, 1, supervisor);
  }
  write16(lin: number, value: number, supervisor = false): void {
    this.#cpu.u16[CTL.slowValue >> 1] = value;
    this.#set(lin, 2, supervisor);
  }
  write32(lin: number, value: number, supervisor = false): void {
    if ((lin & 3) === 0) {
      const cached = this.#tlb.lookup(this.#wrap(lin), TLB.writeTag, this.#bankOf(supervisor));
      if (cached >= 0) {
        this.#i32[cached >>> 2] = value;
        return;
      }
    }
    this.#i32[CTL.slowValue >> 2] = value;
    this.#set(lin, 4, supervisor);
  }
  write64(lin: number, value: bigint, supervisor = false): void {
    this.#cpu.u64[CTL.slowValue >> 3] = BigInt.asUintN(64, value);
    this.#set(lin, 8, supervisor);
  }

  /** Throws what an access of `size` bytes would, and does everything but the access (flags of the tables too). */
  probe(lin: number, size: number, access: Access, supervisor = false): void {
    const bank = this.#bankOf(supervisor);
    let at = this.#wrap(lin);
    for (let left = size; ;) {
      if (this.#resolve(at, access, bank) === FAULT) throw this.#recorded();
      left -= PAGE - (at & (PAGE - 1));
      if (left <= 0) return;
      at = this.#nextPage(at);
    }
  }

  /** Reads any number of bytes. A fault is thrown before anything is read. */
  readBytes(lin: number, into: Uint8Array, supervisor = false): void {
    if (into.length === 0) return;
    this.probe(lin, into.length, ACCESS.read, supervisor);
    const bank = this.#bankOf(supervisor);
    this.#pieces(lin, into.length, TLB.readTag, bank, (at, done, size, arena) => {
      if (arena >= 0) {
        into.set(this.#u8.subarray(arena, arena + size), done);
        return;
      }
      if (!this.#load(at, size, ACCESS.read, bank, CTL.slowWide)) throw this.#recorded();
      for (let i = 0; i < size; i++) into[done + i] = this.#u8[CTL.slowWide + i]!;
    });
  }

  /** Writes any number of bytes. A fault is thrown before anything is written. */
  writeBytes(lin: number, bytes: Uint8Array, supervisor = false): void {
    if (bytes.length === 0) return;
    this.probe(lin, bytes.length, ACCESS.write, supervisor);
    const bank = this.#bankOf(supervisor);
    this.#pieces(lin, bytes.length, TLB.writeTag, bank, (at, done, size, arena) => {
      if (arena >= 0) {
        this.#u8.set(bytes.subarray(done, done + size), arena);
        return;
      }
      for (let i = 0; i < size; i++) this.#u8[CTL.slowWide + i] = bytes[done + i]!;
      if (!this.#store(at, size, bank, CTL.slowWide)) throw this.#recorded();
    });
  }

  /**
   * Cuts a range into pieces that cross no page: those of memory that a tag of the TLB lets be accessed directly, with
   * their arena address, and of at most 16 bytes elsewhere (-1).
   */
  #pieces(
    lin: number,
    length: number,
    tag: number,
    bank: number,
    each: (at: number, done: number, size: number, arena: number) => void,
  ): void {
    for (let done = 0; done < length;) {
      const at = this.#wrap(lin + done);
      const arena = this.#tlb.lookup(at, tag, bank);
      const size = Math.min(arena >= 0 ? PAGE : 16, length - done, PAGE - (at & (PAGE - 1)));
      each(at, done, size, arena);
      done += size;
    }
  }

  /**
   * A 64-bit slot of the state as a linear address.
   * @throws GuestFault #GP(0), for a stack address #SS(0), when it is non-canonical.
   */
  linearAt(slot: number, stack = false): number {
    const high = this.#i32[(slot >> 2) + 1]!;
    if (high < -0x8000 || high > 0x7fff) throw new GuestFault(stack ? VECTOR.SS : VECTOR.GP);
    return high * TWO_32 + this.#cpu.u32[slot >> 2]!;
  }
}
