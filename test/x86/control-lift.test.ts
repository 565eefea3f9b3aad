import { beforeEach, describe, expect, it } from 'vitest';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  CR4_FSGSBASE,
  CR4_PAE,
  CR4_SMAP,
  CR0_PE,
  CR0_PG,
  EFER_LMA,
  EFER_LME,
  FLAG_AC,
} from '../../src-core/x86/bits.ts';
import {
  CR0,
  CR3,
  CR4,
  CS,
  CTL,
  DR7,
  EFER,
  FLAGS_SYSTEM,
  FS,
  GS,
  MSR,
  SEG_FIELD,
  SS,
} from '../../src-core/x86/layout.ts';
import { makeVcpu, type Vcpu } from './vcpu.ts';

const CODE = 0x7000;
const HLT = 0xf4;

let v: Vcpu;
let engine: SoftwareEngine;

beforeEach(() => {
  v = makeVcpu();
  engine = new SoftwareEngine({ arena: v.cpu.arena, cpu: v.cpu });
  // Every vector of the real-mode table leads to HLT at 0x500 + vector.
  for (let vector = 0; vector < 32; vector++) {
    v.cpu.arena.ram.set([vector, 0x05, 0, 0], vector * 4);
    v.cpu.arena.ram[0x500 + vector] = HLT;
  }
  v.cpu.setSegment(1, { selector: 0, attributes: 0x9b, limit: 0xffff, base: 0n });
  v.cpu.setGpr(4, 0x4000n);
  v.cpu.updateMode();
});

/** Runs code up to the HLT behind it; the address of the HLT it ends at, minus the code's end (0: none faulted). */
function run(...bytes: number[]): number {
  v.cpu.arena.ram.set([...bytes, HLT], CODE);
  engine.memoryChanged(CODE, bytes.length + 1);
  v.cpu.rip = BigInt(CODE);
  v.cpu.set32(CTL.halted, 0);
  expect(engine.run(1000)).toBe('halt');
  return Number(v.cpu.rip) - (CODE + bytes.length + 1);
}
/** The vector that `bytes` raise. */
function vectorOf(...bytes: number[]): number {
  run(...bytes);
  return Number(v.cpu.rip) - 0x501;
}

/** 64-bit code at CPL 0 with the first 2 MiB mapped to themselves. */
function enter64(cr4 = 0): void {
  const { cpu } = v;
  const put = (at: number, value: bigint): void => cpu.arena.view.setBigUint64(ARENA.ram + at, value, true);
  put(0x1000, 0x2007n);
  put(0x2000, 0x3007n);
  put(0x3000, 0x87n);
  cpu.set64(CR0, BigInt((CR0_PE | CR0_PG) >>> 0));
  cpu.set64(CR3, 0x1000n);
  cpu.set64(CR4, BigInt(CR4_PAE | cr4));
  cpu.set64(EFER, BigInt(EFER_LME | EFER_LMA));
  cpu.set32(CS + SEG_FIELD.attributes, 0xa09b);
  cpu.set32(SS + SEG_FIELD.attributes, 0xc093);
  cpu.stateReplaced();
}

describe('16-bit code', () => {
  it('moves control registers', () => {
    expect(run(0x0f, 0x20, 0xc0)).toBe(0); // mov eax, cr0
    expect(v.cpu.gpr(0)).toBe(0x60000010n);
    v.cpu.setGpr(1, 0x12345678n);
    expect(run(0x0f, 0x22, 0xd1, 0x0f, 0x20, 0xd2)).toBe(0); // mov cr2, ecx; mov edx, cr2
    expect(v.cpu.gpr(2)).toBe(0x12345678n);
    expect(vectorOf(0x0f, 0x20, 0xc8)).toBe(6); // mov eax, cr1
    v.cpu.setGpr(0, 1n << 11n);
    expect(vectorOf(0x0f, 0x22, 0xe0)).toBe(13); // mov cr4, eax
  });

  it('enters protected mode and knows it at once', () => {
    // mov cr0, ecx; mov eax, cr0
    v.cpu.setGpr(1, 0x11n);
    expect(run(0x0f, 0x22, 0xc1, 0x0f, 0x20, 0xc0)).toBe(0);
    expect([v.cpu.gpr(0), v.cpu.protectedMode]).toEqual([0x11n, true]);
  });

  it('loads and stores the machine status word', () => {
    v.cpu.setGpr(0, 0xffff0000n);
    v.cpu.setGpr(3, 0x6000n);
    // smsw ax; smsw [bx]; smsw ecx
    expect(run(0x0f, 0x01, 0xe0, 0x0f, 0x01, 0x27, 0x66, 0x0f, 0x01, 0xe1)).toBe(0);
    expect([v.cpu.gpr(0), v.cpu.mmu.read32(0x6000), v.cpu.gpr(1)]).toEqual([0xffff0010n, 0x10, 0x60000010n]);
    v.cpu.mmu.write16(0x6000, 0xe);
    expect(run(0x0f, 0x01, 0x37)).toBe(0); // lmsw [bx]
    expect(v.cpu.get32(CR0) & 0xf).toBe(0xe);
    expect(run(0x0f, 0x06)).toBe(0); // clts
    expect(v.cpu.get32(CR0) & 0xf).toBe(6);
  });

  it('moves debug registers', () => {
    v.cpu.setGpr(0, 0x700n);
    expect(run(0x0f, 0x23, 0xf8, 0x0f, 0x21, 0xf9)).toBe(0); // mov dr7, eax; mov ecx, dr7
    expect([v.cpu.get64(DR7), v.cpu.gpr(1)]).toEqual([0x700n, 0x700n]);
    v.cpu.set64(DR7, 0x2400n);
    expect(vectorOf(0x0f, 0x21, 0xf9)).toBe(1);
  });

  it('executes CPUID, RDMSR, WRMSR, RDTSC', () => {
    v.cpu.setGpr(0, 0n);
    expect(run(0x0f, 0xa2)).toBe(0);
    expect(v.cpu.gpr(3)).toBe(0x756e6547n);
    v.clock.advance(1234);
    expect(run(0x0f, 0x31)).toBe(0);
    expect(v.cpu.gpr(0)).toBe(1234n);
    v.cpu.setGpr(1, 0x174n);
    v.cpu.setGpr(0, 0x10n);
    v.cpu.setGpr(2, 0n);
    expect(run(0x0f, 0x30)).toBe(0);
    expect(v.cpu.get64(MSR.sysenterCs)).toBe(0x10n);
    v.cpu.setGpr(0, 0n);
    expect(run(0x0f, 0x32)).toBe(0);
    expect(v.cpu.gpr(0)).toBe(0x10n);
    v.cpu.setGpr(1, 0x12345n);
    expect(vectorOf(0x0f, 0x32)).toBe(13);
    expect(vectorOf(0x0f, 0x33)).toBe(13); // rdpmc
    expect(v.accounting.snapshot().reasons['msr']?.count).toBe(4);
  });

  it('ignores what only caches would notice', () => {
    v.cpu.setGpr(3, 0x6000n);
    // invd; wbinvd; invlpg [bx]; prefetcht0 [bx]; prefetchw [bx]; clflush [bx]
    expect(
      run(0x0f, 0x08, 0x0f, 0x09, 0x0f, 0x01, 0x3f, 0x0f, 0x18, 0x0f, 0x0f, 0x0d, 0x0f, 0x0f, 0xae, 0x3f),
    ).toBe(0);
  });

  it.each([
    ['xgetbv', [0x0f, 0x01, 0xd0]],
    ['monitor', [0x0f, 0x01, 0xc8]],
    ['mwait', [0x0f, 0x01, 0xc9]],
    ['rsm', [0x0f, 0xaa]],
    ['vmcall', [0x0f, 0x01, 0xc1]],
  ])('%s is undefined', (_name, bytes) => {
    expect(vectorOf(...bytes)).toBe(6);
  });
});

describe('64-bit code', () => {
  it('moves whole control registers, CR8 too', () => {
    enter64();
    let priority = 0;
    v.cpu.onWriteTpr = (value) => (priority = value);
    v.cpu.readTpr = () => priority;
    v.cpu.setGpr(0, 0xffff800000001234n);
    v.cpu.setGpr(3, 7n);
    // mov cr2, rax; mov rcx, cr2; mov cr8, rbx; mov rdx, cr8
    expect(run(0x0f, 0x22, 0xd0, 0x0f, 0x20, 0xd1, 0x44, 0x0f, 0x22, 0xc3, 0x44, 0x0f, 0x20, 0xc2)).toBe(0);
    expect([v.cpu.gpr(1), v.cpu.gpr(2), priority]).toEqual([0xffff800000001234n, 7n, 7]);
  });

  it('swaps GS and reads and writes segment bases', () => {
    enter64(CR4_FSGSBASE);
    v.cpu.set64(GS + SEG_FIELD.base, 0x1111n);
    v.cpu.set64(MSR.kernelGsBase, 0xffff888000002222n);
    v.cpu.setGpr(1, 0xffffffff00003333n);
    // swapgs; rdgsbase rax; wrfsbase ecx; rdfsbase rdx
    expect(
      run(
        0x0f,
        0x01,
        0xf8,
        0xf3,
        0x48,
        0x0f,
        0xae,
        0xc8,
        0xf3,
        0x0f,
        0xae,
        0xd1,
        0xf3,
        0x48,
        0x0f,
        0xae,
        0xc2,
      ),
    ).toBe(0);
    expect([v.cpu.get64(MSR.kernelGsBase), v.cpu.gpr(0), v.cpu.gpr(2)]).toEqual([
      0x1111n,
      0xffff888000002222n,
      0x3333n,
    ]);
    expect(v.cpu.get64(FS + SEG_FIELD.base)).toBe(0x3333n);
  });

  it('opens and shuts user pages with STAC and CLAC', () => {
    enter64(CR4_SMAP);
    // The code's own page is a user page: fetching it is SMEP's business, reading it SMAP's.
    expect(run(0x0f, 0x01, 0xcb, 0xa0, 0, 0x70, 0, 0, 0, 0, 0, 0)).toBe(0); // stac; mov al, [0x7000]
    expect([v.cpu.gpr32(0) & 0xff, v.cpu.get32(FLAGS_SYSTEM) & FLAG_AC]).toEqual([0x0f, FLAG_AC]);
    expect(run(0x0f, 0x01, 0xca)).toBe(0);
    expect(v.cpu.get32(FLAGS_SYSTEM) & FLAG_AC).toBe(0);
  });

  it('sees a remapped page after INVLPG', () => {
    enter64();
    const { cpu } = v;
    cpu.arena.view.setBigUint64(ARENA.ram + 0x3000, 0x4007n, true);
    for (let i = 0; i < 512; i++)
      cpu.arena.view.setBigUint64(ARENA.ram + 0x4000 + i * 8, BigInt(i * 0x1000) | 7n, true);
    cpu.mmu.flush();
    cpu.arena.ram[0x9000] = 0x11;
    cpu.arena.ram[0xa000] = 0x22;
    cpu.setGpr(3, 0x9000n);
    cpu.setGpr(2, 0xa007n);
    cpu.setGpr(6, 0x4048n);
    // mov al, [rbx]; mov [rsi], rdx; mov ah, [rbx]; invlpg [rbx]; mov cl, [rbx]
    expect(run(0x8a, 0x03, 0x48, 0x89, 0x16, 0x8a, 0x23, 0x0f, 0x01, 0x3b, 0x8a, 0x0b)).toBe(0);
    expect([cpu.gpr32(0) & 0xffff, cpu.gpr32(1) & 0xff]).toEqual([0x1111, 0x22]);
  });
});
