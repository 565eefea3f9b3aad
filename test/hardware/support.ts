/** What the tests of the hardware engine share. Those that need KVM are skipped, with the reason, where there is none. */
import { describe } from 'vitest';
import type { ExitSnapshot } from '../../src-core/accounting/exits.ts';
import { KvmError } from '../../src-core/engines/hardware/kvm/errors.ts';
import { KvmSystem } from '../../src-core/engines/hardware/kvm/system.ts';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { EngineKind } from '../../src-core/protocol/vm.ts';

/** Why KVM can't be used here; undefined where it can. */
export const kvmUnavailable: string | undefined = (() => {
  try {
    new KvmSystem().close();
    return undefined;
  } catch (error) {
    if (error instanceof KvmError) return error.message;
    throw error;
  }
})();

/** `describe` where KVM is, `describe.skip` with the reason where it is not. */
export function describeKvm(name: string, body: () => void): void {
  if (kvmUnavailable === undefined) describe(name, body);
  else describe.skip(`${name} (skipped: ${kvmUnavailable})`, body);
}

/** What a machine's guest wrote to the debug console, and how it ended. */
export interface MachineRun {
  readonly text: string;
  readonly end: MachineEnd;
  readonly exits: ExitSnapshot;
}

/** Runs a Multiboot image to its end on an engine. */
export function runMachine(
  bytes: Uint8Array,
  engine: EngineKind,
  options: { seconds?: number; memoryMib?: number } = {},
): Promise<MachineRun> {
  const { seconds = 60, memoryMib = 64 } = options;
  const machine = new Machine({
    memoryMib,
    engine,
    kernel: { name: 'guest', bytes },
    debugConsole: true,
    debugExit: true,
    noReboot: true,
  });
  return new Promise((resolve) => {
    let text = '';
    const timer = setTimeout(() => machine.stop(), seconds * 1000);
    machine.on('debugConsole', (part) => (text += Buffer.from(part).toString('latin1')));
    machine.on('ended', (end) => {
      clearTimeout(timer);
      resolve({ text, end, exits: machine.statistics().exits });
    });
    machine.start();
  });
}
