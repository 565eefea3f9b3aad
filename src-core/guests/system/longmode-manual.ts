/** IA-32e mode where QEMU TCG deviates: canonical checks, control-register checks, error codes of the IDT. */
import { symbol } from '../assembler/index.ts';
import { segmentDescriptor, segmentTypes, systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code32, code64, data64, Kernel64, msr, userCode64, userData, writeMsr } from './runtime/kernel64.ts';
import { pageFlags } from './runtime/paging.ts';

/** Not canonical with 48-bit linear addresses. */
const nonCanonical = '0x800000001000';
const { present, writable, user } = pageFlags;

function canonical(k: Kernel64): void {
  const inRing3: readonly (readonly [string, string])[] = [
    ['push', `mov rsp, ${nonCanonical}\npush rax`],
    ['pop', `mov rsp, ${nonCanonical}\npop rax`],
    ['call', `mov rsp, ${nonCanonical}\ncall canonical$next\ncanonical$next:`],
    ['ret', `mov rsp, ${nonCanonical}\nret`],
    ['by rbp', `mov rbp, ${nonCanonical}\nmov rax, [rbp]`],
    ['by rsp and an index', 'mov rcx, 0x7ffffffff000\nmov rax, [rsp+rcx]'],
    ['by rbp through ds', `mov rbp, ${nonCanonical}\nmov rax, [ds:rbp]`],
    ['enter', `mov rsp, ${nonCanonical}\nenter 8, 0`],
    ['leave', `mov rbp, ${nonCanonical}\nleave`],
    ['iretq frame', `mov rsp, ${nonCanonical}\niretq`],
    ['jmp by register', `mov rax, ${nonCanonical}\njmp rax`],
    ['call by register', `mov rax, ${nonCanonical}\ncall rax`],
    ['ret to it', `mov rax, ${nonCanonical}\npush rax\nret`],
    ['jmp by memory', `mov rax, ${nonCanonical}\nmov [scratch], rax\njmp qword [scratch]`],
    ['retfq to it', `mov rax, ${nonCanonical}\npush ${userCode64}\npush rax\nretfq`],
    [
      'iretq to it',
      `mov rax, ${nonCanonical}\npush ${userData}\npush rsp\npush 2\npush ${userCode64}\npush rax\niretq`,
    ],
    ['read across the edge', 'mov rax, 0x7ffffffffffc\nmov rax, [rax]'],
    ['movups across the edge', 'mov rax, 0x7ffffffffff8\nmovups xmm0, [rax]'],
  ];
  for (const [name, body] of inRing3) k.testCase(`non-canonical: ${name}`, () => k.user(body));
  k.testCase(
    'non-canonical: iretq to it, from ring 0',
    `
    mov rax, ${nonCanonical}
    push ${userData}
    push user_stack_top
    push 2
    push ${userCode64}
    push rax
    iretq`,
  );
  k.testCase('non-canonical: sysret to it', `mov rcx, ${nonCanonical}\nmov r11, 2\nsysretq`);
  k.testCase(
    'non-canonical: lgdt',
    `
    mov word [scratch], 0x7f
    mov rax, ${nonCanonical}
    mov [scratch+2], rax
    lgdt [scratch]`,
  );
  k.testCase('non-canonical: lidt', 'lidt [scratch]');
  k.testCase('non-canonical: invlpg does nothing', `mov rax, ${nonCanonical}\ninvlpg [rax]`);
  for (const [name, number] of [
    ['FS base', msr.fsBase],
    ['GS base', msr.gsBase],
    ['kernel GS base', msr.kernelGsBase],
    ['LSTAR', msr.lstar],
    ['CSTAR', msr.cstar],
    ['SYSENTER_ESP', msr.sysenterEsp],
    ['SYSENTER_EIP', msr.sysenterEip],
  ] as const) {
    k.testCase(`non-canonical: ${name}`, writeMsr(number, nonCanonical));
  }
  // #SS from a stack switch needs a stack of its own.
  k.testCase('non-canonical: RSP0', () => {
    k.borrowGate(12, 0x31);
    k.code(`mov rax, ${nonCanonical}\nmov [tss+4], rax`);
    k.user('int3');
  });
  k.code('mov qword [tss+4], ring0_stack_top').borrowGate(12, 12);
}

function gates(k: Kernel64): void {
  const target = { selector: code64, offset: symbol('handled'), type: systemTypes.interruptGate };
  const both = k.gdt.add(segmentDescriptor({ type: segmentTypes.code, long: true, big: true }));
  k.gate(0x31, { selector: code64, offset: symbol('vector$12'), type: systemTypes.interruptGate, count: 1 });
  k.reserve('ist1', 0x1000).reserve('ist1_top', 0);
  k.code(`
    mov qword [tss_ist], ist1_top
    jmp gates$over
    handled: say " handled"
    mov rsp, [case_rsp]
    jmp qword [case_resume]
    gates$over:`);
  const bad: readonly (readonly [string, Parameters<Kernel64['gate']>[1]])[] = [
    ['not present', { ...target, present: false }],
    ['of the 16-bit kind', { ...target, type: systemTypes.interruptGate16 }],
    ['of the task kind', { ...target, type: systemTypes.taskGate }],
    ['to null', { ...target, selector: 0 }],
    ['to 32-bit code', { ...target, selector: code32 }],
  ];
  for (const [index, [name, gate]] of bad.entries()) {
    k.gate(0x35 + index, gate);
    k.testCase(`int, gate ${name}`, `int ${0x35 + index}`);
    k.testCase(`#UD, gate ${name}`, () => k.borrowGate(6, 0x35 + index).code('ud2'));
  }
  k.borrowGate(6, 6);
  k.testCase(
    'int, gate with a non-canonical offset',
    `
    mov rax, [idt_initial+0x20*16]
    mov [idt+0x20*16], rax
    mov qword [idt+0x20*16+8], 0x8000
    int 0x20`,
  );
  k.borrowGate(0x20, 0x20);
  k.testCase('int beyond the IDT', 'int 0x40');
  k.testCase('int of ring 0 from ring 3', () => k.user('int 0x20'));
  k.data(`both_pointer: dd handled\ndw ${both}`);
  k.testCase('far jmp to code with L and D', 'jmp fword [both_pointer]');
  k.testCase('far call to code with L and D', 'call fword [both_pointer]');
  k.testCase('retfq to code with L and D', `push ${both}\npush handled\nretfq`);
  k.testCase(
    'iretq to code with L and D',
    `push ${data64}\npush rsp\npush 2\npush ${both}\npush handled\niretq`,
  );
  k.testCase('null ss with RPL 3 in ring 0', 'mov eax, 3\nmov ss, eax');
}

function control(k: Kernel64): void {
  const cases: readonly (readonly [string, string])[] = [
    ['paging off in 64-bit mode', 'mov rax, cr0\nand eax, 0x7fffffff\nmov cr0, rax'],
    ['CR4.PAE off', 'mov rax, cr4\nand eax, ~0x20\nmov cr4, rax'],
    ['EFER.LME off', `mov ecx, ${msr.efer}\nrdmsr\nand eax, ~0x100\nwrmsr`],
    ['CR0 bit 32', 'mov rax, cr0\nbts rax, 32\nmov cr0, rax'],
    ['CR4 bit 32', 'mov rax, cr4\nbts rax, 32\nmov cr4, rax'],
    ['CR3 bit 60', 'mov rax, cr3\nbts rax, 60\nmov cr3, rax'],
    ['CR8 above 15', 'mov eax, 16\nmov cr8, rax'],
    ['DR7 bit 32', 'mov rax, dr7\nbts rax, 32\nmov dr7, rax'],
    ['DR6 bit 32', 'mov rax, dr6\nbts rax, 32\nmov dr6, rax'],
    ['EFER bit 32', `mov ecx, ${msr.efer}\nrdmsr\nor edx, 1\nwrmsr`],
    ['rdmsr of no MSR', 'mov ecx, 0x12345\nrdmsr'],
  ];
  for (const [name, body] of cases) k.testCase(name, body);
}

function systemCalls(k: Kernel64): void {
  k.code(`
    mov ecx, ${msr.star}
    xor eax, eax
    mov edx, ${(0x28 << 16) | 0x18}
    wrmsr
    ${writeMsr(msr.lstar, 'syscall$entry')}
    ${writeMsr(msr.cstar, 'syscall$entry')}
    ${writeMsr(msr.fmask, '0x40700')}
    jmp syscall$over
    syscall$entry:
      mov rsp, ring0_stack_top
      pushf
      say " flags "
      hex [rsp], 16
      say " r11 "
      hex r11, 16
      mov rsp, [case_rsp]
      jmp qword [case_resume]
    syscall$over:`);
  k.testCase('syscall keeps the flags that are not masked', () => k.user('push 0x40ed7\npopf\nsyscall'));
  k.testCase('syscall from compatibility mode', () => k.user32('syscall'));
  k.testCase('sysret from compatibility mode', () => k.user32('db 0x0f, 0x07'));
}

function compatibility(k: Kernel64): void {
  const small = k.gdt.add(
    segmentDescriptor({
      type: segmentTypes.data,
      base: symbol('scratch'),
      limit: 0xff,
      pages: false,
      dpl: 3,
    }),
  );
  const load = `mov eax, ${small | 3}\nmov ds, eax\n`;
  for (const [name, body] of [
    ['read at the limit', `${load}mov eax, [0xfc]`],
    ['read across the limit', `${load}mov eax, [0xfd]`],
    ['null ds', 'xor eax, eax\nmov ds, eax\nmov eax, [0]'],
    ['null ss', 'mov eax, 3\nmov ss, eax'],
    ['write to code', 'mov [cs:scratch], eax'],
    ['stack beyond the limit', `mov eax, ${small | 3}\nmov ss, eax\nmov esp, 0x102\npush eax`],
  ] as const) {
    k.testCase(`compatibility mode: ${name}`, () => k.user32(body));
  }
}

/** Reserved bits of every level, and entries with PS where it is reserved (SDM vol. 3A, 4.5.4 and 4.7). */
function reservedBits(k: Kernel64): void {
  const t = k.tables;
  const all = present | writable | user;
  const flush = 'mov rax, cr3\nmov cr3, rax';
  const at = t.linear(1);
  const levels: readonly (readonly [string, string, string])[] = [
    ['page table', t.entry(1), `mov rax, [${at}]`],
    ['directory', t.testDirectoryEntry, `mov rax, [${at}]`],
    ['pointer table', 'directory_pointers+8', 'mov rax, [0x40000008]'],
    ['PML4', 'pml4+8', 'mov rax, 0x8000000000\nmov rax, [rax]'],
  ];
  k.code(
    `mov qword [directory_pointers+8], page_directory+${all}\nmov qword [pml4+8], directory_pointers+${all}`,
  );
  for (const [name, entry, body] of levels) {
    const prepare = `${t.map(1, 'frame_a', all)}\n`;
    k.testCase(`reserved bit 51 in the ${name}`, `${prepare}bts qword [${entry}], 51\n${flush}\n${body}`);
    k.code(`btr qword [${entry}], 51`);
    k.testCase(
      `bit 62 in the ${name} is ignored`,
      `${prepare}bts qword [${entry}], 62\n${flush}\n${body.replaceAll('[0x40000008]', '[0x40100008]').replaceAll('0x8000000000\n', '0x8000100000\n')}`,
    );
    k.code(`btr qword [${entry}], 62`);
  }
  k.testCase('PS in the PML4', `bts qword [pml4+8], 7\n${flush}\nmov rax, 0x8000100000\nmov rax, [rax]`);
  k.code(`btr qword [pml4+8], 7\n${flush}`);
}

function build(): Uint8Array {
  const k = new Kernel64();
  gates(k);
  canonical(k);
  control(k);
  systemCalls(k);
  compatibility(k);
  reservedBits(k);
  k.reserve('scratch', 0x1000).reserve('frame_a', 0x1000);
  return k.finish().build();
}

export const longModeByManual: SystemGuest = {
  name: 'long-mode-checks',
  subject: 'canonical addresses, control-register checks, IDT error codes, reserved bits in IA-32e mode',
  expectation: {
    from: 'sdm',
    because: 'QEMU TCG leaves these checks out or reports them otherwise (IDT error codes count 16 a vector)',
  },
  build,
};
