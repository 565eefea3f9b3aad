import { i32 } from '../../wasm/opcodes.ts';
import { loadSegmentCallout } from '../../x86/segmentation.ts';
import { sysenterCallout, sysexitCallout } from '../../x86/syscall.ts';
import { defineOp, type OpGen, type QuickName } from '../op.ts';
import type { Callout } from '../../x86/callout.ts';

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
