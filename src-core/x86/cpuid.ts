import { TSC_HZ } from '../machine/clock.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { MSR, RAX, RCX } from './layout.ts';
import { MAXPHYADDR } from './paging.ts';

export { MAXPHYADDR } from './paging.ts';

/** Width of linear addresses in bits. */
export const MAXLINADDR = 48;

/** What CPUID returns for one leaf, and subleaf where the leaf has them. Each value is 32 bits, unsigned. */
export interface CpuidEntry {
  readonly leaf: number;
  /** Undefined: the leaf does not look at ECX. */
  readonly subleaf?: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** Feature bits by their SDM names (volume 2, CPUID). */
const EDX_1 = {
  fpu: 1 << 0,
  de: 1 << 2,
  pse: 1 << 3,
  tsc: 1 << 4,
  msr: 1 << 5,
  pae: 1 << 6,
  mce: 1 << 7,
  cx8: 1 << 8,
  apic: 1 << 9,
  sep: 1 << 11,
  mtrr: 1 << 12,
  pge: 1 << 13,
  mca: 1 << 14,
  cmov: 1 << 15,
  pat: 1 << 16,
  pse36: 1 << 17,
  clfsh: 1 << 19,
  mmx: 1 << 23,
  fxsr: 1 << 24,
  sse: 1 << 25,
  sse2: 1 << 26,
};
const ECX_1 = {
  sse3: 1 << 0,
  ssse3: 1 << 9,
  cx16: 1 << 13,
  sse41: 1 << 19,
  sse42: 1 << 20,
  popcnt: 1 << 23,
  tscDeadline: 1 << 24,
  hypervisor: 1 << 31,
};
const EBX_7 = { fsgsbase: 1 << 0, tscAdjust: 1 << 1, smep: 1 << 7, erms: 1 << 9, smap: 1 << 20 };
const EDX_EXTENDED = { syscall: 1 << 11, nx: 1 << 20, pdpe1gb: 1 << 26, rdtscp: 1 << 27, lm: 1 << 29 };
const ECX_EXTENDED = { lahf: 1 << 0, prefetchw: 1 << 8 };
/** APERF and friends are not there; the APIC timer runs in every C-state. */
const EAX_6_ARAT = 1 << 2;
const EDX_80000007_INVARIANT_TSC = 1 << 8;

/**
 * Family 6, model 28, stepping 10. That model executes in order and speculates nothing, as far as guests know:
 * they leave out page-table isolation, retpolines and the like, which would cost much here and protect nothing.
 */
const SIGNATURE = 0x000106ca;
const CLFLUSH_LINE_QUADWORDS = 8;

const all = (bits: Record<string, number>): number =>
  Object.values(bits).reduce((sum, bit) => sum | bit, 0) >>> 0;

/** Four little-endian bytes of a string. */
function word(text: string, at: number): number {
  let value = 0;
  for (let i = 3; i >= 0; i--) value = value * 256 + (text.charCodeAt(at + i) || 0);
  return value;
}

const VENDOR = 'GenuineIntel';
/** What the hypervisor leaf says (12 characters). */
export const HYPERVISOR_SIGNATURE = 'SwitchyardVM';
export const CPU_BRAND = 'Switchyard virtual CPU';

const BASIC_MAX = 0x16;
/** Highest basic leaf while IA32_MISC_ENABLE limits it, for guests that get lost otherwise. */
const BASIC_LIMITED = 3;
const EXTENDED_MAX = 0x80000008;
const HYPERVISOR_MAX = 0x40000000;
/** IA32_MISC_ENABLE: limit CPUID to leaf 3. */
const LIMIT_CPUID_MAXVAL = 1 << 22;

/** A leaf 4 cache: type 1 data, 2 instruction, 3 unified. */
function cache(subleaf: number, type: number, level: number, ways: number, sets: number): CpuidEntry {
  const line = 64;
  return {
    leaf: 4,
    subleaf,
    eax: type | (level << 5) | (1 << 8),
    ebx: (line - 1) | ((ways - 1) << 22),
    ecx: sets - 1,
    edx: 0,
  };
}

function brand(leaf: number): CpuidEntry {
  const at = (leaf - 0x80000002) * 16;
  return {
    leaf,
    eax: word(CPU_BRAND, at),
    ebx: word(CPU_BRAND, at + 4),
    ecx: word(CPU_BRAND, at + 8),
    edx: word(CPU_BRAND, at + 12),
  };
}

/**
 * The one CPUID model of all engines: what the translator implements, and nothing else. Static; `cpuid` adds the
 * bits that follow the vCPU's state. Leaves between these are zero.
 */
export const CPUID_MODEL: readonly CpuidEntry[] = [
  { leaf: 0, eax: BASIC_MAX, ebx: word(VENDOR, 0), edx: word(VENDOR, 4), ecx: word(VENDOR, 8) },
  {
    leaf: 1,
    eax: SIGNATURE,
    ebx: (CLFLUSH_LINE_QUADWORDS << 8) | (1 << 16),
    ecx: all(ECX_1),
    edx: all(EDX_1),
  },
  // One descriptor: see leaf 4.
  { leaf: 2, eax: 0x00feff01, ebx: 0, ecx: 0, edx: 0 },
  cache(0, 1, 1, 8, 64),
  cache(1, 2, 1, 8, 64),
  cache(2, 3, 2, 16, 1024),
  { leaf: 6, eax: EAX_6_ARAT, ebx: 0, ecx: 0, edx: 0 },
  { leaf: 7, subleaf: 0, eax: 0, ebx: all(EBX_7), ecx: 0, edx: 0 },
  // TSC = crystal * EBX / EAX. The local APIC's timer counts the same crystal.
  { leaf: 0x15, eax: 1, ebx: 1, ecx: TSC_HZ, edx: 0 },
  { leaf: 0x16, eax: TSC_HZ / 1e6, ebx: TSC_HZ / 1e6, ecx: TSC_HZ / 1e6, edx: 0 },
  {
    leaf: 0x40000000,
    eax: HYPERVISOR_MAX,
    ebx: word(HYPERVISOR_SIGNATURE, 0),
    ecx: word(HYPERVISOR_SIGNATURE, 4),
    edx: word(HYPERVISOR_SIGNATURE, 8),
  },
  { leaf: 0x80000000, eax: EXTENDED_MAX, ebx: 0, ecx: 0, edx: 0 },
  { leaf: 0x80000001, eax: 0, ebx: 0, ecx: all(ECX_EXTENDED), edx: all(EDX_EXTENDED) },
  brand(0x80000002),
  brand(0x80000003),
  brand(0x80000004),
  // L2 cache: 1 MiB, 16 ways, 64-byte lines.
  { leaf: 0x80000006, eax: 0, ebx: 0, ecx: (1024 << 16) | (8 << 12) | 64, edx: 0 },
  { leaf: 0x80000007, eax: 0, ebx: 0, ecx: 0, edx: EDX_80000007_INVARIANT_TSC },
  { leaf: 0x80000008, eax: MAXPHYADDR | (MAXLINADDR << 8), ebx: 0, ecx: 0, edx: 0 },
];

/** A feature bit: mask `bit` in a register of a leaf. */
export interface CpuidFeature {
  readonly name: string;
  readonly leaf: number;
  readonly register: 'ebx' | 'ecx' | 'edx';
  readonly bit: number;
}

const features = (
  leaf: number,
  register: CpuidFeature['register'],
  bits: Record<string, number>,
): CpuidFeature[] => Object.entries(bits).map(([name, bit]) => ({ name, leaf, register, bit }));

/** Features that are devices and MSRs of the machine, whatever the processor is. */
const OF_THE_MACHINE: readonly string[] = [
  'apic',
  'mtrr',
  'mce',
  'mca',
  'pat',
  'tscDeadline',
  'hypervisor',
  'tscAdjust',
];

/** The features of the model that a processor must have to run guests of ours itself. */
export const NEEDED_FEATURES: readonly CpuidFeature[] = [
  ...features(1, 'edx', EDX_1),
  ...features(1, 'ecx', ECX_1),
  ...features(7, 'ebx', EBX_7),
  ...features(0x80000001, 'edx', EDX_EXTENDED),
  ...features(0x80000001, 'ecx', ECX_EXTENDED),
].filter(({ name }) => !OF_THE_MACHINE.includes(name));

const byKey = new Map<number, CpuidEntry>();
const keyOf = (leaf: number, subleaf: number): number => leaf * 256 + subleaf;
for (const entry of CPUID_MODEL) byKey.set(keyOf(entry.leaf, entry.subleaf ?? 0), entry);
const withSubleaves = new Set(
  CPUID_MODEL.filter(({ subleaf }) => subleaf !== undefined).map(({ leaf }) => leaf),
);

/** What CPUID returns to the vCPU now. A leaf out of range gives the highest basic one, as on Intel's CPUs. */
export function cpuid(cpu: Cpu, leaf: number, subleaf: number): CpuidEntry {
  const basicMax = (cpu.get32(MSR.miscEnable) & LIMIT_CPUID_MAXVAL) !== 0 ? BASIC_LIMITED : BASIC_MAX;
  const known =
    leaf <= basicMax ||
    (leaf >= 0x40000000 && leaf <= HYPERVISOR_MAX) ||
    (leaf >= 0x80000000 && leaf <= EXTENDED_MAX);
  const shown = known ? leaf : basicMax;
  // Subleaves above 255 are as unknown as 255.
  const found = byKey.get(keyOf(shown, withSubleaves.has(shown) ? Math.min(subleaf, 255) : 0));
  const entry = found ?? { leaf: shown, eax: 0, ebx: 0, ecx: 0, edx: 0 };
  if (shown === 0) return { ...entry, eax: basicMax };
  if (shown === 1 && (cpu.get32(MSR.apicBase) & (1 << 11)) === 0) {
    return { ...entry, edx: (entry.edx & ~EDX_1.apic) >>> 0 };
  }
  // Intel's CPUs show SYSCALL in 64-bit code only.
  if (shown === 0x80000001 && !cpu.code64) {
    return { ...entry, edx: (entry.edx & ~EDX_EXTENDED.syscall) >>> 0 };
  }
  return entry;
}

/** CPUID: no operands; EAX and ECX in, EAX, EBX, ECX, EDX out. */
export const cpuidCallout = defineCallout('cpuid', 'cpuid', (cpu) => {
  const { eax, ebx, ecx, edx } = cpuid(cpu, cpu.get32(RAX), cpu.get32(RCX));
  cpu.setGpr32(0, eax);
  cpu.setGpr32(3, ebx);
  cpu.setGpr32(1, ecx);
  cpu.setGpr32(2, edx);
});
