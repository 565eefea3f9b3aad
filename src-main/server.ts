import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { probeHardware } from '../src-core/engines/hardware/probe/parent.ts';
import { defaultDataDirectory } from './host/data-directory.ts';
import { describeOpenError, openHost, type OpenHost } from './host/open.ts';
import { forkLauncher } from './host/vm-process-handle.ts';
import { WindowServer } from './server/server.ts';
import { versions } from './versions.ts';

/** The server shell: the app in the system's browser, served on the loopback address. */

interface Options {
  open: boolean;
  port: number;
  dataDirectory: string;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

function parseOptions(): Options {
  const { values } = parseArgs({
    options: {
      'no-open': { type: 'boolean', default: false },
      port: { type: 'string', default: '0' },
      'data-dir': { type: 'string', default: defaultDataDirectory() },
    },
  });
  const port = /^\d{1,5}$/.test(values.port) ? Number(values.port) : NaN;
  if (!(port <= 65535)) throw new Error(`--port must be a number from 0 to 65535, not "${values.port}"`);
  return { open: !values['no-open'], port, dataDirectory: values['data-dir'] };
}

function openBrowser(address: string): void {
  const [command, ...args]: [string, ...string[]] =
    process.platform === 'darwin'
      ? ['open', address]
      : process.platform === 'win32'
        ? ['cmd', '/c', 'start', '', address]
        : ['xdg-open', address];
  const child = spawn(command, args, { stdio: 'ignore', detached: true });
  // The address stands on the terminal as well.
  child.on('error', () => say('No browser could be started; please open the address above yourself.'));
  child.unref();
}

async function main(): Promise<number> {
  let options: Options;
  try {
    options = parseOptions();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    return 2;
  }
  const directory = fileURLToPath(new URL('../out/renderer', import.meta.url));
  if (!existsSync(directory)) {
    say('The window is not built yet: start with "npm start", which builds it.');
    return 1;
  }
  let opened: OpenHost;
  try {
    opened = openHost(options.dataDirectory, {
      kind: 'server',
      versions: versions(),
      launch: forkLauncher(),
      probe: () => probeHardware(),
      onFault: (error) => say(`Fault: ${error.stack ?? error.message}`),
    });
  } catch (error) {
    const description = describeOpenError(error);
    if (!description) throw error;
    say(description.message);
    say(description.hint);
    return 1;
  }
  const server = new WindowServer(opened.host, directory);
  let address: string;
  try {
    address = await server.listen(options.port);
  } catch (error) {
    say(`Cannot listen on port ${options.port}: ${error instanceof Error ? error.message : String(error)}`);
    await opened.close();
    return 1;
  }
  opened.directory.setAddress(address);
  process.stdout.write(`Switchyard is at ${address}\n`);
  if (options.open) openBrowser(address);
  await untilTold();
  server.close();
  await opened.close();
  return 0;
}

/** Waits for SIGINT, SIGTERM or SIGHUP. A second one ends the process without further ado. */
function untilTold(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve());
  });
}

process.exit(await main());
