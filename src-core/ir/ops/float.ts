/** Operations of the x87, MMX and SSE units that are not plain SIMD. */
import { I32, i32 } from '../../wasm/opcodes.ts';
import { CTL, FPU } from '../../x86/layout.ts';
import { FPU_CHECK, fpuCheck } from '../../x86/fpu/check.ts';
import { defineOp } from '../op.ts';

/**
 * Whether the FPU may be used by an instruction of class c (FPU_CHECK): #NM, #UD, a pending #MF. Nothing to do is
 * decided here.
 */
defineOp('fpucheck', 64, { reads: '', writes: false, leaves: true }, (g) => {
  const { w } = g;
  g.state32(CTL.fpuTrap);
  g.c();
  w.i32Const(FPU_CHECK.trapMask).op(i32.and).op(i32.and);
  g.state32(FPU.fsw);
  g.c();
  w.i32Const(FPU_CHECK.pending).op(i32.and).op(i32.and).op(i32.or).if();
  g.callout(fpuCheck);
  w.end();
});

// An MMX instruction leaves TOP 0 and no register empty (Intel SDM volume 1, section 9.5).
defineOp('mmxenter', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FPU.top, () => g.w.i32Const(0));
  g.setState32(FPU.empty, () => g.w.i32Const(0));
});
// MMX register dst = a; its exponent becomes all ones.
defineOp('mmxset', 128, { reads: 'a' }, (g) => {
  g.setHalf(0, () => g.a(64));
  g.setHalf(8, () => g.w.i64Const(0xffffn));
});
// EMMS
defineOp('emms', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FPU.top, () => g.w.i32Const(0));
  g.setState32(FPU.empty, () => g.w.i32Const(0xff));
});
// dst = the x87 status word with TOP.
defineOp('fsw', 16, { reads: '' }, (g) => {
  const value = g.scratch(I32, 0);
  g.state32(FPU.fsw);
  g.state32(FPU.top);
  g.w.i32Const(11).op(i32.shl).op(i32.or).set(value);
  g.set(16, () => g.w.get(value));
});
