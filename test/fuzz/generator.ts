/**
 * Makes cases: an instruction and a machine state in which it does something worth comparing. Everything comes
 * from the seed and the case's number.
 */
import {
  Code,
  Decoder,
  DecoderOptions,
  FlowControl,
  Instruction,
  Mnemonic,
  OpKind,
  OpCodeOperandKind as Kind,
} from 'iced-x86';
import {
  CASE,
  CODE_BASE,
  CODE_SIZE,
  DATA16_BASE,
  DATA_BASE,
  DATA_SIZE,
  IMAGE_COUNT,
  SELECTOR_DATA,
  SELECTOR_DATA16,
  SELECTOR_EXECUTE_ONLY,
  SELECTOR_EXPAND_DOWN,
  SELECTOR_LIMITED,
  SELECTOR_READ_ONLY,
} from '../oracle/layout.ts';
import { CaseView, FX } from '../oracle/state.ts';
import type { Bitness } from '../oracle/state.ts';
import { encodeForm, SEGMENT } from './encode.ts';
import type { Address, Encoded } from './encode.ts';
import { formsOf } from './forms.ts';
import type { Form } from './forms.ts';
import { Random } from './random.ts';
import { exclusion } from './scope.ts';
import { fill16, float80, integer } from './values.ts';
import type { Halves, ValueClass } from './values.ts';

const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;

const FLAG_DF = 0x400;
const FLAG_AC = 0x4_0000;
/** CF PF AF ZF SF OF. */
const FLAGS_STATUS = 0x8d5;
const MASK64 = 0xffff_ffff_ffff_ffffn;

/** Selectors to load: usable ones, and one for every way to be refused. */
const SELECTORS = [
  0x33, 0x23, 0x2b, 0x33, 0x23, 0x2b, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x07, 0x0f, 0x17, 0x1f,
  // RPL below CPL; null; not present; beyond the LDT and the GDT; the kernel's; TSS and LDT; empty.
  0x20, 0x29, 0x32, 0x05, 0x0d, 0x00, 0x03, 0x37, 0x3f, 0x83, 0xffff, 0x08, 0x10, 0x1b, 0x40, 0x50, 0x63,
];
/** Code selectors more often than others. */
const CODE_SELECTORS = [0x33, 0x23, 0x07, 0x2f, 0x33, 0x23, 0x07, 0x2f, 0x33, 0x23, 0x07];
const SEGMENT_KINDS = new Set<Kind>([Kind.seg_reg, Kind.es, Kind.cs, Kind.ss, Kind.ds, Kind.fs, Kind.gs]);

/** Why a generated instruction is not run; counted, never silent. */
export type Rejection = string;

export interface GeneratorOptions {
  readonly seed: number;
  readonly bitness: Bitness;
  /** Only these forms; all of the code size when absent. */
  readonly forms?: readonly Form[];
  /** Share of cases that are random bytes, not forms (default 0.04). */
  readonly rawShare?: number;
}

/** The data window images every run starts from: random bytes, small numbers, floating-point numbers, text. */
export function makeImages(seed: number): Uint8Array {
  const random = new Random(seed, 0xffff_fff0);
  const images = new Uint8Array(IMAGE_COUNT * DATA_SIZE);
  const view = new DataView(images.buffer);
  const classes: readonly (ValueClass | 'random')[] = [
    'random',
    'random',
    'integer',
    'bytes',
    'float32',
    'float64',
    'float80',
    'bcd',
  ];
  for (let at = 0; at < images.length; at += 16) {
    const valueClass = classes[Math.floor(at / DATA_SIZE) % classes.length] ?? 'random';
    if (valueClass === 'random')
      for (let lane = 0; lane < 16; lane += 4) view.setUint32(at + lane, random.u32(), true);
    else fill16(random, valueClass, view, at);
  }
  return images;
}

const NEAR_BRANCHES = new Set<FlowControl>([
  FlowControl.UnconditionalBranch,
  FlowControl.IndirectBranch,
  FlowControl.ConditionalBranch,
  FlowControl.Return,
  FlowControl.Call,
  FlowControl.IndirectCall,
]);
const NEAR_TARGETS = new Set<OpKind>([OpKind.NearBranch16, OpKind.NearBranch32, OpKind.NearBranch64]);
const LEGACY_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

/** Far transfers share their flow control with near ones. */
function isFar(instruction: Instruction): boolean {
  const { isJmpFar, isJmpFarIndirect, isCallFar, isCallFarIndirect, flowControl, mnemonic } = instruction;
  const returnsFar = flowControl === FlowControl.Return && mnemonic !== Mnemonic.Ret;
  return isJmpFar || isJmpFarIndirect || isCallFar || isCallFarIndirect || returnsFar;
}

/** Whether 66 is among an instruction's legacy prefixes. */
function hasOperandSizePrefix(code: Uint8Array): boolean {
  for (const byte of code) {
    if (byte === 0x66) return true;
    // In 64-bit code a REX prefix before another prefix is ignored.
    if (!LEGACY_PREFIXES.has(byte) && (byte & 0xf0) !== 0x40) return false;
  }
  return false;
}

/** Fills case records. One generator serves one code size. */
export class Generator {
  readonly bitness: Bitness;
  readonly forms: readonly Form[];
  private readonly seed: number;
  private readonly rawShare: number;
  private readonly random = new Random(0);
  private readonly halves: Halves = [0, 0];
  private readonly instruction = new Instruction();

  constructor({ seed, bitness, forms, rawShare }: GeneratorOptions) {
    this.seed = seed;
    this.bitness = bitness;
    this.forms = forms ?? formsOf(bitness).forms;
    this.rawShare = rawShare ?? 0.04;
    if (this.forms.length === 0) throw new Error('no forms to generate');
  }

  /**
   * Fills a record with case number `number`.
   * @returns the code the instruction decodes to (INVALID included), or why it was rejected; a rejected record
   * holds a NOP.
   */
  generate(state: CaseView, number: number): Code | Rejection {
    const { random } = this;
    random.seed(this.seed ^ (this.bitness << 24), number);
    state.reset(this.bitness);
    this.fillRegisters(state);
    this.fillVector(state);
    this.fillX87(state);
    state.view.setUint32(CASE.image, random.below(IMAGE_COUNT), true);
    if (random.chance(this.rawShare)) this.makeRaw(state);
    else this.makeForm(state, this.formFor(number));
    const verdict = this.inspect(state);
    if (typeof verdict === 'string') state.setCode(Uint8Array.of(0x90), 0x800);
    return verdict;
  }

  /** The forms take turns, so that each gets its share of the cases. */
  private formFor(number: number): Form {
    const form = this.forms[number % this.forms.length];
    if (form === undefined) throw new Error('no forms to generate');
    return form;
  }

  private setGpr32(state: CaseView, index: number, low: number, high: number): void {
    state.view.setUint32(CASE.gpr + index * 8, low >>> 0, true);
    state.view.setUint32(CASE.gpr + index * 8 + 4, this.bitness === 64 ? high >>> 0 : 0, true);
  }

  private setGpr(state: CaseView, index: number, value: bigint): void {
    state.setGpr(index, this.bitness === 64 ? value & MASK64 : value & 0xffff_ffffn);
  }

  /** An offset in the data window, sometimes at its edges, leaving `room` bytes mostly inside. */
  private windowOffset(room: number, alignment: number): number {
    const { random } = this;
    const kind = random.below(40);
    const aligned = Math.max(1, alignment);
    if (kind < 22) return Math.floor(random.below(DATA_SIZE - room + 1) / aligned) * aligned;
    if (kind < 30) return random.below(DATA_SIZE - room + 1);
    // Across the two pages, out at the end, out at the start.
    if (kind < 35) return DATA_SIZE / 2 - random.below(room + 1);
    if (kind < 38) return DATA_SIZE - random.below(room + 1);
    return random.below(room + 1) - room;
  }

  /** Linear address of the window as an offset in a segment of this case. */
  private segmentBase(state: CaseView, segment: number): bigint {
    const { view } = state;
    if (this.bitness === 64) {
      if (segment === SEGMENT.fs) return view.getBigUint64(CASE.fsBase, true);
      if (segment === SEGMENT.gs) return view.getBigUint64(CASE.gsBase, true);
      return 0n;
    }
    if (segment === SEGMENT.cs) return state.codeBased ? BigInt(CODE_BASE) : 0n;
    const at = [CASE.es, 0, CASE.ss, CASE.ds, CASE.fs, CASE.gs][segment] ?? CASE.ds;
    switch (view.getUint16(at, true)) {
      case SELECTOR_DATA:
        return 0n;
      case SELECTOR_DATA16:
        return BigInt(DATA16_BASE);
      default:
        return BigInt(DATA_BASE);
    }
  }

  private fillRegisters(state: CaseView): void {
    const { random, halves, bitness } = this;
    const { view } = state;
    let flags = 0x202 | (random.u32() & FLAGS_STATUS);
    if (random.chance(0.12)) flags |= FLAG_DF;
    if (random.chance(0.02)) flags |= FLAG_AC;
    view.setUint32(CASE.rflags, flags, true);
    for (let index = 0; index < (bitness === 64 ? 16 : 8); index++) {
      integer(random, halves);
      this.setGpr32(state, index, halves[0], halves[1]);
    }
    if (bitness === 64) {
      view.setBigUint64(CASE.fsBase, this.chooseBase(), true);
      view.setBigUint64(CASE.gsBase, this.chooseBase(), true);
    } else if (random.chance(0.06)) {
      const at = random.pick([CASE.ds, CASE.es, CASE.ss]);
      const choices = [SELECTOR_LIMITED, SELECTOR_EXPAND_DOWN, SELECTOR_DATA, SELECTOR_DATA16];
      if (at !== CASE.ss) choices.push(SELECTOR_READ_ONLY, 0);
      view.setUint16(at, random.pick(choices), true);
    }
    // 32-bit code in a segment with a base and a limit, which can't be read.
    if (bitness === 32 && random.chance(0.08)) view.setUint16(CASE.entry + 4, SELECTOR_EXECUTE_ONLY, true);
    // The stack: room above and below, 8-byte aligned most of the time.
    const offset = this.windowOffset(64, random.chance(0.9) ? 8 : 1);
    const base = this.segmentBase(state, SEGMENT.ss);
    if (!random.chance(0.01))
      this.setGpr(state, RSP, BigInt(DATA_BASE + offset) - base + this.highGarbage(state));
  }

  /** With a 16-bit stack the upper half of ESP does not count: something must be there. */
  private highGarbage(state: CaseView): bigint {
    if (state.view.getUint16(CASE.ss, true) !== SELECTOR_DATA16 || this.random.chance(0.5)) return 0n;
    return BigInt(this.random.u32() & 0xffff) << 16n;
  }

  private chooseBase(): bigint {
    const { random } = this;
    switch (random.below(4)) {
      case 0:
        return 0n;
      case 1:
        return BigInt(random.below(0x1_0000));
      case 2:
        return BigInt(DATA_BASE + random.below(DATA_SIZE) - random.below(0x1000));
      default:
        // Any canonical user address below 2^46.
        return (BigInt(random.u32() & 0x3fff) << 32n) | BigInt(random.u32());
    }
  }

  private fillVector(state: CaseView): void {
    const { random } = this;
    const classes: readonly ValueClass[] = ['integer', 'float32', 'float64', 'bytes'];
    const valueClass = random.pick(classes);
    for (let index = 0; index < 16; index++) {
      const own = random.chance(0.7) ? valueClass : random.pick(classes);
      fill16(random, own, state.view, CASE.fxsave + FX.xmm + index * 16);
    }
    state.view.setUint32(CASE.fxsave + FX.mxcsr, this.chooseMxcsr(), true);
  }

  private chooseMxcsr(): number {
    const { random } = this;
    const kind = random.below(10);
    if (kind < 4) return 0x1f80;
    // Rounding, FTZ, DAZ and sticky flags at random; all exceptions masked, some, or any.
    let value = random.u32() & 0xffff;
    if (kind < 8) value |= 0x1f80;
    else if (kind === 8) value |= random.u32() & 0x1f80;
    if (random.chance(0.5)) value &= ~0x8040;
    return value;
  }

  private fillX87(state: CaseView): void {
    const { random } = this;
    const { view } = state;
    const fx = CASE.fxsave;
    // Control word: bit 6 reads as 1; precision, rounding, infinity bit and masks at random.
    let control = 0x37f;
    if (random.chance(0.6)) {
      control = 0x40 | (random.u32() & 0x1f3f);
      if (random.chance(0.7)) control |= 0x3f;
    }
    let status = (random.u32() & 0x4700) | (random.below(8) << 11);
    if (random.chance(0.3)) status |= random.u32() & 0x7f & (random.chance(0.85) ? control | 0x40 : 0x7f);
    // ES and B say that an unmasked exception is pending.
    if ((status & ~control & 0x3f) !== 0) status |= 0x8080;
    view.setUint16(fx + FX.fcw, control, true);
    view.setUint16(fx + FX.fsw, status, true);
    const kind = random.below(8);
    view.setUint8(fx + FX.ftw, kind < 5 ? 0xff : kind === 5 ? 0 : random.u32() & 0xff);
    // AMD processors keep the exception pointers only while an exception is pending.
    if ((status & 0x80) !== 0) {
      view.setUint16(fx + FX.fop, random.u32() & 0x7ff, true);
      view.setBigUint64(fx + FX.fip, BigInt(random.u32()), true);
      view.setBigUint64(fx + FX.fdp, BigInt(random.u32()), true);
    }
    const multimedia = random.chance(0.2);
    for (let index = 0; index < 8; index++) {
      const at = fx + FX.st + index * 16;
      if (multimedia) {
        fill16(random, random.chance(0.5) ? 'bytes' : 'integer', view, at);
        view.setUint16(at + 8, 0xffff, true);
        view.setUint32(at + 10, 0, true);
        view.setUint16(at + 14, 0, true);
      } else float80(random, view, at);
    }
  }

  private chooseStart(length: number): number {
    const { random } = this;
    // Now and then the instruction runs into, or up to, the missing page behind the code page.
    if (random.chance(0.01)) return CODE_SIZE - 1 - random.below(length);
    if (random.chance(0.02)) return CODE_SIZE - length - random.below(8);
    return 0x780 + random.below(0x60);
  }

  private makeForm(state: CaseView, form: Form): void {
    const encoded = encodeForm(this.random, form);
    const bytes = Uint8Array.from(encoded.bytes);
    const start = Math.min(this.chooseStart(bytes.length), CODE_SIZE - 1);
    this.prepare(state, form, encoded, bytes, start);
    state.setCode(bytes, start);
  }

  private makeRaw(state: CaseView): void {
    const { random } = this;
    const bytes = new Uint8Array(15 + random.below(3));
    for (let index = 0; index < bytes.length; index++) bytes[index] = random.u32() & 0xff;
    // Without help most random opcodes are one-byte ones.
    let at = 0;
    const prefixes = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x3e, 0x64, 0x65];
    while (at < 14 && random.chance(0.4)) bytes[at++] = random.pick(prefixes);
    if (this.bitness === 64 && random.chance(0.3)) bytes[at++] = 0x40 | random.below(16);
    const map = random.below(6);
    if (map < 2) bytes[at++] = 0x0f;
    if (map === 1 && random.chance(0.4)) bytes[at++] = random.chance(0.5) ? 0x38 : 0x3a;
    if (map === 2) bytes[at] = 0xd8 + random.below(8);
    // Registers that point at memory, most of the time.
    for (let index = 0; index < (this.bitness === 64 ? 16 : 8); index++)
      if (random.chance(0.5)) {
        const base = this.bitness === 16 ? DATA16_BASE : 0;
        this.setGpr(state, index, BigInt(DATA_BASE + this.windowOffset(16, 16) - base));
      }
    state.setCode(bytes, this.chooseStart(bytes.length));
  }

  /** Gives registers and memory the values that make this instruction interesting. */
  private prepare(state: CaseView, form: Form, encoded: Encoded, bytes: Uint8Array, start: number): void {
    const { random } = this;
    const { address } = encoded;
    if (form.opcode[0] === 0xf6 || form.opcode[0] === 0xf7) this.prepareDivide(state, form);
    if (address !== undefined && random.chance(0.97)) {
      const size = Math.max(1, form.memoryBytes);
      const alignment = size >= 512 ? 16 : Math.min(16, size);
      const target = DATA_BASE + this.windowOffset(Math.min(size, 512), alignment);
      if (!form.moffs && form.mnemonic !== 'Lea')
        this.aim(state, address, encoded, bytes, start, BigInt(target));
      else if (form.moffs)
        this.writeDisplacement(bytes, address, BigInt(target) - this.segmentBase(state, address.segment));
      this.patch(state, target, form);
    }
    if (form.stringSource)
      this.point(state, encoded, RSI, encoded.override >= 0 ? encoded.override : SEGMENT.ds, form);
    if (form.stringDestination) {
      const segment = form.operands.includes(Kind.seg_rDI)
        ? encoded.override >= 0
          ? encoded.override
          : SEGMENT.ds
        : SEGMENT.es;
      this.point(state, encoded, RDI, segment, form);
    }
    if (encoded.repeat) this.prepareCount(state, encoded, form);
    if (form.xlat) this.prepareXlat(state, encoded);
    this.prepareByMnemonic(state, form, encoded, bytes);
  }

  /** Sets registers (or the displacement) so that the operand is at a linear address. */
  private aim(
    state: CaseView,
    address: Address,
    encoded: Encoded,
    bytes: Uint8Array,
    start: number,
    target: bigint,
  ): void {
    const { random } = this;
    const size = encoded.addressSize;
    const mask = (1n << BigInt(size)) - 1n;
    if (this.bitness === 64 && size === 32 && address.segment >= SEGMENT.fs && random.chance(0.9)) {
      // A 32-bit offset reaches the window only from a base near it.
      state.view.setBigUint64(
        address.segment === SEGMENT.fs ? CASE.fsBase : CASE.gsBase,
        BigInt(random.below(0x10000)),
        true,
      );
    }
    let offset = target - this.segmentBase(state, address.segment);
    if (address.ripRelative) {
      this.writeDisplacement(bytes, address, offset - BigInt(CODE_BASE + start + bytes.length));
      return;
    }
    if (address.base < 0 && address.index < 0) {
      this.writeDisplacement(bytes, address, offset);
      return;
    }
    offset -= this.readDisplacement(bytes, address);
    const scale = BigInt(address.scale);
    const garbage = (): bigint => (size < 64 ? random.u64() & ~mask : 0n);
    if (address.base < 0) {
      // index * scale alone: the displacement takes the remainder.
      const remainder = BigInt.asUintN(size, offset) % scale;
      this.writeDisplacement(bytes, address, this.readDisplacement(bytes, address) + remainder);
      this.setGpr(state, address.index, (BigInt.asUintN(size, offset - remainder) / scale) | garbage());
    } else if (address.index < 0 || address.index === address.base) {
      const factor = address.index < 0 ? 1n : 1n + scale;
      this.setGpr(state, address.base, (BigInt.asUintN(size, offset) / factor) | garbage());
    } else {
      const index = state.gpr(address.index);
      this.setGpr(state, address.base, (BigInt.asUintN(size, offset - index * scale) & mask) | garbage());
    }
  }

  private readDisplacement(bytes: Uint8Array, { displacementAt, displacementSize }: Address): bigint {
    let value = 0n;
    for (let index = displacementSize - 1; index >= 0; index--)
      value = (value << 8n) | BigInt(bytes[displacementAt + index] ?? 0);
    return displacementSize === 0 ? 0n : BigInt.asIntN(displacementSize * 8, value);
  }

  private writeDisplacement(
    bytes: Uint8Array,
    { displacementAt, displacementSize }: Address,
    value: bigint,
  ): void {
    for (let index = 0; index < displacementSize; index++)
      bytes[displacementAt + index] = Number(BigInt.asUintN(8, value >> BigInt(index * 8)));
  }

  /** Interesting memory contents where the operand is. */
  private patch(state: CaseView, target: number, form: Form): void {
    const { random } = this;
    const offset = target - DATA_BASE;
    if (offset < 0 || offset > DATA_SIZE - 16 || random.chance(0.1)) return;
    const bytes = state.addPatch(offset);
    if (bytes === undefined) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
    fill16(random, form.valueClass, view, 0);
    switch (form.mnemonic) {
      case 'Cmpxchg':
        if (random.chance(0.5)) view.setBigUint64(0, state.gpr(RAX), true);
        break;
      case 'Cmpxchg8b':
        if (random.chance(0.6)) {
          view.setUint32(0, Number(state.gpr(RAX) & 0xffff_ffffn), true);
          view.setUint32(4, Number(state.gpr(RDX) & 0xffff_ffffn), true);
        }
        break;
      case 'Cmpxchg16b':
        if (random.chance(0.6)) {
          view.setBigUint64(0, state.gpr(RAX), true);
          view.setBigUint64(8, state.gpr(RDX), true);
        }
        break;
      case 'Ldmxcsr':
        if (random.chance(0.8)) view.setUint32(0, this.chooseMxcsr(), true);
        break;
      case 'Fxrstor':
      case 'Fxrstor64': {
        // MXCSR at 24 must have no reserved bit set.
        if (random.chance(0.9) && offset + 48 <= DATA_SIZE) {
          const second = state.addPatch(offset + 16);
          if (second !== undefined)
            new DataView(second.buffer, second.byteOffset, 16).setUint32(8, this.chooseMxcsr(), true);
        }
        break;
      }
      case 'Jmp':
      case 'Call': {
        const far = form.memoryBytes - form.operandBits / 8 === 2;
        const selector = far ? this.codeSelector() : 0;
        if (random.chance(0.8)) view.setBigUint64(0, this.codeTarget(state, selector), true);
        if (far) view.setUint16(form.operandBits / 8, selector, true);
        break;
      }
      case 'Lds':
      case 'Les':
      case 'Lss':
      case 'Lfs':
      case 'Lgs':
        view.setUint16(form.operandBits / 8, random.pick(SELECTORS), true);
        break;
      case 'Mov':
      case 'Lar':
      case 'Lsl':
      case 'Verr':
      case 'Verw':
        if (form.mnemonic !== 'Mov' || form.operands[0] === Kind.seg_reg)
          view.setUint16(0, random.pick(SELECTORS), true);
        break;
      default:
    }
  }

  private codeSelector(): number {
    return this.random.pick(this.random.chance(0.8) ? CODE_SELECTORS : SELECTORS);
  }

  /** A branch target in the code page, as an offset in CS (or in the segment far transfers name), well away from the instruction. */
  private codeTarget(state: CaseView, selector = 0): bigint {
    const { random } = this;
    const offset = random.below(0x600) + (random.chance(0.5) ? 0x900 : 0);
    const based = selector === 0 ? state.codeBased : (selector & 4) !== 0;
    return BigInt(offset) + (based ? 0n : BigInt(CODE_BASE));
  }

  private prepareDivide(state: CaseView, form: Form): void {
    const { random } = this;
    if (form.mnemonic !== 'Div' && form.mnemonic !== 'Idiv') return;
    // A dividend whose high half is small leads to quotients that fit.
    const kind = random.below(5);
    if (kind === 0) this.setGpr(state, RDX, 0n);
    else if (kind === 1) this.setGpr(state, RDX, (state.gpr(RAX) & 0x8000_0000n) !== 0n ? MASK64 : 0n);
    else if (kind === 2) this.setGpr(state, RDX, BigInt(random.below(16)));
    else if (kind === 3) {
      this.setGpr(state, RDX, BigInt.asIntN(64, state.gpr(RAX)) >> 63n);
      this.setGpr(state, RAX, state.gpr(RAX));
    }
    if (form.operands.includes(Kind.r8_or_mem) && random.chance(0.7))
      this.setGpr(state, RAX, (state.gpr(RAX) & ~0xffffn) | BigInt(random.below(0x400)));
  }

  /** Points rSI or rDI at the data window. */
  private point(state: CaseView, encoded: Encoded, register: number, segment: number, form: Form): void {
    const { random } = this;
    if (random.chance(0.02)) return;
    const offset = this.windowOffset(Math.max(8, form.memoryBytes), 1);
    const size = encoded.addressSize;
    const value = BigInt.asUintN(size, BigInt(DATA_BASE + offset) - this.segmentBase(state, segment));
    const garbage = size < 64 && random.chance(0.7) ? (random.u64() >> BigInt(size)) << BigInt(size) : 0n;
    this.setGpr(state, register, value | garbage);
  }

  private prepareCount(state: CaseView, encoded: Encoded, form: Form): void {
    const { random } = this;
    const kind = random.below(10);
    const count =
      kind < 2 ? 0 : kind < 7 ? random.below(24) : kind < 9 ? random.below(DATA_SIZE) : random.u32();
    const size = encoded.addressSize;
    const garbage = size < 64 && random.chance(0.7) ? (random.u64() >> BigInt(size)) << BigInt(size) : 0n;
    this.setGpr(state, RCX, BigInt.asUintN(size, BigInt(count)) | garbage);
    // Equal or matching elements, so that REPE and REPNE run on.
    if ((form.mnemonic.startsWith('Scas') || form.mnemonic.startsWith('Cmps')) && random.chance(0.4)) {
      const fill = random.pick([0, 0xff, 0x41]);
      for (let index = 0; index < 3; index++) state.addPatch(random.below(DATA_SIZE - 16))?.fill(fill);
      if (random.chance(0.5))
        this.setGpr(state, RAX, BigInt.asUintN(64, BigInt(fill) * 0x0101_0101_0101_0101n));
    }
  }

  private prepareXlat(state: CaseView, encoded: Encoded): void {
    const al = state.gpr(RAX) & 0xffn;
    const base = this.segmentBase(state, encoded.override >= 0 ? encoded.override : SEGMENT.ds);
    const target = BigInt(DATA_BASE + this.windowOffset(1, 1));
    this.setGpr(state, RBX, BigInt.asUintN(encoded.addressSize, target - base - al));
  }

  private prepareByMnemonic(state: CaseView, form: Form, encoded: Encoded, bytes: Uint8Array): void {
    const { random } = this;
    switch (form.mnemonic) {
      case 'Rol':
      case 'Ror':
      case 'Rcl':
      case 'Rcr':
      case 'Shl':
      case 'Sal':
      case 'Shr':
      case 'Sar':
      case 'Shld':
      case 'Shrd':
        if (form.operands.includes(Kind.cl) && random.chance(0.7))
          this.setGpr(state, RCX, (state.gpr(RCX) & ~0xffn) | BigInt(random.below(70)));
        break;
      case 'Bt':
      case 'Bts':
      case 'Btr':
      case 'Btc':
        // A bit offset in a register reaches far from the operand: mostly not too far.
        if (encoded.address !== undefined && encoded.reg >= 0 && random.chance(0.8)) {
          const inAddress = encoded.reg === encoded.address.base || encoded.reg === encoded.address.index;
          if (!inAddress) this.setGpr(state, encoded.reg, BigInt(random.below(0x2000) - 0x1000));
        }
        break;
      case 'Enter':
        if (random.chance(0.8)) bytes[encoded.tailAt + 2] = random.below(5);
        bytes[encoded.tailAt + 1] = random.chance(0.8) ? 0 : random.below(256);
        this.pointStack(state, RBP);
        break;
      case 'Leave':
        this.pointStack(state, RBP);
        break;
      case 'Mov':
      case 'Lar':
      case 'Lsl':
      case 'Verr':
      case 'Verw':
        if ((form.mnemonic !== 'Mov' || form.operands[0] === Kind.seg_reg) && encoded.rm >= 0)
          this.setGpr(state, encoded.rm, (state.gpr(encoded.rm) & ~0xffffn) | BigInt(random.pick(SELECTORS)));
        break;
      case 'Pop':
        if (form.operands[0] !== undefined && SEGMENT_KINDS.has(form.operands[0]))
          this.patchStack(state, (random.u64() & ~0xffffn) | BigInt(random.pick(SELECTORS)));
        break;
      case 'Retf':
      case 'Iret':
      case 'Iretd':
      case 'Iretq':
        this.patchFrame(state, form.operandBits / 8);
        break;
      case 'Ret':
        this.patchStack(state, this.codeTarget(state));
        break;
      case 'Popf':
      case 'Popfd':
      case 'Popfq':
        this.patchStack(state, random.u64());
        break;
      case 'Jmp':
      case 'Call':
        if (form.immediates.length === 2)
          this.writeFarPointer(state, bytes, encoded.tailAt, form.immediates[0] ?? 0);
        else if (
          encoded.address === undefined &&
          form.relative === 0 &&
          encoded.rm >= 0 &&
          random.chance(0.8)
        )
          this.setGpr(state, encoded.rm, this.codeTarget(state));
        break;
      case 'Loop':
      case 'Loope':
      case 'Loopne':
        if (random.chance(0.5))
          this.setGpr(state, RCX, (state.gpr(RCX) & ~0xffffn) | BigInt(random.below(3)));
        break;
      case 'Jcxz':
      case 'Jecxz':
      case 'Jrcxz':
        if (random.chance(0.6)) this.setGpr(state, RCX, random.chance(0.5) ? 0n : random.u64() & ~0xffffn);
        break;
      case 'Cmpxchg':
        if (encoded.address === undefined && encoded.rm >= 0 && random.chance(0.4))
          this.setGpr(state, encoded.rm, state.gpr(RAX));
        break;
      case 'Int':
        // 0x80 and 3 and 4 have gates that processes may use.
        if ([0x80, 3, 4].includes(bytes[encoded.tailAt] ?? 0)) bytes[encoded.tailAt] = 0x21;
        break;
      default:
    }
    // Keep branches inside the code page most of the time.
    if (form.relative === 2 || form.relative === 4) {
      if (random.chance(0.9)) {
        const distance = random.below(0x700 * 2) - 0x700;
        for (let index = 0; index < form.relative; index++)
          bytes[encoded.tailAt + index] = (distance >> (index * 8)) & 0xff;
      }
    }
    if (form.relative !== 0) this.avoidSelf(bytes, encoded.tailAt, form.relative);
  }

  /** A branch into its own bytes could loop for ever. */
  private avoidSelf(bytes: Uint8Array, at: number, size: number): void {
    let distance = 0;
    for (let index = 0; index < size; index++) distance |= (bytes[at + index] ?? 0) << (index * 8);
    distance = (distance << (32 - size * 8)) >> (32 - size * 8);
    if (distance < 0 && distance >= -bytes.length) bytes[at] = 0x40;
    if (distance < 0 && distance >= -bytes.length) bytes.fill(0, at + 1, at + size);
  }

  private pointStack(state: CaseView, register: number): void {
    if (this.random.chance(0.05)) return;
    const offset = this.windowOffset(64, this.random.chance(0.8) ? 8 : 1);
    this.setGpr(
      state,
      register,
      BigInt(DATA_BASE + offset) - this.segmentBase(state, SEGMENT.ss) + this.highGarbage(state),
    );
  }

  private writeFarPointer(state: CaseView, bytes: Uint8Array, at: number, size: number): void {
    const selector = this.codeSelector();
    const target = this.random.chance(0.9) ? this.codeTarget(state, selector) : this.random.u64();
    for (let index = 0; index < size; index++)
      bytes[at + index] = Number((target >> BigInt(index * 8)) & 0xffn);
    bytes[at + size] = selector & 0xff;
    bytes[at + size + 1] = selector >> 8;
  }

  /** A frame for RETF or IRET: instruction pointer, CS, flags, stack pointer, SS. */
  private patchFrame(state: CaseView, size: number): void {
    const { random } = this;
    const selector = this.codeSelector();
    const pointer = BigInt(DATA_BASE + this.windowOffset(16, 8));
    const flags = BigInt(random.u32() & (random.chance(0.5) ? 0x0cd5 : 0x24_4fd5));
    const stack = random.chance(0.7) ? BigInt(SELECTOR_DATA) : BigInt(random.pick(SELECTORS));
    const fields = [this.codeTarget(state, selector), BigInt(selector), flags, pointer, stack];
    const frame = new Uint8Array(48);
    const view = new DataView(frame.buffer);
    for (const [index, field] of fields.entries()) {
      if (size === 8) view.setBigUint64(index * 8, field, true);
      else if (size === 4) view.setUint32(index * 4, Number(field & 0xffff_ffffn), true);
      else view.setUint16(index * 2, Number(field & 0xffffn), true);
    }
    const offset = this.stackOffset(state);
    for (let part = 0; part < 3 && part * 16 < size * 5; part++) {
      const at = offset + part * 16;
      if (at >= 0 && at <= DATA_SIZE - 16) state.addPatch(at)?.set(frame.subarray(part * 16, part * 16 + 16));
    }
  }

  /** Where the stack pointer is in the data window (maybe outside). */
  private stackOffset(state: CaseView): number {
    const base = this.segmentBase(state, SEGMENT.ss);
    let pointer = state.gpr(RSP);
    if (state.view.getUint16(CASE.ss, true) === SELECTOR_DATA16) pointer &= 0xffffn;
    return Number(BigInt.asIntN(53, pointer + base - BigInt(DATA_BASE)));
  }

  /** Puts a value on top of the stack. */
  private patchStack(state: CaseView, value: bigint): void {
    const offset = this.stackOffset(state);
    if (offset < 0 || offset > DATA_SIZE - 16 || this.random.chance(0.1)) return;
    const bytes = state.addPatch(offset);
    if (bytes !== undefined) new DataView(bytes.buffer, bytes.byteOffset, 16).setBigUint64(0, value, true);
  }

  /** Decodes what was made and decides whether it may run. */
  private inspect(state: CaseView): Code | Rejection {
    const { instruction } = this;
    const code = state.bytes.subarray(CASE.code, CASE.code + 32);
    const decoder = new Decoder(this.bitness, code, DecoderOptions.None);
    try {
      decoder.ip = BigInt(state.rip);
      decoder.decodeOut(instruction);
    } finally {
      decoder.free();
    }
    const found = instruction.code;
    if (found === Code.INVALID) return found;
    const reason = exclusion(found, this.bitness) ?? this.operandExclusion(code, found, state);
    if (reason !== undefined) return reason;
    // What follows the instruction must not run: INT3 takes its place.
    const start = state.view.getUint32(CASE.codeStart, true);
    if (start + instruction.length <= CODE_SIZE) state.setCode(code.slice(0, instruction.length), start);
    return found;
  }

  private operandExclusion(code: Uint8Array, found: Code, state: CaseView): Rejection | undefined {
    const { instruction } = this;
    if (found === Code.Int_imm8 && [0x80, 3, 4].includes(instruction.immediate8))
      return 'a software interrupt that processes may use';
    const near = NEAR_BRANCHES.has(instruction.flowControl) && !isFar(instruction);
    if (!near) return undefined;
    if (this.bitness === 64 && hasOperandSizePrefix(code))
      return 'AMD and Intel differ: 66 before a near branch in 64-bit code';
    if (NEAR_TARGETS.has(instruction.op0Kind)) {
      const distance = BigInt.asIntN(64, instruction.nearBranchTarget - BigInt(state.rip));
      if (distance >= 0n && distance < BigInt(instruction.length)) return 'a branch into its own bytes';
    }
    return undefined;
  }
}
