import type { Mnemonic } from '../iced.ts';
import type { LiftContext } from './context.ts';

/** Emits the IR of one instruction; throws UndefinedInstruction for encodings that raise #UD. */
export type Lifter = (cx: LiftContext) => void;

const lifters = new Map<Mnemonic, Lifter>();

/** Says how instructions with these mnemonics are lifted. Each mnemonic has one lifter. */
export function lift(mnemonics: Mnemonic | readonly Mnemonic[], lifter: Lifter): void {
  for (const mnemonic of typeof mnemonics === 'number' ? [mnemonics] : mnemonics) {
    if (lifters.has(mnemonic)) throw new Error(`mnemonic ${mnemonic} is lifted twice`);
    lifters.set(mnemonic, lifter);
  }
}

export function lifterOf(mnemonic: Mnemonic): Lifter | undefined {
  return lifters.get(mnemonic);
}
