/** State that goes into KVM and comes back is what it was. */
import { afterEach, expect, it } from 'vitest';
import { KvmError } from '../../src-core/engines/hardware/kvm/errors.ts';
import { HardwareEngine } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import {
  longMode,
  paging32,
  pagingPae,
  protectedMode,
  realMode,
} from '../../src-core/engines/hardware/probe/modes.ts';
import type { GuestPlace } from '../../src-core/engines/hardware/probe/modes.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import { CTL, DR0, DR6, DR7, FPU, GPR, MSR, SEG, ST, STATE_END, XMM } from '../../src-core/x86/layout.ts';
import { readTsc } from '../../src-core/x86/msr.ts';
import { describeKvm } from './support.ts';
import { makeVcpu, type Vcpu } from './vcpu.ts';

/** A generator that can be repeated (xorshift32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Random values in everything that may hold any: what a mode fixes is left. */
function scramble({ arena, cpu }: Vcpu, random: () => number): void {
  const fill = (from: number, to: number): void => {
    for (let at = from; at < to; at += 4) arena.u32[at >> 2] = random();
  };
  fill(GPR, GPR + 128);
  fill(XMM, XMM + 256);
  for (let i = 0; i < 8; i++) {
    fill(ST + i * 16, ST + i * 16 + 8);
    arena.u16[(ST + i * 16 + 8) >> 1] = random();
  }
  cpu.set32(FPU.fcw, 0x40 | (random() & 0xf3f));
  cpu.set32(FPU.top, random() & 7);
  cpu.set32(FPU.empty, random() & 0xff);
  cpu.set32(FPU.fop, random() & 0x7ff);
  cpu.set32(FPU.fip, random());
  cpu.set32(FPU.fdp, random());
  cpu.set32(FPU.mxcsr, 0x1f80 | (random() & 0xe03f));
  cpu.set32(FPU.fsw, random() & 0x4700);
  // Within the lower half of linear addresses, canonical everywhere.
  for (const slot of [MSR.lstar, MSR.cstar, MSR.kernelGsBase, MSR.sysenterEsp, MSR.sysenterEip]) {
    cpu.set32(slot, random());
    cpu.set32(slot + 4, random() & 0x7fff);
  }
  cpu.set32(MSR.star + 4, random());
  cpu.set32(MSR.sysenterCs, random() & 0xffff);
  cpu.set32(MSR.tscAux, random());
  for (let i = 0; i < 4; i++) cpu.set32(DR0 + i * 8, random());
  cpu.set64(DR6, BigInt((0xffff0ff0 | (random() & 0xf)) >>> 0));
  cpu.set64(DR7, BigInt(0x400 | (random() & 0xff)));
  // All flags but TF, RF and VM.
  cpu.rflags = (random() & 0x24ced5) | 2;
  cpu.stateReplaced();
}

interface Snapshot {
  readonly state: Uint8Array;
  readonly words: readonly number[];
  readonly rflags: number;
}

const WORDS = [
  CTL.interruptShadow,
  CTL.halted,
  CTL.cpl,
  CTL.nmiPending,
  CTL.nmiBlocked,
  CTL.modeKey,
  CTL.codeLimit,
];

/** Everything architectural; flags by their values, since their lazy form may differ. */
function take({ arena, cpu }: Vcpu): Snapshot {
  const state = arena.u8.slice(GPR, STATE_END);
  state.fill(0, 0x188 - GPR, 0x198 - GPR);
  // AMD's processors drop the x87 pointers where no exception is pending.
  state.fill(0, FPU.fop - GPR, FPU.fop + 4 - GPR);
  state.fill(0, FPU.fip - GPR, FPU.fcs - GPR);
  // The TSC is told apart: it runs.
  state.fill(0, MSR.tscOffset - GPR, MSR.tscOffset + 8 - GPR);
  return { state, words: WORDS.map((offset) => cpu.get32(offset)), rflags: cpu.rflags };
}

const MODES: [string, (place: GuestPlace) => void][] = [
  ['real mode', realMode],
  ['protected mode', (place) => protectedMode(place)],
  ['32-bit paging', (place) => paging32(place)],
  ['PAE paging', (place) => pagingPae(place)],
  ['long mode', (place) => longMode(place)],
];

describeKvm('State through KVM and back', () => {
  const engines: { dispose(): void }[] = [];
  afterEach(() => {
    for (const engine of engines.splice(0).reverse()) engine.dispose();
  });

  function make(prepare: (place: GuestPlace) => void): { vcpu: Vcpu; engine: HardwareEngine } {
    const vcpu = makeVcpu();
    const { arena, cpu } = vcpu;
    prepare({ cpu, view: new DataView(arena.buffer, ARENA.ram, arena.ramSize) });
    const software = new SoftwareEngine({ arena, cpu });
    const engine = new HardwareEngine({ arena, cpu, software });
    engines.push(software, engine);
    return { vcpu, engine };
  }

  /** False when KVM can't have the mode, which must leave the state as it was. */
  function enters(vcpu: Vcpu, engine: HardwareEngine, before: Snapshot): boolean {
    try {
      engine.enter();
      return true;
    } catch (error) {
      if (!(error instanceof KvmError && error.kind === 'state')) throw error;
      expect(take(vcpu)).toEqual(before);
      return false;
    }
  }

  it.for(MODES)('%s: every register, a hundred times', ([, prepare], context) => {
    const { vcpu, engine } = make(prepare);
    const random = randomFrom(20060);
    for (let round = 0; round < 100; round++) {
      scramble(vcpu, random);
      const before = take(vcpu);
      const tsc = readTsc(vcpu.cpu);
      if (!enters(vcpu, engine, before)) context.skip('this KVM does not take the mode');
      // What comes back must come from KVM.
      const { rip } = vcpu.cpu;
      vcpu.arena.u8.fill(0, GPR, SEG + 0x120);
      vcpu.arena.u8.fill(0, ST, XMM + 256);
      vcpu.cpu.rip = rip ^ 1n;
      engine.leave();
      const after = take(vcpu);
      expect(after.rflags).toBe(before.rflags);
      expect(after.words).toEqual(before.words);
      expect(Buffer.compare(after.state, before.state), differing(before.state, after.state)).toBe(0);
      expect(readTsc(vcpu.cpu)).toBeGreaterThanOrEqual(tsc);
    }
  });

  it.each([
    ['STI', 1, 0, 0],
    ['MOV SS', 3, 0, 0],
    ['a non-maskable interrupt that waits', 0, 1, 0],
    ['one that is being handled', 0, 0, 1],
    ['one that waits while another is handled', 0, 1, 1],
  ])('events: %s', (_name, shadow, pending, blocked) => {
    const { vcpu, engine } = make(realMode);
    vcpu.cpu.set32(CTL.interruptShadow, shadow);
    vcpu.cpu.set32(CTL.nmiPending, pending);
    vcpu.cpu.set32(CTL.nmiBlocked, blocked);
    const before = take(vcpu);
    engine.enter();
    engine.leave();
    expect(take(vcpu).words).toEqual(before.words);
  });
});

/** Where two states differ, for the message. */
function differing(before: Uint8Array, after: Uint8Array): string {
  return [...before]
    .flatMap((byte, i) =>
      byte === after[i] ? [] : [`0x${(i + GPR).toString(16)}: ${byte} -> ${after[i] ?? 0}`],
    )
    .slice(0, 12)
    .join(', ');
}
