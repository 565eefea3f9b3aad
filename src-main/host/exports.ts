import { EXIT_REASONS, type ExitReason } from '../../src-core/accounting/exits.ts';
import type { Statistics } from '../../src-core/protocol/vm.ts';

/** The latest counters of a VM as a file's text. */
export function exportExits(
  name: string,
  statistics: Statistics,
  format: 'csv' | 'json',
): { fileName: string; text: string } {
  const stem = `${name.replaceAll(/[^\p{L}\p{N}._-]+/gu, '-')}-exits`;
  if (format === 'json') {
    return { fileName: `${stem}.json`, text: `${JSON.stringify({ name, ...statistics }, null, 2)}\n` };
  }
  const rows = [['reason', 'label', 'detail', 'count', 'timed', 'timed_ns', 'per_second']];
  for (const [reason, { count, timed, ns }] of Object.entries(statistics.exits.reasons)) {
    const label = reason in EXIT_REASONS ? EXIT_REASONS[reason as ExitReason] : reason;
    const rate = (statistics.rates[reason] ?? 0).toFixed(1);
    rows.push([reason, label, '', String(count), String(timed), String(ns), rate]);
    for (const [detail, detailCount] of Object.entries(statistics.exits.details[reason] ?? {})) {
      rows.push([reason, label, detail, String(detailCount), '', '', '']);
    }
  }
  return { fileName: `${stem}.csv`, text: rows.map((row) => row.map(csvField).join(',')).join('\n') + '\n' };
}

function csvField(text: string): string {
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
