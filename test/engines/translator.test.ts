import { describe, expect, it } from 'vitest';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { Assembler } from '../../src-core/guests/assembler/assembler.ts';
import { Arena } from '../../src-core/machine/arena.ts';
import { MemoryBus, PortBus } from '../../src-core/machine/bus.ts';
import { IcountClock } from '../../src-core/machine/clock.ts';
import {
  type TranslatorOptionsInput,
  translatorOptionsSchema,
} from '../../src-core/protocol/machine-config.ts';
import { CR0_ET, CR0_PE } from '../../src-core/x86/bits.ts';
import { Cpu } from '../../src-core/x86/cpu.ts';
import { source } from '../../src-core/guests/assembler/source.ts';

/** Physical address of the device the programs poll. */
const DEVICE = 0xd000_0000;
const CODE = 0x1000;

/** What the device does besides counting. */
interface Device {
  onRead: (reads: number) => void;
}

/** A CPU in flat 32-bit protected mode without paging, about to execute a program at 0x1000; reads of the device count up. */
function machine(
  program: string,
  options: TranslatorOptionsInput = {},
  limits: { microOpBytes?: number; regionSlots?: number } = {},
): { cpu: Cpu; engine: SoftwareEngine; accounting: ExitAccounting; device: Device } {
  const arena = new Arena(16);
  const accounting = new ExitAccounting();
  const memory = new MemoryBus(arena);
  const device: Device = { onRead: () => undefined };
  let reads = 0;
  memory.mapMmio(DEVICE, 0x1000, 'counter', {
    readMmio: () => {
      device.onRead(++reads);
      return reads;
    },
    writeMmio: () => undefined,
  });
  const cpu: Cpu = new Cpu({
    arena,
    memory,
    ports: new PortBus(),
    clock: new IcountClock(() => cpu.instructionCount()),
    interrupts: { hasInterrupt: () => false, acknowledge: () => -1 },
    accounting,
  });
  const translator = translatorOptionsSchema.parse({ threshold: 8, ...options });
  const engine = new SoftwareEngine({ arena, cpu, translator, ...limits });
  cpu.setCr0(CR0_PE | CR0_ET);
  for (const index of [0, 2, 3, 4, 5])
    cpu.setSegment(index, { selector: 16, attributes: 0xc093, limit: 0xffffffff, base: 0n });
  cpu.setSegment(1, { selector: 8, attributes: 0xc09b, limit: 0xffffffff, base: 0n });
  cpu.updateMode();
  cpu.rip = BigInt(CODE);
  cpu.setGpr(4, 0xf0_0000n);
  const assembler = new Assembler({ origin: BigInt(CODE), bits: 32 });
  assembler.equ('DEVICE', BigInt(DEVICE));
  source(assembler, program);
  arena.ram.set(assembler.assemble().bytes, CODE);
  return { cpu, engine, accounting, device };
}

/** Runs in small slices, as a machine does, until HLT. */
function runToHalt(engine: SoftwareEngine): void {
  for (let slice = 0; slice < 100_000; slice++) if (engine.run(2000) === 'halt') return;
  throw new Error('the program did not halt');
}

const POLLING = `
  mov ecx, 20000
  xor eax, eax
  mov esi, DEVICE
again:
  mov edx, [esi]
  add eax, edx
  dec ecx
  jnz again
  cmp ebx, 1
  je done
  mov ebx, 1
  mov esi, 0xe00000
  mov ecx, 20000
  jmp again
done:
  hlt`;
/** 1 + 2 + ... + 20000; the second half reads zeros from memory. */
const POLLED = BigInt((20_000 * 20_001) / 2);
const POLLED_INSTRUCTIONS = 3 + 6 + 3 + 2 * 4 * 20_000;

describe('the translator', () => {
  it('takes conditional jumps and falls through where targets are checked against the limit of CS', () => {
    const { cpu, engine } = machine(`
      mov ecx, 100000
      xor eax, eax
    again:
      test cl, 1
      jz even
      add eax, ecx
    even:
      dec ecx
      jg again
      hlt`);
    cpu.setSegment(1, { selector: 8, attributes: 0x409b, limit: 0xfffff, base: 0n });
    cpu.updateMode();
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(2_500_000_000n);
    expect(engine.translatorStatistics().entries).toBeGreaterThan(0);
  });

  it('runs a loop as translated code, with the instructions counted exactly', () => {
    const { cpu, engine } = machine(`
      mov ecx, 100000
      xor eax, eax
    again:
      add eax, ecx
      dec ecx
      jnz again
      hlt`);
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(BigInt.asUintN(32, (100_000n * 100_001n) / 2n));
    expect(cpu.instructionCount()).toBe(2 + 3 * 100_000 + 1);
    const { regions, entries } = engine.translatorStatistics();
    expect(regions).toBeGreaterThan(0);
    expect(entries).toBeGreaterThan(0);
  });

  it('ends a run early whose time is over, and gets on all the same', () => {
    const { cpu, engine } = machine(POLLING);
    const ends: string[] = [];
    // Each run is over before it begins: it lasts until time is taken for the first time.
    while (ends.at(-1) !== 'halt' && ends.length < 100_000) ends.push(engine.run(1_000_000, false, 0));
    expect(cpu.gpr(0)).toBe(POLLED);
    expect(ends.length).toBeGreaterThan(10);
    expect(cpu.instructionCount()).toBe(POLLED_INSTRUCTIONS);
    const { longestMs, longestInRunMs } = engine.translatorStatistics().pauses;
    expect(longestMs).toBeGreaterThan(0);
    expect(longestInRunMs).toBeGreaterThanOrEqual(longestMs);
  });

  it('interprets only, at tier 0', () => {
    const { cpu, engine } = machine(POLLING, { tier: 0 });
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(POLLED);
    expect(engine.translatorStatistics().translated).toBe(0);
  });

  it('adapts an access to a device, and takes it back when it reads memory', () => {
    const { cpu, engine, accounting } = machine(POLLING);
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(POLLED);
    const { reasons, details } = accounting.snapshot();
    expect(reasons.mmio?.count).toBe(20_000);
    expect(details.adaptation).toEqual({ refill: 1, device: 1, 'back to plain': 1 });
    expect(reasons.adaptation?.count).toBe(3);
    expect(reasons.retranslation?.count).toBeGreaterThanOrEqual(2);
    expect(engine.translatorStatistics().adapted).toBe(0);
  });

  it('counts exactly where an adapted access asks for the run to end', () => {
    const { cpu, engine, device } = machine(POLLING);
    device.onRead = (reads) => {
      if (reads % 100 === 99) engine.requestExit();
    };
    let runs = 0;
    while (engine.run(1_000_000) !== 'halt') runs++;
    expect(runs).toBe(200);
    expect(cpu.gpr(0)).toBe(POLLED);
    expect(cpu.instructionCount()).toBe(POLLED_INSTRUCTIONS);
  });

  it('translates anew what many regions hold, those entered most at once', () => {
    const LOOPS = 60;
    const ROUNDS = 200;
    const loops = Array.from(
      { length: LOOPS },
      (_, at) => `
      mov ecx, ${ROUNDS}
    loop${at}:
      call poll
      test eax, eax
      js loop${at}
      dec ecx
      jnz loop${at}`,
    );
    const { cpu, engine, accounting } = machine(`
      xor eax, eax
      xor ebx, ebx
      mov esi, 0xe00000
    again:
      ${loops.join('')}
      inc ebx
      mov esi, DEVICE
      cmp ebx, 3
      jne again
      hlt
    poll:
      mov edx, [esi]
      add eax, edx
      ret`);
    runToHalt(engine);
    const reads = 2 * LOOPS * ROUNDS;
    expect(cpu.gpr(0)).toBe(BigInt((reads * (reads + 1)) / 2));
    expect(cpu.instructionCount()).toBe(3 + 3 * (LOOPS * (1 + ROUNDS * 8) + 4) + 1);
    const { reasons } = accounting.snapshot();
    expect(reasons.retranslation?.count).toBeGreaterThanOrEqual(LOOPS);
    expect(reasons.mmio?.count).toBe(reads);
  });

  describe('calls through registers', () => {
    /** Calls one function for so many rounds, then others: at first through a thunk, then through a register. */
    const calling = (targets: readonly string[], via: string): string => `
      xor eax, eax
      xor ebx, ebx
      ${targets
        .map(
          (target, index) => `
      mov ecx, 20000
    round${index}:
      ${target}
      call ${via}
      add ebx, 2
      dec ecx
      jnz round${index}`,
        )
        .join('\n')}
      hlt
    one:
      inc eax
      jmp short ended
      nop
    ended:
      ret
    ten:
      add eax, 10
      ret
    align 4096
    distant:
      add eax, 100
      ret
    thunk:
      jmp edx`;
    /** ECX odd: this one, even: that one. */
    const alternating = (odd: string, even: string): string =>
      `mov edx, ${odd}\ntest cl, 1\njnz called\nmov edx, ${even}\ncalled:`;

    const run = (
      program: string,
      options: TranslatorOptionsInput = {},
    ): { eax: bigint; ebx: bigint; instructions: number; details: ReadonlyMap<string, number> } => {
      const { cpu, engine, accounting } = machine(program, options);
      runToHalt(engine);
      return {
        eax: cpu.gpr(0),
        ebx: cpu.gpr(3),
        instructions: cpu.instructionCount(),
        details: new Map(Object.entries(accounting.snapshot().details.adaptation ?? {})),
      };
    };

    it.each([
      ['a register', 'edx'],
      ['a thunk', 'thunk'],
    ])('go on to where they went so far: %s', (_name, via) => {
      const program = calling(['mov edx, one', 'mov edx, distant'], via);
      const { eax, ebx, instructions, details } = run(program);
      expect([eax, ebx]).toEqual([20_000n + 2_000_000n, 80_000n]);
      expect(instructions).toBe(run(program, { tier: 0 }).instructions);
      expect(run(program, { adaptive: false }).details.size).toBe(0);
      expect(details.get('changing target') ?? 0).toBe(0);
    });

    it('learn a second target, of a call that the first one was known of', () => {
      const program = calling([alternating('one', 'ten')], 'edx');
      const { eax, details } = run(program);
      expect(eax).toBe(10_000n + 100_000n);
      expect(details.get('indirect target')).toBeGreaterThan(0);
    });

    it('look regions up where targets change all the time, and come back', () => {
      const table = Array.from({ length: 8 }, (_, index) => `f${index}`);
      const program = `
      mov ecx, 40000
      xor eax, eax
      mov esi, 12345
    again:
      imul esi, esi, 1103515245
      add esi, 12345
      mov edx, esi
      shr edx, 16
      and edx, 7
      call dword [edx*4+table]
      inc ebx
      dec ecx
      jnz again
      hlt
    table: dd ${table.join(', ')}
    ${table.map((name, index) => `${name}: add eax, ${index + 1}\nret`).join('\n')}`;
      const { eax, ebx, instructions, details } = run(program);
      const interpreted = run(program, { tier: 0 });
      expect([eax, ebx, instructions]).toEqual([interpreted.eax, interpreted.ebx, interpreted.instructions]);
      expect(details.get('changing target')).toBe(1);
    });
  });

  it('does not adapt when told not to', () => {
    const { cpu, engine, accounting } = machine(POLLING, { adaptive: false });
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(POLLED);
    expect(accounting.snapshot().reasons.adaptation?.count).toBe(0);
  });

  it('adapts code that keeps rewriting itself', () => {
    const { cpu, engine, accounting } = machine(`
      mov ecx, 3000
      xor ebx, ebx
    again:
      mov [patched + 1], ecx
    patched:
      mov eax, 0x12345678
      add ebx, eax
      dec ecx
      jnz again
      hlt`);
    runToHalt(engine);
    expect(cpu.gpr(3)).toBe(BigInt((3000 * 3001) / 2));
    expect(accounting.snapshot().details.adaptation?.['rewritten code']).toBeGreaterThan(0);
  });

  it('leaves a region when a segment register it takes for flat no longer is', () => {
    // DS is loaded with base 0 two times out of three, else with base 4.
    const { cpu, engine } = machine(`
      mov dword [0xe00000], 1
      mov dword [0xe00004], 1000
      lgdt_m1632 [table]
      mov esi, 0xe00000
      mov ecx, 3000
      xor ebx, ebx
      mov edx, 3
    again:
      mov eax, 16
      dec edx
      jnz flat
      mov eax, 24
      mov edx, 3
    flat:
      mov ds, ax
      add ebx, [esi]
      dec ecx
      jnz again
      hlt
    table:
      dw 31
      dd descriptors
    descriptors:
      dd 0, 0
      dd 0x0000ffff, 0x00cf9b00
      dd 0x0000ffff, 0x00cf9300
      dd 0x0004ffff, 0x00cf9300`);
    runToHalt(engine);
    expect(cpu.gpr(3)).toBe(BigInt(2000 + 1000 * 1000));
  });

  it('keeps all of EIP in 16-bit code above 64 KiB', () => {
    // FLD1, FSTP ST0 and a far jump back, in a 16-bit segment; then where the last x87 instruction was.
    const { cpu, engine } = machine(`
      lgdt [table]
      mov dword [0x20000], 0xd8dde8d9
      mov word [0x20004], 0xea66
      mov dword [0x20006], back
      mov word [0x2000a], 8
      mov ecx, 3000
    again:
      jmp 24:0x20000
    back:
      dec ecx
      jnz again
      fnstenv [0xe00000]
      mov ebx, [0xe0000c]
      hlt
    table:
      dw 31
      dd descriptors
    descriptors:
      dd 0, 0
      dd 0x0000ffff, 0x00cf9b00
      dd 0x0000ffff, 0x00cf9300
      dd 0x0000ffff, 0x008f9b00`);
    runToHalt(engine);
    expect(cpu.gpr(3)).toBe(0x20002n);
  });

  it.each([
    // Translated at once: the blocks are all in use, but for how often they are executed.
    ['blocks, chained', { threshold: 2 }, { microOpBytes: 256 * 1024 }],
    ['blocks, not chained', { chaining: false, threshold: 2 }, { microOpBytes: 256 * 1024 }],
    ['regions, chained', {}, { regionSlots: 20 }],
    ['regions, not chained', { chaining: false }, { regionSlots: 20 }],
  ])('evicts piece by piece, code that goes on to what goes included (%s)', (_, options, limits) => {
    // Ten loops, each with a hundred functions of its own: more than the cache holds at once. All twice.
    const functions = Array.from(
      { length: 1000 },
      (_, n) => `
      f${n}:
        ${`add eax, ${n}\n        xor edx, eax\n        `.repeat(12)}ret`,
    );
    const loops = Array.from(
      { length: 10 },
      (_, loop) => `
      mov ecx, 30
    loop${loop}:
      ${Array.from({ length: 100 }, (_, n) => `call f${loop * 100 + n}`).join('\n')}
      dec ecx
      jnz loop${loop}`,
    );
    const { cpu, engine } = machine(
      `
      mov edi, 2
      xor eax, eax
    again:
      ${loops.join('\n')}
      dec edi
      jnz again
      hlt
      ${functions.join('\n')}`,
      options,
      limits,
    );
    runToHalt(engine);
    expect(cpu.gpr(0)).toBe(BigInt(2 * 30 * 12 * ((999 * 1000) / 2)));
    expect(cpu.instructionCount()).toBe(2 + 2 * (10 * (1 + 30 * (100 * (1 + 24 + 1) + 2)) + 2) + 1);
    expect(engine.translatorStatistics().invalidated).toBeGreaterThan(0);
  });

  it('lets go of regions that nothing enters any more, and makes them again when they are needed', () => {
    const loops = Array.from(
      { length: 700 },
      (_, loop) => `
      mov ecx, 60
    loop${loop}:
      add eax, ecx
      dec ecx
      jnz loop${loop}`,
    );
    const { cpu, engine } = machine(`
      mov edi, 2
      xor eax, eax
    again:
      ${loops.join('\n')}
      mov ebx, 200000
    quiet:
      dec ebx
      jnz quiet
      dec edi
      jnz again
      hlt`);
    const alive: number[] = [];
    for (let slice = 0; engine.run(100) !== 'halt'; slice++) {
      expect(slice).toBeLessThan(100_000);
      if (slice % 64 === 0) alive.push(engine.translatorStatistics().regions);
    }
    expect(cpu.gpr(0)).toBe(BigInt(2 * 700 * ((60 * 61) / 2)));
    const { translated, retired, invalidated } = engine.translatorStatistics();
    expect(invalidated).toBe(0);
    expect(retired).toBeGreaterThan(100);
    // What is little anyway is kept.
    expect(Math.min(...alive.slice(alive.indexOf(Math.max(...alive))))).toBeGreaterThanOrEqual(512);
    expect(translated).toBeGreaterThan(700 + 100);
  });
});
