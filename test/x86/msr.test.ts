import { beforeEach, describe, expect, it } from 'vitest';
import { CR0_PE, CR0_PG, CR4_TSD } from '../../src-core/x86/bits.ts';
import { CR0, CR4, EFER, FS, GS, MSR, SEG_FIELD } from '../../src-core/x86/layout.ts';
import {
  MSR_INDEX,
  MSR_INDICES,
  rdmsr,
  rdpmc,
  rdtsc,
  rdtscp,
  readMsr,
  writeMsr,
  wrmsr,
} from '../../src-core/x86/msr.ts';
import { call, faultOf, makeVcpu, type Vcpu } from './vcpu.ts';

const GP = [13, 0];

describe('MSRs', () => {
  let v: Vcpu;
  beforeEach(() => {
    v = makeVcpu();
  });
  const write = (index: number, value: bigint): unknown => faultOf(() => writeMsr(v.cpu, index, value));
  const read = (index: number): bigint => readMsr(v.cpu, index);

  it('can all be read at power-on', () => {
    for (const index of MSR_INDICES) expect(faultOf(() => read(index))).toBeUndefined();
  });

  it('that are unknown raise #GP(0)', () => {
    expect(faultOf(() => read(0xdeadbeef))).toEqual(GP);
    expect(write(0xdeadbeef, 0n)).toEqual(GP);
    expect(write(MSR_INDEX.mtrrCap, 0n)).toEqual(GP);
  });

  it.each([
    [MSR_INDEX.lstar, [0n, 0x7fffffffffffn, 0xffff800000000000n], [0x800000000000n, 0x8000000000000000n]],
    [MSR_INDEX.fsBase, [0xffffffffffffffffn], [0xffff7fffffffffffn]],
    [MSR_INDEX.sysenterEip, [0xffffffff81000000n], [1n << 62n]],
    [MSR_INDEX.fmask, [0x47700n], [1n << 32n]],
    [MSR_INDEX.tscAux, [0xffffffffn], [1n << 32n]],
    [MSR_INDEX.pat, [0x0407050600070106n], [0x0007040600070402n, 0x03n << 56n, 0x0807040600070406n]],
    [MSR_INDEX.mtrrDefType, [0xc06n, 0n], [0x1000n, 2n, 0xc07n]],
    [MSR_INDEX.mtrrPhysBase0, [0xc0000000n, 0xff_fffff006n], [0x100_00000000n, 0xc0000002n, 0xc0000100n]],
    [MSR_INDEX.mtrrPhysBase0 + 15, [0xff_c0000800n], [0xff_c0000400n, 0x100_00000000n]],
    [0x26f, [0x0606060606060606n, 0x0505050505050505n], [0x0606060206060606n]],
    [MSR_INDEX.apicBase, [0xfee00900n, 0xfee00100n], [0xfee00d00n, 0xfee00901n, 1n << 40n]],
    [MSR_INDEX.miscEnable, [0n, 1n, 1n << 22n], [1n << 34n]],
  ] as const)('0x%s takes what it may hold and keeps it', (index, good, bad) => {
    for (const value of good) {
      expect(write(index, value)).toBeUndefined();
      expect(read(index)).toBe(value);
    }
    const before = read(index);
    for (const value of bad) expect([value, write(index, value)]).toEqual([value, GP]);
    expect(read(index)).toBe(before);
  });

  it('FS and GS bases are those of the segment registers', () => {
    write(MSR_INDEX.fsBase, 0x1234n);
    write(MSR_INDEX.gsBase, 0xffff888000000000n);
    expect([v.cpu.get64(FS + SEG_FIELD.base), v.cpu.get64(GS + SEG_FIELD.base)]).toEqual([
      0x1234n,
      0xffff888000000000n,
    ]);
  });

  it('EFER keeps LMA, refuses reserved bits, and LME while paging is on', () => {
    expect(write(MSR_INDEX.efer, 0xd01n)).toBeUndefined();
    expect(read(MSR_INDEX.efer)).toBe(0x901n);
    for (const bit of [1n, 9n, 12n, 14n, 15n, 63n])
      expect(write(MSR_INDEX.efer, 0x901n | (1n << bit))).toEqual(GP);
    v.cpu.set64(CR0, BigInt((CR0_PE | CR0_PG) >>> 0));
    v.cpu.set64(EFER, 0xd01n);
    expect(write(MSR_INDEX.efer, 0x801n)).toEqual(GP);
    expect(write(MSR_INDEX.efer, 0x100n)).toBeUndefined();
    expect(read(MSR_INDEX.efer)).toBe(0x500n);
  });

  it('tell the local APIC of its base and its deadline', () => {
    const told: bigint[] = [];
    v.cpu.onApicBase = (value) => told.push(value);
    v.cpu.onTscDeadline = (value) => told.push(-value);
    write(MSR_INDEX.apicBase, 0xfee00100n);
    write(MSR_INDEX.tscDeadline, 1000n);
    write(MSR_INDEX.timeStampCounter, 77n);
    expect(told).toEqual([0xfee00100n, -1000n, -1000n]);
  });

  it('RDMSR and WRMSR split the value over EDX:EAX and want CPL 0', () => {
    const { cpu } = v;
    cpu.setGpr(1, BigInt(MSR_INDEX.lstar) | (1n << 40n));
    cpu.setGpr(0, 0xaaaaaaaa81234567n);
    cpu.setGpr(2, 0xbbbbbbbbffffffffn);
    call(cpu, wrmsr);
    expect(cpu.get64(MSR.lstar)).toBe(0xffffffff81234567n);
    call(cpu, rdmsr);
    expect([cpu.gpr(0), cpu.gpr(2)]).toEqual([0x81234567n, 0xffffffffn]);
    cpu.setCpl(3);
    expect(faultOf(() => call(cpu, rdmsr))).toEqual(GP);
    expect(faultOf(() => call(cpu, wrmsr))).toEqual(GP);
  });
});

describe('time-stamp counter', () => {
  const pair = ({ cpu }: Vcpu): bigint => (cpu.gpr(2) << 32n) | cpu.gpr(0);

  it('counts guest nanoseconds from where it was set', () => {
    const v = makeVcpu();
    v.clock.advance(5_000_000_123);
    call(v.cpu, rdtsc);
    expect(pair(v)).toBe(5_000_000_123n);
    writeMsr(v.cpu, MSR_INDEX.timeStampCounter, 0xfffffffffffffff0n);
    call(v.cpu, rdtsc);
    expect(pair(v)).toBe(0xfffffffffffffff0n);
    v.clock.advance(0x20);
    call(v.cpu, rdtsc);
    expect(pair(v)).toBe(0x10n);
    expect(readMsr(v.cpu, MSR_INDEX.timeStampCounter)).toBe(0x10n);
  });

  it('moves with TSC_ADJUST', () => {
    const v = makeVcpu();
    v.clock.advance(100);
    writeMsr(v.cpu, MSR_INDEX.tscAdjust, 1000n);
    expect(readMsr(v.cpu, MSR_INDEX.timeStampCounter)).toBe(1100n);
    writeMsr(v.cpu, MSR_INDEX.timeStampCounter, 50n);
    expect(BigInt.asIntN(64, readMsr(v.cpu, MSR_INDEX.tscAdjust))).toBe(-50n);
  });

  it('is for CPL 0 alone with CR4.TSD', () => {
    const v = makeVcpu();
    v.cpu.setCpl(3);
    expect(faultOf(() => call(v.cpu, rdtsc))).toBeUndefined();
    v.cpu.set64(CR4, BigInt(CR4_TSD));
    expect(faultOf(() => call(v.cpu, rdtsc))).toEqual(GP);
    expect(faultOf(() => call(v.cpu, rdtscp))).toEqual(GP);
    v.cpu.setCpl(0);
    expect(faultOf(() => call(v.cpu, rdtsc))).toBeUndefined();
  });

  it('comes with the processor number in RDTSCP', () => {
    const v = makeVcpu();
    writeMsr(v.cpu, MSR_INDEX.tscAux, 0xabcdn);
    v.cpu.setGpr(1, -1n);
    call(v.cpu, rdtscp);
    expect(v.cpu.gpr(1)).toBe(0xabcdn);
  });

  it('has no performance counters beside it', () => {
    expect(faultOf(() => call(makeVcpu().cpu, rdpmc))).toEqual(GP);
  });
});
