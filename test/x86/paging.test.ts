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
import { CR0, CR3, CR4, CTL, EFER, TLB } from '../../src-core/x86/layout.ts';
import { type Access, ACCESS, PageWalker, PDPTE } from '../../src-core/x86/paging.ts';
import { PhysicalMemory } from '../../src-core/x86/physical.ts';
import { makeVcpu, random } from './vcpu.ts';

const MAXPHYADDR = 40n;
const mask = (high: bigint, low: bigint): bigint => (1n << (high + 1n)) - (1n << low);

interface Mode {
  kind: 'none' | '32-bit' | 'PAE' | '4-level';
  cr3: bigint;
  pdptes: bigint[];
  wp: boolean;
  pse: boolean;
  pge: boolean;
  nxe: boolean;
  smep: boolean;
  /** CR4.SMAP is set and the access obeys it. */
  smap: boolean;
  a20: boolean;
}

type Outcome =
  | { phys: bigint; shift: bigint; dirty: boolean; global: boolean; writes: Map<bigint, bigint> }
  | { code: number };

/**
 * The reference: Intel SDM volume 3, sections 4.3 to 4.8, step by step. `read` gives `bytes` of physical memory;
 * entries to be rewritten come back in `writes`.
 */
function reference(
  mode: Mode,
  lin: bigint,
  access: Access,
  user: boolean,
  read: (phys: bigint, bytes: bigint) => bigint,
): Outcome {
  const gate = (phys: bigint): bigint => (mode.a20 ? phys : phys & ~(1n << 20n));
  const writes = new Map<bigint, bigint>();
  if (mode.kind === 'none') {
    return { phys: gate(lin & 0xffffffffn), shift: 12n, dirty: true, global: false, writes };
  }
  const wide = mode.kind !== '32-bit';
  const fault = (code: number): Outcome => {
    if (access === ACCESS.write) code |= 2;
    if (user) code |= 4;
    if (access === ACCESS.execute && (mode.smep || (wide && mode.nxe))) code |= 16;
    return { code };
  };
  const entryBytes = wide ? 8n : 4n;
  const indexBits = wide ? 9n : 10n;
  let shift = mode.kind === '4-level' ? 39n : mode.kind === 'PAE' ? 21n : 22n;
  let table = mode.kind === '4-level' ? mode.cr3 & mask(39n, 12n) : mode.cr3 & mask(31n, 12n);
  if (mode.kind === 'PAE') {
    const pdpte = mode.pdptes[Number((lin >> 30n) & 3n)] ?? 0n;
    if ((pdpte & 1n) === 0n) return fault(0);
    table = pdpte & mask(MAXPHYADDR - 1n, 12n);
  }
  const used: { at: bigint; entry: bigint }[] = [];
  for (;;) {
    const at = gate(table + ((lin >> shift) & ((1n << indexBits) - 1n)) * entryBytes);
    const entry = read(at, entryBytes);
    if ((entry & 1n) === 0n) return fault(0);
    const mayBeLarge = shift !== 12n && (wide || mode.pse);
    const large = mayBeLarge && (entry & 0x80n) !== 0n;
    let reserved = 0n;
    if (mode.kind === '4-level') reserved |= mask(51n, MAXPHYADDR);
    if (mode.kind === 'PAE') reserved |= mask(62n, MAXPHYADDR);
    if (wide && !mode.nxe) reserved |= 1n << 63n;
    if (shift === 39n) reserved |= 0x80n;
    if (large && shift === 30n) reserved |= mask(29n, 13n);
    if (large && shift === 21n) reserved |= mask(20n, 13n);
    if (large && shift === 22n) reserved |= mask(21n, 21n);
    if ((entry & reserved) !== 0n) return fault(9);
    used.push({ at, entry });
    if (large || shift === 12n) {
      const everyU = used.every((u) => (u.entry & 4n) !== 0n);
      const everyW = used.every((u) => (u.entry & 2n) !== 0n);
      const someXd = wide && used.some((u) => u.entry >> 63n !== 0n);
      let allowed = true;
      if (access === ACCESS.execute && someXd) allowed = false;
      if (user) {
        if (!everyU || (access === ACCESS.write && !everyW)) allowed = false;
      } else {
        if (access === ACCESS.execute && everyU && mode.smep) allowed = false;
        if (access !== ACCESS.execute && everyU && mode.smap) allowed = false;
        if (access === ACCESS.write && !everyW && mode.wp) allowed = false;
      }
      if (!allowed) return fault(1);
      let leaf = entry;
      used.forEach((u, i) => {
        let next = u.entry | 0x20n;
        if (i === used.length - 1) {
          if (access === ACCESS.write) next |= 0x40n;
          leaf = next;
        }
        if (next !== u.entry) writes.set(u.at, next | (writes.get(u.at) ?? 0n));
      });
      let frame = entry & mask(wide ? MAXPHYADDR - 1n : 31n, shift);
      if (shift === 22n) frame |= ((entry >> 13n) & 0xffn) << 32n;
      return {
        phys: gate(frame | (lin & mask(shift - 1n, 0n))),
        shift,
        dirty: (leaf & 0x40n) !== 0n,
        global: (leaf & 0x100n) !== 0n && mode.pge,
        writes,
      };
    }
    table = entry & mask(wide ? MAXPHYADDR - 1n : 31n, 12n);
    shift -= indexBits;
  }
}

/** Puts a mode into the registers without any of the checks. */
function enter(cpu: Cpu, mode: Mode): void {
  const paged = mode.kind !== 'none';
  const wide = mode.kind === 'PAE' || mode.kind === '4-level';
  const long = mode.kind === '4-level';
  cpu.set64(CR0, BigInt((CR0_PE | (paged ? CR0_PG : 0) | (mode.wp ? CR0_WP : 0)) >>> 0));
  cpu.set64(CR3, mode.cr3);
  cpu.set64(
    CR4,
    BigInt(
      (wide ? CR4_PAE : 0) |
        (mode.pse ? CR4_PSE : 0) |
        (mode.pge ? CR4_PGE : 0) |
        (mode.smep ? CR4_SMEP : 0) |
        (mode.smap ? CR4_SMAP : 0),
    ),
  );
  cpu.set64(EFER, BigInt((mode.nxe ? EFER_NXE : 0) | (long ? EFER_LME | EFER_LMA : 0)));
  mode.pdptes.forEach((pdpte, i) => cpu.set64(PDPTE + i * 8, pdpte));
  cpu.set32(CTL.a20Mask, mode.a20 ? 0xffffffff : 0xffefffff);
}

describe('page walk', () => {
  const { cpu, memory, accounting } = makeVcpu(4);
  const physical = new PhysicalMemory(cpu.arena, memory, accounting);
  const walker = new PageWalker(cpu, physical);
  const ramSize = BigInt(cpu.arena.ramSize);
  const view = cpu.arena.view;

  const read = (phys: bigint, bytes: bigint): bigint => {
    const hole = phys >= 0xa0000n && phys < 0x100000n;
    if (hole || phys >= ramSize) return bytes === 8n ? 0xffffffffffffffffn : 0xffffffffn;
    const at = ARENA.ram + Number(phys);
    return bytes === 8n ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  };

  const TABLES = 12;
  const modes = ['none', '32-bit', 'PAE', '4-level'] as const;

  for (const kind of modes) {
    it(`agrees with the reference in 20,000 random walks (${kind})`, () => {
      const { below, next } = random(modes.indexOf(kind) + 1);
      const chance = (oneIn: number): boolean => below(oneIn) === 0;
      const wide = kind === 'PAE' || kind === '4-level';
      let faults = 0;
      let successes = 0;

      // Entries that mostly point to other tables, and now and then anywhere.
      const entry = (): bigint => {
        let value = BigInt(0x1000 * (1 + below(TABLES)));
        if (chance(8)) value = (BigInt(next()) << 12n) & mask(wide ? 39n : 31n, 12n);
        if (chance(6)) value = BigInt(below(8)) << 21n;
        value |= BigInt(next()) & 0x1fen;
        if (chance(3)) value |= 0x6n;
        if (!chance(4)) value &= ~0x80n;
        if (!chance(12)) value |= 1n;
        if (wide && chance(10)) value |= 1n << 63n;
        if (wide && chance(40)) value |= 1n << BigInt(40 + below(23));
        if (chance(20)) value |= BigInt(next()) & mask(29n, 13n);
        if (chance(10)) value |= BigInt(next()) & 0xe00n;
        return value;
      };

      for (let round = 0; round < 200; round++) {
        for (let page = 1; page <= TABLES; page++) {
          for (let i = 0; i < (wide ? 512 : 1024); i++) {
            const at = ARENA.ram + page * 0x1000;
            if (wide) view.setBigUint64(at + i * 8, entry(), true);
            else view.setUint32(at + i * 4, Number(entry() & 0xffffffffn), true);
          }
        }
        const mode: Mode = {
          kind,
          cr3: BigInt(0x1000 * (1 + below(TABLES))) | BigInt(below(2) * 0x18),
          pdptes: [0, 1, 2, 3].map(() => (entry() & mask(39n, 12n)) | (chance(8) ? 0n : 1n)),
          wp: chance(2),
          pse: chance(2),
          pge: chance(2),
          nxe: !chance(3),
          smep: chance(2),
          smap: chance(2),
          a20: !chance(10),
        };
        enter(cpu, mode);
        for (let i = 0; i < 100; i++) {
          let lin = BigInt(next());
          if (kind === '4-level') lin = BigInt.asIntN(48, (BigInt(next()) << 32n) | lin);
          const access = below(3) as Access;
          const user = chance(2);
          const bank = user ? TLB.bankUser : mode.smap ? TLB.bankSupervisorSmap : TLB.bankSupervisor;

          const expected = reference(mode, lin, access, user, read);
          const before = view.buffer.slice(ARENA.ram, ARENA.ram + (TABLES + 1) * 0x1000);
          const ok = walker.walk(Number(lin), access, bank);
          if ('code' in expected) {
            faults++;
            expect([ok, walker.errorCode]).toEqual([false, expected.code]);
          } else {
            successes++;
            expect([ok, BigInt(walker.phys), walker.pageShift]).toEqual([
              true,
              expected.phys,
              Number(expected.shift),
            ]);
            expect([walker.dirty, walker.global]).toEqual([expected.dirty, expected.global]);
            const image = new DataView(before);
            for (const [at, value] of expected.writes) {
              const offset = Number(at);
              if (offset + 8 > image.byteLength) continue;
              if (wide) image.setBigUint64(offset, value, true);
              else image.setUint32(offset, Number(value), true);
            }
          }
          const after = view.buffer.slice(ARENA.ram, ARENA.ram + (TABLES + 1) * 0x1000);
          expect(Buffer.compare(Buffer.from(before), Buffer.from(after))).toBe(0);
        }
      }
      expect(successes).toBeGreaterThan(500);
      if (kind !== 'none') expect(faults).toBeGreaterThan(500);
    });
  }

  describe('exact cases', () => {
    const mode: Mode = {
      kind: '4-level',
      cr3: 0x1000n,
      pdptes: [],
      wp: true,
      pse: false,
      pge: true,
      nxe: true,
      smep: true,
      smap: true,
      a20: true,
    };
    const put = (phys: number, value: bigint): void => view.setBigUint64(ARENA.ram + phys, value, true);
    const get = (phys: number): bigint => view.getBigUint64(ARENA.ram + phys, true);

    beforeEach(() => {
      cpu.arena.ram.fill(0, 0, 0x10000);
      enter(cpu, mode);
    });

    it('maps the top of a negative address through the last PML4 entry', () => {
      put(0x1ff8, 0x2003n);
      put(0x2ff8, 0x3003n);
      put(0x3ff8, 0x4003n);
      put(0x4ff8, 0x5003n);
      expect(walker.walk(-0x1000 + 0x123, ACCESS.read, TLB.bankSupervisor)).toBe(true);
      expect(walker.phys).toBe(0x5123);
      expect([get(0x1ff8), get(0x2ff8), get(0x3ff8), get(0x4ff8)]).toEqual([
        0x2023n,
        0x3023n,
        0x4023n,
        0x5023n,
      ]);
    });

    it('sets D only for a write, in the last entry', () => {
      put(0x1000, 0x2003n);
      put(0x2000, 0x83n);
      expect(walker.walk(0x12345, ACCESS.read, TLB.bankSupervisor)).toBe(true);
      expect([get(0x2000), walker.dirty, walker.pageShift]).toEqual([0xa3n, false, 30]);
      expect(walker.walk(0x12345, ACCESS.write, TLB.bankSupervisor)).toBe(true);
      expect([get(0x1000), get(0x2000), walker.dirty]).toEqual([0x2023n, 0xe3n, true]);
    });

    it('leaves A alone on the way to a fault', () => {
      put(0x1000, 0x2003n);
      put(0x2000, 0x3003n);
      expect(walker.walk(0, ACCESS.write, TLB.bankUser)).toBe(false);
      expect([walker.errorCode, get(0x1000), get(0x2000)]).toEqual([6, 0x2003n, 0x3003n]);
    });

    it('takes 40-bit physical addresses', () => {
      put(0x1000, 0x2003n);
      put(0x2000, 0xffc0000083n);
      expect(walker.walk(0x3fffffff, ACCESS.read, TLB.bankSupervisor)).toBe(true);
      expect(walker.phys).toBe(0xffffffffff);
      put(0x2000, 0x10000000083n);
      expect(walker.walk(0x3fffffff, ACCESS.read, TLB.bankSupervisor)).toBe(false);
      expect(walker.errorCode).toBe(9);
    });
  });
});
