/** The guests of `bench:exits`: one instruction that leaves the guest, in a loop. */
import { assemble, type TinyGuest } from '../../../src-core/engines/hardware/probe/guests.ts';
import { longMode, PLACE, realMode } from '../../../src-core/engines/hardware/probe/modes.ts';
import { EXIT_REASON } from '../../../src-core/engines/hardware/kvm/layout.ts';
import type { GuestPlace } from '../../../src-core/engines/hardware/probe/modes.ts';

export interface ExitGuest {
  readonly name: string;
  /** Exit reason of KVM that is counted. */
  readonly reason: number;
  readonly guest: Pick<TinyGuest, 'bits' | 'code'>;
  readonly prepare: (place: GuestPlace) => void;
}

/** A port that is nobody's. */
export const PORT = 0x12;
/** Guest-physical address where nothing is, mapped at PLACE.mapped. */
export const MMIO = 0x500000;

export const GUESTS: readonly ExitGuest[] = [
  {
    name: 'port write, real mode',
    reason: EXIT_REASON.io,
    guest: { bits: 16, code: `again: out ${PORT}, al\njmp again` },
    prepare: realMode,
  },
  {
    name: 'port write, long mode',
    reason: EXIT_REASON.io,
    guest: { bits: 64, code: `again: out ${PORT}, al\njmp again` },
    prepare: (place) => longMode(place),
  },
  {
    name: 'port read, long mode',
    reason: EXIT_REASON.io,
    guest: { bits: 64, code: `again: in al, ${PORT}\njmp again` },
    prepare: (place) => longMode(place),
  },
  {
    name: 'MMIO read, long mode',
    reason: EXIT_REASON.mmio,
    guest: { bits: 64, code: `again: mov eax, [${PLACE.mapped}]\njmp again` },
    prepare: (place) => {
      longMode(place);
      place.view.setUint32(PLACE.tables + 3 * 4096, MMIO | 7, true);
    },
  },
];

/** Puts a guest into memory and the vCPU into its state. */
export function load(place: GuestPlace & { memory: Uint8Array }, { guest, prepare }: ExitGuest): void {
  prepare(place);
  place.memory.set(assemble(guest).bytes, PLACE.code);
}
