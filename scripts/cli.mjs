// The command line: finds the right Node and hands over to src-main/cli.ts, stdio, signals and exit code included.
import { join } from 'node:path';
import { ensureInstalled, findNode, root, runInForeground } from './lib/toolchain.mjs';
import { sourceEnvironment, VM_NODE_FLAGS, vmEnvironment } from '../src-main/vm-process-options.mjs';

ensureInstalled();
// npm runs scripts in the project's directory; paths on the command line are meant from where the user is.
const cwd = process.env.INIT_CWD ?? process.cwd();
process.exitCode = await runInForeground(
  findNode(),
  [...VM_NODE_FLAGS, join(root, 'src-main/cli.ts'), ...process.argv.slice(2)],
  { cwd, env: { ...sourceEnvironment(), ...vmEnvironment() } },
);
