/** Types of INT 15h, E820h (ACPI specification, table 15.4). */
export const E820_RAM = 1;
export const E820_RESERVED = 2;

export interface MemoryRange {
  base: number;
  size: number;
  type: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

/** End of conventional memory; the last KiB below 640 KiB is the extended BIOS data area. */
export const CONVENTIONAL_END = 0x9fc00;
/** ACPI tables and SMBIOS stand here, where system software scans for them. */
export const TABLES_BASE = 0xe0000;
export const TABLES_END = 0x100000;

/** The memory map of a machine with `ramSize` bytes of RAM from address 0, booted without a firmware image. */
export function memoryMap(ramSize: number): MemoryRange[] {
  return [
    { base: 0, size: CONVENTIONAL_END, type: E820_RAM },
    { base: CONVENTIONAL_END, size: 640 * KIB - CONVENTIONAL_END, type: E820_RESERVED },
    { base: TABLES_BASE, size: TABLES_END - TABLES_BASE, type: E820_RESERVED },
    { base: MIB, size: ramSize - MIB, type: E820_RAM },
    { base: 0xfec00000, size: 4 * KIB, type: E820_RESERVED },
    { base: 0xfee00000, size: 4 * KIB, type: E820_RESERVED },
  ];
}

/** The BIOS data area at 0x400: serial ports, size of conventional memory, where the extended data area is. */
export function biosDataArea(serialPorts: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(0x100);
  const view = new DataView(bytes.buffer);
  serialPorts.forEach((port, index) => view.setUint16(index * 2, port, true));
  view.setUint16(0x0e, CONVENTIONAL_END >> 4, true);
  view.setUint16(0x10, (serialPorts.length << 9) | 0x02, true);
  view.setUint16(0x13, CONVENTIONAL_END / KIB, true);
  return bytes;
}
