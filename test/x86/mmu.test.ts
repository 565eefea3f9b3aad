import { beforeEach, describe, expect, it } from 'vitest';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PGE,
  CR4_SMAP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  FLAG_AC,
} from '../../src-core/x86/bits.ts';
import {
  CR0,
  CR3,
  CR4,
  CS,
  CTL,
  DR0,
  DR7,
  EFER,
  FLAGS_SYSTEM,
  RAX,
  SEG_FIELD,
  TLB,
} from '../../src-core/x86/layout.ts';
import { ACCESS, SLOW } from '../../src-core/x86/mmu.ts';
import { faultOf, makeVcpu, type Vcpu } from './vcpu.ts';

const P = 1n;
const W = 2n;
const U = 4n;
const PS = 0x80n;
const G = 0x100n;
const NX = 1n << 63n;
const TWO_32 = 0x100000000;

describe('MMU', () => {
  let v: Vcpu;
  const arenaOf = (phys: number): number => ARENA.ram + phys;
  const put = (phys: number, value: bigint): void =>
    v.cpu.arena.view.setBigUint64(arenaOf(phys), value, true);
  const get = (phys: number): bigint => v.cpu.arena.view.getBigUint64(arenaOf(phys), true);
  const fills = (): number | undefined => v.accounting.snapshot().reasons['tlbFill']?.count;

  /** Whether the TLB bank in force lets wasm go straight to RAM. */
  function hit(lin: number, tag: number, bank = v.cpu.get32(CTL.tlbBank)): boolean {
    const entry = bank + (Math.floor(lin / 0x1000) & (TLB.entries - 1)) * TLB.entrySize;
    return v.cpu.i64[(entry + tag) >> 3] === BigInt(lin) - BigInt.asUintN(12, BigInt(lin));
  }
  /** The arena address the TLB gives for a hit. */
  function throughTlb(lin: number): number {
    const entry = v.cpu.get32(CTL.tlbBank) + (Math.floor(lin / 0x1000) & (TLB.entries - 1)) * TLB.entrySize;
    return (lin + v.cpu.get32(entry + TLB.addend)) >>> 0;
  }

  /** 64-bit code at this CPL; PML4 at 0x1000, its first and last entries lead to tables for the first and last 2 MiB. */
  function longMode(cpl = 0, cr4 = 0): void {
    const { cpu } = v;
    put(0x1000, 0x2000n | P | W | U);
    put(0x2000, 0x3000n | P | W | U);
    put(0x3000, 0x4000n | P | W | U);
    put(0x1ff8, 0x5000n | P | W | U);
    put(0x5ff8, 0x6000n | P | W | U);
    put(0x6ff8, 0x7000n | P | W | U);
    cpu.set64(CR0, BigInt((CR0_PE | CR0_PG | CR0_WP) >>> 0));
    cpu.set64(CR3, 0x1000n);
    cpu.set64(CR4, BigInt(CR4_PAE | CR4_PGE | cr4));
    cpu.set64(EFER, BigInt(EFER_LME | EFER_LMA | EFER_NXE));
    cpu.set32(CS + SEG_FIELD.attributes, 0xa09b);
    cpu.setCpl(cpl);
    cpu.stateReplaced();
  }
  const page = (index: number, entry: bigint): void => put(0x4000 + index * 8, entry);

  beforeEach(() => {
    v = makeVcpu();
  });

  describe('without paging', () => {
    it('goes straight to RAM and remembers the way', () => {
      v.cpu.mmu.write32(0x1234, 0xdeadbeef);
      expect(v.cpu.mmu.read16(0x1236)).toBe(0xdead);
      expect([hit(0x1000, TLB.readTag), hit(0x1000, TLB.writeTag), hit(0x1000, TLB.execTag)]).toEqual([
        true,
        true,
        true,
      ]);
      expect(throughTlb(0x1234)).toBe(arenaOf(0x1234));
      expect(fills()).toBe(1);
    });

    it('wraps at 4 GiB', () => {
      v.memory.installRom(new Uint8Array(0x10000).fill(0x5a));
      v.cpu.mmu.write16(0, 0x1234);
      expect(v.cpu.mmu.read32(0xfffffffe)).toBe(0x12345a5a);
      expect(v.cpu.mmu.read16(TWO_32)).toBe(0x1234);
    });

    it('gates address line 20', () => {
      v.cpu.mmu.write8(0x100000, 7);
      v.cpu.setA20(false);
      v.cpu.mmu.write8(0x100000, 9);
      expect([v.cpu.mmu.read8(0), v.cpu.mmu.read8(0x100000)]).toEqual([9, 9]);
      v.cpu.setA20(true);
      expect([v.cpu.mmu.read8(0), v.cpu.mmu.read8(0x100000)]).toEqual([9, 7]);
    });

    it('reads ROM and ignores writes to it', () => {
      v.memory.installRom(new Uint8Array(0x10000).fill(0x5a));
      v.cpu.mmu.flush();
      v.cpu.mmu.write8(0xfffffff0, 1);
      expect(v.cpu.mmu.read8(0xfffffff0)).toBe(0x5a);
      expect([
        hit(0xfffff000, TLB.readTag),
        hit(0xfffff000, TLB.writeTag),
        hit(0xfffff000, TLB.execTag),
      ]).toEqual([true, false, true]);
    });
  });

  describe('translation cache', () => {
    it('keeps the write tag back until D is set', () => {
      longMode();
      page(8, 0x8000n | P | W);
      v.cpu.mmu.read8(0x8000);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.writeTag)]).toEqual([true, false]);
      v.cpu.mmu.write8(0x8000, 1);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.writeTag)]).toEqual([true, true]);
      expect(get(0x4040)).toBe(0x8063n);
      v.cpu.mmu.flush();
      v.cpu.mmu.read8(0x8000);
      expect(hit(0x8000, TLB.writeTag)).toBe(true);
    });

    it('keeps banks apart', () => {
      longMode(3);
      page(8, 0x8000n | P | W | U);
      v.cpu.mmu.write8(0x8000, 1);
      expect([
        hit(0x8000, TLB.writeTag, TLB.bankUser),
        hit(0x8000, TLB.writeTag, TLB.bankSupervisor),
      ]).toEqual([true, false]);
      v.cpu.mmu.read8(0x8000, true);
      expect(hit(0x8000, TLB.readTag, TLB.bankSupervisor)).toBe(true);
    });

    it('holds negative addresses with 64-bit tags', () => {
      longMode();
      put(0x7ff8, 0x9000n | P | W);
      v.cpu.mmu.write32(-4, 0x12345678);
      expect(hit(-0x1000, TLB.writeTag)).toBe(true);
      expect(throughTlb(-4)).toBe(arenaOf(0x9ffc));
      expect(v.cpu.u32[arenaOf(0x9ffc) >> 2]).toBe(0x12345678);
      // The same low half with another upper half is another page.
      page(8, 0x8000n | P | W);
      expect(faultOf(() => v.cpu.mmu.read8(0xfffffffc))).toEqual([14, 0]);
    });

    it('shows stale translations until they are invalidated', () => {
      longMode();
      page(8, 0x8000n | P | W);
      v.cpu.mmu.write8(0x8000, 1);
      page(8, 0xa000n | P | W);
      v.cpu.mmu.write8(0x8000, 2);
      v.cpu.mmu.invalidatePage(0x8fff);
      v.cpu.mmu.write8(0x8000, 3);
      expect([v.cpu.u8[arenaOf(0x8000)], v.cpu.u8[arenaOf(0xa000)]]).toEqual([2, 3]);
    });

    it('drops all parts of a large page with INVLPG, and nothing else', () => {
      longMode();
      page(8, 0x8000n | P | W);
      put(0x3008, 0x200000n | P | W | PS);
      put(0x3010, 0x400000n | P | W | PS);
      for (const lin of [0x8000, 0x200000, 0x2ff000, 0x3ff000, 0x400000]) v.cpu.mmu.read8(lin);
      v.cpu.mmu.invalidatePage(0x234567);
      expect([0x8000, 0x200000, 0x2ff000, 0x3ff000, 0x400000].map((lin) => hit(lin, TLB.readTag))).toEqual([
        true,
        false,
        false,
        false,
        // 0x400000 and 0x8000 are in entries of their own.
        true,
      ]);
    });

    it('keeps global pages over MOV to CR3 but not over a full flush', () => {
      longMode();
      page(8, 0x8000n | P | W | G);
      page(9, 0x9000n | P | W);
      v.cpu.mmu.read8(0x8000);
      v.cpu.mmu.read8(0x9000);
      v.cpu.mmu.rootChanged();
      expect([hit(0x8000, TLB.readTag), hit(0x9000, TLB.readTag)]).toEqual([true, false]);
      v.cpu.mmu.read8(0x9000);
      v.cpu.mmu.flush();
      expect([hit(0x8000, TLB.readTag), hit(0x9000, TLB.readTag)]).toEqual([false, false]);
    });

    it('forgets a page that faulted', () => {
      longMode();
      page(8, 0x8000n | P);
      v.cpu.mmu.read8(0x8000);
      expect(faultOf(() => v.cpu.mmu.write8(0x8000, 1))).toEqual([14, 3]);
      expect(hit(0x8000, TLB.readTag)).toBe(false);
    });

    it('survives evictions and flushes in any order', () => {
      longMode();
      put(0x3008, 0x200000n | P | W | PS);
      put(0x3010, 0x400000n | P | W | PS | G);
      for (let round = 0; round < 3; round++) {
        for (let lin = 0x200000; lin < 0x600000; lin += 0x1000) {
          v.cpu.mmu.write32(lin, lin);
          if (lin % 0x7000 === 0) v.cpu.mmu.rootChanged();
          if (lin % 0x9000 === 0) v.cpu.mmu.invalidatePage(lin);
        }
        v.cpu.mmu.flush();
        for (let lin = 0x200000; lin < 0x600000; lin += 0x1000) expect(v.cpu.mmu.read32(lin)).toBe(lin);
      }
    });
  });

  describe('pages with translated code', () => {
    it('take the slow path for stores and tell', () => {
      const told: [number, number][] = [];
      v.cpu.mmu.onCodeWrite = (arena, size) => told.push([arena, size]);
      v.cpu.mmu.write32(0x8000, 1);
      v.cpu.mmu.protectCodePage(arenaOf(0x8000) >>> 12);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.writeTag)]).toEqual([true, false]);
      v.cpu.mmu.write16(0x8010, 0x1234);
      expect(v.cpu.mmu.read16(0x8010)).toBe(0x1234);
      v.cpu.mmu.write32(0x7ffe, 0x56789abc);
      expect(told).toEqual([
        [arenaOf(0x8010), 2],
        [arenaOf(0x8000), 2],
      ]);
      expect(v.cpu.mmu.ramRun(0x8000, ACCESS.write)).toBe(-1);
      v.cpu.mmu.unprotectCodePage(arenaOf(0x8000) >>> 12);
      v.cpu.mmu.write16(0x8010, 1);
      expect([hit(0x8000, TLB.writeTag), told.length]).toEqual([true, 2]);
    });

    it('tells of the accessed flags of a page table that holds code', () => {
      longMode();
      const told: number[] = [];
      v.cpu.mmu.onCodeWrite = (arena) => told.push(arena);
      v.cpu.mmu.protectCodePage(arenaOf(0x4000) >>> 12);
      page(8, 0x8000n | P | W);
      v.cpu.mmu.read8(0x8000);
      expect(told).toEqual([arenaOf(0x4040)]);
    });
  });

  describe('slow paths', () => {
    const load = (lin: bigint, info: number): number =>
      v.cpu.mmu.slowLoad(Number(BigInt.asIntN(32, lin)), Number(BigInt.asIntN(32, lin >> 32n)), info);
    const store = (lin: bigint, info: number): number =>
      v.cpu.mmu.slowStore(Number(BigInt.asIntN(32, lin)), Number(BigInt.asIntN(32, lin >> 32n)), info);
    const fault = (): [number, number] => [v.cpu.get32(CTL.faultVector), v.cpu.get32(CTL.faultCode)];

    it('move 1 to 16 bytes, zero-extended', () => {
      for (let i = 0; i < 32; i++) v.cpu.u8[arenaOf(0x8000) + i] = 0xf0 + i;
      v.cpu.set64(CTL.slowValue, 0xffffffffffffffffn);
      const expected = [0xf3n, 0xf4f3n, 0xf6f5f4f3n, 0xfaf9f8f7f6f5f4f3n];
      [1, 2, 4, 8].forEach((size, i) => {
        expect(load(0x8003n, size)).toBe(0);
        expect(v.cpu.get64(CTL.slowValue)).toBe(expected[i]);
      });
      expect(load(0x8003n, 16)).toBe(0);
      expect(v.cpu.get64(CTL.slowWide)).toBe(0xfaf9f8f7f6f5f4f3n);
      v.cpu.set64(CTL.slowWide, 0x1111111111111111n);
      v.cpu.set64(CTL.slowWide + 8, 0x2222222222222222n);
      expect(store(0x9ff9n, 16)).toBe(0);
      expect([v.cpu.mmu.read64(0x9ff9), v.cpu.mmu.read64(0xa001)]).toEqual([
        0x1111111111111111n,
        0x2222222222222222n,
      ]);
    });

    it('translate both pages before they touch either', () => {
      longMode(3);
      page(8, 0x8000n | P | W | U);
      page(9, 0x9000n | P | U);
      v.cpu.set64(CTL.slowValue, 0x1122334455667788n);
      expect(store(0x8ffcn, 8)).toBe(1);
      expect([fault(), v.cpu.cr2, get(0x8ff8)]).toEqual([[14, 7], 0x9000n, 0n]);
      expect(load(0x8ffcn, 8)).toBe(0);
      expect(load(0x8ffcn, 8 | SLOW.writeIntent)).toBe(1);
      expect([fault(), v.cpu.cr2]).toEqual([[14, 7], 0x9000n]);
      page(10, 0n);
      expect(load(0x9fffn, 2)).toBe(1);
      expect([fault(), v.cpu.cr2]).toEqual([[14, 4], 0xa000n]);
    });

    it('refuse non-canonical addresses with #GP(0), on the stack #SS(0)', () => {
      longMode();
      expect([load(1n << 47n, 1), fault()]).toEqual([1, [13, 0]]);
      expect([store((1n << 47n) - 1n, 2 | SLOW.stack), fault()]).toEqual([1, [12, 0]]);
      expect([load(-(1n << 47n) - 1n, 1), fault()]).toEqual([1, [13, 0]]);
    });

    it('ask for 16-byte alignment', () => {
      expect([load(0x8008n, 16 | SLOW.aligned16), fault()]).toEqual([1, [13, 0]]);
      expect(load(0x8010n, 16 | SLOW.aligned16)).toBe(0);
    });

    it('set D for a load with write intent', () => {
      longMode();
      page(8, 0x8000n | P | W);
      expect(load(0x8000n, 4 | SLOW.writeIntent)).toBe(0);
      expect(get(0x4040)).toBe(0x8063n);
    });

    it('write CR2 whole', () => {
      longMode();
      expect(load(-8n, 1)).toBe(1);
      expect([fault(), v.cpu.cr2]).toEqual([[14, 0], 0xfffffffffffffff8n]);
    });

    it('cross from the top of the address space to zero', () => {
      longMode();
      put(0x7ff8, 0x9000n | P | W);
      page(0, 0xa000n | P | W);
      v.cpu.set64(CTL.slowValue, 0x44332211n);
      expect(store(-2n, 4)).toBe(0);
      expect([v.cpu.u16[arenaOf(0x9ffe) >> 1], v.cpu.u16[arenaOf(0xa000) >> 1]]).toEqual([0x2211, 0x4433]);
    });
  });

  describe('devices', () => {
    let log: string[];
    beforeEach(() => {
      log = [];
      v.memory.mapMmio(0xfee00000, 0x2000, 'probe', {
        readMmio: (offset, size) => {
          log.push(`r${size}@${offset.toString(16)}`);
          return 0x01020304 + offset;
        },
        writeMmio: (offset, size, value) =>
          void log.push(`w${size}@${offset.toString(16)}=${value.toString(16)}`),
      });
      v.cpu.mmu.flush();
    });

    it('see accesses of 1, 2 and 4 bytes', () => {
      const { mmu } = v.cpu;
      mmu.write8(0xfee00003, 0xab);
      mmu.write16(0xfee00002, 0xabcd);
      mmu.write32(0xfee00004, 0x89abcdef);
      mmu.write64(0xfee00008, 0x0123456789abcdefn);
      mmu.write16(0xfee00001, 0x1234);
      expect(mmu.read64(0xfee00000)).toBe(0x0102030801020304n);
      expect(log).toEqual([
        'w1@3=ab',
        'w2@2=abcd',
        'w4@4=89abcdef',
        'w4@8=89abcdef',
        'w4@c=1234567',
        'w1@1=34',
        'w1@2=12',
        'r4@0',
        'r4@4',
      ]);
      const { reasons, details } = v.accounting.snapshot();
      expect([reasons['mmio']?.count, details['mmio']]).toEqual([6, { probe: 6 }]);
    });

    it('are never cached', () => {
      v.cpu.mmu.read32(0xfee00000);
      expect(hit(0xfee00000, TLB.readTag)).toBe(false);
      expect(v.cpu.mmu.ramRun(0xfee00000, ACCESS.read)).toBe(-1);
      expect(v.cpu.mmu.fetchPage(0xfee00000)).toBe(-2);
    });

    it('are timed one access in 64', () => {
      for (let i = 0; i < 128; i++) v.cpu.mmu.read32(0xfee00000);
      expect(v.accounting.snapshot().reasons['mmio']?.timed).toBe(2);
    });

    it('share an access with RAM where it crosses', () => {
      longMode();
      page(8, 0x8000n | P | W);
      page(9, 0xfee00000n | P | W);
      v.cpu.mmu.write32(0x8ffe, 0x44332211);
      expect([v.cpu.u16[arenaOf(0x8ffe) >> 1], log]).toEqual([0x2211, ['w2@0=4433']]);
    });

    it('give all ones where nothing is', () => {
      expect(v.cpu.mmu.read32(0xe0000000)).toBe(0xffffffff);
      expect(v.accounting.snapshot().details['mmio']).toEqual({ unmapped: 1 });
    });
  });

  describe('privilege', () => {
    it('enforces SMAP with AC clear, and for implicit accesses always', () => {
      longMode(0, CR4_SMAP);
      page(8, 0x8000n | P | W | U);
      const { cpu } = v;
      expect(faultOf(() => cpu.mmu.read8(0x8000))).toEqual([14, 1]);
      cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) | FLAG_AC);
      cpu.updateMode();
      expect(faultOf(() => cpu.mmu.read8(0x8000))).toBeUndefined();
      expect(faultOf(() => cpu.mmu.read8(0x8000, true))).toEqual([14, 1]);
    });

    it('lets implicit supervisor accesses at CPL 3 through, without the U flag', () => {
      longMode(3);
      page(8, 0x8000n | P | W);
      expect(faultOf(() => v.cpu.mmu.read8(0x8000))).toEqual([14, 5]);
      expect(faultOf(() => v.cpu.mmu.read8(0x8000, true))).toBeUndefined();
      expect(faultOf(() => v.cpu.mmu.write8(0x9000, 0, true))).toEqual([14, 2]);
    });
  });

  describe('fetch', () => {
    it('gives the arena address of the code', () => {
      longMode();
      page(8, 0x9000n | P);
      expect(v.cpu.mmu.fetchPage(0x8123)).toBe(arenaOf(0x9123));
      expect(hit(0x8000, TLB.execTag)).toBe(true);
    });

    it('respects NX and says it was a fetch', () => {
      longMode();
      page(8, 0x9000n | P | NX);
      expect(v.cpu.mmu.fetchPage(0x8123)).toBe(-1);
      expect([v.cpu.get32(CTL.faultVector), v.cpu.get32(CTL.faultCode), v.cpu.cr2]).toEqual([
        14,
        0x11,
        0x8123n,
      ]);
      v.cpu.mmu.read8(0x8123);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.execTag)]).toEqual([true, false]);
    });

    it('refuses a non-canonical address with #GP(0)', () => {
      longMode();
      expect([v.cpu.mmu.fetchPage(2 ** 47), v.cpu.get32(CTL.faultVector)]).toEqual([-1, 13]);
    });
  });

  describe('data breakpoints', () => {
    function watch(address: bigint, rw: number, len: number): void {
      v.cpu.set64(DR0, address);
      v.cpu.set64(DR7, BigInt(0x402 | (rw << 16) | (len << 18)));
      v.cpu.stateReplaced();
    }
    const hits = (body: () => void): number => {
      v.cpu.set32(CTL.pendingDebug, 0);
      body();
      return v.cpu.get32(CTL.pendingDebug);
    };

    it('on writes leave reads alone', () => {
      watch(0x8004n, 1, 3);
      const { mmu } = v.cpu;
      expect(hits(() => mmu.write32(0x8000, 1))).toBe(0);
      expect(hits(() => mmu.write8(0x8007, 1))).toBe(1);
      expect(hits(() => mmu.write16(0x8003, 1))).toBe(1);
      expect(hits(() => mmu.read32(0x8004))).toBe(0);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.writeTag)]).toEqual([true, false]);
    });

    it('on reads and writes keep the page out of the TLB', () => {
      watch(0x8000n, 3, 2);
      const { mmu } = v.cpu;
      expect(hits(() => mmu.read8(0x8007))).toBe(1);
      expect(hits(() => mmu.read8(0x8008))).toBe(0);
      expect(hits(() => mmu.read32(0x7ffe))).toBe(1);
      expect([hit(0x8000, TLB.readTag), hit(0x8000, TLB.writeTag)]).toEqual([false, false]);
    });
  });

  describe('blocks', () => {
    it('are read and written over pages, whole or not at all', () => {
      longMode();
      page(8, 0x8000n | P | W);
      page(9, 0xc000n | P | W);
      const bytes = Uint8Array.from({ length: 300 }, (_, i) => i);
      v.cpu.mmu.writeBytes(0x8f80, bytes);
      const back = new Uint8Array(300);
      v.cpu.mmu.readBytes(0x8f80, back);
      expect(back).toEqual(bytes);
      expect(v.cpu.u8[arenaOf(0xc000)]).toBe(128);
      expect(faultOf(() => v.cpu.mmu.writeBytes(0x9fff, new Uint8Array(2)))).toEqual([14, 2]);
      expect(v.cpu.u8[arenaOf(0xcfff)]).toBe(0);
    });

    it('are probed without being touched', () => {
      longMode();
      page(8, 0x8000n | P);
      v.cpu.mmu.probe(0x8000, 0x1000, ACCESS.read);
      expect(faultOf(() => v.cpu.mmu.probe(0x8000, 0x1001, ACCESS.read))).toEqual([14, 0]);
      expect(faultOf(() => v.cpu.mmu.probe(0x8000, 1, ACCESS.write))).toEqual([14, 3]);
    });

    it('may be run over directly in RAM', () => {
      longMode();
      page(8, 0x8000n | P | W);
      expect(v.cpu.mmu.ramRun(0x8010, ACCESS.write)).toBe(arenaOf(0x8010));
      v.cpu.set64(CTL.faultVector & ~7, 0n);
      expect(v.cpu.mmu.ramRun(0x9010, ACCESS.write)).toBe(-1);
      expect(v.cpu.cr2).toBe(0n);
    });
  });

  it('reads slots as linear addresses', () => {
    const { cpu } = v;
    cpu.setGpr(0, 0xffff800000000000n);
    expect(cpu.mmu.linearAt(RAX)).toBe(-(2 ** 47));
    cpu.setGpr(0, 0x7fffffffffffn);
    expect(cpu.mmu.linearAt(RAX)).toBe(2 ** 47 - 1);
    cpu.setGpr(0, 0x800000000000n);
    expect(faultOf(() => cpu.mmu.linearAt(RAX))).toEqual([13, 0]);
    expect(faultOf(() => cpu.mmu.linearAt(RAX, true))).toEqual([12, 0]);
  });
});
