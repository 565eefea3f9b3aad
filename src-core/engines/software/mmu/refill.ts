import { ARENA } from '../../../machine/arena.ts';
import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PGE,
  CR4_PSE,
  CR4_SMEP,
  EFER_LMA,
  EFER_NXE,
} from '../../../x86/bits.ts';
import {
  CR0,
  CR3,
  CR4,
  CTL,
  EFER,
  MMU,
  PAGE_FLAG,
  PAGE_RECORD,
  PAGE_WRITERS_MORE,
  TLB,
  TLB_FLAG,
} from '../../../x86/layout.ts';
import { TABLE_STORES_MAX } from '../../../x86/address-spaces.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { ADDRESS_HIGH, ENTRY, PDPTE } from '../../../x86/paging.ts';
import { LARGE_SHIFTS } from '../../../x86/tlb.ts';

/** Function indices of what `emitRefill` defines. */
export interface RefillFunctions {
  /**
   * `refill(lo, hi, info)`: what to do when the TLB does not serve an access to the linear address `hi:lo`. `info`: the
   * size in bytes and SLOW's bits; writeIntent for a store too.
   * Returns the arena address of an access that may be done there now, once; 0 when TypeScript must do it. The entry
   * is filled where that can be, so that the next access hits.
   */
  refill: number;
  /**
   * `tracedStore(arena, size)`: whether a store of 1..16 bytes within a watched page may go ahead without anyone being
   * told: 1 when its bytes hold no translated code and no page table entry that translations were made from, else 0.
   */
  tracedStore: number;
}

/**
 * Emits the software MMU's fast half into a module. It does what Mmu.fill and PageWalker do, in the same order and
 * with the same result in memory and in the TLB, for accesses whose page tables and target are plain RAM and that do
 * not fault. All others it leaves alone: it returns 0 before it changes anything, and TypeScript starts from scratch.
 */
export function emitRefill(module: ModuleWriter): RefillFunctions {
  const tracedStore = module.declare([I32, I32], [I32]);
  module.define(tracedStore, emitTracedStore());
  const refill = module.declare([I32, I32, I32], [I32]);
  module.define(refill, new Refill(tracedStore).emit());
  return { refill, tracedStore };
}

/**
 * Emits `locateLoad` and `locateStore(lo, hi, info, uop)` for translated code (RegionImports): refill with -1 instead
 * of 0. `uop` is not looked at.
 */
export function emitLocate(
  module: ModuleWriter,
  refill: number,
): { locateLoad: number; locateStore: number } {
  const define = (more: number): number => {
    const index = module.declare([I32, I32, I32, I32], [I32]);
    const w = new CodeWriter(4);
    const arena = w.local(I32);
    w.get(0).get(1).get(2).i32Const(more).op(i32.or).call(refill).tee(arena);
    w.i32Const(-1).get(arena).select();
    module.define(index, w);
    return index;
  };
  return { locateLoad: define(0), locateStore: define(SLOW.writeIntent) };
}

/** Increments a u32 counter in the arena. */
function count(w: CodeWriter, counter: number): void {
  w.i32Const(0).i32Const(0).mem(i32.load, counter).i32Const(1).op(i32.add).mem(i32.store, counter);
}

/** Pushes the address of the record of the arena page that the local's address lies in; fields are ARENA.pages away. */
function pushRecord(w: CodeWriter, arena: number): void {
  w.get(arena).i32Const(12).op(i32.shr_u).i32Const(PAGE_RECORD.sizeShift).op(i32.shl);
}

function emitTracedStore(): CodeWriter {
  const w = new CodeWriter(2);
  const arena = 0;
  const size = 1;
  const record = w.local(I32);
  const flags = w.local(I32);
  pushRecord(w, arena);
  w.tee(record)
    .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
    .tee(flags);
  w.i32Const(PAGE_FLAG.code).op(i32.and).if();
  // At most 16 bytes lie in at most two chunks of 64.
  const shiftedBy = (last: boolean): void => {
    w.get(record).mem(i64.load, ARENA.pages + PAGE_RECORD.chunks);
    w.get(arena);
    if (last) w.get(size).op(i32.add).i32Const(1).op(i32.sub);
    // i64.shr_u takes the count modulo 64, the number of chunks in a page.
    w.i32Const(6).op(i32.shr_u).op(i64.extend_i32_u).op(i64.shr_u);
  };
  shiftedBy(false);
  shiftedBy(true);
  w.op(i64.or).op(i32.wrap_i64).i32Const(1).op(i32.and).if();
  w.i32Const(0).return();
  w.end();
  count(w, MMU.storesBesideCode);
  w.end();
  w.get(flags).i32Const(PAGE_FLAG.table).op(i32.and).if();
  emitTableStore(w, arena, size, record);
  w.end();
  w.i32Const(1);
  return w;
}

/** Returns 0 unless the entries of a page table that a store touches were never used as they stand. */
function emitTableStore(w: CodeWriter, arena: number, size: number, record: number): void {
  const at = w.local(I32);
  const end = w.local(I32);
  const writes = w.local(I32);
  // An entry that was used has its accessed flag, in its low half where it has 8 bytes. An upper half that looks like
  // that is TypeScript's to know.
  w.get(arena).get(size).op(i32.add).set(end);
  w.i32Const(~7).i32Const(~3);
  w.i32Const(0).mem(i32.load, CR4).i32Const(CR4_PAE).op(i32.and);
  w.select().get(arena).op(i32.and).set(at);
  w.loop();
  w.get(at)
    .mem(i32.load)
    .i32Const(ENTRY.P | ENTRY.A)
    .op(i32.and);
  w.i32Const(ENTRY.P | ENTRY.A)
    .op(i32.eq)
    .if();
  w.i32Const(0).return();
  w.end();
  w.get(at).i32Const(4).op(i32.add).tee(at).get(end).op(i32.lt_u).brIf(0);
  w.end();
  w.get(record)
    .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.writes)
    .i32Const(1)
    .op(i32.add);
  w.tee(writes).i32Const(TABLE_STORES_MAX).op(i32.gt_u).if();
  w.i32Const(0).return();
  w.end();
  w.get(record)
    .get(writes)
    .mem(i32.store8, ARENA.pages + PAGE_RECORD.writes);
  count(w, MMU.tableStores);
}

/** The locals of a walk and the code that uses them. */
class Refill {
  readonly #w = new CodeWriter(3);
  readonly #tracedStore: number;
  readonly #lo = 0;
  readonly #hi = 1;
  readonly #info = 2;
  /** Linear address of the page, low half. */
  readonly #low = this.#local();
  readonly #bank = this.#local();
  readonly #entry = this.#local();
  readonly #write = this.#local();
  readonly #execute = this.#local();
  readonly #paged = this.#local();
  readonly #a20 = this.#local();
  readonly #cr4 = this.#local();
  /** Arena addresses of the upper entries used, 0 for none, and their low halves. */
  readonly #upperAt = [this.#local(), this.#local(), this.#local()];
  readonly #upper = [this.#local(), this.#local(), this.#local()];
  /** The entry that maps the page: its arena address (0 without paging) and low half. */
  readonly #leafAt = this.#local();
  readonly #leaf = this.#local();
  /** R/W and U/S of all entries, and the sign of noExecute says XD. */
  readonly #rights = this.#local();
  readonly #noExecute = this.#local();
  readonly #shift = this.#local();
  /** A physical address. */
  readonly #phys = this.#local();
  readonly #tableLow = this.#local();
  readonly #tableHigh = this.#local();
  readonly #reservedHigh = this.#local();
  readonly #userBank = this.#local();
  readonly #readable = this.#local();
  readonly #writable = this.#local();
  readonly #executable = this.#local();
  readonly #wanted = this.#local();
  readonly #arena = this.#local();
  readonly #record = this.#local();
  readonly #flags = this.#local();
  readonly #global = this.#local();
  readonly #watched = this.#local();
  readonly #known = this.#local();
  readonly #number = this.#local();
  /** Another TLB entry. */
  readonly #other = this.#local();
  /** Linear address of the page. */
  readonly #page = this.#w.local(I64);
  /** Depth of the block whose end leaves the access to TypeScript. */
  #fail = 0;

  constructor(tracedStore: number) {
    this.#tracedStore = tracedStore;
  }

  #local(): number {
    return this.#w.local(I32);
  }

  emit(): CodeWriter {
    const w = this.#w;
    w.block();
    this.#fail = w.depth;
    this.#checkAccess();
    this.#tryTraced();
    w.block();
    const walked = w.depth;
    this.#walk(() => w.br(w.depth - walked));
    w.end();
    this.#permissions();
    this.#target();
    this.#checkTraces();
    this.#setAccessed();
    this.#fill();
    w.end();
    w.i32Const(0);
    return w;
  }

  /** Leaves the access to TypeScript when the condition on the stack holds. */
  #failIf(): void {
    this.#w.brIf(this.#w.depth - this.#fail);
  }

  #state(offset: number): CodeWriter {
    return this.#w.i32Const(0).mem(i32.load, offset);
  }

  /** Pushes local & mask. */
  #masked(local: number, mask: number): CodeWriter {
    return this.#w.get(local).i32Const(mask).op(i32.and);
  }

  /** Pushes 1 when local & mask is not 0. */
  #has(local: number, mask: number): CodeWriter {
    return this.#masked(local, mask).i32Const(0).op(i32.ne);
  }

  /** What is not an access within a page to a canonical address with nothing to watch. */
  #checkAccess(): void {
    const w = this.#w;
    this.#masked(this.#lo, 0xfff);
    this.#masked(this.#info, SLOW.sizeMask).op(i32.add).i32Const(0x1000).op(i32.gt_u);
    this.#failIf();
    this.#has(this.#info, SLOW.aligned16);
    this.#has(this.#lo, 15).op(i32.and);
    this.#failIf();
    w.get(this.#hi).i32Const(0x8000).op(i32.add).i32Const(0xffff).op(i32.gt_u);
    this.#failIf();
    this.#state(MMU.watching);
    this.#failIf();
    this.#masked(this.#lo, ~0xfff).set(this.#low);
    this.#has(this.#info, SLOW.writeIntent).set(this.#write);
    this.#has(this.#info, SLOW.execute).set(this.#execute);
    this.#state(CTL.tlbBank).tee(this.#bank);
    w.get(this.#lo)
      .i32Const(12 - Math.log2(TLB.entrySize))
      .op(i32.shr_u)
      .i32Const((TLB.entries - 1) * TLB.entrySize)
      .op(i32.and);
    w.op(i32.add).set(this.#entry);
  }

  /** A store through an entry that is there but for the watch on its page. */
  #tryTraced(): void {
    const w = this.#w;
    w.get(this.#write);
    w.get(this.#entry).mem(i32.load, TLB.flags).i32Const(TLB_FLAG.traced).op(i32.and);
    // The flag's bit 1 comes down to the truth value's bit 0.
    w.i32Const(1).op(i32.shr_u).op(i32.and);
    w.get(this.#entry).mem(i32.load, TLB.readTag).get(this.#low).op(i32.eq).op(i32.and);
    w.get(this.#entry)
      .mem(i32.load, TLB.readTag + 4)
      .get(this.#hi)
      .op(i32.eq)
      .op(i32.and);
    w.if();
    w.get(this.#lo).get(this.#entry).mem(i32.load, TLB.addend).op(i32.add).set(this.#arena);
    pushRecord(w, this.#arena);
    w.tee(this.#record)
      .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
      .if();
    this.#returnIfUntraced();
    w.end();
    // Nobody watches the page any more: the entry gets its tag back.
    this.#noteWriter();
    w.get(this.#entry).get(this.#entry).mem(i64.load, TLB.readTag).mem(i64.store, TLB.writeTag);
    w.get(this.#entry);
    w.get(this.#entry).mem(i32.load, TLB.flags).i32Const(~TLB_FLAG.traced).op(i32.and);
    w.mem(i32.store, TLB.flags);
    w.get(this.#arena).return();
    w.end();
  }

  /** Returns the arena address of a store to a watched page, or 0. */
  #returnIfUntraced(): void {
    const w = this.#w;
    w.get(this.#arena).i32Const(0);
    w.get(this.#arena);
    this.#masked(this.#info, SLOW.sizeMask).call(this.#tracedStore);
    w.select().return();
  }

  /** Tlb.#noteWriter, for `entry`, `arena` and `record`. */
  #noteWriter(): void {
    const w = this.#w;
    w.get(this.#entry)
      .i32Const(TLB.base - TLB.entrySize)
      .op(i32.sub);
    w.i32Const(Math.log2(TLB.entrySize)).op(i32.shr_u).set(this.#number);
    w.get(this.#record)
      .mem(i32.load, ARENA.pages + PAGE_RECORD.link)
      .tee(this.#known);
    w.i32Const(0xffff).op(i32.and).get(this.#number).op(i32.ne).if();
    w.get(this.#record);
    w.get(this.#known).op(i32.eqz).if(I32);
    w.get(this.#number);
    w.else();
    this.#masked(this.#known, PAGE_WRITERS_MORE | 0);
    // Without that flag the known number is all there is.
    const other = this.#other;
    w.get(this.#known)
      .i32Const(Math.log2(TLB.entrySize))
      .op(i32.shl)
      .i32Const(TLB.base - TLB.entrySize)
      .op(i32.add)
      .set(other);
    w.get(this.#known).i32Const(0).op(i32.ge_s).if(I32);
    w.get(other).mem(i32.load, TLB.writeTag).tee(this.#known).i32Const(-1).op(i32.ne);
    w.get(this.#known).get(other).mem(i32.load, TLB.addend).op(i32.add).get(this.#arena).op(i32.xor);
    w.i32Const(12).op(i32.shr_u).op(i32.eqz).op(i32.and);
    w.i32Const(31).op(i32.shl);
    w.else();
    w.i32Const(0);
    w.end();
    w.op(i32.or).get(this.#number).op(i32.or);
    w.end();
    w.mem(i32.store, ARENA.pages + PAGE_RECORD.link);
    w.end();
  }

  // ---- the walk ------------------------------------------------------------------------------------------------

  /** Leaves the access to TypeScript unless `phys` lies in plain RAM. */
  #failUnlessPlain(): void {
    const w = this.#w;
    w.get(this.#phys);
    this.#state(MMU.lowRamEnd).op(i32.lt_u);
    w.get(this.#phys).i32Const(0x100000).op(i32.sub);
    this.#state(MMU.highRamSize).op(i32.lt_u).op(i32.or).op(i32.eqz);
    this.#failIf();
  }

  /** PageWalker.walk up to its checks of rights: `done` goes on with what the locals hold. */
  #walk(done: () => void): void {
    const w = this.#w;
    for (const upper of this.#upper) w.i32Const(-1).set(upper);
    this.#state(CTL.a20Mask).set(this.#a20);
    this.#state(CR0).i32Const(CR0_PG).op(i32.and).tee(this.#paged).op(i32.eqz).if();
    w.get(this.#lo).get(this.#a20).op(i32.and).set(this.#phys);
    w.i32Const(ENTRY.RW | ENTRY.US).set(this.#rights);
    w.i32Const(ENTRY.A | ENTRY.D).set(this.#leaf);
    w.i32Const(12).set(this.#shift);
    done();
    w.end();
    this.#state(CR4).tee(this.#cr4).i32Const(CR4_PAE).op(i32.and).op(i32.eqz).if();
    this.#walk32(done);
    w.end();
    this.#walk64(done);
  }

  /** Puts the physical address of a table's entry into `phys`, its arena address into `at` and pushes its low half. */
  #entryAt(at: number, table: () => void, index: () => void): CodeWriter {
    const w = this.#w;
    table();
    w.i32Const(~0xfff).op(i32.and);
    index();
    w.op(i32.or).get(this.#a20).op(i32.and).set(this.#phys);
    this.#failUnlessPlain();
    return w.get(this.#phys).i32Const(ARENA.ram).op(i32.add).tee(at).mem(i32.load);
  }

  #failUnlessPresent(entry: number): void {
    this.#masked(entry, ENTRY.P).op(i32.eqz);
    this.#failIf();
  }

  /** Takes the entry in `leaf` as what maps the page. */
  #mapped(shift: number): void {
    const w = this.#w;
    const inPage = 2 ** shift - 1;
    this.#masked(this.#leaf, ~inPage);
    this.#masked(this.#lo, inPage).op(i32.or).get(this.#a20).op(i32.and).set(this.#phys);
    w.i32Const(shift).set(this.#shift);
  }

  #walk32(done: () => void): void {
    const w = this.#w;
    const at = this.#upperAt[0]!;
    const entry = this.#upper[0]!;
    const index = (shift: number) => (): void => {
      w.get(this.#lo)
        .i32Const(shift - 2)
        .op(i32.shr_u)
        .i32Const(0xffc)
        .op(i32.and);
    };
    this.#entryAt(at, () => this.#state(CR3), index(22)).set(entry);
    this.#failUnlessPresent(entry);
    this.#has(entry, ENTRY.PS);
    this.#has(this.#cr4, CR4_PSE).op(i32.and).if();
    // Bits 20..13 are address bits 39..32, bit 21 is reserved.
    this.#masked(entry, 0x3fe000);
    this.#failIf();
    w.get(entry).tee(this.#leaf).set(this.#rights);
    w.get(at).set(this.#leafAt);
    w.i32Const(-1).set(entry);
    w.i32Const(0).set(at);
    this.#mapped(22);
    done();
    w.end();
    this.#entryAt(this.#leafAt, () => w.get(entry), index(12)).set(this.#leaf);
    this.#failUnlessPresent(this.#leaf);
    w.get(entry).get(this.#leaf).op(i32.and).set(this.#rights);
    this.#mapped(12);
    done();
  }

  #walk64(done: () => void): void {
    const w = this.#w;
    const efer = this.#number;
    w.i32Const(-1).set(this.#rights);
    this.#state(EFER).set(efer);
    this.#has(efer, EFER_LMA).if();
    w.i32Const(0xfffff).set(this.#reservedHigh);
    this.#state(CR3).set(this.#tableLow);
    this.#state(CR3 + 4)
      .i32Const(ADDRESS_HIGH)
      .op(i32.and);
    this.#failIf();
    this.#reservedUnlessNxe(efer);
    this.#level(39, 0, done);
    this.#level(30, 1, done);
    w.else();
    w.i32Const(0x7fffffff).set(this.#reservedHigh);
    this.#reservedUnlessNxe(efer);
    const pdpte = this.#flags;
    w.get(this.#lo).i32Const(30).op(i32.shr_u).i32Const(3).op(i32.shl).tee(pdpte);
    w.mem(i32.load, PDPTE).set(this.#tableLow);
    this.#failUnlessPresent(this.#tableLow);
    w.get(pdpte)
      .mem(i32.load, PDPTE + 4)
      .i32Const(ADDRESS_HIGH)
      .op(i32.and);
    this.#failIf();
    w.end();
    this.#level(21, 2, done);
    this.#level(12, -1, done);
  }

  /** XD is reserved while it is not enabled. Address bits above 31 lead nowhere near plain RAM: they count as reserved. */
  #reservedUnlessNxe(efer: number): void {
    const w = this.#w;
    w.get(this.#reservedHigh);
    w.i32Const(0).i32Const(0x80000000 | 0);
    this.#has(efer, EFER_NXE).select();
    w.op(i32.or).set(this.#reservedHigh);
  }

  /** One level of PAE and 4-level paging. `upper`: which of the upper entries it is when it leads to another table. */
  #level(shift: 39 | 30 | 21 | 12, upper: number, done: () => void): void {
    const w = this.#w;
    const at = upper < 0 ? this.#leafAt : this.#upperAt[upper]!;
    this.#entryAt(
      at,
      () => w.get(this.#tableLow),
      () => {
        if (shift === 39) w.get(this.#hi).i32Const(4).op(i32.shr_u);
        else if (shift === 30) {
          w.get(this.#hi).i32Const(5).op(i32.shl);
          w.get(this.#lo).i32Const(27).op(i32.shr_u).op(i32.or);
        } else
          w.get(this.#lo)
            .i32Const(shift - 3)
            .op(i32.shr_u);
        w.i32Const(0xff8).op(i32.and);
      },
    ).set(this.#tableLow);
    this.#failUnlessPresent(this.#tableLow);
    w.get(at).mem(i32.load, 4).tee(this.#tableHigh).get(this.#reservedHigh).op(i32.and);
    this.#failIf();
    w.get(this.#rights).get(this.#tableLow).op(i32.and).set(this.#rights);
    w.get(this.#noExecute).get(this.#tableHigh).op(i32.or).set(this.#noExecute);
    if (shift === 39) {
      this.#masked(this.#tableLow, ENTRY.PS);
      this.#failIf();
    }
    if (shift === 30 || shift === 21) {
      this.#masked(this.#tableLow, ENTRY.PS).if();
      this.#masked(this.#tableLow, shift === 30 ? 0x3fffe000 : 0x1fe000);
      this.#failIf();
      w.get(this.#tableLow).set(this.#leaf);
      w.get(at).set(this.#leafAt);
      w.i32Const(0).set(at);
      this.#mapped(shift);
      done();
      w.end();
    }
    if (upper < 0) {
      w.get(this.#tableLow).set(this.#leaf);
      this.#mapped(12);
    } else {
      w.get(this.#tableLow).set(this.#upper[upper]!);
    }
  }

  // ---- what it leads to ----------------------------------------------------------------------------------------

  /** PageWalker.allows for each kind of access; leaves a page fault to TypeScript. */
  #permissions(): void {
    const w = this.#w;
    const user = this.#number;
    w.get(this.#bank).i32Const(TLB.bankSupervisorSmap).op(i32.ne);
    w.get(this.#bank).i32Const(TLB.bankSupervisor).op(i32.ne).op(i32.and).set(this.#userBank);
    this.#has(this.#rights, ENTRY.US).set(user);
    this.#has(this.#rights, ENTRY.RW).set(this.#writable);
    w.get(this.#noExecute).i32Const(0).op(i32.ge_s).set(this.#executable);
    w.get(this.#userBank).if();
    w.get(user).set(this.#readable);
    w.get(this.#executable).get(user).op(i32.and).set(this.#executable);
    w.else();
    // SMAP and SMEP have no say without paging.
    w.get(user).get(this.#paged).i32Const(0).op(i32.ne).op(i32.and).set(user);
    w.get(user).get(this.#bank).i32Const(TLB.bankSupervisorSmap).op(i32.eq).op(i32.and).op(i32.eqz);
    w.set(this.#readable);
    this.#state(CR0).i32Const(CR0_WP).op(i32.and).op(i32.eqz).get(this.#writable).op(i32.or);
    w.set(this.#writable);
    w.get(this.#executable)
      .get(user)
      .op(i32.eqz)
      .get(this.#cr4)
      .i32Const(CR4_SMEP)
      .op(i32.and)
      .op(i32.eqz)
      .op(i32.or)
      .op(i32.and);
    w.set(this.#executable);
    w.end();
    w.get(this.#writable).get(this.#readable).op(i32.and).set(this.#writable);
    w.get(this.#executable);
    w.get(this.#writable).get(this.#readable).get(this.#write).select();
    w.get(this.#execute).select().op(i32.eqz);
    this.#failIf();
  }

  /** The tables must be traced for the current address space already, each in its role: see AddressSpaces.trace. */
  #checkTraces(): void {
    const w = this.#w;
    const flags = this.#known;
    const place = this.#other;
    w.get(this.#userBank);
    this.#state(MMU.space).i32Const(0).op(i32.ne).op(i32.and).if();
    // What a table of 4 KiB pages maps: 2 MiB, or 4 MiB with entries of 4 bytes.
    w.get(this.#hi)
      .i32Const(32 - 21)
      .op(i32.shl)
      .get(this.#lo)
      .i32Const(21)
      .op(i32.shr_u)
      .op(i32.or);
    w.i32Const(-1).i32Const(~1);
    this.#masked(this.#cr4, CR4_PAE).select().op(i32.and).set(place);
    for (const at of [...this.#upperAt, this.#leafAt]) {
      w.get(at).if();
      pushRecord(w, at);
      w.tee(this.#record)
        .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
        .set(flags);
      w.get(this.#record).mem(i32.load16_u, ARENA.pages + PAGE_RECORD.spaces);
      this.#state(MMU.space).op(i32.and).op(i32.eqz);
      this.#masked(flags, PAGE_FLAG.table).op(i32.eqz).op(i32.or);
      this.#failIf();
      this.#masked(flags, PAGE_FLAG.leaf32 | PAGE_FLAG.leaf64);
      if (at === this.#leafAt) {
        w.if();
        w.get(this.#record)
          .mem(i32.load, ARENA.pages + PAGE_RECORD.link)
          .get(place)
          .op(i32.ne);
        w.get(this.#shift).i32Const(12).op(i32.ne).op(i32.or);
        this.#failIf();
        w.end();
      } else {
        this.#failIf();
      }
      w.get(this.#record)
        .i32Const(0)
        .mem(i32.store8, ARENA.pages + PAGE_RECORD.writes);
      w.end();
    }
    w.end();
  }

  /** The page must be plain RAM. */
  #target(): void {
    const w = this.#w;
    this.#failUnlessPlain();
    w.get(this.#phys).i32Const(ARENA.ram).op(i32.add).set(this.#arena);
  }

  /** Sets the accessed and dirty flags that are missing, unless a table with one holds code. */
  #setAccessed(): void {
    const w = this.#w;
    const tables = [...this.#upperAt, this.#leafAt];
    w.i32Const(ENTRY.A)
      .get(this.#write)
      .i32Const(Math.log2(ENTRY.D))
      .op(i32.shl)
      .op(i32.or)
      .set(this.#wanted);
    this.#upper.forEach((upper, i) => {
      w.get(upper);
      if (i > 0) w.op(i32.and);
    });
    w.i32Const(ENTRY.A).op(i32.and).op(i32.eqz);
    w.get(this.#leaf).get(this.#wanted).op(i32.and).get(this.#wanted).op(i32.ne).op(i32.or).if();
    tables.forEach((at, i) => {
      pushRecord(w, at);
      w.mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags);
      if (i > 0) w.op(i32.or);
    });
    w.i32Const(PAGE_FLAG.code).op(i32.and);
    this.#failIf();
    this.#upper.forEach((upper, i) => {
      this.#masked(upper, ENTRY.A).op(i32.eqz).if();
      w.get(this.#upperAt[i]!).get(upper).i32Const(ENTRY.A).op(i32.or).mem(i32.store);
      w.end();
    });
    w.get(this.#leaf).get(this.#wanted).op(i32.or).tee(this.#tableLow).get(this.#leaf).op(i32.ne).if();
    w.get(this.#leafAt).get(this.#tableLow).tee(this.#leaf).mem(i32.store);
    w.end();
    w.end();
    w.get(this.#writable);
    this.#has(this.#leaf, ENTRY.D).op(i32.and).set(this.#writable);
  }

  /** Tlb.put, and the end. */
  #fill(): void {
    const w = this.#w;
    this.#has(this.#leaf, ENTRY.G);
    this.#has(this.#cr4, CR4_PGE).op(i32.and).set(this.#global);
    this.#putInList();
    this.#markLargePart();
    count(w, MMU.fills);

    pushRecord(w, this.#arena);
    w.tee(this.#record)
      .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
      .i32Const(0)
      .op(i32.ne)
      .set(this.#watched);
    w.get(this.#entry).get(this.#flags).get(this.#global).op(i32.or);
    w.get(this.#watched).get(this.#writable).op(i32.and);
    w.i32Const(Math.log2(TLB_FLAG.traced)).op(i32.shl).op(i32.or);
    w.get(this.#shift).i32Const(TLB_FLAG.sizeShift).op(i32.shl).op(i32.or);
    w.mem(i32.store, TLB.flags);
    w.get(this.#writable).get(this.#watched).op(i32.eqz).op(i32.and).tee(this.#writable).if();
    this.#noteWriter();
    w.end();

    w.get(this.#low).op(i64.extend_i32_u).get(this.#hi).op(i64.extend_i32_u);
    w.i64Const(32n).op(i64.shl).op(i64.or).set(this.#page);
    const tag = (offset: number, allowed: number): void => {
      w.get(this.#entry).get(this.#page).i64Const(-1n).get(allowed).select().mem(i64.store, offset);
    };
    tag(TLB.readTag, this.#readable);
    tag(TLB.writeTag, this.#writable);
    tag(TLB.execTag, this.#executable);
    w.get(this.#entry).get(this.#arena).get(this.#lo).op(i32.sub).mem(i32.store, TLB.addend);

    w.get(this.#write).get(this.#watched).op(i32.and).if();
    this.#returnIfUntraced();
    w.end();
    w.get(this.#arena).return();
  }

  /** Tlb.#list; leaves the entry's list flags in `flags`. */
  #putInList(): void {
    const w = this.#w;
    const flag = this.#number;
    const list = this.#tableLow;
    const length = this.#tableHigh;
    w.i32Const(TLB_FLAG.listed).i32Const(TLB_FLAG.listedGlobal).get(this.#global).op(i32.eqz).select();
    w.set(flag);
    w.get(this.#entry)
      .mem(i32.load, TLB.flags)
      .i32Const(TLB_FLAG.listed | TLB_FLAG.listedGlobal)
      .op(i32.and);
    w.tee(this.#flags).get(flag).op(i32.and).op(i32.eqz).if();
    w.get(this.#flags).get(flag).op(i32.or).set(this.#flags);
    // Two lists for each bank: global entries, others.
    w.get(this.#bank).i32Const(TLB.base).op(i32.sub);
    w.i32Const(Math.log2(TLB.bankSize / 2)).op(i32.shr_u);
    w.get(this.#global).op(i32.eqz).op(i32.or).tee(list);
    w.i32Const(2).op(i32.shl).mem(i32.load, MMU.listLengths).set(length);
    w.get(list).i32Const(Math.log2(MMU.listSize)).op(i32.shl);
    w.get(length).i32Const(1).op(i32.shl).op(i32.add);
    w.get(this.#entry).get(this.#bank).op(i32.sub);
    w.i32Const(Math.log2(TLB.entrySize)).op(i32.shr_u).mem(i32.store16, MMU.lists);
    w.get(list).i32Const(2).op(i32.shl);
    w.get(length).i32Const(1).op(i32.add).mem(i32.store, MMU.listLengths);
    w.end();
  }

  /** Sets the byte that says that there may be parts of this large page. */
  #markLargePart(): void {
    const w = this.#w;
    w.get(this.#shift).i32Const(12).op(i32.ne).if();
    w.get(this.#lo).op(i64.extend_i32_u).get(this.#hi).op(i64.extend_i32_u);
    w.i64Const(32n).op(i64.shl).op(i64.or).get(this.#shift).op(i64.extend_i32_u).op(i64.shr_u);
    w.op(i32.wrap_i64).i32Const(1023).op(i32.and);
    // Classes 2 MiB, 4 MiB, 1 GiB.
    for (const [index, shift] of LARGE_SHIFTS.entries()) {
      if (index === 0) continue;
      w.get(this.#shift).i32Const(shift).op(i32.eq);
      w.i32Const(index * 1024)
        .op(i32.mul)
        .op(i32.add);
    }
    w.i32Const(1).mem(i32.store8, MMU.largeParts);
    w.end();
  }
}
