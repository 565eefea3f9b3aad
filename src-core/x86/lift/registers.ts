import { Register } from '../iced.ts';
import type { Bits, Loc } from '../../ir/op.ts';
import { CS, DS, ES, FS, GPR, GS, SS, XMM } from '../layout.ts';

/** Where a register stands in the vCPU state, and how wide it is. */
export interface RegisterPlace {
  loc: Loc;
  bits: Bits;
}

const places = new Map<number, RegisterPlace>();

function run(first: Register, count: number, bits: Bits, loc: (n: number) => Loc): void {
  for (let n = 0; n < count; n++) places.set(first + n, { loc: loc(n), bits });
}

// iced numbers registers of a size in encoding order; AH..BH stand between BL and SPL.
run(Register.AL, 4, 8, (n) => GPR + n * 8);
run(Register.AH, 4, 8, (n) => GPR + n * 8 + 1);
run(Register.SPL, 4, 8, (n) => GPR + (4 + n) * 8);
run(Register.R8L, 8, 8, (n) => GPR + (8 + n) * 8);
run(Register.AX, 16, 16, (n) => GPR + n * 8);
run(Register.EAX, 16, 32, (n) => GPR + n * 8);
run(Register.RAX, 16, 64, (n) => GPR + n * 8);

/** Place of a general register; an error for any other. */
export function generalRegister(register: Register): RegisterPlace {
  const place = places.get(register);
  if (!place) throw new Error(`register ${Register[register]} is no general register`);
  return place;
}

export function isGeneralRegister(register: Register): boolean {
  return places.has(register);
}

const segments = new Map<Register, Loc>([
  [Register.ES, ES],
  [Register.CS, CS],
  [Register.SS, SS],
  [Register.DS, DS],
  [Register.FS, FS],
  [Register.GS, GS],
]);

/** Location of a segment register; an error for any other. */
export function segmentRegister(register: Register): Loc {
  const loc = segments.get(register);
  if (loc === undefined) throw new Error(`register ${Register[register]} is no segment register`);
  return loc;
}

/** Location of XMM0..XMM15; an error for any other. */
export function xmmRegister(register: Register): Loc {
  const n = register - Register.XMM0;
  if (n < 0 || n > 15) throw new Error(`register ${Register[register]} is no XMM register`);
  return XMM + n * 16;
}
