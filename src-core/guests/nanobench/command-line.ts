/** The command line of the nanobenchmark kernel. */
import type { Lab } from './lab.ts';
import { entrySize, field } from './table.ts';

/** TSC cycles a benchmark is calibrated to take, unless the command line says otherwise. */
const defaultCycles = 20_000_000;
/**
 * Routines: `parse_command_line`, which sets `operations_wanted`, `cycles_wanted` and `paging_wanted`, and
 * `selected`, which says whether the benchmark at %bp is to run.
 */
export function emitCommandLine(lab: Lab): void {
  lab.code(`
    ; sets what the command line says; [paging_wanted] where a benchmark that needs it is among those
    parse_command_line:
      mov ebx, [multiboot_information]
      test dword [%bx], 4
      jz parse$options
      mov eax, [%bx+16]
      mov [command_line], eax
    parse$options:
      mov %si, ${lab.text('operations=')}
      call option
      test %di, %di
      jz parse$no_operations
      call decimal
      mov [operations_wanted], eax
    parse$no_operations:
      mov %si, ${lab.text('cycles=')}
      call option
      test %di, %di
      jz parse$no_cycles
      call decimal
      mov [cycles_wanted], eax
    parse$no_cycles:
      mov %si, ${lab.text('only=')}
      call option
      mov [only], %di
      mov %bp, benchmarks
    parse$next:
      call selected
      jnz parse$not
      mov eax, [%bp+${field.paging}]
      or [paging_wanted], eax
    parse$not:
      add %bp, ${entrySize}
      cmp %bp, benchmarks_end
      jb parse$next
      ret

    ; the word of the command line that begins with the text at %si: what follows it, or 0, in %di
    option:
      mov edi, [command_line]
      test %di, %di
      jz option$none
    option$word:
      mov %dx, %di
      mov %cx, %si
    option$character:
      mov al, [%cx]
      test al, al
      jz option$found
      cmp al, [%dx]
      jnz option$skip
      inc %cx
      inc %dx
      jmp option$character
    option$skip:
      mov al, [%di]
      test al, al
      jz option$none
      inc %di
      cmp al, ' '
      jnz option$skip
      jmp option$word
    option$found:
      mov %di, %dx
      ret
    option$none:
      xor edi, edi
      ret

    ; EAX = the decimal number at %di
    decimal:
      xor eax, eax
    decimal$next:
      movzx ecx, byte [%di]
      sub ecx, '0'
      cmp ecx, 9
      ja decimal$end
      imul eax, eax, 10
      add eax, ecx
      inc %di
      jmp decimal$next
    decimal$end:
      ret

    ; ZF: the benchmark at %bp is to run
    selected:
      mov %di, [only]
      test %di, %di
      jz selected$end
    selected$item:
      mov %dx, %di
      mov ecx, [%bp+${field.name}]
    selected$character:
      mov al, [%cx]
      mov ah, [%dx]
      test al, al
      jz selected$name_ends
      cmp al, ah
      jnz selected$skip
      inc %cx
      inc %dx
      jmp selected$character
    selected$name_ends:
      cmp ah, ','
      jz selected$end
      cmp ah, ' '
      jz selected$end
      test ah, ah
      jz selected$end
    selected$skip:
      mov al, [%di]
      inc %di
      cmp al, ','
      jz selected$item
      cmp al, ' '
      jz selected$none
      test al, al
      jnz selected$skip
    selected$none:
      or eax, 1
    selected$end:
      ret`);
  lab.data(`
    align 8
    only: dq 0
    command_line: dd 0
    operations_wanted: dd 0
    cycles_wanted: dd ${defaultCycles}
    paging_wanted: dd 0`);
}
