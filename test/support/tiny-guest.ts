import { PM_BASE } from '../../src-core/devices/acpi-pm.ts';

/**
 * Guests of a few dozen bytes for the command line's tests: 32-bit Multiboot programs put together from these
 * steps. Encodings: Intel SDM volume 2.
 */
const LOAD_ADDRESS = 0x100000;
const HEADER_SIZE = 32;

/** MOV DX, port; OUT DX, AL after MOV AL, value. */
const out8 = (port: number, value: number): number[] => [
  0xb0,
  value,
  0x66,
  0xba,
  port & 0xff,
  port >> 8,
  0xee,
];

export const print = (text: string): number[] => [...Buffer.from(text)].flatMap((byte) => out8(0x3f8, byte));
export const printSecond = (text: string): number[] =>
  [...Buffer.from(text)].flatMap((byte) => out8(0x2f8, byte));
export const writePort = out8;
/** isa-debug-exit. */
export const debugExit = (value: number): number[] => out8(0xf4, value);
/** PCI reset control. */
export const reset: number[] = out8(0xcf9, 6);
/** S5 through PM1a_CNT: MOV AX, SLP_EN; MOV DX, port; OUT DX, AX. */
export const powerOff: number[] = [
  0x66,
  0xb8,
  0x00,
  0x20,
  0x66,
  0xba,
  (PM_BASE + 4) & 0xff,
  (PM_BASE + 4) >> 8,
  0x66,
  0xef,
];
/** MOV ESP, 200000h; PUSH 0; PUSH 0; LIDT [ESP]; INT3. */
export const tripleFault: number[] = [
  0xbc, 0x00, 0x00, 0x20, 0x00, 0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0xcc,
];
/** JMP to itself. */
export const loop: number[] = [0xeb, 0xfe];
/** CLI; HLT, again and again. */
export const halt: number[] = [0xfa, 0xf4, 0xeb, 0xfc];
/** Sends back what COM1 receives until it is "q": polls the line status register. */
export const echo: number[] = [
  ...[0x66, 0xba, 0xfd, 0x03], // again: mov dx, 3fdh
  ...[0xec, 0xa8, 0x01, 0x74, 0xf7], // in al, dx; test al, 1; jz again
  ...[0x66, 0xba, 0xf8, 0x03, 0xec, 0xee], // mov dx, 3f8h; in al, dx; out dx, al
  ...[0x3c, 0x71, 0x75, 0xed], // cmp al, "q"; jne again
];

/** A Multiboot image in the flat format (Multiboot Specification 0.6.96, section 3.1). */
export function tinyGuest(...steps: readonly number[][]): Uint8Array {
  const code = steps.flat();
  const image = Buffer.alloc(HEADER_SIZE + code.length);
  const flags = 0x10000;
  const end = LOAD_ADDRESS + image.length;
  [
    0x1badb002,
    flags,
    -(0x1badb002 + flags) >>> 0,
    LOAD_ADDRESS,
    LOAD_ADDRESS,
    end,
    end,
    LOAD_ADDRESS + HEADER_SIZE,
  ].forEach((field, index) => image.writeUInt32LE(field, index * 4));
  image.set(code, HEADER_SIZE);
  return image;
}

/** Enough of a bzImage for its header to be believed. */
export function linuxHeader(): Uint8Array {
  const image = Buffer.alloc(64 * 1024);
  image[0x1f1] = 1;
  image.writeUInt32LE(0x400, 0x1f4);
  image.writeUInt16LE(0xaa55, 0x1fe);
  image.writeUInt16LE(0x66eb, 0x200);
  image.write('HdrS', 0x202, 'ascii');
  image.writeUInt16LE(0x20f, 0x206);
  image[0x211] = 1;
  image.writeUInt32LE(0x100000, 0x214);
  image.writeUInt32LE(0x7fffffff, 0x22c);
  image.writeUInt32LE(0x200000, 0x230);
  image[0x234] = 1;
  image.writeUInt32LE(2047, 0x238);
  image.writeUInt32LE(0x1000000, 0x258);
  image.writeUInt32LE(0x1000000, 0x260);
  return image;
}
