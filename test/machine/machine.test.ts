import { afterEach, describe, expect, it } from 'vitest';
import { BootError } from '../../src-core/firmware/boot.ts';
import { EngineUnavailableError, Machine } from '../../src-core/machine/machine.ts';
import { collectSerial, interruptSetup, kernel, makeMachine, runToEnd, until } from './guest.ts';

const EXIT = (value: number): string => `mov eax, ${value}\nout 0xf4, eax\njmp hang\n`;
const PUT = (text: string): string =>
  Array.from(text, (character) => `mov al, ${character.charCodeAt(0)}\ncall putc\n`).join('');

/** Programs counter 0 in mode 2 with a count. */
const TIMER = (count: number): string => `
  mov al, 0x34
  out 0x43, al
  mov al, ${count & 0xff}
  out 0x40, al
  mov al, ${count >> 8}
  out 0x40, al
`;

const COUNTING_HANDLER = `
tick:   push eax
        inc dword [ticks]
        mov al, 0x20
        out 0x20, al
        pop eax
        iret
ticks:  dd 0
`;

describe('Machine', () => {
  const machines: Machine[] = [];
  function make(text: string, config: Parameters<typeof makeMachine>[1] = {}): Machine {
    const machine = makeMachine(text, config);
    machines.push(machine);
    return machine;
  }
  afterEach(() => {
    for (const machine of machines.splice(0)) machine.stop();
  });

  it('runs a kernel, gives its serial output and ends with its exit value', async () => {
    const { end, serial, machine } = await runToEnd(make(PUT('Hello') + EXIT(7)));
    expect(end).toEqual({ kind: 'debugExit', value: 7 });
    expect(serial).toBe('Hello');
    expect(machine.state).toBe('off');
    const { exits } = machine.statistics();
    expect(exits.details.portIo).toMatchObject({ '0x3f8': 5, '0xf4': 1 });
    expect(exits.instructions).toBeGreaterThan(10);
  });

  it('passes the Multiboot information', async () => {
    const { serial } = await runToEnd(
      make(
        `cmp eax, 0x2badb002
         jne hang
         mov esi, [ebx + 16]
next:    lodsb
         test al, al
         jz done
         call putc
         jmp next
done:    ${EXIT(0)}`,
        { commandLine: 'one two' },
      ),
    );
    expect(serial).toBe('test one two');
  });

  it('powers off through ACPI S5', async () => {
    const { end } = await runToEnd(make('mov dx, 0x604\nmov ax, 0x2001\nout dx, ax\njmp hang'));
    expect(end).toEqual({ kind: 'powerOff' });
  });

  it.each([
    ['keyboard controller', 'mov al, 0xfe\nout 0x64, al\n'],
    ['reset control register', 'mov dx, 0xcf9\nmov al, 6\nout dx, al\n'],
    ['port 92h', 'mov al, 3\nout 0x92, al\n'],
  ])('ends on a reset through the %s with noReboot', async (_name, text) => {
    const { end } = await runToEnd(make(`${text}jmp hang`, { noReboot: true }));
    expect(end).toEqual({ kind: 'reset' });
  });

  it('ends on a triple fault with noReboot', async () => {
    const { end } = await runToEnd(make('lidt [none]\nud2\nnone: dd 0, 0', { noReboot: true }));
    expect(end).toEqual({ kind: 'tripleFault' });
  });

  it('boots again after resets and triple faults, from a clean state', async () => {
    // The count lives outside of what is loaded, so it survives; the loaded data does not.
    const machine = make(`
      mov al, [loaded]
      call putc
      mov byte [loaded], 'x'
      inc dword [0x8000]
      cmp dword [0x8000], 1
      jne second
      mov al, 0xfe
      out 0x64, al
      jmp hang
second: cmp dword [0x8000], 2
      jne third
      lidt [none]
      ud2
none: dd 0, 0
loaded: db 'k'
third: ${EXIT(1)}`);
    const causes: string[] = [];
    machine.on('reset', (cause) => causes.push(cause));
    const { end, serial } = await runToEnd(machine);
    expect(end).toEqual({ kind: 'debugExit', value: 1 });
    expect(causes).toEqual(['guest', 'tripleFault']);
    expect(serial).toBe('kkk');
  });

  it('counts timer interrupts at the rate of the guest’s clock', async () => {
    const text = `
      ${interruptSetup(0, 'tick')}
      ${TIMER(11932)}
      sti
wait: hlt
      cmp dword [ticks], 20
      jb wait
      ${EXIT(0)}
      ${COUNTING_HANDLER}`;
    const started = performance.now();
    const { machine } = await runToEnd(make(text));
    const host = performance.now() - started;
    // 20 periods of 10 ms.
    expect(machine.statistics().guestNs).toBeGreaterThan(199e6);
    expect(host).toBeGreaterThan(190);
    expect(host).toBeLessThan(2000);
    const { time } = machine.statistics().exits;
    expect(time.idle).toBeGreaterThan(100e6);
  });

  it('repeats a run to the instruction under the instruction clock', async () => {
    const text = `
      ${interruptSetup(0, 'tick')}
      ${TIMER(1193)}
      sti
      xor ecx, ecx
wait: inc ecx
      cmp dword [ticks], 50
      jb wait
      mov [0x9000], ecx
      ${EXIT(0)}
      ${COUNTING_HANDLER}`;
    const counts = new Set<string>();
    for (let run = 0; run < 2; run++) {
      const { machine } = await runToEnd(make(text, { clock: 'icount' }));
      const { guestNs, exits } = machine.statistics();
      counts.add(`${machine.memory.read(0x9000, 4)} ${guestNs} ${exits.instructions}`);
    }
    expect([...counts]).toHaveLength(1);
  });

  it('jumps over idle time under the instruction clock', async () => {
    const text = `
      ${interruptSetup(0, 'tick')}
      ${TIMER(0)}
      sti
wait: hlt
      cmp dword [ticks], 200
      jb wait
      ${EXIT(0)}
      ${COUNTING_HANDLER}`;
    const started = performance.now();
    const { machine } = await runToEnd(make(text, { clock: 'icount' }));
    expect(machine.statistics().guestNs).toBeGreaterThan(10e9);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  it('sleeps in HLT without using the processor, and wakes on serial input', async () => {
    const text = `
      ${interruptSetup(4, 'input')}
      mov dx, 0x3f9
      mov al, 1
      out dx, al
      mov dx, 0x3fc
      mov al, 8
      out dx, al
      ${PUT('>')}
      sti
wait: hlt
      jmp wait
input: mov dx, 0x3f8
      in al, dx
      cmp al, 'q'
      je quit
      call putc
      mov al, 0x20
      out 0x20, al
      iret
quit: ${EXIT(3)}`;
    const machine = make(text);
    const serial = collectSerial(machine);
    machine.start();
    await until(() => serial.text === '>');
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const used = process.cpuUsage(before);
    expect(used.user + used.system).toBeLessThan(100_000);
    machine.sendSerial(0, new TextEncoder().encode('echo'));
    await until(() => serial.text === '>echo');
    const ended = new Promise((resolve) => machine.on('ended', resolve));
    machine.sendSerial(0, new TextEncoder().encode('q'));
    expect(await ended).toEqual({ kind: 'debugExit', value: 3 });
  });

  it('pauses guest time and resumes', async () => {
    const machine = make('count: inc dword [0x9000]\njmp count');
    machine.start();
    await until(() => machine.memory.read(0x9000, 4) > 1000);
    machine.pause();
    expect(machine.state).toBe('paused');
    const count = machine.memory.read(0x9000, 4);
    const ns = machine.statistics().guestNs;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(machine.memory.read(0x9000, 4)).toBe(count);
    expect(machine.statistics().guestNs).toBe(ns);
    machine.resume();
    await until(() => machine.memory.read(0x9000, 4) !== count);
  });

  it('resets from outside, running or paused', async () => {
    const machine = make(`${PUT('r')}wait: hlt\njmp wait`);
    const serial = collectSerial(machine);
    machine.start();
    await until(() => serial.text === 'r');
    machine.reset();
    await until(() => serial.text === 'rr');
    machine.pause();
    machine.reset();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(serial.text).toBe('rr');
    machine.resume();
    await until(() => serial.text === 'rrr');
  });

  it('raises the system control interrupt for the power button', async () => {
    const text = `
      mov dx, 0x602
      mov ax, 0x100
      out dx, ax
      ${PUT('.')}
wait: mov dx, 0x600
      in ax, dx
      test ax, 0x100
      jz wait
      ${EXIT(9)}`;
    const machine = make(text);
    const serial = collectSerial(machine);
    const ended = new Promise((resolve) => machine.on('ended', resolve));
    machine.start();
    await until(() => serial.text === '.');
    machine.powerButton();
    expect(await ended).toEqual({ kind: 'debugExit', value: 9 });
  });

  it('makes the guest wait while the host takes no serial output', async () => {
    const text = `
      mov ecx, 40
next: mov dx, 0x3fd
      in al, dx
      test al, 0x20
      jz next
      mov al, 'z'
      call putc
      loop next
      ${EXIT(0)}`;
    const machine = make(text);
    const serial = collectSerial(machine);
    machine.setSerialReady(0, false);
    const ended = new Promise((resolve) => machine.on('ended', resolve));
    machine.start();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(serial.text).toBe('');
    expect(machine.state).toBe('running');
    machine.setSerialReady(0, true);
    await ended;
    expect(serial.text).toBe('z'.repeat(40));
  });

  it('reports debug console and logged ports', async () => {
    const machine = make(
      `mov al, 'd'\nout 0xe9, al\nin al, 0xe9\nmov dx, 0x402\nout dx, al\nmov al, 5\nout 0x80, al\n${EXIT(0)}`,
      { debugConsole: true, logPorts: [0x402, 0x80] },
    );
    const got: string[] = [];
    machine.on('debugConsole', (bytes) => got.push(`debug ${bytes.join()}`));
    machine.on('logPort', (port, bytes) => got.push(`${port.toString(16)} ${bytes.join()}`));
    await runToEnd(machine);
    expect(got).toEqual(['debug 100', '402 233', '80 5']);
    expect(machine.statistics().postCode).toBe(5);
  });

  it('starts a firmware image at the reset vector', async () => {
    const image = new Uint8Array(65536).fill(0xf4);
    // mov al, 5; out 0xf4, al; hlt, at the start of the last 64 KiB, which the reset vector jumps to.
    image.set([0xb0, 0x05, 0xe6, 0xf4, 0xf4], 0);
    image.set([0xea, 0x00, 0x00, 0x00, 0xf0], 65536 - 16);
    const machine = new Machine({ memoryMib: 8, firmware: image, debugExit: true });
    machines.push(machine);
    expect((await runToEnd(machine)).end).toEqual({ kind: 'debugExit', value: 5 });
  });

  it('refuses what cannot be run, with a reason', () => {
    const bytes = kernel('jmp start');
    expect(() => new Machine({ memoryMib: 0, kernel: { name: 'k', bytes } })).toThrow(/at least 4 MiB/);
    expect(() => new Machine({ memoryMib: 10 << 20, kernel: { name: 'k', bytes } })).toThrow(/at most/);
    expect(() => new Machine({ memoryMib: 8 })).toThrow(/nothing to boot/);
    expect(
      () => new Machine({ memoryMib: 8, kernel: { name: 'k', bytes }, engine: 'hardware', clock: 'icount' }),
    ).toThrow(EngineUnavailableError);
    const text = new TextEncoder().encode('not a kernel\n');
    expect(() => new Machine({ memoryMib: 8, kernel: { name: 'notes.txt', bytes: text } })).toThrow(
      'kernel: notes.txt is a text file',
    );
    expect(() => new Machine({ memoryMib: 8, kernel: { name: 'notes.txt', bytes: text } })).toThrow(
      BootError,
    );
  });
});
