import type { Cpu } from './cpu.ts';
import { checkIoPermission } from './io-permission.ts';

/** How ports are named in exit accounting, made when first used. */
const names = new Array<string | undefined>(0x10000);

function name(port: number): string {
  return (names[port] ??= `0x${port.toString(16)}`);
}

/** IN's access of 1, 2 or 4 bytes: #GP(0) where CPL may not. The engine counts and times it; the detail is noted here. */
export function readPort(cpu: Cpu, port: number, size: number): number {
  checkIoPermission(cpu, port, size);
  cpu.accounting.detail('portIo', name(port));
  return cpu.ports.read(port, size);
}

/** OUT's access: see readPort. */
export function writePort(cpu: Cpu, port: number, size: number, value: number): void {
  checkIoPermission(cpu, port, size);
  cpu.accounting.detail('portIo', name(port));
  cpu.ports.write(port, size, value);
}
