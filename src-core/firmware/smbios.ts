import type { MemoryImage } from './boot.ts';

/** One structure (SMBIOS specification 2.8, chapter 6): header, formatted fields, then its strings. */
function structure(
  type: number,
  handle: number,
  fields: readonly number[],
  strings: readonly string[],
): number[] {
  const encoder = new TextEncoder();
  const text = strings.flatMap((value) => [...encoder.encode(value), 0]);
  return [
    type,
    4 + fields.length,
    handle & 0xff,
    handle >> 8,
    ...fields,
    ...(text.length > 0 ? text : [0]),
    0,
  ];
}

function sum(bytes: Uint8Array, from: number, to: number): number {
  let total = 0;
  for (let i = from; i < to; i++) total += bytes[i] ?? 0;
  return total & 0xff;
}

/** A minimal SMBIOS: who made firmware and system. The entry point stands at `base`, a multiple of 16 in 0xF0000..0xFFFFF. */
export function smbiosTables(base: number, version: string): MemoryImage {
  const uuid = new Array<number>(16).fill(0);
  const structures = [
    // BIOS: 64 KiB at F000h; characteristics "not supported", extended: ACPI, virtual machine.
    structure(
      0,
      0,
      [1, 2, 0x00, 0xf0, 3, 0, 0x08, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x10, 0xff, 0xff, 0xff, 0xff],
      ['Switchyard', version, '01/01/2024'],
    ),
    structure(1, 1, [1, 2, 3, 0, ...uuid, 6, 0, 0], ['Switchyard', 'Switchyard virtual machine', version]),
    structure(3, 2, [1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0], ['Switchyard']),
    structure(127, 3, [], []),
  ];
  const body = structures.flat();
  const tableAt = 32;
  const bytes = new Uint8Array(tableAt + body.length);
  bytes.set(body, tableAt);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode('_SM_'), 0);
  view.setUint8(5, 31);
  view.setUint8(6, 2);
  view.setUint8(7, 8);
  view.setUint16(8, Math.max(...structures.map(({ length }) => length)), true);
  bytes.set(new TextEncoder().encode('_DMI_'), 16);
  view.setUint16(22, body.length, true);
  view.setUint32(24, base + tableAt, true);
  view.setUint16(28, structures.length, true);
  view.setUint8(30, 0x28);
  bytes[21] = -sum(bytes, 16, 31) & 0xff;
  bytes[4] = -sum(bytes, 0, 31) & 0xff;
  return { address: base, bytes };
}
