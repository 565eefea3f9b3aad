/**
 * Records the expected output of system test guests from QEMU: `node test/guests/record.ts [NAME...]`.
 * A guest whose expectation is written from the manual is only built and run, and its output shown next to
 * what is expected.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { systemGuests } from '../../src-core/guests/system/index.ts';
import { expectedPath, findQemu, guestEnded, runOnQemu } from './machines.ts';

const qemu = findQemu();
if (qemu === undefined) throw new Error('recording needs qemu-system-x86_64');
const names = process.argv.slice(2);
const unknown = names.filter((name) => !systemGuests.some((guest) => guest.name === name));
if (unknown.length > 0) throw new Error(`no guest is called ${unknown.join(', ')}`);

for (const guest of systemGuests) {
  if (names.length > 0 && !names.includes(guest.name)) continue;
  const run = await runOnQemu(qemu, guest);
  const path = expectedPath(guest);
  const before = existsSync(path) ? readFileSync(path, 'latin1') : undefined;
  if (guest.expectation.from === 'sdm') {
    process.stdout.write(`${guest.name}: from the manual, not recorded\n`);
    showDifferences(before ?? '', run.output);
    continue;
  }
  const ended = guest.ends === 'triple-fault' ? 0 : guestEnded;
  if (run.status !== ended) {
    throw new Error(`${guest.name} ended with ${run.status ?? 'a signal'}: ${run.errors}\n${run.output}`);
  }
  writeFileSync(path, run.output, 'latin1');
  process.stdout.write(`${guest.name}: ${before === run.output ? 'unchanged' : 'recorded'}\n`);
}

function showDifferences(expected: string, actual: string): void {
  const wanted = expected.split('\n');
  const got = actual.split('\n');
  for (let line = 0; line < Math.max(wanted.length, got.length); line++) {
    if (wanted[line] === got[line]) continue;
    process.stdout.write(`  manual: ${wanted[line] ?? ''}\n  QEMU:   ${got[line] ?? ''}\n`);
  }
}
