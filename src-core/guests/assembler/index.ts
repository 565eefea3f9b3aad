/** The assembler our own guests are written with. */
export { Assembler } from './assembler.ts';
export type { AssembledImage } from './assembler.ts';
export { AssemblyError, add, binary, constant, subtract, symbol, toExpression } from './expression.ts';
export type { Expression, Value } from './expression.ts';
export { multibootImage, reserveMultibootHeader } from './multiboot.ts';
export type { MultibootFormat } from './multiboot.ts';
export { far, mem, reg } from './operands.ts';
export type { Bits, Operand } from './operands.ts';
export { source } from './source.ts';
