/**
 * Makes a failing program smaller while it still fails.
 */
import { AssemblyError } from '../../../src-core/guests/assembler/index.ts';
import { imageOf } from './program.ts';
import type { Block, Program } from './program.ts';

/** Whether a program still fails; programs that no longer assemble do not. */
export type Fails = (program: Program) => boolean;

function stillFails(fails: Fails, program: Program): boolean {
  try {
    imageOf(program);
  } catch (error) {
    if (error instanceof AssemblyError) return false;
    throw error;
  }
  return fails(program);
}

/** Every piece with the block it is in. */
function pieceCount(blocks: readonly Block[]): number {
  return blocks.reduce((sum, { pieces }) => sum + pieces.length, 0);
}

function without(program: Program, first: number, count: number): Program {
  let index = 0;
  const blocks = program.blocks.map(({ label, pieces }) => ({
    label,
    pieces: pieces.filter(() => {
      const at = index++;
      return at < first || at >= first + count;
    }),
  }));
  return { ...program, blocks };
}

/** Delta debugging over the pieces, then over their lines, interruptions, start state and budget. */
export function minimise(program: Program, fails: Fails, maxRuns = 4000): Program {
  let best = program;
  let runs = 0;
  const attempt = (candidate: Program): boolean => {
    if (runs++ >= maxRuns || !stillFails(fails, candidate)) return false;
    best = candidate;
    return true;
  };
  const removePieces = (): boolean => {
    let changed = false;
    for (let chunk = Math.max(1, pieceCount(best.blocks) >> 1); chunk >= 1; chunk >>= 1)
      for (let first = pieceCount(best.blocks) - chunk; first >= 0; first -= chunk)
        if (attempt(without(best, first, chunk))) changed = true;
    return changed;
  };
  const splitPieces = (): void => {
    best = {
      ...best,
      blocks: best.blocks.map(({ label, pieces }) => ({
        label,
        pieces: pieces.flatMap((piece) => piece.split('\n')),
      })),
    };
  };
  removePieces();
  splitPieces();
  for (let changed = true; changed && runs < maxRuns;) {
    changed = removePieces();
    for (let index = best.interruptions.length - 1; index >= 0; index--)
      if (attempt({ ...best, interruptions: best.interruptions.filter((_, other) => other !== index) }))
        changed = true;
    for (let index = 0; index < best.registers.length; index++) {
      if (best.registers[index] === 0n) continue;
      if (
        attempt({ ...best, registers: best.registers.map((value, other) => (other === index ? 0n : value)) })
      )
        changed = true;
    }
    for (let bit = 0; bit < 20; bit++) {
      const rflags = best.rflags & ~(1 << bit);
      if (bit !== 1 && rflags !== best.rflags && attempt({ ...best, rflags })) changed = true;
    }
    if (best.loops > 1 && attempt({ ...best, loops: best.loops >> 1 })) changed = true;
    if (best.fill !== undefined && attempt({ ...best, fill: undefined })) changed = true;
    for (const budget of [
      best.budget >> 1,
      best.budget - (best.budget >> 2),
      best.budget - 10,
      best.budget - 1,
    ])
      if (budget > 0 && budget < best.budget && attempt({ ...best, budget })) changed = true;
  }
  return best;
}
