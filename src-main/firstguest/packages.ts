import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AptFetcher, unpack, type DebianArchitecture, type DownloadProgress } from './apt.ts';

/** A kernel and what its userland is built from, fetched from the distribution's packages. */
export interface GuestParts {
  /** Path of the kernel, a bzImage. */
  kernel: string;
  busybox: Uint8Array;
  modules: { name: string; data: Uint8Array }[];
}

export interface FetchOptions {
  /** A directory that may be deleted any time; packages found in it are not fetched again. */
  cache: string;
  architecture: DebianArchitecture;
  signal: AbortSignal;
  /** What is being done, in words. */
  onStep: (step: string) => void;
  onDownload: DownloadProgress;
}

/** Modules the first guest needs to hear the power button, in the order they load. */
const BUTTON_MODULES = ['evdev.ko', 'button.ko'];

const KERNEL_META = { amd64: 'linux-image-amd64', i386: 'linux-image-686' } as const;

/** The distribution's own kernel, with the modules that make its power button work, and BusyBox. */
export async function fetchDistributionKernel(options: FetchOptions): Promise<GuestParts> {
  const { architecture, signal, onStep } = options;
  const fetcher = new AptFetcher(options.cache, architecture, signal);
  const meta = KERNEL_META[architecture];
  onStep('Reading package lists');
  await fetcher.prepare([meta, 'busybox-static']);
  const kernelPackage = await fetcher.resolve(meta, /^linux-image-\d/);
  onStep('Downloading the kernel and BusyBox');
  const [kernelDeb = '', busyboxDeb = ''] = await fetcher.download(
    [kernelPackage, 'busybox-static'],
    options.onDownload,
  );
  onStep('Unpacking');
  const directory = join(options.cache, architecture, 'kernel');
  const files = await unpack(
    kernelDeb,
    directory,
    ['./boot/vmlinuz-*', ...BUTTON_MODULES.map((name) => `*/${name}`)],
    signal,
  );
  const kernel = files.find((path) => path.includes('/boot/vmlinuz-'));
  if (kernel === undefined) throw new Error(`the package ${kernelPackage} holds no kernel`);
  return {
    kernel,
    busybox: await readBusybox(busyboxDeb, join(options.cache, architecture, 'busybox'), signal),
    modules: BUTTON_MODULES.flatMap((name) => {
      const path = files.find((file) => file.endsWith(`/${name}`));
      return path === undefined ? [] : [{ name, data: readFileSync(path) }];
    }),
  };
}

/** The Debian installer's network boot kernel and BusyBox: what the tests boot. */
export async function fetchInstallerKernel(options: FetchOptions): Promise<GuestParts> {
  const { architecture, signal, onStep } = options;
  const name = `debian-installer-12-netboot-${architecture}`;
  const directory = join(options.cache, architecture, 'netboot');
  const kernel = join(
    directory,
    `usr/lib/debian-installer/images/12/${architecture}/text/debian-installer/${architecture}/linux`,
  );
  const fetcher = new AptFetcher(options.cache, architecture, signal);
  onStep('Reading package lists');
  const wanted = existsSync(kernel) ? ['busybox-static'] : ['busybox-static', name];
  await fetcher.prepare(wanted);
  onStep('Downloading the kernel and BusyBox');
  const [busyboxDeb = '', kernelDeb] = await fetcher.download(wanted, options.onDownload);
  onStep('Unpacking');
  if (kernelDeb !== undefined)
    await unpack(kernelDeb, directory, ['*/text/debian-installer/*/linux'], signal);
  return {
    kernel,
    busybox: await readBusybox(busyboxDeb, join(options.cache, architecture, 'busybox'), signal),
    modules: [],
  };
}

async function readBusybox(deb: string, directory: string, signal: AbortSignal): Promise<Uint8Array> {
  const [path] = await unpack(deb, directory, ['./bin/busybox'], signal);
  if (path === undefined) throw new Error('the package busybox-static holds no BusyBox');
  return readFileSync(path);
}
