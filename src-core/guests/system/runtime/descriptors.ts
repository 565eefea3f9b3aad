/** Segment and gate descriptors (Intel SDM vol. 3A, 3.4.5, 5.8.3, 6.11, 7.2) as data of the program. */
import { binary, toExpression } from '../../assembler/index.ts';
import type { Expression, Value } from '../../assembler/index.ts';

/** Types of code and data segments (SDM vol. 3A, table 3-1), the S bit not included. */
export const segmentTypes = {
  dataReadOnly: 0x0,
  data: 0x2,
  dataReadOnlyDown: 0x4,
  dataDown: 0x6,
  codeExecuteOnly: 0x8,
  code: 0xa,
  codeConforming: 0xe,
} as const;

/** Types of system segments and gates (SDM vol. 3A, table 3-2). */
export const systemTypes = {
  tss16: 0x1,
  ldt: 0x2,
  callGate16: 0x4,
  taskGate: 0x5,
  interruptGate16: 0x6,
  trapGate16: 0x7,
  tss: 0x9,
  tssBusy: 0xb,
  callGate: 0xc,
  interruptGate: 0xe,
  trapGate: 0xf,
} as const;

export interface SegmentOptions {
  readonly base?: Value;
  /** The raw 20-bit limit field. */
  readonly limit?: Value;
  readonly type: number;
  /** S bit: true (default) for code and data. */
  readonly codeOrData?: boolean;
  readonly dpl?: number;
  readonly present?: boolean;
  /** D/B bit, default true. */
  readonly big?: boolean;
  /** L bit. */
  readonly long?: boolean;
  /** G bit, default true. */
  readonly pages?: boolean;
}

const bitsOf = (value: Value, low: number, width: number): Expression =>
  binary('&', binary('>>', value, low), (1n << BigInt(width)) - 1n);
const join = (...parts: readonly Expression[]): Expression =>
  parts.reduce((sum, part) => binary('|', sum, part), toExpression(0));
const at = (value: Value, shift: number): Expression => binary('<<', value, shift);

/** The two doublewords of a segment descriptor. */
export function segmentDescriptor(options: SegmentOptions): [Expression, Expression] {
  const base = options.base ?? 0;
  const limit = options.limit ?? 0xfffff;
  const access =
    options.type |
    ((options.codeOrData ?? true) ? 0x10 : 0) |
    ((options.dpl ?? 0) << 5) |
    ((options.present ?? true) ? 0x80 : 0);
  const flags =
    (options.long ? 0x2 : 0) | ((options.big ?? true) ? 0x4 : 0) | ((options.pages ?? true) ? 0x8 : 0);
  return [
    join(bitsOf(limit, 0, 16), at(bitsOf(base, 0, 16), 16)),
    join(
      bitsOf(base, 16, 8),
      toExpression(access << 8),
      at(bitsOf(limit, 16, 4), 16),
      at(toExpression(flags), 20),
      at(bitsOf(base, 24, 8), 24),
    ),
  ];
}

/** A descriptor of a system segment: limit in bytes. */
export function systemDescriptor(
  type: number,
  base: Value,
  limit: Value,
  options: { readonly dpl?: number; readonly present?: boolean } = {},
): [Expression, Expression] {
  return segmentDescriptor({ ...options, base, limit, type, codeOrData: false, big: false, pages: false });
}

export interface GateOptions {
  readonly selector: Value;
  readonly offset?: Value;
  readonly type: number;
  readonly dpl?: number;
  readonly present?: boolean;
  /** Parameters a call gate copies; the IST index in a 64-bit interrupt gate. */
  readonly count?: number;
}

/** The two low doublewords of a gate. */
export function gateDescriptor(options: GateOptions): [Expression, Expression] {
  const offset = options.offset ?? 0;
  const access = options.type | ((options.dpl ?? 0) << 5) | ((options.present ?? true) ? 0x80 : 0);
  return [
    join(bitsOf(offset, 0, 16), at(bitsOf(options.selector, 0, 16), 16)),
    join(toExpression(options.count ?? 0), toExpression(access << 8), at(bitsOf(offset, 16, 16), 16)),
  ];
}

/** The four doublewords of a gate in 64-bit mode (SDM vol. 3A, 6.14.1). */
export function gateDescriptor64(options: GateOptions): Expression[] {
  return [...gateDescriptor(options), bitsOf(options.offset ?? 0, 32, 32), toExpression(0)];
}

/** The four doublewords of a system segment descriptor in 64-bit mode (SDM vol. 3A, 7.2.3). */
export function systemDescriptor64(
  type: number,
  base: Value,
  limit: Value,
  options: { readonly dpl?: number; readonly present?: boolean } = {},
): Expression[] {
  return [...systemDescriptor(type, base, limit, options), bitsOf(base, 32, 32), toExpression(0)];
}

/** A descriptor table filled in while the program is written and emitted at its end. */
export class DescriptorTable {
  readonly #entries: Expression[] = [];

  /** Appends a descriptor of two or four doublewords; its selector, with RPL 0 and TI 0. */
  add(descriptor: readonly Expression[]): number {
    const selector = this.#entries.length * 4;
    this.#entries.push(...descriptor);
    return selector;
  }

  get doublewords(): readonly Expression[] {
    return this.#entries;
  }

  /** The limit to load with LGDT or LLDT. */
  get limit(): number {
    return this.#entries.length * 4 - 1;
  }
}
