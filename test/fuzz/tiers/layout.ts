/**
 * The small machine random programs run on: where its physical memory, its linear windows and its selectors are.
 *
 * Everything a program touches lies in one 2 MiB region of linear addresses (its base depends on the environment).
 * The program's windows begin 128 KiB into it, so that real and virtual-8086 mode reach them by plain segments; the
 * supervisor's pages begin at 1 MiB. Without paging both are physical addresses.
 */

const PAGE = 0x1000;

/** Physical addresses. */
export const PHYSICAL = {
  /** Top-level page table; the next levels follow, one page each. */
  pageTables: 0x1000,
  /** The lowest level, which maps the region. */
  pageTable: 0x4000,
  /** The same of another address space, which maps some pages otherwise; its lowest level is elsewhere. */
  otherTables: 0x5000,
  otherPageTable: 0x1_6000,
  /** Stack of the NMI handler in long mode (IST 2), one page: an NMI may interrupt other handlers. */
  nmiStack: 0x1_7000,
  gdt: 0x8000,
  idt: 0x9000,
  tss: 0xa000,
  handlers: 0xb000,
  /** Stack of the handlers in long mode (IST 1), one page. */
  interruptStack: 0xc000,
  /** Stack of the handlers when they interrupt ring 3, one page. */
  kernelStack: 0xd000,
  /** The last 64 exceptions, 64 bytes each. */
  log: 0xe000,
  variables: 0xf000,
  /** For each byte of the code window, the offset to go on at after a fault there (u16). */
  recovery: 0x10000,
  /** Frames behind the windows. */
  frames: 0x20000,
  /** Other versions of the code pages, mapped by {@link SERVICE}. */
  codeVariants: 0x60000,
  /** Registers of the test device. */
  mmio: 0x4000_0000,
} as const;

/** What of RAM programs can reach: the rest is neither reset nor compared. Real mode reaches 64 KiB beyond 1 MiB. */
export const REACHABLE = 0x12_0000;

/** Offsets of the handlers' variables. */
export const VARIABLE = { count: 0, hash: 8, systemCalls: 0x20, interrupts: 0x40 } as const;
export const LOG_ENTRIES = 64;
export const LOG_ENTRY_SIZE = 64;

/** The windows, as offsets from the region's base. */
export const WINDOW = {
  code: 0x2_0000,
  /** The same frames under another name. */
  alias: 0x2_8000,
  data: 0x3_0000,
  stack: 0x4_0000,
  supervisor: 0x10_0000,
} as const;
export const ALIAS_DELTA = WINDOW.alias - WINDOW.code;

export const CODE_PAGES = 3;
export const CODE_SIZE = CODE_PAGES * PAGE;
export const STACK_SIZE = 2 * PAGE;

/** Pages of the data window, as offsets in it. */
export const DATA = {
  /** Two pages in a row whose frames are not. */
  plain: 0,
  /** Absent at first; the page-fault handler makes it present. */
  fixable: 0x2000,
  readOnly: 0x3000,
  /** Two pages whose frames {@link SERVICE} exchanges. */
  swapped: 0x4000,
  mmio: 0x6000,
  absent: 0x7000,
} as const;

/** INT vectors with meaning. */
export const VECTOR_EXIT = 0x80;
export const VECTOR_SERVICE = 0x81;
export const VECTOR_INTERRUPTS = 0x30;
export const INTERRUPT_COUNT = 16;
/** The number of the line that is a non-maskable interrupt. */
export const LINE_NMI = 16;

/** What AL & 15 asks of INT 81h (nothing in real mode). Where no TLB entry is invalidated, CR3 is loaded. */
export const SERVICE = {
  /** Makes the fixable page absent again. */
  unmap: 0,
  /** The read-only page becomes writable, or read-only again. */
  toggleWritable: 1,
  setTaskSwitched: 2,
  swapData: 3,
  /** The second code page gets its other version. */
  swapCode: 4,
  /** Invalidates global entries, too. */
  reload: 5,
  /** The second swapped page becomes the supervisor's own, or the user's again. */
  toggleUser: 6,
  swapCodeAndFlush: 7,
  switchAddressSpace: 8,
  /** By a load of CR3 alone. */
  swapDataAndReload: 9,
  swapCodeAndReload: 10,
  /** Makes the second code page absent; the page-fault handler brings it back. */
  unmapCode: 11,
  /** Changes the address space that is not (or is) the present one. */
  swapDataElsewhere: 12,
  invalidateCode: 13,
} as const;
export const SERVICE_COUNT = 16;

/** Ports of the test device. */
export const PORT = {
  first: 0xe0,
  /** Reads the low bits of the instruction count. */
  count: 0xe0,
  /** A write raises the interrupt of its low four bits. */
  interrupt: 0xe1,
  /** A write is a DMA transfer: it puts the byte where a patch goes. */
  dma: 0xe2,
  /** A write makes the device ask for the end of the run. */
  exit: 0xe3,
  last: 0xe7,
} as const;

/** Selectors, without RPL. */
export const SELECTOR = {
  kernelCode32: 0x08,
  kernelData: 0x10,
  kernelCode64: 0x18,
  code: 0x20,
  data: 0x28,
  stack: 0x30,
  /** The code window, writable. */
  codeAsData: 0x38,
  /** The alias window, writable. */
  alias: 0x40,
  /** 16 bytes in long mode. */
  tss: 0x48,
  readOnly: 0x58,
  notPresent: 0x60,
  /** In the order SYSRET wants (Intel SDM vol. 3, 5.8.8): 32-bit code, data, 64-bit code. */
  sysret: 0x68,
  /** In the order SYSENTER and SYSEXIT want (5.8.7): kernel code and stack, code and stack. */
  sysenter: 0x80,
  /** The program's code in another size: 16 bits for 32, 32 for 16. */
  otherCode: 0xa0,
  limit: 0xa7,
} as const;

/** Frame number behind a page of the region, by its page number in the region; -1 where nothing is. */
export function frameOf(page: number, paging: boolean): number {
  if (!paging) return page;
  const at = page * PAGE;
  if (at >= WINDOW.supervisor) return page - WINDOW.supervisor / PAGE;
  const inWindow = (start: number, size: number): number =>
    at >= start && at < start + size ? (at - start) / PAGE : -1;
  for (const start of [WINDOW.code, WINDOW.alias]) {
    const index = inWindow(start, CODE_SIZE);
    if (index >= 0) return PHYSICAL.frames / PAGE + ([0, 2, 1][index] ?? 0);
  }
  const data = inWindow(WINDOW.data, 0x8000);
  if (data >= 0) {
    if (data * PAGE === DATA.mmio) return PHYSICAL.mmio / PAGE;
    return data * PAGE === DATA.absent ? -1 : 0x30 + (data < 2 ? 1 - data : data);
  }
  const stack = inWindow(WINDOW.stack, STACK_SIZE);
  return stack >= 0 ? 0x41 - stack : -1;
}

/** Physical address of an offset in the region. */
export function physicalOf(offset: number, paging: boolean): number {
  const frame = frameOf(Math.floor(offset / PAGE), paging);
  if (frame < 0) throw new Error(`nothing is mapped at offset 0x${offset.toString(16)}`);
  return frame * PAGE + (offset % PAGE);
}
