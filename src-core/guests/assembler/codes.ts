/** Every encoding iced-x86 knows, indexed by the names a program may call it by. */
import {
  Code,
  EncodingKind,
  Instruction,
  MemorySizeExt,
  Mnemonic,
  OpCodeOperandKind as Kind,
} from '../../x86/iced.ts';
import type { OpCodeOperandKind } from '../../x86/iced.ts';
import type { Bits } from './operands.ts';

export interface CodeEntry {
  readonly code: Code;
  readonly operandKinds: readonly OpCodeOperandKind[];
  /** Bytes of the memory operand; 0 where the instruction does not say (lea, fxsave...). */
  readonly memoryBytes: number;
  /** Operand size in bits the encoding is fixed to, by prefix or by mode; 0 where it has none. */
  readonly operandSize: number;
  /** Whether the entry needs an operand written out at all: string instructions name theirs implicitly. */
  readonly implicitOperands: boolean;
  readonly modes: Readonly<Record<Bits, boolean>>;
}

const implicitKinds: ReadonlySet<OpCodeOperandKind> = new Set([
  Kind.seg_rSI,
  Kind.es_rDI,
  Kind.seg_rDI,
  Kind.seg_rBX_al,
]);

/** Names where an older and a newer spelling mean the same instruction (Intel SDM vol. 2, Jcc, SETcc...). */
const conditionSynonyms: readonly (readonly [string, string])[] = [
  ['z', 'e'],
  ['nz', 'ne'],
  ['c', 'b'],
  ['nc', 'ae'],
  ['nae', 'b'],
  ['nb', 'ae'],
  ['na', 'be'],
  ['nbe', 'a'],
  ['nge', 'l'],
  ['nl', 'ge'],
  ['ng', 'le'],
  ['nle', 'g'],
  ['pe', 'p'],
  ['po', 'np'],
];

const synonyms = new Map<string, string>([
  ['sal', 'shl'],
  ['loopz', 'loope'],
  ['loopnz', 'loopne'],
  ['icebp', 'int1'],
  ['ud2a', 'ud2'],
  ['xlat', 'xlatb'],
  ...conditionSynonyms.flatMap(([alias, name]): [string, string][] => [
    [`j${alias}`, `j${name}`],
    [`set${alias}`, `set${name}`],
    [`cmov${alias}`, `cmov${name}`],
  ]),
]);

/** Instructions whose plain name means the width of the code around it, as in every other assembler. */
const widthSuffix: Readonly<Record<Bits, string>> = { 16: 'w', 32: 'd', 64: 'q' };
const widthFamilies: ReadonlySet<string> = new Set(['iret', 'pushf', 'popf']);
const allRegisterFamilies: ReadonlySet<string> = new Set(['pusha', 'popa']);

/** The canonical name of a mnemonic in code of the given width. */
export function canonicalName(name: string, bits: Bits): string {
  const lower = name.toLowerCase();
  if (widthFamilies.has(lower) || (allRegisterFamilies.has(lower) && bits !== 64)) {
    return lower + widthSuffix[bits];
  }
  return synonyms.get(lower) ?? lower;
}

let index: ReadonlyMap<string, readonly CodeEntry[]> | undefined;

/**
 * The encodings under a name, in iced's order: a mnemonic (`mov`), the first part of a code's name where
 * that tells widths apart (`pushd`, `retfq`, `iretd`), or one exact code (`lgdt_m1632_16`).
 */
export function codesNamed(name: string): readonly CodeEntry[] {
  index ??= buildIndex();
  return index.get(name) ?? [];
}

function buildIndex(): Map<string, CodeEntry[]> {
  const byName = new Map<string, CodeEntry[]>();
  const append = (name: string, entry: CodeEntry): void => {
    const known = byName.get(name);
    if (known === undefined) byName.set(name, [entry]);
    else if (!known.includes(entry)) known.push(entry);
  };
  const instruction = new Instruction();
  try {
    for (const code of Object.values(Code)) {
      if (typeof code === 'string') continue;
      instruction.code = code;
      const info = instruction.opCode;
      try {
        if (!info.isInstruction || info.encoding !== EncodingKind.Legacy) continue;
        const codeName = Code[code].toLowerCase();
        const operandKinds = Array.from({ length: info.opCount }, (_, operand) => info.opKind(operand));
        const entry: CodeEntry = {
          code,
          operandKinds,
          memoryBytes: MemorySizeExt.size(info.memorySize),
          operandSize: info.operandSize,
          implicitOperands: operandKinds.some((kind) => implicitKinds.has(kind)),
          modes: { 16: info.mode16, 32: info.mode32, 64: info.mode64 },
        };
        append(codeName, entry);
        // Encodings of other makers' or withdrawn extensions, and reserved ones, only by their exact name.
        if (info.decoderOption !== 0 || info.isReservedNop) continue;
        append(Mnemonic[info.mnemonic].toLowerCase(), entry);
        append(codeName.split('_')[0] ?? codeName, entry);
      } finally {
        info.free();
      }
    }
  } finally {
    instruction.free();
  }
  return byName;
}
