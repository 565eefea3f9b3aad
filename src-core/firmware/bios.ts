import { BootError, describeUnknownFile } from './boot.ts';

const STEP = 4096;
const LARGEST = 16 * 1024 * 1024;

/** Checks a BIOS image before it is mapped below 4 GiB. Throws BootError. */
export function checkFirmware(image: Uint8Array): void {
  const advice = 'Choose a BIOS image such as SeaBIOS’s bios.bin';
  const kind = describeUnknownFile(image);
  if (image.length === 0 || /text|compressed|archive|program|ELF/.test(kind)) {
    throw new BootError('firmware', kind, advice);
  }
  if (image.length % STEP !== 0 || image.length > LARGEST) {
    throw new BootError(
      'firmware',
      `has ${image.length} bytes, not a multiple of 4 KiB up to 16 MiB: cut short, or not a BIOS image`,
      advice,
    );
  }
  // Execution starts 16 bytes before the end.
  const vector = image.subarray(image.length - 16);
  if (vector.every((byte) => byte === 0) || vector.every((byte) => byte === 0xff)) {
    throw new BootError('firmware', 'has no code at its reset vector, 16 bytes before its end', advice);
  }
}
