/**
 * Views over case and result records (layout.ts), so that generator, oracle, our own side and reports share
 * one representation and nothing is copied.
 */
import {
  CASE,
  CASE_SIZE,
  CODE_BASE,
  CODE_SIZE,
  FXSAVE_SIZE,
  MAX_PATCHES,
  PATCH_STRIDE,
  RESULT,
  SELECTOR_CODE16,
  SELECTOR_CODE32,
  SELECTOR_CODE64,
  SELECTOR_DATA,
  SELECTOR_DATA16,
  SELECTOR_EXPAND_DOWN,
  SELECTOR_LIMITED,
} from './layout.ts';
import type { ResultBatch } from './client.ts';

/** Code size in bits. */
export type Bitness = 16 | 32 | 64;

/** Offsets in an FXSAVE image, 64-bit format (Intel SDM vol. 1, table 10-2). */
export const FX = {
  fcw: 0,
  fsw: 2,
  /** Abridged tag byte: bit n set when physical register n is not empty. */
  ftw: 4,
  fop: 6,
  fip: 8,
  fdp: 16,
  mxcsr: 24,
  mxcsrMask: 28,
  /** ST0 to ST7, 16 bytes each, 10 used. */
  st: 32,
  xmm: 160,
} as const;

/** Starting state of one case: a window on CASE_SIZE bytes. */
export class CaseView {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly fx: Uint8Array;

  constructor(buffer: ArrayBufferLike, offset: number) {
    this.bytes = new Uint8Array(buffer, offset, CASE_SIZE);
    this.view = new DataView(buffer, offset, CASE_SIZE);
    this.fx = this.bytes.subarray(CASE.fxsave, CASE.fxsave + FXSAVE_SIZE);
  }

  /** Resets the record to a state that is valid and dull: flat segments, cleared registers, FNINIT, MXCSR 0x1f80. */
  reset(bitness: Bitness): void {
    const { bytes, view } = this;
    bytes.fill(0);
    view.setUint32(CASE.setBases, bitness === 64 ? 1 : 0, true);
    view.setUint16(
      CASE.entry + 4,
      bitness === 64 ? SELECTOR_CODE64 : bitness === 32 ? SELECTOR_CODE32 : SELECTOR_CODE16,
      true,
    );
    const data = bitness === 16 ? SELECTOR_DATA16 : SELECTOR_DATA;
    view.setUint16(CASE.ss, data, true);
    view.setUint16(CASE.ds, bitness === 64 ? 0 : data, true);
    view.setUint16(CASE.es, bitness === 64 ? 0 : data, true);
    view.setUint16(CASE.fs, bitness === 64 ? 0 : SELECTOR_LIMITED, true);
    view.setUint16(CASE.gs, bitness === 64 ? 0 : SELECTOR_EXPAND_DOWN, true);
    view.setBigUint64(CASE.rflags, 0x202n, true);
    view.setUint16(CASE.fxsave + FX.fcw, 0x37f, true);
    view.setUint32(CASE.fxsave + FX.mxcsr, 0x1f80, true);
  }

  get bitness(): Bitness {
    const selector = this.view.getUint16(CASE.entry + 4, true);
    if (selector === SELECTOR_CODE64) return 64;
    return selector === SELECTOR_CODE16 ? 16 : 32;
  }

  /** The code segment's base is the code page, not 0. */
  get codeBased(): boolean {
    return (this.view.getUint16(CASE.entry + 4, true) & 4) !== 0;
  }

  /** Places the instruction at an offset in the code page; bytes past the page's end do not exist. */
  setCode(code: Uint8Array, start: number): void {
    const { view } = this;
    const length = Math.min(code.length, 32, CODE_SIZE - start);
    view.setUint32(CASE.codeStart, start, true);
    view.setUint32(CASE.codeLength, length, true);
    this.bytes.fill(0, CASE.code, CASE.code + 32);
    this.bytes.set(code.subarray(0, Math.min(code.length, 32)), CASE.code);
    view.setUint32(CASE.entry, this.codeBased ? start : CODE_BASE + start, true);
  }

  /** The instruction's bytes as far as the code page holds them. */
  get code(): Uint8Array {
    return this.bytes.subarray(CASE.code, CASE.code + this.view.getUint32(CASE.codeLength, true));
  }

  /** Value of RIP (an offset in CS) at the instruction. */
  get rip(): number {
    return this.view.getUint32(CASE.entry, true);
  }

  gpr(index: number): bigint {
    return this.view.getBigUint64(CASE.gpr + index * 8, true);
  }

  setGpr(index: number, value: bigint): void {
    this.view.setBigUint64(CASE.gpr + index * 8, value, true);
  }

  get rflags(): number {
    return this.view.getUint32(CASE.rflags, true);
  }

  set rflags(value: number) {
    this.view.setBigUint64(CASE.rflags, BigInt(value), true);
  }

  get patchCount(): number {
    return this.view.getUint32(CASE.patchCount, true);
  }

  /**
   * Changes 16 bytes of the data window.
   * @param offset 0 to DATA_SIZE - 16.
   * @returns the 16 bytes to fill in, or undefined when the record has no patch left.
   */
  addPatch(offset: number): Uint8Array | undefined {
    const count = this.patchCount;
    if (count >= MAX_PATCHES) return undefined;
    const at = CASE.patches + count * PATCH_STRIDE;
    this.view.setUint32(CASE.patchCount, count + 1, true);
    this.view.setUint32(at, offset, true);
    return this.bytes.subarray(at + 8, at + 24);
  }

  patchOffset(index: number): number {
    return this.view.getUint32(CASE.patches + index * PATCH_STRIDE, true);
  }

  patchBytes(index: number): Uint8Array {
    const at = CASE.patches + index * PATCH_STRIDE + 8;
    return this.bytes.subarray(at, at + 16);
  }
}

/** Ending state of one case: a window on a result record. */
export class ResultView {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(buffer: ArrayBufferLike, offset: number, length: number) {
    this.bytes = new Uint8Array(buffer, offset, length);
    this.view = new DataView(buffer, offset, length);
  }

  static of(batch: ResultBatch, index: number): ResultView {
    const start = batch.offsets[index];
    if (start === undefined) throw new Error(`no result ${index}`);
    const end = batch.offsets[index + 1] ?? batch.bytes.length;
    return new ResultView(batch.bytes.buffer, batch.bytes.byteOffset + start, end - start);
  }

  /** Exception vector; 3 when the instruction ended without a fault (the INT3 behind it was reached). */
  get vector(): number {
    return this.view.getUint32(RESULT.vector, true);
  }

  get errorCode(): number {
    return this.view.getUint32(RESULT.errorCode, true);
  }

  get cr2(): bigint {
    return this.view.getBigUint64(RESULT.cr2, true);
  }

  /** RIP as saved: behind the INT3 when that was reached, else at the faulting instruction. */
  get rip(): bigint {
    return this.view.getBigUint64(RESULT.rip, true);
  }

  get rflags(): number {
    return this.view.getUint32(RESULT.rflags, true);
  }

  gpr(index: number): bigint {
    return this.view.getBigUint64(RESULT.gpr + index * 8, true);
  }

  get dirtyStart(): number {
    return this.view.getUint32(RESULT.dirtyStart, true);
  }

  get dirtyEnd(): number {
    return this.view.getUint32(RESULT.dirtyEnd, true);
  }

  /** Changed bytes of the data window, dirtyStart to dirtyEnd. */
  get memory(): Uint8Array {
    return this.bytes.subarray(RESULT.memory, RESULT.memory + this.dirtyEnd - this.dirtyStart);
  }

  get fx(): Uint8Array {
    return this.bytes.subarray(RESULT.fxsave, RESULT.fxsave + FXSAVE_SIZE);
  }
}
