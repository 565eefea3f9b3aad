import { describe, expect, it } from 'vitest';
import { TickPattern } from '../../src-core/devices/tick-pattern.ts';

const MS = 1e6;

/** A guest with a tick of `periodMs`, whose deadlines come on time, up to `untilMs`. Returns the last slack. */
function tick(pattern: TickPattern, periodMs: number, fromMs: number, untilMs: number): number {
  let slack = 0;
  for (let at = fromMs; at <= untilMs; at += periodMs) {
    // A few us of jitter: guests read their clock and program the deadline at different instants.
    slack = pattern.slackOf(at * MS + ((at * 7919) % 10_000));
    pattern.passed(at * MS);
  }
  return slack;
}

describe('the tick of an idle guest', () => {
  it('gets slack with the time for which there was nothing else, up to a limit', () => {
    const pattern = new TickPattern();
    expect(tick(pattern, 4, 4, 8)).toBe(0.5 * MS);
    expect(tick(pattern, 4, 12, 84)).toBe(10 * MS);
    expect(tick(pattern, 4, 88, 2000)).toBe(100 * MS);
  });

  it('is still a tick when deadlines were missed', () => {
    const pattern = new TickPattern();
    tick(pattern, 4, 4, 1000);
    expect(pattern.slackOf(1056 * MS)).toBe(100 * MS);
  });

  it('loses its slack to any other deadline', () => {
    const pattern = new TickPattern();
    tick(pattern, 4, 4, 1000);
    expect(pattern.slackOf(1002 * MS)).toBe(0);
    pattern.passed(1002 * MS);
    expect(pattern.slackOf(1004 * MS)).toBeLessThan(MS);
    expect(tick(pattern, 4, 1008, 1040)).toBeLessThan(5 * MS);
  });

  it('is not seen in a guest that counts from when its interrupt came', () => {
    const pattern = new TickPattern();
    tick(pattern, 4, 4, 1000);
    // The deadline of 1004 ms came at 1100 ms, and the guest asks for 4 ms from then.
    pattern.passed(1004 * MS);
    expect(pattern.slackOf(1104.2 * MS)).toBe(0);
  });

  it('is not seen in slow or irregular deadlines', () => {
    const pattern = new TickPattern();
    expect(tick(pattern, 100, 100, 5000)).toBe(0);
    let at = 5000;
    for (const wait of [3, 7, 40, 4.5, 11, 90, 2, 5.3]) {
      at += wait;
      expect(pattern.slackOf(at * MS)).toBe(0);
      pattern.passed(at * MS);
    }
  });
});
