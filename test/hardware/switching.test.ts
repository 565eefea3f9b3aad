/** A guest under load changes between KVM and the software engine a thousand times without a wrong result. */
import { expect, it, vi } from 'vitest';
import type { HardwareEngineParts } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import type { RunEnd } from '../../src-core/engines/engine.ts';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { EngineKind } from '../../src-core/protocol/vm.ts';
import { loadGuest, STOP_PORT } from './guests.ts';
import { describeKvm } from './support.ts';

const SWITCHES = 1000;
/** Host ns in KVM, and instructions in software, between two switches. */
const HARDWARE_NS = 60_000;
const SOFTWARE_INSTRUCTIONS = 300;

const count = vi.hoisted(() => ({ switches: 0 }));

/** The hardware engine, with every other run in software. */
vi.mock(import('../../src-core/engines/hardware/kvm/hardware-engine.ts'), async (original) => {
  const { HardwareEngine } = await original();
  class SwitchingEngine extends HardwareEngine {
    readonly #software: HardwareEngineParts['software'];
    #turn = 0;

    constructor(parts: HardwareEngineParts) {
      super(parts);
      this.#software = parts.software;
    }

    override run(instructions: number, exact = false, maxNs = HARDWARE_NS): RunEnd {
      count.switches++;
      if (this.#turn++ % 2 === 0) return super.run(instructions, exact, Math.min(maxNs, HARDWARE_NS));
      this.leave();
      this.#software.flush();
      return this.#software.run(Math.min(instructions, SOFTWARE_INSTRUCTIONS));
    }
  }
  return { HardwareEngine: SwitchingEngine };
});

function run(engine: EngineKind, stop: () => boolean): Promise<{ text: string; end: MachineEnd }> {
  const machine = new Machine({
    memoryMib: 64,
    engine,
    kernel: { name: 'load', bytes: loadGuest() },
    debugConsole: true,
    debugExit: true,
    noReboot: true,
  });
  machine.ports.register(STOP_PORT, STOP_PORT, 'test', {
    readPort: () => (stop() ? 1 : 0),
    writePort: () => undefined,
  });
  return new Promise((resolve) => {
    let text = '';
    machine.on('debugConsole', (part) => (text += Buffer.from(part).toString('latin1')));
    machine.on('ended', (end) => resolve({ text, end }));
    machine.start();
  });
}

describeKvm('Switching', () => {
  it('a thousand times under load', { timeout: 300_000 }, async () => {
    let rounds = 0;
    const software = await run('software', () => ++rounds > 500);
    expect(software.text).toMatch(/^load: [0-9a-f]{8} [0-9a-f]{8} ok\nend\n$/);
    count.switches = 0;
    const switching = await run('hardware', () => count.switches >= SWITCHES);
    expect(switching.text).toBe(software.text);
    expect(switching.end).toEqual(software.end);
    expect(count.switches).toBeGreaterThanOrEqual(SWITCHES);
  });
});
