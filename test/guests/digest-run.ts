import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import { digestOf, type MachineDigest } from '../support/state-hash.ts';

/**
 * Runs a Linux guest under the instruction clock to its end, in a process of its own: KERNEL INITRD TIER [disturbed].
 * Prints a DigestRun as JSON.
 */
export interface DigestRun {
  end: MachineEnd;
  digest: MachineDigest;
  serial: string;
}

/** Keeps the event loop busy for random times, so that slices of the guest begin and end elsewhere. */
async function disturb(until: () => boolean): Promise<void> {
  while (!until()) {
    const end = performance.now() + 5 * Math.random();
    while (performance.now() < end);
    await sleep(20 * Math.random());
  }
}

const [kernel = '', initrd = '', tier, disturbed] = process.argv.slice(2);
const machine = new Machine({
  memoryMib: 128,
  clock: 'icount',
  kernel: { name: 'linux', bytes: readFileSync(kernel) },
  initrd: readFileSync(initrd),
  commandLine: 'console=ttyS0',
  noReboot: true,
  translator: { tier: tier === '0' ? 0 : 1 },
});
let serial = '';
machine.on('serial', (port, bytes) => {
  if (port === 0) serial += Buffer.from(bytes).toString('latin1');
});
const ended = new Promise<MachineEnd>((resolve) => machine.on('ended', resolve));
machine.start();
if (disturbed !== undefined) await disturb(() => machine.state === 'off');
const end = await ended;
const result: DigestRun = { end, digest: await digestOf(machine), serial };
process.stdout.write(JSON.stringify(result));
