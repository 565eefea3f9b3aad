import { PM_BASE, SLEEP_TYPE_S5 } from '../devices/acpi-pm.ts';
import { IO_APIC_BASE, IO_APIC_ID } from '../devices/io-apic.ts';
import {
  busNumbers,
  define,
  device,
  eisaId,
  integer,
  ioPorts,
  ioWindow,
  isaIrq,
  memoryWindow,
  packageOf,
  resources,
  scope,
} from './aml.ts';
import type { MemoryImage } from './boot.ts';

const LOCAL_APIC_BASE = 0xfee00000;
const SCI_IRQ = 9;
/** The RTC's century byte in CMOS. */
const CENTURY = 0x32;
const RESET_PORT = 0xcf9;
const RESET_VALUE = 0x06;

const OEM_ID = 'SWYARD';
const OEM_TABLE_ID = 'SWITCHYD';
const HEADER = 36;

/** Fixed feature flags of the FADT (ACPI specification, table 5.10). */
const FADT_FLAGS =
  0x0001 | // WBINVD works
  0x0004 | // C1 is there (HLT)
  0x0020 | // no sleep button as a fixed feature; the power button is one
  0x0040 | // the RTC's alarm can't wake the machine
  0x0400; // the reset register is there

function text(view: DataView, offset: number, value: string, length: number): void {
  for (let i = 0; i < length; i++) view.setUint8(offset + i, i < value.length ? value.charCodeAt(i) : 0x20);
}

/** Makes the bytes of a range sum up to 0 through the byte at `at`. */
function checksum(bytes: Uint8Array, at: number, length = bytes.length): void {
  bytes[at] = 0;
  let sum = 0;
  for (let i = 0; i < length; i++) sum += bytes[i] ?? 0;
  bytes[at] = -sum & 0xff;
}

function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER + body.length);
  const view = new DataView(bytes.buffer);
  text(view, 0, signature, 4);
  view.setUint32(4, bytes.length, true);
  view.setUint8(8, revision);
  text(view, 10, OEM_ID, 6);
  text(view, 16, OEM_TABLE_ID, 8);
  view.setUint32(24, 1, true);
  text(view, 28, 'SWYD', 4);
  view.setUint32(32, 1, true);
  bytes.set(body, HEADER);
  checksum(bytes, 9);
  return bytes;
}

/** Serial ports, keyboard controller, clock and timer hang on the ISA bridge; the root bridge has bus 0 only. */
function dsdt(ramSize: number, serialPorts: readonly { base: number; irq: number }[]): Uint8Array {
  const serial = serialPorts.map(({ base, irq }, index) =>
    device(
      `COM${index + 1}`,
      define('_HID', eisaId('PNP0501')),
      define('_UID', integer(index + 1)),
      define('_CRS', resources(ioPorts(base, 8), isaIrq(irq))),
    ),
  );
  const sleep = integer(SLEEP_TYPE_S5);
  const aml = [
    ...define('\\_S5_', packageOf(sleep, sleep, integer(0), integer(0))),
    ...scope(
      '\\_SB_',
      device(
        'PCI0',
        define('_HID', eisaId('PNP0A03')),
        define('_ADR', integer(0)),
        define('_UID', integer(0)),
        define(
          '_CRS',
          resources(
            busNumbers(0, 0),
            ioPorts(0xcf8, 8),
            ioWindow(0x0000, 0x0cf7),
            ioWindow(0x0d00, 0xffff),
            memoryWindow(0x000a0000, 0x000bffff),
            memoryWindow(Math.max(ramSize, 0x80000000), 0xfebfffff),
          ),
        ),
        device(
          'ISA',
          define('_ADR', integer(0x00010000)),
          device(
            'KBD',
            define('_HID', eisaId('PNP0303')),
            define('_CRS', resources(ioPorts(0x60, 1), ioPorts(0x64, 1), isaIrq(1))),
          ),
          device(
            'RTC',
            define('_HID', eisaId('PNP0B00')),
            define('_CRS', resources(ioPorts(0x70, 2), isaIrq(8))),
          ),
          device(
            'TMR',
            define('_HID', eisaId('PNP0100')),
            define('_CRS', resources(ioPorts(0x40, 4), isaIrq(0))),
          ),
          ...serial,
        ),
      ),
    ),
  ];
  return table('DSDT', 2, Uint8Array.from(aml));
}

/** Generic address structure: an I/O port register. */
function ioRegister(view: DataView, offset: number, bits: number, port: number): void {
  view.setUint8(offset, 1);
  view.setUint8(offset + 1, bits);
  view.setUint8(offset + 3, bits === 8 ? 1 : bits === 16 ? 2 : 3);
  view.setBigUint64(offset + 4, BigInt(port), true);
}

/** Fixed ACPI description table, revision 3 (ACPI 2.0). Without SMI_CMD the hardware is in ACPI mode from the start. */
function fadt(dsdtAddress: number, facsAddress: number): Uint8Array {
  const body = new Uint8Array(244 - HEADER);
  const view = new DataView(body.buffer);
  const at = (offset: number): number => offset - HEADER;
  view.setUint32(at(36), facsAddress, true);
  view.setUint32(at(40), dsdtAddress, true);
  view.setUint16(at(46), SCI_IRQ, true);
  view.setUint32(at(56), PM_BASE, true);
  view.setUint32(at(64), PM_BASE + 4, true);
  view.setUint32(at(76), PM_BASE + 8, true);
  view.setUint8(at(88), 4);
  view.setUint8(at(89), 2);
  view.setUint8(at(91), 4);
  // C2 and C3 latencies beyond which these states do not exist.
  view.setUint16(at(96), 0xffff, true);
  view.setUint16(at(98), 0xffff, true);
  view.setUint8(at(108), CENTURY);
  // Legacy devices, an 8042, no VGA.
  view.setUint16(at(109), 0x0007, true);
  view.setUint32(at(112), FADT_FLAGS, true);
  ioRegister(view, at(116), 8, RESET_PORT);
  view.setUint8(at(128), RESET_VALUE);
  view.setBigUint64(at(132), BigInt(facsAddress), true);
  view.setBigUint64(at(140), BigInt(dsdtAddress), true);
  ioRegister(view, at(148), 32, PM_BASE);
  ioRegister(view, at(172), 16, PM_BASE + 4);
  ioRegister(view, at(208), 32, PM_BASE + 8);
  return table('FACP', 3, body);
}

/** Multiple APIC description table: one processor, one I/O APIC, IRQ0 on pin 2, the SCI level-triggered. */
function madt(): Uint8Array {
  const overrideOf = (irq: number, pin: number, flags: number): number[] => [
    2,
    10,
    0,
    irq,
    pin,
    0,
    0,
    0,
    flags,
    0,
  ];
  const dword = (value: number): number[] => [
    value & 0xff,
    (value >> 8) & 0xff,
    (value >> 16) & 0xff,
    value >>> 24,
  ];
  return table(
    'APIC',
    1,
    Uint8Array.from([
      ...dword(LOCAL_APIC_BASE),
      ...dword(1),
      // Local APIC 0 of processor 0, enabled.
      ...[0, 8, 0, 0, ...dword(1)],
      ...[1, 12, IO_APIC_ID, 0, ...dword(IO_APIC_BASE), ...dword(0)],
      ...overrideOf(0, 2, 0),
      // Active high, level-triggered.
      ...overrideOf(SCI_IRQ, SCI_IRQ, 0x0d),
      // NMI on LINT1 of all processors.
      ...[4, 6, 0xff, 0, 0, 1],
    ]),
  );
}

function facs(): Uint8Array {
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  text(view, 0, 'FACS', 4);
  view.setUint32(4, bytes.length, true);
  view.setUint8(32, 1);
  return bytes;
}

function pointers(addresses: readonly number[], bytesEach: 4 | 8): Uint8Array {
  const body = new Uint8Array(addresses.length * bytesEach);
  const view = new DataView(body.buffer);
  addresses.forEach((address, index) => view.setUint32(index * bytesEach, address, true));
  return body;
}

/**
 * The ACPI tables, placed from `base` on. The RSDP comes first, at `base`, which must be a multiple of 16.
 * @param ramSize bytes of RAM from 0; PCI's memory window starts after it.
 */
export function acpiTables(
  base: number,
  ramSize: number,
  serialPorts: readonly { base: number; irq: number }[],
): MemoryImage {
  const chunks: { at: number; bytes: Uint8Array }[] = [];
  let next = 64;
  const place = (bytes: Uint8Array): number => {
    // The FACS wants 64-byte alignment; the others don't mind.
    const at = Math.ceil(next / 64) * 64;
    chunks.push({ at, bytes });
    next = at + bytes.length;
    return base + at;
  };
  const facsAddress = place(facs());
  const dsdtAddress = place(dsdt(ramSize, serialPorts));
  const tables = [place(fadt(dsdtAddress, facsAddress)), place(madt())];
  const rsdt = place(table('RSDT', 1, pointers(tables, 4)));
  const xsdt = place(table('XSDT', 1, pointers(tables, 8)));

  const rsdp = new Uint8Array(36);
  const view = new DataView(rsdp.buffer);
  text(view, 0, 'RSD PTR ', 8);
  text(view, 9, OEM_ID, 6);
  view.setUint8(15, 2);
  view.setUint32(16, rsdt, true);
  view.setUint32(20, rsdp.length, true);
  view.setBigUint64(24, BigInt(xsdt), true);
  checksum(rsdp, 8, 20);
  checksum(rsdp, 32);
  chunks.push({ at: 0, bytes: rsdp });

  const bytes = new Uint8Array(next);
  for (const chunk of chunks) bytes.set(chunk.bytes, chunk.at);
  return { address: base, bytes };
}
