/**
 * Code that changes: small programs with a known result, in every mode, interpreted and translated. Each loops often
 * enough to be translated at all the thresholds tried.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { differences } from '../fuzz/tiers/compare.ts';
import { makeSubject } from '../fuzz/tiers/driver.ts';
import { environmentNamed, hasPaging, originsOf } from '../fuzz/tiers/environment.ts';
import type { Environment } from '../fuzz/tiers/environment.ts';
import { physicalOf, PORT, VECTOR_SERVICE, WINDOW } from '../fuzz/tiers/layout.ts';
import { imageOf } from '../fuzz/tiers/program.ts';
import type { PatchSlot, Program } from '../fuzz/tiers/program.ts';
import type { Subject } from '../fuzz/tiers/subject.ts';

const ENVIRONMENTS = [
  'long64-ring3',
  'long64-ring0',
  'compat32',
  'protected32-ring3',
  'protected32-ring0',
  'protected16-ring3',
  'v86',
  'real16',
].map(environmentNamed);

const SETTINGS = [
  { name: 'threshold 1', tier: 1, threshold: 1 },
  { name: 'threshold 3', tier: 1, threshold: 3 },
  { name: 'threshold 50', tier: 1, threshold: 50 },
  { name: 'threshold 3, no chaining', tier: 1, threshold: 3, chaining: false },
  { name: 'threshold 3, not adaptive', tier: 1, threshold: 3, adaptive: false },
] as const;

/** Times round a loop. */
const ROUNDS = 300;
const rounds = Array.from({ length: ROUNDS }, (_, index) => ROUNDS - index);
const signed8 = (value: number): number => (value << 24) >> 24;
/** The sum of a term for each round, ECX counting down, in 32 bits. */
const sum = (term: (ecx: number, round: number) => number): number =>
  rounds.reduce((total, ecx, round) => (total + term(ecx, round)) | 0, 0) >>> 0;

interface Guest {
  readonly text: (env: Environment) => string;
  /** ESI at the end. */
  readonly result: number;
  readonly where?: (env: Environment) => boolean;
  readonly slots?: readonly PatchSlot[];
  /** Offset in the code window. */
  readonly start?: number;
}

function programOf({ text, slots = [], start = 0x100 }: Guest, environment: Environment): Program {
  const registers = Array.from({ length: environment.bits === 64 ? 16 : 8 }, () => 0n);
  registers[4] = originsOf(environment).stack + 0x1800n;
  return {
    environment,
    seed: 1,
    number: 0,
    start,
    blocks: [{ label: 'B0', pieces: [text(environment)] }],
    slots,
    registers,
    rflags: 2,
    fill: undefined,
    loops: 1,
    budget: 1_000_000,
    interruptions: [],
  };
}

/** A loop of ROUNDS rounds around `body`, with what comes after the end. */
const loop = (body: string, after = ''): string => `
  mov ecx, ${ROUNDS}
  xor esi, esi
again:
  ${body}
  dec ecx
  jnz again
  int 0x80
  ${after}`;

const flat = ({ flat }: Environment): boolean => flat;
/** Text that starts at an offset in the code window. */
const at = (env: Environment, offset: number): string => `org ${originsOf(env).code + BigInt(offset)}`;
/** Where a MOV EAX, imm32 starts whose immediate has two bytes on each side of the page boundary. */
const straddling = ({ bits }: Environment): number => 0x1000 - (bits === 16 ? 4 : 3);

const GUESTS: Readonly<Record<string, Guest>> = {
  'the next instruction': {
    text: () => loop('mov [fs:L1-CODE-1], cl\nadd_rm32_imm8 esi, 1\nL1:'),
    result: sum(signed8),
  },
  'the next but one, in the same block': {
    text: () => loop('mov [fs:L1-CODE-1], cl\nlea edi, [esi+1]\nnop\nadd_rm32_imm8 esi, 1\nL1: inc edi'),
    result: sum(signed8),
  },
  'an instruction already executed, at the head of the loop': {
    text: () => loop('add_rm32_imm8 esi, 1\nL1: mov [fs:L1-CODE-1], cl'),
    result: (sum(signed8) - signed8(1) + 1) >>> 0,
  },
  'an opcode: ADD becomes SUB and ADD again': {
    text: () => loop('xor byte [fs:L1-CODE-2], 0x28\nadd_rm32_r32 esi, ecx\nL1:'),
    result: sum((ecx, round) => (round % 2 === 0 ? -ecx : ecx)),
  },
  'the condition of a branch': {
    // JE and JNE of a comparison that is never equal.
    text: () => loop('xor byte [fs:L1-CODE-2], 1\ncmp ecx, -1\nje short L2\nL1: inc esi\nL2:'),
    result: sum((_, round) => (round % 2 === 0 ? 0 : 1)),
  },
  'another page': {
    text: () =>
      loop('mov [fs:L1-CODE-4], ecx\ncall F1', 'align 4096\nF1: mov eax, 0x11223344\nL1: add esi, eax\nret'),
    result: sum((ecx) => ecx),
  },
  'another page, under its other name': {
    text: () =>
      loop('mov [gs:L1-CODE-4], ecx\ncall F1', 'align 4096\nF1: mov eax, 0x11223344\nL1: add esi, eax\nret'),
    result: sum((ecx) => ecx),
    where: hasPaging,
  },
  'the next instruction, under its other name': {
    text: () => loop('mov [gs:L1-CODE-1], cl\nadd_rm32_imm8 esi, 1\nL1:'),
    result: sum(signed8),
    where: hasPaging,
  },
  'code that runs under its other name': {
    text: () =>
      loop(
        'mov [fs:L1-CODE-4], ecx\ncall F1+ALIAS\nadd_rm32_imm8 esi, 1',
        'align 4096\nF1: mov eax, 0x11223344\nL1: add esi, eax\nret',
      ),
    result: sum((ecx) => ecx + 1),
    where: flat,
  },
  'both names in turns, each patched by the other': {
    text: () =>
      loop(
        'mov [gs:L1-CODE-4], ecx\ncall F1\ninc ecx\nmov [fs:L1-CODE-4], ecx\ncall F1+ALIAS\ndec ecx',
        'align 4096\nF1: mov eax, 0x11223344\nL1: add esi, eax\nret',
      ),
    result: sum((ecx) => 2 * ecx + 1),
    where: flat,
  },
  'an instruction on two pages, in its first and in its second page': {
    text: (env) =>
      loop(
        'mov [fs:L1-CODE-4], cx\ncall F1\nmov [fs:L1-CODE-2], cx\ncall F1',
        `${at(env, straddling(env))}\nF1: mov eax, 0\nL1: add esi, eax\nret`,
      ),
    result: sum((ecx, round) => ecx + ((round === 0 ? 0 : ecx + 1) << 16) + (ecx | (ecx << 16))),
  },
  'an instruction on two pages, by a store to both': {
    text: (env) =>
      loop(
        'imul eax, ecx, 0x10001\nmov [fs:L1-CODE-4], eax\ncall F1',
        `${at(env, straddling(env))}\nF1: mov eax, 0\nL1: add esi, eax\nret`,
      ),
    result: sum((ecx) => Math.imul(ecx, 0x10001)),
  },
  'a block that goes on in another page': {
    text: (env) =>
      loop(
        'mov [fs:L1-CODE-1], cl\ncall F1',
        `${at(env, 0x1000 - 9)}\nF1: nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nadd_rm32_imm8 esi, 1\nL1: ret`,
      ),
    result: sum(signed8),
  },
  'a device, by DMA': {
    text: () => loop(`mov al, cl\nout ${PORT.dma}, al\nadd_rm32_imm8 esi, 1\nL1:`),
    result: sum((ecx) => signed8((ecx & 0xff) * 29)),
    slots: [{ label: 'L1', back: 1, size: 1, holds: 'immediate' }],
  },
  'a device, by DMA to another page': {
    text: () =>
      loop(`mov al, cl\nout ${PORT.dma}, al\ncall F1`, 'align 4096\nF1: add_rm32_imm8 esi, 1\nL1: ret'),
    result: sum((ecx) => signed8((ecx & 0xff) * 29)),
    slots: [{ label: 'L1', back: 1, size: 1, holds: 'immediate' }],
  },
  'page tables: the page behind the code changes': {
    // The other version of the page has the slot's first byte exclusive-ored with 15h.
    text: () =>
      loop(`mov eax, 4\nint ${VECTOR_SERVICE}\ncall F1`, 'align 4096\nF1: add_rm32_imm8 esi, 1\nL1: ret'),
    result: sum((_, round) => (round % 2 === 0 ? 1 ^ 0x15 : 1)),
    where: hasPaging,
    slots: [{ label: 'L1', back: 1, size: 1, holds: 'immediate' }],
  },
  'page tables: the page behind a loop that spans it changes': {
    text: (env) =>
      loop(
        `jmp L2\n${at(env, 0xff0)}\nL2: mov eax, 4\nint ${VECTOR_SERVICE}\n${'nop\n'.repeat(15)}add_rm32_imm8 esi, 1\nL1:`,
      ),
    result: sum((_, round) => (round % 2 === 0 ? 1 ^ 0x15 : 1)),
    where: hasPaging,
    start: 0xf80,
    slots: [{ label: 'L1', back: 1, size: 1, holds: 'immediate' }],
  },
  'two readings of the same bytes': {
    // Read from its start, a MOV of an immediate that holds an ADD.
    text: ({ bits }) =>
      loop(
        `mov [fs:L1-CODE${bits === 16 ? '-1' : '-2'}], cl\ncall F1\ncall L2`,
        bits === 16
          ? 'F1: db 0x66, 0xb8\nL2: db 0x66, 0x83, 0xc6, 5\nL1: ret'
          : 'F1: db 0xb8\nL2: db 0x83, 0xc6, 5, 0x90\nL1: ret',
      ),
    result: sum(signed8),
  },
  'a function made anew each time': {
    text: ({ bits }) =>
      (bits === 64 ? '' : 'mov ax, fs\nmov es, ax\n') +
      loop(
        [
          'mov ebx, ecx',
          'mov [fs:L1-CODE-4], ecx',
          bits === 64 ? 'lea rdi, [rip+F2]' : 'mov edi, F2-CODE',
          'push si',
          'mov esi, F1-CODE',
          `mov ecx, L2-F1`,
          'rep fs movsb',
          'pop si',
          'mov ecx, ebx',
          'call F2',
          'movzx esi, si',
        ].join('\n'),
        'F1: mov eax, 0x11223344\nL1: add esi, eax\nret\nL2: align 4096\nF2: space 64\nnop',
      ),
    result: sum((ecx) => ecx) & 0xffff,
  },
  'SSE: 16 bytes at once': {
    text: () =>
      loop(
        'movups xmm0, [fs:L1-CODE-16]\npinsrd xmm0, ecx, 3\nmovups [fs:L1-CODE-16], xmm0\nnop\nnop\nnop\nnop\nnop\n' +
          'nop\nnop\nnop\nnop\nnop\nnop\nmov eax, 0x11223344\nL1: add esi, eax',
      ),
    result: sum((ecx) => ecx),
  },
  'x87: an integer stored by FISTP': {
    text: () =>
      loop(
        'mov [fs:V0-CODE], ecx\nfild dword [fs:V0-CODE]\nfistp dword [fs:L1-CODE-4]\nmov eax, 0x11223344\n' +
          'L1: add esi, eax',
        'align 4096\nV0: dd 0',
      ),
    result: sum((ecx) => ecx),
  },
  'read-modify-write instructions': {
    text: () =>
      loop(
        'inc dword [fs:L1-CODE-4]\nlock add dword [fs:L1-CODE-4], ecx\nmov edx, ecx\nxadd [fs:L1-CODE-4], edx\n' +
          'btc dword [fs:L1-CODE-4], 0\nmov eax, 0\nL1: add esi, eax',
      ),
    result: (() => {
      let value = 0;
      return sum((ecx) => {
        value = (value + 1 + 2 * ecx) ^ 1;
        return value;
      });
    })(),
  },
  'PUSH onto code': {
    text: ({ bits }) =>
      bits === 64
        ? loop(
            'mov rdi, rsp\nlea rsp, [rip+L1]\npush rcx\nmov rsp, rdi\nmov_r64_imm64 rax, 1\nL1: add esi, eax',
          )
        : loop('mov edi, esp\nmov esp, L1\npush ecx\nmov esp, edi\nmov eax, 0x11223344\nL1: add esi, eax'),
    result: sum((ecx) => ecx),
    where: flat,
  },
  'REP STOSB over what follows': {
    text: ({ bits }) =>
      loop(
        `mov ebx, ecx\nmov eax, ecx\n${bits === 64 ? 'lea rdi, [rip+L1-4]' : 'mov edi, L1-4'}\nmov ecx, 4\nrep stosb\n` +
          'mov ecx, ebx\nmov eax, 0x11223344\nL1: add esi, eax',
      ),
    result: sum((ecx) => Math.imul(ecx & 0xff, 0x01010101)),
    where: flat,
  },
  'data in the same page as code': {
    text: () => loop('inc dword [fs:V0-CODE]\nadd esi, [fs:V0-CODE]', 'align 64\nspace 64\nV0: dd 0'),
    result: sum((_, round) => round + 1),
  },
  'data right behind the code': {
    text: () => loop('inc dword [fs:V0-CODE]\nadd esi, [fs:V0-CODE]', 'V0: dd 0'),
    result: sum((_, round) => round + 1),
  },
  'data among the code': {
    text: () => loop('inc dword [fs:V0-CODE]\nadd esi, [fs:V0-CODE]\njmp short L1\nV0: dd 0\nL1:'),
    result: sum((_, round) => round + 1),
  },
};

describe('code that changes', () => {
  let reference: Subject;
  let others: readonly Subject[];
  beforeAll(() => {
    reference = makeSubject({ name: 'tier 0', tier: 0 });
    others = SETTINGS.map(makeSubject);
  });
  afterAll(() => {
    for (const subject of [reference, ...others]) subject.dispose();
  });

  describe.each(ENVIRONMENTS.map((env) => [env.name, env] as const))('%s', (_, env) => {
    const guests = Object.entries(GUESTS).filter(([, { where }]) => where?.(env) ?? true);
    it.each(guests)('%s', (_name, guest) => {
      const program = programOf(guest, env);
      const image = imageOf(program);
      const outcome = reference.run(program, image);
      expect(outcome.end).toBe('halt');
      expect(reference.cpu.gpr32(6), 'tier 0').toBe(guest.result);
      for (const subject of others) {
        const before = subject.statistics;
        const found = differences(
          { subject: reference, outcome },
          { subject, outcome: subject.run(program, image) },
        );
        expect(found, subject.name).toEqual([]);
        expect(subject.cpu.gpr32(6), subject.name).toBe(guest.result);
        // Code that changes each time it runs need not become hot at any other threshold.
        if (subject.name === 'threshold 1')
          expect(subject.statistics.translated).toBeGreaterThan(before.translated);
      }
    });

    it('memory written by a device while the vCPU does not run', () => {
      const guest: Guest = {
        text: () =>
          'mov ecx, 1000000\nxor esi, esi\nagain: add_rm32_imm8 esi, 1\nL1: dec ecx\njnz again\nint 0x80',
        result: 0,
      };
      const program = { ...programOf(guest, env), budget: 3002 };
      const image = imageOf(program);
      for (const subject of [reference, ...others]) {
        subject.run(program, image);
        expect(subject.cpu.gpr32(6), subject.name).toBe(1000);
        // The immediate: behind MOV ECX and XOR, the third byte of the ADD (the fourth with an operand size prefix).
        const prefixes = env.bits === 16 ? 3 : 0;
        const target = physicalOf(WINDOW.code + image.start + 5 + 2 + 2 + prefixes, hasPaging(env));
        expect(subject.ram[target]).toBe(1);
        subject.ram[target] = 7;
        subject.engine.memoryChanged(target, 1);
        subject.engine.run(3000, true);
        expect(subject.cpu.gpr32(6), subject.name).toBe(8000);
      }
    });
  });

  it('data in the same page as code costs no translation', () => {
    const [guest] = [GUESTS['data in the same page as code']];
    if (!guest) throw new Error('no such guest');
    const subject = makeSubject({ name: 'tier 1', tier: 1, threshold: 3 });
    try {
      const program = programOf(guest, environmentNamed('protected32-ring0'));
      subject.run(program, imageOf(program));
      expect(subject.statistics.translated).toBeLessThan(10);
      expect(subject.statistics.invalidated).toBe(0);
    } finally {
      subject.dispose();
    }
  });
});
