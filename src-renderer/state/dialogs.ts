import type { Snapshot, Vm } from '../../src-core/protocol/vm.ts';

/** The dialog on top, if any; the window shows one at a time. */
export type DialogRequest =
  | { kind: 'create' }
  | { kind: 'edit'; vm: Vm }
  | { kind: 'renameVm'; vm: Vm }
  | { kind: 'cloneVm'; vm: Vm }
  | { kind: 'deleteVm'; vm: Vm }
  | { kind: 'takeSnapshot'; vm: Vm }
  | { kind: 'renameSnapshot'; snapshot: Snapshot }
  | { kind: 'restoreSnapshot'; vm: Vm; snapshot: Snapshot }
  | { kind: 'deleteSnapshot'; snapshot: Snapshot }
  | { kind: 'confirmReset'; vm: Vm }
  | { kind: 'confirmForceOff'; vm: Vm }
  | { kind: 'shortcuts' };
