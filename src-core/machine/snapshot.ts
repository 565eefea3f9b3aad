import { promisify } from 'node:util';
import { constants, crc32, zstdCompress, zstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { CTL, GPR, STATE_END } from '../x86/layout.ts';
import type { Machine } from './machine.ts';
import {
  checkFileHeader,
  CODEC,
  FILE_HEADER_SIZE,
  fileHeader,
  PAGE_SIZE,
  parseSectionHeader,
  PAYLOAD_MAX,
  SECTION_HEADER_SIZE,
  sectionHeader,
  type SectionType,
  SnapshotError,
  type SnapshotMeta,
  snapshotMetaSchema,
} from './snapshot-format.ts';

export { SnapshotError } from './snapshot-format.ts';

const zstdAsync = promisify(zstdCompress);
const unzstdAsync = promisify(zstdDecompress);

/** RAM is looked through and compressed in pieces of this many pages, so that the event loop gets its turns. */
const PAGES_A_SECTION = 1024;
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

/** Control words that are state of the vCPU; all others are derived or live only while an engine runs. */
const CONTROL_WORDS = [
  CTL.interruptShadow,
  CTL.halted,
  CTL.cpl,
  CTL.a20Mask,
  CTL.nmiBlocked,
  CTL.nmiPending,
  CTL.pendingDebug,
] as const;
/** VCPU payload: u64 instructions, the control words, [GPR, STATE_END). */
const VCPU_CONTROL = 8;
const VCPU_STATE = VCPU_CONTROL + 4 * CONTROL_WORDS.length;
const VCPU_SIZE = VCPU_STATE + STATE_END - GPR;

const devicesSchema = z.record(z.string(), z.unknown());

export interface SnapshotOptions {
  signal?: AbortSignal | undefined;
  /** Called now and then with 0..1. */
  onProgress?: ((fraction: number) => void) | undefined;
}

/**
 * A machine's state as the chunks of a snapshot file. The machine must stand still (paused, or not started) until
 * the last chunk was taken. Throws the signal's reason when it is aborted.
 */
export async function* writeSnapshot(
  machine: Machine,
  options: SnapshotOptions = {},
): AsyncGenerator<Uint8Array> {
  if (machine.state === 'running') throw new Error('a running machine can’t be saved: pause it first');
  yield fileHeader();
  let sections = 0;
  const section = (type: SectionType, codec: number, payload: Uint8Array): Uint8Array[] => {
    sections++;
    return [sectionHeader(type, codec, payload), payload];
  };
  const meta: SnapshotMeta = {
    memoryMib: machine.config.memoryMib,
    engine: machine.engine,
    guestNs: machine.clock.now(),
    parent: null,
  };
  yield* section('META', CODEC.none, encodeJson(meta));
  yield* section('VCPU', CODEC.none, saveVcpu(machine));
  const devices = Object.fromEntries(machine.board.devices.map((device) => [device.name, device.save()]));
  yield* section('DEVS', CODEC.none, encodeJson(devices));

  const { ram } = machine.arena;
  const pages = ram.length / PAGE_SIZE;
  for (let first = 0; first < pages; first += PAGES_A_SECTION) {
    options.signal?.throwIfAborted();
    const payload = gatherPages(ram, first, Math.min(first + PAGES_A_SECTION, pages));
    if (payload) yield* section('PAGE', CODEC.zstd, await compress(payload));
    else await new Promise((resolve) => setImmediate(resolve));
    options.onProgress?.(Math.min(1, (first + PAGES_A_SECTION) / pages));
  }
  const count = new Uint8Array(4);
  new DataView(count.buffer).setUint32(0, sections, true);
  yield* section('END ', CODEC.none, count);
}

function encodeJson(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

async function compress(payload: Uint8Array): Promise<Uint8Array> {
  return zstdAsync(payload, { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
}

function saveVcpu({ arena, cpu }: Machine): Uint8Array {
  const bytes = new Uint8Array(VCPU_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, cpu.get64(CTL.instructions), true);
  CONTROL_WORDS.forEach((offset, index) => view.setUint32(VCPU_CONTROL + 4 * index, cpu.get32(offset), true));
  bytes.set(arena.u8.subarray(GPR, STATE_END), VCPU_STATE);
  return bytes;
}

/** The pages of [first, end) that are not zero, as a PAGE payload; undefined when all are. */
function gatherPages(ram: Uint8Array, first: number, end: number): Uint8Array | undefined {
  const numbers: number[] = [];
  for (let page = first; page < end; page++) if (!isZero(ram, page)) numbers.push(page);
  if (numbers.length === 0) return undefined;
  const dataAt = 4 + 4 * numbers.length;
  const payload = new Uint8Array(dataAt + numbers.length * PAGE_SIZE);
  const view = new DataView(payload.buffer);
  view.setUint32(0, numbers.length, true);
  numbers.forEach((page, index) => {
    view.setUint32(4 + 4 * index, page, true);
    payload.set(ram.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE), dataAt + index * PAGE_SIZE);
  });
  return payload;
}

function isZero(ram: Uint8Array, page: number): boolean {
  return Buffer.compare(ram.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE), ZERO_PAGE) === 0;
}

/** Opens the snapshot's bytes from the start; called twice, once to check them all and once to take them over. */
export type SnapshotSource = () => AsyncIterable<Uint8Array>;

export interface RestoreOptions extends SnapshotOptions {
  /** Length of the file in bytes, for progress. */
  size?: number | undefined;
}

/** Everything but RAM, checked. */
interface Contents {
  meta: SnapshotMeta;
  vcpu: Uint8Array;
  devices: Record<string, unknown>;
}

/** Part of the time that checking takes, for progress. */
const CHECK_SHARE = 0.2;

/**
 * Puts a machine of the same memory size into a snapshot's state. It must not be running; it stays as it was
 * (created or paused). The snapshot is checked from end to end first, so that a damaged one changes nothing; only
 * then can it no longer be aborted.
 * @throws SnapshotError, or the signal's reason.
 */
export async function restoreSnapshot(
  machine: Machine,
  source: SnapshotSource,
  options: RestoreOptions = {},
): Promise<void> {
  if (machine.state === 'running') throw new Error('a running machine can’t be restored: pause it first');
  const { size = 0, signal, onProgress } = options;
  let read = 0;
  const progress = (from: number, share: number) => (bytes: number) => {
    read += bytes;
    if (size > 0) onProgress?.(Math.min(1, from + (share * read) / size));
  };
  const contents = await checkSnapshot(source, progress(0, CHECK_SHARE), signal);
  const { memoryMib } = machine.config;
  if (contents.meta.memoryMib !== memoryMib) {
    throw new SnapshotError(
      'mismatch',
      `the snapshot is of a machine with ${contents.meta.memoryMib} MiB of memory, this one has ${memoryMib} MiB`,
    );
  }
  restoreAllButRam(machine, contents);
  read = 0;
  const { ram } = machine.arena;
  let next = 0;
  for await (const section of readSections(source(), progress(CHECK_SHARE, 1 - CHECK_SHARE))) {
    if (section.type === 'PAGE') next = await takePages(ram, section, next);
  }
  clearPages(ram, next, ram.length / PAGE_SIZE);
  machine.stateReplaced();
}

/** Reads a snapshot to its end and checks all that can be checked without a machine. @throws SnapshotError */
export async function checkSnapshot(
  source: SnapshotSource,
  onBytes: (bytes: number) => void = () => undefined,
  signal?: AbortSignal,
): Promise<Contents> {
  let meta: SnapshotMeta | undefined;
  let vcpu: Uint8Array | undefined;
  let devices: Record<string, unknown> | undefined;
  for await (const { type, payload } of readSections(source(), onBytes)) {
    signal?.throwIfAborted();
    if (type === 'META') meta = parseJson(payload, snapshotMetaSchema, 'description');
    else if (type === 'VCPU') vcpu = payload;
    else if (type === 'DEVS') devices = parseJson(payload, devicesSchema, 'device states');
  }
  if (!meta || !devices || vcpu?.length !== VCPU_SIZE) {
    throw new SnapshotError('corrupt', 'the snapshot is damaged: a part of it is missing');
  }
  return { meta, vcpu, devices };
}

function parseJson<T>(payload: Uint8Array, schema: z.ZodType<T>, what: string): T {
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(payload)));
  } catch (error) {
    throw new SnapshotError('corrupt', `the snapshot is damaged: its ${what} can’t be read`, {
      cause: error,
    });
  }
}

interface Section {
  type: SectionType;
  codec: number;
  payload: Uint8Array;
}

const SECTION_TYPES: readonly string[] = ['META', 'VCPU', 'DEVS', 'PAGE', 'END '] satisfies SectionType[];

function isSectionType(type: string): type is SectionType {
  return SECTION_TYPES.includes(type);
}

/** The sections of a snapshot up to and without END, their checksums compared. @throws SnapshotError */
async function* readSections(
  chunks: AsyncIterable<Uint8Array>,
  onBytes: (bytes: number) => void,
): AsyncGenerator<Section> {
  const reader = new ByteReader(chunks, onBytes);
  checkFileHeader(await reader.take(FILE_HEADER_SIZE));
  for (let count = 0; ; count++) {
    const header = parseSectionHeader(await reader.take(SECTION_HEADER_SIZE));
    const payload = await reader.take(header.length);
    if (crc32(payload) !== header.checksum) {
      throw new SnapshotError('corrupt', 'the snapshot is damaged: a section has a wrong checksum');
    }
    if (!isSectionType(header.type)) {
      throw new SnapshotError('tooNew', `the snapshot has a section of unknown type "${header.type}"`);
    }
    if (header.type === 'END ') {
      const written = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
      if (written !== count) {
        throw new SnapshotError('corrupt', `the snapshot is damaged: ${count} of ${written} sections`);
      }
      return;
    }
    yield { type: header.type, codec: header.codec, payload };
  }
}

/** Takes runs of bytes off a stream of chunks. */
class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #onBytes: (bytes: number) => void;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>, onBytes: (bytes: number) => void) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#onBytes = onBytes;
  }

  async take(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      if (this.#rest.length === 0) {
        const result = await this.#chunks.next();
        if (result.done === true) throw new SnapshotError('truncated', 'the snapshot is cut short');
        this.#rest = result.value;
        continue;
      }
      const part = this.#rest.subarray(0, length - at);
      bytes.set(part, at);
      at += part.length;
      this.#rest = this.#rest.subarray(part.length);
    }
    this.#onBytes(length);
    return bytes;
  }
}

/** vCPU, clock and devices; all or, when a device does not take its state, nothing. */
function restoreAllButRam(machine: Machine, { meta, vcpu, devices }: Contents): void {
  const { board, clock } = machine;
  const before = {
    vcpu: saveVcpu(machine),
    guestNs: clock.now(),
    devices: board.devices.map((device) => device.save()),
  };
  try {
    restoreVcpu(machine, vcpu);
    clock.setNow(meta.guestNs);
    for (const device of board.devices) device.restore(devices[device.name]);
  } catch (error) {
    restoreVcpu(machine, before.vcpu);
    clock.setNow(before.guestNs);
    board.devices.forEach((device, index) => device.restore(before.devices[index]));
    machine.stateReplaced();
    throw new SnapshotError('mismatch', 'the snapshot’s device states don’t fit this version of Switchyard', {
      cause: error,
    });
  }
}

function restoreVcpu({ arena, cpu }: Machine, bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  cpu.set64(CTL.instructions, view.getBigUint64(0, true));
  CONTROL_WORDS.forEach((offset, index) => cpu.set32(offset, view.getUint32(VCPU_CONTROL + 4 * index, true)));
  arena.u8.set(bytes.subarray(VCPU_STATE), GPR);
}

/** Copies a PAGE section to RAM and clears what lies between its pages. @returns the page after its last. */
async function takePages(ram: Uint8Array, section: Section, from: number): Promise<number> {
  const payload = await decompress(section);
  const damaged = (): SnapshotError =>
    new SnapshotError('corrupt', 'the snapshot is damaged: a section of memory contradicts itself');
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  if (payload.length < 4) throw damaged();
  const count = view.getUint32(0, true);
  const dataAt = 4 + 4 * count;
  if (payload.length !== dataAt + count * PAGE_SIZE) throw damaged();
  let next = from;
  for (let index = 0; index < count; index++) {
    const page = view.getUint32(4 + 4 * index, true);
    if (page < next || page >= ram.length / PAGE_SIZE) throw damaged();
    clearPages(ram, next, page);
    const at = dataAt + index * PAGE_SIZE;
    ram.set(payload.subarray(at, at + PAGE_SIZE), page * PAGE_SIZE);
    next = page + 1;
  }
  return next;
}

async function decompress({ codec, payload }: Section): Promise<Uint8Array> {
  switch (codec) {
    case CODEC.none:
      return payload;
    case CODEC.zstd:
      return unzstdAsync(payload, { maxOutputLength: PAYLOAD_MAX });
    default:
      throw new SnapshotError('tooNew', `the snapshot is compressed in an unknown way (${codec})`);
  }
}

/** Makes pages zero, without touching those that are: untouched memory costs nothing. */
function clearPages(ram: Uint8Array, first: number, end: number): void {
  for (let page = first; page < end; page++) {
    if (!isZero(ram, page)) ram.fill(0, page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  }
}
