/** What the nanobenchmark kernel prints on COM1, line by line. A guest wrote it: it is checked before it is believed. */
import { z } from 'zod';
import { NANOBENCH_NAMES } from './catalogue.ts';
import { NANOBENCH_FORMAT } from './program.ts';

const bits = z.union([z.literal(32), z.literal(64)]);
const name = z.enum(NANOBENCH_NAMES);
const count = z.number().nonnegative();

/** First line: the kernel, and the TSC's frequency: bounds measured with the PIT, and what CPUID states (0: nothing). */
export const nanobenchHeadSchema = z.strictObject({
  guest: z.literal('nanobench'),
  format: z.literal(NANOBENCH_FORMAT),
  bits,
  tscKhzLeast: count,
  tscKhzMost: count,
  tscKhzStated: count,
});

/** A benchmark that ran to its end; `verified` says whether every event happened. Cycles are the TSC's. */
const measuredSchema = z.strictObject({
  benchmark: name,
  bits,
  applicable: z.literal(true),
  operations: z.number().positive(),
  /** The least of all rounds, for all operations; what the overhead takes, likewise. */
  cycles: count,
  overhead: count,
  /** Difference of the two by operations: below zero where the operation is lost in the noise. */
  cyclesPerOperation: z.number(),
  events: count,
  verified: z.boolean(),
  failure: z.string().optional(),
});

/** One that broke off with an exception. */
const brokenSchema = z.strictObject({
  benchmark: name,
  bits,
  applicable: z.literal(true),
  verified: z.literal(false),
  failure: z.string(),
});

/** One that code of this width cannot have. */
const notApplicableSchema = z.strictObject({
  benchmark: name,
  bits,
  applicable: z.literal(false),
  reason: z.string(),
});

const endSchema = z.strictObject({ guest: z.literal('nanobench'), end: z.literal(true) });

export const nanobenchLineSchema = z.union([
  nanobenchHeadSchema,
  measuredSchema,
  brokenSchema,
  notApplicableSchema,
  endSchema,
]);
export type NanobenchLine = z.output<typeof nanobenchLineSchema>;
export type NanobenchHead = z.output<typeof nanobenchHeadSchema>;
export type NanobenchMeasured = z.output<typeof measuredSchema>;

/** Something else than the kernel's lines came from the guest. */
export class NanobenchOutputError extends Error {
  constructor(line: string, options?: ErrorOptions) {
    super(`the nanobenchmark guest printed something else than its results: ${line.slice(0, 200)}`, options);
    this.name = 'NanobenchOutputError';
  }
}

/** Reads one line. @throws NanobenchOutputError */
export function parseNanobenchLine(line: string): NanobenchLine {
  try {
    return nanobenchLineSchema.parse(JSON.parse(line));
  } catch (error) {
    throw new NanobenchOutputError(line, { cause: error });
  }
}
