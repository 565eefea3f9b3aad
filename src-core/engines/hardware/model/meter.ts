import type { ExitAccounting, ExitReason } from '../../../accounting/exits.ts';
import type { CostHandler, CostProfile } from './profile.ts';
import { EXIT_CODE, exitCodeName } from './vmcb.ts';

/** What the processor does for the guest itself, in guest mode. */
export type NativeEvent = keyof CostProfile['cycles']['native'];

/** Reasons that an exit of the model can have. */
export type ModelExitReason = Exclude<CostHandler, 'injection'> & ExitReason;

/** How the model virtualizes memory. */
export type ModelMmu = 'shadow' | 'nested';

/** What the model has counted since power-on, in cycles of the processor that the profile describes. MODELLED, not measured. */
export interface ModelStatistics {
  readonly modelled: true;
  readonly mmu: ModelMmu;
  readonly profile: { readonly name: string; readonly title: string; readonly mhz: number };
  readonly cycles: {
    /** The guest's instructions. */
    readonly guest: number;
    /** Page walks of the processor. */
    readonly walks: number;
    /** Events, far transfers and system calls that the processor carries out in guest mode. */
    readonly events: number;
    /** Exits, their handlers, and entries. */
    readonly exits: number;
    readonly total: number;
  };
  /** By the AMD manual's names of exit codes. */
  readonly exitCodes: Readonly<Record<string, { readonly count: number; readonly cycles: number }>>;
  /** By reason of the taxonomy, the cycles of exit, handler and entry. */
  readonly reasons: Readonly<Record<string, { readonly count: number; readonly cycles: number }>>;
  /** Misses of the modelled TLB, and the memory references of their page walks. */
  readonly tlbMisses: number;
  readonly walkReferences: number;
  /** Guest page tables that have a shadow now. */
  readonly shadowTables: number;
}

interface Sum {
  count: number;
  cycles: number;
}

function add<K>(sums: Map<K, Sum>, key: K, cycles: number): void {
  const sum = sums.get(key);
  if (sum) {
    sum.count++;
    sum.cycles += cycles;
  } else {
    sums.set(key, { count: 1, cycles });
  }
}

/** Counts the model's exits and charges for everything what the profile says. */
export class Meter {
  readonly #profile: CostProfile;
  readonly #accounting: ExitAccounting;
  readonly #codes = new Map<number, Sum>();
  readonly #reasons = new Map<ModelExitReason, Sum>();
  /** What `publish` has not moved to the accounting yet. */
  readonly #unpublished = new Map<ExitReason, Sum>();
  readonly #details: [ExitReason, string][] = [];
  #instructions = 0;
  #events = 0;
  #exits = 0;
  #tlbMisses = 0;
  #walkReferences = 0;

  constructor(profile: CostProfile, accounting: ExitAccounting) {
    this.#profile = profile;
    this.#accounting = accounting;
  }

  /**
   * An exit, what the VMM does about it, and the entry after it. It is the caller who counts a physical interrupt in the
   * taxonomy: when the virtual one that it brings is delivered.
   */
  exit(code: number, reason: ModelExitReason): void {
    const { exit, entry, handlers } = this.#profile.cycles;
    const cycles = exit.value + handlers[reason].value + entry.value;
    add(this.#codes, code, cycles);
    add(this.#reasons, reason, cycles);
    this.#exits += cycles;
    this.#unpublishedOf(reason).cycles += cycles;
    if (code !== EXIT_CODE.INTR) this.count(reason);
  }

  /** What is counted in the taxonomy but takes no exit of its own. */
  count(reason: ExitReason): void {
    this.#unpublishedOf(reason).count++;
  }

  #unpublishedOf(reason: ExitReason): Sum {
    let sum = this.#unpublished.get(reason);
    if (!sum) this.#unpublished.set(reason, (sum = { count: 0, cycles: 0 }));
    return sum;
  }

  detail(reason: ExitReason, key: string): void {
    this.#details.push([reason, key]);
  }

  /** An event that the VMM injects on entry. */
  injection(): void {
    this.#exits += this.#profile.cycles.handlers.injection.value;
  }

  native(event: NativeEvent, times = 1): void {
    this.#events += this.#profile.cycles.native[event].value * times;
  }

  walk(references: number): void {
    this.#tlbMisses++;
    this.#walkReferences += references;
  }

  instructions(count: number): void {
    this.#instructions += count;
  }

  /** Moves what was counted since the last time to the machine's accounting. */
  publish(): void {
    const { value: mhz } = this.#profile.mhz;
    for (const [reason, { count, cycles }] of this.#unpublished) {
      this.#accounting.countModelled(reason, count, (cycles * 1000) / mhz);
    }
    this.#unpublished.clear();
    for (const [reason, key] of this.#details) this.#accounting.detail(reason, key);
    this.#details.length = 0;
  }

  statistics(mmu: ModelMmu, shadowTables: number): ModelStatistics {
    const { name, title, mhz, cycles } = this.#profile;
    const guest = this.#instructions * cycles.instruction.value;
    const walks = this.#walkReferences * cycles.walkReference.value;
    return {
      modelled: true,
      mmu,
      profile: { name, title, mhz: mhz.value },
      cycles: {
        guest,
        walks,
        events: this.#events,
        exits: this.#exits,
        total: guest + walks + this.#events + this.#exits,
      },
      exitCodes: Object.fromEntries([...this.#codes].map(([code, sum]) => [exitCodeName(code), { ...sum }])),
      reasons: Object.fromEntries([...this.#reasons].map(([reason, sum]) => [reason, { ...sum }])),
      tlbMisses: this.#tlbMisses,
      walkReferences: this.#walkReferences,
      shadowTables,
    };
  }
}
