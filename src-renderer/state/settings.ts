import { z } from 'zod';
import { themeSchema } from './theme.ts';

/** The window's own settings, kept by the host under the key `window`. What does not parse falls to its default. */
export const settingsSchema = z.object({
  theme: themeSchema.catch('system'),
  /** Show the exits beside the console. */
  exitsBeside: z.boolean().catch(true),
  /** Width of the exits beside the console, CSS pixels. */
  besideWidth: z.number().min(240).max(720).catch(320),
  consoleFontSize: z.number().int().min(9).max(28).catch(13),
  sort: z.enum(['name', 'state', 'newest']).catch('name'),
  selectedVmId: z.string().nullable().catch(null),
});
export type Settings = z.infer<typeof settingsSchema>;

export const SETTINGS_KEY = 'window';
export const DEFAULT_SETTINGS: Settings = settingsSchema.parse({});
