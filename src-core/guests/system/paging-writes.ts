/** Paging where QEMU TCG goes its own way: reserved bits, read-modify-write, the order of stack writes. */
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel32 } from './runtime/kernel32.ts';
import { cr4Bits, enablePaging32, largeFrame, largeRegion, pageFlags } from './runtime/paging.ts';
import type { PageTables } from './runtime/paging.ts';

const { present, writable, user, large } = pageFlags;
const all = present | writable | user;
/** Bits 63:32 of an entry with NX set. */
const noExecute = 0x8000_0000;

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

function build(pae: boolean): Uint8Array {
  const k = new Kernel32();
  const tables = enablePaging32(k, pae);
  k.testCase('paging is on', `mov eax, cr0\nshr eax, 16\nand eax, 0x8001\nsay " "\nhex eax, 4`);
  reservedAndWrites(k, tables);
  k.reserve('frame_a', 0x1000).reserve('frame_b', 0x1000);
  return k.finish().build();
}

const because =
  'QEMU TCG clears P in the error code of reserved bits, reports a read for read-modify-write, and writes PUSHA upwards';

export const paging32ByManual: SystemGuest = {
  name: 'paging-32-writes',
  subject: '32-bit paging: reserved bits, read-modify-write, the order of stack writes',
  expectation: { from: 'sdm', because },
  build: () => build(false),
};

export const pagingPaeByManual: SystemGuest = {
  name: 'paging-pae-writes',
  subject: 'PAE paging: reserved bits, read-modify-write, the order of stack writes',
  expectation: { from: 'sdm', because },
  build: () => build(true),
};
