import { describe, expect, it } from 'vitest';
import { checkFirmware } from '../../src-core/firmware/bios.ts';
import { BootError, type BootPlan, describeUnknownFile } from '../../src-core/firmware/boot.ts';
import { findMultibootHeader, planMultiboot } from '../../src-core/firmware/multiboot.ts';
import { fakeElf, fakeFlat } from './images.ts';

const MIB = 1024 * 1024;
const RAM = 16 * MIB;

function plan(kernel: Uint8Array, more: Partial<Parameters<typeof planMultiboot>[0]> = {}): BootPlan {
  return planMultiboot({ kernel, modules: [], commandLine: 'a b', ramSize: RAM, ...more });
}

/** Guest memory as the plan leaves it. */
function memory(boot: BootPlan): DataView {
  const bytes = new Uint8Array(RAM);
  for (const image of boot.images) bytes.set(image.bytes, image.address);
  return new DataView(bytes.buffer);
}

function text(view: DataView, at: number): string {
  let value = '';
  for (; view.getUint8(at) !== 0; at++) value += String.fromCharCode(view.getUint8(at));
  return value;
}

describe('Multiboot', () => {
  it('loads ELF segments and enters them as the specification says', () => {
    const boot = plan(fakeElf());
    expect(boot.registers.gpr[0]).toBe(0x2badb002n);
    expect(boot.registers).toMatchObject({ rip: 0x100010n, cr0: 0x11, rflags: 2, efer: 0 });
    expect(boot.images[0]).toMatchObject({ address: 0x100000, zeros: 0x1f00 });
    const view = memory(boot);
    const info = Number(boot.registers.gpr[3]);
    expect(view.getUint32(info, true)).toBe(0x245);
    expect(view.getUint32(info + 8, true)).toBe(15 * 1024);
    expect(text(view, view.getUint32(info + 16, true))).toBe('a b');
    expect(text(view, view.getUint32(info + 64, true))).toBe('Switchyard');
    let entry = view.getUint32(info + 48, true);
    const end = entry + view.getUint32(info + 44, true);
    const ranges: number[][] = [];
    for (; entry < end; entry += view.getUint32(entry, true) + 4) {
      ranges.push([
        Number(view.getBigUint64(entry + 4, true)),
        Number(view.getBigUint64(entry + 12, true)),
        view.getUint32(entry + 20, true),
      ]);
    }
    expect(ranges).toContainEqual([MIB, 15 * MIB, 1]);
  });

  it('enters at the physical address of a kernel linked high', () => {
    const segments = [{ virtual: 0xc0100000, physical: 0x100000, file: 64, memory: 64 }];
    expect(plan(fakeElf({ entry: 0xc0100008, segments })).registers.rip).toBe(0x100008n);
  });

  it('loads a flat kernel by the addresses in its header', () => {
    const boot = plan(fakeFlat());
    expect(boot.registers.rip).toBe(0x100020n);
    expect(boot.images[0]).toMatchObject({ address: 0x100000, zeros: 0x1000 });
  });

  it('passes modules on pages of their own', () => {
    const modules = [
      { bytes: new Uint8Array(100).fill(7), commandLine: 'one' },
      { bytes: new Uint8Array(5000).fill(8), commandLine: 'two x' },
    ];
    const boot = plan(fakeElf(), { modules });
    const view = memory(boot);
    const info = Number(boot.registers.gpr[3]);
    expect(view.getUint32(info, true) & 8).toBe(8);
    expect(view.getUint32(info + 20, true)).toBe(2);
    const table = view.getUint32(info + 24, true);
    const first = view.getUint32(table, true);
    const second = view.getUint32(table + 16, true);
    expect(first).toBe(0x102000);
    expect(second).toBe(0x103000);
    expect(view.getUint32(table + 4, true)).toBe(0x102064);
    expect(view.getUint8(second)).toBe(8);
    expect(text(view, view.getUint32(table + 24, true))).toBe('two x');
  });

  it('puts the information elsewhere when the kernel wants that memory', () => {
    const segments = [{ virtual: 0x8000, physical: 0x8000, file: 64, memory: 0x10000 }];
    const boot = plan(fakeElf({ entry: 0x8000, segments }));
    expect(Number(boot.registers.gpr[3])).toBe(MIB);
  });

  it.each([
    ['truncated ELF', fakeElf().subarray(0, 0x210), {}, /damaged ELF.*segment 0/],
    [
      'segments outside memory',
      fakeElf({
        entry: 0x40000000,
        segments: [{ virtual: 0x40000000, physical: 0x40000000, file: 8, memory: 8 }],
      }),
      {},
      /0x40000000.*outside of the machine's 16 MiB/,
    ],
    [
      'segments over the VGA hole',
      fakeElf({
        entry: 0x9f000,
        segments: [{ virtual: 0x9f000, physical: 0x9f000, file: 8, memory: 0x8000 }],
      }),
      {},
      /not all RAM/,
    ],
    ['entry outside', fakeElf({ entry: 0x5 }), {}, /entry 0x5/],
    [
      'segment shrinking in memory',
      fakeElf({ segments: [{ virtual: 0x100000, physical: 0x100000, file: 64, memory: 32 }] }),
      {},
      /larger in the file/,
    ],
    ['no segments', fakeElf({ segments: [] }), {}, /nothing to load/],
    ['unknown requirements', fakeElf({ flags: 0x43 }), {}, /flags 0x40/],
    ['truncated flat', fakeFlat().subarray(0, 0x800), {}, /cut short: 2048 of 4096/],
    ['no header', new Uint8Array(9000), {}, /no Multiboot header/],
    [
      'large module',
      fakeElf(),
      { modules: [{ bytes: new Uint8Array(RAM), commandLine: '' }] },
      /module 1: does not fit.*at least/,
    ],
  ])('refuses %s', (_name, kernel, more, message) => {
    expect(() => plan(kernel, more)).toThrow(BootError);
    expect(() => plan(kernel, more)).toThrow(message);
  });

  it('refuses a 64-bit ELF and one for another processor', () => {
    const elf64 = fakeElf();
    elf64[4] = 2;
    expect(() => plan(elf64)).toThrow(/64-bit ELF/);
    const arm = fakeElf();
    arm[18] = 40;
    expect(() => plan(arm)).toThrow(/another processor/);
  });

  it('finds headers only where they may be', () => {
    expect(findMultibootHeader(fakeElf())).toBe(0x180);
    const bad = fakeElf();
    bad[0x188] = 0;
    expect(findMultibootHeader(bad)).toBe(-1);
  });
});

describe('files that are something else', () => {
  it.each([
    [new Uint8Array(0), /empty/],
    [new TextEncoder().encode('#!/bin/sh\necho hello\n'), /text file/],
    [Uint8Array.of(0x1f, 0x8b, 8, 0), /gzip/],
    [Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 2), /ELF/],
    [Uint8Array.of(0, 1, 2, 3), /neither/],
  ])('are described', (bytes, pattern) => {
    expect(describeUnknownFile(bytes)).toMatch(pattern);
  });

  it('are refused as firmware', () => {
    expect(() => checkFirmware(new TextEncoder().encode('hello'))).toThrow(/firmware: is a text file/);
    expect(() => checkFirmware(new Uint8Array(5000).fill(0xf4))).toThrow(/5000 bytes/);
    expect(() => checkFirmware(new Uint8Array(65536))).toThrow(/reset vector/);
    const good = new Uint8Array(65536);
    good[65536 - 16] = 0xea;
    expect(() => checkFirmware(good)).not.toThrow();
  });
});
