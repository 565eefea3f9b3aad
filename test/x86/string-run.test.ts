import { describe, expect, it } from 'vitest';
import { emitRefill } from '../../src-core/engines/software/mmu/refill.ts';
import { emitStringRun } from '../../src-core/engines/software/interpreter/string-run.ts';
import { UOP } from '../../src-core/engines/software/exit.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import { FLAG_DF } from '../../src-core/x86/bits.ts';
import { CTL, FLAGS_SYSTEM, RAX, RCX, RDI, RSI, STATE_END } from '../../src-core/x86/layout.ts';
import { BULK, repMovsRun, repStosRun } from '../../src-core/x86/string-bulk.ts';
import { bindModule, makeVcpu, random, type Vcpu } from './vcpu.ts';

const MEMORY_MIB = 4;
const RAM_BYTES = 0x8000;
const CASES = 4000;

describe('runs of string iterations in wasm', () => {
  it.each([
    ['32-bit', 1],
    ['64-bit', 2],
  ])('do what the callouts do (%s addresses)', (_, width) => {
    const left = makeVcpu(MEMORY_MIB);
    const right = makeVcpu(MEMORY_MIB);
    const { stringRun } = bindModule(left, (module) => ({
      stringRun: emitStringRun(module, emitRefill(module).refill),
    }));
    const { below: next } = random(20061);
    for (const { cpu } of [left, right]) {
      for (let i = 0; i < 2 * RAM_BYTES; i++) cpu.u8[ARENA.ram + i] = (i * 31) ^ (i >> 8);
    }
    let done = 0;
    let moved = 0;
    for (let round = 0; round < CASES; round++) {
      const callout = next(2) === 0 ? repMovsRun : repStosRun;
      const imm = next(4) | (width << BULK.addressShift);
      const from = BigInt(next(RAM_BYTES));
      // Often close together: copies that overlap.
      const to = next(3) === 0 ? from + BigInt(next(64)) : BigInt(next(RAM_BYTES));
      const state = [
        [RSI, from],
        [RDI, to],
        [RCX, BigInt(1 + next(next(3) === 0 ? 5000 : 40)) | (next(20) === 0 ? 1n << 33n : 0n)],
        [RAX, next(2) === 0 ? 0n : BigInt(next(0x7fffffff)) * 0x1_0000_0001n],
      ] as const;
      const down = next(16) === 0 ? FLAG_DF : 0;
      const budget = next(8) === 0 ? next(6) - 1 : 1 + next(3000);
      for (const { cpu } of [left, right]) {
        for (const [register, value] of state) cpu.set64(register, value);
        cpu.set32(FLAGS_SYSTEM, (cpu.get32(FLAGS_SYSTEM) & ~FLAG_DF) | down);
        cpu.i32[CTL.budget >> 2] = budget;
        if (round % 16 === 0) cpu.mmu.flush();
      }
      const uop = ARENA.uops;
      left.cpu.u8.fill(0, uop, uop + UOP.size);
      left.cpu.i32[(uop + UOP.imm) >> 2] = imm;
      left.cpu.u16[(uop + UOP.callout) >> 1] = callout.id;
      const handled = stringRun(uop);
      if (handled === 0) callout.run(left.cpu, 0, 0, 0, imm, 0);
      callout.run(right.cpu, 0, 0, 0, imm, 0);
      done += handled;
      if (handled === 1 && left.cpu.get64(RDI) !== to) moved++;
      const ofState = ({ cpu }: Vcpu): Buffer => Buffer.from(cpu.arena.buffer, RAX, STATE_END - RAX);
      const ofRam = ({ cpu }: Vcpu): Buffer => Buffer.from(cpu.arena.buffer, ARENA.ram, 2 * RAM_BYTES);
      const what = `case ${round}: ${callout.name}, imm ${imm}, ${state.map(([, value]) => value.toString(16)).join(' ')}`;
      expect(ofState(left).equals(ofState(right)), what).toBe(true);
      expect(left.cpu.i32[CTL.budget >> 2], what).toBe(right.cpu.i32[CTL.budget >> 2]);
      expect(ofRam(left).equals(ofRam(right)), what).toBe(true);
    }
    expect(done).toBeGreaterThan(CASES / 4);
    expect(moved).toBeGreaterThan(CASES / 8);
    expect(done).toBeLessThan(CASES);
  });
});
