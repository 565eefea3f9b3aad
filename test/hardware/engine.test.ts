/** The engine by itself: slices, events, memory, fallback, and taking it down. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import { eventsGiven } from '../../src-core/engines/hardware/kvm/registers.ts';
import { HardwareEngine } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import { VCPU_IOCTL } from '../../src-core/engines/hardware/kvm/ioctl.ts';
import { RUN } from '../../src-core/engines/hardware/kvm/layout.ts';
import { type Libc, libc } from '../../src-core/engines/hardware/kvm/libc.ts';
import type { KvmSystemOptions } from '../../src-core/engines/hardware/kvm/system.ts';
import { liveVms } from '../../src-core/engines/hardware/kvm/vm.ts';
import { assemble } from '../../src-core/engines/hardware/probe/guests.ts';
import { type GuestPlace, longMode, PLACE, realMode } from '../../src-core/engines/hardware/probe/modes.ts';
import type { RunEnd } from '../../src-core/engines/engine.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import type { Bits } from '../../src-core/guests/assembler/index.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import type { InterruptSource } from '../../src-core/machine/bus.ts';
import { CTL } from '../../src-core/x86/layout.ts';
import { describeKvm } from './support.ts';
import { makeVcpu, type Vcpu } from './vcpu.ts';

/** What of KVM's this process has: descriptors and mappings. */
function traces(): string[] {
  const descriptors = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      // The descriptor of the directory itself is gone by now.
      return [];
    }
  });
  const mappings = readFileSync('/proc/self/maps', 'latin1').split('\n');
  return [...descriptors, ...mappings].filter((line) => line.includes('kvm'));
}

const LIMIT = 60_000;

describeKvm('The hardware engine', () => {
  const engines: { dispose(): void }[] = [];
  afterEach(() => {
    for (const engine of engines.splice(0).reverse()) engine.dispose();
    expect(liveVms()).toBe(0);
    expect(traces()).toEqual([]);
  });

  interface Guest extends Vcpu {
    readonly engine: HardwareEngine;
  }

  function make(
    bits: Bits,
    code: string,
    prepare: (place: GuestPlace, symbol: (name: string) => number) => void,
    interrupts?: InterruptSource,
    kvm: KvmSystemOptions = {},
  ): Guest {
    const vcpu = makeVcpu(interrupts);
    const { arena, cpu } = vcpu;
    const image = assemble({ bits, code });
    prepare({ cpu, view: new DataView(arena.buffer, ARENA.ram, arena.ramSize) }, (name) =>
      Number(image.symbols.get(name) ?? 0),
    );
    arena.ram.set(image.bytes, PLACE.code);
    const software = new SoftwareEngine({ arena, cpu });
    const engine = new HardwareEngine({ arena, cpu, software, kvm });
    engines.push(software, engine);
    return { ...vcpu, engine };
  }

  function onWrite({ ports }: Vcpu, port: number, write: (value: number) => void): void {
    ports.register(port, port + 3, `test${port}`, {
      readPort: () => 0,
      writePort: (_port, _size, value) => write(value),
    });
  }

  /** Runs until the guest ends its run by itself, or the condition holds. */
  function runUntil(guest: Guest, done: () => boolean): void {
    const deadline = performance.now() + LIMIT / 2;
    while (!done()) {
      if (performance.now() > deadline) throw new Error('the guest does not get there');
      guest.engine.run(1000);
    }
  }

  /** How the guest stops. On a busy host a run may end before that for want of time. */
  function runToEnd({ engine }: Guest): RunEnd {
    const deadline = performance.now() + LIMIT / 2;
    while (performance.now() < deadline) {
      const end = engine.run(1000);
      if (end !== 'slice') return end;
    }
    throw new Error('the guest does not stop');
  }

  it('ends a run after its time, though the guest does nothing that leaves it', () => {
    const guest = make(16, 'again: inc eax\njmp again', realMode);
    guest.engine.run(1, false, 1e6);
    const started = performance.now();
    for (let i = 0; i < 10; i++) expect(guest.engine.run(1, false, 2e6)).toBe('slice');
    const ms = performance.now() - started;
    expect(ms).toBeGreaterThan(15);
    expect(ms).toBeLessThan(2000);
    guest.engine.leave();
    expect(guest.cpu.gpr32(0)).toBeGreaterThan(0);
  });

  it('ends a run when a device asks, after the instruction that told it', () => {
    const guest = make(16, 'mov al, 1\nout 0x10, al\ninc al\nout 0x10, al\nhlt', realMode);
    const values: number[] = [];
    onWrite(guest, 0x10, (value) => {
      values.push(value);
      guest.engine.requestExit();
    });
    runUntil(guest, () => values.length > 0);
    expect(values).toEqual([1]);
    guest.engine.leave();
    // Past the OUT.
    expect(guest.cpu.rip).toBe(BigInt(PLACE.code + 4));
    runUntil(guest, () => values.length > 1);
    expect(values).toEqual([1, 2]);
    expect(runToEnd(guest)).toBe('halt');
    expect(guest.accounting.snapshot().reasons['portIo']?.count).toBe(2);
    expect(guest.accounting.snapshot().details['portIo']).toEqual({ '0x10': 2 });
  });

  it('leaves KVM at the end of the run when that is asked for within it', () => {
    const guest = make(16, 'mov ax, 0x1234\nout 0x10, al\nmov bx, ax\nhlt', realMode);
    let left = false;
    onWrite(guest, 0x10, () => {
      guest.engine.leave();
      guest.engine.requestExit();
      left = true;
    });
    runUntil(guest, () => left);
    expect(guest.cpu.gpr32(0) & 0xffff).toBe(0x1234);
    expect(guest.cpu.rip).toBe(BigInt(PLACE.code + 5));
  });

  it('says when the guest waits, and when it is past saving', () => {
    const halting = make(16, 'cli\nhlt\nhlt', realMode);
    expect(runToEnd(halting)).toBe('halt');
    expect(runToEnd(halting)).toBe('halt');
    expect(halting.cpu.get32(CTL.halted)).toBe(1);
    const failing = make(64, 'ud2', (place) => longMode(place));
    expect(runToEnd(failing)).toBe('shutdown');
  });

  it('delivers every interrupt once', () => {
    let pending = 0;
    let acknowledged = 0;
    const interrupts: InterruptSource = {
      hasInterrupt: () => pending > 0,
      acknowledge: () => {
        pending--;
        acknowledged++;
        return 0x30;
      },
    };
    const guest = make(
      64,
      `sti
      again: inc rcx
      jmp again
      handler: inc rbx
      iretq`,
      (place, symbol) => longMode(place, { 0x30: symbol('handler') }),
      interrupts,
    );
    for (let i = 0; i < 500; i++) {
      pending++;
      runUntil(guest, () => pending === 0);
    }
    // The last may not have begun yet.
    guest.engine.run(1000);
    guest.engine.leave();
    expect(acknowledged).toBe(500);
    expect(Number(guest.cpu.gpr(3))).toBe(500);
    expect(guest.accounting.snapshot().reasons['interrupt']?.count).toBe(500);
  });

  it('loses no interrupt that comes right after what KVM can’t execute', () => {
    const state: { cpu?: Guest['cpu'] } = {};
    let acknowledged = 0;
    const interrupts: InterruptSource = {
      // Just when KVM is to take the state that software left.
      hasInterrupt: () =>
        state.cpu !== undefined && eventsGiven(state.cpu) && state.cpu.get32(CTL.halted) === 0,
      acknowledge: () => {
        acknowledged++;
        return 0x30;
      },
    };
    const guest = make(
      64,
      `mov ecx, 200
      sti
      again: cvtsi2sd xmm0, ecx
      mov rax, 400
      wait: dec rax
      jnz wait
      dec ecx
      jnz again
      cli
      hlt
      handler: inc rbx
      iretq`,
      (place, symbol) => longMode(place, { 0x30: symbol('handler') }),
      interrupts,
    );
    state.cpu = guest.cpu;
    runUntil(guest, () => guest.cpu.get32(CTL.halted) !== 0);
    guest.engine.leave();
    expect(acknowledged).toBeGreaterThan(50);
    expect(Number(guest.cpu.gpr(3))).toBe(acknowledged);
  });

  it('waits for the guest to let interrupts in', () => {
    let pending = false;
    const interrupts: InterruptSource = {
      hasInterrupt: () => pending,
      acknowledge: () => {
        pending = false;
        return 0x30;
      },
    };
    const guest = make(
      64,
      `mov al, 1
      out 0x10, al
      mov ecx, 2000
      masked: dec ecx
      jnz masked
      mov r9, rbx
      sti
      open: inc r10
      cmp rbx, 1
      jne open
      cli
      hlt
      handler: inc rbx
      iretq`,
      (place, symbol) => longMode(place, { 0x30: symbol('handler') }),
      interrupts,
    );
    onWrite(guest, 0x10, () => (pending = true));
    runUntil(guest, () => guest.cpu.get32(CTL.halted) !== 0);
    guest.engine.leave();
    expect(guest.cpu.gpr(3)).toBe(1n);
    expect(guest.cpu.gpr(9)).toBe(0n);
    expect(guest.accounting.snapshot().reasons['interruptWindow']?.count).toBeGreaterThan(0);
  });

  it('ends HLT by an interrupt, and by one that cannot be masked', () => {
    let pending = false;
    const interrupts: InterruptSource = {
      hasInterrupt: () => pending,
      acknowledge: () => {
        pending = false;
        return 0x30;
      },
    };
    const guest = make(
      16,
      `mov word [0x30*4], handler
      mov word [0x30*4+2], 0
      mov word [2*4], nmi
      mov word [2*4+2], 0
      sti
      hlt
      cli
      hlt
      mov dx, 1
      hlt
      handler: inc bx
      iret
      nmi: inc cx
      iret`,
      realMode,
      interrupts,
    );
    expect(runToEnd(guest)).toBe('halt');
    pending = true;
    expect(runToEnd(guest)).toBe('halt');
    // Interrupts are masked now.
    pending = true;
    expect(runToEnd(guest)).toBe('halt');
    expect(pending).toBe(true);
    guest.cpu.raiseNmi();
    expect(runToEnd(guest)).toBe('halt');
    guest.engine.leave();
    expect([guest.cpu.gpr32(3), guest.cpu.gpr32(1), guest.cpu.gpr32(2)]).toEqual([1, 1, 1]);
  });

  it('executes what KVM can’t in software, two thousand times right', () => {
    const guest = make(
      64,
      `mov ecx, 2000
      xorps xmm1, xmm1
      again: cvtsi2sd xmm0, ecx
      addsd xmm1, xmm0
      mov rax, 20
      wait: dec rax
      jnz wait
      dec ecx
      jnz again
      cvttsd2si rbx, xmm1
      cli
      hlt`,
      (place) => longMode(place),
    );
    runUntil(guest, () => guest.cpu.get32(CTL.halted) !== 0);
    guest.engine.leave();
    expect(guest.cpu.gpr(3)).toBe(2001000n);
  });

  it('goes on in software when KVM fails in the middle', () => {
    let failing = false;
    const real = libc();
    const running: { guest?: Guest } = {};
    const calls: Libc = {
      ...real,
      ioctl: (fd, request, argument) => {
        const immediate = running.guest?.arena.u8[ARENA.kvmRun + RUN.immediateExit] === 1;
        if (failing && request === VCPU_IOCTL.run && !immediate) {
          // Any call that fails sets the error number.
          return real.ioctl(-1, request, argument);
        }
        return real.ioctl(fd, request, argument);
      },
    };
    const guest = make(16, 'mov bx, 5\nout 0x10, al\nadd bx, 7\nhlt', realMode, undefined, { calls });
    running.guest = guest;
    const { engine, cpu } = guest;
    onWrite(guest, 0x10, () => (failing = true));
    expect(runToEnd(guest)).toBe('halt');
    expect(cpu.gpr32(3)).toBe(12);
    expect(engine.failure?.message).toMatch(/KVM_RUN: EBADF/);
    expect(() => engine.enter()).toThrow(/KVM_RUN/);
  });

  it('runs in software while address line 20 is gated', () => {
    const guest = make(16, 'mov ax, 0xffff\nmov ds, ax\nmov bx, [0x7010]\nhlt', realMode);
    guest.arena.view.setUint16(ARENA.ram + 0x7000, 0x1111, true);
    guest.arena.view.setUint16(ARENA.ram + 0x107000, 0x2222, true);
    guest.cpu.setA20(false);
    expect(() => guest.engine.enter()).toThrow(/line 20/);
    expect(runToEnd(guest)).toBe('halt');
    expect(guest.cpu.gpr32(3)).toBe(0x1111);
  });

  it('follows the memory map: ROM, its shadow, holes', () => {
    const guest = make(
      16,
      `mov ax, 0xf000
      mov ds, ax
      mov bx, [0x100]
      mov word [0x100], 0x5555
      mov cx, [0x100]
      out 0x10, al
      mov word [0x100], 0x6666
      mov dx, [0x100]
      out 0x10, al
      mov si, [0x100]
      mov ax, 0xa000
      mov ds, ax
      mov di, [0]
      hlt`,
      realMode,
    );
    const rom = new Uint8Array(0x10000).fill(0x77);
    guest.memory.onRemap = () => guest.engine.flush();
    guest.memory.installRom(rom);
    let step = 0;
    onWrite(guest, 0x10, () => {
      // First writes go to RAM below the ROM, then reads come from there as well.
      guest.memory.setPam(12, step > 0, true);
      step++;
    });
    guest.memory.setPam(12, false, false);
    expect(runToEnd(guest)).toBe('halt');
    guest.engine.leave();
    const values = [3, 1, 2, 6, 7].map((index) => guest.cpu.gpr32(index) & 0xffff);
    expect(values).toEqual([0x7777, 0x7777, 0x7777, 0x6666, 0xffff]);
    expect(guest.accounting.snapshot().reasons['mmio']?.count).toBeGreaterThan(0);
  });

  it('tells KVM’s own counters by name', () => {
    const guest = make(16, 'mov cx, 100\nagain: out 0x10, al\nloop again\nhlt', realMode);
    expect(runToEnd(guest)).toBe('halt');
    const counters = guest.engine.counters();
    expect(counters['exits']).toBeGreaterThanOrEqual(100);
    expect(Object.keys(counters).some((name) => name.startsWith('vm.'))).toBe(true);
  });

  it('gives back all it took, and leaves the guest’s memory as it was', () => {
    for (let round = 0; round < 10; round++) {
      const guest = make(16, 'mov word [0x500], 0x1234\nhlt', realMode);
      expect(runToEnd(guest)).toBe('halt');
      guest.engine.counters();
      expect(traces()).not.toEqual([]);
      guest.engine.dispose();
      expect(traces()).toEqual([]);
      expect(liveVms()).toBe(0);
      expect(guest.arena.view.getUint16(ARENA.ram + 0x500, true)).toBe(0x1234);
      // kvm_run's place is ordinary memory again.
      const at = ARENA.kvmRun + 100;
      guest.arena.u8[at] = 5;
      expect(guest.arena.u8[at]).toBe(5);
    }
  });

  it('dies with its process, though that is in KVM_RUN', { timeout: LIMIT }, async () => {
    const script = fileURLToPath(new URL('./endless.ts', import.meta.url));
    const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [chunk] = (await once(child.stdout, 'data')) as [Buffer];
    expect(chunk.toString()).toBe('running\n');
    const started = performance.now();
    child.kill('SIGKILL');
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
    expect([code, signal]).toEqual([null, 'SIGKILL']);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
