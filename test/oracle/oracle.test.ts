/**
 * The silicon oracle against results worked out by hand.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Oracle, oracleUnavailable } from './client.ts';
import {
  CASE_SIZE,
  CODE_BASE,
  DATA_BASE,
  DATA_SIZE,
  IMAGE_COUNT,
  SELECTOR_CODE16,
  VECTOR_ENDLESS,
} from './layout.ts';
import { CaseView, FX, ResultView } from './state.ts';
import type { Bitness } from './state.ts';

const START = 0x800;
const unavailable = oracleUnavailable();
if (unavailable !== undefined) console.warn(`SKIPPED silicon oracle: ${unavailable}`);

describe.skipIf(unavailable !== undefined)('silicon oracle', () => {
  let oracle: Oracle;
  const image = new Uint8Array(IMAGE_COUNT * DATA_SIZE);

  beforeAll(async () => {
    for (let index = 0; index < image.length; index++) image[index] = (index * 7) & 0xff;
    oracle = await Oracle.start(image);
  });
  afterAll(async () => oracle.close());

  async function run(
    bitness: Bitness,
    code: number[],
    prepare: (state: CaseView) => void,
  ): Promise<ResultView> {
    const state = new CaseView(new ArrayBuffer(CASE_SIZE), 0);
    state.reset(bitness);
    state.setGpr(4, bitness === 16 ? 0x5000n : BigInt(DATA_BASE + 0x1000));
    state.setCode(Uint8Array.from(code), START);
    prepare(state);
    return ResultView.of(await oracle.run(state.bytes, 1), 0);
  }

  it('adds with carry out and signed overflow (ADD r64)', async () => {
    const result = await run(64, [0x48, 0x01, 0xd8], (state) => {
      state.setGpr(0, 0x8000_0000_0000_0000n);
      state.setGpr(3, 0x8000_0000_0000_0001n);
    });
    expect(result.vector).toBe(3);
    expect(result.rip).toBe(BigInt(CODE_BASE + START + 4));
    expect(result.gpr(0)).toBe(1n);
    // CF and OF set; PF (one bit set), AF, ZF and SF clear.
    expect(result.rflags & 0x8d5).toBe(0x801);
  });

  it('reports a page fault with address and error code, and leaves registers alone', async () => {
    const result = await run(64, [0x48, 0x89, 0x03], (state) =>
      state.setGpr(3, BigInt(DATA_BASE + DATA_SIZE - 4)),
    );
    expect([result.vector, result.errorCode]).toEqual([14, 6]);
    expect(result.cr2).toBe(BigInt(DATA_BASE + DATA_SIZE));
    expect(result.rip).toBe(BigInt(CODE_BASE + START));
    expect(result.dirtyEnd).toBe(result.dirtyStart);
  });

  it('raises #GP for a non-canonical address and #SS through RSP', async () => {
    const gp = await run(64, [0x8a, 0x03], (state) => state.setGpr(3, 0x8000_0000_0000_0000n));
    expect([gp.vector, gp.errorCode]).toEqual([13, 0]);
    const ss = await run(64, [0x8a, 0x04, 0x24], (state) => state.setGpr(4, 0x8000_0000_0000_0000n));
    expect([ss.vector, ss.errorCode]).toEqual([12, 0]);
  });

  it('shows memory before and after, with patches applied', async () => {
    const result = await run(64, [0xff, 0x03], (state) => {
      state.setGpr(3, BigInt(DATA_BASE + 0x120));
      state.addPatch(0x120)?.set([0xff, 0xff, 0, 0, 0xaa]);
    });
    expect([result.dirtyStart, result.dirtyEnd]).toEqual([0x120, 0x130]);
    expect([...result.memory.subarray(0, 6)]).toEqual([0, 0, 1, 0, 0xaa, 0]);
  });

  it('runs 32-bit code: DAA, segment limits, INC EAX', async () => {
    const daa = await run(32, [0x27], (state) => state.setGpr(0, 0x9an));
    expect(daa.gpr(0) & 0xffn).toBe(0n);
    expect(daa.rflags & 0x11).toBe(0x11);
    const increment = await run(32, [0x40], (state) => state.setGpr(0, 0xffff_ffffn));
    expect(increment.gpr(0)).toBe(0n);
    // FS: limit 0x17ff; a byte at 0x1800 is outside.
    const limit = await run(32, [0x64, 0xa0, 0x00, 0x18, 0, 0], () => undefined);
    expect([limit.vector, limit.errorCode]).toEqual([13, 0]);
  });

  it('runs 16-bit code: PUSH wraps to 16 bits of SP, IP is an offset', async ({ skip }) => {
    if (oracle.refusedLdtEntries.length > 0) skip('this kernel gives no 16-bit segments (modify_ldt)');
    const result = await run(16, [0x50], (state) => state.setGpr(0, 0xbeefn));
    expect(result.vector).toBe(3);
    expect(result.rip).toBe(BigInt(START + 2));
    expect(result.gpr(4)).toBe(0x4ffen);
    expect(result.dirtyStart).toBe(0xff0);
    expect([...result.memory.subarray(14)]).toEqual([0xef, 0xbe]);
    expect(result.view.getUint16(0x28, true)).toBe(SELECTOR_CODE16);
  });

  it('holds x87 and SSE state: FADD, DIVSD by zero masked and unmasked', async () => {
    const fadd = await run(64, [0xd8, 0xc1], (state) => {
      // ST0 = 1.0, ST1 = 2.0, TOP = 0, both valid.
      state.fx.set([0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f], FX.st);
      state.fx.set([0, 0, 0, 0, 0, 0, 0, 0x80, 0x00, 0x40], FX.st + 16);
      state.fx[FX.ftw] = 0x03;
    });
    expect([...fadd.fx.subarray(FX.st, FX.st + 10)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0xc0, 0x00, 0x40]);
    const divide = (mxcsr: number) =>
      run(64, [0xf2, 0x0f, 0x5e, 0xc1], (state) => {
        state.view.setUint32(0x200 + FX.mxcsr, mxcsr, true);
        state.fx.set([0, 0, 0, 0, 0, 0, 0xf0, 0x3f], FX.xmm);
      });
    const masked = await divide(0x1f80);
    expect(masked.view.getUint32(0x100 + FX.mxcsr, true)).toBe(0x1f84);
    expect([...masked.fx.subarray(FX.xmm, FX.xmm + 8)]).toEqual([0, 0, 0, 0, 0, 0, 0xf0, 0x7f]);
    const unmasked = await divide(0x1d80);
    expect(unmasked.vector).toBe(19);
    expect([...unmasked.fx.subarray(FX.xmm, FX.xmm + 8)]).toEqual([0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
  });

  it('stops a case that does not end and goes on', async () => {
    const endless = await run(64, [0xeb, 0xfe], () => undefined);
    expect(endless.vector).toBe(VECTOR_ENDLESS);
    const next = await run(64, [0x90], () => undefined);
    expect([next.vector, next.rip]).toEqual([3, BigInt(CODE_BASE + START + 2)]);
  });

  it('gives the same answer to the same batch twice', async () => {
    const count = 64;
    const cases = new Uint8Array(count * CASE_SIZE);
    for (let index = 0; index < count; index++) {
      const state = new CaseView(cases.buffer, index * CASE_SIZE);
      state.reset(index % 2 === 0 ? 64 : 32);
      state.setGpr(0, BigInt(index) * 0x0102_0304_0506_0708n);
      state.setGpr(3, BigInt(DATA_BASE + index * 61));
      state.setCode(Uint8Array.of(0xf7, 0x2b), START + index);
    }
    const first = await oracle.run(cases, count);
    const second = await oracle.run(cases, count);
    expect(Buffer.compare(first.bytes, second.bytes)).toBe(0);
  });
});
