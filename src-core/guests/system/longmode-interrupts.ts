/** Delivery of interrupts in IA-32e mode: frames, IST, and gates that must be refused. */
import { symbol } from '../assembler/index.ts';
import { segmentDescriptor, segmentTypes, systemTypes } from './runtime/descriptors.ts';
import { code32, code64, data64, userCode64 } from './runtime/kernel64.ts';
import type { Kernel64 } from './runtime/kernel64.ts';

/** A selector beyond the limit of the GDT. */
const outside = 0xff8;

/** A handler that shows its frame and goes back. */
export function frames(k: Kernel64): void {
  const gate = { selector: code64, offset: symbol('show_frame'), type: systemTypes.interruptGate, dpl: 3 };
  k.gate(0x31, gate);
  k.gate(0x32, { ...gate, count: 1 });
  k.gate(0x33, { ...gate, count: 7 });
  k.gate(0x34, { ...gate, type: systemTypes.trapGate });
  k.reserve('ist1', 0x1000).reserve('ist1_top', 0).reserve('ist7', 0x1000).reserve('ist7_top', 0);
  k.code(`
    jmp frames$over
    show_frame:
      pushf
      say " flags inside "
      hex [rsp], 4
      test byte [rsp+16], 3
      jz frames$same_ring
      say " ss "
      mov eax, ss
      hex rax, 4
    frames$same_ring:
      say " rsp & f "
      mov rax, rsp
      hex rax, 1
      say " on"
      mov rax, rsp
      and rax, ~0xfff
      mov rcx, ist1
      cmp rax, rcx
      jnz frames$not_ist1
      say " ist1"
    frames$not_ist1:
      mov rcx, ist7
      cmp rax, rcx
      jnz frames$not_ist7
      say " ist7"
    frames$not_ist7:
      mov rcx, ring0_stack_top-0x1000
      cmp rax, rcx
      jnz frames$not_ring0
      say " rsp0"
    frames$not_ring0:
      say " rip "
      mov rax, [rsp+8]
      sub rax, [case_base]
      hex rax, 4
      say " cs "
      hex [rsp+16], 16
      say " flags "
      hex [rsp+24], 16
      say " ss "
      hex [rsp+40], 16
      add rsp, 8
      iretq
    frames$over:
      mov qword [tss_ist], ist1_top
      mov qword [tss_ist+48], ist7_top`);
  for (const [name, vector] of [
    ['interrupt gate', 0x31],
    ['trap gate', 0x34],
    ['interrupt gate with IST 1', 0x32],
    ['interrupt gate with IST 7', 0x33],
  ] as const) {
    k.testCase(`${name}, ring 0`, `int ${vector}`);
    k.testCase(
      `${name}, ring 0, rsp at 8`,
      `mov rbx, rsp\nsub rsp, 8\nint ${vector}\nadd rsp, 8\nsub rbx, rsp\nsay " rsp moved "\nhex rbx, 2`,
    );
    k.testCase(`${name}, ring 0, IF set`, `push 0x202\npopf\nint ${vector}\ncli`);
    k.testCase(`${name}, ring 3`, () => k.user(`int ${vector}`, 0x202));
    k.testCase(`${name}, compatibility mode`, () => k.user32(`int ${vector}`, 0x202));
  }
  k.testCase(
    'null ss survives an interrupt',
    'xor eax, eax\nmov ss, eax\nint 0x31\nmov eax, ss\nsay " "\nhex rax, 4',
  );
  k.testCase('exception through IST', () => {
    k.code(`
      mov rax, [idt+6*16]
      mov rcx, 0x700000000
      or rax, rcx
      mov [idt+6*16], rax
      mov qword [hooks+6*8], ist$look
      ud2
      ist$look:
      mov qword [hooks+6*8], 0
      mov rax, ist7_top
      sub rax, rsp
      say " used "
      hex rax, 4
      mov rsp, [case_rsp]`);
  });
  k.borrowGate(6, 6);
}

export function badGates(k: Kernel64): void {
  const target = { selector: code64, offset: symbol('handled'), type: systemTypes.interruptGate };
  const absent = k.gdt.add(
    segmentDescriptor({ type: segmentTypes.code, long: true, big: false, present: false }),
  );
  const both = k.gdt.add(segmentDescriptor({ type: segmentTypes.code, long: true, big: true }));
  const bad: readonly (readonly [string, Parameters<Kernel64['gate']>[1]])[] = [
    ['to null', { ...target, selector: 0 }],
    ['to data', { ...target, selector: data64 }],
    ['to 32-bit code', { ...target, selector: code32 }],
    ['to absent code', { ...target, selector: absent }],
    ['to code of ring 3', { ...target, selector: userCode64 & ~3 }],
    ['beyond the GDT', { ...target, selector: outside }],
    ['to code with L and D', { ...target, selector: both }],
  ];
  k.code(
    'jmp badgates$over\nhandled: say " handled"\nmov rsp, [case_rsp]\njmp qword [case_resume]\nbadgates$over:',
  );
  for (const [index, [name, gate]] of bad.entries()) {
    k.gate(0x35 + index, gate);
    k.testCase(`int, gate ${name}`, `int ${0x35 + index}`);
  }
  k.testCase('#DE, gate not present', () => k.borrowGate(0, 0x35).code('xor ecx, ecx\ndiv ecx'));
  k.borrowGate(0, 0);
}
