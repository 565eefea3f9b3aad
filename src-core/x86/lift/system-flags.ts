import { Mnemonic } from 'iced-x86';
import type { Bits } from '../../ir/op.ts';
import { defineCallout } from '../callout.ts';
import { clearInterruptFlag, flagsToPush, popFlags, setInterruptFlag } from '../system-flags.ts';
import type { LiftContext } from './context.ts';
import { lift } from './table.ts';

/** dst = the flags to push (64 bits). */
const pushf = defineCallout('pushf', 'otherCallout', (cpu, dst) => {
  cpu.set32(dst, flagsToPush(cpu));
  cpu.set32(dst + 4, 0);
});
/** a = the flags popped (16 or 32 bits of them count), imm = operand size in bits. */
const popf = defineCallout('popf', 'otherCallout', (cpu, _dst, a, _b, imm) =>
  popFlags(cpu, cpu.get32(a), imm),
);
const cli = defineCallout('cli', 'otherCallout', clearInterruptFlag);
const sti = defineCallout('sti', 'otherCallout', setInterruptFlag);

function operandBits(cx: LiftContext): Bits {
  switch (cx.insn.mnemonic) {
    case Mnemonic.Pushf:
    case Mnemonic.Popf:
      return 16;
    case Mnemonic.Pushfd:
    case Mnemonic.Popfd:
      return 32;
    default:
      return 64;
  }
}

lift([Mnemonic.Pushf, Mnemonic.Pushfd, Mnemonic.Pushfq], (cx) => {
  const image = cx.b.temp();
  cx.b.callout(pushf, { dst: image });
  cx.push(image, operandBits(cx));
});

lift([Mnemonic.Popf, Mnemonic.Popfd, Mnemonic.Popfq], (cx) => {
  const bits = operandBits(cx);
  const { value, pointer } = cx.peek(bits);
  cx.b.callout(popf, { a: value, imm: bits });
  cx.setStackPointer(pointer);
  cx.endBlock();
});

lift(Mnemonic.Cli, (cx) => cx.b.callout(cli));
lift(Mnemonic.Sti, (cx) => {
  cx.b.callout(sti);
  cx.endBlock();
});
