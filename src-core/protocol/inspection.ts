import { z } from 'zod';

/** What the translation inspector tells of a software engine's translator. Addresses are hexadecimal, "0x7c00". */

const address = z.string().regex(/^0x[0-9a-f]+$/);
const count = z.number().int().nonnegative();

/** By what the hottest regions are found. */
export const INSPECTION_ORDERS = ['entries', 'work'] as const;

export const inspectionQuerySchema = z.object({
  top: z.number().int().min(1).max(1000),
  order: z.enum(INSPECTION_ORDERS),
});
export type InspectionQuery = z.infer<typeof inspectionQuerySchema>;

export const regionSummarySchema = z.object({
  /** Which translation; good while it lives. */
  id: count,
  /** Linear address it was translated at; other address spaces may enter it at another. */
  linear: address,
  /** Where its entry stands in Switchyard's memory. */
  arena: address,
  /** Its entry's address in guest memory, null for code in ROM. */
  physical: address.nullable(),
  codeBits: z.union([z.literal(16), z.literal(32), z.literal(64)]),
  cpl: z.number().int().min(0).max(3),
  nodes: count,
  /** Guest instructions of all nodes. */
  instructions: count,
  /** Times it was entered. A loop inside goes round without that. */
  entries: count,
  /** Entries times instructions: what passes through the whole region would have executed. */
  work: count,
  /** Its part of the work of all regions, 0 to 1. */
  share: z.number().min(0).max(1),
  wasmBytes: count,
  /** Accesses in it that are translated as callouts at present. */
  adapted: count,
  /** How often an earlier translation of the same place was dropped. */
  invalidations: count,
});
export type RegionSummary = z.infer<typeof regionSummarySchema>;

const ms = z.number().nonnegative();

/** How long translation has kept a guest, and all that its process does, waiting: host ms, in one piece or in one run. */
export const translationPausesSchema = z.object({
  longestMs: ms,
  /** Pieces longer than that; those over 5 ms count in all three. */
  over1Ms: count,
  over2Ms: count,
  over5Ms: count,
  /** Most of all pieces of a run of the engine together, between two turns of the process's event loop. */
  longestInRunMs: ms,
});
export type TranslationPauses = z.infer<typeof translationPausesSchema>;

export const translatorStatisticsSchema = z.object({
  /** Regions translated so far, and those alive. */
  translated: count,
  regions: count,
  /** Entries into regions, those dropped included. */
  entries: count,
  /** WebAssembly modules and bytes made so far. */
  modules: count,
  bytes: count,
  /** Regions dropped as their code or what they are made from changed, and those that nothing entered any more. */
  invalidated: count,
  retired: count,
  /** Memory accesses that are translated as callouts at present. */
  adapted: count,
  pauses: translationPausesSchema,
});
export type TranslatorStatistics = z.infer<typeof translatorStatisticsSchema>;

export const inspectionSchema = z.object({
  statistics: translatorStatisticsSchema,
  order: z.enum(INSPECTION_ORDERS),
  /** The hottest first. */
  regions: z.array(regionSummarySchema),
});
export type Inspection = z.infer<typeof inspectionSchema>;

export const regionNodeSchema = z.object({
  linear: address,
  /** How many calls followed by the region it stands under. */
  callDepth: count,
  guest: z.array(z.object({ address, bytes: z.string(), text: z.string() })),
  /** `instruction`: which line of `guest` the operation comes from. */
  ir: z.array(z.object({ instruction: count, text: z.string(), adapted: z.boolean() })),
  /** Lines of `wasm` from where its code starts to where another node's does. */
  wasm: z.object({ from: count, to: count }),
});

export const regionDetailSchema = z.object({
  summary: regionSummarySchema,
  /**
   * How true the rest is to the translation, which is made again for the inspector: `same`: nodes and length of the code
   * are equal; `code`: the nodes are, but not the code's length; `nodes`: it was translated when less or other was known.
   */
  fidelity: z.enum(['same', 'code', 'nodes']),
  /** In reverse postorder. */
  nodes: z.array(regionNodeSchema),
  wasm: z.object({
    locals: z.string(),
    lines: z.array(z.object({ depth: count, text: z.string() })),
  }),
});
export type RegionDetail = z.infer<typeof regionDetailSchema>;
