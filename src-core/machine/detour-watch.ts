import { refusalOf } from '../engines/unavailable.ts';
import type { EngineProblem } from '../protocol/engine.ts';

/** A detour is over when there was none for this long, ms: guests go through modes and back thousands of times a second. */
const OVER_AFTER_MS = 1000;

/** Knows whether an engine leaves the guest to another for a while, without a word on each time that it does. */
export class DetourWatch {
  #reason: EngineProblem | null = null;
  #seen = 0;

  /** Why there is one now, or was a moment ago. */
  get reason(): EngineProblem | null {
    return this.#reason;
  }

  clear(): void {
    this.#reason = null;
  }

  /**
   * @param detour the engine's, after a run (Engine.detour)
   * @param now ms
   * @returns whether `reason` has changed
   */
  note(detour: Error | undefined, now: number): boolean {
    if (detour) {
      this.#seen = now;
      if (this.#reason) return false;
      this.#reason = refusalOf(detour).problem;
      return true;
    }
    if (!this.#reason || now - this.#seen < OVER_AFTER_MS) return false;
    this.#reason = null;
    return true;
  }
}
