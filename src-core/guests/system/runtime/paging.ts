/** Page tables of the test guests: 32-bit, PAE and 4-level paging (Intel SDM vol. 3A, 4.3 to 4.5). */
import type { Kernel } from './kernel.ts';

/** Bits of page-table entries common to every paging mode (SDM vol. 3A, 4.5.4). */
export const pageFlags = {
  present: 0x001,
  writable: 0x002,
  user: 0x004,
  accessed: 0x020,
  dirty: 0x040,
  large: 0x080,
  global: 0x100,
} as const;

/** Control-register bits of paging (SDM vol. 3A, 2.5). */
export const cr0Bits = { wp: 0x10000, pg: 0x8000_0000 } as const;
export const cr4Bits = { pse: 0x10, pae: 0x20, pge: 0x80, smep: 0x10_0000, smap: 0x20_0000 } as const;

/** Linear address of the pages a test maps as it likes; nothing is mapped there at first. */
export const testRegion = 0x40_0000;
/** Linear address of the region whose directory entry a test sets itself, for large pages. */
export const largeRegion = 0x80_0000;
/** Physical memory for large pages: aligned to 4 MiB, used by nothing else. */
export const largeFrame = 0x80_0000;

/**
 * Tables that map the first 512 or 1,024 pages one to one, writable and for ring 3 too, and leave
 * {@link testRegion} and {@link largeRegion} to the test. The levels above the directory are the kernel's.
 */
export class PageTables {
  /** Bytes of an entry. */
  readonly entrySize: 4 | 8;
  /** Bytes a large page maps. */
  readonly largeSize: number;

  constructor(kernel: Kernel, entrySize: 4 | 8, largeSize: number) {
    this.entrySize = entrySize;
    this.largeSize = largeSize;
    kernel.reserve('page_directory', 0x1000).reserve('identity_table', 0x1000).reserve('test_table', 0x1000);
  }

  /** 32-bit code that fills the tables. Uses EAX, ECX and EDI. */
  fill(): string {
    return `
      mov edi, identity_table
      mov eax, 7
      mov ecx, ${0x1000 / this.entrySize}
      paging$fill:
      mov [edi], eax
      add eax, 0x1000
      add edi, ${this.entrySize}
      loop paging$fill
      mov dword [page_directory], identity_table+7
      mov dword [${this.testDirectoryEntry}], test_table+7`;
  }

  get testDirectoryEntry(): string {
    return `page_directory+${(testRegion / this.largeSize) * this.entrySize}`;
  }

  get largeDirectoryEntry(): string {
    return `page_directory+${(largeRegion / this.largeSize) * this.entrySize}`;
  }

  /** Address of the entry of page `page` of the test region. */
  entry(page: number): string {
    return `test_table+${page * this.entrySize}`;
  }

  /** Linear address of page `page` of the test region. */
  linear(page: number): number {
    return testRegion + page * 0x1000;
  }

  /** Code that maps page `page` to `frame` with `flags`; `high` is bits 63:32 of an eight-byte entry. */
  map(page: number, frame: string, flags: number, high = 0): string {
    return `${this.write(this.entry(page), `${frame}+${flags}`, high)}
      invlpg [${this.linear(page)}]`;
  }

  /** Code that writes an entry anywhere; no invalidation. */
  write(address: string, low: string, high = 0): string {
    return `${this.entrySize === 8 ? `mov dword [${address}+4], ${high}\n` : ''}mov dword [${address}], ${low}`;
  }
}

/** Turns 32-bit or PAE paging on, CR0.WP set. */
export function enablePaging32(kernel: Kernel, pae: boolean): PageTables {
  const tables = pae ? new PageTables(kernel, 8, 0x20_0000) : new PageTables(kernel, 4, 0x40_0000);
  kernel.code(tables.fill());
  if (pae) {
    kernel.reserve('directory_pointers', 32, 32).code(`
      mov dword [directory_pointers], page_directory+1
      mov eax, cr4
      or eax, ${cr4Bits.pae}
      mov cr4, eax
      mov eax, directory_pointers`);
  } else kernel.code('mov eax, page_directory');
  kernel.code(`
    mov cr3, eax
    mov eax, cr0
    or eax, ${cr0Bits.pg | cr0Bits.wp}
    mov cr0, eax
    jmp paging$on
    paging$on:`);
  return tables;
}
