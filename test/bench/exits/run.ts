/**
 * `npm run bench:exits`: what an exit costs through our KVM engine, beside a loop in C that does the same on this
 * machine in the same run. The two take turns, batch by batch, so that what else the machine does meets both, and it is
 * processor time that is compared: real time would say more of how busy the machine is.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { KvmError } from '../../../src-core/engines/hardware/kvm/errors.ts';
import { type ExitGuest, GUESTS } from './guests.ts';
import { type BatchTime, OurLoop } from './ours.ts';
import { buildReference, ReferenceLoop } from './reference.ts';

/** Ours may take this many times what the loop in C takes. */
export const RATIO_MAX = 1.25;

const HELP = `Usage: npm run bench:exits -- [--rounds N] [--exits N] [--json]

  --rounds N   batches of each (default 31)
  --exits N    exits in a batch (default 2000)
  --json       the result as JSON

Exit code 1: an exit through our engine takes more than ${RATIO_MAX} times what it takes in C.
`;

interface Row {
  readonly name: string;
  /** Median ns of processor time an exit. */
  readonly c: number;
  readonly ours: number;
  /** Median ns of real time an exit. */
  readonly cReal: number;
  readonly oursReal: number;
  /** Median of the ratios of neighbouring batches, processor time. */
  readonly ratio: number;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

async function measure(
  guest: ExitGuest,
  program: string,
  directory: string,
  { rounds, exits }: { rounds: number; exits: number },
): Promise<Row> {
  const reference = new ReferenceLoop(program, directory, guest);
  const ours = new OurLoop(guest);
  try {
    // The first batches have the compilers of V8 in them.
    ours.run(exits);
    await reference.run(exits);
    const c: BatchTime[] = [];
    const own: BatchTime[] = [];
    for (let round = 0; round < rounds; round++) {
      // Each goes first every other time.
      if (round % 2 === 0) c.push(await reference.run(exits));
      own.push(ours.run(exits));
      if (round % 2 !== 0) c.push(await reference.run(exits));
    }
    const each = (times: readonly BatchTime[], key: keyof BatchTime): number =>
      median(times.map((time) => time[key])) / exits;
    return {
      name: guest.name,
      c: each(c, 'cpuNs'),
      ours: each(own, 'cpuNs'),
      cReal: each(c, 'realNs'),
      oursReal: each(own, 'realNs'),
      ratio: median(own.map(({ cpuNs }, round) => cpuNs / (c[round]?.cpuNs ?? NaN))),
    };
  } finally {
    ours.close();
    await reference.close();
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '31' },
      exits: { type: 'string', default: '2000' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const size = { rounds: Number(values.rounds), exits: Number(values.exits) };
  if (!(size.rounds >= 1 && size.exits >= 1)) throw new Error('--rounds and --exits are numbers above 0');
  const directory = mkdtempSync(join(tmpdir(), 'switchyard-exits-'));
  const rows: Row[] = [];
  try {
    const program = buildReference(directory);
    for (const guest of GUESTS) {
      const row = await measure(guest, program, directory, size);
      rows.push(row);
      if (!values.json) print(row);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  if (values.json) process.stdout.write(`${JSON.stringify({ ...size, rows }, null, 2)}\n`);
  return rows.every(({ ratio }) => ratio <= RATIO_MAX) ? 0 : 1;
}

function print({ name, c, ours, cReal, oursReal, ratio }: Row): void {
  const us = (cpu: number, real: number): string =>
    `${(cpu / 1000).toFixed(2)} µs (real ${(real / 1000).toFixed(2)})`.padEnd(24);
  const verdict = ratio <= RATIO_MAX ? '' : `  above ${RATIO_MAX}`;
  console.log(
    `${name.padEnd(22)} C ${us(c, cReal)} ours ${us(ours, oursReal)} ratio ${ratio.toFixed(3)}${verdict}`,
  );
}

try {
  process.exitCode = await main();
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  const command = error instanceof KvmError && error.command !== undefined ? `\n    ${error.command}` : '';
  console.error(`bench:exits: ${message}${command}`);
  process.exitCode = 2;
}
