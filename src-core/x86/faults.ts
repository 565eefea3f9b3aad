/** Exception vectors (Intel SDM volume 3, section 6.3.1). */
export const VECTOR = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
} as const;

/** Vectors that push an error code (Intel SDM volume 3, table 6-1). */
export function pushesErrorCode(vector: number): boolean {
  return vector === 8 || (vector >= 10 && vector <= 14) || vector === 17;
}

/**
 * A fault of the guest's own, thrown by TypeScript code that executes a guest instruction and caught by the
 * engine, which delivers it with RIP at that instruction. For #PF, CR2 is written before it is thrown.
 */
export class GuestFault extends Error {
  readonly vector: number;
  /** Error code, 0 where the vector pushes none. */
  readonly errorCode: number;
  constructor(vector: number, errorCode = 0) {
    // Guests fault a million times in a session, and a stack trace costs three times what the rest does.
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super('guest fault');
    Error.stackTraceLimit = limit;
    this.vector = vector;
    this.errorCode = errorCode;
  }
}

export const gp = (errorCode = 0): GuestFault => new GuestFault(VECTOR.GP, errorCode);
export const ud = (): GuestFault => new GuestFault(VECTOR.UD);
