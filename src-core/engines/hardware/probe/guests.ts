import { type AssembledImage, Assembler, type Bits, source } from '../../../guests/assembler/index.ts';
import type { ProbeCheckId } from '../../../protocol/hardware-probe.ts';
import { CPUID_MODEL } from '../../../x86/cpuid.ts';
import {
  type GuestPlace,
  longMode,
  paging32,
  pagingPae,
  PLACE,
  protectedMode,
  realMode,
  SELECTOR,
} from './modes.ts';
import { PORT, type TinyRun } from './tiny-vm.ts';

/** A small guest: what it needs and how its result is judged. */
export interface TinyGuest {
  readonly bits: Bits;
  /** Assembly text, loaded at PLACE.code. */
  readonly code: string;
  /** Puts the vCPU into the guest's mode. `symbol` gives the addresses of its labels. */
  readonly prepare: (vm: GuestPlace, symbol: (name: string) => number) => void;
  /** Values it reports. */
  readonly expected: readonly number[];
  /** Anything beyond the values that is wrong. */
  readonly judge?: (run: TinyRun) => string | undefined;
}

export interface Check extends TinyGuest {
  readonly id: ProbeCheckId;
}

export function assemble({ bits, code }: Pick<TinyGuest, 'bits' | 'code'>): AssembledImage {
  const assembler = new Assembler({ origin: PLACE.code, bits });
  source(assembler, code);
  return assembler.assemble();
}

const report = (value: string): string => `mov eax, ${value}\nout ${PORT.report}, eax`;
const end = `out ${PORT.end}, eax`;
/** Where a gate leads that should not be taken: the run ends with an exit that says so. */
const wrong = `wrong: cli\nhlt\njmp wrong`;

const ROUNDS = 1000;
const PATTERN = 0x5ca1ab1e;
/** Vectors whose delivery means that something went wrong. */
const FAULTS = [0, 6, 7, 8, 10, 11, 12, 13, 14];

/** Loads and stores through PLACE.mapped, which is PLACE.frame: only with translation do these agree. */
const translation = `
  mov dword [${PLACE.frame}], ${PATTERN}
  mov ebx, [${PLACE.mapped}]
  mov dword [${PLACE.mapped + 8}], 77
  ${report('ebx')}
  ${report(`[${PLACE.frame + 8}]`)}`;

function faultGates(
  symbol: (name: string) => number,
  gates: Record<number, number> = {},
): Record<number, number> {
  return { ...Object.fromEntries(FAULTS.map((vector) => [vector, symbol('wrong')])), ...gates };
}

/** What every guest computes in its mode: 1 + 2 + ... + 100 with stack and calls. */
const sum = (counter: string, total: string): string => `
  mov ${counter}, 100
  xor ${total}, ${total}
  again: push ${counter}
  call adds
  pop ${counter}
  dec ${counter}
  jnz again`;
const adds = (counter: string, total: string): string => `adds: add ${total}, ${counter}\nret`;

/** Leaves that tell guests what they may use. */
const IDENTIFIED = CPUID_MODEL.filter(({ leaf }) => [1, 7, 0x80000001].includes(leaf));

export const CHECKS: readonly Check[] = [
  {
    id: 'realMode',
    bits: 16,
    code: `
      mov word [0x21*4], handler
      mov word [0x21*4+2], 0
      ${sum('cx', 'bx')}
      int 0x21
      movzx eax, bx
      out ${PORT.report}, eax
      ${end}
      ${adds('cx', 'bx')}
      handler: inc bx
      iret`,
    prepare: (vm) => realMode(vm),
    expected: [5051],
  },
  {
    id: 'protectedMode',
    bits: 32,
    code: `
      ${sum('ecx', 'ebx')}
      ${report('ebx')}
      ${end}
      ${adds('ecx', 'ebx')}
      ${wrong}`,
    prepare: (vm, symbol) => protectedMode(vm, faultGates(symbol)),
    expected: [5050],
  },
  {
    id: 'paging32',
    bits: 32,
    code: `${translation}\n${end}\n${wrong}`,
    prepare: (vm, symbol) => paging32(vm, faultGates(symbol)),
    expected: [PATTERN, 77],
  },
  {
    id: 'pagingPae',
    bits: 32,
    code: `${translation}\n${end}`,
    prepare: (vm) => pagingPae(vm),
    expected: [PATTERN, 77],
  },
  {
    id: 'longMode',
    bits: 64,
    code: `
      mov r15, 0x123456789abcdef0
      ${sum('rcx', 'rbx')}
      ${report('ebx')}
      shr r15, 32
      mov eax, r15d
      out ${PORT.report}, eax
      ${translation}
      ${end}
      ${adds('rcx', 'rbx')}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
    expected: [5050, 0x12345678, PATTERN, 77],
  },
  {
    id: 'cpuid',
    bits: 64,
    code: `
      ${IDENTIFIED.map(
        ({ leaf, subleaf = 0 }) => `
        mov eax, ${leaf}
        mov ecx, ${subleaf}
        cpuid
        mov esi, ecx
        out ${PORT.report}, eax
        ${report('ebx')}
        ${report('esi')}
        ${report('edx')}`,
      ).join('\n')}
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
    expected: IDENTIFIED.flatMap(({ eax, ebx, ecx, edx }) => [eax, ebx, ecx, edx].map((word) => word >>> 0)),
  },
  {
    id: 'pageFault',
    bits: 64,
    code: `
      mov dword [${PLACE.unmapped}], 1
      jmp wrong
      handler: pop rbx
      ${report('ebx')}
      mov rax, cr2
      out ${PORT.report}, eax
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol, { 14: symbol('handler') })),
    // The error code: a write to what is not present.
    expected: [2, PLACE.unmapped],
  },
  {
    id: 'ring3Int32',
    bits: 32,
    code: `
      push ${SELECTOR.userData | 3}
      push ${PLACE.userStackTop}
      push 2
      push ${SELECTOR.userCode32 | 3}
      push user
      iret
      user: int 0x80
      jmp user
      handler: inc ebx
      cmp ebx, ${ROUNDS}
      je done
      iret
      done:
      ${report('ebx')}
      ${report('[esp+4]')}
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => paging32(vm, faultGates(symbol, { 0x80: symbol('handler') })),
    expected: [ROUNDS, SELECTOR.userCode32 | 3],
  },
  {
    id: 'ring3Int',
    bits: 64,
    code: `
      push ${SELECTOR.userData | 3}
      push ${PLACE.userStackTop}
      push 2
      push ${SELECTOR.userCode64 | 3}
      push user
      iretq
      user: int 0x80
      jmp user
      handler: inc ebx
      cmp ebx, ${ROUNDS}
      je done
      iretq
      done:
      ${report('ebx')}
      ${report('[rsp+8]')}
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol, { 0x80: symbol('handler') })),
    expected: [ROUNDS, SELECTOR.userCode64 | 3],
  },
  {
    id: 'ring3Syscall',
    bits: 64,
    code: `
      mov ecx, user
      mov r11d, 2
      sysretq
      user: syscall
      jmp user
      entry: inc ebx
      cmp ebx, ${ROUNDS}
      je done
      sysretq
      done:
      ${report('ebx')}
      mov eax, cs
      out ${PORT.report}, eax
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol), symbol('entry')),
    expected: [ROUNDS, SELECTOR.code64],
  },
  {
    id: 'interrupts',
    bits: 64,
    code: `
      out ${PORT.interrupt}, eax
      ${report('1')}
      sti
      wait: pause
      cmp ebx, 1
      jne wait
      out ${PORT.interrupt}, eax
      wait2: pause
      cmp ebx, 2
      jne wait2
      ${report('2')}
      ${end}
      handler: inc ebx
      iretq
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol, { 0x30: symbol('handler') })),
    expected: [1, 2],
    judge: ({ windows }) => (windows > 0 ? undefined : 'KVM did not say when interrupts were enabled'),
  },
  {
    id: 'x87',
    bits: 64,
    code: `
      fninit
      fld1
      fadd st0, st0
      fistp dword [${PLACE.frame}]
      ${report(`[${PLACE.frame}]`)}
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
    expected: [2],
  },
  {
    id: 'sse',
    bits: 64,
    code: `
      movaps xmm0, [ones]
      addps xmm0, xmm0
      movaps [${PLACE.frame}], xmm0
      ${report(`[${PLACE.frame + 12}]`)}
      ${end}
      align 16
      ones: dd 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
    expected: [0x40000000],
  },
];

/** Port writes in a loop. */
export const EXIT_BATCHES = 9;
export const EXITS_A_BATCH = 200;
export const exitLoop: TinyGuest = {
  bits: 64,
  code: `
    mov ecx, ${EXITS_A_BATCH}
    again: out ${PORT.exit}, eax
    dec ecx
    jnz again
    ${end}
    ${wrong}`,
  prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
  expected: [],
};

/** A loop of two instructions, `instructions` of them in all. */
export function countingLoop(instructions: number): TinyGuest {
  return {
    bits: 64,
    code: `
      mov ecx, ${instructions >> 1}
      again: dec ecx
      jnz again
      ${end}
      ${wrong}`,
    prepare: (vm, symbol) => longMode(vm, faultGates(symbol)),
    expected: [],
  };
}
