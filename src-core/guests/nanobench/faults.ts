/** Nanobenchmarks of exceptions: the handlers count and skip the instruction. */
import type { BenchmarkCode } from './benchmark.ts';
import { benchmarkPages, benchmarkVectors } from './benchmark.ts';
import type { Lab } from './lab.ts';

const divideError = 0;
const pageFault = 14;
/** Bytes of the faulting instructions below. */
const faultLength = 2;

export function faultBenchmarks(lab: Lab): BenchmarkCode[] {
  const { tables } = lab;
  const { pageFault: pageFaultGate, divide } = benchmarkVectors;
  return [
    {
      name: 'pgfault',
      unroll: 8,
      setup: `${tables.write(tables.entry(benchmarkPages.pgfault), '0')}
        invlpg [${tables.linear(benchmarkPages.pgfault)}]
        ${copyGate(lab, pageFault, pageFaultGate)}`,
      before: `xor esi, esi\nmov ebx, ${tables.linear(benchmarkPages.pgfault)}`,
      body: 'mov eax, [%bx]',
      check: `
        mov %ax, cr2
        cmp eax, ${tables.linear(benchmarkPages.pgfault)}
        jz pgfault$right
        fail 'CR2 is not the address of the page'
        pgfault$right:`,
      teardown: copyGate(lab, pageFault, pageFault),
      routines: `
        pgfault$handler:
        inc esi
        add %word [%sp+${lab.width}], ${faultLength}
        add %sp, ${lab.width}
        iret`,
      install: () => lab.gate(pageFaultGate, 'pgfault$handler'),
    },
    {
      name: 'divzero',
      unroll: 8,
      setup: copyGate(lab, divideError, divide),
      before: 'xor esi, esi\nxor ecx, ecx\nmov eax, 1\nxor edx, edx',
      body: 'div ecx',
      teardown: copyGate(lab, divideError, divideError),
      routines: `
        divzero$handler:
        inc esi
        add %word [%sp], ${faultLength}
        iret`,
      install: () => lab.gate(divide, 'divzero$handler'),
    },
  ];
}

/** Code that puts the gate of vector `from`, as it was at the start, in the place of `vector`'s. Uses EAX. */
export function copyGate(lab: Lab, vector: number, from: number): string {
  const size = lab.width * 2;
  const lines: string[] = [];
  for (let at = 0; at < size; at += 4) {
    lines.push(`mov eax, [idt_initial+${from * size + at}]`, `mov [idt+${vector * size + at}], eax`);
  }
  return lines.join('\n');
}
