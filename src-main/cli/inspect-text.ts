import type { Inspection, RegionDetail, RegionSummary } from '../../src-core/protocol/inspection.ts';

/** The table of hot regions, for people. */
export function describeInspection({ statistics, order, regions }: Inspection): string {
  const {
    translated,
    regions: alive,
    entries,
    modules,
    bytes,
    invalidated,
    retired,
    adapted,
    pauses,
  } = statistics;
  const head = [
    `Regions      ${alive} alive of ${translated} translated, ${invalidated} dropped, ${retired} unused`,
    `Entries      ${entries}`,
    `WebAssembly  ${bytes} bytes in ${modules} modules`,
    `Adapted      ${adapted} accesses`,
    `Pauses       ${pauses.longestMs.toFixed(1)} ms at most, ${pauses.longestInRunMs.toFixed(1)} ms in a run`,
  ];
  if (regions.length === 0) return `${head.join('\n')}\n\nNothing is translated.\n`;
  const by = order === 'work' ? 'entries times instructions' : 'entries';
  return `${head.join('\n')}\n\nHottest by ${by}:\n${table(regions)}`;
}

interface Column {
  title: string;
  left?: boolean;
  cell: (region: RegionSummary, row: number) => string;
}

const COLUMNS: readonly Column[] = [
  { title: '#', cell: (_region, row) => String(row) },
  { title: 'linear', left: true, cell: ({ linear }) => linear },
  { title: 'physical', left: true, cell: ({ physical }) => physical ?? 'ROM' },
  { title: 'arena', left: true, cell: ({ arena }) => arena },
  { title: 'mode', left: true, cell: ({ codeBits, cpl }) => `${codeBits}-bit CPL ${cpl}` },
  { title: 'nodes', cell: ({ nodes }) => String(nodes) },
  { title: 'instr', cell: ({ instructions }) => String(instructions) },
  { title: 'entries', cell: ({ entries }) => String(entries) },
  { title: 'work', cell: ({ work }) => String(work) },
  { title: 'share', cell: ({ share }) => `${(share * 100).toFixed(1)}%` },
  { title: 'wasm', cell: ({ wasmBytes }) => `${wasmBytes} B` },
  { title: 'adapted', cell: ({ adapted }) => String(adapted) },
  { title: 'dropped', cell: ({ invalidations }) => String(invalidations) },
];

function table(regions: readonly RegionSummary[]): string {
  const columns = COLUMNS.map(({ title, left, cell }) => {
    const cells = [title, ...regions.map((region, index) => cell(region, index + 1))];
    const width = Math.max(...cells.map(({ length }) => length));
    return cells.map((text) => (left === true ? text.padEnd(width) : text.padStart(width)));
  });
  const lines = [...regions.keys(), regions.length].map((row) =>
    columns.map((cells) => cells[row]).join('  '),
  );
  return `${lines.map((line) => line.trimEnd()).join('\n')}\n`;
}

const FIDELITY: Record<RegionDetail['fidelity'], string> = {
  same: 'Made again for this view; nodes and length of the code are those of the translation.',
  code: 'Made again for this view: the nodes are those of the translation, but its code was of another length.',
  nodes: 'Made again for this view with other nodes: it was translated when less was known.',
};

const GUEST_WIDTH = 46;
const IR_WIDTH = 58;

/** One region in full: guest code, IR and WebAssembly side by side, node by node. */
export function describeRegion({ summary, fidelity, nodes, wasm }: RegionDetail): string {
  const { linear, codeBits, cpl, nodes: count, instructions, entries, wasmBytes } = summary;
  const lines = [
    `Region at ${linear}, ${codeBits}-bit code, CPL ${cpl}: ${count} nodes, ${instructions} instructions, ${entries} entries, ${wasmBytes} bytes`,
    FIDELITY[fidelity],
  ];
  const first = Math.min(...nodes.map((node) => node.wasm.from));
  lines.push('', 'Entry', ...columns([], [], [wasm.locals, ...text(wasm, 0, first)]));
  nodes.forEach((node, index) => {
    const under = node.callDepth > 0 ? `, inside ${node.callDepth} calls` : '';
    lines.push('', `Node ${index} at ${node.linear}${under}`);
    const guest: string[] = [];
    const ir: string[] = [];
    node.guest.forEach((line, instruction) => {
      const operations = node.ir.filter((operation) => operation.instruction === instruction);
      guest.push(`${line.address}  ${line.text}`);
      ir.push(...operations.map((operation) => `${operation.text}${operation.adapted ? '  ; adapted' : ''}`));
      // The next instruction's code and its operations start on the same line.
      while (guest.length < ir.length) guest.push('');
      while (ir.length < guest.length) ir.push('');
    });
    lines.push(...columns(guest, ir, text(wasm, node.wasm.from, node.wasm.to)));
  });
  return `${lines.join('\n')}\n`;
}

function text({ lines }: RegionDetail['wasm'], from: number, to: number): string[] {
  return lines.slice(from, to).map(({ depth, text }) => `${'  '.repeat(depth)}${text}`);
}

/** Columns side by side; a cell wider than its column pushes what is right of it. */
function columns(...cells: [string[], string[], string[]]): string[] {
  const [guest, ir, wasm] = cells;
  const lines: string[] = [];
  const height = Math.max(guest.length, ir.length, wasm.length);
  for (let row = 0; row < height; row++) {
    const left = (guest[row] ?? '').padEnd(GUEST_WIDTH);
    const middle = (ir[row] ?? '').padEnd(IR_WIDTH);
    lines.push(`${left}  ${middle}  ${wasm[row] ?? ''}`.trimEnd());
  }
  return lines;
}
