import { parseArgs } from 'node:util';
import { app, BrowserWindow, dialog, ipcMain, MessageChannelMain, type MessagePortMain } from 'electron';
import { probeHardware } from '../src-core/engines/hardware/probe/parent.ts';
import { PORT_MESSAGE } from '../src-core/protocol/port.ts';
import { utilityLauncher } from './electron/launcher.ts';
import { launchProbe } from './electron/probe.ts';
import { isOurPage, openWindow, registerScheme, serveWindow } from './electron/window.ts';
import { defaultDataDirectory } from './host/data-directory.ts';
import type { Host } from './host/host.ts';
import { describeOpenError, openHost, type OpenHost } from './host/open.ts';
import { versions } from './versions.ts';

/** The Electron shell: a window, and the same messages over a MessagePort. */

const { values } = parseArgs({
  // Electron's own arguments stand among ours.
  args: process.argv.slice(app.isPackaged ? 1 : 2),
  options: { 'data-dir': { type: 'string', default: defaultDataDirectory() } },
  strict: false,
});
const dataDirectory = String(values['data-dir']);

app.enableSandbox();
// Chromium's own files, and Electron's single-instance lock, belong to the data directory.
app.setPath('userData', `${dataDirectory}/electron`);
registerScheme();

if (app.requestSingleInstanceLock()) void start();
else app.quit();

async function start(): Promise<void> {
  await app.whenReady();
  let opened: OpenHost;
  try {
    opened = openHost(dataDirectory, {
      kind: 'electron',
      versions: { ...versions(), electron: process.versions.electron, chromium: process.versions.chrome },
      launch: utilityLauncher(),
      probe: () => probeHardware({ launch: launchProbe }),
      pickFile,
      onFault: (error) => process.stderr.write(`Fault: ${error.stack ?? error.message}\n`),
    });
  } catch (error) {
    const description = describeOpenError(error);
    dialog.showErrorBox(
      'Switchyard cannot start',
      description ? `${description.message}\n\n${description.hint}` : String(error),
    );
    app.exit(1);
    return;
  }
  serveWindow();
  serveConnections(opened.host);
  showWindow(opened.host);
  app.on('second-instance', () => focusWindow(opened.host));
  app.on('activate', () => focusWindow(opened.host));
  app.on('window-all-closed', () => app.quit());
  closeBeforeQuitting(opened);
}

/** Ends the VMs in good order before the process goes. */
function closeBeforeQuitting(opened: OpenHost): void {
  let closed = false;
  app.on('will-quit', (event) => {
    if (closed) return;
    event.preventDefault();
    void opened.close().finally(() => {
      closed = true;
      app.quit();
    });
  });
}

function showWindow(host: Host): void {
  const window = openWindow();
  window.on('close', (event) => {
    const running = host.runningCount;
    if (running === 0) return;
    const answer = dialog.showMessageBoxSync(window, {
      type: 'warning',
      message: running === 1 ? 'One virtual machine is running.' : `${running} virtual machines are running.`,
      detail: 'Closing Switchyard forces them off. What is only in their memory is lost; snapshots are kept.',
      buttons: ['Force off and close', 'Cancel'],
      defaultId: 1,
      cancelId: 1,
    });
    if (answer === 1) event.preventDefault();
  });
}

function focusWindow(host: Host): void {
  const [window] = BrowserWindow.getAllWindows();
  if (!window) {
    showWindow(host);
    return;
  }
  if (window.isMinimized()) window.restore();
  window.focus();
}

/** Each page that asks gets a port of its own; a page that reloads asks again, and its old port closes. */
function serveConnections(host: Host): void {
  ipcMain.on('switchyard:connect', (event) => {
    if (!isOurPage(event.senderFrame)) return;
    const { port1, port2 } = new MessageChannelMain();
    attach(host, port1);
    event.senderFrame?.postMessage(PORT_MESSAGE, null, [port2]);
  });
}

function attach(host: Host, port: MessagePortMain): void {
  const connection = host.connect((message) => port.postMessage(message));
  port.on('message', (event) => void connection.receive(event.data));
  port.on('close', () => host.disconnect(connection));
  port.start();
}

async function pickFile(title: string, startPath: string | null): Promise<string | null> {
  const options: Electron.OpenDialogOptions = {
    title,
    properties: ['openFile', 'showHiddenFiles'],
    ...(startPath === null ? {} : { defaultPath: startPath }),
  };
  const window = BrowserWindow.getFocusedWindow() ?? BrowserWindow.getAllWindows()[0];
  const { canceled, filePaths } = await (window
    ? dialog.showOpenDialog(window, options)
    : dialog.showOpenDialog(options));
  return canceled ? null : (filePaths[0] ?? null);
}
