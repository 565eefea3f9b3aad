import { createHash } from 'node:crypto';
import type { Machine } from '../../src-core/machine/machine.ts';
import { parseSectionHeader, SECTION_HEADER_SIZE } from '../../src-core/machine/snapshot-format.ts';
import { writeSnapshot } from '../../src-core/machine/snapshot.ts';

/** All of a machine's state, in a form to compare with another's. */
export interface MachineDigest {
  instructions: number;
  guestNs: number;
  /** SHA-256 of registers and other state of the vCPU, and of RAM. */
  vcpu: string;
  ram: string;
  /** State of each device by name. */
  devices: Record<string, unknown>;
}

/** What a snapshot of the machine would hold. The machine must not be running. */
export async function digestOf(machine: Machine): Promise<MachineDigest> {
  const vcpu = createHash('sha256');
  const ram = createHash('sha256');
  let devices: Record<string, unknown> = {};
  let type = '';
  for await (const chunk of writeSnapshot(machine)) {
    // Sections come as a header and a payload; the file's header, shorter than these, comes before all.
    if (chunk.length < SECTION_HEADER_SIZE) continue;
    if (type === '') {
      ({ type } = parseSectionHeader(chunk));
      continue;
    }
    if (type === 'VCPU') vcpu.update(chunk);
    else if (type === 'PAGE') ram.update(chunk);
    else if (type === 'DEVS') {
      devices = JSON.parse(new TextDecoder().decode(chunk)) as Record<string, unknown>;
    }
    type = '';
  }
  return {
    instructions: machine.statistics().exits.instructions,
    guestNs: machine.clock.now(),
    vcpu: vcpu.digest('hex'),
    ram: ram.digest('hex'),
    devices,
  };
}
