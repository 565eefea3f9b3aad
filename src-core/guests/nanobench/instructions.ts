/** Nanobenchmarks of single instructions that a monitor may have to see. */
import type { BenchmarkCode } from './benchmark.ts';
import { benchmarkVectors } from './benchmark.ts';
import { IO_APIC_ADDRESS, LOCAL_APIC_ADDRESS, type Lab } from './lab.ts';
import { msr, data64, writeMsr } from '../system/runtime/kernel64.ts';

/** Interrupt mask register of the first 8259; every line is masked in this kernel. */
const picMaskPort = 0x21;
const picMask = 0xff;
/** Scratch register of the 16550 at COM1: keeps what is written, and does nothing (PC16550D, 8.10). */
const scratchPort = 0x3ff;
const apicBaseMsr = 0x1b;
/** Local APIC registers (SDM vol. 3A, table 10-1). */
const apic = {
  eoi: 0xb0,
  spurious: 0xf0,
  lvtTimer: 0x320,
  lvtLint0: 0x350,
  initialCount: 0x380,
  currentCount: 0x390,
  divide: 0x3e0,
} as const;
const lvtMasked = 0x1_0000;
/** How long the timer runs in `hlt`: timer ticks, undivided; 20 µs at 1 GHz. */
const sleepTicks = 20_000;
/** Timer ticks the TSC is compared with the timer over. */
const compareTicks = 1 << 20;

export function instructionBenchmarks(lab: Lab): BenchmarkCode[] {
  const both: BenchmarkCode[] = [
    {
      name: 'in',
      unroll: 8,
      setup: `mov al, ${picMask}\nout ${picMaskPort}, al\nmov dword [factor], ${picMask}`,
      body: `in al, ${picMaskPort}\nmovzx eax, al\nadd esi, eax`,
      overhead: 'movzx eax, al\nadd esi, eax',
    },
    {
      name: 'callret',
      unroll: 8,
      body: 'call callret$function',
      overhead: 'inc esi',
      routines: 'callret$function:\ninc esi\nret',
    },
    {
      name: 'cpuid',
      unroll: 8,
      setup: 'xor eax, eax\ncpuid\nmov [factor], eax',
      body: 'xor eax, eax\ncpuid\nadd esi, eax',
      overhead: 'xor eax, eax\nadd esi, eax',
    },
    {
      name: 'iret',
      unroll: 8,
      body: `${iretFrame(lab)}\niret\niret$@: inc esi`,
      overhead: `${iretFrame(lab)}\nlea %sp, [%sp+${lab.width * (lab.bits === 64 ? 5 : 3)}]\niret$@: inc esi`,
    },
    {
      name: 'mmio',
      unroll: 8,
      setup: `mov ebx, ${IO_APIC_ADDRESS}\nmov dword [%bx], 0x10\nmov dword [factor], 0x10`,
      before: `xor esi, esi\nmov ebx, ${IO_APIC_ADDRESS}`,
      body: 'add esi, [%bx]',
    },
    {
      name: 'portwrite',
      unroll: 8,
      before: `xor esi, esi\nmov edx, ${scratchPort}`,
      body: 'inc esi\nmov eax, esi\nout dx, al',
      overhead: 'inc esi\nmov eax, esi',
      after: `mov [events], %si\nin al, dx\nmov [portwrite$last], al`,
      check: `
        mov al, [portwrite$last]
        cmp al, [events]
        jz portwrite$right
        fail 'the register does not hold what was written last'
        portwrite$right:`,
      install: () => lab.data('portwrite$last: db 0'),
    },
    {
      name: 'rdmsr',
      unroll: 8,
      // Bits 15:8 hold the enable and the bootstrap processor's flag: not zero while the APIC is on.
      setup: `mov ecx, ${apicBaseMsr}\nrdmsr\nmovzx eax, ah\nmov [factor], eax`,
      before: `xor esi, esi\nmov ecx, ${apicBaseMsr}`,
      body: 'rdmsr\nmovzx eax, ah\nadd esi, eax',
      overhead: 'movzx eax, ah\nadd esi, eax',
    },
    halt(lab),
  ];
  return lab.bits === 64 ? [...both, ...only64()] : both;
}

/** What IRET to the label `iret$@` in ring 0 takes off the stack. */
function iretFrame(lab: Lab): string {
  const frame = `pushf\npush ${lab.codeSelector}\npush iret$@`;
  return lab.bits === 64 ? `mov rax, rsp\npush ${data64}\npush rax\n${frame}` : frame;
}

function halt(lab: Lab): BenchmarkCode {
  const { timer, spurious } = benchmarkVectors;
  return {
    name: 'hlt',
    unroll: 1,
    setup: `
      mov ebx, ${LOCAL_APIC_ADDRESS}
      mov dword [%bx+${apic.spurious}], ${0x100 | spurious}
      mov dword [%bx+${apic.lvtLint0}], ${lvtMasked}
      mov dword [%bx+${apic.divide}], 0xb
      ; TSC cycles the sleep takes, from a run of the timer beside the TSC
      mov dword [%bx+${apic.lvtTimer}], ${lvtMasked | timer}
      mov dword [%bx+${apic.initialCount}], 0xffffffff
      mov esi, [%bx+${apic.currentCount}]
      rdtsc
      mov edi, eax
      hlt$compare:
      mov ecx, [%bx+${apic.currentCount}]
      rdtsc
      sub ecx, esi
      neg ecx
      cmp ecx, ${compareTicks}
      jb hlt$compare
      sub eax, edi
      mov edx, ${sleepTicks}
      mul edx
      div ecx
      mov [hlt$cycles], eax
      mov dword [%bx+${apic.initialCount}], 0
      mov dword [%bx+${apic.lvtTimer}], ${timer}`,
    before: `xor esi, esi\nmov ebx, ${LOCAL_APIC_ADDRESS}`,
    // STI holds interrupts off until HLT is reached, so none comes before it.
    body: `mov dword [%bx+${apic.initialCount}], ${sleepTicks}\nsti\nhlt\ncli`,
    overhead: `
      rdtsc
      mov ebp, eax
      hlt$@:
      rdtsc
      sub eax, ebp
      cmp eax, [hlt$cycles]
      jb hlt$@`,
    teardown: `mov ebx, ${LOCAL_APIC_ADDRESS}\nmov dword [%bx+${apic.lvtTimer}], ${lvtMasked | timer}`,
    routines: `hlt$woken:\ninc esi\nmov dword [%bx+${apic.eoi}], 0\niret`,
    install: () => {
      lab.gate(timer, 'hlt$woken');
      lab.data('align 4\nhlt$cycles: dd 0');
    },
  };
}

function only64(): BenchmarkCode[] {
  return [
    {
      name: 'syscall',
      unroll: 8,
      user: true,
      setup: `${writeMsr(msr.star, '0x2b001800000000')}
        ${writeMsr(msr.lstar, 'syscall$handler')}
        ${writeMsr(msr.fmask, '0x700')}`,
      body: 'syscall',
      routines: 'syscall$handler:\ninc rsi\nsysretq',
    },
    {
      name: 'cr8wr',
      unroll: 8,
      body: 'inc esi\nmov eax, esi\nand eax, 15\nmov cr8, rax',
      overhead: 'inc esi\nmov eax, esi\nand eax, 15',
      after: 'mov [events], rsi\nmov rax, cr8\nmov [cr8wr$last], al\nxor eax, eax\nmov cr8, rax',
      check: `
        mov al, [events]
        and al, 15
        cmp al, [cr8wr$last]
        jz cr8wr$right
        fail 'CR8 does not hold what was written last'
        cr8wr$right:`,
      routines: 'cr8wr$last: db 0',
    },
  ];
}
