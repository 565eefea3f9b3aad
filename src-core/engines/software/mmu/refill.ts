import { ARENA } from '../../../machine/arena.ts';
import { I32, I64, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter, type ModuleWriter } from '../../../wasm/writer.ts';
import { CR0_WP, CR4_PAE, CR4_PGE, CR4_SMEP } from '../../../x86/bits.ts';
import {
  CR0,
  CTL,
  MMU,
  PAGE_FLAG,
  PAGE_RECORD,
  PAGE_WRITERS_MORE,
  TLB,
  TLB_FLAG,
} from '../../../x86/layout.ts';
import { SLOW } from '../../../x86/mmu.ts';
import { ENTRY } from '../../../x86/paging.ts';
import { LARGE_SHIFTS } from '../../../x86/tlb.ts';
import { PageWalkEmitter } from './page-walk.ts';
import { count, emitTracedStore, pushRecord } from './traced-store.ts';

/** Function indices of what `emitRefill` defines. */
export interface RefillFunctions {
  /**
   * `refill(lo, hi, info)`: what to do when the TLB does not serve an access to the linear address `hi:lo`. `info`: the
   * size in bytes and SLOW's bits; writeIntent for a store too.
   * Returns the arena address of an access that may be done there now, once; 0 when TypeScript must do it. The entry
   * is filled where that can be, so that the next access hits. An arena address may be 2 GiB and more: negative.
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
 * (A store that hits translated code or a page table entry in use is TypeScript's with the entry filled.)
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

/** The body of `refill`: the walk, and what it leads to in memory and in the TLB. */
class Refill extends PageWalkEmitter {
  readonly #tracedStore: number;
  readonly #info = 2;
  /** Linear address of the page, low half. */
  readonly #low = this.local();
  readonly #bank = this.local();
  readonly #entry = this.local();
  readonly #write = this.local();
  readonly #execute = this.local();
  readonly #userBank = this.local();
  readonly #readable = this.local();
  readonly #writable = this.local();
  readonly #executable = this.local();
  readonly #wanted = this.local();
  readonly #arena = this.local();
  readonly #record = this.local();
  readonly #flags = this.local();
  readonly #global = this.local();
  readonly #watched = this.local();
  readonly #known = this.local();
  readonly #number = this.local();
  /** Another TLB entry. */
  readonly #other = this.local();
  /** Linear address of the page. */
  readonly #page = this.w.local(I64);

  constructor(tracedStore: number) {
    super();
    this.#tracedStore = tracedStore;
  }

  emit(): CodeWriter {
    const w = this.w;
    w.block();
    this.fail = w.depth;
    this.#checkAccess();
    this.#tryTraced();
    w.block();
    const walked = w.depth;
    this.walk(() => w.br(w.depth - walked));
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

  /** What is not an access within a page to a canonical address with nothing to watch. */
  #checkAccess(): void {
    const w = this.w;
    this.masked(this.lo, 0xfff);
    this.masked(this.#info, SLOW.sizeMask).op(i32.add).i32Const(0x1000).op(i32.gt_u);
    this.failIf();
    this.has(this.#info, SLOW.aligned16);
    this.has(this.lo, 15).op(i32.and);
    this.failIf();
    w.get(this.hi).i32Const(0x8000).op(i32.add).i32Const(0xffff).op(i32.gt_u);
    this.failIf();
    this.state(MMU.watching);
    this.failIf();
    this.masked(this.lo, ~0xfff).set(this.#low);
    this.has(this.#info, SLOW.writeIntent).set(this.#write);
    this.has(this.#info, SLOW.execute).set(this.#execute);
    this.state(CTL.tlbBank).tee(this.#bank);
    w.get(this.lo)
      .i32Const(12 - Math.log2(TLB.entrySize))
      .op(i32.shr_u)
      .i32Const((TLB.entries - 1) * TLB.entrySize)
      .op(i32.and);
    w.op(i32.add).set(this.#entry);
  }

  /** A store through an entry that is there but for the watch on its page. */
  #tryTraced(): void {
    const w = this.w;
    w.get(this.#write);
    w.get(this.#entry).mem(i32.load, TLB.flags).i32Const(TLB_FLAG.traced).op(i32.and);
    // The flag's bit 1 comes down to the truth value's bit 0.
    w.i32Const(1).op(i32.shr_u).op(i32.and);
    w.get(this.#entry).mem(i32.load, TLB.readTag).get(this.#low).op(i32.eq).op(i32.and);
    w.get(this.#entry)
      .mem(i32.load, TLB.readTag + 4)
      .get(this.hi)
      .op(i32.eq)
      .op(i32.and);
    w.if();
    w.get(this.lo).get(this.#entry).mem(i32.load, TLB.addend).op(i32.add).set(this.#arena);
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
    const w = this.w;
    w.get(this.#arena).i32Const(0);
    w.get(this.#arena);
    this.masked(this.#info, SLOW.sizeMask).call(this.#tracedStore);
    w.select().return();
  }

  /** Tlb.#noteWriter, for `entry`, `arena` and `record`. */
  #noteWriter(): void {
    const w = this.w;
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
    this.masked(this.#known, PAGE_WRITERS_MORE | 0);
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

  // ---- what it leads to ----------------------------------------------------------------------------------------

  /** PageWalker.allows for each kind of access; leaves a page fault to TypeScript. */
  #permissions(): void {
    const w = this.w;
    const user = this.#number;
    w.get(this.#bank).i32Const(TLB.bankSupervisorSmap).op(i32.ne);
    w.get(this.#bank).i32Const(TLB.bankSupervisor).op(i32.ne).op(i32.and).set(this.#userBank);
    this.has(this.rights, ENTRY.US).set(user);
    this.has(this.rights, ENTRY.RW).set(this.#writable);
    w.get(this.noExecute).i32Const(0).op(i32.ge_s).set(this.#executable);
    w.get(this.#userBank).if();
    w.get(user).set(this.#readable);
    w.get(this.#executable).get(user).op(i32.and).set(this.#executable);
    w.else();
    // SMAP and SMEP have no say without paging.
    w.get(user).get(this.paged).i32Const(0).op(i32.ne).op(i32.and).set(user);
    w.get(user).get(this.#bank).i32Const(TLB.bankSupervisorSmap).op(i32.eq).op(i32.and).op(i32.eqz);
    w.set(this.#readable);
    this.state(CR0).i32Const(CR0_WP).op(i32.and).op(i32.eqz).get(this.#writable).op(i32.or);
    w.set(this.#writable);
    w.get(this.#executable)
      .get(user)
      .op(i32.eqz)
      .get(this.cr4)
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
    this.failIf();
  }

  /** The tables must be traced for the current address space already, each in its role: see AddressSpaces.trace. */
  #checkTraces(): void {
    const w = this.w;
    const flags = this.#known;
    const place = this.#other;
    w.get(this.#userBank);
    this.state(MMU.space).i32Const(0).op(i32.ne).op(i32.and).if();
    // What a table of 4 KiB pages maps: 2 MiB, or 4 MiB with entries of 4 bytes.
    w.get(this.hi)
      .i32Const(32 - 21)
      .op(i32.shl)
      .get(this.lo)
      .i32Const(21)
      .op(i32.shr_u)
      .op(i32.or);
    w.i32Const(-1).i32Const(~1);
    this.masked(this.cr4, CR4_PAE).select().op(i32.and).set(place);
    for (const at of [...this.upperAt, this.leafAt]) {
      w.get(at).if();
      pushRecord(w, at);
      w.tee(this.#record)
        .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
        .set(flags);
      w.get(this.#record).mem(i32.load16_u, ARENA.pages + PAGE_RECORD.spaces);
      this.state(MMU.space).op(i32.and).op(i32.eqz);
      this.masked(flags, PAGE_FLAG.table).op(i32.eqz).op(i32.or);
      this.failIf();
      this.masked(flags, PAGE_FLAG.leaf32 | PAGE_FLAG.leaf64);
      if (at === this.leafAt) {
        w.if();
        w.get(this.#record)
          .mem(i32.load, ARENA.pages + PAGE_RECORD.link)
          .get(place)
          .op(i32.ne);
        w.get(this.shift).i32Const(12).op(i32.ne).op(i32.or);
        this.failIf();
        w.end();
      } else {
        this.failIf();
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
    const w = this.w;
    this.failUnlessPlain();
    w.get(this.phys).i32Const(ARENA.ram).op(i32.add).set(this.#arena);
  }

  /** Sets the accessed and dirty flags that are missing, unless a table with one holds code. */
  #setAccessed(): void {
    const w = this.w;
    const tables = [...this.upperAt, this.leafAt];
    w.i32Const(ENTRY.A)
      .get(this.#write)
      .i32Const(Math.log2(ENTRY.D))
      .op(i32.shl)
      .op(i32.or)
      .set(this.#wanted);
    this.upper.forEach((upper, i) => {
      w.get(upper);
      if (i > 0) w.op(i32.and);
    });
    w.i32Const(ENTRY.A).op(i32.and).op(i32.eqz);
    w.get(this.leaf).get(this.#wanted).op(i32.and).get(this.#wanted).op(i32.ne).op(i32.or).if();
    tables.forEach((at, i) => {
      pushRecord(w, at);
      w.mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags);
      if (i > 0) w.op(i32.or);
    });
    w.i32Const(PAGE_FLAG.code).op(i32.and);
    this.failIf();
    this.upper.forEach((upper, i) => {
      this.masked(upper, ENTRY.A).op(i32.eqz).if();
      w.get(this.upperAt[i]!).get(upper).i32Const(ENTRY.A).op(i32.or).mem(i32.store);
      w.end();
    });
    w.get(this.leaf).get(this.#wanted).op(i32.or).tee(this.#known).get(this.leaf).op(i32.ne).if();
    w.get(this.leafAt).get(this.#known).tee(this.leaf).mem(i32.store);
    w.end();
    w.end();
    w.get(this.#writable);
    this.has(this.leaf, ENTRY.D).op(i32.and).set(this.#writable);
  }

  /** Tlb.put, and the end. */
  #fill(): void {
    const w = this.w;
    this.has(this.leaf, ENTRY.G);
    this.has(this.cr4, CR4_PGE).op(i32.and).set(this.#global);
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
    w.get(this.shift).i32Const(TLB_FLAG.sizeShift).op(i32.shl).op(i32.or);
    w.mem(i32.store, TLB.flags);
    w.get(this.#writable).get(this.#watched).op(i32.eqz).op(i32.and).tee(this.#writable).if();
    this.#noteWriter();
    w.end();

    w.get(this.#low).op(i64.extend_i32_u).get(this.hi).op(i64.extend_i32_u);
    w.i64Const(32n).op(i64.shl).op(i64.or).set(this.#page);
    const tag = (offset: number, allowed: number): void => {
      w.get(this.#entry).get(this.#page).i64Const(-1n).get(allowed).select().mem(i64.store, offset);
    };
    tag(TLB.readTag, this.#readable);
    tag(TLB.writeTag, this.#writable);
    tag(TLB.execTag, this.#executable);
    w.get(this.#entry).get(this.#arena).get(this.lo).op(i32.sub).mem(i32.store, TLB.addend);

    w.get(this.#write).get(this.#watched).op(i32.and).if();
    this.#returnIfUntraced();
    w.end();
    w.get(this.#arena).return();
  }

  /** Tlb.#list; leaves the entry's list flags in `flags`. */
  #putInList(): void {
    const w = this.w;
    const flag = this.#number;
    const list = this.#known;
    const length = this.#other;
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
    const w = this.w;
    w.get(this.shift).i32Const(12).op(i32.ne).if();
    w.get(this.lo).op(i64.extend_i32_u).get(this.hi).op(i64.extend_i32_u);
    w.i64Const(32n).op(i64.shl).op(i64.or).get(this.shift).op(i64.extend_i32_u).op(i64.shr_u);
    w.op(i32.wrap_i64).i32Const(1023).op(i32.and);
    // Classes 2 MiB, 4 MiB, 1 GiB.
    for (const [index, shift] of LARGE_SHIFTS.entries()) {
      if (index === 0) continue;
      w.get(this.shift).i32Const(shift).op(i32.eq);
      w.i32Const(index * 1024)
        .op(i32.mul)
        .op(i32.add);
    }
    w.i32Const(1).mem(i32.store8, MMU.largeParts);
    w.end();
  }
}
