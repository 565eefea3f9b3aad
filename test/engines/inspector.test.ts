import { describe, expect, test } from 'vitest';
import { inspect, inspectRegion } from '../../src-core/engines/software/inspector/inspect.ts';
import { printGuest } from '../../src-core/engines/software/inspector/guest-printer.ts';
import { printIr } from '../../src-core/engines/software/inspector/ir-printer.ts';
import { stateName } from '../../src-core/engines/software/inspector/state-names.ts';
import { printWasm } from '../../src-core/engines/software/inspector/wasm-printer.ts';
import { Machine } from '../../src-core/machine/machine.ts';
import { inspectionSchema, regionDetailSchema } from '../../src-core/protocol/inspection.ts';
import { I32, I64, i32, i64, i8x16, v128 } from '../../src-core/wasm/opcodes.ts';
import { CodeWriter } from '../../src-core/wasm/writer.ts';
import { CTL, RAX, TEMP, TEMP_SIZE, XMM } from '../../src-core/x86/layout.ts';
import { liftBlock } from '../../src-core/x86/lift/block.ts';
import { MODE } from '../../src-core/x86/mode.ts';
import * as guest from '../support/tiny-guest.ts';

test('places in the state have names', () => {
  expect([RAX, RAX + 9, XMM + 24, TEMP + 3 * TEMP_SIZE, CTL.budget].map(stateName)).toEqual([
    'rax',
    'ch',
    'xmm1.high',
    't3',
    'ctl.budget',
  ]);
  expect(stateName(7)).toBeUndefined();
});

test('guest code in Intel syntax, with its bytes', () => {
  // mov eax, [ebx+16]; jmp to itself; the start of an instruction that goes on elsewhere.
  const code = Uint8Array.of(0x8b, 0x43, 0x10, 0xeb, 0xfe, 0x0f);
  expect(printGuest(code, 32, 0x1000n)).toEqual([
    { offset: 0, bytes: '8b4310', text: 'mov eax,[ebx+0x10]' },
    { offset: 3, bytes: 'ebfe', text: 'jmp short 0x1003' },
    { offset: 5, bytes: '0f', text: '(no instruction)' },
  ]);
});

test('IR with register names, flags and targets', () => {
  // add eax, ecx; jz +5
  const lifted = liftBlock(Uint8Array.of(0x01, 0xc8, 0x74, 0x05), MODE.code32 | MODE.flatCs, 8);
  const text = lifted?.ops.map((operation) => printIr(operation, 0x1000n)) ?? [];
  expect(text[0]).toBe('rax = addf.32 rax, rcx  ; writes flags');
  expect(text.at(-1)).toMatch(/→ 0x1009, else 0x1004 {2}; reads flags$/);
});

describe('WebAssembly', () => {
  test('blocks, locals, branches, constants and named accesses', () => {
    const w = new CodeWriter(0);
    const local = w.local(I32);
    w.local(I64);
    w.block().loop().get(local).brIf(1).br(0).end().end();
    w.i32Const(0).mem(i32.load, RAX).if(I64).i64Const(-5n).else().i64Const(0x123456789n).end();
    w.op(i64.eqz).brTable([0], 0);
    w.i32Const(-1).call(1).callIndirect(0);
    expect(
      printWasm(w.body(), { functionName: (index) => (index === 1 ? 'callout' : undefined) }),
    ).toMatchObject({
      locals: '(local i32 i64)',
      lines: [
        [0, 'block'],
        [1, 'loop'],
        [2, 'local.get 0'],
        [2, 'br_if 1'],
        [2, 'br 0'],
        [1, 'end'],
        [0, 'end'],
        [0, 'i32.const 0'],
        [0, 'i32.load offset=0x100  ;; rax'],
        [0, 'if (result i64)'],
        [1, 'i64.const -5'],
        [0, 'else'],
        [1, 'i64.const 0x123456789'],
        [0, 'end'],
        [0, 'i64.eqz'],
        [0, 'br_table 0 0'],
        [0, 'i32.const -1'],
        [0, 'call $callout'],
        [0, 'call_indirect (type 0)'],
      ].map(([depth, text]) => ({ depth, text })),
    });
  });

  test('SIMD and numbers with fractions', () => {
    const w = new CodeWriter(0);
    w.f64Const(1.5).f32Const(-0.25);
    w.v128Const(new Uint8Array(16).fill(255)).shuffle([...Array(16).keys()]);
    w.lane(i8x16.extract_lane_u, 3).op(v128.xor).mem(v128.load, 0x580).memoryFill();
    expect(printWasm(w.body()).lines.map(({ text }) => text)).toEqual([
      'f64.const 1.5',
      'f32.const -0.25',
      `v128.const i8x16${' 0xff'.repeat(16)}`,
      'i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15',
      'i8x16.extract_lane_u 3',
      'v128.xor',
      'v128.load offset=0x580',
      'memory.fill',
    ]);
  });

  test('bytes that are no instruction', () => {
    expect(() => printWasm(Uint8Array.of(0, 0xf0))).toThrow('no WebAssembly instruction 0xf0');
  });
});

describe('a machine', () => {
  /** Counts to ten million, so that it is translated while it runs, in a loop of three instructions, then powers off: mov ecx, n; again: add eax, 3; dec ecx; jnz again. */
  const counting = [0xb9, 0x80, 0x96, 0x98, 0x00, 0x83, 0xc0, 0x03, 0x49, 0x75, 0xfa];

  test('its hot loop is found, and shown in full as it was translated', async () => {
    const machine = new Machine({
      memoryMib: 16,
      kernel: { name: 'kernel', bytes: guest.tinyGuest(counting, guest.powerOff, guest.halt) },
      translator: { tier: 1, threshold: 10 },
    });
    const seen = await new Promise<{ table: unknown; detail: unknown }>((resolve) => {
      machine.on('state', (state) => {
        const { translator } = machine;
        if (state !== 'off' || !translator) return;
        const table = inspect(translator, { top: 5, order: 'work' });
        resolve({ table, detail: inspectRegion(translator, table.regions[0]?.id ?? -1) });
        expect(inspectRegion(translator, 12345)).toBeUndefined();
      });
      machine.start();
    });
    const table = inspectionSchema.parse(seen.table);
    expect(table.regions[0]).toMatchObject({
      linear: '0x100025',
      physical: '0x100025',
      codeBits: 32,
      cpl: 0,
    });
    expect(table.regions[0]?.entries).toBeGreaterThan(0);
    expect(table.statistics.regions).toBe(table.regions.length);
    const detail = regionDetailSchema.parse(seen.detail);
    expect(detail.fidelity).toBe('same');
    const [node] = detail.nodes;
    expect(node?.guest.map(({ text }) => text)).toEqual(['add eax,3', 'dec ecx', 'jne short 0x100025']);
    expect(node?.ir[0]).toEqual({
      instruction: 0,
      text: 'rax = addf.32i rax, 3  ; writes flags',
      adapted: false,
    });
    const own = detail.wasm.lines.slice(node?.wasm.from, node?.wasm.to).map(({ text }) => text);
    expect(own).toContain('i32.add');
    expect(detail.wasm.lines.some(({ text }) => text === 'loop')).toBe(true);
  });
});
