import { ARENA, type Arena } from '../../../machine/arena.ts';
import { type CodeWriter, ModuleWriter } from '../../../wasm/writer.ts';
import type { TranslatorOptions } from '../../../protocol/machine-config.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { CTL, RIP, TLB } from '../../../x86/layout.ts';
import { type LiftedBlock, liftBlock } from '../../../x86/lift/block.ts';
import { MODE } from '../../../x86/mode.ts';
import type { BlockCache, CachedBlock } from '../block-cache.ts';
import { BLOCK, SITE } from '../exit.ts';
import { emitRegion } from './emit-region.ts';
import { declareRegionImports, type RegionImportValues } from './imports.ts';
import { buildRegion, type Region } from './region.ts';

const WASM_PAGE = 65536;
const PAGE = 4096;
const TWO_32 = 0x100000000;
/** Slots of the table that translated regions are called through: most regions alive. Slot 0 stays empty. */
const SLOTS = ARENA.regionSitesSize / (SITE.nodes * SITE.entrySize);
/** Regions waiting for a module of their own are compiled together when so many wait, or when a run ends. */
const BATCH_MAX = 8;
/** A block belongs into a region when it was executed at least once for so many executions of the threshold. */
const WARM_SHARE = 32;

/** A region that was translated. */
export interface Translation {
  readonly region: Region;
  readonly slot: number;
  readonly blocks: ReadonlySet<CachedBlock>;
  /** Its code changed: it is not entered again. */
  dead: boolean;
}

export interface TranslatorStatistics {
  /** Regions translated so far, and those alive. */
  translated: number;
  regions: number;
  /** Entries into regions from the dispatcher. */
  entries: number;
  /** WebAssembly modules and bytes made so far. */
  modules: number;
  bytes: number;
  invalidated: number;
}

/** Tier 1: makes WebAssembly of hot regions and keeps what it made. */
export class Translator {
  readonly #arena: Arena;
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;
  readonly #options: TranslatorOptions;
  readonly table: WebAssembly.Table;
  #imports: RegionImportValues | undefined;
  readonly #freeSlots: number[] = [];
  #nextSlot = 1;
  readonly #translations = new Set<Translation>();
  readonly #byBlock = new Map<CachedBlock, Set<Translation>>();
  #waiting: { translation: Translation; code: CodeWriter }[] = [];
  #imported = declareRegionImports(new ModuleWriter());
  #translated = 0;
  #modules = 0;
  #bytes = 0;
  #invalidated = 0;
  #pastEntries = 0;

  constructor({
    arena,
    cpu,
    blocks,
    options,
  }: {
    arena: Arena;
    cpu: Cpu;
    blocks: BlockCache;
    options: TranslatorOptions;
  }) {
    this.#arena = arena;
    this.#cpu = cpu;
    this.#blocks = blocks;
    this.#options = options;
    this.table = new WebAssembly.Table({ element: 'anyfunc', initial: SLOTS, maximum: SLOTS });
  }

  /** What regions call; known once the interpreter's module stands. */
  connect(imports: RegionImportValues): void {
    this.#imports = imports;
  }

  /** A block came to its threshold: translates the region it starts. It is entered once `flush` was called. */
  request(block: CachedBlock): void {
    if (block.dead || (block.modeKey & MODE.single) !== 0) return;
    const region = buildRegion(block, {
      block: (code, modeKey) => this.#blocks.peek(code, modeKey),
      warm: (candidate) => this.#isWarm(candidate),
      chaining: this.#options.chaining,
      oneUserBank: this.#options.addressSpaces === 'flush',
      lift: (candidate) => this.#lift(candidate),
      page: (pages) => this.#pageAfter(block, pages),
    });
    if (!region) return;
    const slot = this.#freeSlots.pop() ?? this.#nextSlot;
    if (slot >= SLOTS) return;
    if (slot === this.#nextSlot) this.#nextSlot++;
    const translation: Translation = {
      region,
      slot,
      blocks: new Set(region.nodes.map((node) => node.block)),
      dead: false,
    };
    this.#waiting.push({ translation, code: this.#emit(region, slot) });
    for (const part of translation.blocks) {
      const list = this.#byBlock.get(part);
      if (list) list.add(translation);
      else this.#byBlock.set(part, new Set([translation]));
    }
    this.#translations.add(translation);
    this.#translated++;
    if (this.#waiting.length >= BATCH_MAX) this.flush();
  }

  #emit(region: Region, slot: number): CodeWriter {
    const table = ARENA.regionSites + slot * SITE.nodes * SITE.entrySize;
    const { u32, i32 } = this.#arena;
    return emitRegion(region, this.#imported, table, (node, unpaid) => {
      const entry = table + node.order * SITE.entrySize;
      u32[(entry + SITE.block) >> 2] = node.block.address;
      i32[(entry + SITE.delta) >> 2] = node.delta;
      i32[(entry + SITE.unpaid) >> 2] = unpaid;
    });
  }

  /** Compiles what waits; from now on the dispatcher finds it. */
  flush(): void {
    const batch = this.#waiting.filter(({ translation }) => !translation.dead);
    this.#waiting = [];
    if (batch.length === 0) return;
    if (!this.#imports) throw new Error('the translator is not connected');
    const module = new ModuleWriter();
    module.importTable(SLOTS);
    declareRegionImports(module);
    for (const { translation, code } of batch) {
      const index = module.declare([], [I32_RESULT]);
      module.define(index, code);
      module.element(translation.slot, index);
    }
    const bytes = module.finish(this.#arena.buffer.byteLength / WASM_PAGE);
    this.#bytes += bytes.length;
    this.#modules++;
    new WebAssembly.Instance(new WebAssembly.Module(bytes), {
      env: { memory: this.#arena.memory, table: this.table, ...this.#imports },
    });
    for (const { translation } of batch) {
      this.#arena.u32[(translation.region.entry.block.address + BLOCK.region) >> 2] = translation.slot;
    }
  }

  /** A block's code changed: the regions that hold it are not entered again. */
  blockDied(block: CachedBlock): void {
    const list = this.#byBlock.get(block);
    if (!list) return;
    for (const translation of list) this.#drop(translation);
  }

  #drop(translation: Translation): void {
    translation.dead = true;
    this.#invalidated++;
    this.#translations.delete(translation);
    const { address } = translation.region.entry.block;
    const { u32, i32 } = this.#arena;
    u32[(address + BLOCK.region) >> 2] = 0;
    this.#pastEntries += u32[(address + BLOCK.entries) >> 2]!;
    u32[(address + BLOCK.entries) >> 2] = 0;
    // Hot again, it is translated anew.
    i32[(address + BLOCK.heat) >> 2] = this.#options.threshold;
    this.table.set(translation.slot, null);
    this.#freeSlots.push(translation.slot);
    for (const part of translation.blocks) {
      const list = this.#byBlock.get(part);
      list?.delete(translation);
      if (list?.size === 0) this.#byBlock.delete(part);
    }
  }

  /** Forgets everything: the block cache was emptied. */
  clear(): void {
    for (const translation of [...this.#translations]) this.#drop(translation);
    this.#waiting = [];
  }

  statistics(): TranslatorStatistics {
    let entries = this.#pastEntries;
    for (const { region } of this.#translations) {
      entries += this.#arena.u32[(region.entry.block.address + BLOCK.entries) >> 2]!;
    }
    return {
      translated: this.#translated,
      regions: this.#translations.size,
      entries,
      modules: this.#modules,
      bytes: this.#bytes,
      invalidated: this.#invalidated,
    };
  }

  // ---- what regions are made of --------------------------------------------------------------------------------

  #isWarm(block: CachedBlock): boolean {
    const { threshold } = this.#options;
    const executed = threshold - this.#arena.i32[(block.address + BLOCK.heat) >> 2]!;
    return executed * WARM_SHARE >= threshold;
  }

  /** The IR of a block, anew: the same operations as its micro-ops, as its code did not change. */
  #lift(block: CachedBlock): LiftedBlock | undefined {
    const { u8 } = this.#arena;
    const inFirst = Math.min(block.bytes, PAGE - (block.code & (PAGE - 1)));
    let bytes = u8.subarray(block.code, block.code + inFirst);
    if (inFirst < block.bytes) {
      const both = new Uint8Array(block.bytes);
      both.set(bytes);
      both.set(u8.subarray(block.secondPage, block.secondPage + block.bytes - inFirst), inFirst);
      bytes = both;
    }
    const lifted = liftBlock(bytes, block.modeKey, block.instructions.length);
    // A block cut short by CS's limit, say, is not what the bytes alone give.
    return lifted?.instructions.length === block.instructions.length ? lifted : undefined;
  }

  /** Arena address of the linear page `pages` after that of a block's start, -1 when the TLB does not know it. */
  #pageAfter(block: CachedBlock, pages: number): number {
    const { u32, i32 } = this.#cpu;
    const code64 = (block.modeKey & MODE.codeSizeMask) === MODE.code64;
    const rip = i32[(RIP >> 2) + 1]! * TWO_32 + u32[RIP >> 2]!;
    let linear = rip + (code64 ? 0 : u32[CTL.codeBase >> 2]!) + pages * PAGE;
    if (!code64) linear = ((linear % TWO_32) + TWO_32) % TWO_32;
    const page = Math.floor(linear / PAGE);
    const entry = (u32[CTL.tlbBank >> 2]! + (page & (TLB.entries - 1)) * TLB.entrySize) >> 2;
    const low = (linear | 0) & -PAGE;
    if (i32[entry + (TLB.execTag >> 2)] !== low) return -1;
    if (i32[entry + (TLB.execTag >> 2) + 1] !== Math.floor(linear / TWO_32)) return -1;
    return (low + i32[entry + (TLB.addend >> 2)]!) >>> 0;
  }
}

const I32_RESULT = 0x7f;
