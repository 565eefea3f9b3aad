import type { Vm } from '../../src-core/protocol/vm.ts';

/** What a VM is doing, in a word or two; an operation under way comes before the state. */
export function stateText(vm: Vm): string {
  if (vm.busy === 'snapshot') return 'Saving snapshot';
  if (vm.busy === 'restore') return 'Returning to snapshot';
  switch (vm.state) {
    case 'stopped':
      return 'Off';
    case 'starting':
      return 'Starting';
    case 'running':
      return 'Running';
    case 'paused':
      return 'Paused';
    case 'stopping':
      return 'Stopping';
    case 'crashed':
      return 'Crashed';
  }
}

/** Whether the VM has a process: what can be asked of it. */
export function isLive(vm: Vm): boolean {
  return vm.state === 'running' || vm.state === 'paused';
}

export function isOff(vm: Vm): boolean {
  return vm.state === 'stopped' || vm.state === 'crashed';
}
