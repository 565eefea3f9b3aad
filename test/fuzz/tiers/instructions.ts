/**
 * Single instructions on both tiers: the cases of the fuzzer (test/fuzz/generator.ts), each executed several times
 * from the same state so that tier 1 translates it. No processor is needed to compare with, and nothing is undefined:
 * both sides are ours, and must agree in every bit.
 */
import type { TranslatorStatistics } from '../../../src-core/protocol/inspection.ts';
import { CASE_SIZE, DATA_SIZE, RESULT } from '../../oracle/layout.ts';
import { CaseView } from '../../oracle/state.ts';
import type { Bitness } from '../../oracle/state.ts';
import type { Form } from '../forms.ts';
import { Generator, makeImages } from '../generator.ts';
import { describeState, disassemble } from '../report.ts';
import { SoftwareAdapter } from '../software-adapter.ts';
import { stateDifferences } from './compare.ts';
import { captureState } from './state.ts';
import type { CpuState } from './state.ts';

/** Times a case is executed on tier 1: the first ones are interpreted. */
const RUNS = 3;
/** RAM of the fuzzer's guest. */
const GUEST_SIZE = 0x17000;

export interface InstructionOptions {
  readonly seed: number;
  readonly bitness: Bitness;
  /** Protected mode with PAE in place of compatibility mode. */
  readonly legacy?: boolean;
  readonly count: number;
  readonly first?: number;
  readonly forms?: readonly Form[];
  readonly threshold?: number;
  readonly stopAfter?: number;
}

export interface InstructionFailure {
  readonly number: number;
  readonly code: string;
  readonly text: string;
  /** Which of the runs differed from tier 0's. */
  readonly run: number;
  readonly differences: readonly string[];
}

export interface InstructionSummary {
  readonly executed: number;
  /** Cases that ended without a fault. */
  readonly completed: number;
  readonly failures: readonly InstructionFailure[];
  readonly statistics: TranslatorStatistics;
}

interface Result {
  readonly record: Buffer;
  readonly state: CpuState;
  /** A view of the guest's RAM, or a copy. */
  readonly memory: Buffer;
}

/** Runs a series of cases. */
export function compareInstructions(options: InstructionOptions): InstructionSummary {
  const { seed, bitness, legacy = false, count, first = 0, threshold = 1, stopAfter = 50 } = options;
  const images = makeImages(seed);
  const reference = new SoftwareAdapter(images, legacy, { tier: 0 });
  // Each case is written over the one before it, and code that keeps changing is left alone by an adaptive translator.
  const translated = new SoftwareAdapter(images, legacy, { tier: 1, threshold, adaptive: false });
  const generator = new Generator({
    seed,
    bitness,
    ...(options.forms !== undefined && { forms: options.forms }),
  });
  const state = new CaseView(new ArrayBuffer(CASE_SIZE), 0);
  const buffers = [
    new Uint8Array(RESULT.memory + DATA_SIZE),
    new Uint8Array(RESULT.memory + DATA_SIZE),
  ] as const;
  const memory = Buffer.alloc(GUEST_SIZE);
  const failures: InstructionFailure[] = [];
  let executed = 0;
  let completed = 0;
  try {
    for (let number = first; number < first + count && failures.length < stopAfter; number++) {
      const code = generator.generate(state, number);
      if (typeof code === 'string') continue;
      executed++;
      let expected: Result | undefined;
      reference.runRepeatedly(state, buffers[0], 1, () => {
        const result = resultOf(reference, buffers[0]);
        result.memory.copy(memory);
        expected = { ...result, memory };
      });
      if (!expected) throw new Error('the case was not run');
      const want: Result = expected;
      if (want.record.readUInt32LE(RESULT.vector) === 3) completed++;
      let failure: InstructionFailure | undefined;
      translated.runRepeatedly(state, buffers[1], RUNS, (run) => {
        if (failure) return;
        const found = differencesOf(want, resultOf(translated, buffers[1]));
        if (found.length === 0) return;
        const { code: name, text } = disassemble(state);
        failure = {
          number,
          code: name,
          text: `${text}\n      ${describeState(state, true)}`,
          run,
          differences: found,
        };
      });
      if (failure) failures.push(failure);
    }
    return { executed, completed, failures, statistics: translated.engine.translatorStatistics() };
  } finally {
    reference.dispose();
    translated.dispose();
  }
}

function resultOf({ cpu, ram, instructions }: SoftwareAdapter, out: Uint8Array): Result {
  const length = new DataView(out.buffer).getUint32(RESULT.length, true);
  return {
    record: Buffer.from(out.slice(0, length)),
    // The vCPU goes on from case to case, and its count with it.
    state: { ...captureState(cpu), instructions },
    memory: Buffer.from(ram.buffer, ram.byteOffset, GUEST_SIZE),
  };
}

function differencesOf(expected: Result, actual: Result): string[] {
  const found: string[] = [];
  const differ = (field: string, a: string | number, b: string | number): void => {
    if (a !== b) found.push(`${field}: tier 0 ${a}, tier 1 ${b}`);
  };
  if (!expected.record.equals(actual.record)) {
    differ('vector', expected.record.readUInt32LE(RESULT.vector), actual.record.readUInt32LE(RESULT.vector));
    for (let at = 0; at < Math.max(expected.record.length, actual.record.length); at += 8)
      differ(`result +0x${at.toString(16)}`, hex(expected.record, at), hex(actual.record, at));
  }
  stateDifferences(expected.state, actual.state, differ);
  if (!expected.memory.equals(actual.memory))
    for (let at = 0; at < GUEST_SIZE; at += 8)
      differ(`physical 0x${at.toString(16)}`, hex(expected.memory, at), hex(actual.memory, at));
  return found;
}

function hex(bytes: Uint8Array, at: number): string {
  return Buffer.from(bytes.subarray(at, at + 8)).toString('hex');
}

/** Failures for people, those of one code together. */
export function describeFailures(failures: readonly InstructionFailure[], limit = 20): string {
  const byCode = new Map<string, InstructionFailure[]>();
  for (const failure of failures) {
    const list = byCode.get(failure.code);
    if (list) list.push(failure);
    else byCode.set(failure.code, [failure]);
  }
  return [...byCode]
    .slice(0, limit)
    .map(([code, list]) => {
      const [first] = list;
      if (!first) return code;
      return [
        `${code}: ${list.length}; case ${first.number}, run ${first.run}: ${first.text}`,
        ...first.differences.slice(0, 8).map((line) => `        ${line}`),
      ].join('\n');
    })
    .join('\n');
}
