/** A process that stays in KVM_RUN: runs a guest that loops, in slices of a minute. */
import { HardwareEngine } from '../../src-core/engines/hardware/kvm/hardware-engine.ts';
import { assemble } from '../../src-core/engines/hardware/probe/guests.ts';
import { PLACE, realMode } from '../../src-core/engines/hardware/probe/modes.ts';
import { SoftwareEngine } from '../../src-core/engines/software/software-engine.ts';
import { ARENA } from '../../src-core/machine/arena.ts';
import { makeVcpu } from './vcpu.ts';

const { arena, cpu } = makeVcpu();
realMode({ cpu, view: new DataView(arena.buffer, ARENA.ram, arena.ramSize) });
arena.ram.set(assemble({ bits: 16, code: 'again: jmp again' }).bytes, PLACE.code);
const software = new SoftwareEngine({ arena, cpu });
const engine = new HardwareEngine({ arena, cpu, software });
engine.run(1, false, 1e6);
process.stdout.write('running\n');
setImmediate(() => engine.run(1, false, 60e9));
