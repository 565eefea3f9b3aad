import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import type { RamPlace } from './peers/peer.ts';

/** Host memory of a process at one moment, bytes. */
export interface MemorySample {
  resident: number;
  /** Guest RAM of it; undefined where the mapping was not found. */
  guestRam: number | undefined;
}

const PAGE = 4096;
/** A pagemap entry (Documentation/admin-guide/mm/pagemap.rst of the kernel): its size in bytes, and the highest byte's bits 63 and 62, "present" and "swapped". */
const ENTRY = 8;
const PRESENT_OR_SWAPPED = 0b1100_0000;

/** Looks at a process of ours through /proc (proc(5)). @returns undefined when it has gone. */
export function sampleMemory(pid: number, ram: RamPlace | undefined): MemorySample | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const resident = /^VmRSS:\s+(\d+) kB/m.exec(status)?.[1];
    // A process that has ended but not been waited for has no memory any more.
    if (resident === undefined) return undefined;
    return {
      resident: Number(resident) * 1024,
      guestRam: ram === undefined ? undefined : touchedRam(pid, ram),
    };
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** User and system time of a process so far, seconds. @returns undefined when it has gone. */
export function cpuSeconds(pid: number): number | undefined {
  try {
    // The second field is the program's name in parentheses, which may hold anything.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    // utime and stime, in ticks of a hundredth of a second (USER_HZ of x86).
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH');
}

/** Bytes of guest RAM that have a page behind them. */
function touchedRam(pid: number, { mappingSize, offset, size }: RamPlace): number | undefined {
  const start = findMapping(readFileSync(`/proc/${pid}/maps`, 'utf8'), mappingSize);
  if (start === undefined) return undefined;
  const entries = new Uint8Array((size / PAGE) * ENTRY);
  const file = openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    const read = readSync(file, entries, 0, entries.length, ((start + offset) / PAGE) * ENTRY);
    if (read !== entries.length) return undefined;
  } finally {
    closeSync(file);
  }
  let touched = 0;
  for (let at = ENTRY - 1; at < entries.length; at += ENTRY) {
    if (((entries[at] ?? 0) & PRESENT_OR_SWAPPED) !== 0) touched += PAGE;
  }
  return touched;
}

/**
 * Start of the writable mapping of a given size. The kernel joins neighbours with equal rights and splits on
 * changes of rights, so one that begins where its rights do and is only a little longer counts too.
 */
export function findMapping(maps: string, size: number): number | undefined {
  const slack = 2 << 20;
  for (const [, from = '', to = ''] of maps.matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw/gm)) {
    const start = parseInt(from, 16);
    const length = parseInt(to, 16) - start;
    if (length >= size && length < size + slack) return start;
  }
  return undefined;
}
