/**
 * One v86 machine in a process of its own, its first serial port on stdout. Arguments: the directory of the v86
 * package, BIOS, VGA BIOS, kernel, initrd, memory in MiB, kernel parameters.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { V86Module } from './v86-types.ts';

const [directory = '', bios = '', vgaBios = '', kernel = '', initrd = '', memoryMib = '', parameters = ''] =
  process.argv.slice(2);

const { V86 } = (await import(pathToFileURL(join(directory, 'build/libv86.mjs')).href)) as V86Module;

const emulator = new V86({
  wasm_path: join(directory, 'build/v86.wasm'),
  memory_size: Number(memoryMib) << 20,
  bios: { url: bios },
  vga_bios: { url: vgaBios },
  bzimage: { url: kernel },
  initrd: { url: initrd },
  cmdline: parameters,
  disable_speaker: true,
  disable_keyboard: true,
  disable_mouse: true,
  autostart: true,
});

const LINE_FEED = 10;
let line: number[] = [];

// A line at a time: a write for every byte would slow the guest down. To a pipe it is synchronous.
emulator.add_listener('serial0-output-byte', (byte) => {
  line.push(byte);
  if (byte !== LINE_FEED) return;
  process.stdout.write(Uint8Array.from(line));
  line = [];
});
