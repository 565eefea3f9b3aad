/** What we use of v86's interface (v86.d.ts of the package), which is not installed where types are checked. */
export interface V86Module {
  V86: new (options: V86Options) => V86Emulator;
}

interface V86File {
  /** In Node, a path. */
  url: string;
}

export interface V86Options {
  wasm_path: string;
  /** Bytes. */
  memory_size: number;
  bios: V86File;
  vga_bios: V86File;
  bzimage: V86File;
  initrd: V86File;
  cmdline: string;
  disable_speaker: boolean;
  disable_keyboard: boolean;
  disable_mouse: boolean;
  autostart: boolean;
}

export interface V86Emulator {
  add_listener(event: 'serial0-output-byte', listener: (byte: number) => void): void;
}
