/**
 * Runs random programs on two tiers (or two settings of the translator) side by side.
 */
import { AssemblyError } from '../../../src-core/guests/assembler/index.ts';
import { translatorOptionsSchema } from '../../../src-core/protocol/machine-config.ts';
import type { ModelMmu } from '../../../src-core/engines/hardware/model/meter.ts';
import type { TranslatorOptionsInput } from '../../../src-core/protocol/machine-config.ts';
import type { TranslatorStatistics } from '../../../src-core/protocol/inspection.ts';
import { Random } from '../random.ts';
import { differences } from './compare.ts';
import { generate } from './generator.ts';
import type { GeneratorOptions } from './generator.ts';
import { minimise } from './minimise.ts';
import { imageOf, textOf } from './program.ts';
import type { Program } from './program.ts';
import { Subject } from './subject.ts';
import type { Outcome } from './subject.ts';

/** How one of two subjects executes programs. */
export type Setting = TranslatorOptionsInput & { readonly name: string; readonly model?: ModelMmu };

/** The settings compared with tier 0. */
export const SETTINGS: readonly Setting[] = [
  { name: 'tier 1, threshold 1', tier: 1, threshold: 1 },
  { name: 'tier 1, threshold 3', tier: 1, threshold: 3 },
  { name: 'tier 1, threshold 2, no chaining', tier: 1, threshold: 2, chaining: false },
  { name: 'tier 1, threshold 1, not adaptive', tier: 1, threshold: 1, adaptive: false },
  { name: 'tier 1, threshold 2, address spaces kept', tier: 1, threshold: 2, addressSpaces: 'keep' },
  { name: 'tier 0, address spaces kept', tier: 0, addressSpaces: 'keep' },
];

/** The model of hardware virtualization, of a processor that empties its TLB at each entry. */
export const MODELLED: readonly Setting[] = [
  { name: 'modelled, nested paging', tier: 1, threshold: 2, model: 'nested' },
  { name: 'modelled, shadow paging', tier: 1, threshold: 2, model: 'shadow' },
  { name: 'modelled, shadow paging, tier 0', tier: 0, model: 'shadow' },
];

export function makeSubject({ name, model, ...options }: Setting): Subject {
  return new Subject(name, translatorOptionsSchema.parse(options), model);
}

/** A program that two subjects disagree about. */
export interface Failure {
  readonly program: Program;
  readonly subject: string;
  readonly differences: readonly string[];
}

export interface Summary {
  readonly programs: number;
  /** Programs whose text did not assemble. */
  readonly rejected: number;
  readonly blocks: number;
  readonly instructions: number;
  /** Exceptions and interrupts the handlers counted, by what ended the program. */
  readonly exceptions: number;
  readonly ends: ReadonlyMap<string, number>;
  readonly failures: readonly Failure[];
  readonly statistics: readonly TranslatorStatistics[];
  /** Adaptations by kind, for each setting. */
  readonly adaptations: readonly Readonly<Record<string, number>>[];
}

export interface CompareOptions extends GeneratorOptions {
  readonly first?: number;
  readonly count: number;
  readonly stopAfter?: number;
  /** Tier 1 gets its instructions in random slices (tier 0 does not). */
  readonly sliced?: boolean;
  /** Settings compared with tier 0 (default all of {@link SETTINGS}, taking turns). */
  readonly settings?: readonly Setting[];
  /** Stop after so many ms. */
  readonly milliseconds?: number;
  readonly onProgress?: (summary: { programs: number; blocks: number; failures: number }) => void;
}

/** Tier 0 and the settings it is compared with. */
export class Comparison {
  readonly #reference = makeSubject({ name: 'tier 0', tier: 0 });
  readonly #others: readonly Subject[];

  constructor(settings: readonly Setting[] = SETTINGS) {
    this.#others = settings.map(makeSubject);
  }

  get statistics(): TranslatorStatistics[] {
    return this.#others.map(({ statistics }) => statistics);
  }

  get adaptations(): Readonly<Record<string, number>>[] {
    return this.#others.map(({ adaptations }) => adaptations);
  }

  dispose(): void {
    this.#reference.dispose();
    for (const other of this.#others) other.dispose();
  }

  /** Runs a program on tier 0 and on one setting. */
  run(
    program: Program,
    turn: number,
    slices?: Random,
  ): { outcome: Outcome; exceptions: number; failure: Failure | undefined } {
    const image = imageOf(program);
    const outcome = this.#reference.run(program, image);
    const subject = this.#others[turn % this.#others.length];
    if (!subject) throw new Error('nothing to compare with');
    const expected = { subject: this.#reference, outcome };
    const found = differences(expected, { subject, outcome: subject.run(program, image, slices) });
    return {
      outcome,
      exceptions: this.#reference.exceptions,
      failure: found.length > 0 ? { program, subject: subject.name, differences: found } : undefined,
    };
  }

  /** The same as `run`, with `sliced` in random slices that follow from the program. */
  runAs(program: Program, turn: number, sliced: boolean): ReturnType<Comparison['run']> {
    return this.run(program, turn, sliced ? new Random(program.seed, program.number) : undefined);
  }

  minimise(program: Program, turn: number, sliced = false): Failure | undefined {
    const smaller = minimise(
      program,
      (candidate) => this.runAs(candidate, turn, sliced).failure !== undefined,
    );
    return this.runAs(smaller, turn, sliced).failure;
  }
}

/** Runs a series of programs. Each is run on one setting; the settings take turns. */
export function compareTiers(options: CompareOptions): Summary {
  const { count, first = 0, stopAfter = 20, milliseconds = Infinity, onProgress } = options;
  const comparison = new Comparison(options.settings);
  const turns = options.settings?.length ?? SETTINGS.length;
  const environments = options.environments?.length ?? 1;
  const ends = new Map<string, number>();
  const failures: Failure[] = [];
  let [programs, rejected, blocks, instructions, exceptions] = [0, 0, 0, 0, 0];
  const started = performance.now();
  try {
    for (let number = first; number < first + count && failures.length < stopAfter; number++) {
      if (performance.now() - started > milliseconds) break;
      const program = generate(options, number);
      let result;
      try {
        result = comparison.runAs(program, turnOf(number, turns, environments), options.sliced === true);
      } catch (error) {
        if (!(error instanceof AssemblyError)) throw error;
        rejected++;
        continue;
      }
      programs++;
      blocks += program.blocks.length;
      instructions += result.outcome.state.instructions;
      exceptions += result.exceptions;
      ends.set(result.outcome.end, (ends.get(result.outcome.end) ?? 0) + 1);
      if (result.failure) failures.push(result.failure);
      if (programs % 500 === 0) onProgress?.({ programs, blocks, failures: failures.length });
    }
    const { statistics, adaptations } = comparison;
    return { programs, rejected, blocks, instructions, exceptions, ends, failures, statistics, adaptations };
  } finally {
    comparison.dispose();
  }
}

/** Which setting a program is run on: neither always the same for an environment, nor for any other period. */
export function turnOf(number: number, turns: number, environments: number): number {
  return (number + Math.floor(number / Math.max(environments, 14))) % turns;
}

/** A failure for people: what to run again, the program and what differs. */
export function describeFailure({ program, subject, differences: found }: Failure): string {
  const { environment, seed, number, registers, rflags, interruptions, budget, start, fill } = program;
  return [
    `seed ${seed}, program ${number}, ${environment.name}, ${subject}:`,
    ...found.map((line) => `  ${line}`),
    `  registers ${registers.map((value) => value.toString(16)).join(' ')}; flags ${rflags.toString(16)}; ` +
      `start ${start.toString(16)}; fill ${fill ?? 'none'}; budget ${budget}; ` +
      `interruptions ${interruptions.map(({ after, line }) => `${after}:${line}`).join(' ') || 'none'}`,
    ...textOf(program)
      .split('\n')
      .map((line) => `    ${line}`),
  ].join('\n');
}
