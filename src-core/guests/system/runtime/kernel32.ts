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
  DescriptorTable,
  gateDescriptor,
  segmentDescriptor,
  segmentTypes,
  systemDescriptor,
  systemTypes,
} from './descriptors.ts';
import type { GateOptions } from './descriptors.ts';
import { Program } from './program.ts';

/** Selectors every guest on {@link Kernel32} has. The first four suit SYSENTER and SYSEXIT. */
export const code0 = 0x08;
export const data0 = 0x10;
export const code3 = 0x1b;
export const data3 = 0x23;
export const tssSelector = 0x28;

/** Vector by which ring 3 returns to the kernel. */
export const leaveUserVector = 0x30;

/** Vectors with an error code (SDM vol. 3A, table 6-1). */
export const errorCodeVectors: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17]);

/** Names of the exceptions, by vector; every other vector is an interrupt. */
export const exceptionNames = [
  ...['#DE', '#DB', 'NMI', '#BP', '#OF', '#BR', '#UD', '#NM', '#DF', '#9', '#TS', '#NP', '#SS', '#GP', '#PF'],
  ...['#15', '#MF', '#AC', '#MC', '#XM'],
] as const;

/** Vectors with a gate: 0x00 to 0x3f. */
export const gateCount = 0x40;

/** Reports after which a resumed case is given up. */
const reportLimit = 64;
/** Bytes of the TSS proper, before the I/O permission bitmap. */
const tssSize = 104;
/** Ports the bitmap covers: enough for the debug console, PIT and PICs. */
const bitmapBytes = 32;

export class Kernel32 extends Program {
  readonly gdt = new DescriptorTable();
  readonly #data: string[] = [];
  readonly #bss: { readonly label: string; readonly size: number; readonly align: number }[] = [];
  readonly #gates = new Map<number, GateOptions>();

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

  /** Assembly text for the data behind the code. */
  data(text: string): this {
    this.#data.push(text);
    return this;
  }

  /** Replaces the reporting gate of a vector. */
  gate(vector: number, options: GateOptions): this {
    this.#gates.set(vector, options);
    return this;
  }

  /**
   * One case: a line of output that begins with its name. A fault in `body` is reported on that line and ends
   * the case; a body that gets to its end prints "ok". Instruction pointers are reported relative to the
   * first instruction of `body`, or as they are where they lie outside the image. Segment registers, stack and flags are in order again afterwards.
   */
  testCase(name: string, body: string | (() => void)): this {
    const base = this.unique('case');
    const resume = this.unique('resume');
    this.say(`${name}:`);
    this.code(`
      mov dword [case_esp], esp
      mov dword [case_resume], ${resume}
      mov dword [case_base], ${base}
      mov dword [reports_left], ${reportLimit}
      ${base}:`);
    if (typeof body === 'string') this.code(body);
    else body();
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

  /** Runs `body` in ring 3 with the given EFLAGS, and goes on in ring 0 after it. Registers are kept. */
  user(body: string | (() => void), flags = 0x2): this {
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
    if (typeof body === 'string') this.code(body);
    else body();
    this.code(`
      int ${leaveUserVector}
      ${back}:`);
    return this;
  }

  /** Emits handlers, tables and stacks, and ends the program's flow with exit status 85. */
  finish(): this {
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
        mov eax, ${[...errorCodeVectors].reduce((mask, vector) => mask | (1 << vector), 0)}
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
    return gateDescriptor(this.#gates.get(vector) ?? standard);
  }

  #emitTables(): void {
    const { asm } = this;
    asm.align(8).label('exception_names');
    for (const name of exceptionNames) asm.dd(symbol(`name$${name}`));
    for (const name of exceptionNames) asm.label(`name$${name}`).ascii(name).db(0);
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
    for (const text of this.#data) this.code(text);
    asm.bss().align(4096);
    for (const stack of ['stack', 'ring0_stack', 'user_stack']) asm.space(0x2000).label(`${stack}_top`);
    for (const { label, size, align } of this.#bss) asm.align(align).label(label).space(size);
    asm.align(4096).label('image_end');
  }

  /** Reserves zeroed memory under a label; 4 KiB-aligned unless told otherwise. */
  reserve(label: string, size: number, align = 4096): this {
    this.#bss.push({ label, size, align });
    return this;
  }
}
