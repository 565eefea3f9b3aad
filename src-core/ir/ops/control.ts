import { I64, i32, i64 } from '../../wasm/opcodes.ts';
import { DF_BIT } from '../../x86/bits.ts';
import { VECTOR } from '../../x86/faults.ts';
import { CTL, FLAGS_SYSTEM, RIP } from '../../x86/layout.ts';
import { defineOp, type OpGen } from '../op.ts';
import { CONDITIONS, pushCondition } from './flags.ts';

/** Pushes RIP + imm, truncated to the code size: an address near this instruction. */
function pushNear(g: OpGen, codeBits: 16 | 32 | 64): void {
  g.state64(RIP);
  g.imm64();
  g.w.op(i64.add).lowBits(codeBits);
}

for (const codeBits of [16, 32, 64] as const) {
  // dst = block start + imm: RIP-relative addresses and return addresses.
  defineOp(`rip.${codeBits}`, 64, { reads: '' }, (g) => g.set(64, () => pushNear(g, codeBits)));

  defineOp(`jmp.${codeBits}`, 64, { reads: '', writes: false, terminates: true }, (g) => {
    g.jump(codeBits);
  });
  // Conditional: to block start + imm, else on to block start + c.
  CONDITIONS.forEach((name, code) => {
    defineOp(
      `j${name}.${codeBits}`,
      64,
      { reads: '', writes: false, flags: 'read', terminates: true },
      (g) => {
        g.branch(codeBits, () => pushCondition(g, code));
      },
    );
  });
  // The same on operand a (8 bits) being non-zero.
  defineOp(`jif.${codeBits}`, 64, { reads: 'a', writes: false, terminates: true }, (g) => {
    g.branch(codeBits, () => g.a(8));
  });
  // Goes to block start + imm when counter a is zero, else on with the next operation (REP with nothing to do).
  for (const bits of [16, 32, 64] as const) {
    defineOp(`skipz.${bits}.${codeBits}`, 64, { reads: 'a', writes: false, leaves: true }, (g) => {
      g.skip(codeBits, () => {
        g.a(bits);
        g.w.op(bits === 64 ? i64.eqz : i32.eqz);
      });
    });
  }
  // Ends the block at block start + imm and returns to the run loop, which looks for events.
  defineOp(`end.${codeBits}`, 64, { reads: '', writes: false, terminates: true, leaves: true }, (g) => {
    g.setState64(RIP, () => pushNear(g, codeBits));
    g.leave();
  });
}

// To the address in a (already truncated to the code size).
defineOp('jind', 64, { reads: 'a', writes: false, terminates: true }, (g) => g.jumpAbsolute(() => g.a(64)));
// The same for a near JMP or CALL through a register or memory; where it goes can be learned (UOP in the software engine).
defineOp('jvia', 64, { reads: 'a', writes: false, terminates: true, leaves: true }, (g) =>
  g.jumpVia(() => g.a(64)),
);
// RIP was set by a callout; returns to the run loop.
defineOp('endrip', 64, { reads: '', writes: false, terminates: true, leaves: true }, (g) => g.leave());

// #GP(0) unless a is canonical (a jump target in 64-bit code).
defineOp('canonical', 64, { reads: 'a', writes: false, leaves: true }, (g) => {
  const { w } = g;
  const x = g.scratch(I64, 0);
  g.a(64);
  w.tee(x).i64Const(16n).op(i64.shl).i64Const(16n).op(i64.shr_s).get(x).op(i64.ne).if();
  g.fault(VECTOR.GP, 0);
  w.end();
});
// #GP(0) unless offset a (zero-extended) is within CS's limit.
defineOp('codelimit', 64, { reads: 'a', writes: false, leaves: true }, (g) => {
  const { w } = g;
  g.a(64);
  g.state32(CTL.codeLimit);
  w.op(i64.extend_i32_u).op(i64.gt_u).if();
  g.fault(VECTOR.GP, 0);
  w.end();
});

// #BR unless a <= dst <= b, signed.
for (const bits of [16, 32] as const) {
  defineOp(`bound.${bits}`, bits, { reads: 'abd', writes: false, leaves: true }, (g) => {
    const { w } = g;
    const value = (push: () => void): void => {
      push();
      if (bits === 16) w.op(i32.extend16_s);
    };
    value(() => g.dst(bits));
    value(() => g.a(bits));
    w.op(i32.lt_s);
    value(() => g.dst(bits));
    value(() => g.b(bits));
    w.op(i32.gt_s).op(i32.or).if();
    g.fault(VECTOR.BR, 0);
    w.end();
  });
}

// Raises exception imm with error code 0.
defineOp('raise', 64, { reads: '', writes: false, leaves: true, terminates: true }, (g) => {
  g.setState32(CTL.faultVector, () => g.imm32());
  g.fault(-1, 0);
});

// Calls the callout named by the operation; its operands are this operation's.
defineOp('callout', 64, { reads: 'abd', flags: 'readwrite', flagsInState: true, leaves: true }, (g) =>
  g.calloutOfOp(),
);

// A run of a repeated string instruction, by the callout that the operation names or quicker (x86/string-bulk.ts).
defineOp('stringrun', 64, { reads: '', writes: false, leaves: true }, (g) =>
  g.calloutOfOpUnless('stringRun'),
);

// dst = a control register: slot a where that is all there is to it, by its callout otherwise (imm: its number).
defineOp('control.read', 64, { reads: '', flags: 'readwrite', flagsInState: true, leaves: true }, (g) =>
  g.calloutOfOpUnless('controlRead'),
);
// PCMPxSTRx, by its callout (x86/fpu/sse-strings.ts) or quicker.
defineOp('strings.compare', 64, { reads: 'abd', flags: 'readwrite', flagsInState: true, leaves: true }, (g) =>
  g.calloutOfOpUnless('compareStrings'),
);

// IRET, by its callout or quicker. imm is the operand size in bits. RIP is set.
defineOp(
  'iret',
  64,
  { reads: '', writes: false, flags: 'readwrite', flagsInState: true, leaves: true },
  (g) => g.calloutOfOpUnless('interruptReturn'),
);

// dst = imm, or -imm with DF set: the step of a string instruction.
defineOp('step', 64, { reads: '' }, (g) => {
  const { w } = g;
  g.set(64, () => {
    g.imm64();
    w.i64Const(0n);
    g.imm64();
    w.op(i64.sub);
    g.state32(FLAGS_SYSTEM);
    w.i32Const(1 << DF_BIT)
      .op(i32.and)
      .op(i32.eqz)
      .select();
  });
});

// CLD and STD.
defineOp('cld', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    g.w.i32Const(~(1 << DF_BIT)).op(i32.and);
  });
});
defineOp('std', 64, { reads: '', writes: false }, (g) => {
  g.setState32(FLAGS_SYSTEM, () => {
    g.state32(FLAGS_SYSTEM);
    g.w.i32Const(1 << DF_BIT).op(i32.or);
  });
});
