import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AptFetcher, unpack } from '../../src-main/firstguest/apt.ts';
import { writeCpio, type CpioEntry } from '../../src-main/firstguest/cpio.ts';
import { buildInitramfs } from '../../src-main/firstguest/initramfs.ts';
import { fetchInstallerKernel } from '../../src-main/firstguest/packages.ts';
import { smallestProgram } from './nothing.ts';
import { benchScript, TEXT_BYTES, type GuestName, type Row } from './rows.ts';

/** What one guest is made of: files for the machines, and the pieces for the native run. */
export interface Guest {
  name: GuestName;
  kernel: string;
  initrd: string;
  /** The guest's BusyBox, an executable on the host's disk. */
  busybox: string;
  text: Uint8Array;
  /** The program that the fork and exec row runs. */
  nothing: Uint8Array;
}

export interface GuestOptions {
  name: GuestName;
  rows: readonly Row[];
  /** Packages are kept here. */
  cache: string;
  /** A directory for this run alone. */
  temporary: string;
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Kernel parameters, the same for every machine. */
export const KERNEL_PARAMETERS = 'console=ttyS0';
export const GUEST_MEMORY_MIB = 256;

/** The architecture-independent package whose files are the text. */
const TEXT_PACKAGE = 'perl-modules-5.36';
/** Of its files, prose and programs; the tables that make up much of the package compress unlike text. */
const TEXT_FILES = ['./usr/share/perl/*.pod', './usr/share/perl/*.pm'];
const TEXT_DIRECTORY = /\/(?:pod|CPAN|ExtUtils|Pod|Test|TAP|Math|File|IO|Net)\//;

/** Fetches and builds one guest. */
export async function prepareGuest(options: GuestOptions): Promise<Guest> {
  const { name, rows, cache, temporary, signal, say } = options;
  const parts = await fetchInstallerKernel({
    cache,
    architecture: name,
    signal,
    onStep: (step) => say(`${name}: ${step}`),
    onDownload: () => undefined,
  });
  const text = await fetchText(cache, signal);
  const directory = join(temporary, name);
  await mkdir(directory, { recursive: true });
  const busybox = join(directory, 'busybox');
  await writeFile(busybox, parts.busybox, { mode: 0o755 });
  const nothing = smallestProgram(name);
  const initrd = join(directory, 'initrd');
  const script = benchScript(rows, { work: '/bench', programs: '/bench' });
  await writeFile(
    initrd,
    Buffer.concat([
      // Linux takes archives one after the other. What is not compressed has to be aligned, so it comes first.
      writeCpio(benchFiles(text, nothing)),
      buildInitramfs({ busybox: parts.busybox, script }),
    ]),
  );
  return { name, kernel: parts.kernel, initrd, busybox, text, nothing };
}

function benchFiles(text: Uint8Array, nothing: Uint8Array): CpioEntry[] {
  return [
    { kind: 'directory', path: 'bench', mode: 0o755 },
    { kind: 'file', path: 'bench/text', mode: 0o644, data: text },
    { kind: 'file', path: 'bench/nothing', mode: 0o755, data: nothing },
  ];
}

/** TEXT_BYTES of text out of a Debian package, the same for both architectures. */
async function fetchText(cache: string, signal: AbortSignal): Promise<Uint8Array> {
  const fetcher = new AptFetcher(cache, 'amd64', signal);
  await fetcher.prepare([TEXT_PACKAGE]);
  const [deb = ''] = await fetcher.download([TEXT_PACKAGE], () => undefined);
  const directory = join(cache, 'amd64', 'text');
  const files = await unpack(deb, directory, TEXT_FILES, signal);
  const chosen = files.filter((path) => TEXT_DIRECTORY.test(path.slice(directory.length))).sort();
  const contents = await Promise.all(chosen.map((path) => readFile(path)));
  const text = Buffer.concat(contents).subarray(0, TEXT_BYTES);
  if (text.length < TEXT_BYTES) {
    throw new Error(`the package ${TEXT_PACKAGE} holds ${text.length} bytes of text, not ${TEXT_BYTES}`);
  }
  return text;
}
