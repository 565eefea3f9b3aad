/** Boot images made up for tests: right in their headers, empty otherwise. */

export interface FakeLinux {
  version?: number;
  loadFlags?: number;
  xLoadFlags?: number;
  initrdMax?: number;
  commandLineMax?: number;
  initSize?: number;
  codeBytes?: number;
}

export function fakeLinux(options: FakeLinux = {}): Uint8Array {
  const { version = 0x020f, loadFlags = 1, xLoadFlags = 0, initrdMax = 0x7fffffff } = options;
  const { commandLineMax = 2047, initSize = 0x200000, codeBytes = 8192 } = options;
  const bytes = new Uint8Array(1024 + codeBytes);
  const view = new DataView(bytes.buffer);
  bytes[0x1f1] = 1;
  view.setUint32(0x1f4, codeBytes / 16, true);
  view.setUint16(0x1fe, 0xaa55, true);
  bytes[0x200] = 0xeb;
  bytes[0x201] = 0x6a;
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, version, true);
  bytes[0x211] = loadFlags;
  view.setUint32(0x22c, initrdMax, true);
  view.setUint32(0x230, 0x200000, true);
  bytes[0x234] = 1;
  view.setUint16(0x236, xLoadFlags, true);
  view.setUint32(0x238, commandLineMax, true);
  view.setBigUint64(0x258, 0x1000000n, true);
  view.setUint32(0x260, initSize, true);
  bytes.fill(0x90, 1024);
  return bytes;
}

export interface FakeElf {
  entry?: number;
  segments?: { virtual: number; physical: number; file: number; memory: number }[];
  flags?: number;
}

/** A Multiboot kernel in an ELF32 file. */
export function fakeElf(options: FakeElf = {}): Uint8Array {
  const {
    entry = 0x100010,
    segments = [{ virtual: 0x100000, physical: 0x100000, file: 0x100, memory: 0x2000 }],
    flags = 3,
  } = options;
  const dataAt = 0x200;
  const bytes = new Uint8Array(dataAt + segments.reduce((sum, { file }) => sum + file, 0));
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 3, true);
  view.setUint32(20, 1, true);
  view.setUint32(24, entry, true);
  view.setUint32(28, 52, true);
  view.setUint16(42, 32, true);
  view.setUint16(44, segments.length, true);
  let offset = dataAt;
  segments.forEach(({ virtual, physical, file, memory }, index) => {
    const at = 52 + index * 32;
    [1, offset, virtual, physical, file, memory, 7, 4096].forEach((value, i) =>
      view.setUint32(at + 4 * i, value, true),
    );
    offset += file;
  });
  view.setUint32(0x180, 0x1badb002, true);
  view.setUint32(0x184, flags, true);
  view.setUint32(0x188, -(0x1badb002 + flags) >>> 0, true);
  bytes.fill(0xcc, dataAt);
  return bytes;
}

/** A flat Multiboot kernel with addresses in its header, which stands at its start. */
export function fakeFlat(load = 0x100000, size = 0x1000, bss = 0x1000): Uint8Array {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  const flags = 0x10003;
  [
    0x1badb002,
    flags,
    -(0x1badb002 + flags) >>> 0,
    load,
    load,
    load + size,
    load + size + bss,
    load + 0x20,
  ].forEach((value, index) => view.setUint32(4 * index, value, true));
  return bytes;
}
