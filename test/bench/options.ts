import { parseArgs } from 'node:util';
import { PEER_NAMES, type PeerName } from './peers/peer.ts';
import { ROW_NAMES, type GuestName } from './rows.ts';

export const GUEST_NAMES = ['i386', 'amd64'] as const;

export interface BenchOptions {
  rounds: number;
  guests: readonly GuestName[];
  peers: readonly PeerName[];
  rows: readonly string[];
  /** How long a single row may take, seconds. */
  timeout: number;
  cliArguments: readonly string[];
  json: string | undefined;
  write: boolean;
}

/** A command line that cannot be carried out. */
export class UsageError extends Error {}

export const HELP = `Usage: npm run bench:peers -- [options]

Boots the same Linux guests in Switchyard, QEMU (TCG) and v86, runs the same programs in them, and natively beside
them, and compares the times: medians over the rounds.

  --rounds N         how often (default 5)
  --only GUEST       ${GUEST_NAMES.join(' or ')} (default both)
  --peers A,B        of ${PEER_NAMES.join(', ')} (default all)
  --rows A,B         of ${ROW_NAMES.join(', ')} (default all)
  --timeout SECONDS  how long a single row may take (default 600)
  --cli-args TEXT    more arguments for Switchyard, as in --cli-args='--tier 0'
  --json FILE        every single time and result
  --write            put the tables into docs/BENCHMARKS.md, if nothing failed

Exit codes: 0; 1 when a run failed or a result was wrong; 2 for bad arguments.
`;

/** @returns undefined when help was asked for. @throws UsageError */
export function parseOptions(args: string[]): BenchOptions | undefined {
  const values = parse(args);
  if (values.help) return undefined;
  if (values.write && (values.peers !== undefined || values.rows !== undefined)) {
    throw new UsageError('--write needs all peers and all rows');
  }
  return {
    rounds: positive('--rounds', values.rounds),
    guests: choices('--only', values.only, GUEST_NAMES),
    peers: choices('--peers', values.peers, PEER_NAMES),
    rows: choices('--rows', values.rows, ROW_NAMES),
    timeout: positive('--timeout', values.timeout),
    cliArguments: values['cli-args'].split(/\s+/).filter((word) => word !== ''),
    json: values.json,
    write: values.write,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        rounds: { type: 'string', default: '5' },
        only: { type: 'string' },
        peers: { type: 'string' },
        rows: { type: 'string' },
        timeout: { type: 'string', default: '600' },
        'cli-args': { type: 'string', default: '' },
        json: { type: 'string' },
        write: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}

function positive(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`${option} needs a whole number from 1, not "${text}"`);
  return value;
}

/** A list with commas, of known words; everything when it is absent. In the order of the known words. */
function choices<T extends string>(
  option: string,
  text: string | undefined,
  known: readonly T[],
): readonly T[] {
  if (text === undefined) return known;
  const words = text.split(',').map((word) => word.trim());
  for (const word of words) {
    if (!known.some((name) => name === word)) {
      throw new UsageError(`${option} takes ${known.join(', ')}, not "${word}"`);
    }
  }
  return known.filter((name) => words.includes(name));
}
