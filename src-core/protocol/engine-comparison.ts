import { z } from 'zod';
import { engineNameSchema } from './engine.ts';

/** What one VM did on each of its engines: counted apart, to be looked at side by side. */

export const reasonUseSchema = z.object({
  count: z.number(),
  /** Host ns these exits took (under the model: modelled ns), estimated from those that were timed; null where none was. */
  ns: z.number().nullable(),
});
export type ReasonUse = z.infer<typeof reasonUseSchema>;

/** What happened while one engine ran the guest. */
export const engineUseSchema = z.object({
  engine: engineNameSchema,
  /** Guest time spent on it, ms. */
  ms: z.number(),
  /** Guest instructions, as far as the engine counts them. */
  instructions: z.number(),
  /** By reason; those that did not happen are left out. */
  reasons: z.record(z.string(), reasonUseSchema),
});
export type EngineUse = z.infer<typeof engineUseSchema>;

/** A stretch of the time series that is kept: about five seconds, or less where engines were changed within. */
export const engineSampleSchema = engineUseSchema.extend({
  /** Its end, host ms since 1970. */
  at: z.number(),
});
export type EngineSample = z.infer<typeof engineSampleSchema>;

/** Adds up what happened on each engine. Software first, then hardware, then the model. */
export function addUses(uses: readonly EngineUse[]): EngineUse[] {
  const sums = new Map<string, EngineUse>();
  for (const use of uses) {
    const key = use.engine.accelerator ?? 'software';
    const sum = sums.get(key) ?? { engine: use.engine, ms: 0, instructions: 0, reasons: {} };
    sums.set(key, sum);
    sum.ms += use.ms;
    sum.instructions += use.instructions;
    for (const [reason, { count, ns }] of Object.entries(use.reasons)) {
      const before = sum.reasons[reason];
      const known = before?.ns ?? null;
      sum.reasons[reason] = {
        count: (before?.count ?? 0) + count,
        ns: ns === null ? known : ns + (known ?? 0),
      };
    }
  }
  return ['software', 'kvm', 'model'].map((key) => sums.get(key)).filter((sum) => sum !== undefined);
}
