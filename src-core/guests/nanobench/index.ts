/** The nanobenchmark guest: what it is made of, what it prints, and how it is run. */
export {
  NANOBENCH_MARK_PORT,
  NANOBENCH_MARKS,
  NANOBENCH_NAMES,
  NANOBENCH_NEEDS,
  nanobenchmark,
  NANOBENCHMARKS,
} from './catalogue.ts';
export type { NanobenchBits, NanobenchEntry, NanobenchName, NanobenchNeed } from './catalogue.ts';
export { buildNanobench, NANOBENCH_CYCLES, NANOBENCH_FORMAT } from './program.ts';
