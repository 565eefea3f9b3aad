import { fileURLToPath } from 'node:url';
import { utilityProcess } from 'electron';
import { STDERR_KEPT_CHARS, type VmLauncher, type VmProcessHandle } from '../host/vm-process-handle.ts';
import { vmEnvironment } from '../vm-process-options.mjs';

/** Launches VM processes as Electron utility processes, each with the VM's name in process lists. */
export function utilityLauncher(): VmLauncher {
  // Built beside this file (electron.vite.config.ts).
  const script = fileURLToPath(new URL('./vm-process.js', import.meta.url));
  return (name) => {
    const child = utilityProcess.fork(script, [name], {
      serviceName: `Switchyard VM: ${name}`,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: vmEnvironment(),
    });
    let stderr = '';
    child.stderr?.on('data', (bytes: Buffer) => {
      stderr = (stderr + bytes.toString('utf8')).slice(-STDERR_KEPT_CHARS);
    });
    let ended = false;
    const handle: VmProcessHandle = {
      get pid() {
        return child.pid;
      },
      send(message) {
        if (!ended) child.postMessage(message);
      },
      kill() {
        // Its own kill() is SIGTERM, which a process in a tight loop may not get round to.
        if (child.pid === undefined) child.kill();
        else process.kill(child.pid, 'SIGKILL');
      },
      onMessage: () => undefined,
      onEnd: () => undefined,
    };
    child.on('message', (message) => handle.onMessage(message));
    child.on('exit', (code) => {
      ended = true;
      handle.onEnd({ code, signal: null, stderr });
    });
    return handle;
  };
}
