/** The FPU as the system sees it: #NM and lazy switching, #MF, FERR# and IRQ 13, #XM; and CMPXCHG8B. */
import { symbol } from '../assembler/index.ts';
import { systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel64 } from './runtime/kernel64.ts';
import { code0, Kernel32 } from './runtime/kernel32.ts';
import { pageFlags } from './runtime/paging.ts';

const ne = 0x20;
const osfxsr = 0x200;
const osxmmexcpt = 0x400;
/** x87 control words: all exceptions masked but the one named (SDM vol. 1, 8.1.5). */
const unmask = { none: 0x37f, invalid: 0x37e, zeroDivide: 0x37b, precision: 0x35f } as const;

/** Code that resets the FPU and loads a control word. */
const control = (word: number): string => `fninit\nmov word [scratch], ${word}\nfldcw [scratch]\n`;
const status = 'fnstsw ax\nmovzx eax, ax\nsay " sw "\nhex eax, 4\n';

function x87(k: Kernel32): void {
  k.testCase('masked division by zero', `${control(unmask.none)}fld1\nfldz\nfdivp st1, st0\n${status}`);
  for (const [name, instruction] of [
    ['wait', 'wait'],
    ['fxsave', 'fxsave [scratch]'],
    ['fninit', 'fninit'],
    ['fnclex', 'fnclex'],
    ['fnstsw', 'fnstsw ax'],
    ['fnstcw', 'fnstcw [scratch]'],
    ['fnsave', 'fnsave [scratch]'],
    ['fnstenv', 'fnstenv [scratch]'],
    ['movaps', 'movaps xmm0, xmm1'],
    ['nop', 'nop'],
  ] as const) {
    k.testCase(`pending, ${name}`, `${control(unmask.zeroDivide)}fld1\nfldz\nfdivp st1, st0\n${instruction}`);
    k.code('fnclex');
  }
  k.code('fnclex');
  k.code('fnclex');
  k.testCase(
    'precision',
    `${control(unmask.precision)}fld1\nfld1\nfadd st0, st0\nfld1\nfaddp st1, st0\nfdivp st1, st0\nwait`,
  );
  k.code('fnclex');

  k.testCase(
    '#NM, cleared by the handler',
    `
    mov eax, cr0
    or eax, 8
    mov cr0, eax
    mov dword [hooks+7*4], nm$fix
    fninit
    fld1
    fistp dword [scratch]
    jmp nm$over
    nm$fix:
    say " #NM"
    clts
    jmp report$return
    nm$over:
    mov dword [hooks+7*4], 0
    mov eax, [scratch]
    say " "
    hex eax`,
  );
  k.testCase(
    '#NM comes before #MF',
    `
    ${control(unmask.zeroDivide)}
    fld1
    fldz
    fdivp st1, st0
    mov eax, cr0
    or eax, 8
    mov cr0, eax
    fld1`,
  );
  k.code('clts\nfnclex');
  k.testCase(
    'fxsave and fxrstor',
    `
    ${control(unmask.none)}
    fld1
    fldpi
    mov eax, 0x12345678
    movd xmm5, eax
    fxsave [scratch+0x200]
    fninit
    xorps xmm5, xmm5
    fxrstor [scratch+0x200]
    movd eax, xmm5
    say " "
    hex eax
    movzx eax, byte [scratch+0x204]
    say " tag "
    hex eax, 2
    fistp dword [scratch]
    fistp dword [scratch+4]
    say " "
    hex dword [scratch], 2
    hex dword [scratch+4], 2`,
  );
  k.testCase(
    'mmx sets the tag word, emms clears it',
    `
    fninit
    movd mm0, eax
    fnstenv [scratch]
    say " "
    hex dword [scratch+8], 4
    emms
    fnstenv [scratch]
    say " "
    hex dword [scratch+8], 4
    fninit`,
  );
}

/** What QEMU TCG does not do: pending errors at any waiting instruction, unmasked errors that leave operands alone. */
function errorsByManual(k: Kernel32): void {
  k.testCase(
    'pending, no wait',
    `${control(unmask.zeroDivide)}fld1\nfldz\nfdivp st1, st0\nnop\n${status}fnclex\n${status}`,
  );
  for (const [name, instruction] of [
    ['fld1', 'fld1'],
    ['fstp', 'fstp dword [scratch]'],
    ['fldcw', 'fldcw [scratch]'],
    ['emms', 'emms'],
    ['paddd', 'paddd mm0, mm1'],
    ['fstenv', 'wait\nfnstenv [scratch]'],
    ['frstor', 'frstor [scratch]'],
    ['fldenv', 'fldenv [scratch]'],
  ] as const) {
    k.testCase(`pending, ${name}`, `${control(unmask.zeroDivide)}fld1\nfldz\nfdivp st1, st0\n${instruction}`);
    k.code('fnclex');
  }
  k.testCase(
    '#MF is fixed and resumed',
    `
    ${control(unmask.zeroDivide)}
    mov dword [hooks+16*4], mf$fix
    fld1
    fldz
    fdivp st1, st0
    fstp qword [scratch]
    jmp mf$over
    mf$fix:
    say " #MF"
    fnclex
    jmp report$return
    mf$over:
    mov dword [hooks+16*4], 0
    ${status}`,
  );
  k.testCase(
    'unmasking by fldcw raises at the next',
    `
    ${control(unmask.none)}
    fld1
    fldz
    fdivp st1, st0
    mov word [scratch], ${unmask.zeroDivide}
    fldcw [scratch]
    ${status}
    fld1`,
  );
  k.code('fnclex');
  k.testCase('invalid operation, stack underflow', `${control(unmask.invalid)}fld st0\nwait`);
  k.code('fnclex');
}

/** CR0.NE clear: the error is an interrupt by way of the PICs (SDM vol. 3A, 2.5; vol. 1, 8.7.2). */
function ferr(k: Kernel32): void {
  k.gate(0x3d, { selector: code0, offset: symbol('irq13'), type: systemTypes.interruptGate });
  k.code(`
    jmp ferr$over
    irq13:
      say " IRQ13"
      push eax
      xor eax, eax
      out 0xf0, al
      fnclex
      mov al, 0x20
      out 0xa0, al
      out 0x20, al
      pop eax
      iret
    ferr$over:
      mov al, 0x11
      out 0x20, al
      out 0xa0, al
      mov al, 0x20
      out 0x21, al
      mov al, 0x38
      out 0xa1, al
      mov al, 4
      out 0x21, al
      mov al, 2
      out 0xa1, al
      mov al, 1
      out 0x21, al
      out 0xa1, al
      mov al, 0xfb
      out 0x21, al
      mov al, 0xdf
      out 0xa1, al
      mov eax, cr0
      and eax, ~${ne}
      mov cr0, eax`);
  k.testCase(
    'NE clear: IRQ 13 instead of #MF',
    `
    fninit
    mov word [scratch], ${unmask.zeroDivide}
    fldcw [scratch]
    fld1
    fldz
    fdivp st1, st0
    sti
    fld1
    nop
    cli
    fnstsw ax
    movzx eax, ax
    say " sw "
    hex eax, 4`,
  );
  k.code(`
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov eax, cr0
    or eax, ${ne}
    mov cr0, eax
    fninit`);
}

function sse(k: Kernel32): void {
  const load = 'ldmxcsr [mxcsr_zero]\nmovss xmm0, [one]\nxorps xmm1, xmm1\n';
  k.testCase('#XM', `${load}divss xmm0, xmm1`);
  k.testCase(
    'masked',
    'ldmxcsr [mxcsr_default]\nmovss xmm0, [one]\nxorps xmm1, xmm1\ndivss xmm0, xmm1\nstmxcsr [scratch]\nmovd eax, xmm0\nsay " "\nhex eax\nsay " mxcsr "\nhex dword [scratch]',
  );
  k.testCase(
    '#XM leaves the destination',
    `
    ${load}
    mov dword [hooks+19*4], xm$look
    divss xmm0, xmm1
    xm$look:
    mov dword [hooks+19*4], 0
    mov esp, [case_esp]
    movd eax, xmm0
    stmxcsr [scratch]
    say " "
    hex eax
    say " mxcsr "
    hex dword [scratch]`,
  );
  k.testCase('unmasking by ldmxcsr raises nothing', 'ldmxcsr [mxcsr_pending]\nmovaps xmm0, xmm1');
  k.code(`mov eax, cr4\nand eax, ~${osxmmexcpt}\nmov cr4, eax`);
  k.testCase('without OSXMMEXCPT: #UD', `${load}divss xmm0, xmm1`);
  k.code(`mov eax, cr4\nor eax, ${osxmmexcpt}\nmov cr4, eax\nldmxcsr [mxcsr_default]`);
}

function compareExchange(k: Kernel32): void {
  const value =
    'mov dword [scratch], 0x11111111\nmov dword [scratch+4], 0x22222222\nmov ebx, 0x33333333\nmov ecx, 0x44444444\n';
  const showAll = `
    pushf
    pop esi
    and esi, 0x40
    say " zf "
    hex esi, 2
    say " edx:eax "
    hex edx
    hex eax
    say " memory "
    hex dword [scratch+4]
    hex dword [scratch]`;
  for (const prefix of ['', 'lock ']) {
    k.testCase(
      `${prefix}cmpxchg8b, equal`,
      `${value}mov eax, 0x11111111\nmov edx, 0x22222222\n${prefix}cmpxchg8b [scratch]${showAll}`,
    );
    k.testCase(
      `${prefix}cmpxchg8b, low half differs`,
      `${value}mov eax, 1\nmov edx, 0x22222222\n${prefix}cmpxchg8b [scratch]${showAll}`,
    );
    k.testCase(
      `${prefix}cmpxchg8b, high half differs`,
      `${value}mov eax, 0x11111111\nmov edx, 2\n${prefix}cmpxchg8b [scratch]${showAll}`,
    );
  }
  k.testCase(
    'cmpxchg8b, misaligned',
    `${value}mov eax, 0x22222222\nmov edx, 0\nmov dword [scratch+8], 0\ncmpxchg8b [scratch+4]${showAll}`,
  );
  k.testCase(
    'cmpxchg8b leaves the other flags',
    `${value}mov eax, 0x11111111\nmov edx, 0x22222222\npush 0x8d7\npopf\ncmpxchg8b [scratch]\npushf\npop eax\npush 2\npopf\nsay " "\nhex eax`,
  );
  k.testCase(
    'cmpxchg byte, word, dword',
    `
    mov eax, 0x11223344
    mov dword [scratch], 0x11223344
    mov ecx, 0xaabbccdd
    cmpxchg [scratch], cl
    cmpxchg [scratch], cx
    say " "
    hex dword [scratch]
    say " "
    hex eax
    cmpxchg [scratch], ecx
    say " "
    hex dword [scratch]
    say " "
    hex eax`,
  );
  k.testCase(
    'xadd',
    'mov dword [scratch], 5\nmov eax, 7\nlock xadd [scratch], eax\nsay " "\nhex eax, 2\nsay " "\nhex dword [scratch], 2',
  );
}

function build(which: 'plain' | 'errors'): Uint8Array {
  const k = new Kernel32();
  k.code(`
    mov eax, cr0
    and eax, ~14
    or eax, ${ne | 2}
    mov cr0, eax
    mov eax, ${osfxsr | osxmmexcpt}
    mov cr4, eax
    fninit`);
  if (which === 'plain') {
    x87(k);
    compareExchange(k);
  } else {
    errorsByManual(k);
    sse(k);
    ferr(k);
  }
  k.reserve('scratch', 0x1000);
  k.data(`
    align 16
    mxcsr_default: dd 0x1f80
    mxcsr_zero: dd 0x1d80
    mxcsr_pending: dd 0x1d84
    one: dd 0x3f800000`);
  return k.finish().build();
}

export const floatingPoint: SystemGuest = {
  name: 'floating-point',
  subject: '#NM, #MF, FXSAVE; CMPXCHG and CMPXCHG8B',
  expectation: { from: 'qemu' },
  build: () => build('plain'),
};

export const floatingPointErrors: SystemGuest = {
  name: 'floating-point-errors',
  subject: 'pending x87 errors, IRQ 13, #XM',
  expectation: {
    from: 'sdm',
    because: 'QEMU TCG raises #MF at WAIT alone, no #XM, and stores results of unmasked errors',
  },
  build: () => build('errors'),
};

function build16(): Uint8Array {
  const k = new Kernel64();
  const t = k.tables;
  const all = pageFlags.present | pageFlags.writable | pageFlags.user;
  const value = `
    mov rax, 0x1111111111111111
    mov [scratch], rax
    mov rax, 0x2222222222222222
    mov [scratch+8], rax
    mov rbx, 0x3333333333333333
    mov rcx, 0x4444444444444444
    mov rax, 0x1111111111111111
    mov rdx, 0x2222222222222222`;
  const showAll = `
    setz sil
    movzx esi, sil
    say " zf "
    hex rsi, 1
    say " rdx:rax "
    hex rdx, 16
    hex rax, 16
    say " memory "
    hex [scratch+8], 16
    hex [scratch], 16`;
  for (const prefix of ['', 'lock ']) {
    k.testCase(`${prefix}cmpxchg16b, equal`, `${value}\n${prefix}cmpxchg16b [scratch]${showAll}`);
    k.testCase(
      `${prefix}cmpxchg16b, low half differs`,
      `${value}\ninc rax\n${prefix}cmpxchg16b [scratch]${showAll}`,
    );
    k.testCase(
      `${prefix}cmpxchg16b, high half differs`,
      `${value}\ninc rdx\n${prefix}cmpxchg16b [scratch]${showAll}`,
    );
    k.testCase(`${prefix}cmpxchg16b, misaligned`, `${value}\n${prefix}cmpxchg16b [scratch+8]`);
    k.testCase(
      `${prefix}cmpxchg16b, read-only page, unequal`,
      `${value}\n${t.map(1, 'scratch', pageFlags.present)}\ninc rax\n${prefix}cmpxchg16b [${t.linear(1)}]`,
    );
    k.testCase(
      `${prefix}cmpxchg8b in 64-bit code`,
      `${value}\nmov edi, 5\n${prefix}cmpxchg8b [scratch]${showAll}`,
    );
  }
  k.testCase(
    'cmpxchg16b across pages, misaligned',
    `${t.map(1, 'scratch', all)}\n${t.map(2, 'scratch', 0)}\ncmpxchg16b [${t.linear(2) - 8}]`,
  );
  k.testCase('cmpxchg16b of a register', 'db 0x48, 0x0f, 0xc7, 0xc8');
  k.testCase(
    'cmpxchg of a quadword',
    `
    ${value}
    cmpxchg [scratch], rbx
    say " "
    hex [scratch], 16
    cmpxchg [scratch], ecx
    say " "
    hex [scratch], 16
    say " "
    hex rax, 16`,
  );
  k.testCase(
    'fxsave64',
    `
    fninit
    fld1
    mov rax, 0x123456789abcdef0
    movq xmm15, rax
    fxsave64 [scratch]
    xorps xmm15, xmm15
    fxrstor64 [scratch]
    movq rax, xmm15
    say " "
    hex rax, 16
    hex [scratch+416], 16`,
  );
  k.reserve('scratch', 0x1000);
  return k.finish().build();
}

export const compareExchange16: SystemGuest = {
  name: 'cmpxchg16b',
  subject: 'CMPXCHG16B and its faults, CMPXCHG8B and FXSAVE in 64-bit code',
  expectation: { from: 'qemu' },
  build: build16,
};
