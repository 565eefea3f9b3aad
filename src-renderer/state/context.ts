import { createContext } from 'svelte';
import type { App } from './app.svelte.ts';

/** The window's state, for every component below Root. */
export const [getApp, setApp] = createContext<App>();
