/** The kernel's table of benchmarks, and the routines its entries point to. */
import type { BenchmarkCode } from './benchmark.ts';
import { nanobenchmark, NANOBENCHMARKS } from './catalogue.ts';
import type { Lab } from './lab.ts';

const defaultMaxLoops = 1 << 20;

/** Doublewords of an entry of the table of benchmarks. */
export const field = {
  name: 0,
  /** Text that says why this width has it not, or 0. */
  notApplicable: 4,
  setup: 8,
  overhead: 12,
  body: 16,
  check: 20,
  teardown: 24,
  /** Operations in a loop iteration. */
  unroll: 28,
  maxLoops: 32,
  index: 36,
  paging: 40,
} as const;
export const entrySize = 44;

/** Emits the routines of every benchmark that this width has, and the table, `benchmarks` to `benchmarks_end`. */
export function emitTable(lab: Lab, written: readonly BenchmarkCode[]): void {
  const rows: string[] = [];
  NANOBENCHMARKS.forEach((entry, index) => {
    const { name, only64, needs } = { ...nanobenchmark(entry.name) };
    const code = written.find((candidate) => candidate.name === name);
    const label = lab.text(name);
    if (code) emitBenchmark(lab, code);
    const reason = code ? '0' : lab.text(only64 ?? 'not written for this width');
    const at = (part: string): string => (code ? `${name}$${part}` : '0');
    const unroll = (code?.unroll ?? 1) * (code?.operations ?? 1);
    rows.push(
      `dd ${label}, ${reason}, ${at('setup')}, ${at('overhead')}, ${at('body')}, ${at('check')}`,
      `dd ${at('teardown')}, ${unroll}, ${code?.maxLoops ?? defaultMaxLoops}, ${index}`,
      `dd ${code && needs.includes('paging') ? 1 : 0}`,
    );
  });
  lab.data(['align 8', 'benchmarks:', ...rows, 'benchmarks_end:'].join('\n'));
}

function emitBenchmark(lab: Lab, code: BenchmarkCode): void {
  const { name, unroll } = code;
  code.install?.(lab);
  const loop = (part: string, body: string): void => {
    const again = lab.kernel.unique('again');
    const run = (): void => {
      lab.code(code.before ?? 'xor esi, esi');
      lab.code(`${again}:`);
      // Labels in the text must differ from copy to copy.
      for (let copy = 0; copy < unroll; copy++) lab.code(body.replaceAll('@', `${part}${copy}`));
      lab.code(`dec edi\njnz ${again}`);
      lab.code(code.after ?? 'mov [events], %si');
    };
    lab.code(`${name}$${part}:`);
    if (code.user === true) lab.user(run);
    else run();
    lab.code('ret');
  };
  lab.code(`${name}$setup:\n${code.setup ?? ''}\nret`);
  loop('overhead', code.overhead ?? '');
  loop('body', code.body);
  lab.code(`${name}$check:\n${code.check ?? ''}\nret\n${name}$teardown:\n${code.teardown ?? ''}\nret`);
  if (code.routines !== undefined) lab.code(code.routines);
}
