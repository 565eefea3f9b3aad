import { describe, expect, it } from 'vitest';
import { BootError, type BootPlan } from '../../src-core/firmware/boot.ts';
import { isLinux, parseLinux, planLinux } from '../../src-core/firmware/linux.ts';
import { fakeLinux } from './images.ts';

const MIB = 1024 * 1024;
const RAM = 64 * MIB;

function plan(
  kernel: Uint8Array,
  more: { initrd?: Uint8Array; commandLine?: string; ramSize?: number } = {},
): BootPlan {
  return planLinux({ kernel, commandLine: 'console=ttyS0', ramSize: RAM, acpiRsdp: 0xe0000, ...more });
}

function params(boot: BootPlan): DataView {
  const address = Number(boot.registers.gpr[6]);
  const image = boot.images.find((candidate) => candidate.address === address);
  if (!image) throw new Error('no boot_params');
  return new DataView(image.bytes.buffer, image.bytes.byteOffset);
}

function quads(boot: BootPlan, at: bigint): bigint[] {
  const image = boot.images.find(({ address }) => BigInt(address) === at);
  if (!image) throw new Error(`nothing at 0x${at.toString(16)}`);
  return [...new BigUint64Array(image.bytes.buffer)];
}

describe('Linux boot protocol', () => {
  it('enters 32-bit code with boot_params in ESI', () => {
    const boot = plan(fakeLinux());
    expect(boot.registers).toMatchObject({ rip: 0x100000n, cr0: 0x11, efer: 0, rflags: 2 });
    expect(boot.registers.segments[1]).toMatchObject({ selector: 0x10, attributes: 0xc09b });
    const view = params(boot);
    expect(view.getUint32(0x202, true)).toBe(0x53726448);
    expect(view.getUint8(0x210)).toBe(0xff);
    expect(view.getUint8(0x211) & 0x81).toBe(0x81);
    expect(view.getUint32(0x214, true)).toBe(0x100000);
    expect(Number(view.getBigUint64(0x70, true))).toBe(0xe0000);
    const line = boot.images.find(({ address }) => address === view.getUint32(0x228, true));
    expect(new TextDecoder().decode(line?.bytes)).toBe('console=ttyS0');
    expect(line?.zeros).toBe(1);
    expect(boot.images.find(({ address }) => address === 0x100000)?.bytes.length).toBe(8192);
  });

  it('gives the memory map', () => {
    const view = params(plan(fakeLinux()));
    const ranges = Array.from({ length: view.getUint8(0x1e8) }, (_, index) => {
      const at = 0x2d0 + 20 * index;
      return [
        Number(view.getBigUint64(at, true)),
        Number(view.getBigUint64(at + 8, true)),
        view.getUint32(at + 16, true),
      ];
    });
    expect(ranges).toContainEqual([0, 0x9fc00, 1]);
    expect(ranges).toContainEqual([MIB, RAM - MIB, 1]);
    expect(ranges).toContainEqual([0xe0000, 0x20000, 2]);
  });

  it('enters 64-bit code in long mode with the first 4 GiB mapped', () => {
    const boot = plan(fakeLinux({ xLoadFlags: 1 }));
    expect(boot.registers).toMatchObject({ rip: 0x100200n, cr4: 0x20, efer: 0x500 });
    expect(boot.registers.cr0 >>> 0).toBe(0x80000011);
    expect(boot.registers.segments[1]).toMatchObject({ attributes: 0xa09b });
    const entries = quads(boot, boot.registers.cr3);
    // The last 2 MiB below 4 GiB, walked by hand.
    const table = (entry: bigint): number => Number((entry & ~0xfffn) - boot.registers.cr3) >> 3;
    const [pml4 = 0n] = entries;
    expect(pml4 & 0xfffn).toBe(3n);
    const directory = table(entries[table(pml4) + 3] ?? 0n);
    expect(entries[directory + 511]).toBe(0xffe00083n);
    expect(quads(boot, boot.registers.gdt.base)).toEqual([0n, 0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn]);
  });

  it('places the initrd at the top of what kernel and memory allow', () => {
    const initrd = new Uint8Array(5000).fill(1);
    const high = plan(fakeLinux(), { initrd });
    const at = params(high).getUint32(0x218, true);
    expect(at).toBe(RAM - 8192);
    expect(params(high).getUint32(0x21c, true)).toBe(5000);
    const low = plan(fakeLinux({ initrdMax: 0x2ffffff }), { initrd });
    expect(params(low).getUint32(0x218, true)).toBe(0x3000000 - 8192);
  });

  it.each([
    ['old protocol', fakeLinux({ version: 0x0203 }), {}, /boot protocol 2\.03.*older than 2\.06/],
    ['zImage', fakeLinux({ loadFlags: 0 }), {}, /zImage/],
    ['cut header', fakeLinux().subarray(0, 0x230), {}, /cut short/],
    ['cut file', fakeLinux().subarray(0, 5000), {}, /cut short: 5000 of 9216 bytes/],
    ['large initrd', fakeLinux(), { initrd: new Uint8Array(60 * MIB) }, /initrd: has 60 MiB.*at least/],
    [
      'initrd above the limit',
      fakeLinux({ initrdMax: 0x17fffff }),
      { initrd: new Uint8Array(10 * MIB) },
      /below 24 MiB/,
    ],
    ['empty initrd', fakeLinux(), { initrd: new Uint8Array(0) }, /initrd: is empty/],
    ['little memory', fakeLinux(), { ramSize: 8 * MIB }, /needs memory up to 18 MiB/],
    ['long command line', fakeLinux(), { commandLine: 'x'.repeat(3000) }, /3000 bytes.*takes 2047/],
  ])('refuses %s', (_name, kernel, more, message) => {
    expect(() => plan(kernel, more)).toThrow(BootError);
    expect(() => plan(kernel, more)).toThrow(message);
  });

  it('recognizes and parses', () => {
    expect(isLinux(fakeLinux())).toBe(true);
    expect(isLinux(new Uint8Array(10))).toBe(false);
    expect(parseLinux(fakeLinux({ xLoadFlags: 1 }))).toMatchObject({
      is64: true,
      codeOffset: 1024,
      runtimeStart: 0x1000000,
    });
  });
});
