/** Nanobenchmarks of page tables and of code that changes. */
import { pageFlags } from '../system/runtime/paging.ts';
import type { BenchmarkCode } from './benchmark.ts';
import { benchmarkPages } from './benchmark.ts';
import type { Lab } from './lab.ts';

/** Present, writable, accessed and dirty: what the processor would set is set already. */
const mapped = pageFlags.present | pageFlags.writable | pageFlags.accessed | pageFlags.dirty;
/** What stands in the two frames a page is mapped to in turn. Their mean is the factor of the events. */
const firstValue = 1;
const secondValue = 3;

export function memoryBenchmarks(lab: Lab): BenchmarkCode[] {
  const { tables } = lab;
  const modified = { entry: tables.entry(benchmarkPages.ptemod), at: tables.linear(benchmarkPages.ptemod) };
  const flushed = { entry: tables.entry(benchmarkPages.invlpg), at: tables.linear(benchmarkPages.invlpg) };
  const frames = `
    mov dword [frame_first], ${firstValue}
    mov dword [frame_second], ${secondValue}`;
  /** EAX: the first entry; EBX: what turns it into the second and back. */
  const entries = `
    mov eax, frame_first+${mapped}
    mov ebx, frame_second+${mapped}
    xor ebx, eax`;
  return [
    {
      name: 'ptemod',
      unroll: 8,
      setup: `${frames}
        ${tables.write(modified.entry, `frame_first+${mapped}`)}
        mov eax, [${modified.at}]`,
      before: `xor esi, esi\n${entries}`,
      body: `xor eax, ebx\ninc esi\nmov [${modified.entry}], eax`,
      overhead: 'xor eax, ebx\ninc esi',
      // An odd number of changes, one more than the loop makes, leaves the second frame.
      after: `mov [events], %si\nxor eax, ebx\nmov [${modified.entry}], eax\ninvlpg [${modified.at}]`,
      check: `
        cmp dword [${modified.at}], ${secondValue}
        jz ptemod$right
        fail 'the page is not where its entry says'
        ptemod$right:`,
      install: () => {
        lab.kernel.reserve('frame_first', 0x1000).reserve('frame_second', 0x1000);
      },
    },
    {
      name: 'invlpg',
      unroll: 8,
      setup: `${frames}
        ${tables.write(flushed.entry, `frame_first+${mapped}`)}
        mov eax, [${flushed.at}]
        mov dword [factor], ${(firstValue + secondValue) / 2}`,
      before: `xor esi, esi\n${entries}`,
      body: `xor eax, ebx\nmov [${flushed.entry}], eax\ninvlpg [${flushed.at}]\nadd esi, [${flushed.at}]`,
      overhead: `xor eax, ebx\nmov [${flushed.entry}], eax\nadd esi, [${flushed.at}]`,
      // The overhead's stores are not followed by INVLPG: what is cached must not outlive it.
      after: `mov [events], %si\ninvlpg [${flushed.at}]`,
    },
    {
      name: 'smc',
      unroll: 1,
      before: 'xor esi, esi\nxor ebx, ebx',
      // EAX, which the changed instruction sets, is counted where it is the value just stored.
      body: 'inc ebx\nmov [smc$changed+1], ebx\ncall smc$changed\nsub eax, ebx\ncmp eax, 1\nadc esi, 0',
      overhead: 'inc ebx\nmov [smc$data], ebx\ncall smc$plain\nsub eax, ebx\ncmp eax, 1\nadc esi, 0',
      install: () =>
        lab.data(`
          align 4096
          smc$changed: mov eax, 0x12345678
          ret
          align 4096
          smc$plain: mov eax, 0x12345678
          ret
          align 4096
          smc$data: dd 0`),
    },
  ];
}
