/**
 * What is fuzzed and what is not: the instruction set extensions Switchyard implements, and the instructions of
 * these that can't be compared with a process on the host, each with the reason.
 */
import { Code, CodeExt, CpuidFeature, EncodingKind, Instruction, Mnemonic } from 'iced-x86';

import type { Bitness } from '../oracle/state.ts';
import { HOST_FLAGS } from './host.ts';

/** Extensions in the CPUID model shown to guests. */
const IMPLEMENTED = new Set<CpuidFeature>([
  CpuidFeature.INTEL8086,
  CpuidFeature.INTEL186,
  CpuidFeature.INTEL286,
  CpuidFeature.INTEL386,
  CpuidFeature.INTEL486,
  CpuidFeature.X64,
  CpuidFeature.PAUSE,
  CpuidFeature.FPU,
  CpuidFeature.FPU287,
  CpuidFeature.FPU387,
  CpuidFeature.CMOV,
  CpuidFeature.CX8,
  CpuidFeature.CMPXCHG16B,
  CpuidFeature.MMX,
  CpuidFeature.FXSR,
  CpuidFeature.SSE,
  CpuidFeature.SSE2,
  CpuidFeature.SSE3,
  CpuidFeature.SSSE3,
  CpuidFeature.SSE4_1,
  CpuidFeature.SSE4_2,
  CpuidFeature.POPCNT,
  CpuidFeature.CLFSH,
  CpuidFeature.MULTIBYTENOP,
  CpuidFeature.PREFETCHW,
  CpuidFeature.MSR,
  CpuidFeature.CET_IBT,
  // Refused outside ring 0, which is compared.
  CpuidFeature.SMAP,
  CpuidFeature.SYSCALL,
  CpuidFeature.SMM,
  CpuidFeature.MONITOR,
]);

// The host's kernel decides whether processes may use them.
if (HOST_FLAGS.has('fsgsbase')) IMPLEMENTED.add(CpuidFeature.FSGSBASE);

/** Instructions left out, by mnemonic, with the reason. */
export const EXCLUDED: ReadonlyMap<Mnemonic, string> = new Map<Mnemonic, string>([
  [Mnemonic.Syscall, 'enters the host kernel'],
  [Mnemonic.Sysenter, 'enters the host kernel'],
  [Mnemonic.Cpuid, 'the result is the host processor, not the model shown to guests'],
  [Mnemonic.Rdtsc, 'a clock'],
  [Mnemonic.Rdpmc, 'a counter; CR4.PCE is the host kernel’s'],
  [Mnemonic.Sgdt, 'emulated by the host kernel (UMIP)'],
  [Mnemonic.Sidt, 'emulated by the host kernel (UMIP)'],
  [Mnemonic.Sldt, 'emulated by the host kernel (UMIP)'],
  [Mnemonic.Str, 'emulated by the host kernel (UMIP)'],
  [Mnemonic.Smsw, 'emulated by the host kernel (UMIP)'],
  [Mnemonic.Sysexit, 'AMD and Intel differ: #UD or #GP in long mode'],
  [Mnemonic.Sysexitq, 'AMD and Intel differ: #UD or #GP in long mode'],
  [Mnemonic.Int1, 'the host kernel reports no vector for it'],
]);

const VENDOR_NOPS = new Set<Code>([
  Code.Reservednop_rm16_r16_0F0D,
  Code.Reservednop_rm32_r32_0F0D,
  Code.Reservednop_rm64_r64_0F0D,
]);

/** With REX.W: Intel loads a 64-bit offset, AMD ignores the prefix. */
const VENDOR_FAR = new Set<Code>([
  Code.Call_m1664,
  Code.Jmp_m1664,
  Code.Lss_r64_m1664,
  Code.Lfs_r64_m1664,
  Code.Lgs_r64_m1664,
]);

/** Why each code seen so far is left out, null when it is not. */
const reasons = new Map<Code, string | null>();

/** AMD: #GP(0) outside ring 0; Intel: #UD outside 64-bit code. */
const VENDOR_SYSRET = new Set<Code>([Code.Sysretd, Code.Sysretq]);

function findReason(code: Code): string | null {
  const info = CodeExt.opCode(code);
  const instruction = new Instruction();
  try {
    instruction.code = code;
    if (!info.isInstruction) return 'not an instruction';
    if (info.encoding !== EncodingKind.Legacy) return 'VEX, EVEX or XOP encoding: not implemented';
    if (info.fwait) return 'two instructions (FWAIT and the rest), each tested by itself';
    for (const feature of instruction.cpuidFeatures() as Iterable<CpuidFeature>)
      if (!IMPLEMENTED.has(feature)) return `not implemented (${CpuidFeature[feature]})`;
    if (code === Code.Ud0) return 'the same opcode as the forms of UD0 with operands';
    if (VENDOR_NOPS.has(code)) return 'AMD and Intel differ: 0F 0D with a register (#UD or NOP)';
    if (VENDOR_FAR.has(code)) return 'AMD and Intel differ: REX.W before a far pointer';
    const excluded = EXCLUDED.get(info.mnemonic);
    return excluded ?? null;
  } finally {
    instruction.free();
    info.free();
  }
}

/** Why a code is not fuzzed in a code size, or undefined when it is. */
export function exclusion(code: Code, bitness: Bitness): string | undefined {
  if (bitness !== 64 && VENDOR_SYSRET.has(code)) return 'AMD and Intel differ: SYSRET outside 64-bit code';
  let reason = reasons.get(code);
  if (reason === undefined) {
    reason = findReason(code);
    reasons.set(code, reason);
  }
  return reason ?? undefined;
}
