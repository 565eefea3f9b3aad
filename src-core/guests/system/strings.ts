/** REP string instructions that meet a fault, are mended by the handler, and go on where they were. */
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel32 } from './runtime/kernel32.ts';
import { enablePaging32, pageFlags } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const all = pageFlags.present | pageFlags.writable | pageFlags.user;

/** The handler tells the registers as the fault left them, maps the page that was missing, and returns. */
function handler(k: Kernel32): void {
  k.code(`
    jmp strings$over
    strings$mend:
      say " #PF("
      hex dword [esp+52], 1
      say ") cr2 "
      mov eax, cr2
      hex eax, 6
      say " ecx "
      hex dword [esp+40], 4
      say " esi "
      hex dword [esp+20], 6
      say " edi "
      hex dword [esp+16], 6
      mov eax, [esp+56]
      cmp eax, [strings$instruction]
      jz strings$there
      say " elsewhere"
    strings$there:
      mov eax, cr2
      mov ecx, eax
      shr ecx, 12
      and ecx, 0x3ff
      or dword [test_table+ecx*4], ${all}
      invlpg [eax]
      dec dword [reports_left]
      jz report$abandon
      jmp report$return
    strings$over:
      mov dword [hooks+14*4], strings$mend`);
  k.data('align 4\nstrings$instruction: dd 0');
}

interface StringCase {
  readonly name: string;
  readonly instruction: string;
  readonly esi: number;
  readonly edi: number;
  readonly ecx: number;
  readonly backwards?: boolean;
  /** Pages of the test region that are absent at first. */
  readonly absent: readonly number[];
}

function run(k: Kernel32, t: PageTables, c: StringCase): void {
  const frames = ['frame_a', 'frame_b', 'frame_c', 'frame_d', 'frame_e', 'frame_f'];
  const at = k.unique('string');
  k.testCase(c.name, () => {
    for (const [page, frame] of frames.entries())
      k.code(t.map(page, frame, c.absent.includes(page) ? 0 : all));
    k.code(`
      mov edi, frame_a
      mov ecx, 0x6000
      mov eax, 0x11
      ${at}$fill:
      mov [edi], al
      inc edi
      add al, 7
      loop ${at}$fill
      mov dword [strings$instruction], ${at}
      mov esi, ${c.esi}
      mov edi, ${c.edi}
      mov ecx, ${c.ecx}
      mov eax, 0x5a5b5c5d
      mov edx, 0xe9
      ${c.backwards ? 'std' : 'cld'}
      ${at}: ${c.instruction}
      cld
      mov ebx, eax
      say " | ecx "
      hex ecx, 4
      say " esi "
      hex esi, 6
      say " edi "
      hex edi, 6
      say " eax "
      hex ebx
      say " sum "
      mov esi, frame_a
      mov ecx, 0x1800
      xor eax, eax
      ${at}$sum:
      rol eax, 3
      add eax, [esi]
      add esi, 4
      loop ${at}$sum
      hex eax`);
  });
}

function build(): Uint8Array {
  const k = new Kernel32();
  const t = enablePaging32(k, false);
  handler(k);
  const page = (n: number): number => t.linear(n);
  const cases: StringCase[] = [];
  for (const size of ['b', 'w', 'd'] as const) {
    const width = { b: 1, w: 2, d: 4 }[size];
    const count = 16;
    const end = count * width;
    cases.push(
      {
        name: `rep movs${size}, destination ends`,
        instruction: `rep movs${size}`,
        esi: page(0),
        edi: page(4) - end / 2,
        ecx: count,
        absent: [4],
      },
      {
        name: `rep movs${size}, source ends`,
        instruction: `rep movs${size}`,
        esi: page(2) - end / 2,
        edi: page(3),
        ecx: count,
        absent: [2],
      },
      {
        name: `rep movs${size}, both absent`,
        instruction: `rep movs${size}`,
        esi: page(0) + 8,
        edi: page(3) + 8,
        ecx: count,
        absent: [0, 3],
      },
      {
        name: `rep movs${size}, backwards`,
        instruction: `rep movs${size}`,
        esi: page(2) + end / 2 - width,
        edi: page(4) + end / 4 - width,
        ecx: count,
        backwards: true,
        absent: [1, 3],
      },
      {
        name: `rep movs${size}, overlapping`,
        instruction: `rep movs${size}`,
        esi: page(1) - 8,
        edi: page(1) - 7,
        ecx: count,
        absent: [1],
      },
      {
        name: `rep stos${size}`,
        instruction: `rep stos${size}`,
        esi: 0,
        edi: page(2) - end / 2,
        ecx: count,
        absent: [2],
      },
      {
        name: `rep stos${size}, backwards`,
        instruction: `rep stos${size}`,
        esi: 0,
        edi: page(2),
        ecx: count,
        backwards: true,
        absent: [1, 2],
      },
      {
        name: `rep lods${size}`,
        instruction: `rep lods${size}`,
        esi: page(2) - end / 2,
        edi: 0,
        ecx: count,
        absent: [2],
      },
      {
        name: `repne scas${size}`,
        instruction: `repne scas${size}`,
        esi: 0,
        edi: page(2) - end / 2,
        ecx: count,
        absent: [2],
      },
      {
        name: `repe cmps${size}, equal`,
        instruction: `repe cmps${size}`,
        esi: page(0),
        edi: page(0),
        ecx: count,
        absent: [0],
      },
      {
        name: `repe cmps${size}, second absent`,
        instruction: `repe cmps${size}`,
        esi: page(1) - 256,
        edi: page(1) - 256,
        ecx: 256 / width + 4,
        absent: [1],
      },
    );
    if (width > 1) {
      cases.push(
        {
          name: `rep movs${size}, destination across the edge`,
          instruction: `rep movs${size}`,
          esi: page(0),
          edi: page(4) - end / 2 + 1,
          ecx: count,
          absent: [4],
        },
        {
          name: `rep movs${size}, source across the edge`,
          instruction: `rep movs${size}`,
          esi: page(2) - end / 2 - 1,
          edi: page(3),
          ecx: count,
          absent: [2],
        },
        {
          name: `rep stos${size}, across the edge`,
          instruction: `rep stos${size}`,
          esi: 0,
          edi: page(2) - width - 1,
          ecx: 4,
          absent: [2],
        },
      );
    }
  }
  cases.push(
    {
      name: 'rep movsb over three pages',
      instruction: 'rep movsb',
      esi: page(0) + 0x800,
      edi: page(2) + 0xc00,
      ecx: 0x1800,
      absent: [1, 3, 4],
    },
    {
      name: 'rep stosd of a whole page',
      instruction: 'rep stosd',
      esi: 0,
      edi: page(3),
      ecx: 1024,
      absent: [3],
    },
    {
      name: 'rep stosd of two pages',
      instruction: 'rep stosd',
      esi: 0,
      edi: page(3) + 4,
      ecx: 2047,
      absent: [3, 4],
    },
    {
      name: 'movsd without REP',
      instruction: 'movsd',
      esi: page(2) - 2,
      edi: page(4) - 2,
      ecx: 5,
      absent: [2, 4],
    },
    {
      name: 'cmpsd without REP',
      instruction: 'cmpsd',
      esi: page(2) - 2,
      edi: page(4) - 2,
      ecx: 5,
      absent: [4],
    },
    {
      name: 'rep movsb of nothing',
      instruction: 'rep movsb',
      esi: page(0),
      edi: page(1),
      ecx: 0,
      absent: [0, 1],
    },
  );
  for (const c of cases) run(k, t, c);
  k.testCase(
    'rep outsb',
    `
    ${t.map(0, 'frame_a', all)}
    ${t.map(1, 'frame_b', 0)}
    mov byte [frame_a+0xfff], '<'
    mov byte [frame_b], '>'
    mov dword [strings$instruction], strings$out
    mov esi, ${page(1) - 1}
    mov edi, 0
    mov ecx, 2
    mov edx, 0xe9
    strings$out: rep outsb`,
  );
  k.code('mov dword [hooks+14*4], 0');
  k.testCase(
    'a16 uses cx, si and di',
    `
    mov ecx, 0x12340004
    mov esi, 0xabcdfffe
    mov edi, 0x56780100
    mov dword [0xfffe], 0x11221122
    mov dword [0], 0x33443344
    a16 rep movsb
    say " "
    hex ecx
    say " "
    hex esi
    say " "
    hex edi
    say " "
    hex dword [0x100]`,
  );
  k.testCase('scasb finds', 'mov edi, text\nmov al, 0x64\nmov ecx, 10\nrepne scasb\nsay " "\nhex ecx, 4');
  k.testCase(
    'repe cmpsb differs',
    'mov esi, text\nmov edi, other\nmov ecx, 10\nrepe cmpsb\nlahf\nmovzx ebx, ah\nsay " "\nhex ecx, 4\nsay " flags "\nhex ebx, 2',
  );
  for (const frame of ['frame_a', 'frame_b', 'frame_c', 'frame_d', 'frame_e', 'frame_f'])
    k.reserve(frame, 0x1000);
  k.data('text: db "abcdefghij"\nother: db "abcdxfghij"');
  return k.finish().build();
}

export const strings: SystemGuest = {
  name: 'strings',
  subject: 'REP string instructions interrupted by page faults and resumed',
  expectation: { from: 'qemu' },
  build,
};
