import { beforeEach, describe, expect, it } from 'vitest';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PGE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
} from '../../src-core/x86/bits.ts';
import type { Cpu } from '../../src-core/x86/cpu.ts';
import { CR0, CR2, CR3, CR4, CTL, DR0, DR7, EFER, MMU, PAGE_RECORD, TLB } from '../../src-core/x86/layout.ts';
import { ACCESS, SLOW } from '../../src-core/x86/mmu.ts';
import { type Access, PDPTE } from '../../src-core/x86/paging.ts';
import { recordOf } from '../../src-core/x86/tlb.ts';
import { makeRefillVcpu, type RefillVcpu } from './refill-vcpu.ts';
import { makeVcpu, random } from './vcpu.ts';

const MEMORY_MIB = 4;

const kinds = ['none', '32-bit', 'PAE', '4-level'] as const;
type Kind = (typeof kinds)[number];

interface Mode {
  kind: Kind;
  cr3: bigint;
  pdptes: bigint[];
  cr4: number;
  wp: boolean;
  nxe: boolean;
  a20: boolean;
}

function enter(cpu: Cpu, mode: Mode): void {
  const wide = mode.kind === 'PAE' || mode.kind === '4-level';
  const paged = mode.kind !== 'none';
  cpu.set64(CR0, BigInt((CR0_PE | (paged ? CR0_PG : 0) | (mode.wp ? CR0_WP : 0)) >>> 0));
  cpu.set64(CR3, mode.cr3);
  cpu.set64(CR4, BigInt(mode.cr4 | (wide ? CR4_PAE : 0)));
  const long = mode.kind === '4-level' ? EFER_LME | EFER_LMA : 0;
  cpu.set64(EFER, BigInt((mode.nxe ? EFER_NXE : 0) | long));
  mode.pdptes.forEach((pdpte, i) => cpu.set64(PDPTE + i * 8, pdpte));
  cpu.set32(CTL.a20Mask, mode.a20 ? 0xffffffff : 0xffefffff);
  cpu.stateReplaced();
}

/** What both walkers leave behind: TLB and lists without the counters, page records, and this much RAM. */
function traces({ arena }: Cpu, ramBytes: number): Buffer[] {
  const part = (start: number, end: number): Buffer => Buffer.from(arena.buffer, start, end - start);
  const records = Buffer.from(part(recordOf(ARENA.ram >>> 12), recordOf(arena.u8.length >>> 12)));
  // A store through an entry that is there starts no new count of stores to its page tables.
  for (let at = PAGE_RECORD.writes; at < records.length; at += 1 << PAGE_RECORD.sizeShift) records[at] = 0;
  return [part(TLB.base, MMU.fills), records, part(ARENA.ram, ARENA.ram + ramBytes)];
}

function expectSame(left: Buffer[], right: Buffer[]): void {
  left.forEach((part, i) => {
    const other = right[i] ?? Buffer.alloc(0);
    if (part.equals(other)) return;
    const at = part.findIndex((byte, index) => byte !== other[index]);
    throw new Error(`wasm and TypeScript differ in part ${i} at 0x${at.toString(16)}`);
  });
}

describe('TLB refill in wasm', () => {
  const TABLES = 12;
  const RAM_BYTES = 0x40000;

  const variants = kinds.flatMap((kind) =>
    (['flush', 'keep'] as const).map((spaces) => [kind, spaces] as const),
  );

  it.each(variants)('does what the TypeScript walker does (%s, %s)', (kind, spaces) => {
    const left = makeRefillVcpu(MEMORY_MIB);
    const right = makeVcpu(MEMORY_MIB);
    const both = [left.cpu, right.cpu];
    for (const cpu of both) cpu.mmu.keepAddressSpaces(spaces === 'keep');
    const { below, next } = random(0x5eed + kinds.indexOf(kind));
    const chance = (oneIn: number): boolean => below(oneIn) === 0;
    const wide = kind === 'PAE' || kind === '4-level';
    let served = 0;
    let refused = 0;
    let stores = 0;

    const linear = (lin: bigint): number =>
      Number(kind === '4-level' ? BigInt.asIntN(48, lin) : lin & 0xffffffffn);
    let wild = false;
    const odd = (oneIn: number): boolean => wild && chance(oneIn);

    const entry = (): bigint => {
      let value = BigInt(0x1000 * (1 + below(chance(2) ? TABLES : 60)));
      if (odd(20)) value = (BigInt(next()) << 12n) & (wide ? 0xfffffff000n : 0xfffff000n);
      value |= BigInt(next()) & 0x1fen;
      if (!odd(2)) value |= 0x6n;
      if (chance(24)) value = (value & 0xfffn) | 0x80n | (BigInt(below(3)) << 21n);
      else if (!odd(8)) value &= ~0x80n;
      if (!odd(8)) value |= 1n;
      if (wide && odd(6)) value |= 1n << 63n;
      if (wide && odd(40)) value |= 1n << BigInt(40 + below(23));
      if (odd(40)) value |= BigInt(next()) & 0x3fffe000n;
      return value;
    };

    for (let round = 0; round < 100; round++) {
      wild = round % 3 === 0;
      for (let page = 1; page <= TABLES; page++) {
        for (let i = 0; i < (wide ? 512 : 1024); i++) {
          const value = entry();
          for (const { arena } of both) {
            const at = ARENA.ram + page * 0x1000;
            if (wide) arena.view.setBigUint64(at + i * 8, value, true);
            else arena.view.setUint32(at + i * 4, Number(value & 0xffffffffn), true);
          }
        }
      }
      const mode: Mode = {
        kind,
        cr3: BigInt(0x1000 * (1 + below(TABLES))) | BigInt(below(2) * 0x18),
        pdptes: [0, 1, 2, 3].map(() => BigInt(0x1000 * (1 + below(TABLES))) | (chance(8) ? 0n : 1n)),
        cr4:
          (chance(2) ? CR4_PSE : 0) |
          (chance(2) ? CR4_PGE : 0) |
          (chance(2) ? CR4_SMEP : 0) |
          (chance(2) ? CR4_SMAP : 0),
        wp: chance(2),
        nxe: !chance(3),
        a20: !chance(10),
      };
      for (const cpu of both) enter(cpu, mode);
      // Few pages, so that entries meet again: other tags, other banks, protected meanwhile.
      const lins = Array.from({ length: 40 }, () => {
        const low = BigInt(kind === 'none' ? below(0x480000) : next());
        return kind === '4-level' ? BigInt.asIntN(48, (BigInt(next()) << 32n) | low) : low;
      });
      // What is cached may be used for stores to watched pages, while `fill` always looks at the tables.
      const invalidateAll = (cpu: Cpu): void => {
        for (const lin of lins) {
          for (const change of [0n, 0x1000n]) cpu.mmu.invalidatePage(linear(lin + change));
        }
      };
      for (let i = 0; i < 300; i++) {
        if (chance(12)) {
          // RAM the page tables may map, the tables among it.
          const page = (ARENA.ram >>> 12) + below(64);
          const chunks = BigInt(next()) | (BigInt(next()) << 32n);
          const protect = chance(2);
          for (const cpu of both) {
            if (protect) cpu.mmu.protectCodePage(page);
            else cpu.mmu.unprotectCodePage(page);
            cpu.u64[(recordOf(page) + PAGE_RECORD.chunks) >> 3] = protect ? chunks : 0n;
          }
        }
        if (chance(40)) {
          const root = BigInt(0x1000 * (1 + below(3)));
          for (const cpu of both) {
            cpu.set64(CR3, root);
            cpu.mmu.rootChanged();
            invalidateAll(cpu);
          }
        }
        if (chance(30)) {
          const at = ARENA.ram + 0x1000 * (1 + below(TABLES)) + 4 * below(1024);
          const flip = 1 << below(12);
          for (const cpu of both) {
            cpu.set32(at, cpu.get32(at) ^ flip);
            cpu.mmu.memoryChanged(at, 4);
            invalidateAll(cpu);
          }
        }
        const lin = (lins[below(lins.length)] ?? 0n) + (chance(40) ? 0x1000n : 0n);
        if (chance(20)) for (const cpu of both) cpu.mmu.invalidatePage(linear(lin));
        const access = below(3) as Access;
        const user = chance(3);
        const supervisor = chance(2) ? TLB.bankSupervisorSmap : TLB.bankSupervisor;
        const bank = user ? left.cpu.get32(CTL.userBank) : supervisor;
        for (const cpu of both) cpu.set32(CTL.tlbBank, bank);
        const size = access === ACCESS.execute ? 1 : 1 << below(5);
        const info =
          size | (access === ACCESS.write ? SLOW.writeIntent : access === ACCESS.execute ? SLOW.execute : 0);

        const address = linear(lin);
        const looked = i % 16 === 0;
        const before = looked ? traces(left.cpu, RAM_BYTES).map((part) => Buffer.from(part)) : [];
        const fills = left.cpu.get32(MMU.fills);
        const arena = left.refill(
          Number(BigInt.asIntN(32, BigInt(address))),
          Math.floor(address / 2 ** 32),
          info,
        );
        const ok = right.cpu.mmu.fill(address, access, user);
        if (arena === 0) {
          refused++;
          if (looked && left.cpu.get32(MMU.fills) === fills) expectSame(before, traces(left.cpu, RAM_BYTES));
          expect(left.cpu.mmu.fill(address, access, user)).toBe(ok);
          if (!ok) {
            for (const at of [CTL.faultVector, CTL.faultCode, CR2, CR2 + 4]) {
              expect(left.cpu.get32(at)).toBe(right.cpu.get32(at));
            }
          }
        } else {
          served++;
          if (access === ACCESS.write) stores++;
          expect(ok).toBe(true);
          const phys = right.cpu.mmu.translate(address, access, user);
          expect(arena >>> 0).toBe(right.memory.backing(phys).arena + (phys % 0x1000));
        }
        if (looked) expectSame(traces(left.cpu, RAM_BYTES), traces(right.cpu, RAM_BYTES));
      }
    }
    for (const often of [served, stores, refused]) expect(often).toBeGreaterThan(150);
  });

  describe('at the edges', () => {
    let v: RefillVcpu;
    const store = (lin: number, size: number): number => v.refill(lin, 0, size | SLOW.writeIntent);
    const setChunks = (page: number, chunks: bigint): void => {
      v.cpu.u64[(recordOf(page) + PAGE_RECORD.chunks) >> 3] = chunks;
    };

    beforeEach(() => {
      v = makeRefillVcpu(MEMORY_MIB);
    });

    it('leaves page crossings, misalignment and non-canonical addresses to TypeScript', () => {
      expect(v.refill(0x1ffc, 0, 4)).toBe(ARENA.ram + 0x1ffc);
      expect(v.refill(0x1ffd, 0, 4)).toBe(0);
      expect(v.refill(0x1008, 0, 16)).toBe(ARENA.ram + 0x1008);
      expect(v.refill(0x1008, 0, 16 | SLOW.aligned16)).toBe(0);
      expect([v.refill(0x1000, 0x8000, 1), v.refill(0x1000, -0x8001, 1)]).toEqual([0, 0]);
    });

    it('leaves devices, ROM, holes and the end of memory to TypeScript', () => {
      v.memory.mapMmio(0x300000, 0x1000, 'probe', { readMmio: () => 0, writeMmio: () => undefined });
      v.memory.installRom(new Uint8Array(0x10000));
      v.cpu.mmu.flush();
      const served = [0x9f000, 0xa0000, 0xf0000, 0x100000, 0x2ff000, 0x300000, 0x3ff000, 0x400000, -0x1000];
      expect(served.filter((lin) => v.refill(lin, 0, 4) !== 0)).toEqual([0x9f000, 0x100000, 0x2ff000]);
    });

    it('agrees with the bus on what is plain RAM', () => {
      const { below } = random(7);
      for (let round = 0; round < 50; round++) {
        const { cpu, memory, refill } = makeRefillVcpu(MEMORY_MIB);
        for (let i = below(3); i > 0; i--) {
          const base = below(0x480) * 0x1000;
          const device = { readMmio: () => 0, writeMmio: () => undefined };
          memory.mapMmio(base, 0x1000 * (1 + below(4)), 'probe', device);
        }
        cpu.mmu.flush();
        for (let lin = 0; lin < 0x480000; lin += 0x1000) {
          const arena = refill(lin, 0, 4 | SLOW.writeIntent);
          if (arena !== 0) expect(memory.backing(lin)).toEqual({ arena, writable: true });
        }
      }
    });

    it('leaves everything to TypeScript while there are data breakpoints', () => {
      v.cpu.set64(DR0, 0x8000n);
      v.cpu.set64(DR7, 0x10402n);
      v.cpu.stateReplaced();
      expect(v.refill(0x1000, 0, 4)).toBe(0);
      v.cpu.set64(DR7, 0x400n);
      v.cpu.stateReplaced();
      expect(v.refill(0x1000, 0, 4)).not.toBe(0);
    });

    it('lets stores beside code through, those to code not', () => {
      const page = (ARENA.ram + 0x5000) >>> 12;
      expect(store(0x5000, 4)).not.toBe(0);
      v.cpu.mmu.protectCodePage(page);
      setChunks(page, 2n | (1n << 63n));
      const stores: [lin: number, size: number][] = [
        [0x5000, 4],
        [0x503c, 4],
        [0x503d, 4],
        [0x5040, 1],
        [0x507f, 1],
        [0x5080, 16],
        [0x5fb8, 8],
        [0x5fb9, 8],
        [0x5fff, 1],
      ];
      const outcomes = stores.map(([lin, size]) => store(lin, size) !== 0);
      expect(outcomes).toEqual([true, true, false, false, false, true, true, false, false]);
      v.cpu.mmu.collectCounts();
      const { reasons, details } = v.accounting.snapshot();
      expect([reasons['trace']?.count, details['trace']]).toEqual([4, { 'data beside code': 4 }]);
    });

    it('gives the write tag back when the last code is gone', () => {
      const page = (ARENA.ram + 0x5000) >>> 12;
      const entry = v.cpu.get32(CTL.tlbBank) + 5 * TLB.entrySize;
      v.cpu.mmu.protectCodePage(page);
      setChunks(page, 1n);
      expect(store(0x5100, 4)).toBe(ARENA.ram + 0x5100);
      expect(v.cpu.get64(entry + TLB.writeTag)).toBe(0xffffffffffffffffn);
      setChunks(page, 0n);
      v.cpu.mmu.unprotectCodePage(page);
      expect(store(0x5000, 4)).toBe(ARENA.ram + 0x5000);
      expect(v.cpu.get64(entry + TLB.writeTag)).toBe(0x5000n);
      // And it is taken from it again.
      v.cpu.mmu.protectCodePage(page);
      expect(v.cpu.get64(entry + TLB.writeTag)).toBe(0xffffffffffffffffn);
    });

    it('protects a page in every entry that lets it be written', () => {
      v.cpu.set64(CR3, 0x1000n);
      for (let i = 0; i < 1024; i++) v.cpu.u32[(ARENA.ram + 0x2000 + i * 4) >> 2] = 0x8067;
      v.cpu.u32[(ARENA.ram + 0x1000) >> 2] = 0x2067;
      v.cpu.set64(CR0, BigInt((CR0_PE | CR0_PG) >>> 0));
      v.cpu.stateReplaced();
      const lins = [0x3000, 0x7000, 0x3ff000];
      for (const lin of lins) expect(store(lin, 4)).toBe(ARENA.ram + 0x8000);
      v.cpu.mmu.protectCodePage((ARENA.ram + 0x8000) >>> 12);
      const bank = v.cpu.get32(CTL.tlbBank);
      const tags = lins.map((lin) => v.cpu.get64(bank + (lin >> 12) * TLB.entrySize + TLB.writeTag));
      expect(tags).toEqual(lins.map(() => 0xffffffffffffffffn));
    });

    it('does not touch the flags of page tables that hold code', () => {
      v.cpu.set64(CR3, 0x1000n);
      v.cpu.u32[(ARENA.ram + 0x1000) >> 2] = 0x2007;
      v.cpu.u32[(ARENA.ram + 0x2008) >> 2] = 0x8007;
      v.cpu.set64(CR0, BigInt((CR0_PE | CR0_PG) >>> 0));
      v.cpu.stateReplaced();
      v.cpu.mmu.protectCodePage((ARENA.ram + 0x2000) >>> 12);
      expect(v.refill(0x2000, 0, 4)).toBe(0);
      expect(v.cpu.u32[(ARENA.ram + 0x1000) >> 2]).toBe(0x2007);
      v.cpu.mmu.unprotectCodePage((ARENA.ram + 0x2000) >>> 12);
      expect(v.refill(0x2000, 0, 4)).not.toBe(0);
      expect(v.cpu.u32[(ARENA.ram + 0x2008) >> 2]).toBe(0x8027);
    });
  });
});
