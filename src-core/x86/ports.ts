import type { Cpu } from './cpu.ts';
import { portBreakpoints } from './debug.ts';
import { checkIoPermission } from './io-permission.ts';
import { CTL } from './layout.ts';

/** Names of ports, made when first used. */
const names = new Map<number, string>();

/** How a port is named in exit accounting. */
export function portName(port: number): string {
  let name = names.get(port);
  if (name === undefined) names.set(port, (name = `0x${port.toString(16)}`));
  return name;
}

/** Permission, breakpoints (told of after the instruction) and the detail of the exit, which the engine counts. */
function before(cpu: Cpu, port: number, size: number): void {
  checkIoPermission(cpu, port, size);
  cpu.set32(CTL.pendingDebug, cpu.get32(CTL.pendingDebug) | portBreakpoints(cpu, port, size));
  cpu.accounting.detail('portIo', portName(port));
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
