import { fileURLToPath } from 'node:url';
import { GUEST_MEMORY_MIB, type Guest } from '../guests.ts';
import type { GuestName, Row } from '../rows.ts';

/** Where guests can run, in the order of the table. Native is no machine: the same BusyBox on the host itself. */
export const PEER_NAMES = ['native', 'qemu', 'v86', 'switchyard'] as const;
export type PeerName = (typeof PEER_NAMES)[number];

/** How to start one run. */
export interface Launch {
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  /** Whether there is a boot to wait for and time. */
  boots: boolean;
  /** Where guest RAM is in the process; absent where it cannot be told apart. */
  ram?: RamPlace;
}

/** The mapping that holds guest RAM, recognized by its size, and where in it RAM starts; bytes. */
export interface RamPlace {
  mappingSize: number;
  offset: number;
  size: number;
}

export interface Peer {
  name: PeerName;
  /** Name and version, for the table. */
  title: string;
  guests: readonly GuestName[];
  launch(guest: Guest): Launch | Promise<Launch>;
}

export interface PeerOptions {
  /** Packages are kept here. */
  cache: string;
  /** A directory for this run alone. */
  temporary: string;
  /** Another one, in a file system that is in memory where there is one. */
  memory: string;
  rows: readonly Row[];
  /** More arguments for Switchyard's `run`. */
  cliArguments: readonly string[];
  signal: AbortSignal;
  say: (line: string) => void;
}

/** A peer that cannot be had here; the message says why, and what would help. */
export class PeerMissingError extends Error {}

/** The repository. */
export const root = fileURLToPath(new URL('../../..', import.meta.url));
export const RAM_SIZE = GUEST_MEMORY_MIB << 20;
