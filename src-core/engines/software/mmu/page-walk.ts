import { ARENA } from '../../../machine/arena.ts';
import { I32, i32 } from '../../../wasm/opcodes.ts';
import { CodeWriter } from '../../../wasm/writer.ts';
import { CR0_PG, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NXE } from '../../../x86/bits.ts';
import { CR0, CR3, CR4, CTL, EFER, MMU } from '../../../x86/layout.ts';
import { ADDRESS_HIGH, ENTRY, PDPTE } from '../../../x86/paging.ts';

/**
 * Emits the page walk (Intel SDM volume 3, chapter 4), for page tables in plain RAM: what PageWalker does up to its
 * checks of rights. Anything else, and every fault, branches to where `fail` says. The results stand in wasm locals.
 */
export class PageWalkEmitter {
  protected readonly w = new CodeWriter(3);
  /** Parameters of the function: the halves of the linear address. */
  protected readonly lo = 0;
  protected readonly hi = 1;
  /** CR0.PG as it stands in CR0; CR4 while it is set. */
  protected readonly paged = this.local();
  protected readonly cr4 = this.local();
  readonly #a20 = this.local();
  /** Arena addresses of the upper entries used, 0 for none, and their low halves, -1 for none. */
  protected readonly upperAt = [this.local(), this.local(), this.local()];
  protected readonly upper = [this.local(), this.local(), this.local()];
  /** The entry that maps the page: its arena address (0 without paging) and low half. */
  protected readonly leafAt = this.local();
  protected readonly leaf = this.local();
  /** R/W and U/S of all entries, and the sign of noExecute says XD. */
  protected readonly rights = this.local();
  protected readonly noExecute = this.local();
  /** Log2 of the page's size. */
  protected readonly shift = this.local();
  /** The physical address. */
  protected readonly phys = this.local();
  readonly #tableLow = this.local();
  readonly #tableHigh = this.local();
  readonly #reservedHigh = this.local();
  readonly #efer = this.local();
  readonly #pdpte = this.local();
  /** Depth of the block whose end leaves the access to TypeScript. */
  protected fail = 0;

  protected local(): number {
    return this.w.local(I32);
  }

  /** Leaves the access to TypeScript when the condition on the stack holds. */
  protected failIf(): void {
    this.w.brIf(this.w.depth - this.fail);
  }

  protected state(offset: number): CodeWriter {
    return this.w.i32Const(0).mem(i32.load, offset);
  }

  /** Pushes local & mask. */
  protected masked(local: number, mask: number): CodeWriter {
    return this.w.get(local).i32Const(mask).op(i32.and);
  }

  /** Pushes 1 when local & mask is not 0. */
  protected has(local: number, mask: number): CodeWriter {
    return this.masked(local, mask).i32Const(0).op(i32.ne);
  }

  /** Leaves the access to TypeScript unless `phys` lies in plain RAM. */
  protected failUnlessPlain(): void {
    const w = this.w;
    w.get(this.phys);
    this.state(MMU.lowRamEnd).op(i32.lt_u);
    w.get(this.phys).i32Const(0x100000).op(i32.sub);
    this.state(MMU.highRamSize).op(i32.lt_u).op(i32.or).op(i32.eqz);
    this.failIf();
  }

  /** PageWalker.walk up to its checks of rights: `done` goes on with what the locals hold. */
  protected walk(done: () => void): void {
    const w = this.w;
    for (const upper of this.upper) w.i32Const(-1).set(upper);
    this.state(CTL.a20Mask).set(this.#a20);
    this.state(CR0).i32Const(CR0_PG).op(i32.and).tee(this.paged).op(i32.eqz).if();
    w.get(this.lo).get(this.#a20).op(i32.and).set(this.phys);
    w.i32Const(ENTRY.RW | ENTRY.US).set(this.rights);
    w.i32Const(ENTRY.A | ENTRY.D).set(this.leaf);
    w.i32Const(12).set(this.shift);
    done();
    w.end();
    this.state(CR4).tee(this.cr4).i32Const(CR4_PAE).op(i32.and).op(i32.eqz).if();
    this.#walk32(done);
    w.end();
    this.#walk64(done);
  }

  /** Puts the physical address of a table's entry into `phys`, its arena address into `at` and pushes its low half. */
  #entryAt(at: number, table: () => void, index: () => void): CodeWriter {
    const w = this.w;
    table();
    w.i32Const(~0xfff).op(i32.and);
    index();
    w.op(i32.or).get(this.#a20).op(i32.and).set(this.phys);
    this.failUnlessPlain();
    return w.get(this.phys).i32Const(ARENA.ram).op(i32.add).tee(at).mem(i32.load);
  }

  #failUnlessPresent(entry: number): void {
    this.masked(entry, ENTRY.P).op(i32.eqz);
    this.failIf();
  }

  /** Takes the entry in `leaf` as what maps the page. */
  #mapped(shift: number): void {
    const w = this.w;
    const inPage = 2 ** shift - 1;
    this.masked(this.leaf, ~inPage);
    this.masked(this.lo, inPage).op(i32.or).get(this.#a20).op(i32.and).set(this.phys);
    w.i32Const(shift).set(this.shift);
  }

  #walk32(done: () => void): void {
    const w = this.w;
    const at = this.upperAt[0]!;
    const entry = this.upper[0]!;
    const index = (shift: number) => (): void => {
      w.get(this.lo)
        .i32Const(shift - 2)
        .op(i32.shr_u)
        .i32Const(0xffc)
        .op(i32.and);
    };
    this.#entryAt(at, () => this.state(CR3), index(22)).set(entry);
    this.#failUnlessPresent(entry);
    this.has(entry, ENTRY.PS);
    this.has(this.cr4, CR4_PSE).op(i32.and).if();
    // Bits 20..13 are address bits 39..32, bit 21 is reserved.
    this.masked(entry, 0x3fe000);
    this.failIf();
    w.get(entry).tee(this.leaf).set(this.rights);
    w.get(at).set(this.leafAt);
    w.i32Const(-1).set(entry);
    w.i32Const(0).set(at);
    this.#mapped(22);
    done();
    w.end();
    this.#entryAt(this.leafAt, () => w.get(entry), index(12)).set(this.leaf);
    this.#failUnlessPresent(this.leaf);
    w.get(entry).get(this.leaf).op(i32.and).set(this.rights);
    this.#mapped(12);
    done();
  }

  #walk64(done: () => void): void {
    const w = this.w;
    const efer = this.#efer;
    w.i32Const(-1).set(this.rights);
    this.state(EFER).set(efer);
    this.has(efer, EFER_LMA).if();
    w.i32Const(0xfffff).set(this.#reservedHigh);
    this.state(CR3).set(this.#tableLow);
    this.state(CR3 + 4)
      .i32Const(ADDRESS_HIGH)
      .op(i32.and);
    this.failIf();
    this.#reservedUnlessNxe(efer);
    this.#level(39, 0, done);
    this.#level(30, 1, done);
    w.else();
    w.i32Const(0x7fffffff).set(this.#reservedHigh);
    this.#reservedUnlessNxe(efer);
    const pdpte = this.#pdpte;
    w.get(this.lo).i32Const(30).op(i32.shr_u).i32Const(3).op(i32.shl).tee(pdpte);
    w.mem(i32.load, PDPTE).set(this.#tableLow);
    this.#failUnlessPresent(this.#tableLow);
    w.get(pdpte)
      .mem(i32.load, PDPTE + 4)
      .i32Const(ADDRESS_HIGH)
      .op(i32.and);
    this.failIf();
    w.end();
    this.#level(21, 2, done);
    this.#level(12, -1, done);
  }

  /** XD is reserved while it is not enabled. Address bits above 31 lead nowhere near plain RAM: they count as reserved. */
  #reservedUnlessNxe(efer: number): void {
    const w = this.w;
    w.get(this.#reservedHigh);
    w.i32Const(0).i32Const(0x80000000 | 0);
    this.has(efer, EFER_NXE).select();
    w.op(i32.or).set(this.#reservedHigh);
  }

  /** One level of PAE and 4-level paging. `upper`: which of the upper entries it is when it leads to another table. */
  #level(shift: 39 | 30 | 21 | 12, upper: number, done: () => void): void {
    const w = this.w;
    const at = upper < 0 ? this.leafAt : this.upperAt[upper]!;
    this.#entryAt(
      at,
      () => w.get(this.#tableLow),
      () => {
        if (shift === 39) w.get(this.hi).i32Const(4).op(i32.shr_u);
        else if (shift === 30) {
          w.get(this.hi).i32Const(5).op(i32.shl);
          w.get(this.lo).i32Const(27).op(i32.shr_u).op(i32.or);
        } else
          w.get(this.lo)
            .i32Const(shift - 3)
            .op(i32.shr_u);
        w.i32Const(0xff8).op(i32.and);
      },
    ).set(this.#tableLow);
    this.#failUnlessPresent(this.#tableLow);
    w.get(at).mem(i32.load, 4).tee(this.#tableHigh).get(this.#reservedHigh).op(i32.and);
    this.failIf();
    w.get(this.rights).get(this.#tableLow).op(i32.and).set(this.rights);
    w.get(this.noExecute).get(this.#tableHigh).op(i32.or).set(this.noExecute);
    if (shift === 39) {
      this.masked(this.#tableLow, ENTRY.PS);
      this.failIf();
    }
    if (shift === 30 || shift === 21) {
      this.masked(this.#tableLow, ENTRY.PS).if();
      this.masked(this.#tableLow, shift === 30 ? 0x3fffe000 : 0x1fe000);
      this.failIf();
      w.get(this.#tableLow).set(this.leaf);
      w.get(at).set(this.leafAt);
      w.i32Const(0).set(at);
      this.#mapped(shift);
      done();
      w.end();
    }
    if (upper < 0) {
      w.get(this.#tableLow).set(this.leaf);
      this.#mapped(12);
    } else {
      w.get(this.#tableLow).set(this.upper[upper]!);
    }
  }
}
