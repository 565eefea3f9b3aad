import { afterEach, describe, expect, it } from 'vitest';
import { crc32 } from 'node:zlib';
import type { Machine, MachineEnd } from '../../src-core/machine/machine.ts';
import {
  checkSnapshot,
  restoreSnapshot,
  SnapshotError,
  type SnapshotSource,
  writeSnapshot,
} from '../../src-core/machine/snapshot.ts';
import { collectSerial, interruptSetup, makeMachine, runToEnd, until } from './guest.ts';

/** Counts loop rounds while 60 timer ticks of 1 ms pass, sums memory it scribbles over, and exits. */
const PROGRAM = `
      ${interruptSetup(0, 'tick')}
      mov al, 0x34
      out 0x43, al
      mov al, 0xa9
      out 0x40, al
      mov al, 0x04
      out 0x40, al
      sti
      xor ecx, ecx
wait: inc ecx
      mov ebx, ecx
      and ebx, 0x3ffff
      mov [ebx + 0x300000], ecx
      cmp dword [ticks], 60
      jb wait
      mov [0x9000], ecx
      mov al, 'E'
      call putc
      xor eax, eax
      out 0xf4, eax
      jmp hang
tick: push eax
      inc dword [ticks]
      cmp dword [ticks], 30
      jne quiet
      mov al, 'M'
      call putc
quiet: mov al, 0x20
      out 0x20, al
      pop eax
      iret
ticks: dd 0
`;

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk.slice());
  return new Uint8Array(Buffer.concat(parts));
}

/** Hands a file out in pieces that don't respect its structure. */
function source(file: Uint8Array, piece = 1000): SnapshotSource {
  return async function* () {
    for (let at = 0; at < file.length; at += piece)
      yield await Promise.resolve(file.subarray(at, at + piece));
  };
}

function outcome(machine: Machine): string {
  const { guestNs } = machine.statistics();
  const sum = crc32(machine.arena.ram.slice(0x300000, 0x340004));
  return `${machine.memory.read(0x9000, 4)} ${guestNs} ${sum}`;
}

async function pausedHalfway(machine: Machine): Promise<void> {
  const serial = collectSerial(machine);
  machine.start();
  await until(() => serial.text.includes('M'));
  machine.pause();
}

function goOn(machine: Machine): Promise<MachineEnd> {
  return new Promise((resolve) => {
    machine.on('ended', resolve);
    machine.start();
    machine.resume();
  });
}

describe('snapshots', () => {
  const machines: Machine[] = [];
  function make(memoryMib = 8): Machine {
    const machine = makeMachine(PROGRAM, { clock: 'icount', memoryMib });
    machines.push(machine);
    return machine;
  }
  afterEach(() => {
    for (const machine of machines.splice(0)) machine.stop();
  });

  it('let another machine go on exactly as the first would have', async () => {
    const undisturbed = make();
    await runToEnd(undisturbed);
    const expected = outcome(undisturbed);

    const first = make();
    await pausedHalfway(first);
    const fractions: number[] = [];
    const file = await collect(writeSnapshot(first, { onProgress: (fraction) => fractions.push(fraction) }));
    expect(fractions.at(-1)).toBe(1);
    // Zero pages are dropped and the rest is compressed.
    expect(file.length).toBeLessThan(1024 * 1024);
    expect(await goOn(first)).toEqual({ kind: 'debugExit', value: 0 });
    expect(outcome(first)).toBe(expected);

    const second = make();
    await restoreSnapshot(second, source(file), { size: file.length });
    expect(second.state).toBe('created');
    const serial = collectSerial(second);
    expect(await goOn(second)).toEqual({ kind: 'debugExit', value: 0 });
    expect(serial.text).toBe('E');
    expect(outcome(second)).toBe(expected);
  });

  it('bring the same machine back, memory included', async () => {
    const machine = make();
    await pausedHalfway(machine);
    const file = await collect(writeSnapshot(machine));
    const ram = machine.arena.ram.slice();
    machine.arena.ram.fill(0xaa, 0x700000, 0x710000);
    machine.arena.ram.fill(0x55, 0x300000, 0x300010);
    machine.cpu.setGpr(1, 0n);
    await restoreSnapshot(machine, source(file, 7));
    expect(Buffer.compare(machine.arena.ram, ram)).toBe(0);
    expect(machine.state).toBe('paused');
    expect(await collect(writeSnapshot(machine))).toEqual(file);
  });

  it('refuse damage anywhere, and leave the machine as it was', async () => {
    const machine = make();
    await pausedHalfway(machine);
    const file = await collect(writeSnapshot(machine));
    const before = Buffer.from(file);
    for (let at = 0; at < file.length; at += Math.max(1, Math.floor(file.length / 60))) {
      const damaged = file.slice();
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      await expect(restoreSnapshot(machine, source(damaged, 65536))).rejects.toBeInstanceOf(SnapshotError);
    }
    expect(Buffer.compare(before, await collect(writeSnapshot(machine)))).toBe(0);
  });

  it('refuse files cut short at any length', async () => {
    const machine = make();
    const file = await collect(writeSnapshot(machine));
    for (const length of [0, 5, 16, 20, 36, 100, file.length - 1]) {
      await expect(checkSnapshot(source(file.subarray(0, length)))).rejects.toMatchObject({
        kind: 'truncated',
      });
    }
  });

  it('refuse other files, later versions and machines of another size', async () => {
    const machine = make();
    const text = new TextEncoder().encode('This is not a snapshot at all, it is a text.');
    await expect(checkSnapshot(source(text))).rejects.toMatchObject({ kind: 'notASnapshot' });
    const file = await collect(writeSnapshot(machine));
    const later = file.slice();
    const view = new DataView(later.buffer);
    view.setUint32(8, 99, true);
    view.setUint32(12, crc32(later.subarray(0, 12)), true);
    await expect(checkSnapshot(source(later))).rejects.toThrow(/version 99.*later Switchyard/);
    await expect(restoreSnapshot(make(16), source(file))).rejects.toThrow(/8 MiB of memory, this one has 16/);
  });

  it('can be cancelled', async () => {
    const controller = new AbortController();
    const machine = make();
    const writing = collect(
      writeSnapshot(machine, { signal: controller.signal, onProgress: () => controller.abort() }),
    );
    await expect(writing).rejects.toThrow(/abort/i);
    const file = await collect(writeSnapshot(machine));
    await expect(restoreSnapshot(machine, source(file), { signal: AbortSignal.abort() })).rejects.toThrow(
      /abort/i,
    );
  });

  it('are not taken of a running machine', async () => {
    const machine = makeMachine('wait: jmp wait');
    machines.push(machine);
    machine.start();
    await expect(collect(writeSnapshot(machine))).rejects.toThrow(/pause it first/);
    await expect(restoreSnapshot(machine, source(new Uint8Array(0)))).rejects.toThrow(/pause it first/);
  });
});
