import type { Vm } from '../../src-core/protocol/vm.ts';
import type { MenuItem } from '../components/ui/menu.ts';
import type { App } from '../state/app.svelte.ts';
import { isLive, isOff } from './state-text.ts';

/** Everything that can be done to a VM as a menu: of the list's rows and of the header. */
export function vmMenu(app: App, vm: Vm): MenuItem[] {
  const live = isLive(vm) && vm.busy === null;
  const power: MenuItem[] = isOff(vm)
    ? [
        {
          label: vm.state === 'crashed' ? 'Restart' : 'Start',
          icon: 'play',
          keys: 'Alt+S',
          action: () => app.start(vm),
        },
      ]
    : [
        vm.state === 'paused'
          ? { label: 'Resume', icon: 'play', keys: 'Alt+P', disabled: !live, action: () => app.resume(vm) }
          : {
              label: 'Pause',
              icon: 'pause',
              keys: 'Alt+P',
              disabled: vm.state !== 'running' || !live,
              action: () => app.pause(vm),
            },
        {
          label: 'Power off',
          icon: 'power',
          disabled: vm.state !== 'running' || !live,
          action: () => app.powerOff(vm),
        },
        {
          label: 'Reset…',
          icon: 'reset',
          disabled: !live,
          action: () => (app.dialog = { kind: 'confirmReset', vm }),
        },
        {
          label: 'Force off…',
          icon: 'forceOff',
          action: () => (app.dialog = { kind: 'confirmForceOff', vm }),
        },
      ];
  return [
    ...power,
    {
      label: 'Take snapshot…',
      icon: 'camera',
      keys: 'Alt+T',
      disabled: !live,
      separated: true,
      action: () => (app.dialog = { kind: 'takeSnapshot', vm }),
    },
    {
      label: 'Edit…',
      icon: 'edit',
      keys: 'Alt+E',
      separated: true,
      action: () => (app.dialog = { kind: 'edit', vm }),
    },
    { label: 'Rename…', icon: 'rename', keys: 'F2', action: () => (app.dialog = { kind: 'renameVm', vm }) },
    { label: 'Clone…', icon: 'copy', action: () => (app.dialog = { kind: 'cloneVm', vm }) },
    {
      label: 'Delete…',
      icon: 'trash',
      keys: 'Del',
      danger: true,
      separated: true,
      action: () => (app.dialog = { kind: 'deleteVm', vm }),
    },
  ];
}
