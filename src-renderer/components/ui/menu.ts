import type { IconName } from './icons.ts';

export interface MenuItem {
  label: string;
  icon?: IconName;
  /** Shown at the right, as a reminder of the key. */
  keys?: string;
  danger?: boolean;
  disabled?: boolean;
  /** Draws a line above the item. */
  separated?: boolean;
  action: () => void;
}
