import { existsSync } from 'node:fs';
import type {
  ProbeCheck,
  ProbeFailure,
  ProbeHost,
  ProbeMessage,
  ProbeSpeed,
} from '../../../protocol/hardware-probe.ts';
import { CPUID_MODEL, NEEDED_FEATURES } from '../../../x86/cpuid.ts';
import { KvmError } from '../kvm/errors.ts';
import { KvmSystem, type KvmSystemOptions } from '../kvm/system.ts';
import { CAP } from '../kvm/ioctl.ts';
import {
  assemble,
  type Check,
  CHECKS,
  countingLoop,
  EXIT_BATCHES,
  exitLoop,
  EXITS_A_BATCH,
  type TinyGuest,
} from './guests.ts';
import { PLACE } from './modes.ts';
import { type TinyRun, TinyVm } from './tiny-vm.ts';

/** Host time a small guest may take, ms: a thousand times what it takes on good hardware. */
const GUEST_LIMIT_MS = 400;

/** The counting loop: instructions of the first try, how they grow, their most, and the time that is long enough, ms. */
const LOOP_FIRST = 20_000;
const LOOP_GROWTH = 32;
const LOOP_LAST = 1_000_000_000;
const LOOP_MS = 5;

/** Kernel modules that serve /dev/kvm. */
const MODULES = ['kvm_intel', 'kvm_amd', 'kvm_pvm'];

/** Runs every check on this host's KVM and says what it finds as it goes. Takes up to some seconds. */
export function probe(say: (message: ProbeMessage) => void, options: KvmSystemOptions = {}): void {
  let system: KvmSystem | undefined;
  try {
    system = new KvmSystem(options);
    say({ type: 'host', host: describeHost(system) });
    const checks = CHECKS.map((check) => {
      say({ type: 'begin', id: check.id });
      const result = carryOut(system!, check);
      say({ type: 'check', check: result });
      return result;
    });
    if (checks.some(({ id, works }) => id === 'longMode' && works)) {
      say({ type: 'speed', speed: measure(system) });
    }
  } catch (error) {
    say({ type: 'failure', failure: describeFailure(error) });
  } finally {
    system?.close();
  }
  say({ type: 'end' });
}

export function describeFailure(error: unknown): ProbeFailure {
  if (error instanceof KvmError) {
    const { kind, message, hint = null, command = null } = error;
    return { kind, message, hint, command };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { kind: 'system', message, hint: null, command: null };
}

function describeHost(system: KvmSystem): ProbeHost {
  return {
    module: MODULES.find((name) => existsSync(`/sys/module/${name}`)) ?? null,
    nestedPaging: system.nestedPaging,
    tscScaling: system.extension(CAP.tscControl) > 0,
    missingFeatures: missingFeatures(system),
  };
}

/** Features of the CPUID model that instructions and control registers depend on and KVM does not offer. */
function missingFeatures(system: KvmSystem): string[] {
  const supported = system.supportedCpuid();
  return NEEDED_FEATURES.filter(({ leaf, register, bit }) => {
    const shown = CPUID_MODEL.find((entry) => entry.leaf === leaf)?.[register] ?? 0;
    const offered = supported.find((entry) => entry.leaf === leaf)?.[register] ?? 0;
    return (shown & bit) !== 0 && (offered & bit) === 0;
  }).map(({ name }) => name);
}

function carryOut(system: KvmSystem, check: Check): ProbeCheck {
  const run = runGuest(system, check);
  const detail = run.problem ?? judgeValues(check, run) ?? check.judge?.(run) ?? '';
  return { id: check.id, works: detail === '', detail };
}

function judgeValues({ expected }: TinyGuest, { values }: TinyRun): string | undefined {
  const wrong = expected.findIndex((value, i) => values[i] !== value);
  if (wrong < 0 && values.length === expected.length) return undefined;
  const hex = (value: number | undefined): string =>
    value === undefined ? 'missing' : `0x${value.toString(16)}`;
  return `value ${wrong + 1} is ${hex(values[wrong])} where ${hex(expected[wrong])} is right`;
}

function runGuest(system: KvmSystem, guest: TinyGuest): TinyRun {
  const vm = prepare(system, guest);
  try {
    return vm.run(GUEST_LIMIT_MS);
  } finally {
    vm.close();
  }
}

function prepare(system: KvmSystem, guest: TinyGuest): TinyVm {
  const image = assemble(guest);
  const vm = new TinyVm(system);
  guest.prepare(vm, (name) => Number(image.symbols.get(name) ?? 0));
  vm.memory.set(image.bytes, PLACE.code);
  return vm;
}

function measure(system: KvmSystem): ProbeSpeed {
  const batches = Array.from({ length: EXIT_BATCHES }, () => time(system, exitLoop)).sort((a, b) => a - b);
  const exitMs = (batches[EXIT_BATCHES >> 1] ?? 0) / EXITS_A_BATCH;
  return { exitNs: Math.round(exitMs * 1e6), instructionsPerSecond: Math.round(measureLoop(system)) };
}

/** Instructions a second, in a loop long enough to be measured but not longer. */
function measureLoop(system: KvmSystem): number {
  for (let instructions = LOOP_FIRST; ; instructions *= LOOP_GROWTH) {
    const ms = time(system, countingLoop(instructions));
    if (ms === 0) return 0;
    if (ms >= LOOP_MS || instructions >= LOOP_LAST) return (instructions / ms) * 1000;
  }
}

/** Host ms a guest runs; 0 when it does not get to its end. */
function time(system: KvmSystem, guest: TinyGuest): number {
  const vm = prepare(system, guest);
  try {
    const started = performance.now();
    const { problem } = vm.run(GUEST_LIMIT_MS);
    return problem === undefined ? performance.now() - started : 0;
  } finally {
    vm.close();
  }
}
