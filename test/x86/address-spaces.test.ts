import { beforeEach, describe, expect, it } from 'vitest';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PSE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
} from '../../src-core/x86/bits.ts';
import { TABLE_STORES_MAX } from '../../src-core/x86/address-spaces.ts';
import type { Cpu } from '../../src-core/x86/cpu.ts';
import { CR0, CR3, CR4, CTL, EFER, TLB } from '../../src-core/x86/layout.ts';
import { SLOW } from '../../src-core/x86/mmu.ts';
import { makeRefillVcpu, type RefillVcpu } from './refill-vcpu.ts';
import { faultOf, makeVcpu, random } from './vcpu.ts';

const MEMORY_MIB = 4;

/** MOV to CR3. */
function load(cpu: Cpu, root: number): void {
  cpu.set64(CR3, BigInt(root));
  if ((cpu.cr4 & CR4_PAE) !== 0 && !cpu.longMode && !cpu.mmu.loadPdptes()) throw new Error('bad PDPTEs');
  cpu.mmu.rootChanged();
}

/** An access at CPL 3 as wasm code does it: TLB, refill, slow path. The value read, or the page fault's error code. */
function access(
  v: RefillVcpu,
  lin: number,
  write: boolean,
  value: number,
): { value: number } | { code: number } {
  const { cpu } = v;
  const bank = cpu.get32(CTL.tlbBank);
  const entry = bank + (Math.floor(lin / 0x1000) & (TLB.entries - 1)) * TLB.entrySize;
  const tag = BigInt.asIntN(64, cpu.get64(entry + (write ? TLB.writeTag : TLB.readTag)));
  const [lo, hi] = [Number(BigInt.asIntN(32, BigInt(lin))), Math.floor(lin / 2 ** 32)];
  const hit = tag === BigInt(lin) - (BigInt(lin) & 0xfffn);
  const arena = hit
    ? (lin + cpu.get32(entry + TLB.addend)) >>> 0
    : v.refill(lo, hi, 4 | (write ? SLOW.writeIntent : 0)) >>> 0;
  if (arena !== 0) {
    if (write) cpu.set32(arena, value);
    return { value: write ? value : cpu.get32(arena) };
  }
  cpu.set32(CTL.slowValue, value);
  const failed = write ? cpu.mmu.slowStore(lo, hi, 4) : cpu.mmu.slowLoad(lo, hi, 4);
  return failed !== 0 ? { code: cpu.get32(CTL.faultCode) } : { value: cpu.get32(CTL.slowValue) };
}

const kinds = ['32-bit', 'PAE', '4-level'] as const;
/** For each kind of paging: address bits that the entries of a table of each rank translate, from the root down. */
const SHIFTS = { '32-bit': [22, 12], PAE: [30, 21, 12], '4-level': [39, 30, 21, 12] };
/** Tables of each rank, in pages from page 1 on, and how many pages there are in all. */
const TABLES = 6;
const PAGES = 64;

describe('address spaces that are kept', () => {
  it.each(kinds)('never show a translation that CR3 should have made go (%s)', (kind) => {
    const left = makeRefillVcpu(MEMORY_MIB);
    const right = makeVcpu(MEMORY_MIB);
    const both = [left.cpu, right.cpu];
    const { below, next } = random(0xacce55 + kinds.indexOf(kind));
    const chance = (oneIn: number): boolean => below(oneIn) === 0;
    const wide = kind !== '32-bit';
    const shifts = SHIFTS[kind];
    const tables = TABLES * shifts.length;
    let anarchy = false;
    let values = 0;

    /** An entry for a table of this rank: it leads to one of the next, or to a page; in anarchy anywhere. */
    const entry = (rank: number): bigint => {
      let page = 1 + (rank + 1) * TABLES + below(TABLES);
      if (rank === shifts.length - 1)
        page = chance(8) ? 1 + below(tables) : 1 + tables + below(PAGES - tables);
      if (anarchy && chance(3)) page = 1 + below(chance(2) ? tables : PAGES);
      // The root of PAE paging has entries of its own kind, and they must be right.
      if (kind === 'PAE' && rank === 0) return BigInt(page * 0x1000) | (chance(12) ? 0n : 1n);
      let value = BigInt(page * 0x1000) | 7n;
      if (chance(2)) value |= 0x20n;
      if (chance(2)) value |= 0x40n;
      if (chance(12)) value &= ~BigInt(1 << below(3));
      if (wide && chance(16)) value |= 1n << 63n;
      if (rank > 0 && chance(30)) value = (value & 0xfffn) | 0x80n;
      return value;
    };
    const put = (cpu: Cpu, at: number, size: number, value: bigint): void => {
      if (size === 8) cpu.set64(at, value);
      else cpu.set32(at, Number(value & 0xffffffffn));
    };
    /** A store of a kernel, decided in wasm, or of a device. */
    const store = (at: number, size: number, value: bigint): void => {
      const told = chance(10) || left.tracedStore(at, size) === 0;
      for (const cpu of both) put(cpu, at, size, value);
      if (told) left.cpu.mmu.memoryChanged(at, size);
    };
    const memory = ({ arena }: Cpu): Buffer => Buffer.from(arena.buffer, ARENA.ram, (PAGES + 1) * 0x1000);

    for (let round = 0; round < 12; round++) {
      anarchy = round % 3 === 2;
      for (let rank = 0; rank < shifts.length; rank++) {
        const start = ARENA.ram + (1 + rank * TABLES) * 0x1000;
        for (let at = start; at < start + TABLES * 0x1000; at += wide ? 8 : 4) {
          const value = entry(rank);
          for (const cpu of both) put(cpu, at, wide ? 8 : 4, value);
        }
      }
      for (let at = ARENA.ram + (1 + tables) * 0x1000; at < ARENA.ram + (PAGES + 1) * 0x1000; at += 4) {
        for (const cpu of both) cpu.set32(at, at);
      }
      for (const [index, cpu] of both.entries()) {
        cpu.set64(CR0, BigInt((CR0_PE | CR0_PG | CR0_WP) >>> 0));
        cpu.set64(CR4, BigInt(wide ? CR4_PAE : CR4_PSE));
        cpu.set64(EFER, BigInt((kind === '4-level' ? EFER_LME | EFER_LMA : 0) | EFER_NXE));
        cpu.setCpl(3);
        cpu.stateReplaced();
        if (round === 0) cpu.mmu.keepAddressSpaces(index === 0);
      }
      // Few places, each with a few pages, so that spaces have something to be wrong about.
      const places = Array.from({ length: 4 }, () => {
        const at = kind === '4-level' ? (below(0x10000) - 0x8000) * 2 ** 32 + next() : next();
        return at - (at % 0x200000);
      });
      const anywhere = (): number => (places[below(places.length)] ?? 0) + below(6) * 0x1000;
      const enter = (): void => {
        const root = 0x1000 * (1 + below(TABLES));
        // PDPTEs with reserved bits are not for this test.
        if (kind === 'PAE') {
          for (let at = ARENA.ram + root; at < ARENA.ram + root + 32; at += 8) {
            if ((left.cpu.get64(at) & ~0xff001n) !== 0n) store(at, 8, entry(0));
          }
        }
        for (const cpu of both) load(cpu, root);
      };
      enter();
      for (let step = 0; step < 2500; step++) {
        const lin = anywhere() + below(1024) * 4;
        const write = chance(8);
        const value = Number(entry(shifts.length - 1) & 0xffffffffn);
        const seen = access(left, lin, write, value);
        // The reference keeps nothing at all.
        right.cpu.mmu.flush();
        let read = value;
        const fault = faultOf(() => {
          if (write) right.cpu.mmu.write32(lin, value);
          else read = right.cpu.mmu.read32(lin);
        });
        expect(seen).toEqual(fault ? { code: fault[1] } : { value: read });
        if (!fault) values++;
        const stores = chance(10) ? 1 + below(chance(10) ? 80 : 2) : 0;
        for (let i = 0; i < stores; i++) {
          const rank = chance(4) ? below(shifts.length) : shifts.length - 1;
          const index = Math.floor(anywhere() / 2 ** (shifts[rank] ?? 0)) & (wide ? 511 : 1023);
          const at = ARENA.ram + (1 + rank * TABLES + below(TABLES)) * 0x1000 + index * (wide ? 8 : 4);
          if (wide && chance(8)) store(at + 4 * below(2), 4, entry(rank) >> BigInt(32 * below(2)));
          else if (!wide && chance(8)) store(at & ~7, 8, (entry(rank) << 32n) | entry(rank));
          else store(at, wide ? 8 : 4, entry(rank));
        }
        // Any of these may have changed page tables: it is MOV to CR3 that says that it matters.
        if (write || stores > 0 || chance(10)) enter();
        if (step % 50 === 0) expect(memory(left.cpu).equals(memory(right.cpu))).toBe(true);
      }
    }
    expect(values).toBeGreaterThan(5000);
  });

  describe('in 32-bit paging', () => {
    let v: RefillVcpu;
    const set = (phys: number, value: number): void => v.cpu.set32(ARENA.ram + phys, value);
    /** A store of the guest to an entry of a table. */
    const store = (phys: number, value: number): void => {
      const told = v.tracedStore(ARENA.ram + phys, 4) === 0;
      set(phys, value);
      if (told) v.cpu.mmu.memoryChanged(ARENA.ram + phys, 4);
    };
    const read = (lin: number): unknown => access(v, lin, false, 0);
    const fills = (): number => {
      v.cpu.mmu.collectCounts();
      return v.accounting.snapshot().reasons['tlbFill']?.count ?? 0;
    };
    const watched = (phys: number): number => v.cpu.mmu.watched((ARENA.ram + phys) >>> 12);

    /** Address space n: directory at 0x10000 * n, a table behind it, which maps 0x8000 to page 0x10000 * n + 0x8000. */
    beforeEach(() => {
      v = makeRefillVcpu(MEMORY_MIB);
      for (let n = 1; n <= 12; n++) {
        const at = 0x10000 * n;
        set(at, (at + 0x1000) | 7);
        set(at + 0x1000 + 8 * 4, (at + 0x8000) | 7);
        set(at + 0x8000, n);
        set(at + 0x9000, 100 + n);
      }
      v.cpu.set64(CR0, BigInt((CR0_PE | CR0_PG | CR0_WP) >>> 0));
      v.cpu.set64(CR3, 0x10000n);
      v.cpu.set64(CR4, BigInt(CR4_PSE));
      v.cpu.setCpl(3);
      v.cpu.stateReplaced();
      v.cpu.mmu.keepAddressSpaces(true);
    });

    it('come back as they were', () => {
      for (let n = 1; n <= TLB.userBanks; n++) {
        load(v.cpu, 0x10000 * n);
        expect(read(0x8000)).toEqual({ value: n });
      }
      const before = fills();
      for (let n: number = TLB.userBanks; n >= 1; n--) {
        load(v.cpu, 0x10000 * n);
        expect(read(0x8000)).toEqual({ value: n });
      }
      expect(fills()).toBe(before);
    });

    it('give way to others, the least recently used first', () => {
      for (let n = 1; n <= TLB.userBanks + 1; n++) {
        load(v.cpu, 0x10000 * n);
        read(0x8000);
      }
      const before = fills();
      load(v.cpu, 0x20000);
      read(0x8000);
      expect(fills()).toBe(before);
      expect([watched(0x10000), watched(0x11000)]).toEqual([0, 0]);
      load(v.cpu, 0x10000);
      expect(read(0x8000)).toEqual({ value: 1 });
      expect(fills()).toBe(before + 1);
    });

    it('lose what a changed entry mapped, here and elsewhere, and nothing else', () => {
      set(0x11000 + 9 * 4, 0x19007);
      read(0x8000);
      read(0x9000);
      load(v.cpu, 0x20000);
      store(0x11000 + 8 * 4, 0x19007);
      load(v.cpu, 0x10000);
      const before = fills();
      expect(read(0x9000)).toEqual({ value: 101 });
      expect(fills()).toBe(before);
      expect(read(0x8000)).toEqual({ value: 101 });
      store(0x11000 + 8 * 4, 0);
      load(v.cpu, 0x10000);
      expect(read(0x8000)).toEqual({ code: 4 });
    });

    it('lose everything when a directory entry changed', () => {
      read(0x8000);
      store(0x10000, 0x21007);
      expect(watched(0x10000)).toBe(0);
      load(v.cpu, 0x10000);
      expect(read(0x8000)).toEqual({ value: 2 });
    });

    it('let entries be made that were not in use', () => {
      read(0x8000);
      expect(v.tracedStore(ARENA.ram + 0x11000 + 9 * 4, 4)).toBe(1);
      // Not on their way to translations: present, but never accessed.
      set(0x11000 + 9 * 4, 0x19007);
      expect(v.tracedStore(ARENA.ram + 0x11000 + 9 * 4, 4)).toBe(1);
      expect(v.tracedStore(ARENA.ram + 0x11000 + 8 * 4, 4)).toBe(0);
      expect(v.tracedStore(ARENA.ram + 0x11000 + 8 * 4 + 3, 1)).toBe(0);
      expect(v.tracedStore(ARENA.ram + 0x11000 + 7 * 4, 8)).toBe(0);
      v.cpu.mmu.collectCounts();
      expect(v.accounting.snapshot().details['trace']).toEqual({ 'unused page table entry': 2 });
    });

    it('do without the trace of a table that is written again and again', () => {
      read(0x8000);
      let stores = 0;
      while (watched(0x11000) !== 0) {
        store(0x11000 + 64 * 4 + (stores % 64) * 4, 0);
        stores++;
      }
      expect(stores).toBe(TABLE_STORES_MAX + 1);
      // Nobody watches this one.
      set(0x11000 + 8 * 4, 0x19007);
      load(v.cpu, 0x10000);
      expect(read(0x8000)).toEqual({ value: 101 });
      // A translation made from it in between starts the count anew.
      for (stores = 0; stores < 3 * TABLE_STORES_MAX; stores++) {
        store(0x11000 + 64 * 4, 0);
        if (stores % TABLE_STORES_MAX === 0) {
          v.cpu.mmu.invalidatePage(0x8000);
          read(0x8000);
        }
      }
      expect(watched(0x11000)).not.toBe(0);
    });

    it('know a table that stands at two places', () => {
      set(0x10004, 0x11007);
      read(0x8000);
      read(0x408000);
      load(v.cpu, 0x20000);
      store(0x11000 + 8 * 4, 0x19007);
      load(v.cpu, 0x10000);
      expect([read(0x8000), read(0x408000)]).toEqual([{ value: 101 }, { value: 101 }]);
    });

    it('know large pages', () => {
      set(0x10004, 0x000087);
      expect(read(0x418000)).toEqual({ value: 1 });
      load(v.cpu, 0x20000);
      store(0x10004, 0);
      load(v.cpu, 0x10000);
      expect(read(0x418000)).toEqual({ code: 4 });
    });

    it('are flushed with everything else', () => {
      read(0x8000);
      load(v.cpu, 0x20000);
      read(0x8000);
      v.cpu.mmu.flush();
      expect([0x10000, 0x11000, 0x20000, 0x21000].map(watched)).toEqual([0, 0, 0, 0]);
      set(0x11000 + 8 * 4, 0x19007);
      load(v.cpu, 0x10000);
      expect(read(0x8000)).toEqual({ value: 101 });
    });
  });
});
