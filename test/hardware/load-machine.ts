import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { MachineConfigInput } from '../../src-core/protocol/machine-config.ts';
import { loadGuest, STOP_PORT } from './guests.ts';

export interface LoadMachine {
  machine: Machine;
  /** The guest ends with its next round. */
  stop: () => void;
  ended: Promise<{ text: string; end: MachineEnd }>;
}

/** What the load guest says when no byte went wrong. */
export const LOAD_RIGHT = /^load: [0-9a-f]{8} [0-9a-f]{8} ok\nend\n$/;

/**
 * A machine with the guest under load: what it says in the end tells whether a byte went wrong.
 * @param isOver asked in each round of the guest's: whether it is to end, besides `stop`
 */
export function loadMachine(
  changes: Partial<MachineConfigInput> = {},
  isOver: () => boolean = () => false,
): LoadMachine {
  const machine = new Machine({
    memoryMib: 64,
    kernel: { name: 'load', bytes: loadGuest() },
    debugConsole: true,
    debugExit: true,
    noReboot: true,
    ...changes,
  });
  let stopped = false;
  machine.ports.register(STOP_PORT, STOP_PORT, 'test', {
    readPort: () => (stopped || isOver() ? 1 : 0),
    writePort: () => undefined,
  });
  const ended = new Promise<{ text: string; end: MachineEnd }>((resolve) => {
    let text = '';
    machine.on('debugConsole', (part) => (text += Buffer.from(part).toString('latin1')));
    machine.on('ended', (end) => resolve({ text, end }));
  });
  return { machine, stop: () => (stopped = true), ended };
}
