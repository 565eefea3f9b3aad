import { describe, expect, it } from 'vitest';
import { emitQuick } from '../../src-core/engines/software/interpreter/quick.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import { ATTR_DB, ATTR_L, CR0_ET, CR0_PE, CR4_SMAP, FLAG_AC, FLAG_IF } from '../../src-core/x86/bits.ts';
import { CR4, CTL, EFER, FLAGS_SYSTEM, MSR, RAX, RCX, RDX, RIP, RSP } from '../../src-core/x86/layout.ts';
import { loadSegmentCallout, SEGMENT } from '../../src-core/x86/segmentation.ts';
import {
  enterBySyscallCallout,
  leaveBySysretCallout,
  sysenterCallout,
  sysexitCallout,
} from '../../src-core/x86/syscall.ts';
import { bindModule, faultOf, makeVcpu, random, stateText, type Vcpu } from './vcpu.ts';

const MEMORY_MIB = 4;
const CASES = 6000;
const GDT = 0x2000;
const SLOTS = 24;

/** Two vCPUs in 32-bit protected mode without paging, their GDT at the same place. */
function pair(): [Vcpu, Vcpu] {
  const vcpus = [makeVcpu(MEMORY_MIB), makeVcpu(MEMORY_MIB)] as const;
  for (const { cpu } of vcpus) {
    cpu.setCr0(CR0_PE | CR0_ET);
    for (let index = 0; index < 6; index++)
      cpu.setSegment(index, {
        selector: 8,
        attributes: index === 1 ? 0xc09b : 0xc093,
        limit: 0xffffffff,
        base: 0n,
      });
    cpu.setTable('gdt', BigInt(GDT), SLOTS * 8 - 1);
    cpu.updateMode();
  }
  return [...vcpus];
}

/** All that a callout may change of the state, what is derived from it and the GDT. */
function stateOf(vcpu: Vcpu): string {
  const control = [
    CTL.tlbBank,
    CTL.modeKey,
    CTL.cpl,
    CTL.codeBase,
    CTL.codeLimit,
    CTL.interruptShadow,
    CTL.fpuTrap,
  ];
  return stateText(vcpu, control, GDT, SLOTS * 8);
}

describe('what wasm does of system calls', () => {
  it('loads segment registers as the callout does', () => {
    const [left, right] = pair();
    const { loadSegment } = bindModule(left, emitQuick);
    const { below } = random(20062);
    const pick = (...items: readonly number[]): number => items[below(items.length)] ?? 0;
    let done = 0;
    for (let round = 0; round < CASES; round++) {
      const slot = 1 + below(SLOTS - 1);
      const change = below(12);
      const low = pick(0x0000ffff, 0x00001234, 0x0004ffff);
      const type = pick(
        0x90,
        0x92,
        0x93,
        0x93,
        0x9a,
        0x9b,
        0xf3,
        0xf3,
        0xf2,
        0xfb,
        0x96,
        0x9e,
        0x13,
        0x82,
        0xfd,
      );
      const high = (pick(0x00c00000, 0x00cf0000, 0x00400000) | (type << 8)) >>> 0;
      const limit = pick(SLOTS * 8 - 1, SLOTS * 8 - 1, 0x2f, 0x2b);
      const cpl = below(6) === 0 ? 3 : 0;
      const smap = below(8) === 0 ? BigInt(CR4_SMAP) : 0n;
      const ac = below(2) === 0 ? FLAG_AC : 0;
      for (const { cpu } of [left, right]) {
        if (change === 0) {
          cpu.u32[(ARENA.ram + GDT) / 4 + slot * 2] = low;
          cpu.u32[(ARENA.ram + GDT) / 4 + slot * 2 + 1] = high;
        }
        if (change === 1) cpu.setTable('gdt', BigInt(GDT), limit);
        cpu.setCpl(cpl);
        cpu.set64(CR4, smap);
        cpu.set32(FLAGS_SYSTEM, (cpu.get32(FLAGS_SYSTEM) & ~FLAG_AC) | ac);
        cpu.updateMode();
      }
      const index = pick(SEGMENT.es, SEGMENT.ds, SEGMENT.fs, SEGMENT.gs);
      const selector = below(6) === 0 ? below(4) : below(SLOTS) * 8 + pick(0, 0, 0, 3, 3, 4, 1);
      const what = `case ${round}: ${index} ${selector.toString(16)} at ${cpl}`;
      for (const { cpu } of [left, right]) cpu.u16[RAX >> 1] = selector;
      const handled = loadSegment(selector, index);
      done += handled;
      const run = ({ cpu }: Vcpu): unknown => faultOf(() => loadSegmentCallout.run(cpu, 0, RAX, 0, index, 1));
      const fault = handled === 0 ? run(left) : undefined;
      expect(fault, what).toEqual(run(right));
      expect(stateOf(left) === stateOf(right), what).toBe(true);
    }
    expect(done).toBeGreaterThan(CASES / 5);
    expect(done).toBeLessThan(CASES);
  });

  it.each([['sysenter' as const], ['sysexit' as const]])('does what %s does', (name) => {
    const [left, right] = pair();
    const quick = bindModule(left, emitQuick)[name];
    const { below } = random(20063);
    let done = 0;
    for (let round = 0; round < CASES; round++) {
      const flags = (below(2) === 0 ? FLAG_IF : 0) | (below(4) === 0 ? FLAG_AC : 0) | 2;
      const values = {
        cs: BigInt(below(12) === 0 ? below(4) : below(0x10000)),
        target: BigInt(below(0x7fffffff)) * 2n,
        stack: BigInt(below(0x7fffffff)) * 2n,
      };
      const cpl = below(2) === 0 ? 3 : 0;
      const smap = below(2) === 0 ? BigInt(CR4_SMAP) : 0n;
      const base = BigInt(below(2));
      const flat = below(2) === 0 ? 0xffffffff : 0xffff;
      for (const { cpu } of [left, right]) {
        cpu.set64(MSR.sysenterCs, values.cs);
        cpu.set64(MSR.sysenterEsp, values.stack);
        cpu.set64(MSR.sysenterEip, values.target);
        cpu.set64(RCX, values.stack);
        cpu.set64(RDX, values.target);
        cpu.set32(FLAGS_SYSTEM, flags);
        cpu.set64(CR4, smap);
        cpu.setCpl(cpl);
        cpu.setSegment(3, { selector: 8, attributes: 0xc093, limit: flat, base: 0n });
        cpu.setSegment(1, { selector: 8, attributes: 0xc09b, limit: 0xffffffff, base });
        cpu.updateMode();
      }
      const callout = name === 'sysenter' ? sysenterCallout : sysexitCallout;
      const run = ({ cpu }: Vcpu): unknown => faultOf(() => callout.run(cpu, 0, 0, 0, 32, 0));
      const handled = quick();
      done += handled;
      if (handled === 1) {
        // What the operations that follow do.
        left.cpu.set64(RSP, values.stack);
        left.cpu.set64(RIP, values.target);
      }
      const fault = handled === 0 ? run(left) : undefined;
      const what = `case ${round}: ${JSON.stringify({ flags, cpl, cs: values.cs.toString(16) })}`;
      expect(fault, what).toEqual(run(right));
      expect(stateOf(left) === stateOf(right), what).toBe(true);
    }
    expect(done).toBeGreaterThan(CASES / 5);
    expect(done).toBeLessThan(CASES);
  });

  it.each([['syscall' as const], ['sysret' as const]])('does what %s does', (name) => {
    const [left, right] = pair();
    const quick = bindModule(left, emitQuick)[name];
    const { below } = random(20064);
    const pick = (...items: readonly number[]): number => items[below(items.length)] ?? 0;
    let done = 0;
    for (let round = 0; round < CASES; round++) {
      const word = (): number => (below(0x10000) * 0x10000 + below(0x10000)) >>> 0;
      const flags = pick(FLAG_IF, 0) | (below(4) === 0 ? FLAG_AC : 0) | 2;
      const efer = pick(0x501, 0x501, 0x501, 0x501, 0x500);
      const mask = pick(0x257fd5, 0, word() & ~2);
      const star = word();
      const r11 = word() & (below(3) === 0 ? -1 : ~(FLAG_AC | 0x100));
      const rcx =
        [0x7fff_1234_5678n, 0xffff_8000_0000_0000n, 0x1_0000_0000n, 0x8000_0000_0000n, 7n][below(5)] ?? 0n;
      const cpl = pick(0, 3);
      const waits = pick(0, 0, 1);
      const smap = below(2) === 0 ? BigInt(CR4_SMAP) : 0n;
      const code = pick(ATTR_L, ATTR_L, ATTR_L, ATTR_L, ATTR_DB);
      for (const { cpu } of [left, right]) {
        cpu.set64(EFER, BigInt(efer));
        cpu.set64(MSR.star, BigInt(star) << 32n);
        cpu.set64(MSR.sfmask, BigInt(mask >>> 0));
        cpu.setGpr(11, BigInt(r11 >>> 0));
        cpu.set64(RCX, rcx);
        cpu.set32(FLAGS_SYSTEM, flags);
        cpu.set64(CR4, smap);
        cpu.set32(CTL.interruptRequest, waits);
        cpu.setCpl(cpl);
        cpu.setSegment(1, { selector: 8, attributes: 0x809b | code, limit: 0xffffffff, base: 0n });
        cpu.updateMode();
      }
      const callout = name === 'syscall' ? enterBySyscallCallout : leaveBySysretCallout;
      const run = ({ cpu }: Vcpu): unknown => faultOf(() => callout.run(cpu, 0, 0, 0, 64, 0));
      const handled = name === 'syscall' ? quick() : quick(r11, Number(BigInt.asIntN(32, rcx >> 32n)));
      done += handled;
      const fault = handled === 0 ? run(left) : undefined;
      const what = `case ${round}: ${JSON.stringify({ flags, cpl, efer, mask, star, r11 })} ${rcx}`;
      expect(fault, what).toEqual(run(right));
      expect(stateOf(left) === stateOf(right), what).toBe(true);
    }
    expect(done).toBeGreaterThan(CASES / 8);
    expect(done).toBeLessThan(CASES);
  });
});
