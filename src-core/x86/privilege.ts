import type { Cpu } from './cpu.ts';
import { gp } from './faults.ts';
import { CTL } from './layout.ts';

/** #GP(0) unless the CPL is 0; virtual-8086 mode runs at CPL 3. */
export function requireCpl0(cpu: Cpu): void {
  if (cpu.get32(CTL.cpl) !== 0) throw gp();
}
