import type { ExitReason } from '../../accounting/exits.ts';
import type { Arena } from '../../machine/arena.ts';
import { FLAG_RF, FLAG_TF } from '../../x86/bits.ts';
import { type CalloutFunction, callouts } from '../../x86/callout.ts';
import { type TranslatorOptions, translatorOptionsSchema } from '../../protocol/machine-config.ts';
import type { Cpu } from '../../x86/cpu.ts';
import { INSTRUCTION_BYTES_MAX, isPrefix } from '../../x86/decoder.ts';
import { DR6_BS, instructionBreakpoint, raiseDebug } from '../../x86/debug.ts';
import { GuestFault, VECTOR } from '../../x86/faults.ts';
import { deliverException, deliverInterrupt } from '../../x86/interrupts.ts';
import { CTL, DR7, FLAGS_SYSTEM, RIP } from '../../x86/layout.ts';
import { BLOCK_INSTRUCTIONS_MAX, liftBlock } from '../../x86/lift/block.ts';
import type { Intercepts } from '../../x86/intercepts.ts';
import { codeSizeOf, MODE } from '../../x86/mode.ts';
import { ACCESS, type Mmu, SLOW } from '../../x86/mmu.ts';
import { getSigned } from '../../x86/words.ts';
import type { Engine, RunEnd } from '../engine.ts';
import { BlockCache, type CachedBlock, patchEnd } from './block-cache.ts';
import { EXIT, REGION, UOP } from './exit.ts';
import type { AccessCause } from './translator/adaptation.ts';
import { Translator, type TranslatorStatistics } from './translator/translator.ts';
import { generateInterpreter, type InterpreterImports } from './interpreter/module.ts';

const WASM_PAGE = 65536;
const PAGE = 4096;
const TWO_32 = 0x100000000;
/** Most bytes a block of code is read from: more than BLOCK_INSTRUCTIONS_MAX instructions usually take. */
const BLOCK_BYTES_MAX = 256;
/** What Mmu.fetchPage returns where no plain memory is. */
const DEVICE_PAGE = -2;
/** Executions until a block is hot, for a tier that never is. */
const NEVER_HOT = 0;
/** One in this many callouts of a reason is timed. */
const TIMED_EVERY = 64;

/** One compiled interpreter for each size of memory (the import must match it). */
const modules = new Map<number, WebAssembly.Module>();

function interpreterModule(pages: number): WebAssembly.Module {
  let module = modules.get(pages);
  if (!module) modules.set(pages, (module = new WebAssembly.Module(generateInterpreter(pages))));
  return module;
}

/** A micro-op overwritten to end its block early. */
interface Patch {
  block: CachedBlock;
  uop: number;
  saved: Uint8Array;
  /** Instructions of the block that come after the end. */
  rest: number;
}

/**
 * The software engine: guest code is lifted to IR once, encoded as micro-ops and executed by the interpreter, a wasm
 * module generated from the IR's definitions.
 */
export class SoftwareEngine implements Engine {
  readonly kind = 'software';
  readonly #arena: Arena;
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;
  readonly #translator: Translator;
  readonly #interpret: (block: number, uop: number) => number;
  readonly #deferredFlags: () => void;
  /** Budget taken away to make the interpreter come back for an event. */
  #stolen = 0;
  #exitRequested = false;
  #exact = false;
  /** Where a run's instructions are counted from. */
  #granted = 0;
  /** TypeScript is on wasm's stack: CTL.exitUop says where. */
  #inCallout = false;
  #patch: Patch | undefined;
  /** Host ns of this run spent in exits, estimated from those that are timed, and in translation. */
  #exitNs = 0;
  #translationNs = 0;
  #slowAccesses = 0;
  readonly #calloutCounts: Float64Array;
  readonly #calloutTicks: Uint32Array;
  readonly #calloutReasons: ExitReason[];
  /** What is executed for each callout. */
  #calloutFunctions: CalloutFunction[];
  #intercepted = false;
  /** Everything cached must go as soon as no block is being executed. */
  #flushPending = false;

  constructor({
    arena,
    cpu,
    translator = translatorOptionsSchema.parse({}),
    microOpBytes,
    regionSlots,
  }: {
    arena: Arena;
    cpu: Cpu;
    translator?: TranslatorOptions;
    /** Size of the micro-op cache; all the room the arena has for it unless given. */
    microOpBytes?: number;
    /** Most translated regions alive, and one; as many as the arena has room for unless given. */
    regionSlots?: number;
  }) {
    this.#arena = arena;
    this.#cpu = cpu;
    this.#blocks = new BlockCache(
      arena,
      (page) => cpu.mmu.protectCodePage(page),
      (page) => cpu.mmu.unprotectCodePage(page),
      {
        heat: translator.tier === 0 ? NEVER_HOT : translator.threshold,
        onDeath: (block) => this.#translator.blockDied(block),
        onEviction: (block) => this.#translator.blockEvicted(block),
        ...(microOpBytes !== undefined && { size: microOpBytes }),
        onRewritten:
          translator.tier > 0 && translator.adaptive
            ? () => {
                cpu.accounting.count('adaptation');
                cpu.accounting.detail('adaptation', 'rewritten code');
              }
            : undefined,
      },
    );
    this.#translator = new Translator({
      arena,
      cpu,
      blocks: this.#blocks,
      options: translator,
      ...(regionSlots !== undefined && { slots: regionSlots }),
    });
    const table = callouts();
    this.#calloutCounts = new Float64Array(table.length);
    this.#calloutTicks = new Uint32Array(table.length);
    this.#calloutReasons = table.map(({ reason }) => reason);
    this.#calloutFunctions = table.map(({ run }) => run);
    const pages = arena.buffer.byteLength / WASM_PAGE;
    const instance = new WebAssembly.Instance(interpreterModule(pages), {
      env: {
        memory: arena.memory,
        table: this.#translator.table,
        slowLoad: (lo: number, hi: number, info: number): number =>
          this.#slowAccess(() => cpu.mmu.slowLoad(lo, hi, info)),
        slowStore: (lo: number, hi: number, info: number): number =>
          this.#slowAccess(() => cpu.mmu.slowStore(lo, hi, info)),
        callout: (id: number, uop: number): number => this.#callout(id, uop),
      } satisfies InterpreterImports & { memory: WebAssembly.Memory; table: WebAssembly.Table },
    });
    this.#interpret = instance.exports.run as (block: number, uop: number) => number;
    this.#deferredFlags = instance.exports.deferredFlags as () => void;
    this.#translator.connect({
      deferredFlags: instance.exports.deferredFlags as WebAssembly.ExportValue,
      locateLoad: instance.exports.locateLoad as WebAssembly.ExportValue,
      locateStore: instance.exports.locateStore as WebAssembly.ExportValue,
      stringRun: instance.exports.stringRun as WebAssembly.ExportValue,
      loadSegment: instance.exports.loadSegment as WebAssembly.ExportValue,
      sysenter: instance.exports.sysenter as WebAssembly.ExportValue,
      sysexit: instance.exports.sysexit as WebAssembly.ExportValue,
      callout: (id: number, uop: number) => this.#regionCallout(id, uop),
      slowLoad: (lo: number, hi: number, info: number, uop: number) =>
        this.#adaptedAccess(lo, hi, info, uop, false),
      slowStore: (lo: number, hi: number, info: number, uop: number) =>
        this.#adaptedAccess(lo, hi, info, uop, true),
    });
    cpu.mmu.keepAddressSpaces(translator.addressSpaces === 'keep');
    cpu.mmu.onCodeWrite = (address, size) => this.#codeWritten(address, size);
    cpu.onAttention = () => this.#attention();
    cpu.instructionCount = () => this.#instructionCount();
  }

  // ---- the run loop --------------------------------------------------------------------------------------------

  run(maxInstructions: number, exact = false): RunEnd {
    const cpu = this.#cpu;
    this.#exact = exact;
    const started = performance.now();
    this.#granted = Math.min(maxInstructions, 0x7fffffff);
    this.#stolen = 0;
    this.#exitRequested = false;
    cpu.i32[CTL.budget >> 2] = this.#granted;
    try {
      return this.#loop();
    } finally {
      this.#returnStolen();
      const executed = this.#granted - cpu.i32[CTL.budget >> 2]!;
      cpu.set64(CTL.instructions, cpu.get64(CTL.instructions) + BigInt(executed));
      this.#granted = 0;
      cpu.i32[CTL.budget >> 2] = 0;
      this.#translate(() => this.#translator.flush());
      this.#flushCounts(executed);
      this.#spendTime((performance.now() - started) * 1e6);
    }
  }

  #loop(): RunEnd {
    const cpu = this.#cpu;
    let block = 0;
    for (;;) {
      this.#returnStolen();
      if (this.#flushPending) {
        this.#flushPending = false;
        this.#clear();
        cpu.mmu.flush();
        block = 0;
      }
      if (this.#exitRequested) return 'slice';
      if (block === 0) {
        const shadow = cpu.get32(CTL.interruptShadow);
        if (shadow === 0 && cpu.get32(CTL.nmiPending) !== 0 && cpu.get32(CTL.nmiBlocked) === 0) {
          cpu.set32(CTL.nmiPending, 0);
          if (deliverInterrupt(cpu, VECTOR.NMI, { type: 'nmi' }) === 'shutdown') return 'shutdown';
          continue;
        }
        if (shadow === 0 && cpu.interruptible && cpu.interruptWaits()) {
          const vector = cpu.interrupts.acknowledge();
          if (vector >= 0) {
            if (deliverInterrupt(cpu, vector, { type: 'external' }) === 'shutdown') return 'shutdown';
            continue;
          }
        }
        if (cpu.get32(CTL.halted) !== 0) return 'halt';
        const left = cpu.i32[CTL.budget >> 2]!;
        if (left <= 0) return 'slice';
        if (shadow !== 0 || (cpu.get32(CTL.modeKey) & MODE.single) !== 0) {
          const end = this.#step();
          if (end) return end;
          continue;
        }
      }
      const reason = this.#run(block);
      block = 0;
      switch (reason) {
        case EXIT.miss: {
          // An event asked for attention on the way here: it comes first.
          if (this.#stolen !== 0) break;
          const found = this.#findBlock(BLOCK_INSTRUCTIONS_MAX);
          if (typeof found === 'string') return found;
          block = found;
          break;
        }
        case EXIT.hot: {
          const hot = cpu.get32(CTL.currentBlock);
          this.#translate(() => this.#translator.request(this.#blocks.at(hot)));
          // An event asked for attention on the way here: it comes first.
          if (this.#stolen === 0) block = hot;
          break;
        }
        case EXIT.budget:
          if (this.#stolen === 0 && !this.#exact) return 'slice';
          if (this.#stolen === 0 && cpu.i32[CTL.budget >> 2]! > 0) {
            // The next block is longer than what is left: one instruction at a time to the exact count.
            const end = this.#step();
            if (end) return end;
          }
          break;
        case EXIT.fault: {
          const end = this.#fault();
          if (end) return end;
          break;
        }
        case EXIT.check:
          this.#settlePatch();
          break;
        case EXIT.limit: {
          const end = this.#step();
          if (end) return end;
          break;
        }
        default:
          throw new Error(`the interpreter returned ${reason}`);
      }
    }
  }

  /**
   * Executes exactly one instruction, with what comes with that: breakpoints, RF, the trap after it, the end of the
   * interrupt shadow. A fault is delivered.
   */
  #step(): RunEnd | undefined {
    const cpu = this.#cpu;
    const shadow = cpu.get32(CTL.interruptShadow);
    const flags = cpu.get32(FLAGS_SYSTEM);
    const debugging = (flags & FLAG_TF) !== 0 || (cpu.get32(DR7) & 0xff) !== 0;
    if (debugging && (flags & FLAG_RF) === 0 && (shadow & 2) === 0) {
      const hits = instructionBreakpoint(cpu, this.#codeAddress());
      if (hits !== 0) return this.#deliverDebug(hits);
    }
    // What MOV SS held off is told of after this instruction.
    if ((shadow & 2) === 0) cpu.set32(CTL.pendingDebug, 0);
    const ripBefore = cpu.rip;
    const forced = (cpu.get32(CTL.modeKey) & MODE.single) === 0;
    if (forced) cpu.set32(CTL.modeKey, cpu.get32(CTL.modeKey) | MODE.single);
    const found = this.#findBlock(1);
    if (typeof found === 'string') {
      if (forced) cpu.updateMode();
      return found === 'slice' ? undefined : found;
    }
    if (found === 0) {
      if (forced) cpu.updateMode();
      return undefined;
    }
    const left = cpu.i32[CTL.budget >> 2]!;
    const stolen = this.#stolen;
    this.#granted -= left - 1;
    cpu.i32[CTL.budget >> 2] = 1;
    let reason: number;
    try {
      reason = this.#run(found);
    } finally {
      this.#returnStolen();
      this.#granted += left - 1;
      cpu.i32[CTL.budget >> 2]! += left - 1;
      this.#stolen = stolen;
    }
    if (forced) cpu.updateMode();
    if (reason === EXIT.fault) return this.#fault();
    this.#settlePatch();
    // The shadow covered this instruction; one that this instruction made covers the next.
    const after = cpu.get32(CTL.interruptShadow);
    if (after === shadow) cpu.set32(CTL.interruptShadow, 0);
    // An instruction with REP is not done before its last iteration: until then RF stays.
    const repeating = cpu.rip === ripBefore && this.#hasRepPrefix(this.#blocks.at(found));
    if ((flags & FLAG_RF) !== 0 && !repeating) {
      cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) & ~FLAG_RF);
      cpu.updateMode();
    }
    if (!debugging) return undefined;
    let causes = cpu.get32(CTL.pendingDebug);
    if ((flags & FLAG_TF) !== 0) causes |= DR6_BS;
    if (causes === 0 || (cpu.get32(CTL.interruptShadow) & 2) !== 0) return undefined;
    if (repeating) cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) | FLAG_RF);
    return this.#deliverDebug(causes);
  }

  /** Whether the block's first instruction carries REP or REPNE. */
  #hasRepPrefix({ code, bytes }: CachedBlock): boolean {
    const { u8 } = this.#cpu;
    for (let at = code; at < code + bytes; at++) {
      const byte = u8[at]!;
      if (byte === 0xf2 || byte === 0xf3) return true;
      if (!isPrefix(byte)) return false;
    }
    return false;
  }

  #deliverDebug(causes: number): RunEnd | undefined {
    const fault = raiseDebug(this.#cpu, causes);
    return deliverException(this.#cpu, fault.vector, fault.errorCode) === 'shutdown' ? 'shutdown' : undefined;
  }

  /** Delivers the fault recorded in CTL at the micro-op that left. */
  #fault(): RunEnd | undefined {
    const cpu = this.#cpu;
    const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
    const index = this.#blocks.instructionAt(block, cpu.get32(CTL.exitUop));
    // Neither the faulting instruction nor those after it were executed.
    cpu.i32[CTL.budget >> 2]! += block.count - index;
    this.#restorePatch();
    const rip = this.#ipAt(block, this.#blocks.instructionStart(block, index).offset);
    cpu.set64(RIP, rip);
    cpu.set32(CTL.interruptShadow, 0);
    // The one #DB that is a fault of an instruction is general detect, and as a fault it pushes RF set.
    if (cpu.get32(CTL.faultVector) === VECTOR.DB) {
      cpu.set32(FLAGS_SYSTEM, cpu.get32(FLAGS_SYSTEM) | FLAG_RF);
    }
    return deliverException(cpu, cpu.get32(CTL.faultVector), cpu.get32(CTL.faultCode)) === 'shutdown'
      ? 'shutdown'
      : undefined;
  }

  #ipAt(block: CachedBlock, offset: number): bigint {
    const bits = codeSizeOf(block.modeKey);
    return BigInt.asUintN(bits, this.#cpu.rip + BigInt(offset));
  }

  // ---- finding and making blocks -------------------------------------------------------------------------------

  /** Linear address of the next instruction. */
  #codeAddress(): number {
    const { u32, i32 } = this.#cpu;
    const base = u32[CTL.codeBase >> 2]!;
    const low = u32[RIP >> 2]!;
    const mode = u32[CTL.modeKey >> 2]! & MODE.codeSizeMask;
    if (mode === MODE.code64) return i32[(RIP >> 2) + 1]! * TWO_32 + low;
    return (base + low) % TWO_32;
  }

  /**
   * The block at RIP, its arena address. A fault in fetching it is delivered: 0 then (or 'shutdown'); 'slice' never
   * comes from here but stands for "nothing to run, go round again".
   */
  #findBlock(maxInstructions: number): number | 'shutdown' | 'slice' {
    const cpu = this.#cpu;
    const modeKey = cpu.get32(CTL.modeKey);
    const linear = this.#codeAddress();
    const limit = cpu.get32(CTL.codeLimit);
    const offset = (modeKey & MODE.codeSizeMask) === MODE.code64 ? 0 : cpu.get32(RIP);
    if (offset > limit) return this.#deliverAtRip(VECTOR.GP, 0);
    const code = cpu.mmu.fetchPage(linear);
    if (code === -1) return this.#deliverAtRip(cpu.get32(CTL.faultVector), cpu.get32(CTL.faultCode));
    if (code >= 0) {
      const known = this.#blocks.find(code, modeKey);
      const fits = known && offset + known.bytes - 1 <= limit;
      if (
        fits &&
        (known.secondPage < 0 || cpu.mmu.fetchPage(nextPage(linear, modeKey)) === known.secondPage)
      ) {
        return known.address;
      }
    }
    return this.#makeBlock(linear, code, modeKey, maxInstructions, limit - offset);
  }

  #makeBlock(
    linear: number,
    code: number,
    modeKey: number,
    maxInstructions: number,
    roomInSegment: number,
  ): number | 'shutdown' {
    const cpu = this.#cpu;
    const started = performance.now();
    const inPage = PAGE - (linear & (PAGE - 1));
    let bytes =
      code >= 0
        ? cpu.u8.subarray(code, code + Math.min(inPage, BLOCK_BYTES_MAX))
        : this.#readDevice(linear, inPage);
    let secondPage = -1;
    let lifted = liftBlock(bytes, modeKey, code >= 0 ? maxInstructions : 1);
    if (!lifted) {
      // The first instruction runs into the next page, if the segment goes that far.
      if (roomInSegment < inPage) return this.#deliverAtRip(VECTOR.GP, 0);
      const next = nextPage(linear, modeKey);
      secondPage = cpu.mmu.fetchPage(next);
      if (secondPage === -1) return this.#deliverAtRip(cpu.get32(CTL.faultVector), cpu.get32(CTL.faultCode));
      const tail =
        secondPage >= 0
          ? cpu.u8.subarray(secondPage, secondPage + INSTRUCTION_BYTES_MAX)
          : this.#readDevice(next, INSTRUCTION_BYTES_MAX);
      const both = new Uint8Array(bytes.length + tail.length);
      both.set(bytes);
      both.set(tail, bytes.length);
      bytes = both;
      lifted = liftBlock(bytes, modeKey, 1);
      if (!lifted) throw new Error('an instruction longer than 15 bytes was not recognised');
    }
    if (lifted.bytes > roomInSegment + 1) {
      if (lifted.instructions.length === 1) return this.#deliverAtRip(VECTOR.GP, 0);
      return this.#makeBlock(linear, code, modeKey, 1, roomInSegment);
    }
    const block = this.#blocks.add(
      lifted,
      code,
      modeKey,
      secondPage,
      code >= 0 && secondPage !== DEVICE_PAGE,
    );
    cpu.accounting.count('translation');
    const ns = (performance.now() - started) * 1e6;
    cpu.accounting.addTime('translation', ns);
    this.#translationNs += ns;
    return block.address;
  }

  /** Code bytes from where no plain memory is. */
  #readDevice(linear: number, most: number): Uint8Array {
    const bytes = new Uint8Array(Math.min(most, INSTRUCTION_BYTES_MAX));
    const phys = this.#cpu.mmu.translate(linear, 2, this.#cpu.cpl === 3);
    if (phys < 0) throw new Error('a page that was just translated is gone');
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.#cpu.memory.read(phys + i, 1);
    return bytes;
  }

  #deliverAtRip(vector: number, errorCode: number): 0 | 'shutdown' {
    this.#cpu.set32(CTL.interruptShadow, 0);
    return deliverException(this.#cpu, vector, errorCode, getSigned(this.#cpu, RIP)) === 'shutdown'
      ? 'shutdown'
      : 0;
  }

  /** Runs the interpreter; afterwards the vCPU state is in the form TypeScript knows. */
  #run(block: number): number {
    this.#cpu.i32[CTL.callDepth >> 2] = 0;
    let reason = this.#interpret(block, 0);
    while (reason === EXIT.adapt) {
      const uop = this.#cpu.get32(CTL.exitUop);
      const left = this.#blocks.at(this.#cpu.get32(CTL.currentBlock));
      // An access that is translated as a callout would show a model registers that lag behind.
      if (!this.#intercepted) this.#translate(() => this.#translator.left(left, uop));
      this.#cpu.i32[CTL.callDepth >> 2] = 0;
      reason = this.#interpret(0, uop);
    }
    if (this.#cpu.u32[CTL.flagsKind >> 2] !== 0) this.#deferredFlags();
    return reason;
  }

  // ---- translated code -----------------------------------------------------------------------------------------

  #translate(work: () => void): void {
    const started = performance.now();
    work();
    this.#translationNs += (performance.now() - started) * 1e6;
  }

  #clear(): void {
    this.#translator.clear();
    this.#blocks.clear();
  }

  translatorStatistics(): TranslatorStatistics {
    return this.#translator.statistics();
  }

  /**
   * A memory access that is translated as a callout. Returns 0 to go on, 1 when it faults (nothing was done), 2 to leave
   * translated code after the operation.
   */
  #adaptedAccess(lo: number, hi: number, info: number, uop: number, write: boolean): number {
    const { mmu } = this.#cpu;
    const { drops } = this.#translator;
    const status = this.#slowAccess(() => (write ? mmu.slowStore(lo, hi, info) : mmu.slowLoad(lo, hi, info)));
    if (status !== 0) return 1;
    const block = this.#blocks.at(this.#cpu.get32(CTL.currentBlock));
    this.#translator.accessed(block, uop, () => accessCause(mmu, lo, hi, info, write));
    return this.#stolen !== 0 || this.#patch || this.#translator.drops !== drops ? 2 : 0;
  }

  /** For the translation inspector (inspector/inspect.ts); between runs. */
  get translator(): Translator {
    return this.#translator;
  }

  #regionCallout(id: number, uop: number): number {
    const cpu = this.#cpu;
    if (cpu.u32[CTL.flagsKind >> 2] !== 0) this.#deferredFlags();
    const { drops } = this.#translator;
    const modeKey = cpu.u32[CTL.modeKey >> 2];
    if (this.#callout(id, uop) !== 0) return REGION.fault;
    const same = cpu.u32[CTL.modeKey >> 2] === modeKey && this.#translator.drops === drops;
    if (same && this.#stolen === 0 && !this.#patch) return 0;
    cpu.set32(CTL.exitUop, uop + UOP.size);
    return REGION.resume;
  }

  // ---- callouts ------------------------------------------------------------------------------------------------

  #callout(id: number, uop: number): number {
    const cpu = this.#cpu;
    const { u16 } = cpu;
    const at = uop >> 1;
    this.#calloutCounts[id]!++;
    // The counts start anew with each run; which callouts are timed must not depend on that.
    const started = ++this.#calloutTicks[id]! % TIMED_EVERY === 0 ? performance.now() : -1;
    this.#inCallout = true;
    try {
      this.#calloutFunctions[id]!(
        cpu,
        u16[at + 1]!,
        u16[at + 2]!,
        u16[at + 3]!,
        cpu.i32[(uop + 8) >> 2]!,
        u16[at + 6]!,
      );
      return 0;
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      cpu.set32(CTL.faultVector, error.vector);
      cpu.set32(CTL.faultCode, error.errorCode);
      return 1;
    } finally {
      this.#inCallout = false;
      if (started >= 0) {
        const ns = (performance.now() - started) * 1e6;
        cpu.accounting.addTime(this.#calloutReasons[id]!, ns);
        this.#exitNs += ns * TIMED_EVERY;
      }
    }
  }

  /**
   * Puts a model of hardware virtualization between the guest's code and what it asks of the processor, or (undefined)
   * takes it away. Between runs only.
   */
  intercept(intercepts: Intercepts | undefined): void {
    this.#calloutFunctions = callouts().map((callout) => intercepts?.wrap(callout) ?? callout.run);
    this.#intercepted = intercepts !== undefined;
    this.#cpu.intercepts = intercepts;
    this.#cpu.mmu.observe(intercepts);
  }

  /** RIP of the instruction that is being executed, and of the next, also while TypeScript runs on wasm's stack. */
  position(): { rip: bigint; next: bigint } {
    const cpu = this.#cpu;
    if (!this.#inCallout) return { rip: cpu.rip, next: cpu.rip };
    const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
    const index = this.#blocks.instructionAt(block, cpu.get32(CTL.exitUop));
    const next =
      index + 1 < block.count ? this.#blocks.instructionStart(block, index + 1).offset : block.bytes;
    return {
      rip: this.#ipAt(block, this.#blocks.instructionStart(block, index).offset),
      next: this.#ipAt(block, next),
    };
  }

  /** Splits the time of a run. */
  #spendTime(ns: number): void {
    const { accounting } = this.#cpu;
    const translation = Math.min(ns, this.#translationNs);
    const exits = Math.min(ns - translation, this.#exitNs);
    accounting.spend('translation', translation);
    accounting.spend('exits', exits);
    accounting.spend('guest', ns - translation - exits);
    this.#translationNs = 0;
    this.#exitNs = 0;
  }

  /** A memory access that the TLB did not serve. */
  #slowAccess(access: () => number): number {
    this.#inCallout = true;
    const started = ++this.#slowAccesses % TIMED_EVERY === 0 ? performance.now() : -1;
    const status = access();
    this.#inCallout = false;
    if (started >= 0) this.#exitNs += (performance.now() - started) * 1e6 * TIMED_EVERY;
    return status;
  }

  #flushCounts(executed: number): void {
    const { accounting } = this.#cpu;
    accounting.instructions += executed;
    accounting.count('slice');
    this.#cpu.mmu.collectCounts();
    const quickly = (reason: ExitReason, counter: number): void => {
      const count = this.#cpu.get32(counter);
      if (count === 0) return;
      accounting.count(reason, count);
      this.#cpu.set32(counter, 0);
    };
    quickly('descriptor', CTL.quickSegmentLoads);
    quickly('systemCall', CTL.quickSystemCalls);
    const counts = this.#calloutCounts;
    for (let id = 0; id < counts.length; id++) {
      const count = counts[id]!;
      if (count === 0) continue;
      accounting.count(this.#calloutReasons[id]!, count);
      counts[id] = 0;
    }
  }

  // ---- events --------------------------------------------------------------------------------------------------

  /** The state never is elsewhere than in the arena. */
  leave(): void {
    return;
  }

  requestExit(): void {
    this.#exitRequested = true;
    this.#attention();
  }

  /** Makes the interpreter come back: before the next block, or after this instruction when one is in a callout. */
  #attention(): void {
    const { i32 } = this.#cpu;
    const left = i32[CTL.budget >> 2]!;
    if (this.#granted === 0) return;
    if (left > 0) {
      this.#stolen += left;
      i32[CTL.budget >> 2] = 0;
    }
    if (this.#inCallout) this.#endAfterInstruction();
  }

  #returnStolen(): void {
    if (this.#stolen === 0) return;
    this.#cpu.i32[CTL.budget >> 2]! += this.#stolen;
    this.#stolen = 0;
  }

  /** Makes the current block end after the instruction that is being executed. */
  #endAfterInstruction(): void {
    if (this.#patch) return;
    const cpu = this.#cpu;
    const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
    const next = this.#blocks.instructionAt(block, cpu.get32(CTL.exitUop)) + 1;
    if (next >= block.count) return;
    const place = this.#blocks.instructionStart(block, next);
    this.#patch = {
      block,
      uop: place.uop,
      saved: patchEnd(this.#arena, place.uop, codeSizeOf(block.modeKey), place.offset),
      rest: block.count - next,
    };
  }

  /** After EXIT.check: undoes a patch, and the count of the instructions it cut off, when it was the patch that ended the block. */
  #settlePatch(): void {
    const patch = this.#patch;
    if (!patch) return;
    this.#cpu.i32[CTL.budget >> 2]! += patch.rest;
    this.#restorePatch();
  }

  #restorePatch(): void {
    const patch = this.#patch;
    if (!patch) return;
    this.#cpu.u8.set(patch.saved, patch.uop);
    this.#patch = undefined;
  }

  /** Instructions retired so far, exact also in the middle of a block while a callout runs. */
  #instructionCount(): number {
    const cpu = this.#cpu;
    let count = Number(cpu.get64(CTL.instructions));
    if (this.#granted === 0) return count;
    count += this.#granted - cpu.i32[CTL.budget >> 2]! - this.#stolen;
    if (this.#inCallout) {
      const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
      count -= block.count - this.#blocks.instructionAt(block, cpu.get32(CTL.exitUop));
    }
    return count;
  }

  // ---- memory that changes -------------------------------------------------------------------------------------

  #codeWritten(address: number, size: number): void {
    const cpu = this.#cpu;
    const killed = this.#blocks.invalidate(address, size);
    if (killed === 0) return;
    cpu.accounting.count('selfModifyingCode');
    if (this.#inCallout && this.#blocks.at(cpu.get32(CTL.currentBlock)).dead) this.#endAfterInstruction();
  }

  memoryChanged(phys: number, length: number): void {
    for (let at = phys; at < phys + length;) {
      const size = Math.min(PAGE - (at % PAGE), phys + length - at);
      const { arena } = this.#cpu.memory.backing(at);
      if (arena >= 0) {
        this.#codeWritten(arena + (at % PAGE), size);
        this.#cpu.mmu.memoryChanged(arena + (at % PAGE), size);
      }
      at += size;
    }
  }

  flush(): void {
    this.#flushPending = true;
    // What the TLB says is wrong from now on; the block being executed may end first.
    this.#cpu.mmu.flush();
    if (this.#granted > 0) this.#attention();
  }

  dispose(): void {
    this.#clear();
    this.#cpu.mmu.onCodeWrite = () => undefined;
    this.#cpu.onAttention = () => undefined;
  }
}

/** Why plain translated code could not have done an access, which has filled the TLB where it can be filled. */
function accessCause(mmu: Mmu, lo: number, hi: number, info: number, write: boolean): AccessCause {
  if ((lo & (PAGE - 1)) + (info & SLOW.sizeMask) > PAGE) return 'page crossing';
  const linear = hi * TWO_32 + (lo >>> 0);
  const forWrite = write || (info & SLOW.writeIntent) !== 0;
  if (mmu.isCached(linear, forWrite ? ACCESS.write : ACCESS.read)) return 'none';
  return write && mmu.isCached(linear, ACCESS.read) ? 'code page' : 'device';
}

/** First linear address of the page after the one of `linear`. */
function nextPage(linear: number, modeKey: number): number {
  const next = linear + PAGE - (linear & (PAGE - 1));
  return (modeKey & MODE.codeSizeMask) === MODE.code64 ? next : next % TWO_32;
}
