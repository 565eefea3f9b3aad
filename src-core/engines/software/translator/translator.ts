import { ARENA, type Arena } from '../../../machine/arena.ts';
import { type OpDef, ops } from '../../../ir/op.ts';
import '../../../ir/ops/index.ts';
import { type CodeWriter, ModuleWriter } from '../../../wasm/writer.ts';
import type { TranslatorStatistics } from '../../../protocol/inspection.ts';
import type { TranslatorOptions } from '../../../protocol/machine-config.ts';
import type { Cpu } from '../../../x86/cpu.ts';
import { type LiftedBlock, liftBlock } from '../../../x86/lift/block.ts';
import { MODE } from '../../../x86/mode.ts';
import type { BlockCache } from '../block-cache.ts';
import type { CachedBlock } from '../cached-block.ts';
import { BLOCK, ENTRY, SITE, UOP } from '../exit.ts';
import type { RunTime } from '../run-time.ts';
import { type AccessCause, type AccessForm, Adaptations } from './adaptation.ts';
import { emitRegion, type RecordSite } from './emit-region.ts';
import { CodePlaces } from './code-places.ts';
import { declareRegionImports, type RegionImportValues } from './imports.ts';
import {
  buildRegion,
  controlKind,
  type Region,
  type RegionNode,
  type RegionSource,
  waysOf,
} from './region.ts';
import { Rings } from './rings.ts';
import type { FormOf } from './step.ts';
import { optimiseSoon } from './tiering.ts';
import { blocksOf, DropCounts, type OpenNode, siteTableOf, type Translation } from './translation.ts';
import { TranslationIndex } from './translation-index.ts';
import { warmUp } from './warm-up.ts';
import { WaysOn } from './ways-on.ts';

const WASM_PAGE = 65536;
const PAGE = 4096;
/** Slots of the table that translated regions are called through: most regions alive. Slot 0 stays empty. */
const SLOTS = ARENA.regionSitesSize / (SITE.nodes * SITE.entrySize);
/** Regions waiting for a module of their own are compiled together when so many wait. */
const BATCH_MAX = 8;
/** Or when they have so many bytes: V8 takes 30 ns for each. */
const BATCH_BYTES_MAX = 32_768;
/** Nodes of regions that are translated anew at once, the first region whatever it holds. */
const ANEW_NODES_MAX = 64;
/** Otherwise when so many runs (of 2 ms or less) have ended since the first of them waits. */
const TURNS_MAX = 5;
/** Loops in pieces are looked for each time so many runs have ended. */
const RUNS_PER_RING = 32;
/** Regions this many may stay though nothing enters them. */
const KEPT_MIN = 512;
/** Whether they are entered is looked at each time so many runs have ended: a second, when the guest is busy. */
const RUNS_PER_LOOK = 512;
/** They go when so many looks in a row saw no entry, so many after each run. */
const LOOKS_UNUSED_MAX = 4;
const RETIRED_PER_RUN = 16;
/** A block belongs into a region when it was executed at least once for so many executions of the threshold. */
const WARM_SHARE = 8;

/** What a region is grown from. */
interface Seed {
  readonly block: CachedBlock;
  /** Where it is to be entered too. */
  readonly wanted: ReadonlySet<CachedBlock>;
  /** Blocks to hold even if other regions are entered there. */
  readonly held: ReadonlySet<CachedBlock>;
}

/** A translation made again, for the inspector. */
export interface InspectedTranslation {
  readonly region: Region;
  readonly code: CodeWriter;
  /** Where each node's code starts, bytes from the function's first instruction. */
  readonly starts: ReadonlyMap<RegionNode, number>;
  /** Its nodes are the translation's. */
  readonly sameNodes: boolean;
  /** Also its code is as long as the translation's. */
  readonly faithful: boolean;
}

/** Tier 1: makes WebAssembly of hot regions and keeps what it made. */
export class Translator {
  readonly #arena: Arena;
  readonly #cpu: Cpu;
  readonly #blocks: BlockCache;
  readonly #time: RunTime;
  readonly #options: TranslatorOptions;
  readonly #adaptations: Adaptations;
  readonly #places: CodePlaces;
  readonly #ways: WaysOn;
  /** Blocks whose adaptations changed while they were being executed. */
  readonly #outdated = new Set<CachedBlock>();
  /** Dropped regions that are to be translated anew when their code is next executed, by where they begin. */
  readonly #seeds = new Map<CachedBlock, Seed>();
  readonly table: WebAssembly.Table;
  #imports: RegionImportValues | undefined;
  readonly #freeSlots: number[] = [];
  readonly #slots: number;
  #nextSlot = 1;
  readonly #translations = new Set<Translation>();
  /** Translations by where they are entered. */
  readonly #byEntry = new Map<CachedBlock, Translation>();
  /** Translations by the blocks they hold, and by those whose regions they go on to. */
  readonly #byBlock = new TranslationIndex();
  readonly #byChain = new TranslationIndex();
  #waiting: { translation: Translation; code: CodeWriter }[] = [];
  #waitingBytes = 0;
  #imported = declareRegionImports(new ModuleWriter());
  #translated = 0;
  #modules = 0;
  #bytes = 0;
  #invalidated = 0;
  #pastEntries = 0;
  /** Runs that ended with regions waiting. */
  #turnsWaited = 0;
  /** Runs since it was looked which regions are entered, and those that are not any more. */
  #runs = 0;
  #unused: Translation[] = [];
  #retired = 0;
  readonly #drops = new DropCounts();
  readonly #rings = new Rings();

  constructor({
    arena,
    cpu,
    blocks,
    time,
    options,
    slots = SLOTS,
  }: {
    arena: Arena;
    cpu: Cpu;
    blocks: BlockCache;
    time: RunTime;
    options: TranslatorOptions;
    /** Most regions alive, and one. */
    slots?: number;
  }) {
    optimiseSoon();
    if (options.tier > 0) warmUp();
    this.#slots = slots;
    this.#arena = arena;
    this.#cpu = cpu;
    this.#blocks = blocks;
    this.#time = time;
    this.#options = options;
    this.#adaptations = new Adaptations(cpu.accounting);
    this.#places = new CodePlaces(cpu, blocks);
    this.#ways = new WaysOn(arena, options, cpu.accounting, this.#places);
    this.table = new WebAssembly.Table({ element: 'anyfunc', initial: SLOTS, maximum: SLOTS });
  }

  /** What regions call; known once the interpreter's module stands. */
  connect(imports: RegionImportValues): void {
    this.#imports = imports;
  }

  /**
   * A block came to its threshold: translates the region it starts, or anew one that holds it, to be entered there too.
   * It is entered once `flush` was called.
   */
  request(block: CachedBlock): void {
    if (block.dead || (block.modeKey & MODE.single) !== 0 || this.#byEntry.has(block)) return;
    const seed = this.#seeds.get(block);
    if (seed) {
      this.#seeds.delete(block);
      this.#translateFrom(seed);
      return;
    }
    for (const translation of this.#byBlock.of(block)) {
      if (!translation.nodes.some((node) => node.block === block && node.enterable)) continue;
      const again = this.#again(translation);
      again.wanted.add(block);
      this.#drop(translation);
      this.#translateFrom(again);
      break;
    }
    if (!this.#byEntry.has(block)) this.#translateFrom({ block, wanted: new Set(), held: new Set() });
  }

  /**
   * What makes a region again: with the blocks it holds, and entered also where these were executed outside of it since
   * it was made.
   */
  #again(translation: Translation): Seed & { wanted: Set<CachedBlock> } {
    const { entry, nodes, origin } = translation;
    const wanted = new Set(origin.wanted);
    for (const { block, enterable } of nodes) {
      if (enterable && this.#isWarmOutside(block)) wanted.add(block);
    }
    return { block: entry, wanted, held: blocksOf(translation) };
  }

  /** Translates the region that grows from a block, which stands at a linear address: RIP's unless given. */
  #translateFrom({ block, wanted, held: kept }: Seed, linear = this.#places.linearOf(block)): void {
    const pages = new Map<number, number>();
    const warm = new Set<CachedBlock>();
    const begun = new Set<CachedBlock>();
    const region = buildRegion(block, {
      ...this.#source,
      page: (distance) => {
        let page = pages.get(distance);
        if (page === undefined) {
          pages.set(distance, (page = this.#places.pageAfter(block.modeKey, linear, distance)));
        }
        return page;
      },
      via: (candidate, from, delta) => this.#ways.site(candidate, from, linear + delta),
      warm: (candidate) => {
        const isWarm = kept.has(candidate) || this.#isWarm(candidate);
        if (isWarm) warm.add(candidate);
        return isWarm;
      },
      wanted: (candidate) => wanted.has(candidate),
      begun: (candidate) => {
        const isBegun = !kept.has(candidate) && this.#isBegun(candidate, block);
        if (isBegun) begun.add(candidate);
        return isBegun;
      },
    });
    if (!region) return;
    const slot = this.#takeSlot();
    const code = this.#emit(region, slot);
    const translation: Translation = {
      id: this.#translated,
      entry: block,
      entries: region.entries
        .map(({ order, delta, block: at }) => ({ node: order, delta, block: at }))
        .filter((entry) => !this.#byEntry.has(entry.block)),
      slot,
      origin: {
        linear,
        pages: [...pages],
        warm: [...warm],
        wanted: [...wanted],
        begun: [...begun],
        blocks: this.#blocks.count,
      },
      wasmBytes: code.code.length,
      nodes: region.nodes.map(({ block: held, delta, enterable }) => ({ block: held, delta, enterable })),
      ways: openNodes(region),
      chains: chainsOf(region),
      entriesSeen: 0,
      looksUnused: 0,
      dead: false,
    };
    this.#waiting.push({ translation, code });
    // That what is part of a region becomes hot by itself, it must be executed outside of it as often again.
    const blocks = blocksOf(translation);
    for (const held of blocks) {
      const heat = (held.address + BLOCK.heat) >> 2;
      this.#arena.i32[heat] = Math.max(this.#arena.i32[heat]!, this.#options.threshold);
    }
    for (const entry of translation.entries) this.#byEntry.set(entry.block, translation);
    this.#byBlock.enter(blocks, translation);
    this.#byChain.enter(translation.chains, translation);
    this.#translations.add(translation);
    this.#translated++;
    this.#waitingBytes += code.code.length;
    if (this.#waiting.length >= BATCH_MAX || this.#waitingBytes >= BATCH_BYTES_MAX) this.#compile();
  }

  /** A free slot of the table; where there is none, the oldest region makes way. */
  #takeSlot(): number {
    if (this.#freeSlots.length === 0 && this.#nextSlot >= this.#slots) {
      for (const oldest of this.#translations) {
        this.#drop(oldest);
        break;
      }
    }
    return this.#freeSlots.pop() ?? this.#nextSlot++;
  }

  #emit(region: Region, slot: number): CodeWriter {
    const table = siteTableOf(slot);
    const { u32, i32 } = this.#arena;
    return this.#emitFor(region, slot, (node, unpaid) => {
      const entry = table + node.order * SITE.entrySize;
      u32[(entry + SITE.block) >> 2] = node.block.address;
      i32[(entry + SITE.delta) >> 2] = node.delta;
      i32[(entry + SITE.unpaid) >> 2] = unpaid;
      u32[(entry + SITE.target) >> 2] = 0;
    });
  }

  /** How many regions were dropped: when this changes, code being executed may be stale. */
  get drops(): number {
    return this.#invalidated;
  }

  #emitFor(region: Region, slot: number, record: RecordSite): CodeWriter {
    const formOf: FormOf = (node, index) => this.#adaptations.formOf(node.block, index);
    return emitRegion(
      region,
      this.#imported,
      { siteTable: siteTableOf(slot), entries: entriesOf(slot), formOf },
      record,
    );
  }

  /** Compiles what waits; from now on the dispatcher finds it. No region is being executed. */
  flush(): void {
    if (this.#outdated.size > 0) {
      const holders = new Set([...this.#outdated].flatMap((block) => this.#byBlock.of(block)));
      this.#outdated.clear();
      this.#retranslate([...holders]);
    }
    this.#runs++;
    this.#retireUnused();
    if (this.#options.adaptive && this.#runs % RUNS_PER_RING === 0) this.#joinRing();
    if (this.#waiting.length === 0) return;
    this.#turnsWaited++;
    if (this.#turnsWaited >= TURNS_MAX || this.#waiting.length >= this.#options.threshold) this.#compile();
  }

  /** Lets go of regions that the guest has no more use for, as what a boot needs once: V8 keeps some 20 KB for each. */
  #retireUnused(): void {
    if (this.#runs % RUNS_PER_LOOK === 0) {
      for (const translation of this.#translations) {
        const entries = this.#entriesOf(translation);
        translation.looksUnused = entries === translation.entriesSeen ? translation.looksUnused + 1 : 0;
        translation.entriesSeen = entries;
        if (translation.looksUnused >= LOOKS_UNUSED_MAX) this.#unused.push(translation);
      }
    }
    for (let left = RETIRED_PER_RUN; left > 0 && this.#unused.length > 0; left--) {
      const translation = this.#unused.pop()!;
      if (translation.dead || this.#translations.size <= KEPT_MIN) continue;
      if (this.#entriesOf(translation) !== translation.entriesSeen) continue;
      this.#retired++;
      this.#withdraw(translation);
    }
  }

  /** Makes one region of those that are the pieces of a hot loop. */
  #joinRing(): void {
    const ring = this.#rings.look(
      this.#translations,
      (translation) => this.#entriesOf(translation),
      (block) => this.#byEntry.get(block),
    );
    const [first] = ring;
    if (!first) return;
    const wanted = new Set<CachedBlock>();
    const held = new Set<CachedBlock>();
    for (const translation of ring) {
      for (const { block } of translation.entries) wanted.add(block);
      for (const block of blocksOf(translation)) held.add(block);
    }
    for (const translation of ring) this.#drop(translation);
    this.#cpu.accounting.adapted('loop in pieces');
    // RIP is anywhere: translated when the code it grows from is next executed.
    this.#seeds.set(first.entry, { block: first.entry, wanted, held });
    this.#arena.i32[(first.entry.address + BLOCK.heat) >> 2] = 1;
  }

  #compile(): void {
    this.#turnsWaited = 0;
    const batch = this.#waiting.filter(({ translation }) => !translation.dead);
    this.#waiting = [];
    this.#waitingBytes = 0;
    if (batch.length === 0) return;
    if (!this.#imports) throw new Error('the translator is not connected');
    const module = new ModuleWriter();
    module.importTable(SLOTS);
    declareRegionImports(module);
    for (const { translation, code } of batch) {
      const index = module.declare([I32], [I32]);
      module.define(index, code);
      module.nameFunction(index, nameOf(translation));
      module.element(translation.slot, index);
    }
    const compiled = module.compile(this.#arena.buffer.byteLength / WASM_PAGE);
    for (const { code } of batch) code.release();
    this.#bytes += compiled.bytes;
    this.#modules++;
    new WebAssembly.Instance(compiled.module, {
      env: { memory: this.#arena.memory, table: this.table, ...this.#imports },
    });
    for (const { translation } of batch) {
      for (const { node, delta, block } of translation.entries) {
        const entry = translation.slot | (node << ENTRY.nodeShift) | (delta << ENTRY.deltaShift);
        this.#blocks.setRegion(block, entry);
      }
    }
  }

  /** Whether a block is part of a region, or one that a region goes on to: without it that would be nothing. */
  holds(block: CachedBlock): boolean {
    return this.#byBlock.has(block) || this.#byChain.has(block);
  }

  /** A block's code changed: the regions that hold it are not entered again. */
  blockDied(block: CachedBlock): void {
    this.#adaptations.forget(block);
    this.#ways.forget(block);
    this.#outdated.delete(block);
    this.#seeds.delete(block);
    this.#dropAll(block);
  }

  /** A block's place is used for others: also what goes on to its region finds nothing there any more. */
  blockEvicted(block: CachedBlock): void {
    this.blockDied(block);
    for (const translation of this.#byChain.of(block)) this.#drop(translation);
  }

  #dropAll(block: CachedBlock): void {
    for (const translation of this.#byBlock.of(block)) this.#drop(translation);
  }

  #drop(translation: Translation): void {
    this.#invalidated++;
    this.#drops.count(translation.entry);
    this.#withdraw(translation);
  }

  /** A translation is not entered any more. */
  #withdraw(translation: Translation): void {
    translation.dead = true;
    this.#translations.delete(translation);
    const { u32, i32 } = this.#arena;
    for (const { block } of translation.entries) {
      this.#byEntry.delete(block);
      this.#blocks.setRegion(block, 0);
      // Hot again, it is translated anew.
      i32[(block.address + BLOCK.heat) >> 2] = this.#options.threshold;
    }
    this.#pastEntries += this.#entriesOf(translation);
    u32[entriesOf(translation.slot) >> 2] = 0;
    this.table.set(translation.slot, null);
    this.#freeSlots.push(translation.slot);
    this.#byBlock.withdraw(blocksOf(translation), translation);
    this.#byChain.withdraw(translation.chains, translation);
  }

  /** Forgets everything: the block cache was emptied. */
  clear(): void {
    for (const translation of [...this.#translations]) this.#drop(translation);
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#adaptations.clear();
    this.#ways.clear();
    this.#outdated.clear();
    this.#seeds.clear();
  }

  /** A region was left in a block at a micro-op, for the interpreter, as it had been before. */
  left(block: CachedBlock, uop: number): void {
    if (!this.#options.adaptive) return;
    const index = indexOf(block, uop);
    const def = ops()[this.#arena.u16[(uop + UOP.op) >> 1]!]!;
    const holders = this.#byBlock.of(block);
    if (def.name === 'jvia') this.#retranslate(this.#ways.leftVia(block, holders));
    else if (controlKind(def)[0] !== undefined) this.#retranslate(this.#ways.left(block, holders));
    else if (this.#adaptations.left(block, index, this.#accessesAt(block, index))) this.#retranslate(holders);
  }

  /** The memory accesses of the instruction that an operation belongs to. */
  #accessesAt(block: CachedBlock, index: number): number[] {
    const lifted = this.#lift(block);
    if (!lifted) return [];
    const { ops, instructions } = lifted;
    const number = instructions.findLastIndex(({ firstOp }) => firstOp <= index);
    const end = instructions[number + 1]?.firstOp ?? ops.length;
    const accesses: number[] = [];
    for (let at = instructions[number]!.firstOp; at < end; at++) {
      if (isAccess(ops[at]!.def)) accesses.push(at);
    }
    return accesses;
  }

  /** An adapted access was done. */
  accessed(block: CachedBlock, uop: number, cause: () => AccessCause): void {
    // The region that did it is being executed: it is translated anew later.
    if (this.#adaptations.executed(block, indexOf(block, uop), cause)) this.#outdated.add(block);
  }

  /**
   * Translates anew: the regions entered most often at once, as they are hot, others when their code is next executed. One
   * small function may be part of dozens.
   */
  #retranslate(old: readonly Translation[]): void {
    if (old.length === 0) return;
    const again = old
      .map((translation) => ({
        seed: this.#again(translation),
        linear: translation.origin.linear,
        nodes: translation.nodes.length,
        entries: this.#entriesOf(translation),
      }))
      .sort((a, b) => b.entries - a.entries);
    for (const translation of old) this.#drop(translation);
    this.#cpu.accounting.count('retranslation', again.length);
    let sum = 0;
    for (const { seed, linear, nodes } of again) {
      if (this.#byEntry.has(seed.block)) continue;
      if (sum === 0 || sum + nodes <= ANEW_NODES_MAX) {
        sum += nodes;
        // RIP is somewhere else. Where code stands elsewhere too by now, the guards of other pages find out.
        this.#translateFrom(seed, linear);
      } else {
        this.#seeds.set(seed.block, seed);
      }
    }
    // What was translated may hold these blocks too, and have cooled them.
    for (const { address } of this.#seeds.keys()) this.#arena.i32[(address + BLOCK.heat) >> 2] = 1;
    // Soon, as they are hot, but with what else the present run of the guest brings.
    this.#turnsWaited = Math.max(this.#turnsWaited, TURNS_MAX - 1);
  }

  statistics(): TranslatorStatistics {
    let entries = this.#pastEntries;
    for (const translation of this.#translations) entries += this.#entriesOf(translation);
    return {
      translated: this.#translated,
      regions: this.#translations.size,
      entries,
      modules: this.#modules,
      bytes: this.#bytes,
      invalidated: this.#invalidated,
      retired: this.#retired,
      adapted: this.#adaptations.size,
      pauses: this.#time.pauses(),
    };
  }

  /** How often a translation was entered. */
  #entriesOf({ slot }: Translation): number {
    return this.#arena.u32[entriesOf(slot) >> 2]!;
  }

  // ---- inspection ----------------------------------------------------------------------------------------------

  /** Translations alive, with how often each was entered and its place's translations were dropped before. */
  *inspectTranslations(): Generator<{ translation: Translation; entries: number; dropped: number }> {
    for (const translation of this.#translations) {
      const { entry } = translation;
      const entries = this.#entriesOf(translation);
      yield { translation, entries, dropped: this.#drops.of(entry) };
    }
  }

  /** Makes a translation's region and code again from what was known then, as far as that is still there. */
  inspectTranslation(translation: Translation): InspectedTranslation | undefined {
    const { entry, origin, nodes, ways, slot, wasmBytes } = translation;
    const region = buildRegion(entry, {
      ...this.#source,
      warm: (block) => origin.warm.includes(block),
      wanted: (block) => origin.wanted.includes(block),
      begun: (block) => origin.begun.includes(block),
      via: (block, from) =>
        ways.find(({ block: held, via }) => held === block && via?.from === from)?.via ?? {
          from,
          distances: [],
          learns: false,
        },
      block: (code, modeKey) => {
        const block = this.#blocks.peek(code, modeKey);
        return block && block.id < origin.blocks ? block : undefined;
      },
      page: (distance) => origin.pages.find(([asked]) => asked === distance)?.[1] ?? -1,
    });
    if (!region) return undefined;
    const starts = new Map<RegionNode, number>();
    const code = this.#emitFor(region, slot, (node, _unpaid, at) => starts.set(node, at));
    const sameNodes =
      nodes.length === region.nodes.length &&
      region.nodes.every((node, at) => node.block === nodes[at]!.block && node.delta === nodes[at]!.delta);
    return { region, code, starts, sameNodes, faithful: sameNodes && code.code.length === wasmBytes };
  }

  /** How the access of an operation is translated at present. */
  formOf(block: CachedBlock, index: number): AccessForm {
    return this.#adaptations.formOf(block, index);
  }

  /** How many of a block's operations are. */
  adaptedIn(block: CachedBlock): number {
    return this.#adaptations.in(block);
  }

  /** The bytes of a block's code. */
  codeOf(block: CachedBlock): Uint8Array {
    const { u8 } = this.#arena;
    const inFirst = Math.min(block.bytes, PAGE - (block.code & (PAGE - 1)));
    const bytes = u8.slice(block.code, block.code + block.bytes);
    if (inFirst < block.bytes) {
      bytes.set(u8.subarray(block.secondPage, block.secondPage + block.bytes - inFirst), inFirst);
    }
    return bytes;
  }

  // ---- what regions are made of --------------------------------------------------------------------------------

  #isWarm(block: CachedBlock): boolean {
    return this.#byBlock.has(block) || this.#isWarmOutside(block);
  }

  /** The same, but for executions before it became part of a region. */
  #isWarmOutside(block: CachedBlock): boolean {
    const { threshold } = this.#options;
    const executed = threshold - this.#arena.i32[(block.address + BLOCK.heat) >> 2]!;
    return executed * WARM_SHARE >= threshold;
  }

  /**
   * Whether another region is entered at `block`, so that one grown from `entry` need not hold the same code. Where that
   * region goes on to `entry` they are parts of a loop, which is better in one piece.
   */
  #isBegun(block: CachedBlock, entry: CachedBlock): boolean {
    const translation = this.#byEntry.get(block);
    if (!translation || block === entry || !this.#options.chaining) return false;
    return !translation.chains.includes(entry);
  }

  get #source(): Omit<RegionSource, 'page' | 'wanted' | 'begun' | 'via'> {
    return {
      block: (code, modeKey) => this.#blocks.peek(code, modeKey),
      warm: (candidate) => this.#isWarm(candidate),
      chaining: this.#options.chaining,
      adaptive: this.#options.adaptive,
      oneUserBank: this.#options.addressSpaces === 'flush',
      lift: (candidate) => this.#lift(candidate),
    };
  }

  /** The IR of a block, anew: the same operations as its micro-ops, as its code did not change. */
  #lift(block: CachedBlock): LiftedBlock | undefined {
    const lifted = liftBlock(this.codeOf(block), block.modeKey, block.count);
    // A block cut short by CS's limit, say, is not what the bytes alone give.
    return lifted?.instructions.length === block.count ? lifted : undefined;
  }
}

/** The nodes of a region that lead to what is not known, and how. */
function openNodes({ nodes }: Region): readonly OpenNode[] {
  return nodes
    .map((node) => ({
      node: node.order,
      block: node.block,
      via: node.via,
      open: waysOf(node)
        .filter(({ edge }) => edge.learns)
        .map(({ offset }) => offset),
    }))
    .filter(({ via, open }) => via !== undefined || open.length > 0);
}

/** Whether an operation accesses the guest's memory. */
function isAccess({ name, leaves }: OpDef): boolean {
  return leaves && (name.startsWith('ld') || name.startsWith('st.'));
}

const I32 = 0x7f;

/** Arena address of how often the region in a slot was entered. */
function entriesOf(slot: number): number {
  return ARENA.regionEntries + slot * 4;
}

/** What a profiler of this process calls a region: where the guest's code stands. */
function nameOf({ id, origin: { linear } }: Translation): string {
  return `guest_${linear < 0 ? '-' : ''}${Math.abs(linear).toString(16)}_${id}`;
}

/** Index of a micro-op in its block. */
function indexOf(block: CachedBlock, uop: number): number {
  return (uop - block.address - BLOCK.header) / UOP.size;
}

/** The blocks whose regions a region goes on to. */
function chainsOf({ nodes }: Region): CachedBlock[] {
  const chains = new Set<CachedBlock>();
  for (const { edges } of nodes) {
    for (const { chain } of edges.values()) if (chain) chains.add(chain);
  }
  return [...chains];
}
