/** Exceptions of 32-bit protected mode in ring 0 that no table provokes: vectors, error codes, and where EIP points. */
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel32 } from './runtime/kernel32.ts';

/** CR0.MP, CR0.EM, CR0.TS; CR4.OSFXSR (SDM vol. 3A, 2.5). */
const mp = 0x2;
const em = 0x4;
const ts = 0x8;
const osfxsr = 0x200;

function divideErrors(k: Kernel32): void {
  k.testCase('div by zero, byte', 'xor ecx, ecx\ndiv cl');
  k.testCase('div by zero, word', 'xor ecx, ecx\ndiv cx');
  k.testCase('div by zero, dword', 'xor ecx, ecx\nnop\ndiv ecx');
  k.testCase('div overflow', 'mov edx, 5\nmov eax, 0\nmov ecx, 5\ndiv ecx');
  k.testCase(
    'div just fits',
    'mov edx, 4\nmov eax, -1\nmov ecx, 5\ndiv ecx\nsay " "\nhex eax\nsay " "\nhex edx',
  );
  k.testCase('idiv overflow', 'mov eax, 0x80000000\ncdq\nmov ecx, -1\nidiv ecx');
  k.testCase('idiv byte overflow', 'mov ax, -32768\nmov cl, 1\nidiv cl');
  k.testCase('a faulting idiv changes nothing', () => {
    k.code(`
      mov dword [hooks], idiv$look
      mov eax, 0x12345678
      mov edx, 0x9abcdef0
      xor ecx, ecx
      idiv ecx
      idiv$look:
      mov dword [hooks], 0
      say " eax="
      hex dword [esp+44]
      say " edx="
      hex dword [esp+36]
      mov esp, [case_esp]`);
  });
  k.testCase('aam 0', 'mov eax, 7\naam 0');
}

function traps(k: Kernel32): void {
  k.testCase('int3', 'nop\nint3');
  k.testCase('int 3 in two bytes', 'db 0xcd, 3');
  k.testCase('int3 resumed', 'mov dword [resume_mode], 1\nint3\nnop');
  k.testCase('into, overflow clear', 'xor eax, eax\ninto');
  k.testCase('into, overflow set', 'mov eax, 0x7fffffff\ninc eax\ninto');
  k.testCase('int 4', 'int 4');
  k.testCase('int 0x21', 'int 0x21');
  k.testCase('int 13 has no error code', () => {
    // INT n never pushes one, so what the report takes for it is EIP, and what it takes for EIP is CS.
    k.code(`
      mov dword [hooks+13*4], gp$by_int
      int 13
      gp$by_int:
      say " words "
      mov eax, [esp+52]
      sub eax, [case_base]
      hex eax, 4
      say " "
      hex dword [esp+56], 4
      mov dword [hooks+13*4], 0
      mov esp, [case_esp]`);
  });
  k.testCase('bound inside', 'mov eax, 5\nmov ebx, bounds\nbound eax, [ebx]');
  k.testCase(
    'bound on the edges',
    `
    mov ebx, bounds
    mov eax, -3
    bound eax, [ebx]
    mov eax, 9
    bound eax, [ebx]`,
  );
  k.testCase('bound below', 'mov eax, -4\nmov ebx, bounds\nbound eax, [ebx]');
  k.testCase('bound above', 'mov eax, 10\nmov ebx, bounds\nbound eax, [ebx]');
  k.testCase('bound 16-bit', 'mov ax, 4\nmov ebx, bounds16\nbound ax, [ebx]');
}

function invalidOpcodes(k: Kernel32): void {
  const bytes: readonly (readonly [string, string])[] = [
    ['ud2', '0x0f, 0x0b'],
    ['ud1', '0x0f, 0xb9, 0xc0'],
    ['mov cs, ax', '0x8e, 0xc8'],
    ['mov to segment 6', '0x8e, 0xf0'],
    ['lea of a register', '0x8d, 0xc0'],
    ['lock nop', '0xf0, 0x90'],
    ['lock add to a register', '0xf0, 0x01, 0xc0'],
    ['lock cmp', '0xf0, 0x39, 0x00'],
    ['mov cr1', '0x0f, 0x22, 0xc8'],
    ['cmpxchg8b of a register', '0x0f, 0xc7, 0xc8'],
    ['rsm outside SMM', '0x0f, 0xaa'],
    ['0f ff /0', '0x0f, 0xff, 0xc0'],
    ['fe /7', '0xfe, 0xf8'],
    ['ff /7', '0xff, 0xf8'],
    ['far call of a register', '0xff, 0xd8'],
    ['far jmp of a register', '0xff, 0xe8'],
    ['0f 00 /7', '0x0f, 0x00, 0xf8'],
  ];
  k.testCase('fld of a register pair that is not one', 'db 0xd9, 0xd1');
  for (const [name, code] of bytes) k.testCase(name, `mov eax, scratch\ndb ${code}`);
  k.testCase('sixteen prefixes', `db ${Array.from({ length: 15 }, () => '0x3e').join(', ')}, 0x90`);
  k.testCase('fourteen prefixes', `db ${Array.from({ length: 14 }, () => '0x3e').join(', ')}, 0x90`);
}

function coprocessor(k: Kernel32): void {
  const withBits = (set: number, body: string): string => `
    mov eax, cr0
    and eax, ~${mp | em | ts}
    or eax, ${set}
    mov cr0, eax
    ${body}`;
  const fpu: readonly (readonly [string, string])[] = [
    ['fnop', 'fnop'],
    ['wait', 'wait'],
    ['movaps', 'movaps xmm0, xmm1'],
    ['fxsave', 'fxsave [scratch]'],
    ['ldmxcsr', 'ldmxcsr [mxcsr]'],
    ['pause and prefetch', 'pause\nprefetcht0 [scratch]'],
  ];
  for (const set of [0, ts, mp | ts, em, em | mp]) {
    const bits = [set & mp ? 'MP' : '', set & em ? 'EM' : '', set & ts ? 'TS' : ''].filter((bit) => bit);
    for (const [name, body] of fpu) {
      k.testCase(`${name}, ${bits.join(' ') || 'none'}`, withBits(set, body));
    }
  }
  const sse = withBits(0, '');
  k.testCase('SSE without OSFXSR', `${sse}\nmov eax, 0\nmov cr4, eax\nmovaps xmm0, xmm1`);
  k.testCase('SSE2 without OSFXSR', 'paddd xmm0, xmm1');
  k.testCase('MMX without OSFXSR', 'paddd mm0, mm1\nemms');
  k.testCase('SSE with OSFXSR', `mov eax, ${osfxsr}\nmov cr4, eax\nmovaps xmm0, xmm1`);
  k.testCase('movaps misaligned', 'movaps xmm0, [scratch+8]');
  k.testCase('movups misaligned', 'movups xmm0, [scratch+8]');
  k.testCase('fxsave misaligned', 'fxsave [scratch+8]');
  k.testCase('clts', withBits(ts, 'clts\nfnop'));
  k.testCase(
    'lmsw cannot clear PE',
    'smsw eax\nand eax, -2\nlmsw ax\nsmsw eax\nand eax, 1\nsay " "\nhex eax, 1',
  );
  k.testCase('lmsw sets TS', `mov eax, ${1 | ts}\nlmsw ax\nfnop`);
  k.testCase('TS off again', 'clts\nfnop');
}

function build(): Uint8Array {
  const k = new Kernel32();
  // Some loaders leave the FPU emulated or the caches off: begin from known bits.
  k.code(`
    mov eax, cr0
    and eax, ~${mp | em | ts}
    or eax, 0x20
    mov cr0, eax
    mov eax, ${osfxsr}
    mov cr4, eax`);
  divideErrors(k);
  traps(k);
  invalidOpcodes(k);
  coprocessor(k);
  k.reserve('scratch', 0x1000);
  k.data(`
    align 4
    bounds: dd -3, 9
    bounds16: dw 5, 9
    mxcsr: dd 0x1f80`);
  k.finish();
  return k.build();
}

export const exceptions: SystemGuest = {
  name: 'exceptions',
  subject: 'exceptions of 32-bit protected mode, ring 0',
  expectation: { from: 'qemu' },
  build,
};
