/** The nanobenchmark kernel: reads its command line, runs what it names, and prints a line of JSON for each. */
import type { MultibootFormat } from '../assembler/index.ts';
import { emitCommandLine } from './command-line.ts';
import { faultBenchmarks } from './faults.ts';
import { instructionBenchmarks } from './instructions.ts';
import { NANOBENCH_MARK_PORT, NANOBENCH_MARKS, type NanobenchBits } from './catalogue.ts';
import { Lab } from './lab.ts';
import { memoryBenchmarks } from './memory.ts';
import { processBenchmarks } from './processes.ts';
import { emitSerial, initializeSerial } from './serial.ts';
import { emitTable, entrySize, field } from './table.ts';

/** Version of the output's form. */
export const NANOBENCH_FORMAT = 1;
/** The interval the TSC's frequency is measured over: PIT clocks, about 4 ms (8254 at 1,193,182 Hz). */
const pitClocks = 4773;
const pitHz = 1_193_182;
/** How often that is measured at most: until the bounds are within 1/256. */
const clockRounds = 40;
/** Overhead and benchmark are timed so often in turn; the least of each counts, for other work of the host only adds. */
const rounds = 3;

/**
 * The kernel as a Multiboot image. Its command line, after the kernel's name, may hold `only=NAME,NAME...`,
 * `operations=N` (a benchmark, rounded up to whole loop iterations) and `cycles=N` (what loops are calibrated to
 * where operations are not given). It ends by isa-debug-exit with status 85.
 */
export function buildNanobench(bits: NanobenchBits, format: MultibootFormat = 'elf'): Uint8Array {
  const lab = new Lab(bits);
  const written = [
    ...instructionBenchmarks(lab),
    ...faultBenchmarks(lab),
    ...memoryBenchmarks(lab),
    ...processBenchmarks(lab),
  ];
  lab.code('jmp main');
  emitSerial(lab);
  emitCommandLine(lab);
  emitTable(lab, written);
  emitDriver(lab);
  lab.code('main:');
  lab.code(initializeSerial());
  emitMain(lab);
  return lab.kernel.finish().build(format);
}

function emitDriver(lab: Lab): void {
  const mark = (value: number): string => `
    mov eax, [%bp+${field.index}]
    shl eax, 8
    or eax, ${value}
    mov edx, ${NANOBENCH_MARK_PORT}
    out dx, eax`;
  lab.code(`
    ; calls the routine in EBX with [loops], [elapsed] = TSC cycles. Uses every register but %bp.
    timed:
      push %bp
      rdtsc
      mov [started], eax
      mov [started+4], edx
      mov edi, [loops]
      call %bx
      rdtsc
      sub eax, [started]
      sbb edx, [started+4]
      mov [elapsed], eax
      mov [elapsed+4], edx
      pop %bp
      ret

    ; EAX = kHz of what counted EAX while the PIT's count ran down. Uses ECX and EDX.
    pit_khz:
      mov ecx, ${pitHz}
      mul ecx
      mov ecx, ${pitClocks * 1000}
      div ecx
      ret

    ; [%si] becomes [elapsed] where that is less
    keep_least:
      mov eax, [elapsed]
      mov edx, [elapsed+4]
      cmp edx, [%si+4]
      ja keep_least$end
      jb keep_least$less
      cmp eax, [%si]
      jae keep_least$end
    keep_least$less:
      mov [%si], eax
      mov [%si+4], edx
    keep_least$end:
      ret

    ; runs the benchmark at %bp and prints its line
    run_benchmark:
      mov %word [failure], 0
      mov dword [factor], 1
      mov dword [reports_left], 1
      mov [case_%sp], %sp
      mov %word [case_resume], run$broken
      mov [current], %bp
      push %bp
      mov ebx, [%bp+${field.setup}]
      call %bx
      pop %bp

      ; how many iterations: as many as are wanted, or doubling until they take long enough
      mov eax, [operations_wanted]
      test eax, eax
      jz run$calibrate
      mov ecx, [%bp+${field.unroll}]
      add eax, ecx
      dec eax
      xor edx, edx
      div ecx
      cmp eax, [%bp+${field.maxLoops}]
      jbe run$given
      mov eax, [%bp+${field.maxLoops}]
    run$given:
      mov [loops], eax
      mov ebx, [%bp+${field.body}]
      call timed
      jmp run$measure
    run$calibrate:
      mov dword [loops], 1
    run$try:
      mov ebx, [%bp+${field.body}]
      call timed
      cmp dword [elapsed+4], 0
      jnz run$measure
      mov eax, [elapsed]
      cmp eax, [cycles_wanted]
      jb run$longer
      ; once more: translation and other work of the host make a first run look long
      mov ebx, [%bp+${field.body}]
      call timed
      cmp dword [elapsed+4], 0
      jnz run$measure
      mov eax, [elapsed]
      cmp eax, [cycles_wanted]
      jae run$measure
    run$longer:
      mov eax, [loops]
      add eax, eax
      cmp eax, [%bp+${field.maxLoops}]
      ja run$measure
      mov [loops], eax
      jmp run$try

    run$measure:
      mov eax, [loops]
      mul dword [%bp+${field.unroll}]
      mov [operations], eax
      mov dword [rounds_left], ${rounds}
      mov dword [overhead+4], -1
      mov dword [cycles+4], -1
    run$round:
      ${mark(NANOBENCH_MARKS.overheadBegins)}
      mov ebx, [%bp+${field.overhead}]
      call timed
      ${mark(NANOBENCH_MARKS.overheadEnds)}
      mov %si, overhead
      call keep_least
      mov dword [events], 0
      mov dword [events+4], 0
      ${mark(NANOBENCH_MARKS.begins)}
      mov ebx, [%bp+${field.body}]
      call timed
      ${mark(NANOBENCH_MARKS.ends)}
      mov %si, cycles
      call keep_least
      dec dword [rounds_left]
      jnz run$round
      mov eax, [cycles]
      mov edx, [cycles+4]
      sub eax, [overhead]
      sbb edx, [overhead+4]
      mov [net], eax
      mov [net+4], edx
      push %bp
      mov ebx, [%bp+${field.check}]
      call %bx
      mov %bp, [%sp]
      mov ebx, [%bp+${field.teardown}]
      call %bx
      pop %bp

      ; events are counted in units of [factor]
      mov eax, [events+4]
      xor edx, edx
      mov ecx, [factor]
      div ecx
      mov [events+4], eax
      mov eax, [events]
      div ecx
      mov [events], eax
      test edx, edx
      jnz run$uneven
      cmp eax, [operations]
      jnz run$uneven
      cmp dword [events+4], 0
      jz run$print
    run$uneven:
      cmp %word [failure], 0
      jnz run$print
      fail 'events and operations differ'

    run$print:
      call print_head
      print ',"applicable":true,"operations":'
      mov %si, operations
      call print_number
      print ',"cycles":'
      mov %si, cycles
      call print_number
      print ',"overhead":'
      mov %si, overhead
      call print_number
      print ',"cyclesPerOperation":'
      mov %si, net
      mov %bx, operations
      call print_ratio
      print ',"events":'
      mov %si, events
      call print_number
      mov %si, [failure]
      test %si, %si
      jnz run$failed
      line ',"verified":true}'
      ret
    run$failed:
      print ',"verified":false,"failure":"'
      call serial_string
      line '"}'
      ret

      ; an exception nobody expected; its vector is in EBX
    run$broken:
      mov [broken_vector], ebx
      mov eax, [kernel_cr3]
      test eax, eax
      jz run$unpaged
      mov cr3, %ax
    run$unpaged:
      mov %bp, [current]
      push %bp
      mov ebx, [%bp+${field.teardown}]
      call %bx
      pop %bp
      call print_head
      print ',"applicable":true,"verified":false,"failure":"exception '
      mov %si, broken_vector
      call print_number
      line '"}'
      ret

    print_head:
      print '{"benchmark":"'
      mov esi, [%bp+${field.name}]
      call serial_string
      print '","bits":${lab.bits}'
      ret`);
  lab.data(`
    align 8
    current: dq 0
    failure: dq 0
    events: dq 0
    started: dq 0
    elapsed: dq 0
    overhead: dq 0
    cycles: dq 0
    net: dq 0
    operations: dq 0
    broken_vector: dq 0
    tsc_khz_least: dq 0
    tsc_khz_most: dq 0
    stated_khz: dq 0
    loops: dd 0
    rounds_left: dd 0
    factor: dd 0
    kernel_cr3: dd 0`);
}

function emitMain(lab: Lab): void {
  lab.code(`
    ; the TSC against the PIT's channel 2, whose gate and output are at port 61h: from before the count is loaded to
    ; after it was seen to end is at least its time, from after to before at most. The closest bounds count.
      mov dword [rounds_left], ${clockRounds}
      mov dword [tsc_khz_most], -1
    main$clock:
      in al, 0x61
      and al, 0xfc
      or al, 1
      out 0x61, al
      mov al, 0xb0
      out 0x43, al
      mov al, ${pitClocks & 0xff}
      out 0x42, al
      rdtsc
      mov ebx, eax
      mov al, ${pitClocks >> 8}
      out 0x42, al
      rdtsc
      mov esi, eax
      mov edi, eax
    main$pit:
      mov ebp, edi
      rdtsc
      mov edi, eax
      in al, 0x61
      test al, 0x20
      jz main$pit
      rdtsc
      sub eax, ebx
      call pit_khz
      cmp eax, [tsc_khz_most]
      jae main$no_less
      mov [tsc_khz_most], eax
    main$no_less:
      mov eax, ebp
      sub eax, esi
      call pit_khz
      cmp eax, [tsc_khz_least]
      jbe main$no_more
      mov [tsc_khz_least], eax
    main$no_more:
      mov eax, [tsc_khz_most]
      mov edx, eax
      shr edx, 8
      sub eax, [tsc_khz_least]
      cmp eax, edx
      jbe main$clock_known
      dec dword [rounds_left]
      jnz main$clock
    main$clock_known:
      ; and what CPUID says of it, leaf 15h: crystal * EBX / EAX
      xor eax, eax
      cpuid
      cmp eax, 0x15
      jb main$not_stated
      mov eax, 0x15
      cpuid
      test eax, eax
      jz main$not_stated
      mov esi, eax
      mov eax, ecx
      mul ebx
      mov ecx, 1000
      cmp edx, ecx
      jae main$not_stated
      div ecx
      xor edx, edx
      div esi
      mov [stated_khz], eax
    main$not_stated:
      ${lab.bits === 64 ? 'call parse_command_line' : ''}
      mov %ax, cr3
      mov [kernel_cr3], eax
      print '{"guest":"nanobench","format":${NANOBENCH_FORMAT},"bits":${lab.bits},"tscKhzLeast":'
      mov %si, tsc_khz_least
      call print_number
      print ',"tscKhzMost":'
      mov %si, tsc_khz_most
      call print_number
      print ',"tscKhzStated":'
      mov %si, stated_khz
      call print_number
      line '}'
      mov %bp, benchmarks
    main$next:
      call selected
      jnz main$skip
      mov esi, [%bp+${field.notApplicable}]
      test esi, esi
      jnz main$not_applicable
      call run_benchmark
      jmp main$skip
    main$not_applicable:
      call print_head
      print ',"applicable":false,"reason":"'
      mov esi, [%bp+${field.notApplicable}]
      call serial_string
      line '"}'
    main$skip:
      add %bp, ${entrySize}
      cmp %bp, benchmarks_end
      jb main$next
      line '{"guest":"nanobench","end":true}'`);
}
