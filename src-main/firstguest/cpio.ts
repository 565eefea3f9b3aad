/** File type bits of a mode, as stat(2) has them. */
const TYPE = { file: 0o100000, directory: 0o040000, link: 0o120000, characterDevice: 0o020000 } as const;

/** One entry of an archive. Paths are relative, without a leading slash; parents come before their children. */
export type CpioEntry =
  | { kind: 'file'; path: string; mode: number; data: Uint8Array }
  | { kind: 'directory'; path: string; mode: number }
  | { kind: 'link'; path: string; target: string }
  | { kind: 'characterDevice'; path: string; mode: number; major: number; minor: number };

const TRAILER = 'TRAILER!!!';

/**
 * Writes an archive in the "newc" format, the one Linux unpacks as initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel). Owner is root, times are zero, so
 * that the same entries give the same bytes.
 */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Buffer[] = [];
  entries.forEach((entry, index) => {
    const data = content(entry);
    const mode = TYPE[entry.kind] | (entry.kind === 'link' ? 0o777 : entry.mode);
    const device = entry.kind === 'characterDevice' ? entry : { major: 0, minor: 0 };
    // Inode numbers only have to differ: equal ones would be hard links.
    parts.push(header(entry.path, index + 1, mode, data.length, device.major, device.minor), padded(data));
  });
  parts.push(header(TRAILER, 0, 0, 0, 0, 0));
  return Buffer.concat(parts);
}

function content(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.data;
  return entry.kind === 'link' ? Buffer.from(entry.target, 'utf8') : new Uint8Array(0);
}

function header(
  path: string,
  inode: number,
  mode: number,
  size: number,
  major: number,
  minor: number,
): Buffer {
  const name = Buffer.from(`${path}\0`, 'utf8');
  // c_magic, c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_dev{major,minor}, c_rdev{major,minor}, c_namesize, c_check
  const fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name.length, 0];
  const text = '070701' + fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  return padded(Buffer.concat([Buffer.from(text, 'ascii'), name]));
}

/** Filled up with zeros to a multiple of four bytes. */
function padded(data: Uint8Array): Buffer {
  return Buffer.concat([data, Buffer.alloc(-data.length & 3)]);
}
