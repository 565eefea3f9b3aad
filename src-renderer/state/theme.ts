import { z } from 'zod';

export const themeSchema = z.enum(['system', 'light', 'dark']);
export type Theme = z.infer<typeof themeSchema>;

const STORAGE_KEY = 'switchyard.theme';

/**
 * The theme of the last visit, from the browser's own storage: known before the host answers, so that the first
 * paint is right. The host's setting, which also holds when the port (and so the origin) changes, comes after.
 */
export function rememberedTheme(): Theme {
  const parsed = themeSchema.safeParse(localStorage.getItem(STORAGE_KEY));
  return parsed.success ? parsed.data : 'system';
}

export function applyTheme(theme: Theme): void {
  if (theme === 'system') delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = theme;
  localStorage.setItem(STORAGE_KEY, theme);
}
