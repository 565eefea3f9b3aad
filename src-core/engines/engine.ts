import type { Accelerator } from '../protocol/engine.ts';

/** Why an engine gave control back to the run loop. */
export type RunEnd =
  /** The instruction budget is used up, or a device, timer or host asked for the loop's attention. */
  | 'slice'
  /** The vCPU waits in HLT with nothing to deliver. */
  | 'halt'
  /** Triple fault: the machine must be reset or stopped. */
  | 'shutdown';

/**
 * An engine executes the vCPU whose state stands in the arena, in the layout of x86/layout.ts. Between two calls of
 * `run` it may keep state elsewhere (in the kernel's vCPU) until `leave` is called: whoever reads or changes vCPU state
 * between two runs, or gives the vCPU to another engine, calls that first.
 */
export interface Engine {
  readonly kind: 'software' | 'hardware';
  /** What the hardware engine runs guests with. */
  readonly accelerator?: Accelerator;
  /** The engine that executes the guest for it, with that one's knowledge of memory; undefined where it does so itself. */
  readonly executor?: Engine;
  /** Why it no longer runs the guest itself, which has gone on in software since. */
  readonly failure?: Error | undefined;
  /**
   * Why the guest, as it is at present, is executed by another engine in this one's place; undefined while it is not. One
   * instruction or a few of them are no such thing.
   */
  readonly detour?: Error | undefined;
  /** A triple fault was found that the next `run` will report, and another engine would not. */
  readonly shutdownPending?: boolean;
  /**
   * Executes guest code: at most `maxInstructions`, delivering pending interrupts at instruction boundaries. With
   * `exact` exactly that many when nothing else ends the run first (the instruction-count clock needs that); without,
   * it may stop a few instructions short, at a block's end. An engine that can't count instructions ends the run after
   * `maxNs` of host time instead, and one that can ends it where it notices that so much has passed, unless `exact`.
   */
  run(maxInstructions: number, exact?: boolean, maxNs?: number): RunEnd;
  /**
   * Takes the vCPU's state over now, which the next `run` does by itself: to find out whether the guest can go on here.
   * Throws an Error that says why not; the state is in the arena then.
   */
  enter?(): void;
  /**
   * Brings all vCPU state into the arena; the next `run` takes it from there. During a run (a device callback is on its
   * stack) that happens when the run ends.
   */
  leave(): void;
  /** What lies under the engine counts too (KVM's statistics), by names of its own. */
  counters?(): Record<string, number>;
  /** Asks a run in progress (a device callback is on its stack) to end after the current instruction. */
  requestExit(): void;
  /** Guest memory [phys, phys + length) was changed by something other than the vCPU (DMA, a loader, a snapshot). */
  memoryChanged(phys: number, length: number): void;
  /** The meaning of physical memory changed (MemoryBus.onRemap) or state was replaced: forget everything cached. */
  flush(): void;
  dispose(): void;
}
