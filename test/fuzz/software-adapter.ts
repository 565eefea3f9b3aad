/**
 * Switchyard's side of a comparison: runs a case in the small guest of guest.ts and writes a result record in the
 * oracle's format.
 */
import { Code } from 'iced-x86';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { Arena, ARENA } from '../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { IcountClock } from '../../src-core/machine/clock.ts';
import { translatorOptionsSchema } from '../../src-core/protocol/machine-config.ts';
import type { TranslatorOptionsInput } from '../../src-core/protocol/machine-config.ts';
import {
  CR0_AM,
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_FSGSBASE,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
} from '../../src-core/x86/bits.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CS,
  CTL,
  DS,
  EFER,
  ES,
  FPU,
  FS,
  GPR,
  GS,
  LDTR,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  SS,
  ST,
  TR,
  XMM,
} from '../../src-core/x86/layout.ts';
import { CASE, CODE_SIZE, DATA_SIZE, IMAGE_COUNT, RESULT } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import type { CaseView } from '../oracle/state.ts';
import type { Adapter } from './adapter.ts';
import { HOST_FLAGS } from './host.ts';
import {
  GDT_LIMIT,
  kernelLinear,
  PHYSICAL,
  segmentOf,
  SELECTOR_LDT,
  SELECTOR_TSS,
  STACK_TOP,
  systemSegments,
  writeGuest,
} from './guest.ts';

/** The instruction, the INT3 behind it and the HLT, with room for an interrupted REP. */
const STEP_LIMIT = 100_000;
const PUSHES_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17]);
const MEMORY_MIB = 4;
const INT3_PAGE = Buffer.alloc(CODE_SIZE, 0xcc);

const FAR_TRANSFERS = new Set<Code>([
  Code.Jmp_ptr1616,
  Code.Jmp_ptr1632,
  Code.Jmp_m1616,
  Code.Jmp_m1632,
  Code.Call_ptr1616,
  Code.Call_ptr1632,
  Code.Call_m1616,
  Code.Call_m1632,
  Code.Retfw,
  Code.Retfw_imm16,
  Code.Retfd,
  Code.Retfd_imm16,
  Code.Iretw,
  Code.Iretd,
]);

/** Runs cases on the software engine. */
export class SoftwareAdapter implements Adapter {
  readonly cpu: Cpu;
  readonly engine: SoftwareEngine;
  readonly ram: Uint8Array;
  /** Instructions the last run took, with the INT3 (or none) and the HLT. */
  instructions = 0;
  private readonly ramView: DataView;
  private readonly images: Uint8Array;
  private readonly data: Uint32Array;
  private readonly code: Buffer;
  private readonly before = new Uint32Array(DATA_SIZE / 4);
  private readonly segments = new Map<number, ReturnType<typeof segmentOf>>();
  /** Whether the vCPU stands in IA-32e mode; undefined before the first case. */
  private long: boolean | undefined;
  /** Use protected mode with PAE for 16- and 32-bit code, not compatibility mode. */
  private readonly legacy: boolean;

  constructor(images: Uint8Array, legacy = false, translator: TranslatorOptionsInput = {}) {
    if (images.length !== IMAGE_COUNT * DATA_SIZE) throw new Error(`images: ${images.length} bytes`);
    this.images = images;
    this.legacy = legacy;
    const arena = new Arena(MEMORY_MIB);
    this.cpu = new Cpu({
      arena,
      memory: new MemoryBus(arena),
      ports: new PortBus(),
      clock: new IcountClock(() => this.cpu.instructionCount()),
      interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
      accounting: new ExitAccounting(),
    });
    this.engine = new SoftwareEngine({
      arena,
      cpu: this.cpu,
      translator: translatorOptionsSchema.parse(translator),
    });
    this.ram = arena.ram;
    this.ramView = new DataView(this.ram.buffer, this.ram.byteOffset, this.ram.byteLength);
    this.data = new Uint32Array(arena.buffer, ARENA.ram + PHYSICAL.data, DATA_SIZE / 4);
    this.code = Buffer.from(arena.buffer, ARENA.ram + PHYSICAL.code, CODE_SIZE);
    writeGuest(this.ram);
    this.ram.fill(0xcc, PHYSICAL.code, PHYSICAL.code + CODE_SIZE);
  }

  dispose(): void {
    this.engine.dispose();
  }

  /** In protected mode the L bit of a code segment says nothing: far transfers to 64-bit code go elsewhere. */
  skips(code: Code): boolean {
    return this.legacy && FAR_TRANSFERS.has(code);
  }

  run(state: CaseView, out: Uint8Array): void {
    this.runRepeatedly(state, out, 1, () => undefined);
  }

  /** Runs a case several times without touching its code in between: what is executed often is translated. */
  runRepeatedly(state: CaseView, out: Uint8Array, times: number, afterEach: (run: number) => void): void {
    this.placeCode(state);
    try {
      for (let run = 0; run < times; run++) {
        this.enter(state);
        const before = this.cpu.instructionCount();
        const end = this.engine.run(STEP_LIMIT, true);
        this.instructions = this.cpu.instructionCount() - before;
        this.collect(out, end === 'halt');
        afterEach(run);
        if (run + 1 < times && !this.codeStands(state)) this.placeCode(state);
      }
    } finally {
      // The code page as it was.
      const start = PHYSICAL.code + state.view.getUint32(CASE.codeStart, true);
      this.ram.fill(0xcc, start, start + state.code.length);
      this.engine.memoryChanged(start, state.code.length);
      this.clearCode();
    }
  }

  /** A stray store may have hit the code page outside of the case's code. */
  private clearCode(): void {
    if (this.code.equals(INT3_PAGE)) return;
    this.code.set(INT3_PAGE);
    this.engine.memoryChanged(PHYSICAL.code, CODE_SIZE);
  }

  /** Only what differs from INT3 everywhere is touched. */
  private placeCode(state: CaseView): void {
    const start = PHYSICAL.code + state.view.getUint32(CASE.codeStart, true);
    this.clearCode();
    this.ram.set(state.code, start);
    this.engine.memoryChanged(start, state.code.length);
  }

  /** Whether the code page holds the case's code and nothing else. */
  private codeStands(state: CaseView): boolean {
    const start = state.view.getUint32(CASE.codeStart, true);
    const end = start + state.code.length;
    return (
      this.code.subarray(start, end).equals(state.code) &&
      this.code.subarray(0, start).equals(INT3_PAGE.subarray(0, start)) &&
      this.code.subarray(end).equals(INT3_PAGE.subarray(end))
    );
  }

  private enter(state: CaseView): void {
    const { cpu, ram } = this;
    const { view } = state;
    const long = state.bitness === 64 || !this.legacy;
    if (this.long !== long) this.switchMode(long);

    // Data window.
    const image = view.getUint32(CASE.image, true);
    ram.set(this.images.subarray(image * DATA_SIZE, (image + 1) * DATA_SIZE), PHYSICAL.data);
    for (let index = 0; index < state.patchCount; index++)
      ram.set(state.patchBytes(index), PHYSICAL.data + state.patchOffset(index));
    this.before.set(this.data);

    for (let index = 0; index < 16; index++) cpu.u64[(GPR >> 3) + index] = state.gpr(index);
    const cs = view.getUint16(CASE.entry + 4, true);
    this.loadSegment(CS, cs);
    this.loadSegment(SS, view.getUint16(CASE.ss, true));
    this.loadSegment(DS, view.getUint16(CASE.ds, true));
    this.loadSegment(ES, view.getUint16(CASE.es, true));
    this.loadSegment(FS, view.getUint16(CASE.fs, true));
    this.loadSegment(GS, view.getUint16(CASE.gs, true));
    if (view.getUint32(CASE.setBases, true) !== 0) {
      cpu.set64(FS + SEG_FIELD.base, view.getBigUint64(CASE.fsBase, true));
      cpu.set64(GS + SEG_FIELD.base, view.getBigUint64(CASE.gsBase, true));
    }
    cpu.rflags = state.rflags;
    cpu.rip = BigInt(state.rip);
    this.loadFpu(state.view);
    cpu.setCpl(3);
    cpu.set32(CTL.halted, 0);
    cpu.set32(CTL.interruptShadow, 0);
    cpu.set32(CTL.pendingDebug, 0);
    cpu.updateMode();
  }

  private loadSegment(offset: number, selector: number): void {
    let value = this.segments.get(selector);
    if (value === undefined) {
      value = segmentOf(selector);
      this.segments.set(selector, value);
    }
    this.cpu.setSegment((offset - SEG) / SEG_SIZE, { selector, ...value });
  }

  private switchMode(long: boolean): void {
    const { cpu } = this;
    this.long = long;
    const system = systemSegments(long);
    cpu.set64(CR0, BigInt((CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG) >>> 0));
    cpu.set64(CR3, BigInt(long ? PHYSICAL.pml4 : PHYSICAL.paePdpt));
    cpu.set64(
      CR4,
      BigInt(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (HOST_FLAGS.has('fsgsbase') ? CR4_FSGSBASE : 0)),
    );
    cpu.set64(EFER, BigInt(EFER_NXE | EFER_SCE | (long ? EFER_LME | EFER_LMA : 0)));
    cpu.setTable('gdt', system.gdt, GDT_LIMIT);
    cpu.setTable('idt', system.idt, system.idtLimit);
    cpu.setSegment((TR - SEG) / SEG_SIZE, {
      selector: SELECTOR_TSS,
      attributes: 0x8b,
      limit: 0x67,
      base: system.tss,
    });
    cpu.setSegment((LDTR - SEG) / SEG_SIZE, {
      selector: SELECTOR_LDT,
      attributes: 0x82,
      limit: 0xff,
      base: system.ldt,
    });
    if (!long && !cpu.mmu.loadPdptes(PHYSICAL.paePdpt))
      throw new Error('PAE page-directory pointers refused');
    cpu.stateReplaced();
    this.engine.flush();
  }

  private loadFpu(view: DataView): void {
    const { cpu } = this;
    const fx = CASE.fxsave;
    const status = view.getUint16(fx + FX.fsw, true);
    const top = (status >> 11) & 7;
    cpu.set32(FPU.fcw, view.getUint16(fx + FX.fcw, true));
    cpu.set32(FPU.fsw, status & ~0x3800);
    cpu.set32(FPU.top, top);
    cpu.set32(FPU.empty, ~view.getUint8(fx + FX.ftw) & 0xff);
    cpu.set32(FPU.fop, view.getUint16(fx + FX.fop, true));
    cpu.set64(FPU.fip, view.getBigUint64(fx + FX.fip, true));
    cpu.set64(FPU.fdp, view.getBigUint64(fx + FX.fdp, true));
    cpu.set32(FPU.fcs, 0);
    cpu.set32(FPU.fds, 0);
    cpu.set32(FPU.mxcsr, view.getUint32(fx + FX.mxcsr, true));
    for (let index = 0; index < 8; index++) {
      const from = fx + FX.st + index * 16;
      const to = ST + ((top + index) & 7) * 16;
      cpu.set64(to, view.getBigUint64(from, true));
      cpu.set64(to + 8, BigInt(view.getUint16(from + 8, true)));
    }
    for (let index = 0; index < 32; index++)
      cpu.u64[(XMM >> 3) + index] = view.getBigUint64(fx + FX.xmm + index * 8, true);
  }

  private collect(out: Uint8Array, halted: boolean): void {
    const { cpu } = this;
    const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
    out.fill(0, 0, RESULT.memory);
    const long = this.long === true;
    const handlers = kernelLinear(long, PHYSICAL.handlers);
    const vector = halted ? Number(BigInt.asIntN(53, cpu.rip - handlers)) - 1 : -1;
    if (vector >= 0 && vector < 256 && cpu.cpl === 0) this.readFrame(view, vector, long);
    else {
      // Neither fault nor end: reported as a vector no processor has.
      view.setUint32(RESULT.vector, 255, true);
      view.setBigUint64(RESULT.rip, cpu.rip, true);
    }
    view.setBigUint64(RESULT.cr2, cpu.get64(CR2), true);
    for (let index = 0; index < 16; index++)
      if (index !== 4) view.setBigUint64(RESULT.gpr + index * 8, cpu.get64(GPR + index * 8), true);
    for (const [offset, at] of [
      [DS, RESULT.ds],
      [ES, RESULT.es],
      [FS, RESULT.fs],
      [GS, RESULT.gs],
    ] as const)
      view.setUint16(at, cpu.get32(offset), true);
    view.setBigUint64(RESULT.fsBase, cpu.get64(FS + SEG_FIELD.base), true);
    view.setBigUint64(RESULT.gsBase, cpu.get64(GS + SEG_FIELD.base), true);
    this.storeFpu(view);
    this.collectMemory(view, out);
  }

  /** The exception frame on the ring 0 stack (Intel SDM vol. 3, figures 6-4 and 6-9). */
  private readFrame(view: DataView, vector: number, long: boolean): void {
    const { ramView } = this;
    const size = long ? 8 : 4;
    const field = (index: number): bigint => {
      const at = PHYSICAL.stack + STACK_TOP - index * size;
      return long ? ramView.getBigUint64(at, true) : BigInt(ramView.getUint32(at, true));
    };
    view.setUint32(RESULT.vector, vector, true);
    if (PUSHES_ERROR_CODE.has(vector))
      view.setUint32(RESULT.errorCode, Number(field(6) & 0xffff_ffffn), true);
    view.setBigUint64(RESULT.rip, field(5), true);
    view.setUint16(RESULT.cs, Number(field(4) & 0xffffn), true);
    view.setBigUint64(RESULT.rflags, field(3), true);
    view.setBigUint64(RESULT.gpr + 4 * 8, field(2), true);
    view.setUint16(RESULT.ss, Number(field(1) & 0xffffn), true);
  }

  private storeFpu(view: DataView): void {
    const { cpu } = this;
    const fx = RESULT.fxsave;
    const top = cpu.get32(FPU.top);
    view.setUint16(fx + FX.fcw, cpu.get32(FPU.fcw), true);
    view.setUint16(fx + FX.fsw, cpu.get32(FPU.fsw) | (top << 11), true);
    view.setUint8(fx + FX.ftw, ~cpu.get32(FPU.empty) & 0xff);
    view.setUint16(fx + FX.fop, cpu.get32(FPU.fop), true);
    view.setBigUint64(fx + FX.fip, cpu.get64(FPU.fip), true);
    view.setBigUint64(fx + FX.fdp, cpu.get64(FPU.fdp), true);
    view.setUint32(fx + FX.mxcsr, cpu.get32(FPU.mxcsr), true);
    for (let index = 0; index < 8; index++) {
      const from = ST + ((top + index) & 7) * 16;
      view.setBigUint64(fx + FX.st + index * 16, cpu.get64(from), true);
      view.setUint16(fx + FX.st + index * 16 + 8, cpu.get32(from + 8), true);
    }
    for (let index = 0; index < 32; index++)
      view.setBigUint64(fx + FX.xmm + index * 8, cpu.get64(XMM + index * 8), true);
  }

  private collectMemory(view: DataView, out: Uint8Array): void {
    const { before, data } = this;
    const words = DATA_SIZE / 4;
    let first = 0;
    while (first < words && before[first] === data[first]) first++;
    if (first === words) {
      view.setUint32(RESULT.length, RESULT.memory, true);
      return;
    }
    let last = words - 1;
    while (before[last] === data[last]) last--;
    const start = (first * 4) & ~15;
    const end = (last * 4 + 16) & ~15;
    view.setUint32(RESULT.dirtyStart, start, true);
    view.setUint32(RESULT.dirtyEnd, end, true);
    view.setUint32(RESULT.length, RESULT.memory + end - start, true);
    out.set(this.ram.subarray(PHYSICAL.data + start, PHYSICAL.data + end), RESULT.memory);
  }
}
