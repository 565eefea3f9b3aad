/**
 * A 64-bit kernel for test guests: as {@link Kernel32}, in IA-32e mode with 4-level paging.
 *
 * The first 2 MiB are mapped one to one by 4 KiB pages, writable and for ring 3 too, and once more from
 * {@link highHalf}; {@link testRegion} and {@link largeRegion} are left to the test.
 */
import { symbol } from '../../assembler/index.ts';
import {
  gateDescriptor64,
  segmentDescriptor,
  segmentTypes,
  systemDescriptor64,
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
import { cr0Bits, cr4Bits, PageTables } from './paging.ts';

/**
 * Selectors every guest on {@link Kernel64} has, in the order SYSCALL, SYSRET, SYSENTER and SYSEXIT want them
 * (SDM vol. 3A, 5.8.7 and 5.8.8).
 */
export const code32 = 0x08;
export const code64 = 0x18;
export const data64 = 0x20;
export const userCode32 = 0x2b;
export const userData = 0x33;
export const userCode64 = 0x3b;
export const tssSelector = 0x48;

/** Model-specific registers (SDM vol. 4, table 2-2). */
export const msr = {
  sysenterCs: 0x174,
  sysenterEsp: 0x175,
  sysenterEip: 0x176,
  efer: 0xc000_0080,
  star: 0xc000_0081,
  lstar: 0xc000_0082,
  cstar: 0xc000_0083,
  fmask: 0xc000_0084,
  fsBase: 0xc000_0100,
  gsBase: 0xc000_0101,
  kernelGsBase: 0xc000_0102,
} as const;

/** Bits of IA32_EFER. */
export const eferBits = { sce: 1, lme: 0x100, lma: 0x400, nxe: 0x800 } as const;

/** Linear address of the second view of the first 2 MiB: the lowest address of the high canonical half. */
export const highHalf = 0xffff_8000_0000_0000n;

const registers = ['ax', 'cx', 'dx', 'bx', 'bp', 'si', 'di'].map((name) => `r${name}`);
for (let number = 8; number < 16; number++) registers.push(`r${number}`);

/** Offsets from RSP in a hook: the registers pushed last lie lowest. */
export const frame64 = (() => {
  const above = registers.length * 8;
  const saved = new Map(registers.map((name, index) => [name, above - 8 - index * 8]));
  return {
    saved: (name: string): number => saved.get(name) ?? 0,
    vector: above,
    error: above + 8,
    rip: above + 16,
    cs: above + 24,
    flags: above + 32,
    rsp: above + 40,
    ss: above + 48,
  };
})();

export class Kernel64 extends Kernel {
  readonly tables: PageTables;

  constructor() {
    super();
    this.tables = new PageTables(this, 8, 0x20_0000);
    this.reserve('pml4', 0x1000).reserve('directory_pointers', 0x1000);
    this.gdt.add([symbol('zero'), symbol('zero')]);
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code, long: true, big: false }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3 }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 3 }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.code, dpl: 3, long: true, big: false }));
    this.gdt.add(segmentDescriptor({ type: segmentTypes.data, dpl: 3 }));
    this.gdt.add(systemDescriptor64(systemTypes.tss, symbol('tss'), tssSize + bitmapBytes));
    this.code(`
      zero equ 0
      bits 32
      start:
        cli
        cld
        mov al, 0xff ; firmware may have left a timer running: mask both PICs
        out 0x21, al
        out 0xa1, al
        mov esp, stack_top
        lgdt [gdt_pointer]
        mov dword [pml4], directory_pointers+7
        mov dword [pml4+256*8], directory_pointers+7
        mov dword [directory_pointers], page_directory+7
        ${this.tables.fill()}
        mov eax, ${cr4Bits.pae | 0x200}
        mov cr4, eax
        mov eax, pml4
        mov cr3, eax
        mov ecx, ${msr.efer}
        rdmsr
        or eax, ${eferBits.lme | eferBits.nxe | eferBits.sce}
        wrmsr
        mov eax, cr0
        and eax, ~14
        or eax, ${cr0Bits.pg | cr0Bits.wp | 0x20}
        mov cr0, eax
        jmp ${code64}:start$long
      bits 64
      start$long:
        mov eax, ${data64}
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        mov ss, eax
        mov rsp, stack_top
        lidt [idt_pointer]
        mov eax, ${tssSelector}
        ltr ax
        xor eax, eax
        lldt ax
        push 2
        popf`);
  }

  override native(name: string): string {
    return `r${name}`;
  }

  override testCase(name: string, body: string | (() => void)): this {
    const base = this.unique('case');
    const resume = this.unique('resume');
    this.say(`${name}:`);
    this.code(`
      mov [case_rsp], rsp
      mov qword [case_resume], ${resume}
      mov qword [case_base], ${base}
      mov dword [reports_left], ${reportLimit}
      ${base}:`);
    this.emitBody(body);
    this.code(`
      say " ok"
      ${resume}:
      mov eax, ${data64}
      mov ds, eax
      mov ss, eax
      mov rsp, [case_rsp]
      mov es, eax
      mov fs, eax
      mov gs, eax
      push 2
      popf
      jmp fword [${resume}$far]
      ${resume}$far: dd ${resume}$done
      dw ${code64}
      ${resume}$done:
      mov dword [resume_mode], 0
      mov dword [resume_skip], 0
      say "\\n"`);
    return this;
  }

  override user(body: string | (() => void), flags = 0x2): this {
    return this.#enterUser(64, body, flags);
  }

  /** As {@link user}, in compatibility mode: `body` is 32-bit code. */
  user32(body: string | (() => void), flags = 0x2): this {
    return this.#enterUser(32, body, flags);
  }

  /** Puts the gate of vector `from` in the place of `vector`'s; its own restores it. Uses RAX. */
  borrowGate(vector: number, from: number): this {
    return this.code(`
      mov rax, [idt_initial+${from * 16}]
      mov [idt+${vector * 16}], rax
      mov rax, [idt_initial+${from * 16 + 8}]
      mov [idt+${vector * 16 + 8}], rax`);
  }

  #enterUser(bits: 32 | 64, body: string | (() => void), flags: number): this {
    const entry = this.unique('user');
    const back = this.unique('kernel');
    this.code(`
      mov [user_return_rsp], rsp
      mov qword [user_return_rip], ${back}
      push rax
      mov eax, ${userData}
      mov ds, eax
      mov es, eax
      pop rax
      push ${userData}
      push user_stack_top
      push ${flags}
      push ${bits === 64 ? userCode64 : userCode32}
      push ${entry}
      iretq
      bits ${bits}
      ${entry}:`);
    this.emitBody(body);
    return this.code(`
      int ${leaveUserVector}
      bits 64
      ${back}:`);
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
    const { vector, error, rip, cs } = frame64;
    this.code(`
      report:
        ${registers.map((name) => `push ${name}`).join('\n')}
        cld
        mov ebx, [rsp+${vector}]
        mov rax, [hooks+rbx*8]
        test rax, rax
        jz report$print
        jmp rax
      report$print:
        call report$line
        cmp dword [resume_mode], 0
        jz report$abandon
        dec dword [reports_left]
        jnz report$resume
        say " too many"
      report$abandon:
        mov rsp, [case_rsp]
        jmp qword [case_resume]
      report$resume:
        mov eax, [resume_skip]
        add [rsp+${rip}], rax
      report$return:
        ${registers
          .toReversed()
          .map((name) => `pop ${name}`)
          .join('\n')}
        add rsp, 16
        iretq

      report$line:
        say " "
        mov ebx, [rsp+${vector + 8}]
        cmp ebx, ${exceptionNames.length}
        jae report$interrupt
        mov rsi, [exception_names+rbx*8]
      report$name:
        lodsb
        test al, al
        jz report$named
        out 0xe9, al
        jmp report$name
      report$interrupt:
        say "int"
        hex rbx, 2
      report$named:
        mov eax, ${this.errorCodeMask}
        cmp ebx, 32
        jae report$no_error
        bt eax, ebx
        jnc report$no_error
        say "("
        hex qword [rsp+${error + 8}], 4
        say ")"
      report$no_error:
        say " ip="
        mov rax, [rsp+${rip + 8}]
        cmp rax, 0x100000
        jb report$absolute
        cmp rax, image_end
        jb report$relative
      report$absolute:
        hex rax, 16
        jmp report$cs
      report$relative:
        sub rax, [case_base]
        jns report$forward
        neg rax
        say "-"
        jmp report$offset
      report$forward:
        say "+"
      report$offset:
        hex rax, 4
      report$cs:
        mov eax, [rsp+${cs + 8}]
        cmp eax, ${code64}
        jz report$kernel_code
        say " cs="
        hex rax, 4
      report$kernel_code:
        cmp ebx, 14
        jnz report$done
        mov rax, cr2
        say " cr2="
        hex rax, 16
      report$done:
        ret

      leave_user:
        push rax
        mov eax, ${data64}
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        pop rax
        mov rsp, [user_return_rsp]
        jmp qword [user_return_rip]`);
  }

  #emitTables(): void {
    const { asm } = this;
    this.emitExceptionNames(8);
    for (const table of ['idt', 'idt_initial']) {
      asm.align(16).label(table);
      for (let vector = 0; vector < gateCount; vector++) {
        const leave = vector === leaveUserVector;
        const standard: GateOptions = {
          selector: code64,
          offset: symbol(leave ? 'leave_user' : `vector$${vector}`),
          type: systemTypes.interruptGate,
          dpl: leave || vector === 3 || vector === 4 ? 3 : 0,
        };
        asm.dd(...gateDescriptor64(this.gateOf(vector, standard)));
      }
    }
    asm.label('gdt').dd(...this.gdt.doublewords);
    asm.label('gdt_pointer').dw(this.gdt.limit).dq(symbol('gdt'));
    asm
      .label('idt_pointer')
      .dw(gateCount * 16 - 1)
      .dq(symbol('idt'));
    // The 64-bit TSS (SDM vol. 3A, 7.7): RSP0-2, IST1-7, bitmap offset.
    asm.align(128).label('tss').dd(0).dq(symbol('ring0_stack_top'), 0, 0, 0);
    asm.label('tss_ist').dq(0, 0, 0, 0, 0, 0, 0, 0).dw(0, tssSize).label('io_bitmap');
    for (let byte = 0; byte <= bitmapBytes; byte++) asm.db(0xff);
    this.code(`
      align 8
      case_rsp: dq 0
      case_resume: dq 0
      case_base: dq 0
      reports_left: dd 0
      resume_mode: dd 0
      resume_skip: dd 0
      align 8
      user_return_rsp: dq 0
      user_return_rip: dq 0
      hooks: space ${8 * gateCount}`);
    this.emitDataAndStacks();
  }
}

/** Code that writes a 64-bit value known when assembling into an MSR. Uses RAX, RCX and RDX. */
export function writeMsr(number: number, value: string): string {
  return `mov rax, ${value}
    mov rdx, rax
    shr rdx, 32
    mov ecx, ${number}
    wrmsr`;
}
