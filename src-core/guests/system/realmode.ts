/** Real mode, reached from a Multiboot start: the IVT, segments, addresses, A20, and the way into it and out. */
import { add, symbol } from '../assembler/index.ts';
import { segmentDescriptor, segmentTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { exceptionNames } from './runtime/kernel.ts';
import { Program } from './runtime/program.ts';

/** Real-mode segments of the code, of its stack and of data to play with; all below 640 KiB. */
const codeSegment = 0x1000;
const stackSegment = 0x3000;
const dataSegment = 0x4000;

/** Entries of the interrupt vector table. */
const vectorCount = 256;

const code32 = 0x08;
const data32 = 0x10;
const code16 = 0x18;
const data16 = 0x20;

class RealMode extends Program {
  /** As the kernels' test cases; an interrupt is told by vector, CS and IP relative to the first instruction. */
  testCase(name: string, body: string): this {
    const base = this.unique('real');
    const resume = this.unique('realresume');
    return this.say(`${name}:`).code(`
      mov [cs:real$sp], sp
      mov word [cs:real$resume], ${resume}
      mov word [cs:real$base], ${base}
      ${base}:
      ${body}
      say " ok"
      ${resume}:
      cld
      mov ax, ${stackSegment}
      mov ss, ax
      mov sp, [cs:real$sp]
      mov ax, ${dataSegment}
      mov ds, ax
      mov es, ax
      push 2
      popf
      say "\\n"`);
  }
}

function enter(k: RealMode): void {
  const gdt = [
    ...segmentDescriptor({ type: 0, codeOrData: false, present: false, limit: 0, big: false, pages: false }),
    ...segmentDescriptor({ type: segmentTypes.code }),
    ...segmentDescriptor({ type: segmentTypes.data }),
    ...segmentDescriptor({
      type: segmentTypes.code,
      base: codeSegment * 16,
      limit: 0xffff,
      big: false,
      pages: false,
    }),
    ...segmentDescriptor({ type: segmentTypes.data, limit: 0xffff, big: false, pages: false }),
  ];
  k.code(`
    start:
      cli
      cld
      mov al, 0xff
      out 0x21, al
      out 0xa1, al
      lgdt [gdt_pointer]
      mov eax, ${data32}
      mov ds, eax
      mov es, eax
      mov ss, eax
      mov esp, 0x9000
      mov esi, real$image
      mov edi, ${codeSegment * 16}
      mov ecx, real$size
      rep movsb
      mov esi, real$table_of_vectors
      xor edi, edi
      mov ecx, 256
      rep movsd
      jmp ${code16}:real$protected
    gdt_pointer: dw ${gdt.length * 4 - 1}
      dd gdt
    gdt:`);
  k.asm.dd(...gdt);
  k.code(`
    align 16
    real$image:
    phase 0
    bits 16
    real$protected:
      mov ax, ${data16}
      mov ds, ax
      mov es, ax
      mov fs, ax
      mov gs, ax
      mov ss, ax
      lidt [cs:real$ivt]
      mov eax, cr0
      and al, 0xfe
      mov cr0, eax
      jmp ${codeSegment}:real$begin
    real$ivt: dw 0x3ff
      dd 0
    real$sp: dw 0
    real$resume: dw 0
    real$base: dw 0
    real$gdt: dw ${gdt.length * 4 - 1}
      dd gdt
    real$far: retf
    real$bytes: db 1, 2, 3`);
  for (let vector = 0; vector < vectorCount; vector++) {
    k.code(`real$vector${vector}:\npush ${vector > 127 ? vector - 256 : vector}\njmp real$report`);
  }
}

function vectors(k: RealMode): void {
  // The handler finds vector, IP, CS and flags on the stack.
  k.code(`
    real$report:
      push bp
      mov bp, sp
      pusha
      push ds
      say " "
      mov ax, cs
      mov ds, ax
      mov bx, [bp+2]
      and bx, 0xff
      cmp bx, ${exceptionNames.length}
      jae real$interrupt
      shl bx, 1
      mov si, [bx+real$names]
    real$name:
      lodsb
      test al, al
      jz real$named
      out 0xe9, al
      jmp real$name
    real$interrupt:
      say "int"
      hex bx, 2
    real$named:
      say " ip="
      mov ax, [bp+4]
      cmp word [bp+6], ${codeSegment}
      jnz real$elsewhere
      sub ax, [cs:real$base]
      say "+"
    real$elsewhere:
      hex ax, 4
      cmp word [bp+6], ${codeSegment}
      jz real$same
      say " cs="
      hex word [bp+6], 4
    real$same:
      say " flags="
      mov ax, [bp+8]
      and ax, 0x0f00
      hex ax, 4
      pushf
      pop ax
      and ax, 0x0f00
      say " inside="
      hex ax, 4
      mov ax, ${stackSegment}
      mov ss, ax
      mov sp, [cs:real$sp]
      jmp word [cs:real$resume]`);
  k.asm.label('real$names');
  for (const name of exceptionNames) k.code(`dw real$name$${name.replace('#', '')}`);
  for (const name of exceptionNames)
    k.asm
      .label(`real$name$${name.replace('#', '')}`)
      .ascii(name)
      .db(0);
  k.code(`
    real$begin:
      mov ax, ${stackSegment}
      mov ss, ax
      mov sp, 0x1000
      mov ax, ${dataSegment}
      mov ds, ax
      mov es, ax`);
}

function interrupts(k: RealMode): void {
  for (const [name, body] of [
    ['int 0x21', 'int 0x21'],
    ['int 0xff', 'int 0xff'],
    ['int3', 'int3'],
    ['div by zero', 'xor cx, cx\ndiv cx'],
    ['div overflow', 'mov dx, 5\nmov cx, 5\ndiv cx'],
    ['into', 'mov ax, 0x7fff\ninc ax\ninto'],
    ['into, no overflow', 'xor ax, ax\ninto'],
    ['bound', 'mov word [0], 1\nmov word [2], 5\nmov ax, 6\nbound ax, [0]'],
    ['ud2', 'ud2'],
    ['aam 0', 'aam 0'],
    ['with IF, TF and DF set', 'push 0x0702\npopf\nint 0x40'],
    ['lldt', 'lldt ax'],
    ['ltr', 'ltr ax'],
    ['lar', 'lar ax, bx'],
    ['verr', 'verr ax'],
    ['arpl', 'db 0x63, 0xc0'],
    ['sldt', 'sldt ax'],
    ['str', 'str ax'],
    ['lock nop', 'db 0xf0, 0x90'],
    ['mov cs', 'db 0x8e, 0xc8'],
  ] as const) {
    k.testCase(name, body);
  }
  k.testCase(
    'own vector',
    `
    xor ax, ax
    mov fs, ax
    mov word [fs:0x60*4], own$handler
    mov [fs:0x60*4+2], cs
    mov bx, sp
    stc
    int 0x60
    jc own$carry
    say " carry lost"
    own$carry:
    sub bx, sp
    say " sp moved "
    hex bx, 2
    jmp own$over
    own$handler:
    mov bp, sp
    mov cx, bx
    sub cx, sp
    say " frame "
    hex cx, 2
    iret
    own$over:`,
  );
  k.testCase(
    'a moved table',
    `
    xor ax, ax
    mov fs, ax
    mov di, 0x200
    mov dword [di+0x61*4], ${codeSegment << 16}+moved$handler
    lidt [cs:moved$pointer]
    int 0x61
    jmp moved$over
    moved$pointer: dw 0x3ff
    dd ${dataSegment * 16 + 0x200}
    moved$handler:
    say " moved"
    iret
    moved$over:
    lidt [cs:real$ivt]`,
  );
  k.testCase('sti is held off, then nothing comes', 'sti\nnop\ncli');
  k.testCase(
    'single step',
    `
    xor ax, ax
    mov fs, ax
    mov word [fs:4], step$handler
    push 0x102
    popf
    nop
    nop
    push 2
    popf
    jmp step$over
    step$handler:
    push bp
    mov bp, sp
    push ax
    mov ax, [bp+2]
    sub ax, [cs:real$base]
    say " +"
    hex ax, 2
    pop ax
    pop bp
    iret
    step$over:
    mov word [fs:4], real$vector1`,
  );
}

function addressing(k: RealMode): void {
  const show = 'say " "\nhex ax, 4\nsay " "\nhex bx, 4';
  for (const [name, body] of [
    ['segment times 16', 'mov word [0x10], 0x1234\nmov ax, 0x4001\nmov fs, ax\nmov ax, [fs:0]\nmov bx, fs'],
    ['offsets wrap', 'mov word [2], 0x7777\nmov bx, 0xfff0\nmov ax, [bx+0x12]'],
    [
      'push wraps',
      'mov bx, sp\nxor sp, sp\npush 0x4321\nmov cx, sp\nmov sp, bx\nmov fs, cx\nmov ax, ss\nmov fs, ax\nmov ax, [fs:0xfffe]\nmov bx, cx',
    ],
    ['far call and ret', `mov bx, sp\ncall ${codeSegment}:real$far\nsub bx, sp\nmov ax, 0x600d`],
    [
      'far jump to an alias of the segment',
      `jmp ${codeSegment - 1}:real$alias+16\nreal$alias: mov ax, cs\njmp ${codeSegment}:real$alias2\nreal$alias2: mov bx, cs`,
    ],
    [
      '32-bit operands',
      'mov eax, 0x89abcdef\nmov [4], eax\nadd dword [4], 0x11111111\nmov ax, [4]\nmov bx, [6]',
    ],
    ['32-bit addresses', 'mov word [0x44], 0x5151\nmov ecx, 0x40\nmov ax, [ecx+4]\nmov bx, [ecx*1+4]'],
    [
      'string move',
      'mov dword [0x50], 0x44332211\nmov si, 0x50\nmov di, 0x60\nmov cx, 4\nrep movsb\nmov ax, [0x60]\nmov bx, [0x62]',
    ],
    [
      'string wraps',
      'mov byte [0xffff], 0x11\nmov byte [0], 0x22\nmov si, 0xffff\nmov di, 0x70\nmov cx, 2\nrep movsb\nmov ax, [0x70]\nmov bx, si',
    ],
    [
      'loop and jcxz',
      'mov cx, 5\nxor ax, ax\nreal$loop: inc ax\nloop real$loop\njcxz real$loop2\nmov ax, 0xbad\nreal$loop2: mov bx, cx',
    ],
    ['enter and leave', 'mov bp, 0x3333\nmov bx, sp\nenter 16, 1\nleave\nsub bx, sp\nmov ax, bp'],
    ['pusha and popa', 'mov ax, 0x1111\nmov bx, 0x2222\npusha\nxor ax, ax\nxor bx, bx\npopa'],
    ['pushad', 'mov cx, sp\npushad\nmov bx, sp\npopad\nsub cx, bx\nmov ax, cx\nxor bx, bx'],
    [
      'lds',
      'mov dword [0x80], 0x40020010\nmov word [0x30], 0x9a9a\nlds si, [0x80]\nmov ax, [si]\nmov bx, ds',
    ],
    ['xlat and cs prefix', 'mov bx, real$bytes\nmov al, 2\ncs xlatb\nxor ah, ah\nxor bx, bx'],
    ['imul, shld, bsf', 'mov ax, 300\nimul ax, ax, 7\nmov bx, 0x1230\nshld ax, bx, 4\nbsf bx, bx'],
    ['smsw', 'smsw ax\nand ax, 1\nxor bx, bx'],
    ['pushf keeps what popf set', 'push 0x7ed5\npopf\npushf\npop ax\ncld\ncli\nxor bx, bx'],
  ] as const) {
    k.testCase(name, `${body}\n${show}`);
  }
  k.testCase(
    'above 1 MiB with A20',
    `
    mov ax, 0xffff
    mov fs, ax
    xor ax, ax
    mov gs, ax
    in al, 0x92
    or al, 2
    out 0x92, al
    mov word [gs:0x500], 0x1111
    mov word [fs:0x510], 0x2222
    mov ax, [gs:0x500]
    say " "
    hex ax, 4
    in al, 0x92
    and al, 0xfd
    out 0x92, al
    mov ax, [fs:0x510]
    say " "
    hex ax, 4
    mov word [fs:0x510], 0x3333
    mov ax, [gs:0x500]
    say " "
    hex ax, 4
    in al, 0x92
    or al, 2
    out 0x92, al
    mov ax, [fs:0x510]
    say " "
    hex ax, 4`,
  );
}

function modes(k: RealMode): void {
  k.testCase(
    'to protected mode and back',
    `
    lgdt_m1632 [cs:real$gdt]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    o32 jmp ${code32}:real$flat+${codeSegment * 16}
    bits 32
    real$flat:
    mov eax, ${data32}
    mov ds, eax
    mov ebx, [0x100000]
    mov eax, ${data16}
    mov ds, eax
    jmp ${code16}:real$narrow
    bits 16
    real$narrow:
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp ${codeSegment}:real$again
    real$again:
    mov ax, ${stackSegment}
    mov ss, ax
    say " "
    hex bx, 4`,
  );
  k.testCase(
    'lmsw enters protected mode, not leaves it',
    `
    smsw ax
    or ax, 1
    lmsw ax
    jmp real$lmsw
    real$lmsw:
    and ax, 0xfffe
    lmsw ax
    smsw bx
    and bx, 1
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp ${codeSegment}:real$lmsw2
    real$lmsw2:
    say " "
    hex bx, 1`,
  );
  k.testCase(
    'limits stay as they were loaded',
    `
    lgdt_m1632 [cs:real$gdt]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, ${data32}
    mov fs, bx
    and al, 0xfe
    mov cr0, eax
    jmp ${codeSegment}:real$unreal
    real$unreal:
    mov ebx, 0x100000
    mov ax, [fs:ebx]
    say " "
    hex ax, 4
    xor ax, ax
    mov fs, ax
    mov ax, [fs:ebx]
    say " "
    hex ax, 4`,
  );
}

function build(): Uint8Array {
  const k = new RealMode();
  enter(k);
  vectors(k);
  interrupts(k);
  addressing(k);
  modes(k);
  k.code(`
    say "end\\n"
    exit 42
    real$size:
    dephase
    bits 32
    align 4
    real$table_of_vectors:`);
  for (let vector = 0; vector < vectorCount; vector++) {
    k.asm.dd(add(codeSegment * 0x1_0000, symbol(`real$vector${vector}`)));
  }
  return k.build();
}

export const realMode: SystemGuest = {
  name: 'real-mode',
  subject: 'real mode from a Multiboot start: IVT, segments, A20, big real mode, and back',
  expectation: { from: 'qemu' },
  build,
};
