// `npm run bench:exits`: finds the right Node and hands over to test/bench/exits/run.ts.
import { join } from 'node:path';
import { ensureInstalled, findNode, root, runInForeground } from './lib/toolchain.mjs';

ensureInstalled();
process.exitCode = await runInForeground(findNode(), [
  join(root, 'test/bench/exits/run.ts'),
  ...process.argv.slice(2),
]);
