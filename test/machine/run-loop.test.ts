import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import type { Engine } from '../../src-core/engines/engine.ts';
import { HostClock, type Timer } from '../../src-core/machine/clock.ts';
import { RunLoop } from '../../src-core/machine/run-loop.ts';

const PERIOD_NS = 4e6;

/** An idle guest with a 250 Hz tick whose deadlines may be late by `slackNs`. */
class TickingGuest {
  readonly clock = new HostClock();
  readonly loop: RunLoop;
  /** By how much each tick came late, ns. */
  readonly late: number[] = [];
  readonly #timer: Timer;
  #next = PERIOD_NS;
  /** For so long the guest has work to do when it runs next, ms. */
  work = 0;

  constructor(slackNs: number) {
    this.#timer = this.clock.timer('tick', (deadlineNs) => {
      const now = this.clock.now();
      this.late.push(now - deadlineNs);
      this.#next = (Math.floor(now / PERIOD_NS) + 1) * PERIOD_NS;
      this.#timer.arm(this.#next, slackNs);
    });
    const engine: Engine = {
      kind: 'software',
      run: () => this.#run(),
      leave: () => undefined,
      requestExit: () => undefined,
      memoryChanged: () => undefined,
      flush: () => undefined,
      dispose: () => undefined,
    };
    this.loop = new RunLoop(this.clock, new ExitAccounting(), {
      engine: () => engine,
      afterRun: () => true,
      onShutdown: () => false,
      afterSlice: () => undefined,
      onPanic: (error) => {
        throw error;
      },
    });
    this.#timer.arm(this.#next, slackNs);
  }

  /** Works for a slice, or sleeps. */
  #run(): 'halt' | 'slice' {
    if (this.work <= 0) return 'halt';
    const started = performance.now();
    while (performance.now() - started < 3);
    this.work -= 3;
    return 'slice';
  }
}

const median = (values: number[]): number => [...values].sort((x, y) => x - y)[values.length >> 1] ?? 0;

describe('the run loop with an idle guest', () => {
  it('meets deadlines without slack', async () => {
    const guest = new TickingGuest(0);
    guest.loop.start();
    await sleep(600);
    guest.loop.stop();
    expect(guest.late.length).toBeGreaterThan(75);
    expect(median(guest.late)).toBeLessThan(1e6);
    expect(Math.min(...guest.late)).toBeGreaterThanOrEqual(0);
  });

  it('wakes less and less often for deadlines with slack, but at once for the host', async () => {
    const guest = new TickingGuest(32e6);
    guest.loop.start();
    await sleep(800);
    const ticks = guest.late.length;
    expect(ticks).toBeLessThan(75);
    expect(guest.late[0]).toBeLessThan(10e6);
    expect(median(guest.late.slice(-5))).toBeGreaterThan(10e6);

    // Activity of the host: its time with nothing to do starts over, and so do exact deadlines.
    guest.loop.wake();
    await sleep(30);
    guest.loop.stop();
    expect(guest.late.length - ticks).toBeGreaterThan(2);
    // Its slack is 4 ms by now, and the host's timers have theirs.
    expect(guest.late.at(-1)).toBeLessThan(8e6);
  });

  // A host with other work may keep us from 3 ms of work for 10: then once more.
  it('stays quiet where a tick takes some time, not where the guest gets work', { retry: 4 }, async () => {
    const guest = new TickingGuest(32e6);
    guest.loop.start();
    await sleep(800);
    guest.work = 3;
    await sleep(60);
    expect(guest.late.at(-1)).toBeGreaterThan(10e6);

    guest.work = 30;
    await sleep(100);
    const ticks = guest.late.length;
    await sleep(30);
    guest.loop.stop();
    expect(guest.late.length - ticks).toBeGreaterThan(1);
    expect(guest.late.at(-1)).toBeLessThan(20e6);
  });
});
