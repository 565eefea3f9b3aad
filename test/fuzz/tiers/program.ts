/**
 * A random program: blocks of assembly text and the state they start in; and its form in memory.
 */
import { Decoder, DecoderOptions, Instruction } from 'iced-x86';
import { Assembler, AssemblyError, source } from '../../../src-core/guests/assembler/index.ts';
import type { Environment } from './environment.ts';
import { hasPaging, originsOf, prepare } from './environment.ts';
import { ALIAS_DELTA, CODE_SIZE, DATA, physicalOf, PHYSICAL, SELECTOR, WINDOW } from './layout.ts';

const PAGE = 0x1000;

/** Bytes of code that other code overwrites: `size` bytes, `back` before the label. */
export interface PatchSlot {
  readonly label: string;
  readonly back: number;
  readonly size: number;
  /** An immediate, which may become anything; or an opcode: a short conditional branch's, or arithmetic's. */
  readonly holds: 'immediate' | 'branch' | 'arithmetic';
}

/** A block: a label, and pieces of text of one or more instructions that can be left out one by one. */
export interface Block {
  readonly label: string;
  readonly pieces: readonly string[];
}

/** An interrupt line raised after so many more instructions. */
export interface Interruption {
  readonly after: number;
  /** 0..15, or LINE_NMI. */
  readonly line: number;
}

export interface Program {
  readonly environment: Environment;
  readonly seed: number;
  readonly number: number;
  /** Where in the code window the code starts. */
  readonly start: number;
  readonly blocks: readonly Block[];
  readonly slots: readonly PatchSlot[];
  /** RAX to R15; 32-bit code has the first eight. */
  readonly registers: readonly bigint[];
  readonly rflags: number;
  /** Stream of the seed that FPU, SSE state and the data pages are filled from; undefined leaves them plain. */
  readonly fill: number | undefined;
  /** Loops go round so many times as often as the dozen they do otherwise. */
  readonly loops: number;
  /** Instructions after which it is stopped. */
  readonly budget: number;
  readonly interruptions: readonly Interruption[];
}

/** A program as bytes. */
export interface ProgramImage {
  readonly code: Uint8Array;
  /** Offset in the code window. */
  readonly start: number;
  readonly entry: bigint;
  /** Physical addresses of the immediates a device may overwrite. */
  readonly dmaTargets: readonly number[];
  /** For reports: the instructions' offsets in the code window. */
  readonly boundaries: readonly number[];
}

/** The program's text, labels that lost their place (a minimised program's) at the end. */
export function textOf({ blocks }: Program): string {
  const lines: string[] = [];
  const referred = new Set(
    blocks.flatMap(({ pieces }) =>
      [...pieces.join('\n').matchAll(/\b([BVLF]\d+)\b/g)].map((match) => match[1]),
    ),
  );
  for (const [index, { label, pieces }] of blocks.entries()) {
    if (index === 0 || referred.has(label)) lines.push(`${label}:`);
    lines.push(...pieces);
  }
  const text = lines.join('\n');
  const defined = new Set([...text.matchAll(/^\s*([A-Z]\d+):/gm)].map((match) => match[1]));
  const used = new Set([...text.matchAll(/\b([BPVLF]\d+)\b/g)].map((match) => match[1]));
  const lost = [...used].filter((name) => !defined.has(name));
  return lost.length === 0 ? text : `${text}\n${lost.map((name) => `dq 0\n${name}:`).join('\n')}\ndq 0`;
}

/** Assembles a program. Throws {@link AssemblyError}, also when it does not fit. */
export function imageOf(program: Program): ProgramImage {
  const { environment: env, start, slots } = program;
  const origins = originsOf(env);
  const assembler = new Assembler({ origin: origins.code + BigInt(start), bits: env.bits });
  assembler.equ('CODE', origins.code);
  assembler.equ('DATA', origins.data);
  assembler.equ('STACK', origins.stack);
  assembler.equ('ALIAS', ALIAS_DELTA);
  const selector = (name: string, value: number, window: number): void => {
    const segments = env.mode === 'real' || env.mode === 'v86';
    assembler.equ(name, segments ? window >> 4 : value | env.ring);
  };
  selector('CODESEL', SELECTOR.code, WINDOW.code);
  selector('OTHERSEL', SELECTOR.otherCode, WINDOW.code);
  selector('DATASEL', SELECTOR.data, WINDOW.data);
  selector('STACKSEL', SELECTOR.stack, WINDOW.stack);
  selector('FSSEL', SELECTOR.codeAsData, WINDOW.code);
  selector('GSSEL', SELECTOR.alias, WINDOW.alias);
  selector('ROSEL', SELECTOR.readOnly, WINDOW.data + 0x10);
  selector('NPSEL', SELECTOR.notPresent, WINDOW.data + 0x100);
  source(assembler, textOf(program));
  const { bytes, symbols } = assembler.assemble();
  if (start + bytes.length > CODE_SIZE) throw new AssemblyError(`${bytes.length} bytes of code do not fit`);
  const entry = symbols.get(program.blocks[0]?.label ?? '') ?? origins.code + BigInt(start);
  const dmaTargets: number[] = [];
  for (const { label, back, holds } of slots) {
    const address = symbols.get(label);
    if (holds !== 'immediate' || address === undefined) continue;
    const offset = Number(address - origins.code) - back;
    dmaTargets.push(physicalOf(WINDOW.code + offset, hasPaging(env)));
  }
  return { code: bytes, start, entry, dmaTargets, boundaries: sweep(bytes, env.bits, start) };
}

/** Where instructions start when the code is read from its first byte on. */
function sweep(code: Uint8Array, bits: number, start: number): number[] {
  const decoder = new Decoder(bits, code, DecoderOptions.None);
  const instruction = new Instruction();
  const boundaries: number[] = [];
  try {
    while (decoder.canDecode) {
      boundaries.push(start + decoder.position);
      decoder.decodeOut(instruction);
    }
  } finally {
    instruction.free();
    decoder.free();
  }
  return boundaries;
}

/** Writes environment, code and the table of what follows each instruction into RAM. */
export function load(ram: Uint8Array, program: Program, image: ProgramImage): void {
  const env = program.environment;
  const paging = hasPaging(env);
  ram.set(prepare(env).ram);
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  for (let page = 0; page < CODE_SIZE / PAGE; page++) {
    const from = Math.max(image.start, page * PAGE);
    const to = Math.min(image.start + image.code.length, (page + 1) * PAGE);
    if (from >= to) continue;
    const part = image.code.subarray(from - image.start, to - image.start);
    ram.set(part, physicalOf(WINDOW.code + from, paging));
    ram.set(part, PHYSICAL.codeVariants + from);
  }
  // The other versions of the code pages differ in their immediates.
  if (paging)
    for (const target of image.dmaTargets) {
      const page = [0, 1, 2].find(
        (index) => physicalOf(WINDOW.code + index * PAGE, true) === target - (target % PAGE),
      );
      if (page === undefined) continue;
      const at = PHYSICAL.codeVariants + page * PAGE + (target % PAGE);
      view.setUint8(at, view.getUint8(at) ^ 0x15);
    }
  const { recovery } = PHYSICAL;
  ram.fill(0xff, recovery, recovery + CODE_SIZE * 2);
  const end = image.start + image.code.length;
  image.boundaries.forEach((from, index) => {
    const next = image.boundaries[index + 1] ?? end;
    for (let at = from; at < next; at++) view.setUint16(recovery + at * 2, next < end ? next : 0xffff, true);
  });
  // What bounds loops: see the generator.
  const fuel = physicalOf(WINDOW.data + FUEL, paging);
  for (let index = 0; index < FUEL_COUNT; index++)
    view.setUint32(
      fuel + index * 4,
      2 + ((program.seed + program.number * 7 + index * 5) % 11) * program.loops,
      true,
    );
}

/** Offset in the data window of the loop counters, and how many there are. */
export const FUEL = DATA.plain + 0x40;
export const FUEL_COUNT = 64;
