/**
 * Operand values worth trying: boundaries, patterns and plain random ones, for integers, IEEE formats, the x87's
 * 80-bit format with its unsupported encodings, and packed BCD.
 */
import { CODE_BASE, DATA_BASE, DATA_SIZE } from '../oracle/layout.ts';
import type { Random } from './random.ts';

/** A 64-bit integer as [low, high] halves. */
export type Halves = [number, number];

const POWERS = [7, 8, 15, 16, 31, 32, 63];

/** Writes an interesting 64-bit integer as two u32. */
export function integer(random: Random, out: Halves): void {
  const kind = random.below(16);
  const bits = random.u32();
  switch (kind) {
    case 0:
    case 1: {
      // Small, signed.
      const small = (bits << 24) >> 24;
      out[0] = small >>> 0;
      out[1] = small < 0 ? 0xffff_ffff : 0;
      break;
    }
    case 2: {
      // A power of two of an operand size, minus one, exact, or plus one, maybe negated.
      const power = POWERS[bits % POWERS.length] ?? 0;
      let value = (1n << BigInt(power)) + BigInt(((bits >>> 8) % 3) - 1);
      if ((bits & 0x1_0000) !== 0) value = -value;
      out[0] = Number(BigInt.asUintN(32, value));
      out[1] = Number(BigInt.asUintN(32, value >> 32n));
      break;
    }
    case 3:
      out[0] = bits;
      out[1] = 0;
      break;
    case 4:
      out[0] = bits & 0xffff;
      out[1] = 0;
      break;
    case 5:
      out[0] = (DATA_BASE + (bits % DATA_SIZE)) >>> 0;
      out[1] = 0;
      break;
    case 6: {
      // One byte repeated.
      out[0] = Math.imul(bits & 0xff, 0x0101_0101) >>> 0;
      out[1] = out[0];
      break;
    }
    case 7:
      out[0] = (bits & random.u32() & random.u32()) >>> 0;
      out[1] = (random.u32() & random.u32() & random.u32()) >>> 0;
      break;
    case 8:
      out[0] = (bits | random.u32() | random.u32()) >>> 0;
      out[1] = (random.u32() | random.u32() | random.u32()) >>> 0;
      break;
    case 9:
      // One bit, anywhere.
      out[0] = (bits & 32) === 0 ? (1 << (bits & 31)) >>> 0 : 0;
      out[1] = (bits & 32) === 0 ? 0 : (1 << (bits & 31)) >>> 0;
      break;
    case 10:
      // In the code page, short of where instructions are put.
      out[0] = (CODE_BASE + (bits & 0x6ff)) >>> 0;
      out[1] = 0;
      break;
    default:
      out[0] = bits;
      out[1] = random.u32();
  }
}

const FLOAT32 = [
  0x0000_0000, 0x8000_0000, 0x3f80_0000, 0xbf80_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffc0_0000,
  0x7f80_0001, 0xffbf_ffff, 0x7fff_ffff, 0x0000_0001, 0x8000_0001, 0x007f_ffff, 0x807f_ffff, 0x0080_0000,
  0x8080_0000, 0x7f7f_ffff, 0xff7f_ffff, 0x4f00_0000, 0xcf00_0000, 0x4eff_ffff, 0xcf00_0001, 0x5f00_0000,
  0xdf00_0000, 0x3f00_0000, 0x3fc0_0000, 0x4020_0000, 0x4b7f_ffff, 0x4b80_0000, 0x3f7f_ffff, 0x3f80_0001,
  0x0080_0001, 0x4000_0000, 0x4040_0000, 0x5f80_0000, 0x4f80_0000,
];

/** An interesting single-precision number, as bits. */
export function float32(random: Random): number {
  const bits = random.u32();
  const kind = random.below(10);
  if (kind < 4) return FLOAT32[bits % FLOAT32.length] ?? 0;
  if (kind < 7) {
    // Exponent near that of 1.0, so that sums and products meet.
    const exponent = 127 + (random.below(56) - 28);
    return ((bits & 0x807f_ffff) | (exponent << 23)) >>> 0;
  }
  if (kind === 7) return ((bits & 0x8070_0000) | ((118 + (bits & 15)) << 23)) >>> 0;
  if (kind === 8) return (bits & 0x80ff_ffff) >>> 0;
  return bits;
}

/** High halves of interesting double-precision numbers; the low half is 0 unless named. */
const FLOAT64: readonly Halves[] = [
  [0, 0],
  [0, 0x8000_0000],
  [0, 0x3ff0_0000],
  [0, 0xbff0_0000],
  [0, 0x7ff0_0000],
  [0, 0xfff0_0000],
  [0, 0x7ff8_0000],
  [0, 0xfff8_0000],
  [1, 0x7ff0_0000],
  [0xffff_ffff, 0xfff7_ffff],
  [0xffff_ffff, 0x7fff_ffff],
  [1, 0],
  [1, 0x8000_0000],
  [0xffff_ffff, 0x000f_ffff],
  [0xffff_ffff, 0x800f_ffff],
  [0, 0x0010_0000],
  [0, 0x8010_0000],
  [0xffff_ffff, 0x7fef_ffff],
  [0xffff_ffff, 0xffef_ffff],
  [0, 0x41e0_0000],
  [0, 0xc1e0_0000],
  [0xffc0_0000, 0x41df_ffff],
  [0xffe0_0000, 0x41df_ffff],
  [0x0010_0000, 0xc1e0_0000],
  [0x0020_0000, 0xc1e0_0000],
  [0, 0x43e0_0000],
  [0, 0xc3e0_0000],
  [0xffff_ffff, 0x43df_ffff],
  [1, 0xc3e0_0000],
  [0, 0x3fe0_0000],
  [0, 0x3ff8_0000],
  [0, 0x4004_0000],
  [0xffff_ffff, 0x3fef_ffff],
  [1, 0x3ff0_0000],
  [0, 0x47ef_ffff],
  [0xe000_0000, 0x47ef_ffff],
  [0xf000_0000, 0x47ef_ffff],
  [0, 0x3810_0000],
  [0, 0x36a0_0000],
  [0, 0x3690_0000],
  [1, 0x380f_ffff],
  [0, 0x4330_0000],
  [0, 0x4000_0000],
  [0, 0x40e0_0000],
  [0, 0x43f0_0000],
];

/** Writes an interesting double-precision number as two u32. */
export function float64(random: Random, out: Halves): void {
  const bits = random.u32();
  const kind = random.below(10);
  if (kind < 4) {
    const special = FLOAT64[bits % FLOAT64.length] ?? [0, 0];
    out[0] = special[0];
    out[1] = special[1];
    return;
  }
  const high = random.u32();
  out[0] = kind === 7 ? 0 : bits;
  out[1] = high;
  if (kind < 8) {
    const spread = kind < 6 ? 60 : 130;
    const exponent = 1023 + random.below(spread * 2) - spread;
    out[1] = ((high & (kind === 7 ? 0x800e_0000 : 0x800f_ffff)) | (exponent << 20)) >>> 0;
  } else if (kind === 8) {
    out[1] = (high & 0x801f_ffff) >>> 0;
  }
}

/** Writes an interesting 80-bit number (10 bytes, little endian). */
export function float80(random: Random, view: DataView, at: number): void {
  const kind = random.below(20);
  let low = random.u32();
  let high = random.u32();
  const sign = (random.u32() & 1) << 15;
  let exponent: number;
  if (kind < 6) {
    // Ordinary numbers around 1.0, often with few significant bits.
    exponent = 0x3fff + random.below(132) - 66;
    high |= 0x8000_0000;
    if (kind < 2) low = 0;
    if (kind === 0) high &= 0xff80_0000;
  } else if (kind < 8) {
    // Integers and halves near the ends of the integer formats.
    exponent = 0x3fff + random.pick([-1, 0, 1, 6, 14, 15, 30, 31, 32, 52, 53, 58, 59, 60, 62, 63, 64]);
    low = random.pick([0, 0, 1, 0xffff_ffff, 0x400, 0x800, low]);
    high = random.pick([0x8000_0000, 0x8000_0000, 0xffff_ffff, 0x8000_0001, 0xc000_0000, high | 0x8000_0000]);
  } else if (kind === 8 || kind === 9) {
    exponent = 0;
    low = high = 0;
  } else if (kind === 10) {
    exponent = 0x7fff;
    low = 0;
    high = 0x8000_0000;
  } else if (kind === 11) {
    // NaN: quiet or signalling.
    exponent = 0x7fff;
    high |= 0x8000_0000;
  } else if (kind === 12) {
    // Denormal or pseudo-denormal.
    exponent = 0;
    if (random.chance(0.5)) high = high >>> random.below(32);
  } else if (kind === 13) {
    // Unsupported: unnormal, pseudo-infinity, pseudo-NaN.
    exponent = random.chance(0.5) ? 0x7fff : random.below(0x7fff) + 1;
    high &= 0x7fff_ffff;
    if (random.chance(0.3)) low = high = 0;
  } else if (kind === 14) {
    // Near the range of the shorter formats, and of this one.
    exponent = random.pick([
      1, 2, 0x7ffe, 0x7ffd, 0x3f80, 0x3f81, 0x3f6a, 0x407e, 0x407f, 0x3c00, 0x3c01, 0x43fe, 0x43ff, 0x3bcd,
    ]);
    high |= 0x8000_0000;
    if (random.chance(0.4)) low = high = 0xffff_ffff;
  } else if (kind < 18) {
    exponent = 0x3fff + random.below(24) - 12;
    high |= 0x8000_0000;
    low = random.chance(0.5) ? 0 : low;
  } else {
    exponent = random.u32() & 0x7fff;
    high |= 0x8000_0000;
  }
  view.setUint32(at, low >>> 0, true);
  view.setUint32(at + 4, high >>> 0, true);
  view.setUint16(at + 8, exponent | sign, true);
}

/** Writes an interesting packed BCD number (10 bytes); now and then with digits above 9. */
export function bcd(random: Random, view: DataView, at: number): void {
  const wild = random.chance(0.15);
  const digits = random.below(19);
  for (let index = 0; index < 9; index++) {
    const bits = random.u32();
    let byte = wild ? bits & 0xff : (bits % 10) | (((bits >>> 8) % 10) << 4);
    if (index * 2 >= digits) byte = 0;
    view.setUint8(at + index, byte);
  }
  view.setUint8(at + 9, random.chance(0.5) ? 0x80 : wild ? random.u32() & 0xff : 0);
}

const scratch: Halves = [0, 0];

/** What kind of numbers an operand holds. */
export type ValueClass = 'integer' | 'float32' | 'float64' | 'float80' | 'bcd' | 'bytes';

/** Fills 16 bytes with values of a class. */
export function fill16(random: Random, valueClass: ValueClass, view: DataView, at: number): void {
  switch (valueClass) {
    case 'float32':
      for (let lane = 0; lane < 16; lane += 4) view.setUint32(at + lane, float32(random), true);
      break;
    case 'float80':
      float80(random, view, at);
      view.setUint32(at + 10, random.u32(), true);
      view.setUint16(at + 14, random.u32() & 0xffff, true);
      break;
    case 'bcd':
      bcd(random, view, at);
      view.setUint32(at + 10, random.u32(), true);
      view.setUint16(at + 14, random.u32() & 0xffff, true);
      break;
    case 'bytes':
      for (let lane = 0; lane < 16; lane++) {
        const bits = random.u32();
        // Extremes of bytes and words, small numbers, and zeros (which end the strings of SSE4.2).
        const byte =
          [0x00, 0x7f, 0x80, 0xff, 0x01, (bits >>> 8) & 0xff, (bits >>> 8) & 0xff, (bits >>> 8) & 7][
            bits & 7
          ] ?? 0;
        view.setUint8(at + lane, byte);
      }
      break;
    default:
      for (let lane = 0; lane < 16; lane += 8) {
        if (valueClass === 'float64') float64(random, scratch);
        else integer(random, scratch);
        view.setUint32(at + lane, scratch[0] >>> 0, true);
        view.setUint32(at + lane + 4, scratch[1] >>> 0, true);
      }
  }
}
