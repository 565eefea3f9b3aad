import { describe, expect, it } from 'vitest';
import { planBoot } from '../../src-core/firmware/load.ts';
import { machineConfigSchema, type MachineConfigInput } from '../../src-core/protocol/machine-config.ts';
import { fakeElf, fakeLinux } from './images.ts';

const MIB = 1024 * 1024;

function plan(kernel: Uint8Array, more: Partial<MachineConfigInput> = {}): ReturnType<typeof planBoot> {
  const config = { memoryMib: 64, kernel: { name: 'vmlinuz', bytes: kernel }, ...more };
  return planBoot(machineConfigSchema.parse(config), 64 * MIB);
}

describe('what to boot', () => {
  it('is told by the kernel’s header', () => {
    expect(plan(fakeLinux())?.registers.rip).toBe(0x100000n);
    expect(plan(fakeElf())?.registers.rip).toBe(0x100010n);
  });

  it('must fit the kernel’s protocol', () => {
    const bytes = new Uint8Array(100);
    expect(() => plan(fakeLinux(), { modules: [{ bytes, commandLine: '' }] })).toThrow(/Give an initrd/);
    expect(() => plan(fakeElf(), { initrd: bytes })).toThrow(/Give it as a module/);
    expect(() => plan(new Uint8Array(4096))).toThrow(
      'kernel: vmlinuz holds neither a Linux boot header nor a Multiboot header',
    );
  });

  it('is nothing when a firmware image boots by itself', () => {
    const firmware = new Uint8Array(65536).fill(0xf4);
    expect(planBoot(machineConfigSchema.parse({ memoryMib: 64, firmware }), 64 * MIB)).toBeUndefined();
    const text = new TextEncoder().encode('x'.repeat(4096));
    expect(() => planBoot(machineConfigSchema.parse({ memoryMib: 64, firmware: text }), 64 * MIB)).toThrow(
      /firmware: is a text file/,
    );
  });
});
