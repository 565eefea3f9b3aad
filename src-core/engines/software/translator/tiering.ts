import { setFlagsFromString } from 'node:v8';

/**
 * How much of a function V8 executes as its baseline compiler left it before its optimising compiler has a turn (in the
 * background; unit: about a byte of machine code, each time it is executed). V8's own 13,000,000 is meant for modules of
 * which most is cold; a region is translated because it is hot, but a guest's hot code is spread over thousands of them:
 * with V8's number a third of 1,300 forks and execs was baseline code.
 */
const TIERING_BUDGET = 100_000;

let set = false;

/**
 * Has this process's translated code optimised soon, and after what it says about its branches: V8 heeds branch hints only
 * when told to. What is rare then stands behind the rest of a function; 1,300 forks and execs take a quarter less. To be
 * called before anything is compiled.
 */
export function optimiseSoon(): void {
  if (set) return;
  set = true;
  setFlagsFromString(`--wasm-tiering-budget=${TIERING_BUDGET}`);
  setFlagsFromString('--experimental-wasm-branch-hinting');
  // V8 would look two seconds after each function it optimises whether somebody wants to keep the code: nobody does.
  setFlagsFromString('--wasm-caching-timeout-ms=0');
  setFlagsFromString('--wasm-caching-threshold=2000000000');
}
