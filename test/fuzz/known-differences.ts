/**
 * Where the host's silicon and Switchyard differ and neither is wrong: each entry says what is not compared,
 * for which instructions, and why. What the SDM itself leaves undefined is in undefined.ts.
 */
import { Mnemonic } from 'iced-x86';
import type { Instruction } from 'iced-x86';
import { RESULT } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import type { CaseView, ResultView } from '../oracle/state.ts';

/** Parts of the ending state that may be left out of the comparison. */
export type Part =
  'memory' | 'fip' | 'fdp' | 'fop' | 'mxcsr' | 'x87' | 'xmm' | 'rflags' | 'errorCode' | 'registers' | 'all';

export interface KnownDifference {
  readonly parts: readonly Part[];
  readonly reason: string;
  readonly applies: (context: DifferenceContext) => boolean;
}

export interface DifferenceContext {
  /** The decoded instruction; its code is INVALID for bytes that are none. */
  readonly instruction: Instruction;
  readonly state: CaseView;
  /** The host processor's result. */
  readonly expected: ResultView;
  /** Switchyard's. */
  readonly actual: ResultView;
}

/** Instructions that store more than one operand: a fault part way may leave the first stores done or not. */
const SEVERAL_STORES = new Set<Mnemonic>([
  Mnemonic.Pusha,
  Mnemonic.Pushad,
  Mnemonic.Enter,
  Mnemonic.Fxsave,
  Mnemonic.Fxsave64,
  Mnemonic.Fnsave,
  Mnemonic.Fnstenv,
]);

/** x87 status word of a result. */
function statusWord(result: ResultView): number {
  return result.view.getUint16(RESULT.fxsave + FX.fsw, true);
}
const ERROR_SUMMARY = 0x80;

export const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    parts: ['fip', 'fdp', 'fop'],
    reason:
      'the host saves the x87 exception pointers as 0 while no exception is pending (AMD64 APM vol. 2, 11.4.4)',
    applies: ({ expected }) => (statusWord(expected) & ERROR_SUMMARY) === 0,
  },
  {
    parts: ['memory'],
    reason:
      'several stores and a fault: which of them were done is up to the implementation (SDM vol. 3, 6.5)',
    applies: ({ instruction, expected }) => expected.vector !== 3 && SEVERAL_STORES.has(instruction.mnemonic),
  },
];
