import { CR0_PG, CR4_TSD, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE } from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { gp } from './faults.ts';
import { CTL, EFER, FS, GS, MSR, RAX, RCX, RDX, SEG_FIELD } from './layout.ts';
import { MAXPHYADDR } from './paging.ts';
import { requireCpl0 } from './privilege.ts';

/** A model-specific register (Intel SDM volume 4). */
interface Register {
  readonly read: (cpu: Cpu) => bigint;
  /** Absent: writing is #GP(0). Throws #GP(0) for a value that is not allowed, before changing anything. */
  readonly write?: (cpu: Cpu, value: bigint) => void;
}

/** Indices of MSRs, by their architectural names without IA32_. */
export const MSR_INDEX = {
  timeStampCounter: 0x10,
  platformId: 0x17,
  apicBase: 0x1b,
  featureControl: 0x3a,
  tscAdjust: 0x3b,
  biosSignId: 0x8b,
  mtrrCap: 0xfe,
  sysenterCs: 0x174,
  sysenterEsp: 0x175,
  sysenterEip: 0x176,
  mcgCap: 0x179,
  mcgStatus: 0x17a,
  miscEnable: 0x1a0,
  debugCtl: 0x1d9,
  mtrrPhysBase0: 0x200,
  pat: 0x277,
  mtrrDefType: 0x2ff,
  tscDeadline: 0x6e0,
  efer: 0xc0000080,
  star: 0xc0000081,
  lstar: 0xc0000082,
  cstar: 0xc0000083,
  fmask: 0xc0000084,
  fsBase: 0xc0000100,
  gsBase: 0xc0000101,
  kernelGsBase: 0xc0000102,
  tscAux: 0xc0000103,
} as const;

const PHYSICAL_MASK = (1n << BigInt(MAXPHYADDR)) - 1n;
/** Variable-range MTRRs. */
const MTRR_VARIABLE = 8;
/** The fixed-range MTRRs, in the order of the state slots at MSR.mtrrFixed. */
const MTRR_FIXED = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

const TWO_32 = 0x100000000;

const isCanonical = (value: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(48, value)) === value;

/** Memory types an MTRR (UC WC WT WP WB) or PAT entry (also UC-) may hold. */
const isMtrrType = (type: number): boolean => type === 0 || type === 1 || (type >= 4 && type <= 6);
const isPatType = (type: number): boolean => isMtrrType(type) || type === 7;

function everyByte(value: bigint, allowed: (byte: number) => boolean): boolean {
  for (let at = 0n; at < 64n; at += 8n) if (!allowed(Number((value >> at) & 0xffn))) return false;
  return true;
}

/** A register that is a slot of the state. `check` says which values may be written. */
function slot(offset: number, check: (value: bigint) => boolean = () => true): Register {
  return {
    read: (cpu) => cpu.get64(offset),
    write: (cpu, value) => {
      if (!check(value)) throw gp();
      cpu.set64(offset, value);
    },
  };
}

const readOnly = (value: bigint): Register => ({ read: () => value });

/** A register whose writes change nothing while only `mask` bits are set, and which reads `value`. */
function inert(value: bigint, mask: bigint): Register {
  return {
    read: () => value,
    write: (_cpu, written) => {
      if ((written & ~mask) !== 0n) throw gp();
    },
  };
}

const isLow32 = (value: bigint): boolean => value >> 32n === 0n;

/** The time-stamp counter: 64 bits, TSC_HZ ticks a second of guest time. */
export function readTsc(cpu: Cpu): bigint {
  return BigInt.asUintN(64, BigInt(cpu.clock.now()) + cpu.get64(MSR.tscOffset));
}

/** The guest moves its TSC: IA32_TSC_ADJUST, zero at power-on, moves by the same amount. */
function addToTsc(cpu: Cpu, ticks: bigint): void {
  cpu.set64(MSR.tscOffset, BigInt.asUintN(64, cpu.get64(MSR.tscOffset) + ticks));
  cpu.set64(MSR.tscAdjust, BigInt.asUintN(64, cpu.get64(MSR.tscAdjust) + ticks));
  // A deadline that waits lies elsewhere in time now.
  const deadline = cpu.get64(MSR.tscDeadline);
  if (deadline !== 0n) cpu.onTscDeadline(deadline);
}

const EFER_WRITABLE = BigInt(EFER_SCE | EFER_LME | EFER_NXE);
/** Local APIC enabled, bootstrap processor, base address. */
const APIC_BASE_WRITABLE = (PHYSICAL_MASK & ~0xfffn) | 0x900n;
/** Fast strings, enhanced SpeedStep, limit CPUID. */
const MISC_ENABLE_WRITABLE = (1n << 0n) | (1n << 16n) | (1n << 22n);

function writeEfer(cpu: Cpu, value: bigint): void {
  if ((value & ~(EFER_WRITABLE | BigInt(EFER_LMA))) !== 0n) throw gp();
  const old = cpu.efer;
  const wanted = Number(value & EFER_WRITABLE) | (old & EFER_LMA);
  if (((wanted ^ old) & EFER_LME) !== 0 && (cpu.cr0 & CR0_PG) !== 0) throw gp();
  cpu.set64(EFER, BigInt(wanted));
  if (((wanted ^ old) & EFER_NXE) !== 0) cpu.mmu.flush();
}

const registers = new Map<number, Register>([
  [
    MSR_INDEX.timeStampCounter,
    {
      read: readTsc,
      write: (cpu, value) => addToTsc(cpu, value - readTsc(cpu)),
    },
  ],
  [MSR_INDEX.platformId, readOnly(0n)],
  [
    MSR_INDEX.apicBase,
    {
      read: (cpu) => cpu.get64(MSR.apicBase),
      write: (cpu, value) => {
        if ((value & ~APIC_BASE_WRITABLE) !== 0n) throw gp();
        cpu.set64(MSR.apicBase, value);
        cpu.onApicBase(value);
      },
    },
  ],
  // Locked, with nothing enabled: there is no VMX.
  [MSR_INDEX.featureControl, readOnly(1n)],
  [
    MSR_INDEX.tscAdjust,
    {
      read: (cpu) => cpu.get64(MSR.tscAdjust),
      write: (cpu, value) => addToTsc(cpu, value - cpu.get64(MSR.tscAdjust)),
    },
  ],
  // Guests write zero, execute CPUID and read the revision.
  [MSR_INDEX.biosSignId, inert(1n << 32n, (1n << 64n) - 1n)],
  // 8 variable ranges, fixed ranges, write combining.
  [MSR_INDEX.mtrrCap, readOnly(0x500n | BigInt(MTRR_VARIABLE))],
  [MSR_INDEX.sysenterCs, slot(MSR.sysenterCs)],
  [MSR_INDEX.sysenterEsp, slot(MSR.sysenterEsp, isCanonical)],
  [MSR_INDEX.sysenterEip, slot(MSR.sysenterEip, isCanonical)],
  // No machine-check banks.
  [MSR_INDEX.mcgCap, readOnly(0n)],
  [MSR_INDEX.mcgStatus, inert(0n, 0n)],
  [MSR_INDEX.miscEnable, slot(MSR.miscEnable, (value) => (value & ~MISC_ENABLE_WRITABLE) === 0n)],
  // Last-branch records and branch single-stepping may be asked for and do nothing.
  [MSR_INDEX.debugCtl, inert(0n, 3n)],
  [MSR_INDEX.pat, slot(MSR.pat, (value) => everyByte(value, isPatType))],
  [
    MSR_INDEX.mtrrDefType,
    slot(MSR.mtrrDefType, (value) => (value & ~0xcffn) === 0n && isMtrrType(Number(value & 0xffn))),
  ],
  [
    MSR_INDEX.tscDeadline,
    {
      read: (cpu) => cpu.get64(MSR.tscDeadline),
      write: (cpu, value) => {
        cpu.set64(MSR.tscDeadline, value);
        cpu.onTscDeadline(value);
      },
    },
  ],
  [MSR_INDEX.efer, { read: (cpu) => cpu.get64(EFER), write: writeEfer }],
  [MSR_INDEX.star, slot(MSR.star)],
  [MSR_INDEX.lstar, slot(MSR.lstar, isCanonical)],
  [MSR_INDEX.cstar, slot(MSR.cstar, isCanonical)],
  [MSR_INDEX.fmask, slot(MSR.sfmask, isLow32)],
  [MSR_INDEX.fsBase, slot(FS + SEG_FIELD.base, isCanonical)],
  [MSR_INDEX.gsBase, slot(GS + SEG_FIELD.base, isCanonical)],
  [MSR_INDEX.kernelGsBase, slot(MSR.kernelGsBase, isCanonical)],
  [MSR_INDEX.tscAux, slot(MSR.tscAux, isLow32)],
]);
MTRR_FIXED.forEach((index, i) => {
  registers.set(
    index,
    slot(MSR.mtrrFixed + i * 8, (value) => everyByte(value, isMtrrType)),
  );
});
for (let i = 0; i < MTRR_VARIABLE; i++) {
  const at = MSR.mtrrVariable + i * 16;
  registers.set(
    MSR_INDEX.mtrrPhysBase0 + i * 2,
    slot(
      at,
      (value) =>
        (value & ~PHYSICAL_MASK) === 0n && (value & 0xf00n) === 0n && isMtrrType(Number(value & 0xffn)),
    ),
  );
  registers.set(
    MSR_INDEX.mtrrPhysBase0 + i * 2 + 1,
    slot(at + 8, (value) => (value & ~PHYSICAL_MASK) === 0n && (value & 0x7ffn) === 0n),
  );
}

/** Indices of every MSR there is. */
export const MSR_INDICES: readonly number[] = [...registers.keys()];

/** Reads an MSR. @throws GuestFault #GP(0) when there is none. */
export function readMsr(cpu: Cpu, index: number): bigint {
  const register = registers.get(index);
  if (!register) throw gp();
  return register.read(cpu);
}

/** Writes an MSR. @throws GuestFault #GP(0) when there is none, it is read-only or the value is not allowed. */
export function writeMsr(cpu: Cpu, index: number, value: bigint): void {
  const write = registers.get(index)?.write;
  if (!write) throw gp();
  write(cpu, value);
}

/** RDMSR: no operands; ECX in, EDX:EAX out. */
export const rdmsr = defineCallout('rdmsr', 'msr', (cpu) => {
  requireCpl0(cpu);
  const value = readMsr(cpu, cpu.get32(RCX));
  cpu.set64(RAX, value & 0xffffffffn);
  cpu.set64(RDX, value >> 32n);
});

/** WRMSR: no operands; ECX and EDX:EAX in. */
export const wrmsr = defineCallout('wrmsr', 'msr', (cpu) => {
  requireCpl0(cpu);
  const value = (BigInt(cpu.get32(RDX)) << 32n) | BigInt(cpu.get32(RAX));
  writeMsr(cpu, cpu.get32(RCX), value);
});

/** EDX:EAX = TSC, without BigInt: guests read it often. */
function loadTsc(cpu: Cpu): void {
  if ((cpu.cr4 & CR4_TSD) !== 0 && cpu.get32(CTL.cpl) !== 0) throw gp();
  const now = cpu.clock.now();
  const low = (now % TWO_32) + cpu.get32(MSR.tscOffset);
  const carry = low >= TWO_32 ? 1 : 0;
  cpu.setGpr32(0, low);
  cpu.setGpr32(2, Math.floor(now / TWO_32) + cpu.get32(MSR.tscOffset + 4) + carry);
}

/** RDTSC: no operands. */
export const rdtsc = defineCallout('rdtsc', 'rdtsc', loadTsc);

/** RDTSCP: no operands. */
export const rdtscp = defineCallout('rdtscp', 'rdtsc', (cpu) => {
  loadTsc(cpu);
  cpu.setGpr32(1, cpu.get32(MSR.tscAux));
});

/** RDPMC: there are no counters, so #GP(0) with or without the privilege. */
export const rdpmc = defineCallout('rdpmc', 'msr', () => {
  throw gp();
});
