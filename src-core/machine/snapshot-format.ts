import { crc32 } from 'node:zlib';
import { z } from 'zod';
import { engineKindSchema } from '../protocol/vm.ts';

/**
 * The snapshot container. All numbers are little-endian.
 *
 *     file     "SWYDSNAP", u32 version, u32 CRC-32 of these 12 bytes, then sections up to and including END
 *     section  4 characters of type, u32 codec, u32 length of the payload, u32 CRC-32 of the payload,
 *              u32 CRC-32 of these 16 bytes, then the payload
 *
 * Sections in order: META (JSON, snapshotMetaSchema), VCPU (state bytes), DEVS (JSON: device name to state), any
 * number of PAGE (guest RAM), END (u32 count of the sections before it). A PAGE payload, uncompressed, is a u32
 * count, that many u32 page numbers in rising order, and the pages. RAM pages in no section are zero, or, once
 * META.parent names a snapshot, as they were there.
 */
export const SNAPSHOT_MAGIC = 'SWYDSNAP';
export const SNAPSHOT_VERSION = 1;

export const FILE_HEADER_SIZE = 16;
export const SECTION_HEADER_SIZE = 20;
/** Longest payload a reader takes. Longer ones are damage, not data. */
export const PAYLOAD_MAX = 64 * 1024 * 1024;

/** How a payload is compressed. */
export const CODEC = { none: 0, zstd: 1 } as const;
export type SectionType = 'META' | 'VCPU' | 'DEVS' | 'PAGE' | 'END ';

export const PAGE_SIZE = 4096;

export const snapshotMetaSchema = z.strictObject({
  memoryMib: z.int().positive(),
  /** The engine the guest ran on. */
  engine: engineKindSchema,
  /** Guest time, ns since power-on. */
  guestNs: z.number().nonnegative(),
  /** Snapshot whose pages stand for those left out; none is supported yet. */
  parent: z.null(),
});
export type SnapshotMeta = z.infer<typeof snapshotMetaSchema>;

/** A snapshot that cannot be used: damaged, cut short, from a later version, or for another machine. */
export class SnapshotError extends Error {
  readonly kind: 'notASnapshot' | 'corrupt' | 'truncated' | 'tooNew' | 'mismatch';

  constructor(kind: SnapshotError['kind'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'SnapshotError';
    this.kind = kind;
  }
}

export function fileHeader(): Uint8Array {
  const bytes = new Uint8Array(FILE_HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode(SNAPSHOT_MAGIC));
  view.setUint32(8, SNAPSHOT_VERSION, true);
  view.setUint32(12, crc32(bytes.subarray(0, 12)), true);
  return bytes;
}

/** Throws SnapshotError unless the header is one this version reads. */
export function checkFileHeader(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (new TextDecoder('latin1').decode(bytes.subarray(0, 8)) !== SNAPSHOT_MAGIC) {
    throw new SnapshotError('notASnapshot', 'this file is not a Switchyard snapshot');
  }
  if (view.getUint32(12, true) !== crc32(bytes.subarray(0, 12))) {
    throw new SnapshotError('corrupt', 'the snapshot is damaged: its header has a wrong checksum');
  }
  const version = view.getUint32(8, true);
  if (version > SNAPSHOT_VERSION) {
    throw new SnapshotError(
      'tooNew',
      `the snapshot is of version ${version}, made by a later Switchyard; this one reads up to ${SNAPSHOT_VERSION}`,
    );
  }
}

export interface SectionHeader {
  type: string;
  codec: number;
  length: number;
  checksum: number;
}

/** A section's header for its payload. */
export function sectionHeader(type: SectionType, codec: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(SECTION_HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode(type));
  view.setUint32(4, codec, true);
  view.setUint32(8, payload.length, true);
  view.setUint32(12, crc32(payload), true);
  view.setUint32(16, crc32(bytes.subarray(0, 16)), true);
  return bytes;
}

/** Throws SnapshotError when the header is damaged. */
export function parseSectionHeader(bytes: Uint8Array): SectionHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(16, true) !== crc32(bytes.subarray(0, 16))) {
    throw new SnapshotError('corrupt', 'the snapshot is damaged: a section header has a wrong checksum');
  }
  const length = view.getUint32(8, true);
  if (length > PAYLOAD_MAX) {
    throw new SnapshotError('corrupt', `the snapshot is damaged: a section claims ${length} bytes`);
  }
  return {
    type: new TextDecoder('latin1').decode(bytes.subarray(0, 4)),
    codec: view.getUint32(4, true),
    length,
    checksum: view.getUint32(12, true),
  };
}
