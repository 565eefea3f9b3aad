/** What stands in the VMCB at the exits of small guests: string I/O, events that were being delivered, NMIs, tasks. */
import { describe, expect, it, vi } from 'vitest';
import { ModelEngine } from '../../../src-core/engines/hardware/model/model-engine.ts';
import { builtInProfile } from '../../../src-core/engines/hardware/model/profile.ts';
import {
  EVENT_TYPE,
  eventInjection,
  EXIT_CODE,
  exitCodeName,
  VMCB,
} from '../../../src-core/engines/hardware/model/vmcb.ts';
import { assemble } from '../../../src-core/engines/hardware/probe/guests.ts';
import {
  type GuestPlace,
  longMode,
  PLACE,
  protectedMode,
  realMode,
} from '../../../src-core/engines/hardware/probe/modes.ts';
import { SoftwareEngine } from '../../../src-core/engines/software/software-engine.ts';
import type { Bits } from '../../../src-core/guests/assembler/index.ts';
import { ARENA } from '../../../src-core/machine/arena.ts';
import type { InterruptSource } from '../../../src-core/machine/bus.ts';
import { jumpFar } from '../../../src-core/x86/far.ts';
import { VECTOR } from '../../../src-core/x86/faults.ts';
import { VmmUnsupported } from '../../../src-core/x86/task.ts';
import { makeVcpu } from '../vcpu.ts';

interface Exit {
  readonly name: string;
  readonly info1: number;
  /** EXITINTINFO, and what the VMM has injected when it resumes the guest. */
  readonly interrupted: bigint;
  readonly injected: bigint;
}

interface GuestParts {
  bits: Bits;
  code: string;
  prepare: (place: GuestPlace, symbol: (name: string) => number) => void;
  mmu?: 'shadow' | 'nested';
  interrupts?: InterruptSource;
}

const PORT = 0x10;
/** No exit's code: it is written where one was, to see the next. */
const SEEN = 0xffff;

function make({ bits, code, prepare, mmu = 'nested', interrupts }: GuestParts) {
  const vcpu = makeVcpu(interrupts);
  const { arena, cpu, ports } = vcpu;
  const image = assemble({ bits, code });
  const place = { cpu, view: new DataView(arena.buffer, ARENA.ram, arena.ramSize) };
  prepare(place, (name) => Number(image.symbols.get(name) ?? 0));
  arena.ram.set(image.bytes, PLACE.code);
  const software = new SoftwareEngine({ arena, cpu });
  const engine = new ModelEngine({ cpu, software, mmu, profile: builtInProfile(undefined) });
  const { vmcb } = engine;
  const exits: Exit[] = [];
  const load = vmcb.load.bind(vmcb);
  vmcb.set32(VMCB.exitCode, SEEN);
  vi.spyOn(vmcb, 'load').mockImplementation((target) => {
    const exit = vmcb.get32(VMCB.exitCode);
    if (exit !== SEEN) {
      exits.push({
        name: exitCodeName(exit),
        info1: vmcb.get32(VMCB.exitInfo1),
        interrupted: vmcb.get64(VMCB.exitIntInfo),
        injected: vmcb.get64(VMCB.eventInj),
      });
    }
    vmcb.set32(VMCB.exitCode, SEEN);
    load(target);
  });
  let bytes = 0;
  ports.register(PORT, PORT, 'test', {
    readPort: () => ++bytes & 0xff,
    writePort: () => {
      bytes++;
    },
  });
  return {
    ...vcpu,
    ...place,
    engine,
    named: (name: string) => exits.filter((exit) => exit.name === `VMEXIT_${name}`),
    bytes: () => bytes,
    /** Runs to HLT or to a triple fault. */
    run: (): void => {
      for (let runs = 0; engine.run(10_000) === 'slice'; runs++) {
        if (runs > 1000) throw new Error('the guest does not come to its end');
      }
    },
  };
}

describe('String I/O', () => {
  it.each([
    ['outsb', 0],
    ['insb', 1],
  ])('REP %s exits once for each page of its operand', (instruction, type) => {
    const at = PLACE.frame + 0xff0;
    const guest = make({
      bits: 64,
      code: `mov edx, ${PORT}\nmov esi, ${at}\nmov edi, ${at}\nmov ecx, 40\nrep ${instruction}\nhlt`,
      prepare: (place) => longMode(place),
    });
    guest.run();
    expect(guest.bytes()).toBe(40);
    expect(guest.cpu.gpr(1)).toBe(0n);
    // Port, A64, SZ8, REP, STR, and IN or OUT.
    const info1 = (PORT << 16) | 0x200 | 0x10 | 8 | 4 | type;
    expect(guest.named('IOIO').map((exit) => exit.info1)).toEqual([info1, info1]);
    expect(guest.accounting.snapshot().reasons.portIo?.count).toBe(2);
  });

  it('each instruction exits for itself, and REP with nothing to do does not', () => {
    const guest = make({
      bits: 16,
      code: `mov dx, ${PORT}\nmov si, 0x500\noutsb\noutsw\nxor cx, cx\nrep outsb
        mov cx, 3\nrep outsb\nmov cx, 1\nrep outsb\nhlt`,
      prepare: realMode,
    });
    guest.run();
    // Port, A16 and STR; SZ8 or SZ16; REP.
    const string = (PORT << 16) | 0x80 | 4;
    const informations = [0x10, 0x20, 0x10 | 8, 0x10 | 8].map((rest) => string | rest);
    expect(guest.named('IOIO').map(({ info1 }) => info1)).toEqual(informations);
  });

  it('an interrupt ends what is emulated in one exit', () => {
    const state = { pending: false };
    const guest = make({
      bits: 64,
      code: `mov edx, ${PORT + 1}\nmov esi, ${PLACE.frame}\nmov ecx, 100\nsti\nrep outsb\nhlt
        handler: inc rbx\niretq`,
      prepare: (place, symbol) => longMode(place, { 0x30: symbol('handler') }),
      interrupts: {
        hasInterrupt: () => state.pending,
        acknowledge: () => {
          state.pending = false;
          return 0x30;
        },
      },
    });
    let written = 0;
    guest.ports.register(PORT + 1, PORT + 1, 'interrupting', {
      readPort: () => 0,
      writePort: () => {
        if (++written !== 50) return;
        state.pending = true;
        guest.cpu.interruptChanged();
      },
    });
    guest.run();
    expect(written).toBe(100);
    expect(guest.cpu.gpr(3)).toBe(1n);
    expect(guest.named('IOIO')).toHaveLength(2);
  });
});

describe('An exit during the delivery of an event', () => {
  const intN = (code: string) =>
    make({
      bits: 64,
      code: `${code}\nint 0x30\nhlt\nhandler: iretq`,
      prepare: (place, symbol) => longMode(place, { 0x30: symbol('handler') }),
      mmu: 'shadow',
    });

  it('has the event in EXITINTINFO, and the VMM injects it again', () => {
    const guest = intN('nop');
    guest.run();
    const event = eventInjection(0x30, EVENT_TYPE.software);
    const interrupted = guest.named('EXCP_PF').filter((exit) => exit.interrupted !== 0n);
    // IDT, stack: first uses of their pages, for which the shadow has no entries.
    expect(interrupted.length).toBeGreaterThan(1);
    for (const exit of interrupted) expect(exit).toMatchObject({ interrupted: event, injected: event });
    // Where nothing was being delivered nothing is injected.
    const others = guest.named('EXCP_PF').filter((exit) => exit.interrupted === 0n);
    expect(others.length).toBeGreaterThan(0);
    for (const exit of others) expect(exit.injected).toBe(0n);
  });

  it('the same for an interrupt', () => {
    const state = { pending: true };
    const guest = make({
      bits: 64,
      code: 'sti\nnop\nnop\ncli\nhlt\nhandler: iretq',
      prepare: (place, symbol) => longMode(place, { 0x31: symbol('handler') }),
      mmu: 'shadow',
      interrupts: {
        hasInterrupt: () => state.pending,
        acknowledge: () => {
          state.pending = false;
          return 0x31;
        },
      },
    });
    guest.run();
    const event = eventInjection(0x31, EVENT_TYPE.interrupt);
    const interrupted = guest.named('EXCP_PF').filter((exit) => exit.interrupted !== 0n);
    expect(interrupted.length).toBeGreaterThan(1);
    for (const exit of interrupted) expect(exit).toMatchObject({ interrupted: event, injected: event });
  });

  it('a fault of the guest’s own takes the place of the event', () => {
    const guest = intN(`mov esp, ${PLACE.unmapped}`);
    guest.run();
    const [exit] = guest.named('EXCP_PF').filter(({ interrupted, injected }) => interrupted !== injected);
    expect(exit).toMatchObject({
      interrupted: eventInjection(0x30, EVENT_TYPE.software),
      injected: eventInjection(VECTOR.PF, EVENT_TYPE.exception, 2),
    });
  });
});

it('the VMM learns from IRET that an NMI’s handler is over, and of no other IRET', () => {
  const guest = make({
    bits: 16,
    code: `mov word [2*4], handler\nmov word [2*4+2], 0\nmov word [0x31*4], handler\nmov word [0x31*4+2], 0
      hlt\nint 0x31\nint 0x31\nhlt\nhandler: inc cx\niret`,
    prepare: realMode,
  });
  guest.run();
  guest.cpu.raiseNmi();
  guest.run();
  guest.engine.leave();
  expect(guest.cpu.gpr32(1)).toBe(3);
  expect(guest.named('IRET')).toHaveLength(1);
});

it('a task switch exits with the selector of its TSS, and is the last thing that happens', () => {
  const guest = make({ bits: 32, code: 'hlt', prepare: (place) => protectedMode(place) });
  const selector = 0x48;
  // An available 32-bit TSS.
  guest.view.setUint32(PLACE.gdt + selector, 0x67, true);
  guest.view.setUint32(PLACE.gdt + selector + 4, 0x00008900, true);
  guest.cpu.setTable('gdt', BigInt(PLACE.gdt), 0xff);
  guest.engine.enter();
  expect(() => jumpFar(guest.cpu, selector, 0, 32)).toThrow(VmmUnsupported);
  const { vmcb } = guest.engine;
  expect(vmcb.get32(VMCB.exitCode)).toBe(EXIT_CODE.TASK_SWITCH);
  expect(vmcb.get32(VMCB.exitInfo1)).toBe(selector);
  // JMP.
  expect(vmcb.get64(VMCB.exitInfo2)).toBe(1n << 38n);
});

it('SYSENTER is charged for, though no callout executes it', () => {
  const msr = (index: number, value: string): string =>
    `mov ecx, ${index}\nmov eax, ${value}\nxor edx, edx\nwrmsr`;
  const guest = make({
    bits: 32,
    code: `${msr(0x174, '8')}\n${msr(0x175, `${PLACE.stackTop}`)}\n${msr(0x176, 'entry')}
      sysenter\nud2\nentry: hlt`,
    prepare: (place) => protectedMode(place),
  });
  guest.run();
  const { events } = guest.engine.statistics().cycles;
  expect(events).toBe(builtInProfile(undefined).cycles.native.systemCall.value);
});
