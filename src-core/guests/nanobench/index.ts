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
export { buildNanobench, NANOBENCH_FORMAT } from './program.ts';
export { nanobenchLacks } from './lacks.ts';
export type { NanobenchLacks } from './lacks.ts';
export { measureNanobench, NanobenchError } from './measure.ts';
export type { NanobenchOptions, NanobenchResult, NanobenchRun } from './measure.ts';
export { NanobenchOutputError, parseNanobenchLine } from './output.ts';
export type { NanobenchLine } from './output.ts';
export { PUBLISHED, PUBLISHED_HZ, PUBLISHED_LABEL } from './published.ts';
export type { PublishedFigures } from './published.ts';
