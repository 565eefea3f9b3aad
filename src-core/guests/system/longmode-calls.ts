/** SYSCALL, SYSRET, SYSENTER and SYSEXIT in IA-32e mode. */
import { eferBits, msr, writeMsr } from './runtime/kernel64.ts';
import type { Kernel64 } from './runtime/kernel64.ts';

export function systemCalls(k: Kernel64): void {
  const star = (0x28 << 16) | 0x18;
  k.code(`
    mov ecx, ${msr.star}
    xor eax, eax
    mov edx, ${star}
    wrmsr
    ${writeMsr(msr.lstar, 'syscall$entry')}
    ${writeMsr(msr.fmask, '0x40700')}
    jmp syscall$over
    syscall$entry:
      mov [scratch], rsp
      mov rsp, ring0_stack_top
      pushf
      say " cs "
      mov eax, cs
      hex rax, 4
      say " ss "
      mov eax, ss
      hex rax, 4
      say " flags "
      hex [rsp], 16
      say " r11 "
      hex r11, 16
      say " rcx "
      mov rax, rcx
      sub rax, [case_base]
      hex rax, 4
      mov rsp, [scratch]
      cmp edi, 32
      jz syscall$to32
      sysretq
      syscall$to32:
      sysretd
    syscall$over:`);
  k.testCase('syscall and sysret', () => {
    k.user(
      'xor edi, edi\npush 0x40602\npopf\nsyscall\npushf\npop rbx\npush 2\npopf\nmov eax, cs\nshl eax, 16\nmov ax, ss',
    );
    k.code('say " back "\nhex rax, 8\nsay " flags "\nhex rbx, 16');
  });
  k.testCase('sysret to compatibility mode', () => {
    k.user(`
      mov edi, 32
      syscall
      bits 32
      mov eax, cs
      shl eax, 16
      mov ax, ss
      inc eax
      dec eax`);
    k.code('say " back "\nhex rax, 8');
  });
  k.code('bits 64');
  k.testCase(
    'syscall in ring 0',
    `
    mov rsi, ring0_stack_top
    mov qword [user_return_rsp], rsp
    mov qword [user_return_rip], syscall$kernel
    xor edi, edi
    push 2
    popf
    syscall
    syscall$left:
    int 0x30
    syscall$kernel:`,
  );
  k.testCase('sysret in ring 3', () => k.user('sysretq'));
  k.testCase('syscall without SCE', () => {
    k.code(`mov ecx, ${msr.efer}\nrdmsr\nand eax, ~${eferBits.sce}\nwrmsr`);
    k.user('syscall');
  });
  k.testCase('sysret without SCE', 'sysretq');
  k.code(`mov ecx, ${msr.efer}\nrdmsr\nor eax, ${eferBits.sce}\nwrmsr`);
  k.testCase('sysenter and sysexit', () => {
    k.code(`
      ${writeMsr(msr.sysenterCs, '0x18')}
      ${writeMsr(msr.sysenterEsp, 'ring0_stack_top')}
      ${writeMsr(msr.sysenterEip, 'sysenter$entry')}`);
    k.user(`
      mov rdx, sysenter$back
      mov rcx, rsp
      sysenter
      sysenter$entry:
      say " cs "
      mov eax, cs
      hex rax, 4
      say " ss "
      mov eax, ss
      hex rax, 4
      sysexitq
      sysenter$back:
      mov eax, cs
      shl eax, 16
      mov ax, ss`);
    k.code('say " back "\nhex rax, 8');
  });
  k.testCase('sysexit to compatibility mode', () => {
    k.code(`
      mov [user_return_rsp], rsp
      mov qword [user_return_rip], sysexit$home
      mov edx, sysexit$back
      mov ecx, user_stack_top
      sysexitd
      bits 32
      sysexit$back:
      mov eax, cs
      shl eax, 16
      mov ax, ss
      inc eax
      dec eax
      int 0x30
      bits 64
      sysexit$home:
      say " back "
      hex rax, 8`);
  });
  k.testCase('sysenter from compatibility mode', () => {
    k.code(writeMsr(msr.sysenterEip, 'sysenter$32'));
    k.user32(`
      mov edx, sysenter$home
      mov ecx, esp
      sysenter
      bits 64
      sysenter$32:
      say " cs "
      mov eax, cs
      hex rax, 4
      sysexitd
      bits 32
      sysenter$home:
      mov eax, cs`);
    k.code('say " back "\nhex rax, 4');
  });
  k.testCase('sysenter without a code segment', () => {
    k.code(writeMsr(msr.sysenterCs, '0'));
    k.user('sysenter');
  });
}
