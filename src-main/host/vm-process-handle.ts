import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { VM_NODE_FLAGS, vmEnvironment } from '../vm-process-options.mjs';

/** How a process ended. */
export interface ProcessEnd {
  code: number | null;
  signal: string | null;
  /** The last it wrote to stderr, for messages; may be empty. */
  stderr: string;
}

/** The process of one VM, whatever started it. The pipe carries structured clones. */
export interface VmProcessHandle {
  readonly pid: number | undefined;
  send(message: unknown): void;
  /** Ends it at once (SIGKILL). */
  kill(): void;
  /** Both are set by whoever launched it, before the next turn of the event loop. */
  onMessage: (message: unknown) => void;
  /** Called once. */
  onEnd: (end: ProcessEnd) => void;
}

/** Starts a VM's process; `name` is for process lists. */
export type VmLauncher = (name: string) => VmProcessHandle;

/** Characters of stderr kept for the message about a crash. */
export const STDERR_KEPT_CHARS = 4000;

/** Launches VM processes as children of Node. @param script the program, by default src-main/vm-process.ts. */
export function forkLauncher(
  script = fileURLToPath(new URL('../vm-process.ts', import.meta.url)),
): VmLauncher {
  return (name) => {
    const child = fork(script, [name], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [...VM_NODE_FLAGS],
      env: vmEnvironment(),
    });
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-STDERR_KEPT_CHARS);
    });
    let ended = false;
    const handle: VmProcessHandle = {
      pid: child.pid,
      send(message) {
        // A process that is going away takes no more messages; its end is reported by `close`.
        if (child.connected) child.send(message as object, () => undefined);
      },
      kill: () => void child.kill('SIGKILL'),
      onMessage: () => undefined,
      onEnd: () => undefined,
    };
    const end = (code: number | null, signal: string | null): void => {
      if (ended) return;
      ended = true;
      handle.onEnd({ code, signal, stderr });
    };
    child.on('message', (message) => handle.onMessage(message));
    child.on('error', (error) => {
      stderr += error.message;
      if (child.pid === undefined) end(null, null);
    });
    child.on('close', end);
    return handle;
  };
}
