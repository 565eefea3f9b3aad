import { describe, expect, it } from 'vitest';
import { HostClock, IcountClock } from '../../src-core/machine/clock.ts';

describe('instruction clock', () => {
  it('jumps to deadlines and stays on whole ns', () => {
    let instructions = 1000;
    const clock = new IcountClock(() => instructions);
    const fired: number[] = [];
    const timer = clock.timer('test', (deadline) => fired.push(deadline));
    timer.arm(86_805.55);
    expect(clock.skipToNextDeadline()).toBe(true);
    expect(clock.now()).toBe(86_806);
    clock.runDue();
    expect(fired).toEqual([86_806]);
    expect(clock.skipToNextDeadline()).toBe(false);
    instructions += 5;
    expect(clock.now()).toBe(86_811);
  });

  it('keeps its time when the count starts over', () => {
    let instructions = 5000;
    const clock = new IcountClock(() => instructions);
    const before = clock.now();
    instructions = 0;
    clock.setNow(before);
    expect(clock.now()).toBe(5000);
  });
});

describe('timers', () => {
  it('fire in the order of their deadlines, and tell when the earliest moves', () => {
    let now = 0;
    const clock = new IcountClock(() => now);
    let moves = 0;
    clock.onDeadlineChange = () => moves++;
    const order: string[] = [];
    const a = clock.timer('a', () => order.push('a'));
    const b = clock.timer('b', () => {
      order.push('b');
      if (order.length < 4) b.arm(now);
    });
    a.arm(20);
    b.arm(10);
    expect(clock.nextDeadline).toBe(10);
    expect(moves).toBe(2);
    now = 15;
    clock.runDue();
    expect(order).toEqual(['b', 'b', 'b', 'b']);
    a.disarm();
    expect(clock.nextDeadline).toBe(Infinity);
  });

  it('say how long an idle guest may sleep', () => {
    const clock = new IcountClock(() => 0);
    const tick = clock.timer('tick', () => undefined);
    const exact = clock.timer('exact', () => undefined);
    expect(clock.latestWake(100)).toBe(Infinity);
    tick.arm(50, 30);
    expect(clock.nextDeadline).toBe(50);
    expect(clock.latestWake(100)).toBe(80);
    expect(clock.latestWake(10)).toBe(60);
    exact.arm(70);
    expect(clock.latestWake(100)).toBe(70);
    tick.arm(50);
    expect(clock.latestWake(100)).toBe(50);
  });

  it('stop with a limit when one keeps re-arming in the past', () => {
    const clock = new IcountClock(() => 100);
    let count = 0;
    const timer = clock.timer('busy', () => {
      count++;
      timer.arm(0);
    });
    timer.arm(0);
    clock.runDue(50);
    expect(count).toBe(50);
  });
});

describe('host clock', () => {
  it('stands still while paused', async () => {
    const clock = new HostClock();
    expect(clock.now()).toBe(0);
    clock.resume();
    await new Promise((resolve) => setTimeout(resolve, 20));
    clock.pause();
    const paused = clock.now();
    expect(paused).toBeGreaterThan(15e6);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(clock.now()).toBe(paused);
    clock.setNow(5e9);
    expect(clock.now()).toBe(5e9);
    clock.resume();
    expect(clock.now()).toBeGreaterThanOrEqual(5e9);
    expect(Number.isInteger(clock.now())).toBe(true);
  });
});
