/** `npm run bench:peers`: see HELP in options.ts and docs/BENCHMARKS.md. */
import { existsSync, writeFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { CommandError } from '../../src-main/firstguest/command.ts';
import { prepareGuest, type Guest } from './guests.ts';
import { describeMachine } from './host.ts';
import { HELP, parseOptions, UsageError, type BenchOptions } from './options.ts';
import { findPeer } from './peers/find.ts';
import { PeerMissingError, root, type Peer, type PeerOptions } from './peers/peer.ts';
import { missedBars, summarize, type BenchRun, type Summary } from './results.ts';
import { ROWS } from './rows.ts';
import { runSession } from './session.ts';
import { costsTable, readBlock, readLimits, replaceBlock, timesTable, type Titles } from './table.ts';

const DOCUMENT = join(root, 'docs/BENCHMARKS.md');
const CACHE = join(root, '.cache/guests');
/** A file system in memory, like the guests' own, where the host has one. */
const SHARED_MEMORY = '/dev/shm';
/** Fewer rounds show that it works, not how fast. */
const ROUNDS_OF_A_MEASUREMENT = 5;

const say = (line: string): void => console.error(line);

async function main(options: BenchOptions, signal: AbortSignal): Promise<number> {
  const missing = await aptMissing();
  if (missing !== undefined) throw new UsageError(`the guests cannot be built here: ${missing}`);
  const directories = await Promise.all(
    [tmpdir(), existsSync(SHARED_MEMORY) ? SHARED_MEMORY : tmpdir()].map((parent) =>
      mkdtemp(join(parent, 'switchyard-bench-')),
    ),
  );
  const [temporary = '', memory = ''] = directories;
  try {
    return await measure(options, { temporary, memory }, signal);
  } finally {
    await Promise.all(directories.map((path) => rm(path, { recursive: true, force: true })));
  }
}

async function measure(
  options: BenchOptions,
  places: Pick<PeerOptions, 'temporary' | 'memory'>,
  signal: AbortSignal,
): Promise<number> {
  const rows = ROWS.filter(({ name }) => options.rows.includes(name));
  const common = { cache: CACHE, ...places, rows, signal, say };
  const guests: Guest[] = [];
  for (const name of options.guests) guests.push(await prepareGuest({ ...common, name }));
  const { peers, failures } = await findPeers(options, {
    ...common,
    cliArguments: options.cliArguments,
  });
  const records: BenchRun[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    for (const guest of guests) {
      for (const peer of inTurn(peers, round)) {
        if (!peer.guests.includes(guest.name)) continue;
        say(`round ${round} of ${options.rounds}, ${guest.name}, ${peer.title}`);
        const session = await runSession(await peer.launch(guest), {
          rows,
          timeout: options.timeout,
          signal,
          onRow: (name, seconds) => say(`  ${name.padEnd(12)} ${seconds.toFixed(3).padStart(8)} s`),
        });
        if (session.failure !== undefined) say(`  FAILED: ${session.failure}`);
        records.push({ guest: guest.name, peer: peer.name, round, session });
      }
    }
  }
  if (options.json !== undefined) writeJson(options.json, records);
  const summaries = guests.map(({ name }) => summarize(name, records, options.rows));
  for (const summary of summaries) console.log(`${report(summary, titlesFor(summary, peers))}\n`);
  failures.push(...summaries.flatMap((summary) => summary.failures));
  if (options.write && failures.length === 0) await writeDocument(summaries, peers, options.rounds);
  for (const line of summaries.flatMap(missedBars)) console.log(`below the bar: ${line}`);
  for (const line of failures) console.log(`FAILED: ${line}`);
  return failures.length === 0 ? 0 : 1;
}

/** Peers that are there. Those that are not are failures: a table must not lack a column unnoticed. */
async function findPeers(
  { peers: names }: BenchOptions,
  options: PeerOptions,
): Promise<{ peers: Peer[]; failures: string[] }> {
  const peers: Peer[] = [];
  const failures: string[] = [];
  for (const name of names) {
    try {
      peers.push(await findPeer(name, options));
    } catch (error) {
      if (!(error instanceof PeerMissingError)) throw error;
      failures.push(error.message);
      say(`${name}: ${error.message}`);
    }
  }
  return { peers, failures };
}

/** Every round starts with another peer, so that what drifts over time falls on all of them. */
function inTurn(peers: readonly Peer[], round: number): Peer[] {
  const first = (round - 1) % Math.max(1, peers.length);
  return [...peers.slice(first), ...peers.slice(0, first)];
}

function titlesFor({ guest }: Summary, peers: readonly Peer[]): Titles {
  return new Map(
    peers.filter(({ guests }) => guests.includes(guest)).map(({ name, title }) => [name, title]),
  );
}

function report(summary: Summary, titles: Titles, limits: ReadonlyMap<string, string> = new Map()): string {
  return [`### ${summary.guest}`, timesTable(summary, titles, limits), costsTable(summary, titles)].join(
    '\n\n',
  );
}

async function writeDocument(
  summaries: readonly Summary[],
  peers: readonly Peer[],
  rounds: number,
): Promise<void> {
  let document = await readFile(DOCUMENT, 'utf8');
  const kind =
    rounds < ROUNDS_OF_A_MEASUREMENT
      ? `**Not a measurement:** ${rounds === 1 ? 'a single round' : `${rounds} rounds`}, to show that it works.`
      : `Medians of ${rounds} rounds.`;
  for (const summary of summaries) {
    const limits = readLimits(readBlock(document, summary.guest));
    const text = `${report(summary, titlesFor(summary, peers), limits)}\n\n${kind} ${describeMachine()}`;
    document = replaceBlock(document, summary.guest, text);
  }
  const config = await resolveConfig(DOCUMENT);
  await writeFile(DOCUMENT, await format(document, { ...config, filepath: DOCUMENT }));
  say(`written: ${DOCUMENT}`);
}

function writeJson(path: string, records: readonly BenchRun[]): void {
  const runs = records.map(({ session, ...rest }) => ({
    ...rest,
    ...session,
    rows: Object.fromEntries(session.rows),
  }));
  writeFileSync(path, `${JSON.stringify(runs, null, 2)}\n`);
}

const cancel = new AbortController();
for (const [name, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
] as const) {
  process.once(name, () => {
    process.exitCode = 128 + number;
    cancel.abort();
  });
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) console.log(HELP);
  else process.exitCode = await main(options, cancel.signal);
} catch (error) {
  if (error instanceof UsageError) {
    say(error.message);
    process.exitCode = 2;
  } else if (cancel.signal.aborted) {
    say('cancelled');
  } else if (error instanceof CommandError) {
    say(error.message);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
