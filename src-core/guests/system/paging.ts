/** 32-bit and PAE paging: faults with error codes and CR2, accessed and dirty bits, large pages, NX. */
import { accessedAndDirty, noExecution, rights, supervisorProtection } from './paging-rights.ts';
import type { SystemGuest } from './runtime/guest.ts';
import type { Kernel } from './runtime/kernel.ts';
import { Kernel32 } from './runtime/kernel32.ts';
import { Kernel64 } from './runtime/kernel64.ts';
import { cr0Bits, cr4Bits, largeFrame, largeRegion, pageFlags, enablePaging32 } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const { present, writable, user, large, global } = pageFlags;
const all = present | writable | user;

/** Accesses across a page boundary, and what a fault leaves behind. */
function crossing(k: Kernel32, t: PageTables): void {
  const edge = t.linear(2);
  const setUp = (first: number, second: number): string => `
    mov dword [frame_a+0xffc], 0x11111111
    mov dword [frame_b], 0x22222222
    ${t.map(1, 'frame_a', first)}
    ${t.map(2, 'frame_b', second)}`;
  const look = `
    say " "
    hex dword [frame_a+0xffc]
    say " "
    hex dword [frame_b]`;
  k.testCase('read across', `${setUp(all, all)}\nmov eax, [${edge - 2}]\nsay " "\nhex eax`);
  k.testCase('write across', `${setUp(all, all)}\nmov dword [${edge - 3}], 0xaabbccdd\n${look}`);
  k.testCase('read across, second absent', `${setUp(all, 0)}\nmov eax, [${edge - 2}]`);
  k.testCase('read across, first absent', `${setUp(0, all)}\nmov eax, [${edge - 2}]`);
  k.testCase('read across, both absent', `${setUp(0, 0)}\nmov eax, [${edge - 1}]`);
  k.testCase('write across, second absent', `${setUp(all, 0)}\nmov dword [${edge - 2}], 0xaabbccdd`);
  k.testCase('nothing was written', look);
  k.testCase('write across, second read-only', `${setUp(all, present)}\nmov word [${edge - 1}], 0x5555`);
  k.testCase('nothing was written', look);
  k.testCase(
    'instruction across, second absent',
    `
    ${setUp(all, 0)}
    mov byte [frame_a+0xfff], 0xb8
    mov eax, ${edge - 1}
    jmp eax`,
  );
  k.testCase(
    'instruction ends before an absent page',
    `
    ${setUp(all, 0)}
    mov byte [frame_a+0xfff], 0xc3
    mov eax, ${edge - 1}
    call eax`,
  );
  k.testCase(
    'prefix before an absent page',
    `
    ${setUp(all, 0)}
    mov byte [frame_a+0xfff], 0x66
    mov eax, ${edge - 1}
    jmp eax`,
  );

  // Ring 3 on a stack that ends: ESP must be what it was before the instruction.
  const stack: readonly (readonly [string, string])[] = [
    ['push', 'push eax'],
    ['push of memory', 'push dword [frame_a]'],
    ['call', 'call esp'],
    ['enter', 'enter 16, 0'],
    ['int3', 'int3'],
  ];
  k.code(`
    jmp crossing$over
    show_esp:
      say " esp "
      hex dword [esp+68]
      jmp report$print
    crossing$over:`);
  for (const [name, body] of stack) {
    k.testCase(`ring 3 stack ends: ${name}`, () => {
      k.code(`${setUp(0, all)}\nmov dword [hooks+14*4], show_esp`);
      k.user(`mov esp, ${edge}\n${body}`);
    });
  }
  k.testCase('ring 3 stack ends: pop past the end', () => {
    k.code(`${setUp(all, 0)}\nmov dword [hooks+14*4], show_esp`);
    k.user(`mov esp, ${edge}\npop eax`);
  });
  k.testCase('ring 3 stack ends: pop to an absent page', () => {
    k.code(`${setUp(all, 0)}\nmov dword [hooks+14*4], show_esp`);
    k.user(`mov esp, ${edge - 8}\npop dword [${edge}]`);
  });
  k.testCase('ring 3 stack ends: ret', () => {
    k.code(`${setUp(all, 0)}\nmov dword [hooks+14*4], show_esp`);
    k.user(`mov esp, ${edge - 2}\nret`);
  });
  k.testCase('ring 3 stack ends: leave', () => {
    k.code(`${setUp(all, 0)}\nmov dword [hooks+14*4], show_esp`);
    k.user(`mov ebp, ${edge}\nleave`);
  });
  k.code('mov dword [hooks+14*4], 0');
}

/** Descriptor tables in pages of their own. */
function tables(k: Kernel32, t: PageTables): void {
  // A copy of the GDT whose first six descriptors end a page.
  const base = t.linear(2) - 6 * 8;
  const copy = `
    mov esi, gdt
    mov edi, frame_a+0xfd0
    mov ecx, 12
    rep movsd
    mov dword [frame_b], 0x0000ffff
    mov dword [frame_b+4], 0x00cf9200
    mov word [paged_gdt], 0xfff
    mov dword [paged_gdt+2], ${base}`;
  k.testCase(
    'descriptor in an absent page',
    `
    ${copy}
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_b', 0)}
    lgdt [paged_gdt]
    mov eax, 0x30
    mov fs, eax`,
  );
  k.testCase(
    'descriptor in a read-only page, accessed bit set',
    `
    ${copy}
    or byte [frame_b+5], 1
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_b', present)}
    lgdt [paged_gdt]
    mov eax, 0x30
    mov fs, eax`,
  );
  k.testCase('ring 3 loads a descriptor from a supervisor page', () => {
    k.code(`
      ${copy}
      mov dword [frame_b+4], 0x00cff200
      ${t.map(1, 'frame_a', present | writable)}
      ${t.map(2, 'frame_b', present | writable)}
      lgdt [paged_gdt]`);
    k.user('mov eax, 0x33\nmov fs, eax');
  });
  k.code('lgdt [gdt_pointer]');
  k.testCase('lgdt from an absent page', `${t.map(1, 'frame_a', 0)}\nlgdt [${t.linear(1)}]`);
  k.testCase('sidt to a read-only page', `${t.map(1, 'frame_a', present)}\nsidt [${t.linear(1)}]`);
  k.testCase(
    'gate in an absent page',
    `
    mov esi, idt
    mov edi, frame_a+0x1000-0x30*8
    mov ecx, 0x30*2
    rep movsd
    mov word [paged_idt], 0x1ff
    mov dword [paged_idt+2], ${t.linear(2) - 0x30 * 8}
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_b', 0)}
    lidt [paged_idt]
    int 0x30`,
  );
  k.code('lidt [idt_pointer]');
}

function largePages(k: Kernel, t: PageTables): void {
  const [ax, bx] = [k.native('ax'), k.native('bx')] as const;
  const entry = t.largeDirectoryEntry;
  const flush = `mov ${ax}, cr3\nmov cr3, ${ax}`;
  const show = `say " "\nhex dword [${entry}], 3`;
  const map = (flags: number, low = `${largeFrame}`): string =>
    `${t.write(entry, `${low}+${flags}`)}\n${flush}`;
  if (!(t.entrySize === 8)) {
    k.testCase(
      'PS without CR4.PSE is ignored',
      `
      ${t.write(entry, `test_table+${all | large}`)}
      ${flush}
      ${t.map(1, 'frame_a', all)}
      mov dword [frame_a], 0x600d600d
      mov eax, [${largeRegion + 0x1000}]
      say " "
      hex ${ax}`,
    );
    k.code(`mov ${ax}, cr4\nor eax, ${cr4Bits.pse}\nmov cr4, ${ax}`);
  }
  k.testCase('large: read', `${map(all | large)}\nmov eax, [${largeRegion + 0x1234}]\n${show}`);
  k.testCase('large: write', `${map(all | large)}\nmov dword [${largeRegion + 0x1234}], 0x13572468\n${show}`);
  k.testCase(
    'large: last dword',
    `
    ${map(all | large)}
    mov dword [${largeRegion + t.largeSize - 4}], 0x5a5a5a5a
    mov eax, [${largeRegion + t.largeSize - 4}]
    say " "
    hex ${ax}
    ${show}`,
  );
  k.testCase(
    'large: seen through a small page',
    `
    ${map(all | large)}
    mov dword [${largeRegion + 0x3458}], 0x0ddba115
    ${t.map(3, `${largeFrame + 0x3000}`, all)}
    mov eax, [${t.linear(3) + 0x458}]
    say " "
    hex ${ax}`,
  );
  k.testCase('large: read-only', `${map(present | user | large)}\nmov [${largeRegion}], eax`);
  k.testCase('large: supervisor, ring 3', () => {
    k.code(map(present | writable | large));
    k.user(`mov eax, [${largeRegion + 0x10_1010}]`);
  });
  k.testCase('large: absent', `${map(large)}\nmov eax, [${largeRegion + 0x777}]`);
  k.testCase(
    'large: the PAT bit is not reserved',
    `${map(all | large, `${largeFrame | 0x1000}`)}\nmov eax, [${largeRegion}]`,
  );
  k.testCase(
    'large to small with invlpg',
    `
    ${map(all | large)}
    mov dword [${largeRegion}], 0x1a26e
    mov dword [frame_a], 0x5a11
    mov eax, [${largeRegion}]
    ${t.write(entry, `test_table+${all}`)}
    ${t.map(0, 'frame_a', all)}
    invlpg [${largeRegion}]
    mov ebx, [${largeRegion}]
    say " "
    hex ${ax}
    say " "
    hex ${bx}`,
  );
  k.testCase(
    'fetch from a large page',
    `
    ${map(all | large)}
    mov byte [${largeRegion + 0x10_0000}], 0xc3
    mov eax, ${largeRegion + 0x10_0000}
    call ${ax}
    ${show}`,
  );
}

function control(k: Kernel, t: PageTables): void {
  const [ax, bx, cx] = [k.native('ax'), k.native('bx'), k.native('cx')] as const;
  k.testCase(
    'invlpg takes a new mapping',
    `
    mov dword [frame_a], 0xaaaa
    mov dword [frame_b], 0xbbbb
    ${t.map(1, 'frame_a', all)}
    mov eax, [${t.linear(1)}]
    ${t.map(1, 'frame_b', all)}
    mov ebx, [${t.linear(1)}]
    say " "
    hex ${ax}, 4
    say " "
    hex ${bx}, 4`,
  );
  k.testCase(
    'mov cr3 takes a new mapping',
    `
    ${t.map(1, 'frame_a', all)}
    mov eax, [${t.linear(1)}]
    ${t.write(t.entry(1), `frame_b+${all}`)}
    mov ${cx}, cr3
    mov cr3, ${cx}
    mov ebx, [${t.linear(1)}]
    say " "
    hex ${ax}, 4
    say " "
    hex ${bx}, 4`,
  );
  k.testCase(
    'global page and invlpg',
    `
    mov ${ax}, cr4
    or ${ax}, ${cr4Bits.pge}
    mov cr4, ${ax}
    ${t.map(1, 'frame_a', all | global)}
    mov eax, [${t.linear(1)}]
    ${t.map(1, 'frame_b', all | global)}
    mov ebx, [${t.linear(1)}]
    say " "
    hex ${ax}, 4
    say " "
    hex ${bx}, 4`,
  );
  k.testCase(
    'global page and CR4.PGE',
    `
    ${t.map(1, 'frame_a', all | global)}
    mov eax, [${t.linear(1)}]
    ${t.write(t.entry(1), `frame_b+${all | global}`)}
    mov ${cx}, cr4
    and ${cx}, ~${cr4Bits.pge}
    mov cr4, ${cx}
    mov ebx, [${t.linear(1)}]
    say " "
    hex ${ax}, 4
    say " "
    hex ${bx}, 4`,
  );
  k.testCase(
    'an entry made present needs no invlpg',
    `
    ${t.map(1, 'frame_a', 0)}
    ${t.write(t.entry(1), `frame_a+${all}`)}
    mov eax, [${t.linear(1)}]
    say " "
    hex ${ax}, 4`,
  );
  k.testCase(
    'WP takes effect at once',
    `
    ${t.map(1, 'frame_a', present | user)}
    mov ${ax}, cr0
    and ${ax}, ~${cr0Bits.wp}
    mov cr0, ${ax}
    mov [${t.linear(1)}], eax
    say " written"
    or ${ax}, ${cr0Bits.wp}
    mov cr0, ${ax}
    mov [${t.linear(1)}], eax`,
  );
  if (k instanceof Kernel32) pagingOffAndOn(k, t);
  k.testCase(
    'CR2 is kept and writable',
    `
    mov eax, 0x12345678
    mov cr2, ${ax}
    mov ${bx}, cr2
    say " "
    hex ${bx}`,
  );
  if (t.entrySize === 8) return;
  k.testCase(
    'directory mapped as its own table',
    `
    mov dword [page_directory+0xffc], page_directory+${all}
    mov eax, [0xffc01000]
    mov ebx, [test_table]
    sub eax, ebx
    say " "
    hex ${ax}
    mov eax, [0xffffffc0+0x3c]
    sub eax, page_directory
    say " "
    hex ${ax}, 3
    mov dword [page_directory+0xffc], 0`,
  );
}

function pagingOffAndOn(k: Kernel32, t: PageTables): void {
  k.testCase(
    'paging off and on',
    `
    ${t.map(1, 'frame_b', all)}
    mov dword [${t.linear(1)}], 0xcafe
    mov eax, cr0
    and eax, ~${cr0Bits.pg}
    mov cr0, eax
    jmp control$off
    control$off:
    mov ebx, [frame_b]
    or eax, ${cr0Bits.pg}
    mov cr0, eax
    jmp control$on
    control$on:
    mov ecx, [${t.linear(1)}]
    say " "
    hex ebx, 4
    say " "
    hex ecx, 4`,
  );
}

function directoryPointers(k: Kernel32, t: PageTables): void {
  const at = t.linear(1);
  k.testCase('directory pointer absent', 'mov eax, [0x40000000]');
  k.testCase('directory pointer absent, write from ring 3', () => k.user('mov [0xc0000123], eax'));
  k.testCase(
    'second gigabyte',
    `
    mov dword [directory_pointers+8], page_directory+1
    mov eax, cr3
    mov cr3, eax
    ${t.map(1, 'frame_a', all)}
    mov dword [frame_a], 0x6b6b6b6b
    mov eax, [${0x4000_0000 + at}]
    say " "
    hex eax`,
  );
}

function build(pae: boolean): Uint8Array {
  const k = new Kernel32();
  const tables32 = enablePaging32(k, pae);
  k.testCase('paging is on', `mov eax, cr0\nshr eax, 16\nand eax, 0x8001\nsay " "\nhex eax, 4`);
  rights(k, tables32);
  accessedAndDirty(k, tables32);
  crossing(k, tables32);
  tables(k, tables32);
  largePages(k, tables32);
  control(k, tables32);
  if (pae) {
    noExecution(k, tables32);
    directoryPointers(k, tables32);
  }
  k.reserve('frame_a', 0x1000).reserve('frame_b', 0x1000);
  k.data('align 4\npaged_gdt: dw 0\ndd 0\npaged_idt: dw 0\ndd 0');
  return k.finish().build();
}

export const paging32: SystemGuest = {
  name: 'paging-32',
  subject: '32-bit paging: faults, rights, WP, A and D, 4 MiB pages, global pages',
  expectation: { from: 'qemu' },
  build: () => build(false),
};

export const pagingPae: SystemGuest = {
  name: 'paging-pae',
  subject: 'PAE paging: as 32-bit paging, with 2 MiB pages and NX',
  expectation: { from: 'qemu' },
  build: () => build(true),
};

function build64(): Uint8Array {
  const k = new Kernel64();
  rights(k, k.tables);
  accessedAndDirty(k, k.tables);
  largePages(k, k.tables);
  control(k, k.tables);
  noExecution(k, k.tables);
  supervisorProtection(k, k.tables);
  k.reserve('frame_a', 0x1000).reserve('frame_b', 0x1000);
  return k.finish().build();
}

export const paging64: SystemGuest = {
  name: 'paging-64',
  subject: '4-level paging: as PAE paging, with SMEP and SMAP',
  expectation: { from: 'qemu' },
  build: build64,
};
