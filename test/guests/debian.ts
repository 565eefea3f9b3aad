import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { buildInitramfs } from '../../src-main/firstguest/initramfs.ts';
import { fetchInstallerKernel } from '../../src-main/firstguest/packages.ts';

/** Real Linux kernels from Debian's packages, with an initial RAM disk that runs a script and powers off. */

const cache = fileURLToPath(new URL('../../.cache/guests', import.meta.url));

/** Paths of a guest's files. */
export interface DebianGuest {
  kernel: string;
  initrd: string;
}

/**
 * The guest's files, or why they cannot be had here.
 * @param name of the initial RAM disk in the cache: one for each script.
 */
export async function prepareDebian(
  architecture: 'i386' | 'amd64',
  name: string,
  script: string,
): Promise<DebianGuest | string> {
  const missing = await aptMissing();
  if (missing !== undefined) return missing;
  try {
    const parts = await fetchInstallerKernel({
      cache,
      architecture,
      signal: AbortSignal.timeout(400_000),
      onStep: () => undefined,
      onDownload: () => undefined,
    });
    mkdirSync(cache, { recursive: true });
    const initrd = join(cache, `${architecture}-${name}.gz`);
    writeFileSync(initrd, buildInitramfs({ busybox: parts.busybox, script }));
    return { kernel: parts.kernel, initrd };
  } catch (error) {
    return `its packages cannot be had: ${error instanceof Error ? error.message : String(error)}`;
  }
}
