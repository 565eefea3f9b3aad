/** IA-32e mode: 64-bit and compatibility mode, interrupts with IST, SYSCALL, far transfers, canonical addresses. */
import { symbol } from '../assembler/index.ts';
import { gateDescriptor64, segmentDescriptor, segmentTypes, systemTypes } from './runtime/descriptors.ts';
import { systemCalls } from './longmode-calls.ts';
import { badGates, frames } from './longmode-interrupts.ts';
import type { SystemGuest } from './runtime/guest.ts';
import {
  code32,
  code64,
  data64,
  highHalf,
  Kernel64,
  msr,
  tssSelector,
  userCode32,
  userCode64,
  userData,
  writeMsr,
} from './runtime/kernel64.ts';

const outside = 0xff8;
/** The lowest address that is not canonical with 48-bit linear addresses. */
const nonCanonical = '0x800000000000';

function basics(k: Kernel64): void {
  k.testCase('EFER', `mov ecx, ${msr.efer}\nrdmsr\nsay " "\nhex rax, 4`);
  k.testCase(
    '32-bit results are zero-extended',
    `
    mov rax, -1
    mov eax, 0x80000000
    say " "
    hex rax, 16
    mov rax, -1
    mov al, 1
    say " "
    hex rax, 16
    mov rbx, -1
    movzx ebx, bl
    say " "
    hex rbx, 16`,
  );
  k.testCase(
    'rip-relative',
    `
    mov rax, [rip+canary]
    say " "
    hex rax, 16
    lea rax, [rip+canary]
    sub rax, canary
    say " "
    hex rax, 16`,
  );
  k.testCase(
    '64-bit absolute address',
    `
    mov rax, [0xffff800000000000+0x100000]
    say " "
    hex rax, 8`,
  );
  k.testCase(
    'code in the high half',
    `
    mov rax, ${highHalf}+high$code
    jmp rax
    high$code:
    lea rax, [rip+high$code]
    mov rcx, high$low
    jmp rcx
    high$low:
    say " "
    mov rcx, high$code
    sub rax, rcx
    hex rax, 16`,
  );
  k.testCase(
    'fault in the high half',
    `
    mov rax, ${highHalf}+0x500123
    mov rax, [rax]`,
  );
  k.testCase('fault at the top', 'mov rax, -8\nmov [rax], rax');
  k.testCase('fault at 16 TiB', 'mov rax, 0x100000000123\nmov al, [rax]');
  k.testCase(
    'a32 truncates the address',
    `
    mov rbx, 0x1234500000000+canary
    mov rax, [ebx]
    say " "
    hex rax, 16`,
  );
  k.testCase(
    'push and pop are 64-bit',
    `
    mov rbx, rsp
    push 0x7f
    sub rbx, rsp
    pop rax
    say " "
    hex rbx, 2
    say " "
    hex rax, 16`,
  );
  k.testCase(
    'cr8',
    'mov eax, 5\nmov cr8, rax\nxor eax, eax\nmov rax, cr8\nsay " "\nhex rax, 2\nxor eax, eax\nmov cr8, rax',
  );
  k.testCase(
    'upper half of cr2',
    `
    mov rax, 0x123456789abcdef0
    mov cr2, rax
    xor eax, eax
    mov rax, cr2
    say " "
    hex rax, 16`,
  );
  const invalid: readonly (readonly [string, string])[] = [
    ['push es', '0x06'],
    ['pop ds', '0x1f'],
    ['daa', '0x27'],
    ['das', '0x2f'],
    ['aaa', '0x37'],
    ['pusha', '0x60'],
    ['popa', '0x61'],
    ['aam', '0xd4, 0x0a'],
    ['aad', '0xd5, 0x0a'],
    ['salc', '0xd6'],
    ['into', '0xce'],
    ['82 /0', '0x82, 0xc0, 0x01'],
    ['far call', '0x9a, 0, 0, 0, 0, 0, 0'],
    ['far jmp', '0xea, 0, 0, 0, 0, 0, 0'],
  ];
  for (const [name, bytes] of invalid) k.testCase(`not in 64-bit code: ${name}`, `db ${bytes}`);
}

function segmentsIn64(k: Kernel64): void {
  const based = k.gdt.add(segmentDescriptor({ type: segmentTypes.data, base: 0x10_0000, limit: 0, dpl: 3 }));
  k.testCase(
    'null ss in ring 0',
    'xor eax, eax\nmov ss, eax\npush rax\npop rax\nmov eax, ss\nsay " "\nhex rax, 4',
  );
  k.testCase('null ss in ring 3', () => k.user('xor eax, eax\nmov ss, eax'));
  k.testCase('null ss with RPL 3 in ring 3', () => k.user('mov eax, 3\nmov ss, eax'));
  k.testCase('null ds can be used', 'xor eax, eax\nmov ds, eax\nmov rax, [canary]\nsay " "\nhex rax, 16');
  k.testCase(
    'base of ds is ignored, of fs is not',
    `
    mov eax, ${based}
    mov ds, eax
    mov fs, eax
    mov rax, [0x100000]
    mov rbx, [fs:0]
    sub rax, rbx
    say " "
    hex rax, 16`,
  );
  k.testCase(
    'FS base by MSR',
    `
    ${writeMsr(msr.fsBase, `${highHalf}+canary`)}
    mov rax, [fs:0]
    say " "
    hex rax, 16
    mov ecx, ${msr.fsBase}
    rdmsr
    say " "
    hex rdx, 8`,
  );
  k.testCase(
    'loading fs sets its base',
    `
    ${writeMsr(msr.fsBase, `${highHalf}`)}
    mov eax, ${based}
    mov fs, eax
    mov ecx, ${msr.fsBase}
    rdmsr
    say " "
    hex rdx, 8
    hex rax, 8`,
  );
  k.testCase(
    'swapgs',
    `
    ${writeMsr(msr.gsBase, 'canary')}
    ${writeMsr(msr.kernelGsBase, 'canary+8')}
    mov rax, [gs:0]
    swapgs
    mov rbx, [gs:0]
    swapgs
    mov rcx, [gs:0]
    say " "
    hex rax, 4
    say " "
    hex rbx, 4
    say " "
    hex rcx, 4`,
  );
  k.testCase('swapgs in ring 3', () => k.user('swapgs'));
  k.testCase(
    'lar and lsl of 64-bit code',
    `
    mov ecx, ${code64}
    lar eax, ecx
    or eax, 0x100
    lsl ebx, ecx
    say " "
    hex rax, 8
    say " "
    hex rbx, 8`,
  );
  k.testCase(
    'str and sldt',
    `
    str rax
    sldt rbx
    say " "
    hex rax, 16
    say " "
    hex rbx, 16`,
  );
  k.testCase(
    'sgdt and sidt',
    `
    sgdt [scratch]
    mov rax, [scratch+2]
    mov rcx, gdt
    sub rax, rcx
    say " "
    hex rax, 16
    sidt [scratch]
    movzx eax, word [scratch]
    say " "
    hex rax, 4`,
  );
}

function canonical(k: Kernel64): void {
  for (const [name, body] of [
    ['read', 'mov rax, [rbx]'],
    ['write', 'mov [rbx], rax'],
    ['read of the last byte below', 'dec rbx\nmov al, [rbx]'],
    ['through fs', 'mov rax, [fs:rbx]'],
    ['lodsb', 'mov rsi, rbx\nlodsb'],
    ['lea', 'lea rax, [rbx]'],
    ['below the high half', 'mov rbx, 0xffff7fffffffffff\nmov al, [rbx]'],
  ] as const) {
    k.testCase(`non-canonical: ${name}`, `mov rbx, ${nonCanonical}\n${body}`);
  }
}

function farTransfers(k: Kernel64): void {
  const pointer = (offset: string, selector: number): string => {
    const label = k.unique('pointer');
    k.data(`${label}: dd ${offset}\ndw ${selector}`);
    return label;
  };
  k.testCase(
    'to compatibility mode and back',
    `
    jmp fword [${pointer('compat$here', code32)}]
    bits 32
    compat$here:
    mov eax, esp
    inc eax
    dec eax
    push eax
    pop ebx
    jmp ${code64}:compat$back
    bits 64
    compat$back:
    cmp eax, ebx
    setz al
    movzx eax, al
    say " "
    hex rax, 2`,
  );
  k.testCase(
    'far call and retf',
    `
    mov rbx, rsp
    call fword [${pointer('far$target', code64)}]
    sub rbx, rsp
    say " "
    hex rbx, 4
    jmp far$over
    far$target:
    retf
    far$over:`,
  );
  k.testCase(
    'far call with 64-bit operand and retfq',
    `
    mov rbx, rsp
    call_m1664 [far$pointer64]
    sub rbx, rsp
    say " "
    hex rbx, 4
    jmp far$over64
    far$target64:
    retfq
    far$pointer64: dq far$target64
    dw ${code64}
    far$over64:`,
  );
  const list: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['data', data64],
    ['code of ring 3', userCode64 & ~3],
    ['the TSS', tssSelector],
    ['beyond the GDT', outside],
    [
      'absent code',
      k.gdt.add(segmentDescriptor({ type: segmentTypes.code, long: true, big: false, present: false })),
    ],
  ];
  for (const [name, selector] of list) {
    k.testCase(`far jmp, ${name}`, `jmp fword [${pointer('handled', selector)}]`);
    k.testCase(`retfq, ${name}`, `push ${selector}\npush handled\nretfq`);
    k.testCase(`iretq, ${name}`, `push ${data64}\npush rsp\npush 2\npush ${selector}\npush handled\niretq`);
  }
  k.testCase('iretq with NT', 'push 0x4002\npopf\npush 0\npush 0\npush 2\npush 0x18\npush 0\niretq');
  k.testCase(
    'iretq within ring 0 takes rsp and ss',
    `
    push 0
    push scratch+0x800
    push 2
    push ${code64}
    push iret$here
    iretq
    iret$here:
    mov rax, rsp
    mov rcx, scratch
    sub rax, rcx
    say " "
    hex rax, 4
    mov eax, ss
    say " "
    hex rax, 4`,
  );
  k.testCase(
    'iretd in 64-bit code',
    `
    sub rsp, 20
    mov dword [rsp], iretd$here
    mov dword [rsp+4], ${code64}
    mov dword [rsp+8], 2
    mov dword [rsp+12], scratch+0x400
    mov dword [rsp+16], ${data64}
    iretd
    iretd$here:
    mov rax, rsp
    mov rcx, scratch
    sub rax, rcx
    say " "
    hex rax, 4`,
  );
  const gate = (options: Parameters<typeof gateDescriptor64>[0]): number =>
    k.gdt.add(gateDescriptor64(options));
  const target = { selector: code64, offset: symbol('gated'), type: systemTypes.callGate, dpl: 3 };
  k.code(`
    jmp callgates$over
    gated:
      say " cs "
      mov eax, cs
      hex rax, 4
      say " ss "
      mov eax, ss
      hex rax, 4
      say " saved cs "
      hex [rsp+8], 16
      say " ss "
      hex [rsp+24], 16
      retfq
    callgates$over:`);
  const good = gate(target);
  for (const [name, selector] of [
    ['good', good],
    ['of DPL 0', gate({ ...target, dpl: 0 })],
    ['not present', gate({ ...target, present: false })],
    ['to 32-bit code', gate({ ...target, selector: code32 })],
    ['to null', gate({ ...target, selector: 0 })],
    ['of the 16-bit kind', gate({ ...target, type: systemTypes.callGate16 })],
  ] as const) {
    const label = pointer('0', selector | 3);
    k.testCase(`call gate ${name}, from 64-bit code`, () => k.user(`call fword [${label}]`));
    k.testCase(`call gate ${name}, from compatibility mode`, () => k.user32(`call ${selector | 3}:0`));
  }
}

function ring3(k: Kernel64): void {
  for (const [name, body] of [
    ['hlt', 'hlt'],
    ['cli', 'cli'],
    ['in', 'in al, 0x60'],
    ['mov from cr0', 'mov rax, cr0'],
    ['mov to cr8', 'mov cr8, rax'],
    ['rdmsr', 'rdmsr'],
    ['int3', 'int3'],
    ['ud2', 'ud2'],
    ['div by zero', 'xor ecx, ecx\ndiv ecx'],
    ['idiv overflow, 64-bit', 'mov rax, 0x8000000000000000\ncqo\nmov rcx, -1\nidiv rcx'],
    ['non-canonical read', `mov rax, ${nonCanonical}\nmov rax, [rax]`],
    ['read of an absent page', 'mov rax, [0x500008]'],
  ] as const) {
    k.testCase(`ring 3: ${name}`, () => k.user(body));
  }
  for (const [name, body] of [
    ['hlt', 'hlt'],
    ['int3', 'int3'],
    ['into', 'mov eax, 0x7fffffff\ninc eax\ninto'],
    ['bound', 'mov eax, 5\nmov ebx, canary\nbound eax, [ebx]'],
    ['aam 0', 'aam 0'],
    ['read of an absent page', 'mov eax, [0x500008]'],
    ['address wraps at 4 GiB', 'mov ebx, 0xffffffff\nmov eax, [ebx+canary+1]\nmov edx, eax'],
    ['les of an absent segment', 'mov dword [scratch], 0\nmov dword [scratch+4], 0xff8\nles eax, [scratch]'],
    ['push es, pusha, daa', 'push es\npop es\npushad\npopad\ndaa'],
    [
      'far call to 64-bit code and back',
      `call ${userCode64}:compat$up\njmp compat$down\nbits 64\ncompat$up:\nretf\nbits 32\ncompat$down:`,
    ],
    ['cs', 'mov eax, cs\nmov ebx, ss'],
  ] as const) {
    k.testCase(`compatibility mode: ${name}`, () => k.user32(body));
  }
  k.testCase('iretq to compatibility mode from ring 3', () => {
    k.user(`
      push ${userData}
      push user_stack_top
      push 2
      push ${userCode32}
      push compat$landed
      iretq
      bits 32
      compat$landed:
      mov eax, cs
      inc eax
      dec eax`);
    k.code('say " "\nhex rax, 4');
  });
}

/** Out of IA-32e mode and back: paging off in compatibility mode of ring 0 (SDM vol. 3A, 10.8.5.4). */
function leaving(k: Kernel64): void {
  k.testCase(
    'out of long mode and back',
    `
    jmp fword [leave$pointer]
    leave$pointer: dd leave$compat
    dw ${code32}
    bits 32
    leave$compat:
    mov eax, ${data64}
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, ${msr.efer}
    rdmsr
    mov ebx, eax
    mov ecx, [0x100000]
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov ecx, ${msr.efer}
    rdmsr
    jmp ${code64}:leave$back
    bits 64
    leave$back:
    say " "
    hex rbx, 4
    say " "
    hex rax, 4`,
  );
}

function build(): Uint8Array {
  const k = new Kernel64();
  basics(k);
  segmentsIn64(k);
  canonical(k);
  frames(k);
  badGates(k);
  farTransfers(k);
  systemCalls(k);
  ring3(k);
  leaving(k);
  k.reserve('scratch', 0x1000);
  k.data('align 8\ncanary: dq 0x0123456789abcdef, 0x1122334455667788');
  return k.finish().build();
}

export const longMode: SystemGuest = {
  name: 'long-mode',
  subject: '64-bit and compatibility mode: frames, IST, gates, SYSCALL, SYSENTER, canonical addresses',
  expectation: { from: 'qemu' },
  build,
};
