import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CR0_EM, CR0_MP, CR0_NE, CR0_TS } from '../../src-core/x86/bits.ts';
import { VECTOR } from '../../src-core/x86/faults.ts';
import { X87_IMM, x87Register, x87Store } from '../../src-core/x86/fpu/x87.ts';
import { FPU, ST, TEMP } from '../../src-core/x86/layout.ts';
import { Random } from '../fuzz/random.ts';
import { DATA, FpuMachine } from './fpu-machine.ts';

const FNINIT = [0xdb, 0xe3];
const FLD1 = [0xd9, 0xe8];
const FLDZ = [0xd9, 0xee];
const FDIVP = [0xde, 0xf9];
const FNOP = [0xd9, 0xd0];
const FWAIT = [0x9b];
/** FLDCW [DATA] */
const FLDCW = [0xd9, 0x2d, 0x00, 0x40, 0, 0];
/** FSTP QWORD [DATA] */
const FSTP64 = [0xdd, 0x1d, 0x00, 0x40, 0, 0];
const FNSTSW_AX = [0xdf, 0xe0];
const EMMS = [0x0f, 0x77];
/** PXOR MM3, MM3 */
const PXOR_MM3 = [0x0f, 0xef, 0xdb];
/** ADDPS XMM0, XMM1 */
const ADDPS = [0x0f, 0x58, 0xc1];

let machine: FpuMachine;
beforeEach(() => {
  machine = new FpuMachine();
});
afterEach(() => machine.dispose());

function data(): DataView {
  const { ram } = machine.arena;
  return new DataView(ram.buffer, ram.byteOffset + DATA, 64);
}

describe('x87 arithmetic through the engine', () => {
  it('computes, stores and pops', () => {
    // 1 / (1 + 1) as a double.
    const code = [...FNINIT, ...FLD1, ...FLD1, ...FLD1, 0xde, 0xc1, ...FDIVP, ...FSTP64, ...FNSTSW_AX];
    expect(machine.run(code)).toBeUndefined();
    expect(data().getFloat64(0, true)).toBe(0.5);
    expect(machine.cpu.get32(FPU.empty)).toBe(0xff);
    expect(machine.cpu.gpr32(0) & 0xffff).toBe(0);
  });

  it('reports a masked division by zero in the status word alone', () => {
    expect(machine.run([...FNINIT, ...FLD1, ...FLDZ, ...FDIVP, ...FSTP64, ...FNSTSW_AX])).toBeUndefined();
    expect(data().getFloat64(0, true)).toBe(Infinity);
    expect(machine.cpu.gpr32(0) & 0x3f).toBe(4);
  });

  it('remembers instruction and operand for FNSTENV', () => {
    // FLD DWORD [DATA]; FNSTENV [DATA + 16]
    machine.run([...FNINIT, 0xd9, 0x05, 0x00, 0x40, 0, 0, 0xd9, 0x35, 0x10, 0x40, 0, 0]);
    expect(data().getUint32(16 + 12, true)).toBe(0x1002);
    expect(data().getUint32(16 + 16, true)).toBe((0x105 << 16) | 8);
    expect(data().getUint32(16 + 20, true)).toBe(DATA);
    expect(data().getUint32(16 + 24, true)).toBe(0xffff0010);
  });
});

describe('the fast path', () => {
  /** Everything an x87 instruction may change. */
  const state = (): string => Buffer.from(machine.cpu.u8.slice(FPU.fcw, ST + 8 * 16)).toString('hex');

  /** Plain numbers of similar size, long and short, now and then zero. */
  function fill(random: Random): void {
    const { cpu } = machine;
    const spread = random.pick([1, 3, 40, 130, 16000]);
    for (let register = 0; register < 8; register++) {
      const loc = ST + register * 16;
      const zero = random.chance(0.05);
      const low = random.pick([0, 1, 0xffffffff, random.u32()]);
      const high = random.pick([0, 0x7fffffff, random.u32()]);
      cpu.set32(loc, zero ? 0 : low >>> 0);
      cpu.set32(loc + 4, zero ? 0 : (high | 0x80000000) >>> 0);
      const exponent = 0x3fff + random.below(2 * spread) - spread;
      cpu.u16[(loc + 8) >> 1] = (zero ? 0 : exponent) | (random.u32() & 0x8000);
    }
  }

  it('gives what the exact path gives', () => {
    const { cpu } = machine;
    const random = new Random(21);
    // FADD, FMUL, FCOM, FSUB, FSUBR, FDIV, FDIVR with ST(i), FCOMPP, FUCOMIP, FXCH, FSTP, FCHS.
    const forms = [
      [0xd8, 0xc1],
      [0xdc, 0xc9],
      [0xd8, 0xd3],
      [0xde, 0xe9],
      [0xd8, 0xea],
      [0xdc, 0xf2],
      [0xde, 0xf9],
      [0xde, 0xd9],
      [0xdf, 0xea],
      [0xd9, 0xcc],
      [0xdd, 0xdb],
      [0xd9, 0xe0],
    ] as const;
    for (let i = 0; i < 4000; i++) {
      const [first, second] = random.pick(forms);
      fill(random);
      cpu.set32(FPU.fcw, 0x37f);
      cpu.set32(FPU.fsw, random.pick([0, 0x4700, 0x20]));
      cpu.set32(FPU.top, random.below(8));
      cpu.set32(FPU.empty, random.chance(0.1) ? random.u32() & 0xff : 0);
      const before = cpu.u8.slice(FPU.fcw, ST + 8 * 16);
      machine.run([first, second]);
      const fast = [state(), cpu.rflags];
      cpu.u8.set(before, FPU.fcw);
      cpu.rip = 0x1000n;
      const opcode = ((first & 7) << 8) | second;
      x87Register.run(cpu, 0, 0, 0, opcode << X87_IMM.fopShift, 0);
      expect(fast).toEqual([state(), cpu.rflags]);
    }
  });

  it('stores what the exact path stores', () => {
    const { cpu } = machine;
    const random = new Random(22);
    // FSTP m32, FSTP m64, FISTP m16, FIST m32, FISTTP m64 at [DATA].
    const forms = [
      [0xd9, 0x1d],
      [0xdd, 0x1d],
      [0xdf, 0x1d],
      [0xdb, 0x15],
      [0xdd, 0x0d],
    ] as const;
    for (let i = 0; i < 3000; i++) {
      const [first, second] = random.pick(forms);
      fill(random);
      cpu.set32(FPU.fcw, random.pick([0x37f, 0x37f, 0xf7f, 0x77f]));
      cpu.set32(FPU.fsw, 0);
      cpu.set32(FPU.top, random.below(8));
      cpu.set32(FPU.empty, 0);
      const before = cpu.u8.slice(FPU.fcw, ST + 8 * 16);
      data().setBigUint64(0, 0n);
      machine.run([first, second, 0x00, 0x40, 0, 0]);
      const fast = [state(), data().getBigUint64(0)];
      cpu.u8.set(before, FPU.fcw);
      data().setBigUint64(0, 0n);
      cpu.rip = 0x1000n;
      cpu.set64(TEMP, BigInt(DATA));
      const opcode = ((first & 7) << 8) | second;
      x87Store.run(cpu, 0, 0, TEMP, (opcode << X87_IMM.fopShift) | (3 << X87_IMM.segmentShift), 0);
      expect(fast).toEqual([state(), data().getBigUint64(0)]);
    }
  });
});

describe('x87 errors', () => {
  /** Leaves an unmasked division by zero pending. */
  const failing = [...FNINIT, ...FLDCW, ...FLD1, ...FLDZ, ...FDIVP];
  beforeEach(() => data().setUint16(0, 0x37b, true));

  it('raise #MF at the next waiting instruction, operands kept', () => {
    expect(machine.run([...failing, ...FNSTSW_AX, ...FNOP])).toBe(VECTOR.MF);
    expect(machine.cpu.gpr32(0) & 0x80ff).toBe(0x8084);
    expect(machine.cpu.get32(FPU.empty)).toBe(0x3f);
  });
  it('raise #MF at FWAIT, but not at FNINIT', () => {
    expect(machine.run([...failing, ...FWAIT])).toBe(VECTOR.MF);
    expect(machine.run([...failing, ...FNINIT, ...FNOP])).toBeUndefined();
  });
  it('assert FERR# where CR0.NE is clear, until the error is cleared', () => {
    machine.setCr0(0);
    const seen: boolean[] = [];
    machine.cpu.onFerr = (asserted) => seen.push(asserted);
    expect(machine.run(failing)).toBeUndefined();
    expect(seen).toEqual([true]);
    // FNCLEX
    expect(machine.run([0xdb, 0xe2, ...FNOP])).toBeUndefined();
    expect(seen).toEqual([true, false]);
  });
});

describe('device not available', () => {
  it('TS stops x87, MMX and SSE with #NM; FWAIT only with MP', () => {
    machine.setCr0(CR0_NE | CR0_TS);
    for (const code of [FNOP, FNINIT, EMMS, ADDPS]) expect(machine.run(code)).toBe(VECTOR.NM);
    expect(machine.run(FWAIT)).toBeUndefined();
    machine.setCr0(CR0_NE | CR0_TS | CR0_MP);
    expect(machine.run(FWAIT)).toBe(VECTOR.NM);
  });
  it('EM: #NM for x87, #UD for MMX and SSE', () => {
    machine.setCr0(CR0_NE | CR0_EM);
    expect(machine.run(FNOP)).toBe(VECTOR.NM);
    expect(machine.run(EMMS)).toBe(VECTOR.UD);
    expect(machine.run(ADDPS)).toBe(VECTOR.UD);
    expect(machine.run(FWAIT)).toBeUndefined();
  });
  it('SSE is #UD without CR4.OSFXSR, MMX is not', () => {
    machine.cpu.setCr4(0);
    expect(machine.run(ADDPS)).toBe(VECTOR.UD);
    expect(machine.run(EMMS)).toBeUndefined();
  });
});

describe('MMX registers', () => {
  it('are the x87 significands; writing makes all registers valid and the exponent ones', () => {
    const { cpu } = machine;
    expect(machine.run([...FNINIT, ...FLD1, ...PXOR_MM3])).toBeUndefined();
    expect([cpu.get32(FPU.top), cpu.get32(FPU.empty)]).toEqual([0, 0]);
    expect([cpu.get64(ST + 3 * 16), cpu.u16[(ST + 3 * 16 + 8) >> 1]]).toEqual([0n, 0xffff]);
    expect(machine.run(EMMS)).toBeUndefined();
    expect(cpu.get32(FPU.empty)).toBe(0xff);
  });
});
