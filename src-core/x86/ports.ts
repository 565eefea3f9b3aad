import type { Cpu } from './cpu.ts';
import { checkIoPermission } from './io-permission.ts';

/** One port access in this many is timed. */
const SAMPLE_EVERY = 16;
let untilSample = SAMPLE_EVERY;

/** How ports are named in exit accounting, made when first used. */
const names = new Array<string | undefined>(0x10000);

function name(port: number): string {
  return (names[port] ??= `0x${port.toString(16)}`);
}

/** IN's access of 1, 2 or 4 bytes: #GP(0) where CPL may not. The caller counts the exit, this its detail and time. */
export function readPort(cpu: Cpu, port: number, size: number): number {
  checkIoPermission(cpu, port, size);
  cpu.accounting.detail('portIo', name(port));
  if (--untilSample > 0) return cpu.ports.read(port, size);
  untilSample = SAMPLE_EVERY;
  const start = performance.now();
  const value = cpu.ports.read(port, size);
  cpu.accounting.addTime('portIo', (performance.now() - start) * 1e6);
  return value;
}

/** OUT's access: see readPort. */
export function writePort(cpu: Cpu, port: number, size: number, value: number): void {
  checkIoPermission(cpu, port, size);
  cpu.accounting.detail('portIo', name(port));
  if (--untilSample > 0) {
    cpu.ports.write(port, size, value);
    return;
  }
  untilSample = SAMPLE_EVERY;
  const start = performance.now();
  cpu.ports.write(port, size, value);
  cpu.accounting.addTime('portIo', (performance.now() - start) * 1e6);
}
