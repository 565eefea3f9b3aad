/**
 * Makes a differing case duller while it still differs: zeroes registers, resets control words, drops patches.
 */
import type { Oracle } from '../oracle/client.ts';
import { CASE, CASE_SIZE, DATA_SIZE, RESULT } from '../oracle/layout.ts';
import { CaseView, FX, ResultView } from '../oracle/state.ts';
import type { Adapter } from './adapter.ts';
import { compare } from './compare.ts';

type Step = (state: CaseView) => void;

function steps(): Step[] {
  const list: Step[] = [];
  const fx = CASE.fxsave;
  list.push((state) => state.view.setUint32(CASE.patchCount, 0, true));
  list.push((state) => state.view.setUint32(CASE.image, 0, true));
  for (let index = 0; index < 16; index++) {
    list.push((state) => state.setGpr(index, 0n));
    list.push((state) => state.setGpr(index, state.gpr(index) & 0xffff_ffffn));
    list.push((state) => state.bytes.fill(0, fx + FX.xmm + index * 16, fx + FX.xmm + index * 16 + 16));
  }
  for (let index = 0; index < 8; index++)
    list.push((state) => state.bytes.fill(0, fx + FX.st + index * 16, fx + FX.st + index * 16 + 10));
  list.push((state) => {
    state.rflags = 0x202;
  });
  list.push((state) => state.view.setUint16(fx + FX.fcw, 0x37f, true));
  list.push((state) =>
    state.view.setUint16(fx + FX.fsw, state.view.getUint16(fx + FX.fsw, true) & 0x3800, true),
  );
  list.push((state) => state.view.setUint8(fx + FX.ftw, 0xff));
  list.push((state) => state.view.setUint32(fx + FX.mxcsr, 0x1f80, true));
  for (let bit = 0; bit < 16; bit++)
    list.push((state) =>
      state.view.setUint32(fx + FX.mxcsr, state.view.getUint32(fx + FX.mxcsr, true) & ~(1 << bit), true),
    );
  return list;
}

/** Repeats every simplification that keeps the case different until none does. */
export async function minimise(oracle: Oracle, adapter: Adapter, original: CaseView): Promise<CaseView> {
  const own = new Uint8Array(RESULT.memory + DATA_SIZE);
  const signature = async (state: CaseView): Promise<string> => {
    const expected = ResultView.of(await oracle.run(state.bytes.slice(), 1), 0);
    adapter.run(state, own);
    const { differences } = compare(state, expected, new ResultView(own.buffer, 0, own.length));
    return differences.map(({ field }) => field).join();
  };
  let best = original;
  const wanted = await signature(best);
  if (wanted === '') return best;
  for (let changed = true; changed;) {
    changed = false;
    for (const step of steps()) {
      const copy = new ArrayBuffer(CASE_SIZE);
      new Uint8Array(copy).set(best.bytes);
      const candidate = new CaseView(copy, 0);
      step(candidate);
      if (Buffer.compare(candidate.bytes, best.bytes) === 0) continue;
      if ((await signature(candidate)) !== wanted) continue;
      best = candidate;
      changed = true;
    }
  }
  return best;
}
