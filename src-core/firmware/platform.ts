import { PAM0 } from '../devices/chipset.ts';
import { PM_BASE } from '../devices/acpi-pm.ts';
import type { PortBus } from '../machine/bus.ts';
import { acpiTables } from './acpi.ts';
import type { MemoryImage } from './boot.ts';
import { biosDataArea, TABLES_BASE } from './memory-map.ts';
import { smbiosTables } from './smbios.ts';

/** Where the RSDP stands in a machine booted without a firmware image. */
export const RSDP_ADDRESS = TABLES_BASE;
const SMBIOS_ADDRESS = 0xf0000;
const BIOS_DATA_AREA = 0x400;

/** What firmware leaves in memory for an operating system to find. */
export function platformTables(
  ramSize: number,
  serialPorts: readonly { base: number; irq: number }[],
  version: string,
): MemoryImage[] {
  return [
    { address: BIOS_DATA_AREA, bytes: biosDataArea(serialPorts.map(({ base }) => base)) },
    acpiTables(RSDP_ADDRESS, ramSize, serialPorts),
    smbiosTables(SMBIOS_ADDRESS, version),
  ];
}

/** Sets the chipset up as firmware would, through the same ports: RAM below 1 MiB, the ACPI block, SCI level-triggered. */
export function initializeChipset(ports: PortBus): void {
  const writeConfig = (device: number, fn: number, register: number, size: number, value: number): void => {
    ports.write(0xcf8, 4, (0x80000000 | (device << 11) | (fn << 8) | (register & 0xfc)) >>> 0);
    ports.write(0xcfc + (register & 3), size, value);
  };
  writeConfig(0, 0, PAM0, 1, 0x30);
  for (let register = PAM0 + 1; register < PAM0 + 7; register++) writeConfig(0, 0, register, 1, 0x33);
  writeConfig(1, 3, 0x04, 2, 0x0001);
  writeConfig(1, 3, 0x3c, 1, 9);
  writeConfig(1, 3, 0x40, 4, PM_BASE | 1);
  writeConfig(1, 3, 0x80, 1, 0x01);
  ports.write(0xcf8, 4, 0);
  // IRQ9 is level-triggered; the APM port hands ACPI over.
  ports.write(0x4d1, 1, 0x02);
  ports.write(0xb2, 1, 0xf1);
}
