import type { ITheme } from '@xterm/xterm';
import type { ISearchOptions } from '@xterm/addon-search';

/** Terminal colours of both themes; each of the sixteen keeps at least 4.5 : 1 on its background, save black on dark and white on light. */
export const DARK: ITheme = {
  background: '#0d1011',
  foreground: '#d6dcd9',
  cursor: '#5bbcc0',
  cursorAccent: '#0d1011',
  selectionBackground: '#2c5759',
  selectionInactiveBackground: '#263b3c',
  scrollbarSliderBackground: '#414a4b80',
  scrollbarSliderHoverBackground: '#414a4bc0',
  scrollbarSliderActiveBackground: '#5a6566',
  black: '#23292a',
  red: '#ee7f76',
  green: '#67c487',
  yellow: '#dcb35c',
  blue: '#7ab2e8',
  magenta: '#c49be0',
  cyan: '#5bbcc0',
  white: '#c3cbc8',
  brightBlack: '#7d8987',
  brightRed: '#ff9d94',
  brightGreen: '#8adba5',
  brightYellow: '#f0cd80',
  brightBlue: '#9fcbf5',
  brightMagenta: '#dbb9f1',
  brightCyan: '#86d8db',
  brightWhite: '#f4f7f5',
};

export const LIGHT: ITheme = {
  background: '#fcfcfa',
  foreground: '#1f2625',
  cursor: '#17696f',
  cursorAccent: '#fcfcfa',
  selectionBackground: '#b7dcdc',
  selectionInactiveBackground: '#d9e7e6',
  scrollbarSliderBackground: '#b4bbb680',
  scrollbarSliderHoverBackground: '#b4bbb6c0',
  scrollbarSliderActiveBackground: '#8d958f',
  black: '#1f2625',
  red: '#b02a25',
  green: '#1b7540',
  yellow: '#825500',
  blue: '#265f9e',
  magenta: '#76469c',
  cyan: '#17696f',
  white: '#c9cec9',
  brightBlack: '#5f6a67',
  brightRed: '#8f1f1b',
  brightGreen: '#125a2f',
  brightYellow: '#664300',
  brightBlue: '#174a80',
  brightMagenta: '#5a3180',
  brightCyan: '#0d4f54',
  brightWhite: '#e8ebe7',
};

type Decorations = NonNullable<ISearchOptions['decorations']>;

/** Search highlights must be opaque #RRGGBB. */
export const DARK_MATCHES: Decorations = {
  matchBackground: '#4a3d18',
  matchOverviewRuler: '#e4b458',
  activeMatchBackground: '#8a6a1c',
  activeMatchColorOverviewRuler: '#f0cd80',
};
export const LIGHT_MATCHES: Decorations = {
  matchBackground: '#f6e8c9',
  matchOverviewRuler: '#825500',
  activeMatchBackground: '#eac66d',
  activeMatchColorOverviewRuler: '#664300',
};
