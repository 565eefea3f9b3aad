import type { Cpu } from './cpu.ts';
import { portBreakpoints } from './debug.ts';
import { checkIoPermission } from './io-permission.ts';
import { CTL } from './layout.ts';

/** How ports are named in exit accounting, made when first used. */
const names = new Array<string | undefined>(0x10000);

function name(port: number): string {
  return (names[port] ??= `0x${port.toString(16)}`);
}

/** Permission, breakpoints (told of after the instruction) and the detail of the exit, which the engine counts. */
function before(cpu: Cpu, port: number, size: number): void {
  checkIoPermission(cpu, port, size);
  cpu.set32(CTL.pendingDebug, cpu.get32(CTL.pendingDebug) | portBreakpoints(cpu, port, size));
  cpu.accounting.detail('portIo', name(port));
}

/** IN's access of 1, 2 or 4 bytes: #GP(0) where CPL may not. */
export function readPort(cpu: Cpu, port: number, size: number): number {
  before(cpu, port, size);
  return cpu.ports.read(port, size);
}

/** OUT's access: see readPort. */
export function writePort(cpu: Cpu, port: number, size: number, value: number): void {
  before(cpu, port, size);
  cpu.ports.write(port, size, value);
}
