import type { Callout, CalloutFunction } from './callout.ts';
import type { Access, PageWalker } from './paging.ts';

/** What the MMU tells of while it is observed (Mmu.observe): it serves no miss of the TLB in wasm then. */
export interface MemoryObserver {
  /**
   * A page walk for an access that is allowed has succeeded, and nothing of it is cached yet.
   * @param arena arena address of the byte, -1 where a device or nothing is.
   * @param writable the memory takes writes (it is not ROM).
   * @param known the TLB has a translation of the page for reads by the same privilege.
   */
  walked(
    lin: number,
    access: Access,
    walker: PageWalker,
    arena: number,
    writable: boolean,
    known: boolean,
  ): void;
  /** Bytes of a page that Mmu.traceTable names were stored to, by the guest's code or by something else. */
  tableWritten(arena: number, size: number, byGuest: boolean): void;
  /** The guest is about to access what is no plain memory: 1 to 16 bytes that cross no page. */
  device(phys: number, size: number, write: boolean): void;
}

/** What switches tasks: an event through a task gate, or an instruction. */
export type TaskSwitchCause = 'gate' | 'iret' | 'call' | 'jump';

/**
 * What a model of hardware virtualization puts between the guest's code and its execution in software. It is told
 * before things happen, and may do what it likes with its own state; it must not change the vCPU's.
 */
export interface Intercepts extends MemoryObserver {
  /** What is executed for a callout from now on: `callout.run`, or something that ends in it. */
  wrap(callout: Callout): CalloutFunction;
  /** An exception is about to be delivered to the guest. */
  exception(vector: number, errorCode: number): void;
  /** An interrupt or non-maskable interrupt is about to be delivered. */
  interrupt(vector: number, nonMaskable: boolean): void;
  /** INT n (`interrupt`), INT1, INT3 or INTO is about to be delivered. */
  softwareEvent(vector: number, interrupt: boolean): void;
  /** The event told of last has been delivered. When its delivery faults, the next that is told of is that fault. */
  delivered(): void;
  /** A task is about to be switched to: the TSS's selector, and by what. */
  taskSwitch(selector: number, cause: TaskSwitchCause): void;
}
