import type { IrOp, Loc } from '../../../ir/op.ts';
import { controlKind } from '../translator/region.ts';
import { hex } from './numbers.ts';
import { stateName } from './state-names.ts';

const FLAGS = { none: '', read: 'reads flags', write: 'writes flags', readwrite: 'reads and writes flags' };

/**
 * One IR operation as text: "rax = addf.64 rax, rcx  ; writes flags". Registers go by their full names, whatever part
 * of them takes part: the operation's name says how many bits do. `base` is the linear address of the block's first
 * byte, which the targets of jumps count from.
 */
export function printIr(operation: IrOp, base: bigint): string {
  const { def } = operation;
  const operands = def.name === 'callout' ? calloutOperands(operation) : plainOperands(operation, base);
  const result = def.writes ? `${location(operation.dst)} = ` : '';
  const name = operation.callout ? `callout ${operation.callout.name}` : def.name;
  const text = `${result}${name}${operands.length > 0 ? ` ${operands.join(', ')}` : ''}`;
  const notes = [FLAGS[def.flags], def.leaves ? 'may leave' : ''].filter((note) => note !== '');
  return notes.length > 0 ? `${text}  ; ${notes.join(', ')}` : text;
}

function location(loc: Loc): string {
  return stateName(loc) ?? `[${hex(loc)}]`;
}

function plainOperands({ def, dst, a, b, imm, c, wide }: IrOp, base: bigint): string[] {
  const operands: string[] = [];
  if (def.reads.includes('d') && !def.writes) operands.push(location(dst));
  if (def.reads.includes('a')) operands.push(location(a));
  if (def.reads.includes('b')) operands.push(location(b));
  if (def.name === 'const64') return [...operands, hex(wide)];
  const [control] = controlKind(def);
  if (control !== undefined) {
    operands.push(`→ ${hex(BigInt.asUintN(64, base + BigInt(imm)))}`);
    if (control === 'branch') operands.push(`else ${hex(BigInt.asUintN(64, base + BigInt(c)))}`);
    return operands;
  }
  if (imm !== 0 || def.name.endsWith('i') || def.name.startsWith('const.')) operands.push(number(imm));
  if (c !== 0) operands.push(`c=${number(c)}`);
  return operands;
}

/** A callout's operands mean what it says; those that are not zero are shown. */
function calloutOperands({ dst, a, b, imm, c }: IrOp): string[] {
  const operands: string[] = [];
  if (dst !== 0) operands.push(`dst=${location(dst)}`);
  if (a !== 0) operands.push(`a=${location(a)}`);
  if (b !== 0) operands.push(`b=${location(b)}`);
  if (imm !== 0) operands.push(`imm=${number(imm)}`);
  if (c !== 0) operands.push(`c=${number(c)}`);
  return operands;
}

function number(value: number): string {
  if (Math.abs(value) < 10) return String(value);
  return value < 0 ? `-${hex(-value)}` : hex(value);
}
