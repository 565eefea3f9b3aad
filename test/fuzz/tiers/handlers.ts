/**
 * The exception handlers of the machine random programs run on. Each exception is recorded, then repaired, or its
 * instruction skipped with the help of a table that says for every byte of the code where the next instruction is.
 * They are guest code like the program's own, and are translated like it.
 */
import { Assembler, source } from '../../../src-core/guests/assembler/index.ts';
import type { Environment } from './environment.ts';
import { hasPaging, originsOf, supervisorBase } from './environment.ts';
import {
  ALIAS_DELTA,
  CODE_SIZE,
  DATA,
  frameOf,
  LOG_ENTRIES,
  LOG_ENTRY_SIZE,
  PHYSICAL,
  SELECTOR,
  SERVICE,
  SERVICE_COUNT,
  VARIABLE,
  VECTOR_EXIT,
  VECTOR_INTERRUPTS,
  VECTOR_SERVICE,
  WINDOW,
} from './layout.ts';

const PAGE = 0x1000;
/** Exceptions that push an error code (Intel SDM vol. 3, table 6-1). */
const WITH_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17]);

export interface Handlers {
  readonly bytes: Uint8Array;
  /** Entry of each vector that has one of its own, as an offset in its code segment. */
  readonly stubs: ReadonlyMap<number, bigint>;
  /** Entry of all others. */
  readonly other: bigint;
  /** Where SYSCALL (64-bit code) or SYSENTER goes; 0 in real mode. */
  readonly systemCall: bigint;
}

/** Offset of a page-table entry's page in the region, for the service's names. */
const REGION_PAGE = {
  FIXABLE: (WINDOW.data + DATA.fixable) / PAGE,
  READONLY: (WINDOW.data + DATA.readOnly) / PAGE,
  SWAP0: (WINDOW.data + DATA.swapped) / PAGE,
  SWAP1: (WINDOW.data + DATA.swapped) / PAGE + 1,
  CODE1: WINDOW.code / PAGE + 1,
  CODE2: WINDOW.code / PAGE + 2,
} as const;

export function assembleHandlers(env: Environment, vectors: readonly number[]): Handlers {
  const real = env.mode === 'real';
  const origin = real ? 0n : supervisorBase(env) + BigInt(PHYSICAL.handlers);
  const bits = real ? 16 : env.mode === 'long' ? 64 : 32;
  const assembler = new Assembler({ origin, bits });
  /** Address of something at a physical address, as this code names it. */
  const at = (physical: number): bigint => origin + BigInt(physical - PHYSICAL.handlers);
  assembler.equ('LOG', at(PHYSICAL.log));
  assembler.equ('COUNT', at(PHYSICAL.variables + VARIABLE.count));
  assembler.equ('HASH', at(PHYSICAL.variables + VARIABLE.hash));
  assembler.equ('CALLS', at(PHYSICAL.variables + VARIABLE.systemCalls));
  assembler.equ('INTERRUPTS', at(PHYSICAL.variables + VARIABLE.interrupts));
  assembler.equ('RECOVERY', at(PHYSICAL.recovery));
  assembler.equ('CODE', originsOf(env).code);
  if (hasPaging(env)) {
    const region = BigInt.asUintN(64, env.base);
    for (const [name, page] of Object.entries(REGION_PAGE)) {
      const entry = page * (env.pae ? 8 : 4);
      assembler.equ(`PTE_${name}`, at(PHYSICAL.pageTable + entry));
      assembler.equ(`OTHER_${name}`, at(PHYSICAL.otherPageTable + entry));
      assembler.equ(`PAGE_${name}`, BigInt.asUintN(64, region + BigInt(page * PAGE)));
    }
  }
  for (const vector of vectors) {
    assembler.label(`vector${vector}`);
    if (!WITH_ERROR_CODE.has(vector) && !real) source(assembler, 'push 0');
    source(assembler, `push ${bits === 16 ? '' : bits === 32 ? 'dword ' : ''}${vector}\njmp common`);
  }
  source(assembler, `other:\n${real ? '' : 'push 0\n'}push 255`);
  source(assembler, real ? handlers16() : bits === 32 ? handlers32(env) : handlers64());
  const { bytes, symbols } = assembler.assemble();
  const resolve = (name: string): bigint => {
    const value = symbols.get(name);
    if (value === undefined) throw new Error(`no label ${name}`);
    return value;
  };
  return {
    bytes,
    stubs: new Map(vectors.map((vector) => [vector, resolve(`vector${vector}`)])),
    other: resolve('other'),
    systemCall: real ? 0n : resolve('systemCall'),
  };
}

/** What toggles a code page's entry between the frame it has and the other version. */
function variantToggle(page: number): number {
  return (frameOf(WINDOW.code / PAGE + page, true) * PAGE) ^ (PHYSICAL.codeVariants + page * PAGE);
}

/** Pages that a fault makes present. */
const REPAIRED = ['FIXABLE', 'CODE1'];

/** Jumps by vector; `ecx` holds it. */
const DISPATCH = `
  cmp ecx, 14
  je pageFault
  cmp ecx, 1
  je debug
  cmp ecx, 2
  je done
  cmp ecx, 3
  je done
  cmp ecx, 4
  je done
  cmp ecx, 7
  je deviceNotAvailable
  cmp ecx, 16
  je mathFault
  cmp ecx, 17
  je alignment
  cmp ecx, ${VECTOR_EXIT}
  je exit
  cmp ecx, ${VECTOR_SERVICE}
  je service
  cmp ecx, ${VECTOR_INTERRUPTS}
  jae interrupt`;

/** Branches on the service's number in `eax`. */
const SERVICES = [
  `and eax, ${SERVICE_COUNT - 1}`,
  ...Object.entries(SERVICE).map(([name, number]) => `cmp eax, ${number}\nje ${name}`),
  'jmp done',
].join('\n');

/** The services; `at` names memory of the handlers' own, `width` is that of control registers. */
function services(width: 'e' | 'r', at: (name: string) => string): string {
  const a = `${width}ax`;
  const move = width === 'r' ? 'mov_r64_imm64' : 'mov';
  const invalidate = (page: string): string => `${move} ${a}, PAGE_${page}\ninvlpg [${a}]`;
  const exchange = (table: string): string =>
    `xor dword ${at(`${table}_SWAP0`)}, 0x1000\nxor dword ${at(`${table}_SWAP1`)}, 0x1000`;
  return `
swapCodeAndFlush:
  xor dword ${at('PTE_CODE2')}, ${variantToggle(2)}
reload:
  mov ${a}, cr4
  xor eax, 0x80
  mov cr4, ${a}
  xor eax, 0x80
  mov cr4, ${a}
loadCr3:
  mov ${a}, cr3
  mov cr3, ${a}
  jmp done
switchAddressSpace:
  mov ${a}, cr3
  xor eax, ${PHYSICAL.pageTables ^ PHYSICAL.otherTables}
  mov cr3, ${a}
  jmp done
swapDataAndReload:
  ${exchange('PTE')}
  jmp loadCr3
swapDataElsewhere:
  ${exchange('OTHER')}
  jmp loadCr3
swapCodeAndReload:
  xor dword ${at('PTE_CODE2')}, ${variantToggle(2)}
  jmp loadCr3
unmap:
  and dword ${at('PTE_FIXABLE')}, -2
  ${invalidate('FIXABLE')}
  jmp done
unmapCode:
  and dword ${at('PTE_CODE1')}, -2
invalidateCode:
  ${invalidate('CODE1')}
  jmp done
toggleWritable:
  xor dword ${at('PTE_READONLY')}, 2
  ${invalidate('READONLY')}
  jmp done
setTaskSwitched:
  mov ${a}, cr0
  or eax, 8
  mov cr0, ${a}
  jmp done
swapData:
  ${exchange('PTE')}
  ${invalidate('SWAP0')}
  ${invalidate('SWAP1')}
  jmp done
swapCode:
  xor dword ${at('PTE_CODE1')}, ${variantToggle(1)}
  ${invalidate('CODE1')}
  jmp done
toggleUser:
  xor dword ${at('PTE_SWAP1')}, 4
  ${invalidate('SWAP1')}
  jmp done`;
}

function handlers64(): string {
  const at = (name: string): string => `[rip+${name}]`;
  return `
common:
  push rax
  push rbx
  push rcx
  push rdx
  cld
  mov eax, [rip+COUNT]
  inc dword [rip+COUNT]
  and eax, ${LOG_ENTRIES - 1}
  imul eax, eax, ${LOG_ENTRY_SIZE}
  lea rbx, [rip+LOG]
  add rbx, rax
  mov rax, [rip+HASH]
  mov rcx, [rsp+32]
  mov [rbx], rcx
  add rax, rcx
  mov rdx, [rsp+40]
  mov [rbx+8], rdx
  imul rax, rax, 0x1000193
  xor rax, rdx
  mov rdx, [rsp+48]
  mov [rbx+16], rdx
  imul rax, rax, 0x1000193
  xor rax, rdx
  mov rdx, [rsp+64]
  mov [rbx+24], rdx
  imul rax, rax, 0x1000193
  xor rax, rdx
  mov rdx, cr2
  mov [rbx+32], rdx
  imul rax, rax, 0x1000193
  xor rax, rdx
  mov rdx, [rsp+72]
  mov [rbx+40], rdx
  imul rax, rax, 0x1000193
  xor rax, rdx
  mov rdx, dr6
  mov [rbx+48], rdx
  rol rax, 7
  mov [rip+HASH], rax
  ${DISPATCH}
skip:
  mov rdx, [rsp+48]
  mov_r64_imm64 rbx, CODE
  sub rdx, rbx
  mov eax, edx
  and eax, ${ALIAS_DELTA}
  sub rdx, rax
  add rbx, rax
  cmp rdx, ${CODE_SIZE}
  jae exit
  lea rax, [rip+RECOVERY]
  movzx edx, word [rax+rdx*2]
  cmp edx, 0xffff
  je exit
  add rdx, rbx
  mov [rsp+48], rdx
done:
  pop rdx
  pop rcx
  pop rbx
  pop rax
  add rsp, 16
  iret
exit:
  cli
  hlt
  jmp exit
pageFault:
  mov rdx, cr2
  ${REPAIRED.map(
    (page) => `
  mov_r64_imm64 rbx, PAGE_${page}
  mov rax, rdx
  sub rax, rbx
  cmp rax, 0x1000
  jae not${page}
  test dword [rip+PTE_${page}], 1
  jnz skip
  or dword [rip+PTE_${page}], 1
  invlpg [rdx]
  jmp done
not${page}:`,
  ).join('\n')}
  jmp skip
systemCall:
  swapgs
  inc dword [gs:${VARIABLE.systemCalls}]
  swapgs
  sysretq
debug:
  mov rdx, dr6
  test edx, 15
  jz noBreakpoint
  bts dword [rsp+64], 16
noBreakpoint:
  mov edx, 0xffff0ff0
  mov dr6, rdx
  test dword [rip+COUNT], 7
  jnz done
  btr dword [rsp+64], 8
  mov edx, 0x400
  mov dr7, rdx
  jmp done
deviceNotAvailable:
  clts
  jmp done
mathFault:
  fnclex
  jmp done
alignment:
  test dword [rip+COUNT], 3
  jnz skip
  btr dword [rsp+64], 18
  jmp skip
interrupt:
  lea rbx, [rip+INTERRUPTS]
  inc dword [rbx+rcx*4-${VECTOR_INTERRUPTS * 4}]
  jmp done
service:
  mov eax, [rsp+24]
  ${SERVICES}
  ${services('r', at)}
`;
}

function handlers32(env: Environment): string {
  const at = (name: string): string => `[${name}]`;
  // In ring 0 the handler is on the program's stack, whose pointer may be 16 bits wide.
  const narrowStack = env.ring === 0 && env.bits === 16;
  return `
common:
  pushad
  push ds
  push es
  cld
  mov eax, ${SELECTOR.kernelData}
  mov ds, ax
  mov es, ax
  ${narrowStack ? 'movzx ebp, sp' : 'mov ebp, esp'}
  mov edi, [COUNT]
  inc dword [COUNT]
  and edi, ${LOG_ENTRIES - 1}
  imul edi, edi, ${LOG_ENTRY_SIZE}
  add edi, LOG
  mov eax, [HASH]
  mov ecx, [ebp+40]
  mov [edi], ecx
  add eax, ecx
  mov edx, [ebp+44]
  mov [edi+4], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov edx, [ebp+48]
  mov [edi+8], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov edx, [ebp+56]
  mov [edi+12], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov edx, cr2
  mov [edi+16], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov [edi+20], ebp
  mov edx, [ebp+52]
  mov [edi+24], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov edx, dr6
  mov [edi+28], edx
  rol eax, 7
  mov [HASH], eax
  ${DISPATCH}
skip:
  mov edx, [ebp+48]
  sub edx, CODE
  mov eax, edx
  and eax, ${ALIAS_DELTA}
  sub edx, eax
  lea ebx, [eax+CODE]
  cmp edx, ${CODE_SIZE}
  jae exit
  movzx edx, word [edx*2+RECOVERY]
  cmp edx, 0xffff
  je exit
  add edx, ebx
  mov [ebp+48], edx
done:
  pop es
  pop ds
  popad
  add esp, 8
  iret
exit:
  cli
  hlt
  jmp exit
pageFault:
  mov edx, cr2
  ${REPAIRED.map(
    (page) => `
  mov eax, edx
  sub eax, PAGE_${page}
  cmp eax, 0x1000
  jae not${page}
  test dword [PTE_${page}], 1
  jnz skip
  or dword [PTE_${page}], 1
  invlpg [edx]
  jmp done
not${page}:`,
  ).join('\n')}
  jmp skip
systemCall:
  inc dword [CALLS]
  sti
  sysexit
debug:
  mov edx, dr6
  test edx, 15
  jz noBreakpoint
  bts dword [ebp+56], 16
noBreakpoint:
  mov edx, 0xffff0ff0
  mov dr6, edx
  test dword [COUNT], 7
  jnz done
  btr dword [ebp+56], 8
  mov edx, 0x400
  mov dr7, edx
  jmp done
deviceNotAvailable:
  clts
  jmp done
mathFault:
  fnclex
  jmp done
alignment:
  test dword [COUNT], 3
  jnz skip
  btr dword [ebp+56], 18
  jmp skip
interrupt:
  inc dword [ecx*4+INTERRUPTS-${VECTOR_INTERRUPTS * 4}]
  jmp done
service:
  mov eax, [ebp+36]
  ${SERVICES}
  ${services('e', at)}
`;
}

/** Real mode: no error codes, nothing to map, records through CS. */
function handlers16(): string {
  return `
common:
  pushad
  cld
  mov bp, sp
  mov di, [cs:COUNT]
  inc word [cs:COUNT]
  and di, ${LOG_ENTRIES - 1}
  imul di, di, ${LOG_ENTRY_SIZE}
  mov eax, [cs:HASH]
  movzx ecx, word [bp+32]
  mov [cs:di+LOG], ecx
  add eax, ecx
  mov edx, [bp+34]
  mov [cs:di+LOG+4], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  movzx edx, word [bp+38]
  mov [cs:di+LOG+8], edx
  imul eax, eax, 0x1000193
  xor eax, edx
  mov [cs:di+LOG+12], bp
  mov [cs:di+LOG+14], ss
  rol eax, 7
  mov [cs:HASH], eax
  ${DISPATCH}
skip:
  mov bx, [bp+34]
  cmp bx, ${CODE_SIZE}
  jae exit
  add bx, bx
  mov dx, [cs:bx+RECOVERY]
  cmp dx, 0xffff
  je exit
  mov [bp+34], dx
pageFault:
done:
  popad
  add sp, 2
  iret
exit:
  cli
  hlt
  jmp exit
debug:
  mov edx, 0xffff0ff0
  mov dr6, edx
  test word [cs:COUNT], 7
  jnz done
  and word [bp+38], 0xfeff
  mov edx, 0x400
  mov dr7, edx
  jmp done
deviceNotAvailable:
  clts
  jmp done
mathFault:
  fnclex
  jmp done
alignment:
  jmp skip
interrupt:
  shl cx, 2
  mov bx, cx
  inc dword [cs:bx+INTERRUPTS-${VECTOR_INTERRUPTS * 4}]
  jmp done
service:
  jmp done
`;
}
