import { beforeEach, describe, expect, it } from 'vitest';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { Assembler, source } from '../../src-core/guests/assembler/index.ts';
import { CR0_PE, CR0_PG, CR4_PAE } from '../../src-core/x86/bits.ts';
import type { Cpu } from '../../src-core/x86/cpu.ts';
import { CR0, CR3, CR4, CTL, DR6, EFER, MSR, SEG_FIELD, SS } from '../../src-core/x86/layout.ts';
import { loadLdtr } from '../../src-core/x86/segmentation.ts';
import { AT, gate, SEL, World } from './tables.ts';

const CODE = 0x8000;
const PAGES = 0x80000;

let world: World;
let cpu: Cpu;
let engine: SoftwareEngine;
beforeEach(() => {
  world = new World();
  ({ cpu } = world);
  engine = new SoftwareEngine({ arena: cpu.arena, cpu });
});

/** Assembles `text` to CODE and runs it until HLT at level 0. Returns the labels. */
function run(bits: 16 | 32 | 64, text: string): Map<string, bigint> {
  const assembler = new Assembler({ origin: CODE, bits });
  source(assembler, text);
  const { bytes, symbols } = assembler.assemble();
  cpu.arena.ram.set(bytes, CODE);
  for (const [name, address] of symbols) {
    const vector = /^vector_([0-9a-f]+)$/.exec(name)?.[1];
    if (vector === undefined) continue;
    const number = parseInt(vector, 16);
    if (cpu.longMode) world.setLongGate(number, gate(SEL.code64, Number(address), 14, 3));
    else if (cpu.protectedMode) world.setGate(number, gate(SEL.code0, Number(address), 14, 3));
    else world.write32(number * 4, Number(address));
  }
  cpu.set32(CTL.halted, 0);
  cpu.rip = BigInt(CODE);
  expect(engine.run(100_000)).toBe('halt');
  return new Map(symbols);
}
const gpr = (index: number): number => Number(cpu.gpr(index));
const [AX, CX, DX, BX, SP, BP, SI, DI] = [0, 1, 2, 3, 4, 5, 6, 7];

/** 4-level paging, the first 16 MiB mapped to themselves for everyone. */
function enterLongMode(level: 0 | 3): void {
  world.write32(PAGES, (PAGES + 0x1000) | 7, 0);
  world.write32(PAGES + 0x1000, (PAGES + 0x2000) | 7, 0);
  for (let i = 0; i < 8; i++) world.write32(PAGES + 0x2000 + i * 8, (i << 21) | 0x87, 0);
  world.enterLong(level);
  cpu.set64(CR3, BigInt(PAGES));
  cpu.set64(CR4, BigInt(CR4_PAE));
  cpu.set64(CR0, BigInt((CR0_PE | CR0_PG | 0x10) >>> 0));
  cpu.set64(EFER, 0x501n);
  cpu.stateReplaced();
}

describe('real-address mode', () => {
  beforeEach(() => {
    world.enterReal();
    for (const index of [0, 1, 2, 3, 4, 5]) {
      cpu.setSegment(index, { selector: 0, attributes: 0x93, limit: 0xffff, base: 0n });
    }
    cpu.setGpr(SP, 0x4000n);
    cpu.updateMode();
  });

  it('interrupts, far calls, far pointers and segment registers', () => {
    run(
      16,
      `
      int 0x40
      push 0x1234
      pop fs
      mov ax, fs
      les di, [pointer]
      lfs esi, [pointer32]
      mov dx, es
      db 0x9a
      dw routine, 0
      mov bp, sp
      jmp 0:finish
      hlt
    pointer: dw 0x5678, 0xb800
    pointer32: dd 0xabcd1234
      dw 0x2222
    vector_40:
      inc bx
      iret
    routine:
      inc bx
      retf
    finish:
      inc bx
      hlt`,
    );
    expect([gpr(AX), gpr(BX), gpr(DX), gpr(DI), gpr(SI)]).toEqual([0x1234, 3, 0xb800, 0x5678, 0xabcd1234]);
    expect([gpr(SP), gpr(BP)]).toEqual([0x4000, 0x4000]);
    expect(cpu.segment(4).base).toBe(0x22220n);
  });

  it('ports, one by one and as strings', () => {
    const written: [number, number, number][] = [];
    cpu.ports.register(0x300, 0x30f, 'test', {
      readPort: (port, size) => (size === 1 ? port & 0xff : 0x10000 * size + port),
      writePort: (port, size, value) => written.push([port, size, value]),
    });
    run(
      16,
      `
      mov dx, 0x302
      in al, dx
      out dx, ax
      in eax, dx
      mov bx, ax
      mov cx, 3
      mov si, text
      rep outsb
      mov di, 0x6000
      mov cx, 2
      rep insw
      insb
      hlt
    text: db "abc"`,
    );
    expect(written).toEqual([
      [0x302, 2, 0x02],
      [0x302, 1, 0x61],
      [0x302, 1, 0x62],
      [0x302, 1, 0x63],
    ]);
    expect(gpr(AX)).toBe(0x40302);
    expect(world.read16(0x6000, 3)).toEqual([0x302, 0x302, 0x02]);
    expect([gpr(CX), gpr(DI)]).toEqual([0, 0x6005]);
    const { details, reasons } = world.vcpu.accounting.snapshot();
    expect(details['portIo']).toEqual({ '0x302': 9 });
    expect(reasons['portIo']?.count).toBe(9);
  });

  it('protected-mode instructions are undefined', () => {
    for (const text of ['verr ax', 'lar ax, bx', 'lldt ax', 'str ax', 'arpl ax, bx']) {
      run(16, `${text}\nhlt\nvector_6: mov bx, 0x606\nhlt`);
      expect([text, gpr(BX) & 0xffff]).toEqual([text, 0x606]);
      cpu.setGpr(BX, 0n);
    }
  });
});

describe('32-bit protected mode', () => {
  it('goes to level 3 and back by IRET, INT n, SYSEXIT, SYSENTER and call gates', () => {
    cpu.set64(MSR.sysenterCs, BigInt(SEL.code0));
    cpu.set64(MSR.sysenterEsp, 0xf000n);
    world.setDescriptor(SEL.gate, gate(SEL.code0, 0, 12, 3, 1));
    const text = `
      mov eax, by_gate
      mov [${AT.gdt + SEL.gate}], ax
      mov dword [${AT.stack3 - 8}], 0
      push ${SEL.data3 | 3}
      push ${AT.stack3}
      push 0x202
      push ${SEL.code3 | 3}
      push user
      iret
    user:
      int 0x80
      push 77
      db 0x9a
      dd 0
      dw ${SEL.gate}
      mov ecx, esp
      mov edx, resumed
      mov eax, cs
      sysenter
    resumed:
      or ebx, 0x100
      mov eax, ds
      int 0x81
    vector_80:
      or ebx, 1
      mov eax, ${SEL.data0}
      mov ds, eax
      iret
    by_gate:
      or ebx, 2
      mov esi, [esp+8]
      retf 4
    by_sysenter:
      or ebx, 4
      mov edi, esp
      mov ecx, ${AT.stack3}
      sysexit
    vector_81:
      or ebx, 0x200
      mov ebp, cs
      hlt`;
    const assembler = new Assembler({ origin: CODE, bits: 32 });
    source(assembler, text);
    cpu.set64(MSR.sysenterEip, assembler.assemble().symbols.get('by_sysenter') ?? 0n);
    world.setDescriptor(SEL.code3, [0x0000ffff, 0x00cffb00]);
    // SYSEXIT takes CS and SS 16 and 24 above SYSENTER_CS: code3 and data3.
    run(32, text);
    expect(gpr(BX)).toBe(0x307);
    expect(gpr(SI)).toBe(77);
    expect(gpr(DI)).toBe(0xf000);
    expect(gpr(BP)).toBe(SEL.code0);
    // DS was level 0's on the way back to level 3.
    expect(gpr(AX)).toBe(0);
    expect(cpu.cpl).toBe(0);
  });

  it('looks at descriptors and tables', () => {
    loadLdtr(cpu, SEL.ldt);
    run(
      32,
      `
      mov eax, ${SEL.code3}
      lar ebx, eax
      jnz bad
      lsl ecx, eax
      jnz bad
      verr ax
      jnz bad
      verw ax
      jz bad
      mov edx, 0xaaaa0000
      lar dx, ax
      mov esi, ${SEL.data3}
      mov edi, 3
      arpl si, di
      jnz bad
      sgdt [0x6000]
      sidt [0x6008]
      sldt eax
      mov [0x6010], ax
      str word [0x6012]
      mov ebp, 0x12345678
      mov bp, ss
      push fs
      pop gs
      lss esp, [farstack]
      hlt
    bad:
      mov ebx, 0xdead
      hlt
    farstack: dd 0x7000
      dw ${SEL.small}`,
    );
    expect([gpr(BX), gpr(CX), gpr(DX), gpr(SI)]).toEqual([0xc0fb00, 0xffffffff, 0xaaaafb00, SEL.data3 | 3]);
    expect(world.read16(0x6000, 10)).toEqual([0xef, AT.gdt, 0, 0, 0x7ff, AT.idt, 0, 0, SEL.ldt, SEL.tss]);
    expect([gpr(BP), gpr(SP)]).toEqual([0x12340000 | SEL.data0, 0x7000]);
    expect(cpu.get32(SS + SEG_FIELD.selector)).toBe(SEL.small);
  });

  it('a fault leaves the instruction to be executed again', () => {
    // POP DS finds an absent segment, the handler makes it present.
    run(
      32,
      `
      push ${SEL.absentData}
      mov esi, esp
      pop ds
      mov eax, ds
      hlt
    vector_b:
      mov edi, [esp]
      mov ebx, esp
      or byte [${AT.gdt + SEL.absentData + 5}], 0x80
      add esp, 4
      iret`,
    );
    expect([gpr(AX), gpr(DI)]).toEqual([SEL.absentData, SEL.absentData]);
    expect(gpr(SP)).toBe(gpr(SI) + 4);
  });

  it('STI and MOV SS hold interrupts off for one instruction', () => {
    let pending = true;
    Object.assign(cpu.interrupts, {
      hasInterrupt: () => pending,
      acknowledge: () => {
        pending = false;
        return 0x50;
      },
    });
    const symbols = run(
      32,
      `
      mov eax, ss
      sti
      mov ss, eax
      mov ebx, 1
    here:
      mov ebx, 2
      hlt
    vector_50:
      mov ecx, [esp]
      mov edx, ebx
      hlt`,
    );
    expect(gpr(DX)).toBe(1);
    expect(gpr(CX)).toBe(Number(symbols.get('here')));
  });

  it.each([0, 30, 31, 32])(
    'STI, HLT waits for an interrupt and is left by it, %i instructions into a block',
    (nops) => {
      let pending = false;
      Object.assign(cpu.interrupts, {
        hasInterrupt: () => pending,
        acknowledge: () => {
          pending = false;
          return 0x50;
        },
      });
      const text = `
      ${'nop\n'.repeat(nops)}
      sti
      hlt
    after:
      cli
      hlt
    vector_50:
      mov ecx, [esp]
      iret`;
      const symbols = run(32, text);
      expect(gpr(CX)).toBe(0);
      pending = true;
      expect(engine.run(1000)).toBe('halt');
      expect([gpr(CX), cpu.rflags & 0x200]).toEqual([Number(symbols.get('after')), 0]);
      cpu.setGpr(CX, 0n);
      pending = true;
      run(32, text);
      expect([gpr(CX), cpu.rflags & 0x200]).toEqual([Number(symbols.get('after')), 0]);
    },
  );

  it('POPF that sets IF lets a waiting interrupt in at once', () => {
    Object.assign(cpu.interrupts, { hasInterrupt: () => true, acknowledge: () => 0x50 });
    const symbols = run(
      32,
      `
      pushf
      cli
      or dword [esp], 0x200
      popf
    after:
      inc ebx
      hlt
    vector_50:
      mov ecx, [esp]
      mov edx, [esp+8]
      hlt`,
    );
    expect([gpr(CX), gpr(BX), gpr(DX) & 0x200]).toEqual([Number(symbols.get('after')), 0, 0x200]);
  });

  it('PUSHF and POPF carry every flag', () => {
    run(
      32,
      `
      push 0x2448d7
      popf
      pushf
      pop eax
      push 0
      popf
      pushf
      pop ebx
      push 0xd5
      popf
      setc cl
      setz ch
      hlt`,
    );
    expect([gpr(AX), gpr(BX), gpr(CX)]).toEqual([0x2448d7, 2, 0x101]);
  });

  it('single-steps, but not over INT n', () => {
    run(
      32,
      `
      pushf
      or dword [esp], 0x100
      popf
      nop
      int 0x60
      nop
      push 2
      popf
      hlt
    vector_1:
      inc ebx
      mov eax, [esp]
      iret
    vector_60:
      inc ecx
      iret`,
    );
    // After both NOPs, PUSH and the last POPF, which has TF set before it.
    expect([gpr(BX), gpr(CX)]).toEqual([4, 1]);
    expect(cpu.get32(DR6) & 0x4000).toBe(0x4000);
  });

  it('INTO, INT3 and INT1 push the address of the next instruction', () => {
    const symbols = run(
      32,
      `
      int3
    after3:
      mov edi, 0x7fffffff
      into
      inc edi
      into
    after4:
      db 0xf1
    after1:
      hlt
    vector_3: mov eax, [esp]
      iret
    vector_4: mov ebx, [esp]
      iret
    vector_1: mov ecx, [esp]
      iret`,
    );
    expect([gpr(AX), gpr(BX), gpr(CX)]).toEqual(
      ['after3', 'after4', 'after1'].map((name) => Number(symbols.get(name))),
    );
  });

  it('goes to 16-bit code and back', () => {
    run(
      32,
      `
      db 0x66, 0x9a
      dw sixteen, ${SEL.code16}
      mov ecx, esp
      hlt
      bits 16
    sixteen:
      mov bx, 0x5678
      mov esi, esp
      retf`,
    );
    expect([gpr(BX), gpr(SI)]).toEqual([0x5678, gpr(CX) - 4]);
    expect(cpu.segment(1).selector).toBe(SEL.code0);
  });
});

describe('virtual-8086 mode', () => {
  it('runs under a monitor that emulates INT n', () => {
    run(
      32,
      `
      push 0x1000
      push 0x1000
      push 0x1000
      push 0x1000
      push 0x1000
      push 0x800
      push 0x20002
      push 0
      push v86
      iret
    vector_d:
      mov ecx, [esp+4]
      movzx edx, word [esp+8]
      mov eax, [esp+12]
      cmp word [ss:ecx], 0x21cd
      jne stop
      add word [esp+4], 2
      add esp, 4
      iret
    stop:
      mov esi, [esp+4]
      mov edi, [esp+16]
      hlt
      bits 16
    v86:
      mov ax, 0xb800
      mov es, ax
      push es
      int 0x21
      mov bx, ds
      cli
      hlt`,
    );
    expect(gpr(BX)).toBe(0x1000);
    expect(world.read16(0x10000 + 0x7fe, 1)).toEqual([0xb800]);
    expect(gpr(DI)).toBe(0x7fe);
    expect(gpr(AX) & 0x20000).toBe(0x20000);
  });
});

describe('64-bit mode', () => {
  it('SYSCALL, SYSRET, INT n, IRETQ and faults', () => {
    enterLongMode(0);
    // SYSRET loads SS = STAR[63:48] + 8, CS = + 16.
    world.setDescriptor(SEL.gate, [0x0000ffff, 0x00cff300]);
    world.setDescriptor(SEL.gate2, [0x0000ffff, 0x00affb00]);
    cpu.set64(MSR.star, (BigInt(SEL.gate - 8) << 48n) | (BigInt(SEL.code64) << 32n));
    cpu.set64(MSR.sfmask, 0x700n);
    const text = `
      push ${SEL.data3 | 3}
      push ${AT.stack3}
      push 0x302
      push ${SEL.code64User | 3}
      push user
      iretq
    user:
      nop
      mov rsi, 0x123456789abcdef0
      push rsi
      syscall
      mov r9, r11
      int 0x40
      pop r10
      hlt
    entry:
      inc ebx
      and r11, ~0x100
      db 0x48
      sysret
    vector_40:
      mov r12, [rsp+24]
      inc ebx
      iretq
    vector_1:
      inc ebp
      iretq
    vector_d:
      mov r13, [rsp]
      mov r14, [rsp+8]
      hlt`;
    const assembler = new Assembler({ origin: CODE, bits: 64 });
    source(assembler, text);
    cpu.set64(MSR.lstar, assembler.assemble().symbols.get('entry') ?? 0n);
    run(64, text);
    expect(gpr(BX)).toBe(2);
    expect(cpu.gpr(10)).toBe(0x123456789abcdef0n);
    // TF was off for the kernel and masked out of R11 there.
    expect(cpu.gpr(9)).toBe(0x202n);
    expect(gpr(12)).toBe(AT.stack3 - 8);
    expect(gpr(13)).toBe(0);
  });

  it('goes through compatibility mode', () => {
    enterLongMode(0);
    run(
      64,
      `
      push ${SEL.code0}
      push compat
      db 0x48
      retf
    back:
      mov rcx, 0x1122334455667788
      hlt
      bits 32
    compat:
      mov eax, 0x12345678
      dec eax
      jmp ${SEL.code64}:back
      hlt`,
    );
    expect(gpr(AX)).toBe(0x12345677);
    expect(cpu.gpr(CX)).toBe(0x1122334455667788n);
    expect(cpu.code64).toBe(true);
  });
});
