/** COM1 and numbers as text: what the nanobenchmark kernel prints with. Everything keeps every register. */
import type { Lab } from './lab.ts';

/** Registers of the 16550 at COM1 (PC16550D, table 2). */
const com1 = { data: 0x3f8, interruptEnable: 0x3f9, fifo: 0x3fa, line: 0x3fb, modem: 0x3fc, status: 0x3fd };
/** A UART that is never ready, or not there, costs this many reads a character and no more. */
const patience = 100_000;

/** Code, run once, that sets COM1 to 115,200 baud, 8N1, no interrupts. Uses EAX and EDX. */
export function initializeSerial(): string {
  const write = (port: number, value: number): string => `mov edx, ${port}\nmov al, ${value}\nout dx, al`;
  return [
    write(com1.interruptEnable, 0),
    write(com1.line, 0x80),
    write(com1.data, 1),
    write(com1.interruptEnable, 0),
    write(com1.line, 3),
    write(com1.fifo, 7),
    write(com1.modem, 3),
  ].join('\n');
}

/**
 * Routines:
 * - `serial_put`: the character in AL;
 * - `serial_text`: the zero-terminated text behind the call;
 * - `serial_string`: the one at %si;
 * - `print_number`: the unsigned 64-bit number at %si;
 * - `print_signed`: likewise, signed;
 * - `print_ratio`: the signed 64-bit number at %si divided by the 32-bit one at %bx, two decimals.
 */
export function emitSerial(lab: Lab): void {
  const saved = ['ax', 'bx', 'cx', 'dx', 'si', 'di', 'bp'];
  const save = saved.map((name) => `push %${name}`).join('\n');
  const restore = saved
    .toReversed()
    .map((name) => `pop %${name}`)
    .join('\n');
  lab.code(`
    serial_put:
      push %ax
      push %cx
      push %dx
      mov ecx, ${patience}
      mov edx, ${com1.status}
    serial_put$wait:
      in al, dx
      test al, 0x20
      jnz serial_put$ready
      dec ecx
      jnz serial_put$wait
    serial_put$ready:
      mov edx, ${com1.data}
      mov al, [%sp+${2 * lab.width}]
      out dx, al
      pop %dx
      pop %cx
      pop %ax
      ret

    serial_string:
      push %ax
      push %si
    serial_string$next:
      mov al, [%si]
      inc %si
      test al, al
      jz serial_string$end
      call serial_put
      jmp serial_string$next
    serial_string$end:
      pop %si
      pop %ax
      ret

    serial_text:
      xchg %si, [%sp]
      push %ax
    serial_text$next:
      mov al, [%si]
      inc %si
      test al, al
      jz serial_text$end
      call serial_put
      jmp serial_text$next
    serial_text$end:
      pop %ax
      xchg %si, [%sp]
      ret

    print_number:
      ${save}
      mov ebx, [%si]
      mov ebp, [%si+4]
      mov %di, digits_end
    print_number$next:
      mov ecx, 10
      mov eax, ebp
      xor edx, edx
      div ecx
      mov ebp, eax
      mov eax, ebx
      div ecx
      mov ebx, eax
      add dl, '0'
      dec %di
      mov [%di], dl
      or eax, ebp
      jnz print_number$next
    print_number$put:
      mov al, [%di]
      call serial_put
      inc %di
      cmp %di, digits_end
      jb print_number$put
      ${restore}
      ret

    ; |[%si]| to [magnitude], with the sign printed
    print_sign:
      push %ax
      push %dx
      mov eax, [%si]
      mov edx, [%si+4]
      test edx, edx
      jns print_sign$positive
      neg eax
      adc edx, 0
      neg edx
      print '-'
    print_sign$positive:
      mov [magnitude], eax
      mov [magnitude+4], edx
      pop %dx
      pop %ax
      ret

    print_signed:
      push %si
      call print_sign
      mov %si, magnitude
      call print_number
      pop %si
      ret

    print_ratio:
      ${save}
      call print_sign
      mov eax, [magnitude+4]
      mov ecx, 100
      mul ecx
      mov ebp, eax
      mov eax, [magnitude]
      mul ecx
      add edx, ebp
      mov [magnitude], eax
      mov [magnitude+4], edx
      mov ecx, [%bx]
      call divide_magnitude
      mov ecx, 100
      call divide_magnitude
      mov %si, magnitude
      call print_number
      print '.'
      mov eax, edx
      mov ecx, 10
      xor edx, edx
      div ecx
      add al, '0'
      call serial_put
      mov al, dl
      add al, '0'
      call serial_put
      ${restore}
      ret

    ; [magnitude] divided by ECX, the remainder in EDX. Uses EAX.
    divide_magnitude:
      xor edx, edx
      mov eax, [magnitude+4]
      div ecx
      mov [magnitude+4], eax
      mov eax, [magnitude]
      div ecx
      mov [magnitude], eax
      ret`);
  lab.data('align 8\nmagnitude: dq 0\nspace 24\ndigits_end: dd 0');
}
