import { Code, Decoder, DecoderError, DecoderOptions, Instruction } from './iced.ts';
import type { CodeSize } from './mode.ts';

/** The longest x86 instruction, bytes; longer ones raise #GP(0) (Intel SDM volume 2, section 2.3.11). */
export const INSTRUCTION_BYTES_MAX = 15;

/** What decoding at a place gave. */
export type Decoded =
  | { kind: 'instruction'; instruction: Instruction; length: number }
  /** The bytes end in the middle of the instruction. */
  | { kind: 'truncated' }
  /** No such instruction: #UD; or longer than 15 bytes: #GP(0). */
  | { kind: 'invalid'; tooLong: boolean; length: number };

/** TZCNT and LZCNT are not offered by CPUID: their encodings are BSF and BSR with a prefix that says nothing. */
const OPTIONS = DecoderOptions.NoMPFX_0FBC | DecoderOptions.NoMPFX_0FBD;

/** Decodes the instructions of one block, front to back. The "IP" of the first byte is 0. */
export class BlockDecoder {
  readonly #decoder: Decoder;
  readonly #bytes: Uint8Array;
  readonly #codeBits: CodeSize;
  /** One object for all: each decode overwrites it. */
  readonly #instruction = new Instruction();

  constructor(bytes: Uint8Array, codeBits: CodeSize) {
    this.#bytes = bytes;
    this.#codeBits = codeBits;
    this.#decoder = new Decoder(codeBits, bytes, OPTIONS);
    this.#decoder.ip = 0n;
  }

  /** Bytes decoded so far. */
  get position(): number {
    return this.#decoder.position;
  }

  next(): Decoded {
    const start = this.#decoder.position;
    this.#decoder.decodeOut(this.#instruction);
    const length = this.#decoder.position - start;
    switch (this.#decoder.lastError) {
      case DecoderError.None:
        if (this.#instruction.code === Code.Pause) this.#correctPause(start, length);
        return { kind: 'instruction', instruction: this.#instruction, length };
      case DecoderError.NoMoreBytes:
        return { kind: 'truncated' };
      default: {
        const tooLong = this.#prefixesFillInstruction(start);
        return { kind: 'invalid', tooLong, length };
      }
    }
  }

  /** F3 90 is PAUSE, but with REX.B it is still XCHG with R8 (as processors have it; iced-x86 says PAUSE). */
  #correctPause(start: number, length: number): void {
    const rex = length >= 2 ? this.#bytes[start + length - 2]! : 0;
    if (this.#codeBits !== 64 || (rex & 0xf1) !== 0x41) return;
    const plain = this.#bytes.slice(start, start + length).filter((byte) => byte !== 0xf3);
    const decoder = new Decoder(64, plain, OPTIONS);
    decoder.decodeOut(this.#instruction);
    decoder.free();
  }

  /** True when the first 15 bytes are all prefixes: the instruction is too long, whatever follows. */
  #prefixesFillInstruction(start: number): boolean {
    for (let i = 0; i < INSTRUCTION_BYTES_MAX; i++) {
      const byte = this.#bytes[start + i];
      if (byte === undefined || !PREFIXES.has(byte)) return false;
    }
    return true;
  }

  /** Frees the decoder's memory in iced's own wasm instance. */
  free(): void {
    this.#instruction.free();
    this.#decoder.free();
  }
}

const PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

/** Whether a byte is a legacy prefix. */
export function isPrefix(byte: number): boolean {
  return PREFIXES.has(byte);
}
