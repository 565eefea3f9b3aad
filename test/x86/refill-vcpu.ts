import { emitRefill } from '../../src-core/engines/software/mmu/refill.ts';
import { ModuleWriter } from '../../src-core/wasm/writer.ts';
import { makeVcpu, type Vcpu } from './vcpu.ts';

export interface RefillVcpu extends Vcpu {
  refill: (lo: number, hi: number, info: number) => number;
  tracedStore: (arena: number, size: number) => number;
}

/** A vCPU with the wasm half of the MMU bound to its arena. */
export function makeRefillVcpu(memoryMib: number): RefillVcpu {
  const v = makeVcpu(memoryMib);
  const module = new ModuleWriter();
  const functions = emitRefill(module);
  module.export('refill', functions.refill);
  module.export('tracedStore', functions.tracedStore);
  const { memory, buffer } = v.cpu.arena;
  const { exports } = new WebAssembly.Instance(
    new WebAssembly.Module(module.finish(buffer.byteLength / 65536)),
    { env: { memory } },
  );
  return {
    ...v,
    refill: exports.refill as RefillVcpu['refill'],
    tracedStore: exports.tracedStore as RefillVcpu['tracedStore'],
  };
}
