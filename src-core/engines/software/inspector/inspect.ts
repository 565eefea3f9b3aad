import { ARENA } from '../../../machine/arena.ts';
import type {
  Inspection,
  InspectionQuery,
  RegionDetail,
  RegionSummary,
} from '../../../protocol/inspection.ts';
import { codeSizeOf, cplOf } from '../../../x86/mode.ts';
import { ModuleWriter } from '../../../wasm/writer.ts';
import { declareRegionImports } from '../translator/imports.ts';
import type { RegionNode } from '../translator/region.ts';
import type { InspectedTranslation, Translator } from '../translator/translator.ts';
import { blocksOf, type Translation } from '../translator/translation.ts';
import { printGuest } from './guest-printer.ts';
import { printIr } from './ir-printer.ts';
import { hex } from './numbers.ts';
import { printWasm, type WasmLine } from './wasm-printer.ts';

const { regionType: _, ...imported } = declareRegionImports(new ModuleWriter());
const importNames = new Map(Object.entries(imported).map(([name, index]) => [index, name]));

/** The translator's statistics and its hottest regions. */
export function inspect(translator: Translator, { top, order }: InspectionQuery): Inspection {
  const all = summaries(translator);
  return {
    statistics: translator.statistics(),
    order,
    regions: all
      .map(({ summary }) => summary)
      .sort((a, b) => b[order] - a[order] || a.id - b.id)
      .slice(0, top),
  };
}

/** Everything about one region; undefined when it does not live any more. */
export function inspectRegion(translator: Translator, id: number): RegionDetail | undefined {
  const found = summaries(translator).find(({ summary }) => summary.id === id);
  const made = found && translator.inspectTranslation(found.translation);
  if (!made) return undefined;
  const { locals, lines } = printWasm(made.code.body(), { functionName: (index) => importNames.get(index) });
  const ranges = lineRanges(made, lines);
  return {
    summary: found.summary,
    fidelity: made.faithful ? 'same' : made.sameNodes ? 'code' : 'nodes',
    nodes: made.region.nodes.map((node) => ({
      ...describeNode(translator, found.translation, node),
      wasm: ranges.get(node) ?? { from: 0, to: 0 },
    })),
    wasm: { locals, lines: lines.map(({ depth, text }) => ({ depth, text })) },
  };
}

function summaries(translator: Translator): { summary: RegionSummary; translation: Translation }[] {
  const all = [...translator.inspectTranslations()].map(({ translation, entries, dropped }) => {
    const { id, entry, nodes, wasmBytes } = translation;
    const instructions = nodes.reduce((sum, { block }) => sum + block.count, 0);
    let adapted = 0;
    for (const block of blocksOf(translation)) adapted += translator.adaptedIn(block);
    const summary: RegionSummary = {
      id,
      linear: hex(linearAt(translation, 0)),
      arena: hex(entry.code),
      physical: entry.code >= ARENA.ram ? hex(entry.code - ARENA.ram) : null,
      codeBits: codeSizeOf(entry.modeKey),
      cpl: cplOf(entry.modeKey),
      nodes: nodes.length,
      instructions,
      entries,
      work: entries * instructions,
      share: 0,
      wasmBytes,
      adapted,
      invalidations: dropped,
    };
    return { summary, translation };
  });
  const work = all.reduce((sum, { summary }) => sum + summary.work, 0);
  for (const { summary } of all) summary.share = work > 0 ? summary.work / work : 0;
  return all;
}

/** Linear address at an offset from a translation's entry. */
function linearAt({ entry, origin }: Translation, delta: number): bigint {
  return BigInt.asUintN(codeSizeOf(entry.modeKey) === 64 ? 64 : 32, BigInt(origin.linear + delta));
}

function describeNode(
  translator: Translator,
  translation: Translation,
  { block, lifted, delta, frame }: RegionNode,
): Omit<RegionDetail['nodes'][number], 'wasm'> {
  const linear = linearAt(translation, delta);
  const guest = printGuest(translator.codeOf(block), codeSizeOf(block.modeKey), linear);
  const { ops, instructions } = lifted;
  return {
    linear: hex(linear),
    callDepth: frame?.depth ?? 0,
    guest: guest.map(({ offset, bytes, text }) => ({
      address: hex(linearAt(translation, delta + offset)),
      bytes,
      text,
    })),
    ir: instructions.flatMap(({ firstOp }, instruction) =>
      ops.slice(firstOp, instructions[instruction + 1]?.firstOp).map((operation, at) => ({
        instruction,
        text: printIr(operation, linear),
        adapted: translator.formOf(block, firstOp + at) === 'callout',
      })),
    ),
  };
}

/** The lines from where each node's code starts to where the next one's does, as they stand in the function. */
function lineRanges(
  { starts }: InspectedTranslation,
  lines: readonly WasmLine[],
): Map<RegionNode, { from: number; to: number }> {
  const indexAt = new Map(lines.map(({ offset }, index) => [offset, index]));
  const inOrder = [...starts].sort(([, a], [, b]) => a - b);
  return new Map(
    inOrder.map(([node, start], place) => {
      const next = inOrder[place + 1];
      return [
        node,
        {
          from: indexAt.get(start) ?? lines.length,
          to: next ? (indexAt.get(next[1]) ?? lines.length) : lines.length,
        },
      ];
    }),
  );
}
