/** Debian's SeaBIOS, a BIOS written for other people's machines, run from the reset vector. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Machine } from '../../src-core/machine/machine.ts';
import { AptFetcher, aptMissing, unpack } from '../../src-main/firstguest/apt.ts';

/** Where SeaBIOS writes its log. */
const LOG_PORT = 0x402;
const IMAGES = ['bios.bin', 'bios-256k.bin'] as const;

/** The images' paths, or the reason why there are none. */
async function findImages(): Promise<string[] | string> {
  const missing = await aptMissing();
  if (missing !== undefined) return missing;
  const cache = join(homedir(), '.cache', 'switchyard', 'test-guests');
  const signal = AbortSignal.timeout(120_000);
  try {
    const fetcher = new AptFetcher(cache, 'amd64', signal);
    await fetcher.prepare(['seabios']);
    const [deb = ''] = await fetcher.download(['seabios'], () => undefined);
    const patterns = IMAGES.map((name) => `*/${name}`);
    const files = await unpack(deb, join(cache, 'seabios'), patterns, signal);
    return IMAGES.flatMap((name) => files.find((file) => file.endsWith(`/${name}`)) ?? []);
  } catch (error) {
    return `the package seabios can’t be had: ${error instanceof Error ? error.message : String(error)}`;
  }
}

const images = await findImages();

describe('SeaBIOS', () => {
  let machine: Machine | undefined;
  afterEach(() => machine?.stop());

  if (typeof images === 'string') {
    it.skip(`is skipped: ${images}`);
    return;
  }

  it.each(images.map((path) => [basename(path), path]))('%s finds the machine', async (_name, path) => {
    const started = (machine = new Machine({
      memoryMib: 64,
      firmware: readFileSync(path),
      logPorts: [LOG_PORT],
      clock: 'icount',
    }));
    let log = '';
    await new Promise<void>((resolve) => {
      started.on('logPort', (_port, bytes) => {
        log += new TextDecoder().decode(bytes);
        if (log.includes('No bootable device')) resolve();
      });
      started.start();
    });
    expect(log).toContain('RamSize: 0x04000000 [cmos]');
    expect(log).toContain('Found 3 PCI devices');
    expect(log).toContain('Found 2 serial ports');
    expect(log).toContain('PS2 keyboard initialized');
    expect(log).toMatch(/Using pmtimer, ioport 0x[0-9a-f]+/);
    expect(log).toContain('0000000000100000 - 0000000003ffe000 = 1 RAM');
  });
});
