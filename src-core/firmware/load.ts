import { checkFirmware } from './bios.ts';
import { BootError, type BootPlan, describeUnknownFile } from './boot.ts';
import { isLinux, planLinux } from './linux.ts';
import { findMultibootHeader, planMultiboot } from './multiboot.ts';
import { RSDP_ADDRESS } from './platform.ts';
import type { MachineConfig } from '../protocol/machine-config.ts';

/**
 * Checks what a machine is to boot and lays it out. Throws BootError.
 * @returns undefined when a firmware image boots the machine by itself from the reset vector.
 */
export function planBoot(config: MachineConfig, ramSize: number): BootPlan | undefined {
  const { kernel, initrd, modules, commandLine, firmware } = config;
  if (firmware) checkFirmware(firmware);
  if (!kernel) return undefined;
  if (isLinux(kernel.bytes)) {
    if (modules.length > 0) {
      throw new BootError('modules', 'can’t be given to a Linux kernel', 'Give an initrd instead');
    }
    return planLinux({ kernel: kernel.bytes, initrd, commandLine, ramSize, acpiRsdp: RSDP_ADDRESS });
  }
  if (findMultibootHeader(kernel.bytes) >= 0) {
    if (initrd) {
      throw new BootError('initrd', 'can’t be given to a Multiboot kernel', 'Give it as a module instead');
    }
    const line = commandLine === '' ? kernel.name : `${kernel.name} ${commandLine}`;
    return planMultiboot({ kernel: kernel.bytes, modules, commandLine: line, ramSize });
  }
  throw new BootError(
    'kernel',
    `${kernel.name} ${describeUnknownFile(kernel.bytes)}`,
    'Choose a Linux kernel (bzImage) or a Multiboot kernel',
  );
}
