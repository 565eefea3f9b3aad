import type { Transport } from '../../src-core/protocol/client.ts';
import { PORT_MESSAGE } from '../../src-core/protocol/messages.ts';

declare global {
  interface Window {
    /** Put there by the preload script of the Electron shell. */
    switchyardElectron?: { connect(): void };
  }
}

/** How long the host has to answer a connection attempt. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Opens the pipe to the host of whichever shell the page runs in. Rejects with a sentence for people. */
export function connectToHost(): Promise<Transport> {
  return window.switchyardElectron ? connectPort(window.switchyardElectron) : connectWebSocket();
}

function connectPort(electron: { connect(): void }): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      removeEventListener('message', receive);
      reject(new Error('The host process does not answer.'));
    }, CONNECT_TIMEOUT_MS);
    const receive = (event: MessageEvent): void => {
      const port = event.ports[0];
      if (event.source !== window || event.data !== PORT_MESSAGE || !port) return;
      clearTimeout(timer);
      removeEventListener('message', receive);
      const transport: Transport = {
        send: (message) => port.postMessage(message),
        onMessage: () => undefined,
        onClose: () => undefined,
      };
      port.onmessage = (message) => transport.onMessage(message.data);
      port.addEventListener('close', () => transport.onClose());
      port.start();
      resolve(transport);
    };
    addEventListener('message', receive);
    electron.connect();
  });
}

function connectWebSocket(): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const token = new URLSearchParams(location.search).get('token') ?? '';
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/api?token=${encodeURIComponent(token)}`);
    const timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT_MS);
    const transport: Transport = {
      send: (message) => socket.send(JSON.stringify(message)),
      onMessage: () => undefined,
      onClose: () => undefined,
    };
    let opened = false;
    socket.onopen = () => {
      opened = true;
      clearTimeout(timer);
      resolve(transport);
    };
    socket.onmessage = (event: MessageEvent<string>) => transport.onMessage(JSON.parse(event.data));
    socket.onclose = () => {
      clearTimeout(timer);
      if (opened) transport.onClose();
      else
        reject(
          new Error(
            token
              ? 'The host does not answer, or the address is of an earlier run: open the address that the running Switchyard printed.'
              : 'The address lacks its token: open the whole address that Switchyard printed.',
          ),
        );
    };
  });
}
