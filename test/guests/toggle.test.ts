/** A guest under load changes between KVM and software for a minute: test/guests/model.test.ts does so with Linux and the model. */
import { expect, it } from 'vitest';
import { LOAD_RIGHT, loadMachine } from '../hardware/load-machine.ts';
import { describeKvm } from '../hardware/support.ts';

const EVERY_MS = 50;
const SECONDS = 60;

describeKvm('A guest that KVM can run', () => {
  it('changes engines every 50 ms for a minute, and its sums are right', async () => {
    const { machine, stop, ended } = loadMachine();
    await machine.prepareEngine({ kind: 'hardware' });
    machine.start();
    const started = performance.now();
    const ns: number[] = [];
    while (performance.now() - started < SECONDS * 1000) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      const kind = machine.engine === 'software' ? 'hardware' : 'software';
      const change = machine.switchEngine({ kind });
      expect(change.problem).toBeNull();
      ns.push(change.ns);
    }
    stop();
    expect((await ended).text).toMatch(LOAD_RIGHT);
    expect(ns.length).toBeGreaterThan((SECONDS * 1000) / EVERY_MS / 4);
    expect(machine.statistics().exits.reasons.interrupt?.count).toBeGreaterThan(1000);
    expect(ns.sort((a, b) => a - b)[ns.length >> 1]).toBeLessThan(10e6);
  });
});
