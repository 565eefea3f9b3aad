import './lib/strict-csp.ts';
import { mount } from 'svelte';
import '@xterm/xterm/css/xterm.css';
import './styles/tokens.css';
import './styles/base.css';
import { connectToHost } from './lib/connect.ts';
import Root from './shell/Root.svelte';
import { App } from './state/app.svelte.ts';
import { applyTheme, rememberedTheme } from './state/theme.ts';

const target = document.querySelector('#app');
if (!target) throw new Error('the page has no #app element');
applyTheme(rememberedTheme());
const app = new App(connectToHost);
mount(Root, { target, props: { app } });
void app.connect();
