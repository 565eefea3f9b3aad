/** Checks QEMU TCG leaves out: segment limits and rights on every access, and refusals it does not make. */
import { symbol } from '../assembler/index.ts';
import { gateDescriptor, segmentDescriptor, segmentTypes, systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, code3, data3, Kernel32 } from './runtime/kernel32.ts';

const limit = 0xfff;

function dataLimits(k: Kernel32): void {
  const { gdt } = k;
  const base = symbol('scratch');
  const bytes = { base, limit, pages: false } as const;
  const up = gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.data }));
  const down = gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.dataDown, base: 0 }));
  const down16 = gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.dataDown, big: false }));
  const pages = gdt.add(segmentDescriptor({ base, limit: 1, type: segmentTypes.data }));
  const readOnly = gdt.add(segmentDescriptor({ type: segmentTypes.dataReadOnly }));
  const executeOnly = gdt.add(segmentDescriptor({ type: segmentTypes.codeExecuteOnly }));
  k.asm.equ('seg_up', up);

  const access = (name: string, selector: number, body: string): void => {
    k.testCase(name, `mov eax, ${selector}\nmov fs, eax\nmov es, eax\nmov ebx, scratch\n${body}`);
  };
  const probes: readonly (readonly [string, number, readonly number[]])[] = [
    ['limit fff', up, [0xffc, 0xffd, 0x1000, 0xffff_fffc, 0xffff_ffff]],
    ['limit in pages', pages, [0x1ffc, 0x1ffd, 0x2000]],
    ['expand-down', down, [0x0, 0xfff, 0xffd, 0x1000, 0x10_0000]],
    ['expand-down, 16-bit', down16, [0xfff, 0x1000, 0xfffc, 0xfffd, 0x1_0000]],
  ];
  for (const [name, selector, offsets] of probes) {
    for (const offset of offsets) {
      access(`${name}: read at ${offset.toString(16)}`, selector, `mov eax, [fs:${offset}]`);
    }
  }
  for (const [name, instruction] of [
    ['byte at the limit', 'mov al, [fs:0xfff]'],
    ['word across the limit', 'mov ax, [fs:0xfff]'],
    ['write across the limit', 'mov [fs:0xffe], eax'],
    ['qword across the limit', 'fild qword [fs:0xffc]'],
    ['16 bytes across the limit', 'movups xmm0, [fs:0xff1]'],
    ['cmpxchg8b across the limit', 'cmpxchg8b [fs:0xffc]'],
    ['far pointer across the limit', 'lgs eax, [fs:0xffc]'],
    ['bt far beyond the limit', 'mov eax, 0x8000\nbt [fs:0xff0], eax'],
    ['bt below', 'mov eax, -32\nbt [fs:0xff0], eax'],
    ['stosd beyond the limit', 'mov edi, 0x1000\nstosd'],
    ['lea beyond the limit', 'lea eax, [fs:0x1000]'],
    ['sgdt across the limit', 'sgdt [fs:0xffc]'],
    ['fxsave across the limit', 'fxsave [fs:0xf00]'],
  ] as const) {
    access(name, up, instruction);
  }
  k.testCase(
    'rep movsb stops at the limit',
    `
    mov eax, ${up}
    mov es, eax
    mov dword [hooks+13*4], limits$look
    mov esi, scratch
    mov edi, 0xffa
    mov ecx, 16
    rep movsb
    limits$look:
    mov dword [hooks+13*4], 0
    say " ecx "
    hex dword [esp+40], 4
    say " edi "
    hex dword [esp+16], 4
    mov eax, [esp+20]
    sub eax, scratch
    say " esi "
    hex eax, 4
    mov esp, [case_esp]`,
  );
  access('write through read-only fs', readOnly, 'mov eax, [fs:ebx]\nmov [fs:ebx], eax');
  access('read-modify-write through read-only fs', readOnly, 'inc dword [fs:ebx]');
  access('stosd to read-only es', readOnly, 'mov edi, ebx\nstosd');
  k.testCase('write through cs', 'mov [cs:scratch], eax');
  k.testCase('read through cs', 'mov eax, [cs:scratch]');
  k.testCase(
    'read through execute-only cs',
    `
    jmp ${executeOnly}:limits$execute_only
    limits$execute_only:
    mov eax, [cs:scratch]`,
  );
  k.testCase('read through null ds', 'xor eax, eax\nmov ds, eax\nmov eax, [0x100000]');
  k.testCase('write through null es', 'mov eax, 3\nmov es, eax\nmov edi, scratch\nstosd');
  k.testCase(
    'fs after a failed load is as before',
    `
    mov dword [scratch+16], 0x600df5
    mov eax, ${up}
    mov fs, eax
    mov dword [hooks+13*4], limits$after
    mov eax, 0xfff8
    mov fs, eax
    limits$after:
    mov dword [hooks+13*4], 0
    mov esp, [case_esp]
    mov eax, [fs:16]
    say " "
    hex eax`,
  );
}

function stackLimits(k: Kernel32): void {
  const { gdt } = k;
  const bytes = { base: symbol('scratch'), limit, pages: false, dpl: 3 } as const;
  const up = gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.data })) | 3;
  const down = gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.dataDown, base: 0 })) | 3;
  const small =
    gdt.add(segmentDescriptor({ ...bytes, type: segmentTypes.data, limit: 0xffff, big: false })) | 3;
  const onStack = (name: string, selector: number, esp: number, body: string): void => {
    k.testCase(`ring 3 stack, ${name}`, () => {
      k.user(`mov eax, ${selector}\nmov ss, eax\nmov esp, ${esp}\n${body}\nmov ebx, esp`);
      k.code('say " esp "\nhex ebx');
    });
  };
  onStack('push at the limit', up, limit + 1, 'push eax');
  onStack('push beyond the limit', up, limit + 3, 'push eax');
  onStack('push at 0', up, 0, 'push eax');
  onStack('push word at 2', up, 2, 'push ax');
  onStack('pop at the limit', up, limit - 3, 'pop eax');
  onStack('pop across the limit', up, limit - 2, 'pop eax');
  onStack('call at 0', up, 0, 'call limits$nowhere\nlimits$nowhere:');
  onStack('pushad that does not fit', up, 16, 'pushad');
  onStack('popad across the limit', up, limit - 15, 'popad');
  onStack('enter beyond', up, limit + 0x101, 'enter 8, 0');
  onStack('ret across the limit', up, limit - 1, 'ret');
  onStack('iret across the limit', up, limit - 7, 'iret');
  onStack('mov by ebp beyond the limit', up, 16, 'mov ebp, 0x1000\nmov eax, [ebp]');
  onStack('mov by esp and an index', up, 16, 'mov ecx, 0x1000\nmov eax, [esp+ecx]');
  onStack('mov by ebp through ds', up, 16, 'mov ebp, scratch\nmov eax, [ds:ebp+0x1000]');
  onStack('expand-down, push at 1004', down, 0x1004, 'push eax\npop eax');
  onStack('expand-down, push at 1003', down, 0x1003, 'push eax');
  onStack('16-bit, push at 0 wraps', small, 0x1234_0000, 'push eax\npop ecx');
  onStack('16-bit, push leaves the high half of esp', small, 0x1234_0100, 'push eax');
  onStack('16-bit, push across the end', small, 2, 'push eax');
  onStack('16-bit, pop at fffe', small, 0xfffe, 'pop ax');
  onStack('16-bit, pop across the end', small, 0xfffe, 'pop eax');
}

function codeLimits(k: Kernel32): void {
  const { gdt } = k;
  const small = gdt.add(
    segmentDescriptor({ type: segmentTypes.code, base: symbol('small_code'), limit: 0xff, pages: false }),
  );
  const smallUser = gdt.add(
    segmentDescriptor({
      type: segmentTypes.code,
      base: symbol('small_code'),
      limit: 0xff,
      pages: false,
      dpl: 3,
    }),
  );
  const callGate = gdt.add(
    gateDescriptor({ selector: small, offset: 0x100, type: systemTypes.callGate, dpl: 3 }),
  );
  // The last bytes of the segment, one place a multiple of 16 for each way to leave it.
  k.data(`
    align 16
    small_code:
      jmp near small_code+0x100
      align 16
      call small_code+0x1000
      align 16
      mov eax, 0x100
      jmp eax
      align 16
      push 0x100
      ret
      align 16
      jz near small_code+0x100
      align 16
      mov eax, 0x12345678
      jmp near small_code+0xff
      align 16
      jmp near small_code+0xfd
      align 16
      push 0x200
      push ${small}
      push 0x100
      retf
      align 16
      call dword [cs:small_code$target-small_code]
      small_code$target: dd 0x100
      align 16
      space 0x60
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      nop
      mov eax, 0x90909090
      nop
      nop`);
  const ways: readonly (readonly [string, number])[] = [
    ['near jmp beyond', 0x00],
    ['near call beyond', 0x10],
    ['jmp by register beyond', 0x20],
    ['ret beyond', 0x30],
    ['jz beyond, taken', 0x40],
    ['instruction at the last byte', 0x50],
    ['instruction across the limit', 0x60],
    ['retf beyond', 0x70],
    ['call by memory beyond', 0x80],
    ['running off the end', 0xfb],
  ];
  k.code(`
    jmp codelimits$over
    small_report:
      say " error "
      hex dword [esp+52], 4
      say " eip "
      mov eax, [esp+56]
      cmp dword [esp+60], ${small}
      jz small_report$inside
      sub eax, [case_base]
      say "+"
    small_report$inside:
      hex eax, 4
      test dword [esp+60], 3
      jnz small_report$user
      say " esp "
      mov eax, [case_esp]
      sub eax, esp
      hex eax, 4
    small_report$user:
      mov esp, [case_esp]
      jmp dword [case_resume]
    codelimits$over:
      mov dword [hooks+13*4], small_report`);
  for (const [name, offset] of ways)
    k.testCase(`small code segment: ${name}`, `xor eax, eax\njmp ${small}:${offset}`);
  k.testCase('small code segment: jmp far beyond', `jmp ${small}:0x100`);
  k.testCase('small code segment: call far beyond', `call ${small}:0x100`);
  k.testCase('small code segment: retf beyond, from outside', `push ${small}\npush 0x100\nretf`);
  k.testCase('small code segment: iret beyond', `push 2\npush ${small}\npush 0x100\niret`);
  k.testCase(
    'small code segment: iret to ring 3 beyond',
    `
    push ${data3}
    push user_stack_top
    push 2
    push ${smallUser | 3}
    push 0x100
    iret`,
  );
  k.testCase('small code segment: call gate beyond', () => k.user(`call ${callGate | 3}:0`));
  k.testCase('small code segment: jmp call gate in ring 0', `jmp ${callGate}:0`);
  k.gate(0x31, { selector: small, offset: 0x100, type: systemTypes.interruptGate });
  k.testCase('small code segment: int gate beyond', 'int 0x31');
  k.code('mov dword [hooks+13*4], 0');
}

function refusals(k: Kernel32): void {
  const cr = (register: string, set: string): string =>
    `mov eax, ${register}\nor eax, ${set}\nmov ${register}, eax`;
  k.testCase('ltr null', 'xor eax, eax\nltr ax');
  k.testCase('paging without protection', 'mov eax, 0x80000000\nmov cr0, eax');
  k.testCase('NW without CD', 'mov eax, cr0\nor eax, 0x20000000\nand eax, ~0x40000000\nmov cr0, eax');
  k.testCase('CR4 reserved bits', cr('cr4', '0x80000000'));
  k.testCase('EFER reserved bits', 'mov ecx, 0xc0000080\nrdmsr\nor eax, 0x2\nwrmsr');
  k.testCase('rdmsr of no MSR', 'mov ecx, 0x12345\nrdmsr');
  k.testCase('wrmsr of no MSR', 'mov ecx, 0x12345\nxor eax, eax\nxor edx, edx\nwrmsr');
  k.testCase('lock mov', 'lock_mov: db 0xf0, 0x89, 0x05\ndd scratch');
  k.testCase('sldt with lock', 'db 0xf0, 0x0f, 0x00, 0xc0');
  k.testCase('c6 /1', 'mov eax, scratch\ndb 0xc6, 0x08, 0x00');
  k.testCase('c7 /1', 'mov eax, scratch\ndb 0xc7, 0x08, 0, 0, 0, 0');
  k.testCase('int1', 'mov dword [resume_mode], 1\ndb 0xf1\nnop');
  for (const [name, body] of [
    ['emms, TS', 'or eax, 8\nmov cr0, eax\nemms'],
    ['emms, EM', 'or eax, 4\nmov cr0, eax\nemms'],
    ['movaps, EM and TS', 'or eax, 12\nmov cr0, eax\nmovaps xmm0, xmm1'],
    ['ldmxcsr, EM and TS', 'or eax, 12\nmov cr0, eax\nldmxcsr [mxcsr]'],
    ['paddd mm, EM', 'or eax, 4\nmov cr0, eax\npaddd mm0, mm1'],
  ] as const) {
    k.testCase(name, `mov eax, cr0\nand eax, ~14\n${body}`);
  }
  k.code('mov eax, cr0\nand eax, ~14\nmov cr0, eax');
  k.testCase('ldmxcsr with reserved bits', 'ldmxcsr [mxcsr_reserved]');
  k.testCase(
    'fxrstor with reserved MXCSR bits',
    `
    fxsave [scratch]
    mov dword [scratch+24], 0x10000
    fxrstor [scratch]`,
  );
}

function virtualMode(k: Kernel32): void {
  const vm = 0x2_0000;
  k.testCase('iret with VM from ring 3 stays there', () => {
    k.user(`
      push 0
      push 0
      push 0
      push 0
      push ${data3}
      push user_stack_top
      push ${vm | 2}
      push ${code3}
      push stayed
      iret
      stayed:
      mov eax, cs
      pushf
      pop ebx`);
    k.code('say " cs "\nhex eax, 4\nsay " flags "\nhex ebx');
  });
}

function alignment(k: Kernel32): void {
  const am = 0x4_0000;
  const ac = 0x4_0000;
  k.code(`mov eax, cr0\nor eax, ${am}\nmov cr0, eax`);
  const bodies: readonly (readonly [string, string])[] = [
    ['dword', 'mov eax, [scratch+2]'],
    ['aligned dword', 'mov eax, [scratch+4]'],
    ['word', 'mov ax, [scratch+1]'],
    ['byte', 'mov al, [scratch+1]'],
    ['write', 'mov [scratch+1], eax'],
    ['qword of the FPU, aligned to 4', 'fld qword [scratch+4]'],
    ['push', 'mov esp, user_stack_top-2\npush eax'],
    ['movsd', 'mov esi, scratch+1\nmov edi, scratch+64\nmovsd'],
    ['far pointer', 'les eax, [scratch+2]'],
  ];
  for (const [name, body] of bodies) {
    k.testCase(`AC: ${name}`, () => k.user(body, ac | 2));
  }
  k.testCase('AC clear: dword', () => k.user('mov eax, [scratch+2]'));
  k.testCase('AC in ring 0: dword', `push ${ac | 2}\npopf\nmov eax, [scratch+2]`);
  k.code(`mov eax, cr0\nand eax, ~${am}\nmov cr0, eax`);
  k.testCase('AM clear: dword', () => k.user('mov eax, [scratch+2]', ac | 2));
}

function build(): Uint8Array {
  const k = new Kernel32();
  k.code(`
    mov eax, cr0
    and eax, ~14
    or eax, 0x20
    mov cr0, eax
    mov eax, 0x200
    mov cr4, eax
    fninit`);
  dataLimits(k);
  stackLimits(k);
  codeLimits(k);
  refusals(k);
  virtualMode(k);
  alignment(k);
  k.testCase('back to normal', `jmp ${code0}:normal\nnormal:`);
  k.reserve('scratch', 0x1_1000);
  k.data('align 4\nmxcsr: dd 0x1f80\nmxcsr_reserved: dd 0x11f80');
  return k.finish().build();
}

export const limits: SystemGuest = {
  name: 'limits',
  subject: 'segment limits and rights, CS limit, alignment checks, refused control bits and encodings',
  expectation: { from: 'sdm', because: 'QEMU TCG checks none of them' },
  build,
};
