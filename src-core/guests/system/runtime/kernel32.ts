/**
 * A protected-mode kernel for test guests: flat segments, an IDT whose handlers report what happened, ring 3
 * entered and left at will, and test cases that go on after a fault.
 *
 * Memory: everything lies at 1 MiB and above, unpaged unless a guest turns paging on. `user_stack_top`,
 * `ring0_stack_top` (TSS.ESP0) and `stack_top` are three different stacks.
 */
import { symbol } from '../../assembler/index.ts';
import type { Expression } from '../../assembler/index.ts';
import {
  gateDescriptor,
  segmentDescriptor,
  segmentTypes,
  systemDescriptor,
  systemTypes,
} from './descriptors.ts';
import type { GateOptions } from './descriptors.ts';
import {
  bitmapBytes,
  errorCodeVectors,
  exceptionNames,
  gateCount,
  Kernel,
  leaveUserVector,
  reportLimit,
  tssSize,
} from './kernel.ts';

/** Selectors every guest on {@link Kernel32} has. The first four suit SYSENTER and SYSEXIT. */
export const code0 = 0x08;
export const data0 = 0x10;
export const code3 = 0x1b;
export const data3 = 0x23;
export const tssSelector = 0x28;

export class Kernel32 extends Kernel {
  constructor() {
    super();
    this.gdt.add([symbol('zero'), symbol('zero')]);
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3 }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 3 }));
    this.gdt.add(systemDescriptor(systemTypes.tss, symbol('tss'), tssSize + bitmapBytes));
    this.code(`
      zero equ 0
      start:
        cli
        cld
        mov al, 0xff ; firmware may have left a timer running: mask both PICs
        out 0x21, al
        out 0xa1, al
        mov esp, stack_top
        lgdt [gdt_pointer]
        jmp ${code0}:start$flat
      start$flat:
        mov eax, ${data0}
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        mov ss, eax
        lidt [idt_pointer]
        mov ax, ${tssSelector}
        ltr ax
        xor eax, eax
        lldt ax
        mov cr4, eax
        push 2
        popf`);
  }

  override native(name: string): string {
    return `e${name}`;
  }

  override testCase(name: string, body: string | (() => void)): this {
    const base = this.unique('case');
    const resume = this.unique('resume');
    this.say(`${name}:`);
    this.code(`
      mov dword [case_esp], esp
      mov dword [case_resume], ${resume}
      mov dword [case_base], ${base}
      mov dword [reports_left], ${reportLimit}
      ${base}:`);
    this.emitBody(body);
    this.code(`
      say " ok"
      ${resume}:
      mov eax, ${data0}
      mov ds, eax
      mov ss, eax
      mov esp, [case_esp]
      mov es, eax
      mov fs, eax
      mov gs, eax
      push 2
      popf
      jmp ${code0}:${resume}$done
      ${resume}$done:
      mov dword [resume_mode], 0
      mov dword [resume_skip], 0
      say "\\n"`);
    return this;
  }

  /** Puts the gate of vector `from` in the place of `vector`'s. Uses EAX. */
  borrowGate(vector: number, from: number): this {
    return this.code(`
      mov eax, [idt_initial+${from * 8}]
      mov [idt+${vector * 8}], eax
      mov eax, [idt_initial+${from * 8 + 4}]
      mov [idt+${vector * 8 + 4}], eax`);
  }

  /** Undoes {@link borrowGate}. */
  restoreGate(vector: number): this {
    return this.borrowGate(vector, vector);
  }

  override user(body: string | (() => void), flags = 0x2): this {
    const entry = this.unique('user');
    const back = this.unique('kernel');
    this.code(`
      mov dword [user_return_esp], esp
      mov dword [user_return_eip], ${back}
      push eax
      mov eax, ${data3}
      mov ds, eax
      mov es, eax
      pop eax
      push ${data3}
      push user_stack_top
      push ${flags}
      push ${code3}
      push ${entry}
      iret
      ${entry}:`);
    this.emitBody(body);
    this.code(`
      int ${leaveUserVector}
      ${back}:`);
    return this;
  }

  override finish(): this {
    this.code(`
      say "end\\n"
      exit 42`);
    this.#emitHandlers();
    this.#emitTables();
    return this;
  }

  #emitHandlers(): void {
    for (let vector = 0; vector < gateCount; vector++) {
      this.code(`vector$${vector}:
        ${errorCodeVectors.has(vector) ? '' : 'push 0'}
        push ${vector}
        jmp report`);
    }
    // Frame above pushad and four segment registers: vector 48, error 52, eip 56, cs 60, eflags 64,
    // esp 68, ss 72 (and es, ds, fs, gs from virtual-8086 mode).
    this.code(`
      report:
        pushad
        push ds
        push es
        push fs
        push gs
        cld
        mov eax, ${data0}
        mov ds, eax
        mov es, eax
        mov ebx, [esp+48]
        mov eax, [hooks+ebx*4]
        test eax, eax
        jz report$print
        jmp eax
      report$print:
        call report$line
        cmp dword [resume_mode], 0
        jz report$abandon
        dec dword [reports_left]
        jnz report$resume
        say " too many"
      report$abandon:
        mov esp, [case_esp]
        jmp dword [case_resume]
      report$resume:
        mov eax, [resume_skip]
        add [esp+56], eax
      report$return:
        pop gs
        pop fs
        pop es
        pop ds
        popad
        add esp, 8
        iret

      report$line:
        say " "
        mov ebx, [esp+52]
        cmp ebx, ${exceptionNames.length}
        jae report$interrupt
        mov esi, [exception_names+ebx*4]
      report$name:
        lodsb
        test al, al
        jz report$named
        out 0xe9, al
        jmp report$name
      report$interrupt:
        say "int"
        hex ebx, 2
      report$named:
        mov eax, ${this.errorCodeMask}
        cmp ebx, 32
        jae report$no_error
        bt eax, ebx
        jnc report$no_error
        say "("
        hex dword [esp+56], 4
        say ")"
      report$no_error:
        say " ip="
        mov eax, [esp+60]
        cmp eax, 0x100000
        jb report$absolute
        cmp eax, image_end
        jb report$relative
      report$absolute:
        hex eax
        jmp report$cs
      report$relative:
        sub eax, [case_base]
        jns report$forward
        neg eax
        say "-"
        jmp report$offset
      report$forward:
        say "+"
      report$offset:
        hex eax, 4
      report$cs:
        mov eax, [esp+64]
        cmp eax, ${code0}
        jz report$kernel_code
        say " cs="
        hex eax, 4
      report$kernel_code:
        test dword [esp+68], 0x20000
        jz report$not_v86
        say " vm"
      report$not_v86:
        cmp ebx, 14
        jnz report$done
        mov eax, cr2
        say " cr2="
        hex eax
      report$done:
        ret

      leave_user:
        push eax
        mov eax, ${data0}
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        pop eax
        mov esp, [user_return_esp]
        jmp dword [user_return_eip]
      `);
  }

  #gateOf(vector: number): readonly Expression[] {
    const leave = vector === leaveUserVector;
    const standard: GateOptions = {
      selector: code0,
      offset: symbol(leave ? 'leave_user' : `vector$${vector}`),
      type: systemTypes.interruptGate,
      dpl: leave || vector === 3 || vector === 4 ? 3 : 0,
    };
    return gateDescriptor(this.gateOf(vector, standard));
  }

  #emitTables(): void {
    const { asm } = this;
    this.emitExceptionNames(4);
    for (const table of ['idt', 'idt_initial']) {
      asm.align(16).label(table);
      for (let vector = 0; vector < gateCount; vector++) asm.dd(...this.#gateOf(vector));
    }
    asm.label('gdt').dd(...this.gdt.doublewords);
    asm.label('gdt_pointer').dw(this.gdt.limit).dd(symbol('gdt'));
    asm
      .label('idt_pointer')
      .dw(gateCount * 8 - 1)
      .dd(symbol('idt'));
    asm.align(128).label('tss').dd(0, symbol('ring0_stack_top'), data0);
    asm
      .space(tssSize - 12 - 4)
      .dw(0, tssSize)
      .label('io_bitmap');
    for (let byte = 0; byte <= bitmapBytes; byte++) asm.db(0xff);
    this.code(`
      align 4
      case_esp: dd 0
      case_resume: dd 0
      case_base: dd 0
      reports_left: dd 0
      resume_mode: dd 0
      resume_skip: dd 0
      user_return_esp: dd 0
      user_return_eip: dd 0
      hooks: space ${4 * gateCount}`);
    this.emitDataAndStacks();
  }
}
