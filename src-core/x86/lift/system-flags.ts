import { Mnemonic } from '../iced.ts';
import type { Bits } from '../../ir/op.ts';
import { cliCallout, popfCallout, pushfCallout, stiCallout } from '../system-flags.ts';
import type { LiftContext } from './context.ts';
import { lift } from './table.ts';

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

/** Level 0 outside virtual-8086 mode: these instructions always may, and are emulated in the block. */
function isPrivileged(cx: LiftContext): boolean {
  return cx.cpl === 0;
}

lift([Mnemonic.Pushf, Mnemonic.Pushfd, Mnemonic.Pushfq], (cx) => {
  const image = cx.b.temp();
  if (cx.v86) cx.b.callout(pushfCallout, { dst: image });
  else cx.b.op('pushf', { dst: image });
  cx.push(image, operandBits(cx));
});

// Where these set IF or TF they end the run in progress themselves (attendToFlags).
lift([Mnemonic.Popf, Mnemonic.Popfd, Mnemonic.Popfq], (cx) => {
  const { b } = cx;
  const bits = operandBits(cx);
  const { value, pointer } = cx.peek(bits);
  if (bits !== 16 && isPrivileged(cx)) {
    b.op('popf', { a: value, imm: bits });
    cx.setStackPointer(pointer);
    return;
  }
  b.callout(popfCallout, { a: value, imm: bits });
  cx.setStackPointer(pointer);
  // #AC may have come to life.
  b.op(`jmp.${cx.codeBits}`, { imm: cx.next });
});

lift(Mnemonic.Cli, (cx) => {
  if (isPrivileged(cx)) cx.b.op('cli', {});
  else cx.b.callout(cliCallout);
});
lift(Mnemonic.Sti, (cx) => {
  if (isPrivileged(cx)) cx.b.op('sti', {});
  else cx.b.callout(stiCallout);
  cx.shadow = true;
});
