import { CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMEP, EFER_LMA, EFER_NXE } from './bits.ts';
import { CR0, CR3, CR4, CTL, EFER, TLB } from './layout.ts';
import type { PhysicalMemory } from './physical.ts';

/** What a linear address is accessed for. */
export const ACCESS = { read: 0, write: 1, execute: 2 } as const;
export type Access = (typeof ACCESS)[keyof typeof ACCESS];

/** MAXPHYADDR: width of physical addresses in bits, as CPUID 0x80000008 says. */
export const MAXPHYADDR = 40;
/** Physical address bits of an entry's upper half. */
export const ADDRESS_HIGH = (1 << (MAXPHYADDR - 32)) - 1;

/** The four PDPTEs of PAE paging, loaded by MOV to CR (Intel SDM volume 3, section 4.4.1); u64 each. */
export const PDPTE = 0x690;

/** Page-fault error code (Intel SDM volume 3, section 4.7). */
export const PF = { present: 1, write: 2, user: 4, reserved: 8, instruction: 16 } as const;

/** Flags in the low half of paging-structure entries of all kinds (Intel SDM volume 3, section 4.3 to 4.5). */
export const ENTRY = { P: 1, RW: 2, US: 4, A: 0x20, D: 0x40, PS: 0x80, G: 0x100 } as const;
const { P, RW, US, A, D, PS, G } = ENTRY;
const TWO_32 = 0x100000000;

/** Whether accesses through this TLB bank are explicit ones at CPL 3. */
export function isUserBank(bank: number): boolean {
  return bank !== TLB.bankSupervisorSmap && bank !== TLB.bankSupervisor;
}

interface State {
  readonly i32: Int32Array;
}

/**
 * The page walk (Intel SDM volume 3, chapter 4): none, 32-bit, PAE and 4-level paging. A walk that succeeds sets
 * the accessed flags, and the dirty flag when it is for a write; one that faults changes nothing. Results stand
 * in the fields, so that a walk allocates nothing.
 */
export class PageWalker {
  readonly #i32: Int32Array;
  readonly #memory: PhysicalMemory;

  /** Physical address the linear address stands for; A20 applied. */
  phys = 0;
  /** Log2 of the size of the page that maps it. */
  pageShift = 12;
  /** U/S is set at every level. */
  user = true;
  /** R/W is set at every level. */
  writable = true;
  /** XD is set at some level. */
  noExecute = false;
  /** The page's dirty flag after the walk; true without paging. */
  dirty = true;
  /** The page is global and CR4.PGE is set. */
  global = false;
  /** After a walk that returned false: the error code of its page fault. */
  errorCode = 0;

  /** How many entries of tables were used (PDPTEs of PAE paging not counted), and where they are, from the root down. */
  levels = 0;
  readonly entryAt = new Float64Array(4);
  /** What the low halves of the entries hold. */
  readonly #entryLow = new Int32Array(4);

  constructor({ i32 }: State, memory: PhysicalMemory) {
    this.#i32 = i32;
    this.#memory = memory;
  }

  /**
   * Translates `lin` (canonical, signed in long mode) for one access.
   * @param bank the TLB bank that says who accesses: TLB.bankSupervisorSmap, bankSupervisor or one for users.
   * @returns false for a page fault (see errorCode).
   */
  walk(lin: number, access: Access, bank: number): boolean {
    const cr0 = this.#i32[CR0 >> 2]!;
    if ((cr0 & CR0_PG) === 0) {
      this.phys = (lin & this.#i32[CTL.a20Mask >> 2]!) >>> 0;
      this.levels = 0;
      this.pageShift = 12;
      this.user = this.writable = this.dirty = true;
      this.noExecute = this.global = false;
      return true;
    }
    const pae = (this.#i32[CR4 >> 2]! & CR4_PAE) !== 0;
    return pae ? this.#walk64(lin, access, bank) : this.#walk32(lin, access, bank);
  }

  #walk32(lin: number, access: Access, bank: number): boolean {
    const memory = this.#memory;
    const a20 = this.#i32[CTL.a20Mask >> 2]!;
    const pdeAt = (((this.#i32[CR3 >> 2]! & 0xfffff000) | ((lin >>> 20) & 0xffc)) & a20) >>> 0;
    const pde = memory.read32(pdeAt);
    if ((pde & P) === 0) return this.#fault(0, access, bank);
    this.entryAt[0] = pdeAt;
    this.#entryLow[0] = pde;
    this.noExecute = false;
    if ((pde & PS) !== 0 && (this.#i32[CR4 >> 2]! & CR4_PSE) !== 0) {
      // PSE-36: bits 20..13 are address bits 39..32, bit 21 is reserved while MAXPHYADDR is 40.
      if ((pde & (1 << 21)) !== 0) return this.#fault(PF.present | PF.reserved, access, bank);
      this.phys = ((pde >>> 13) & 0xff) * TWO_32 + ((((pde & 0xffc00000) | (lin & 0x3fffff)) & a20) >>> 0);
      return this.#finish(access, bank, pde, 0, 22);
    }
    const pteAt = (((pde & 0xfffff000) | ((lin >>> 10) & 0xffc)) & a20) >>> 0;
    const pte = memory.read32(pteAt);
    if ((pte & P) === 0) return this.#fault(0, access, bank);
    this.entryAt[1] = pteAt;
    this.#entryLow[1] = pte;
    this.phys = (((pte & 0xfffff000) | (lin & 0xfff)) & a20) >>> 0;
    return this.#finish(access, bank, pde & pte, 1, 12);
  }

  /** PAE and 4-level paging: 64-bit entries. */
  #walk64(lin: number, access: Access, bank: number): boolean {
    const i32 = this.#i32;
    const memory = this.#memory;
    const a20 = i32[CTL.a20Mask >> 2]!;
    const efer = i32[EFER >> 2]!;
    const low = lin | 0;
    // An XD flag that is not enabled is reserved; PAE entries have no ignored bits above the address.
    let reservedHigh = (efer & EFER_NXE) === 0 ? 0x80000000 | 0 : 0;
    let tableLow: number;
    let tableHigh: number;
    let shift: number;
    if ((efer & EFER_LMA) !== 0) {
      reservedHigh |= 0xfffff & ~ADDRESS_HIGH;
      tableLow = i32[CR3 >> 2]!;
      tableHigh = i32[(CR3 >> 2) + 1]!;
      shift = 39;
    } else {
      reservedHigh |= 0x7fffffff & ~ADDRESS_HIGH;
      const pdpte = (PDPTE >> 2) + ((low >>> 30) << 1);
      tableLow = i32[pdpte]!;
      tableHigh = i32[pdpte + 1]!;
      if ((tableLow & P) === 0) return this.#fault(0, access, bank);
      shift = 21;
    }
    const high = Math.floor(lin / TWO_32);
    let rights = RW | US;
    let noExecute = 0;
    for (let level = 0; ; level++) {
      const index =
        shift >= 32 ? high >> (shift - 32) : shift === 30 ? (high << 2) | (low >>> 30) : low >>> shift;
      const at =
        (tableHigh & ADDRESS_HIGH) * TWO_32 +
        ((((tableLow & 0xfffff000) | ((index & 511) << 3)) & a20) >>> 0);
      const arena = memory.arenaOf(at, false);
      tableLow = arena < 0 ? -1 : i32[arena >>> 2]!;
      if ((tableLow & P) === 0) return this.#fault(0, access, bank);
      tableHigh = arena < 0 ? -1 : i32[(arena >>> 2) + 1]!;
      const large = shift !== 12 && (tableLow & PS) !== 0;
      const reservedLow = !large
        ? 0
        : shift === 21
          ? 0x001fe000
          : shift === 30
            ? 0x3fffe000
            : PS; /* a PML4 entry maps no page */
      if ((tableHigh & reservedHigh) !== 0 || (tableLow & reservedLow) !== 0) {
        return this.#fault(PF.present | PF.reserved, access, bank);
      }
      this.entryAt[level] = at;
      this.#entryLow[level] = tableLow;
      rights &= tableLow;
      noExecute |= tableHigh;
      if (large || shift === 12) {
        const inPage = shift === 12 ? 0xfff : shift === 21 ? 0x1fffff : 0x3fffffff;
        this.phys =
          (tableHigh & ADDRESS_HIGH) * TWO_32 +
          ((((tableLow & 0xfffff000 & ~inPage) | (low & inPage)) & a20) >>> 0);
        // With NXE clear a set bit 63 has already faulted as reserved.
        this.noExecute = noExecute < 0;
        return this.#finish(access, bank, rights, level, shift);
      }
      shift -= 9;
    }
  }

  /** Checks rights and sets the accessed and dirty flags of the entries 0..last. */
  #finish(access: Access, bank: number, rights: number, last: number, shift: number): boolean {
    this.user = (rights & US) !== 0;
    this.writable = (rights & RW) !== 0;
    this.pageShift = shift;
    this.levels = last + 1;
    if (!this.allows(access, bank)) return this.#fault(PF.present, access, bank);
    const memory = this.#memory;
    for (let level = 0; level < last; level++) {
      const entry = this.#entryLow[level]!;
      if ((entry & A) === 0) memory.write32(this.entryAt[level]!, entry | A);
    }
    const leaf = this.#entryLow[last]!;
    const wanted = access === ACCESS.write ? A | D : A;
    if ((leaf & wanted) !== wanted) memory.write32(this.entryAt[last]!, leaf | wanted);
    this.dirty = ((leaf | wanted) & D) !== 0;
    this.global = (leaf & G) !== 0 && (this.#i32[CR4 >> 2]! & CR4_PGE) !== 0;
    return true;
  }

  /** Whether the page last walked allows an access by `bank` (Intel SDM volume 3, section 4.6.1). */
  allows(access: Access, bank: number): boolean {
    if (isUserBank(bank)) {
      if (!this.user) return false;
      return access === ACCESS.read || (access === ACCESS.write ? this.writable : !this.noExecute);
    }
    if (access === ACCESS.execute) {
      return !this.noExecute && !(this.user && this.#paged(CR4, CR4_SMEP));
    }
    if (this.user && bank === TLB.bankSupervisorSmap && this.#paged(CR0, CR0_PG)) return false;
    return access === ACCESS.read || this.writable || (this.#i32[CR0 >> 2]! & CR0_WP) === 0;
  }

  /** A flag of a control register, false while paging is off. */
  #paged(register: number, flag: number): boolean {
    return (this.#i32[CR0 >> 2]! & CR0_PG) !== 0 && (this.#i32[register >> 2]! & flag) !== 0;
  }

  #fault(code: number, access: Access, bank: number): false {
    const cr4 = this.#i32[CR4 >> 2]!;
    if (access === ACCESS.write) code |= PF.write;
    if (isUserBank(bank)) code |= PF.user;
    if (access === ACCESS.execute) {
      const nxe = (cr4 & CR4_PAE) !== 0 && (this.#i32[EFER >> 2]! & EFER_NXE) !== 0;
      if (nxe || (cr4 & CR4_SMEP) !== 0) code |= PF.instruction;
    }
    this.errorCode = code;
    return false;
  }
}

/**
 * The PDPTEs that PAE paging would use with this CR3, read from memory (Intel SDM volume 3, section 4.4.1).
 * @returns undefined when a present one has reserved bits set: loading them is #GP(0).
 */
export function readPdptes(memory: PhysicalMemory, cr3Low: number, a20Mask: number): Int32Array | undefined {
  const words = new Int32Array(8);
  for (let index = 0; index < 8; index += 2) {
    const at = (((cr3Low & 0xffffffe0) + index * 4) & a20Mask) >>> 0;
    const low = memory.read32(at);
    const high = memory.read32(at + 4);
    if ((low & P) !== 0 && ((low & 0x1e6) !== 0 || (high & ~ADDRESS_HIGH) !== 0)) return undefined;
    words[index] = low;
    words[index + 1] = high;
  }
  return words;
}
