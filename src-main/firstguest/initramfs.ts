import { gzipSync } from 'node:zlib';
import { writeCpio, type CpioEntry } from './cpio.ts';

/** What goes into an initramfs beside the fixed skeleton. */
export interface InitramfsOptions {
  /** A static BusyBox binary for the kernel's architecture. */
  busybox: Uint8Array;
  /**
   * Shell commands to run instead of the interactive system, as process 1 with everything mounted and stdio on the
   * console. When they end, the machine is powered off.
   */
  script?: string;
  /** Kernel modules to load at boot, in this order. */
  modules?: readonly { name: string; data: Uint8Array }[];
}

const DIRECTORIES = [
  'bin',
  'dev',
  'etc',
  'etc/acpi',
  'etc/acpi/PWRF',
  'lib',
  'lib/modules',
  'proc',
  'root',
  'sbin',
  'sys',
  'tmp',
  'usr',
  'usr/bin',
  'usr/sbin',
  'var',
  'var/log',
  'var/run',
];

/** Mounts what a system needs and installs BusyBox's applets; runs before anything else. */
const PREPARE = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for module in /lib/modules/*.ko; do [ -e "$module" ] && insmod "$module"; done
`;

const INITTAB = `::sysinit:/etc/rcS
ttyS0::respawn:-/bin/sh
::ctrlaltdel:/sbin/reboot
`;

/** The power button powers off: the kernel's button driver reports it as an input event, acpid runs the script. */
const RC_S = `#!/bin/sh
hostname switchyard
[ -e /dev/input/event0 ] && acpid
cat /etc/greeting
`;

const GREETING = `
Welcome to Linux in Switchyard.
This is a shell in memory: files are gone after power-off, unless you take a snapshot.
Try "uname -a", "cat /proc/cpuinfo", "top"; "poweroff" turns the machine off.

`;

const PROFILE = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=xterm-256color
export PS1='\\[\\e[32m\\]\\h\\[\\e[0m\\]:\\w\\$ '
cd
`;

/** Builds a gzip-compressed initramfs around a BusyBox. The same options give the same bytes. */
export function buildInitramfs(options: InitramfsOptions): Uint8Array {
  const start =
    options.script === undefined
      ? 'exec /sbin/init\n'
      : `exec </dev/console >/dev/console 2>&1\n${options.script}\npoweroff -f\n`;
  const entries: CpioEntry[] = [
    ...DIRECTORIES.map((path): CpioEntry => ({ kind: 'directory', path, mode: 0o755 })),
    // The kernel opens it before /init can mount anything.
    { kind: 'characterDevice', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: options.busybox },
    { kind: 'link', path: 'bin/sh', target: 'busybox' },
    text('init', PREPARE + start, 0o755),
    text('etc/inittab', INITTAB, 0o644),
    text('etc/rcS', RC_S, 0o755),
    text('etc/greeting', GREETING, 0o644),
    text('etc/profile', PROFILE, 0o644),
    text('etc/passwd', 'root::0:0:root:/root:/bin/sh\n', 0o644),
    text('etc/group', 'root:x:0:\n', 0o644),
    text('etc/acpi/PWRF/00000080', '#!/bin/sh\npoweroff\n', 0o755),
  ];
  options.modules?.forEach(({ name, data }, index) => {
    const order = String(index).padStart(2, '0');
    entries.push({ kind: 'file', path: `lib/modules/${order}-${name}`, mode: 0o644, data });
  });
  return gzipSync(writeCpio(entries), { level: 6 });
}

function text(path: string, contents: string, mode: number): CpioEntry {
  return { kind: 'file', path, mode, data: Buffer.from(contents, 'utf8') };
}
