import {
  ATTR_L,
  CR0_AM,
  CR0_CD,
  CR0_EM,
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR0_WP,
  CR4_DE,
  CR4_FSGSBASE,
  CR4_MCE,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  CR4_PCE,
  CR4_PGE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  CR4_TSD,
  EFER_LMA,
  EFER_LME,
  FLAG_AC,
} from './bits.ts';
import { defineCallout } from './callout.ts';
import type { Cpu } from './cpu.ts';
import { gp, ud } from './faults.ts';
import {
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  CS,
  CTL,
  EFER,
  FLAGS_SYSTEM,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  TLB,
  TR,
} from './layout.ts';
import { MODE } from './mode.ts';
import { MAXPHYADDR } from './paging.ts';
import { requireCpl0 } from './privilege.ts';
import { getSigned, isCanonical } from './words.ts';

const CR0_DEFINED = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
/** The bits of CR4 that CPUID's features give; the others are reserved. */
const CR4_DEFINED =
  CR4_TSD |
  CR4_DE |
  CR4_PSE |
  CR4_PAE |
  CR4_MCE |
  CR4_PGE |
  CR4_PCE |
  CR4_OSFXSR |
  CR4_OSXMMEXCPT |
  CR4_FSGSBASE |
  CR4_SMEP |
  CR4_SMAP;
/** Changing one of these changes what cached translations allow. */
const CR0_FLUSH = CR0_PG | CR0_WP | CR0_PE;
const CR4_FLUSH = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP | CR4_SMAP;
/** Type of an available or busy 16-bit TSS, busy bit cleared. */
const TYPE_TSS16 = 1;
const BUSY = 2;

/** The control registers there are, and where they stand in the state. */
const CONTROL_SLOTS = new Map([
  [0, CR0],
  [2, CR2],
  [3, CR3],
  [4, CR4],
  [8, CR8],
]);

/** The slot of the state that a control register is and nothing else; 0 for others. */
export function plainControlSlot(number: number): number {
  return number === 8 ? 0 : (CONTROL_SLOTS.get(number) ?? 0);
}

const code64 = (cpu: Cpu): boolean => (cpu.get32(CTL.modeKey) & MODE.codeSizeMask) === MODE.code64;

/** PAE paging (not 4-level) is in use with these register values. */
function paePaging(cr0: number, cr4: number, efer: number): boolean {
  return (cr0 & CR0_PG) !== 0 && (cr4 & CR4_PAE) !== 0 && (efer & EFER_LMA) === 0;
}

/** MOV to CR0 and LMSW, with every check and effect (Intel SDM volume 3, section 2.5, and volume 2, MOV). */
export function writeCr0(cpu: Cpu, value: number): void {
  const next = (value & CR0_DEFINED) | CR0_ET;
  const old = cpu.cr0;
  const changed = next ^ old;
  if ((next & CR0_PG) !== 0 && (next & CR0_PE) === 0) throw gp();
  if ((next & CR0_NW) !== 0 && (next & CR0_CD) === 0) throw gp();
  const { cr4 } = cpu;
  let { efer } = cpu;
  if ((changed & CR0_PG) !== 0) {
    if ((next & CR0_PG) === 0) {
      if (code64(cpu)) throw gp();
      efer &= ~EFER_LMA;
    } else if ((efer & EFER_LME) !== 0) {
      const tssType = cpu.get32(TR + SEG_FIELD.attributes) & 0xf & ~BUSY;
      if ((cr4 & CR4_PAE) === 0) throw gp();
      if ((cpu.get32(CS + SEG_FIELD.attributes) & ATTR_L) !== 0 || tssType === TYPE_TSS16) throw gp();
      efer |= EFER_LMA;
    }
  }
  if ((changed & (CR0_PG | CR0_CD | CR0_NW)) !== 0 && paePaging(next, cr4, efer)) {
    if (!cpu.mmu.loadPdptes()) throw gp();
  }
  cpu.set64(CR0, BigInt(next >>> 0));
  cpu.set64(EFER, BigInt(efer >>> 0));
  if ((changed & CR0_FLUSH) !== 0) cpu.mmu.flush();
  cpu.updateMode();
}

/** MOV to CR3. Upper half as the two halves of a register. */
function writeCr3(cpu: Cpu, low: number, high: number): void {
  if (high >>> (MAXPHYADDR - 32) !== 0) throw gp();
  if (paePaging(cpu.cr0, cpu.cr4, cpu.efer) && !cpu.mmu.loadPdptes(low)) throw gp();
  cpu.set32(CR3, low);
  cpu.set32(CR3 + 4, high);
  cpu.mmu.rootChanged();
}

/** MOV to CR4. */
export function writeCr4(cpu: Cpu, value: number): void {
  if ((value & ~CR4_DEFINED) !== 0) throw gp();
  const { cr0, cr4, efer } = cpu;
  const changed = value ^ cr4;
  if ((efer & EFER_LMA) !== 0 && (value & CR4_PAE) === 0) throw gp();
  if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) !== 0 && paePaging(cr0, value, efer)) {
    if (!cpu.mmu.loadPdptes()) throw gp();
  }
  cpu.set64(CR4, BigInt(value >>> 0));
  if ((changed & CR4_FLUSH) !== 0) cpu.mmu.flush();
  cpu.updateMode();
}

/** MOV r, CRn. dst: 64-bit slot (the lifter narrows it). imm: n. */
export const readControl = defineCallout('readControl', 'controlRegister', (cpu, dst, _a, _b, imm) => {
  const slot = CONTROL_SLOTS.get(imm);
  if (slot === undefined) throw ud();
  requireCpl0(cpu);
  cpu.set64(dst, imm === 8 ? BigInt(cpu.readTpr()) : cpu.get64(slot));
});

/** MOV CRn, r. a: 64-bit slot, of which 64-bit code uses all and other code the low half. imm: n. */
export const writeControl = defineCallout('writeControl', 'controlRegister', (cpu, _dst, a, _b, imm) => {
  if (!CONTROL_SLOTS.has(imm)) throw ud();
  requireCpl0(cpu);
  const low = cpu.i32[a >> 2]!;
  const high = code64(cpu) ? cpu.i32[(a >> 2) + 1]! : 0;
  if (imm === 2) {
    cpu.set32(CR2, low);
    cpu.set32(CR2 + 4, high);
  } else if (imm === 3) {
    writeCr3(cpu, low, high);
  } else {
    if (high !== 0) throw gp();
    if (imm === 0) writeCr0(cpu, low);
    else if (imm === 4) writeCr4(cpu, low);
    else {
      if ((low & ~15) !== 0) throw gp();
      cpu.set64(CR8, BigInt(low));
      cpu.onWriteTpr(low);
    }
  }
});

/** LMSW. a: slot with the 16-bit operand. PE can be set, not cleared. */
export const lmsw = defineCallout('lmsw', 'controlRegister', (cpu, _dst, a) => {
  requireCpl0(cpu);
  const mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
  const { cr0 } = cpu;
  writeCr0(cpu, (cr0 & ~mask) | (cpu.get32(a) & mask) | (cr0 & CR0_PE));
});

/** CLTS: no operands. */
export const clts = defineCallout('clts', 'controlRegister', (cpu) => {
  requireCpl0(cpu);
  cpu.set32(CR0, cpu.get32(CR0) & ~CR0_TS);
  cpu.updateMode();
});

/** INVLPG. a: slot with the linear address; a non-canonical one does nothing. */
export const invlpg = defineCallout('invlpg', 'invlpg', (cpu, _dst, a) => {
  requireCpl0(cpu);
  const lin = getSigned(cpu, a);
  if (isCanonical(lin)) cpu.mmu.invalidatePage(lin);
});

/** INVD, WBINVD: the caches of the vCPU are the host's business. No operands. */
export const cacheFlush = defineCallout('cacheFlush', 'otherCallout', requireCpl0);

/** HLT: no operands. The block ends after it and the run loop finds CTL.halted. */
export const hlt = defineCallout('hlt', 'hlt', (cpu) => {
  requireCpl0(cpu);
  cpu.set32(CTL.halted, 1);
});

/** CLAC (imm 0) and STAC (imm 1): RFLAGS.AC, which opens and shuts user pages to the supervisor. */
export const setAc = defineCallout('setAc', 'otherCallout', (cpu, _dst, _a, _b, imm) => {
  if (cpu.get32(CTL.cpl) !== 0) throw ud();
  const flags = cpu.get32(FLAGS_SYSTEM);
  cpu.set32(FLAGS_SYSTEM, imm !== 0 ? flags | FLAG_AC : flags & ~FLAG_AC);
  // At CPL 0 AC changes nothing else of what updateMode derives, and guests do this around every copy from user.
  const enforced = imm === 0 && (cpu.cr4 & CR4_SMAP) !== 0;
  cpu.set32(CTL.tlbBank, enforced ? TLB.bankSupervisorSmap : TLB.bankSupervisor);
});

/** RDFSBASE, RDGSBASE. dst: 64-bit slot. imm: segment register 4 or 5. */
export const readSegmentBase = defineCallout('readSegmentBase', 'descriptor', (cpu, dst, _a, _b, imm) => {
  if ((cpu.cr4 & CR4_FSGSBASE) === 0) throw ud();
  cpu.set64(dst, cpu.get64(SEG + imm * SEG_SIZE + SEG_FIELD.base));
});

/** WRFSBASE, WRGSBASE. a: 64-bit slot, zero-extended for 32-bit operands. imm: segment register 4 or 5. */
export const writeSegmentBase = defineCallout('writeSegmentBase', 'descriptor', (cpu, _dst, a, _b, imm) => {
  if ((cpu.cr4 & CR4_FSGSBASE) === 0) throw ud();
  if (!isCanonical(getSigned(cpu, a))) throw gp();
  cpu.set64(SEG + imm * SEG_SIZE + SEG_FIELD.base, cpu.get64(a));
});
