/** The operands of an instruction as the builder takes them. */
import { Register } from '../../x86/iced.ts';
import { toExpression } from './expression.ts';
import type { Expression, Value } from './expression.ts';

/** 16-, 32- or 64-bit code (Intel SDM vol. 1, 3.1 and 3.3). */
export type Bits = 16 | 32 | 64;

/** What a register is, as far as choosing an encoding needs to know. */
export type RegisterClass =
  | 'gpr8'
  | 'gpr16'
  | 'gpr32'
  | 'gpr64'
  | 'segment'
  | 'control'
  | 'debug'
  | 'st'
  | 'mm'
  | 'xmm'
  | 'instruction-pointer';

export interface RegisterOperand {
  readonly kind: 'register';
  readonly name: string;
  readonly register: Register;
  readonly class: RegisterClass;
}

export interface MemoryReference {
  readonly kind: 'memory';
  readonly base: RegisterOperand | undefined;
  readonly index: RegisterOperand | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  readonly displacement: Expression;
  /** Size of the datum in bytes; undefined where the instruction alone decides it. */
  readonly size: number | undefined;
  readonly segment: RegisterOperand | undefined;
  /** Address size in bits for a reference without registers; otherwise the registers decide. */
  readonly addressBits: Bits | undefined;
  /** Encode the displacement in full even where one byte would do. */
  readonly wide: boolean;
}

/** A far pointer, selector and offset, in the instruction itself. */
export interface FarPointer {
  readonly kind: 'far';
  readonly selector: Expression;
  readonly offset: Expression;
}

export type Operand = RegisterOperand | MemoryReference | FarPointer | Value;

const lowBytes = ['al', 'cl', 'dl', 'bl', 'ah', 'ch', 'dh', 'bh', 'spl', 'bpl', 'sil', 'dil'] as const;
const words = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const;
const segments = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
const extended = ['8', '9', '10', '11', '12', '13', '14', '15'] as const;
const debugNumbers = ['0', '1', '2', '3', '4', '5', '6', '7'] as const;
const controlNumbers = ['0', '2', '3', '4', '8'] as const;
type Eight = (typeof debugNumbers)[number];

/** The name of a register in Intel's syntax; the low bytes of r8 to r15 are `r8b` and so on. */
export type RegisterName =
  | (typeof lowBytes)[number]
  | (typeof words)[number]
  | `e${(typeof words)[number]}`
  | `r${(typeof words)[number]}`
  | `r${(typeof extended)[number]}${'' | 'b' | 'w' | 'd'}`
  | (typeof segments)[number]
  | `cr${(typeof controlNumbers)[number]}`
  | `dr${Eight}`
  | `st${Eight}`
  | `mm${Eight}`
  | `xmm${Eight | (typeof extended)[number]}`
  | 'rip';

const table = new Map<string, RegisterOperand>();

function define(name: string, registerClass: RegisterClass, icedName = name.toUpperCase()): void {
  const register = (Register as unknown as Record<string, Register | undefined>)[icedName];
  if (register === undefined) throw new Error(`iced-x86 has no register ${icedName}`);
  table.set(name, { kind: 'register', name, register, class: registerClass });
}

for (const name of lowBytes) define(name, 'gpr8');
for (const name of words) {
  define(name, 'gpr16');
  define(`e${name}`, 'gpr32');
  define(`r${name}`, 'gpr64');
}
for (const number of extended) {
  define(`r${number}b`, 'gpr8', `R${number}L`);
  define(`r${number}w`, 'gpr16');
  define(`r${number}d`, 'gpr32');
  define(`r${number}`, 'gpr64');
  define(`xmm${number}`, 'xmm');
}
for (const name of segments) define(name, 'segment');
for (const number of controlNumbers) define(`cr${number}`, 'control');
for (const number of debugNumbers) {
  define(`dr${number}`, 'debug');
  define(`st${number}`, 'st');
  define(`mm${number}`, 'mm');
  define(`xmm${number}`, 'xmm');
}
define('rip', 'instruction-pointer');

/** Every register by its lower-case name. */
export const reg = Object.freeze(Object.fromEntries(table)) as Readonly<
  Record<RegisterName, RegisterOperand>
>;

/** The register a name means, if it means one. */
export function registerNamed(name: string): RegisterOperand | undefined {
  return table.get(name.toLowerCase());
}

export interface MemoryOptions {
  readonly index?: RegisterOperand;
  readonly scale?: 1 | 2 | 4 | 8;
  /** Displacement, or the address itself where there is no register. With `rip`, the target address. */
  readonly disp?: Value;
  /** Size of the datum in bytes (1, 2, 4, 6, 8, 10, 16...), needed where no register shows it. */
  readonly size?: number;
  readonly seg?: RegisterOperand;
  readonly addressBits?: Bits;
  readonly wide?: boolean;
}

/** A memory operand: `mem(reg.ebx, { index: reg.ecx, scale: 4, disp: 8, size: 4 })`, or `mem({ disp })`. */
export function mem(base: RegisterOperand | MemoryOptions, options: MemoryOptions = {}): MemoryReference {
  const hasBase = 'kind' in base;
  const use = hasBase ? options : base;
  return {
    kind: 'memory',
    base: hasBase ? base : undefined,
    index: use.index,
    scale: use.scale ?? 1,
    displacement: toExpression(use.disp ?? 0),
    size: use.size,
    segment: use.seg,
    addressBits: use.addressBits,
    wide: use.wide ?? false,
  };
}

/** A far pointer for `jmp` and `call`. */
export function far(selector: Value, offset: Value): FarPointer {
  return { kind: 'far', selector: toExpression(selector), offset: toExpression(offset) };
}

/** An operand as a person would write it, for messages. */
export function describeOperand(operand: Operand): string {
  if (typeof operand !== 'object') return operand.toString();
  switch (operand.kind) {
    case 'register':
      return operand.name;
    case 'expression':
      return operand.text;
    case 'far':
      return `${operand.selector.text}:${operand.offset.text}`;
    case 'memory': {
      const parts = [operand.base?.name, operand.index && `${operand.index.name}*${operand.scale}`];
      if (operand.displacement.constant !== 0n) parts.push(operand.displacement.text);
      const inner = parts.filter((part) => part !== undefined).join('+') || '0';
      const size = operand.size === undefined ? '' : `${operand.size * 8}-bit `;
      return `${size}[${operand.segment ? `${operand.segment.name}:` : ''}${inner}]`;
    }
  }
}
