/** A guest under load changes between KVM and the software engine a thousand times without a wrong result. */
import { expect, it, vi } from 'vitest';
import type { HardwareEngineParts } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import type { RunEnd } from '../../src-core/engines/engine.ts';
import type { EngineKind } from '../../src-core/protocol/vm.ts';
import { LOAD_RIGHT, type LoadMachine, loadMachine } from './load-machine.ts';
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

function run(engine: EngineKind, isOver: () => boolean): LoadMachine['ended'] {
  const { machine, ended } = loadMachine({ engine }, isOver);
  machine.start();
  return ended;
}

describeKvm('Switching', () => {
  it('a thousand times under load', { timeout: 300_000 }, async () => {
    let rounds = 0;
    const software = await run('software', () => ++rounds > 500);
    expect(software.text).toMatch(LOAD_RIGHT);
    count.switches = 0;
    const switching = await run('hardware', () => count.switches >= SWITCHES);
    expect(switching.text).toBe(software.text);
    expect(switching.end).toEqual(software.end);
    expect(count.switches).toBeGreaterThanOrEqual(SWITCHES);
  });
});
