import { expect, test } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import type { EngineName } from '../../src-core/protocol/engine.ts';
import { addUses } from '../../src-core/protocol/engine-comparison.ts';
import { EngineUseTracker } from '../../src-main/host/engine-use.ts';
import { exportComparison } from '../../src-main/host/exports.ts';

/** What a machine counts, split by the engine that ran it. */

const SOFTWARE: EngineName = { kind: 'software', accelerator: null };
const KVM: EngineName = { kind: 'hardware', accelerator: 'kvm' };

test('what is counted belongs to the engine that ran, whatever runs when it is read', () => {
  const accounting = new ExitAccounting();
  let guestNs = 0;
  const counters = () => ({ exits: accounting.snapshot(), guestNs });
  const tracker = new EngineUseTracker(SOFTWARE, counters());
  accounting.count('portIo', 10);
  accounting.addTime('portIo', 300);
  accounting.addTime('portIo', 500);
  accounting.instructions = 1000;
  guestNs = 2e6;
  tracker.count(counters(), KVM);
  accounting.count('portIo', 4);
  accounting.count('hlt', 1);
  guestNs = 3e6;
  tracker.count(counters());
  tracker.count(counters(), SOFTWARE);
  accounting.count('portIo', 5);
  accounting.addTime('portIo', 100);
  guestNs = 7e6;
  tracker.count(counters());
  expect(tracker.pending).toEqual([
    {
      engine: SOFTWARE,
      ms: 6,
      instructions: 1000,
      reasons: { portIo: { count: 15, ns: 10 * 400 + 5 * 100 } },
    },
    {
      engine: KVM,
      ms: 1,
      instructions: 0,
      reasons: { portIo: { count: 4, ns: null }, hlt: { count: 1, ns: null } },
    },
  ]);
  const samples = tracker.take(5000);
  expect(samples.map(({ at }) => at)).toEqual([5000, 5000]);
  expect(tracker.pending).toEqual([]);
  // Counters that begin anew.
  tracker.count({ exits: new ExitAccounting().snapshot(), guestNs: 1e6 });
  expect(tracker.take(6000)).toMatchObject([{ ms: 1, instructions: 0, reasons: {} }]);
});

test('under the model time is what the model says, and on the other engines never', () => {
  const accounting = new ExitAccounting();
  const counters = () => ({ exits: accounting.snapshot(), guestNs: 0 });
  const tracker = new EngineUseTracker(SOFTWARE, counters());
  accounting.count('portIo', 2);
  accounting.addTime('portIo', 500);
  tracker.count(counters(), { kind: 'hardware', accelerator: 'model' });
  accounting.countModelled('portIo', 3, 3600);
  accounting.count('slice');
  tracker.count(counters(), SOFTWARE);
  accounting.count('portIo');
  tracker.count(counters());
  expect(tracker.pending).toMatchObject([
    { engine: SOFTWARE, reasons: { portIo: { count: 3, ns: 1000 } } },
    { engine: { accelerator: 'model' }, reasons: { portIo: { count: 3, ns: 3600 }, slice: { ns: null } } },
  ]);
});

test('both forms of the export hold every engine and reason', () => {
  const use = { ms: 2000, instructions: 5, reasons: { portIo: { count: 10, ns: 4000 } } };
  const samples = [
    { ...use, at: 1000, engine: SOFTWARE },
    { ...use, at: 1000, engine: { kind: 'hardware', accelerator: 'model' } as const },
    { ...use, at: 6000, engine: SOFTWARE },
  ];
  expect(addUses(samples)[0]).toMatchObject({ ms: 4000, reasons: { portIo: { count: 20, ns: 8000 } } });
  const csv = exportComparison('a b', samples, 'csv');
  expect(csv.fileName).toBe('a-b-engines.csv');
  expect(csv.text.split('\n')).toEqual([
    'until,engine,modelled,seconds,instructions,reason,label,count,per_second,ns',
    '1970-01-01T00:00:01.000Z,Software,no,2.000,5,portIo,Port I/O,10,5.0,4000',
    '1970-01-01T00:00:01.000Z,Model,yes,2.000,5,portIo,Port I/O,10,5.0,4000',
    '1970-01-01T00:00:06.000Z,Software,no,2.000,5,portIo,Port I/O,10,5.0,4000',
    '',
  ]);
  const json = JSON.parse(exportComparison('a b', samples, 'json').text) as Record<string, unknown[]>;
  expect(json.engines).toHaveLength(2);
  expect(json.samples).toEqual(samples);
});
