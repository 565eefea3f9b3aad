import type { Code } from 'iced-x86';
import type { CaseView } from '../oracle/state.ts';

/** Something that runs cases as the oracle does. */
export interface Adapter {
  /** Runs a case and fills `out` (RESULT.memory + DATA_SIZE bytes) with a result record in the oracle's format. */
  run(state: CaseView, out: Uint8Array): void;
  /** Codes that mean something else here than on the host; they are not compared. */
  skips?(code: Code): boolean;
  dispose(): void;
}
