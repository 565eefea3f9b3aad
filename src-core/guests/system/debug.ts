/** Single-stepping and debug registers (Intel SDM vol. 3B, chapter 18). */
import { symbol } from '../assembler/index.ts';
import { systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, data0, data3, Kernel32 } from './runtime/kernel32.ts';

const tf = 0x100;
const rf = 0x1_0000;
/** DR7 for breakpoint `n`: enabled locally, with a condition and a length in bytes. */
const conditions = { execute: 0, write: 1, io: 2, access: 3 } as const;
const lengths = { 1: 0, 2: 1, 4: 3 } as const;

function dr7(n: number, condition: keyof typeof conditions, length: keyof typeof lengths = 1): number {
  return ((1 << (n * 2)) | (conditions[condition] << (16 + n * 4)) | (lengths[length] << (18 + n * 4))) >>> 0;
}

type Breakpoint = readonly [
  address: string,
  condition: keyof typeof conditions,
  length?: keyof typeof lengths,
];

/** Code that arms debug registers. Uses EAX. */
function arm(...points: readonly Breakpoint[]): string {
  let control = 0;
  const lines: string[] = [];
  for (const [n, [address, condition, length]] of points.entries()) {
    lines.push(`mov eax, ${address}`, `mov dr${n}, eax`);
    control |= dr7(n, condition, length);
  }
  return [...lines, `mov eax, ${control >>> 0}`, 'mov dr7, eax'].join('\n');
}

/** Every #DB is told in the same form: where, DR6's bits, and the trap flag of the interrupted code. */
function handler(k: Kernel32): void {
  k.code(`
    jmp debug$over
    debug$look:
      say " +"
      mov eax, [esp+56]
      sub eax, [case_base]
      hex eax, 2
      say "/"
      mov eax, dr6
      mov ecx, eax
      and ecx, 0x0f
      hex ecx, 1
      test eax, 0x4000
      jz debug$no_step
      say "s"
    debug$no_step:
      test eax, 0x2000
      jz debug$no_access
      say "d"
    debug$no_access:
      cmp dword [esp+60], ${code0}
      jz debug$ring0
      say "u"
    debug$ring0:
      test dword [esp+64], ${tf}
      jz debug$no_tf
      say "t"
    debug$no_tf:
      mov eax, 0xffff0ff0
      mov dr6, eax
      test ecx, ecx
      jz debug$trap
      ; a breakpoint on execution is a fault: go on behind it by the resume flag
      mov eax, [debug$resume]
      or [esp+64], eax
    debug$trap:
      dec dword [reports_left]
      jz report$abandon
      jmp report$return
    debug$over:
      mov dword [hooks+4], debug$look
      mov eax, 0xffff0ff0
      mov dr6, eax`);
  k.data('align 4\ndebug$resume: dd 0\nwatched: dd 0, 0, 0, 0, 0, 0, 0, 0');
}

/** Steps through `body`; the last two instructions listed are those that end it. */
function step(k: Kernel32, name: string, body: string): void {
  k.testCase(`step: ${name}`, `push ${tf | 2}\npopf\n${body}\npush 2\npopf`);
}

function singleStep(k: Kernel32): void {
  step(k, 'nothing', '');
  step(k, 'nops', 'nop\nnop\nnop');
  step(k, 'a jump', 'jmp step$jump\nnop\nstep$jump: nop');
  step(k, 'a jump not taken', 'xor eax, eax\njnz step$not\nstep$not: nop');
  step(k, 'call and ret', 'call step$call\njmp step$called\nstep$call: ret\nstep$called:');
  step(k, 'loop', 'mov ecx, 3\nstep$loop: loop step$loop');
  step(k, 'mov ss holds it off', `mov eax, ${data0}\nmov ss, eax\nnop\nnop`);
  step(k, 'pop ss holds it off', `push ${data0}\npop ss\nnop\nnop`);
  step(k, 'mov ds does not', `mov eax, ${data0}\nmov ds, eax\nnop`);
  step(k, 'rep movsb', 'mov ecx, 3\nmov esi, scratch\nmov edi, scratch+64\nrep movsb\nnop');
  step(k, 'rep movsb of nothing', 'xor ecx, ecx\nrep movsb\nnop');
  step(
    k,
    'repne scasb',
    'mov ecx, 5\nmov edi, scratch\nmov al, 1\nmov byte [scratch+1], 1\nrepne scasb\nnop',
  );
  step(k, 'pushf and popf', 'pushf\npopf\nnop');
  step(k, 'the image pushf stores', 'pushf\npop ebx\nand ebx, 0x100\nmov [watched], ebx');
  k.testCase('that image', 'say " "\nhex dword [watched], 4');
  step(k, 'popf that ends it', 'nop\npush 2\npopf\nnop');
  step(k, 'int with a handler', 'int 0x31\nnop');
  step(k, 'int3 with a handler', 'int3\nnop');
  step(k, 'a fault with a handler', 'ud2\nnop');
  step(k, 'a division fault with a handler', 'xor ecx, ecx\ndiv ecx\nnop');
  step(k, 'iret', `pushf\npush ${code0}\npush step$iret\niret\nnop\nstep$iret: nop`);
  step(k, 'cpuid and rdtsc', 'xor eax, eax\ncpuid\nrdtsc\nnop');
  step(k, 'mov cr3 and in', 'mov eax, cr3\nmov cr3, eax\nin al, 0x80\nnop');
  step(k, 'lgdt', 'lgdt [gdt_pointer]\nnop');
  step(k, 'prefixes', 'db 0x66, 0x2e, 0x90\nnop');
  step(k, 'x87 and sse', 'fninit\nfld1\nfstp st0\nnop');
  step(k, 'push and pop of segments', 'push ds\npop ds\npush es\npop es\nnop');
  k.testCase(
    'step: into a handler with TF in its own flags',
    `
    mov dword [hooks+0x20*4], step$own
    push ${tf | 2}
    popf
    int 0x20
    nop
    push 2
    popf
    jmp step$own_end
    step$own:
    pushf
    pop ebx
    and ebx, 0x100
    mov [watched], ebx
    jmp report$return
    step$own_end:
    say " inside "
    hex dword [watched], 4`,
  );
  k.testCase(
    'step: from iret',
    `
    push ${tf | 2}
    push ${code0}
    push step$from
    iret
    step$from: nop
    nop
    push 2
    popf`,
  );
  k.testCase('step: ring 3', () => k.user(`nop\nnop\nint 0x31\nnop\npush 2\npopf`, tf | 2));
  k.testCase('step: ring 3, mov ss', () =>
    k.user(`mov eax, ${data3}\nmov ss, eax\nnop\npush 2\npopf`, tf | 2),
  );
  k.testCase(
    'step: jump to a step',
    `
    push ${tf | 2}
    popf
    call step$deep
    push 2
    popf
    jmp step$deep_end
    step$deep: push ebx
    pop ebx
    ret
    step$deep_end:`,
  );
}

function execution(k: Kernel32): void {
  k.code(`mov dword [debug$resume], ${rf}`);
  k.testCase('execute: once', `${arm(['here1', 'execute'])}\nnop\nhere1: nop\nnop`);
  k.testCase('execute: in a loop', `${arm(['here2', 'execute'])}\nmov ecx, 3\nhere2: dec ecx\njnz here2`);
  k.testCase(
    'execute: two',
    `${arm(['here3', 'execute'], ['here3b', 'execute'])}\nnop\nhere3: nop\nhere3b: nop`,
  );
  k.testCase('execute: two on one', `${arm(['here4', 'execute'], ['here4', 'execute'])}\nhere4: nop`);
  k.testCase('execute: not the first byte', `${arm(['here5+1', 'execute'])}\nhere5: mov eax, 0x12345678`);
  k.testCase('execute: target of a jump', `${arm(['here6', 'execute'])}\njmp here6\nnop\nhere6: nop`);
  k.testCase(
    'execute: a faulting instruction',
    `
    mov dword [resume_mode], 0
    ${arm(['here7', 'execute'])}
    here7: ud2`,
  );
  k.testCase(
    'execute: by popf the resume flag is not set',
    `
    ${arm(['here9', 'execute'])}
    push ${rf | 2}
    popf
    here9: nop`,
  );
  k.testCase(
    'execute: by iret it is',
    `
    ${arm(['here10', 'execute'])}
    push ${rf | 2}
    push ${code0}
    push here10
    iret
    here10: nop
    nop`,
  );
  k.testCase(
    'execute: it holds for one instruction',
    `
    ${arm(['here11', 'execute'])}
    push ${rf | 2}
    push ${code0}
    push here11a
    iret
    here11a: nop
    here11: nop`,
  );
  k.testCase(
    'execute: disabled',
    `
    ${arm(['here13', 'execute'])}
    xor eax, eax
    mov dr7, eax
    here13: nop`,
  );
  k.testCase(
    'execute: global enable',
    `
    mov eax, here14
    mov dr0, eax
    mov eax, 2
    mov dr7, eax
    here14: nop`,
  );
  k.testCase(
    'execute: dr3',
    `
    mov eax, here15
    mov dr3, eax
    mov eax, ${dr7(3, 'execute')}
    mov dr7, eax
    here15: nop`,
  );
  k.testCase('execute: ring 3', () => {
    k.code(arm(['here16', 'execute']));
    k.user('nop\nhere16: nop\nnop');
  });
  k.code('mov dword [debug$resume], 0\nxor eax, eax\nmov dr7, eax');
}

function data(k: Kernel32): void {
  const off = 'xor eax, eax\nmov dr7, eax';
  const watch = (name: string, points: readonly Breakpoint[], body: string): void => {
    k.testCase(`data: ${name}`, `${arm(...points)}\n${body}\nnop\n${off}`);
  };
  watch('write, byte', [['watched', 'write', 1]], 'mov byte [watched], 1');
  watch('write, read does not', [['watched', 'write', 1]], 'mov al, [watched]');
  watch('access, read', [['watched', 'access', 1]], 'mov al, [watched]');
  watch('access, write', [['watched', 'access', 1]], 'mov [watched], al');
  watch('the byte beside', [['watched', 'access', 1]], 'mov al, [watched+1]');
  watch('dword over a byte', [['watched+2', 'access', 1]], 'mov eax, [watched]');
  watch('byte in a dword', [['watched', 'write', 4]], 'mov byte [watched+3], 1');
  watch('byte behind a dword', [['watched', 'write', 4]], 'mov byte [watched+4], 1');
  watch('unaligned over the edge', [['watched+4', 'write', 4]], 'mov dword [watched+1], 1');
  watch(
    'word',
    [['watched+2', 'write', 2]],
    'mov word [watched+3], 1\nmov byte [watched+1], 1\nmov byte [watched+4], 1',
  );
  watch(
    'four',
    [
      ['watched', 'write', 4],
      ['watched+4', 'write', 4],
      ['watched+8', 'write', 4],
      ['watched+12', 'write', 4],
    ],
    'mov dword [watched+12], 1\nmov dword [watched+4], 1\nmov dword [watched+8], 1\nmov dword [watched], 1',
  );
  watch(
    'push',
    [['user_stack_top-4', 'write', 4]],
    'mov ebx, esp\nmov esp, user_stack_top\npush eax\nmov esp, ebx',
  );
  watch(
    'call',
    [['user_stack_top-4', 'write', 4]],
    'mov ebx, esp\nmov esp, user_stack_top\ncall data$call\ndata$call: mov esp, ebx',
  );
  watch('read and write', [['watched', 'write', 4]], 'inc dword [watched]');
  watch('xchg', [['watched', 'access', 4]], 'xchg eax, [watched]');
  watch('compare', [['watched', 'write', 4]], 'cmp dword [watched], 0');
  watch('movsd', [['watched', 'write', 4]], 'mov esi, scratch\nmov edi, watched\nmovsd');
  watch('rep stosb', [['watched+2', 'write', 1]], 'mov edi, watched\nmov ecx, 5\nrep stosb');
  watch(
    'rep movsd, reading',
    [['watched+4', 'access', 4]],
    'mov esi, watched\nmov edi, scratch\nmov ecx, 4\nrep movsd',
  );
  watch('fld qword', [['watched+4', 'access', 4]], 'fninit\nfld qword [watched]\nfstp st0');
  watch('lea', [['watched', 'access', 4]], 'lea eax, [watched]');
  k.testCase('data: ring 3', () => {
    k.code(arm(['watched', 'write', 4]));
    k.user('mov dword [watched], 7\nnop');
    k.code(off);
  });
  k.testCase('data: disabled', `${arm(['watched', 'write', 4])}\n${off}\nmov dword [watched], 1`);
}

function registers(k: Kernel32): void {
  k.testCase('what dr7 reads', 'xor eax, eax\nmov dr7, eax\nmov eax, dr7\nsay " "\nhex eax');
  k.testCase(
    'what dr6 reads',
    'xor eax, eax\nmov dr6, eax\nmov eax, dr6\nsay " "\nhex eax\nmov eax, 0xffff0ff0\nmov dr6, eax',
  );
  k.testCase('dr0 to dr3 hold addresses', () => {
    for (const n of [0, 1, 2, 3]) k.code(`mov eax, ${0x1234_5670 + n}\nmov dr${n}, eax`);
    for (const n of [0, 1, 2, 3]) k.code(`mov eax, dr${n}\nsay " "\nhex eax`);
  });
  k.testCase('dr4 and dr5 without DE', 'mov eax, dr4\nsay " "\nhex eax\nmov eax, dr5\nsay " "\nhex eax');
  k.code('mov eax, cr4\nor eax, 8\nmov cr4, eax');
  k.testCase('dr4 with DE', 'mov eax, dr4');
  k.testCase('dr5 with DE', 'mov dr5, eax');
  const io = `${arm(['0x80', 'io', 1])}\n`;
  k.testCase('port: out', `${io}out 0x80, al\nnop`);
  k.testCase('port: in', `${io}in al, 0x80\nnop`);
  k.testCase('port: another', `${io}in al, 0x84\nnop`);
  k.testCase('port: word from the port before', `${arm(['0x81', 'io', 1])}\nin ax, 0x80\nnop`);
  k.code('xor eax, eax\nmov dr7, eax\nmov eax, cr4\nand eax, ~8\nmov cr4, eax');
  k.code('xor eax, eax\nmov dr7, eax');
  k.testCase('dr0 in ring 3', () => k.user('mov eax, dr0'));
}

/**
 * What QEMU TCG does otherwise than the manual; the order of steps and breakpoints, REP and double matches
 * were also seen on a processor.
 */
function byManual(k: Kernel32): void {
  const off = 'xor eax, eax\nmov dr7, eax';
  step(
    k,
    'lss does not hold it off',
    `push ${data0}\npush esp\nadd dword [esp], 4\nlss esp, [esp]\nnop\nadd esp, 4`,
  );
  step(k, 'sti and cli', 'sti\ncli\nnop');
  k.testCase(
    'data: two at once',
    `
    ${arm(['watched', 'write', 4], ['watched+2', 'access', 2])}
    mov dword [watched], 1
    nop
    ${off}`,
  );
  k.testCase(
    'data: with a step',
    `
    ${arm(['watched', 'write', 4])}
    push ${tf | 2}
    popf
    mov dword [watched], 1
    nop
    push 2
    popf
    ${off}`,
  );
  k.testCase(
    'data: mov ss holds it off',
    `
    ${arm(['watched', 'access', 4])}
    mov dword [watched], ${data0}
    mov ss, [watched]
    nop
    nop
    ${off}`,
  );
  k.code(`mov dword [debug$resume], ${rf}`);
  k.testCase(
    'execute: rep movsb',
    `
    ${arm(['here8', 'execute'])}
    mov ecx, 3
    mov esi, scratch
    mov edi, scratch+64
    here8: rep movsb
    nop`,
  );
  k.testCase(
    'execute: with a step',
    `
    ${arm(['here12', 'execute'])}
    push ${tf | 2}
    popf
    nop
    here12: nop
    nop
    push 2
    popf`,
  );
  k.code(`mov dword [debug$resume], 0\n${off}`);
  const gd = 'mov eax, 0x2000\nmov dr7, eax\n';
  k.testCase('general detect: read', `${gd}mov eax, dr0\nsay " dr7 "\nmov eax, dr7\nhex eax, 4`);
  k.testCase('general detect: write', `${gd}mov dr1, eax\nnop`);
  k.code(off);
  // The resume flag in the pushed image: set by faults other than instruction breakpoints and by traps in the
  // middle of REP, as it was otherwise (SDM vol. 3B, 18.3.1.1).
  k.code(`
    jmp resume$over
    resume$look:
      say " rf "
      mov eax, [esp+64]
      shr eax, 16
      and eax, 1
      hex eax, 1
      mov esp, [case_esp]
      jmp dword [case_resume]
    resume$over:`);
  for (const [name, vector, body] of [
    ['#UD', 6, 'ud2'],
    ['#DE', 0, 'xor ecx, ecx\ndiv ecx'],
    ['#GP', 13, 'mov eax, 0xff8\nmov ds, eax'],
    ['#DB by execution', 1, `${arm(['resume$here', 'execute'])}\nresume$here: nop`],
    ['#DB by a step', 1, `push ${tf | 2}\npopf\nnop`],
    ['#BP', 3, 'int3'],
    ['int n', 0x20, 'int 0x20'],
    ['general detect', 1, `${gd}mov eax, dr0`],
    [
      'data breakpoint in the middle of REP',
      1,
      `${arm(['watched+1', 'write', 1])}\nmov edi, watched\nmov ecx, 3\nrep stosb`,
    ],
    [
      'data breakpoint at the end of REP',
      1,
      `${arm(['watched+2', 'write', 1])}\nmov edi, watched\nmov ecx, 3\nrep stosb`,
    ],
    ['step in REP', 1, `mov edi, watched\nmov ecx, 3\npush ${tf | 2}\npopf\nrep stosb`],
  ] as const) {
    k.testCase(`resume flag: ${name}`, `mov dword [hooks+${vector * 4}], resume$look\n${body}`);
    k.code(`mov dword [hooks+${vector * 4}], 0\n${off}`);
  }
}

function build(which: 'plain' | 'manual'): Uint8Array {
  const k = new Kernel32();
  handler(k);
  // A handler that only returns: what single-stepping does around it is what counts.
  k.gate(0x31, { selector: code0, offset: symbol('debug$return'), type: systemTypes.interruptGate, dpl: 3 });
  k.code(`
    jmp debug$return_over
    debug$return: iret
    debug$skip: ; #UD and #DE: both instructions are two bytes long
      add dword [esp+56], 2
      jmp report$return
    debug$ignore: jmp report$return
    debug$return_over:
      mov dword [hooks+3*4], debug$ignore
      mov dword [hooks+6*4], debug$skip
      mov dword [hooks+0*4], debug$skip`);
  if (which === 'plain') {
    singleStep(k);
    k.code('mov dword [hooks+6*4], 0');
    execution(k);
    data(k);
    registers(k);
  } else byManual(k);
  k.reserve('scratch', 0x1000);
  return k.finish().build();
}

export const debugging: SystemGuest = {
  name: 'debug',
  subject: 'single-stepping, breakpoints on execution, data and ports, debug registers',
  expectation: { from: 'qemu' },
  build: () => build('plain'),
};

export const debuggingByManual: SystemGuest = {
  name: 'debug-order',
  subject: 'steps and breakpoints together, the resume flag, LSS and STI, general detect',
  expectation: {
    from: 'sdm',
    because:
      'QEMU TCG merges or loses #DBs, has no general detect, and leaves RF clear in the images of faults',
  },
  build: () => build('manual'),
};
