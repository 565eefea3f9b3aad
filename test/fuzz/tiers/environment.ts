/**
 * The modes random programs run in: for each its segments, page tables, gates and handlers, written into RAM by the
 * host, and the state a program starts in.
 */
import {
  CR0_AM,
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  CR4_PGE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  FLAG_VM,
} from '../../../src-core/x86/bits.ts';
import type { Cpu } from '../../../src-core/x86/cpu.ts';
import { CR0, CR3, CR4, EFER, MSR } from '../../../src-core/x86/layout.ts';
import type { Bitness } from '../../oracle/state.ts';
import { assembleHandlers } from './handlers.ts';
import {
  frameOf,
  INTERRUPT_COUNT,
  PHYSICAL,
  PORT,
  REACHABLE,
  SELECTOR,
  VECTOR_EXIT,
  VECTOR_INTERRUPTS,
  VECTOR_SERVICE,
  WINDOW,
  DATA,
} from './layout.ts';

const PAGE = 0x1000;
const MASK64 = 0xffff_ffff_ffff_ffffn;

export type Mode = 'real' | 'v86' | 'protected' | 'long';

/** One mode, ring and set of segments a program can run in. */
export interface Environment {
  readonly name: string;
  readonly mode: Mode;
  readonly bits: Bitness;
  readonly ring: 0 | 3;
  /** Segments without base and limit (always in 64-bit code). */
  readonly flat: boolean;
  /** PAE paging (always in long mode). */
  readonly pae: boolean;
  /** Linear address of the region, a multiple of 4 MiB. */
  readonly base: bigint;
}

const environment = (
  name: string,
  mode: Mode,
  bits: Bitness,
  ring: 0 | 3,
  base: bigint,
  { flat = true, pae = true } = {},
): Environment => ({ name, mode, bits, ring, base, flat, pae });

export const ENVIRONMENTS: readonly Environment[] = [
  environment('long64-ring3', 'long', 64, 3, 0x0840_0000n),
  environment('long64-ring3-high', 'long', 64, 3, 0x5512_3440_0000n),
  environment('long64-ring0', 'long', 64, 0, 0xffff_ffff_8140_0000n),
  environment('long64-ring0-low', 'long', 64, 0, 0x1f_ff80_0000n),
  environment('compat32', 'long', 32, 3, 0x0840_0000n),
  environment('compat16', 'long', 16, 3, 0x0840_0000n, { flat: false }),
  environment('protected32-ring3', 'protected', 32, 3, 0x0840_0000n),
  environment('protected32-ring3-segments', 'protected', 32, 3, 0x0840_0000n, { flat: false, pae: false }),
  environment('protected32-ring0', 'protected', 32, 0, 0xc040_0000n, { pae: false }),
  environment('protected32-ring0-top', 'protected', 32, 0, 0xffc0_0000n),
  environment('protected16-ring3', 'protected', 16, 3, 0x0840_0000n, { flat: false }),
  environment('protected16-ring0', 'protected', 16, 0, 0x0840_0000n, { flat: false, pae: false }),
  environment('v86', 'v86', 16, 3, 0n, { flat: false }),
  environment('real16', 'real', 16, 0, 0n, { flat: false }),
];

export function environmentNamed(name: string): Environment {
  const found = ENVIRONMENTS.find((candidate) => candidate.name === name);
  if (!found)
    throw new Error(`no environment '${name}'; there are ${ENVIRONMENTS.map((e) => e.name).join(', ')}`);
  return found;
}

/** Whether programs of an environment can use SYSCALL and come back. */
export function hasSyscall({ mode, bits, ring }: Environment): boolean {
  return mode === 'long' && bits === 64 && ring === 3;
}

/** Whether they can use SYSENTER, whose segments are flat. */
export function hasSysenter({ mode, bits, ring, flat }: Environment): boolean {
  return mode === 'protected' && bits === 32 && ring === 3 && flat;
}

export function hasPaging({ mode }: Environment): boolean {
  return mode !== 'real';
}

/** Bits of addresses in the windows' code: what arithmetic on linear addresses wraps at. */
function wrap({ bits }: Environment, address: bigint): bigint {
  return BigInt.asUintN(bits === 64 ? 64 : 32, address);
}

/** Linear address of the supervisor's view of physical address 0. */
export function supervisorBase(env: Environment): bigint {
  return hasPaging(env) ? BigInt.asUintN(64, env.base + BigInt(WINDOW.supervisor)) : 0n;
}

/** Bases of the program's segments. */
export interface Bases {
  readonly code: bigint;
  readonly data: bigint;
  readonly stack: bigint;
}

export function basesOf(env: Environment): Bases {
  if (env.flat) return { code: 0n, data: 0n, stack: 0n };
  const { base } = env;
  return {
    code: base + BigInt(WINDOW.code),
    data: base + BigInt(WINDOW.data),
    stack: base + BigInt(WINDOW.stack),
  };
}

/** Offset in its segment of the start of each window. */
export function originsOf(env: Environment): Bases {
  const bases = basesOf(env);
  const { base } = env;
  return {
    code: wrap(env, base + BigInt(WINDOW.code) - bases.code),
    data: wrap(env, base + BigInt(WINDOW.data) - bases.data),
    stack: wrap(env, base + BigInt(WINDOW.stack) - bases.stack),
  };
}

// ---- tables ------------------------------------------------------------------------------------------------------

interface Descriptor {
  readonly base: bigint;
  /** Bytes minus one. */
  readonly limit: number;
  /** As SEG_FIELD.attributes. */
  readonly attributes: number;
}

function writeDescriptor(view: DataView, at: number, { base, limit, attributes }: Descriptor): void {
  // Intel SDM vol. 3, figure 3-8.
  const low = Number(base & 0xffff_ffffn);
  const scaled = (attributes & 0x8000) !== 0 ? limit >>> 12 : limit;
  view.setUint32(at, ((low & 0xffff) << 16) | (scaled & 0xffff), true);
  const high =
    (low & 0xff00_0000) |
    ((attributes & 0xf000) << 8) |
    (scaled & 0xf_0000) |
    ((attributes & 0xff) << 8) |
    ((low >>> 16) & 0xff);
  view.setUint32(at + 4, high, true);
}

const UNUSABLE: Descriptor = { base: 0n, limit: 0, attributes: 0x1_0000 };

/** The descriptors behind the program's selectors, by selector. */
function programDescriptors(env: Environment): ReadonlyMap<number, Descriptor> {
  const { bits, ring, flat, base } = env;
  const bases = basesOf(env);
  const dpl = ring << 5;
  const wide = bits === 16 ? 0 : 0x4000;
  const code = 0x9b | dpl | (bits === 64 ? 0x2000 : wide);
  const data = 0x93 | dpl | wide;
  const at = (window: number): bigint => BigInt.asUintN(bits === 64 ? 64 : 32, base + BigInt(window));
  const all = { limit: 0xffff_ffff };
  const paged = 0x8000;
  return new Map<number, Descriptor>([
    [
      SELECTOR.code,
      flat
        ? { base: 0n, ...all, attributes: code | paged }
        : { base: bases.code, limit: 0x2fff, attributes: code },
    ],
    [
      SELECTOR.data,
      flat
        ? { base: 0n, ...all, attributes: data | paged }
        : { base: bases.data, limit: 0xffff, attributes: data },
    ],
    [
      SELECTOR.stack,
      flat
        ? { base: 0n, ...all, attributes: data | paged }
        : { base: bases.stack, limit: 0x1fff, attributes: data },
    ],
    [
      SELECTOR.otherCode,
      flat
        ? { base: 0n, ...all, attributes: (code ^ 0x4000) | paged }
        : { base: bases.code, limit: 0x2fff, attributes: code ^ 0x4000 },
    ],
    [SELECTOR.codeAsData, { base: at(WINDOW.code), limit: 0x2fff, attributes: data }],
    [SELECTOR.alias, { base: at(WINDOW.alias), limit: 0x2fff, attributes: data }],
    [SELECTOR.readOnly, { base: at(WINDOW.data), limit: 0x7fff, attributes: 0x91 | dpl | wide }],
    [SELECTOR.notPresent, { base: 0n, limit: 0xffff, attributes: 0x13 | dpl | wide }],
  ]);
}

function writeGdt(view: DataView, env: Environment): void {
  const at = (selector: number, descriptor: Descriptor): void =>
    writeDescriptor(view, PHYSICAL.gdt + selector, descriptor);
  const flat = { base: 0n, limit: 0xffff_ffff };
  at(SELECTOR.kernelCode32, { ...flat, attributes: 0xc09b });
  at(SELECTOR.kernelData, { ...flat, attributes: 0xc093 });
  at(SELECTOR.kernelCode64, { ...flat, attributes: 0xa09b });
  for (const [index, attributes] of [0xc0fb, 0xc0f3, 0xa0fb].entries())
    at(SELECTOR.sysret + index * 8, { ...flat, attributes });
  for (const [index, attributes] of [0xc09b, 0xc093, 0xc0fb, 0xc0f3].entries())
    at(SELECTOR.sysenter + index * 8, { ...flat, attributes });
  for (const [selector, descriptor] of programDescriptors(env)) {
    // In 64-bit code the bases of FS and GS come from MSRs.
    if (descriptor.base < 1n << 32n) at(selector, descriptor);
  }
  const tss = supervisorBase(env) + BigInt(PHYSICAL.tss);
  at(SELECTOR.tss, { base: tss, limit: TSS_LIMIT, attributes: 0x8b });
  if (env.mode === 'long') {
    view.setUint32(PHYSICAL.gdt + SELECTOR.tss + 8, Number(tss >> 32n), true);
    view.setUint32(PHYSICAL.gdt + SELECTOR.tss + 12, 0, true);
  }
}

const TSS_BITMAP = 0x68;
/** The permission map ends with the device's ports and a byte of ones. */
const TSS_LIMIT = TSS_BITMAP + (PORT.last + 1) / 8;

function writeTss(view: DataView, env: Environment): void {
  const { tss } = PHYSICAL;
  const base = supervisorBase(env);
  const kernelStack = base + BigInt(PHYSICAL.kernelStack + PAGE);
  if (env.mode === 'long') {
    view.setBigUint64(tss + 4, kernelStack, true);
    view.setBigUint64(tss + 0x24, base + BigInt(PHYSICAL.interruptStack + PAGE), true);
    view.setBigUint64(tss + 0x2c, base + BigInt(PHYSICAL.nmiStack + PAGE), true);
  } else {
    view.setUint32(tss + 4, Number(kernelStack), true);
    view.setUint16(tss + 8, SELECTOR.kernelData, true);
  }
  view.setUint16(tss + 0x66, TSS_BITMAP, true);
  for (let port = 0; port < PORT.last + 9; port += 8)
    view.setUint8(tss + TSS_BITMAP + port / 8, port === PORT.first ? 0 : 0xff);
}

/** Page-table entries of the region's pages, by page number, in the first address space or the other. */
function regionEntries({ pae }: Environment, other: boolean): ReadonlyMap<number, bigint> {
  const entries = new Map<number, bigint>();
  for (let page = 0; page < 512; page++) {
    const at = page * PAGE;
    const inData = at - WINDOW.data;
    let frame = frameOf(page, true);
    if (frame < 0 || (at >= WINDOW.supervisor && frame >= 0x70)) continue;
    // The supervisor's pages are global.
    let flags = at >= WINDOW.supervisor ? 0x163n : 0x67n;
    if (inData === DATA.fixable) flags &= ~1n;
    if (inData === DATA.readOnly && !other) flags &= ~2n;
    if (other && (inData === DATA.swapped || inData === DATA.swapped + PAGE)) frame ^= 1;
    if (other && at === WINDOW.code + 2 * PAGE) frame = PHYSICAL.codeVariants / PAGE + 2;
    const execute = at >= WINDOW.supervisor || (at >= WINDOW.code && at < WINDOW.data);
    if (pae && !execute) flags |= 1n << 63n;
    entries.set(page, (BigInt(frame) * BigInt(PAGE)) | flags);
  }
  return entries;
}

function writePaging(view: DataView, env: Environment, root: number, lowest: number, other: boolean): void {
  const { base, mode, pae } = env;
  const user = 0x67n;
  const entry = (table: number, index: number, value: bigint): void => {
    if (pae) view.setBigUint64(table + index * 8, value, true);
    else view.setUint32(table + index * 4, Number(value), true);
  };
  const linear = BigInt.asUintN(64, base);
  const index = (shift: bigint, mask: bigint): number => Number((linear >> shift) & mask);
  let table = root;
  if (mode === 'long') {
    entry(table, index(39n, 0x1ffn), BigInt(table + PAGE) | user);
    entry(table + PAGE, index(30n, 0x1ffn), BigInt(table + 2 * PAGE) | user);
    table += 2 * PAGE;
  } else if (pae) {
    entry(table, index(30n, 3n), BigInt(table + PAGE) | 1n);
    table += PAGE;
  }
  entry(table, pae ? index(21n, 0x1ffn) : index(22n, 0x3ffn), BigInt(lowest) | user);
  for (const [page, value] of regionEntries(env, other)) entry(lowest, page, value);
}

function writeGates(
  view: DataView,
  env: Environment,
  stubs: ReadonlyMap<number, bigint>,
  other: bigint,
): void {
  for (let vector = 0; vector < 256; vector++) {
    const target = stubs.get(vector) ?? other;
    const low = Number(target & 0xffff_ffffn);
    if (env.mode === 'real') {
      view.setUint32(vector * 4, ((PHYSICAL.handlers >> 4) << 16) | low, true);
      continue;
    }
    const open = vector === 3 || vector === 4 || vector === VECTOR_EXIT || vector === VECTOR_SERVICE;
    const long = env.mode === 'long';
    const at = PHYSICAL.idt + vector * (long ? 16 : 8);
    const selector = long ? SELECTOR.kernelCode64 : SELECTOR.kernelCode32;
    view.setUint32(at, (selector << 16) | (low & 0xffff), true);
    // An interrupt gate; in long mode with IST 1, or 2 for NMI.
    view.setUint32(
      at + 4,
      (low & 0xffff_0000) | 0x8e00 | (open ? 0x6000 : 0) | (long ? (vector === 2 ? 2 : 1) : 0),
      true,
    );
    if (long) view.setUint32(at + 8, Number(target >> 32n), true);
  }
}

/** Everything of an environment that is the same for every program. */
export interface PreparedEnvironment {
  /** Where SYSCALL and SYSENTER go; 0 in real mode. */
  readonly systemCall: bigint;
  /** RAM from physical address 0, REACHABLE bytes. */
  readonly ram: Uint8Array;
}

const prepared = new Map<string, PreparedEnvironment>();

/** RAM with the tables and handlers of an environment. */
export function prepare(env: Environment): PreparedEnvironment {
  const known = prepared.get(env.name);
  if (known) return known;
  const ram = new Uint8Array(REACHABLE);
  const view = new DataView(ram.buffer);
  const handlers = assembleHandlers(env, [
    ...Array.from({ length: 32 }, (_, vector) => vector),
    ...Array.from({ length: INTERRUPT_COUNT }, (_, index) => VECTOR_INTERRUPTS + index),
    VECTOR_EXIT,
    VECTOR_SERVICE,
  ]);
  if (handlers.bytes.length > PAGE) throw new Error(`the handlers take ${handlers.bytes.length} bytes`);
  ram.set(handlers.bytes, PHYSICAL.handlers);
  writeGates(view, env, handlers.stubs, handlers.other);
  if (env.mode !== 'real') {
    writeGdt(view, env);
    writeTss(view, env);
    writePaging(view, env, PHYSICAL.pageTables, PHYSICAL.pageTable, false);
    writePaging(view, env, PHYSICAL.otherTables, PHYSICAL.otherPageTable, true);
  }
  const made = { systemCall: handlers.systemCall, ram };
  prepared.set(env.name, made);
  return made;
}

// ---- the vCPU ----------------------------------------------------------------------------------------------------

const SEGMENT_INDEX = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5, ldtr: 6, tr: 7 } as const;

/** Puts the vCPU into an environment, whose program the caller then starts by RIP and registers. */
export function enter(cpu: Cpu, env: Environment): void {
  const { mode, ring } = env;
  cpu.reset();
  const long = mode === 'long';
  const supervisor = supervisorBase(env);
  if (mode === 'real') {
    cpu.set64(CR0, BigInt(CR0_ET | CR0_MP | CR0_NE));
    cpu.setTable('idt', 0n, 0x3ff);
  } else {
    cpu.set64(CR0, BigInt((CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG) >>> 0));
    cpu.set64(CR3, BigInt(PHYSICAL.pageTables));
    cpu.setTable('gdt', supervisor + BigInt(PHYSICAL.gdt), SELECTOR.limit);
    cpu.setTable('idt', supervisor + BigInt(PHYSICAL.idt), 256 * (long ? 16 : 8) - 1);
  }
  cpu.set64(CR4, BigInt(CR4_OSFXSR | CR4_OSXMMEXCPT | (env.pae ? CR4_PAE : 0) | CR4_PGE));
  cpu.set64(EFER, BigInt(long ? EFER_NXE | EFER_SCE | EFER_LME | EFER_LMA : mode === 'real' ? 0 : EFER_NXE));
  cpu.setCpl(ring);
  cpu.rflags = mode === 'v86' ? FLAG_VM | 0x3000 : 0;
  const set = (name: keyof typeof SEGMENT_INDEX, selector: number, descriptor: Descriptor): void =>
    cpu.setSegment(SEGMENT_INDEX[name], { selector, ...descriptor });
  if (mode === 'real' || mode === 'v86') {
    const segment = (name: keyof typeof SEGMENT_INDEX, window: number): void =>
      set(name, window >> 4, {
        base: BigInt(window),
        limit: 0xffff,
        attributes: mode === 'v86' ? 0xf3 : name === 'cs' ? 0x9b : 0x93,
      });
    segment('cs', WINDOW.code);
    segment('ds', WINDOW.data);
    segment('es', WINDOW.data);
    segment('ss', WINDOW.stack);
    segment('fs', WINDOW.code);
    segment('gs', WINDOW.alias);
  } else {
    const descriptors = programDescriptors(env);
    const segment = (name: keyof typeof SEGMENT_INDEX, selector: number): void =>
      set(name, selector | ring, descriptors.get(selector) ?? UNUSABLE);
    segment('cs', SELECTOR.code);
    segment('ds', SELECTOR.data);
    segment('es', SELECTOR.data);
    segment('ss', SELECTOR.stack);
    segment('fs', SELECTOR.codeAsData);
    segment('gs', SELECTOR.alias);
  }
  if (mode !== 'real') {
    const tss = supervisor + BigInt(PHYSICAL.tss);
    set('tr', SELECTOR.tss, { base: tss & MASK64, limit: TSS_LIMIT, attributes: 0x8b });
    set('ldtr', 0, UNUSABLE);
  }
  if (mode !== 'real') {
    const { systemCall } = prepare(env);
    cpu.set64(MSR.star, (BigInt(SELECTOR.sysret) << 48n) | (BigInt(SELECTOR.kernelCode64) << 32n));
    cpu.set64(MSR.lstar, BigInt.asUintN(64, systemCall));
    cpu.set64(MSR.sfmask, 0x4_7700n);
    cpu.set64(MSR.kernelGsBase, BigInt.asUintN(64, supervisor + BigInt(PHYSICAL.variables)));
    cpu.set64(MSR.sysenterCs, BigInt(SELECTOR.sysenter));
    cpu.set64(MSR.sysenterEsp, BigInt.asUintN(64, supervisor + BigInt(PHYSICAL.kernelStack + PAGE)));
    cpu.set64(MSR.sysenterEip, BigInt.asUintN(64, systemCall));
  }
  if (mode !== 'long' && env.pae && hasPaging(env) && !cpu.mmu.loadPdptes(PHYSICAL.pageTables))
    throw new Error('PAE page-directory pointers refused');
}
