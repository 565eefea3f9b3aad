/** The nanobenchmarks by name: what each measures and what it needs, for those who run and those who show them. */

/** What a benchmark may need of an engine, in words. Every one needs `kernel`: ring 0 of its width, and exceptions. */
export const NANOBENCH_NEEDS = {
  kernel: 'protected or long mode',
  paging: 'paging',
  pageFaults: 'page faults',
  userMode: 'ring 3, entered by IRET and left by INT',
  syscall: 'SYSCALL and SYSRET',
  interrupts: 'interrupts',
} as const;
export type NanobenchNeed = keyof typeof NANOBENCH_NEEDS;

/** Width of the kernel. */
export type NanobenchBits = 32 | 64;

export interface NanobenchEntry {
  readonly name: string;
  /** One operation, in a line. */
  readonly summary: string;
  /** Besides `kernel`. */
  readonly needs: readonly NanobenchNeed[];
  /** Why 32-bit code cannot have it; absent where it can. */
  readonly only64?: string;
}

/**
 * In the order they run: the seven of Adams and Agesen (ASPLOS 2006, section 6.3) first. What is subtracted
 * besides the loop is said in the summary.
 */
export const NANOBENCHMARKS = [
  {
    name: 'syscall',
    summary: 'SYSCALL from ring 3 and SYSRET back',
    needs: ['paging', 'userMode', 'syscall'],
    only64: 'SYSCALL does not exist in 32-bit code on this processor model',
  },
  { name: 'in', summary: 'IN from the interrupt controller’s mask register', needs: [] },
  { name: 'cr8wr', summary: 'MOV to CR8', needs: [], only64: 'CR8 exists in 64-bit code only' },
  { name: 'callret', summary: 'near CALL and RET', needs: [] },
  {
    name: 'pgfault',
    summary: 'load from an unmapped page: #PF, handler, IRET',
    needs: ['paging', 'pageFaults'],
  },
  { name: 'divzero', summary: 'DIV by zero: #DE, handler, IRET', needs: [] },
  { name: 'ptemod', summary: 'store to a page-table entry', needs: ['paging'] },
  { name: 'cpuid', summary: 'CPUID leaf 0', needs: [] },
  {
    name: 'hlt',
    summary: 'HLT until the local APIC’s timer wakes it, the timer’s own 20 µs subtracted',
    needs: ['interrupts'],
  },
  { name: 'iret', summary: 'IRET within ring 0, the pushes before it subtracted', needs: [] },
  {
    name: 'invlpg',
    summary: 'INVLPG and the refill after it, the page-table store subtracted',
    needs: ['paging'],
  },
  { name: 'mmio', summary: 'load from the I/O APIC’s index register', needs: [] },
  { name: 'portwrite', summary: 'OUT to the serial port’s scratch register', needs: [] },
  { name: 'rdmsr', summary: 'RDMSR of IA32_APIC_BASE', needs: [] },
  {
    name: 'smc',
    summary: 'store into an instruction and its execution, the same without the change subtracted',
    needs: [],
  },
  {
    name: 'ctxswitch',
    summary: 'switch between two kernel threads in two address spaces: stack and CR3',
    needs: ['paging'],
  },
  {
    name: 'forkwait',
    summary: 'fork with copy-on-write page tables, child writes four pages and exits, parent waits',
    needs: ['paging', 'pageFaults', 'userMode'],
  },
] as const satisfies readonly NanobenchEntry[];

export type NanobenchName = (typeof NANOBENCHMARKS)[number]['name'];

/** Every name, in order. */
export const NANOBENCH_NAMES: readonly NanobenchName[] = NANOBENCHMARKS.map(({ name }) => name);

/** The entry of a name. */
export function nanobenchmark(name: NanobenchName): NanobenchEntry {
  const entry = NANOBENCHMARKS.find((candidate) => candidate.name === name);
  if (!entry) throw new RangeError(`there is no benchmark "${name}"`);
  return entry;
}

/**
 * Port the kernel writes 32-bit marks to, so that a host that listens can bracket what is measured; nobody owns
 * it, so elsewhere the writes vanish. Bits 31:8 are the benchmark's index, bits 7:0 one of {@link NANOBENCH_MARKS}.
 */
export const NANOBENCH_MARK_PORT = 0x2e0;
/** The overhead is timed between the first two, the benchmark between the last two. */
export const NANOBENCH_MARKS = { overheadBegins: 1, overheadEnds: 2, begins: 3, ends: 4 } as const;
