/** Interrupts from outside: PIC and PIT, the local APIC and its timer, and when interrupts are let in. */
import { symbol } from '../assembler/index.ts';
import { systemTypes } from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { code0, Kernel32 } from './runtime/kernel32.ts';

/** Base addresses and registers of the local APIC (SDM vol. 3A, table 11-1). */
const apic = 0xfee0_0000;
const apicRegister = {
  version: 0x30,
  tpr: 0x80,
  ppr: 0xa0,
  eoi: 0xb0,
  svr: 0xf0,
  isr: 0x100,
  irr: 0x200,
  icrLow: 0x300,
  lvtTimer: 0x320,
  lvtLint0: 0x350,
  initialCount: 0x380,
  currentCount: 0x390,
  divide: 0x3e0,
} as const;

const r = (name: keyof typeof apicRegister): string => `${apic + apicRegister[name]}`;
/** Vectors: the PICs are moved to 0x20 and 0x28; the APIC has the rest. */
const timerVector = 0x38;
const ipiLow = 0x35;
const ipiHigh = 0x3d;
const spurious = 0x3f;

function handlers(k: Kernel32): void {
  const gate = (vector: number, handler: string): void => {
    k.gate(vector, { selector: code0, offset: symbol(handler), type: systemTypes.interruptGate, dpl: 0 });
  };
  gate(0x20, 'irq0');
  gate(0x28, 'irq8');
  gate(timerVector, 'apic_timer');
  gate(ipiLow, 'ipi_low');
  gate(ipiHigh, 'ipi_high');
  k.code(`
    jmp timers$over
    irq0:
      inc dword [ticks]
      push eax
      mov al, 0x20
      out 0x20, al
      pop eax
      iret
    irq8:
      inc dword [rtc_ticks]
      push eax
      mov al, 0x0c
      out 0x70, al
      in al, 0x71
      mov al, 0x20
      out 0xa0, al
      out 0x20, al
      pop eax
      iret
    apic_timer:
      inc dword [apic_ticks]
      mov dword [${r('eoi')}], 0
      iret
    ipi_low:
      say " low"
      jmp ipi$where
    ipi_high:
      say " high"
    ipi$where:
      push eax
      mov eax, [esp+4]
      sub eax, [case_base]
      say " ip=+"
      hex eax, 4
      pop eax
      mov dword [${r('eoi')}], 0
      iret
    timers$over:`);
}

function pic(k: Kernel32): void {
  const initialise = (port: number, base: number, cascade: number): string => `
    mov al, 0x11
    out ${port}, al
    mov al, ${base}
    out ${port + 1}, al
    mov al, ${cascade}
    out ${port + 1}, al
    mov al, 1
    out ${port + 1}, al`;
  k.code(`
    ${initialise(0x20, 0x20, 4)}
    ${initialise(0xa0, 0x28, 2)}
    mov al, 0xff
    out 0x21, al
    out 0xa1, al`);
  k.testCase(
    'PIC: mask reads back',
    `
    mov al, 0xa5
    out 0x21, al
    in al, 0x21
    movzx ebx, al
    mov al, 0x5a
    out 0xa1, al
    in al, 0xa1
    movzx ecx, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    say " "
    hex ebx, 2
    say " "
    hex ecx, 2`,
  );
  k.testCase(
    'PIT: channel 2 counts down and its output goes high',
    `
    in al, 0x61
    and al, 0xfc
    out 0x61, al
    mov al, 0xb0 ; channel 2, both bytes, mode 0
    out 0x43, al
    mov al, 0
    out 0x42, al
    mov al, 0x10
    out 0x42, al
    in al, 0x61
    and al, 0x20
    movzx ebx, al
    say " before "
    hex ebx, 2
    in al, 0x61
    and al, 0xfd
    or al, 1
    out 0x61, al
    pit$wait:
    in al, 0x61
    test al, 0x20
    jz pit$wait
    and al, 0x20
    movzx ebx, al
    say " after "
    hex ebx, 2`,
  );
  const program = (mode: number, count: number): string => `
    mov al, ${0x30 | (mode << 1)}
    out 0x43, al
    mov al, ${count & 0xff}
    out 0x40, al
    mov al, ${count >> 8}
    out 0x40, al`;
  k.testCase(
    'PIT: read-back of the status',
    `
    ${program(2, 0x1234)}
    mov al, 0xe2 ; read back: status of channel 0
    out 0x43, al
    in al, 0x40
    and al, 0x3f
    movzx ebx, al
    say " "
    hex ebx, 2`,
  );
  k.testCase(
    'PIT: a latched count is below the initial one',
    `
    ${program(2, 0x8000)}
    mov al, 0
    out 0x43, al
    in al, 0x40
    movzx ebx, al
    in al, 0x40
    mov bh, al
    cmp ebx, 0x8000
    jbe pit$fine
    say " above"
    pit$fine:`,
  );
  for (const [name, mode] of [
    ['rate generator', 2],
    ['square wave', 3],
  ] as const) {
    k.testCase(`PIT: ten ticks of the ${name}, awaited by HLT`, () => {
      const loop = k.unique('ticks');
      k.code(`
        mov dword [ticks], 0
        ${program(mode, 1193)}
        mov al, 0xfe
        out 0x21, al
        ${loop}:
        sti
        hlt
        cli
        cmp dword [ticks], 10
        jb ${loop}
        mov al, 0xff
        out 0x21, al`);
    });
  }
  k.testCase(
    'PIT: one shot, once',
    // The control word alone stops the square wave; a tick of it may wait in the PIC, which must not count.
    `
    mov al, 0x30
    out 0x43, al
    mov al, 0xfe
    out 0x21, al
    sti
    nop
    nop
    cli
    mov al, 0xff
    out 0x21, al
    mov dword [ticks], 0
    ${program(0, 1193)}
    mov al, 0xfe
    out 0x21, al
    oneshot$loop:
    sti
    hlt
    cli
    cmp dword [ticks], 1
    jb oneshot$loop
    mov ecx, 20000
    sti
    oneshot$more:
    in al, 0x61
    loop oneshot$more
    cli
    mov al, 0xff
    out 0x21, al
    say " "
    hex dword [ticks], 2`,
  );
  k.testCase(
    'ticks interrupt REP STOSB and leave it right',
    `
    mov dword [ticks], 0
    ${program(2, 1193)}
    mov al, 0xfe
    out 0x21, al
    sti
    rep$again:
    mov edi, 0x800000
    mov ecx, 0x100000
    mov al, 0x77
    rep stosb
    test ecx, ecx
    jnz rep$wrong
    cmp edi, 0x900000
    jnz rep$wrong
    cmp dword [ticks], 5
    jb rep$again
    jmp rep$right
    rep$wrong: say " wrong"
    rep$right:
    cli
    mov al, 0xff
    out 0x21, al
    mov esi, 0x800000
    mov ecx, 0x40000
    rep$check: lodsd
    cmp eax, 0x77777777
    jnz rep$bad
    loop rep$check
    jmp rep$end
    rep$bad: say " bad"
    rep$end:`,
  );
  k.testCase(
    'RTC: periodic interrupts through both PICs',
    `
    mov al, 0x0a
    out 0x70, al
    mov al, 0x26 ; 1,024 Hz
    out 0x71, al
    mov al, 0x0b
    out 0x70, al
    in al, 0x71
    or al, 0x40
    mov bl, al
    mov al, 0x0b
    out 0x70, al
    mov al, bl
    out 0x71, al
    mov al, 0x0c
    out 0x70, al
    in al, 0x71
    mov al, 0xfb
    out 0x21, al
    mov al, 0xfe
    out 0xa1, al
    rtc$loop:
    sti
    hlt
    cli
    cmp dword [rtc_ticks], 5
    jb rtc$loop
    mov al, 0x0b
    out 0x70, al
    in al, 0x71
    and al, 0xbf
    mov bl, al
    mov al, 0x0b
    out 0x70, al
    mov al, bl
    out 0x71, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al`,
  );
  k.testCase(
    'PIC: a request waits in IRR while masked',
    `
    ${program(0, 100)}
    mov ecx, 20000
    irr$wait: in al, 0x61
    loop irr$wait
    mov al, 0x0a
    out 0x20, al
    in al, 0x20
    and al, 1
    movzx ebx, al
    say " irr "
    hex ebx, 1
    mov dword [ticks], 0
    mov al, 0xfe
    out 0x21, al
    sti
    nop
    cli
    mov al, 0xff
    out 0x21, al
    say " ticks "
    hex dword [ticks], 1`,
  );
}

function localApic(k: Kernel32): void {
  const enable = `
    mov dword [${r('svr')}], ${0x100 | spurious}
    mov dword [${r('tpr')}], 0`;
  const ipi = (vector: number): string => `mov dword [${r('icrLow')}], ${0x4_4000 | vector}`;
  k.testCase(
    'APIC: where it is',
    `
    mov ecx, 0x1b
    rdmsr
    and eax, 0xfffff900
    say " "
    hex eax`,
  );
  k.testCase(
    'APIC: version and mask of the LVT',
    `
    mov eax, [${r('version')}]
    and eax, 0xf0
    say " "
    hex eax, 2
    mov eax, [${r('lvtTimer')}]
    say " "
    hex eax`,
  );
  k.code(`${enable}\nmov dword [${r('lvtLint0')}], 0x10000`);
  for (const [name, mode, wanted] of [
    ['one shot', 0, 1],
    ['periodic', 0x2_0000, 5],
  ] as const) {
    k.testCase(`APIC timer: ${name}`, () => {
      const loop = k.unique('apic');
      k.code(`
        mov dword [apic_ticks], 0
        mov dword [${r('divide')}], 0x3
        mov dword [${r('lvtTimer')}], ${mode | timerVector}
        mov dword [${r('initialCount')}], 100000
        ${loop}:
        sti
        hlt
        cli
        cmp dword [apic_ticks], ${wanted}
        jb ${loop}
        mov dword [${r('lvtTimer')}], ${0x1_0000 | timerVector}
        mov dword [${r('initialCount')}], 0
        mov eax, [${r('currentCount')}]
        say " left "
        hex eax`);
      k.code('mov eax, [apic_ticks]\nsay " ticks "\nhex eax, 1');
    });
  }
  k.testCase(
    'APIC timer: masked',
    // A tick from before may wait, which must not count.
    `
    mov dword [${r('lvtTimer')}], ${0x1_0000 | timerVector}
    sti
    nop
    nop
    cli
    mov dword [apic_ticks], 0
    mov dword [${r('initialCount')}], 1000
    sti
    masked$wait: mov eax, [${r('currentCount')}]
    test eax, eax
    jnz masked$wait
    nop
    cli
    say " ticks "
    hex dword [apic_ticks], 1`,
  );

  const cases: readonly (readonly [string, string])[] = [
    ['waits for IF', `${ipi(ipiLow)}\nnop\nnop\nsti\nnop\nnop\ncli`],
    ['sti holds it off for one instruction', `${ipi(ipiLow)}\nsti\nnop\nnop\ncli`],
    ['sti and cli: not taken', `${ipi(ipiLow)}\nsti\ncli\nnop\nsay " not yet"\nsti\nnop\ncli`],
    ['sti, sti: holds off once', `${ipi(ipiLow)}\nsti\nsti\nnop\nnop\ncli`],
    ['popf does not hold it off', `${ipi(ipiLow)}\npush 0x202\npopf\nnop\ncli`],
    [
      'iret does not hold it off',
      `${ipi(ipiLow)}\npush 0x202\npush ${code0}\npush irethere\niret\nirethere: nop\ncli`,
    ],
    ['higher first', `${ipi(ipiLow)}\n${ipi(ipiHigh)}\nsti\nnop\nnop\nnop\ncli`],
    ['same twice is once', `${ipi(ipiLow)}\n${ipi(ipiLow)}\nsti\nnop\nnop\nnop\ncli`],
    ['HLT is left', `${ipi(ipiHigh)}\nsti\nhlt\ncli`],
  ];
  for (const [name, body] of cases) k.testCase(`IPI to itself: ${name}`, body);
  k.testCase(
    'IRR shows it',
    `
    ${ipi(ipiLow)}
    mov eax, [${apic + apicRegister.irr + 0x10}]
    say " irr "
    hex eax
    sti
    nop
    nop
    cli
    mov eax, [${apic + apicRegister.irr + 0x10}]
    say " then "
    hex eax`,
  );
  k.testCase(
    'TPR holds it back',
    `
    mov dword [${r('tpr')}], 0x30
    ${ipi(ipiLow)}
    sti
    nop
    nop
    cli
    say " held"
    mov eax, [${r('ppr')}]
    say " ppr "
    hex eax, 2
    mov dword [${r('tpr')}], 0x20
    sti
    nop
    nop
    cli
    mov dword [${r('tpr')}], 0`,
  );
  k.testCase(
    'no EOI: the same class waits',
    `
    mov dword [hooks+0x36*4], noeoi
    jmp noeoi$over
    noeoi:
    say " first"
    mov eax, [${apic + apicRegister.isr + 0x10}]
    say " isr "
    hex eax
    mov eax, [${r('ppr')}]
    say " ppr "
    hex eax, 2
    jmp report$return
    noeoi$over:
    ${ipi(0x36)}
    sti
    nop
    nop
    ${ipi(ipiLow)}
    nop
    cli
    say " eoi"
    mov dword [${r('eoi')}], 0
    sti
    nop
    nop
    cli
    mov dword [hooks+0x36*4], 0`,
  );
  k.testCase(
    'software-disabled: no IPI',
    `
    mov dword [${r('svr')}], ${spurious}
    ${ipi(ipiLow)}
    sti
    nop
    nop
    cli`,
  );
}

function build(): Uint8Array {
  const k = new Kernel32();
  handlers(k);
  pic(k);
  localApic(k);
  k.data('align 4\nticks: dd 0\nrtc_ticks: dd 0\napic_ticks: dd 0');
  return k.finish().build();
}

export const timers: SystemGuest = {
  name: 'timers',
  subject: 'PIC, PIT, RTC and local APIC interrupts, and when they are let in',
  expectation: { from: 'qemu' },
  build,
};
