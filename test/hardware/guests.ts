/** Guests of the hardware engine's tests: what real hardware and kvm_pvm alike can run. */
import { symbol } from '../../src-core/guests/assembler/index.ts';
import { systemTypes } from '../../src-core/guests/system/runtime/descriptors.ts';
import { code0, Kernel32 } from '../../src-core/guests/system/runtime/kernel32.ts';
import { code64, Kernel64, msr, writeMsr } from '../../src-core/guests/system/runtime/kernel64.ts';
import { testRegion } from '../../src-core/guests/system/runtime/paging.ts';

const apic = 0xfee00000;
const timerVector = 0x38;

const hexOf = (...parts: readonly string[]): string =>
  parts.map((part) => `say " "\nhex ${part}, 8`).join('\n');

/** Leaves of CPUID, and subleaves. */
const LEAVES: [number, number][] = [
  ...[0, 1, 2, 6, 0x15, 0x16, 0x17, 0x40000000].map((leaf): [number, number] => [leaf, 0]),
  ...[0, 1, 2, 3].map((subleaf): [number, number] => [4, subleaf]),
  [7, 0],
  ...Array.from({ length: 9 }, (_, i): [number, number] => [0x80000000 + i, 0]),
];

function identification(k: Kernel64): void {
  for (const [leaf, subleaf] of LEAVES) {
    k.testCase(
      `cpuid ${leaf.toString(16)}.${subleaf}`,
      `mov eax, ${leaf}\nmov ecx, ${subleaf}\ncpuid\n${hexOf('rax', 'rbx', 'rcx', 'rdx')}`,
    );
  }
}

function processor(k: Kernel64): void {
  for (const number of [
    0x1b, 0x3a, 0x8b, 0xfe, 0x174, 0x179, 0x1a0, 0x277, 0x2ff, 0xc0000080, 0xc0000101, 0xc0000103,
  ]) {
    k.testCase(`rdmsr ${number.toString(16)}`, `mov ecx, ${number}\nrdmsr\n${hexOf('rdx', 'rax')}`);
  }
  k.testCase('rdmsr of what is not there', 'mov ecx, 0x12345\nrdmsr');
  k.testCase('wrmsr of what is not there', 'mov ecx, 0x12345\nxor eax, eax\nxor edx, edx\nwrmsr');
  k.testCase('wrmsr of what is not allowed', writeMsr(msr.lstar, '0x800000000000'));
  k.testCase(
    'msrs keep what is written',
    [msr.star, msr.lstar, msr.cstar, msr.sysenterEsp, msr.kernelGsBase]
      .map((number) => `${writeMsr(number, `0x1234567${number & 15}`)}\nxor eax, eax\nrdmsr\n${hexOf('rax')}`)
      .join('\n'),
  );
  k.testCase(
    'swapgs',
    `${writeMsr(msr.gsBase, 'words')}
    ${writeMsr(msr.kernelGsBase, 'words+8')}
    mov eax, [gs:0]
    swapgs
    mov ebx, [gs:0]
    ${hexOf('rax', 'rbx')}`,
  );
  k.testCase(
    'the time-stamp counter runs forward',
    `mov ebp, 200
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rbx, rax
    tsc$again:
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    jbe tsc$wrong
    mov rbx, rax
    dec ebp
    jnz tsc$again
    jmp tsc$right
    tsc$wrong: say " backward"
    tsc$right:`,
  );
}

function memory(k: Kernel64): void {
  k.testCase(
    'stores and calls',
    `mov ecx, 1000
    xor ebx, ebx
    sum$again: push rcx
    call sum$add
    pop rcx
    dec ecx
    jnz sum$again
    jmp sum$done
    sum$add: add ebx, ecx
    mov [scratch+rcx*4], ebx
    ret
    sum$done:
    ${hexOf('rbx', 'qword [scratch+4]', 'qword [scratch+4000]')}`,
  );
  k.testCase(
    'a page in two frames',
    `mov dword [frames], 0x11111111
    mov dword [frames+0x1000], 0x22222222
    mov rax, frames+3
    mov [test_table], rax
    invlpg [${testRegion}]
    mov ebx, [${testRegion}]
    mov rax, frames+0x1003
    mov [test_table], rax
    invlpg [${testRegion}]
    mov ecx, [${testRegion}]
    mov qword [test_table], 0
    invlpg [${testRegion}]
    ${hexOf('rbx', 'rcx')}
    mov eax, [${testRegion}]`,
  );
  k.testCase(
    'code that changes itself',
    `mov byte [smc$patch+1], 0x77
    smc$patch: mov al, 0x11
    movzx eax, al
    ${hexOf('rax')}
    mov dword [smc$function], 0xc3c0ff90 ; nop; inc eax; ret
    call smc$function
    mov dword [smc$function], 0xc3c8ff90 ; nop; dec eax; ret
    call smc$function
    call smc$function
    ${hexOf('rax')}
    jmp smc$over
    align 16
    smc$function: nop
    nop
    nop
    ret
    smc$over:`,
  );
  k.testCase('invalid opcode', 'ud2');
  k.testCase('divide error', 'xor ecx, ecx\nmov eax, 1\ndiv ecx');
  k.testCase('page fault, write', 'mov dword [0x600000], 1');
  k.testCase('general protection', 'mov eax, 0x1234\nmov ds, eax');
}

function devices(k: Kernel64): void {
  k.testCase(
    'string output',
    `mov rsi, text
    mov ecx, 13
    mov edx, 0xe9
    say " "
    rep outsb`,
  );
  k.testCase(
    'string input',
    `mov al, 0x0d
    out 0x70, al
    mov rdi, scratch
    mov qword [scratch], 0
    mov ecx, 3
    mov edx, 0x71
    rep insb
    ${hexOf('qword [scratch]')}`,
  );
  k.testCase(
    'ports of two and four bytes',
    `mov dx, 0xcf8
    mov eax, 0x80000000
    out dx, eax
    in eax, dx
    mov ebx, eax
    mov dx, 0xcfc
    in eax, dx
    mov ecx, eax
    in ax, dx
    movzx eax, ax
    ${hexOf('rbx', 'rcx', 'rax')}`,
  );
  k.testCase('a port without a device', `mov edx, 0x1234\nin eax, dx\n${hexOf('rax')}`);
  k.testCase(
    'memory without a device',
    `movzx eax, byte [0xa0000]
    mov ebx, [0xa0004]
    mov rcx, [0xa0008]
    mov dword [0xa0000], 5
    ${hexOf('rax', 'rbx', 'rcx')}`,
  );
  k.testCase(
    'local APIC: version, task priority by two ways',
    `mov eax, [apic_base+0x30]
    ${hexOf('rax')}
    mov eax, 5
    mov cr8, rax
    mov eax, [apic_base+0x80]
    ${hexOf('rax')}
    mov dword [apic_base+0x80], 0x30
    mov rax, cr8
    ${hexOf('rax')}
    xor eax, eax
    mov cr8, rax
    mov eax, [apic_base+0x80]
    ${hexOf('rax')}`,
  );
  k.testCase(
    'local APIC: its timer ends HLT',
    `mov dword [apic_base+0xf0], 0x1ff
    mov dword [apic_base+0x3e0], 11
    mov dword [apic_base+0x320], ${timerVector}
    mov ebp, 5
    hlt$again:
    mov dword [apic_base+0x380], 300000
    sti
    hlt
    cli
    dec ebp
    jnz hlt$again
    ${hexOf('qword [ticks]')}`,
  );
  k.testCase(
    'local APIC: its timer interrupts a loop',
    `mov dword [ticks], 0
    mov dword [apic_base+0x320], ${timerVector + 0x20000}
    mov dword [apic_base+0x380], 400000
    sti
    loop$wait: cmp dword [ticks], 5
    jb loop$wait
    cli
    mov dword [apic_base+0x320], 0x10000
    say " came"`,
  );
}

function floatingPoint(k: Kernel64): void {
  k.testCase(
    'SSE in a loop',
    `mov ecx, 300
    movaps xmm0, [ones]
    xorps xmm1, xmm1
    sse$again: addps xmm1, xmm0
    mulps xmm0, [factor]
    movaps [scratch], xmm1
    dec ecx
    jnz sse$again
    ${hexOf('qword [scratch]', 'qword [scratch+12]')}`,
  );
  k.testCase(
    'x87 keeps its stack',
    `fninit
    fldpi
    fld1
    fldl2e
    fmulp st1, st0
    faddp st1, st0
    fstp qword [scratch]
    fnstsw ax
    movzx eax, ax
    ${hexOf('qword [scratch]', 'qword [scratch+4]', 'rax')}`,
  );
}

/** The local APIC, in a page of 2 MiB at 1 GiB. */
function mapApic(k: Kernel64): void {
  k.reserve('apic_directory', 0x1000);
  k.code(`apic_base equ 0x40000000
    mov rax, apic_directory+3
    mov [directory_pointers+8], rax
    mov eax, ${apic + 0x83}
    mov [apic_directory], rax`);
}

/** Counts the interrupts of the local APIC's timer in `ticks`. */
function tickHandler(k: Kernel64): void {
  k.gate(timerVector, { selector: code64, offset: symbol('tick'), type: systemTypes.interruptGate, dpl: 0 });
  k.code(`jmp tick$over
    tick: inc dword [ticks]
    mov dword [apic_base+0xb0], 0
    iretq
    tick$over:`);
}

/** What CPUID says. */
export function cpuidGuest(): Uint8Array {
  const k = new Kernel64();
  identification(k);
  return k.finish().build();
}

/** 64-bit code in ring 0: processor, memory, devices, interrupts, floating point. */
export function longModeGuest(): Uint8Array {
  const k = new Kernel64();
  mapApic(k);
  tickHandler(k);
  processor(k);
  memory(k);
  devices(k);
  floatingPoint(k);
  k.reserve('scratch', 0x2000).reserve('frames', 0x2000);
  k.data(`align 16
    ones: dd 0x3f800000, 0x40000000, 0x40400000, 0x40800000
    factor: dd 0x3f7fbe77, 0x3f7fbe77, 0x3f7fbe77, 0x3f7fbe77
    words: dq 0x1111, 0x2222
    ticks: dq 0
    text: db "string output"`);
  return k.finish().build();
}

/** Port by which a test tells `loadGuest` to stop: reads non-zero then. */
export const STOP_PORT = 0x500;

/**
 * A load of everything that a change of engines could lose: integer, x87 and SSE registers, flags, debug and segment
 * registers, page tables that change, a timer that interrupts. Each round does the same and must come to the same sum.
 */
export function loadGuest(): Uint8Array {
  const k = new Kernel64();
  mapApic(k);
  tickHandler(k);
  k.testCase(
    'load',
    `${writeMsr(msr.kernelGsBase, 'words')}
    mov rax, 0x1122334455667788
    mov dr0, rax
    fninit
    fldpi
    mov dword [apic_base+0xf0], 0x1ff
    mov dword [apic_base+0x3e0], 11
    mov dword [apic_base+0x320], ${timerVector + 0x20000}
    mov dword [apic_base+0x380], 300000
    mov dword [frames], 0x13579bdf
    mov dword [frames+0x1000], 0x2468ace0
    sti
    load$round:
    swapgs
    xor ebx, ebx
    mov r8, 0x9e3779b97f4a7c15
    mov rdi, scratch
    xorps xmm7, xmm7
    fld st0
    mov ebp, 60
    load$step:
    ; integers, flags and memory
    imul r8, r8, 0x5bd1e995
    add r8, rbp
    rol r8, 13
    pushf
    pop rax
    and eax, 0x8d5
    add rbx, rax
    mov eax, ebp
    and eax, 63
    mov [rdi+rax*8], r8
    xor rbx, [rdi+rax*8]
    push rbx
    call load$leaf
    pop rcx
    add rbx, rcx
    ; a page that changes its frame
    mov rax, frames+3
    test ebp, 1
    jz load$even
    mov rax, frames+0x1003
    load$even: mov [test_table], rax
    invlpg [${testRegion}]
    mov eax, [${testRegion}]
    add rbx, rax
    ; SSE and x87
    cvtsi2sd xmm0, ebp
    mulsd xmm0, [half]
    addsd xmm7, xmm0
    fld1
    faddp st1, st0
    dec ebp
    jnz load$step
    ; what was set long ago
    mov rax, dr0
    xor rbx, rax
    add rbx, [gs:0]
    swapgs
    mov ecx, ${msr.gsBase}
    rdmsr
    add rbx, rax
    movq rax, xmm7
    add rbx, rax
    fsub st0, st1
    fistp qword [scratch+0x800]
    add rbx, [scratch+0x800]
    cmp qword [sum], 0
    jne load$compare
    mov [sum], rbx
    load$compare: cmp [sum], rbx
    jne load$wrong
    mov edx, ${STOP_PORT}
    in al, dx
    test al, al
    jz load$round
    cli
    cmp qword [ticks], 0
    je load$silent
    ${hexOf('qword [sum]', 'qword [sum+4]')}
    jmp load$end
    load$leaf: add qword [rsp+8], 7
    ret
    load$silent: cli
    say " no ticks"
    jmp load$end
    load$wrong: cli
    say " wrong"
    load$end:`,
  );
  k.reserve('scratch', 0x1000).reserve('frames', 0x2000);
  k.data(`align 16
    half: dq 0x3fe0000000000000
    words: dq 0x77777777
    sum: dq 0
    ticks: dq 0`);
  return k.finish().build();
}

/** 32-bit code without paging: the PIC and the PIT, string instructions. */
export function protectedModeGuest(): Uint8Array {
  const k = new Kernel32();
  k.gate(0x20, { selector: code0, offset: symbol('irq0'), type: systemTypes.interruptGate, dpl: 0 });
  k.code(`jmp irq0$over
    irq0: inc dword [ticks]
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    iret
    irq0$over:`);
  k.testCase(
    'ten ticks of the PIT',
    `mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov eax, 11930
    out 0x40, al
    mov al, ah
    out 0x40, al
    mov al, 0xfe
    out 0x21, al
    pit$again: sti
    hlt
    cli
    cmp dword [ticks], 10
    jb pit$again
    mov al, 0xff
    out 0x21, al`,
  );
  k.testCase(
    'string instructions',
    `mov edi, scratch
    mov ecx, 256
    mov eax, 0x01020304
    rep stosd
    mov esi, scratch
    mov edi, scratch+0x800
    mov ecx, 512
    rep movsb
    mov esi, scratch+0x800
    xor ebx, ebx
    mov ecx, 128
    str$again: lodsd
    add ebx, eax
    loop str$again
    ${hexOf('ebx')}`,
  );
  k.testCase('bound', 'mov eax, 5\nbound eax, [limits]');
  k.testCase('invalid opcode', 'ud2');
  k.reserve('scratch', 0x1000);
  k.data('align 4\nticks: dd 0\nlimits: dd 0, 4');
  return k.finish().build();
}
