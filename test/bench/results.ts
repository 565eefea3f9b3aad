import { PEER_NAMES, type PeerName } from './peers/peer.ts';
import { BOOT_ROW, type GuestName } from './rows.ts';
import type { Session } from './session.ts';

/** One run of one guest in one peer. */
export interface BenchRun {
  guest: GuestName;
  peer: PeerName;
  /** From 1. */
  round: number;
  session: Session;
}

/** What the runs of one guest come to. */
export interface Summary {
  guest: GuestName;
  /** Median seconds by row name, then by peer; peers that never got through a row are missing. */
  seconds: Map<string, Map<PeerName, number>>;
  memoryAboveRam: Map<PeerName, number>;
  memoryPeak: Map<PeerName, number>;
  idle: Map<PeerName, number>;
  /** Runs that ended early and results that differ, in words. Not empty means that the benchmark has failed. */
  failures: string[];
}

/** The middle value; of an even number of values, the mean of the two in the middle. @throws RangeError for none */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[sorted.length >> 1];
  const lower = sorted[(sorted.length - 1) >> 1];
  if (upper === undefined || lower === undefined) throw new RangeError('no values have no median');
  return (lower + upper) / 2;
}

/** Medians over the rounds, after checking that every peer computed the same. */
export function summarize(guest: GuestName, all: readonly BenchRun[], rows: readonly string[]): Summary {
  const records = all.filter((record) => record.guest === guest);
  const peers = PEER_NAMES.filter((name) => records.some(({ peer }) => peer === name));
  const medians = (value: (session: Session) => number | undefined): Map<PeerName, number> =>
    new Map(
      peers.flatMap((name): [PeerName, number][] => {
        const values = records
          .filter(({ peer }) => peer === name)
          .flatMap(({ session }) => value(session) ?? []);
        return values.length === 0 ? [] : [[name, median(values)]];
      }),
    );
  return {
    guest,
    seconds: new Map(rows.map((row) => [row, medians((session) => session.rows.get(row)?.seconds)])),
    memoryAboveRam: medians((session) => session.memoryAboveRam),
    memoryPeak: medians((session) => session.memoryPeak),
    idle: medians((session) => session.idle),
    failures: [
      ...records.flatMap(({ peer, round, session: { failure } }) =>
        failure === undefined ? [] : [`${guest}, ${peer}, round ${round}: ${failure}`],
      ),
      ...rows.filter((row) => row !== BOOT_ROW).flatMap((row) => differences(records, row)),
    ],
  };
}

/** Results that are not the reference's: native's where it ran, or else that of the first peer of the table. */
function differences(records: readonly BenchRun[], row: string): string[] {
  const results = records.flatMap(({ guest, peer, round, session }) => {
    const result = session.rows.get(row)?.result;
    return result === undefined ? [] : [{ guest, peer, round, result }];
  });
  const reference = PEER_NAMES.flatMap((name) => results.find(({ peer }) => peer === name) ?? [])[0];
  return results
    .filter(({ result }) => result !== reference?.result)
    .map(
      ({ guest, peer, round, result }) =>
        `WRONG RESULT: ${guest}, ${peer}, round ${round}, ${row}: "${result}", but ${reference?.peer ?? ''} ` +
        `has "${reference?.result ?? ''}"`,
    );
}

/** How Switchyard compares. Ratios above 1 mean that it is faster than v86, or slower than QEMU. */
export interface Ratios {
  /** v86's time over Switchyard's; the bar is BAR.fasterThanV86. */
  v86: number | undefined;
  /** Switchyard's time over QEMU's; the bar for boots is BAR.bootAgainstQemu, the goal 1. */
  qemu: number | undefined;
}

/** Memory above touched guest RAM in bytes, idle in shares of a core. */
export const BAR = { fasterThanV86: 1.5, bootAgainstQemu: 1.5, memoryAboveRam: 200e6, idle: 0.02 } as const;

/** @param seconds of one row, by peer. */
export function ratios(seconds: ReadonlyMap<PeerName, number>): Ratios {
  const own = seconds.get('switchyard');
  const v86 = seconds.get('v86');
  const qemu = seconds.get('qemu');
  return {
    v86: own === undefined || v86 === undefined ? undefined : v86 / own,
    qemu: own === undefined || qemu === undefined ? undefined : own / qemu,
  };
}

/** What is below the bar, in words. */
export function missedBars({ guest, seconds, memoryAboveRam, idle }: Summary): string[] {
  const times = [...seconds].flatMap(([row, times]) => {
    const { v86, qemu } = ratios(times);
    const missed: string[] = [];
    if (v86 !== undefined && v86 < BAR.fasterThanV86) {
      missed.push(`${guest}, ${row}: ${v86.toFixed(2)} times as fast as v86, not ${BAR.fasterThanV86}`);
    }
    if (row === BOOT_ROW && qemu !== undefined && qemu > BAR.bootAgainstQemu) {
      missed.push(`${guest}, ${row}: ${qemu.toFixed(2)} times QEMU's time, not ${BAR.bootAgainstQemu}`);
    }
    return missed;
  });
  const costs: string[] = [];
  const memory = memoryAboveRam.get('switchyard') ?? 0;
  if (memory > BAR.memoryAboveRam) {
    costs.push(
      `${guest}, host memory: ${Math.round(memory / 1e6)} MB above touched RAM, not ${BAR.memoryAboveRam / 1e6}`,
    );
  }
  const share = idle.get('switchyard') ?? 0;
  if (share > BAR.idle) {
    costs.push(`${guest}, asleep: ${(share * 100).toFixed(1)} % of a core, not ${BAR.idle * 100}`);
  }
  return [...times, ...costs];
}
