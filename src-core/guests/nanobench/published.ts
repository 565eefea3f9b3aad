/**
 * Figures published by Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86
 * Virtualization" (ASPLOS 2006), as far as this project knows them (DESIGN.md, section 1).
 */
import type { NanobenchName } from './catalogue.ts';

/** Has to stand wherever a figure is shown. */
export const PUBLISHED_LABEL = 'published, P4 672, secondary source';
/** Clock of that processor, Hz. */
export const PUBLISHED_HZ = 3_800_000_000;

/** Cycles an operation, or what is said of them in words; absent where nothing is known. */
export interface PublishedFigures {
  readonly native?: number | string;
  readonly software?: number | string;
  readonly hardware?: number | string;
}

export const PUBLISHED: Readonly<Partial<Record<NanobenchName, PublishedFigures>>> = {
  syscall: { software: 'native + ~2000', hardware: 'as native' },
  in: { native: 3209, software: '~native / 15', hardware: 15826 },
  cr8wr: { native: '~4 × software', software: 35 },
  callret: { native: 11, software: 51, hardware: 11 },
  pgfault: { native: 1093, software: 3927, hardware: 11242 },
  divzero: { native: 889, software: 3223, hardware: 1014 },
  ptemod: { native: 1, software: 391, hardware: 12733 },
  // Another program than ours: 40,000 processes of an operating system.
  forkwait: { native: '6.0 s / 40,000', software: '36.9 s / 40,000', hardware: '106.4 s / 40,000' },
};
