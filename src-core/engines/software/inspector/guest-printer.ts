import { Decoder, DecoderError, DecoderOptions, Formatter, FormatterSyntax } from '../../../x86/iced.ts';
import type { CodeSize } from '../../../x86/mode.ts';

export interface GuestLine {
  /** Bytes from the start of the code. */
  offset: number;
  /** The instruction's bytes in hexadecimal. */
  bytes: string;
  text: string;
}

/** Disassembles guest code in Intel syntax. `linear` is the address of its first byte. */
export function printGuest(code: Uint8Array, codeBits: CodeSize, linear: bigint): GuestLine[] {
  // A copy: iced-x86 takes no shared memory.
  const bytes = Uint8Array.from(code);
  const decoder = new Decoder(codeBits, bytes, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Intel);
  formatter.hexPrefix = '0x';
  formatter.hexSuffix = '';
  formatter.uppercaseHex = false;
  formatter.branchLeadingZeros = false;
  try {
    decoder.ip = linear;
    const lines: GuestLine[] = [];
    while (decoder.canDecode) {
      const offset = decoder.position;
      const instruction = decoder.decode();
      const valid = decoder.lastError === DecoderError.None;
      const text = valid ? formatter.format(instruction) : '(no instruction)';
      instruction.free();
      lines.push({
        offset,
        bytes: Buffer.from(bytes.subarray(offset, decoder.position)).toString('hex'),
        text,
      });
    }
    return lines;
  } finally {
    formatter.free();
    decoder.free();
  }
}
