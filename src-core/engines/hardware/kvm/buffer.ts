import type { Libc } from './libc.ts';

/** Memory for the arguments of ioctls, with the views it is filled through. It stays where it is. */
export class CallBuffer {
  readonly u8: Uint8Array;
  readonly u32: Uint32Array;
  readonly u64: BigUint64Array;
  readonly view: DataView;
  readonly address: number;

  constructor(calls: Libc, size: number) {
    const memory = new ArrayBuffer(size);
    this.u8 = new Uint8Array(memory);
    this.u32 = new Uint32Array(memory);
    this.u64 = new BigUint64Array(memory);
    this.view = new DataView(memory);
    this.address = calls.address(this.u8);
  }
}
