import type { ProbeMessage } from '../../../protocol/hardware-probe.ts';
import { probe } from './probe.ts';

/**
 * The process that probes: its messages go to standard output, a line of JSON each. A process of its own, because what
 * a broken KVM does to it is not known beforehand. The only argument, where there is one, is the device.
 */
function say(message: ProbeMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

const [device] = process.argv.slice(2);
probe(say, device === undefined ? {} : { device });
