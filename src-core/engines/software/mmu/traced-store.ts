import { ARENA } from '../../../machine/arena.ts';
import { I32, i32, i64 } from '../../../wasm/opcodes.ts';
import { CodeWriter } from '../../../wasm/writer.ts';
import { TABLE_STORES_MAX } from '../../../x86/address-spaces.ts';
import { CR4_PAE } from '../../../x86/bits.ts';
import { CR4, MMU, PAGE_FLAG, PAGE_RECORD } from '../../../x86/layout.ts';
import { ENTRY } from '../../../x86/paging.ts';

/** Increments a u32 counter in the arena. */
export function count(w: CodeWriter, counter: number): void {
  w.i32Const(0).i32Const(0).mem(i32.load, counter).i32Const(1).op(i32.add).mem(i32.store, counter);
}

/** Pushes the address of the record of the arena page that the local's address lies in; fields are ARENA.pages away. */
export function pushRecord(w: CodeWriter, arena: number): void {
  w.get(arena).i32Const(12).op(i32.shr_u).i32Const(PAGE_RECORD.sizeShift).op(i32.shl);
}

/** The body of `tracedStore`: see RefillFunctions. */
export function emitTracedStore(): CodeWriter {
  const w = new CodeWriter(2);
  const arena = 0;
  const size = 1;
  const record = w.local(I32);
  const flags = w.local(I32);
  pushRecord(w, arena);
  w.tee(record)
    .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.flags)
    .tee(flags);
  w.i32Const(PAGE_FLAG.code).op(i32.and).if();
  // At most 16 bytes lie in at most two chunks of 64.
  const shiftedBy = (last: boolean): void => {
    w.get(record).mem(i64.load, ARENA.pages + PAGE_RECORD.chunks);
    w.get(arena);
    if (last) w.get(size).op(i32.add).i32Const(1).op(i32.sub);
    // i64.shr_u takes the count modulo 64, the number of chunks in a page.
    w.i32Const(6).op(i32.shr_u).op(i64.extend_i32_u).op(i64.shr_u);
  };
  shiftedBy(false);
  shiftedBy(true);
  w.op(i64.or).op(i32.wrap_i64).i32Const(1).op(i32.and).if();
  w.i32Const(0).return();
  w.end();
  count(w, MMU.storesBesideCode);
  w.end();
  w.get(flags).i32Const(PAGE_FLAG.table).op(i32.and).if();
  emitTableStore(w, arena, size, record);
  w.end();
  w.i32Const(1);
  return w;
}

/** Returns 0 unless the entries of a page table that a store touches were never used as they stand. */
function emitTableStore(w: CodeWriter, arena: number, size: number, record: number): void {
  const at = w.local(I32);
  const end = w.local(I32);
  const writes = w.local(I32);
  // An entry that was used has its accessed flag, in its low half where it has 8 bytes. An upper half that looks like
  // that is TypeScript's to know.
  w.get(arena).get(size).op(i32.add).set(end);
  w.i32Const(~7).i32Const(~3);
  w.i32Const(0).mem(i32.load, CR4).i32Const(CR4_PAE).op(i32.and);
  w.select().get(arena).op(i32.and).set(at);
  w.loop();
  w.get(at)
    .mem(i32.load)
    .i32Const(ENTRY.P | ENTRY.A)
    .op(i32.and);
  w.i32Const(ENTRY.P | ENTRY.A)
    .op(i32.eq)
    .if();
  w.i32Const(0).return();
  w.end();
  w.get(at).i32Const(4).op(i32.add).tee(at).get(end).op(i32.lt_u).brIf(0);
  w.end();
  w.get(record)
    .mem(i32.load8_u, ARENA.pages + PAGE_RECORD.writes)
    .i32Const(1)
    .op(i32.add);
  w.tee(writes).i32Const(TABLE_STORES_MAX).op(i32.gt_u).if();
  w.i32Const(0).return();
  w.end();
  w.get(record)
    .get(writes)
    .mem(i32.store8, ARENA.pages + PAGE_RECORD.writes);
  count(w, MMU.tableStores);
}
