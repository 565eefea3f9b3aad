import { closeSync, readSync } from 'node:fs';
import { SIZE, STATS_DESCRIPTOR, STATS_HEADER } from './layout.ts';

/** Bits of a descriptor's flags: the type of the statistic. */
const TYPE_MASK = 0xf;
/** Linear and logarithmic histograms. */
const TYPE_HISTOGRAM_FIRST = 3;

interface Descriptor {
  readonly name: string;
  /** Byte offset of its values, and how many there are. */
  readonly offset: number;
  readonly size: number;
  readonly histogram: boolean;
}

/**
 * The counters KVM keeps of a VM or a vCPU (KVM_GET_STATS_FD; Documentation/virt/kvm/api.rst, 4.133), read by name: a
 * kernel says itself which ones it has.
 */
export class KvmStatistics {
  readonly #fd: number;
  readonly #descriptors: readonly Descriptor[];
  readonly #dataAt: number;
  readonly #data: DataView;
  #closed = false;

  /** Takes the descriptor over. */
  constructor(fd: number) {
    this.#fd = fd;
    const header = this.#read(0, SIZE.statsHeader);
    const nameSize = header.getUint32(STATS_HEADER.nameSize, true);
    const count = header.getUint32(STATS_HEADER.count, true);
    this.#dataAt = header.getUint32(STATS_HEADER.dataOffset, true);
    const size = SIZE.statsDescriptor + nameSize;
    const all = this.#read(header.getUint32(STATS_HEADER.descOffset, true), count * size);
    this.#descriptors = Array.from({ length: count }, (_, index) => {
      const at = index * size;
      const name = Buffer.from(all.buffer, at + STATS_DESCRIPTOR.name, nameSize).toString('latin1');
      return {
        name: name.slice(0, name.indexOf('\0')),
        offset: all.getUint32(at + STATS_DESCRIPTOR.offset, true),
        size: all.getUint16(at + STATS_DESCRIPTOR.size, true),
        histogram: (all.getUint32(at, true) & TYPE_MASK) >= TYPE_HISTOGRAM_FIRST,
      };
    });
    const end = Math.max(0, ...this.#descriptors.map(({ offset, size: values }) => offset + 8 * values));
    this.#data = new DataView(new ArrayBuffer(end));
  }

  #read(at: number, length: number): DataView {
    const bytes = new DataView(new ArrayBuffer(length));
    readFully(this.#fd, bytes, at);
    return bytes;
  }

  /** Every counter with its value now. Histograms are left out. */
  read(): Record<string, number> {
    readFully(this.#fd, this.#data, this.#dataAt);
    const values: Record<string, number> = {};
    for (const { name, offset, size, histogram } of this.#descriptors) {
      if (!histogram && size === 1) values[name] = Number(this.#data.getBigUint64(offset, true));
    }
    return values;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}

function readFully(fd: number, into: DataView, at: number): void {
  for (let done = 0; done < into.byteLength;) {
    const count = readSync(fd, into, done, into.byteLength - done, at + done);
    if (count === 0) throw new Error('KVM’s statistics end early');
    done += count;
  }
}
