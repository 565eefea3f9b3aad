import { MARK } from './rows.ts';

/** What a script said, and when: milliseconds of the host's clock at which the line's end arrived. */
export type Marker =
  | { kind: 'boot'; at: number }
  | { kind: 'begin'; row: string; at: number }
  | { kind: 'end'; row: string; at: number }
  | { kind: 'result'; row: string; result: string; at: number }
  | { kind: 'done'; at: number };

/** Only the last line counts for markers; a guest that prints without line ends must not fill the memory. */
const LINE_MAX = 4096;

/** Finds markers in serial output, which comes in pieces of any size. */
export class MarkerReader {
  #line = '';

  /** @param at when the piece arrived, ms. @returns the markers whose lines ended in it. */
  push(text: string, at: number): Marker[] {
    const lines = (this.#line + text).split('\n');
    this.#line = (lines.pop() ?? '').slice(-LINE_MAX);
    return lines.flatMap((line) => parseMarker(line, at) ?? []);
  }
}

function parseMarker(line: string, at: number): Marker | undefined {
  // The kernel's last message may lack its line end.
  const start = line.indexOf(`${MARK} `);
  if (start < 0) return undefined;
  const words = line.slice(start).trim().split(/\s+/);
  const [, kind, row = ''] = words;
  switch (kind) {
    case 'boot':
    case 'done':
      return { kind, at };
    case 'begin':
    case 'end':
      return { kind, row, at };
    case 'result':
      return { kind, row, result: words.slice(3).join(' '), at };
    default:
      return undefined;
  }
}
