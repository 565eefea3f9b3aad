// The command line: finds the right Node and hands over to src-main/cli.ts, stdio, signals and exit code included.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureInstalled, findNode, root, runInForeground } from './lib/toolchain.mjs';

ensureInstalled();
// npm runs scripts in the project's directory; paths on the command line are meant from where the user is.
const cwd = process.env.INIT_CWD ?? process.cwd();
// A VM runs in that process: src-main/vm-process-options.ts says what for.
const { execArgv, env } = JSON.parse(readFileSync(join(root, 'resources/vm-process.json'), 'utf8'));
process.exitCode = await runInForeground(
  findNode(),
  [...execArgv, join(root, 'src-main/cli.ts'), ...process.argv.slice(2)],
  { cwd, env: { ...env, ...process.env } },
);
