/**
 * System behaviour: every own test guest runs on QEMU and on Switchyard, and both must print the expected
 * text and end the same way. Where QEMU is known to deviate from the manual, the text is the manual's, and
 * only Switchyard is held to it.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { systemGuests } from '../../src-core/guests/system/index.ts';
import type { SystemGuest } from '../../src-core/guests/system/index.ts';
import { expectedPath, findQemu, guestEnded, runOnQemu, runOnSwitchyard } from './machines.ts';

const qemu = findQemu();
/** Status of a triple fault with --no-reboot: QEMU just ends, Switchyard says 3. */
const tripleFault = { qemu: 0, switchyard: 3 };

function expected(guest: SystemGuest): string {
  return readFileSync(expectedPath(guest), 'latin1');
}

describe.each(systemGuests)('$name: $subject', (guest) => {
  const ends = guest.ends ?? 'debug-exit';

  if (guest.expectation.from === 'sdm') {
    it.skip(`QEMU: not compared, ${guest.expectation.because}`);
  } else if (qemu === undefined) {
    it.skip('QEMU: this machine has no qemu-system-x86_64');
  } else {
    it('prints the expected text on QEMU', async () => {
      const run = await runOnQemu(qemu, guest);
      expect(run.output).toBe(expected(guest));
      expect(run.status).toBe(ends === 'triple-fault' ? tripleFault.qemu : guestEnded);
    });
  }

  it.each([
    ['interpreted', ['--tier', '0']],
    ['translated at once', ['--tier', '1', '--threshold', '1']],
    ['keeping address spaces', ['--tier', '1', '--threshold', '1', '--address-spaces', 'keep']],
  ])('prints the expected text on Switchyard, %s', async (_, options) => {
    const run = await runOnSwitchyard(guest, options);
    expect(run.output, run.errors).toBe(expected(guest));
    expect(run.status, run.errors).toBe(ends === 'triple-fault' ? tripleFault.switchyard : guestEnded);
  });
});
