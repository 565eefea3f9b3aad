import { expect, it } from 'vitest';
import { I32 } from '../../src-core/wasm/opcodes.ts';
import { CodeWriter, ModuleWriter } from '../../src-core/wasm/writer.ts';

it('tells which branches are likely, where the engine looks for that', () => {
  const module = new ModuleWriter();
  module.importFunction('f', [], []);
  const plain = module.declare([], []);
  module.define(plain, new CodeWriter(0));
  const hinted = module.declare([I32], []);
  const w = new CodeWriter(1);
  w.local(I32);
  w.block();
  w.get(0).hint(false).if().end();
  w.get(0).hint(true).brIf(0);
  w.end();
  module.define(hinted, w);
  const { module: compiled } = module.compile(1);
  const [section] = WebAssembly.Module.customSections(compiled, 'metadata.code.branch_hint');
  // One function, the third; its locals are declared in 3 bytes, then come block (2), local.get (2), if (2), end (1), local.get (2).
  expect([...new Uint8Array(section ?? new ArrayBuffer(0))]).toEqual([
    1,
    2,
    2,
    3 + 2 + 2,
    1,
    0,
    3 + 2 + 2 + 2 + 1 + 2,
    1,
    1,
  ]);
});

it('writes modules one after the other from the same buffers', () => {
  const bytes = Array.from({ length: 3 }, () => {
    const module = new ModuleWriter();
    const index = module.declare([], [I32]);
    const w = new CodeWriter(0);
    w.i32Const(42);
    module.define(index, w);
    module.export('answer', index);
    const made = module.finish(1);
    w.release();
    return made;
  });
  for (const binary of bytes) {
    expect(binary).toEqual(bytes[0]);
    expect(WebAssembly.validate(binary)).toBe(true);
  }
});
