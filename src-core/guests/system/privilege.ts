/** Rings: in by interrupt, call gate and SYSENTER, out by IRET, RET and SYSEXIT, and what ring 3 may not do. */
import { symbol } from '../assembler/index.ts';
import {
  gateDescriptor,
  segmentDescriptor,
  segmentTypes,
  systemDescriptor,
  systemTypes,
} from './runtime/descriptors.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { leaveUserVector } from './runtime/kernel.ts';
import { code0, code3, data0, data3, Kernel32, tssSelector } from './runtime/kernel32.ts';

const outside = 0xff8;
/** IA32_SYSENTER_CS, _ESP and _EIP (SDM vol. 4, table 2-2). */
const sysenterMsrs = { cs: 0x174, esp: 0x175, eip: 0x176 };

function writeMsr(msr: number, value: string): string {
  return `mov ecx, ${msr}\nmov eax, ${value}\nxor edx, edx\nwrmsr\n`;
}

/** Runs `body` in ring 3 as a test case. */
function userCase(k: Kernel32, name: string, body: string, flags = 0x2): void {
  k.testCase(name, () => k.user(body, flags));
}

function forbidden(k: Kernel32): void {
  const instructions: readonly (readonly [string, string])[] = [
    ['hlt', 'hlt'],
    ['cli', 'cli'],
    ['sti', 'sti'],
    ['in', 'in al, 0x40'],
    ['in word by dx', 'mov edx, 0x60\nin ax, dx'],
    ['out', 'out 0xe9, al'],
    ['insb', 'mov edi, scratch\nmov edx, 0x60\ninsb'],
    ['outsb', 'mov esi, scratch\nmov edx, 0xe9\noutsb'],
    ['lgdt', 'lgdt [gdt_pointer]'],
    ['lidt', 'lidt [idt_pointer]'],
    ['lldt', 'xor eax, eax\nlldt ax'],
    ['ltr', 'xor eax, eax\nltr ax'],
    ['lmsw', 'lmsw ax'],
    ['clts', 'clts'],
    ['mov from cr0', 'mov eax, cr0'],
    ['mov to cr3', 'mov cr3, eax'],
    ['mov from dr0', 'mov eax, dr0'],
    ['mov to dr7', 'mov dr7, eax'],
    ['invd', 'invd'],
    ['wbinvd', 'wbinvd'],
    ['invlpg', 'invlpg [scratch]'],
    ['rdmsr', 'mov ecx, 0x174\nrdmsr'],
    ['wrmsr', 'mov ecx, 0x174\nwrmsr'],
    ['sysexit', 'sysexit'],
    ['int to a gate of ring 0', 'int 0x20'],
    ['int 13', 'int 13'],
    ['int beyond the IDT', 'int 0x90'],
    ['int3', 'int3'],
    ['into', 'mov eax, 0x7fffffff\ninc eax\ninto'],
    ['mov ds, ring 0 data', `mov eax, ${data0}\nmov ds, eax`],
    ['mov ds, ring 0 data with RPL 3', `mov eax, ${data0 | 3}\nmov ds, eax`],
    ['mov ss, ring 0 data', `mov eax, ${data0}\nmov ss, eax`],
    ['mov ss, ring 3 data with RPL 0', `mov eax, ${data3 & ~3}\nmov ss, eax`],
    ['mov ds, ring 3 data with RPL 0', `mov eax, ${data3 & ~3}\nmov ds, eax`],
    ['mov es, ring 0 code', `mov eax, ${code0}\nmov es, eax`],
    ['jmp to ring 0 code', `jmp ${code0}:0`],
    ['call to ring 0 code', `call ${code0}:0`],
    ['call to ring 0 code with RPL 3', `call ${code0 | 3}:0`],
    ['jmp to the TSS', `jmp ${tssSelector}:0`],
    ['retf to ring 0', `push ${code0}\npush 0\nretf`],
    ['iret to ring 0', `push 2\npush ${code0}\npush 0\niret`],
    ['ud2', 'ud2'],
    ['div by zero', 'xor ecx, ecx\ndiv ecx'],
  ];
  for (const [name, body] of instructions) userCase(k, `ring 3: ${name}`, body);
  const allowed: readonly (readonly [string, string])[] = [
    ['smsw', 'smsw ax\nand eax, 1'],
    ['sgdt', 'sgdt [scratch]\nmovzx eax, word [scratch]\nand eax, 7'],
    ['sidt', 'sidt [scratch]\nmovzx eax, word [scratch]'],
    ['sldt', 'sldt eax'],
    ['str', 'str eax'],
    ['verr of ring 0 data', `mov ecx, ${data0}\nverr cx\nsetz al\nmovzx eax, al`],
    ['verr of ring 3 data', `mov ecx, ${data3}\nverr cx\nsetz al\nmovzx eax, al`],
    ['lar of ring 0 data', `mov ecx, ${data0}\nmov eax, 0x77\nlar eax, ecx`],
    ['lar of ring 3 data', `mov ecx, ${data3}\nlar eax, ecx`],
    ['lsl of ring 3 code', `mov ecx, ${code3}\nlsl eax, ecx`],
    ['cs', 'mov eax, cs'],
    ['ss', 'mov eax, ss'],
    ['arpl below', 'mov ecx, 3\nmov eax, 0x10\narpl ax, cx'],
    ['popf leaves IF and IOPL', 'push 0x3202\npopf\npushf\npop eax'],
    [
      'iret leaves IF and IOPL',
      `pushf
       or dword [esp], 0x3200
       push ${code3}
       push privilege$iret_here
       iret
       privilege$iret_here:
       pushf
       pop eax`,
    ],
  ];
  for (const [name, body] of allowed) {
    k.testCase(`ring 3 may: ${name}`, () => {
      k.user(`${body}\nmov [result], eax`);
      k.code('say " "\nhex [result]');
    });
  }
}

function ioPrivilege(k: Kernel32): void {
  userCase(k, 'IOPL 3: cli and sti', 'cli\nsti\ncli', 0x3002);
  userCase(k, 'IOPL 3: out', `mov al, '!'\nout 0xe9, al`, 0x3002);
  userCase(k, 'IOPL 2: cli', 'cli', 0x2002);
  userCase(k, 'IOPL 3: hlt', 'hlt', 0x3002);
  k.testCase('IOPL 3: popf changes IF, not IOPL', () => {
    k.user('push 0x0202\npopf\npushf\npop eax\ncli\nmov [result], eax', 0x3002);
    k.code('say " "\nhex [result]');
  });
  // One bit of the permission bitmap clear each time: every byte of an access must be allowed.
  const allow = (port: number, body: string, name: string): void => {
    k.testCase(`bitmap allows ${port.toString(16)}: ${name}`, () => {
      k.code(`and byte [io_bitmap+${port >> 3}], ${0xff ^ (1 << (port & 7))}`);
      k.user(body);
    });
    k.code(`or byte [io_bitmap+${port >> 3}], ${1 << (port & 7)}`);
  };
  allow(0xe9, "mov al, '!'\nout 0xe9, al", 'out e9');
  allow(0xe9, "mov al, '!'\nmov edx, 0xe9\nout dx, al", 'out e9 by dx');
  allow(0xe9, 'mov eax, 0\nout 0xe9, ax', 'word out e9');
  allow(0xe9, 'mov eax, 0\nout 0xe8, ax', 'word out e8');
  allow(0xe8, 'in al, 0xe9', 'in e9');
  allow(0xef, 'out 0xef, eax', 'dword out ef, across two bytes of the bitmap');
  k.testCase('bitmap allows 8f and 90: word in 8f', () => {
    k.code('and byte [io_bitmap+17], 0x7f\nand byte [io_bitmap+18], 0xfe');
    k.user('in ax, 0x8f');
    k.code('or byte [io_bitmap+17], 0x80\nor byte [io_bitmap+18], 1');
  });
  k.code('or byte [io_bitmap+17], 0x80\nor byte [io_bitmap+18], 1');
  userCase(k, 'port beyond the bitmap', 'mov edx, 0x1000\nin al, dx');
  userCase(k, 'last port of the bitmap, word', 'mov edx, 0xff\nin ax, dx');
}

/** Stack switches: what lies on the ring 0 stack, and which data segments survive the way out. */
function switches(k: Kernel32): void {
  k.gate(0x31, {
    selector: code0,
    offset: symbol('show_frame'),
    type: systemTypes.interruptGate,
    dpl: 3,
  });
  const frame: readonly (readonly [string, number])[] = [
    ['cs', 4],
    ['flags', 8],
    ['ss', 16],
  ];
  k.code(`
    jmp switches$over
    show_frame:
      mov ebx, ${data0}
      mov ds, ebx
      say " esp "
      mov ebx, ring0_stack_top
      sub ebx, esp
      hex ebx, 2
      say " eip "
      mov ebx, [esp]
      sub ebx, [case_base]
      hex ebx, 4`);
  for (const [name, offset] of frame) k.code(`say " ${name} "\nhex dword [esp+${offset}]`);
  k.code(`
      say " user esp "
      mov ebx, user_stack_top
      sub ebx, [esp+12]
      hex ebx, 4
      mov ebx, ${data3}
      mov ds, ebx
      iret
    switches$over:`);
  userCase(k, 'int from ring 3', 'push 1\npush 2\nint 0x31');
  userCase(k, 'int from ring 3, flags', 'push 0x40ed7\npopf\nint 0x31\npush 2\npopf');
  k.testCase('iret and back again', () => k.user('int 0x31\nint 0x31'));
  k.testCase('data segments of ring 0 are nulled on the way out', () => {
    k.code(`
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], nulled$back
      mov eax, ${data3}
      mov es, eax
      mov eax, ${data0}
      mov fs, eax
      mov eax, conforming
      mov gs, eax
      push ${data3}
      push user_stack_top
      push 2
      push ${code3}
      push nulled$user
      iret
      nulled$user:
      mov eax, ds
      shl eax, 16
      mov ax, es
      mov ebx, fs
      shl ebx, 16
      mov bx, gs
      int 0x30
      nulled$back:
      say " ds,es "
      hex eax
      say " fs,gs "
      hex ebx`);
  });
  // Ring 1 on the way: its stack comes from SS1:ESP1.
  k.gate(0x32, { selector: symbol('code1'), offset: symbol('ring1'), type: systemTypes.trapGate, dpl: 3 });
  k.code(`
    jmp ring1$over
    ring1:
      mov ebx, ring1_stack_top
      sub ebx, esp
      mov ecx, cs
      mov edx, ss
      iret
    ring1$over:
      mov dword [tss+12], ring1_stack_top
      mov eax, data1
      mov [tss+16], eax`);
  k.testCase('int from ring 3 to ring 1', () => {
    k.user('int 0x32');
    k.code('say " esp "\nhex ebx\nsay " cs "\nhex ecx\nsay " ss "\nhex edx');
  });
}

/** Stack segments in the TSS that cannot be loaded. The faults are taken in ring 3, which mends the TSS. */
function stackFaultHandlers(k: Kernel32): void {
  k.gate(0x33, { selector: code3, offset: symbol('ts_in_user'), type: systemTypes.interruptGate });
  k.gate(0x34, { selector: code3, offset: symbol('ss_in_user'), type: systemTypes.interruptGate });
  k.code(`
    jmp bad$over
    ts_in_user:
      mov ecx, 10
      jmp bad$mend
    ss_in_user:
      mov ecx, 12
    bad$mend:
      mov dword [tss+4], ring0_stack_top
      mov dword [tss+8], ${data0}
      pop ebx
      int ${leaveUserVector}
    bad$over:`);
}

const showStackFault = 'say " vector "\nhex ecx, 2\nsay " error "\nhex ebx, 4';

function badStacks(k: Kernel32, readOnly: number, shortTss: number): void {
  k.borrowGate(10, 0x33).borrowGate(12, 0x34);
  const stacks: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['null with RPL 3', 3],
    ['of RPL 1', data0 | 1],
    ['of DPL 3', data3],
    ['of DPL 3 with RPL 0', data3 & ~3],
    ['read-only', readOnly],
    ['code', code0],
    ['beyond the GDT', outside],
    ['the TSS', tssSelector],
    ['in the LDT', 4],
  ];
  for (const [name, selector] of stacks) {
    k.testCase(`ss0 ${name}`, () => k.user(`mov dword [tss+8], ${selector}\nint 0x31`).code(showStackFault));
  }
  // With a TSS too short to hold SS0 there is no way back through a gate either: SYSENTER needs none.
  k.gate(0x35, { selector: code3, offset: symbol('short_in_user'), type: systemTypes.interruptGate });
  k.testCase('TSS too short for ss0', () => {
    k.code(writeMsr(sysenterMsrs.cs, String(code0)));
    k.code(writeMsr(sysenterMsrs.esp, 'ring0_stack_top'));
    k.code(writeMsr(sysenterMsrs.eip, 'short$back'));
    k.borrowGate(10, 0x35);
    k.code(`mov eax, ${shortTss}\nltr ax`);
    k.user(`
      int 0x31
      short_in_user:
      pop ebx
      sysenter
      short$back:
      mov eax, ${data0}
      mov ds, eax
      mov es, eax
      mov esp, [case_esp]
      and byte [gdt+${tssSelector}+5], ~2
      mov eax, ${tssSelector}
      ltr ax
      say " error "
      hex ebx, 4
      jmp dword [case_resume]`);
  });
  k.restoreGate(10).restoreGate(12);
}

/** What QEMU TCG does otherwise than the manual says. */
function manualOnly(k: Kernel32, segment: Record<'absent3' | 'absent0' | 'conforming', number>): void {
  k.borrowGate(10, 0x33).borrowGate(12, 0x34);
  const stacks: readonly (readonly [string, number])[] = [
    ['null', 0],
    ['of RPL 1', data0 | 1],
    ['of DPL 3', data3],
    ['not present', segment.absent0],
    ['code', code0],
    ['beyond the GDT', outside],
  ];
  for (const [name, selector] of stacks) {
    k.testCase(`ss0 ${name}, by a fault`, () =>
      k.user(`mov dword [tss+8], ${selector}\nud2`).code(showStackFault),
    );
  }
  k.testCase('ss0 not present, by int', () => {
    k.user(`mov dword [tss+8], ${segment.absent0}\nint3`).code(showStackFault);
  });
  const target = { selector: code0, offset: symbol('gated3'), type: systemTypes.callGate, dpl: 3 };
  const good = k.gdt.add(gateDescriptor(target)) | 3;
  k.testCase('ss0 not present, by call gate', () => {
    k.user(`mov dword [tss+8], ${segment.absent0}\ncall ${good}:0`).code(showStackFault);
  });
  k.restoreGate(10).restoreGate(12);
  const conforming = k.gdt.add(gateDescriptor({ ...target, selector: segment.conforming })) | 3;
  k.code('jmp gated3$over\ngated3: mov ecx, cs\nretf\ngated3$over:');
  k.testCase('call gate to conforming code', () =>
    k.user(`call ${conforming}:0`).code('say " cs "\nhex ecx, 4'),
  );
  outwardStacks(k, [['not present', segment.absent3]]);
}

function callGates(k: Kernel32, absentCode: number): void {
  const { gdt } = k;
  const gate = (options: Parameters<typeof gateDescriptor>[0]): number => gdt.add(gateDescriptor(options));
  const target = { selector: code0, offset: symbol('gated'), type: systemTypes.callGate, dpl: 3 };
  const good = gate(target);
  const withParameters = gate({ ...target, count: 2 });
  const list: readonly (readonly [string, number])[] = [
    ['of DPL 0', gate({ ...target, dpl: 0 })],
    ['not present', gate({ ...target, present: false })],
    ['to null', gate({ ...target, selector: 0 })],
    ['to data', gate({ ...target, selector: data0 })],
    ['to absent code', gate({ ...target, selector: absentCode })],
    ['beyond the GDT', gate({ ...target, selector: outside })],
    ['to ring 3 code', gate({ ...target, selector: code3, offset: symbol('gated3') })],
  ];
  k.code(`
    jmp callgates$over
    gated:
      mov ecx, ${data0}
      mov ds, ecx
      say " ring 0 esp "
      mov ecx, ring0_stack_top
      sub ecx, esp
      hex ecx, 2
      say " cs "
      hex dword [esp+4]
      say " words "
      hex dword [esp+8]
      say " "
      hex dword [esp+12]
      mov ecx, ${data3}
      mov ds, ecx
      cmp dword [esp+8], 0x11111111
      jz gated$two
      retf
    gated$two:
      retf 8
    gated3:
      mov ecx, cs
      retf
    callgates$over:`);
  k.testCase('call gate', () => {
    k.user('mov esi, esp\ncall gate_good:0x12345678\nsub esi, esp');
    k.code('say " esp moved "\nhex esi');
  });
  k.testCase('call gate with two parameters', () => {
    k.user('mov esi, esp\npush 0x22222222\npush 0x11111111\ncall gate_parameters:0\nsub esi, esp');
    k.code('say " esp moved "\nhex esi');
  });
  k.asm.equ('gate_good', good | 3).equ('gate_parameters', withParameters | 3);
  for (const [name, selector] of list) {
    k.testCase(`call gate ${name}`, () => {
      k.user(`xor ecx, ecx\ncall ${selector | 3}:0`);
      k.code('say " cs "\nhex ecx, 4');
    });
    k.testCase(`jmp call gate ${name}`, () => {
      k.user(`push ${code3}\npush jumped$${selector}\njmp ${selector | 3}:0\njumped$${selector}:`);
      k.code('say " cs "\nhex ecx, 4');
    });
  }
  userCase(k, 'jmp through a gate to ring 0', 'jmp gate_good:0');
  k.testCase('call gate used in ring 0', () => {
    k.code(`
      push 0
      call gate_good & ~3:0
      `);
  });
  k.testCase('call gate with a bad ss0', () => {
    // #TS has its stack from the same place, so it goes to ring 3 as above.
    k.borrowGate(10, 0x33);
    k.user('mov dword [tss+8], 0\ncall gate_good:0');
    k.code('say " vector "\nhex ecx, 2\nsay " error "\nhex ebx');
  });
  k.restoreGate(10);
}

function outwardStacks(k: Kernel32, stacks: readonly (readonly [string, number])[]): void {
  for (const [name, selector] of stacks) {
    k.testCase(
      `retf to ring 3, ss ${name}`,
      `
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], out$back$retf${selector}
      push ${selector}
      push user_stack_top
      push ${code3}
      push out$retf$${selector}
      retf
      out$retf$${selector}:
      int 0x30
      out$back$retf${selector}:`,
    );
    k.testCase(
      `iret to ring 3, ss ${name}`,
      `
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], out$back$iret${selector}
      push ${selector}
      push user_stack_top
      push 2
      push ${code3}
      push out$iret$${selector}
      iret
      out$iret$${selector}:
      int 0x30
      out$back$iret${selector}:`,
    );
  }
}

/** Far returns and IRET to ring 3 whose stack segment or code segment cannot be loaded. */
function outward(k: Kernel32, readOnly: number, absentCode: number): void {
  const stacks: readonly (readonly [string, number])[] = [
    ['good', data3],
    ['null', 0],
    ['of RPL 0', data3 & ~3],
    ['of DPL 0', data0 | 3],
    ['read-only', readOnly],
    ['code', code3],
    ['beyond the GDT', outside | 3],
  ];
  outwardStacks(k, stacks);
  for (const [name, selector] of [
    ['not present', absentCode | 3],
    ['ring 0 code with RPL 3', code0 | 3],
    ['data', data3],
    ['null with RPL 3', 3],
    ['beyond the GDT', outside | 3],
  ] as const) {
    for (const kind of ['retf', 'iret']) {
      k.testCase(
        `${kind} to ring 3, cs ${name}`,
        `
        push ${data3}
        push user_stack_top
        ${kind === 'iret' ? 'push 2' : ''}
        push ${selector}
        push 0
        ${kind}`,
      );
    }
  }
  k.testCase('retf 8 releases parameters on both stacks', () => {
    k.code(`
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], release$back
      push ${data3}
      push user_stack_top-64
      push 0
      push 0
      push ${code3}
      push release$user
      retf 8
      release$user:
      mov ebx, user_stack_top
      sub ebx, esp
      int 0x30
      release$back:
      say " user esp "
      hex ebx, 4`);
  });
}

function fastCalls(k: Kernel32): void {
  k.testCase('sysenter without a code segment', () => {
    k.code(writeMsr(sysenterMsrs.cs, '0'));
    k.user('sysenter');
  });
  k.testCase('sysenter and sysexit', () => {
    k.code(writeMsr(sysenterMsrs.cs, String(code0)));
    k.code(writeMsr(sysenterMsrs.esp, 'ring0_stack_top-0x100'));
    k.code(writeMsr(sysenterMsrs.eip, 'fast$entry'));
    k.user(
      `push 0x40ed7
       popf
       mov edx, fast$returned
       mov ecx, esp
       sysenter
       fast$entry:
       mov ebx, ${data0}
       mov ds, ebx
       pushf
       say " cs "
       mov ebx, cs
       hex ebx, 4
       say " ss "
       mov ebx, ss
       hex ebx, 4
       say " esp "
       mov ebx, ring0_stack_top
       sub ebx, esp
       hex ebx, 4
       say " flags "
       hex dword [esp]
       mov ebx, ${data3}
       mov ds, ebx
       sysexit
       fast$returned:
       mov ebx, cs
       mov edi, ss
       mov esi, user_stack_top
       sub esi, esp
       push 2
       popf`,
    );
    k.code('say " back cs "\nhex ebx, 4\nsay " ss "\nhex edi, 4\nsay " esp "\nhex esi, 4');
  });
  k.testCase('sysenter from ring 0', () => {
    k.code(writeMsr(sysenterMsrs.eip, 'fast$kernel'));
    k.code(`
      sti
      sysenter
      fast$kernel:
      pushf
      say " flags "
      hex dword [esp]`);
  });
  k.testCase('sysexit without a code segment', () => {
    k.code(writeMsr(sysenterMsrs.cs, '0'));
    k.code('sysexit');
  });
  k.testCase('the MSRs read back', () => {
    k.code(writeMsr(sysenterMsrs.cs, '0x1b'));
    for (const msr of Object.values(sysenterMsrs)) {
      k.code(
        `mov ecx, ${msr}\nrdmsr\n${msr === 0x174 ? '' : 'cmp eax, fast$kernel\nsetz al\nmovzx eax, al'}\nsay " "\nhex eax`,
      );
    }
  });
}

function build(which: 'plain' | 'manual'): Uint8Array {
  const k = new Kernel32();
  const { gdt } = k;
  const absent3 = gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 3, present: false })) | 3;
  const absent0 = gdt.add(segmentDescriptor({ type: segmentTypes.data, present: false }));
  const readOnly3 = gdt.add(segmentDescriptor({ type: segmentTypes.dataReadOnly, dpl: 3 })) | 3;
  const readOnly0 = gdt.add(segmentDescriptor({ type: segmentTypes.dataReadOnly }));
  const absentCode3 = gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3, present: false }));
  const absentCode0 = gdt.add(segmentDescriptor({ type: segmentTypes.code, present: false }));
  const conforming = gdt.add(segmentDescriptor({ type: segmentTypes.codeConforming }));
  const code1 = gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 1 })) | 1;
  const data1 = gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 1 })) | 1;
  const shortTss = gdt.add(systemDescriptor(systemTypes.tss, symbol('tss'), 8));
  k.asm.equ('conforming', conforming).equ('code1', code1).equ('data1', data1);

  if (which === 'plain') {
    forbidden(k);
    ioPrivilege(k);
    switches(k);
    stackFaultHandlers(k);
    badStacks(k, readOnly0, shortTss);
    callGates(k, absentCode0);
    outward(k, readOnly3, absentCode3);
    fastCalls(k);
    k.testCase('a conforming segment keeps the ring', () => {
      k.user(`call ${conforming}:gated3`);
      k.code('say " cs "\nhex ecx, 4');
    });
  } else {
    stackFaultHandlers(k);
    manualOnly(k, { absent3, absent0, conforming });
  }

  k.reserve('scratch', 0x1000);
  k.reserve('ring1_stack', 0x1000);
  k.reserve('ring1_stack_top', 0);
  k.data('result: dd 0');
  return k.finish().build();
}

export const privilege: SystemGuest = {
  name: 'privilege',
  subject: 'ring transitions by int, iret, call gate, far return and sysenter; what ring 3 may not do',
  expectation: { from: 'qemu' },
  build: () => build('plain'),
};

export const privilegeByManual: SystemGuest = {
  name: 'privilege-stacks',
  subject: 'stack switches: absent stacks, EXT in error codes; call gates to conforming code',
  expectation: {
    from: 'sdm',
    because: 'QEMU TCG raises #TS or #NP where #SS is due, never sets EXT, and loads CS with RPL 0',
  },
  build: () => build('manual'),
};
