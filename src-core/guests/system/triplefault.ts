/** A triple fault: an exception while a double fault is delivered resets the processor (SDM vol. 3A, 6.15). */
import type { SystemGuest } from './runtime/guest.ts';
import { Kernel32 } from './runtime/kernel32.ts';

function build(): Uint8Array {
  const k = new Kernel32();
  k.testCase('before', 'nop');
  k.code(`
    lidt [no_idt]
    ud2
    say "still here\\n"`);
  k.data('no_idt: dw 0\ndd 0');
  return k.finish().build();
}

export const tripleFault: SystemGuest = {
  name: 'triple-fault',
  subject: 'a triple fault ends the machine',
  expectation: { from: 'qemu' },
  ends: 'triple-fault',
  build,
};
