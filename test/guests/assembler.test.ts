import { Decoder, DecoderOptions } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import {
  add,
  Assembler,
  AssemblyError,
  far,
  mem,
  multibootImage,
  reg,
  reserveMultibootHeader,
  source,
  symbol,
} from '../../src-core/guests/assembler/index.ts';
import type { Bits } from '../../src-core/guests/assembler/index.ts';
import type { SystemGuest } from '../../src-core/guests/system/index.ts';
import { findQemu, guestEnded, runOnQemu, runOnSwitchyard } from './machines.ts';

function assemble(bits: Bits, text: string, origin = 0x1000): string {
  const assembler = new Assembler({ bits, origin });
  source(assembler, text);
  return Buffer.from(assembler.assemble().bytes).toString('hex');
}

/** Encodings checked against the opcode tables of the Intel SDM, volume 2. */
const encodings: readonly (readonly [Bits, string, string])[] = [
  [32, 'mov eax, 5', 'b805000000'],
  [32, 'mov eax, [0x1234]', 'a134120000'],
  [32, 'mov eax, [ebx+ecx*4+8]', '8b448b08'],
  [32, 'mov eax, [wide esp+4]', '8b842404000000'],
  [32, 'mov [fs:4], al', '64a204000000'],
  [32, 'add eax, 0xffffffff', '83c0ff'],
  [32, 'add ebx, 1000', '81c3e8030000'],
  [32, 'and al, ~0x80', '247f'],
  [32, 'push 5', '6a05'],
  [32, 'o16 push 5', '666a05'],
  [32, 'iret', 'cf'],
  [32, 'iretw', '66cf'],
  [32, 'jmp 8:0x1000', 'ea001000000800'],
  [32, 'rep movsb', 'f3a4'],
  [32, 'repne scasd', 'f2af'],
  [32, 'es a16 lodsb', '2667ac'],
  [32, 'lock cmpxchg8b [eax]', 'f00fc708'],
  [32, 'xchg esi, [esp]', '873424'],
  [32, 'shl eax, 1', 'd1e0'],
  [32, 'fdivp st1, st0', 'def9'],
  [32, 'lgdt [0x1000]', '0f011500100000'],
  [16, 'mov ax, [bx+si+2]', '8b4002'],
  [16, 'mov eax, [0x1234]', '66a13412'],
  [16, 'jmp 0x10:5', 'ea05001000'],
  [16, 'o32 jmp 0x10:0x1000', '66ea001000001000'],
  [16, 'pushf', '9c'],
  [64, 'mov rax, 5', '48c7c005000000'],
  [64, 'mov rax, 0x123456789abcdef0', '48b8f0debc9a78563412'],
  [64, 'mov rax, [0x1000]', '488b042500100000'],
  [64, 'mov rax, [rip+0x1000]', '488b05f9ffffff'],
  [64, 'mov r8d, [r9+r10*8+0x100]', '478b84d100010000'],
  [64, 'iret', '48cf'],
  [64, 'retfq', '48cb'],
  [64, 'cmpxchg16b [rdi]', '480fc70f'],
  [64, 'mov cr8, rax', '440f22c0'],
  [64, 'a32 stosd', '67ab'],
];

describe('encodings', () => {
  it.each(encodings)('%i-bit: %s', (bits, text, bytes) => {
    expect(assemble(bits, text)).toBe(bytes);
  });

  it('decodes to instructions of the same length', () => {
    for (const [bits, text, bytes] of encodings) {
      const decoder = new Decoder(bits, Buffer.from(bytes, 'hex'), DecoderOptions.None);
      const instruction = decoder.decode();
      expect(instruction.length, text).toBe(bytes.length / 2);
      instruction.free();
      decoder.free();
    }
  });
});

describe('the builder', () => {
  it('takes registers, memory, labels and far pointers', () => {
    const assembler = new Assembler({ origin: 0x1000, bits: 32 });
    assembler
      .emit('mov', reg.eax, 5)
      .emit('mov', mem(reg.ebx, { index: reg.ecx, scale: 4, disp: 8, size: 4 }), 1)
      .label('here')
      .emit('jmp', far(8, symbol('here')))
      .emit('mov', reg.esi, add(symbol('here'), 2));
    expect(Buffer.from(assembler.assemble().bytes).toString('hex')).toBe(
      'b805000000' + 'c7448b0801000000' + 'ea0d1000000800' + 'be0f100000',
    );
  });

  it('mixes code of all widths, data and other addresses in one image', () => {
    const assembler = new Assembler({ origin: 0x10_0000, bits: 16 });
    source(
      assembler,
      `mov ax, moved
       phase 0x600
       moved: db "ab", 0
       dephase
       bits 64
       mov rax, moved
       align 8
       dq moved+1
       size equ moved-0x600
       dw size, -1`,
    );
    const image = assembler.assemble();
    expect(Buffer.from(image.bytes).toString('hex')).toBe(
      'b80006' + '616200' + '48c7c000060000' + '000000' + '0106000000000000' + '0000ffff',
    );
    expect(image.symbols.get('moved')).toBe(0x600n);
  });

  it('reserves memory behind the image', () => {
    const assembler = new Assembler({ origin: 0x1000 });
    assembler.db(1).bss().align(16).label('zeroes').space(32);
    const image = assembler.assemble();
    expect(image.bytes.length).toBe(1);
    expect(image.bssSize).toBe(47);
    expect(image.symbols.get('zeroes')).toBe(0x1010n);
  });
});

describe('branches', () => {
  const nops = (count: number): string => Array.from({ length: count }, () => 'nop').join('\n');

  it('are as short as they can be', () => {
    expect(assemble(32, `jmp there\n${nops(127)}\nthere:`).slice(0, 4)).toBe('eb7f');
    expect(assemble(32, `jmp there\n${nops(128)}\nthere:`).slice(0, 10)).toBe('e980000000');
    expect(assemble(32, `there: ${nops(126)}\njz there`).slice(-4)).toBe('7480');
    expect(assemble(32, `there: ${nops(127)}\njz there`).slice(-12)).toBe('0f847bffffff');
  });

  it('grow together when one pushes another out of reach', () => {
    const code = assemble(32, `jmp far_one\njmp far_two\n${nops(124)}\nfar_one: ${nops(10)}\nfar_two:`);
    expect(code.startsWith('e9')).toBe(true);
    expect(code.slice(10, 12)).toBe('e9');
  });

  it('keep the size asked for', () => {
    expect(assemble(32, 'x: jmp near x')).toBe('e9fbffffff');
    expect(() => assemble(32, `jmp short there\n${nops(200)}\nthere:`)).toThrow(AssemblyError);
  });
});

describe('errors say what does not fit', () => {
  it.each([
    [32, 'mov eax, bx', /no form of mov takes these operands/],
    [32, 'mov [eax], 5', /say the size of the memory operand/],
    [32, 'frobnicate eax', /no instruction is called 'frobnicate'/],
    [32, 'syscall_nope', /no instruction is called/],
    [32, 'swapgs', /does not exist in 32-bit code/],
    [64, 'pusha', /does not exist in 64-bit code/],
    [32, 'mov al, 300', /no form of mov/],
    [32, 'jmp nowhere', /symbol 'nowhere' is not defined/],
    [32, 'x: nop\nx: nop', /defined twice/],
    [32, 'a equ b\nb equ a\ndd a', /defined by itself/],
    [32, 'db 256', /does not fit 8 bits/],
    [32, 'mov eax, [ebx+', /']' is missing|value is missing/],
    [32, 'align 3', /not a power of two/],
    [16, 'jmp 8:0x12345', /does not fit 16 bits/],
  ] as const)('%i-bit: %s', (bits, text, message) => {
    expect(() => assemble(bits, text)).toThrow(message);
  });
});

describe('Multiboot images', () => {
  function program(format: 'elf' | 'flat'): Uint8Array {
    const assembler = new Assembler();
    reserveMultibootHeader(assembler);
    source(
      assembler,
      `start: mov esp, stack_top
       push eax ; the loader's magic number
       mov ecx, 8
       digits: rol dword [esp], 4
       mov al, [esp]
       and al, 15
       add al, '0'
       cmp al, '9'
       jbe digit
       add al, 39
       digit: out 0xe9, al
       loop digits
       mov eax, [zeroes]
       add eax, 42
       out 0xf4, eax
       halt: hlt
       jmp halt`,
    );
    assembler.bss().align(4).label('zeroes').space(0x2000).label('stack_top');
    return multibootImage(assembler.assemble(), 'start', format);
  }

  it('refuses a program without a header or entry', () => {
    const assembler = new Assembler();
    source(assembler, 'start: nop');
    expect(() => multibootImage(assembler.assemble(), 'start', 'elf')).toThrow(/Multiboot header/);
    expect(() => multibootImage(assembler.assemble(), 'begin', 'elf')).toThrow(/'begin' is not defined/);
  });

  const qemu = findQemu();
  describe.each(['elf', 'flat'] as const)('%s', (format) => {
    const guest: SystemGuest = {
      name: `multiboot-${format}`,
      subject: 'the loader',
      expectation: { from: 'qemu' },
      build: () => program(format),
    };
    const expected = { status: guestEnded, output: '2badb002' };
    if (qemu === undefined) it.skip('starts on QEMU: this machine has no qemu-system-x86_64');
    else {
      it('starts on QEMU', async () => {
        expect(await runOnQemu(qemu, guest)).toMatchObject(expected);
      });
    }
    it('starts on Switchyard', async () => {
      expect(await runOnSwitchyard(guest)).toMatchObject(expected);
    });
  });
});
