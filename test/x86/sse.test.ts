import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CR4_OSFXSR } from '../../src-core/x86/bits.ts';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { FPU, XMM } from '../../src-core/x86/layout.ts';
import { sseAdd, sseDiv, sseMax, sseMin, sseMul, sseSqrt, sseSub } from '../../src-core/x86/fpu/sse-float.ts';
import { Random } from '../fuzz/random.ts';
import { fill16 } from '../fuzz/values.ts';
import { DATA, FpuMachine } from './fpu-machine.ts';

let machine: FpuMachine;
beforeEach(() => {
  machine = new FpuMachine();
});
afterEach(() => machine.dispose());

function register(n: number): DataView {
  const { u8 } = machine.cpu;
  return new DataView(u8.buffer, u8.byteOffset + XMM + n * 16, 16);
}
function setDoubles(n: number, low: number, high: number): void {
  register(n).setFloat64(0, low, true);
  register(n).setFloat64(8, high, true);
}
function doubles(n: number): [number, number] {
  return [register(n).getFloat64(0, true), register(n).getFloat64(8, true)];
}

function doubleBits(n: number): [bigint, bigint] {
  return [register(n).getBigUint64(0, true), register(n).getBigUint64(8, true)];
}

/** OP XMM0, XMM1 of the 66 0F map. */
const packedDouble = (opcode: number): number[] => [0x66, 0x0f, opcode, 0xc1];
const ADD = 0x58;
const MUL = 0x59;
const DIV = 0x5e;
const SQRT = 0x51;
const MIN = 0x5d;

const INEXACT = 0x20;

describe('SSE2 arithmetic', () => {
  /** The same result whether or not the sticky inexact flag lets the fast path decide. */
  for (const sticky of [0, INEXACT]) {
    it(`computes with MXCSR ${(0x1f80 | sticky).toString(16)}`, () => {
      const cases: [number, [number, number], [number, number], [number, number], number][] = [
        [ADD, [1, -2.5], [2, 2.5], [3, 0], 0],
        [ADD, [0.1, 1], [0.2, 1], [0.1 + 0.2, 2], INEXACT],
        [MUL, [3, 0], [-7, -5], [-21, -0], 0],
        [MUL, [1e200, 1], [1e200, 1], [Infinity, 1], INEXACT | 8],
        [MUL, [2 ** -600, 1], [2 ** -600, 1], [0, 1], INEXACT | 16],
        [DIV, [1, 6], [3, 2], [1 / 3, 3], INEXACT],
        [DIV, [1, 1], [0, 1], [Infinity, 1], 4],
        [SQRT, [0, 0], [2, 9], [Math.SQRT2, 3], INEXACT],
        [MIN, [0, NaN], [-0, 5], [-0, 5], 1],
        [ADD, [2 ** -1074, 1], [0, 1], [2 ** -1074, 2], 2],
      ];
      for (const [opcode, a, b, expected, flags] of cases) {
        machine.cpu.set32(FPU.mxcsr, 0x1f80 | sticky);
        setDoubles(0, ...a);
        setDoubles(1, ...b);
        expect(machine.run(packedDouble(opcode))).toBeUndefined();
        expect(doubles(0)).toEqual(expected);
        expect(machine.cpu.get32(FPU.mxcsr)).toBe(0x1f80 | sticky | flags);
      }
    });
  }

  it('decides in wasm only what the exact path gives too', () => {
    const random = new Random(11);
    const shapes = [
      ['ps', []],
      ['pd', [0x66]],
      ['ss', [0xf3]],
      ['sd', [0xf2]],
    ] as const;
    const operations = [
      [ADD, sseAdd],
      [0x5c, sseSub],
      [MUL, sseMul],
      [DIV, sseDiv],
      [SQRT, sseSqrt],
      [MIN, sseMin],
      [0x5f, sseMax],
    ] as const;
    const { cpu } = machine;
    for (let i = 0; i < 3000; i++) {
      const [shape, prefix] = random.pick(shapes);
      const [opcode, callouts] = random.pick(operations);
      const kind = shape.endsWith('s') ? 'float32' : 'float64';
      for (const n of [0, 1]) {
        fill16(random, kind, register(n), 0);
        // Short operands, whose results are often exact.
        if (random.chance(0.5)) {
          for (let at = 0; at < 16; at += kind === 'float32' ? 4 : 8) {
            register(n).setUint16(at, 0, true);
            if (kind === 'float64') register(n).setUint16(at + 2, 0, true);
          }
        }
      }
      const mxcsr = 0x1f80 | random.pick([0, 0, INEXACT, INEXACT, 0x3f]);
      cpu.u8.copyWithin(XMM + 64, XMM, XMM + 32);
      cpu.set32(FPU.mxcsr, mxcsr);
      callouts[shape].run(cpu, XMM + 64, XMM + 64, XMM + 80, 0, 0);
      const expected = [doubleBits(4), cpu.get32(FPU.mxcsr)];
      cpu.set32(FPU.mxcsr, mxcsr);
      machine.run([...prefix, 0x0f, opcode, 0xc1]);
      expect([doubleBits(0), cpu.get32(FPU.mxcsr)]).toEqual(expected);
    }
  });

  it('rounds as MXCSR says', () => {
    machine.cpu.set32(FPU.mxcsr, 0x1fa0 | (2 << 13));
    setDoubles(0, 1, 1);
    setDoubles(1, 2 ** -60, -(2 ** -60));
    machine.run(packedDouble(ADD));
    expect(doubles(0)).toEqual([1 + 2 ** -52, 1]);
  });

  it('an unmasked exception raises #XM (#UD without OSXMMEXCPT), keeps the destination and sets the flag', () => {
    machine.cpu.set32(FPU.mxcsr, 0x1d80);
    setDoubles(0, 1, 1);
    setDoubles(1, 0, 1);
    expect(machine.run(packedDouble(DIV))).toBe(VECTOR.XM);
    expect(doubles(0)).toEqual([1, 1]);
    expect(machine.cpu.get32(FPU.mxcsr)).toBe(0x1d84);
    machine.cpu.setCr4(CR4_OSFXSR);
    expect(machine.run(packedDouble(DIV))).toBe(VECTOR.UD);
  });
});

describe('memory operands', () => {
  it('of 16 bytes must be aligned but for the unaligned moves', () => {
    const at = DATA + 4;
    const address = [at & 0xff, at >> 8, 0, 0];
    expect(machine.run([0x66, 0x0f, 0x58, 0x05, ...address])).toBe(VECTOR.GP);
    expect(machine.run([0x0f, 0x28, 0x05, ...address])).toBe(VECTOR.GP);
    expect(machine.run([0x0f, 0x10, 0x05, ...address])).toBeUndefined();
  });

  it('LDMXCSR refuses reserved bits; FXSAVE and FXRSTOR keep everything', () => {
    const { ram } = machine.arena;
    const view = new DataView(ram.buffer, ram.byteOffset + DATA, 1024);
    view.setUint32(0, 0x11f80, true);
    // LDMXCSR [DATA]
    expect(machine.run([0x0f, 0xae, 0x15, 0x00, 0x40, 0, 0])).toBe(VECTOR.GP);
    setDoubles(7, 1.5, -2);
    // FNINIT; FLDPI; FXSAVE [DATA + 16]
    expect(machine.run([0xdb, 0xe3, 0xd9, 0xeb, 0x0f, 0xae, 0x05, 0x10, 0x40, 0, 0])).toBeUndefined();
    expect(view.getUint8(16 + 4)).toBe(0x80);
    expect(view.getBigUint64(16 + 32, true)).toBe(0xc90fdaa22168c235n);
    setDoubles(7, 0, 0);
    // FNINIT; FXRSTOR [DATA + 16]
    expect(machine.run([0xdb, 0xe3, 0x0f, 0xae, 0x0d, 0x10, 0x40, 0, 0])).toBeUndefined();
    expect(doubles(7)).toEqual([1.5, -2]);
    expect(machine.cpu.get32(FPU.empty)).toBe(0x7f);
  });
});

describe('integer SIMD', () => {
  it('PCMPISTRI finds a character, CRC32 sums', () => {
    const text = new TextEncoder().encode('switchyard');
    for (let i = 0; i < 16; i++) register(1).setUint8(i, text[i] ?? 0);
    register(0).setBigUint64(0, BigInt('h'.charCodeAt(0)), true);
    register(0).setBigUint64(8, 0n, true);
    // PCMPISTRI XMM0, XMM1, equal any
    expect(machine.run([0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x00])).toBeUndefined();
    expect(machine.cpu.gpr32(1)).toBe(5);
    // CRC-32C of "123456789" is e3069283 (RFC 3720, appendix B.4 uses the same polynomial).
    const code = [0xb8, 0xff, 0xff, 0xff, 0xff];
    for (const digit of '123456789') code.push(0xb3, digit.charCodeAt(0), 0xf2, 0x0f, 0x38, 0xf0, 0xc3);
    expect(machine.run(code)).toBeUndefined();
    expect(~machine.cpu.gpr32(0) >>> 0).toBe(0xe3069283);
  });
});
