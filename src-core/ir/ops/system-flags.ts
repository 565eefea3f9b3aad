import { I32, i32, i64 } from '../../wasm/opcodes.ts';
import {
  CR4_SMAP,
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
import { CR4, CTL, FLAGS_SYSTEM, TLB } from '../../x86/layout.ts';
import { MODE } from '../../x86/mode.ts';
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

// IF = 1; when it was 0 the interrupt shadow is made. Where something may be waiting for that, the callout looks.
defineOp('sti', 64, { reads: '', writes: false, leaves: true }, (g) => {
  const { w } = g;
  g.state32(FLAGS_SYSTEM);
  w.i32Const(FLAG_IF).op(i32.and).op(i32.eqz).if();
  g.state32(CTL.interruptRequest);
  g.state32(CTL.nmiPending);
  w.op(i32.or);
  g.state32(CTL.modeKey);
  w.i32Const(MODE.single).op(i32.and).op(i32.or).if();
  g.callout(stiCallout);
  w.else();
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    w.i32Const(FLAG_IF).op(i32.or);
  });
  g.setState32(CTL.interruptShadow, () => {
    g.state32(CTL.interruptShadow);
    w.i32Const(1).op(i32.or);
  });
  w.end();
  w.end();
});

// AC = 0: user pages are shut where CR4.SMAP says so. At level 0 AC changes nothing else of the mode.
defineOp('clac', 64, { reads: '', writes: false }, (g) => {
  const { w } = g;
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    w.i32Const(~FLAG_AC).op(i32.and);
  });
  g.setState32(CTL.tlbBank, () => {
    w.i32Const(TLB.bankSupervisorSmap).i32Const(TLB.bankSupervisor);
    g.state32(CR4);
    w.i32Const(CR4_SMAP).op(i32.and).select();
  });
});

// AC = 1: user pages are open.
defineOp('stac', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    g.w.i32Const(FLAG_AC).op(i32.or);
  });
  g.setState32(CTL.tlbBank, () => g.w.i32Const(TLB.bankSupervisor));
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
