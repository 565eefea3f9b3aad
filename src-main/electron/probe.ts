import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { utilityProcess } from 'electron';
import type { ProbeProcess } from '../../src-core/engines/hardware/probe/parent.ts';

/** Starts the process that tries the hardware out as an Electron utility process. */
export function launchProbe(): ProbeProcess {
  // Built beside this file (electron.vite.config.ts).
  const script = fileURLToPath(new URL('./probe.js', import.meta.url));
  const child = utilityProcess.fork(script, [], {
    serviceName: 'Switchyard hardware probe',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  if (!child.stdout) throw new Error('a utility process came without its output');
  return {
    output: Readable.from(child.stdout),
    kill: () => {
      if (child.pid !== undefined) process.kill(child.pid, 'SIGKILL');
    },
    ended: new Promise((resolve) => child.on('exit', (code) => resolve({ code, signal: null }))),
  };
}
