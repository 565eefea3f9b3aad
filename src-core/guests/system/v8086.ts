/** Virtual-8086 mode: entry by IRET, what is sensitive to IOPL, interrupts and their frames, segments. */
import { symbol } from '../assembler/index.ts';
import { segmentDescriptor, segmentTypes, systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, code3, data0, Kernel32 } from './runtime/kernel32.ts';

/** EFLAGS.VM and the IOPL field. */
const vm = 0x2_0000;
const iopl = (level: number): number => level << 12;

/** Real-mode segment of the virtual-8086 code, and of its stack and data. */
const codeSegment = 0x1000;
const dataSegment = 0x2000;
const stackTop = 0x1000;

/** Collects 16-bit code into one block, copied below 1 MiB before the cases run. */
class VirtualMachine {
  readonly #kernel: Kernel32;
  readonly #bodies: string[] = [];

  constructor(kernel: Kernel32) {
    this.#kernel = kernel;
  }

  /** Adds 16-bit code that ends with INT3, which leaves virtual-8086 mode; its label. */
  body(text: string): string {
    const label = this.#kernel.unique('v86');
    this.#bodies.push(`${label}:\n${text}\nint3`);
    return label;
  }

  /** Enters virtual-8086 mode at a label; goes on in ring 0 when INT3 is met. Registers are the guest's then. */
  enter(label: string, flags: number): void {
    const back = this.#kernel.unique('v86back');
    this.#kernel.code(`
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], ${back}
      push 0x6000
      push 0x5000
      push ${dataSegment}
      push 0x4000
      push ${dataSegment}
      push ${stackTop}
      push ${vm | 2 | flags}
      push ${codeSegment}
      push ${label}
      iret
      ${back}:`);
  }

  /** A test case of one body. */
  testCase(name: string, text: string, flags: number, after = ''): void {
    const label = this.body(text);
    this.#kernel.testCase(name, () => {
      this.enter(label, flags);
      this.#kernel.code(after);
    });
  }

  emit(): void {
    this.#kernel.data(`
      align 16
      v86_image:
      phase 0
      bits 16
      ${this.#bodies.join('\n')}
      v86_far: retf
      v86_image_size:
      dephase
      bits 32`);
  }
}

function sensitive(k: Kernel32, v: VirtualMachine): void {
  const instructions: readonly (readonly [string, string])[] = [
    ['cli', 'cli'],
    ['sti', 'sti'],
    ['pushf', 'pushf\npop ax'],
    ['pushfd', 'pushfd\npop eax'],
    ['popf', 'push 2\npopf'],
    ['popfd', 'o32 push 2\npopfd'],
    ['int 0x21', 'int 0x21'],
    ['int 3 in two bytes', 'db 0xcd, 3'],
    ['iret', 'push 2\npush cs\npush v86$iret_here\niret\nv86$iret_here: nop'],
    ['in', 'in al, 0x60'],
    ['out', 'out 0xe9, al'],
    ['hlt', 'hlt'],
  ];
  for (const level of [0, 3]) {
    for (const [name, text] of instructions) {
      const unique = text.replaceAll('v86$iret_here', k.unique('v86$iret'));
      v.testCase(`IOPL ${level}: ${name}`, unique, iopl(level));
    }
  }
  v.testCase(
    'IOPL 3: what pushf shows',
    'sti\npushf\ncli\npushfd\npop eax\npop bx',
    iopl(3),
    'say " "\nhex eax\nsay " "\nhex ebx, 4',
  );
  v.testCase(
    'IOPL 3: popf leaves IOPL, changes IF',
    'push 0x0246\npopf\npushfd\npop eax\ncli',
    iopl(3),
    'say " "\nhex eax',
  );
  v.testCase(
    'IOPL 3: popfd leaves VM and IOPL',
    'o32 push 0x40cd5\npopfd\npushfd\npop eax\npushw 2\npopf',
    iopl(3),
    'say " "\nhex eax',
  );
  v.testCase(
    'IOPL 3: iretd leaves VM and IOPL',
    'o32 push 0x0cd5\no32 push 0x1000\no32 push v86$iretd\niretd\nv86$iretd: pushfd\npop eax\npushw 2\npopf',
    iopl(3),
    'say " "\nhex eax',
  );
}

function privileged(v: VirtualMachine): void {
  const instructions: readonly (readonly [string, string])[] = [
    ['mov from cr0', 'mov eax, cr0'],
    ['mov to cr3', 'mov cr3, eax'],
    ['mov from dr7', 'mov eax, dr7'],
    ['lgdt', 'lgdt [0]'],
    ['lidt', 'lidt [0]'],
    ['lmsw', 'lmsw ax'],
    ['clts', 'clts'],
    ['invd', 'invd'],
    ['wbinvd', 'wbinvd'],
    ['invlpg', 'invlpg [0]'],
    ['rdmsr', 'rdmsr'],
    ['wrmsr', 'wrmsr'],
    ['sldt', 'sldt ax'],
    ['str', 'str ax'],
    ['lldt', 'lldt ax'],
    ['ltr', 'ltr ax'],
    ['verr', 'verr ax'],
    ['verw', 'verw ax'],
    ['lar', 'lar ax, bx'],
    ['lsl', 'lsl ax, bx'],
    ['arpl', 'db 0x63, 0xc0'],
    ['sysexit', 'sysexit'],
    ['ud2', 'ud2'],
    ['div by zero', 'xor cx, cx\ndiv cx'],
    ['into', 'mov ax, 0x7fff\ninc ax\ninto'],
    ['bound', 'mov word [0x100], 1\nmov word [0x102], 2\nmov ax, 3\nbound ax, [0x100]'],
  ];
  for (const [name, text] of instructions) v.testCase(`not in v86: ${name}`, text, iopl(3));
  v.testCase('smsw is allowed', 'smsw ax\nand eax, 1', 0, 'say " "\nhex eax');
  v.testCase('sgdt is allowed', 'sgdt [0x200]\nmov eax, [0x202]', 0, 'sub eax, gdt\nsay " "\nhex eax');
}

function ports(k: Kernel32, v: VirtualMachine): void {
  const out = v.body("mov al, '!'\nout 0xe9, al");
  const allow = (on: boolean): string =>
    `${on ? 'and' : 'or'} byte [io_bitmap+${0xe9 >> 3}], ${on ? 0xfd : 2}`;
  for (const level of [0, 3]) {
    k.testCase(`IOPL ${level}: out, allowed by the bitmap`, () => {
      k.code(allow(true));
      v.enter(out, iopl(level));
    });
    k.code(allow(false));
    k.testCase(`IOPL ${level}: out, not allowed`, () => v.enter(out, iopl(level)));
  }
}

function frames(k: Kernel32, v: VirtualMachine): void {
  k.gate(0x31, { selector: code0, offset: symbol('v86_frame'), type: systemTypes.interruptGate, dpl: 3 });
  k.gate(0x32, { selector: code3, offset: symbol('v86_frame'), type: systemTypes.interruptGate, dpl: 3 });
  k.gate(0x33, {
    selector: symbol('conforming'),
    offset: symbol('v86_frame'),
    type: systemTypes.interruptGate,
    dpl: 3,
  });
  k.gate(0x34, { selector: code0, offset: symbol('v86_frame'), type: systemTypes.interruptGate, dpl: 0 });
  k.code(`
    jmp v86frames$over
    v86_frame:
      mov eax, ds
      shl eax, 16
      mov ax, es
      mov ebx, fs
      shl ebx, 16
      mov bx, gs
      mov ecx, ${data0}
      mov ds, ecx
      mov es, ecx
      say " data segments inside "
      hex eax
      say " "
      hex ebx
      say " frame "
      mov eax, ring0_stack_top
      sub eax, esp
      hex eax, 2`);
  for (const [name, offset] of [
    ['cs', 4],
    ['flags', 8],
    ['esp', 12],
    ['ss', 16],
    ['es', 20],
    ['ds', 24],
    ['fs', 28],
    ['gs', 32],
  ] as const) {
    k.code(`say " ${name} "\nhex dword [esp+${offset}]`);
  }
  k.code('iret\nv86frames$over:');
  v.testCase(
    'int with a frame',
    'push 1\npush 2\nint 0x31\nmov ax, ds\nmov bx, ss\nmov cx, gs',
    iopl(3),
    'say " back "\nhex eax, 4\nsay " "\nhex ebx, 4\nsay " "\nhex ecx, 4',
  );
  v.testCase(
    'int, IF and AC set',
    'sti\npushfd\npop eax\nor eax, 0x40000\npush eax\npopfd\nint 0x31\npushw 2\npopf',
    iopl(3),
  );
  v.testCase('int to a gate of ring 3 code', 'int 0x32', iopl(3));
  v.testCase('int to a gate of conforming code', 'int 0x33', iopl(3));
  v.testCase('int to a gate of DPL 0', 'int 0x34', iopl(3));
  v.testCase('int beyond the IDT', 'int 0x99', iopl(3));
  v.testCase('int3', '', 0);
}

function segmentsAndFlow(v: VirtualMachine): void {
  const show = 'say " "\nhex eax\nsay " "\nhex ebx';
  v.testCase(
    'segments are paragraphs',
    'mov word [0x10], 0x1234\nmov ax, 0x2001\nmov fs, ax\nmovzx eax, word [fs:0]\nxor ebx, ebx\nmov bx, fs',
    0,
    show,
  );
  v.testCase(
    'any value loads',
    'mov ax, 0xffff\nmov fs, ax\nxor ax, ax\nmov gs, ax\nxor eax, eax\nmov ax, fs\nxor ebx, ebx\nmov bx, gs',
    0,
    show,
  );
  v.testCase(
    'mov ss and push',
    'mov ax, 0x2010\nmov ss, ax\nmov sp, 0x20\npush 0x5678\nmovzx eax, word [0x11e]\nxor ebx, ebx\nmov bx, sp',
    0,
    show,
  );
  v.testCase(
    'push wraps at 64 KiB',
    'xor sp, sp\npush 0x4321\nxor eax, eax\nmov ax, [0xfffe]\nxor ebx, ebx\nmov bx, sp',
    0,
    show,
  );
  v.testCase(
    'far call and return',
    'mov ebx, esp\ncall 0x1000:v86_far\nsub ebx, esp\nmov eax, 0x600d',
    0,
    show,
  );
  v.testCase(
    'far jump to another segment of the same bytes',
    'jmp 0x0fff:v86$aliased+16\nv86$aliased: xor eax, eax\nmov ax, cs\nxor ebx, ebx',
    0,
    show,
  );
  v.testCase(
    '16-bit addresses wrap',
    'mov word [0x0002], 0x7777\nmov bx, 0xfff0\nxor eax, eax\nmov ax, [bx+0x12]\nmovzx ebx, bx',
    0,
    show,
  );
  v.testCase(
    '32-bit operands and addresses',
    'mov dword [0x30], 0x89abcdef\nmov ecx, 0x20\nmov eax, [ecx+0x10]\nmov ebx, eax',
    0,
    show,
  );
  v.testCase(
    'string move',
    'push ds\npop es\nmov dword [0x40], 0x11223344\nmov si, 0x40\nmov di, 0x50\nmov cx, 4\nrep movsb\nmov eax, [0x50]\nmovzx ebx, di',
    0,
    show,
  );
  v.testCase(
    'loop and jcxz',
    'mov cx, 5\nxor eax, eax\nv86$loop: inc ax\nloop v86$loop\njcxz v86$done\nmov ax, 0xbad\nv86$done: movzx ebx, cx',
    0,
    show,
  );
  v.testCase(
    'enter and leave',
    'mov bp, 0x3333\nmov bx, sp\nenter 16, 0\nmov ax, bp\nleave\nsub bx, sp\nmovzx eax, bp\nmovzx ebx, bx',
    0,
    show,
  );
  v.testCase(
    'pusha and popa',
    'mov ax, 0x1111\nmov bx, 0x2222\npusha\nxor ax, ax\nxor bx, bx\npopa\nmovzx eax, ax\nmovzx ebx, bx',
    0,
    show,
  );
}

function entry(k: Kernel32): void {
  k.testCase('popf does not set VM', `push ${vm | 2}\npopf\npushf\npop eax\nsay " "\nhex eax`);
}

function build(): Uint8Array {
  const k = new Kernel32();
  const v = new VirtualMachine(k);
  k.asm.equ('conforming', k.gdt.add(segmentDescriptor({ type: segmentTypes.codeConforming })));
  k.code(`
    mov esi, v86_image
    mov edi, ${codeSegment * 16}
    mov ecx, v86_image_size
    rep movsb
    mov dword [hooks+3*4], v86_leave
    jmp v86$begin
    v86_leave:
      add esp, 16
      popad
      mov ebp, ${data0}
      mov ds, ebp
      mov es, ebp
      mov fs, ebp
      mov gs, ebp
      mov esp, [user_return_esp]
      jmp dword [user_return_eip]
    v86$begin:`);
  entry(k);
  sensitive(k, v);
  privileged(v);
  ports(k, v);
  frames(k, v);
  segmentsAndFlow(v);
  v.emit();
  return k.finish().build();
}

export const v8086: SystemGuest = {
  name: 'v8086',
  subject: 'virtual-8086 mode: entry, IOPL-sensitive instructions, interrupt frames, 16-bit code',
  expectation: { from: 'qemu' },
  build,
};
