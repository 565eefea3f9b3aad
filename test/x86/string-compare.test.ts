import { describe, expect, it } from 'vitest';
import { UOP } from '../../src-core/engines/software/exit.ts';
import { emitStringCompare } from '../../src-core/engines/software/interpreter/string-compare.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import { AGGREGATION, compareStrings, STRINGS } from '../../src-core/x86/fpu/sse-strings.ts';
import { RAX, STATE_END, XMM } from '../../src-core/x86/layout.ts';
import { bindModule, makeVcpu, random, type Vcpu } from './vcpu.ts';

const CASES = 20_000;

describe('comparisons of strings in wasm', () => {
  it('are what the callout does', () => {
    const left = makeVcpu(4);
    const right = makeVcpu(4);
    const { quick } = bindModule(left, (module) => ({ quick: emitStringCompare(module) }));
    const { below } = random(20067);
    const done = new Map<number, number>();
    for (let round = 0; round < CASES; round++) {
      const control = below(128);
      const c = below(8) === 0 ? below(4) : STRINGS.index;
      // Few different bytes, and now and then the end of a string; often the same in both.
      const alphabet = 1 + below(3);
      const byte = (): number => (below(20) === 0 ? 0 : 0x7e + below(alphabet));
      const text = Array.from({ length: 16 }, byte);
      const other = below(2) === 0 ? text.map((one) => (below(24) === 0 ? byte() : one)) : text.map(byte);
      // All of the operand that is searched for is rarely one whole string.
      if (below(2) === 0) text.fill(0, below(5));
      const a = XMM + 16 * below(8);
      const b = XMM + 16 * below(8);
      const flags = below(0x1000);
      for (const { cpu } of [left, right]) {
        cpu.u8.set(text, a);
        cpu.u8.set(other, b);
        cpu.rflags = flags;
        cpu.set64(RAX, 0n);
      }
      const uop = ARENA.uops;
      left.cpu.u8.fill(0, uop, uop + UOP.size);
      left.cpu.u16.set([0, RAX, a, b], uop >> 1);
      left.cpu.i32[(uop + UOP.imm) >> 2] = control;
      left.cpu.u16[(uop + UOP.c) >> 1] = c;
      const run = ({ cpu }: Vcpu): void => compareStrings.run(cpu, RAX, a, b, control, c);
      const handled = quick(uop);
      const mode = (control >> 2) & 3;
      if (handled === 1) done.set(mode, (done.get(mode) ?? 0) + 1);
      else run(left);
      run(right);
      const state = ({ cpu }: Vcpu): Buffer => Buffer.from(cpu.arena.buffer, RAX, STATE_END - RAX);
      const what = `case ${round}: control ${control.toString(16)}, c ${c}, ${text.join(' ')} and ${other.join(' ')}`;
      expect(state(left).equals(state(right)), what).toBe(true);
    }
    for (const mode of [AGGREGATION.equalAny, AGGREGATION.equalEach, AGGREGATION.equalOrdered]) {
      expect(done.get(mode)).toBeGreaterThan(CASES / 16);
    }
    expect(done.has(AGGREGATION.ranges)).toBe(false);
  });
});
