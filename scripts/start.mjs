// `npm start`: from nothing to the running app.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureBuilt } from './lib/build.mjs';
import { findElectron } from './lib/electron.mjs';
import { ensureInstalled, fail, findNode, root, runInForeground, say } from './lib/toolchain.mjs';
import { sourceEnvironment } from '../src-main/vm-process-options.mjs';

const HELP = `npm start -- [options]
  --no-open        serve the app to a browser and print its address instead of opening a window
  --port N         port to serve on (default: any free one)
  --data-dir DIR   where VMs, snapshots and settings are kept
  --help           this text`;

let options;
try {
  options = parseArgs({
    options: {
      'no-open': { type: 'boolean', default: false },
      port: { type: 'string' },
      'data-dir': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  }).values;
} catch (error) {
  fail(`${error.message}\n${HELP}`, 2);
}
if (options.help) {
  process.stdout.write(`${HELP}\n`);
  process.exit(0);
}

ensureInstalled();
const node = findNode();
ensureBuilt(node);

const dataArguments = options['data-dir'] === undefined ? [] : ['--data-dir', options['data-dir']];
const serve = options['no-open'] || options.port !== undefined;
const electron = serve ? { reason: undefined } : await findElectron(node);
const cwd = process.env.INIT_CWD ?? process.cwd();
if (electron.path) {
  process.exitCode = await runInForeground(electron.path, [root, ...dataArguments], { cwd });
} else {
  if (electron.reason)
    say(`No Electron window (${electron.reason}): serving the app to your browser instead.`);
  const args = [join(root, 'src-main/server.ts'), ...dataArguments];
  if (options['no-open']) args.push('--no-open');
  if (options.port !== undefined) args.push('--port', options.port);
  process.exitCode = await runInForeground(node, args, { cwd, env: sourceEnvironment() });
}
