/** What every paging mode has in common: rights against accesses, A and D, NX, SMEP and SMAP. */
import type { Kernel } from './runtime/kernel.ts';
import { cr0Bits, cr4Bits, largeFrame, largeRegion, pageFlags } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const { present, writable, user, accessed, dirty, large } = pageFlags;
const all = present | writable | user;
/** IA32_EFER and its NXE bit (SDM vol. 4, table 2-2). */
const efer = 0xc000_0080;
const nxe = 0x800;
/** Bits 63:32 of an entry with NX set. */
const noExecute = 0x8000_0000;

/** Every combination of rights against every kind of access. */
export function rights(k: Kernel, t: PageTables): void {
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

export function accessedAndDirty(k: Kernel, t: PageTables): void {
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

export function noExecution(k: Kernel, t: PageTables): void {
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

/** SMEP and SMAP (SDM vol. 3A, 4.6): the kernel's own pages become supervisor pages for the while. */
export function supervisorProtection(k: Kernel, t: PageTables): void {
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
