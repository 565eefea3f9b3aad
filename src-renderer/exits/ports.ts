/** Names of the PC's well-known I/O ports and devices, for details that only give the number. */
const PORTS: [first: number, last: number, name: string][] = [
  [0x00, 0x0f, 'DMA controller 1'],
  [0x20, 0x21, 'PIC 1'],
  [0x40, 0x43, 'PIT'],
  [0x60, 0x60, 'Keyboard controller, data'],
  [0x61, 0x61, 'System control port B'],
  [0x64, 0x64, 'Keyboard controller, command'],
  [0x70, 0x71, 'CMOS and RTC'],
  [0x80, 0x80, 'POST code, I/O delay'],
  [0x81, 0x8f, 'DMA page registers'],
  [0x92, 0x92, 'System control port A'],
  [0xa0, 0xa1, 'PIC 2'],
  [0xc0, 0xdf, 'DMA controller 2'],
  [0xe9, 0xe9, 'Debug console'],
  [0xed, 0xed, 'I/O delay'],
  [0xf0, 0xf1, 'Coprocessor'],
  [0xf4, 0xf4, 'Debug exit'],
  [0x170, 0x177, 'IDE, secondary'],
  [0x1f0, 0x1f7, 'IDE, primary'],
  [0x278, 0x27f, 'LPT2'],
  [0x2e8, 0x2ef, 'COM4'],
  [0x2f8, 0x2ff, 'COM2'],
  [0x378, 0x37f, 'LPT1'],
  [0x3b0, 0x3df, 'VGA'],
  [0x3e8, 0x3ef, 'COM3'],
  [0x3f0, 0x3f7, 'Floppy'],
  [0x3f8, 0x3ff, 'COM1'],
  [0x4d0, 0x4d1, 'PIC edge/level'],
  [0xcf8, 0xcf8, 'PCI address'],
  [0xcfc, 0xcff, 'PCI data'],
];

/** "0x3f8" -> "COM1"; null for a port without a common name and for what is no port. */
export function portName(key: string): string | null {
  if (!/^0x[0-9a-f]+$/i.test(key)) return null;
  const port = Number(key);
  return PORTS.find(([first, last]) => port >= first && port <= last)?.[2] ?? null;
}
