import { describe, expect, it } from 'vitest';
import { acpiTables } from '../../src-core/firmware/acpi.ts';
import { define, eisaId, integer, packageOf, scope } from '../../src-core/firmware/aml.ts';
import { smbiosTables } from '../../src-core/firmware/smbios.ts';

const BASE = 0xe0000;
const { bytes } = acpiTables(BASE, 256 * 1024 * 1024, [
  { base: 0x3f8, irq: 4 },
  { base: 0x2f8, irq: 3 },
]);
const view = new DataView(bytes.buffer);

function sum(from: number, length: number): number {
  return bytes.subarray(from, from + length).reduce((total, byte) => (total + byte) & 0xff, 0);
}
function signature(at: number, length = 4): string {
  return new TextDecoder().decode(bytes.subarray(at, at + length));
}
/** Follows a 32-bit physical pointer to an offset in the tables. */
function follow(at: number): number {
  return view.getUint32(at, true) - BASE;
}

describe('ACPI tables', () => {
  it('start with a valid RSDP', () => {
    expect(signature(0, 8)).toBe('RSD PTR ');
    expect(sum(0, 20)).toBe(0);
    expect(sum(0, 36)).toBe(0);
  });

  it('are all reachable and have right checksums', () => {
    const found: string[] = [];
    for (const [root, width] of [
      [follow(16), 4],
      [follow(24), 8],
    ] as const) {
      expect(sum(root, view.getUint32(root + 4, true))).toBe(0);
      const count = (view.getUint32(root + 4, true) - 36) / width;
      for (let i = 0; i < count; i++) {
        const table = follow(root + 36 + i * width);
        expect(sum(table, view.getUint32(table + 4, true))).toBe(0);
        found.push(signature(table));
      }
    }
    expect(found).toEqual(['FACP', 'APIC', 'FACP', 'APIC']);
  });

  it('point from the FADT to the DSDT, an aligned FACS, and the registers', () => {
    const fadt = follow(follow(16) + 36);
    const dsdt = follow(fadt + 40);
    expect(signature(dsdt)).toBe('DSDT');
    expect(sum(dsdt, view.getUint32(dsdt + 4, true))).toBe(0);
    const facs = follow(fadt + 36);
    expect(signature(facs)).toBe('FACS');
    expect((BASE + facs) % 64).toBe(0);
    expect(view.getUint32(fadt + 56, true)).toBe(0x600);
    expect(view.getUint32(fadt + 64, true)).toBe(0x604);
    expect(view.getUint32(fadt + 76, true)).toBe(0x608);
    expect(view.getUint32(fadt + 4, true)).toBe(244);
  });

  it('encode AML as the specification does', () => {
    expect(define('\\_S5_', packageOf(integer(0), integer(5)))).toEqual([
      0x08, 0x5c, 0x5f, 0x53, 0x35, 0x5f, 0x12, 0x05, 0x02, 0x00, 0x0a, 0x05,
    ]);
    expect(eisaId('PNP0A03')).toEqual([0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    const long = scope('ABCD', new Array<number>(100).fill(0xa3));
    // 100 + 4 name bytes + 2 length bytes = 106 = 0x6a.
    expect(long.slice(0, 3)).toEqual([0x10, 0x4a, 0x06]);
    expect(integer(0x1234)).toEqual([0x0b, 0x34, 0x12]);
    expect(() => define('lower', integer(0))).toThrow();
  });
});

describe('SMBIOS', () => {
  it('has right checksums and an end marker', () => {
    const { bytes: smbios } = smbiosTables(0xf0000, '0.1.0');
    const total = (from: number, to: number): number =>
      smbios.subarray(from, to).reduce((value, byte) => (value + byte) & 0xff, 0);
    expect(total(0, 31)).toBe(0);
    expect(total(16, 31)).toBe(0);
    const length = new DataView(smbios.buffer).getUint16(22, true);
    expect(smbios.length).toBe(32 + length);
    expect([...smbios.subarray(-6)]).toEqual([127, 4, 3, 0, 0, 0]);
  });
});
