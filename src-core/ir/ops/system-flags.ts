import { I32, i32, i64 } from '../../wasm/opcodes.ts';
import {
  FLAG_AC,
  FLAG_DF,
  FLAG_ID,
  FLAG_IF,
  FLAG_IOPL,
  FLAG_NT,
  FLAG_RF,
  FLAG_TF,
  FLAG_VM,
  FLAGS_ARITHMETIC,
} from '../../x86/bits.ts';
import { CTL, FLAGS_SYSTEM } from '../../x86/layout.ts';
import { popfCallout, stiCallout } from '../../x86/system-flags.ts';
import { defineOp } from '../op.ts';
import { pushArithmeticFlags, setArithmeticFlags } from './flags.ts';

// What a kernel does to its interrupt flag millions of times, emulated in the block: for level 0, where nothing needs
// to be checked. The uncommon cases leave for the callouts that do everything.

// IF = 0.
defineOp('cli', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    g.w.i32Const(~FLAG_IF).op(i32.and);
  });
});

// IF = 1; when it was 0, by the callout, which makes the interrupt shadow and looks whether an interrupt waits.
defineOp('sti', 64, { reads: '', writes: false, leaves: true }, (g) => {
  g.state32(FLAGS_SYSTEM);
  g.w.i32Const(FLAG_IF).op(i32.and).op(i32.eqz).if();
  g.callout(stiCallout);
  g.w.end();
});

// The instruction after STI: no event can come between them in a block, so the shadow has done its work.
defineOp('unshadow', 64, { reads: '', writes: false }, (g) => {
  g.setState32(CTL.interruptShadow, () => g.w.i32Const(0));
});

// dst = the image PUSHF pushes.
defineOp('pushf', 64, { reads: '', flags: 'read' }, (g) => {
  const { w } = g;
  g.set(64, () => {
    g.state32(FLAGS_SYSTEM);
    w.i32Const(~(FLAG_RF | FLAG_VM | FLAGS_ARITHMETIC)).op(i32.and);
    pushArithmeticFlags(g);
    w.op(i32.or).op(i64.extend_i32_u);
  });
});

// Flags = a (32 bits; imm is the operand size, 32 or 64, for the callout). Whatever changes more than the arithmetic
// flags and DF or sets IF goes to the callout.
defineOp(
  'popf',
  64,
  { reads: 'a', writes: false, flags: 'readwrite', flagsInState: true, leaves: true },
  (g) => {
    const { w } = g;
    const value = g.scratch(I32, 0);
    const system = g.scratch(I32, 1);
    g.a(32);
    w.set(value);
    g.state32(FLAGS_SYSTEM);
    w.set(system);
    w.get(value).get(system).op(i32.xor);
    w.i32Const(FLAG_TF | FLAG_NT | FLAG_IOPL | FLAG_AC | FLAG_ID).op(i32.and);
    w.get(system).i32Const(FLAG_RF).op(i32.and).op(i32.or);
    w.get(system).i32Const(-1).op(i32.xor).get(value).op(i32.and).i32Const(FLAG_IF).op(i32.and).op(i32.or);
    w.if();
    g.callout(popfCallout);
    w.else();
    g.setState32(FLAGS_SYSTEM, () => {
      w.get(system)
        .i32Const(~(FLAG_IF | FLAG_DF))
        .op(i32.and);
      w.get(value)
        .i32Const(FLAG_IF | FLAG_DF)
        .op(i32.and)
        .op(i32.or);
    });
    setArithmeticFlags(g, value);
    w.end();
  },
);
