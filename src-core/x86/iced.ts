import { createRequire } from 'node:module';
import type * as Iced from 'iced-x86';

/*
 * What the core uses of iced-x86. It is CommonJS: imported as a module, its source (2 MB in memory) would be kept twice in
 * every VM process.
 */
const iced = createRequire(import.meta.url)('iced-x86') as typeof Iced;

export const Code = iced.Code;
export type Code = Iced.Code;
export const Decoder = iced.Decoder;
export type Decoder = Iced.Decoder;
export const DecoderError = iced.DecoderError;
export type DecoderError = Iced.DecoderError;
export const DecoderOptions = iced.DecoderOptions;
export type DecoderOptions = Iced.DecoderOptions;
export const Encoder = iced.Encoder;
export type Encoder = Iced.Encoder;
export const EncodingKind = iced.EncodingKind;
export type EncodingKind = Iced.EncodingKind;
export const Formatter = iced.Formatter;
export type Formatter = Iced.Formatter;
export const FormatterSyntax = iced.FormatterSyntax;
export type FormatterSyntax = Iced.FormatterSyntax;
export const Instruction = iced.Instruction;
export type Instruction = Iced.Instruction;
export const InstructionInfoFactory = iced.InstructionInfoFactory;
export type InstructionInfoFactory = Iced.InstructionInfoFactory;
export const MemorySize = iced.MemorySize;
export type MemorySize = Iced.MemorySize;
export const MemorySizeExt = iced.MemorySizeExt;
export type MemorySizeExt = Iced.MemorySizeExt;
export const Mnemonic = iced.Mnemonic;
export type Mnemonic = Iced.Mnemonic;
export const OpAccess = iced.OpAccess;
export type OpAccess = Iced.OpAccess;
export const OpCodeOperandKind = iced.OpCodeOperandKind;
export type OpCodeOperandKind = Iced.OpCodeOperandKind;
export const OpKind = iced.OpKind;
export type OpKind = Iced.OpKind;
export const Register = iced.Register;
export type Register = Iced.Register;
