import type { App, VmTab } from '../state/app.svelte.ts';
import { isLive, isOff } from '../vms/state-text.ts';

interface ShortcutGroup {
  group: string;
  entries: { keys: string[]; does: string }[];
}

/** The overview. The keys of the list, the console and the tabs are handled where they belong. */
export const SHORTCUTS: ShortcutGroup[] = [
  {
    group: 'Everywhere',
    entries: [
      { keys: ['F6', 'Shift+F6'], does: 'Next, previous part of the window (also leaves the console)' },
      { keys: ['?'], does: 'This overview' },
      { keys: ['Alt+N'], does: 'New virtual machine' },
      { keys: ['Esc'], does: 'Close the dialog or menu' },
    ],
  },
  {
    group: 'Selected virtual machine',
    entries: [
      { keys: ['Alt+S'], does: 'Start or restart' },
      { keys: ['Alt+P'], does: 'Pause, resume' },
      { keys: ['Alt+T'], does: 'Take a snapshot' },
      { keys: ['Alt+E'], does: 'Edit' },
      { keys: ['Alt+C', 'Alt+X'], does: 'Console, exits' },
    ],
  },
  {
    group: 'List',
    entries: [
      { keys: ['↑', '↓'], does: 'Previous, next machine' },
      { keys: ['F2'], does: 'Rename' },
      { keys: ['Del'], does: 'Delete' },
      { keys: ['Shift+F10'], does: 'Actions' },
    ],
  },
  {
    group: 'Console',
    entries: [
      { keys: ['Ctrl+Shift+F'], does: 'Search' },
      { keys: ['Ctrl+Shift+C'], does: 'Copy' },
      { keys: ['Ctrl+Shift+V'], does: 'Paste' },
      { keys: ['Shift+PgUp', 'Shift+PgDn'], does: 'Scroll back' },
    ],
  },
];

/** Keys that are for text: a field, or a terminal whose guest may want them. */
function takesText(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && target.closest('input, textarea, select, [contenteditable]') !== null
  );
}

function inConsole(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.closest('.xterm') !== null;
}

/** Where the focus goes in a region, the first that is there and visible. */
const ENTRIES = [
  '.xterm-helper-textarea',
  '[aria-current="true"]',
  '[aria-selected="true"]',
  'button:not(:disabled), input',
];

function nextRegion(step: 1 | -1): void {
  const regions = [...document.querySelectorAll<HTMLElement>('[data-region]')].filter(
    (region) => region.offsetParent !== null,
  );
  const at = regions.findIndex((region) => region.contains(document.activeElement));
  const region = regions[(at + step + regions.length) % regions.length];
  const inside = ENTRIES.map((entry) => region?.querySelector<HTMLElement>(entry)).find(
    (element) => element && element.offsetParent !== null,
  );
  (inside ?? region)?.focus();
}

function altKey(app: App, code: string): boolean {
  const vm = app.selected;
  const show = (tab: VmTab): void => {
    app.tab = tab;
  };
  if (code === 'KeyN') app.dialog = { kind: 'create' };
  else if (!vm) return false;
  else if (code === 'KeyS' && isOff(vm)) app.start(vm);
  else if (code === 'KeyP' && vm.state === 'running') app.pause(vm);
  else if (code === 'KeyP' && vm.state === 'paused') app.resume(vm);
  else if (code === 'KeyT' && isLive(vm) && vm.busy === null) app.dialog = { kind: 'takeSnapshot', vm };
  else if (code === 'KeyE') app.dialog = { kind: 'edit', vm };
  else if (code === 'KeyC') show('console');
  else if (code === 'KeyX') show('exits');
  else return false;
  return true;
}

/** Handles a key of the window; true when it was one of ours. */
export function handleShortcut(app: App, event: KeyboardEvent): boolean {
  if (app.dialog || app.connection !== 'open') return false;
  if (event.key === 'F6') {
    nextRegion(event.shiftKey ? -1 : 1);
    return true;
  }
  if (inConsole(event.target) || takesText(event.target)) return false;
  if (event.key === '?' && !event.ctrlKey && !event.altKey && !event.metaKey) {
    app.dialog = { kind: 'shortcuts' };
    return true;
  }
  if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey) return altKey(app, event.code);
  return false;
}
