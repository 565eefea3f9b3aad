/** Loading segment registers, LDTR and TR; far transfers without change of privilege; LAR, LSL, VERR, VERW. */
import { segmentDescriptor, segmentTypes, systemDescriptor, systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, data0, Kernel32, tssSelector } from './runtime/kernel32.ts';
import { symbol } from '../assembler/index.ts';

/** A selector beyond the limit of the GDT. */
const outside = 0xff8;

function build(): Uint8Array {
  const k = new Kernel32();
  const { gdt } = k;
  const dataAbsent = gdt.add(segmentDescriptor({ type: segmentTypes.data, present: false }));
  const dataReadOnly = gdt.add(segmentDescriptor({ type: segmentTypes.dataReadOnly }));
  const dataUser = gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 3 }));
  const codeExecuteOnly = gdt.add(segmentDescriptor({ type: segmentTypes.codeExecuteOnly }));
  const codeAbsent = gdt.add(segmentDescriptor({ type: segmentTypes.code, present: false }));
  const codeUser = gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3 }));
  const codeConforming = gdt.add(segmentDescriptor({ type: segmentTypes.codeConforming }));
  const codeConformingUser = gdt.add(segmentDescriptor({ type: segmentTypes.codeConforming, dpl: 3 }));
  const code16 = gdt.add(
    segmentDescriptor({
      type: segmentTypes.code,
      base: symbol('code16'),
      big: false,
      limit: 0xffff,
      pages: false,
    }),
  );
  const ldt = gdt.add(systemDescriptor(systemTypes.ldt, symbol('ldt'), 15));
  const ldtAbsent = gdt.add(systemDescriptor(systemTypes.ldt, symbol('ldt'), 15, { present: false }));
  const tssAvailable = gdt.add(systemDescriptor(systemTypes.tss, symbol('tss'), 103));
  const tssAbsent = gdt.add(systemDescriptor(systemTypes.tss, symbol('tss'), 103, { present: false }));
  const tssBusy = gdt.add(systemDescriptor(systemTypes.tssBusy, symbol('tss'), 103));
  const small = gdt.add(segmentDescriptor({ type: segmentTypes.data, limit: 0x1234, pages: false }));
  const based = gdt.add(segmentDescriptor({ type: segmentTypes.data, base: symbol('scratch') }));

  const selectors: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['null with RPL 3', 3],
    ['data', data0],
    ['data with RPL 3', data0 | 3],
    ['data not present', dataAbsent],
    ['data read-only', dataReadOnly],
    ['data of ring 3', dataUser],
    ['data of ring 3, RPL 3', dataUser | 3],
    ['code', code0],
    ['code execute-only', codeExecuteOnly],
    ['code not present', codeAbsent],
    ['code conforming', codeConforming],
    ['TSS', tssSelector],
    ['LDT', ldt],
    ['beyond the GDT', outside],
    ['in the LDT, none loaded', 4],
  ];
  for (const register of ['ds', 'es', 'fs', 'ss']) {
    for (const [name, selector] of selectors)
      k.testCase(`mov ${register}, ${name}`, `mov eax, ${selector}\nmov ${register}, eax`);
  }
  k.testCase('pop ds, not present', `push ${dataAbsent}\npop ds`);
  k.testCase('pop ss, null', 'push 0\npop ss');
  k.testCase('lds, not present', `push ${dataAbsent}\npush 5\nmov eax, 7\nlds eax, [esp]`);
  k.testCase(
    'lss, good',
    `
    push ${data0}
    push scratch+0x100
    lss esp, [esp]
    mov eax, esp
    sub eax, scratch
    say " "
    hex eax`,
  );
  k.testCase(
    'base is added',
    `
    mov eax, ${based}
    mov fs, eax
    mov dword [scratch+16], 0x5a5a1234
    mov eax, [fs:16]
    say " "
    hex eax`,
  );
  k.testCase(
    'negative offset wraps',
    `
    mov eax, ${based}
    mov fs, eax
    mov ebx, 0x100000
    sub ebx, scratch
    mov eax, [fs:ebx]
    say " "
    hex eax`,
  );
  k.testCase('loading sets the accessed bit', () => {
    for (const [name, selector] of [
      ['before', 0],
      ['after', based],
    ] as const) {
      k.code(`
        mov byte [gdt+${small}+5], 0x92
        mov eax, ${selector === 0 ? data0 : small}
        mov fs, eax
        movzx eax, byte [gdt+${small}+5]
        say " ${name} "
        hex eax, 2`);
    }
  });

  tables(k, { ldt, ldtAbsent, tssAvailable, tssAbsent, tssBusy, small });
  k.testCase(
    'in the LDT',
    `
    mov eax, ${ldt}
    lldt ax
    mov eax, 4
    mov fs, eax
    mov dword [scratch], 0x13572468
    mov eax, [fs:scratch]
    say " "
    hex eax`,
  );
  k.testCase('beyond the LDT', 'mov eax, 0x14\nmov fs, eax');
  k.testCase('null in the LDT is not null', 'mov eax, 4\nmov fs, eax\nmov ax, fs\nsay " "\nhex eax, 4');
  k.testCase('lldt null', 'xor eax, eax\nlldt ax\nsldt eax\nsay " "\nhex eax\nmov eax, 4\nmov fs, eax');

  const targets: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['code', code0],
    ['code, RPL 3', code0 | 3],
    ['code not present', codeAbsent],
    ['code of ring 3', codeUser],
    ['code of ring 3, RPL 3', codeUser | 3],
    ['code conforming', codeConforming],
    ['code conforming, RPL 3', codeConforming | 3],
    ['code conforming of ring 3', codeConformingUser],
    ['data', data0],
    ['LDT descriptor', ldt],
    ['beyond the GDT', outside],
  ];
  for (const kind of ['jmp', 'call']) {
    for (const [name, selector] of targets) {
      const target = k.unique('far');
      k.testCase(
        `far ${kind}, ${name}`,
        `
        ${kind} ${selector}:${target}
        ${target}:
        mov ax, cs
        say " cs="
        hex eax, 4
        jmp ${code0}:${target}$back
        ${target}$back:`,
      );
    }
  }
  for (const [name, selector] of targets) {
    const target = k.unique('far');
    k.testCase(
      `retf, ${name}`,
      `
      push ${selector}
      push ${target}
      retf
      ${target}:
      mov ax, cs
      say " cs="
      hex eax, 4
      jmp ${code0}:${target}$back
      ${target}$back:`,
    );
  }
  k.testCase('iret, code not present', `pushf\npush ${codeAbsent}\npush 0\niret`);
  k.testCase('iret, null', 'pushf\npush 0\npush 0\niret');
  k.testCase(
    'call far through memory',
    `
    call fword [far_pointer]
    say " back esp "
    mov eax, [case_esp]
    sub eax, esp
    hex eax`,
  );
  k.testCase(
    '16-bit code segment',
    `
    call ${code16}:0
    movzx eax, ax
    say " "
    hex eax`,
  );

  inspection(k, [
    ...selectors,
    ['small', small],
    ['TSS available', tssAvailable],
    ['LDT not present', ldtAbsent],
  ]);

  k.reserve('scratch', 0x2000);
  k.data(
    `
    align 8
    ldt: dd 0, 0x00cf9200, 0x0000ffff, 0x00cf9200
    far_pointer: dd far_target
    dw ${code0}
    far_target: retf
    align 16
    bits 16
    code16: mov ax, 0x1234
      add ax, 0x1111
      o32 retf
    bits 32`.replace('o32 retf', 'retfd'),
  );
  k.finish();
  return k.build();
}

function tables(
  k: Kernel32,
  s: {
    ldt: number;
    ldtAbsent: number;
    tssAvailable: number;
    tssAbsent: number;
    tssBusy: number;
    small: number;
  },
): void {
  const lldt: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['LDT', s.ldt],
    ['LDT, RPL 3', s.ldt | 3],
    ['LDT not present', s.ldtAbsent],
    ['TSS', s.tssAvailable],
    ['data', data0],
    ['beyond the GDT', outside],
    ['TI set', s.ldt | 4],
  ];
  for (const [name, selector] of lldt)
    k.testCase(`lldt ${name}`, `mov eax, ${selector}\nlldt ax\nsldt eax\nsay " "\nhex eax`);
  k.code('xor eax, eax\nlldt ax');
  const ltr: readonly (readonly [string, number])[] = [
    ['TSS not present', s.tssAbsent],
    ['TSS busy', s.tssBusy],
    ['LDT', s.ldt],
    ['data', data0],
    ['beyond the GDT', outside],
    ['TI set', s.tssAvailable | 4],
    ['TSS', s.tssAvailable],
  ];
  for (const [name, selector] of ltr) {
    k.testCase(`ltr ${name}`, `mov eax, ${selector}\nltr ax\nstr eax\nsay " "\nhex eax`);
  }
  k.testCase('ltr marks busy', `movzx eax, byte [gdt+${s.tssAvailable}+5]\nsay " "\nhex eax, 2`);
  k.testCase('ltr back', `and byte [gdt+${tssSelector}+5], ~2\nmov eax, ${tssSelector}\nltr ax`);
  k.testCase(
    'sgdt and sidt',
    `
    sgdt [scratch]
    sidt [scratch+8]
    mov eax, [scratch+2]
    sub eax, gdt
    say " "
    hex eax
    say " "
    mov eax, [scratch+8]
    hex eax, 4
    mov eax, [scratch+10]
    sub eax, idt
    say " "
    hex eax`,
  );
}

function inspection(k: Kernel32, selectors: readonly (readonly [string, number])[]): void {
  for (const [name, selector] of selectors) {
    k.testCase(`lar lsl verr verw, ${name}`, () => {
      k.code(`mov ebx, ${selector}`);
      for (const instruction of ['lar', 'lsl']) {
        const no = k.unique('no');
        k.code(`
          mov eax, 0x55555555
          ${instruction} eax, ebx
          jnz ${no}
          say " zf"
          ${no}:
          say " "
          hex eax`);
      }
      for (const instruction of ['verr', 'verw']) {
        const no = k.unique('no');
        k.code(`
          ${instruction} bx
          jnz ${no}
          say " ${instruction}"
          ${no}:`);
      }
    });
  }
}

export const segments: SystemGuest = {
  name: 'segments',
  subject: 'segment, LDTR and TR loads, far transfers in ring 0, descriptor inspection',
  expectation: { from: 'qemu' },
  build,
};
