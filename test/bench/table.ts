import type { PeerName } from './peers/peer.ts';
import { ratios, type Summary } from './results.ts';
import { BOOT_ROW, ROWS, type GuestName } from './rows.ts';

/** Table heading of each peer, with its version. */
export type Titles = ReadonlyMap<PeerName, string>;

const NOTHING = '-';
const LIMIT_HEADING = 'what limits it';

/** Row labels by name. */
const LABELS = new Map([
  [BOOT_ROW, 'boot to shell'],
  ...ROWS.map(({ name, label }) => [name, label] as const),
]);

/**
 * The times of one guest as a Markdown table.
 * @param limits what stood in the last column before, by row label: it is written by hand.
 */
export function timesTable(summary: Summary, titles: Titles, limits: ReadonlyMap<string, string>): string {
  const peers = [...titles.keys()];
  const withV86 = titles.has('v86') && titles.has('switchyard');
  const withQemu = titles.has('qemu') && titles.has('switchyard');
  const head = [
    'seconds',
    ...titles.values(),
    ...(withV86 ? ['v86 / Switchyard'] : []),
    ...(withQemu ? ['Switchyard / QEMU'] : []),
    LIMIT_HEADING,
  ];
  const body = [...summary.seconds].map(([name, seconds]) => {
    const label = LABELS.get(name) ?? name;
    const { v86, qemu } = ratios(seconds);
    return [
      label,
      ...peers.map((peer) => formatSeconds(seconds.get(peer))),
      ...(withV86 ? [formatRatio(v86)] : []),
      ...(withQemu ? [formatRatio(qemu)] : []),
      limits.get(label) ?? NOTHING,
    ];
  });
  return markdownTable(head, body);
}

/** Memory and idle time of one guest as a Markdown table. */
export function costsTable(summary: Summary, titles: Titles): string {
  const peers = [...titles.keys()].filter((peer) => peer !== 'native');
  const row = (label: string, values: Map<PeerName, number>, format: (value: number) => string): string[] => [
    label,
    ...peers.map((peer) => {
      const value = values.get(peer);
      return value === undefined ? NOTHING : format(value);
    }),
  ];
  const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;
  return markdownTable(
    ['', ...peers.map((peer) => titles.get(peer) ?? peer)],
    [
      row("host memory above the guest's touched RAM", summary.memoryAboveRam, megabytes),
      row('host memory in all', summary.memoryPeak, megabytes),
      row('asleep, of a core', summary.idle, (share) => `${(share * 100).toFixed(1)} %`),
    ],
  );
}

function formatSeconds(seconds: number | undefined): string {
  if (seconds === undefined) return NOTHING;
  return seconds.toFixed(seconds < 10 ? (seconds < 0.1 ? 3 : 2) : 1);
}

function formatRatio(ratio: number | undefined): string {
  return ratio === undefined ? NOTHING : ratio.toFixed(2);
}

/** The first column is text and stands left, and so does the column of limits; numbers stand right. */
export function markdownTable(head: readonly string[], body: readonly (readonly string[])[]): string {
  const left = (column: number): boolean => column === 0 || head[column] === LIMIT_HEADING;
  const width = head.map((heading, column) =>
    Math.max(3, heading.length, ...body.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (left(column) ? cell.padEnd(width[column] ?? 0) : cell.padStart(width[column] ?? 0))).join(' | ')} |`;
  const rule = width.map((size, column) => (left(column) ? '-'.repeat(size) : `${'-'.repeat(size - 1)}:`));
  return [line(head), line(rule), ...body.map(line)].join('\n');
}

/** What stands in the last column of a table, by row label. */
export function readLimits(text: string): Map<string, string> {
  const limits = new Map<string, string>();
  let inTable = false;
  for (const line of text.split('\n')) {
    const cells = line.split('|').map((cell) => cell.trim());
    const last = cells.at(-2);
    if (cells.length < 4 || last === undefined) inTable = false;
    else if (last === LIMIT_HEADING) inTable = true;
    else if (inTable && cells[1] !== undefined && !/^:?-{3,}:?$/.test(last)) limits.set(cells[1], last);
  }
  return limits;
}

const beginMark = (guest: GuestName): string => `<!-- bench:peers ${guest} begin -->`;
const endMark = (guest: GuestName): string => `<!-- bench:peers ${guest} end -->`;

/** What stands between a guest's marks in a document. @throws Error without them */
export function readBlock(document: string, guest: GuestName): string {
  const [start, end] = blockRange(document, guest);
  return document.slice(start, end);
}

/** The document with another text between a guest's marks. @throws Error without them */
export function replaceBlock(document: string, guest: GuestName, text: string): string {
  const [start, end] = blockRange(document, guest);
  return `${document.slice(0, start)}\n\n${text.trim()}\n\n${document.slice(end)}`;
}

function blockRange(document: string, guest: GuestName): [number, number] {
  const start = document.indexOf(beginMark(guest));
  const end = document.indexOf(endMark(guest));
  if (start < 0 || end < start)
    throw new Error(`the document has no marks "${beginMark(guest)}" and "… end"`);
  return [start + beginMark(guest).length, end];
}
