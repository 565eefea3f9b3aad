import { contextBridge, ipcRenderer } from 'electron';
import { PORT_MESSAGE } from '../src-core/protocol/port.ts';

/**
 * Runs sandboxed before the page. All it gives the page is a way to ask for a MessagePort, which the main process
 * answers with one; the port is passed on as it is, since it cannot cross the context bridge.
 */
contextBridge.exposeInMainWorld('switchyardElectron', {
  connect: () => ipcRenderer.send('switchyard:connect'),
});

ipcRenderer.on(PORT_MESSAGE, (event) => {
  window.postMessage(PORT_MESSAGE, window.location.origin, event.ports);
});
