import { CR0_MP, CR0_TS } from '../../../x86/bits.ts';
import type { Callout } from '../../../x86/callout.ts';
import { cacheFlush, hlt, invlpg, lmsw, readControl, writeControl } from '../../../x86/control.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { cpuidCallout } from '../../../x86/cpuid.ts';
import { checkIoPermission } from '../../../x86/io-permission.ts';
import { CR0, RCX, RDX } from '../../../x86/layout.ts';
import { iret } from '../../../x86/lift/far.ts';
import { insElement, outsElement, portRead, portWrite, STRING_IO } from '../../../x86/lift/ports.ts';
import { rdmsr, rdpmc, rdtsc, rdtscp, wrmsr } from '../../../x86/msr.ts';
import type { ModelExitReason } from './meter.ts';
import { EXIT_CODE, INTERCEPT1, INTERCEPT2, VMCB, type Vmcb } from './vmcb.ts';

/** An exit that an instruction takes. */
export interface InstructionExit {
  readonly code: number;
  readonly reason: ModelExitReason;
  /** EXITINFO1 in two halves; EXITINFO2 is RIP of the next instruction for IOIO and 0 for others. */
  readonly low: number;
  readonly high: number;
}

/** Operands of a callout, as in CalloutFunction. */
export interface Operands {
  readonly dst: number;
  readonly a: number;
  readonly b: number;
  readonly imm: number;
  readonly c: number;
}

/**
 * Whether an instruction exits, by the VMCB's intercepts. It may throw the GuestFault that comes before the intercept is
 * looked at (AMD64 APM volume 2, table 15-7): privilege and I/O permission.
 */
export type InstructionIntercept = (cpu: Cpu, vmcb: Vmcb, operands: Operands) => InstructionExit | undefined;

/** EXITINFO1 of IOIO (APM volume 2, section 15.10.2). */
export const IOIO = {
  in: 1,
  string: 4,
  repeated: 8,
  size8: 0x10,
  size16: 0x20,
  size32: 0x40,
  address16: 0x80,
  address32: 0x100,
  address64: 0x200,
  portShift: 16,
} as const;
const IOIO_SIZE: Readonly<Record<number, number>> = { 1: IOIO.size8, 2: IOIO.size16, 4: IOIO.size32 };
/** EXITINFO1 of a MOV to or from a control register: set for MOV, with the number of the general register below. */
const MOV_CR = 0x80000000;

const exit = (code: number, reason: ModelExitReason, low = 0, high = 0): InstructionExit => ({
  code,
  reason,
  low,
  high,
});

/** An instruction of CPL 0 that an intercept bit decides about. What faults for want of privilege is left to itself. */
const privileged =
  (vector: number, bit: number, code: number, reason: ModelExitReason): InstructionIntercept =>
  (cpu, vmcb) =>
    cpu.cpl === 0 && vmcb.intercepts(vector, bit) ? exit(code, reason) : undefined;

/** One that all may execute. */
const open =
  (vector: number, bit: number, code: number, reason: ModelExitReason): InstructionIntercept =>
  (_cpu, vmcb) =>
    vmcb.intercepts(vector, bit) ? exit(code, reason) : undefined;

function ioio(cpu: Cpu, vmcb: Vmcb, port: number, size: number, kind: number): InstructionExit | undefined {
  if (!vmcb.intercepts(VMCB.intercept1, INTERCEPT1.ioioProt) || !vmcb.iopm.intercepts(port, size)) {
    return undefined;
  }
  checkIoPermission(cpu, port, size);
  return exit(EXIT_CODE.IOIO, 'portIo', kind | IOIO_SIZE[size]! | (port << IOIO.portShift));
}

/** INS (`IOIO.in`) or OUTS of one element. */
const stringIo =
  (direction: number): InstructionIntercept =>
  (cpu, vmcb, { imm, c }) => {
    const address =
      (imm & STRING_IO.address16) !== 0
        ? IOIO.address16
        : (imm & STRING_IO.address32) !== 0
          ? IOIO.address32
          : IOIO.address64;
    const repeated = (imm & STRING_IO.repeated) !== 0 ? IOIO.repeated : 0;
    return ioio(cpu, vmcb, cpu.u16[DX]!, c, direction | IOIO.string | repeated | address);
  };

const portOf = (cpu: Cpu, { a, imm }: Operands): number => (imm < 0 ? cpu.u16[a >> 1]! : imm);
const DX = RDX >> 1;

function msr(write: boolean): InstructionIntercept {
  return (cpu, vmcb) => {
    if (cpu.cpl !== 0 || !vmcb.intercepts(VMCB.intercept1, INTERCEPT1.msrProt)) return undefined;
    return vmcb.msrpm.intercepts(cpu.get32(RCX), write)
      ? exit(EXIT_CODE.MSR, 'msr', write ? 1 : 0)
      : undefined;
  };
}

const controlRead: InstructionIntercept = (cpu, vmcb, { imm }) =>
  cpu.cpl === 0 && vmcb.intercepts(VMCB.interceptCr, 1 << imm)
    ? exit(EXIT_CODE.CR0_READ + imm, 'controlRegister', 0, MOV_CR)
    : undefined;

/** Number of the general register at an offset of the state. */
const registerAt = (offset: number): number => (offset - 0x100) >> 3;

/** Whether a write of CR0 changes other bits than TS and MP. */
const selective = (cpu: Cpu, value: number): boolean => ((value ^ cpu.get32(CR0)) & ~(CR0_TS | CR0_MP)) !== 0;

const controlWrite: InstructionIntercept = (cpu, vmcb, { a, imm }) => {
  if (cpu.cpl !== 0) return undefined;
  if (vmcb.intercepts(VMCB.interceptCr, 1 << (16 + imm))) {
    return exit(EXIT_CODE.CR0_WRITE + imm, 'controlRegister', registerAt(a), MOV_CR);
  }
  return imm === 0 && vmcb.intercepts(VMCB.intercept1, INTERCEPT1.cr0SelWrite) && selective(cpu, cpu.get32(a))
    ? exit(EXIT_CODE.CR0_SEL_WRITE, 'controlRegister', registerAt(a), MOV_CR)
    : undefined;
};

const machineStatusWord: InstructionIntercept = (cpu, vmcb, { a }) => {
  if (cpu.cpl !== 0) return undefined;
  if (vmcb.intercepts(VMCB.interceptCr, 1 << 16)) return exit(EXIT_CODE.CR0_WRITE, 'controlRegister');
  const value = (cpu.get32(CR0) & ~0xf) | (cpu.get32(a) & 0xf);
  return vmcb.intercepts(VMCB.intercept1, INTERCEPT1.cr0SelWrite) && selective(cpu, value)
    ? exit(EXIT_CODE.CR0_SEL_WRITE, 'controlRegister')
    : undefined;
};

/** INVD and WBINVD are one callout here. */
const caches: InstructionIntercept = (cpu, vmcb) =>
  cpu.cpl === 0 && vmcb.intercepts(VMCB.intercept2, INTERCEPT2.wbinvd)
    ? exit(EXIT_CODE.WBINVD, 'otherCallout')
    : undefined;

/** The instructions that may exit, by what executes them. */
export const INSTRUCTION_INTERCEPTS: ReadonlyMap<Callout, InstructionIntercept> = new Map<
  Callout,
  InstructionIntercept
>([
  [cpuidCallout, open(VMCB.intercept1, INTERCEPT1.cpuid, EXIT_CODE.CPUID, 'cpuid')],
  [hlt, privileged(VMCB.intercept1, INTERCEPT1.hlt, EXIT_CODE.HLT, 'hlt')],
  [invlpg, privileged(VMCB.intercept1, INTERCEPT1.invlpg, EXIT_CODE.INVLPG, 'invlpg')],
  [cacheFlush, caches],
  [rdtsc, open(VMCB.intercept1, INTERCEPT1.rdtsc, EXIT_CODE.RDTSC, 'rdtsc')],
  [rdtscp, open(VMCB.intercept2, INTERCEPT2.rdtscp, EXIT_CODE.RDTSCP, 'rdtsc')],
  [rdpmc, privileged(VMCB.intercept1, INTERCEPT1.rdpmc, EXIT_CODE.RDPMC, 'msr')],
  [rdmsr, msr(false)],
  [wrmsr, msr(true)],
  [readControl, controlRead],
  [writeControl, controlWrite],
  [lmsw, machineStatusWord],
  [portRead, (cpu, vmcb, operands) => ioio(cpu, vmcb, portOf(cpu, operands), operands.c, IOIO.in)],
  [portWrite, (cpu, vmcb, operands) => ioio(cpu, vmcb, portOf(cpu, operands), operands.c, 0)],
  [insElement, stringIo(IOIO.in)],
  [outsElement, stringIo(0)],
  // How the VMM learns that the handler of a non-maskable interrupt is over.
  [iret, open(VMCB.intercept1, INTERCEPT1.iret, EXIT_CODE.IRET, 'interruptWindow')],
]);
