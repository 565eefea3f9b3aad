import { describe, expect, it } from 'vitest';
import { Board } from '../../src-core/machine/board.ts';
import { makeBus, ManualClock, throughJson } from '../devices/harness.ts';

/** Marsaglia's xorshift32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

function make(): { board: Board; clock: ManualClock } & ReturnType<typeof makeBus> {
  const bus = makeBus();
  const clock = new ManualClock();
  const board = new Board({
    clock,
    ports: bus.ports,
    memory: bus.memory,
    epochMs: () => 1.7e12,
    onInterrupt: () => undefined,
    onNmi: () => undefined,
    onReset: () => undefined,
    onPowerOff: () => undefined,
    setA20: () => undefined,
    tscToNs: Number,
    onTscDeadlineDone: () => undefined,
    onSerialByte: () => undefined,
  });
  board.reset();
  board.setApicBase(0xfee00900n);
  return { board, clock, ...bus };
}

/** Ports with something behind them, and some beside. */
const PORTS = [
  0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92,
  0xb2, 0xb3, 0xcf8, 0xcf9, 0xcfa, 0xcfc, 0xcfd, 0xcff, 0x600, 0x602, 0x604, 0x608, 0x3f8, 0x3f9, 0x3fa,
  0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x2f8, 0x2fc, 0xffff,
];

describe('devices under a guest that writes anything anywhere', () => {
  it.each([1, 2, 3, 4])('never fail, and restore what they saved (seed %i)', (seed) => {
    const { board, clock, ports, memory } = make();
    const next = random(seed * 0x9e3779b9);
    const pick = (count: number): number => next() % count;
    let restores = 0;
    for (let step = 0; step < 60_000; step++) {
      const size = [1, 2, 4][pick(3)] ?? 1;
      const value = pick(4) === 0 ? next() : next() & 0xff;
      const masked = size === 4 ? value : value & ((1 << (8 * size)) - 1);
      switch (pick(8)) {
        case 0:
        case 1:
        case 2:
          ports.write(PORTS[pick(PORTS.length)] ?? 0, size, masked);
          break;
        case 3:
          ports.read(PORTS[pick(PORTS.length)] ?? 0, size);
          break;
        case 4:
          // Configuration space, where the ACPI block and the PAM registers are moved about.
          ports.write(0xcf8, 4, (0x80000000 | (pick(2) << 11) | (pick(4) << 8) | (next() & 0xfc)) >>> 0);
          ports.write(0xcfc, size, masked);
          break;
        case 5:
          memory.write((pick(2) === 0 ? 0xfee00000 : 0xfec00000) + (next() & 0xff0), size, masked);
          break;
        case 6:
          memory.read((pick(2) === 0 ? 0xfee00000 : 0xfec00000) + (next() & 0xffc), size);
          break;
        default:
          clock.advance(pick(100) === 0 ? next() : pick(100_000));
          if (board.localApic.hasInterrupt() && pick(2) === 0) board.localApic.acknowledge();
          if (pick(50) === 0) board.uarts[pick(2)]?.receive(Uint8Array.of(next() & 0xff));
      }
      if (step % 5000 !== 4999) continue;
      const saved = board.devices.map((device) => throughJson(device.save()));
      const other = make();
      other.clock.setNow(clock.now());
      other.board.devices.forEach((device, index) => device.restore(saved[index]));
      expect(other.board.devices.map((device) => throughJson(device.save()))).toEqual(saved);
      restores++;
    }
    expect(restores).toBe(12);
  });

  it('refuse states that are none of theirs', () => {
    const { board } = make();
    for (const device of board.devices) {
      for (const bad of [null, 5, 'x', [], {}, { ...(device.save() as object), extra: 1 }]) {
        expect(() => device.restore(bad), device.name).toThrow();
      }
    }
  });

  it('have names of their own', () => {
    const names = make().board.devices.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  });
});
