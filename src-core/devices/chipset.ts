import { z } from 'zod';
import type { Device, MemoryBus, PortBus } from '../machine/bus.ts';
import type { AcpiPm } from './acpi-pm.ts';
import { PciFunction } from './pci.ts';
import { u8 } from './state.ts';

/** First of the seven programmable attribute map registers. */
export const PAM0 = 0x59;

/** Host bridge in the manner of the i440FX (82441FX data sheet): PAM registers over 0xC0000..0xFFFFF. */
export class HostBridge extends PciFunction {
  readonly #memory: MemoryBus;

  constructor(memory: MemoryBus) {
    super({ vendor: 0x8086, device: 0x1237, revision: 2, classCode: 0x060000 });
    this.#memory = memory;
    // Everything device-specific can be written and is kept; only the PAM registers have an effect.
    for (let offset = 0x40; offset < 0x100; offset++) this.define(offset, 0, 0xff);
  }

  override apply(): void {
    const set = (step: number, attributes: number): void => {
      this.#memory.setPam(step, (attributes & 1) !== 0, (attributes & 2) !== 0);
    };
    // PAM0's upper half is 0xF0000..0xFFFFF as a whole; PAM1..6 are two steps of 16 KiB each, from 0xC0000 up.
    for (let step = 12; step < 16; step++) set(step, this.read(PAM0) >> 4);
    for (let step = 0; step < 12; step++) {
      set(step, this.read(PAM0 + 1 + (step >> 1)) >> (4 * (step & 1)));
    }
  }
}

/** ISA bridge in the manner of the PIIX3 (82371SB data sheet). PCI interrupt routing is kept, nothing uses it yet. */
export class IsaBridge extends PciFunction {
  constructor() {
    super({ vendor: 0x8086, device: 0x7000, revision: 0, classCode: 0x060100, multifunction: true });
    // Command and status are fixed: I/O, memory and bus master on, medium DEVSEL timing.
    this.define16(0x04, 0x0007, 0);
    this.define16(0x06, 0x0200, 0);
    this.define(0x4c, 0x4d, 0xff);
    this.define16(0x4e, 0x0003, 0xffff);
    for (let offset = 0x60; offset < 0x64; offset++) this.define(offset, 0x80, 0x8f);
    this.define(0x69, 0x02, 0xfe);
    this.define(0x70, 0x80, 0xff);
    this.define16(0x76, 0x0c0c, 0x8f8f);
  }
}

const PM_BASE = 0x40;
const PM_MISC = 0x80;
const PM_MISC_IO_ENABLE = 0x01;
/** DEVACTB byte 3, bit 1: writing the APM control port raises SMI. */
const DEVACTB_APMC = 0x5b;

/** Power management function of the PIIX4 (82371AB data sheet): says where the ACPI registers are. */
export class PowerManagementFunction extends PciFunction {
  readonly #acpi: AcpiPm;

  constructor(acpi: AcpiPm) {
    super({ vendor: 0x8086, device: 0x7113, revision: 3, classCode: 0x068000 });
    this.#acpi = acpi;
    this.define16(0x06, 0x0280, 0);
    this.define(0x3d, 1, 0);
    this.define16(PM_BASE, 0x0001, 0xffc0);
    for (let offset = 0x44; offset < 0x80; offset++) this.define(offset, 0, 0xff);
    // There is no system management mode: firmware that finds this bit on takes SMM for set up already.
    this.define(DEVACTB_APMC, 0x02, 0xff);
    this.define(PM_MISC, 0, PM_MISC_IO_ENABLE);
    this.define16(0x90, 0x0001, 0xfff0);
    this.define(0xd2, 0, 0x0f);
  }

  override apply(): void {
    const base = ((this.read(PM_BASE + 1) << 8) | this.read(PM_BASE)) & 0xffc0;
    this.#acpi.map((this.read(PM_MISC) & PM_MISC_IO_ENABLE) !== 0 ? base : 0);
  }
}

const APM_CONTROL = 0xb2;
const APM_STATUS = 0xb3;
/** The values a FADT of this chipset's firmware gives as ACPI_ENABLE and ACPI_DISABLE. */
const ACPI_ENABLE = 0xf1;
const ACPI_DISABLE = 0xf0;

const apmSchema = z.strictObject({ control: u8, status: u8 });

/** Ports B2h-B3h, through which an operating system asks firmware to hand over ACPI. Without SMM it is done here. */
export class Apm implements Device {
  readonly name = 'apm';
  readonly #acpi: AcpiPm;
  #control = 0;
  #status = 0;

  constructor(acpi: AcpiPm) {
    this.#acpi = acpi;
  }

  attach(ports: PortBus): void {
    ports.register(APM_CONTROL, APM_STATUS, this.name, {
      byteOnly: true,
      readPort: (port) => (port === APM_CONTROL ? this.#control : this.#status),
      writePort: (port, _size, value) => {
        if (port === APM_STATUS) {
          this.#status = value;
          return;
        }
        this.#control = value;
        if (value === ACPI_ENABLE) this.#acpi.setAcpiMode(true);
        else if (value === ACPI_DISABLE) this.#acpi.setAcpiMode(false);
      },
    });
  }

  reset(): void {
    this.#control = 0;
    this.#status = 0;
  }

  save(): unknown {
    return { control: this.#control, status: this.#status };
  }

  restore(state: unknown): void {
    const { control, status } = apmSchema.parse(state);
    this.#control = control;
    this.#status = status;
  }
}
