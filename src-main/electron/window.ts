import { fileURLToPath, pathToFileURL } from 'node:url';
import { join, normalize, sep } from 'node:path';
import { BrowserWindow, net, protocol, session, type WebFrameMain } from 'electron';
import { contentSecurityPolicy } from '../server/static.ts';

const SCHEME = 'switchyard';
const PAGE = `${SCHEME}://app/`;

/** Must run before Electron is ready. */
export function registerScheme(): void {
  protocol.registerSchemesAsPrivileged([
    { scheme: SCHEME, privileges: { standard: true, secure: true, supportFetchAPI: true } },
  ]);
}

/** Serves the built window under a scheme of its own, with its policy; a page may ask for no permission but the clipboard and the full screen. */
export function serveWindow(): void {
  const directory = fileURLToPath(new URL('../renderer', import.meta.url));
  protocol.handle(SCHEME, async (request) => {
    const { pathname, host } = new URL(request.url);
    const path = normalize(join(directory, pathname === '/' ? 'index.html' : decodeURIComponent(pathname)));
    if (host !== 'app' || !path.startsWith(directory + sep))
      return new Response('not found', { status: 404 });
    const file = await net.fetch(pathToFileURL(path).href);
    const headers = new Headers(file.headers);
    headers.set('Content-Security-Policy', contentSecurityPolicy("'self'"));
    headers.set('X-Content-Type-Options', 'nosniff');
    return new Response(file.body, { status: file.status, headers });
  });
  const allowed = new Set(['clipboard-sanitized-write', 'clipboard-read', 'fullscreen', 'keyboardLock']);
  session.defaultSession.setPermissionRequestHandler((_contents, permission, decide) =>
    decide(allowed.has(permission)),
  );
  session.defaultSession.setPermissionCheckHandler((_contents, permission) => allowed.has(permission));
}

/** Whether a message comes from our page in a window's main frame, and not from something that got in there. */
export function isOurPage(frame: WebFrameMain | null): boolean {
  return frame !== null && frame.parent === null && frame.url.startsWith(PAGE);
}

export function openWindow(): BrowserWindow {
  const window = new BrowserWindow({
    width: 1280,
    height: 800,
    minWidth: 720,
    minHeight: 480,
    show: false,
    title: 'Switchyard',
    webPreferences: {
      preload: fileURLToPath(new URL('../preload/preload.cjs', import.meta.url)),
      sandbox: true,
      contextIsolation: true,
      nodeIntegration: false,
      webviewTag: false,
    },
  });
  const { webContents } = window;
  webContents.on('will-navigate', (event) => event.preventDefault());
  webContents.on('will-attach-webview', (event) => event.preventDefault());
  webContents.setWindowOpenHandler(() => ({ action: 'deny' }));
  window.once('ready-to-show', () => window.show());
  void window.loadURL(PAGE);
  return window;
}
