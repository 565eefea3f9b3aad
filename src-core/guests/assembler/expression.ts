/**
 * Expressions over symbols whose values are known only once the whole program has been laid out:
 * label addresses, differences of labels, and constants computed from them.
 */

/** Looks a symbol up; throws an {@link AssemblyError} when nothing defines it. */
export type SymbolResolver = (name: string) => bigint;

/** A fault in the program being assembled, told in the words of its author. */
export class AssemblyError extends Error {
  override readonly name = 'AssemblyError';
}

/** A value that may depend on symbols. */
export interface Expression {
  readonly kind: 'expression';
  /** The value where no symbol is involved; undefined where one is. */
  readonly constant: bigint | undefined;
  /** The source form, for messages. */
  readonly text: string;
  /** The value under a finished layout. */
  evaluate(resolve: SymbolResolver): bigint;
}

/** What every place that takes a value accepts: a number is exact only up to 2^53. */
export type Value = number | bigint | Expression;

/** A constant as an expression. */
export function constant(value: number | bigint): Expression {
  const exact = BigInt(value);
  return { kind: 'expression', constant: exact, text: exact.toString(), evaluate: () => exact };
}

/** The address of a label, or the value of an `equ` symbol, defined before or after this use. */
export function symbol(name: string): Expression {
  return { kind: 'expression', constant: undefined, text: name, evaluate: (resolve) => resolve(name) };
}

export function toExpression(value: Value): Expression {
  return typeof value === 'object' ? value : constant(value);
}

const binaryOperators = {
  '+': (a: bigint, b: bigint) => a + b,
  '-': (a: bigint, b: bigint) => a - b,
  '*': (a: bigint, b: bigint) => a * b,
  '/': (a: bigint, b: bigint) => a / b,
  '<<': (a: bigint, b: bigint) => a << b,
  '>>': (a: bigint, b: bigint) => a >> b,
  '&': (a: bigint, b: bigint) => a & b,
  '|': (a: bigint, b: bigint) => a | b,
  '^': (a: bigint, b: bigint) => a ^ b,
} as const;

export type BinaryOperator = keyof typeof binaryOperators;

/** Combines two values with unlimited precision; division truncates towards zero. */
export function binary(operator: BinaryOperator, left: Value, right: Value): Expression {
  const a = toExpression(left);
  const b = toExpression(right);
  const apply = binaryOperators[operator];
  const folded =
    a.constant !== undefined && b.constant !== undefined ? apply(a.constant, b.constant) : undefined;
  return {
    kind: 'expression',
    constant: folded,
    text: folded !== undefined ? folded.toString() : `(${a.text} ${operator} ${b.text})`,
    evaluate: (resolve) => folded ?? apply(a.evaluate(resolve), b.evaluate(resolve)),
  };
}

export const add = (left: Value, right: Value): Expression => binary('+', left, right);
export const subtract = (left: Value, right: Value): Expression => binary('-', left, right);
