import { I32 } from '../../../wasm/opcodes.ts';
import { ModuleWriter } from '../../../wasm/writer.ts';
import { BLOCK_INSTRUCTIONS_MAX, liftBlock, type LiftedBlock } from '../../../x86/lift/block.ts';
import { MODE } from '../../../x86/mode.ts';
import type { CachedBlock } from '../cached-block.ts';
import { emitRegion } from './emit-region.ts';
import { declareRegionImports } from './imports.ts';
import { buildRegion } from './region.ts';

/** A loop that moves, computes, branches, calls a function and calls out; valid, and much the same, in 32- and 64-bit code. */
const CODE = new Uint8Array([
  ...[0x8b, 0x43, 0x04], // loop: mov eax, [rbx+4]
  ...[0x01, 0xc8], // add eax, ecx
  ...[0x89, 0x43, 0x08], // mov [rbx+8], eax
  ...[0x50, 0x5a], // push rax; pop rdx
  ...[0xff, 0x06], // inc dword [rsi]
  ...[0x0f, 0xb6, 0x14, 0x33], // movzx edx, byte [rbx+rsi]
  ...[0xc1, 0xea, 0x03], // shr edx, 3
  ...[0x85, 0xc0], // test eax, eax
  ...[0x74, 0x07], // jz +7
  ...[0xe8, 0x08, 0x00, 0x00, 0x00], // call function
  ...[0xeb, 0x01], // jmp +1
  0xfb, // sti
  ...[0xff, 0xc9], // dec ecx
  ...[0x75, 0xdb], // jnz loop
  0xc3, // ret
  ...[0x0f, 0x57, 0xc1], // function: xorps xmm0, xmm1
  ...[0x39, 0xd0], // cmp eax, edx
  ...[0x0f, 0x9c, 0xc0], // setl al
  0xc3, // ret
]);
const FLAT = MODE.stack32 | MODE.flatCs | MODE.flatDs | MODE.flatEs | MODE.flatSs | MODE.protected;
const MODES = [MODE.code32 | FLAT, MODE.code64 | FLAT | MODE.longMode];
/** V8 compiles what was executed so often without waiting for the rest. */
const TIMES = 2;
/** Where the code pretends to stand: the start of a page. */
const BASE = 0x10_0000;

let warm = false;

/**
 * Translates some code of our own to nothing, once for a process, before its guest runs: V8 compiles the translator when it is
 * first used, which would be a pause of 7 ms in the guest's first moments.
 */
export function warmUp(): void {
  if (warm) return;
  warm = true;
  for (let times = 0; times < TIMES; times++) {
    for (const modeKey of MODES) translate(modeKey);
  }
}

function translate(modeKey: number): void {
  const lifted = new Map<CachedBlock, LiftedBlock>();
  const blocks = new Map<number, CachedBlock | undefined>();
  const blockAt = (code: number): CachedBlock | undefined => {
    if (blocks.has(code)) return blocks.get(code);
    const block = liftBlock(CODE.subarray(code - BASE), modeKey, BLOCK_INSTRUCTIONS_MAX);
    const cached = block && cachedAs(block, code, modeKey, blocks.size);
    if (cached) lifted.set(cached, block);
    blocks.set(code, cached);
    return cached;
  };
  const entry = blockAt(BASE);
  const region =
    entry &&
    buildRegion(entry, {
      block: blockAt,
      lift: (block) => lifted.get(block),
      warm: () => true,
      wanted: () => false,
      begun: () => false,
      via: (_block, from) => ({ from, distances: [], learns: false }),
      page: (distance) => (distance === 0 ? BASE : -1),
      chaining: true,
      adaptive: true,
      oneUserBank: true,
    });
  if (!region) throw new Error('the code to warm up with cannot be translated');
  const module = new ModuleWriter();
  module.importTable(1);
  const imports = declareRegionImports(module);
  const place = { siteTable: BASE, entries: BASE, formOf: () => 'plain' as const };
  const code = emitRegion(region, imports, place, () => undefined);
  module.define(module.declare([I32], [I32]), code);
  module.compile(1);
  code.release();
}

function cachedAs(
  { bytes, instructions }: LiftedBlock,
  code: number,
  modeKey: number,
  index: number,
): CachedBlock {
  const count = instructions.length;
  return { id: index, index, address: BASE, code, bytes, modeKey, secondPage: -1, count, dead: false };
}
