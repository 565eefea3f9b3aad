import { I32, i32, i64 } from '../../wasm/opcodes.ts';
import { loadSegmentCallout } from '../../x86/segmentation.ts';
import {
  enterBySyscallCallout,
  leaveBySysretCallout,
  sysenterCallout,
  sysexitCallout,
} from '../../x86/syscall.ts';
import { defineOp, type OpGen, type QuickName } from '../op.ts';
import type { Callout } from '../../x86/callout.ts';
import { setArithmeticFlags } from './flags.ts';

// What a kernel does with every system call, its plain cases without leaving wasm (OpGen.quick).

function quickOr(g: OpGen, name: QuickName, parameters: () => void, callout: Callout): void {
  g.quick(name, parameters);
  g.w.op(i32.eqz).if();
  g.callout(callout);
  g.w.end();
}

// Segment register imm (ES, DS, FS or GS) = selector a (16 bits), in protected mode.
defineOp('segment.load', 64, { reads: 'a', writes: false, leaves: true }, (g) => {
  const parameters = (): void => {
    g.a(16);
    g.imm32();
  };
  quickOr(g, 'loadSegment', parameters, loadSegmentCallout);
});

// SYSENTER and SYSEXIT outside long mode, but for RSP and RIP, which the callouts may have set already.
defineOp('sysenter', 64, { reads: '', writes: false, leaves: true }, (g) =>
  quickOr(g, 'sysenter', () => undefined, sysenterCallout),
);
// imm is the operand size, 32, for the callout.
defineOp('sysexit', 64, { reads: '', writes: false, leaves: true }, (g) =>
  quickOr(g, 'sysexit', () => undefined, sysexitCallout),
);

// SYSCALL in 64-bit code, but for RCX, R11, the arithmetic flags and RIP.
defineOp('syscall', 64, { reads: '', writes: false, leaves: true }, (g) =>
  quickOr(g, 'syscall', () => undefined, enterBySyscallCallout),
);
// SYSRET to 64-bit code, but for the arithmetic flags and RIP. a is R11, b is RCX, imm the operand size, 64, for the callout.
defineOp('sysret', 64, { writes: false, leaves: true }, (g) => {
  const parameters = (): void => {
    g.a(32);
    g.b(64);
    g.w.i64Const(32n).op(i64.shr_u).op(i32.wrap_i64);
  };
  quickOr(g, 'sysret', parameters, leaveBySysretCallout);
});
// The arithmetic flags = those of a that are not set in b.
defineOp('setflags', 32, { writes: false, flags: 'write' }, (g) => {
  const { w } = g;
  const value = g.scratch(I32, 0);
  g.a(32);
  g.b(32);
  w.i32Const(-1).op(i32.xor).op(i32.and).set(value);
  setArithmeticFlags(g, value);
});
