/**
 * Assembly text in Intel's syntax for {@link Assembler}: the same statements, written the way people read
 * them. One statement a line; `;` starts a comment.
 *
 *     again:  mov eax, [ebx+ecx*4+table]
 *             jnz again
 *             dd 1, 2, again+4
 */
import { Assembler } from './assembler.ts';
import { AssemblyError, binary, constant, subtract, symbol } from './expression.ts';
import type { BinaryOperator, Expression, Value } from './expression.ts';
import { far, mem, registerNamed } from './operands.ts';
import type { Bits, MemoryOptions, Operand, RegisterOperand } from './operands.ts';

const sizeKeywords = new Map<string, number>([
  ['byte', 1],
  ['word', 2],
  ['dword', 4],
  ['fword', 6],
  ['qword', 8],
  ['tword', 10],
  ['oword', 16],
]);

const prefixWords: ReadonlySet<string> = new Set([
  'rep',
  'repe',
  'repz',
  'repne',
  'repnz',
  'lock',
  'a16',
  'a32',
  'a64',
  'o16',
  'o32',
  'o64',
  'short',
  'near',
  'es',
  'cs',
  'ss',
  'ds',
  'fs',
  'gs',
]);

/** Assembles every line of `text` into `assembler`. Errors name the line. */
export function source(assembler: Assembler, text: string): void {
  for (const line of text.split('\n')) {
    try {
      statement(assembler, stripComment(line).trim());
    } catch (error) {
      if (!(error instanceof AssemblyError)) throw error;
      throw new AssemblyError(`in '${line.trim()}': ${error.message}`, { cause: error });
    }
  }
}

function stripComment(line: string): string {
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const character = line.charAt(at);
    if (quote !== '') {
      if (character === quote) quote = '';
    } else if (character === "'" || character === '"') quote = character;
    else if (character === ';') return line.slice(0, at);
  }
  return line;
}

function statement(assembler: Assembler, line: string): void {
  let rest = line;
  for (;;) {
    const label = /^([A-Za-z_.$][\w.$]*):(?!:)\s*/.exec(rest);
    if (label === null || label[1] === undefined || registerNamed(label[1]) !== undefined) break;
    assembler.label(label[1]);
    rest = rest.slice(label[0].length);
  }
  if (rest === '') return;
  const equate = /^([A-Za-z_.$][\w.$]*)\s+equ\s+(.*)$/i.exec(rest);
  if (equate?.[1] !== undefined && equate[2] !== undefined) {
    assembler.equ(equate[1], new Parser(equate[2]).wholeExpression());
    return;
  }
  const words: string[] = [];
  for (;;) {
    const word = /^[A-Za-z]\w*/.exec(rest)?.[0];
    if (word === undefined) break;
    words.push(word.toLowerCase());
    rest = rest.slice(word.length).trim();
    const following = /^[A-Za-z]\w*/.exec(rest)?.[0]?.toLowerCase();
    const afterBranch = following === 'short' || following === 'near';
    if (afterBranch) continue;
    if (!prefixWords.has(words.at(-1) ?? '') || (words.length > 1 && isBranchSize(words.at(-1)))) break;
  }
  const [first] = words;
  if (first === undefined) throw new AssemblyError('no statement');
  if (words.length === 1 && directive(assembler, first, rest)) return;
  assembler.emit(words.join(' '), ...splitOperands(rest).map((operand) => new Parser(operand).operand()));
}

function isBranchSize(word: string | undefined): boolean {
  return word === 'short' || word === 'near';
}

function directive(assembler: Assembler, name: string, rest: string): boolean {
  switch (name) {
    case 'db':
      for (const item of splitOperands(rest)) {
        const quoted = /^"(.*)"$/.exec(item)?.[1] ?? /^'(.{2,})'$/.exec(item)?.[1];
        if (quoted !== undefined) assembler.ascii(quoted);
        else assembler.db(new Parser(item).wholeExpression());
      }
      return true;
    case 'dw':
      assembler.dw(...expressions(rest));
      return true;
    case 'dd':
      assembler.dd(...expressions(rest));
      return true;
    case 'dq':
      assembler.dq(...expressions(rest));
      return true;
    case 'bits':
      assembler.bits(bitsOf(rest));
      return true;
    case 'align':
      assembler.align(Number(constantOf(rest)));
      return true;
    case 'org':
      assembler.org(constantOf(rest));
      return true;
    case 'phase':
      assembler.phase(constantOf(rest));
      return true;
    case 'dephase':
      assembler.dephase();
      return true;
    case 'space':
      assembler.space(Number(constantOf(rest)));
      return true;
    default:
      return false;
  }
}

function bitsOf(text: string): Bits {
  const value = Number(constantOf(text));
  if (value !== 16 && value !== 32 && value !== 64) throw new AssemblyError(`bits ${text}: 16, 32 or 64`);
  return value;
}

function constantOf(text: string): bigint {
  const value = new Parser(text).wholeExpression().constant;
  if (value === undefined) throw new AssemblyError(`'${text}' must be a constant`);
  return value;
}

function expressions(text: string): Value[] {
  return splitOperands(text).map((item) => new Parser(item).wholeExpression());
}

function splitOperands(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let quote = '';
  let from = 0;
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at);
    if (quote !== '') {
      if (character === quote) quote = '';
    } else if (character === "'" || character === '"') quote = character;
    else if (character === '[' || character === '(') depth++;
    else if (character === ']' || character === ')') depth--;
    else if (character === ',' && depth === 0) {
      parts.push(text.slice(from, at).trim());
      from = at + 1;
    }
  }
  if (text.slice(from).trim() !== '') parts.push(text.slice(from).trim());
  return parts;
}

interface Token {
  readonly kind: 'number' | 'name' | 'operator';
  readonly text: string;
  readonly value: bigint;
}

const precedence: readonly (readonly BinaryOperator[])[] = [
  ['|'],
  ['^'],
  ['&'],
  ['<<', '>>'],
  ['+', '-'],
  ['*', '/'],
];

class Parser {
  readonly #tokens: Token[] = [];
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    const pattern =
      /\s*(?:(0x[\da-f_]+|0b[01_]+|\d[\d_]*)|([a-z_.$][\w.$]*)|'([^'])'|(<<|>>|[-+*/&|^~()[\]:]))/iy;
    while (pattern.lastIndex < text.length) {
      const match = pattern.exec(text);
      if (match === null) throw new AssemblyError(`cannot read '${text}'`);
      const [, number, name, character, operator] = match;
      if (number !== undefined) {
        this.#tokens.push({ kind: 'number', text: number, value: BigInt(number.replaceAll('_', '')) });
      } else if (character !== undefined) {
        const value = BigInt(character.charCodeAt(0));
        this.#tokens.push({ kind: 'number', text: character, value });
      } else if (name !== undefined) this.#tokens.push({ kind: 'name', text: name, value: 0n });
      else this.#tokens.push({ kind: 'operator', text: operator ?? '', value: 0n });
    }
  }

  wholeExpression(): Expression {
    const value = this.#expression(0);
    this.#end();
    return value;
  }

  operand(): Operand {
    let size: number | undefined;
    let isFar = false;
    for (;;) {
      const word = this.#peekName();
      if (word === undefined) break;
      if (sizeKeywords.has(word)) size = sizeKeywords.get(word);
      else if (word === 'far') isFar = true;
      else break;
      this.#at++;
    }
    const token = this.#tokens[this.#at];
    if (token?.text === '[') return this.#memory(size);
    const register = token?.kind === 'name' ? registerNamed(token.text) : undefined;
    if (register !== undefined) {
      this.#at++;
      this.#end();
      return register;
    }
    const value = this.#expression(0);
    if (this.#tokens[this.#at]?.text === ':') {
      this.#at++;
      const offset = this.#expression(0);
      this.#end();
      return far(value, offset);
    }
    if (isFar) throw new AssemblyError(`'${this.#text}': a far pointer is selector:offset`);
    this.#end();
    return value;
  }

  #memory(size: number | undefined): Operand {
    this.#at++;
    let segment: RegisterOperand | undefined;
    const first = this.#tokens[this.#at];
    if (first?.kind === 'name' && this.#tokens[this.#at + 1]?.text === ':') {
      segment = registerNamed(first.text);
      if (segment?.class !== 'segment') throw new AssemblyError(`'${first.text}' is not a segment register`);
      this.#at += 2;
    }
    let wide = false;
    let addressBits: Bits | undefined;
    for (;;) {
      const word = this.#peekName();
      if (word === 'wide') wide = true;
      else if (word === 'a16' || word === 'a32' || word === 'a64') {
        addressBits = word === 'a16' ? 16 : word === 'a32' ? 32 : 64;
      } else break;
      this.#at++;
    }
    let base: RegisterOperand | undefined;
    let index: RegisterOperand | undefined;
    let scale: 1 | 2 | 4 | 8 = 1;
    let disp: Expression = constant(0);
    let sign: '+' | '-' = '+';
    while (this.#tokens[this.#at]?.text !== ']') {
      const token = this.#tokens[this.#at];
      if (token === undefined) throw new AssemblyError(`'${this.#text}': ']' is missing`);
      const register = token.kind === 'name' ? registerNamed(token.text) : undefined;
      if (register !== undefined) {
        if (sign === '-') throw new AssemblyError(`'${this.#text}': a register cannot be subtracted`);
        this.#at++;
        if (this.#tokens[this.#at]?.text === '*') {
          scale = scaleOf(this.#tokens[this.#at + 1]?.value);
          this.#at += 2;
          index = register;
        } else if (base === undefined) base = register;
        else if (index === undefined) index = register;
        else throw new AssemblyError(`'${this.#text}': three registers in an address`);
      } else {
        const term = this.#expression(5);
        disp = sign === '+' ? binary('+', disp, term) : subtract(disp, term);
      }
      const next = this.#tokens[this.#at]?.text;
      if (next === '+' || next === '-') {
        sign = next;
        this.#at++;
      } else if (next !== ']') throw new AssemblyError(`'${this.#text}': cannot read the address`);
    }
    this.#at++;
    this.#end();
    const options: MemoryOptions = {
      disp,
      scale,
      wide,
      ...(index !== undefined && { index }),
      ...(size !== undefined && { size }),
      ...(segment !== undefined && { seg: segment }),
      ...(addressBits !== undefined && { addressBits }),
    };
    return base === undefined ? mem(options) : mem(base, options);
  }

  #expression(level: number): Expression {
    const operators = precedence[level];
    if (operators === undefined) return this.#unary();
    let left = this.#expression(level + 1);
    for (;;) {
      const operator = operators.find((candidate) => candidate === this.#tokens[this.#at]?.text);
      if (operator === undefined) return left;
      this.#at++;
      left = binary(operator, left, this.#expression(level + 1));
    }
  }

  #unary(): Expression {
    const token = this.#tokens[this.#at++];
    if (token === undefined) throw new AssemblyError(`'${this.#text}': a value is missing`);
    if (token.text === '-' && token.kind === 'operator') return subtract(0, this.#unary());
    if (token.text === '~') return subtract(-1, this.#unary());
    if (token.text === '(' && token.kind === 'operator') {
      const inner = this.#expression(0);
      if (this.#tokens[this.#at++]?.text !== ')') throw new AssemblyError(`'${this.#text}': ')' is missing`);
      return inner;
    }
    if (token.kind === 'number') return constant(token.value);
    if (token.kind === 'name') return symbol(token.text);
    throw new AssemblyError(`'${this.#text}': a value is missing before '${token.text}'`);
  }

  #peekName(): string | undefined {
    const token = this.#tokens[this.#at];
    return token?.kind === 'name' ? token.text.toLowerCase() : undefined;
  }

  #end(): void {
    const token = this.#tokens[this.#at];
    if (token !== undefined) throw new AssemblyError(`'${this.#text}': '${token.text}' is too much`);
  }
}

function scaleOf(value: bigint | undefined): 1 | 2 | 4 | 8 {
  if (value === 1n) return 1;
  if (value === 2n) return 2;
  if (value === 4n) return 4;
  if (value === 8n) return 8;
  throw new AssemblyError(`an index is scaled by 1, 2, 4 or 8, not ${value ?? 'nothing'}`);
}
