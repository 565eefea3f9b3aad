import { EXIT_REASONS, type ExitReason } from '../../src-core/accounting/exits.ts';
import { engineLabel } from '../../src-core/protocol/engine.ts';
import { addUses, type EngineSample } from '../../src-core/protocol/engine-comparison.ts';
import type { Statistics } from '../../src-core/protocol/vm.ts';

/** The latest counters of a VM as a file's text. */
export function exportExits(
  name: string,
  statistics: Statistics,
  format: 'csv' | 'json',
): { fileName: string; text: string } {
  const stem = `${fileStem(name)}-exits`;
  if (format === 'json') {
    return { fileName: `${stem}.json`, text: `${JSON.stringify({ name, ...statistics }, null, 2)}\n` };
  }
  const rows = [['reason', 'label', 'detail', 'count', 'timed', 'timed_ns', 'per_second']];
  for (const [reason, { count, timed, ns }] of Object.entries(statistics.exits.reasons)) {
    const label = labelOf(reason);
    const rate = (statistics.rates[reason] ?? 0).toFixed(1);
    rows.push([reason, label, '', String(count), String(timed), String(ns), rate]);
    for (const [detail, detailCount] of Object.entries(statistics.exits.details[reason] ?? {})) {
      rows.push([reason, label, detail, String(detailCount), '', '', '']);
    }
  }
  for (const [accelerator, counters] of Object.entries(statistics.counters)) {
    for (const [counter, count] of Object.entries(counters)) {
      rows.push([accelerator, `Counters of ${accelerator}`, counter, String(count), '', '', '']);
    }
  }
  return { fileName: `${stem}.csv`, text: csv(rows) };
}

/** What a VM did on each engine: sums and time series (JSON), or the time series with a row a reason (CSV). */
export function exportComparison(
  name: string,
  samples: readonly EngineSample[],
  format: 'csv' | 'json',
): { fileName: string; text: string } {
  const stem = `${fileStem(name)}-engines`;
  if (format === 'json') {
    const report = { name, engines: addUses(samples), samples };
    return { fileName: `${stem}.json`, text: `${JSON.stringify(report, null, 2)}\n` };
  }
  const rows = [
    [
      'until',
      'engine',
      'modelled',
      'seconds',
      'instructions',
      'reason',
      'label',
      'count',
      'per_second',
      'ns',
    ],
  ];
  for (const { at, engine, ms, instructions, reasons } of samples) {
    const head = [
      new Date(at).toISOString(),
      engineLabel(engine),
      engine.accelerator === 'model' ? 'yes' : 'no',
      (ms / 1000).toFixed(3),
      String(instructions),
    ];
    for (const [reason, { count, ns }] of Object.entries(reasons)) {
      const rate = ms > 0 ? ((count * 1000) / ms).toFixed(1) : '';
      rows.push([...head, reason, labelOf(reason), String(count), rate, ns === null ? '' : ns.toFixed(0)]);
    }
  }
  return { fileName: `${stem}.csv`, text: csv(rows) };
}

function fileStem(name: string): string {
  return name.replaceAll(/[^\p{L}\p{N}._-]+/gu, '-');
}

function labelOf(reason: string): string {
  return reason in EXIT_REASONS ? EXIT_REASONS[reason as ExitReason] : reason;
}

function csv(rows: readonly string[][]): string {
  return rows.map((row) => row.map(csvField).join(',')).join('\n') + '\n';
}

function csvField(text: string): string {
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
