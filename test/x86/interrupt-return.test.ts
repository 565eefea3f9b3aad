import { describe, expect, it } from 'vitest';
import { UOP } from '../../src-core/engines/software/exit.ts';
import { emitInterruptReturn } from '../../src-core/engines/software/interpreter/interrupt-return.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  ATTR_DB,
  ATTR_L,
  CR0_ET,
  CR0_PE,
  CR4_SMAP,
  FLAG_AC,
  FLAG_IF,
  FLAG_NT,
  FLAG_RF,
  FLAG_TF,
  FLAG_VIF,
} from '../../src-core/x86/bits.ts';
import { CR4, CTL, DR7, EFER, FLAGS_SYSTEM, RSP } from '../../src-core/x86/layout.ts';
import { iret } from '../../src-core/x86/lift/far.ts';
import { bindModule, faultOf, makeVcpu, random, stateText, type Vcpu } from './vcpu.ts';

const MEMORY_MIB = 4;
const CASES = 6000;
const GDT = 0x2000;
const STACK = 0x8000;

/** Descriptors by index: as a kernel has them, then others. */
const DESCRIPTORS = [
  [0, 0],
  [0xffff, 0x00cf9b00],
  [0xffff, 0x00cf9300],
  [0xffff, 0x00cffb00],
  [0xffff, 0x00cff300],
  [0xffff, 0x00af9b00],
  [0xffff, 0x00affb00],
  // Not yet accessed.
  [0xffff, 0x00cffa00],
  [0xffff, 0x00cff200],
  // Conforming; read-only data; not present; a base; a limit; 16 bits.
  [0xffff, 0x00cf9f00],
  [0xffff, 0x00cff100],
  [0xffff, 0x00cf7b00],
  [0x1000ffff, 0x00cffb00],
  [0x0fff, 0x0040fb00],
  [0xffff, 0x008ffb00],
] as const;

/** All that IRET may change of the state, what is derived from it, and the GDT, whose descriptors it marks. */
function stateOf(vcpu: Vcpu): string {
  const control = [
    CTL.tlbBank,
    CTL.modeKey,
    CTL.cpl,
    CTL.codeBase,
    CTL.codeLimit,
    CTL.interruptShadow,
    CTL.nmiBlocked,
    CTL.flagsKind,
  ];
  return stateText(vcpu, control, GDT, DESCRIPTORS.length * 8);
}

describe('what wasm does of IRET', () => {
  it.each([[32 as const], [64 as const]])('is what the callout does (%i bits)', (bits) => {
    const [left, right] = [makeVcpu(MEMORY_MIB), makeVcpu(MEMORY_MIB)];
    const { quick } = bindModule(left, (module) => ({ quick: emitInterruptReturn(module) }));
    const { below } = random(20065 + bits);
    const pick = (...items: readonly number[]): number => items[below(items.length)] ?? 0;
    const word = (): number => (below(0x10000) * 0x10000 + below(0x10000)) >>> 0;
    const wide = bits === 64;
    const size = bits / 8;
    const done = new Map<number, number>();
    for (const { cpu } of [left, right]) {
      cpu.setCr0(CR0_PE | CR0_ET);
      cpu.setTable('gdt', BigInt(GDT), DESCRIPTORS.length * 8 - 1);
    }
    for (let round = 0; round < CASES; round++) {
      const usual = below(4) > 0;
      const outer = below(2) === 0;
      const level = usual ? (outer ? 3 : 0) : pick(0, 1, 2, 3);
      const code = usual ? pick(wide ? (outer ? 6 : 5) : outer ? 3 : 1) : below(DESCRIPTORS.length + 1);
      const stack = usual ? (outer ? 4 : 2) : below(DESCRIPTORS.length + 1);
      const frame = {
        rip: wide ? pick(0x1234, word()) : word(),
        ripHigh: wide ? pick(0, 0x7fff, 0xffff_8000, 0x8000, 0x1_0000) : 0,
        cs: code * 8 + level + (below(30) === 0 ? 4 : 0),
        flags: usual ? word() & ~(FLAG_TF | FLAG_NT | FLAG_AC | 0x1a0000) : word(),
        rsp: word(),
        ss: stack * 8 + (below(20) === 0 ? pick(0, 1, 2, 3) : level),
      };
      const state = {
        at: STACK + below(0x40) * 4 + (below(10) === 0 ? 0xfd0 : 0),
        flags: pick(FLAG_IF, 0) | pick(0, 0, 0, FLAG_NT) | pick(0, 0, FLAG_RF) | pick(0, 0, FLAG_VIF) | 2,
        cpl: below(12) === 0 ? 3 : 0,
        data: pick(0xc0f3, 0xc0f3, 0xc0f3, 0x10000, 0xc093),
        stackSize: below(12) === 0 ? 0 : ATTR_DB,
        smap: pick(0, CR4_SMAP),
        ac: pick(0, FLAG_AC),
        waits: pick(0, 0, 0, 1),
        nmi: below(20) === 0 ? 1 : 0,
        breakpoints: below(20) === 0 ? 1 : 0,
        intercepted: below(20) === 0 ? 1 : 0,
      };
      const level0 = state.cpl << 5;
      for (const { cpu } of [left, right]) {
        for (const [index, [low, high]] of DESCRIPTORS.entries()) {
          cpu.u32[(ARENA.ram + GDT) / 4 + index * 2] = low;
          cpu.u32[(ARENA.ram + GDT) / 4 + index * 2 + 1] = high;
        }
        cpu.set64(EFER, wide ? 0x501n : 0n);
        cpu.set64(CR4, BigInt(state.smap));
        cpu.set64(DR7, BigInt(state.breakpoints));
        cpu.set32(FLAGS_SYSTEM, state.flags | state.ac);
        cpu.set32(CTL.interruptRequest, state.waits);
        cpu.set32(CTL.nmiPending, state.nmi);
        cpu.set32(CTL.nmiBlocked, 1);
        cpu.set32(CTL.intercepted, state.intercepted);
        for (let index = 0; index < 6; index++) {
          const attributes =
            index === 1
              ? 0x809b | level0 | (wide ? ATTR_L : ATTR_DB)
              : index === 2
                ? 0x8093 | level0 | state.stackSize
                : state.data;
          cpu.setSegment(index, { selector: 8, attributes, limit: 0xffffffff, base: 0n });
        }
        cpu.setCpl(state.cpl);
        cpu.updateMode();
        cpu.set64(RSP, BigInt(state.at));
        const { view } = cpu.arena;
        const put = (slot: number, low: number, high = 0): void => {
          view.setUint32(ARENA.ram + state.at + slot * size, low, true);
          if (wide) view.setUint32(ARENA.ram + state.at + slot * size + 4, high, true);
        };
        put(0, frame.rip, frame.ripHigh);
        put(1, frame.cs, word());
        put(2, frame.flags);
        put(3, frame.rsp);
        put(4, frame.ss);
      }
      const what = `case ${round}: ${JSON.stringify({ frame, state })}`;
      const uop = ARENA.uops;
      left.cpu.u8.fill(0, uop, uop + UOP.size);
      left.cpu.i32[(uop + UOP.imm) >> 2] = bits;
      const run = ({ cpu }: Vcpu): unknown => faultOf(() => iret.run(cpu, 0, 0, 0, bits, 0));
      const handled = quick(uop);
      if (handled === 1) done.set(level, (done.get(level) ?? 0) + 1);
      const fault = handled === 0 ? run(left) : undefined;
      expect(fault, what).toEqual(run(right));
      expect(stateOf(left) === stateOf(right), what).toBe(true);
    }
    for (const level of [0, 3]) {
      expect(done.get(level)).toBeGreaterThan(CASES / 40);
      expect(done.get(level)).toBeLessThan(CASES / 2);
    }
    expect(done.size).toBe(2);
  });
});
