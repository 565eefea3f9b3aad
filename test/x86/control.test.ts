import { beforeEach, describe, expect, it } from 'vitest';
import { ARENA } from '../../src-core/machine/arena.ts';
import {
  CR0_CD,
  CR0_ET,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR0_WP,
  CR4_DE,
  CR4_FSGSBASE,
  CR4_OSFXSR,
  CR4_PAE,
  CR4_PGE,
  CR4_SMAP,
  EFER_LMA,
  EFER_LME,
  FLAG_AC,
} from '../../src-core/x86/bits.ts';
import {
  clts,
  hlt,
  invlpg,
  lmsw,
  readControl,
  readSegmentBase,
  setAc,
  writeControl,
  writeSegmentBase,
} from '../../src-core/x86/control.ts';
import { FPU_TRAP } from '../../src-core/x86/cpu.ts';
import { instructionBreakpoint, raiseDebug, readDebug, writeDebug } from '../../src-core/x86/debug.ts';
import {
  CR2,
  CR8,
  CS,
  CTL,
  DR0,
  DR6,
  DR7,
  EFER,
  FLAGS_SYSTEM,
  GS,
  RAX,
  RCX,
  SEG_FIELD,
  TLB,
  TR,
} from '../../src-core/x86/layout.ts';
import { MODE } from '../../src-core/x86/mode.ts';
import { PDPTE } from '../../src-core/x86/paging.ts';
import { call, faultOf, makeVcpu, type Vcpu } from './vcpu.ts';

const GP = [13, 0];
const UD = [6, 0];
const DB = [1, 0];

let v: Vcpu;
beforeEach(() => {
  v = makeVcpu();
});

/** MOV CRn, value. */
function write(register: number, value: number | bigint): unknown {
  v.cpu.setGpr(0, typeof value === 'bigint' ? value : BigInt(value >>> 0));
  return faultOf(() => call(v.cpu, writeControl, { a: RAX, imm: register }));
}
function read(register: number): bigint {
  call(v.cpu, readControl, { dst: RCX, imm: register });
  return v.cpu.gpr(1);
}
const put = (phys: number, value: bigint): void =>
  v.cpu.arena.view.setBigUint64(ARENA.ram + phys, value, true);
const unsigned = (value: number): bigint => BigInt(value >>> 0);

/** Turns long mode on and enters 64-bit code. */
function enter64(): void {
  v.cpu.set64(EFER, BigInt(EFER_LME));
  expect(write(4, CR4_PAE)).toBeUndefined();
  expect(write(0, CR0_PE | CR0_PG)).toBeUndefined();
  v.cpu.set32(CS + SEG_FIELD.attributes, 0xa09b);
  v.cpu.updateMode();
}

describe('CR0', () => {
  it('reads ET as one and ignores reserved bits', () => {
    expect(write(0, CR0_PE | 0x1ff80)).toBeUndefined();
    expect(read(0)).toBe(unsigned(CR0_PE | CR0_ET | CR0_WP));
    expect(v.cpu.get32(CTL.modeKey) & MODE.protected).not.toBe(0);
  });

  it('refuses PG without PE, and NW without CD', () => {
    expect(write(0, CR0_PG)).toEqual(GP);
    expect(write(0, CR0_NW)).toEqual(GP);
    expect(write(0, CR0_NW | CR0_CD)).toBeUndefined();
  });

  it('activates long mode and leaves it', () => {
    v.cpu.set64(EFER, BigInt(EFER_LME));
    expect(write(0, CR0_PE | CR0_PG)).toEqual(GP);
    expect(write(4, CR4_PAE)).toBeUndefined();
    const attributes = v.cpu.get32(CS + SEG_FIELD.attributes);
    v.cpu.set32(CS + SEG_FIELD.attributes, 0xa09b);
    expect(write(0, CR0_PE | CR0_PG)).toEqual(GP);
    v.cpu.set32(CS + SEG_FIELD.attributes, attributes);
    v.cpu.set32(TR + SEG_FIELD.attributes, 0x83);
    expect(write(0, CR0_PE | CR0_PG)).toEqual(GP);
    v.cpu.set32(TR + SEG_FIELD.attributes, 0x8b);
    expect(write(0, CR0_PE | CR0_PG)).toBeUndefined();
    expect(v.cpu.efer).toBe(EFER_LME | EFER_LMA);
    expect(v.cpu.get32(CTL.modeKey) & MODE.longMode).not.toBe(0);
    expect(write(4, 0)).toEqual(GP);
    expect(write(0, CR0_PE)).toBeUndefined();
    expect(v.cpu.efer).toBe(EFER_LME);
  });

  it('does not leave long mode from 64-bit code', () => {
    enter64();
    expect(write(0, CR0_PE)).toEqual(GP);
    expect(write(0, unsigned(CR0_PE | CR0_PG) | (1n << 32n))).toEqual(GP);
  });

  it('drops cached rights when WP changes', () => {
    const { cpu } = v;
    put(0x1000, 0x00000087n);
    cpu.setCr3(0x1000n);
    cpu.setCr4(0x10);
    write(0, CR0_PE | CR0_PG);
    cpu.mmu.write8(0x5000, 1);
    put(0x1000, 0x00000085n);
    cpu.mmu.flush();
    expect(faultOf(() => cpu.mmu.write8(0x5000, 1))).toBeUndefined();
    write(0, CR0_PE | CR0_PG | CR0_WP);
    expect(faultOf(() => cpu.mmu.write8(0x5000, 1))).toEqual([14, 3]);
  });

  it('is written by LMSW, which cannot clear PE, and CLTS', () => {
    v.cpu.setGpr(0, 0xffff_000fn);
    call(v.cpu, lmsw, { a: RAX });
    expect(read(0) & 0x8000000fn).toBe(0xfn);
    expect(v.cpu.get32(CTL.fpuTrap) & FPU_TRAP.taskSwitched).not.toBe(0);
    call(v.cpu, clts);
    expect(Number(read(0)) & CR0_TS).toBe(0);
    expect(v.cpu.get32(CTL.fpuTrap) & FPU_TRAP.taskSwitched).toBe(0);
    v.cpu.setGpr(0, 0n);
    call(v.cpu, lmsw, { a: RAX });
    expect(read(0) & 0xfn).toBe(1n);
  });
});

describe('CR3', () => {
  it('loads the PDPTEs of PAE paging and refuses reserved bits in them', () => {
    for (let i = 0; i < 4; i++) put(0x1020 + i * 8, BigInt(0x2000 + i * 0x1000) | 1n);
    v.cpu.set64(CR2, 0n);
    write(4, CR4_PAE);
    write(3, 0x1020);
    expect(v.cpu.get64(PDPTE)).toBe(0n);
    expect(write(0, CR0_PE | CR0_PG)).toBeUndefined();
    expect([0, 1, 2, 3].map((i) => v.cpu.get64(PDPTE + i * 8))).toEqual([0x2001n, 0x3001n, 0x4001n, 0x5001n]);
    // Later changes in memory count from the next load on.
    put(0x1020, 0x9001n);
    expect(v.cpu.get64(PDPTE)).toBe(0x2001n);
    put(0x1028, 0x3003n);
    expect(write(3, 0x1020)).toEqual(GP);
    expect(v.cpu.get64(PDPTE)).toBe(0x2001n);
    // A PDPTE that is not present may hold anything.
    put(0x1028, 0xffff_ffff_ffff_fffen);
    expect(write(3, 0x1020)).toBeUndefined();
    expect(v.cpu.get64(PDPTE)).toBe(0x9001n);
    put(0x1030, (1n << 40n) | 1n);
    expect(write(4, CR4_PAE | CR4_PGE)).toEqual(GP);
  });

  it('takes 40 bits in 64-bit code and 32 elsewhere', () => {
    expect(write(3, 0xffff_0000_1234_5000n)).toBeUndefined();
    expect(read(3)).toBe(0x12345000n);
    enter64();
    expect(write(3, 0xff_1234_5018n)).toBeUndefined();
    expect(read(3)).toBe(0xff_1234_5018n);
    expect(write(3, 1n << 40n)).toEqual(GP);
    expect(write(3, 1n << 63n)).toEqual(GP);
  });
});

describe('CR4, CR8 and CR2', () => {
  it('refuse what CPUID does not offer', () => {
    for (const bit of [0, 1, 11, 12, 13, 14, 17, 18, 22, 23, 31]) expect(write(4, 1 << bit)).toEqual(GP);
    expect(write(4, CR4_OSFXSR)).toBeUndefined();
    expect(v.cpu.get32(CTL.fpuTrap) & FPU_TRAP.noFxsr).toBe(0);
  });

  it('pass the task priority on', () => {
    const told: number[] = [];
    v.cpu.onWriteTpr = (priority) => told.push(priority);
    v.cpu.readTpr = () => 9;
    expect(write(8, 5)).toBeUndefined();
    expect(write(8, 16)).toEqual(GP);
    expect([told, read(8), v.cpu.get64(CR8)]).toEqual([[5], 9n, 5n]);
  });

  it('keep CR2 whole', () => {
    enter64();
    expect(write(2, 0xffff_8000_0000_1234n)).toBeUndefined();
    expect(read(2)).toBe(0xffff_8000_0000_1234n);
  });

  it('do not exist between the others', () => {
    for (const register of [1, 5, 6, 7, 9, 15]) {
      expect(write(register, 0)).toEqual(UD);
      expect(faultOf(() => read(register))).toEqual(UD);
    }
  });
});

it('privileged callouts raise #GP(0) outside CPL 0', () => {
  v.cpu.setCpl(3);
  for (const callout of [readControl, writeControl, lmsw, clts, invlpg, hlt, readDebug, writeDebug]) {
    expect([callout.name, faultOf(() => call(v.cpu, callout))]).toEqual([callout.name, GP]);
  }
  expect(faultOf(() => call(v.cpu, setAc))).toEqual(UD);
});

it('HLT halts', () => {
  call(v.cpu, hlt);
  expect(v.cpu.get32(CTL.halted)).toBe(1);
});

it('STAC and CLAC open and shut user pages', () => {
  write(4, CR4_SMAP);
  expect(v.cpu.get32(CTL.tlbBank)).toBe(TLB.bankSupervisorSmap);
  call(v.cpu, setAc, { imm: 1 });
  expect([v.cpu.get32(CTL.tlbBank), v.cpu.get32(FLAGS_SYSTEM) & FLAG_AC]).toEqual([
    TLB.bankSupervisor,
    FLAG_AC,
  ]);
  const key = v.cpu.get32(CTL.modeKey);
  v.cpu.updateMode();
  expect([v.cpu.get32(CTL.tlbBank), v.cpu.get32(CTL.modeKey)]).toEqual([TLB.bankSupervisor, key]);
  call(v.cpu, setAc, { imm: 0 });
  expect([v.cpu.get32(CTL.tlbBank), v.cpu.get32(FLAGS_SYSTEM) & FLAG_AC]).toEqual([
    TLB.bankSupervisorSmap,
    0,
  ]);
});

it('segment bases need CR4.FSGSBASE and canonical values', () => {
  v.cpu.setGpr(0, 0xffff_8000_0000_0000n);
  expect(faultOf(() => call(v.cpu, writeSegmentBase, { a: RAX, imm: 5 }))).toEqual(UD);
  write(4, CR4_FSGSBASE);
  v.cpu.setGpr(0, 0xffff_8000_0000_0000n);
  call(v.cpu, writeSegmentBase, { a: RAX, imm: 5 });
  expect(v.cpu.get64(GS + SEG_FIELD.base)).toBe(0xffff_8000_0000_0000n);
  call(v.cpu, readSegmentBase, { dst: RCX, imm: 5 });
  expect(v.cpu.gpr(1)).toBe(0xffff_8000_0000_0000n);
  v.cpu.setGpr(0, 1n << 47n);
  expect(faultOf(() => call(v.cpu, writeSegmentBase, { a: RAX, imm: 5 }))).toEqual(GP);
});

describe('debug registers', () => {
  const writeDr = (register: number, value: bigint): unknown => {
    v.cpu.setGpr(0, value);
    return faultOf(() => call(v.cpu, writeDebug, { a: RAX, imm: register }));
  };
  const readDr = (register: number): bigint => {
    call(v.cpu, readDebug, { dst: RCX, imm: register });
    return v.cpu.gpr(1);
  };

  it('have fixed bits', () => {
    writeDr(6, 0n);
    writeDr(7, 0n);
    expect([readDr(6), readDr(7)]).toEqual([0xffff0ff0n, 0x400n]);
    writeDr(6, 0xffffffffn);
    writeDr(7, 0xffffdfffn);
    expect([readDr(6), readDr(7)]).toEqual([0xffffefffn, 0xffff07ffn]);
  });

  it('are DR6 and DR7 under the names DR4 and DR5, unless CR4.DE is set', () => {
    writeDr(5, 0x401n);
    expect([readDr(7), readDr(5), readDr(4)]).toEqual([0x401n, 0x401n, 0xffff0ff0n]);
    write(4, CR4_DE);
    expect(writeDr(5, 0n)).toEqual(UD);
    expect(faultOf(() => readDr(4))).toEqual(UD);
  });

  it('take 64 bits in 64-bit code, but for DR6 and DR7', () => {
    enter64();
    expect(writeDr(0, 0xffff_8000_0000_1234n)).toBeUndefined();
    expect(readDr(0)).toBe(0xffff_8000_0000_1234n);
    expect(writeDr(6, 1n << 32n)).toEqual(GP);
    expect(writeDr(7, 1n << 32n)).toEqual(GP);
  });

  it('are guarded by DR7.GD', () => {
    writeDr(7, 0x2400n);
    expect(faultOf(() => readDr(0))).toEqual(DB);
    expect([v.cpu.get32(DR6) & 0x2000, v.cpu.get32(DR7) & 0x2000]).toEqual([0x2000, 0]);
  });

  it('make blocks single instructions and match code addresses', () => {
    enter64();
    writeDr(1, 0xffff_8000_0000_1234n);
    writeDr(2, 0x1234n);
    writeDr(7, 0x404n | 0x20n);
    expect(v.cpu.get32(CTL.modeKey) & MODE.single).not.toBe(0);
    expect(instructionBreakpoint(v.cpu, Number(-0x8000_0000_0000n + 0x1234n))).toBe(2);
    expect(instructionBreakpoint(v.cpu, 0x1234)).toBe(4);
    expect(instructionBreakpoint(v.cpu, 0x1235)).toBe(0);
    v.cpu.set64(DR7, 0x404n | (1n << 20n));
    expect(instructionBreakpoint(v.cpu, Number(-0x8000_0000_0000n + 0x1234n))).toBe(0);
  });

  it('collect reasons in DR6', () => {
    v.cpu.set64(DR6, 0xffff0ff1n);
    expect(raiseDebug(v.cpu, 0x4000 | 2).vector).toBe(1);
    expect(v.cpu.get64(DR6)).toBe(0xffff4ff2n);
  });

  it('that watch data keep their pages out of the TLB', () => {
    v.cpu.mmu.write8(0x5000, 1);
    v.cpu.set64(DR0, 0x5000n);
    writeDr(7, 0x402n | (1n << 16n));
    v.cpu.mmu.write8(0x5000, 2);
    expect(v.cpu.get32(CTL.pendingDebug)).toBe(1);
  });
});
