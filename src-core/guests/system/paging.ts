/** 32-bit and PAE paging: faults with error codes and CR2, accessed and dirty bits, large pages, NX. */
import type { SystemGuest } from './runtime/guest.ts';
import type { Kernel } from './runtime/kernel.ts';
import { Kernel32 } from './runtime/kernel32.ts';
import { Kernel64 } from './runtime/kernel64.ts';
import { cr0Bits, cr4Bits, largeFrame, largeRegion, pageFlags, enablePaging32 } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const { present, writable, user, accessed, dirty, large, global } = pageFlags;
const all = present | writable | user;
/** IA32_EFER and its NXE bit (SDM vol. 4, table 2-2). */
const efer = 0xc000_0080;
const nxe = 0x800;
const noExecute = 0x8000_0000;

/** Every combination of rights against every kind of access. */
function rights(k: Kernel, t: PageTables): void {
  const [ax] = [k.native('ax')] as const;
  const address = t.linear(1) + 0x234;
  const accesses: readonly (readonly [string, string])[] = [
    ['read', `mov eax, [${address}]`],
    ['write', `mov [${address}], eax`],
    ['fetch', `mov eax, ${address}\ncall ${ax}`],
  ];
  const pages: readonly (readonly [string, number, number])[] = [
    ['absent', 0, all],
    ['supervisor read-only', present, all],
    ['supervisor writable', present | writable, all],
    ['user read-only', present | user, all],
    ['user writable', all, all],
    ['user writable, directory absent', all, 0],
    ['user writable, directory read-only', all, present | user],
    ['user writable, directory supervisor', all, present | writable],
  ];
  for (const [name, flags, directory] of pages) {
    for (const [access, body] of accesses) {
      for (const ring of [0, 3]) {
        for (const wp of ring === 0 ? [1, 0] : [1]) {
          k.testCase(`${name}, ${access}, ring ${ring}${wp ? '' : ', WP clear'}`, () => {
            k.code(`
              mov byte [frame_a+0x234], 0xc3
              ${t.map(1, 'frame_a', flags)}
              mov dword [${t.testDirectoryEntry}], test_table+${directory}
              mov ${ax}, cr0
              ${wp ? `or ${ax}, ${cr0Bits.wp}` : `and ${ax}, ~${cr0Bits.wp}`}
              mov cr0, ${ax}
              mov ${ax}, cr3
              mov cr3, ${ax}`);
            if (ring === 0) k.code(body);
            else k.user(body);
            k.code(`
              say " entry "
              hex dword [${t.entry(1)}], 3
              say " directory "
              hex dword [${t.testDirectoryEntry}], 3`);
          });
        }
      }
    }
  }
  k.code(`
    mov dword [${t.testDirectoryEntry}], test_table+${all}
    mov ${ax}, cr0
    or ${ax}, ${cr0Bits.wp}
    mov cr0, ${ax}
    mov ${ax}, cr3
    mov cr3, ${ax}`);
}

function accessedAndDirty(k: Kernel, t: PageTables): void {
  const [ax, bx, sp] = [k.native('ax'), k.native('bx'), k.native('sp')] as const;
  const show = (page: number): string => `say " "\nhex dword [${t.entry(page)}], 3`;
  const bodies: readonly (readonly [string, string])[] = [
    ['read', `mov eax, [${t.linear(1)}]`],
    ['write', `mov [${t.linear(1)}], eax`],
    ['read then write', `mov eax, [${t.linear(1)}]\n${show(1)}\nmov [${t.linear(1)}], eax`],
    ['compare', `cmp dword [${t.linear(1)}], 0`],
    ['exchange', `xchg eax, [${t.linear(1)}]`],
    ['failing cmpxchg', `mov eax, 0x777\ncmpxchg [${t.linear(1)}], ebx`],
    ['failing lock cmpxchg8b', `mov eax, 0x777\nlock cmpxchg8b [${t.linear(1)}]`],
    ['bit set', `bts dword [${t.linear(1)}], 5`],
    ['bit test', `bt dword [${t.linear(1)}], 5`],
    ['fetch', `mov eax, ${t.linear(1)}\ncall ${ax}`],
    ['push', `mov ${bx}, ${sp}\nmov ${sp}, ${t.linear(1) + 16}\npush ${ax}\nmov ${sp}, ${bx}`],
    ['pop', `mov ${bx}, ${sp}\nmov ${sp}, ${t.linear(1) + 16}\npop ${ax}\nmov ${sp}, ${bx}`],
    ['lea', `lea eax, [${t.linear(1)}]`],
    ['invlpg', `invlpg [${t.linear(1)}]`],
    ['rep movsd of nothing', `xor ecx, ecx\nmov edi, ${t.linear(1)}\nmov esi, edi\nrep movsd`],
    ['stosd', `mov edi, ${t.linear(1)}\nstosd`],
    ['fld', `fninit\nfld dword [${t.linear(1)}]`],
    ['fst', `fninit\nfldz\nfst dword [${t.linear(1)}]`],
  ];
  for (const [name, body] of bodies) {
    k.testCase(
      `A and D: ${name}`,
      `
      mov byte [frame_a], 0xc3
      mov byte [frame_a+4], 0
      and dword [${t.testDirectoryEntry}], ~${accessed}
      ${t.map(1, 'frame_a', all)}
      mov ${ax}, cr3
      mov cr3, ${ax}
      ${body}
      ${show(1)}
      say " directory "
      hex dword [${t.testDirectoryEntry}], 3`,
    );
  }
  k.testCase(
    'D stays when A is cleared',
    `
    ${t.map(1, 'frame_a', all | dirty)}
    mov eax, [${t.linear(1)}]
    ${show(1)}`,
  );
  k.testCase(
    'bits 9 to 11 are left alone',
    `
    ${t.map(1, 'frame_a', all | 0xe00)}
    mov [${t.linear(1)}], eax
    ${show(1)}`,
  );
  k.testCase(
    'write to a page first read by another alias',
    `
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_a', all)}
    mov eax, [${t.linear(1)}]
    mov dword [${t.linear(2)}], 0x12121212
    mov eax, [${t.linear(1)}]
    say " "
    hex ${ax}
    ${show(1)}
    ${show(2)}`,
  );
}

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

function noExecution(k: Kernel, t: PageTables): void {
  const [ax] = [k.native('ax')] as const;
  const at = t.linear(1);
  k.code(`mov ecx, ${efer}\nrdmsr\nor eax, ${nxe}\nwrmsr`);
  for (const ring of [0, 3]) {
    for (const [access, body] of [
      ['read', `mov eax, [${at}]`],
      ['write', `mov [${at}], eax`],
      ['fetch', `mov byte [frame_a], 0xc3\nmov eax, ${at}\ncall ${ax}`],
    ] as const) {
      for (const [name, flags, high] of [
        ['NX', all, noExecute],
        ['not NX', all, 0],
        ['NX, absent', 0, noExecute],
      ] as const) {
        k.testCase(`${name}: ${access}, ring ${ring}`, () => {
          k.code(t.map(1, 'frame_a', flags, high));
          if (ring === 0) k.code(body);
          else k.user(body);
        });
      }
    }
  }
  k.testCase('NX supervisor page, fetch from ring 3', () => {
    k.code(t.map(1, 'frame_a', present | writable, noExecute));
    k.user(`mov eax, ${at}\ncall ${ax}`);
  });
  k.testCase(
    'NX in the directory entry',
    `
    ${t.map(1, 'frame_a', all)}
    mov dword [${t.testDirectoryEntry}+4], ${noExecute}
    mov ${ax}, cr3
    mov cr3, ${ax}
    mov eax, [${at}]
    mov eax, ${at}
    call ${ax}`,
  );
  k.code(`mov dword [${t.testDirectoryEntry}+4], 0\nmov ${ax}, cr3\nmov cr3, ${ax}`);
  k.testCase(
    'NX large page',
    `
    ${t.write(t.largeDirectoryEntry, `${largeFrame}+${all | large}`, noExecute)}
    mov ${ax}, cr3
    mov cr3, ${ax}
    mov eax, [${largeRegion}]
    mov eax, ${largeRegion}
    call ${ax}`,
  );
  k.testCase(
    'instruction across into an NX page',
    `
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_b', all, noExecute)}
    mov byte [frame_a+0xfff], 0xb8
    mov eax, ${at + 0xfff}
    jmp ${ax}`,
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

/** SMEP and SMAP (SDM vol. 3A, 4.6): the kernel's own pages become supervisor pages for the while. */
function supervisorProtection(k: Kernel, t: PageTables): void {
  const ax = k.native('ax');
  const at = t.linear(1);
  const identity = (instruction: string): void => {
    const loop = k.unique('identity');
    k.code(`
      mov edi, identity_table
      mov ecx, ${0x1000 / t.entrySize}
      ${loop}: ${instruction}
      add edi, ${t.entrySize}
      loop ${loop}
      mov ${ax}, cr3
      mov cr3, ${ax}`);
  };
  identity(`and dword [${k.native('di')}], ~${user}`);
  const control = (bits: number): string => `
    mov ${ax}, cr4
    and eax, ~${cr4Bits.smep | cr4Bits.smap}
    or eax, ${bits}
    mov cr4, ${ax}
    mov byte [frame_a], 0xc3
    ${t.map(1, 'frame_a', all)}`;
  const accesses: readonly (readonly [string, string])[] = [
    ['read', `mov eax, [${at}]`],
    ['write', `mov byte [${at}], 0xc3`],
    ['fetch', `mov eax, ${at}\ncall ${ax}`],
    ['read with AC set', `stac\nmov eax, [${at}]\nclac`],
    ['write with AC set', `stac\nmov byte [${at}], 0xc3\nclac`],
    ['fetch with AC set', `stac\nmov eax, ${at}\ncall ${ax}\nclac`],
    ['read after clac', `stac\nclac\nmov eax, [${at}]`],
  ];
  for (const [name, bits] of [
    ['neither', 0],
    ['SMEP', cr4Bits.smep],
    ['SMAP', cr4Bits.smap],
    ['SMEP and SMAP', cr4Bits.smep | cr4Bits.smap],
  ] as const) {
    for (const [access, body] of accesses) {
      k.testCase(`${name}: ${access} of a user page`, () => k.code(control(bits)).code(body));
    }
    k.testCase(`${name}: fetch of an absent page`, () => {
      k.code(control(bits)).code(`${t.map(1, 'frame_a', 0)}\nmov eax, ${at}\ncall ${ax}`);
    });
    k.testCase(`${name}: read of a supervisor page`, () => {
      k.code(control(bits)).code(
        `${t.map(1, 'frame_a', present | writable)}\nmov eax, [${at}]\nmov eax, ${at}\ncall ${ax}`,
      );
    });
  }
  k.testCase('WP clear does not help against SMAP', () => {
    k.code(control(cr4Bits.smap)).code(`
      mov ${ax}, cr0
      and eax, ~${cr0Bits.wp}
      mov cr0, ${ax}
      mov [${at}], eax`);
  });
  k.code(`
    mov ${ax}, cr0
    or eax, ${cr0Bits.wp}
    mov cr0, ${ax}
    ${control(0)}`);
  identity(`or dword [${k.native('di')}], ${user}`);
  k.testCase('stac in ring 3', () => k.user('stac'));
}

/**
 * Where QEMU TCG goes its own way. A reserved bit faults with P set in the error code (SDM vol. 3A, 4.7). The
 * rest the manual leaves open; the expectation is what processors do: a read-modify-write instruction that
 * faults reports a write, PUSHA writes downwards from EAX, ENTER tries the final top of the stack.
 */
function reservedAndWrites(k: Kernel32, t: PageTables): void {
  const at = t.linear(1);
  const body = `mov eax, [${at}]`;
  const store = `mov [${at}], eax`;
  const inBothRings = (name: string, setUp: string, read: string, write: string): void => {
    k.testCase(`${name}, read`, `${setUp}\n${read}`);
    k.testCase(`${name}, write from ring 3`, () => k.code(setUp).user(write));
  };
  const flush = 'mov eax, cr3\nmov cr3, eax';
  k.code(`mov eax, cr4\nor eax, ${cr4Bits.pse}\nmov cr4, eax`);
  inBothRings(
    'reserved bit of a large page',
    `${t.write(t.largeDirectoryEntry, `${largeFrame | (t.entrySize === 8 ? 0x2000 : 0x20_0000)}+${all | large}`)}\n${flush}`,
    `mov eax, [${largeRegion}]`,
    `mov [${largeRegion}], eax`,
  );
  if (t.entrySize === 8) {
    inBothRings('bit 63 without NXE', t.map(1, 'frame_a', all, noExecute), body, store);
    inBothRings('bit 62', t.map(1, 'frame_a', all, 0x4000_0000), body, store);
    k.testCase('bit 62 of an absent page', `${t.map(1, 'frame_a', 0, 0x4000_0000)}\n${body}`);
    k.testCase('bit 62, fetch', `${t.map(1, 'frame_a', all, 0x4000_0000)}\nmov eax, ${at}\ncall eax`);
    k.testCase(
      'bit 62 of the directory entry',
      `
      mov dword [${t.testDirectoryEntry}+4], 0x40000000
      ${t.map(1, 'frame_a', all)}
      ${flush}
      ${body}`,
    );
    k.code(`mov dword [${t.testDirectoryEntry}+4], 0\n${flush}`);
  }
  const modify: readonly (readonly [string, string])[] = [
    ['inc', `inc dword [${at}]`],
    ['add', `add [${at}], eax`],
    ['lock add', `lock add [${at}], eax`],
    ['xchg', `xchg [${at}], eax`],
    ['cmpxchg', `cmpxchg [${at}], ecx`],
    ['cmpxchg8b', `cmpxchg8b [${at}]`],
    ['bts', `bts dword [${at}], 1`],
    ['shl', `shl dword [${at}], 1`],
    ['not', `not byte [${at}]`],
  ];
  for (const [name, instruction] of modify) {
    k.testCase(`${name} of an absent page`, `${t.map(1, 'frame_a', 0)}\n${instruction}`);
    k.testCase(`${name} of a supervisor page from ring 3`, () => {
      k.code(t.map(1, 'frame_a', present)).user(instruction);
    });
  }
  k.testCase(
    'inc across, second absent',
    `
    ${t.map(1, 'frame_a', all)}
    ${t.map(2, 'frame_b', 0)}
    mov dword [frame_a+0xffc], 0x11111111
    inc dword [${at + 0xffe}]`,
  );
  k.testCase('nothing was written', 'say " "\nhex dword [frame_a+0xffc]');
  k.code(`
    jmp reserved$over
    show_esp:
      say " esp "
      hex dword [esp+68]
      jmp report$print
    reserved$over:
      mov dword [hooks+14*4], show_esp
      ${t.map(1, 'frame_a', 0)}
      ${t.map(2, 'frame_b', all)}`);
  for (const [name, stack, instruction] of [
    ['pushad', 0x1000, 'pushad'],
    ['pushad across', 0x1010, 'pushad'],
    ['enter', 0x1000, 'enter 16, 0'],
    ['enter, its frame absent', 0x1010, 'enter 64, 0'],
  ] as const) {
    k.testCase(`ring 3 stack ends: ${name}`, () => k.user(`mov esp, ${at + stack}\n${instruction}`));
  }
  k.code('mov dword [hooks+14*4], 0');
}

function build(pae: boolean, which: 'plain' | 'manual'): Uint8Array {
  const k = new Kernel32();
  const tables32 = enablePaging32(k, pae);
  k.testCase('paging is on', `mov eax, cr0\nshr eax, 16\nand eax, 0x8001\nsay " "\nhex eax, 4`);
  if (which === 'plain') {
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
  } else reservedAndWrites(k, tables32);
  k.reserve('frame_a', 0x1000).reserve('frame_b', 0x1000);
  k.data('align 4\npaged_gdt: dw 0\ndd 0\npaged_idt: dw 0\ndd 0');
  return k.finish().build();
}

export const paging32: SystemGuest = {
  name: 'paging-32',
  subject: '32-bit paging: faults, rights, WP, A and D, 4 MiB pages, global pages',
  expectation: { from: 'qemu' },
  build: () => build(false, 'plain'),
};

export const pagingPae: SystemGuest = {
  name: 'paging-pae',
  subject: 'PAE paging: as 32-bit paging, with 2 MiB pages and NX',
  expectation: { from: 'qemu' },
  build: () => build(true, 'plain'),
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

const because =
  'QEMU TCG clears P in the error code of reserved bits, reports a read for read-modify-write, and writes PUSHA upwards';

export const paging32ByManual: SystemGuest = {
  name: 'paging-32-writes',
  subject: '32-bit paging: reserved bits, read-modify-write, the order of stack writes',
  expectation: { from: 'sdm', because },
  build: () => build(false, 'manual'),
};

export const pagingPaeByManual: SystemGuest = {
  name: 'paging-pae-writes',
  subject: 'PAE paging: reserved bits, read-modify-write, the order of stack writes',
  expectation: { from: 'sdm', because },
  build: () => build(true, 'manual'),
};
