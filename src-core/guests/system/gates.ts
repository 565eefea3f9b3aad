/**
 * Delivery of interrupts and exceptions through the IDT: bad gates and what they lead to, error codes with
 * their EXT, IDT and TI bits, double faults, what the handler's frame and flags look like, and task switches
 * that must be refused.
 */
import { add, mem, symbol } from '../assembler/index.ts';
import {
  gateDescriptor,
  segmentDescriptor,
  segmentTypes,
  systemDescriptor,
  systemTypes,
} from './runtime/descriptors.ts';
import type { GateOptions } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, data0, Kernel32, tssSelector } from './runtime/kernel32.ts';

/** A selector beyond the limit of the GDT. */
const outside = 0xff8;
/** The first of the vectors with bad gates. */
const firstBad = 0x31;

/** What every bad gate would lead to if it were taken. */
const toHandler = { selector: code0, offset: symbol('handled'), type: systemTypes.interruptGate };

function badGates(
  codeAbsent: number,
  codeUser: number,
  codeConforming: number,
): readonly [string, GateOptions][] {
  return [
    ['not present', { ...toHandler, present: false }],
    ['to null', { ...toHandler, selector: 0 }],
    ['beyond the GDT', { ...toHandler, selector: outside }],
    ['to data', { ...toHandler, selector: data0 }],
    ['to absent code', { ...toHandler, selector: codeAbsent }],
    ['to code of ring 3', { ...toHandler, selector: codeUser }],
    ['to the LDT, none loaded', { ...toHandler, selector: 0xc }],
    ['of a call-gate type', { ...toHandler, type: systemTypes.callGate }],
    ['of type 0', { ...toHandler, type: 0 }],
    ['to conforming code', { ...toHandler, selector: codeConforming }],
  ];
}

function deliveries(k: Kernel32, bad: readonly [string, GateOptions][], codeAbsent: number): void {
  for (const [index, [name, gate]] of bad.entries()) {
    k.gate(firstBad + index, gate);
    k.testCase(`int, gate ${name}`, `int ${firstBad + index}`);
  }
  k.testCase('int beyond the IDT', 'nop\nint 0x80');
  k.testCase('int 0xff', 'int 0xff');
  k.testCase('int 0x20, IDT one byte too short', 'lidt [idt_short]\nint 0x20');
  k.code('lidt [idt_pointer]');

  for (const [index, [name]] of bad.entries()) {
    k.testCase(`int3, gate ${name}`, () => k.borrowGate(3, firstBad + index).code('int3'));
    k.restoreGate(3);
  }

  // Which second faults make a double fault (SDM vol. 3A, table 6-5).
  const pairs: readonly (readonly [string, number, number, string])[] = [
    ['#DE, gate not present', 0, 0, 'xor ecx, ecx\ndiv ecx'],
    ['#GP, gate to null', 13, 1, `mov eax, ${outside}\nmov ds, eax`],
    ['#NP, gate to absent code', 11, 4, `mov eax, ${codeAbsent}\nmov ds, eax`],
    ['#SS, gate beyond the GDT', 12, 2, `mov eax, ss_absent\nmov ss, eax`],
    ['#OF, gate to data', 4, 3, 'mov eax, 0x7fffffff\ninc eax\ninto'],
    ['int 0, gate not present', 0, 0, 'int 0'],
    ['int 13, gate to null', 13, 1, 'nop\nint 13'],
  ];
  for (const [name, vector, index, body] of pairs) {
    k.testCase(name, () => k.borrowGate(vector, firstBad + index).code(body));
    k.restoreGate(vector);
  }
  k.testCase('#UD, gate not present, #NP gate to null', () => {
    k.borrowGate(11, firstBad + 1)
      .borrowGate(6, firstBad)
      .code('ud2');
  });
  k.restoreGate(11).restoreGate(6);
}

/** Handlers at gates of each type print their flags, those they were entered with, and the frame's size. */
function frames(k: Kernel32): void {
  const start = 0x3b;
  const code16 = k.gdt.add(
    segmentDescriptor({
      type: segmentTypes.code,
      base: symbol('code16'),
      big: false,
      limit: 0xffff,
      pages: false,
    }),
  );
  k.data(`
    bits 16
    code16: o32 jmp ${code0}:frame16
    bits 32`);
  const kinds: readonly (readonly [string, GateOptions])[] = [
    ['interrupt gate', { ...toHandler, offset: symbol('frame32') }],
    ['trap gate', { ...toHandler, offset: symbol('frame32'), type: systemTypes.trapGate }],
    ['16-bit interrupt gate', { selector: code16, type: systemTypes.interruptGate16 }],
    ['16-bit trap gate', { selector: code16, type: systemTypes.trapGate16 }],
  ];
  for (const [index, [name, gate]] of kinds.entries()) {
    k.gate(start + index, gate);
    for (const flags of [0x2, 0x4ed7]) {
      k.testCase(
        `${name}, flags ${flags.toString(16)}`,
        `
        push ${flags}
        popf
        int ${start + index}
        pushf
        say " after"
        hex dword [esp], 4`,
      );
    }
  }
  k.code(`
    jmp frames$over
    frame32:
      pushf
      mov ebx, [case_esp]
      sub ebx, esp
      say " inside "
      hex dword [esp], 4
      say " frame "
      hex ebx, 2
      say " eip "
      mov ebx, [esp+4]
      sub ebx, [case_base]
      hex ebx, 2
      say " cs "
      hex dword [esp+8]
      say " flags "
      hex dword [esp+12]
      add esp, 4
      iret
    frame16:
      pushf
      mov ebx, [case_esp]
      sub ebx, esp
      say " inside "
      hex dword [esp], 4
      say " frame "
      hex ebx, 2
      say " cs "
      movzx ebx, word [esp+6]
      hex ebx, 4
      say " ip "
      mov ebx, [esp+4]
      sub ebx, [case_base]
      hex ebx, 4
      say " flags "
      hex dword [esp+8], 4
      mov esp, [case_esp]
      jmp dword [case_resume]
    frames$over:`);
}

/** Writes a gate into the IDT while the guest runs. */
function setGate(k: Kernel32, vector: number, options: GateOptions): void {
  for (const [word, value] of gateDescriptor(options).entries()) {
    k.asm.emit('mov', mem({ disp: add(symbol('idt'), vector * 8 + word * 4), size: 4 }), value);
  }
}

interface TaskSelectors {
  readonly absent: number;
  readonly short: number;
  readonly busy: number;
  readonly free: number;
  readonly ldt: number;
}

/** Task switches that fail before anything is switched (SDM vol. 3A, 7.3). */
function tasks(k: Kernel32, tss: TaskSelectors): void {
  const direct: readonly (readonly [string, number])[] = [
    ['TSS not present', tss.absent],
    ['TSS busy', tss.busy],
    ['current TSS', tssSelector],
    ['TSS with RPL above its DPL', tss.free | 3],
    ['TSS too short', tss.short],
  ];
  const gate = (selector: number, options: { dpl?: number; present?: boolean } = {}): GateOptions => ({
    ...options,
    selector,
    type: systemTypes.taskGate,
  });
  const gatesTo: readonly (readonly [string, GateOptions])[] = [
    ['task gate not present', gate(tss.free, { present: false })],
    ['task gate to an absent TSS', gate(tss.absent)],
    ['task gate to a busy TSS', gate(tss.busy)],
    ['task gate to a short TSS', gate(tss.short)],
    ['task gate to data', gate(data0)],
    ['task gate to an LDT', gate(tss.ldt)],
    ['task gate to null', gate(0)],
    ['task gate beyond the GDT', gate(outside)],
  ];
  for (const [name, selector] of direct) {
    for (const kind of ['jmp', 'call']) k.testCase(`${kind} ${name}`, `${kind} ${selector}:0`);
  }
  for (const [name, options] of gatesTo) {
    const selector = k.gdt.add(gateDescriptor(options));
    for (const kind of ['jmp', 'call']) k.testCase(`${kind} ${name}`, `${kind} ${selector}:0`);
    k.testCase(`int ${name}`, () => {
      setGate(k, 0x20, options);
      k.code('int 0x20');
    });
    k.restoreGate(0x20);
  }
  k.testCase('task gate with RPL above its DPL', `jmp ${k.gdt.add(gateDescriptor(gate(tss.absent))) | 3}:0`);
  k.testCase('jmp LDT descriptor', `jmp ${tss.ldt}:0`);

  const links: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['a TSS that is not busy', tss.free],
    ['an absent TSS', tss.absent],
    ['data', data0],
    ['beyond the GDT', outside],
    ['in the LDT', tss.busy | 4],
  ];
  for (const [name, selector] of links) {
    k.testCase(
      `iret with NT, back link to ${name}`,
      `
      mov dword [tss], ${selector}
      push 0x4002
      popf
      push 0
      push 0
      push 0
      iret`,
    );
  }
  k.testCase(
    'nothing was switched',
    `
    str eax
    say " tr "
    hex eax, 4
    movzx eax, byte [gdt+${tss.free}+5]
    say " free "
    hex eax, 2
    movzx eax, byte [gdt+${tss.busy}+5]
    say " busy "
    hex eax, 2
    mov eax, cr0
    and eax, 8
    say " ts "
    hex eax, 1`,
  );
}

/**
 * The EXT bit (SDM vol. 3A, 6.13): set in the error code of a fault met while delivering an exception, clear
 * for INT n, INT3 and INTO; and a task gate whose TSS selector has TI set.
 */
function externalBit(k: Kernel32, bad: readonly [string, GateOptions][], tss: TaskSelectors): void {
  for (const [index, [name, gate]] of bad.entries()) {
    k.gate(firstBad + index, gate);
    k.testCase(`#UD, gate ${name}`, () => k.borrowGate(6, firstBad + index).code('ud2'));
    k.restoreGate(6);
  }
  k.testCase('#BR, gate not present', () => {
    k.borrowGate(5, firstBad).code('mov eax, 5\nmov ebx, bounds\nbound eax, [ebx]');
  });
  k.restoreGate(5);
  k.testCase('#NM, gate of type 0', () => {
    k.borrowGate(7, firstBad + 8).code('mov eax, cr0\nor eax, 8\nmov cr0, eax\nfnop');
  });
  k.restoreGate(7).code('clts');
  for (const [name, selector] of [
    ['to an absent TSS', tss.absent],
    ['to a busy TSS', tss.busy],
    ['to a short TSS', tss.short],
    ['to data', data0],
    ['to null', 0],
    ['with TI set', tss.free | 4],
  ] as const) {
    k.testCase(`#UD, task gate ${name}`, () => {
      setGate(k, 6, { selector, type: systemTypes.taskGate });
      k.code('ud2');
    });
    k.restoreGate(6);
  }
  const ti = k.gdt.add(gateDescriptor({ selector: tss.free | 4, type: systemTypes.taskGate }));
  k.testCase('jmp task gate with TI set', `jmp ${ti}:0`);
  k.testCase('call task gate with TI set', `call ${ti}:0`);
  k.testCase('int task gate with TI set', () => {
    setGate(k, 0x20, { selector: tss.free | 4, type: systemTypes.taskGate });
    k.code('int 0x20');
  });
  k.restoreGate(0x20);
}

function build(which: 'plain' | 'external'): Uint8Array {
  const k = new Kernel32();
  const { gdt } = k;
  const codeAbsent = gdt.add(segmentDescriptor({ type: segmentTypes.code, present: false }));
  const codeUser = gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3 }));
  const codeConforming = gdt.add(segmentDescriptor({ type: segmentTypes.codeConforming }));
  const stackAbsent = gdt.add(segmentDescriptor({ type: segmentTypes.data, present: false }));
  k.asm.equ('ss_absent', stackAbsent);
  const other = symbol('other_tss');
  const tss = {
    absent: gdt.add(systemDescriptor(systemTypes.tss, other, 103, { present: false })),
    short: gdt.add(systemDescriptor(systemTypes.tss, other, 102)),
    busy: gdt.add(systemDescriptor(systemTypes.tssBusy, other, 103)),
    free: gdt.add(systemDescriptor(systemTypes.tss, other, 103)),
    ldt: gdt.add(systemDescriptor(systemTypes.ldt, other, 15)),
  };

  k.code(`
    jmp gates$start
    handled:
      say " handled"
      mov esp, [case_esp]
      jmp dword [case_resume]
    gates$start:`);
  const bad = badGates(codeAbsent, codeUser, codeConforming);
  if (which === 'plain') {
    deliveries(k, bad, codeAbsent);
    frames(k);
    tasks(k, tss);
  } else externalBit(k, bad, tss);

  k.data(`
    align 8
    bounds: dd 6, 7
    idt_short: dw ${0x21 * 8 - 2}
    dd idt
    align 16
    other_tss: space 128`);
  return k.finish().build();
}

export const gates: SystemGuest = {
  name: 'gates',
  subject: 'interrupt delivery in ring 0: gates, error codes, double faults, task switches refused',
  expectation: { from: 'qemu' },
  build: () => build('plain'),
};

export const gatesExternal: SystemGuest = {
  name: 'gates-external',
  subject: 'the EXT bit of error codes, task gates with TI set',
  expectation: { from: 'sdm', because: 'QEMU TCG never sets EXT and answers a TI in a task gate with #TS' },
  build: () => build('external'),
};
