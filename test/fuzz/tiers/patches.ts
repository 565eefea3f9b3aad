/**
 * Code that is overwritten: instructions with bytes that others change, and the stores that change them.
 */
import type { Random } from '../random.ts';
import { hasPaging } from './environment.ts';
import type { Environment } from './environment.ts';
import { CONDITIONS, sized } from './operands.ts';
import type { PatchSlot } from './program.ts';

/** ADD OR ADC SBB AND SUB XOR CMP MOV of a register to a register, 16 or 32 bits. */
const ARITHMETIC_OPCODES = [0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x89];

/** Makes pieces of one program; it remembers what there is to overwrite. */
export class PatchPieces {
  readonly slots: PatchSlot[] = [];
  readonly #random: Random;
  readonly #env: Environment;
  readonly #makeLabel: () => string;

  /** @param makeLabel makes a label nothing else uses. */
  constructor(random: Random, env: Environment, makeLabel: () => string) {
    this.#random = random;
    this.#env = env;
    this.#makeLabel = makeLabel;
  }

  /** An instruction that others overwrite. */
  slot(): string {
    const random = this.#random;
    const { bits } = this.#env;
    const label = `P${this.slots.length}`;
    const add = (back: number, size: number, holds: PatchSlot['holds'] = 'immediate'): void => {
      this.slots.push({ label, back, size, holds });
    };
    const name = random.pick(['ax', 'cx', 'dx']);
    switch (random.below(6)) {
      case 0:
        add(4, 4);
        return `mov e${name}, 0x11223344\n${label}:`;
      case 1:
        add(1, 1);
        return `${random.pick(['add', 'xor', 'sub', 'adc', 'cmp'])} e${name}, 5\n${label}:`;
      case 2:
        add(4, 4);
        return `add ${bits === 64 ? 'r' : 'e'}${random.pick(['cx', 'dx'])}, 0x12345678\n${label}:`;
      case 3: {
        // A branch over something, whose condition changes.
        const over = this.#makeLabel();
        add(2, 1, 'branch');
        return `j${random.pick(CONDITIONS)} short ${over}\n${label}: inc e${name}\n${over}:`;
      }
      case 4:
        // The opcode of an arithmetic instruction on registers.
        add(2, 1, 'arithmetic');
        return `add_rm${bits === 16 ? 16 : 32}_r${bits === 16 ? 16 : 32} ${sized(name, bits === 16 ? 16 : 32)}, ${sized('bx', bits === 16 ? 16 : 32)}\n${label}:`;
      default:
        add(1, 1);
        return `mov ${name.charAt(0)}l, 7\n${label}:`;
    }
  }

  /** A store to a slot, or a slot right after its own patch. */
  patch(): string {
    const random = this.#random;
    if (!random.chance(0.3)) return this.#store(random.pick(this.slots));
    const next = this.slot();
    return this.slots
      .slice(-1)
      .map((slot) => `${this.#store(slot)}\n${next}`)
      .join('\n');
  }

  #store({ label, back, size, holds }: PatchSlot): string {
    const random = this.#random;
    const { bits, flat } = this.#env;
    const paging = hasPaging(this.#env);
    const place = `${label}-${back}`;
    const ways = [`[fs:${place}-CODE]`];
    if (paging) ways.push(`[gs:${place}-CODE]`);
    if (flat) {
      const relative = bits === 64 ? 'rip+' : '';
      ways.push(`[${relative}${place}]`, `[${relative}${place}+ALIAS]`);
    }
    const memory = random.pick(ways);
    if (holds !== 'immediate') {
      const opcodes = holds === 'branch' ? CONDITIONS.map((_, index) => 0x70 + index) : ARITHMETIC_OPCODES;
      return `mov byte ${memory}, ${random.pick(opcodes)}`;
    }
    const keyword = size === 1 ? 'byte' : random.pick(['byte', 'word', 'dword']);
    const register = { byte: 'al', word: 'ax', dword: 'eax' }[keyword] ?? 'al';
    switch (random.below(6)) {
      case 0:
        return `mov ${keyword} ${memory}, ${random.below(100)}`;
      case 1:
        return `inc ${keyword} ${memory}`;
      case 2:
        return `xor ${keyword} ${memory}, ${random.below(100)}`;
      case 3:
        return `mov ${memory}, ${register}`;
      case 4:
        return `add ${memory}, ${register}`;
      default:
        if (!flat) return `xchg ${memory}, ${register}`;
        return bits === 64
          ? `lea rdi, [rip+${place}]\nmov ecx, ${Math.min(size, 2)}\nrep stosb`
          : `mov edi, ${place}\nmov ecx, ${Math.min(size, 2)}\nrep stosb`;
    }
  }
}
