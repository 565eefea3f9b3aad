/** How a nanobenchmark is written. */
import type { NanobenchName } from './catalogue.ts';
import type { Lab } from './lab.ts';

/**
 * One benchmark as assembly text ({@link Lab.code}). `body` is one operation, repeated `unroll` times in a loop;
 * `overhead` stands in its place when the loop itself is timed. Both may use every register but %di, which counts
 * the loop, and %sp. Interrupts are off.
 */
export interface BenchmarkCode {
  readonly name: NanobenchName;
  readonly body: string;
  /** What is subtracted besides the loop. */
  readonly overhead?: string;
  /** Operations in a loop iteration; what is verified by alternating values needs an even number. */
  readonly unroll: number;
  /** Operations an execution of `body` stands for; 1 unless said. */
  readonly operations?: number;
  /** Most iterations of the loop; 1,048,576 unless said. */
  readonly maxLoops?: number;
  /** The loop runs in ring 3. */
  readonly user?: boolean;
  /** Once, before everything. */
  readonly setup?: string;
  /** Right before the loop, and right after it; `before` clears %si, `after` stores %si as the events, unless said. */
  readonly before?: string;
  readonly after?: string;
  /**
   * After the timed loop: `fail` where something did not happen. That events are as many as operations (times
   * `factor`, which setup may set) is checked anyway.
   */
  readonly check?: string;
  /** Once, after everything, also when the benchmark broke off. */
  readonly teardown?: string;
  /** Handlers and other code beside the flow. */
  readonly routines?: string;
  /** Gates, data and reserved memory. */
  readonly install?: (lab: Lab) => void;
}

/** Pages of the test region each benchmark has to itself; fork and wait use those from 0. */
export const benchmarkPages = { pgfault: 100, ptemod: 101, invlpg: 102, ctxswitch: 103 } as const;

/** Gates of our own (the runtime has 40h); the first is called from ring 3. */
export const benchmarkVectors = {
  process: 0x31,
  pageFault: 0x34,
  divide: 0x35,
  copyOnWrite: 0x36,
  timer: 0x38,
  spurious: 0x3f,
} as const;
