/** What is timed in a guest, and the shell script that does it. */

export type GuestName = 'i386' | 'amd64';

/** The row that is timed from outside: from the start of the process to the first line of the init script. */
export const BOOT_ROW = 'boot';

export interface Row {
  /** Short name, for `--rows` and the markers. */
  name: string;
  /** What stands in the table. */
  label: string;
  /**
   * Shell commands, timed as a whole. `$W` is a directory in memory with `text` (TEXT_BYTES of Debian documents and
   * programs) and `data` (DATA_BYTES of it, repeated); `$X` is where the smallest program, `nothing`, is.
   */
  command: string;
  /** Commands whose output is the result instead of the row's own, not timed. */
  check?: string;
}

export const TEXT_BYTES = 3 << 20;
export const DATA_BYTES = 16 << 20;

/**
 * The longest comes last: a machine that cannot do it in time has done all others. Long enough that the fastest peer takes some tenths of a second. Floating point is arithmetic alone because
 * Debian's static BusyBox has an awk without mathematical functions.
 */
export const ROWS: readonly Row[] = [
  {
    name: 'shell-loop',
    label: 'shell loop, 20,000 times',
    command: 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i',
  },
  {
    name: 'md5sum',
    label: 'md5sum of 16 MiB, 4 times',
    command: 'for i in 1 2 3 4; do md5sum < $W/data; done',
  },
  {
    name: 'sha256sum',
    label: 'sha256sum of 16 MiB, twice',
    command: 'for i in 1 2; do sha256sum < $W/data; done',
  },
  {
    name: 'gzip',
    label: 'gzip of 3 MiB of text, twice',
    command: 'cat $W/text $W/text | gzip -c | md5sum',
  },
  {
    name: 'bzip2',
    label: 'bzip2 of 1 MiB of text',
    command: 'head -c 1048576 $W/text | bzip2 -c | md5sum',
  },
  {
    name: 'awk',
    label: 'awk, floating point',
    command: `awk 'BEGIN {
      for (y = -1.2; y < 1.2; y += 0.05) for (x = -2; x < 0.6; x += 0.05) {
        a = b = n = 0
        while (a * a + b * b < 4 && n < 40) { t = a * a - b * b + x; b = 2 * a * b + y; a = t; n++ }
        sum += n; area += a / 3 + b
      }
      printf "%d %.6f\\n", sum, area
    }'`,
  },
  { name: 'sort', label: 'sort of 3 MiB of text', command: 'sort $W/text | md5sum' },
  {
    name: 'syscalls',
    label: 'system calls (dd bs=1), 400,000',
    command: 'dd if=/dev/zero of=/dev/null bs=1 count=200000 2>&1 | head -n 1',
  },
  {
    name: 'copy',
    label: 'memory copy (dd bs=1M), 512 MiB',
    command:
      'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do dd if=$W/data of=$W/copy bs=1M conv=notrunc 2>/dev/null; done',
    check: 'md5sum < $W/copy',
  },
  {
    name: 'fork-exec',
    label: 'fork and exec, 10,000 times',
    command: 'i=0; while [ $i -lt 10000 ]; do $X/nothing && i=$((i+1)); done; echo $i',
  },
];

/** Row names as `--rows` takes them. */
export const ROW_NAMES: readonly string[] = [BOOT_ROW, ...ROWS.map(({ name }) => name)];

/** Starts every line of the script that is meant for the host. */
export const MARK = '@@';

/** Where the script finds its files: directories as in Row.command. */
export interface ScriptPlaces {
  work: string;
  programs: string;
}

/**
 * The script of all rows, for a guest (as process 1) or natively. In a guest it ends with a sleep, in which the
 * harness looks at memory and at idle time; before the guest would power off, the harness ends its machine.
 */
export function benchScript(rows: readonly Row[], { work, programs }: ScriptPlaces): string {
  const steps = rows.map(({ name, command, check }) =>
    [
      `echo '${MARK} begin ${name}'`,
      `R=$(${command})`,
      `echo '${MARK} end ${name}'`,
      ...(check === undefined ? [] : [`R=$(${check})`]),
      // Without quotes, so that a result of several lines becomes one.
      `echo '${MARK} result ${name}' $R`,
    ].join('\n'),
  );
  return [
    `echo '${MARK} boot'`,
    // From here on the kernel would print into the middle of markers.
    '[ $$ -ne 1 ] || dmesg -n 1',
    `W=${work} X=${programs}`,
    // Text six times, cut: sums and copies need data that is in memory and not zero.
    `cat $W/text $W/text $W/text $W/text $W/text $W/text | head -c ${DATA_BYTES} > $W/data`,
    `head -c ${DATA_BYTES} /dev/zero > $W/copy`,
    ...steps,
    `echo '${MARK} done'`,
    '[ $$ -ne 1 ] || sleep 60',
  ].join('\n');
}
