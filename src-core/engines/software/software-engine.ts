import type { Arena } from '../../machine/arena.ts';
import { FLAG_RF, FLAG_TF } from '../../x86/bits.ts';
import type { TranslatorStatistics } from '../../protocol/inspection.ts';
import { type TranslatorOptions, translatorOptionsSchema } from '../../protocol/machine-config.ts';
import type { Cpu } from '../../x86/cpu.ts';
import { isPrefix } from '../../x86/decoder.ts';
import { DR6_BS, instructionBreakpoint, raiseDebug } from '../../x86/debug.ts';
import { VECTOR } from '../../x86/faults.ts';
import { deliverException, deliverInterrupt } from '../../x86/interrupts.ts';
import { CTL, DR7, FLAGS_SYSTEM, RIP } from '../../x86/layout.ts';
import { BLOCK_INSTRUCTIONS_MAX } from '../../x86/lift/block.ts';
import type { Intercepts } from '../../x86/intercepts.ts';
import { codeSizeOf, MODE } from '../../x86/mode.ts';
import { ACCESS, type Mmu, SLOW } from '../../x86/mmu.ts';
import type { Engine, RunEnd } from '../engine.ts';
import { BlockCache } from './block-cache.ts';
import { type CachedBlock, instructionAt, instructionStart } from './cached-block.ts';
import { Callouts } from './callouts.ts';
import { CodeFetch } from './code-fetch.ts';
import { EarlyEnd } from './early-end.ts';
import { EXIT, REGION, UOP } from './exit.ts';
import type { AccessCause } from './translator/adaptation.ts';
import { Translator } from './translator/translator.ts';
import { generateInterpreter, type InterpreterImports } from './interpreter/module.ts';
import { RunTime } from './run-time.ts';

const WASM_PAGE = 65536;
const PAGE = 4096;
const TWO_32 = 0x100000000;
/** Executions until a block is hot, for a tier that never is. */
const NEVER_HOT = 0;
/** One compiled interpreter for each size of memory (the import must match it). */
const modules = new Map<number, WebAssembly.Module>();

function interpreterModule(pages: number): WebAssembly.Module {
  let module = modules.get(pages);
  if (!module) modules.set(pages, (module = new WebAssembly.Module(generateInterpreter(pages))));
  return module;
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
  readonly #time = new RunTime(() => this.#overdue());
  readonly #callouts: Callouts;
  readonly #fetch: CodeFetch;
  readonly #earlyEnd: EarlyEnd;
  readonly #interpret: (block: number, uop: number) => number;
  readonly #deferredFlags: () => void;
  /** Budget taken away to make the interpreter come back for an event. */
  #stolen = 0;
  #exitRequested = false;
  #exact = false;
  /** Where a run's instructions are counted from. */
  #granted = 0;
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
        isHeld: (block) => this.#translator.holds(block),
        onDeath: (block) => this.#translator.blockDied(block),
        onEviction: (block) => this.#translator.blockEvicted(block),
        ...(microOpBytes !== undefined && { size: microOpBytes, sizeMax: microOpBytes }),
        onRewritten:
          translator.tier > 0 && translator.adaptive
            ? () => {
                cpu.accounting.adapted('rewritten code');
              }
            : undefined,
      },
    );
    this.#translator = new Translator({
      arena,
      cpu,
      blocks: this.#blocks,
      time: this.#time,
      options: translator,
      ...(regionSlots !== undefined && { slots: regionSlots }),
    });
    this.#callouts = new Callouts(cpu, this.#time);
    this.#fetch = new CodeFetch(cpu, this.#blocks, this.#time);
    this.#earlyEnd = new EarlyEnd(arena, cpu, this.#blocks);
    const pages = arena.buffer.byteLength / WASM_PAGE;
    const instance = new WebAssembly.Instance(interpreterModule(pages), {
      env: {
        memory: arena.memory,
        table: this.#translator.table,
        slowLoad: (lo: number, hi: number, info: number): number =>
          this.#callouts.access(() => cpu.mmu.slowLoad(lo, hi, info)),
        slowStore: (lo: number, hi: number, info: number): number =>
          this.#callouts.access(() => cpu.mmu.slowStore(lo, hi, info)),
        callout: (id: number, uop: number): number => this.#callouts.call(id, uop),
      } satisfies InterpreterImports & { memory: WebAssembly.Memory; table: WebAssembly.Table },
    });
    this.#interpret = instance.exports.run as (block: number, uop: number) => number;
    this.#deferredFlags = instance.exports.deferredFlags as () => void;
    this.#translator.connect({
      deferredFlags: instance.exports.deferredFlags as WebAssembly.ExportValue,
      locateLoad: instance.exports.locateLoad as WebAssembly.ExportValue,
      locateStore: instance.exports.locateStore as WebAssembly.ExportValue,
      regionLookup: instance.exports.regionLookup as WebAssembly.ExportValue,
      stringRun: instance.exports.stringRun as WebAssembly.ExportValue,
      interruptReturn: instance.exports.interruptReturn as WebAssembly.ExportValue,
      controlRead: instance.exports.controlRead as WebAssembly.ExportValue,
      compareStrings: instance.exports.compareStrings as WebAssembly.ExportValue,
      loadSegment: instance.exports.loadSegment as WebAssembly.ExportValue,
      sysenter: instance.exports.sysenter as WebAssembly.ExportValue,
      sysexit: instance.exports.sysexit as WebAssembly.ExportValue,
      syscall: instance.exports.syscall as WebAssembly.ExportValue,
      sysret: instance.exports.sysret as WebAssembly.ExportValue,
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

  run(maxInstructions: number, exact = false, maxNs = Infinity): RunEnd {
    const cpu = this.#cpu;
    this.#exact = exact;
    // What is to be repeated exactly must not depend on the host's time.
    this.#time.begin(exact ? Infinity : maxNs);
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
      cpu.accounting.instructions += executed;
      cpu.accounting.count('slice');
      cpu.mmu.collectCounts();
      this.#callouts.collectCounts();
      this.#time.end(cpu.accounting);
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
          const found = this.#fetch.block(BLOCK_INSTRUCTIONS_MAX);
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
          this.#earlyEnd.settle();
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
      const hits = instructionBreakpoint(cpu, this.#fetch.linear);
      if (hits !== 0) return this.#deliverDebug(hits);
    }
    // What MOV SS held off is told of after this instruction.
    if ((shadow & 2) === 0) cpu.set32(CTL.pendingDebug, 0);
    const ripBefore = cpu.rip;
    const forced = (cpu.get32(CTL.modeKey) & MODE.single) === 0;
    if (forced) cpu.set32(CTL.modeKey, cpu.get32(CTL.modeKey) | MODE.single);
    const found = this.#fetch.block(1);
    if (typeof found === 'string') {
      if (forced) cpu.updateMode();
      return found;
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
    this.#earlyEnd.settle();
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
    const index = instructionAt(this.#arena, block, cpu.get32(CTL.exitUop));
    // Neither the faulting instruction nor those after it were executed.
    cpu.i32[CTL.budget >> 2]! += block.count - index;
    this.#earlyEnd.undo();
    const rip = this.#ipAt(block, instructionStart(this.#arena, block, index).offset);
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

  /** Runs the interpreter; afterwards the vCPU state is in the form TypeScript knows. */
  #run(block: number): number {
    this.#cpu.i32[CTL.callDepth >> 2] = 0;
    let reason = this.#interpret(block, 0);
    while (reason === EXIT.adapt) {
      const uop = this.#cpu.get32(CTL.exitUop);
      const left = this.#blocks.at(this.#cpu.get32(CTL.currentBlock));
      this.#blocks.waitToLook(left);
      // An access that is translated as a callout would show a model registers that lag behind.
      if (!this.#callouts.intercepted) this.#translate(() => this.#translator.left(left, uop));
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
    this.#time.translated(started);
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
    const status = this.#callouts.access(() =>
      write ? mmu.slowStore(lo, hi, info) : mmu.slowLoad(lo, hi, info),
    );
    if (status !== 0) return 1;
    const block = this.#blocks.at(this.#cpu.get32(CTL.currentBlock));
    this.#translator.accessed(block, uop, () => accessCause(mmu, lo, hi, info, write));
    return this.#stolen !== 0 || this.#earlyEnd.pending || this.#translator.drops !== drops ? 2 : 0;
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
    if (this.#callouts.call(id, uop) !== 0) return REGION.fault;
    const same = cpu.u32[CTL.modeKey >> 2] === modeKey && this.#translator.drops === drops;
    if (same && this.#stolen === 0 && !this.#earlyEnd.pending) return 0;
    cpu.set32(CTL.exitUop, uop + UOP.size);
    return REGION.resume;
  }

  /**
   * Puts a model of hardware virtualization between the guest's code and what it asks of the processor, or (undefined)
   * takes it away. Between runs only.
   */
  intercept(intercepts: Intercepts | undefined): void {
    this.#callouts.intercept(intercepts);
  }

  /** RIP of the instruction that is being executed, and of the next, also while TypeScript runs on wasm's stack. */
  position(): { rip: bigint; next: bigint } {
    const cpu = this.#cpu;
    if (!this.#callouts.active) return { rip: cpu.rip, next: cpu.rip };
    const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
    const index = instructionAt(this.#arena, block, cpu.get32(CTL.exitUop));
    const next =
      index + 1 < block.count ? instructionStart(this.#arena, block, index + 1).offset : block.bytes;
    return {
      rip: this.#ipAt(block, instructionStart(this.#arena, block, index).offset),
      next: this.#ipAt(block, next),
    };
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

  /** The run has taken its time: ends it, if it has come anywhere. */
  #overdue(): void {
    if (this.#granted - this.#cpu.i32[CTL.budget >> 2]! - this.#stolen > 0) this.requestExit();
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
    if (this.#callouts.active) this.#earlyEnd.afterInstruction();
  }

  #returnStolen(): void {
    if (this.#stolen === 0) return;
    this.#cpu.i32[CTL.budget >> 2]! += this.#stolen;
    this.#stolen = 0;
  }

  /** Instructions retired so far, exact also in the middle of a block while a callout runs. */
  #instructionCount(): number {
    const cpu = this.#cpu;
    let count = Number(cpu.get64(CTL.instructions));
    if (this.#granted === 0) return count;
    count += this.#granted - cpu.i32[CTL.budget >> 2]! - this.#stolen;
    if (this.#callouts.active) {
      const block = this.#blocks.at(cpu.get32(CTL.currentBlock));
      count -= block.count - instructionAt(this.#arena, block, cpu.get32(CTL.exitUop));
    }
    return count;
  }

  // ---- memory that changes -------------------------------------------------------------------------------------

  #codeWritten(address: number, size: number): void {
    const cpu = this.#cpu;
    const killed = this.#blocks.invalidate(address, size);
    if (killed === 0) return;
    cpu.accounting.count('selfModifyingCode');
    if (!this.#callouts.active) return;
    if (this.#blocks.at(cpu.get32(CTL.currentBlock)).dead) this.#earlyEnd.afterInstruction();
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
