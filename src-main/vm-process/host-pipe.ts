import type { VmProcessMessage } from '../../src-core/protocol/vm-process.ts';

/** A VM process's end of the pipe to the host. When the host is gone, so is this process. */
export interface HostPipe {
  /** Resolves once the message has been handed over; at the end of the process that is what counts. */
  send(message: VmProcessMessage): Promise<void>;
  onMessage: (message: unknown) => void;
}

/** Node's channel under the server shell, the parent port under Electron. */
export function connectToHost(): HostPipe {
  return 'parentPort' in process ? connectParentPort() : connectChannel();
}

function connectParentPort(): HostPipe {
  const port = process.parentPort;
  const pipe: HostPipe = {
    send: (message) => {
      port.postMessage(message);
      // A posted message has left when the event loop has turned.
      return new Promise((resolve) => setImmediate(resolve));
    },
    onMessage: () => undefined,
  };
  port.on('message', (event: { data: unknown }) => pipe.onMessage(event.data));
  return pipe;
}

function connectChannel(): HostPipe {
  const pipe: HostPipe = {
    send: (message) =>
      new Promise((resolve) => {
        // An error means that the host is gone, and then `disconnect` ends this process.
        if (process.connected) process.send?.(message, undefined, undefined, () => resolve());
        else resolve();
      }),
    onMessage: () => undefined,
  };
  process.on('message', (message) => pipe.onMessage(message));
  process.on('disconnect', () => process.exit(0));
  return pipe;
}
