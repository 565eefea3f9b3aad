/** Nanobenchmarks of address spaces: context switch, and fork and wait with copy-on-write page tables. */
import { pageFlags, testRegion } from '../system/runtime/paging.ts';
import type { BenchmarkCode } from './benchmark.ts';
import { benchmarkPages, benchmarkVectors } from './benchmark.ts';
import { copyGate } from './faults.ts';
import type { Lab } from './lab.ts';

/** Pages of a process: one of data, one of stack, the rest heap. */
const processPages = 32;
/** Frames there are: those of the parent, and room for copies. */
const frameCount = 48;
/** Pages the child writes: data, stack and two of the heap. */
const childWrites = 4;
const processFlags = pageFlags.present | pageFlags.writable | pageFlags.user;
/** System calls of a process, by EAX. */
const call = { fork: 1, wait: 2, exit: 3 } as const;
const saved = ['bp', 'di', 'si', 'dx', 'cx', 'bx', 'ax'];
const save = saved.map((name) => `push %${name}`).join('\n');
const restore = saved
  .toReversed()
  .map((name) => `pop %${name}`)
  .join('\n');
const dataPage = testRegion;
const stackTop = testRegion + 2 * 0x1000;
const heapPage = testRegion + 4 * 0x1000;
/** The page-fault vector, whose gate copy-on-write takes over. */
const pageFault = 14;
/** Where both kinds of TSS keep the stack of ring 0. */
const ring0Stack = 'tss+4';

export function processBenchmarks(lab: Lab): BenchmarkCode[] {
  lab.code(copySpace(lab));
  for (const level of lab.levels) lab.kernel.reserve(`other_${level}`, 0x1000);
  return [contextSwitch(lab), forkAndWait(lab)];
}

/** `copy_space`: page tables of a second address space, the same as the first's. Uses EAX, ECX, ESI and EDI. */
function copySpace(lab: Lab): string {
  const { levels, tables } = lab;
  const copies = levels.map(
    (level) => `mov esi, ${level}\nmov edi, other_${level}\nmov ecx, 1024\nrep movsd`,
  );
  const links = levels.slice(1).map((level, index) => {
    const entry =
      level === 'test_table'
        ? tables.testDirectoryEntry.replace('page_directory', 'other_page_directory')
        : `other_${levels[index] ?? ''}`;
    return `mov dword [${entry}], other_${level}+7`;
  });
  return ['jmp copy_space$over', 'copy_space:', ...copies, ...links, 'ret', 'copy_space$over:'].join('\n');
}

/** The label of a table of the second address space. */
const other = (level: string): string => `other_${level}`;

function contextSwitch(lab: Lab): BenchmarkCode {
  const { tables } = lab;
  const [top = ''] = lab.levels;
  const page = tables.linear(benchmarkPages.ctxswitch);
  const entry = tables.entry(benchmarkPages.ctxswitch);
  const kept = ['bx', 'bp', 'si', 'di'];
  // What a thread's registers weigh: the four a function keeps, and where it goes on.
  const frameWords = kept.length + 1;
  return {
    name: 'ctxswitch',
    unroll: 4,
    operations: 2,
    setup: `
      mov dword [thread_first_frame], 1
      mov dword [thread_second_frame], 3
      mov dword [factor], 2
      ${tables.write(entry, 'thread_first_frame+3')}
      invlpg [${page}]
      call copy_space
      mov dword [${other(entry)}], thread_second_frame+3
      mov %ax, thread$second
      mov [thread_stack_top-${lab.width}], %ax
      mov %ax, thread_stack_top-${frameWords * lab.width}
      mov [thread$saved+${lab.width}], %ax
      mov %ax, ${top}
      mov [thread$space], %ax
      mov %ax, ${other(top)}
      mov [thread$space+${lab.width}], %ax
      mov %ax, ring0_stack_top
      mov [thread$ring0], %ax
      mov %ax, thread_stack_top
      mov [thread$ring0+${lab.width}], %ax`,
    before: 'xor esi, esi\nmov dword [thread$sum], 0',
    body: `call thread$to_second\nadd esi, [${page}]`,
    overhead: `add esi, [${page}]`,
    after: 'add esi, [thread$sum]\nmov [events], %si',
    teardown: `mov %ax, ring0_stack_top\nmov [${ring0Stack}], %ax\nmov %ax, ${top}\nmov cr3, %ax`,
    routines: `
      thread$to_second:
        ${kept.map((name) => `push %${name}`).join('\n')}
        mov [thread$saved], %sp
        mov %sp, [thread$saved+${lab.width}]
        mov %ax, [thread$ring0+${lab.width}]
        mov [${ring0Stack}], %ax
        mov %ax, [thread$space+${lab.width}]
        mov cr3, %ax
        jmp thread$resume
      thread$to_first:
        ${kept.map((name) => `push %${name}`).join('\n')}
        mov [thread$saved+${lab.width}], %sp
        mov %sp, [thread$saved]
        mov %ax, [thread$ring0]
        mov [${ring0Stack}], %ax
        mov %ax, [thread$space]
        mov cr3, %ax
      thread$resume:
        ${kept
          .toReversed()
          .map((name) => `pop %${name}`)
          .join('\n')}
        ret
      thread$second:
        mov eax, [${page}]
        add [thread$sum], eax
        call thread$to_first
        jmp thread$second`,
    install: () => {
      for (const label of ['thread_first_frame', 'thread_second_frame']) lab.kernel.reserve(label, 0x1000);
      lab.kernel.reserve('thread_stack', 0x1000).reserve('thread_stack_top', 0);
      lab.data(`
        align 8
        thread$saved: dq 0, 0
        thread$space: dq 0, 0
        thread$ring0: dq 0, 0
        thread$sum: dd 0`);
    },
  };
}

function forkAndWait(lab: Lab): BenchmarkCode {
  const { tables, width } = lab;
  const { entrySize } = tables;
  const [top = ''] = lab.levels;
  /** Bytes on a ring 0 stack: the registers, EAX lowest, and what the gate pushed. */
  const frameBytes = (saved.length + 5) * width;
  return {
    name: 'forkwait',
    unroll: 1,
    user: true,
    setup: `
      ; every frame free, then one for each page of the parent
      mov eax, process_frames
      xor ecx, ecx
      fork$free:
      mov [fork$frames+%cx*4], eax
      mov dword [fork$references+%cx*4], 0
      add eax, 0x1000
      inc ecx
      cmp ecx, ${frameCount}
      jb fork$free
      mov [fork$left], ecx
      xor ebx, ebx
      fork$map:
      call fork$allocate
      or eax, ${processFlags}
      mov [test_table+%bx*${entrySize}], eax
      ${entrySize === 8 ? `mov dword [test_table+%bx*8+4], 0` : ''}
      inc ebx
      cmp ebx, ${processPages}
      jb fork$map
      mov %ax, cr3
      mov cr3, %ax
      ${copyGate(lab, pageFault, benchmarkVectors.copyOnWrite)}`,
    before: `
      mov dword [fork$children], 0
      mov dword [fork$copies], 0
      xor esi, esi
      mov %sp, ${stackTop}`,
    // The child's writes must reach its parent's wait, and nothing of its parent's memory.
    body: `
      mov [${dataPage}], edi
      mov eax, ${call.fork}
      int ${benchmarkVectors.process}
      test eax, eax
      jnz fork$parent
      push %di
      inc dword [${dataPage}]
      mov [${heapPage}], edi
      mov [${heapPage + 0x1000}], edi
      mov ebx, [${dataPage}]
      mov eax, ${call.exit}
      int ${benchmarkVectors.process}
      fork$parent:
      mov eax, ${call.wait}
      int ${benchmarkVectors.process}
      sub eax, edi
      cmp eax, 1
      jnz fork$wrong
      cmp [${dataPage}], edi
      jnz fork$wrong
      inc esi
      fork$wrong:`,
    check: `
      mov eax, [operations]
      cmp [fork$children], eax
      jz fork$counted
      fail 'fewer children than forks'
      fork$counted:
      mov ecx, ${childWrites}
      mul ecx
      cmp [fork$copies], eax
      jae fork$copied
      fail 'fewer pages were copied than written'
      fork$copied:
      cmp dword [fork$left], ${frameCount - processPages}
      jz fork$returned
      fail 'frames were lost'
      fork$returned:`,
    teardown: `${copyGate(lab, pageFault, pageFault)}\nmov %ax, ring0_stack_top\nmov [${ring0Stack}], %ax`,
    routines: `
      ; EAX = a frame of which there is one user; ECX is lost
      fork$allocate:
        mov ecx, [fork$left]
        dec ecx
        js fork$exhausted
        mov [fork$left], ecx
        mov eax, [fork$frames+%cx*4]
        mov ecx, eax
        sub ecx, process_frames
        shr ecx, 12
        mov dword [fork$references+%cx*4], 1
        ret
      fork$exhausted:
        ud2

      fork$call:
        ${save}
        cmp eax, ${call.fork}
        jz fork$fork
        cmp eax, ${call.wait}
        jz fork$wait
        jmp fork$exit
      fork$return:
        ${restore}
        iret

      fork$fork:
        inc dword [fork$children]
        ; both lose the right to write, then the tables are the same
        xor ebx, ebx
      fork$share:
        mov eax, [test_table+%bx*${entrySize}]
        and eax, ~${pageFlags.writable}
        mov [test_table+%bx*${entrySize}], eax
        sub eax, process_frames
        shr eax, 12
        inc dword [fork$references+%ax*4]
        inc ebx
        cmp ebx, ${processPages}
        jb fork$share
        call copy_space
        mov %ax, cr3
        mov cr3, %ax
        ; the child goes on from the same place on a stack of its own, and gets zero
        mov %si, %sp
        mov %di, process_stack_top-${frameBytes}
        mov ecx, ${frameBytes / 4}
        rep movsd
        mov %word [process_stack_top-${frameBytes}], 0
        mov %word [%sp], 2
        jmp fork$return

      fork$wait:
        mov [fork$parent_stack], %sp
        mov %ax, process_stack_top
        mov [${ring0Stack}], %ax
        mov %ax, ${other(top)}
        mov cr3, %ax
        mov %sp, process_stack_top-${frameBytes}
        jmp fork$return

      fork$exit:
        mov %si, %bx
        xor ebx, ebx
      fork$release:
        mov edx, [${other('test_table')}+%bx*${entrySize}]
        and edx, ~0xfff
        mov eax, edx
        sub eax, process_frames
        shr eax, 12
        dec dword [fork$references+%ax*4]
        jnz fork$shared
        mov ecx, [fork$left]
        mov [fork$frames+%cx*4], edx
        inc dword [fork$left]
      fork$shared:
        inc ebx
        cmp ebx, ${processPages}
        jb fork$release
        mov %ax, ${top}
        mov cr3, %ax
        mov %ax, ring0_stack_top
        mov [${ring0Stack}], %ax
        mov %sp, [fork$parent_stack]
        mov [%sp], %si
        jmp fork$return

      ; a write to a page that lost the right: a copy, or the right back where nobody else has the frame
      fork$fault:
        ${save}
        mov eax, [%sp+${saved.length * width}]
        and eax, 3
        cmp eax, 3
        jnz fork$foreign
        mov %ax, cr2
        sub %ax, ${testRegion}
        jb fork$foreign
        shr %ax, 12
        cmp %ax, ${processPages}
        jae fork$foreign
        mov %bx, test_table
        mov %cx, cr3
        cmp ecx, ${other(top)}
        jnz fork$of_parent
        mov %bx, ${other('test_table')}
      fork$of_parent:
        lea %bx, [%bx+%ax*${entrySize}]
        mov edx, [%bx]
        and edx, ~0xfff
        mov ebp, edx
        sub ebp, process_frames
        shr ebp, 12
        cmp dword [fork$references+%bp*4], 1
        jz fork$sole
        dec dword [fork$references+%bp*4]
        inc dword [fork$copies]
        call fork$allocate
        mov esi, edx
        mov edi, eax
        mov ecx, 1024
        rep movsd
        or eax, ${processFlags}
        mov [%bx], eax
        jmp fork$mapped
      fork$sole:
        or dword [%bx], ${pageFlags.writable}
      fork$mapped:
        mov %ax, cr2
        invlpg [%ax]
        ${restore}
        add %sp, ${width}
        iret
      fork$foreign:
        ${restore}
        jmp vector$${pageFault}`,
    install: () => {
      lab.gate(benchmarkVectors.process, 'fork$call', 3);
      lab.gate(benchmarkVectors.copyOnWrite, 'fork$fault');
      lab.kernel
        .reserve('process_frames', frameCount * 0x1000)
        .reserve('process_stack', 0x1000)
        .reserve('process_stack_top', 0);
      lab.data(`
        align 8
        fork$parent_stack: dq 0
        fork$children: dd 0
        fork$copies: dd 0
        fork$left: dd 0
        fork$frames: space ${frameCount * 4}
        fork$references: space ${frameCount * 4}`);
    },
  };
}
