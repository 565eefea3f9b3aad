import { describe, expect, it } from 'vitest';
import { ATTR_L, EFER_LMA } from '../../src-core/x86/bits.ts';
import {
  CPU_BRAND,
  CPUID_MODEL,
  cpuid,
  cpuidCallout,
  HYPERVISOR_SIGNATURE,
} from '../../src-core/x86/cpuid.ts';
import { CS, EFER, MSR, SEG_FIELD } from '../../src-core/x86/layout.ts';
import { call, makeVcpu } from './vcpu.ts';

const text = (...words: number[]): string =>
  words.map((word) => String.fromCharCode(...[0, 8, 16, 24].map((at) => (word >>> at) & 0xff))).join('');

describe('CPUID', () => {
  it('names vendor, brand and hypervisor', () => {
    const { cpu } = makeVcpu();
    const vendor = cpuid(cpu, 0, 0);
    expect(text(vendor.ebx, vendor.edx, vendor.ecx)).toBe('GenuineIntel');
    const brand = [0x80000002, 0x80000003, 0x80000004]
      .map((leaf) => cpuid(cpu, leaf, 0))
      .map(({ eax, ebx, ecx, edx }) => text(eax, ebx, ecx, edx))
      .join('');
    expect(brand.replace(/\0+$/, '')).toBe(CPU_BRAND);
    const hypervisor = cpuid(cpu, 0x40000000, 0);
    expect(text(hypervisor.ebx, hypervisor.ecx, hypervisor.edx)).toBe(HYPERVISOR_SIGNATURE);
  });

  it('shows whole unsigned 32-bit values, one entry a leaf and subleaf', () => {
    const seen = new Set<string>();
    for (const { leaf, subleaf = 0, eax, ebx, ecx, edx } of CPUID_MODEL) {
      for (const value of [leaf, subleaf, eax, ebx, ecx, edx]) {
        expect(Number.isInteger(value) && value >= 0 && value <= 0xffffffff).toBe(true);
      }
      expect(seen.has(`${leaf}.${subleaf}`)).toBe(false);
      seen.add(`${leaf}.${subleaf}`);
    }
  });

  it('lists the caches of leaf 4 and ends the list', () => {
    const { cpu } = makeVcpu();
    expect([0, 1, 2, 3, 0x10000].map((subleaf) => cpuid(cpu, 4, subleaf).eax & 0x1f)).toEqual([
      1, 2, 3, 0, 0,
    ]);
  });

  it('ignores ECX where a leaf has no subleaves', () => {
    const { cpu } = makeVcpu();
    expect(cpuid(cpu, 1, 77)).toEqual(cpuid(cpu, 1, 0));
  });

  it('answers out of range with the highest basic leaf', () => {
    const { cpu } = makeVcpu();
    const { eax: highest } = cpuid(cpu, 0, 0);
    for (const leaf of [highest + 1, 0x40000001, 0x80000009, 0xffffffff]) {
      expect(cpuid(cpu, leaf, 0)).toEqual(cpuid(cpu, highest, 0));
    }
  });

  it('follows the state: APIC, SYSCALL, the leaf limit', () => {
    const { cpu } = makeVcpu();
    const apic = (): number => (cpuid(cpu, 1, 0).edx >>> 9) & 1;
    expect(apic()).toBe(1);
    cpu.set64(MSR.apicBase, 0xfee00100n);
    expect(apic()).toBe(0);
    const syscall = (): number => (cpuid(cpu, 0x80000001, 0).edx >>> 11) & 1;
    expect(syscall()).toBe(0);
    cpu.set64(EFER, BigInt(EFER_LMA));
    cpu.set32(CS + SEG_FIELD.attributes, ATTR_L | 0x9b);
    expect(syscall()).toBe(1);
    cpu.set64(MSR.miscEnable, 1n << 22n);
    expect(cpuid(cpu, 0, 0).eax).toBe(3);
  });

  it('clears the upper halves of its four registers', () => {
    const { cpu } = makeVcpu();
    for (const index of [0, 1, 2, 3]) cpu.setGpr(index, 0xffffffff00000000n);
    call(cpu, cpuidCallout);
    expect([0, 3, 1, 2].map((index) => cpu.gpr(index))).toEqual([
      0x16n,
      0x756e6547n,
      0x6c65746en,
      0x49656e69n,
    ]);
  });
});
