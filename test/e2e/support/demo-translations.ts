import type { Inspection, RegionDetail, RegionSummary } from '../../../src-core/protocol/inspection.ts';

/** What the demo guest's translator would tell: two regions, the first one in full. */
const REGIONS: RegionSummary[] = [
  {
    ...{ id: 7, linear: '0xc722e500', arena: '0xc22e500', physical: '0x722e500', codeBits: 32, cpl: 0 },
    ...{ nodes: 1, instructions: 3, entries: 361_520, work: 1_084_560, share: 0.75 },
    ...{ wasmBytes: 412, adapted: 0, invalidations: 1 },
  },
  {
    ...{ id: 12, linear: '0x8049120', arena: '0xd049120', physical: '0x8049120', codeBits: 32, cpl: 3 },
    ...{ nodes: 4, instructions: 30, entries: 12_051, work: 361_530, share: 0.25 },
    ...{ wasmBytes: 3898, adapted: 2, invalidations: 0 },
  },
];

export const DEMO_INSPECTION: Inspection = {
  statistics: {
    ...{
      translated: 3,
      regions: 2,
      entries: 373_571,
      modules: 1,
      bytes: 4_710,
      invalidated: 1,
      retired: 0,
      adapted: 2,
    },
    pauses: { longestMs: 2.4, over1Ms: 2, over2Ms: 1, over5Ms: 0, longestInRunMs: 3.1 },
  },
  order: 'work',
  regions: REGIONS,
};

export function demoRegion(id: number): RegionDetail | null {
  const summary = REGIONS.find((region) => region.id === id);
  if (!summary) return null;
  return {
    summary,
    fidelity: 'same',
    nodes: [
      {
        linear: summary.linear,
        callDepth: 0,
        guest: [
          { address: '0xc722e500', bytes: '83c003', text: 'add eax,3' },
          { address: '0xc722e503', bytes: '49', text: 'dec ecx' },
          { address: '0xc722e504', bytes: '75fa', text: 'jne short 0xc722e500' },
        ],
        ir: [
          { instruction: 0, text: 'rax = addf.32i rax, 3  ; writes flags', adapted: false },
          { instruction: 1, text: 'rcx = decf.32 rcx  ; reads and writes flags', adapted: false },
          { instruction: 2, text: 'jne.32 → 0xc722e500, else 0xc722e506  ; reads flags', adapted: false },
        ],
        wasm: { from: 2, to: 8 },
      },
    ],
    wasm: {
      locals: '(local i64 i32 i32)',
      lines: [
        [0, 'block'],
        [1, 'loop'],
        [2, 'local.get 1'],
        [2, 'i32.const 3'],
        [2, 'i32.add'],
        [2, 'local.set 1'],
        [2, 'br 0'],
        [1, 'end'],
        [0, 'end'],
      ].map(([depth, text]) => ({ depth: Number(depth), text: String(text) })),
    },
  };
}
