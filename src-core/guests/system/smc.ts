/** Self-modifying code: next instruction, other pages, across pages, aliases, remapped pages. */
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel32 } from './runtime/kernel32.ts';
import { enablePaging32, pageFlags } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const all = pageFlags.present | pageFlags.writable | pageFlags.user;
const show = 'say " "\nhex eax, 4';

/** Code that stores `mov eax, value` (a byte) and `ret` at `address`. */
function store(address: string, value: number): string {
  return `mov dword [${address}], ${0xb8 | (value << 8)}\nmov word [${address}+4], 0xc300`;
}

function straight(k: Kernel32): void {
  const next = (write: string): string => {
    const label = k.unique('patched');
    return `${write.replaceAll('NEXT', label)}\n${label}: mov eax, 0x11111111\n${show}`;
  };
  const writes: readonly (readonly [string, string])[] = [
    ['a byte', 'mov byte [NEXT+1], 0x22'],
    ['the opcode', 'mov eax, 0x7777\nmov byte [NEXT], 0xbb'],
    ['a word', 'mov word [NEXT+1], 0x2233'],
    ['a dword', 'mov dword [NEXT+1], 0x22334455'],
    ['by xchg', 'mov ecx, 0x5a5a\nxchg [NEXT+1], cx'],
    ['by lock cmpxchg', 'mov eax, 0x11111111\nmov ecx, 0x4242\nlock cmpxchg [NEXT+1], ecx'],
    ['by add', 'add byte [NEXT+1], 5'],
    ['by stosb', 'mov edi, NEXT+1\nmov al, 0x66\nstosb'],
    ['by rep stosb', 'mov edi, NEXT+1\nmov ecx, 4\nmov al, 0x77\nrep stosb'],
    ['by movsd', 'mov esi, pattern\nmov edi, NEXT+1\nmovsd'],
    ['by fistp', 'fninit\nfild dword [pattern]\nfistp dword [NEXT+1]'],
    ['by bts', 'bts dword [NEXT+1], 9'],
    ['by setc', 'stc\nsetc [NEXT+1]'],
  ];
  for (const [name, write] of writes) k.testCase(`next instruction, ${name}`, next(write));
  k.testCase(
    'next instruction, by push',
    `
    mov ebx, esp
    mov esp, push$next+5
    push 0x1234
    push$next: mov eax, 0x11111111
    mov esp, ebx
    ${show}`,
  );
  k.testCase(
    'next instruction, by movups',
    `
    movups xmm0, [pattern]
    movups [movups$next+1], xmm0
    movups$next: mov eax, 0x11111111
    jmp movups$over
    db 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90
    movups$over:
    ${show}`,
  );
  k.testCase(
    'next instruction, a dword that begins before it',
    `
    mov dword [before$next-2], 0x33b89090
    jmp before$nops
    before$nops: nop
    nop
    before$next: mov eax, 0x11111111
    ${show}`,
  );
  k.testCase(
    'an instruction already executed, in a loop',
    `
    xor ebx, ebx
    mov ecx, 10
    loop$patched: add ebx, 1
    inc byte [loop$patched+2]
    dec ecx
    jnz loop$patched
    mov eax, ebx
    ${show}`,
  );
  k.testCase(
    'a thousand times',
    `
    xor eax, eax
    mov ecx, 1000
    toggle$loop:
    toggle$at: inc eax
    nop
    xor byte [toggle$at], 8 ; inc eax is 40, dec eax 48
    test ecx, 3
    jnz toggle$keep
    mov byte [toggle$at], 0x40
    toggle$keep:
    dec ecx
    jnz toggle$loop
    ${show}`,
  );
  k.testCase(
    'a counter beside the code',
    `
    mov ecx, 5000
    beside$loop:
    inc dword [beside$count]
    dec ecx
    jnz beside$loop
    jmp beside$over
    beside$count: dd 0
    beside$over:
    mov eax, [beside$count]
    ${show}`,
  );
  k.testCase(
    'the displacement of a jump',
    `
    mov byte [jump$at+1], jump$two-jump$one
    jump$at: jmp short jump$one
    jump$one: mov eax, 1
    jmp jump$end
    jump$two: mov eax, 2
    jump$end:
    ${show}`,
  );
  k.testCase(
    'a call by the next instruction',
    `
    mov dword [called$at+1], called$two-called$after
    called$at: call called$one
    called$after: jmp called$end
    called$one: mov eax, 1
    ret
    called$two: mov eax, 2
    ret
    called$end:
    ${show}`,
  );
  k.testCase(
    'into the middle of an instruction',
    `
    jmp overlap$at+1
    overlap$at: mov eax, 0x9008eb90
    mov eax, 0x0bad
    jmp overlap$end
    overlap$six: mov eax, 0x600d
    overlap$end:
    ${show}`,
  );
  k.testCase(
    'code written by rep movsb over its own end',
    `
    mov esi, own$source
    mov edi, own$target
    mov ecx, 5
    rep movsb
    own$target: mov eax, 0x1111
    ${show}
    jmp own$end
    own$source: mov eax, 0x2222
    own$end:`,
  );
}

function pages(k: Kernel32, t: PageTables): void {
  const at = (page: number): number => t.linear(page);
  k.testCase(
    'another page, rewritten between calls',
    `
    ${t.map(1, 'frame_a', all)}
    ${store(`${at(1)}`, 0x10)}
    mov edx, ${at(1)}
    call edx
    ${show}
    ${store(`${at(1)}`, 0x20)}
    call edx
    ${show}
    mov byte [${at(1) + 1}], 0x30
    call edx
    ${show}`,
  );
  k.testCase(
    'another page, rewritten in a loop',
    `
    xor ebx, ebx
    mov ecx, 100
    mov edx, ${at(1)}
    pages$loop:
    mov [${at(1) + 1}], cl
    call edx
    add ebx, eax
    dec ecx
    jnz pages$loop
    mov eax, ebx
    ${show}`,
  );
  for (const [name, offset] of [
    ['opcode on the first page', 0xfff],
    ['split in the immediate', 0xffd],
  ] as const) {
    const address = at(1) + offset;
    k.testCase(
      `across two pages, ${name}`,
      `
      ${t.map(1, 'frame_a', all)}
      ${t.map(2, 'frame_b', all)}
      ${store(`${address}`, 0x41)}
      mov edx, ${address}
      call edx
      ${show}
      mov byte [${address + 1}], 0x42
      call edx
      ${show}
      mov byte [${address + 4}], 0x99
      call edx
      say " "
      hex eax
      mov dword [${at(2) - 2}], 0
      ${store(`${address}`, 0x43)}
      call edx
      ${show}`,
    );
  }
  k.testCase(
    'through an alias',
    `
    ${t.map(1, 'frame_a', all)}
    ${t.map(3, 'frame_a', all)}
    ${store(`${at(1)}`, 0x51)}
    mov edx, ${at(1)}
    call edx
    ${show}
    mov byte [${at(3) + 1}], 0x52
    jmp alias$one
    alias$one:
    call edx
    ${show}
    mov edx, ${at(3)}
    call edx
    ${show}
    mov byte [frame_a+1], 0x53
    jmp alias$two
    alias$two:
    call edx
    ${show}`,
  );
  k.testCase(
    'through an alias in a loop',
    `
    xor ebx, ebx
    mov ecx, 50
    mov edx, ${at(1)}
    alias$loop:
    mov [${at(3) + 1}], cl
    call edx
    add ebx, eax
    dec ecx
    jnz alias$loop
    mov eax, ebx
    ${show}`,
  );
  k.testCase(
    'another frame at the same address',
    `
    ${store('frame_a', 0x61)}
    ${store('frame_b', 0x62)}
    mov edx, ${at(1)}
    ${t.map(1, 'frame_a', all)}
    call edx
    ${show}
    ${t.map(1, 'frame_b', all)}
    call edx
    ${show}
    ${t.map(1, 'frame_a', all)}
    call edx
    ${show}`,
  );
  k.testCase(
    'another frame by mov cr3',
    `
    mov edx, ${at(1)}
    call edx
    ${show}
    ${t.write(t.entry(1), `frame_b+${all}`)}
    mov eax, cr3
    mov cr3, eax
    call edx
    ${show}`,
  );
  k.testCase(
    'a page changed while it was not mapped',
    `
    ${store('frame_a', 0x71)}
    mov edx, ${at(1)}
    ${t.map(1, 'frame_a', all)}
    call edx
    ${show}
    ${t.map(1, 'frame_a', 0)}
    mov byte [frame_a+1], 0x72
    ${t.map(1, 'frame_a', all)}
    call edx
    ${show}`,
  );
  k.testCase(
    'a page made absent under running code',
    `
    ${store('frame_a', 0x73)}
    ${t.map(1, 'frame_a', all)}
    mov edx, ${at(1)}
    call edx
    ${show}
    ${t.map(1, 'frame_a', 0)}
    call edx`,
  );
  k.testCase('from ring 3', () => {
    k.code(`${store('frame_a', 0x81)}\n${t.map(1, 'frame_a', all)}`);
    k.user(`
      mov edx, ${at(1)}
      call edx
      mov ebx, eax
      mov byte [${at(1) + 1}], 0x82
      call edx`);
    k.code(`say " "\nhex ebx, 4\n${show}`);
  });
  k.testCase(
    'by rep movsd of a whole page',
    `
    ${t.map(1, 'frame_a', all)}
    ${store('frame_a', 0x91)}
    ${store('frame_b', 0x92)}
    mov edx, ${at(1)}
    call edx
    ${show}
    mov esi, frame_b
    mov edi, ${at(1)}
    mov ecx, 1024
    rep movsd
    call edx
    ${show}`,
  );
  k.testCase(
    'a routine that rewrites its caller',
    `
    rewrite$call: call rewrite$routine
    rewrite$after: mov eax, 0x1111
    ${show}
    jmp rewrite$end
    rewrite$routine:
    mov byte [rewrite$after+1], 0x99
    ret
    rewrite$end:`,
  );
}

function build(): Uint8Array {
  const k = new Kernel32();
  k.code('mov eax, cr4\nor eax, 0x200\nmov cr4, eax');
  const t = enablePaging32(k, false);
  straight(k);
  pages(k, t);
  k.reserve('frame_a', 0x1000).reserve('frame_b', 0x1000);
  k.data(`align 16\npattern: dd 0x0badcafe, 0x90909090, 0x90909090, 0x90909090`);
  return k.finish().build();
}

export const selfModifyingCode: SystemGuest = {
  name: 'self-modifying-code',
  subject: 'code that writes code: the next instruction, other pages, across pages, aliases',
  expectation: { from: 'qemu' },
  build,
};
