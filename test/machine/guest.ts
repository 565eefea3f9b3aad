import {
  Assembler,
  multibootImage,
  reserveMultibootHeader,
  source,
} from '../../src-core/guests/assembler/index.ts';
import { Machine, type MachineEnd } from '../../src-core/machine/machine.ts';
import type { MachineConfigInput } from '../../src-core/protocol/machine-config.ts';

/** A Multiboot kernel from 32-bit assembly text, entered at `start`, with a stack. */
export function kernel(text: string): Uint8Array {
  const assembler = new Assembler();
  reserveMultibootHeader(assembler);
  source(assembler, `start: mov esp, stack\n${text}\n`);
  assembler.bss().space(4096).label('stack').space(16);
  return multibootImage(assembler.assemble(), 'start', 'elf');
}

/** Subroutines: `putc` (AL to COM1), `hang`, and `pic` (both 8259A at 20h, all masked but `IRQ_MASK`). */
export const RUNTIME = `
putc:   push edx
        mov dx, 0x3f8
        out dx, al
        pop edx
        ret
hang:   cli
        hlt
        jmp hang
`;

/** Sets up an IDT with one 32-bit interrupt gate and the PICs with one unmasked IRQ 0..7. */
export function interruptSetup(irq: number, handler: string): string {
  return `
        mov eax, ${handler}
        mov word [idt + (0x20 + ${irq}) * 8], ax
        mov word [idt + (0x20 + ${irq}) * 8 + 2], 8
        mov byte [idt + (0x20 + ${irq}) * 8 + 5], 0x8e
        shr eax, 16
        mov word [idt + (0x20 + ${irq}) * 8 + 6], ax
        lidt [idtr]
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, ${0xff & ~(1 << irq)}
        out 0x21, al
        jmp over_idt
idtr:   dw 0x40 * 8 - 1
        dd idt
        align 8
idt:    dq ${new Array<number>(0x40).fill(0).join(', ')}
over_idt:
`;
}

export interface Outcome {
  end: MachineEnd;
  serial: string;
  machine: Machine;
}

export function makeMachine(text: string, config: Partial<MachineConfigInput> = {}): Machine {
  return new Machine({
    memoryMib: 8,
    kernel: { name: 'test', bytes: kernel(text + RUNTIME) },
    debugExit: true,
    ...config,
  });
}

/** What a machine writes to COM1, as text that grows. */
export function collectSerial(machine: Machine): { text: string } {
  const collected = { text: '' };
  machine.on('serial', (port, bytes) => {
    if (port === 0) collected.text += new TextDecoder().decode(bytes);
  });
  return collected;
}

/** Starts a machine and waits for its end. */
export async function runToEnd(machine: Machine): Promise<Outcome> {
  const serial = collectSerial(machine);
  const end = await new Promise<MachineEnd>((resolve) => {
    machine.on('ended', resolve);
    machine.start();
  });
  return { end, serial: serial.text, machine };
}

/** Waits until a condition holds, looking every few ms. */
export async function until(condition: () => boolean, ms = 5000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
