import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { RunTime } from '../../src-core/engines/software/run-time.ts';

describe('the time of a run', () => {
  let now = 0;
  beforeEach(() => {
    now = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
  });
  afterEach(() => vi.restoreAllMocks());

  /** Translates for so many ms in one piece. */
  const translate = (time: RunTime, ms: number): number => {
    const started = now;
    now += ms;
    return time.translated(started);
  };

  it('counts the pauses that translation makes, by how long they are', () => {
    const time = new RunTime(() => undefined);
    expect(time.pauses()).toEqual({ longestMs: 0, over1Ms: 0, over2Ms: 0, over5Ms: 0, longestInRunMs: 0 });
    time.begin(Infinity);
    for (const ms of [0.5, 1.5, 2.5]) expect(translate(time, ms)).toBe(ms * 1e6);
    time.end(new ExitAccounting());
    time.begin(Infinity);
    translate(time, 6);
    translate(time, 0.25);
    time.end(new ExitAccounting());
    time.begin(Infinity);
    translate(time, 1);
    time.end(new ExitAccounting());
    expect(time.pauses()).toEqual({
      ...{ longestMs: 6, over1Ms: 3, over2Ms: 2, over5Ms: 1, longestInRunMs: 6.25 },
    });
  });

  it('is shared out to exits, translation and guest code', () => {
    const accounting = new ExitAccounting();
    const time = new RunTime(() => undefined);
    time.begin(Infinity);
    translate(time, 2);
    now += 0.25;
    expect(time.exited(now - 0.25, 4)).toBe(0.25e6);
    now += 7;
    time.end(accounting);
    expect(accounting.snapshot().time).toEqual({ translation: 2e6, exits: 1e6, guest: 6.25e6 });
  });

  it('tells of a run that should be over, at the next time that is taken', () => {
    const onOverdue = vi.fn();
    const time = new RunTime(onOverdue);
    time.begin(2e6);
    translate(time, 1.5);
    expect(onOverdue).not.toHaveBeenCalled();
    translate(time, 1);
    expect(onOverdue).toHaveBeenCalledTimes(1);
    time.exited(now, 64);
    expect(onOverdue).toHaveBeenCalledTimes(2);
    time.end(new ExitAccounting());
    translate(time, 10);
    expect(onOverdue).toHaveBeenCalledTimes(2);
  });
});
